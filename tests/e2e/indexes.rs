//! Which indexes are built when, and how the unique ones become unique.

use std::collections::BTreeSet;

use anyhow::Result;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use serde_json::json;
use syncline_tests::{daemon::Daemon, workload};

use super::support::{LONG, Pair, index, wait_info};

/// Names of the indexes of a collection.
async fn names(client: &Client, collection: &str) -> Result<BTreeSet<String>> {
    let collection = client.database("app").collection::<Document>(collection);
    Ok(collection.list_index_names().await?.into_iter().collect())
}

/// Creates an index on the source.
async fn create(client: &Client, spec: Document) -> Result<()> {
    let command = doc! { "createIndexes": "items", "indexes": [spec] };
    client.database("app").run_command(command).await?;
    Ok(())
}

/// A sync in one mode, with indexes made and dropped in both phases; what is there at its end.
async fn in_mode(mode: &str, before_the_copy: bool, expected: &[&str]) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 3000, 1).await?;
    for spec in [
        doc! { "key": { "f1": 1 }, "name": "plain" },
        doc! { "key": { "_id": "hashed" }, "name": "hashed" },
        doc! { "key": { "_id": 1, "f1": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "f2": 1 }, "name": "gone" },
        doc! { "key": { "f3": 1 }, "name": "gone too" },
    ] {
        create(&client, spec).await?;
    }
    let daemon = pair.daemon().await?;
    let slow = pair.slow_copy().await?;
    daemon.start_with(json!({ "buildIndexes": mode })).await?;
    wait_info(&daemon, "collection copy").await?;
    let there = pair.destination.client();
    let early = names(&there, "items").await?;
    assert_eq!(early.contains("plain"), before_the_copy, "{mode}: {early:?}");
    let app = client.database("app");
    create(&client, doc! { "key": { "f4": 1 }, "name": "in the copy" }).await?;
    app.run_command(doc! { "dropIndexes": "items", "index": "gone" }).await?;
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    create(&client, doc! { "key": { "f5": 1 }, "name": "in the stream" }).await?;
    create(&client, doc! { "key": { "nowhere": "hashed" }, "name": "hashed later" }).await?;
    app.run_command(doc! { "dropIndexes": "items", "index": "gone too" }).await?;
    app.run_command(doc! { "collMod": "items", "index": { "name": "plain", "hidden": true } })
        .await?;
    daemon.commit(LONG).await?;
    let expected: BTreeSet<String> =
        expected.iter().chain(&["_id_"]).map(|name| (*name).to_owned()).collect();
    assert_eq!(names(&there, "items").await?, expected, "{mode}");
    if expected.contains("unique") {
        assert!(index(&there, "app", "items", "unique").await?.get_bool("unique")?);
        assert!(index(&there, "app", "items", "plain").await?.get_bool("hidden")?);
    }
    Ok(())
}

#[tokio::test]
async fn each_mode_builds_its_indexes_at_its_time() -> Result<()> {
    let plain = ["plain", "unique", "in the copy", "in the stream"];
    let mut all = plain.to_vec();
    all.extend(["hashed", "hashed later"]);
    in_mode("afterDataCopy", false, &all).await?;
    in_mode("beforeDataCopy", true, &all).await?;
    in_mode("excludeHashedAfterCopy", false, &plain).await?;
    in_mode("excludeHashed", true, &plain).await?;
    in_mode("never", false, &[]).await
}

/// Waits until the commit has failed, and returns what the API says of it.
async fn failure(daemon: &Daemon) -> Result<String> {
    let progress =
        daemon.wait_for("the failure", LONG, |progress| !progress["failure"].is_null()).await?;
    assert_eq!(progress["failure"]["code"], "SYNC-1404", "{progress}");
    assert_eq!(progress["state"], "COMMITTING", "{progress}");
    Ok(progress["failure"]["errorDescription"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn duplicates_are_told_with_their_ids_and_the_commit_can_be_repeated() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for name in ["items", "others"] {
        let documents = (0..20_i32).map(|n| doc! { "_id": n, "u": n });
        client.database("app").collection(name).insert_many(documents).await?;
        let spec = doc! { "key": { "u": 1 }, "name": "u", "unique": true };
        let command = doc! { "createIndexes": name, "indexes": [spec] };
        client.database("app").run_command(command).await?;
    }
    let mut daemon = pair.daemon().await?;
    daemon.start_with(json!({ "verification": { "enabled": false } })).await?;
    daemon.wait_can_commit(LONG).await?;
    let there = pair.destination.client().database("app");
    let items = there.collection::<Document>("items");
    items.insert_one(doc! { "_id": "planted", "u": 7 }).await?;
    daemon.command("commit").await?;
    let told = failure(&daemon).await?;
    for expected in ["app.items", "index u", "planted", "\"$numberInt\":\"7\""] {
        assert!(told.contains(expected), "{expected} not in {told}");
    }
    assert!(!told.contains("others"), "{told}");
    // The others are unique already; where the duplicate is, there come no more.
    assert!(index(&pair.destination.client(), "app", "others", "u").await?.get_bool("unique")?);
    let third = items.insert_one(doc! { "u": 7 }).await;
    assert!(third.unwrap_err().to_string().contains("E11000"));

    // Again without having removed it, then from a new process, then with success.
    daemon.command("commit").await?;
    failure(&daemon).await?;
    daemon.kill();
    daemon.launch().await?;
    failure(&daemon).await?;
    items.delete_one(doc! { "_id": "planted" }).await?;
    daemon.command("commit").await?;
    daemon.wait_state("COMMITTED", LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn hot_documents_are_fetched_at_the_commit() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let app = client.database("app");
    let items = app.collection::<Document>("items");
    items.insert_many((0..20_i32).map(|n| doc! { "_id": n, "hits": 0 })).await?;
    let moving = app.collection::<Document>("moving");
    moving.insert_one(doc! { "_id": "x", "hits": 0 }).await?;
    let hot = |ids: serde_json::Value| {
        json!([{ "db": "app", "collection": "items", "ids": ids },
            { "db": "app", "collection": "moving", "ids": [{ "_id": "x" }] }])
    };
    let first = hot(json!([{ "_id": { "$numberInt": "1" } }]));
    let mut daemon = Daemon::start(pair.config().with("hotDocIDs", first)).await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    let hit = async |n: i32| -> Result<()> {
        items.update_one(doc! { "_id": n }, doc! { "$inc": { "hits": 1 } }).await?;
        Ok(())
    };
    hit(1).await?;
    hit(2).await?;
    moving.update_one(doc! {}, doc! { "$inc": { "hits": 1 } }).await?;
    pair.wait_applied(&daemon).await?;
    let there = pair.destination.client().database("app");
    let hits = async |name: &str, filter: Document| -> Result<i32> {
        let found = there.collection::<Document>(name).find_one(filter).await?;
        Ok(found.map_or(-1, |found| found.get_i32("hits").unwrap_or(-2)))
    };
    assert_eq!(hits("items", doc! { "_id": 1 }).await?, 0, "skipped");
    assert_eq!(hits("items", doc! { "_id": 2 }).await?, 1);
    assert_eq!(hits("moving", doc! {}).await?, 0, "skipped");
    // Under a new name nobody asks for it, so it is fetched before.
    client
        .database("admin")
        .run_command(doc! { "renameCollection": "app.moving", "to": "app.moved" })
        .await?;
    pair.wait_applied(&daemon).await?;
    assert_eq!(hits("moved", doc! {}).await?, 1);

    // A restart may add documents, not forget them.
    daemon.kill();
    let config = daemon.config_mut();
    config.set("hotDocIDs", hot(json!([{ "_id": { "$numberInt": "3" } }])));
    assert!(daemon.launch().await.is_err());
    assert!(daemon.output().contains("SYNC-1406"), "{}", daemon.output_tail());
    let both = hot(json!([{ "_id": { "$numberInt": "1" } }, { "_id": { "$numberInt": "3" } }]));
    daemon.config_mut().set("hotDocIDs", both);
    daemon.launch().await?;
    daemon.wait_can_commit(LONG).await?;
    hit(3).await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    pair.wait_applied(&daemon).await?;
    assert_eq!(hits("items", doc! { "_id": 3 }).await?, 0, "skipped");
    assert_eq!(hits("items", doc! { "_id": 1 }).await?, 0, "skipped");
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
