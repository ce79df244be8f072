//! Index builds beside the stream: neither holds the other up, and neither stumbles over the other.

use std::time::Duration;

use anyhow::Result;
use futures_util::TryStreamExt;
use mongodb::{
    Client,
    bson::{DateTime, Document, doc},
};
use serde_json::json;
use syncline_tests::{
    cluster::{FailPoint, ReplicaSet},
    workload,
};

use super::support::{LONG, Pair, Phase, index, wait_info, wait_under_way};

/// Holds every index build of a cluster at its beginning.
async fn hold_builds(cluster: &ReplicaSet) -> Result<FailPoint> {
    cluster.fail_point("hangAfterStartingIndexBuild", "alwaysOn", doc! {}).await
}

/// Whether a cluster is building an index of `app`.
async fn wait_building(client: &Client) -> Result<()> {
    let building = doc! { "msg": { "$regex": "^Index Build" } };
    wait_under_way(client, "an index build", building).await
}

#[tokio::test]
async fn documents_newer_than_the_drop_of_an_index_set_it_aside() -> Result<()> {
    let pair = Pair::start().await?;
    let app = pair.source.client().database("app");
    let places = app.collection::<Document>("places");
    let good = || doc! { "loc": [1.0, 2.0], "flat": [1.0, 2.0], "hash": 1, "a": 1, "b": 1 };
    let documents = (0..500).map(|n| {
        let mut document = doc! { "_id": n };
        document.extend(good());
        document
    });
    places.insert_many(documents).await?;
    let specs = || {
        vec![
            doc! { "key": { "loc": "2dsphere" }, "name": "loc" },
            doc! { "key": { "flat": "2d" }, "name": "flat" },
            doc! { "key": { "hash": "hashed" }, "name": "hash" },
            doc! { "key": { "a": 1, "b": 1 }, "name": "ab" },
            doc! { "key": { "a": 1 }, "name": "plain" },
        ]
    };
    app.run_command(doc! { "createIndexes": "places", "indexes": specs() }).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.command("pause").await?;
    // The first change is fetched as the document is now, while its indexes are still there.
    places.update_many(doc! {}, doc! { "$set": { "touched": true } }).await?;
    let names = ["loc", "flat", "hash", "ab"];
    app.run_command(doc! { "dropIndexes": "places", "index": names.to_vec() }).await?;
    for (id, field, value) in [
        (1, "loc", doc! { "value": "nowhere" }),
        (2, "flat", doc! { "value": [1000, 1000] }),
        (3, "hash", doc! { "value": [1, 2] }),
    ] {
        let value = value.get("value").cloned();
        places.update_one(doc! { "_id": id }, doc! { "$set": { field: value } }).await?;
    }
    let arrays = doc! { "$set": { "a": [1, 2], "b": [3, 4] } };
    places.update_one(doc! { "_id": 4 }, arrays).await?;
    places.insert_one(doc! { "_id": "new", "loc": "nowhere", "hash": [1] }).await?;
    daemon.command("resume").await?;
    pair.wait_applied(&daemon).await?;
    assert!(daemon.output().contains("set aside"), "{}", daemon.output_tail());

    // And again with indexes that come back once the documents fit.
    daemon.command("pause").await?;
    places.update_many(doc! {}, doc! { "$set": { "touched": false } }).await?;
    places.delete_one(doc! { "_id": "new" }).await?;
    places.update_many(doc! {}, doc! { "$set": good() }).await?;
    let mut specs = specs();
    specs.truncate(4);
    app.run_command(doc! { "createIndexes": "places", "indexes": specs }).await?;
    daemon.command("resume").await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn the_stream_goes_on_while_indexes_are_built() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let app = client.database("app");
    workload::seed(&client, "app", "large", 2000, 1).await?;
    workload::seed(&client, "app", "other", 100, 2).await?;
    workload::seed(&client, "excluded", "items", 10, 3).await?;
    let spec = |name: &str| doc! { "key": { name: 1 }, "name": name };
    app.run_command(
        doc! { "createIndexes": "large", "indexes": [spec("f1"), spec("f2"), spec("f3")] },
    )
    .await?;
    let held = hold_builds(&pair.destination).await?;
    let daemon = pair.daemon().await?;
    daemon.start_with(json!({ "includeNamespaces": [{ "database": "app" }] })).await?;
    wait_info(&daemon, "change event application").await?;
    wait_building(&pair.destination.client()).await?;

    // Others' collections, documents, new and changed collections, new indexes.
    client.database("excluded").collection::<Document>("items").drop().await?;
    client.database("excluded").create_collection("new").await?;
    app.collection("large").insert_one(doc! { "_id": "during" }).await?;
    app.create_collection("later").await?;
    app.collection("later").insert_one(doc! { "_id": 1 }).await?;
    app.run_command(doc! { "createIndexes": "other", "indexes": [spec("f4")] }).await?;
    app.run_command(doc! { "collMod": "other", "validator": { "x": { "$ne": 1 } } }).await?;
    pair.wait_applied(&daemon).await?;
    let progress = daemon.progress().await?;
    assert_eq!(progress["canCommit"], false, "indexes are missing: {progress}");

    // What changes the collection itself ends its builds, which begin again.
    wait_building(&pair.destination.client()).await?;
    let rename = doc! { "renameCollection": "app.large", "to": "app.huge" };
    client.database("admin").run_command(rename).await?;
    app.run_command(doc! { "dropIndexes": "huge", "index": "f2" }).await?;
    app.run_command(doc! { "collMod": "huge", "validator": { "y": { "$ne": 1 } } }).await?;
    drop(held);
    pair.wait_applied(&daemon).await?;
    daemon.commit(LONG).await?;
    let report =
        pair.check(syncline_tests::compare::Comparison::new().ignoring("excluded")).await?;
    println!("{report}");
    index(&pair.destination.client(), "app", "huge", "f1").await?;
    Ok(())
}

#[tokio::test]
async fn a_build_that_is_only_on_its_way_does_not_come_after_the_event_that_ends_it() -> Result<()>
{
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let app = client.database("app");
    for name in ["renamed", "dropped", "kept"] {
        app.collection(name).insert_one(doc! { "_id": 1, "x": 1 }).await?;
    }
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    // The server has the command and does nothing about it yet.
    let data =
        doc! { "failCommands": ["createIndexes"], "blockConnection": true, "blockTimeMS": 3000 };
    let held = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    for name in ["renamed", "dropped", "kept"] {
        let spec = doc! { "key": { "x": 1 }, "name": "x" };
        app.run_command(doc! { "createIndexes": name, "indexes": [spec] }).await?;
    }
    let waiting = doc! { "command.createIndexes": { "$in": ["renamed", "dropped", "kept"] } };
    wait_under_way(&pair.destination.client(), "createIndexes", waiting).await?;
    let rename = doc! { "renameCollection": "app.renamed", "to": "app.arrived" };
    client.database("admin").run_command(rename).await?;
    app.collection::<Document>("dropped").drop().await?;
    app.run_command(doc! { "dropIndexes": "kept", "index": "x" }).await?;
    pair.wait_applied(&daemon).await?;
    drop(held);
    // Longer than the server waits with the commands that it has.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn an_index_that_the_source_is_still_building_comes_when_it_is_built() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for collection in ["given_up", "finished"] {
        workload::seed(&client, "app", collection, 200, 1).await?;
    }
    let app = client.database("app");
    let held = hold_builds(&pair.source).await?;
    let spec = doc! { "key": { "f1": 1, "_id": 1 }, "name": "slow", "unique": true };
    let mut building = tokio::task::JoinSet::new();
    for collection in ["given_up", "finished"] {
        let command = doc! { "createIndexes": collection, "indexes": [spec.clone()] };
        let app = app.clone();
        building.spawn(async move { app.run_command(command).await });
    }
    wait_building(&client).await?;
    let daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    let there = pair.destination.client().database("app");
    for collection in ["given_up", "finished"] {
        let names = there.collection::<Document>(collection).list_index_names().await?;
        assert_eq!(names, ["_id_"], "{collection}");
    }
    let giving_up = app.run_command(doc! { "dropIndexes": "given_up", "index": "slow" });
    let (given_up, ()) = tokio::join!(giving_up, async { drop(held) });
    given_up?;
    // One of them is ended by that.
    while building.join_next().await.is_some() {}
    pair.wait_applied(&daemon).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_clustered_collection_expires_nothing_by_itself_during_the_sync() -> Result<()> {
    let pair = Pair::start().await?;
    let app = pair.source.client().database("app");
    let clustered = doc! { "key": { "_id": 1 }, "unique": true };
    for name in ["stays", "changes", "ends"] {
        let create =
            doc! { "create": name, "clusteredIndex": &clustered, "expireAfterSeconds": 86_400 };
        app.run_command(create).await?;
        let old = DateTime::from_millis(DateTime::now().timestamp_millis() - 3_600_000);
        app.collection(name).insert_one(doc! { "_id": old }).await?;
    }
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    let there = pair.destination.client().database("app");
    let seconds = async |name: &str| -> Result<Option<i64>> {
        let found = there.list_collections().filter(doc! { "name": name }).await?;
        let found: Vec<_> = found.try_collect().await?;
        let options = mongodb::bson::serialize_to_document(&found.first().map(|c| &c.options))?;
        Ok(options
            .get("expireAfterSeconds")
            .and_then(|seconds| seconds.as_i64().or_else(|| seconds.as_i32().map(i64::from))))
    };
    app.run_command(doc! { "collMod": "changes", "expireAfterSeconds": 43_200 }).await?;
    app.run_command(doc! { "collMod": "ends", "expireAfterSeconds": "off" }).await?;
    pair.wait_applied(&daemon).await?;
    for name in ["stays", "changes", "ends"] {
        assert_eq!(seconds(name).await?, None, "{name} during the sync");
    }
    daemon.commit(LONG).await?;
    assert_eq!(seconds("stays").await?, Some(86_400));
    assert_eq!(seconds("changes").await?, Some(43_200));
    assert_eq!(seconds("ends").await?, None);
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_does_not_wait_for_a_source_that_is_gone() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 20_000, 1).await?;
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, Phase::Copy).await?;
    for server in pair.source.servers() {
        server.freeze(true)?;
    }
    drop(slow);
    let paused = tokio::time::timeout(Duration::from_secs(150), daemon.command("pause")).await;
    for server in pair.source.servers() {
        server.freeze(false)?;
    }
    paused??;
    daemon.wait_state("PAUSED", LONG).await?;
    client
        .database("app")
        .collection::<Document>("items")
        .delete_many(doc! { "_id": { "$lt": 100 } })
        .await?;
    daemon.command("resume").await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_that_gives_a_write_up_waits_for_what_the_server_does_of_it() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 100, 1).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.wait_can_commit(LONG).await?;
    let data = doc! {
        "failCommands": ["insert"], "namespace": "app.items", "blockConnection": true, "blockTimeMS": 23_000,
    };
    let held = pair.destination.fail_point("failCommand", doc! { "times": 1 }, data).await?;
    let items = client.database("app").collection::<Document>("items");
    items.insert_one(doc! { "_id": "late", "text": "old" }).await?;
    let inserting = doc! { "command.insert": "items", "ns": "app.$cmd" };
    wait_under_way(&pair.destination.client(), "an insert on the server", inserting).await?;
    daemon.command("pause").await?;
    assert!(daemon.output().contains("what is under way is given up"), "{}", daemon.output_tail());
    drop(held);
    // Had it not been waited for, it could land after this.
    items.delete_one(doc! { "_id": "late" }).await?;
    daemon.command("resume").await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
