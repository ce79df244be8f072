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
