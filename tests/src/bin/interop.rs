//! `cargo run -p syncline-tests --bin interop -- NODE_MODULES`: clients and identity providers of others
//! against ours. `NODE_MODULES` is what npm made of `tests/interop/package.json`.
//!
//! mongosh logs in through the stand-in server with a browser and with a device code; oidc-provider and
//! MongoDB's mock provider log a person in with the workforce plugin, and the control API takes the
//! tokens of the former.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use serde_json::json;
use syncline::{
    federation::{Access, Action, Audit, Decision, Question, Store},
    identity::WORKFORCE,
    model::token::{Credential, Flow, IdpInfo, Reason, TokenRequest},
    person::{Reach, Terminal},
    plugin::Registry,
};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    eventually::eventually,
    oidc::{
        gateway::{Gateway, ServerConfig},
        idp::FakeIdp,
        people::CLIENT,
        robot::Robot,
    },
    ports::Port,
};
use tokio::process::{Child, Command};

/// Time for a program of theirs.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> ExitCode {
    let Some(modules) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("which node_modules?");
        return ExitCode::FAILURE;
    };
    match run(&modules).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything, one after the other.
async fn run(modules: &Path) -> Result<()> {
    syncline_tests::install_crypto();
    let modules = modules.canonicalize()?;
    mongosh(&modules).await.context("mongosh")?;
    oidc_provider(&modules).await.context("oidc-provider")?;
    mock_provider(&modules).await.context("oidc-mock-provider")?;
    Ok(())
}

/// mongosh through the stand-in, in both ways.
async fn mongosh(modules: &Path) -> Result<()> {
    let set = ReplicaSet::start(Options::single()).await?;
    let idp = FakeIdp::start().await?;
    let config = ServerConfig::people(idp.issuer(), "api://db", CLIENT, "sync");
    let address = set.servers().first().context("no server")?.address();
    let gateway = Gateway::start(&address, config).await?;
    let folder = tempfile::tempdir()?;
    let robot = Robot::start(folder.path(), None)?;
    let browser = robot.command();
    let ways: [(&str, Vec<&str>); 2] = [
        (
            "code flow",
            vec!["--browser", &browser, "--oidcRedirectUri", "http://localhost:0/redirect"],
        ),
        ("device flow", vec!["--oidcFlows", "device-auth", "--no-browser"]),
    ];
    for (name, more) in ways {
        let before = gateway.stats().sasl_succeeded.load(Ordering::SeqCst);
        let output = tokio::time::timeout(
            LIMIT,
            Command::new("node")
                .arg(modules.join("mongosh/bin/mongosh.js"))
                .arg(gateway.person_uri(None))
                .args(&more)
                .args(["--quiet", "--eval"])
                .arg("JSON.stringify(db.adminCommand({connectionStatus: 1}).authInfo)")
                .env("HOME", folder.path())
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output(),
        )
        .await
        .context("it hangs")??;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && text.contains("oidc/ann"),
            "{name}: {text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(gateway.stats().sasl_succeeded.load(Ordering::SeqCst) > before, "{name}: no SASL");
        println!("mongosh, {name}: logged in");
    }
    let counts = idp.counts();
    ensure!(counts.authorize == 1 && counts.device == 1, "{counts:?}");
    Ok(())
}

/// A JSON document, or why there is none.
async fn get(url: &str) -> Result<serde_json::Value, String> {
    let answer = reqwest::get(url).await.and_then(reqwest::Response::error_for_status);
    answer.map_err(|error| error.to_string())?.json().await.map_err(|error| error.to_string())
}

/// A program of node's that listens, stopped when it is dropped.
async fn server(arguments: &[&str], folder: &Path, port: u16) -> Result<Child> {
    let child = Command::new("node")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let place = format!("http://localhost:{port}/.well-known/openid-configuration");
    // One of them listens before it has made its keys.
    eventually("keys of their provider", LIMIT, || async {
        let found: serde_json::Value = get(&place).await?;
        let keys: serde_json::Value =
            get(found["jwks_uri"].as_str().ok_or("discovery without keys")?).await?;
        if keys["keys"].as_array().is_some_and(|keys| !keys.is_empty()) {
            Ok(())
        } else {
            Err(keys.to_string())
        }
    })
    .await?;
    Ok(child)
}

/// A login with the workforce plugin, and a refresh when there is something to refresh by.
async fn log_in(issuer: &str, scopes: &[&str], refreshes: bool) -> Result<Credential> {
    let folder = tempfile::tempdir()?;
    let robot = Robot::start(folder.path(), None)?;
    let registry = Registry::load(Vec::new()).await?;
    // It is on this machine, which only a grant opens.
    registry.load_one(Registry::builtin_spec(WORKFORCE, json!({ "issuer": issuer }))?).await?;
    registry.introduce(Arc::new(Terminal::new(Reach {
        browser: robot.command().parse().map_err(anyhow::Error::msg)?,
        redirect: "http://localhost:0/redirect".parse().map_err(anyhow::Error::msg)?,
    })));
    let plugin = registry.issuer(WORKFORCE).await?;
    let mut request = TokenRequest {
        flow: Flow::Human,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: None,
        principal: None,
        hosts: Vec::new(),
        idp: Some(IdpInfo {
            issuer: issuer.to_owned(),
            client_id: Some(CLIENT.to_owned()),
            request_scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        }),
        refresh_token: None,
        timeout: LIMIT,
        attempt: 0,
        extra: Vec::new(),
    };
    let first = plugin.get_token(request.clone()).await?;
    if !refreshes {
        return Ok(first);
    }
    request.refresh_token = first.refresh_token.clone();
    ensure!(request.refresh_token.is_some(), "no refresh token");
    let next = plugin.get_token(request).await?;
    ensure!(
        next.access_token.expose_secret() != first.access_token.expose_secret(),
        "the same token again"
    );
    ensure!(robot.pages().len() == 1, "the person was asked twice: {:?}", robot.pages());
    Ok(next)
}

/// A certified provider: login, rotation, and the control API.
async fn oidc_provider(modules: &Path) -> Result<()> {
    let port = Port::reserve()?;
    let number = port.number();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/provider.mjs");
    // It is found beside its modules.
    let beside = modules.parent().context("node_modules has no parent")?.join("provider.mjs");
    std::fs::copy(&script, &beside)?;
    let text = number.to_string();
    let _server = server(&[&beside.display().to_string(), &text], modules, number).await?;
    let issuer = format!("http://localhost:{number}");
    let credential = log_in(&issuer, &["sync"], true).await?;
    println!("oidc-provider: logged in and refreshed");
    let federation = json!({
        "name": "acme", "issuer": issuer, "audience": "api://syncline", "clientId": CLIENT,
        "roles": [{ "role": "acme/sync", "actions": ["view"] }],
    });
    let access = Access::new(Store::Fixed(federation), Audit::default())?;
    let header = format!("Bearer {}", credential.access_token.expose_secret());
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (action, expected) in
        [(Action::View, Decision::Allowed), (Action::Commit, Decision::Forbidden)]
    {
        let decision = access
            .decide(Question {
                authorization: &[header.as_bytes()],
                client: here,
                server: here,
                action,
                request: "GET /interop",
                request_id: "1",
            })
            .await;
        ensure!(decision == expected, "{action:?}: {decision:?}");
    }
    println!("oidc-provider: its token is good for the control API");
    Ok(())
}

/// MongoDB's own stand-in of a provider.
async fn mock_provider(modules: &Path) -> Result<()> {
    let port = Port::reserve()?;
    let number = port.number();
    let program = modules.join(".bin/oidc-mock-provider").display().to_string();
    let _server = server(&[&program, "-p", &number.to_string()], modules, number).await?;
    // Its refresh grant answers 500 by itself.
    log_in(&format!("http://localhost:{number}"), &[], false).await?;
    println!("oidc-mock-provider: logged in");
    Ok(())
}
