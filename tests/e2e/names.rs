//! Namespace filters, other names on the destination, and data that is there already.

use anyhow::Result;
use mongodb::{
    Client,
    bson::{Document, RawDocumentBuf, doc, rawdoc},
};
use serde_json::{Value, json};
use syncline_tests::{
    compare::{Comparison, METADATA},
    daemon::Config,
    eventually::eventually,
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase, index, inventory, wait_info};

/// Documents of a collection in `_id` order.
async fn documents(client: &Client, database: &str, name: &str) -> Result<Vec<RawDocumentBuf>> {
    let collection = client.database(database).collection::<RawDocumentBuf>(name);
    let mut cursor = collection.find(doc! {}).sort(doc! { "_id": 1 }).await?;
    let mut found = Vec::new();
    while cursor.advance().await? {
        found.push(cursor.deserialize_current()?);
    }
    Ok(found)
}

/// Names of collections and views of a database, sorted.
async fn names(client: &Client, database: &str) -> Result<Vec<String>> {
    let mut names = client.database(database).list_collection_names().await?;
    names.retain(|name| !name.starts_with("system."));
    names.sort();
    Ok(names)
}

/// Renames a collection.
async fn rename(client: &Client, from: &str, to: &str) -> Result<()> {
    let command = doc! { "renameCollection": from, "to": to };
    client.database("admin").run_command(command).await?;
    Ok(())
}

/// A remap of a database, one collection of it, and another one.
fn remap() -> Value {
    json!([
        { "from": { "database": "app" }, "to": { "database": "shop" } },
        { "from": { "database": "app", "collection": "users" },
          "to": { "database": "shop", "collection": "people" } },
        { "from": { "database": "app", "collection": "log" },
          "to": { "database": "audit", "collection": "app.log" } },
    ])
}

/// The scenario in one phase, across a restart.
async fn remapped(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for (seed, name) in (1..).zip(["users", "orders", "log", "gone", "moved"]) {
        workload::seed(&client, "app", name, 400, seed).await?;
    }
    workload::seed(&client, "other", "same", 4000, 9).await?;
    let app = client.database("app");
    app.run_command(doc! { "createIndexes": "users", "indexes": [
        { "key": { "f1": 1 }, "name": "f1" }, { "key": { "_id": 1, "f2": 1 }, "name": "uni", "unique": true } ] })
        .await?;
    let mut daemon = pair.daemon().await?;
    let slow = match phase {
        Phase::Copy => Some(pair.slow_copy().await?),
        Phase::Stream => None,
    };
    daemon.start_with(json!({ "namespaceRemap": remap() })).await?;
    match phase {
        Phase::Copy => wait_info(&daemon, "collection copy").await?,
        Phase::Stream => daemon.wait_can_commit(LONG).await?,
    };
    app.collection("users").insert_one(doc! { "_id": "new" }).await?;
    app.collection::<Document>("users").delete_one(doc! { "f1": { "$exists": true } }).await?;
    app.collection("log").insert_one(doc! { "_id": "line" }).await?;
    app.collection("made").insert_one(doc! { "_id": 1 }).await?;
    app.collection::<Document>("gone").drop().await?;
    rename(&client, "app.moved", "app.moved_on").await?;
    daemon.kill();
    // A collection becomes one that has a name of its own there, and the other way round.
    rename(&client, "app.users", "app.former").await?;
    rename(&client, "app.orders", "app.users").await?;
    rename(&client, "app.moved_on", "third.far").await?;
    app.collection("users").insert_one(doc! { "_id": "after" }).await?;
    app.run_command(doc! { "create": "seen", "viewOn": "users", "pipeline": [
    { "$lookup": { "from": "former", "localField": "_id", "foreignField": "_id", "as": "x" } },
    { "$unionWith": { "coll": "users", "pipeline": [{ "$match": { "_id": "after" } }] } } ] })
        .await?;
    client.database("dropped").collection("x").insert_one(doc! { "_id": 1 }).await?;
    client.database("dropped").drop().await?;
    drop(slow);
    daemon.launch().await?;
    daemon.commit(LONG).await?;

    let there = pair.destination.client();
    assert_eq!(names(&there, "shop").await?, ["former", "made", "people", "seen"]);
    assert_eq!(names(&there, "audit").await?, ["app.log"]);
    assert!(names(&there, "app").await?.is_empty());
    for (ours, theirs) in [
        (("app", "users"), ("shop", "people")),
        (("app", "former"), ("shop", "former")),
        (("app", "made"), ("shop", "made")),
        (("app", "log"), ("audit", "app.log")),
        (("third", "far"), ("third", "far")),
        (("other", "same"), ("other", "same")),
        (("app", "seen"), ("shop", "seen")),
    ] {
        let wanted = documents(&client, ours.0, ours.1).await?;
        assert!(!wanted.is_empty(), "{ours:?}");
        assert!(wanted == documents(&there, theirs.0, theirs.1).await?, "{ours:?} in {theirs:?}");
    }
    assert!(index(&there, "shop", "former", "uni").await?.get_bool("unique")?);
    Ok(())
}

#[tokio::test]
async fn renamed_namespaces_follow_every_change_during_the_copy() -> Result<()> {
    remapped(Phase::Copy).await
}

#[tokio::test]
async fn renamed_namespaces_follow_every_change_during_the_stream() -> Result<()> {
    remapped(Phase::Stream).await
}

#[tokio::test]
async fn a_renamed_database_arrives_whole_under_random_load() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 3000, 5).await?;
    let live = Workload::start(&client, &Plan::new(77, "live").with_ddl());
    let mut daemon = pair.daemon().await?;
    let entry = json!({ "from": { "database": "live" }, "to": { "database": "lively" } });
    daemon.start_with(json!({ "namespaceRemap": [entry] })).await?;
    live.writes(300).await?;
    daemon.kill();
    daemon.launch().await?;
    daemon.wait_can_commit(LONG).await?;
    live.writes(300).await?;
    live.stop().await?;
    daemon.commit(LONG).await?;
    let there = pair.destination.client();
    let expected = names(&client, "live").await?;
    assert_eq!(names(&there, "lively").await?, expected);
    let capped = |spec: &Document| spec.get_bool("capped").unwrap_or(false);
    for name in expected {
        let spec = client
            .database("live")
            .run_command(doc! { "listCollections": 1, "filter": { "name": &name } })
            .await?;
        let first = spec.get_document("cursor")?.get_array("firstBatch")?[0].as_document();
        if first.is_some_and(|entry| entry.get_document("options").is_ok_and(capped)) {
            continue;
        }
        assert!(
            documents(&client, "live", &name).await? == documents(&there, "lively", &name).await?,
            "{name}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn names_that_cannot_be_given_are_refused_all_at_once() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for (database, name) in [("a", "c"), ("b", "c"), ("x", "t"), ("near", "base")] {
        client.database(database).collection(name).insert_one(doc! { "_id": 1 }).await?;
    }
    let view = doc! { "create": "v", "viewOn": "base", "pipeline": [] };
    client.database("near").run_command(view).await?;
    pair.destination
        .client()
        .database("There")
        .collection("t")
        .insert_one(doc! { "_id": 1 })
        .await?;
    let before = inventory(&pair.destination.client()).await?;
    let daemon = pair.daemon().await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1", "namespaceRemap": [
        { "from": { "database": "a", "collection": "c" }, "to": { "database": "b", "collection": "c" } },
        { "from": { "database": "x" }, "to": { "database": "there" } },
        { "from": { "database": "near", "collection": "base" },
          "to": { "database": "far", "collection": "base" } } ] });
    let answer = daemon.post("start", &body).await?;
    assert_eq!((answer.status, answer.error()), (400, "NamespaceRemapConflict"), "{answer:?}");
    let text = answer.body["errorDescription"].as_str().unwrap_or_default();
    for expected in
        ["a.c and b.c would both become b.c", "databases There and there", "the view near.v"]
    {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    let mut after = inventory(&pair.destination.client()).await?;
    after.retain(|name, _| !name.starts_with(METADATA));
    assert_eq!(after, before);
    assert_eq!(daemon.progress().await?["state"], "IDLE");
    Ok(())
}

#[tokio::test]
async fn a_new_collection_whose_name_is_taken_stops_the_sync() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    client.database("a").collection("c").insert_one(doc! { "_id": 1 }).await?;
    let mut daemon = pair.daemon().await?;
    let entry = json!({ "from": { "database": "a", "collection": "c" },
        "to": { "database": "b", "collection": "c" } });
    daemon.start_with(json!({ "namespaceRemap": [entry] })).await?;
    daemon.wait_can_commit(LONG).await?;
    client.database("b").collection("c").insert_one(doc! { "_id": 2 }).await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1802"), "{}", daemon.output_tail());
    let kept = documents(&pair.destination.client(), "b", "c").await?;
    assert_eq!(kept, [rawdoc! { "_id": 1 }]);
    Ok(())
}

/// Begins a filtered sync, renames, and returns how it ends: with this code or committed.
async fn renamed_under_filter(filter: Value, from: &str, to: &str) -> Result<Option<&'static str>> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    for name in ["one.a", "one.b", "two.a", "out.a"] {
        let (database, collection) = name.split_once('.').unwrap_or_default();
        client.database(database).collection(collection).insert_one(doc! { "_id": name }).await?;
    }
    let mut daemon = pair.daemon().await?;
    daemon.start_with(filter).await?;
    daemon.wait_can_commit(LONG).await?;
    rename(&client, from, to).await?;
    // Whatever the rename does, this comes after it.
    client.database("two").collection("a").insert_one(doc! { "_id": "later" }).await?;
    let ended = daemon.wait_for("the end", LONG, |p| p["totalEventsApplied"].as_u64() > Some(0));
    if ended.await.is_err() {
        daemon.wait(LONG).await?;
        assert!(daemon.output().contains("SYNC-1801"), "{}", daemon.output_tail());
        return Ok(Some("SYNC-1801"));
    }
    daemon.commit(LONG).await?;
    let there = pair.destination.client();
    let (database, collection) = to.split_once('.').unwrap_or_default();
    assert!(
        documents(&there, database, collection).await?
            == documents(&client, database, collection).await?
    );
    Ok(None)
}

#[tokio::test]
async fn renames_within_the_filter_are_followed_and_others_stop_the_sync() -> Result<()> {
    let filter = json!({ "includeNamespaces": [
        { "database": "one", "collections": ["a", "c"] }, { "database": "two" } ] });
    let outcome =
        |from: &'static str, to: &'static str| renamed_under_filter(filter.clone(), from, to);
    // Whole database; both names listed; into a whole database.
    assert_eq!(outcome("two.a", "two.z").await?, None);
    assert_eq!(outcome("one.a", "one.c").await?, None);
    assert_eq!(outcome("one.a", "two.z").await?, None);
    // One name is not listed; into a part of a database.
    assert_eq!(outcome("one.a", "one.d").await?, Some("SYNC-1801"));
    assert_eq!(outcome("two.a", "one.c").await?, Some("SYNC-1801"));
    Ok(())
}

#[tokio::test]
async fn patterns_choose_as_the_server_would() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let candidates = ["app_eu", "APP_US", "app", "my_app_x", "app_test_1", "äpp_x", "app_9"];
    let find = client.database("probe").collection::<Document>("names");
    for name in candidates {
        find.insert_one(doc! { "_id": name }).await?;
        client.database("d").collection(name).insert_one(doc! { "_id": 1 }).await?;
    }
    for (pattern, options) in [
        ("^app_", ""),
        ("^app_", "i"),
        ("^app_(?!test)", ""),
        ("^app_ (eu | \\d) $", "x"),
        ("^(?<word>\\w+)_x$", ""),
        ("^[\\w]{3,}_\\d$", ""),
        ("^.pp_x$", "s"),
        ("(?i)^APP$", ""),
    ] {
        let mut cursor = find
            .find(doc! { "_id": { "$regex": pattern, "$options": options } })
            .sort(doc! { "_id": 1 })
            .await?;
        let mut expected = Vec::new();
        while cursor.advance().await? {
            expected.push(cursor.deserialize_current()?.get_str("_id")?.to_owned());
        }
        let daemon = pair.daemon().await?;
        daemon
            .start_with(json!({ "includeNamespaces": [{ "database": "d",
                "collectionsRegex": { "pattern": pattern, "options": options } }] }))
            .await?;
        daemon.commit(LONG).await?;
        let there = pair.destination.client();
        assert_eq!(names(&there, "d").await?, expected, "{pattern} {options}");
        drop(daemon);
        there.database("d").drop().await?;
        there.database(METADATA).drop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn data_that_was_there_stays_beside_what_is_synced() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 500, 1).await?;
    workload::seed(&client, "app", "other", 50, 2).await?;
    let there = pair.destination.client();
    workload::seed(&there, "app", "other", 70, 3).await?;
    there
        .database("app")
        .run_command(doc! { "create": "v", "viewOn": "other", "pipeline": [] })
        .await?;
    workload::seed(&there, "theirs", "x", 30, 4).await?;
    let before = inventory(&there).await?;
    let daemon = pair.daemon().await?;
    let start = |options: Value| {
        let mut body = json!({ "source": "cluster0", "destination": "cluster1",
            "preExistingDestinationData": true });
        if let (Some(body), Value::Object(options)) = (body.as_object_mut(), options) {
            body.extend(options);
        }
        body
    };
    let unfiltered = daemon.post("start", &start(json!({}))).await?;
    assert_eq!((unfiltered.status, unfiltered.error()), (400, "StartOptionsInvalid"));
    let taken = daemon
        .post("start", &start(json!({ "includeNamespaces": [{ "database": "app" }] })))
        .await?;
    assert_eq!((taken.status, taken.error()), (409, "NamespaceConflict"), "{taken:?}");
    assert!(taken.body["errorDescription"].as_str().is_some_and(|t| t.contains("app.other")));

    daemon
        .start_with(json!({ "preExistingDestinationData": true,
            "includeNamespaces": [{ "database": "app" }],
            "excludeNamespaces": [{ "database": "app", "collections": ["other", "v"] }] }))
        .await?;
    daemon.wait_can_commit(LONG).await?;
    there.database("theirs").collection("x").insert_one(doc! { "_id": "not blocked" }).await?;
    daemon.commit(LONG).await?;
    pair.check(Comparison::new().only(|name| name == "app.items")).await?;
    let after = inventory(&there).await?;
    for name in ["app.other", "app.v"] {
        assert_eq!(after.get(name), before.get(name), "{name}");
    }
    Ok(())
}

/// How a view is defined.
async fn view(client: &Client, name: &str) -> Result<Document> {
    let command = doc! { "listCollections": 1, "filter": { "name": name, "type": "view" } };
    let mut found = client.database("app").run_cursor_command(command).await?;
    anyhow::ensure!(found.advance().await?, "there is no view {name}");
    Ok(found.deserialize_current()?.get_document("options")?.clone())
}

#[tokio::test]
async fn views_of_others_stay_and_none_takes_the_place_of_another() -> Result<()> {
    let pair = Pair::start().await?;
    let (here, there) = (pair.source.client(), pair.destination.client());
    workload::seed(&here, "app", "items", 50, 1).await?;
    workload::seed(&there, "app", "theirs", 5, 2).await?;
    let define = async |client: &Client, name: &str, base: &str| {
        let command = doc! { "create": name, "viewOn": base, "pipeline": [] };
        client.database("app").run_command(command).await
    };
    define(&there, "report", "theirs").await?;
    define(&here, "ours", "items").await?;
    let mut daemon = pair.daemon().await?;
    daemon
        .start_with(json!({ "preExistingDestinationData": true,
            "includeNamespaces": [{ "database": "app" }] }))
        .await?;
    daemon.wait_can_commit(LONG).await?;
    // They come to want the same name.
    define(&here, "both", "items").await?;
    define(&there, "both", "theirs").await?;
    daemon.wait_can_commit(LONG).await?;
    daemon.command("commit").await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1201"), "{}", daemon.output_tail());
    assert_eq!(view(&there, "both").await?.get_str("viewOn")?, "theirs");
    there.database("app").collection::<Document>("both").drop().await?;
    daemon.launch().await?;
    daemon.wait_state("COMMITTED", LONG).await?;
    assert_eq!(view(&there, "report").await?.get_str("viewOn")?, "theirs");
    for name in ["ours", "both"] {
        assert_eq!(view(&there, name).await?, view(&here, name).await?, "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn a_created_collection_does_not_adopt_an_empty_one_of_others() -> Result<()> {
    let pair = Pair::start().await?;
    let (here, there) = (pair.source.client().database("app"), pair.destination.client());
    let there = there.database("app");
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    let mut daemon = pair.daemon().await?;
    daemon
        .start_with(json!({ "preExistingDestinationData": true,
            "includeNamespaces": [{ "database": "app" }] }))
        .await?;
    daemon.wait_can_commit(LONG).await?;
    // One that is created in the moment of a death is ours.
    let data = doc! { "failCommands": ["update"], "namespace": format!("{METADATA}.collections"),
    "blockConnection": true, "blockTimeMS": 60_000 };
    let held = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    here.create_collection("born").await?;
    let is_born = async || match there.list_collection_names().await {
        Ok(names) if names.contains(&"born".to_owned()) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("the collection on the destination", LONG, is_born).await?;
    daemon.kill();
    drop(held);
    daemon.launch().await?;
    here.collection("born").insert_one(doc! { "_id": 1 }).await?;
    pair.wait_applied(&daemon).await?;
    assert_eq!(documents(&pair.destination.client(), "app", "born").await?.len(), 1);

    there.create_collection("late").await?;
    here.collection("late").insert_one(doc! { "_id": "ours" }).await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1201"), "{}", daemon.output_tail());
    assert!(documents(&pair.destination.client(), "app", "late").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_created_collection_never_merges_with_data_that_was_there() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "app", "items", 50, 1).await?;
    let there = pair.destination.client();
    let mut daemon = pair.daemon().await?;
    daemon
        .start_with(json!({ "preExistingDestinationData": true,
            "includeNamespaces": [{ "database": "app" }] }))
        .await?;
    daemon.wait_can_commit(LONG).await?;
    there.database("app").collection("late").insert_one(doc! { "_id": "theirs" }).await?;
    client.database("app").collection("late").insert_one(doc! { "_id": "ours" }).await?;
    daemon.wait(LONG).await?;
    assert!(daemon.output().contains("SYNC-1201"), "{}", daemon.output_tail());
    assert_eq!(documents(&there, "app", "late").await?, [rawdoc! { "_id": "theirs" }]);
    Ok(())
}

#[tokio::test]
async fn document_filters_judge_by_the_name_on_the_source() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let users = client.database("app").collection("users");
    users
        .insert_many(
            (0..40_i32).map(|n| doc! { "_id": n, "status": if n % 2 == 0 { "on" } else { "off" } }),
        )
        .await?;
    let config: Config = pair
        .config()
        .with(
            "plugins",
            json!([{ "name": "on-only", "component": "builtin:match-documents",
            "config": { "keep": { "status": "on" } } }]),
        )
        .with(
            "filters",
            json!([{ "namespaces": [{ "database": "app", "collections": ["users"] }],
            "plugins": ["on-only"] }]),
        );
    let daemon = syncline_tests::daemon::Daemon::start(config).await?;
    daemon.start_with(json!({ "namespaceRemap": remap() })).await?;
    daemon.wait_can_commit(LONG).await?;
    users.update_one(doc! { "_id": 0 }, doc! { "$set": { "status": "off" } }).await?;
    users.update_one(doc! { "_id": 1 }, doc! { "$set": { "status": "on" } }).await?;
    daemon.commit(LONG).await?;
    let there = documents(&pair.destination.client(), "shop", "people").await?;
    let ids: Vec<i32> = there.iter().map(|d| d.get_i32("_id").unwrap_or_default()).collect();
    let expected: Vec<i32> = (0..40).filter(|n| (n % 2 == 0 && *n != 0) || *n == 1).collect();
    assert_eq!(ids, expected);
    Ok(())
}
