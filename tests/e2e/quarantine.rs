//! Documents that cannot pass their filters, where the sync is told to go on without them.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Document, RawDocument, doc},
};
use serde_json::json;
use syncline_tests::{
    command,
    compare::{Comparison, Expected},
    daemon::{Config, Daemon},
    guests,
};
use tempfile::TempDir;

use super::support::{LONG, Pair, Phase};

/// Statuses that the filter fails for.
const FAILING: [&str; 2] = ["bad", "crash"];

/// What is expected while the filter is not mended.
fn expected(namespace: &str, document: &RawDocument) -> Expected {
    let status = document.get_str("status").unwrap_or_default();
    let withheld = status == "gone" || FAILING.contains(&status);
    if namespace == "app.users" && withheld { Expected::Nothing } else { Expected::Same }
}

/// What is expected once it is.
fn expected_mended(namespace: &str, document: &RawDocument) -> Expected {
    let gone = document.get_str("status").is_ok_and(|status| status == "gone");
    if namespace == "app.users" && gone { Expected::Nothing } else { Expected::Same }
}

/// The options of a daemon with the filter in a folder.
fn picky(pair: &Pair, folder: &Path, mended: bool, on_error: &str) -> Result<Config> {
    let built = guests::component(&guests::repository().join("tests/guests/picky"), "picky")?;
    let component = folder.join("picky.wasm");
    std::fs::copy(built, &component)?;
    Ok(pair
        .config()
        .with(
            "plugins",
            json!([{ "name": "picky", "component": component, "config": { "mended": mended } }]),
        )
        .with(
            "filters",
            json!([{ "namespaces": [{ "database": "app", "collections": ["users"] }],
                "plugins": ["picky"], "onError": on_error }]),
        ))
}

/// Users, a few of which cannot pass.
async fn fill(client: &Client) -> Result<()> {
    let users: Vec<Document> = (0..3000_i32)
        .map(|n| {
            let status = match n % 100 {
                0 => "bad",
                50 if n % 1000 == 50 => "crash",
                1..=9 => "gone",
                _ => "good",
            };
            doc! { "_id": n, "status": status, "n": n }
        })
        .collect();
    client.database("app").collection("users").insert_many(users).await?;
    Ok(())
}

/// Lets users become good and bad in every way.
async fn change(client: &Client) -> Result<()> {
    let users = client.database("app").collection::<Document>("users");
    let set = |status: &str| doc! { "$set": { "status": status } };
    users.update_many(doc! { "_id": { "$in": [100, 200] } }, set("good")).await?;
    users.update_many(doc! { "_id": { "$in": [300, 400] } }, set("gone")).await?;
    users.update_many(doc! { "_id": { "$in": [110, 120, 130] } }, set("bad")).await?;
    users.update_one(doc! { "_id": 111 }, set("crash")).await?;
    users.delete_many(doc! { "_id": { "$in": [500, 600] } }).await?;
    users.insert_one(doc! { "_id": "new", "status": "bad" }).await?;
    // Deleted, and there again under an `_id` of another type that the server holds to be the same.
    users.delete_one(doc! { "_id": 700 }).await?;
    users.insert_one(doc! { "_id": 700_i64, "status": "bad", "again": true }).await?;
    for status in ["good", "bad"] {
        users.update_one(doc! { "_id": 140 }, set(status)).await?;
    }
    Ok(())
}

/// `_id`s of documents of a collection that match, in a form that can be compared.
async fn ids(client: &Client, query: Document) -> Result<BTreeSet<String>> {
    let mut cursor = client.database("app").collection::<Document>("users").find(query).await?;
    let mut found = BTreeSet::new();
    while cursor.advance().await? {
        let document = cursor.deserialize_current()?;
        let id = document.get("_id").cloned().context("no _id")?;
        found.insert(id.into_canonical_extjson().to_string());
    }
    Ok(found)
}

/// Runs a command with the daemon's options.
async fn run(config: &Config, words: &[&str], code: i32) -> Result<command::Finished> {
    let file = config.to_file()?;
    let path = file.path().display().to_string();
    let mut arguments = words.to_vec();
    arguments.extend(["--config", &path]);
    let finished = command::run(&arguments, &[]).await?;
    assert_eq!(finished.code, Some(code), "{finished:?}");
    Ok(finished)
}

/// `_id`s in quarantine, as the command lists them.
async fn quarantined(config: &Config) -> Result<BTreeSet<String>> {
    let listed = run(config, &["plugin", "quarantine", "--output", "json"], 0).await?.json()?;
    let documents = listed["documents"].as_array().context("no list")?;
    for one in documents {
        assert_eq!(one["plugin"], "picky");
        let code = if one["document"]["status"] == "crash" { "SYNC-1507" } else { "SYNC-1511" };
        assert_eq!(one["code"], code, "{one}");
        assert_eq!(one["document"]["_id"], one["_id"]);
    }
    Ok(documents.iter().map(|one| one["_id"].to_string()).collect())
}

/// The scenario in one phase, with a death of the daemon in between.
async fn quarantine_in(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let folder = TempDir::new()?;
    let client = pair.source.client();
    fill(&client).await?;
    let config = picky(&pair, folder.path(), false, "quarantine")?;
    let mut daemon = Daemon::start(config.clone()).await?;
    let slow = pair.begin(&daemon, phase).await?;
    change(&client).await?;
    daemon.kill();
    let users = client.database("app").collection::<Document>("users");
    users.delete_one(doc! { "_id": 800 }).await?;
    users.update_one(doc! { "_id": 900 }, doc! { "$set": { "status": "good" } }).await?;
    daemon.launch().await?;
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    daemon.commit(LONG).await?;
    let failing = ids(&client, doc! { "status": { "$in": FAILING.to_vec() } }).await?;
    assert!(failing.len() > 20, "{failing:?}");
    assert_eq!(quarantined(&config).await?, failing);
    let progress = daemon.progress().await?;
    assert_eq!(progress["quarantinedDocuments"], failing.len(), "{progress}");
    let report = pair.check(Comparison::new().expecting(expected)).await?;
    assert!(report.withheld > 200, "{report}");
    let verified = run(&config, &["verify"], 0).await?;
    assert!(verified.stdout.contains("documents are in quarantine"), "{verified:?}");

    let mended = picky(&pair, folder.path(), true, "quarantine")?;
    daemon.terminate().await?;
    let again = run(&config, &["plugin", "replay", "--output", "json"], 0).await?.json()?;
    let count = failing.len();
    assert_eq!(
        again,
        json!({ "success": true, "written": 0, "dropped": 0, "refused": count, "present": 0 })
    );
    let destination = pair.destination.client();
    let there = destination.database("app").collection::<Document>("users");
    // The application has made a document of its own meanwhile.
    there.insert_one(doc! { "_id": 110, "own": true }).await?;
    let replayed = run(&mended, &["plugin", "replay", "--output", "json"], 0).await?.json()?;
    assert_eq!(replayed["written"], count - 1, "{replayed}");
    assert_eq!(replayed["present"], 1, "{replayed}");
    let left = quarantined(&config).await?;
    assert_eq!(left, BTreeSet::from([json!({ "$numberInt": "110" }).to_string()]));
    there.delete_one(doc! { "_id": 110 }).await?;
    run(&mended, &["plugin", "replay"], 0).await?;
    pair.check(Comparison::new().expecting(expected_mended)).await?;
    assert_eq!(quarantined(&config).await?, BTreeSet::new());
    Ok(())
}

#[tokio::test]
async fn what_cannot_pass_is_in_quarantine_after_a_death_during_the_copy() -> Result<()> {
    quarantine_in(Phase::Copy).await
}

#[tokio::test]
async fn what_cannot_pass_is_in_quarantine_after_a_death_during_the_stream() -> Result<()> {
    quarantine_in(Phase::Stream).await
}

#[tokio::test]
async fn without_a_quarantine_the_sync_stops_and_goes_on_with_one() -> Result<()> {
    let pair = Pair::start().await?;
    let folder = TempDir::new()?;
    let client = pair.source.client();
    fill(&client).await?;
    let config = picky(&pair, folder.path(), false, "stop")?;
    let mut daemon = Daemon::start(config).await?;
    daemon.start_sync().await?;
    let status = daemon.wait(LONG).await?;
    assert_eq!(status.code(), Some(1), "{}", daemon.output_tail());
    let output = daemon.output();
    assert!(output.contains("SYNC-1511") || output.contains("SYNC-1507"), "{output}");
    *daemon.config_mut() = picky(&pair, folder.path(), false, "quarantine")?;
    daemon.launch().await?;
    // A replay is refused as long as the daemon holds the sync.
    let other = picky(&pair, folder.path(), false, "quarantine")?;
    let refused = run(&other, &["plugin", "replay"], 1).await?;
    assert!(refused.stderr.contains("SYNC-1410"), "{refused:?}");
    daemon.commit(LONG).await?;
    pair.check(Comparison::new().expecting(expected)).await?;
    Ok(())
}
