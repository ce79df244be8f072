//! What an operator watches: every field in every state, all collections, metrics.

use anyhow::{Context, Result};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use syncline_tests::{cluster::Options, command, daemon::Daemon, eventually::eventually, workload};

use super::support::{LONG, Pair, Phase, wait_info};

/// The JSON type of a field: `number`, `string?` where null is allowed, and so on.
fn fits(value: &Value, shape: &str) -> bool {
    let (base, nullable) = match shape.strip_suffix('?') {
        Some(base) => (base, true),
        None => (shape, false),
    };
    match base {
        _ if value.is_null() => nullable || base == "null",
        "bool" => value.is_boolean(),
        "number" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "list" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// Fails unless exactly these fields are there, with these types. `warnings` may always be.
fn check_shape(progress: &Value, expected: &[(&str, &str)]) -> Result<()> {
    let object = progress.as_object().context("no object")?;
    for (name, shape) in expected {
        let value = object.get(*name).with_context(|| format!("no {name} in {progress:#}"))?;
        assert!(fits(value, shape), "{name} is no {shape}: {value}");
    }
    for name in object.keys().filter(|name| *name != "warnings") {
        assert!(expected.iter().any(|(known, _)| known == name), "{name} in {progress:#}");
    }
    Ok(())
}

/// The fields that are there in every state, null or not.
const ALWAYS: &[(&str, &str)] = &[
    ("state", "string"),
    ("canCommit", "bool"),
    ("canWrite", "bool?"),
    ("info", "string?"),
    ("lag", "object?"),
    ("lagTimeSeconds", "number?"),
    ("totalEventsApplied", "number?"),
    ("collectionCopy", "object?"),
    ("directionMapping", "object?"),
    ("source", "object?"),
    ("destination", "object?"),
    ("mongosyncID", "string?"),
    ("coordinatorID", "string?"),
    ("verification", "object?"),
    ("appliedClusterTime", "object?"),
    ("collections", "list?"),
    ("failure", "object?"),
];

#[tokio::test]
async fn every_field_is_there_when_it_should_be_and_nothing_else() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 3000, 1).await?;
    workload::seed(&pair.source.client(), "app", "orders", 50, 2).await?;
    let daemon = pair.daemon().await?;
    let idle = daemon.progress().await?;
    check_shape(&idle, ALWAYS)?;
    for (name, value) in idle.as_object().context("no object")? {
        let told = ["state", "canCommit"].contains(&name.as_str());
        assert_eq!(value.is_null(), !told, "{name}: {value}");
    }

    let slow = pair.begin(&daemon, Phase::Copy).await?;
    let copying = daemon
        .wait_for("a look at the oplog", LONG, |progress| {
            progress["estimatedOplogTimeRemaining"] != "not checked yet"
        })
        .await?;
    assert_eq!(copying["info"], "collection copy", "{copying:#}");
    let during_copy = [
        ALWAYS,
        &[
            ("estimatedOplogTimeRemaining", "string"),
            ("estimatedSecondsToCopyCompletion", "number?"),
        ],
    ]
    .concat();
    check_shape(&copying, &during_copy)?;
    drop(slow);

    let index = doc! { "createIndexes": "orders", "indexes": [{ "key": { "n": 1 }, "name": "n" }] };
    daemon.wait_can_commit(LONG).await?;
    let before = daemon.progress().await?;
    assert_eq!(before["lag"]["ddlLagSeconds"], Value::Null, "{before:#}");
    pair.source.client().database("app").run_command(index).await?;
    let applying =
        daemon.wait_for("a schema change", LONG, |p| !p["lag"]["ddlLagSeconds"].is_null()).await?;
    assert_eq!(applying["ceaStage"], "steady state");
    let mut while_applying = [
        ALWAYS,
        &[
            ("ceaStage", "string"),
            ("indexBuilding", "object"),
            ("estimatedOplogTimeRemaining", "string"),
        ],
    ]
    .concat();
    if applying.get("estimatedSecondsToCEACatchup").is_some() {
        while_applying.push(("estimatedSecondsToCEACatchup", "number"));
    }
    if applying.get("estimatedSecondsToIndexCompletion").is_some() {
        while_applying.push(("estimatedSecondsToIndexCompletion", "number?"));
    }
    check_shape(&applying, &while_applying)?;
    for name in ["overallLagSeconds", "crudLagSeconds", "ddlLagSeconds"] {
        assert!(applying["lag"].get(name).is_some(), "{applying:#}");
    }
    assert!(applying["directionMapping"]["Source"].as_str().is_some_and(|s| s.contains(':')));

    daemon.command("pause").await?;
    let paused = daemon.wait_state("PAUSED", LONG).await?;
    assert!(paused["lag"].is_null() && paused["lagTimeSeconds"].is_null(), "{paused:#}");
    assert!(paused.get("estimatedOplogTimeRemaining").is_none());
    daemon.command("resume").await?;
    let committed = daemon.commit(LONG).await?;
    check_shape(&committed, ALWAYS)?;
    assert_eq!(committed["info"], "commit completed");
    Ok(())
}

#[tokio::test]
async fn bytes_and_events_are_counted_once() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let mut bytes = 0;
    for (seed, name, count) in [(1, "items", 3000), (2, "orders", 50)] {
        workload::seed(&client, "app", name, count, seed).await?;
        let stats = client.database("app").run_command(doc! { "collStats": name }).await?;
        bytes += u64::try_from(stats.get_i32("size")?)?;
    }
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    let copied = daemon.wait_can_commit(LONG).await?;
    let copy = &copied["collectionCopy"];
    let is_right = |value: &Value| value.as_u64() == Some(bytes);
    for name in ["estimatedTotalBytes", "estimatedCopiedBytes"] {
        assert!(is_right(&copy[name]), "{name}, not {bytes}: {copied}");
    }
    assert_eq!(copied["totalEventsApplied"].as_u64(), Some(0), "nothing has happened: {copied}");
    let items = client.database("app").collection::<Document>("items");
    let applied = async |daemon: &Daemon, events: u64| -> Result<Value> {
        pair.wait_applied(daemon).await?;
        let all = |progress: &Value| progress["totalEventsApplied"].as_u64() >= Some(events);
        daemon.wait_for("the events to be counted", LONG, all).await
    };
    items.insert_many((0..40_i32).map(|n| doc! { "own": n })).await?;
    for _ in 0..3 {
        items.update_many(doc! { "own": { "$lt": 30 } }, doc! { "$inc": { "n": 1 } }).await?;
    }
    items.delete_many(doc! { "own": { "$gte": 30 } }).await?;
    let events = 40 + 90 + 10;
    let progress = applied(&daemon, events).await?;
    assert_eq!(progress["totalEventsApplied"].as_u64(), Some(events), "{progress}");
    // What was saved as applied is not applied again.
    daemon.terminate().await?;
    daemon.launch().await?;
    items.insert_one(doc! { "_id": "one more" }).await?;
    let progress = applied(&daemon, 1).await?;
    assert_eq!(progress["totalEventsApplied"].as_u64(), Some(1), "{progress}");
    assert!(is_right(&progress["collectionCopy"]["estimatedTotalBytes"]), "{progress}");
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn every_collection_can_be_seen_in_pages_and_by_the_command() -> Result<()> {
    let pair = Pair::start().await?;
    let source = pair.source.client();
    for number in 0..30 {
        let name = format!("c{number:02}");
        source.database("many").collection(&name).insert_one(doc! { "n": number }).await?;
    }
    workload::seed(&source, "app", "large", 500, 1).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    let page = async |query: &str| -> Result<Value> {
        let path = format!("/api/v1/progress/collections{query}");
        Ok(daemon.request("GET", &path, None).await?.check()?.body)
    };
    let first = page("?limit=20").await?;
    assert_eq!(first["total"], 31);
    assert_eq!(first["collections"][0]["namespace"], "app.large", "the largest is first");
    assert_eq!(first["collections"][0]["copiedDocuments"], 500);
    let second = page("?offset=20&limit=20").await?;
    let count = |page: &Value| page["collections"].as_array().map_or(0, Vec::len);
    assert_eq!((count(&first), count(&second)), (20, 11));
    let port = daemon.port().to_string();
    let listed = command::run(&["progress", "--collections", "--port", &port], &[]).await?;
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 31), "{listed:?}");
    assert!(listed.stdout.contains("many.c17"), "{}", listed.stdout);
    Ok(())
}

#[tokio::test]
async fn warnings_name_what_a_person_should_know() -> Result<()> {
    let pair = Pair::start_with(Options::single().with_auth(), Options::single()).await?;
    workload::seed(&pair.source.client(), "app", "items", 20, 1).await?;
    let block = doc! { "setUserWriteBlockMode": 1, "global": true };
    pair.source.client().database("admin").run_command(block).await?;
    let daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    let progress = daemon
        .wait_for("two warnings", LONG, |progress| {
            progress["warnings"].as_array().is_some_and(|warnings| warnings.len() >= 2)
        })
        .await?;
    let warnings = progress["warnings"].to_string();
    assert!(warnings.contains("user writes are blocked on the source"), "{warnings}");
    assert!(warnings.contains("user writes on the destination cannot be blocked"), "{warnings}");
    Ok(())
}

#[tokio::test]
async fn metrics_tell_the_state_and_count_refusals() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let daemon = pair.daemon().await?;
    let metrics = async || -> Result<String> {
        let answer = daemon.request("GET", "/metrics", None).await?;
        assert_eq!(answer.status, 200);
        Ok(answer.body.as_str().context("no text")?.to_owned())
    };
    let line = |text: &str, wanted: &str| text.lines().any(|line| line == wanted);
    let idle = metrics().await?;
    assert!(line(&idle, "sync_state{state=\"IDLE\"} 1"), "{idle}");
    assert!(line(&idle, "sync_state{state=\"RUNNING\"} 0"), "{idle}");
    let refused = daemon.request("POST", "/api/v1/commit", None).await?;
    assert_eq!(refused.status, 409);
    pair.begin(&daemon, Phase::Stream).await?;
    wait_info(&daemon, "change event application").await?;
    let running = metrics().await?;
    for wanted in [
        "sync_state{state=\"RUNNING\"} 1",
        "sync_errors_total{code=\"SYNC-1301\"} 1",
        "sync_copied_documents 100",
        "sync_can_commit 1",
        "sync_failed 0",
        "# TYPE sync_lag_seconds gauge",
    ] {
        assert!(line(&running, wanted), "no `{wanted}` in {running}");
    }
    let ready = daemon.request("GET", "/readyz", None).await?;
    assert_eq!((ready.status, &ready.body["status"]), (200, &"ready".into()));
    Ok(())
}

#[tokio::test]
async fn a_user_signal_begins_a_new_log() -> Result<()> {
    let pair = Pair::start().await?;
    let folder = tempfile::tempdir()?;
    let logs = folder.path().join("logs");
    let numbers = folder.path().join("metrics");
    let config = pair
        .config()
        .with("logPath", logs.display().to_string())
        .with("metricsLoggingFilepath", numbers.display().to_string());
    let mut daemon = Daemon::start(config).await?;
    let names = |place: &std::path::Path| -> Result<Vec<String>> {
        let names = std::fs::read_dir(place)?.map(|entry| entry.map(|e| e.file_name()));
        let mut names: Vec<String> =
            names.map(|name| Ok(name?.to_string_lossy().into_owned())).collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    };
    assert_eq!(names(&logs)?, ["syncline.log"]);
    let pid = daemon.pid().context("the daemon does not run")?.to_string();
    let sent = std::process::Command::new("kill").args(["-USR1", &pid]).status()?;
    assert!(sent.success());
    let compressed = |place: &std::path::Path, present: &str| match names(place) {
        Ok(names) if names.len() == 2 && names[0].ends_with(".log.gz") && names[1] == present => {
            Ok(())
        }
        other => Err(other),
    };
    eventually("a compressed log beside the new one", LONG, || async {
        compressed(&logs, "syncline.log")
    })
    .await?;
    // What is logged from now on is in the new file, with the process that logs it.
    daemon.post("pause", &serde_json::json!({})).await?;
    let text = std::fs::read_to_string(logs.join("syncline.log"))?;
    assert!(
        text.contains("request answered") && text.contains(&format!("\"pid\":{pid}")),
        "{text}"
    );
    // The metrics begin a file with each process, too.
    let file = numbers.join("syncline-metrics.log");
    let line: serde_json::Value = serde_json::from_str(std::fs::read_to_string(&file)?.trim())?;
    let metrics = line["metrics"].as_str().context("no metrics")?;
    assert!(metrics.contains("sync_can_commit 0"), "{metrics}");
    daemon.terminate().await?;
    daemon.launch().await?;
    eventually("compressed metrics beside the new ones", LONG, || async {
        compressed(&numbers, "syncline-metrics.log")
    })
    .await?;
    Ok(())
}
