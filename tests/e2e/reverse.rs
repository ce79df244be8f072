//! The way back after a commit.

use anyhow::Result;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    compare::{Comparison, METADATA},
    daemon::Daemon,
    workload::{self, Plan, Workload},
};

use super::{
    blocking::is_blocked,
    support::{LONG, Pair, index},
};

/// Makes the source what a way back has to get right: indexes that are relaxed, and documents.
async fn prepare(client: &Client) -> Result<()> {
    workload::seed(client, "live", "alpha", 2000, 1).await?;
    let documents = (0..60_i32).map(|n| doc! { "_id": n, "u": n });
    client.database("app").collection("items").insert_many(documents).await?;
    let specs = vec![
        doc! { "key": { "u": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 7200 },
        doc! { "key": { "h": 1 }, "name": "hidden", "hidden": true },
    ];
    let command = doc! { "createIndexes": "items", "indexes": specs };
    client.database("app").run_command(command).await?;
    let view = doc! { "create": "seen", "viewOn": "items", "pipeline": [] };
    client.database("app").run_command(view).await?;
    let ring = doc! { "create": "ring", "capped": true, "size": 30_000, "max": 60 };
    client.database("app").run_command(ring).await?;
    let documents = (0..70).map(|n| doc! { "_id": n });
    client.database("app").collection("ring").insert_many(documents).await?;
    Ok(())
}

/// Values of a unique index wander between documents.
async fn wander(client: &Client, round: i32) -> Result<()> {
    let items = client.database("app").collection::<Document>("items");
    items.delete_one(doc! { "u": round }).await?;
    items.update_one(doc! { "_id": 50 }, doc! { "$set": { "u": round } }).await?;
    items.insert_one(doc! { "_id": format!("round {round}"), "u": 1000 + round }).await?;
    Ok(())
}

/// Commits, with a kill in the midst of it.
async fn commit_killed(daemon: &mut Daemon, destination: &ReplicaSet, held: &str) -> Result<()> {
    daemon.wait_can_commit(LONG).await?;
    let data = doc! { "failCommands": [held], "blockConnection": true, "blockTimeMS": 400 };
    let slow = destination.fail_point("failCommand", "alwaysOn", data).await?;
    daemon.command("commit").await?;
    daemon.wait_state("COMMITTING", LONG).await?;
    daemon.kill();
    drop(slow);
    daemon.launch().await?;
    daemon.wait_state("COMMITTED", LONG).await?;
    Ok(())
}

#[tokio::test]
async fn the_roles_are_swapped_back_and_forth_twice_under_load() -> Result<()> {
    let auth = || Options::single().with_auth();
    let pair = Pair::start_with(auth(), auth()).await?;
    prepare(&pair.source.client()).await?;
    let mut daemon = pair.daemon().await?;
    let live = Workload::start(&pair.source.client(), &Plan::new(41, "live").with_ddl());
    daemon.start_with(json!({ "reversible": true })).await?;
    live.writes(200).await?;
    live.stop().await?;
    commit_killed(&mut daemon, &pair.destination, "collMod").await?;
    pair.check_identical().await?;

    for round in 0..4_i32 {
        // Who is the source now, and who the destination.
        let (from, to) = if round % 2 == 0 {
            (&pair.destination, &pair.source)
        } else {
            (&pair.source, &pair.destination)
        };
        assert!(!is_blocked(&from.client()).await?, "round {round}: the application writes here");
        assert!(is_blocked(&to.client()).await?, "round {round}: the old source is blocked");
        let plan = Plan::new(50 + u64::from(round.unsigned_abs()), "live").with_ddl();
        let live = Workload::start(&from.client(), &plan);
        live.writes(100).await?;
        wander(&from.client(), round).await?;
        if round == 1 {
            // A daemon that came up after the commit can go back as well.
            daemon.terminate().await?;
            daemon.launch().await?;
            daemon.wait_state("COMMITTED", LONG).await?;
        }
        let data =
            doc! { "failCommands": ["collMod"], "blockConnection": true, "blockTimeMS": 400 };
        let slow = to.fail_point("failCommand", "alwaysOn", data).await?;
        daemon.command("reverse").await?;
        if round % 2 == 0 {
            daemon.wait_for("REVERSING", LONG, |p| p["state"] != "COMMITTED").await?;
            daemon.kill();
            drop(slow);
            daemon.launch().await?;
        } else {
            drop(slow);
        }
        let progress = daemon.wait_state("RUNNING", LONG).await?;
        let source = if round % 2 == 0 { "cluster1" } else { "cluster0" };
        let mapping = progress["directionMapping"]["Source"].as_str().unwrap_or_default();
        assert!(mapping.starts_with(source), "round {round}: {progress}");
        assert_eq!(progress["canWrite"], false, "{progress}");
        // Relaxed again where it is written to.
        let spec = index(&to.client(), "app", "items", "unique").await?;
        assert!(spec.get("unique").is_none(), "round {round}: {spec}");
        assert_eq!(
            index(&to.client(), "app", "items", "ttl").await?.get_i32("expireAfterSeconds")?,
            i32::MAX
        );
        assert!(index(&from.client(), "app", "items", "unique").await?.get_bool("unique")?);
        live.writes(200).await?;
        let counts = live.stop().await?;
        wander(&from.client(), 10 + round).await?;
        println!("round {round}: {counts:?}");
        let held = if round % 2 == 0 { "insert" } else { "collMod" };
        commit_killed(&mut daemon, to, held).await?;
        let report = Comparison::new().run(&from.client(), &to.client()).await?;
        report.check()?;
        assert!(index(&to.client(), "app", "items", "unique").await?.get_bool("unique")?);
        assert!(!is_blocked(&to.client()).await?, "round {round}: handed over");
        assert!(is_blocked(&from.client()).await?, "round {round}: blocked from the commit on");
    }
    Ok(())
}

#[tokio::test]
async fn a_way_back_works_without_users_and_leaves_no_metadata_behind() -> Result<()> {
    let pair = Pair::start().await?;
    let (here, there) = (pair.source.client(), pair.destination.client());
    workload::seed(&here, "app", "items", 8000, 1).await?;
    let daemon = pair.daemon().await?;
    daemon.start_with(json!({ "reversible": true })).await?;
    let cut = |progress: &Value| progress["collections"][0]["partitions"].as_u64().unwrap_or(0);
    let copied = daemon.wait_can_commit(LONG).await?;
    assert!(cut(&copied) > 1, "{copied}");
    daemon.commit(LONG).await?;
    let items = there.database("app").collection::<Document>("items");
    items.insert_one(doc! { "_id": "before the way back" }).await?;
    there.database("app").collection("born").insert_one(doc! { "_id": 1 }).await?;
    there
        .database("app")
        .run_command(doc! { "createIndexes": "items", "indexes": [
        { "key": { "_id": 1, "x": 1 }, "name": "later", "unique": true } ] })
        .await?;
    daemon.command("reverse").await?;
    daemon.wait_state("RUNNING", LONG).await?;
    // The verifier goes by the ranges of the copy.
    let back = daemon.wait_for("collections", LONG, |progress| cut(progress) > 0).await?;
    assert_eq!(cut(&back), cut(&copied), "{back}");
    // What is on the destination now was never copied there.
    let drop = json!({ "dropDestinationData": true });
    let refused = daemon.post("abort", &drop).await?;
    assert_eq!((refused.status, refused.error()), (409, "InvalidState"), "{refused:?}");
    items.insert_one(doc! { "_id": "after it" }).await?;
    daemon.commit(LONG).await?;
    Comparison::new().run(&there, &here).await?.check()?;
    assert!(index(&here, "app", "items", "later").await?.get_bool("unique")?);
    let left = there.database(METADATA).collection::<Document>("sync");
    assert_eq!(left.count_documents(doc! {}).await?, 0, "the metadata has moved");
    let moved = here.database(METADATA).collection::<Document>("sync");
    assert_eq!(moved.count_documents(doc! {}).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_sync_that_is_not_reversible_is_not_reversed() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    let daemon = pair.daemon().await?;
    let early = daemon.post("reverse", &json!({})).await?;
    assert_eq!((early.status, early.error()), (409, "InvalidState"), "{early:?}");
    daemon.start_sync().await?;
    daemon.commit(LONG).await?;
    let late = daemon.post("reverse", &json!({})).await?;
    assert_eq!((late.status, late.error()), (409, "InvalidState"), "{late:?}");
    assert_eq!(daemon.progress().await?["state"], "COMMITTED");
    Ok(())
}

#[tokio::test]
async fn an_old_source_that_was_changed_is_refused_by_name() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_with(json!({ "reversible": true })).await?;
    daemon.commit(LONG).await?;
    pair.source.client().database("app").collection::<Document>("items").drop().await?;
    daemon.command("reverse").await?;
    daemon.wait(LONG).await?;
    let output = daemon.output();
    assert!(output.contains("SYNC-1409") && output.contains("app.items"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_view_of_the_old_source_gives_way_to_a_collection() -> Result<()> {
    let pair = Pair::start().await?;
    let (here, there) = (pair.source.client(), pair.destination.client());
    for (seed, name) in (1..).zip(["items", "moved"]) {
        workload::seed(&here, "app", name, 100, seed).await?;
    }
    for name in ["created", "renamed", "kept", "changed"] {
        let view = doc! { "create": name, "viewOn": "items", "pipeline": [] };
        here.database("app").run_command(view).await?;
    }
    let daemon = pair.daemon().await?;
    daemon.start_with(json!({ "reversible": true })).await?;
    daemon.commit(LONG).await?;
    let app = there.database("app");
    for name in ["created", "renamed"] {
        app.collection::<Document>(name).drop().await?;
    }
    app.collection("created").insert_one(doc! { "_id": 1 }).await?;
    let rename = doc! { "renameCollection": "app.moved", "to": "app.renamed" };
    there.database("admin").run_command(rename).await?;
    let other = doc! { "collMod": "changed", "viewOn": "renamed", "pipeline": [] };
    app.run_command(other).await?;
    daemon.command("reverse").await?;
    daemon.wait_state("RUNNING", LONG).await?;
    app.collection("renamed").insert_one(doc! { "_id": "later" }).await?;
    daemon.commit(LONG).await?;
    Comparison::new().run(&there, &here).await?.check()?;
    Ok(())
}

#[tokio::test]
async fn a_sync_that_leaves_hashed_indexes_out_has_a_way_back() -> Result<()> {
    let pair = Pair::start().await?;
    let (here, there) = (pair.source.client(), pair.destination.client());
    workload::seed(&here, "app", "items", 100, 1).await?;
    let hashed = doc! { "key": { "_id": "hashed" }, "name": "hashed" };
    let command = doc! { "createIndexes": "items", "indexes": [hashed] };
    here.database("app").run_command(command).await?;
    let daemon = pair.daemon().await?;
    let options = json!({ "reversible": true, "buildIndexes": "excludeHashed" });
    daemon.start_with(options).await?;
    daemon.commit(LONG).await?;
    assert!(index(&there, "app", "items", "hashed").await.is_err());
    daemon.command("reverse").await?;
    daemon.wait_state("RUNNING", LONG).await?;
    let items = there.database("app").collection::<Document>("items");
    items.insert_one(doc! { "_id": "after it" }).await?;
    // An index that is too much counts all the same.
    let extra = doc! { "key": { "extra": 1 }, "name": "extra" };
    let command = doc! { "createIndexes": "items", "indexes": [extra] };
    here.database("app").run_command(command).await?;
    daemon
        .wait_for("a mismatch", LONG, |progress| {
            progress["verification"]["mismatchesByKind"] == json!({ "index": 1 })
        })
        .await?;
    let drop = doc! { "dropIndexes": "items", "index": "extra" };
    here.database("app").run_command(drop).await?;
    daemon.commit(LONG).await?;
    assert!(index(&here, "app", "items", "hashed").await.is_ok(), "it stays");
    assert_eq!(
        here.database("app").collection::<Document>("items").count_documents(doc! {}).await?,
        101
    );
    Ok(())
}
