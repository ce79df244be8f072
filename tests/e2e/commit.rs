//! The hand-over: gates, indexes relaxed and restored.

use anyhow::Result;
use mongodb::bson::{Document, doc};
use serde_json::json;
use syncline_tests::workload;

use super::support::{LONG, Pair, Phase, index};

#[tokio::test]
async fn relaxed_indexes_are_restored_by_commit() -> Result<()> {
    let pair = Pair::start().await?;
    let database = pair.source.client().database("app");
    let documents: Vec<Document> = (0..50_i32).map(|n| doc! { "_id": n, "u": n }).collect();
    database.collection("items").insert_many(documents).await?;
    let specs = vec![
        doc! { "key": { "u": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 7200 },
        doc! { "key": { "h": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "all": 1 }, "name": "all", "unique": true, "hidden": true, "sparse": true },
    ];
    database.run_command(doc! { "createIndexes": "items", "indexes": specs }).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;

    let client = pair.destination.client();
    let spec = |name: &'static str| index(&client, "app", "items", name);
    assert!(spec("unique").await?.get("unique").is_none(), "relaxed during the sync");
    assert_eq!(spec("ttl").await?.get_i32("expireAfterSeconds")?, i32::MAX);
    assert!(spec("hidden").await?.get("hidden").is_none());
    daemon.commit(LONG).await?;
    assert!(spec("unique").await?.get_bool("unique")?);
    pair.check_identical().await?;
    let twice = client.database("app").collection("items").insert_one(doc! { "u": 1 }).await;
    assert!(twice.unwrap_err().to_string().contains("E11000"), "unique again");
    Ok(())
}

#[tokio::test]
async fn a_commit_that_comes_too_early_is_refused_and_changes_nothing() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 5000, 1).await?;
    let daemon = pair.daemon().await?;
    let idle = daemon.post("commit", &json!({})).await?;
    assert_eq!((idle.status, idle.error()), (409, "InvalidState"), "{idle:?}");

    let slow = pair.begin(&daemon, Phase::Copy).await?;
    let early = daemon.post("commit", &json!({})).await?;
    assert_eq!((early.status, early.error()), (409, "CannotCommitYet"), "{early:?}");
    assert_eq!(early.body["code"], "SYNC-1302");
    assert!(early.body["advice"].as_str().is_some_and(|advice| !advice.is_empty()));
    assert_eq!(daemon.progress().await?["state"], "RUNNING");
    drop(slow);
    daemon.commit(LONG).await?;
    let late = daemon.post("commit", &json!({})).await?;
    assert_eq!((late.status, late.error()), (409, "InvalidState"), "{late:?}");
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_committed_sync_is_still_committed_after_a_restart() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.commit(LONG).await?;
    daemon.kill();
    daemon.launch().await?;
    let progress = daemon.wait_state("COMMITTED", LONG).await?;
    assert_eq!(progress["canWrite"], true, "{progress}");
    // The application writes to the destination now; the daemon leaves it alone.
    let items = pair.destination.client().database("app").collection::<Document>("items");
    items.insert_one(doc! { "_id": "new" }).await?;
    assert_eq!(items.count_documents(doc! {}).await?, 101);
    Ok(())
}
