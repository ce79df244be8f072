//! Plugins as third parties write and ship them, and the commands for their authors.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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
    command::{self, Finished},
    daemon::{Config, Daemon},
    guests::{self, succeed},
    oidc::{
        clients::Proof,
        gateway::{Gateway, ServerConfig},
        idp::FakeIdp,
    },
    toolchains, workload,
};
use tempfile::TempDir;

use super::support::{LONG, Pair, Phase};

/// For whom the tokens are.
const AUDIENCE: &str = "api://syncline-test";
/// A secret with everything that forms spell in another way.
const SECRET: &str = "pl4nted: +&=/ü";

/// The entry of a client.
fn entry(component: &Path, config: Value, secrets: &[(&str, &Path)]) -> Result<PluginSpec> {
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

/// Runs a command and checks its exit code.
async fn run(words: &[&str], code: i32) -> Result<Finished> {
    run_with(words, "", code).await
}

/// As [`run`], with text on standard input.
async fn run_with(words: &[&str], input: &str, code: i32) -> Result<Finished> {
    let finished = command::run_with(words, &[], input).await?;
    assert_eq!(finished.code, Some(code), "{words:?}: {finished:?}");
    Ok(finished)
}

/// Lets the program begin a plugin in a folder and returns its own.
async fn begin(folder: &Path, kind: &str, language: &str, name: &str) -> Result<PathBuf> {
    let place = folder.display().to_string();
    let words = ["plugin", "new", "--kind", kind, "--lang", language, "--folder", &place, name];
    let made = run(&words, 0).await?;
    assert!(made.stdout.contains("Next:"), "{made:?}");
    Ok(folder.join(name))
}

/// The configuration that every filter template takes.
const FILTER_CONFIG: &str = r#"{"status": "active"}"#;
/// The configuration that every provider template takes.
const PROVIDER_CONFIG: &str = r#"{"tokenUrl": "https://login.example.com/token"}"#;

/// Checks that a component keeps the contract and that its filter does what its README says.
async fn passes(component: &Path, config: &str) -> Result<()> {
    let path = component.display().to_string();
    let words = ["plugin", "test", &path, "--config", config, "--output", "json"];
    let tested = run(&words, 0).await?.json()?;
    assert_eq!(tested["success"], true, "{tested:#}");
    let checks = tested["checks"].as_array().context("no checks")?;
    assert!(checks.len() >= 9, "{tested:#}");
    if config == FILTER_CONFIG {
        let golden = checks.iter().any(|check| check["check"] == "golden file example.json");
        assert!(golden, "{tested:#}");
        let documents = r#"{"_id": 1, "status": "active"} [{"_id": 2}, {"_id": 3, "status": "a"}]"#;
        let words = ["plugin", "run", &path, "--config", config];
        let judged = run_with(&words, documents, 0).await?;
        assert_eq!(judged.stdout.trim(), r#"{"_id":1,"status":"active"}"#);
        assert_eq!(judged.stderr.trim(), "kept 1, dropped 2, replaced 0, rejected 0");
    }
    Ok(())
}

#[tokio::test]
async fn plugins_begun_in_rust_build_and_pass_at_once() -> Result<()> {
    let folder = TempDir::new()?;
    for (kind, config) in
        [("document-filter", FILTER_CONFIG), ("identity-provider", PROVIDER_CONFIG)]
    {
        let project = begin(folder.path(), kind, "rust", kind).await?;
        // The versions that the repository is built with, which are here already.
        fs::copy(guests::repository().join("Cargo.lock"), project.join("Cargo.lock"))?;
        let tested = guests::native_tests(&project, "begun")?;
        assert!(tested.contains("test result: ok"), "{tested}");
        let component = project.join(format!("{kind}.wasm"));
        fs::copy(guests::component_into(&project, kind, "begun")?, &component)?;
        passes(&component, config).await?;
    }
    Ok(())
}

#[tokio::test]
async fn plugins_begun_in_javascript_build_and_pass_at_once() -> Result<()> {
    let Some(tools) = toolchains::jco()? else { return Ok(()) };
    let folder = TempDir::new()?;
    for (kind, config) in
        [("document-filter", FILTER_CONFIG), ("identity-provider", PROVIDER_CONFIG)]
    {
        let project = begin(folder.path(), kind, "js", kind).await?;
        for script in ["test", "build"] {
            let mut npm = Command::new("npm");
            npm.current_dir(&project)
                .args(["run", script])
                .env("PATH", toolchains::path_with(&tools)?);
            succeed(&mut npm)?;
        }
        passes(&project.join(format!("{kind}.wasm")), config).await?;
    }
    Ok(())
}

#[tokio::test]
async fn plugins_begun_in_python_build_and_pass_at_once() -> Result<()> {
    let Some(tool) = toolchains::componentize_py()? else { return Ok(()) };
    let folder = TempDir::new()?;
    for (kind, config) in
        [("document-filter", FILTER_CONFIG), ("identity-provider", PROVIDER_CONFIG)]
    {
        let project = begin(folder.path(), kind, "python", kind).await?;
        if kind == "document-filter" {
            succeed(Command::new("python3").current_dir(&project).args(["-m", "unittest"]))?;
        }
        let component = format!("{kind}.wasm");
        let words = ["-d", "wit", "-w", kind, "componentize", "app", "-o", &component];
        succeed(Command::new(&tool).current_dir(&project).args(words))?;
        passes(&project.join(component), config).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_plugin_is_not_begun_over_another_one_or_under_any_name() -> Result<()> {
    let folder = TempDir::new()?;
    let project = begin(folder.path(), "document-filter", "python", "mine").await?;
    fs::write(project.join("judge.py"), "mine")?;
    let place = folder.path().display().to_string();
    for name in ["mine", "Mine", "../mine", "mine-", "1mine", ""] {
        let words = ["plugin", "new", "--kind", "document-filter", "--folder", &place, "--", name];
        let refused = run(&words, 64).await?;
        assert!(refused.stderr.contains("SYNC-1001"), "{name}: {refused:?}");
    }
    assert_eq!(fs::read_to_string(project.join("judge.py"))?, "mine");
    Ok(())
}

#[tokio::test]
async fn a_file_is_inspected_checked_and_measured() -> Result<()> {
    let folder = TempDir::new()?;
    let component = guests::client_credentials(folder.path())?.display().to_string();
    let found = run(&["plugin", "inspect", &component, "-o", "json"], 0).await?.json()?;
    assert_eq!(found["world"], "identity-provider");
    assert_eq!(found["manifest"]["asks"]["secrets"], json!(["client-secret", "private-key"]));
    assert!(found["imports"].to_string().contains("syncline:host/secrets@0.1.0"), "{found}");
    let digest = found["digest"].as_str().context("no digest")?;

    let config = folder.path().join("syncline.yaml");
    let write = |digest: &str, origin: &str| {
        let entry = json!({ "name": "company", "component": "client-credentials.wasm",
            "digest": digest,
            "config": { "tokenEndpoint": "https://login.example.com/token", "clientId": "c" },
            "grants": { "origins": [origin], "clock": true,
                "secrets": { "client-secret": "env:NOT_SET" } } });
        fs::write(&config, json!({ "plugins": [entry] }).to_string())
    };
    let file = config.display().to_string();
    let words = ["plugin", "check", &component, "--config", &file];
    write(digest, "https://login.example.com")?;
    let checked = run(&words, 0).await?;
    assert!(checked.stdout.starts_with("ok: `company`"), "{checked:?}");
    write(&format!("sha256:{}", "0".repeat(64)), "https://login.example.com")?;
    assert!(run(&words, 64).await?.stderr.contains("SYNC-1505"));
    write(digest, "https://another.example.com")?;
    assert!(run(&words, 64).await?.stderr.contains("SYNC-1504"));
    let other = ["plugin", "check", "builtin:gcp", "--config", &file];
    assert!(run(&other, 64).await?.stderr.contains("no entry"));

    let config = r#"{"keep": {"status": "active"}}"#;
    let words = [
        "plugin",
        "bench",
        "builtin:match-documents",
        "--config",
        config,
        "--seconds",
        "1",
        "-o",
        "json",
    ];
    let speed = run(&words, 0).await?.json()?;
    assert!(speed["documentsPerSecond"].as_f64().is_some_and(|rate| rate > 0.0), "{speed}");
    // A broken promise ends with an exit code.
    let golden = folder.path().join("golden.json");
    let case = json!({ "config": { "keep": { "a": 1 } }, "documents": [{ "_id": 1 }], "expect": ["keep"] });
    fs::write(&golden, case.to_string())?;
    let golden = golden.display().to_string();
    let words =
        ["plugin", "test", "builtin:match-documents", "--config", config, "--golden", &golden];
    let failed = run(&words, 1).await?;
    assert!(failed.stderr.contains("SYNC-1516"), "{failed:?}");
    assert!(failed.stdout.contains("it is dropped, expected \"keep\""), "{failed:?}");
    let missing = run(&["plugin", "inspect", "/does/not/exist.wasm"], 64).await?;
    assert!(missing.stderr.contains("SYNC-1501"), "{missing:?}");
    Ok(())
}
