//! Bad input: every refusal has a code, an advice and a status, and changes nothing.

use anyhow::Result;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    daemon::{Answer, Config, Daemon, Ended},
    ports::Port,
    workload,
};

use super::support::{LONG, Pair, Phase, has_metadata, inventory};

/// A daemon that refused to start: exit code, error code and a text that helps.
fn assert_refused(ended: &Ended, exit: i32, code: &str, help: &str) {
    assert_eq!(ended.code, Some(exit), "{}", ended.output);
    assert!(ended.output.contains(code), "no {code} in: {}", ended.output);
    assert!(ended.output.contains(help), "no {help:?} in: {}", ended.output);
}

/// A request that was refused: status, error name, code and advice.
fn assert_error(answer: &Answer, status: u16, error: &str, code: &str) {
    assert_eq!((answer.status, answer.error()), (status, error), "{answer:?}");
    assert_eq!(answer.body["success"], false, "{answer:?}");
    assert_eq!(answer.body["code"], code, "{answer:?}");
    for field in ["errorDescription", "advice", "requestId"] {
        assert!(answer.body[field].as_str().is_some_and(|text| !text.is_empty()), "{answer:?}");
    }
}

#[tokio::test]
async fn an_unknown_config_key_is_refused_with_a_suggestion() -> Result<()> {
    let config = Config::new("mongodb://127.0.0.1:1/", "mongodb://127.0.0.1:2/");
    let ended = Daemon::run_to_end(config.with("loadLevl", 3)).await?;
    assert_refused(&ended, 64, "SYNC-1001", "loadLevel");
    Ok(())
}

#[tokio::test]
async fn a_malformed_connection_string_is_refused_without_its_password() -> Result<()> {
    let config = Config::new("mongodb://user:hunter2secret@/", "mongodb://127.0.0.1:2/");
    let ended = Daemon::run_to_end(config).await?;
    assert_refused(&ended, 64, "SYNC-1002", "cluster0");
    assert!(!ended.output.contains("hunter2secret"), "{}", ended.output);
    Ok(())
}

#[tokio::test]
async fn an_unreachable_cluster_is_named() -> Result<()> {
    let set = ReplicaSet::start(Options::single()).await?;
    let nobody = Port::reserve()?;
    let uri = format!("mongodb://{}/?serverSelectionTimeoutMS=1000", nobody.address());
    let ended = Daemon::run_to_end(Config::new(&set.uri(), &uri)).await?;
    assert_refused(&ended, 69, "SYNC-1101", "cluster1");
    assert!(!has_metadata(&set.client()).await?);
    Ok(())
}

#[tokio::test]
async fn wrong_credentials_are_refused_without_showing_them() -> Result<()> {
    let pair = Pair::start_with(Options::single().with_auth(), Options::single()).await?;
    let wrong = pair.source.uri_as("root", "hunter2secret");
    let ended = Daemon::run_to_end(Config::new(&wrong, &pair.destination.uri())).await?;
    assert_refused(&ended, 77, "SYNC-1102", "cluster0");
    assert!(!ended.output.contains("hunter2secret"), "{}", ended.output);
    assert!(!has_metadata(&pair.destination.client()).await?);
    Ok(())
}

#[tokio::test]
async fn a_standalone_is_refused() -> Result<()> {
    let pair = Pair::start_with(Options::standalone(), Options::single()).await?;
    let ended = Daemon::run_to_end(pair.config()).await?;
    assert_refused(&ended, 64, "SYNC-1103", "cluster0");
    assert!(!has_metadata(&pair.destination.client()).await?);
    Ok(())
}

#[tokio::test]
async fn the_same_cluster_twice_is_refused() -> Result<()> {
    let set = ReplicaSet::start(Options::single()).await?;
    workload::seed(&set.client(), "app", "items", 10, 1).await?;
    let before = inventory(&set.client()).await?;
    // Written in another way, so that comparing the strings would not find it.
    let other = set.uri_without_credentials().replace("127.0.0.1", "localhost");
    let ended = Daemon::run_to_end(Config::new(&set.uri(), &other)).await?;
    assert_refused(&ended, 64, "SYNC-1003", "cluster1");
    assert_eq!(inventory(&set.client()).await?, before);
    Ok(())
}

#[tokio::test]
async fn a_destination_that_holds_the_namespaces_is_refused() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 10, 1).await?;
    let theirs = pair.destination.client().database("app").collection::<Document>("items");
    theirs.insert_one(doc! { "_id": "precious" }).await?;
    let before = inventory(&pair.destination.client()).await?;
    let daemon = pair.daemon().await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1" });
    let answer = daemon.post("start", &body).await?;
    assert_error(&answer, 409, "NamespaceConflict", "SYNC-1201");
    assert!(answer.body["errorDescription"].as_str().is_some_and(|t| t.contains("app.items")));
    assert_eq!(daemon.progress().await?["state"], "IDLE");
    let mut after = inventory(&pair.destination.client()).await?;
    after.retain(|namespace, _| !namespace.starts_with("syncline_metadata."));
    assert_eq!(after, before);

    // Put right, the same daemon starts.
    theirs.drop().await?;
    daemon.start_sync().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_second_start_is_refused_and_the_first_goes_on() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 3000, 1).await?;
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, Phase::Copy).await?;
    let turned = json!({ "source": "cluster1", "destination": "cluster0" });
    let answer = daemon.post("start", &turned).await?;
    assert_error(&answer, 409, "AlreadyStarted", "SYNC-1303");
    drop(slow);
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_start_request_that_makes_no_sense_is_refused() -> Result<()> {
    let pair = Pair::start().await?;
    let daemon = pair.daemon().await?;
    let both =
        |source: &str, destination: &str| json!({ "source": source, "destination": destination });
    let with = |key: &str, value: Value| {
        let mut body = both("cluster0", "cluster1");
        body[key] = value;
        body
    };
    for body in [
        json!({}),
        both("cluster0", "cluster0"),
        both("cluster0", "cluster2"),
        with("buildIndexes", json!("sometimes")),
        with("includeNamespace", json!([{ "database": "app" }])),
        with("includeNamespaces", json!([{ "collections": ["a"] }])),
    ] {
        let answer = daemon.post("start", &body).await?;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.body["code"].as_str().is_some_and(|code| code.starts_with("SYNC-1")));
    }
    let suggested = daemon.post("start", &with("includeNamespace", json!([]))).await?;
    let text = suggested.body["errorDescription"].as_str().unwrap_or_default();
    assert!(text.contains("includeNamespaces"), "{suggested:?}");
    let garbage = daemon.request("POST", "/api/v1/start", Some("{nonsense")).await?;
    assert_error(&garbage, 400, "BadRequest", "SYNC-1601");
    let nowhere = daemon.request("GET", "/api/v1/nowhere", None).await?;
    assert_error(&nowhere, 404, "NotFound", "SYNC-1602");
    let method = daemon.request("GET", "/api/v1/start", None).await?;
    assert_error(&method, 405, "MethodNotAllowed", "SYNC-1603");
    assert_eq!(daemon.progress().await?["state"], "IDLE");
    assert!(!has_metadata(&pair.destination.client()).await?);
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_named() -> Result<()> {
    let pair = Pair::start().await?;
    let first = pair.daemon().await?;
    let ended = Daemon::run_to_end(pair.config().with("port", first.port())).await?;
    assert_refused(&ended, 69, "SYNC-1604", &first.port().to_string());
    Ok(())
}
