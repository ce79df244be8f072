//! The token service and the MongoDB driver against the stand-in server: logging in, living with
//! tokens of a few seconds, and being refused.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, future::join_all};
use mongodb::{
    Client,
    bson::{Document, doc},
    error::ErrorKind,
    options::{
        ClientOptions,
        oidc::{Callback, IdpServerResponse},
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use syncline::{
    error::Kind,
    identity::{ClusterUri, TokenService, driver},
    model::{
        options::ClusterLabel,
        token::{Credential, TokenError, TokenRequest},
    },
    ports::TokenIssuer,
};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    oidc::{
        gateway::{Access, Gateway, ServerConfig},
        idp::FakeIdp,
        keys::{SigningKey, tamper},
    },
};
use tokio::time::Instant;

const AUDIENCE: &str = "api://cluster";

/// A provider in the test's own process.
struct Native<F> {
    /// Makes a token.
    make: F,
    /// Calls so far.
    calls: AtomicU64,
}

impl<F> Native<F> {
    fn new(make: F) -> Arc<Self> {
        Arc::new(Self { make, calls: AtomicU64::new(0) })
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl<F: Fn() -> Result<String, TokenError> + Send + Sync> TokenIssuer for Native<F> {
    fn name(&self) -> &str {
        "native"
    }

    async fn validate(&self) -> Result<(), TokenError> {
        Ok(())
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Credential, TokenError> {
        assert_eq!(request.audience.as_deref(), Some(AUDIENCE));
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Credential {
            access_token: SecretString::from((self.make)()?),
            expires_in: None,
            refresh_token: None,
            audit: Vec::new(),
        })
    }
}

/// A cluster behind a gateway, and the provider that both sides know.
struct Stage {
    set: ReplicaSet,
    idp: Arc<FakeIdp>,
    gateway: Gateway,
}

impl Stage {
    async fn new(options: Options) -> Self {
        let set = ReplicaSet::start(options).await.unwrap();
        let idp = Arc::new(FakeIdp::start().await.unwrap());
        let mut config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync");
        config.roles.insert("oidc/readers".to_owned(), Access::Read);
        let gateway = Gateway::start(&set.servers()[0].address(), config).await.unwrap();
        Self { set, idp, gateway }
    }

    /// A service whose tokens are good.
    fn service(&self) -> (Arc<TokenService>, Arc<dyn Fn() -> u64 + Send + Sync>) {
        let idp = Arc::clone(&self.idp);
        self.service_of(move || Ok(idp.mint(AUDIENCE, |_| ()).unwrap()))
    }

    /// A service whose tokens are what `make` makes, and the number of calls.
    fn service_of(
        &self,
        make: impl Fn() -> Result<String, TokenError> + Send + Sync + 'static,
    ) -> (Arc<TokenService>, Arc<dyn Fn() -> u64 + Send + Sync>) {
        let issuer = Native::new(make);
        let counted = Arc::clone(&issuer);
        let service = TokenService::new(&self.uri(), issuer).unwrap();
        (service, Arc::new(move || counted.calls()))
    }

    fn uri(&self) -> ClusterUri {
        let text = SecretString::from(self.gateway.azure_uri(AUDIENCE));
        ClusterUri::parse(ClusterLabel::Cluster0, &text, &|_| None).unwrap()
    }

    /// Driver options for the gateway, without a callback.
    async fn options(&self) -> ClientOptions {
        let uri = self.uri();
        let mut options = ClientOptions::parse(uri.driver_uri.expose_secret()).await.unwrap();
        options.server_selection_timeout = Some(Duration::from_secs(10));
        options
    }

    /// A client that gets its tokens from a service.
    async fn client(&self, service: &Arc<TokenService>) -> Client {
        let mut options = self.options().await;
        driver::install(service, &mut options).unwrap();
        Client::with_options(options).unwrap()
    }

    fn count(&self, pick: impl Fn(&syncline_tests::oidc::gateway::Stats) -> &AtomicU64) -> u64 {
        pick(self.gateway.stats()).load(Ordering::SeqCst)
    }

    fn refusals(&self) -> Vec<String> {
        self.gateway.stats().refusals.lock().unwrap().clone()
    }
}

/// The server's code in an error, wherever it stands.
pub(super) fn code(error: &mongodb::error::Error) -> Option<i32> {
    if let ErrorKind::Command(command) = error.kind.as_ref() {
        return Some(command.code);
    }
    let source = std::error::Error::source(error)?;
    code(source.downcast_ref::<Box<mongodb::error::Error>>()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_logs_in_and_is_who_its_token_says() {
    let stage = Stage::new(Options::single()).await;
    let (service, calls) = stage.service();
    let client = stage.client(&service).await;
    let status =
        client.database("admin").run_command(doc! { "connectionStatus": 1 }).await.unwrap();
    let info = status.get_document("authInfo").unwrap();
    assert_eq!(
        info,
        &doc! {
            "authenticatedUsers": [{ "user": "oidc/workload", "db": "$external" }],
            "authenticatedUserRoles": [{ "role": "oidc/sync", "db": "admin" }],
        }
    );
    client.database("d").collection::<Document>("c").insert_one(doc! { "_id": 1 }).await.unwrap();
    let direct = stage.set.client().database("d").collection::<Document>("c");
    assert_eq!(direct.find_one(doc! {}).await.unwrap(), Some(doc! { "_id": 1 }));

    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
    let hosts: Vec<&str> =
        hello.get_array("hosts").unwrap().iter().filter_map(|host| host.as_str()).collect();
    assert_eq!(hosts, stage.gateway.addresses());
    assert_eq!(calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_few_seconds_carry_a_load_without_an_error() {
    let stage = Stage::new(Options::single()).await;
    stage.idp.change(|workload| workload.lifetime = Duration::from_secs(3));
    let (service, calls) = stage.service();
    let client = stage.client(&service).await;
    let collection = client.database("d").collection::<Document>("c");
    let mut stream = collection.watch().await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let until = Instant::now() + Duration::from_secs(11);
    let workers = join_all((0..8).map(|worker: i32| {
        let collection = collection.clone();
        async move {
            let mut written = 0_i32;
            while Instant::now() < until {
                let id = format!("{worker}-{written}");
                collection.insert_one(doc! { "_id": &id }).await.unwrap();
                assert!(collection.find_one(doc! { "_id": &id }).await.unwrap().is_some());
                written += 1;
            }
            written
        }
    }));
    let reader = async {
        let mut seen = 0_u64;
        while !stop.load(Ordering::SeqCst) || seen < service_total(&collection).await {
            match tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
                Ok(event) => {
                    event.unwrap().unwrap();
                    seen += 1;
                }
                Err(_) => continue,
            }
        }
        seen
    };
    let writers = async {
        let written: i32 = workers.await.into_iter().sum();
        stop.store(true, Ordering::SeqCst);
        u64::try_from(written).unwrap()
    };
    let (written, seen) = tokio::join!(writers, reader);
    assert_eq!(service_total(&collection).await, written);
    assert_eq!(seen, written, "events on a change stream that outlived several tokens");
    assert!(calls() >= 4, "{} tokens", calls());
    assert!(stage.count(|stats| &stats.reauthentication_required) >= 3);
    eprintln!(
        "load: {written} writes, {} tokens, {} times 391, {} reauthentications",
        calls(),
        stage.count(|stats| &stats.reauthentication_required),
        stage.count(|stats| &stats.reauthenticated),
    );
}

/// Documents in a collection.
async fn service_total(collection: &mongodb::Collection<Document>) -> u64 {
    collection.count_documents(doc! {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_good_are_refused() {
    let stage = Stage::new(Options::single()).await;
    let idp = &stage.idp;
    let kid = idp.key_id().unwrap();
    let foreign = SigningKey::generate(kid.as_str()).unwrap();
    let later = |claims: &mut Value| claims["nbf"] = json!(4_000_000_000_u64);
    let good = idp.mint(AUDIENCE, |_| ()).unwrap();
    let at_jwt = json!({ "alg": "RS256", "typ": "at+jwt", "kid": kid });
    let cases = [
        (idp.mint("api://other", |_| ()).unwrap(), "audience"),
        (foreign.sign(&idp.claims(AUDIENCE)).unwrap(), "signature"),
        (tamper(&good, |claims| claims["sub"] = json!("root")).unwrap(), "signature"),
        (idp.mint(AUDIENCE, later).unwrap(), "not yet valid"),
        (idp.mint_with_header(&at_jwt, AUDIENCE).unwrap(), "typ"),
    ];
    for (token, word) in cases {
        let before = stage.refusals().len();
        let (service, _) = stage.service_of(move || Ok(token.clone()));
        let client = stage.client(&service).await;
        let error = client.database("d").run_command(doc! { "listCollections": 1 }).await;
        let error = error.unwrap_err();
        assert_eq!(code(&error), Some(18), "{word}: {error:?}");
        assert!(!error.to_string().contains(word), "the client learns why: {error}");
        let why = stage.refusals().split_off(before);
        assert!(why.iter().all(|why| why.contains(word)), "{word}: {why:?}");
    }
    // The token service refuses an expired token itself, so this one goes past it.
    let expired = idp.mint(AUDIENCE, |claims| claims["exp"] = json!(1_000_000_000)).unwrap();
    let mut options = stage.options().await;
    options.credential.as_mut().unwrap().oidc_callback = Callback::machine(move |_| {
        let expired = expired.clone();
        async move { Ok(IdpServerResponse::builder().access_token(expired).build()) }.boxed()
    });
    let client = Client::with_options(options).unwrap();
    let error = client.database("d").run_command(doc! { "listCollections": 1 }).await.unwrap_err();
    assert_eq!(code(&error), Some(18), "{error:?}");
    assert!(stage.refusals().last().unwrap().contains("expired"));
    assert_eq!(stage.count(|stats| &stats.sasl_succeeded), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_authorized_gets_nowhere() {
    let stage = Stage::new(Options::single()).await;
    // Without credentials.
    let mut options = stage.options().await;
    options.credential = None;
    let client = Client::with_options(options).unwrap();
    let find = client.database("d").collection::<Document>("c").find_one(doc! {}).await;
    assert_eq!(code(&find.unwrap_err()), Some(13));
    assert!(client.database("admin").run_command(doc! { "ping": 1 }).await.is_ok());

    // Known, but in no group with a role.
    stage.idp.change(|workload| workload.groups = vec!["strangers".to_owned()]);
    let client = stage.client(&stage.service().0).await;
    let find = client.database("d").collection::<Document>("c").find_one(doc! {}).await;
    assert_eq!(code(&find.unwrap_err()), Some(13));

    // A reader reads and does not write.
    stage.idp.change(|workload| workload.groups = vec!["readers".to_owned()]);
    let client = stage.client(&stage.service().0).await;
    let collection = client.database("d").collection::<Document>("c");
    assert_eq!(collection.find_one(doc! {}).await.unwrap(), None);
    assert_eq!(code(&collection.insert_one(doc! {}).await.unwrap_err()), Some(13));
    let out = collection.aggregate(vec![doc! { "$out": "other" }]).await;
    assert_eq!(code(&out.unwrap_err()), Some(13));
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_connections_whose_token_expires_together_cost_one_call() {
    const CONNECTIONS: usize = 12;
    let stage = Stage::new(Options::single()).await;
    stage.idp.change(|workload| workload.lifetime = Duration::from_secs(4));
    let (service, calls) = stage.service();
    let asked = Arc::new(AtomicU64::new(0));
    let mut options = stage.options().await;
    options.max_pool_size = Some(64);
    // Each operation is on the server long enough for all of them to need a connection.
    let data = doc! { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 400 };
    let _slow = stage.set.fail_point("failCommand", "alwaysOn", data).await.unwrap();
    let (counter, source) = (Arc::clone(&asked), Arc::clone(&service));
    options.credential.as_mut().unwrap().oidc_callback = Callback::machine(move |context| {
        counter.fetch_add(1, Ordering::SeqCst);
        let source = Arc::clone(&source);
        async move {
            let deadline = context.timeout.map(Instant::from_std);
            let token = source.token(deadline).await.map_err(mongodb::error::Error::custom)?;
            let secret = token.secret().expose_secret().to_owned();
            Ok(IdpServerResponse::builder().access_token(secret).build())
        }
        .boxed()
    });
    let client = Client::with_options(options).unwrap();
    let collection = client.database("d").collection::<Document>("c");
    let round = || async {
        for result in
            join_all((0..CONNECTIONS).map(|_| collection.find_one(doc! {}).into_future())).await
        {
            result.unwrap();
        }
    };
    let begun = Instant::now();
    round().await;
    assert_eq!(calls(), 1);
    assert!(stage.count(|stats| &stats.speculative_succeeded) > 0);
    let first_asked = asked.load(Ordering::SeqCst);
    tokio::time::sleep_until(begun + Duration::from_millis(4100)).await;
    round().await;
    let (required, renewed) = (
        stage.count(|stats| &stats.reauthentication_required),
        stage.count(|stats| &stats.reauthenticated),
    );
    eprintln!(
        "expiry: the driver asked {first_asked} times at first and {} times after expiry; \
         {required} times 391, {renewed} reauthentications, {} provider calls",
        asked.load(Ordering::SeqCst) - first_asked,
        calls(),
    );
    assert!(renewed >= 12, "only {renewed} connections expired");
    assert_eq!(calls(), 2, "one call at first and one after expiry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_is_named_and_spared() {
    let stage = Stage::new(Options::single()).await;
    let (service, calls) =
        stage.service_of(|| Err(TokenError::Denied("Identity not found".to_owned())));
    let client = stage.client(&service).await;
    let collection = client.database("d").collection::<Document>("c");
    let results = join_all((0..400).map(|_| collection.find_one(doc! {}).into_future())).await;
    let mut told = 0;
    for error in results.into_iter().map(Result::unwrap_err) {
        // The driver gives the reason to the operations that asked; it clears the pool, and the
        // others hear of that alone.
        let Some(inner) = error.get_custom::<syncline::error::Error>() else {
            let cleared = matches!(
                error.kind.as_ref(),
                ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::ServerSelection { .. }
            );
            assert!(cleared, "{error:?}");
            continue;
        };
        told += 1;
        assert_eq!(inner.kind(), Kind::IdentityProviderFailure);
        assert!(inner.detail().contains("Identity not found"), "{inner}");
    }
    assert!(told > 0);
    let known = service.failure().expect("the service knows why");
    assert!(known.detail().contains("Identity not found"), "{known}");
    assert!(calls() <= 2, "{} calls", calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_sessions_and_a_new_token_goes_on() {
    let stage = Stage::new(Options::single()).await;
    stage.idp.change(|workload| workload.lifetime = Duration::from_secs(60));
    let (service, calls) = stage.service();
    let client = stage.client(&service).await;
    let collection = client.database("d").collection::<Document>("c");
    let begun = Instant::now();
    collection.insert_one(doc! {}).await.unwrap();
    // A token is handed out again within its first five seconds.
    tokio::time::sleep_until(begun + Duration::from_millis(5200)).await;
    stage.idp.rotate().unwrap();
    stage.idp.retire_old_keys();
    assert!(stage.gateway.refresh_keys().await.is_empty());
    collection.insert_one(doc! {}).await.unwrap();
    assert_eq!(stage.count(|stats| &stats.reauthentication_required), 1);
    assert_eq!(calls(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_three_members_never_goes_round_the_gateway() {
    let stage = Stage::new(Options::three()).await;
    let (service, _) = stage.service();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut options = stage.options().await;
    let noted = Arc::clone(&seen);
    options.sdam_event_handler = Some(mongodb::event::EventHandler::callback(
        move |event: mongodb::event::sdam::SdamEvent| {
            if let mongodb::event::sdam::SdamEvent::ServerOpening(opening) = event {
                noted.lock().unwrap().insert(opening.address.to_string());
            }
        },
    ));
    driver::install(&service, &mut options).unwrap();
    let client = Client::with_options(options).unwrap();
    let collection = client.database("d").collection::<Document>("c");
    for number in 0..20 {
        collection.insert_one(doc! { "_id": number }).await.unwrap();
    }
    stage.set.step_down().await.unwrap();
    for number in 20..40 {
        collection.insert_one(doc! { "_id": number }).await.unwrap();
    }
    let gateway: BTreeSet<String> = stage.gateway.addresses().into_iter().collect();
    assert_eq!(*seen.lock().unwrap(), gateway);
    assert_eq!(collection.count_documents(doc! {}).await.unwrap(), 40);
}
