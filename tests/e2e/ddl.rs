//! Changes of the catalog, during the copy and during the stream.

use anyhow::Result;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use syncline_tests::workload::{self, Plan, Workload};

use super::support::{LONG, Pair, Phase};

/// Collections that the scenario changes, each with some documents and an index.
const SEEDED: [&str; 8] =
    ["dropped", "recreated", "renamed", "chain_a", "chain_b", "over", "under", "indexed"];

/// Fills the source.
async fn prepare(client: &Client) -> Result<()> {
    for (seed, name) in (1..).zip(SEEDED) {
        workload::seed(client, "app", name, 400, seed).await?;
        let index = doc! { "key": { "f1": 1 }, "name": "f1" };
        let command = doc! { "createIndexes": name, "indexes": [index] };
        client.database("app").run_command(command).await?;
    }
    // So much that the copy lasts.
    workload::seed(client, "app", "zz_ballast", 8000, 99).await
}

/// Renames within `app`.
async fn rename(client: &Client, from: &str, to: &str, drop_target: bool) -> Result<()> {
    let command = doc! {
        "renameCollection": format!("app.{from}"), "to": format!("app.{to}"), "dropTarget": drop_target,
    };
    client.database("admin").run_command(command).await?;
    Ok(())
}

/// Adds documents, so that a change of the catalog stands between writes.
async fn touch(client: &Client, name: &str) -> Result<()> {
    let collection = client.database("app").collection::<Document>(name);
    collection.insert_one(doc! { "touched": name }).await?;
    collection.update_one(doc! {}, doc! { "$set": { "touched": name } }).await?;
    Ok(())
}

/// Does everything once.
async fn change_catalog(client: &Client) -> Result<()> {
    let app = client.database("app");
    app.run_command(doc! { "create": "fresh", "collation": { "locale": "de", "strength": 1 } })
        .await?;
    touch(client, "fresh").await?;
    app.run_command(doc! { "create": "small_ring", "capped": true, "size": 8192 }).await?;
    touch(client, "small_ring").await?;
    app.run_command(doc! { "create": "seen", "viewOn": "fresh", "pipeline": [] }).await?;
    client.database("newdb").collection("implicit").insert_one(doc! { "_id": 1 }).await?;

    app.collection::<Document>("dropped").drop().await?;
    app.collection::<Document>("recreated").drop().await?;
    app.run_command(doc! { "create": "recreated", "validator": { "a": { "$ne": 1 } },
    "validationLevel": "strict", "validationAction": "error" })
        .await?;
    touch(client, "recreated").await?;

    touch(client, "renamed").await?;
    rename(client, "renamed", "renamed_twice", false).await?;
    touch(client, "renamed_twice").await?;
    rename(client, "renamed_twice", "Renamed", false).await?;
    touch(client, "Renamed").await?;
    // Two collections swap their names.
    rename(client, "chain_a", "chain_c", false).await?;
    rename(client, "chain_b", "chain_a", false).await?;
    rename(client, "chain_c", "chain_b", false).await?;
    touch(client, "chain_a").await?;
    touch(client, "chain_b").await?;
    rename(client, "over", "under", true).await?;
    touch(client, "under").await?;
    // The old name is taken again by another collection.
    touch(client, "over").await?;

    let index = |spec: Document| doc! { "createIndexes": "indexed", "indexes": [spec] };
    app.run_command(index(doc! { "key": { "count": 1 }, "name": "added" })).await?;
    app.run_command(index(doc! { "key": { "f2": 1 }, "name": "fleeting" })).await?;
    app.run_command(doc! { "dropIndexes": "indexed", "index": "fleeting" }).await?;
    app.run_command(doc! { "dropIndexes": "indexed", "index": "f1" }).await?;
    app.run_command(index(doc! { "key": { "_id": 1, "f3": 1 }, "name": "uni", "unique": true }))
        .await?;
    app.run_command(index(doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 3600 }))
        .await?;
    app.run_command(index(doc! { "key": { "f4": -1 }, "name": "hid", "hidden": true })).await?;
    touch(client, "indexed").await?;
    Ok(())
}

/// The scenario in one phase.
async fn scenario(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    prepare(&client).await?;
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, phase).await?;
    change_catalog(&client).await?;
    drop(slow);
    daemon.commit(LONG).await?;
    let report = pair.check_identical().await?;
    assert_eq!(report.views, 1, "{report}");
    Ok(())
}

#[tokio::test]
async fn catalog_changes_during_the_copy_arrive() -> Result<()> {
    scenario(Phase::Copy).await
}

#[tokio::test]
async fn catalog_changes_during_the_stream_arrive() -> Result<()> {
    scenario(Phase::Stream).await
}

#[tokio::test]
async fn random_catalog_changes_among_live_writes_arrive() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 4000, 5).await?;
    workload::seed(&client, "live", "moving_a", 1000, 6).await?;
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(4711);
    let live = Workload::start(&client, &Plan::new(seed, "live").with_ddl());
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, Phase::Copy).await?;
    live.writes(400).await?;
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    live.writes(800).await?;
    let counts = live.stop().await?;
    assert!(counts.ddl > 5, "{counts:?}");
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
