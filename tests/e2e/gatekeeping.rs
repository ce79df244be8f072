//! The daemon's API behind a federation and behind TLS.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use syncline_tests::{
    binary,
    certificates::Authority,
    daemon::{Config, Daemon},
    eventually::eventually,
    oidc::idp::FakeIdp,
    workload,
};

use super::support::{LONG, Pair, Phase, has_metadata};

/// For whom the tokens are.
const AUDIENCE: &str = "api://syncline";
/// Routes with the action each needs; bodies are nonsense, so that none has an effect.
const ROUTES: &[(&str, &str, &str)] = &[
    ("GET", "/api/v1/progress", "view"),
    ("GET", "/api/v1/progress/collections", "view"),
    ("GET", "/api/v1/verification", "view"),
    ("GET", "/api/v1/plugins", "view"),
    ("GET", "/metrics", "view"),
    ("GET", "/api/v1/nothing", "view"),
    ("POST", "/api/v1/start", "operate"),
    ("POST", "/api/v1/pause", "operate"),
    ("POST", "/api/v1/resume", "operate"),
    ("POST", "/api/v1/reverse", "operate"),
    ("POST", "/api/v1/nothing", "operate"),
    ("POST", "/api/v1/progress", "operate"),
    ("POST", "/api/v1/commit", "commit"),
    ("POST", "/api/v1/abort", "commit"),
    ("GET", "/api/v1/federation", "administer"),
    ("POST", "/api/v1/federation", "administer"),
    ("PUT", "/api/v1/federation", "administer"),
    ("DELETE", "/api/v1/federation", "administer"),
    ("POST", "/api/v1/federation/revoke-jwks", "administer"),
];

/// A federation with a group for each action.
fn federation(idp: &FakeIdp) -> Value {
    let role = |action: &str| json!({ "role": format!("acme/{action}"), "actions": [action] });
    json!({
        "name": "acme", "issuer": idp.issuer(), "audience": AUDIENCE,
        "jwksMinimumQuiescePeriodSecs": 0,
        "roles": [role("view"), role("operate"), role("commit"), role("administer"),
            { "role": "acme/all", "actions": ["view", "operate", "commit", "administer"] }],
    })
}

/// A token of a member of these groups.
fn token(idp: &FakeIdp, groups: &[&str]) -> Result<String> {
    idp.mint(AUDIENCE, |claims| claims["groups"] = json!(groups))
}

/// Asks for every route with every role.
async fn ask_everything(daemon: &Daemon, idp: &FakeIdp) -> Result<usize> {
    let groups = ["view", "operate", "commit", "administer", "all", "nobody"];
    let mut asked = 0;
    for (method, path, needed) in ROUTES {
        for group in groups {
            let token = token(idp, &[group])?;
            let answer = daemon.request_as(Some(&token), method, path, Some("[]")).await?;
            let expected = group == *needed || group == "all";
            let what = format!("{method} {path} by {group}: {} {}", answer.status, answer.body);
            assert_eq!(!matches!(answer.status, 401 | 403), expected, "{what}");
            assert_eq!(answer.error() == "AccessDenied", !expected, "{what}");
            asked += 1;
        }
        for stranger in [None, Some("nonsense")] {
            let answer = daemon.request_as(stranger, method, path, Some("[]")).await?;
            assert_eq!(answer.status, 401, "{method} {path}");
            assert_eq!(answer.error(), "Unauthenticated");
            asked += 1;
        }
    }
    for path in ["/healthz", "/readyz"] {
        let open = daemon.request_as(None, "GET", path, None).await?;
        assert_eq!(open.status, 200, "{path}");
    }
    Ok(asked)
}

#[tokio::test]
async fn every_route_needs_its_action() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let all = token(&idp, &["all"])?;
    let folder = tempfile::tempdir()?;
    let audit = folder.path().join("audit");
    let config = pair
        .config()
        .with("federation", federation(&idp))
        .with("auditLog", audit.display().to_string())
        .with_token(&all);
    let daemon = Daemon::start(config).await?;
    workload::seed(&pair.source.client(), "app", "orders", 300, 1).await?;
    let mut asked = ask_everything(&daemon, &idp).await?;
    pair.begin(&daemon, Phase::Stream).await?;
    asked += ask_everything(&daemon, &idp).await?;
    daemon.command("pause").await?;
    daemon.wait_state("PAUSED", LONG).await?;
    asked += ask_everything(&daemon, &idp).await?;
    daemon.command("resume").await?;
    daemon.commit(LONG).await?;
    asked += ask_everything(&daemon, &idp).await?;
    eprintln!("asked {asked} times");
    daemon.check_secrets(&[&all]).await?;
    let audit = fs::read_to_string(&audit)?;
    assert!(!audit.contains("eyJ"), "a token in the audit");
    assert!(audit.lines().count() >= asked);
    for line in audit.lines() {
        let line: Value = serde_json::from_str(line)?;
        assert!(line["decision"] == "allowed" || line["reason"].is_string(), "{line}");
    }
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn refusals_are_those_of_bearer_tokens_and_say_nothing() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let all = token(&idp, &["all"])?;
    let config = pair.config().with("federation", federation(&idp)).with_token(&all);
    let daemon = Daemon::start(config).await?;
    let url = format!("http://127.0.0.1:{}/api/v1/progress", daemon.port());
    let http = reqwest::Client::builder().no_proxy().build()?;
    let expired = idp.mint(AUDIENCE, |claims| claims["exp"] = json!(1_000_000_000))?;
    let viewer = token(&idp, &["operate"])?;
    for (token, status, challenge) in [
        (None, 401, "Bearer realm=\"syncline\""),
        (Some(&expired), 401, "Bearer realm=\"syncline\", error=\"invalid_token\""),
        (Some(&viewer), 403, "Bearer realm=\"syncline\", error=\"insufficient_scope\""),
    ] {
        let mut request = http.get(&url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers()["www-authenticate"], challenge);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body = response.text().await?;
        assert!(!body.contains("expired") && !body.contains("groups"), "{body}");
    }
    // A token is taken from its header alone.
    let response = http.get(format!("{url}?access_token={all}")).send().await?;
    assert_eq!(response.status().as_u16(), 401);
    let response = http.get(&url).header("cookie", format!("token={all}")).send().await?;
    assert_eq!(response.status().as_u16(), 401);
    Ok(())
}

/// Runs the program with these arguments.
async fn run(arguments: &[&str], token: Option<&str>) -> Result<(Option<i32>, String)> {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let token = token.map(str::to_owned);
    tokio::task::spawn_blocking(move || {
        let mut command = Command::new(binary::locate()?);
        command.args(arguments).env_remove("SYNCLINE_TOKEN");
        if let Some(token) = token {
            command.env("SYNCLINE_TOKEN", token);
        }
        let output = command.output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    })
    .await?
}

#[tokio::test]
async fn a_federation_lives_its_life_by_commands() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let folder = tempfile::tempdir()?;
    let kept = folder.path().join("federation.json");
    let config = pair.config().with("federationFile", kept.display().to_string());
    let mut daemon = Daemon::start(config).await?;
    let port = daemon.port().to_string();
    let body = folder.path().join("body.json");
    let write = |value: &Value| fs::write(&body, value.to_string());
    let path = body.display().to_string();
    let all = token(&idp, &["all"])?;
    let command = |words: &[&str]| {
        let mut line = vec!["federation".to_owned()];
        line.extend(words.iter().map(|word| (*word).to_owned()));
        line.extend(["--port".to_owned(), port.clone()]);
        line
    };
    let federate = async |words: &[&str], token: Option<&str>| {
        let line = command(words);
        run(&line.iter().map(String::as_str).collect::<Vec<_>>(), token).await
    };
    let (code, text) = federate(&["show"], None).await?;
    assert_eq!(code, Some(64), "{text}");
    write(&json!({ "name": "acme" }))?;
    let (code, text) = federate(&["create", "--body", &path], None).await?;
    assert!(code == Some(64) && text.contains("SYNC-1113"), "{text}");
    write(&federation(&idp))?;
    let (code, text) = federate(&["create", "--body", &path], None).await?;
    assert_eq!(code, Some(0), "{text}");
    // From now on nobody gets in without a token, and only who may.
    let (code, text) = federate(&["show"], None).await?;
    assert!(code == Some(77) && text.contains("SYNC-1111"), "{text}");
    let viewer = token(&idp, &["view"])?;
    let (code, text) = federate(&["show"], Some(&viewer)).await?;
    assert!(code == Some(77) && text.contains("SYNC-1112"), "{text}");
    let (code, text) = federate(&["show"], Some(&all)).await?;
    assert!(code == Some(0) && text.contains("acme/view"), "{text}");
    let file = folder.path().join("token");
    fs::write(&file, format!("{viewer}\n"))?;
    let file = file.display().to_string();
    let (code, text) = run(&["progress", "--port", &port, "--token-file", &file], None).await?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = federate(&["create", "--body", &path], Some(&all)).await?;
    assert!(code == Some(64) && text.contains("already"), "{text}");
    // Keys are revoked at once.
    idp.rotate()?;
    idp.retire_old_keys();
    let new = token(&idp, &["all"])?;
    let (code, _) = federate(&["show"], Some(&all)).await?;
    assert_eq!(code, Some(0), "the old key is still known");
    let (code, text) = federate(&["revoke-jwks"], Some(&new)).await?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = federate(&["show"], Some(&all)).await?;
    assert!(code == Some(77) && text.contains("SYNC-1111"), "{text}");
    // It outlives the daemon.
    daemon.kill();
    *daemon.config_mut() = daemon.config_mut().clone().with_token(&new);
    daemon.launch().await?;
    let (code, _) = federate(&["show"], None).await?;
    assert_eq!(code, Some(77));
    let mut changed = federation(&idp);
    changed["name"] = json!("other");
    write(&changed)?;
    let (code, text) = federate(&["edit", "--body", &path], Some(&new)).await?;
    assert!(code == Some(64) && text.contains("name"), "{text}");
    changed["name"] = json!("acme");
    changed["audience"] = json!("api://other");
    write(&changed)?;
    let (code, text) = federate(&["edit", "--body", &path], Some(&new)).await?;
    assert_eq!(code, Some(0), "{text}");
    let (code, _) = federate(&["show"], Some(&new)).await?;
    assert_eq!(code, Some(77), "the audience is another one now");
    let other = idp.mint("api://other", |claims| claims["groups"] = json!(["all"]))?;
    let (code, text) = federate(&["delete"], Some(&other)).await?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&["progress", "--port", &port], None).await?;
    assert_eq!(code, Some(0), "{text}");
    assert!(!kept.exists());
    daemon.check_secrets(&[&all, &new, &viewer, &other]).await?;
    Ok(())
}

/// Writes a file that a daemon reads.
fn put(path: &Path, text: &str) -> Result<String> {
    fs::write(path, text)?;
    Ok(path.display().to_string())
}

#[tokio::test]
async fn tls_is_spoken_and_a_new_certificate_is_taken_without_a_restart() -> Result<()> {
    let pair = Pair::start().await?;
    let folder = tempfile::tempdir()?;
    let (first, second) = (Authority::new()?, Authority::new()?);
    let certificate = folder.path().join("server.pem");
    let place = put(&certificate, &first.server()?)?;
    let config =
        pair.config().with("tlsCertificateKeyFile", place.as_str()).with_tls(&first.pem(), None);
    let daemon = Daemon::start(config).await?;
    let port = daemon.port().to_string();
    let authorities = put(&folder.path().join("authorities.pem"), &first.pem())?;
    let line = ["progress", "--port", &port, "--tls", "--tls-ca-file", &authorities];
    let (code, text) = run(&line, None).await?;
    assert_eq!(code, Some(0), "{text}");
    // Neither plain nor with an authority that is not trusted.
    for line in [&line[..3], &line[..4]] {
        let (code, text) = run(line, None).await?;
        assert!(code == Some(69) && text.contains("SYNC-1605"), "{text}");
    }
    put(&certificate, &second.server()?)?;
    put(&folder.path().join("authorities.pem"), &second.pem())?;
    let (code, text) = run(&line, None).await?;
    assert_eq!(code, Some(0), "{text}");
    // One that cannot be used changes nothing.
    put(&certificate, "nonsense")?;
    let (code, text) = run(&line, None).await?;
    assert_eq!(code, Some(0), "{text}");
    assert!(daemon.output().contains("the old certificate of the API stays"));
    Ok(())
}

#[tokio::test]
async fn callers_without_a_certificate_are_turned_away_when_one_is_demanded() -> Result<()> {
    let pair = Pair::start().await?;
    let folder = tempfile::tempdir()?;
    let (servers, clients) = (Authority::new()?, Authority::new()?);
    let certificate = put(&folder.path().join("server.pem"), &servers.server()?)?;
    let demanded = put(&folder.path().join("clients.pem"), &clients.pem())?;
    let identity = clients.client()?;
    let config = pair
        .config()
        .with("tlsCertificateKeyFile", certificate)
        .with("tlsCAFile", demanded)
        .with_tls(&servers.pem(), Some(&identity));
    let daemon = Daemon::start(config).await?;
    let port = daemon.port().to_string();
    let authorities = put(&folder.path().join("authorities.pem"), &servers.pem())?;
    let mut line = vec!["progress", "--port", &port, "--tls", "--tls-ca-file", &authorities];
    let (code, text) = run(&line, None).await?;
    assert_eq!(code, Some(69), "{text}");
    let stranger = put(&folder.path().join("stranger.pem"), &servers.client()?)?;
    let known = put(&folder.path().join("known.pem"), &identity)?;
    line.extend(["--tls-certificate-key-file", &stranger]);
    let (code, text) = run(&line, None).await?;
    assert_eq!(code, Some(69), "{text}");
    *line.last_mut().context("a line")? = &known;
    let (code, text) = run(&line, None).await?;
    assert_eq!(code, Some(0), "{text}");
    Ok(())
}

#[tokio::test]
async fn off_loopback_there_is_no_start_without_tls_and_a_federation() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let folder = tempfile::tempdir()?;
    let certificate = put(&folder.path().join("server.pem"), &Authority::new()?.server()?)?;
    let nothing = folder.path().join("federation.json").display().to_string();
    let wide = || pair.config().with("bindIp", "0.0.0.0");
    let cases: [Config; 4] = [
        wide(),
        wide().with("tlsCertificateKeyFile", certificate.as_str()),
        wide().with("federation", federation(&idp)),
        // A place for a federation is none.
        wide().with("tlsCertificateKeyFile", certificate.as_str()).with("federationFile", nothing),
    ];
    for config in cases {
        let ended = Daemon::run_to_end(config).await?;
        assert_eq!(ended.code, Some(64), "{}", ended.output);
        assert!(ended.output.contains("off loopback"), "{}", ended.output);
    }
    let broken = folder.path().join("broken.json");
    let broken = put(&broken, r#"{"name":"acme"}"#)?;
    let ended = Daemon::run_to_end(pair.config().with("federationFile", broken)).await?;
    assert!(ended.code == Some(64) && ended.output.contains("SYNC-1113"), "{}", ended.output);
    assert!(!has_metadata(&pair.destination.client()).await?);
    Ok(())
}

#[tokio::test]
async fn a_token_that_ends_ends_the_watching() -> Result<()> {
    let pair = Pair::start().await?;
    let idp = FakeIdp::start().await?;
    let all = token(&idp, &["all"])?;
    let config = pair.config().with("federation", federation(&idp)).with_token(&all);
    let daemon = Daemon::start(config).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let short = idp.mint(AUDIENCE, |claims| {
        claims["groups"] = json!(["view"]);
        claims["exp"] = json!(now + 30);
    })?;
    let shorter = idp.mint(AUDIENCE, |claims| {
        claims["groups"] = json!(["view"]);
        claims["exp"] = json!(now + 2);
    })?;
    let ask =
        async |token: &str| daemon.request_as(Some(token), "GET", "/api/v1/progress", None).await;
    assert_eq!(ask(&short).await?.status, 200);
    eventually("the end of a token", LONG, || async {
        match ask(&shorter).await {
            Ok(answer) if answer.status == 401 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    Ok(())
}
