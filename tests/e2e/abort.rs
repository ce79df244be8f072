//! Giving a sync up: by the daemon, and offline.

use anyhow::Result;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::Options,
    command::{self, Finished},
    compare::METADATA,
    daemon::Daemon,
    workload,
};

use super::support::{LONG, Pair, Phase, has_metadata, index, inventory};

/// Body of an abort that removes what was copied.
const DROP: &str = r#"{"dropDestinationData": true}"#;

/// What the syncs beside the others' data are asked for.
fn beside() -> Value {
    let names = json!([{ "database": "app", "collections": ["items", "orders", "renamed"] }]);
    json!({ "preExistingDestinationData": true, "includeNamespaces": names })
}

/// Runs an offline reset between a pair.
async fn reset(pair: &Pair, arguments: &[&str]) -> Result<Finished> {
    let (source, destination) = (pair.source.uri(), pair.destination.uri());
    let environment =
        [("SYNCLINE_CLUSTER0", source.as_str()), ("SYNCLINE_CLUSTER1", destination.as_str())];
    command::run(&[&["reset"], arguments].concat(), &environment).await
}

/// A pair with something to copy, and something on the destination that is not ours.
async fn pair() -> Result<Pair> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 3000, 1).await?;
    workload::seed(&pair.source.client(), "app", "orders", 50, 2).await?;
    workload::seed(&pair.destination.client(), "theirs", "things", 5, 3).await?;
    workload::seed(&pair.destination.client(), "app", "theirs", 5, 4).await?;
    Ok(pair)
}

/// Only what was there before the sync is on the destination.
async fn check_as_before(pair: &Pair) -> Result<()> {
    let found = inventory(&pair.destination.client()).await?;
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["app.theirs", "theirs.things"]);
    assert!(found.values().all(|(count, _)| *count == 5), "{found:?}");
    Ok(())
}

/// Removes what is not ours, starts anew and commits.
async fn check_new_start(pair: &Pair, daemon: &Daemon) -> Result<()> {
    for (database, name) in [("app", "theirs"), ("theirs", "things")] {
        let theirs = pair.destination.client().database(database).collection::<Document>(name);
        theirs.drop().await?;
    }
    daemon.start_sync().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn an_abort_in_either_phase_removes_what_was_copied_and_nothing_else() -> Result<()> {
    for phase in [Phase::Copy, Phase::Stream] {
        let pair = pair().await?;
        let daemon = pair.daemon().await?;
        let slow = pair.begin_with(&daemon, phase, beside()).await?;
        if phase == Phase::Stream {
            let rename = doc! { "renameCollection": "app.orders", "to": "app.renamed" };
            pair.source.client().database("admin").run_command(rename).await?;
            pair.wait_applied(&daemon).await?;
        }
        daemon.request("POST", "/api/v1/abort", Some(DROP)).await?.check()?;
        drop(slow);
        let idle = daemon.wait_state("IDLE", LONG).await?;
        assert_eq!(idle["info"], json!(null), "{idle}");
        check_as_before(&pair).await?;
        assert!(!has_metadata(&pair.destination.client()).await?);
        check_new_start(&pair, &daemon).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_abort_that_is_killed_goes_on_after_a_restart() -> Result<()> {
    let pair = pair().await?;
    let mut daemon = pair.daemon().await?;
    pair.begin_with(&daemon, Phase::Stream, beside()).await?;
    let data = doc! { "failCommands": ["drop"], "blockConnection": true, "blockTimeMS": 60_000 };
    let slow = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    daemon.request("POST", "/api/v1/abort", Some(DROP)).await?.check()?;
    daemon.wait_state("ABORTING", LONG).await?;
    // Repeated it is fine; a pause is not.
    daemon.request("POST", "/api/v1/abort", Some(DROP)).await?.check()?;
    let pause = daemon.request("POST", "/api/v1/pause", None).await?;
    assert_eq!((pause.status, pause.error()), (409, "InvalidState"), "{pause:?}");
    daemon.kill();
    drop(slow);
    daemon.launch().await?;
    daemon.wait_state("IDLE", LONG).await?;
    check_as_before(&pair).await?;
    check_new_start(&pair, &daemon).await?;
    Ok(())
}

#[tokio::test]
async fn what_somebody_put_in_the_place_of_a_copied_collection_stays() -> Result<()> {
    let pair = pair().await?;
    let daemon = pair.daemon().await?;
    pair.begin_with(&daemon, Phase::Stream, beside()).await?;
    daemon.command("pause").await?;
    let orders = pair.destination.client().database("app").collection::<Document>("orders");
    orders.drop().await?;
    orders.insert_one(doc! { "_id": "theirs" }).await?;
    let abort = ["abort", "--drop-destination-data", "--wait", "--port"];
    let port = daemon.port().to_string();
    let asked = command::run(&[&abort[..], &[&port]].concat(), &[]).await?;
    assert_eq!(asked.code, Some(64), "nobody answered yes: {asked:?}");
    assert_eq!(daemon.progress().await?["state"], "PAUSED");
    let done = command::run(&[&abort[..], &[&port, "--yes"]].concat(), &[]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    let found = inventory(&pair.destination.client()).await?;
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["app.orders", "app.theirs", "theirs.things"]);
    assert_eq!(found["app.orders"].0, 1);
    Ok(())
}

#[tokio::test]
async fn an_abort_keeps_the_data_unless_told_and_lifts_the_write_block() -> Result<()> {
    let pair =
        Pair::start_with(Options::single().with_auth(), Options::single().with_auth()).await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let admin = pair.destination.client().database("admin");
    let blocked = async || -> Result<bool> {
        let status = admin.run_command(doc! { "serverStatus": 1 }).await?;
        Ok(status.get_document("repl")?.get_i32("userWriteBlockMode")? == 2)
    };
    let mut daemon = pair.daemon().await?;
    daemon.start_with(json!({ "enableUserWriteBlocking": "destinationOnly" })).await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(blocked().await?);
    daemon.kill();

    let done = reset(&pair, &["--yes"]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.contains("forgotten"), "{done:?}");
    assert!(!blocked().await?);
    assert!(!has_metadata(&pair.destination.client()).await?);
    assert_eq!(inventory(&pair.destination.client()).await?["app.items"].0, 100);
    let again = reset(&pair, &["--yes"]).await?;
    assert!(again.code == Some(0) && again.stdout.contains("there is no sync"), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn a_reset_is_for_daemons_that_are_down_and_spares_a_committed_sync() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    let alive = reset(&pair, &["--yes"]).await?;
    assert_eq!(alive.code, Some(1), "{alive:?}");
    assert!(alive.stderr.contains("SYNC-1410"), "{alive:?}");
    assert_eq!(daemon.progress().await?["state"], "RUNNING");

    daemon.commit(LONG).await?;
    let late = daemon.request("POST", "/api/v1/abort", None).await?;
    assert_eq!((late.status, late.error()), (409, "InvalidState"), "{late:?}");
    daemon.terminate().await?;
    let drop = reset(&pair, &["--yes", "--drop-destination-data"]).await?;
    assert_eq!(drop.code, Some(1), "{drop:?}");
    assert!(drop.stderr.contains("SYNC-1301"), "{drop:?}");
    assert!(has_metadata(&pair.destination.client()).await?);
    let forget = reset(&pair, &["--yes"]).await?;
    assert_eq!(forget.code, Some(0), "{forget:?}");
    pair.check_identical().await?;
    daemon.launch().await?;
    assert_eq!(daemon.progress().await?["state"], "IDLE");
    Ok(())
}

#[tokio::test]
async fn a_start_that_is_repeated_changes_nothing_even_after_a_restart() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.start_sync().await?;
    daemon.kill();
    daemon.launch().await?;
    daemon.start_sync().await?;
    let other = json!({ "source": "cluster0", "destination": "cluster1", "buildIndexes": "never" });
    let refused = daemon.post("start", &other).await?;
    assert_eq!((refused.status, refused.error()), (409, "AlreadyStarted"), "{refused:?}");
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn giving_a_commit_up_spares_a_view_of_others() -> Result<()> {
    let pair = pair().await?;
    let mut daemon = pair.daemon().await?;
    let names = json!([{ "database": "app" }]);
    let excluded = json!([{ "database": "app", "collections": ["theirs"] }]);
    let beside = json!({ "preExistingDestinationData": true, "includeNamespaces": names,
        "excludeNamespaces": excluded });
    pair.begin_with(&daemon, Phase::Stream, beside).await?;
    for (cluster, base) in [(&pair.source, "items"), (&pair.destination, "theirs")] {
        let view = doc! { "create": "both", "viewOn": base, "pipeline": [] };
        cluster.client().database("app").run_command(view).await?;
    }
    let own = doc! { "create": "another", "viewOn": "items", "pipeline": [] };
    pair.source.client().database("app").run_command(own).await?;
    daemon.command("commit").await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1201"), "{}", daemon.output_tail());
    let done = reset(&pair, &["--yes", "--drop-destination-data"]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    let found = inventory(&pair.destination.client()).await?;
    let is_own = |name: &&str| !name.contains(".system.");
    let names: Vec<&str> = found.keys().map(String::as_str).filter(is_own).collect();
    assert_eq!(names, ["app.both", "app.theirs", "theirs.things"]);
    Ok(())
}

#[tokio::test]
async fn a_way_back_that_cannot_be_gone_can_be_given_up() -> Result<()> {
    let auth = || Options::single().with_auth();
    let pair = Pair::start_with(auth(), auth()).await?;
    let here = pair.source.client().database("app");
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    workload::seed(&pair.source.client(), "app", "gone", 5, 2).await?;
    let unique = doc! { "key": { "_id": 1, "n": 1 }, "name": "unique", "unique": true };
    here.run_command(doc! { "createIndexes": "items", "indexes": [unique] }).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_with(json!({ "reversible": true })).await?;
    daemon.commit(LONG).await?;
    here.collection::<Document>("gone").drop().await?;
    daemon.command("reverse").await?;
    daemon.wait(LONG).await?;
    for _ in 0..2 {
        assert!(daemon.output().contains("SYNC-1409"), "{}", daemon.output_tail());
        // Nothing was touched: what is wrong is seen before.
        assert!(index(&pair.source.client(), "app", "items", "unique").await?.get_bool("unique")?);
        drop(daemon.launch().await);
        daemon.wait(LONG).await?;
    }
    let drop = reset(&pair, &["--yes", "--drop-destination-data"]).await?;
    assert_eq!(drop.code, Some(1), "{drop:?}");
    assert!(drop.stderr.contains("SYNC-1301"), "{drop:?}");
    let done = reset(&pair, &["--yes"]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    for words in ["app.gone is not the collection any more", "user writes are blocked"] {
        assert!(done.stdout.contains(words), "{words} not in {done:?}");
    }
    assert!(!has_metadata(&pair.source.client()).await?);
    assert!(!has_metadata(&pair.destination.client()).await?);
    daemon.launch().await?;
    assert_eq!(daemon.progress().await?["state"], "IDLE");
    Ok(())
}

#[tokio::test]
async fn a_reset_between_the_two_records_of_a_way_back_forgets_both() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_with(json!({ "reversible": true })).await?;
    daemon.commit(LONG).await?;
    // The old record cannot be removed.
    let data = doc! { "failCommands": ["delete"], "errorCode": 2,
    "namespace": format!("{METADATA}.sync") };
    let held = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    daemon.command("reverse").await?;
    daemon.wait(LONG).await?;
    drop(held);
    let records = async |client: mongodb::Client| {
        client.database(METADATA).collection::<Document>("sync").count_documents(doc! {}).await
    };
    assert_eq!(records(pair.source.client()).await?, 1, "{}", daemon.output_tail());
    assert_eq!(records(pair.destination.client()).await?, 1);
    let done = reset(&pair, &["--yes"]).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!has_metadata(&pair.source.client()).await?);
    assert!(!has_metadata(&pair.destination.client()).await?);
    let again = reset(&pair, &["--yes"]).await?;
    assert!(again.stdout.contains("there is no sync"), "{again:?}");
    Ok(())
}
