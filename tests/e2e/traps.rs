//! Faults that other synchronisers have had, each as a test. `DEVELOPMENT.md` has the whole table; what
//! another area tests already is not repeated here.

use anyhow::Result;
use mongodb::bson::{Document, doc};
use serde_json::json;
use syncline_tests::{
    cluster::Options,
    daemon::Daemon,
    eventually::eventually,
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase, wait_info};

#[tokio::test]
async fn a_secondary_that_lags_is_not_read() -> Result<()> {
    let pair = Pair::start_with(Options::three(), Options::single()).await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 500, 1).await?;
    // One secondary does not get on from here; the other two are a majority.
    let primary = pair.source.wait_writable().await?;
    let lagging = &pair.source.servers()[(primary + 1) % 3];
    let stop = doc! { "configureFailPoint": "rsSyncApplyStop", "mode": "alwaysOn" };
    lagging.admin(None, stop).await?;
    let items = client.database("live").collection::<Document>("alpha");
    items.delete_many(doc! {}).await?;
    workload::seed(&client, "live", "alpha", 900, 2).await?;
    // Nobody can ask for it.
    let mut config = pair.config();
    config.set("cluster0", format!("{}&readPreference=secondary", pair.source.uri()));
    let refused = Daemon::run_to_end(config).await?;
    assert!(refused.output.contains("SYNC-1002"), "{}", refused.output);
    assert!(refused.output.contains("read preference must be primary"), "{}", refused.output);

    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    items.update_many(doc! {}, doc! { "$set": { "seen": true } }).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    // All the while there was something old to be read.
    let old = lagging.direct_client(None)?.database("live").collection::<Document>("alpha");
    let options = mongodb::options::SelectionCriteria::ReadPreference(
        mongodb::options::ReadPreference::SecondaryPreferred { options: None },
    );
    assert_eq!(old.count_documents(doc! {}).selection_criteria(options).await?, 500);
    Ok(())
}

#[tokio::test]
async fn an_unmet_write_concern_among_duplicates_loses_no_document() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 3000, 1).await?;
    let daemon = pair.daemon().await?;
    // Every document is written, but the answer says that a majority does not have it; sent again, all
    // of them are duplicates.
    let data = doc! { "failCommands": ["insert", "update", "delete"], "namespace": "app.items",
    "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } };
    let unmet =
        pair.destination.fail_point("failCommand", doc! { "times": 3 }, data.clone()).await?;
    pair.begin(&daemon, Phase::Stream).await?;
    drop(unmet);
    let unmet = pair.destination.fail_point("failCommand", doc! { "times": 5 }, data).await?;
    let live = Workload::start(
        &client,
        &Plan { collections: vec!["items".to_owned()], ..Plan::new(4, "app") },
    );
    live.writes(300).await?;
    live.stop().await?;
    pair.wait_applied(&daemon).await?;
    drop(unmet);
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_capped_collection_may_overtake_its_scan() -> Result<()> {
    let pair = Pair::start().await?;
    let database = pair.source.client().database("app");
    database.run_command(doc! { "create": "ring", "capped": true, "size": 1 << 20 }).await?;
    let ring = database.collection::<Document>("ring");
    let text = "r".repeat(1000);
    let fill = async |first: i32| {
        let batch = (first..first + 1200).map(|n| doc! { "_id": n, "text": &text });
        ring.insert_many(batch).await
    };
    fill(0).await?;
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, Phase::Copy).await?;
    // An insert is held back on the destination; what the scan would read next is gone when it ends.
    for round in 1..4 {
        fill(round * 1200).await?;
    }
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    fill(30_000).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_lost_place_in_the_oplog_has_a_name() -> Result<()> {
    // The smallest oplog there is: 16 MB, cut at once.
    let small =
        Options::single().with_oplog(16).with_parameter("minSnapshotHistoryWindowInSeconds", "0");
    let pair = Pair::start_with(small, Options::single()).await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 200, 1).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.command("pause").await?;
    daemon.wait_state("PAUSED", LONG).await?;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let oldest = async || -> Result<mongodb::bson::Timestamp> {
        let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await?.unwrap_or_default();
        Ok(first.get_timestamp("ts")?)
    };
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
    let paused_at = hello.get_document("lastWrite")?.get_document("opTime")?.get_timestamp("ts")?;
    let filler = client.database("app").collection::<Document>("filler");
    let text = "o".repeat(2 << 20);
    eventually("the oplog to forget the sync's place", LONG, || async {
        for number in 0..10 {
            let change = doc! { "$set": { "text": &text } };
            let id = doc! { "_id": number };
            drop(filler.update_one(id.clone(), change).upsert(true).await);
            drop(filler.delete_one(id).await);
        }
        match oldest().await {
            Ok(time) if time > paused_at => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    daemon.command("resume").await?;
    let status = daemon.wait(LONG).await?;
    let output = daemon.output_tail();
    assert!(output.contains("OplogPositionLost"), "{output}");
    assert_ne!(status.code(), Some(0), "{output}");
    Ok(())
}

#[tokio::test]
async fn commands_and_signals_in_quick_succession_do_no_harm() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "live", "alpha", 3000, 1).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    // Right after the start, and again and again.
    for command in ["resume", "pause", "resume", "pause", "pause", "resume", "start", "commit"] {
        let answer = daemon.post(command, &json!({})).await?;
        assert!(answer.status == 200 || answer.status == 409 || answer.status == 400, "{answer:?}");
    }
    let pid = daemon.pid().expect("it runs").to_string();
    for _ in 0..2 {
        std::process::Command::new("kill").args(["-TERM", &pid]).status()?;
    }
    daemon.wait(LONG).await?;
    assert!(!daemon.output().contains("panicked"), "{}", daemon.output_tail());
    daemon.launch().await?;
    let state = daemon.progress().await?["state"].clone();
    if state == "PAUSED" {
        daemon.command("resume").await?;
    }
    wait_info(&daemon, "change event application").await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_filter_that_only_excludes_leaves_out_no_whole_database() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for name in ["kept", "left"] {
        workload::seed(&client, "app", name, 100, 1).await?;
    }
    workload::seed(&client, "other", "kept", 100, 2).await?;
    let daemon = pair.daemon().await?;
    let left = json!([{ "database": "app", "collections": ["left"] }]);
    daemon.start_with(json!({ "excludeNamespaces": left })).await?;
    daemon.wait_can_commit(LONG).await?;
    workload::seed(&client, "app", "later", 50, 3).await?;
    daemon.commit(LONG).await?;
    let comparison = syncline_tests::compare::Comparison::new().only(|name| name != "app.left");
    pair.check(comparison).await?;
    let names = pair.destination.client().database("app").list_collection_names().await?;
    assert!(!names.contains(&"left".to_owned()), "{names:?}");
    Ok(())
}

#[tokio::test]
async fn a_conversion_to_capped_is_refused_by_name() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 100, 1).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    // The server tells of the new collection and its name, but not of the documents in it.
    let command = doc! { "convertToCapped": "items", "size": 1 << 20 };
    client.database("app").run_command(command).await?;
    daemon.wait(LONG).await?;
    let output = daemon.output_tail();
    assert!(output.contains("UnsupportedOperation"), "{output}");
    assert!(output.contains("convertToCapped"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_collection_with_queryable_encryption_that_comes_later_is_refused_by_name() -> Result<()>
{
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 50, 1).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    let key = mongodb::bson::Uuid::new();
    let field = doc! { "path": "secret", "bsonType": "string", "keyId": key };
    let encrypted = doc! { "create": "vault", "encryptedFields": { "fields": [field] } };
    client.database("app").run_command(encrypted).await?;
    daemon.wait(LONG).await?;
    let output = daemon.output_tail();
    assert!(output.contains("UnsupportedOperation"), "{output}");
    assert!(output.contains("app.vault") && output.contains("queryable encryption"), "{output}");
    Ok(())
}
