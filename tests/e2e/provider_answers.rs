//! What workload providers answer, over real HTTP: the plugins as components against the fake of their
//! service, which refuses, sends elsewhere, hangs up and talks nonsense.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use syncline::{
    model::token::{Credential, Flow, Reason, TokenError, TokenRequest},
    plugin::Registry,
    ports::TokenIssuer,
};
use syncline_tests::{
    certificates::Authority,
    cluster::{Options, ReplicaSet},
    daemon::{Config, Daemon},
    oidc::{
        clouds::{CLIENT_ID, ENTRA, GCP, TENANT},
        gateway::{Gateway, ServerConfig},
        idp::{FakeIdp, Scripted},
    },
};
use tempfile::TempDir;

/// For whom the tokens are.
const AUDIENCE: &str = "api://db";

/// A plugin as a component.
struct Desk {
    idp: FakeIdp,
    folder: TempDir,
    issuer: Arc<dyn TokenIssuer>,
    _registry: Registry,
}

impl Desk {
    /// The plugin with the configuration that `config` makes of the provider and a folder.
    async fn new(plugin: &str, config: impl FnOnce(&FakeIdp, &str) -> Value) -> Result<Self> {
        syncline_tests::install_crypto();
        let idp = FakeIdp::start().await?;
        let folder = tempfile::tempdir()?;
        let mounted = folder.path().join("token");
        fs::write(&mounted, idp.federated_token()?)?;
        let config = config(&idp, &mounted.display().to_string());
        let registry = Registry::load(Vec::new()).await?;
        registry.load_one(Registry::builtin_spec(plugin, config)?).await?;
        let issuer = registry.issuer(plugin).await?;
        Ok(Self { idp, folder, issuer, _registry: registry })
    }

    async fn gcp() -> Result<Self> {
        Self::new("gcp", |idp, _| json!({ "endpoint": idp.issuer() })).await
    }

    async fn aks() -> Result<Self> {
        Self::new("azure-aks", |idp, mounted| {
            json!({ "tenantId": TENANT, "clientId": CLIENT_ID, "appClientId": AUDIENCE,
                "federatedTokenFile": mounted, "authorityHost": idp.issuer() })
        })
        .await
    }

    async fn ask(&self) -> Result<Credential, TokenError> {
        self.issuer
            .get_token(TokenRequest {
                flow: Flow::Machine,
                cluster: "cluster0".to_owned(),
                reason: Reason::Initial,
                audience: Some(AUDIENCE.to_owned()),
                principal: None,
                hosts: vec!["127.0.0.1:1".to_owned()],
                idp: None,
                refresh_token: None,
                timeout: Duration::from_secs(120),
                attempt: 0,
                extra: Vec::new(),
            })
            .await
    }

    /// Asks once for each answer, which is how the plugin's answer ends, and what it says.
    async fn check(&self, path: &'static str, cases: Vec<(Scripted, Outcome, &str)>) -> Result<()> {
        for (answer, expected, word) in cases {
            let shown = format!("{answer:?}");
            self.idp.fault(path, Some(answer));
            let outcome = self.ask().await;
            self.idp.fault(path, None);
            let error = outcome.err().with_context(|| format!("a token in spite of {shown}"))?;
            let found = match &error {
                TokenError::Denied(_) => Outcome::Denied,
                TokenError::Unavailable { .. } => Outcome::Unavailable,
                TokenError::Plugin(_) => Outcome::Nonsense,
                TokenError::Config(_) => Outcome::Config,
                _ => Outcome::Other,
            };
            assert_eq!(found, expected, "{shown}: {error:?}");
            assert!(error.to_string().contains(word), "{word}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
            // The next one works.
            assert!(self.ask().await.is_ok(), "after {shown}");
        }
        Ok(())
    }
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Denied,
    Unavailable,
    Nonsense,
    Config,
    Other,
}

/// A status with headers and a body.
fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Scripted {
    let headers =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Scripted { status, headers, body: body.to_owned(), delay: Duration::ZERO }
}

#[tokio::test(flavor = "multi_thread")]
async fn gcp_is_refused_sent_elsewhere_and_told_nonsense() -> Result<()> {
    use Outcome::{Denied, Nonsense, Unavailable};
    let desk = Desk::gcp().await?;
    let other = FakeIdp::start().await?;
    let away = format!("{}{GCP}?audience=x", other.issuer());
    let token = desk.idp.mint(AUDIENCE, |_| ())?;
    let google = [("metadata-flavor", "Google")];
    let good = desk.ask().await?;
    assert!(good.access_token.expose_secret().len() > 100);
    let cases = vec![
        (answer(400, &google, "s3cret"), Denied, "audience"),
        (answer(403, &google, "s3cret"), Denied, "proxy"),
        (answer(404, &google, "s3cret"), Denied, "no service account"),
        (answer(302, &[("location", &away)], ""), Nonsense, "redirect (302)"),
        (answer(200, &[], &token), Nonsense, "Metadata-Flavor"),
        (answer(200, &[("metadata-flavor", "google")], &token), Nonsense, "Metadata-Flavor"),
        (answer(200, &google, "s3cret <html>"), Nonsense, "no JWT"),
        (answer(200, &google, &"s3cret".repeat(100_000)), Nonsense, "longer than"),
        (answer(503, &google, "s3cret"), Unavailable, "503"),
        (Scripted::hang_up(), Unavailable, "cannot be reached"),
    ];
    desk.check(GCP, cases).await?;
    assert_eq!(other.counts().gcp, 0, "nobody follows a redirect");
    // What passes is tried again within one call.
    let before = desk.idp.counts().gcp;
    desk.idp.once(GCP, answer(503, &google, ""));
    desk.idp.once(GCP, Scripted::hang_up());
    desk.ask().await?;
    assert_eq!(desk.idp.counts().gcp - before, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn entra_refuses_in_its_own_words() -> Result<()> {
    use Outcome::{Denied, Nonsense, Unavailable};
    let desk = Desk::aks().await?;
    let good = desk.ask().await?;
    assert!(good.expires_in.is_some());
    let refusal = |number: u32, text: &str| {
        Scripted::json(
            401,
            &json!({ "error": "invalid_client", "error_codes": [number],
                "error_description": format!("AADSTS{number}: {text}\r\nTrace ID: s3cret") }),
        )
    };
    let away = format!("{}/{TENANT}/oauth2/v2.0/token", desk.idp.issuer());
    let cases = vec![
        (refusal(700213, "No matching federated identity."), Denied, "federated credential differ"),
        (refusal(700024, "Client assertion is not valid."), Denied, "clock"),
        (refusal(700016, "Application not found."), Denied, "AZURE_CLIENT_ID"),
        (refusal(7000218, "Something else."), Denied, "AADSTS7000218: Something else."),
        (answer(403, &[], "s3cret <html>"), Denied, "status 403"),
        (answer(404, &[], "s3cret"), Denied, "status 404"),
        (answer(307, &[("location", &away)], ""), Nonsense, "redirect (307)"),
        (answer(200, &[], "s3cret <html>"), Nonsense, "no JSON"),
        (Scripted::json(200, &json!({ "access_token": "s3cret" })), Nonsense, "no JWT"),
        (Scripted::json(200, &json!({ "token": "s3cret" })), Nonsense, "no access_token"),
        (answer(200, &[], &"s3cret".repeat(100_000)), Nonsense, "longer than"),
        (answer(429, &[("retry-after", "1")], "s3cret"), Unavailable, "429"),
    ];
    desk.check(ENTRA, cases).await?;
    // The fake refuses as the real one does, without a script.
    fs::write(desk.folder.path().join("token"), desk.idp.mint("api://other", |_| ())?)?;
    let outcome = desk.ask().await;
    assert!(
        matches!(&outcome, Err(TokenError::Denied(text)) if text.contains("AADSTS700024")),
        "{outcome:?}"
    );
    let before = desk.idp.counts().entra;
    desk.idp.once(ENTRA, answer(503, &[], ""));
    desk.idp.once(ENTRA, Scripted::hang_up());
    fs::write(desk.folder.path().join("token"), desk.idp.federated_token()?)?;
    desk.ask().await?;
    assert_eq!(desk.idp.counts().entra - before, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_token_is_read_anew_and_judged() -> Result<()> {
    let desk = Desk::new("token-file", |_, mounted| json!({ "path": mounted })).await?;
    let mounted = desk.folder.path().join("token");
    let first = desk.ask().await?;
    fs::write(&mounted, format!(" {}\n", desk.idp.mint(AUDIENCE, |_| ())?))?;
    let second = desk.ask().await?;
    assert_ne!(first.access_token.expose_secret(), second.access_token.expose_secret());
    for (content, is_passing) in
        [("", true), ("\n", true), ("s3cret", false), ("a.b.s3cret!", false)]
    {
        fs::write(&mounted, content)?;
        let error = desk.ask().await.err().with_context(|| content.to_owned())?;
        let passes = matches!(error, TokenError::Unavailable { .. });
        assert_eq!(passes, is_passing, "{content:?}: {error:?}");
        assert!(passes || matches!(error, TokenError::Config(_)), "{error:?}");
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
    fs::write(&mounted, vec![b'a'; 70_000])?;
    let error = desk.ask().await.err().context("too long")?;
    assert!(matches!(error, TokenError::Config(_)), "{error:?}");
    fs::remove_file(&mounted)?;
    let error = desk.ask().await.err().context("gone")?;
    assert!(matches!(error, TokenError::Unavailable { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_on_aks_believes_entra_by_its_certificate() -> Result<()> {
    let authority = Authority::new()?;
    let idp = FakeIdp::start_tls(&authority.server()?).await?;
    let set = ReplicaSet::start(Options::single()).await?;
    let config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync").trusting(&authority.pem());
    let gateway = Gateway::start(&set.servers()[0].address(), config).await?;
    let other = ReplicaSet::start(Options::single()).await?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: String| -> Result<String> {
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let federated = write("federated", idp.federated_token()?)?;
    let config = |trusted: String| {
        Config::new(&gateway.uri("ENVIRONMENT:azure"), &other.uri())
            .with_environment("SSL_CERT_FILE", &trusted)
            .with_environment("AZURE_TENANT_ID", TENANT)
            .with_environment("AZURE_APP_CLIENT_ID", AUDIENCE)
            .with_environment("AZURE_CLIENT_ID", CLIENT_ID)
            .with_environment("AZURE_FEDERATED_TOKEN_FILE", &federated)
            .with_environment("AZURE_AUTHORITY_HOST", idp.issuer())
    };
    let daemon = Daemon::start(config(write("ca.pem", authority.pem())?)).await?;
    assert!(idp.counts().entra > 0);
    drop(daemon);
    // Nobody else is believed.
    let before = idp.counts().entra;
    let stranger = write("other.pem", Authority::new()?.pem())?;
    let ended = Daemon::run_to_end(config(stranger)).await?;
    assert!(ended.output.contains("SYNC-1107"), "{}", ended.output);
    assert_eq!(idp.counts().entra, before, "no assertion was sent");
    Ok(())
}
