//! Write blocks: who is kept from writing, where and until when.

use anyhow::Result;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use serde_json::json;
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    daemon::{Config, Daemon},
    eventually::eventually,
    workload,
};

use super::support::{LONG, Pair};

/// Whether user writes are blocked on a cluster.
pub async fn is_blocked(client: &Client) -> Result<bool> {
    let status =
        client.database("admin").run_command(doc! { "serverStatus": 1, "repl": 1 }).await?;
    Ok(match status.get_document("repl")?.get("userWriteBlockMode") {
        Some(Bson::Int32(mode)) => *mode == 2,
        Some(Bson::Int64(mode)) => *mode == 2,
        _ => false,
    })
}

/// Two clusters with users, and some documents.
async fn guarded() -> Result<Pair> {
    let auth = || Options::single().with_auth();
    let pair = Pair::start_with(auth(), auth()).await?;
    workload::seed(&pair.source.client(), "app", "items", 200, 1).await?;
    Ok(pair)
}

/// A client of an ordinary user, who must obey a block.
async fn ordinary(set: &ReplicaSet) -> Result<Client> {
    set.create_user("app", "pw", &["readWriteAnyDatabase"]).await?;
    Ok(Client::with_uri_str(set.uri_as("app", "pw")).await?)
}

/// Whether a user can write.
async fn can_write(client: &Client) -> Result<bool> {
    let probe = client.database("probe").collection::<Document>("writes");
    match probe.insert_one(doc! {}).await {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains("User writes blocked") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Warnings of the progress.
async fn warnings(daemon: &Daemon) -> Result<String> {
    Ok(daemon.progress().await?["warnings"].to_string())
}

#[tokio::test]
async fn both_sides_are_blocked_when_their_time_comes() -> Result<()> {
    let pair = guarded().await?;
    let (here, there) = (ordinary(&pair.source).await?, ordinary(&pair.destination).await?);
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(!can_write(&there).await?, "the destination belongs to the sync");
    assert!(can_write(&here).await?, "the source is the application's until the commit");
    // The next process knows whose block it is.
    daemon.kill();
    assert!(!can_write(&there).await?);
    daemon.launch().await?;
    daemon.commit(LONG).await?;
    assert!(can_write(&there).await?, "handed over");
    assert!(!can_write(&here).await?, "the source is the past");
    assert!(warnings(&daemon).await?.contains("user writes on the source are blocked"));
    Ok(())
}

#[tokio::test]
async fn a_filtered_sync_leaves_the_source_free() -> Result<()> {
    let pair = guarded().await?;
    let daemon = pair.daemon().await?;
    daemon.start_with(json!({ "includeNamespaces": [{ "database": "app" }] })).await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(is_blocked(&pair.destination.client()).await?);
    daemon.commit(LONG).await?;
    assert!(!is_blocked(&pair.destination.client()).await?);
    assert!(!is_blocked(&pair.source.client()).await?);
    Ok(())
}

#[tokio::test]
async fn beside_other_data_nothing_is_blocked_and_an_option_overrides_the_table() -> Result<()> {
    let pair = guarded().await?;
    let mut daemon = pair.daemon().await?;
    daemon
        .start_with(json!({ "includeNamespaces": [{ "database": "app" }],
            "preExistingDestinationData": true }))
        .await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(!is_blocked(&pair.destination.client()).await?);
    daemon.commit(LONG).await?;
    daemon.terminate().await?;

    let back = guarded().await?;
    let daemon = back.daemon().await?;
    daemon.start_with(json!({ "enableUserWriteBlocking": "none" })).await?;
    daemon.commit(LONG).await?;
    assert!(!is_blocked(&back.source.client()).await?);
    Ok(())
}

#[tokio::test]
async fn without_users_a_warning_says_that_nothing_is_blocked() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    let daemon = pair.daemon().await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1",
        "enableUserWriteBlocking": "sourceAndDestination" });
    let refused = daemon.post("start", &body).await?;
    assert_eq!((refused.status, refused.error()), (400, "StartOptionsInvalid"), "{refused:?}");
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    let shown = warnings(&daemon).await?;
    assert!(shown.contains("on the source cannot be blocked"), "{shown}");
    assert!(shown.contains("on the destination cannot be blocked"), "{shown}");
    assert!(daemon.output().contains("cannot be blocked"), "the log says so, too");
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_privilege_is_named() -> Result<()> {
    let pair = guarded().await?;
    let roles = ["clusterMonitor", "clusterManager", "readWriteAnyDatabase", "restore", "backup"];
    pair.destination.create_user("sync", "pw", &roles[..3]).await?;
    let config = Config::new(&pair.source.uri(), &pair.destination.uri_as("sync", "pw"));
    let daemon = Daemon::start(config).await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1" });
    let refused = daemon.post("start", &body).await?;
    assert_eq!(refused.error(), "PermissionDenied", "{refused:?}");
    let text = refused.body["errorDescription"].as_str().unwrap_or_default();
    assert!(text.contains("destination") && text.contains("bypassWriteBlockingMode"), "{text}");
    assert_eq!(daemon.progress().await?["state"], "IDLE");
    assert!(!is_blocked(&pair.destination.client()).await?);
    Ok(())
}

#[tokio::test]
async fn a_block_that_was_there_before_stays() -> Result<()> {
    let pair = guarded().await?;
    let admin = pair.destination.client().database("admin");
    admin.run_command(doc! { "setUserWriteBlockMode": 1, "global": true }).await?;
    let daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.commit(LONG).await?;
    assert!(is_blocked(&pair.destination.client()).await?, "it is not ours to lift");
    let shown = warnings(&daemon).await?;
    assert!(shown.contains("on the destination were blocked before"), "{shown}");
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_failure_lifts_the_block_of_the_destination() -> Result<()> {
    let pair = guarded().await?;
    let client = pair.source.client();
    let mut daemon = pair.daemon().await?;
    let filter = json!([{ "database": "app", "collections": ["items"] }]);
    daemon.start_with(json!({ "includeNamespaces": filter })).await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(is_blocked(&pair.destination.client()).await?);
    let outside = doc! { "renameCollection": "app.items", "to": "app.outside" };
    client.database("admin").run_command(outside).await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1801"), "{}", daemon.output_tail());
    assert!(!is_blocked(&pair.destination.client()).await?);
    assert!(!is_blocked(&client).await?);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_meets_a_difference_gives_the_source_back() -> Result<()> {
    let pair = guarded().await?;
    let (here, there) = (ordinary(&pair.source).await?, pair.destination.client().database("app"));
    let spec = doc! { "key": { "n": 1 }, "name": "n" };
    let create = doc! { "createIndexes": "items", "indexes": [spec] };
    pair.source.client().database("app").run_command(create.clone()).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    // Only the commit sees it: a look at the indexes takes longer than to ask for the commit.
    let data = doc! { "failCommands": ["listCollections"], "blockConnection": true,
    "blockTimeMS": 3_000 };
    let slow = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    there.run_command(doc! { "dropIndexes": "items", "index": "n" }).await?;
    daemon.command("commit").await?;
    let failed = daemon
        .wait_for("the commit to fail", LONG, |progress| {
            progress["failure"]["code"] == "SYNC-1610" && progress["state"] == "RUNNING"
        })
        .await?;
    assert_eq!(failed["canWrite"], false, "{failed}");
    drop(slow);
    assert!(can_write(&here).await?, "the application goes on");
    assert!(is_blocked(&pair.destination.client()).await?, "and so does the sync");
    daemon
        .wait_for("the mismatch to be listed", LONG, |progress| {
            progress["verification"]["mismatchesByKind"] == json!({ "index": 1 })
        })
        .await?;
    let early = daemon.post("commit", &json!({})).await?;
    assert_eq!((early.status, early.error()), (409, "CannotCommitYet"), "{early:?}");
    daemon.kill();
    daemon.launch().await?;
    assert_eq!(daemon.progress().await?["state"], "RUNNING");
    assert!(can_write(&here).await?);
    there.run_command(create).await?;
    daemon.commit(LONG).await?;
    assert!(!can_write(&here).await?);
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_commit_that_goes_on_after_a_failure_blocks_the_destination_again() -> Result<()> {
    let pair = guarded().await?;
    let (here, there) = (pair.source.client(), pair.destination.client());
    let ttl = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 7_200 };
    let create = doc! { "createIndexes": "items", "indexes": [ttl] };
    here.database("app").run_command(create).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    let data = doc! { "failCommands": ["collMod"], "errorCode": 2 };
    let refused = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    daemon.command("commit").await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1403"), "{}", daemon.output_tail());
    assert!(!is_blocked(&there).await?, "nobody is at work");
    assert!(is_blocked(&here).await?, "the destination has everything");
    drop(refused);
    let data = doc! { "failCommands": ["collMod"], "blockConnection": true, "blockTimeMS": 5_000 };
    let slow = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    daemon.launch().await?;
    eventually("the destination to be blocked again", LONG, || async {
        let progress = daemon.progress().await.map_err(|error| error.to_string())?;
        match is_blocked(&there).await {
            Ok(true) if progress["canWrite"] == false => Ok(()),
            other => Err(format!("{other:?}: {progress}")),
        }
    })
    .await?;
    drop(slow);
    daemon.wait_state("COMMITTED", LONG).await?;
    assert!(!is_blocked(&there).await?, "handed over");
    Ok(())
}
