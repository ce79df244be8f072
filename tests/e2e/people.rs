//! People who log in: the workforce plugin as a component against the fake identity provider, cluster
//! connections as a person, and the sessions of the control API.

use std::{fs, sync::Arc, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Document, doc},
    options::ClientOptions,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use syncline::{
    error::Kind,
    identity::{ClusterUri, TokenService, WORKFORCE, driver},
    model::{
        options::ClusterLabel,
        token::{Credential, Flow, IdpInfo, Reason, TokenError, TokenRequest},
    },
    person::{Reach, Terminal},
    plugin::Registry,
    ports::TokenIssuer,
};
use syncline_tests::{
    binary,
    certificates::Authority,
    cluster::{Options, ReplicaSet},
    daemon::Daemon,
    eventually::eventually,
    oidc::{
        gateway::{Gateway, ServerConfig, Stats},
        idp::{DISCOVERY, FakeIdp, Scripted},
        people::{CLIENT, DEVICE, TOKEN},
        robot::Robot,
    },
};
use tempfile::TempDir;

use super::support::{LONG, Pair};

/// For whom the tokens of a cluster are.
const AUDIENCE: &str = "api://db";
/// A redirect URI with a port that is free; the fake allows any.
const ANY_PORT: &str = "http://localhost:0/redirect";

/// The plugin as a component, with a person in front of it.
struct Desk {
    idp: FakeIdp,
    robot: Robot,
    issuer: Arc<dyn TokenIssuer>,
    _folder: TempDir,
    _registry: Registry,
}

impl Desk {
    async fn new() -> Result<Self> {
        let idp = FakeIdp::start().await?;
        let config = json!({ "issuer": idp.issuer() });
        let folder = tempfile::tempdir()?;
        let robot = Robot::start(folder.path(), None)?;
        let registry = registry(config, &robot.command()).await?;
        let issuer = registry.issuer(WORKFORCE).await?;
        Ok(Self { idp, robot, issuer, _folder: folder, _registry: registry })
    }

    /// The pages that the browser ended at, once there are so many. The login goes on without waiting for
    /// the browser to read its page.
    async fn pages(&self, count: usize) -> Result<Vec<(u16, String)>> {
        eventually("the pages of the browser", LONG, || async {
            let pages = self.robot.pages();
            if pages.len() == count { Ok(pages) } else { Err(pages.len()) }
        })
        .await
    }

    async fn ask(&self, refresh: Option<&SecretString>) -> Result<Credential, TokenError> {
        self.issuer
            .get_token(TokenRequest {
                flow: Flow::Human,
                cluster: "cluster0".to_owned(),
                reason: Reason::Initial,
                audience: None,
                principal: None,
                hosts: vec!["127.0.0.1:1".to_owned()],
                idp: Some(IdpInfo {
                    issuer: self.idp.issuer().to_owned(),
                    client_id: Some(CLIENT.to_owned()),
                    request_scopes: vec![format!("{AUDIENCE}/.default")],
                }),
                refresh_token: refresh.cloned(),
                timeout: Duration::from_secs(120),
                attempt: 0,
                extra: Vec::new(),
            })
            .await
    }
}

/// The workforce plugin, with a browser. An issuer in its configuration is granted with it.
async fn registry(config: Value, browser: &str) -> Result<Registry> {
    syncline_tests::install_crypto();
    let registry = Registry::load(Vec::new()).await?;
    registry.load_one(Registry::builtin_spec(WORKFORCE, config)?).await?;
    let reach = Reach {
        browser: browser.parse().map_err(anyhow::Error::msg)?,
        redirect: ANY_PORT.parse().map_err(anyhow::Error::msg)?,
    };
    registry.introduce(Arc::new(Terminal::new(reach)));
    Ok(registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_component_logs_a_person_in_and_refreshes() -> Result<()> {
    let desk = Desk::new().await?;
    let first = desk.ask(None).await?;
    let (status, text) = desk.pages(1).await?.remove(0);
    assert!(status == 200 && text.contains("close this page"), "{text}");
    let refresh = first.refresh_token.clone().context("a refresh token")?;
    let second = desk.ask(Some(&refresh)).await?;
    assert_ne!(first.access_token.expose_secret(), second.access_token.expose_secret());
    assert_eq!(desk.robot.pages().len(), 1, "nobody was asked");
    assert_eq!(desk.idp.counts().refreshed, 1);
    // The old one is not good twice, and showing it takes the new one with it.
    let outcome = desk.ask(Some(&refresh)).await;
    assert!(matches!(outcome, Err(TokenError::RefreshRejected)), "{outcome:?}");
    let next = second.refresh_token.context("a rotated one")?;
    assert!(matches!(desk.ask(Some(&next)).await, Err(TokenError::RefreshRejected)));
    // Whoever asks without one logs in again.
    desk.ask(None).await?;
    desk.pages(2).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_component_tells_what_the_provider_says() -> Result<()> {
    let desk = Desk::new().await?;
    desk.idp.person(|person| person.agrees = false);
    let outcome = desk.ask(None).await;
    let Err(TokenError::Denied(text)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(text, "access_denied: the person said no");
    assert!(desk.pages(1).await?[0].1.contains("the person said no"));
    desk.idp.person(|person| person.agrees = true);
    for (status, is_outage) in [(503, true), (429, true), (400, false), (302, false)] {
        desk.idp.once(TOKEN, Scripted::json(status, &json!({ "error": "scripted" })));
        let outcome = desk.ask(None).await;
        let found = matches!(outcome, Err(TokenError::Unavailable { .. }));
        assert_eq!(found, is_outage, "{status}: {outcome:?}");
        assert!(outcome.is_err());
    }
    assert!(desk.ask(None).await.is_ok());
    // What a caller says about somebody else's issuer is not reached without a grant.
    let other = FakeIdp::start().await?;
    let mut document: Value =
        reqwest::get(format!("{}/.well-known/openid-configuration", desk.idp.issuer()))
            .await?
            .json()
            .await?;
    document["token_endpoint"] = json!(format!("{}/token", other.issuer()));
    desk.idp.fault(DISCOVERY, Some(Scripted::json(200, &document)));
    let outcome = desk.ask(None).await;
    let Err(TokenError::Plugin(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind(), Kind::PluginEgressDenied);
    assert_eq!(other.counts().token, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_at_a_private_address_is_not_reached_without_a_grant() -> Result<()> {
    let desk = Desk::new().await?;
    let folder = tempfile::tempdir()?;
    let robot = Robot::start(folder.path(), None)?;
    let registry = registry(json!({}), &robot.command()).await?;
    let stranger = Desk { issuer: registry.issuer(WORKFORCE).await?, ..desk };
    let outcome = stranger.ask(None).await;
    let Err(TokenError::Plugin(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind(), Kind::PluginEgressDenied);
    assert!(error.detail().contains(stranger.idp.issuer()), "{error}");
    let counts = stranger.idp.counts();
    assert_eq!((counts.discovery, counts.authorize, robot.pages().len()), (0, 0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_component_waits_for_another_device() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let robot = Robot::start(folder.path(), None)?;
    let idp = FakeIdp::start().await?;
    let config = json!({ "flows": ["auth-code", "device-auth"], "issuer": idp.issuer() });
    let registry = registry(config, "none").await?;
    let issuer = registry.issuer(WORKFORCE).await?;
    let desk = Desk { idp, robot, issuer, _folder: folder, _registry: registry };
    desk.idp.person(|person| {
        person.device_answers = ["authorization_pending", "slow_down"].into();
    });
    let credential = desk.ask(None).await?;
    assert!(credential.refresh_token.is_some());
    let counts = desk.idp.counts();
    assert_eq!((counts.device, counts.token, counts.authorize), (1, 3, 0));
    for (answer, word) in [("expired_token", "in time"), ("access_denied", "scripted")] {
        desk.idp.person(|person| person.device_answers = [answer].into());
        let outcome = desk.ask(None).await;
        let Err(TokenError::Denied(text)) = outcome else { panic!("{outcome:?}") };
        assert!(text.contains(word), "{text}");
    }
    desk.idp.once(DEVICE, Scripted::json(503, &json!({})));
    assert!(matches!(desk.ask(None).await, Err(TokenError::Unavailable { .. })));
    Ok(())
}

/// A cluster behind a stand-in for people, and a service that logs one in.
struct Stage {
    set: ReplicaSet,
    gateway: Gateway,
    desk: Desk,
}

impl Stage {
    async fn new() -> Result<Self> {
        let desk = Desk::new().await?;
        let set = ReplicaSet::start(Options::single()).await?;
        let config = ServerConfig::people(desk.idp.issuer(), AUDIENCE, CLIENT, "sync");
        let gateway = Gateway::start(&set.servers()[0].address(), config).await?;
        Ok(Self { set, gateway, desk })
    }

    async fn client(&self, name: Option<&str>) -> Result<(Client, Arc<TokenService>)> {
        let text = SecretString::from(self.gateway.person_uri(name));
        let uri = ClusterUri::parse(ClusterLabel::Cluster0, &text, &|_| None)?;
        let service = TokenService::new(&uri, Arc::clone(&self.desk.issuer))?;
        let mut options = ClientOptions::parse(uri.driver_uri.expose_secret()).await?;
        options.server_selection_timeout = Some(Duration::from_secs(10));
        driver::install(&service, &mut options)?;
        Ok((Client::with_options(options)?, service))
    }

    fn count(&self, pick: impl Fn(&Stats) -> u64) -> u64 {
        pick(self.gateway.stats())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_works_on_a_cluster_while_tokens_come_and_go() -> Result<()> {
    let stage = Stage::new().await?;
    stage.desk.idp.change(|workload| workload.lifetime = Duration::from_secs(3));
    let (client, service) = stage.client(None).await?;
    let status = client.database("admin").run_command(doc! { "connectionStatus": 1 }).await?;
    let users = status.get_document("authInfo")?.get_array("authenticatedUsers")?;
    assert_eq!(users[0].as_document(), Some(&doc! { "user": "oidc/ann", "db": "$external" }));
    let collection = client.database("d").collection::<Document>("c");
    let mut written = 0;
    while stage.count(|stats| stats.reauthenticated.load(Ordering::SeqCst)) < 3 {
        collection.insert_one(doc! { "_id": written }).await?;
        written += 1;
    }
    let direct = stage.set.client().database("d").collection::<Document>("c");
    assert_eq!(direct.count_documents(doc! {}).await?, u64::try_from(written)?);
    assert_eq!(stage.desk.robot.pages().len(), 1, "the person was asked once");
    assert!(stage.desk.idp.counts().refreshed >= 3);
    assert_eq!(service.failures(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_is_gone_brings_the_person_back() -> Result<()> {
    let stage = Stage::new().await?;
    stage.desk.idp.change(|workload| workload.lifetime = Duration::from_secs(2));
    let (client, _service) = stage.client(Some("ann")).await?;
    client.database("d").collection::<Document>("c").insert_one(doc! { "_id": 1 }).await?;
    let denied = Scripted::json(400, &json!({ "error": "invalid_grant" }));
    stage.desk.idp.once(TOKEN, denied);
    eventually("a second login", LONG, || async {
        // Operations go on meanwhile.
        let read = client.database("d").collection::<Document>("c").find_one(doc! {}).await;
        match (stage.desk.robot.pages().len(), read) {
            (2.., Ok(Some(_))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_whose_answer_is_lost_is_tried_once_more() -> Result<()> {
    let stage = Stage::new().await?;
    let idp = &stage.desk.idp;
    idp.change(|workload| workload.lifetime = Duration::from_secs(8));
    let (client, _service) = stage.client(Some("ann")).await?;
    let read =
        || async { client.database("d").collection::<Document>("c").find_one(doc! {}).await };
    read().await?;
    let before = idp.counts();
    idp.once(TOKEN, Scripted::hang_up());
    idp.once(TOKEN, Scripted::hang_up());
    idp.change(|workload| workload.lifetime = Duration::from_secs(600));
    eventually("a second login", LONG, || async {
        match (stage.desk.robot.pages().len(), read().await) {
            (2, Ok(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let counts = idp.counts();
    assert_eq!(counts.token - before.token, 3, "two refreshes, one login");
    assert_eq!(counts.refreshed, before.refreshed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_the_persons_is_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, _service) = stage.client(Some("bob")).await?;
    let error = client.database("d").run_command(doc! { "dbStats": 1 }).await.unwrap_err();
    assert!(format!("{error:?}").contains("Authentication failed"), "{error:?}");
    let refusals = stage.gateway.stats().refusals.lock().unwrap().join("\n");
    assert!(refusals.contains("principal names"), "{refusals}");
    Ok(())
}

/// Runs the program as a person would.
struct Shell {
    folder: TempDir,
    robot: Robot,
    port: u16,
    environment: Vec<(String, String)>,
}

impl Shell {
    fn new(port: u16, authority: Option<&str>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let robot = Robot::start(folder.path(), authority)?;
        let home = folder.path().display().to_string();
        let mut environment =
            vec![("XDG_STATE_HOME".to_owned(), home.clone()), ("HOME".to_owned(), home.clone())];
        if let Some(pem) = authority {
            fs::write(folder.path().join("ca.pem"), pem)?;
            environment.push(("SSL_CERT_FILE".to_owned(), format!("{home}/ca.pem")));
        }
        Ok(Self { folder, robot, port, environment })
    }

    /// Exit code and everything printed.
    async fn run(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let program = tokio::task::spawn_blocking(binary::locate).await??;
        let mut command = tokio::process::Command::new(program);
        command.args(words).args(["--port", &self.port.to_string()]);
        for name in ["SYNCLINE_TOKEN", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().cloned()).kill_on_drop(true);
        let output = command.output().await?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    }

    /// Logs in where the daemon says; the person names it too, for it is at a private address.
    async fn login(&self, more: &[&str]) -> Result<(Option<i32>, String)> {
        let browser = self.robot.command();
        let said = reqwest::get(format!("http://127.0.0.1:{}/api/v1/login", self.port)).await?;
        let said: Value = said.json().await?;
        let issuer = said["login"]["issuer"].as_str().unwrap_or("https://nobody.example");
        let mut words = vec!["login", "--redirect-uri", ANY_PORT, "--browser", &browser];
        words.extend(["--issuer", issuer]);
        words.extend(more);
        self.run(&words).await
    }

    fn stored(&self) -> String {
        fs::read_to_string(self.folder.path().join("syncline/sessions.json")).unwrap_or_default()
    }

    /// Lets the tokens of the sessions end.
    fn expire(&self) -> Result<()> {
        let mut stored: Value = serde_json::from_str(&self.stored())?;
        for session in stored.as_object_mut().context("an object")?.values_mut() {
            session["expiresAt"] = json!(1);
        }
        fs::write(self.folder.path().join("syncline/sessions.json"), stored.to_string())?;
        Ok(())
    }
}

/// A federation in which people log in.
fn federation(idp: &FakeIdp) -> Value {
    json!({
        "name": "acme", "issuer": idp.issuer(), "audience": "api://syncline", "clientId": CLIENT,
        "requestedScopes": ["api://syncline/.default"], "flows": ["authCode", "device"],
        "roles": [{ "role": "acme/sync", "actions": ["view", "operate", "commit", "administer"] }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_to_the_api_and_out_again() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let all = idp.mint("api://syncline", |_| ())?;
    let config = pair.config().with("federation", federation(&idp)).with_token(&all);
    let daemon = Daemon::start(config).await?;
    let shell = Shell::new(daemon.port(), None)?;
    let (code, text) = shell.run(&["progress"]).await?;
    assert!(code == Some(77) && text.contains("SYNC-1111"), "{text}");
    // It is at a private address: the person has to name it, and to name the right one.
    let before = idp.counts().discovery;
    let (code, text) = shell.run(&["login", "--browser", "none"]).await?;
    assert!(code == Some(77) && text.contains("--issuer"), "{text}");
    let (code, text) = shell.run(&["login", "--issuer", "https://other.example"]).await?;
    assert!(code == Some(77) && text.contains("another issuer"), "{text}");
    assert_eq!(idp.counts().discovery, before);
    let (code, text) = shell.login(&[]).await?;
    assert!(code == Some(0) && text.contains("logged in") && text.contains("as ann"), "{text}");
    let mut seen = text;
    let (code, text) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0), "{text}");
    // A token that is about to end is renewed without the person.
    shell.expire()?;
    let (code, text) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((idp.counts().refreshed, idp.counts().authorize), (1, 1));
    let (code, text) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(idp.counts().refreshed, 1);
    // Out.
    let (code, text) = shell.run(&["logout"]).await?;
    assert!(code == Some(0) && text.contains("logged out"), "{text}");
    let (code, _) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(77));
    // Another device.
    let (code, text) = shell.run(&["login", "--browser", "none", "--issuer", idp.issuer()]).await?;
    assert!(code == Some(0) && text.contains("WDJB-MJHT"), "{text}");
    seen.push_str(&text);
    let (code, _) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0));
    // Not allowed, or not agreed.
    let words = ["login", "--browser", "none", "--flows", "auth-code", "--issuer", idp.issuer()];
    let (code, text) = shell.run(&words).await?;
    assert!(code == Some(77) && text.contains("SYNC-1114"), "{text}");
    idp.person(|person| person.agrees = false);
    let (code, text) = shell.login(&[]).await?;
    assert!(code == Some(77) && text.contains("the person said no"), "{text}");
    seen.push_str(&text);
    // A failed login leaves the session as it was.
    let (code, _) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0));
    let secrets = idp.secrets();
    assert!(secrets.len() >= 8, "{}", secrets.len());
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    daemon.check_secrets(&secrets).await?;
    assert!(!secrets.iter().any(|secret| seen.contains(secret)) && !seen.contains("eyJ"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_forgotten_only_when_its_refresh_token_is_done_for() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let all = idp.mint("api://syncline", |_| ())?;
    let config = pair.config().with("federation", federation(&idp)).with_token(&all);
    let daemon = Daemon::start(config).await?;
    let shell = Shell::new(daemon.port(), None)?;
    let (code, text) = shell.login(&[]).await?;
    assert_eq!(code, Some(0), "{text}");
    let before = idp.counts().token;
    // The provider is wrong, busy or away: the session waits.
    let wrong = [
        (DISCOVERY, Scripted::json(404, &json!({}))),
        (DISCOVERY, Scripted::json(200, &json!({ "issuer": "https://evil.example" }))),
        (TOKEN, Scripted::json(503, &json!({ "error": "busy" }))),
        (TOKEN, Scripted::json(200, &json!({ "nonsense": true }))),
    ];
    for (path, answer) in wrong {
        shell.expire()?;
        idp.fault(path, Some(answer));
        let (code, text) = shell.run(&["progress"]).await?;
        assert!(code == Some(77) && text.contains("was not renewed: "), "{text}");
        assert!(shell.stored().contains("refresh"), "{path}");
        idp.fault(path, None);
    }
    let (code, text) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(idp.counts().token - before, 3);
    // An answer that is lost may have used the refresh token up: once more, and no more.
    shell.expire()?;
    idp.fault(TOKEN, Some(Scripted::hang_up()));
    for (asked, is_kept) in [(4, true), (5, false), (5, false)] {
        let (code, text) = shell.run(&["progress"]).await?;
        assert_eq!(code, Some(77), "{text}");
        assert_eq!(idp.counts().token - before, asked);
        assert_eq!(shell.stored().contains("refresh"), is_kept, "{asked}");
    }
    idp.fault(TOKEN, None);
    let (code, text) = shell.login(&[]).await?;
    assert_eq!(code, Some(0), "{text}");
    shell.expire()?;
    idp.once(TOKEN, Scripted::json(400, &json!({ "error": "invalid_grant" })));
    let (code, _) = shell.run(&["progress"]).await?;
    assert!(code == Some(77) && shell.stored() == "{}", "{}", shell.stored());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_people_says_so() -> Result<()> {
    let pair = Pair::start().await?;
    let daemon = Daemon::start(pair.config()).await?;
    let shell = Shell::new(daemon.port(), None)?;
    let (code, text) = shell.login(&[]).await?;
    assert!(code != Some(0) && text.contains("nobody logs in here"), "{text}");
    let (code, text) = shell.run(&["logout"]).await?;
    assert!(code == Some(0) && text.contains("no session"), "{text}");
    assert_eq!(shell.stored(), "{}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_tls_is_believed_by_its_certificate() -> Result<()> {
    let pair = Pair::start().await?;
    let authority = Authority::new()?;
    let idp = FakeIdp::start_tls(&authority.server()?).await?;
    assert!(idp.issuer().starts_with("https://localhost:"));
    let folder = tempfile::tempdir()?;
    let trusted = folder.path().join("ca.pem");
    fs::write(&trusted, authority.pem())?;
    let all = idp.mint("api://syncline", |_| ())?;
    let config = pair
        .config()
        .with("federation", federation(&idp))
        .with_environment("SSL_CERT_FILE", &trusted.display().to_string())
        .with_token(&all);
    let daemon = Daemon::start(config).await?;
    let shell = Shell::new(daemon.port(), Some(&authority.pem()))?;
    let (code, text) = shell.login(&[]).await?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = shell.run(&["progress"]).await?;
    assert_eq!(code, Some(0), "{text}");
    // Who does not trust the authority gets nowhere.
    let stranger = Shell::new(daemon.port(), Some(&Authority::new()?.pem()))?;
    let (code, text) = stranger.login(&[]).await?;
    assert!(code == Some(77) && stranger.stored().len() < 3, "{text}");
    Ok(())
}
