//! Tests of the token service, on a paused clock.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    task::JoinSet,
    time::{advance, sleep},
};

use super::*;

/// What a scripted provider does on its n-th call (from 0).
type Script = Box<dyn Fn(u64) -> Result<u64, TokenError> + Send + Sync>;

/// A provider that takes 50 ms, answers by script (a life in seconds) and notes what was asked.
struct Scripted {
    script: Script,
    calls: AtomicU64,
    asked: Mutex<Vec<(Instant, TokenRequest)>>,
}

impl Scripted {
    fn new(script: impl Fn(u64) -> Result<u64, TokenError> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            calls: AtomicU64::new(0),
            asked: Mutex::default(),
        })
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    fn reasons(&self) -> Vec<Reason> {
        self.asked.lock().unwrap().iter().map(|(_, request)| request.reason).collect()
    }
}

#[async_trait]
impl TokenIssuer for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn validate(&self) -> Result<(), TokenError> {
        Err(TokenError::Config("no key".to_owned()))
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Credential, TokenError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        self.asked.lock().unwrap().push((Instant::now(), request));
        sleep(Duration::from_millis(50)).await;
        let life = (self.script)(call)?;
        let payload = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"jti\":\"{call}\"}}"));
        Ok(Credential {
            access_token: SecretString::from(format!("e30.{payload}.c2ln")),
            expires_in: Some(Duration::from_secs(life)),
            refresh_token: None,
            audit: Vec::new(),
        })
    }
}

fn uri(text: &str) -> ClusterUri {
    ClusterUri::parse(ClusterLabel::Cluster0, &SecretString::from(text.to_owned()), &|_| None)
        .unwrap()
}

fn local() -> ClusterUri {
    uri("mongodb://me@127.0.0.1:1/?authMechanism=MONGODB-OIDC&authMechanismProperties=\
         ENVIRONMENT:azure,TOKEN_RESOURCE:db")
}

fn service(issuer: &Arc<Scripted>) -> Arc<TokenService> {
    TokenService::new(&local(), Arc::clone(issuer) as Arc<dyn TokenIssuer>).unwrap()
}

fn unavailable(reason: &str) -> TokenError {
    TokenError::Unavailable { reason: reason.to_owned(), retry_after: None }
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Runs callers at once and returns what each got.
async fn together(service: &Arc<TokenService>, callers: usize) -> Vec<Result<Token>> {
    let mut set = JoinSet::new();
    for _ in 0..callers {
        let service = Arc::clone(service);
        set.spawn(async move { service.token(None).await });
    }
    set.join_all().await
}

#[tokio::test(start_paused = true)]
async fn twelve_concurrent_callers_cost_one_call() {
    let issuer = Scripted::new(|_| Ok(3600));
    let service = service(&issuer);
    let tokens = together(&service, 12).await;
    assert_eq!(tokens.len(), 12);
    assert!(tokens.iter().all(|token| token.as_ref().unwrap().generation() == 1));
    assert_eq!(issuer.calls(), 1);
    let request = issuer.asked.lock().unwrap()[0].1.clone();
    assert_eq!(request.audience.as_deref(), Some("db"));
    assert_eq!(request.principal.as_deref(), Some("me"));
    assert_eq!(request.cluster, "cluster0");
    assert_eq!(request.timeout, MAX_CALL);
}

#[tokio::test(start_paused = true)]
async fn twelve_connections_that_ask_one_after_the_other_at_expiry_cost_one_call() {
    let issuer = Scripted::new(|_| Ok(60));
    let service = service(&issuer);
    service.token(None).await.unwrap();
    advance(seconds(60)).await;
    for _ in 0..12 {
        assert_eq!(service.token(None).await.unwrap().generation(), 2);
        advance(Duration::from_millis(80)).await;
    }
    assert_eq!(issuer.calls(), 2);
    assert_eq!(issuer.reasons(), [Reason::Initial, Reason::Reauthentication]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_handed_out_and_an_ending_one_is_renewed() {
    let issuer = Scripted::new(|_| Ok(4));
    let service = service(&issuer);
    for _ in 0..50 {
        let token = service.token(None).await.unwrap();
        assert!(token.remaining(Instant::now()) > seconds(1), "{token:?}");
        advance(Duration::from_millis(370)).await;
    }
    assert!(issuer.reasons().contains(&Reason::Expiring));
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_at_renewal_costs_nothing_while_the_token_lives() {
    let issuer = Scripted::new(|call| if call == 0 { Ok(600) } else { Err(unavailable("503")) });
    let service = service(&issuer);
    service.token(None).await.unwrap();
    for _ in 0..590 {
        advance(seconds(1)).await;
        let asked = Instant::now();
        assert_eq!(service.token(None).await.unwrap().generation(), 1);
        assert!(service.failure().is_none());
        assert!(asked.elapsed() < seconds(1), "waited {:?}", asked.elapsed());
    }
    assert!(issuer.calls() < 25, "{} calls", issuer.calls());
    advance(seconds(10)).await;
    let error = service.token(None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::IdentityProviderFailure);
    assert!(error.detail().contains("503"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn four_hundred_callers_cost_a_failing_provider_few_calls() {
    let issuer = Scripted::new(|_| Err(unavailable("metadata service is starting")));
    let service = service(&issuer);
    let outcomes = together(&service, 400).await;
    assert_eq!(outcomes.len(), 400);
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::IdentityProviderFailure);
        assert!(error.detail().starts_with("cluster0: identity provider \"scripted\": "));
    }
    assert!((2..=8).contains(&issuer.calls()), "{} calls", issuer.calls());
    let asked = issuer.asked.lock().unwrap();
    for pair in asked.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= FIRST_PAUSE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_waited_out_within_the_deadline() {
    let issuer = Scripted::new(|call| if call < 3 { Err(unavailable("busy")) } else { Ok(3600) });
    let service = service(&issuer);
    assert!(service.token(None).await.is_ok());
    assert_eq!(issuer.calls(), 4);
    let attempts: Vec<u32> =
        issuer.asked.lock().unwrap().iter().map(|(_, request)| request.attempt).collect();
    assert_eq!(attempts, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_is_told_at_once_and_not_asked_about_again_soon() {
    let issuer = Scripted::new(|_| Err(TokenError::Denied("identity not found".to_owned())));
    let service = service(&issuer);
    let begun = Instant::now();
    for error in together(&service, 400).await {
        assert!(error.unwrap_err().detail().contains("denied: identity not found"));
    }
    assert!(service.failure().unwrap().detail().contains("denied: identity not found"));
    assert!(begun.elapsed() < seconds(1));
    assert_eq!(issuer.calls(), 1);
    advance(FIRST_LONG_PAUSE).await;
    assert!(service.token(None).await.is_err());
    assert_eq!(issuer.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_providers_pause_is_kept() {
    let issuer = Scripted::new(|call| match call {
        0 => Err(TokenError::Unavailable {
            reason: "429".to_owned(),
            retry_after: Some(seconds(20)),
        }),
        _ => Ok(60),
    });
    let service = service(&issuer);
    let begun = Instant::now();
    service.token(None).await.unwrap();
    assert!(begun.elapsed() >= seconds(20));
    assert_eq!(issuer.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_and_a_late_rejection_is_not_heard() {
    let issuer = Scripted::new(|_| Ok(3600));
    let service = service(&issuer);
    let first = service.token(None).await.unwrap();
    service.rejected(first.generation());
    let second = service.token(None).await.unwrap();
    assert_ne!(first.secret().expose_secret(), second.secret().expose_secret());
    service.rejected(first.generation());
    assert_eq!(service.token(None).await.unwrap().generation(), second.generation());
    assert_eq!(issuer.reasons(), [Reason::Initial, Reason::Rejected]);
}

#[tokio::test(start_paused = true)]
async fn tokens_refused_one_after_the_other_are_asked_for_ever_more_slowly() {
    let issuer = Scripted::new(|_| Ok(3600));
    let service = service(&issuer);
    let begun = Instant::now();
    for _ in 0..6 {
        let token = service.token(None).await.unwrap();
        service.rejected(token.generation());
    }
    assert!(begun.elapsed() >= seconds(1 + 2 + 4 + 8), "{:?}", begun.elapsed());
    for _ in 0..3 {
        if let Ok(token) = service.token(None).await {
            service.rejected(token.generation());
        }
    }
    let error = service.token(None).await.unwrap_err();
    assert!(error.detail().contains("refused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_token_asked_for_again_within_its_life_is_replaced_once_it_settled() {
    let issuer = Scripted::new(|_| Ok(3600));
    let service = service(&issuer);
    service.token(None).await.unwrap();
    advance(seconds(4)).await;
    assert_eq!(service.token(None).await.unwrap().generation(), 1);
    advance(seconds(2)).await;
    assert_eq!(service.token(None).await.unwrap().generation(), 2);
    assert_eq!(issuer.reasons(), [Reason::Initial, Reason::Reauthentication]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_is_left_at_the_deadline() {
    struct Hanging;
    #[async_trait]
    impl TokenIssuer for Hanging {
        fn name(&self) -> &str {
            "hanging"
        }
        async fn validate(&self) -> Result<(), TokenError> {
            Ok(())
        }
        async fn get_token(&self, _: TokenRequest) -> Result<Credential, TokenError> {
            std::future::pending().await
        }
    }
    let service = TokenService::new(&local(), Arc::new(Hanging)).unwrap();
    let begun = Instant::now();
    let error = service.token(Some(begun + seconds(10))).await.unwrap_err();
    assert!(error.detail().contains("timed out"), "{error}");
    assert!(begun.elapsed() <= seconds(9), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_leaves_the_service_usable() {
    let issuer = Scripted::new(|_| Ok(3600));
    let service = service(&issuer);
    let dropped = tokio::time::timeout(Duration::from_millis(10), service.token(None)).await;
    assert!(dropped.is_err());
    assert!(service.token(None).await.is_ok());
    assert_eq!(issuer.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn words_of_a_provider_are_cut_and_hold_no_token() {
    let issuer = Scripted::new(|_| {
        Err(TokenError::Denied(format!("bad\r\ntoken eyJhbGciOi.x.y {}", "z".repeat(9000))))
    });
    let error = service(&issuer).token(None).await.unwrap_err();
    assert!(error.detail().contains("bad token [redacted] zzz"), "{error}");
    assert!(error.detail().chars().count() < 600);
    assert!(!error.detail().contains("eyJ"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_may_not_see_a_token_stops_them_all_until_it_is_gone() {
    let issuer = Scripted::new(|_| Ok(3600));
    let service = service(&issuer);
    service.token(None).await.unwrap();
    service.observe_hosts(["127.0.0.1:1", "db.evil.example:27017"]);
    let error = service.token(None).await.unwrap_err();
    assert!(error.detail().contains("db.evil.example:27017 is not among"), "{error}");
    service.observe_hosts(["127.0.0.1:1", "localhost:2"]);
    assert!(service.token(None).await.is_ok());
}

#[tokio::test]
async fn tokens_do_not_leave_the_machine_in_clear() {
    const END: &str =
        "authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure,TOKEN_RESOURCE:db";
    let make = |front: &str| {
        let issuer = Scripted::new(|_| Ok(1)) as Arc<dyn TokenIssuer>;
        TokenService::new(&uri(&format!("{front}{END}")), issuer)
    };
    let error = make("mongodb://db.corp.example/?").unwrap_err();
    assert_eq!(error.kind(), Kind::UriInvalid);
    assert!(error.detail().contains("tls=true"), "{error}");
    assert!(make("mongodb://db.corp.example/?tls=false&").is_err());
    assert!(make("mongodb://localhost,db.corp.example/?").is_err());
    assert!(make("mongodb://db.corp.example/?tls=true&").is_ok());
    assert!(make("mongodb+srv://c.corp.example/?").is_ok());
    assert!(make("mongodb://localhost,127.0.0.1:2,[::1]:3/?").is_ok());
}

#[tokio::test]
async fn a_refused_configuration_is_reported_with_the_providers_words() {
    let error = service(&Scripted::new(|_| Ok(1))).validate().await.unwrap_err();
    assert_eq!(error.kind(), Kind::IdentityProviderFailure);
    assert!(error.detail().contains("configuration: no key"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn metrics_tell_calls_failures_and_the_life_left() {
    let issuer = Scripted::new(|call| match call {
        0 => Err(TokenError::Denied("no".to_owned())),
        _ => Ok(3600),
    });
    let service = service(&issuer);
    assert_eq!((service.calls(), service.failures(), service.remaining()), (0, 0, None));
    service.token(None).await.unwrap_err();
    assert_eq!((service.calls(), service.failures(), service.remaining()), (1, 1, None));
    advance(seconds(11)).await;
    service.token(None).await.unwrap();
    advance(seconds(600)).await;
    assert_eq!((service.calls(), service.failures()), (2, 1));
    assert_eq!(service.remaining(), Some(seconds(3000)));
    // What the driver hears of a refusal on a new connection counts for the newest token.
    service.refused();
    assert!(service.failure().is_none());
    assert_ne!(service.token(None).await.unwrap().generation(), 2);
}
