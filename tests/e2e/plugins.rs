//! Plugins in the daemon: a document filter in both phases, tokens that expire, and plugin files that
//! are refused.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, cstr, doc},
};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::Options,
    compare::{Comparison, Expected},
    daemon::{Config, Daemon},
    guests,
    oidc::{
        gateway::{Gateway, ServerConfig},
        idp::FakeIdp,
    },
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase, has_metadata};

/// Documents of `app.users` that the filter keeps, written again for the comparison.
fn expected(namespace: &str, document: &RawDocument) -> Expected {
    let active = document.get_str("status").is_ok_and(|status| status == "active");
    if namespace == "app.users" && !active { Expected::Nothing } else { Expected::Same }
}

/// A plugin entry that keeps active documents.
fn keep_active() -> Value {
    json!({ "name": "active", "component": "builtin:match-documents",
        "config": { "keep": { "status": "active" } } })
}

/// The options of a daemon that filters `app.users`.
fn filtered(pair: &Pair) -> Config {
    pair.config().with("plugins", json!([keep_active()])).with(
        "filters",
        json!([{ "namespaces": [{ "database": "app", "collections": ["users"] }],
            "plugins": ["active"] }]),
    )
}

/// Users, every other one active.
async fn fill(client: &Client) -> Result<()> {
    let users: Vec<Document> = (0..4000_i32)
        .map(|n| doc! { "_id": n, "status": if n % 2 == 0 { "active" } else { "gone" }, "n": n })
        .collect();
    client.database("app").collection("users").insert_many(users).await?;
    workload::seed(client, "app", "orders", 500, 1).await
}

/// Lets users move in and out of the filter, in every way.
async fn move_users(client: &Client) -> Result<()> {
    let users = client.database("app").collection::<Document>("users");
    let set = |status: &str| doc! { "$set": { "status": status } };
    users.update_many(doc! { "_id": { "$lt": 100, "$mod": [2, 0] } }, set("gone")).await?;
    users.update_many(doc! { "_id": { "$lt": 200, "$mod": [2, 1] } }, set("active")).await?;
    users
        .update_many(
            doc! { "_id": { "$gte": 200, "$lt": 300 } },
            doc! { "$unset": { "status": "" } },
        )
        .await?;
    users.replace_one(doc! { "_id": 1001 }, doc! { "status": "active", "new": true }).await?;
    users.replace_one(doc! { "_id": 1002 }, doc! { "other": true }).await?;
    users.delete_many(doc! { "_id": { "$gte": 2000, "$lt": 2050 } }).await?;
    users.insert_one(doc! { "_id": "in", "status": "active" }).await?;
    users.insert_one(doc! { "_id": "out", "status": "gone" }).await?;
    // In and out again, and out and in again.
    for status in ["gone", "active", "gone"] {
        users.update_one(doc! { "_id": 1500 }, set(status)).await?;
    }
    for status in ["active", "gone", "active"] {
        users.update_one(doc! { "_id": 1501 }, set(status)).await?;
    }
    Ok(())
}

/// The scenario in one phase, with a death of the daemon in between.
async fn filter_in(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    fill(&client).await?;
    let mut daemon = Daemon::start(filtered(&pair)).await?;
    let slow = pair.begin(&daemon, phase).await?;
    move_users(&client).await?;
    daemon.kill();
    let users = client.database("app").collection::<Document>("users");
    users
        .update_many(doc! { "_id": { "$gte": 3000 } }, doc! { "$set": { "status": "gone" } })
        .await?;
    daemon.launch().await?;
    drop(slow);
    daemon.commit(LONG).await?;
    let report = pair.check(Comparison::new().expecting(expected)).await?;
    assert!(report.withheld > 1000, "{report}");
    let there = pair.destination.client().database("app").collection::<Document>("users");
    let surplus = there.count_documents(doc! { "status": { "$ne": "active" } }).await?;
    assert_eq!(surplus, 0);
    Ok(())
}

#[tokio::test]
async fn documents_move_in_and_out_of_a_filter_during_the_copy() -> Result<()> {
    filter_in(Phase::Copy).await
}

#[tokio::test]
async fn documents_move_in_and_out_of_a_filter_during_the_stream() -> Result<()> {
    filter_in(Phase::Stream).await
}

#[tokio::test]
async fn the_api_lists_plugins_with_their_digests() -> Result<()> {
    let pair = Pair::start().await?;
    let daemon = Daemon::start(filtered(&pair)).await?;
    let answer = daemon.request("GET", "/api/v1/plugins", None).await?.check()?;
    let text = answer.body["plugins"].to_string();
    assert!(text.contains("\"active\"") && text.contains("sha256"), "{text}");
    Ok(())
}

#[tokio::test]
async fn another_filter_after_a_restart_is_refused() -> Result<()> {
    let pair = Pair::start().await?;
    fill(&pair.source.client()).await?;
    let mut daemon = Daemon::start(filtered(&pair)).await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.kill();
    let mut other = keep_active();
    other["config"]["keep"]["status"] = json!("gone");
    let config = filtered(&pair).with("plugins", json!([other]));
    let ended = Daemon::run_to_end(config).await?;
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    assert!(ended.output.contains("SYNC-1406"), "{}", ended.output);

    // With the old one it goes on.
    daemon.launch().await?;
    daemon.commit(LONG).await?;
    pair.check(Comparison::new().expecting(expected)).await?;
    Ok(())
}

/// People, every other one active, with what a chain redacts and renames.
fn person(n: i32, status: &str) -> Document {
    doc! { "_id": n, "status": status, "zip": format!("{n:05}"), "password": "secret",
    "phone": format!("0123-{n}"), "n": 0 }
}

/// What the chain makes of a person, written again for the comparison.
fn through_chain(namespace: &str, document: &RawDocument) -> Expected {
    if namespace != "app.users" {
        return Expected::Same;
    }
    if !document.get_str("status").is_ok_and(|status| status == "active") {
        return Expected::Nothing;
    }
    let mut made = RawDocumentBuf::new();
    for field in document {
        let (name, value) = field.expect("a document of this test");
        match (name.as_str(), value) {
            ("password", _) => {}
            ("zip", value) => made.append(cstr!("postcode"), value),
            ("phone", RawBsonRef::String(text)) => {
                made.append(cstr!("phone"), "*".repeat(text.chars().count()));
            }
            _ => made.append(name, value),
        }
    }
    Expected::Instead(made)
}

/// The options of a daemon that sends `app.users` through three filters.
fn chained(pair: &Pair) -> Config {
    pair.config()
        .with(
            "plugins",
            json!([
                keep_active(),
                { "name": "private", "component": "builtin:redact-fields",
                    "config": { "remove": ["password"], "mask": [{ "field": "phone" }] } },
                { "name": "names", "component": "builtin:rename-fields",
                    "config": { "rename": { "zip": "postcode" } } },
            ]),
        )
        .with(
            "filters",
            json!([{ "namespaces": [{ "database": "app", "collections": ["users"] }],
                "plugins": ["active", "private", "names"] }]),
        )
}

/// Changes people until it is told to stop: in and out of the filter, new fields, new people, fewer.
async fn write_people(client: Client, done: Arc<AtomicBool>) -> Result<u64> {
    let users = client.database("app").collection::<Document>("users");
    let mut round = 0_i32;
    while !done.load(Ordering::SeqCst) {
        let id = round.wrapping_mul(7919).rem_euclid(2000);
        let status = if round % 3 == 0 { "gone" } else { "active" };
        match round % 5 {
            0 => {
                users.replace_one(doc! { "_id": id }, person(id, status)).upsert(true).await?;
            }
            1 => {
                users.delete_one(doc! { "_id": id }).await?;
            }
            2 => {
                let change = doc! { "$set": { "zip": round, "phone": format!("new-{round}") } };
                users.update_one(doc! { "_id": id }, change).await?;
            }
            _ => {
                let change = doc! { "$set": { "status": status }, "$inc": { "n": 1 } };
                users.update_one(doc! { "_id": id }, change).await?;
            }
        }
        round += 1;
    }
    Ok(u64::try_from(round)?)
}

/// The scenario in one phase: writes go on while the daemon dies and comes back.
async fn chain_in(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let people: Vec<Document> =
        (0..2000).map(|n| person(n, if n % 2 == 0 { "active" } else { "gone" })).collect();
    client.database("app").collection("users").insert_many(people).await?;
    workload::seed(&client, "app", "orders", 200, 1).await?;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write_people(client.clone(), Arc::clone(&done)));
    let mut daemon = Daemon::start(chained(&pair)).await?;
    let slow = pair.begin(&daemon, phase).await?;
    daemon.kill();
    daemon.launch().await?;
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    done.store(true, Ordering::SeqCst);
    assert!(writer.await?? > 100, "hardly anything was written");
    let listed = daemon.request("GET", "/api/v1/plugins", None).await?.check()?;
    daemon.commit(LONG).await?;
    let report = pair.check(Comparison::new().expecting(through_chain)).await?;
    assert!(report.withheld > 100, "{report}");
    // Each filter says what it did in this collection, and saw no other.
    let plugins = listed.body["plugins"].as_array().context("no list")?;
    assert_eq!(plugins.len(), 3);
    for plugin in plugins {
        let collections = plugin["namespaces"].as_array().context("no collections")?;
        assert_eq!(collections.len(), 1, "{plugin}");
        assert_eq!(collections[0]["namespace"], "app.users", "{plugin}");
        let verdict = if plugin["name"] == "active" { "dropped" } else { "replaced" };
        assert!(collections[0][verdict].as_u64() > Some(0), "{plugin}");
        assert_eq!(collections[0][verdict], plugin["counters"][verdict], "{plugin}");
    }
    Ok(())
}

#[tokio::test]
async fn a_chain_of_filters_holds_under_live_writes_and_a_death_during_the_copy() -> Result<()> {
    chain_in(Phase::Copy).await
}

#[tokio::test]
async fn a_chain_of_filters_holds_under_live_writes_and_a_death_during_the_stream() -> Result<()> {
    chain_in(Phase::Stream).await
}

#[tokio::test]
async fn another_component_after_a_restart_is_refused() -> Result<()> {
    let pair = Pair::start().await?;
    fill(&pair.source.client()).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("active.wasm");
    let built = guests::repository().join("host/src/plugin/tests/fixtures/filter-0.1.wasm");
    fs::copy(built, &file)?;
    let mut plugin = keep_active();
    plugin["component"] = json!(file.display().to_string());
    let config = filtered(&pair).with("plugins", json!([plugin]));
    let mut daemon = Daemon::start(config.clone()).await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.kill();
    // The same code and a section that means nothing: another file under the same name.
    let mut bytes = fs::read(&file)?;
    bytes.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    fs::write(&file, &bytes)?;
    let ended = Daemon::run_to_end(config).await?;
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    assert!(ended.output.contains("SYNC-1406"), "{}", ended.output);
    bytes.truncate(bytes.len() - 7);
    fs::write(&file, &bytes)?;
    daemon.launch().await?;
    daemon.commit(LONG).await?;
    pair.check(Comparison::new().expecting(expected)).await?;
    Ok(())
}

#[tokio::test]
async fn plugin_files_that_are_none_are_refused_before_anything_is_touched() -> Result<()> {
    let pair = Pair::start().await?;
    let folder = tempfile::tempdir()?;
    let text = folder.path().join("text.wasm");
    fs::write(&text, "not a component")?;
    let module = folder.path().join("module.wasm");
    fs::write(&module, b"\0asm\x01\0\0\0")?;
    let missing = folder.path().join("missing.wasm");
    for (component, code) in [
        (text.display().to_string(), "SYNC-1502"),
        (module.display().to_string(), "SYNC-1502"),
        (missing.display().to_string(), "SYNC-1501"),
        ("builtin:no-such-plugin".to_owned(), "SYNC-1501"),
    ] {
        let plugin = json!([{ "name": "bad", "component": component, "config": {} }]);
        let ended = Daemon::run_to_end(pair.config().with("plugins", plugin)).await?;
        assert_eq!(ended.code, Some(64), "{component}: {}", ended.output);
        assert!(ended.output.contains(code), "{component}, {code}: {}", ended.output);
        assert!(!has_metadata(&pair.destination.client()).await?);
    }
    // An identity provider is no document filter.
    let wrong = json!([{ "name": "active", "component": "builtin:azure-imds", "config": {},
        "grants": { "clock": true, "origins": ["http://169.254.169.254"] } }]);
    let ended = Daemon::run_to_end(filtered(&pair).with("plugins", wrong)).await?;
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    assert!(ended.output.contains("SYNC-1503"), "{}", ended.output);
    // What it asks for and was not granted is named.
    let bare = json!([{ "name": "active", "component": "builtin:azure-imds", "config": {} }]);
    let ended = Daemon::run_to_end(filtered(&pair).with("plugins", bare)).await?;
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    assert!(ended.output.contains("SYNC-1504"), "{}", ended.output);
    assert!(ended.output.contains("clock: true"), "{}", ended.output);
    let refused = json!([{ "name": "active", "component": "builtin:match-documents",
        "config": { "kep": {} } }]);
    let ended = Daemon::run_to_end(filtered(&pair).with("plugins", refused)).await?;
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    assert!(ended.output.contains("SYNC-1506"), "{}", ended.output);
    Ok(())
}

/// Who the tokens are for.
const AUDIENCE: &str = "api://syncline-test";

#[tokio::test]
async fn a_sync_outlives_tokens_that_expire_every_few_seconds() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 5000, 1).await?;
    let idp = FakeIdp::start().await?;
    idp.change(|workload| workload.lifetime = Duration::from_secs(4));
    let address = pair.source.servers().first().context("an empty set")?.address();
    let config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync");
    let gateway = Gateway::start(&address, config).await?;
    let live = Workload::start(&client, &Plan::new(4, "live"));
    let config = Config::new(&gateway.azure_uri(AUDIENCE), &pair.destination.uri())
        .with("identity", json!({ "azureImdsEndpoint": idp.imds_origin() }));
    let daemon = Daemon::start(config).await?;
    pair.begin(&daemon, Phase::Copy).await?;
    daemon.wait_can_commit(LONG).await?;
    syncline_tests::eventually::eventually("several tokens", LONG, || async {
        let renewed = gateway.stats().reauthenticated.load(Ordering::SeqCst);
        if renewed >= 6 && idp.counts().issued >= 5 { Ok(()) } else { Err((renewed, idp.counts())) }
    })
    .await?;
    live.writes(100).await?;
    live.stop().await?;
    daemon.commit(LONG).await?;
    let output = daemon.output();
    for level in ["\"level\":\"error\"", "\"level\":\"fatal\""] {
        assert!(!output.contains(level), "{}", daemon.output_tail());
    }
    // A token begins with the encoding of `{"`.
    assert!(!output.contains("eyJ"), "a token in the log");
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn an_identity_provider_that_refuses_is_named() -> Result<()> {
    let pair = Pair::start_with(Options::single(), Options::single()).await?;
    let idp = FakeIdp::start().await?;
    let address = pair.source.servers().first().context("an empty set")?.address();
    let config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync");
    let gateway = Gateway::start(&address, config).await?;
    idp.change(|workload| workload.audiences = vec!["api://another".to_owned()]);
    let config = Config::new(&gateway.azure_uri(AUDIENCE), &pair.destination.uri())
        .with("identity", json!({ "azureImdsEndpoint": idp.imds_origin() }));
    let ended = Daemon::run_to_end(config).await?;
    assert_eq!(ended.code, Some(77), "{}", ended.output);
    assert!(
        ended.output.contains("SYNC-1107") && ended.output.contains("azure-imds"),
        "{}",
        ended.output
    );
    assert!(!has_metadata(&pair.destination.client()).await?);
    Ok(())
}
