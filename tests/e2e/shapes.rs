//! Collections that are copied in a way of their own: capped ones, and those in natural order.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicI32, Ordering},
};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client,
    bson::{Bson, Decimal128, Document, doc},
    options::Hint,
};
use serde_json::json;
use syncline_tests::{compare::METADATA, eventually::eventually, random::Random};

use super::support::{LONG, Pair, Phase, wait_info};

/// The bytes of a capped collection of the tests: a few hundred documents.
const RING_BYTES: i64 = 64 * 1024;

/// The options of a collection.
async fn options(client: &Client, name: &str) -> Result<Document> {
    let listed = client
        .database("app")
        .run_command(doc! { "listCollections": 1, "filter": { "name": name } })
        .await?;
    let found = listed.get_document("cursor")?.get_array("firstBatch")?;
    let entry = found.first().and_then(Bson::as_document);
    Ok(entry.and_then(|e| e.get_document("options").ok()).cloned().unwrap_or_default())
}

/// Ids as they are stored.
async fn stored(client: &Client, name: &str) -> Result<Vec<Document>> {
    let collection = client.database("app").collection::<Document>(name);
    let found = collection
        .find(doc! {})
        .projection(doc! { "_id": 1 })
        .hint(Hint::Keys(doc! { "$natural": 1 }))
        .await?;
    Ok(found.try_collect().await?)
}

/// Writes into both rings without end, so that they overwrite their beginnings.
struct Writer {
    /// Ends it.
    stop: Arc<AtomicBool>,
    /// Documents written into each ring.
    written: Arc<AtomicI32>,
    /// The task.
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Writer {
    /// Begins to write.
    fn start(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicI32::new(0));
        let (app, ended, count) = (client.database("app"), Arc::clone(&stop), Arc::clone(&written));
        let task = tokio::spawn(async move {
            let mut next = 0;
            while !ended.load(Ordering::SeqCst) {
                for name in ["ring", "short_ring"] {
                    let documents =
                        (next..next + 20).map(|n| doc! { "_id": n, "text": "x".repeat(100) });
                    app.collection(name).insert_many(documents).await?;
                    app.collection::<Document>(name)
                        .update_one(doc! { "_id": next + 19 }, doc! { "$set": { "seen": true } })
                        .await?;
                }
                next += 20;
                count.store(next, Ordering::SeqCst);
            }
            Ok(())
        });
        Self { stop, written, task }
    }

    /// Waits until so many more documents are written into each.
    async fn more(&self, count: i32) -> Result<()> {
        let goal = self.written.load(Ordering::SeqCst) + count;
        eventually("documents in the rings", LONG, async || {
            let written = self.written.load(Ordering::SeqCst);
            if written >= goal { Ok(()) } else { Err((written, self.task.is_finished())) }
        })
        .await
    }

    /// Stops writing.
    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await?
    }
}

/// A capped collection that wraps around several times in a phase.
async fn wrap_around(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let app = client.database("app");
    app.run_command(doc! { "create": "ring", "capped": true, "size": RING_BYTES }).await?;
    let short = doc! { "create": "short_ring", "capped": true, "size": RING_BYTES, "max": 50 };
    app.run_command(short).await?;
    let writer = Writer::start(&client);
    writer.more(1_000).await?;

    let daemon = pair.daemon().await?;
    let guard = pair.begin(&daemon, phase).await?;
    writer.more(1_000).await?;
    drop(guard);
    daemon.wait_can_commit(LONG).await?;
    let relaxed = options(&pair.destination.client(), "short_ring").await?;
    ensure!(relaxed.get_i64("size").ok() == Some(1 << 50), "{relaxed}");
    ensure!(!relaxed.contains_key("max"), "{relaxed}");
    app.run_command(doc! { "collMod": "ring", "cappedSize": 2 * RING_BYTES }).await?;
    app.run_command(doc! { "collMod": "short_ring", "cappedMax": 70 }).await?;
    writer.more(1_000).await?;
    writer.stop().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    let restored = options(&pair.destination.client(), "short_ring").await?;
    ensure!(restored == options(&client, "short_ring").await?, "{restored}");
    ensure!(stored(&client, "ring").await? == stored(&pair.destination.client(), "ring").await?);
    Ok(())
}

#[tokio::test]
async fn a_capped_collection_that_wraps_around_during_the_copy_arrives() -> Result<()> {
    wrap_around(Phase::Copy).await
}

#[tokio::test]
async fn a_capped_collection_that_wraps_around_during_the_stream_arrives() -> Result<()> {
    wrap_around(Phase::Stream).await
}

#[tokio::test]
async fn natural_order_is_kept_across_a_restart() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let mut random = Random::new(3);
    let scattered: Vec<Document> = (0..8_000)
        .map(|n| doc! { "_id": random.word(12), "n": n, "text": "y".repeat(1_000) })
        .collect();
    client.database("app").collection("scattered").insert_many(scattered).await?;
    let mut daemon = pair.daemon().await?;
    let slow = pair.slow_copy().await?;
    daemon.start_with(json!({ "copyInNaturalOrder": [{ "database": "app" }] })).await?;
    wait_info(&daemon, "collection copy").await?;
    let copied = pair.destination.client().database("app").collection::<Document>("scattered");
    eventually("a part of the copy", LONG, async || match copied.count_documents(doc! {}).await {
        Ok(count) if count > 0 => Ok(()),
        other => Err(other),
    })
    .await?;
    daemon.kill();
    drop(slow);
    daemon.launch().await?;
    daemon.wait_can_commit(LONG).await?;
    let progress = daemon.progress().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    let (from, to) = (
        stored(&client, "scattered").await?,
        stored(&pair.destination.client(), "scattered").await?,
    );
    ensure!(from == to, "another order: {progress}");
    Ok(())
}

#[tokio::test]
async fn indexes_of_many_collections_are_built_in_batches() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let app = client.database("app");
    for number in 0..12 {
        let name = format!("c{number}");
        let documents = (0..50).map(|n| doc! { "_id": n, "a": n, "b": n, "c": n });
        app.collection(&name).insert_many(documents).await?;
        let indexes: Vec<Document> = ["a", "b", "c", "d", "e"]
            .map(|field| doc! { "key": { field: 1 }, "name": field, "unique": field == "a" })
            .to_vec();
        app.run_command(doc! { "createIndexes": name, "indexes": indexes }).await?;
    }
    let config = pair.config().with("createIndexesBatchSize", 3);
    let daemon = syncline_tests::daemon::Daemon::start(config).await?;
    daemon.start_sync().await?;
    let ready = daemon.wait_can_commit(LONG).await?;
    let building = &ready["indexBuilding"];
    ensure!(building["collectionsFinished"] == 12, "{building}");
    ensure!(building["indexesBuilt"] == 60 && building["totalIndexesToBuild"] == 60, "{building}");
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn what_a_clustered_collection_gets_twice_is_there_once_whatever_the_id() -> Result<()> {
    let pair = Pair::start().await?;
    let database = pair.source.client().database("app");
    let clustered = doc! { "key": { "_id": 1 }, "unique": true };
    database.run_command(doc! { "create": "clustered", "clusteredIndex": clustered }).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.terminate().await?;
    let metadata = pair.destination.client().database(METADATA);
    let records = metadata.collection::<Document>("sync");
    let before = records.find_one(doc! {}).await?.context("no record of the sync")?;
    daemon.launch().await?;
    let fraction: Decimal128 = "1.1".parse()?;
    let documents = [
        Bson::from(2.5),
        Bson::from(0.1),
        Bson::from(-2.5),
        Bson::from(1e300),
        Bson::from(f64::NAN),
        Bson::from(fraction),
        Bson::from(doc! { "part": 2.5 }),
        Bson::from(7),
    ]
    .map(|id| doc! { "_id": id, "n": 1 });
    database.collection("clustered").insert_many(documents).await?;
    pair.wait_applied(&daemon).await?;
    daemon.terminate().await?;
    // As if the position had never been saved again: the documents come a second time.
    records.replace_one(doc! { "_id": before.get("_id") }, before.clone()).await?;
    daemon.launch().await?;
    pair.wait_applied(&daemon).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
