//! The drivers' specification of MONGODB-OIDC, run through our callbacks against the stand-in: the six
//! unified cases of `mongodb-oidc-no-retry`, and the prose cases for machines and people. The table with
//! what does not apply is in docs/identity.md; a test's comment names its cases.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
    options::ClientOptions,
};
use secrecy::{ExposeSecret, SecretString};
use syncline::{
    identity::{ClusterUri, Overrides, TokenService, driver},
    model::{
        options::ClusterLabel,
        token::{Credential, Flow, Reason, TokenError, TokenRequest},
    },
    ports::TokenIssuer,
};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    eventually::eventually,
    oidc::{
        gateway::{Access, Gateway, ServerConfig},
        idp::FakeIdp,
        trust::IdentityProvider,
    },
};

use super::{identity::code, support::LONG};

const AUDIENCE: &str = "api://cluster";
const CLIENT: &str = "cli";

/// What a provider does on its n-th call.
type Script = Box<dyn Fn(u64, &TokenRequest) -> Result<Credential, TokenError> + Send + Sync>;

/// A provider in the test's own process that keeps what it was asked.
struct Provider {
    script: Script,
    asked: Mutex<Vec<TokenRequest>>,
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
            asked.push(request.clone());
            asked.len() as u64 - 1
        };
        (self.script)(number, &request)
    }
}

fn credential(token: String, refresh: Option<&str>) -> Credential {
    Credential {
        access_token: token.into(),
        expires_in: None,
        refresh_token: refresh.map(SecretString::from),
        audit: Vec::new(),
    }
}

/// A cluster behind a stand-in.
struct Stage {
    set: ReplicaSet,
    idp: Arc<FakeIdp>,
    gateway: Gateway,
}

/// One client with what its provider was asked.
struct Side {
    client: Client,
    collection: Collection<Document>,
    provider: Arc<Provider>,
}

impl Side {
    fn calls(&self) -> usize {
        self.provider.asked.lock().unwrap().len()
    }

    async fn find(&self) -> mongodb::error::Result<Option<Document>> {
        self.collection.find_one(doc! {}).await
    }

    /// Finds, as soon as the token that was handed out last has settled and another is asked for.
    async fn find_again(&self) -> Result<()> {
        eventually("a find with another token", LONG, || async {
            self.find().await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }
}

impl Stage {
    async fn new(change: impl FnOnce(&FakeIdp, &mut ServerConfig)) -> Result<Self> {
        let set = ReplicaSet::start(Options::single()).await?;
        let idp = Arc::new(FakeIdp::start().await?);
        let mut config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync");
        change(&idp, &mut config);
        let gateway = Gateway::start(&set.servers()[0].address(), config).await?;
        Ok(Self { set, idp, gateway })
    }

    async fn machines() -> Result<Self> {
        Self::new(|_, _| ()).await
    }

    async fn people() -> Result<Self> {
        Self::new(|idp, config| {
            config.providers =
                vec![IdentityProvider::people(idp.issuer(), AUDIENCE, "oidc", CLIENT)];
        })
        .await
    }

    /// A script whose tokens are good.
    fn good(&self) -> Script {
        let idp = Arc::clone(&self.idp);
        Box::new(move |_, _| Ok(credential(idp.mint(AUDIENCE, |_| ()).unwrap(), Some("r"))))
    }

    async fn side(&self, uri: String, script: Script) -> Result<Side> {
        let uri = ClusterUri::parse(ClusterLabel::Cluster0, &uri.into(), &|_| None)?;
        self.side_of(&uri, script).await
    }

    async fn side_of(&self, uri: &ClusterUri, script: Script) -> Result<Side> {
        let provider = Arc::new(Provider { script, asked: Mutex::default() });
        let service = TokenService::new(uri, Arc::clone(&provider) as Arc<dyn TokenIssuer>)?;
        let mut options = ClientOptions::parse(uri.driver_uri.expose_secret()).await?;
        options.retry_reads = Some(false);
        options.retry_writes = Some(false);
        driver::install(&service, &mut options)?;
        let client = Client::with_options(options)?;
        let collection = client.database("test").collection("test");
        Ok(Side { client, collection, provider })
    }

    async fn machine(&self) -> Result<Side> {
        self.side(self.gateway.azure_uri(AUDIENCE), self.good()).await
    }

    async fn person(&self) -> Result<Side> {
        self.side(self.gateway.person_uri(None), self.good()).await
    }

    /// Lets a command of the server fail once.
    async fn fail_once(&self, command: &str, data: Document) -> Result<()> {
        let mut data = data;
        data.insert("failCommands", vec![command]);
        let point =
            doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data };
        self.set.client().database("admin").run_command(point).await?;
        Ok(())
    }

    /// Lets `saslStart` fail with a code: once, always, or no more.
    fn fail_sasl(&self, mode: impl Into<mongodb::bson::Bson>, code: i32) {
        self.gateway.fail_point(&doc! {
            "configureFailPoint": "failCommand", "mode": mode.into(),
            "data": { "failCommands": ["saslStart"], "errorCode": code },
        });
    }

    fn count(&self, pick: impl Fn(&syncline_tests::oidc::gateway::Stats) -> &AtomicU64) -> u64 {
        pick(self.gateway.stats()).load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unified_reads_and_writes_succeed_and_reauthenticate() -> Result<()> {
    let stage = Stage::machines().await?;
    let side = stage.machine().await?;
    // Read commands should succeed; write commands should succeed.
    side.find().await?;
    side.collection.insert_one(doc! { "_id": 1, "x": 1 }).await?;
    // Read (write) commands should reauthenticate and retry when 391 happens.
    for command in ["find", "insert"] {
        let before = stage.count(|stats| &stats.sasl_succeeded);
        stage.fail_once(command, doc! { "errorCode": 391 }).await?;
        match command {
            "find" => drop(side.find().await?),
            _ => drop(side.collection.insert_one(doc! { "x": 1 }).await?),
        }
        assert_eq!(stage.count(|stats| &stats.sasl_succeeded), before + 1, "{command}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unified_speculation_needs_a_cached_token() -> Result<()> {
    let stage = Stage::machines().await?;
    // Handshake without a cached token should not use speculative authentication.
    let side = stage.machine().await?;
    stage.fail_sasl("alwaysOn", 18);
    let error = side.collection.insert_one(doc! { "x": 1 }).await.unwrap_err();
    assert_eq!(code(&error), Some(18), "{error:?}");
    assert_eq!(stage.count(|stats| &stats.speculative_succeeded), 0);
    stage.fail_sasl("off", 0);
    // Handshake with a cached token should use speculative authentication.
    let side = stage.machine().await?;
    side.find().await?;
    stage.fail_once("insert", doc! { "closeConnection": true }).await?;
    side.collection.insert_one(doc! { "x": 1 }).await.unwrap_err();
    stage.fail_sasl("alwaysOn", 18);
    side.collection.insert_one(doc! { "x": 1 }).await?;
    assert!(stage.count(|stats| &stats.speculative_succeeded) > 0);
    assert_eq!(side.calls(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_prose_one_and_two() -> Result<()> {
    let stage = Stage::machines().await?;
    // 1.1, 1.2: called once, also for many connections.
    let side = stage.machine().await?;
    try_join_all((0..10).map(|_| async {
        for _ in 0..20 {
            side.find().await?;
        }
        Ok::<_, mongodb::error::Error>(())
    }))
    .await?;
    assert_eq!(side.calls(), 1);
    // 2.1: the input.
    let asked = side.provider.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.flow, asked.reason, asked.attempt), (Flow::Machine, Reason::Initial, 0));
    assert!(!asked.timeout.is_zero() && asked.idp.is_none() && asked.refresh_token.is_none());
    // 2.2, 2.3: nothing, or something else than a token.
    try_join_all(["", "{}", "not.a"].map(|token| {
        let stage = &stage;
        async move {
            let script: Script = Box::new(move |_, _| Ok(credential(token.to_owned(), None)));
            let side = stage.side(stage.gateway.azure_uri(AUDIENCE), script).await?;
            let error = side.find().await.unwrap_err();
            let own = error.get_custom::<syncline::error::Error>().context("not our own error")?;
            assert!(own.detail().contains("token"), "{token:?}: {own}");
            anyhow::Ok(())
        }
    }))
    .await?;
    assert_eq!(stage.count(|stats| &stats.sasl_failed), 0, "nonsense was sent to the server");
    // 2.5: hosts are not for the connection string.
    let text = stage.gateway.uri("ENVIRONMENT:k8s,ALLOWED_HOSTS:x");
    let parsed = ClusterUri::parse(ClusterLabel::Cluster0, &text.into(), &|_| None);
    assert!(parsed.unwrap_err().detail().contains("ALLOWED_HOSTS"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_prose_three() -> Result<()> {
    let stage = Stage::machines().await?;
    // 3.1: a cached token that is refused is replaced, and the operation goes on.
    let side = stage.machine().await?;
    side.find().await?;
    stage.idp.rotate()?;
    stage.idp.retire_old_keys();
    assert_eq!(stage.gateway.refresh_keys().await, []);
    side.find_again().await?;
    assert_eq!(side.calls(), 2);
    // 3.2: without a cached token the refusal is the answer.
    let bad: Script = Box::new(|_, _| Ok(credential("e30.e30.c2ln".to_owned(), None)));
    let side = stage.side(stage.gateway.azure_uri(AUDIENCE), bad).await?;
    let error = side.find().await.unwrap_err();
    assert_eq!(code(&error), Some(18), "{error:?}");
    assert_eq!(side.calls(), 1);
    // 3.3: an unexpected error does not cost a token.
    let side = stage.machine().await?;
    stage.fail_sasl(doc! { "times": 1 }, 20);
    let error = side.find().await.unwrap_err();
    assert_eq!(code(&error), Some(20), "{error:?}");
    side.find_again().await?;
    // A refusal on a new connection counts for the token, whatever its code.
    assert!(side.calls() <= 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn machine_prose_four() -> Result<()> {
    let stage = Stage::machines().await?;
    let side = stage.machine().await?;
    // 4.1, 4.4: reauthentication succeeds, without a greeting and so without speculation.
    side.find().await?;
    let speculated = stage.count(|stats| &stats.speculative_succeeded);
    stage.fail_once("find", doc! { "errorCode": 391 }).await?;
    side.find().await?;
    assert_eq!(stage.count(|stats| &stats.speculative_succeeded), speculated);
    // 4.5: with a session.
    let mut session = side.client.start_session().await?;
    stage.fail_once("find", doc! { "errorCode": 391 }).await?;
    side.collection.find_one(doc! {}).session(&mut session).await?;
    // 4.2, 4.3: the operation fails when the reauthentication does.
    for command in ["find", "insert"] {
        stage.fail_once(command, doc! { "errorCode": 391 }).await?;
        stage.fail_sasl("alwaysOn", 18);
        let error = match command {
            "find" => side.find().await.map(drop).unwrap_err(),
            _ => side.collection.insert_one(doc! {}).await.map(drop).unwrap_err(),
        };
        assert_eq!(code(&error), Some(18), "{command}: {error:?}");
        stage.fail_sasl("off", 0);
        side.find().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn human_prose_one() -> Result<()> {
    // 1.1, 1.2: one provider, without and with a name.
    let stage = Stage::people().await?;
    for name in [None, Some("workload")] {
        let side = stage.side(stage.gateway.person_uri(name), stage.good()).await?;
        side.find().await?;
        // 2.1: the input.
        let asked = side.provider.asked.lock().unwrap()[0].clone();
        assert_eq!((asked.flow, asked.principal.as_deref()), (Flow::Human, name));
        let idp = asked.idp.context("what the server says")?;
        assert_eq!(idp.issuer, stage.idp.issuer());
        assert_eq!(idp.client_id.as_deref(), Some(CLIENT));
        assert_eq!(asked.refresh_token.map(|_| ()), None);
    }
    // 1.6: hosts that may not see a token.
    for patterns in [vec![], vec!["example.com".to_owned()]] {
        let overrides = Overrides { allowed_hosts: Some(&patterns), ..Overrides::default() };
        let text = stage.gateway.person_uri(None).into();
        let uri = ClusterUri::parse_with(ClusterLabel::Cluster0, &text, overrides, &|_| None)?;
        assert!(stage.side_of(&uri, stage.good()).await.is_err());
    }
    // 1.8: a provider for workloads has nothing for a person.
    let stage = Stage::machines().await?;
    let side = stage.person().await?;
    let error = side.find().await.unwrap_err();
    assert_eq!(code(&error), Some(18), "{error:?}");
    assert_eq!(side.calls(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn human_prose_one_with_several_providers() -> Result<()> {
    let other = FakeIdp::start().await?;
    let second = other.issuer().to_owned();
    let stage = Stage::new(|idp, config| {
        let entry = |issuer: &str, pattern: &str| IdentityProvider {
            match_pattern: Some(pattern.to_owned()),
            ..IdentityProvider::people(issuer, AUDIENCE, "oidc", CLIENT)
        };
        config.providers = vec![entry(idp.issuer(), "^work"), entry(&second, "^test_user2")];
        config.roles.insert("oidc/sync".to_owned(), Access::All);
    })
    .await?;
    other.change(|workload| workload.subject = "test_user2".to_owned());
    // 1.3, 1.4: the name picks the provider.
    let side = stage.side(stage.gateway.person_uri(Some("workload")), stage.good()).await?;
    side.find().await?;
    let other = Arc::new(other);
    let theirs = Arc::clone(&other);
    let script: Script =
        Box::new(move |_, _| Ok(credential(theirs.mint(AUDIENCE, |_| ()).unwrap(), None)));
    let side = stage.side(stage.gateway.person_uri(Some("test_user2")), script).await?;
    side.find().await?;
    let asked = side.provider.asked.lock().unwrap()[0].clone();
    assert_eq!(asked.idp.map(|idp| idp.issuer).as_deref(), Some(other.issuer()));
    // 1.5: without a name there is no choice; 1.7: nor by what the string says besides.
    let side = stage.person().await?;
    assert_eq!(code(&side.find().await.unwrap_err()), Some(18));
    assert_eq!(side.calls(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn human_prose_two_to_four() -> Result<()> {
    let stage = Stage::people().await?;
    // 3.2, 3.1: speculation without a cached token, and with one.
    let side = stage.person().await?;
    stage.fail_sasl("alwaysOn", 18);
    assert_eq!(code(&side.find().await.unwrap_err()), Some(18));
    stage.fail_sasl("off", 0);
    let side = stage.person().await?;
    side.find().await?;
    stage.fail_once("find", doc! { "closeConnection": true }).await?;
    side.find().await.unwrap_err();
    stage.fail_sasl("alwaysOn", 18);
    side.find().await?;
    stage.fail_sasl("off", 0);
    assert_eq!(side.calls(), 1);
    // 2.3, 4.1: the next token comes by the refresh token.
    let revoke = async || {
        stage.idp.rotate().unwrap();
        stage.idp.retire_old_keys();
        assert_eq!(stage.gateway.refresh_keys().await, []);
    };
    revoke().await;
    side.find_again().await?;
    let asked = side.provider.asked.lock().unwrap()[1].clone();
    assert_eq!(asked.refresh_token.context("a refresh token")?.expose_secret(), "r");
    // 4.2: without one the person is asked again.
    let idp = Arc::clone(&stage.idp);
    let script: Script =
        Box::new(move |_, _| Ok(credential(idp.mint(AUDIENCE, |_| ()).unwrap(), None)));
    let side = stage.side(stage.gateway.person_uri(None), script).await?;
    side.find().await?;
    revoke().await;
    side.find_again().await?;
    assert!(side.provider.asked.lock().unwrap()[1].refresh_token.is_none());
    // 4.3: a refused refresh token brings the person back.
    let idp = Arc::clone(&stage.idp);
    let script: Script = Box::new(move |_, request| match &request.refresh_token {
        Some(_) => Err(TokenError::RefreshRejected),
        None => Ok(credential(idp.mint(AUDIENCE, |_| ()).unwrap(), Some("r"))),
    });
    let side = stage.side(stage.gateway.person_uri(None), script).await?;
    side.find().await?;
    revoke().await;
    side.find_again().await?;
    assert_eq!(side.calls(), 3);
    // 4.4, 2.2: nothing works.
    let idp = Arc::clone(&stage.idp);
    let script: Script = Box::new(move |number, _| match number {
        0 => Ok(credential(idp.mint(AUDIENCE, |_| ()).unwrap(), None)),
        _ => Err(TokenError::Denied("no".to_owned())),
    });
    let side = stage.side(stage.gateway.person_uri(None), script).await?;
    side.find().await?;
    revoke().await;
    eventually("the person asked once more", LONG, || async {
        side.find().await.unwrap_err();
        if side.calls() >= 2 { Ok(()) } else { Err(side.calls()) }
    })
    .await?;
    side.find().await.unwrap_err();
    // Who has said no is left in peace for a while.
    assert_eq!(side.calls(), 2);
    Ok(())
}
