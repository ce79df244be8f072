//! Plugins as third parties write and ship them, and the commands for their authors.

use std::fs;

use anyhow::{Context, Result};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use syncline::{
    error::Kind,
    model::{
        plugin::{ComponentSource, Grants, LimitOverrides, PluginSpec, SecretSource},
        token::{Flow, Reason, TokenError, TokenRequest},
    },
    plugin::Registry,
};
use syncline_tests::{
    daemon::{Config, Daemon},
    guests,
    oidc::{
        clients::Proof,
        gateway::{Gateway, ServerConfig},
        idp::FakeIdp,
    },
    workload,
};
use tempfile::TempDir;

use super::support::{LONG, Pair, Phase};

/// For whom the tokens are.
const AUDIENCE: &str = "api://syncline-test";
/// A secret with everything that forms spell in another way.
const SECRET: &str = "pl4nted: +&=/ü";

/// The entry of a client.
fn entry(
    component: &std::path::Path,
    config: Value,
    secrets: &[(&str, &std::path::Path)],
) -> Result<PluginSpec> {
    let endpoint = url::Url::parse(config["tokenEndpoint"].as_str().context("an endpoint")?)?;
    Ok(PluginSpec {
        name: "company".to_owned(),
        component: ComponentSource::File(component.to_owned()),
        digest: None,
        grants: Grants {
            origins: vec![endpoint.origin().ascii_serialization()],
            secrets: secrets
                .iter()
                .map(|(name, path)| ((*name).to_owned(), SecretSource::File(path.into())))
                .collect(),
            clock: true,
            ..Grants::default()
        },
        config,
        limits: LimitOverrides::default(),
    })
}

/// What a machine asks.
fn request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Machine,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: Some(AUDIENCE.to_owned()),
        principal: None,
        hosts: vec!["127.0.0.1:27017".to_owned()],
        idp: None,
        refresh_token: None,
        timeout: LONG,
        attempt: 0,
        extra: Vec::new(),
    }
}

/// One call of the plugin.
async fn token(spec: PluginSpec) -> Result<String, TokenError> {
    let registry = Registry::load(vec![spec]).await.map_err(TokenError::Plugin)?;
    let issuer = registry.issuer("company").await.map_err(TokenError::Plugin)?;
    Ok(issuer.get_token(request()).await?.access_token.expose_secret().to_owned())
}

#[tokio::test]
async fn a_third_partys_provider_gets_tokens_in_every_way_it_offers() -> Result<()> {
    syncline_tests::install_crypto();
    let folder = TempDir::new()?;
    let component = guests::client_credentials(folder.path())?;
    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n"))?;
    let key = folder.path().join("key");
    let pair = rcgen::KeyPair::generate()?;
    fs::write(&key, pair.serialize_pem())?;
    let idp = FakeIdp::start().await?;
    idp.register("basic 1", Proof::Basic(SECRET.to_owned()));
    idp.register("post", Proof::Form(SECRET.to_owned()));
    idp.register("key", Proof::Key(pair.public_key_pem()));
    let config = |id: &str, method: &str| {
        json!({ "tokenEndpoint": idp.token_endpoint(), "clientId": id, "authMethod": method,
            "audienceField": "audience" })
    };
    for (id, method, secret) in [
        ("basic 1", "client_secret_basic", ("client-secret", &*secret)),
        ("post", "client_secret_post", ("client-secret", &*secret)),
        ("key", "private_key_jwt", ("private-key", &*key)),
    ] {
        let mut config = config(id, method);
        if method == "private_key_jwt" {
            config["algorithm"] = json!("ES256");
        }
        let spec = entry(&component, config.clone(), &[secret])?;
        let got = token(spec.clone()).await.with_context(|| format!("{method}: no token"))?;
        assert!(got.starts_with("eyJ"), "{method}");
        // A second one, with another assertion.
        token(spec).await.with_context(|| format!("{method}: no second token"))?;
        // A client that does not exist hears so in the server's words.
        config["clientId"] = json!("nobody");
        let error = token(entry(&component, config, &[secret])?).await.unwrap_err();
        let TokenError::Denied(text) = &error else { panic!("{method}: {error:?}") };
        assert!(text.contains("invalid_client: the client is not known"), "{text}");
    }
    assert_eq!(idp.counts().issued, 6);
    // Without the secret nothing is sent.
    let before = idp.counts().oauth;
    let bare = entry(&component, config("post", "client_secret_post"), &[])?;
    let Err(TokenError::Plugin(error)) = token(bare).await else { panic!("a token for nothing") };
    assert_eq!(error.kind(), Kind::PluginImportDenied);
    assert!(error.detail().contains("grants"), "{error}");
    assert_eq!(idp.counts().oauth, before);
    Ok(())
}

#[tokio::test]
async fn a_sync_logs_in_through_a_third_partys_provider() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "orders", 500, 1).await?;
    let folder = TempDir::new()?;
    let component = guests::client_credentials(folder.path())?;
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET)?;
    let idp = FakeIdp::start().await?;
    idp.register("sync", Proof::Basic(SECRET.to_owned()));
    let address = pair.source.servers().first().context("an empty set")?.address();
    let config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync");
    let gateway = Gateway::start(&address, config).await?;
    let uri = gateway.uri(&format!("ENVIRONMENT:plugin:company,TOKEN_RESOURCE:{AUDIENCE}"));
    let daemon = Daemon::start(Config::new(&uri, &pair.destination.uri()).with(
        "plugins",
        json!([{ "name": "company", "component": component,
            "config": { "tokenEndpoint": idp.token_endpoint(), "clientId": "sync",
                "audienceField": "audience" },
            "grants": { "origins": [idp.issuer()], "clock": true,
                "secrets": { "client-secret": format!("file:{}", secret.display()) } } }]),
    ))
    .await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.commit(LONG).await?;
    assert!(idp.counts().oauth > 0);
    daemon.check_secrets(&[SECRET]).await?;
    pair.check_identical().await?;
    Ok(())
}
