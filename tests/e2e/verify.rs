//! The verifier on real servers: embedded in a sync, and alone.

use std::process::{Output, Stdio};

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Bson, DateTime, Document, doc},
};
use serde_json::{Value, json};
use syncline_tests::{binary, compare::METADATA, daemon::Daemon, eventually::eventually, workload};
use tokio::process::Command;

use super::{
    dataset,
    support::{LONG, Pair, Phase, inventory},
};

/// Collections of every sort that is compared in a way of its own.
async fn fill(client: &Client) -> Result<()> {
    let database = client.database("app");
    for command in [
        doc! { "create": "plain" },
        doc! { "create": "ring", "capped": true, "size": 1 << 20 },
        doc! { "create": "german", "collation": { "locale": "de", "strength": 2 } },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        doc! { "create": "short", "validator": { "n": { "$gte": 0 } } },
        doc! { "create": "some", "viewOn": "plain", "pipeline": [{ "$match": { "n": 1 } }] },
    ] {
        database.run_command(command).await?;
    }
    for name in ["plain", "ring", "german", "clustered", "short"] {
        let documents: Vec<Document> =
            (0..300_i32).map(|n| doc! { "_id": format!("k{n:03}"), "n": n, "text": "a" }).collect();
        database.collection(name).insert_many(documents).await?;
    }
    let indexes = doc! { "createIndexes": "short", "indexes": [
        { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 3600 },
        { "key": { "n": 1 }, "name": "unique", "unique": true },
    ] };
    database.run_command(indexes).await?;
    Ok(())
}

/// Spoils the destination in every way.
async fn spoil(client: &Client) -> Result<()> {
    let database = client.database("app");
    let id = |n: i32| doc! { "_id": format!("k{n:03}") };
    for name in ["plain", "german", "clustered", "short", "ring"] {
        database.collection::<Document>(name).delete_one(id(7)).await?;
    }
    for name in ["plain", "german", "clustered"] {
        let extra = doc! { "_id": "zz", "n": 1 };
        database.collection::<Document>(name).insert_one(extra).await?;
    }
    for name in ["plain", "ring"] {
        let set = doc! { "$set": { "text": "b" } };
        database.collection::<Document>(name).update_one(id(299), set).await?;
    }
    let moved = doc! { "_id": "k001", "text": "a", "n": 1 };
    database.collection::<Document>("plain").replace_one(id(1), moved).await?;
    let lenient = doc! { "collMod": "short", "validationLevel": "moderate" };
    database.run_command(lenient).await?;
    database.run_command(doc! { "dropIndexes": "short", "index": "ttl" }).await?;
    Ok(())
}

/// Undoes [`spoil`].
async fn mend(source: &Client, destination: &Client) -> Result<()> {
    let (from, to) = (source.database("app"), destination.database("app"));
    for name in ["plain", "german", "clustered", "short", "ring"] {
        for n in [1, 7, 299] {
            let id = doc! { "_id": format!("k{n:03}") };
            let document = from.collection::<Document>(name).find_one(id.clone()).await?;
            let document = document.context("the source lost a document")?;
            let collection = to.collection::<Document>(name);
            collection.replace_one(id, document).upsert(true).await?;
        }
    }
    for name in ["plain", "german", "clustered"] {
        to.collection::<Document>(name).delete_one(doc! { "_id": "zz" }).await?;
    }
    to.run_command(doc! { "collMod": "short", "validationLevel": "strict" }).await?;
    let ttl = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": i32::MAX };
    to.run_command(doc! { "createIndexes": "short", "indexes": [ttl] }).await?;
    Ok(())
}

/// How many of each kind [`spoil`] makes, the capped collection left out.
fn spoiled() -> Value {
    json!({"missing": 4, "extra": 3, "different": 1, "fieldOrder": 1, "options": 1, "index": 1})
}

/// Lets a running sync forget what it has compared, by a restart.
async fn restart_verification(pair: &Pair, daemon: &mut Daemon) -> Result<()> {
    daemon.terminate().await?;
    let metadata = pair.destination.client().database(METADATA);
    metadata.collection::<Document>("verification").drop().await?;
    Ok(())
}

/// Waits until what is listed has these counts.
async fn wait_listed(daemon: &Daemon, counts: &Value) -> Result<Vec<Value>> {
    let what = format!("mismatches {counts}");
    daemon
        .wait_for(&what, LONG, |progress| progress["verification"]["mismatchesByKind"] == *counts)
        .await?;
    let answer = daemon.request("GET", "/api/v1/verification", None).await?;
    assert_eq!(answer.body["verification"]["byKind"], *counts, "{answer:?}");
    Ok(answer.body["verification"]["listed"].as_array().cloned().unwrap_or_default())
}

#[tokio::test]
async fn every_kind_of_mismatch_is_listed_and_goes_away_when_it_is_mended() -> Result<()> {
    let pair = Pair::start().await?;
    let (source, destination) = (pair.source.client(), pair.destination.client());
    fill(&source).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    let progress = daemon.progress().await?;
    for side in ["source", "destination"] {
        let side = &progress["verification"][side];
        assert_eq!(side["phase"], "stream hashing", "{progress}");
        assert_eq!(
            (&side["totalCollectionCount"], &side["scannedCollectionCount"]),
            (&json!(4), &json!(4))
        );
        assert_eq!(side["hashedDocumentCount"], 1200, "without the capped: {progress}");
    }
    restart_verification(&pair, &mut daemon).await?;
    spoil(&destination).await?;
    daemon.launch().await?;

    let listed = wait_listed(&daemon, &spoiled()).await?;
    let has = |kind: &str, namespace: &str, id: Value| {
        let is_it = |m: &&Value| m["kind"] == kind && m["namespace"] == namespace && m["_id"] == id;
        assert!(listed.iter().any(|m| is_it(&m)), "{kind} {namespace} {id} not in {listed:#?}");
    };
    for name in ["plain", "german", "clustered", "short"] {
        has("missing", &format!("app.{name}"), json!("k007"));
    }
    has("extra", "app.german", json!("zz"));
    has("different", "app.plain", json!("k299"));
    has("fieldOrder", "app.plain", json!("k001"));
    let detail = |kind: &str| {
        listed.iter().find(|m| m["kind"] == kind).map(|m| m["detail"].clone()).unwrap_or_default()
    };
    assert_eq!(detail("options"), "validationLevel");
    assert_eq!(detail("index"), "ttl is missing");
    let refused = daemon.post("commit", &json!({})).await?;
    assert_eq!((refused.status, refused.error()), (409, "CannotCommitYet"), "{refused:?}");

    // A restart in the middle does not lose them.
    daemon.kill();
    daemon.launch().await?;
    wait_listed(&daemon, &spoiled()).await?;

    mend(&source, &destination).await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(wait_listed(&daemon, &json!({})).await?.is_empty());
    daemon.commit(LONG).await?;
    Ok(())
}

#[tokio::test]
async fn a_kill_during_the_verification_is_made_up_for() -> Result<()> {
    let pair = Pair::start().await?;
    dataset::varied(&pair.source.client()).await?;
    let mut daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    for phase in ["initial hashing", "stream hashing"] {
        daemon
            .wait_for(&format!("verification {phase}"), LONG, |progress| {
                let seen = &progress["verification"]["source"]["phase"];
                seen == phase || seen == "stream hashing"
            })
            .await?;
        daemon.kill();
        daemon.launch().await?;
    }
    workload::seed(&pair.source.client(), "app", "later", 200, 9).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

/// `syncline verify` between the clusters of a pair.
async fn verify(pair: &Pair, more: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary::locate()?);
    command.arg("verify").args(["--cluster0", &pair.source.uri()]);
    command.args(["--cluster1", &pair.destination.uri(), "--output", "json"]).args(more);
    Ok(command.output().await?)
}

/// What it printed.
fn answer(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

#[tokio::test]
async fn the_verifier_alone_tells_equal_clusters_from_others() -> Result<()> {
    let pair = Pair::start().await?;
    let (source, destination) = (pair.source.client(), pair.destination.client());
    fill(&source).await?;
    let daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    let during = verify(&pair, &["--duringSync"]).await?;
    assert!(during.status.success(), "{during:?}");
    daemon.commit(LONG).await?;

    let equal = verify(&pair, &[]).await?;
    assert!(equal.status.success(), "{equal:?}");
    assert_eq!(answer(&equal)?["verification"]["mismatches"], 0);
    spoil(&destination).await?;
    let view = doc! { "collMod": "some", "viewOn": "plain", "pipeline": [] };
    destination.database("app").run_command(view).await?;
    let unequal = verify(&pair, &[]).await?;
    assert_eq!(unequal.status.code(), Some(1), "{unequal:?}");
    let mut counts = spoiled();
    // Alone, the capped collection is compared too.
    counts["missing"] = json!(5);
    counts["different"] = json!(2);
    counts["view"] = json!(1);
    assert_eq!(answer(&unequal)?["verification"]["byKind"], counts, "{unequal:?}");
    assert!(String::from_utf8_lossy(&unequal.stderr).contains("SYNC-1610"), "{unequal:?}");

    let other = [r#"[{"database": "app", "collections": ["none"]}]"#];
    let filtered = verify(&pair, &["--includeNamespaces", other[0]]).await?;
    assert!(filtered.status.success(), "{filtered:?}");
    let backward = verify(&pair, &["--source", "cluster1"]).await?;
    let backward = answer(&backward)?;
    assert_eq!(backward["verification"]["byKind"]["missing"], 3, "{backward}");
    Ok(())
}

#[tokio::test]
async fn the_verifier_alone_says_where_it_did_not_come_to_the_end() -> Result<()> {
    let pair = Pair::start().await?;
    for (name, count) in [("many", 1500), ("few", 10)] {
        workload::seed(&pair.source.client(), "app", name, count, 1).await?;
        pair.destination.client().database("app").create_collection(name).await?;
    }
    let found = verify(&pair, &[]).await?;
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let told = answer(&found)?;
    assert_eq!(told["verification"]["cut"], json!(["app.many"]), "{told}");
    assert_eq!(told["verification"]["mismatches"], 1010, "{told}");
    let text = String::from_utf8_lossy(&found.stderr);
    assert!(text.contains("SYNC-1610") && text.contains("not compared to the end"), "{text}");
    Ok(())
}

#[tokio::test]
async fn the_verifier_alone_goes_on_after_a_kill() -> Result<()> {
    let pair = Pair::start().await?;
    let (source, destination) = (pair.source.client(), pair.destination.client());
    let names = ["c0", "c1", "c2", "c3", "c4"];
    for client in [&source, &destination] {
        for name in names {
            workload::seed(client, "app", name, 200, 5).await?;
        }
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("checkpoint");
    let path = file.to_str().context("a path that is no text")?;
    let held = doc! {
        "failCommands": ["find"], "namespace": "app.c3", "blockConnection": true, "blockTimeMS": 15_000,
    };
    let guard = pair.destination.fail_point("failCommand", "alwaysOn", held).await?;
    let mut child = Command::new(binary::locate()?)
        .args(["verify", "--cluster0", &pair.source.uri(), "--cluster1", &pair.destination.uri()])
        .args(["--checkpointFile", path])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let noted = || {
        std::fs::read(&file)
            .map(|bytes| String::from_utf8_lossy(&bytes).matches("quarantined").count())
    };
    eventually("four collections to be noted", LONG, || async {
        match noted() {
            Ok(4) => Ok(()),
            other => Err(other.map_err(|e| e.to_string())),
        }
    })
    .await?;
    let in_use = verify(&pair, &["--checkpointFile", path]).await?;
    assert_eq!(in_use.status.code(), Some(64), "{in_use:?}");
    child.kill().await?;
    drop(guard);

    for name in names {
        let collection = destination.database("app").collection::<Document>(name);
        collection.insert_one(doc! { "_id": "more" }).await?;
    }
    let other = verify(&pair, &["--checkpointFile", path, "--source", "cluster1"]).await?;
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(text.contains("SYNC-1001") && text.contains("of another comparison"), "{text}");
    let rest = verify(&pair, &["--checkpointFile", path]).await?;
    let found = answer(&rest)?["verification"]["listed"].clone();
    assert_eq!(found.as_array().map(Vec::len), Some(1), "only what was not noted: {found}");
    assert_eq!((&found[0]["namespace"], &found[0]["_id"]), (&json!("app.c3"), &json!("more")));
    assert!(!file.exists(), "it came to its end");
    let all = verify(&pair, &["--checkpointFile", path]).await?;
    assert_eq!(answer(&all)?["verification"]["mismatches"], 5);
    Ok(())
}

#[tokio::test]
async fn the_verifier_alone_knows_other_names() -> Result<()> {
    let pair = Pair::start().await?;
    let (source, destination) = (pair.source.client(), pair.destination.client());
    for (database, name) in [("app", "a"), ("app", "b"), ("other", "c")] {
        workload::seed(&source, database, name, 50, 5).await?;
    }
    let view = doc! { "create": "seen", "viewOn": "a", "pipeline": [] };
    source.database("app").run_command(view).await?;
    let remap = json!([{ "from": { "database": "app" }, "to": { "database": "moved" } }]);
    let daemon = pair.daemon().await?;
    daemon.start_with(json!({ "namespaceRemap": remap })).await?;
    daemon.commit(LONG).await?;
    let remap = remap.to_string();
    let equal = verify(&pair, &["--namespaceRemap", &remap]).await?;
    assert!(equal.status.success(), "{equal:?}");
    destination.database("moved").collection::<Document>("b").delete_one(doc! {}).await?;
    let extra = destination.database("app").collection::<Document>("a");
    extra.insert_one(doc! { "_id": "not of the sync" }).await?;
    let unequal = answer(&verify(&pair, &["--namespaceRemap", &remap]).await?)?;
    let listed = &unequal["verification"]["listed"];
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{unequal}");
    assert_eq!(
        (&listed[0]["namespace"], &listed[0]["kind"]),
        (&json!("moved.b"), &json!("missing"))
    );
    let without = answer(&verify(&pair, &[]).await?)?;
    assert_eq!(without["verification"]["byKind"]["missing"], 51, "{without}");
    Ok(())
}

#[tokio::test]
async fn odd_metadata_is_no_mismatch() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let often = doc! { "setParameter": 1, "ttlMonitorSleepSecs": 1 };
    client.database("admin").run_command(often).await?;
    let app = client.database("app");
    let ttl = |key: &str, after: Bson| {
        doc! { "key": { key: 1 }, "name": key, "expireAfterSeconds": after }
    };
    for name in ["at_once", "dropped", "moved"] {
        let indexes = vec![ttl("at", Bson::Int32(0)), ttl("later", Bson::Double(86_400.5))];
        app.run_command(doc! { "createIndexes": name, "indexes": indexes }).await?;
        let (soon, never) = (DateTime::now(), DateTime::MAX);
        let documents =
            (0..300).map(|n| doc! { "_id": n, "at": if n % 2 == 0 { soon } else { never } });
        app.collection::<Document>(name).insert_many(documents).await?;
    }
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    app.run_command(doc! { "dropIndexes": "dropped", "index": "at" }).await?;
    let rename = doc! { "renameCollection": "app.moved", "to": "app.arrived" };
    client.database("admin").run_command(rename).await?;
    let index = doc! { "name": "later", "expireAfterSeconds": 0 };
    app.run_command(doc! { "collMod": "at_once", "index": index }).await?;
    pair.wait_applied(&daemon).await?;
    daemon.wait_can_commit(LONG).await?;
    assert!(wait_listed(&daemon, &json!({})).await?.is_empty());
    let never = doc! { "setParameter": 1, "ttlMonitorEnabled": false };
    client.database("admin").run_command(never.clone()).await?;
    pair.destination.client().database("admin").run_command(never).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_filter_that_includes_goes_along_with_the_verification() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for (seed, name) in ["orders_2025", "orders_2026", "users", "log"].into_iter().enumerate() {
        workload::seed(&client, "app", name, 200, u64::try_from(seed)?).await?;
    }
    let daemon = pair.daemon().await?;
    let pattern = json!({ "pattern": "^orders_", "options": "" });
    let include = json!([
        { "database": "app", "collectionsRegex": pattern },
        { "database": "app", "collections": ["users"] },
    ]);
    daemon.start_with(json!({ "includeNamespaces": include })).await?;
    daemon.wait_can_commit(LONG).await?;
    // Out of the filter and into it again: what the destination has is never left over.
    let admin = client.database("admin");
    for (from, to) in [("app.users", "app.orders_users"), ("app.orders_users", "app.users")] {
        admin.run_command(doc! { "renameCollection": from, "to": to }).await?;
    }
    pair.wait_applied(&daemon).await?;
    let progress = daemon
        .wait_for("every collection compared", LONG, |progress| {
            progress["verification"]["source"]["phase"] == "stream hashing"
        })
        .await?;
    assert_eq!(progress["verification"]["source"]["totalCollectionCount"], 3, "{progress}");
    daemon.commit(LONG).await?;
    let found = inventory(&pair.destination.client()).await?;
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let synced: Vec<&str> = names.into_iter().filter(|name| name.starts_with("app.")).collect();
    assert_eq!(synced, ["app.orders_2025", "app.orders_2026", "app.users"]);
    assert!(synced.iter().all(|name| found[*name].0 == 200), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn the_commit_compares_the_documents_of_capped_collections() -> Result<()> {
    let pair = Pair::start().await?;
    let source = pair.source.client().database("app");
    let ring = doc! { "create": "ring", "capped": true, "size": 1 << 20 };
    source.run_command(ring).await?;
    let documents = (0..100_i32).map(|n| doc! { "_id": n, "text": "a" });
    source.collection::<Document>("ring").insert_many(documents).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.wait_can_commit(LONG).await?;
    let there = pair.destination.client().database("app").collection::<Document>("ring");
    let set = |text: &str| doc! { "$set": { "text": text } };
    there.update_one(doc! { "_id": 50 }, set("b")).await?;
    daemon.command("commit").await?;
    let failed = |p: &Value| !p["failure"].is_null();
    let progress = daemon.wait_for("a mismatch", LONG, failed).await?;
    assert_eq!(progress["failure"]["code"], "SYNC-1610", "{progress}");
    assert!(progress["failure"].to_string().contains("app.ring"), "{progress}");
    assert_eq!(progress["canWrite"], false);
    there.update_one(doc! { "_id": 50 }, set("a")).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
