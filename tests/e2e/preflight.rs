//! `syncline preflight` and the roles it prints, through the real program.

use anyhow::{Context, Result};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    command::{self, Finished},
    daemon::{Config, Daemon},
    ports::Port,
    workload,
};

use super::support::{LONG, Pair, Phase, has_metadata, inventory};

/// Runs a preflight between two connection strings.
async fn preflight(source: &str, destination: &str, arguments: &[&str]) -> Result<Finished> {
    let environment = [("SYNCLINE_CLUSTER0", source), ("SYNCLINE_CLUSTER1", destination)];
    command::run(&[&["preflight"], arguments].concat(), &environment).await
}

/// The finding of a check on a cluster that is not `ok`, or the one that is.
fn finding<'a>(report: &'a Value, check: &str, cluster: &str) -> Result<&'a Value> {
    let all = report["findings"].as_array().context("no findings")?;
    let of_check = || all.iter().filter(|one| one["check"] == check && one["cluster"] == cluster);
    of_check()
        .find(|one| one["result"] != "ok")
        .or_else(|| of_check().next())
        .with_context(|| format!("no finding {check} on {cluster}: {report:#}"))
}

#[tokio::test]
async fn sound_clusters_pass_and_nothing_is_written() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let unique = doc! { "key": { "code": 1 }, "name": "code", "unique": true, "sparse": true };
    let create = doc! { "createIndexes": "items", "indexes": [unique] };
    pair.source.client().database("app").run_command(create).await?;
    let (source, destination) = (pair.source.uri(), pair.destination.uri());
    let text = preflight(&source, &destination, &[]).await?;
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.stdout.contains("access control is off"), "{}", text.stdout);
    let arguments = ["--reversible", "--output", "json"];
    let json = preflight(&source, &destination, &arguments).await?.json()?;
    assert_eq!(json["success"], true, "{json:#}");
    let formats = &finding(&json, "indexFormats", "source")?["detail"];
    assert!(formats.as_str().is_some_and(|text| text.starts_with("1 unique index")), "{json:#}");
    for (check, cluster) in [
        ("version", "source"),
        ("version", "destination"),
        ("featureCompatibility", "source"),
        ("topology", "destination"),
        ("privileges", "source"),
        ("collections", "source"),
        ("indexFormats", "source"),
        ("namespaces", "destination"),
        ("oplog", "source"),
        ("diskSpace", "destination"),
    ] {
        assert_eq!(finding(&json, check, cluster)?["result"], "ok", "{check} {cluster}: {json:#}");
    }
    assert!(!has_metadata(&pair.destination.client()).await?);
    assert!(inventory(&pair.destination.client()).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once_and_start_refuses_the_same() -> Result<()> {
    let pair = Pair::start().await?;
    let source = pair.source.client();
    workload::seed(&source, "app", "items", 10, 1).await?;
    workload::seed(&source, "app", "orders", 10, 2).await?;
    let series = doc! { "create": "series", "timeseries": { "timeField": "at" } };
    source.database("app").run_command(series).await?;
    workload::seed(&pair.destination.client(), "app", "items", 3, 3).await?;
    workload::seed(&pair.destination.client(), "app", "orders", 3, 4).await?;
    let before = inventory(&pair.destination.client()).await?;

    let uris = (pair.source.uri(), pair.destination.uri());
    let found = preflight(&uris.0, &uris.1, &["--output", "json"]).await?;
    assert_eq!(found.code, Some(1), "the first failure is of the source: {found:?}");
    let report = found.json()?;
    let collections = finding(&report, "collections", "source")?;
    assert_eq!(collections["items"], json!(["app.series (time-series)"]));
    assert_eq!(collections["code"], "SYNC-1402");
    let namespaces = finding(&report, "namespaces", "destination")?;
    let mut names = namespaces["items"].as_array().cloned().unwrap_or_default();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["app.items", "app.orders"]);
    assert!(found.stderr.contains("app.series") && found.stderr.contains("app.items"));

    let daemon = pair.daemon().await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1" });
    let refused = daemon.post("start", &body).await?;
    assert_eq!(refused.body["code"], "SYNC-1402", "{refused:?}");
    let told = refused.body["errorDescription"].as_str().context("no text")?;
    assert!(told.contains("app.series") && told.contains("app.orders"), "{told}");
    assert_eq!(inventory(&pair.destination.client()).await?, before);

    // With a filter that leaves out what is in the way, both let it pass.
    let only = r#"[{"database": "app", "collections": ["other"]}]"#;
    let filtered = preflight(&uris.0, &uris.1, &["--includeNamespaces", only]).await?;
    assert_eq!(filtered.code, Some(0), "{filtered:?}");
    Ok(())
}

#[tokio::test]
async fn indexes_that_differ_only_in_being_unique_are_named_before_and_during_a_sync() -> Result<()>
{
    let pair = Pair::start().await?;
    let source = pair.source.client();
    let app = source.database("app");
    workload::seed(&source, "app", "items", 10, 1).await?;
    let key = || doc! { "_id": 1, "n": 1 };
    let plain = doc! { "key": key(), "name": "plain" };
    let unique = doc! { "key": key(), "name": "only", "unique": true, "sparse": false };
    let both = doc! { "createIndexes": "twins", "indexes": [plain.clone(), unique.clone()] };
    app.run_command(both).await?;
    // The key alone does not make them one.
    let others = [
        doc! { "key": key(), "name": "sparse", "unique": true, "sparse": true },
        doc! { "key": { "_id": 1, "n": -1 }, "name": "down", "unique": true },
    ];
    let command = doc! { "createIndexes": "items", "indexes": others.to_vec() };
    app.run_command(doc! { "createIndexes": "items", "indexes": [plain] }).await?;
    app.run_command(command).await?;
    let uris = (pair.source.uri(), pair.destination.uri());
    let found = preflight(&uris.0, &uris.1, &["--output", "json"]).await?;
    assert_eq!(found.code, Some(1), "{found:?}");
    let report = found.json()?;
    let indexes = finding(&report, "indexes", "source")?;
    assert_eq!(indexes["items"], json!(["app.twins: plain and only"]));
    assert_eq!(indexes["code"], "SYNC-1412");
    let without = preflight(&uris.0, &uris.1, &["--buildIndexes", "never"]).await?;
    assert_eq!(without.code, Some(0), "{without:?}");

    let mut daemon = pair.daemon().await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1" });
    let refused = daemon.post("start", &body).await?;
    assert_eq!((refused.status, refused.error()), (400, "IndexesCollide"), "{refused:?}");
    app.run_command(doc! { "dropIndexes": "twins", "index": "plain" }).await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    let twin = doc! { "key": key(), "name": "twin" };
    app.run_command(doc! { "createIndexes": "twins", "indexes": [twin] }).await?;
    daemon.wait(LONG).await?;
    let output = daemon.output();
    assert!(output.contains("SYNC-1412"), "{}", daemon.output_tail());
    assert!(output.contains("app.twins: the indexes only and twin"), "{}", daemon.output_tail());
    Ok(())
}

#[tokio::test]
async fn clusters_that_cannot_be_reached_are_both_named() -> Result<()> {
    let (one, two) = (Port::reserve()?, Port::reserve()?);
    let uri = |port: &Port| {
        format!("mongodb://me:hunter2@{}/?serverSelectionTimeoutMS=500", port.address())
    };
    let found = preflight(&uri(&one), &uri(&two), &["--output", "json"]).await?;
    assert_eq!(found.code, Some(69), "{found:?}");
    let report = found.json()?;
    assert_eq!(finding(&report, "connection", "source")?["code"], "SYNC-1101");
    assert_eq!(finding(&report, "connection", "destination")?["code"], "SYNC-1101");
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_standalone_server_is_named() -> Result<()> {
    let alone = ReplicaSet::start(Options::standalone()).await?;
    let set = ReplicaSet::start(Options::single()).await?;
    let found = preflight(&set.uri(), &alone.uri(), &["--output", "json"]).await?;
    assert_eq!(found.code, Some(64), "{found:?}");
    assert_eq!(finding(&found.json()?, "connection", "destination")?["code"], "SYNC-1103");
    Ok(())
}

/// Runs `createRole` as printed for a side, under another name, and makes a user that has just it.
async fn user_of(set: &ReplicaSet, printed: &Value, user: &str) -> Result<String> {
    let mut role = printed.clone();
    role["createRole"] = json!(format!("role-of-{user}"));
    let command: Document = serde_json::from_value(role)?;
    set.client().database("admin").run_command(command).await?;
    set.create_user(user, "pass", &[&format!("role-of-{user}")]).await?;
    Ok(set.uri_as(user, "pass"))
}

/// The printed roles for some options.
async fn printed_roles(arguments: &[&str]) -> Result<Value> {
    let words = [&["preflight", "--print-roles", "--output", "json"], arguments].concat();
    let printed = command::run(&words, &[]).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    printed.json()
}

/// Syncs everything there is, with changes of every sort on the way, and commits.
async fn sync(pair: &Pair, config: Config, options: Value) -> Result<()> {
    let source = pair.source.client();
    let database = source.database("app");
    let daemon = Daemon::start(config).await?;
    daemon.start_with(options).await?;
    daemon.wait_can_commit(LONG).await?;
    let items = database.collection::<Document>("items");
    items.update_many(doc! {}, doc! { "$set": { "touched": true } }).await?;
    items.delete_one(doc! {}).await?;
    database.run_command(doc! { "create": "ring", "capped": true, "size": 4096 }).await?;
    database.collection("ring").insert_one(doc! { "_id": 1 }).await?;
    let index = doc! { "key": { "n": 1 }, "name": "later", "unique": true, "sparse": true };
    database.run_command(doc! { "createIndexes": "fresh", "indexes": [index] }).await?;
    database.run_command(doc! { "collMod": "fresh", "validationLevel": "moderate" }).await?;
    let rename = doc! { "renameCollection": "app.old", "to": "app.renamed" };
    source.database("admin").run_command(rename).await?;
    database.run_command(doc! { "dropIndexes": "items", "index": "gone_1" }).await?;
    database.collection::<Document>("dropped").drop().await?;
    pair.wait_applied(&daemon).await?;
    daemon.commit(LONG).await?;
    Ok(())
}

#[tokio::test]
async fn users_with_exactly_the_printed_roles_sync_and_commit() -> Result<()> {
    let pair =
        Pair::start_with(Options::single().with_auth(), Options::single().with_auth()).await?;
    let source = pair.source.client();
    let database = source.database("app");
    for (seed, name) in (1..).zip(["items", "old", "dropped"]) {
        workload::seed(&source, "app", name, 200, seed).await?;
    }
    let indexes = [
        doc! { "key": { "u": 1 }, "name": "u_1", "unique": true, "sparse": true },
        doc! { "key": { "gone": 1 }, "name": "gone_1" },
        doc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 9_000 },
    ];
    database.run_command(doc! { "createIndexes": "items", "indexes": indexes.to_vec() }).await?;
    database.run_command(doc! { "create": "view", "viewOn": "items", "pipeline": [] }).await?;

    let roles = printed_roles(&["--enableUserWriteBlocking", "sourceAndDestination"]).await?;
    let users = (
        user_of(&pair.source, &roles["source"], "reader").await?,
        user_of(&pair.destination, &roles["destination"], "writer").await?,
    );
    let flags = ["--output", "json", "--enableUserWriteBlocking", "sourceAndDestination"];
    let found = preflight(&users.0, &users.1, &flags).await?;
    let report = found.json()?;
    assert_eq!(found.code, Some(0), "{report:#}");
    let all = report["findings"].as_array().context("no findings")?;
    assert!(all.iter().all(|one| one["result"] == "ok"), "nothing to wish for: {report:#}");

    let config = Config::new(&users.0, &users.1);
    sync(&pair, config, json!({ "enableUserWriteBlocking": "sourceAndDestination" })).await?;
    for set in [&pair.source, &pair.destination] {
        let unblock = doc! { "setUserWriteBlockMode": 1, "global": false };
        set.client().database("admin").run_command(unblock).await?;
    }
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_missing_privilege_is_named_and_built_in_roles_are_expanded() -> Result<()> {
    let pair =
        Pair::start_with(Options::single().with_auth(), Options::single().with_auth()).await?;
    workload::seed(&pair.source.client(), "app", "items", 50, 1).await?;
    let mut roles = printed_roles(&[]).await?;
    let privileges = roles["destination"]["privileges"].as_array_mut().context("no privileges")?;
    for privilege in privileges {
        let actions = privilege["actions"].as_array_mut().context("no actions")?;
        actions.retain(|action| action != "dropIndex");
    }
    let lacking = user_of(&pair.destination, &roles["destination"], "lacking").await?;
    let found = preflight(&pair.source.uri(), &lacking, &["--output", "json"]).await?;
    assert_eq!(found.code, Some(77), "{found:?}");
    let report = found.json()?;
    let missing = finding(&report, "privileges", "destination")?;
    assert_eq!(missing["items"], json!(["dropIndex on every database"]));
    assert_eq!(missing["code"], "SYNC-1105");

    let daemon = Daemon::start(Config::new(&pair.source.uri(), &lacking)).await?;
    let body = json!({ "source": "cluster0", "destination": "cluster1" });
    let refused = daemon.post("start", &body).await?;
    assert_eq!(refused.body["code"], "SYNC-1105", "{refused:?}");
    assert!(refused.body["errorDescription"].as_str().is_some_and(|t| t.contains("dropIndex")));
    assert!(!has_metadata(&pair.destination.client()).await?, "nothing is left behind");
    drop(daemon);

    let built_in =
        ["readAnyDatabase", "backup", "clusterMonitor", "clusterManager", "hostManager", "restore"];
    pair.source.create_user("operator", "pass", &built_in).await?;
    let reader = pair.source.uri_as("operator", "pass");
    pair.destination
        .create_user(
            "owner",
            "pass",
            &[
                "restore",
                "hostManager",
                "dbAdminAnyDatabase",
                "readWriteAnyDatabase",
                "clusterMonitor",
            ],
        )
        .await?;
    let writer = pair.destination.uri_as("owner", "pass");
    let found = preflight(&reader, &writer, &["--output", "json"]).await?;
    assert_eq!(found.code, Some(0), "{found:?}");
    sync_plain(&pair, Config::new(&reader, &writer)).await
}

/// Syncs what there is and compares.
async fn sync_plain(pair: &Pair, config: Config) -> Result<()> {
    let daemon = Daemon::start(config).await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
