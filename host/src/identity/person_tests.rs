//! Tests of the token service for a person, and of renewal, on a paused clock.

use async_trait::async_trait;
use secrecy::ExposeSecret;
use tokio::time::sleep;

use super::*;

/// What a provider does on its n-th call (from 0).
type Script = fn(usize, &TokenRequest) -> Result<Credential, TokenError>;

/// A provider that takes 50 ms, answers by script and notes what was asked, and when.
struct Provider {
    script: Script,
    asked: Mutex<Vec<(Instant, TokenRequest)>>,
}

#[async_trait]
impl TokenIssuer for Provider {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn validate(&self) -> Result<(), TokenError> {
        Ok(())
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Credential, TokenError> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push((Instant::now(), request.clone()));
            asked.len() - 1
        };
        sleep(Duration::from_millis(50)).await;
        (self.script)(number, &request)
    }
}

impl Provider {
    /// The refresh tokens that were shown.
    fn shown(&self) -> Vec<Option<String>> {
        let asked = self.asked.lock().unwrap();
        let shown = asked.iter().map(|(_, request)| request.refresh_token.as_ref());
        shown.map(|token| token.map(|token| token.expose_secret().to_owned())).collect()
    }

    /// How often it was called.
    fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// A token that lives a minute, and perhaps a refresh token.
fn minute(refresh: Option<String>) -> Result<Credential, TokenError> {
    Ok(Credential {
        access_token: SecretString::from("e30.e30.c2ln"),
        expires_in: Some(Duration::from_secs(60)),
        refresh_token: refresh.map(SecretString::from),
        audit: Vec::new(),
    })
}

fn stage(text: &str, script: Script) -> (Arc<TokenService>, Arc<Provider>) {
    let provider = Arc::new(Provider { script, asked: Mutex::default() });
    let uri = ClusterUri::parse(ClusterLabel::Cluster0, &SecretString::from(text), &|_| None);
    let issuer = Arc::clone(&provider) as Arc<dyn TokenIssuer>;
    (TokenService::new(&uri.unwrap(), issuer).unwrap(), provider)
}

fn person(script: Script) -> (Arc<TokenService>, Arc<Provider>) {
    stage("mongodb://ann@127.0.0.1:1/?authMechanism=MONGODB-OIDC", script)
}

async fn ask(service: &TokenService) -> Result<Token> {
    let idp = IdpInfo {
        issuer: "https://login.example".to_owned(),
        client_id: Some("cli".to_owned()),
        request_scopes: Vec::new(),
    };
    service.token_of_person(None, idp).await
}

/// Lets a minute pass.
async fn a_minute() {
    sleep(Duration::from_secs(60)).await;
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn every_answer_replaces_the_refresh_token() {
    let (service, provider) =
        person(|number, _| minute((number != 2).then(|| format!("r{number}"))));
    for _ in 0..4 {
        ask(&service).await.unwrap();
        a_minute().await;
    }
    assert_eq!(provider.shown(), [None, some("r0"), some("r1"), None]);
    let first = provider.asked.lock().unwrap()[0].1.clone();
    assert_eq!((first.flow, first.principal.as_deref()), (Flow::Human, Some("ann")));
    assert_eq!(first.idp.unwrap().issuer, "https://login.example");
    assert!(first.timeout > Duration::from_secs(290), "a person has time: {:?}", first.timeout);
}

#[tokio::test(start_paused = true)]
async fn a_refused_refresh_token_brings_the_person_back_at_once() {
    let (service, provider) = person(|_, request| match request.refresh_token {
        Some(_) => Err(TokenError::RefreshRejected),
        None => minute(some("r")),
    });
    ask(&service).await.unwrap();
    a_minute().await;
    let begun = Instant::now();
    ask(&service).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(provider.shown(), [None, some("r"), None]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_whose_answers_are_lost_is_shown_twice_and_then_given_up() {
    let (service, provider) = person(|_, request| match request.refresh_token {
        Some(_) => Err(TokenError::TimedOut),
        None => minute(some("r")),
    });
    ask(&service).await.unwrap();
    a_minute().await;
    ask(&service).await.unwrap();
    assert_eq!(provider.shown(), [None, some("r"), some("r"), None]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_does_not_cost_the_refresh_token() {
    let (service, provider) = person(|number, _| match number {
        1..4 => Err(TokenError::Unavailable { reason: "503".to_owned(), retry_after: None }),
        _ => minute(some("r")),
    });
    ask(&service).await.unwrap();
    a_minute().await;
    ask(&service).await.unwrap();
    assert_eq!(provider.shown(), [None, some("r"), some("r"), some("r"), some("r")]);
}

#[tokio::test(start_paused = true)]
async fn a_refreshed_token_that_the_server_refuses_ends_the_refresh_token() {
    let (service, provider) = person(|_, _| minute(some("r")));
    ask(&service).await.unwrap();
    a_minute().await;
    let refreshed = ask(&service).await.unwrap();
    service.rejected(refreshed.generation());
    ask(&service).await.unwrap();
    assert_eq!(provider.shown(), [None, some("r"), None]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_log_in_is_asked_ever_more_rarely() {
    let (service, provider) = person(|_, _| Err(TokenError::Denied("no".to_owned())));
    let end = Instant::now() + Duration::from_secs(12 * 3600);
    while Instant::now() < end {
        let error = ask(&service).await.unwrap_err();
        assert!(error.detail().contains("denied: no"), "{error}");
        sleep(Duration::from_secs(1)).await;
    }
    let asked = provider.asked.lock().unwrap();
    let pauses: Vec<u64> =
        asked.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs() / 60).collect();
    assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 32, 60]);
    assert!(pauses[7..].iter().all(|minutes| *minutes == 60), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_person_is_renewed_by_the_refresh_token_alone() {
    let (service, provider) = person(|number, _| minute((number < 3).then(|| "r".to_owned())));
    service.start_renewal();
    ask(&service).await.unwrap();
    for _ in 0..10 {
        a_minute().await;
    }
    // The last answer had none, and nobody is asked who did not come.
    assert_eq!(provider.shown(), [None, some("r"), some("r"), some("r")]);
    assert_eq!(service.remaining(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_never_asks_the_person() {
    let refused: Script = |_, request| match request.refresh_token {
        Some(_) => Err(TokenError::RefreshRejected),
        None => minute(some("r")),
    };
    let lost: Script = |_, request| match request.refresh_token {
        Some(_) => Err(TokenError::TimedOut),
        None => minute(some("r")),
    };
    for (script, times) in [(refused, 1), (lost, 2)] {
        let (service, provider) = person(script);
        service.start_renewal();
        ask(&service).await.unwrap();
        for _ in 0..10 {
            a_minute().await;
        }
        let mut shown = vec![None];
        shown.resize(1 + times, some("r"));
        assert_eq!(provider.shown(), shown, "nobody was there to log in");
        // A connection that authenticates is a reason, and it does not wait.
        let begun = Instant::now();
        ask(&service).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        shown.push(None);
        assert_eq!(provider.shown(), shown);
    }
}

#[tokio::test(start_paused = true)]
async fn a_machines_token_is_renewed_at_half_its_life_without_anybody_asking() {
    let uri = "mongodb://127.0.0.1:1/?authMechanism=MONGODB-OIDC&authMechanismProperties=\
               ENVIRONMENT:azure,TOKEN_RESOURCE:db";
    let (service, provider) = stage(uri, |_, _| minute(None));
    service.start_renewal();
    a_minute().await;
    assert_eq!(provider.calls(), 0, "not before somebody uses it");
    service.token(None).await.unwrap();
    for _ in 0..10 {
        a_minute().await;
        assert!(service.remaining().unwrap() > Duration::from_secs(25));
    }
    assert!((20..=21).contains(&provider.calls()), "{} calls", provider.calls());
    let reasons = provider.asked.lock().unwrap()[1..]
        .iter()
        .all(|(_, request)| request.reason == Reason::Expiring);
    assert!(reasons);
    // It ends with the service.
    let calls = provider.calls();
    drop(service);
    a_minute().await;
    assert_eq!(provider.calls(), calls);
}
