//! The harness itself: servers start, end and come back; the comparison sees every kind of difference.

use std::time::Duration;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use mongodb::{
    Client,
    bson::{Bson, Document, doc, rawdoc},
};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    compare::{Comparison, Expected, Report},
    eventually::eventually,
    faults::Mode,
    workload::{self, Plan, Workload},
};

/// Two clusters with the same data, for the comparison to tell apart.
struct Twins {
    /// One.
    source: ReplicaSet,
    /// The other.
    destination: ReplicaSet,
}

impl Twins {
    /// Starts both and fills them alike.
    async fn start() -> Result<Self> {
        let (source, destination) = tokio::try_join!(
            ReplicaSet::start(Options::single()),
            ReplicaSet::start(Options::single())
        )?;
        for client in [source.client(), destination.client()] {
            fill(&client).await?;
        }
        Ok(Self { source, destination })
    }

    /// Compares them.
    async fn compare(&self) -> Result<Report> {
        Comparison::new().run(&self.source.client(), &self.destination.client()).await
    }

    /// Changes the destination, looks at the one difference, and changes it back.
    async fn expect_difference(&self, what: &str, change: Document, undo: Document) -> Result<()> {
        let database = self.destination.client().database("app");
        database.run_command(change).await?;
        let report = self.compare().await?;
        assert_eq!(report.difference_count, 1, "{report}");
        assert!(report.differences[0].what.contains(what), "{report}");
        assert!(report.check().is_err());
        database.run_command(undo).await?;
        let report = self.compare().await?;
        assert!(report.is_identical(), "the change was not undone: {report}");
        Ok(())
    }
}

/// A little of everything, with ids of many types.
async fn fill(client: &Client) -> Result<()> {
    let database = client.database("app");
    database
        .run_command(doc! {
            "create": "items",
            "validator": { "a": { "$ne": -1 } },
            "validationLevel": "strict",
            "validationAction": "error",
        })
        .await?;
    let ids = [
        Bson::Int32(1),
        Bson::Int64(2),
        Bson::Double(2.5),
        Bson::String("three".to_owned()),
        Bson::Boolean(true),
        Bson::Null,
        Bson::Document(doc! { "x": 1, "y": 2 }),
        Bson::DateTime(mongodb::bson::DateTime::from_millis(5)),
    ];
    let documents: Vec<Document> =
        ids.into_iter().map(|id| doc! { "_id": id, "a": 1, "b": { "c": [1, 2.0, "x"] } }).collect();
    database.collection("items").insert_many(documents).await?;
    let indexes = doc! {
        "createIndexes": "items",
        "indexes": [
            { "key": { "a": 1, "b.c": -1 }, "name": "a_b" },
            { "key": { "b.c": 1 }, "name": "partial", "partialFilterExpression": { "a": 1 } },
        ],
    };
    database.run_command(indexes).await?;
    let view = doc! { "create": "ones", "viewOn": "items", "pipeline": [{ "$match": { "a": 1 } }] };
    database.run_command(view).await?;
    database.run_command(doc! { "create": "ring", "capped": true, "size": 4096 }).await?;
    for number in 0..3 {
        database.collection("ring").insert_one(doc! { "_id": number }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_comparison_sees_every_kind_of_difference() -> Result<()> {
    let twins = Twins::start().await?;
    let report = twins.compare().await?;
    report.check()?;
    assert_eq!((report.databases, report.collections, report.views), (1, 2, 1), "{report}");
    assert_eq!((report.documents, report.indexes), (11, 4), "{report}");
    assert!(report.bytes > 0);

    let original = doc! { "_id": 1, "a": 1, "b": { "c": [1, 2.0, "x"] } };
    let restore = doc! { "update": "items", "updates": [{ "q": { "_id": 1 }, "u": &original, "upsert": true }] };
    let replace_by = |document: Document| {
        doc! { "update": "items", "updates": [{ "q": { "_id": 1 }, "u": document }] }
    };
    let delete =
        |id: Bson| doc! { "delete": "items", "deletes": [{ "q": { "_id": id }, "limit": 1 }] };

    twins.expect_difference("missing: ", delete(Bson::Int32(1)), restore.clone()).await?;
    let surplus = doc! { "insert": "items", "documents": [{ "_id": 2.25 }] };
    twins.expect_difference("only on the destination", surplus, delete(Bson::Double(2.25))).await?;
    let reordered = doc! { "_id": 1, "b": { "c": [1, 2.0, "x"] }, "a": 1 };
    twins.expect_difference("order or name", replace_by(reordered), restore.clone()).await?;
    let inner = doc! { "_id": 1, "a": 1, "b": { "c": [1, 2, "x"] } };
    twins.expect_difference("field b", replace_by(inner), restore.clone()).await?;
    let long = doc! { "_id": 1, "a": 1_i64, "b": { "c": [1, 2.0, "x"] } };
    twins.expect_difference("Int32, Int64", replace_by(long), restore.clone()).await?;

    let hide =
        |hidden: bool| doc! { "collMod": "items", "index": { "name": "a_b", "hidden": hidden } };
    twins.expect_difference("index a_b differs", hide(true), hide(false)).await?;
    let extra = doc! { "createIndexes": "items", "indexes": [{ "key": { "z": 1 }, "name": "z" }] };
    let drop_extra = doc! { "dropIndexes": "items", "index": "z" };
    twins.expect_difference("index z is only", extra, drop_extra).await?;
    let drop_index = doc! { "dropIndexes": "items", "index": "a_b" };
    let partly = doc! {
        "createIndexes": "items",
        "indexes": [{ "key": { "a": 1, "b.c": -1 }, "name": "a_b" }],
    };
    twins.expect_difference("index a_b is missing", drop_index, partly).await?;

    let option = |value: i32| doc! { "collMod": "items", "validator": { "a": { "$ne": value } } };
    twins.expect_difference("options differ", option(-2), option(-1)).await?;
    let view = |value: i32| {
        doc! { "collMod": "ones", "viewOn": "items", "pipeline": [{ "$match": { "a": value } }] }
    };
    twins.expect_difference("options differ", view(2), view(1)).await?;
    let create = doc! { "create": "empty" };
    twins.expect_difference("only on the destination", create, doc! { "drop": "empty" }).await?;
    Ok(())
}

#[tokio::test]
async fn the_comparison_sees_an_id_of_another_type_and_another_natural_order() -> Result<()> {
    let twins = Twins::start().await?;
    let items = twins.destination.client().database("app").collection::<Document>("items");
    items.delete_one(doc! { "_id": 1 }).await?;
    items.insert_one(doc! { "_id": 1_i64, "a": 1, "b": { "c": [1, 2.0, "x"] } }).await?;
    let report = twins.compare().await?;
    assert_eq!(report.difference_count, 1, "{report}");
    assert!(report.differences[0].what.contains("_id of another type"), "{report}");

    let database = twins.destination.client().database("app");
    database.collection::<Document>("ring").drop().await?;
    database.run_command(doc! { "create": "ring", "capped": true, "size": 4096 }).await?;
    for number in [0, 2, 1] {
        database.collection("ring").insert_one(doc! { "_id": number }).await?;
    }
    let report = twins.compare().await?;
    assert_eq!(report.difference_count, 2, "{report}");
    assert!(report.differences[1].what.contains("natural order"), "{report}");
    Ok(())
}

#[tokio::test]
async fn the_comparison_applies_an_expected_transformation() -> Result<()> {
    let twins = Twins::start().await?;
    let items = twins.destination.client().database("app").collection::<Document>("items");
    items.delete_one(doc! { "_id": 2 }).await?;
    items.replace_one(doc! { "_id": 1 }, doc! { "other": true }).await?;
    let comparison = Comparison::new().expecting(|namespace, document| {
        if namespace != "app.items" {
            return Expected::Same;
        }
        if document.get_i64("_id").is_ok() {
            return Expected::Nothing;
        }
        if document.get_i32("_id").is_ok() {
            return Expected::Instead(rawdoc! { "_id": 1, "other": true });
        }
        Expected::Same
    });
    let report = comparison.run(&twins.source.client(), &twins.destination.client()).await?;
    report.check()?;
    assert_eq!(report.withheld, 1);
    assert_eq!(twins.compare().await?.difference_count, 2);
    Ok(())
}

#[tokio::test]
async fn a_killed_member_comes_back_with_its_data_and_a_dropped_one_leaves_nothing() -> Result<()> {
    let mut set = ReplicaSet::start(Options::single()).await?;
    set.client().database("app").collection("items").insert_one(doc! { "_id": 1 }).await?;
    let pid = set.servers()[0].pid().unwrap();
    let folder = set.servers()[0].log_file().parent().unwrap().to_owned();
    set.server_mut(0).kill();
    assert!(!set.servers()[0].is_running());
    set.server_mut(0).launch().await?;
    set.wait_writable().await?;
    let again = set.servers()[0].pid().unwrap();
    assert_ne!(pid, again);
    let items = set.client().database("app").collection::<Document>("items");
    assert_eq!(items.count_documents(doc! {}).await?, 1);
    drop(set);
    assert!(!std::path::Path::new(&format!("/proc/{again}")).exists());
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn three_members_elect_again_after_a_step_down() -> Result<()> {
    let set = ReplicaSet::start(Options::three()).await?;
    let items = set.client().database("app").collection("items");
    items.insert_one(doc! { "_id": 1 }).await?;
    set.step_down().await?;
    items.insert_one(doc! { "_id": 2 }).await?;
    assert_eq!(items.count_documents(doc! {}).await?, 2);
    Ok(())
}

#[tokio::test]
async fn users_must_authenticate_and_others_are_refused() -> Result<()> {
    let set = ReplicaSet::start(Options::single().with_auth()).await?;
    set.client().database("app").collection("items").insert_one(doc! { "_id": 1 }).await?;
    let stranger = Client::with_uri_str(set.uri_without_credentials()).await?;
    let refused = stranger.database("app").collection("items").insert_one(doc! { "_id": 2 }).await;
    assert!(refused.unwrap_err().to_string().contains("requires authentication"));
    set.create_user("reader", "secret", &["read"]).await?;
    assert!(set.uri_as("reader", "secret").contains("reader:secret@"));
    Ok(())
}

#[tokio::test]
async fn a_fail_point_ends_with_its_guard() -> Result<()> {
    let set = ReplicaSet::start(Options::single()).await?;
    let items = set.client().database("app").collection::<Document>("items");
    let data = doc! { "failCommands": ["count", "aggregate"], "errorCode": 8 };
    let guard = set.fail_point("failCommand", "alwaysOn", data).await?;
    assert!(items.count_documents(doc! {}).await.is_err());
    drop(guard);
    assert_eq!(items.count_documents(doc! {}).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_proxied_set_is_reached_through_its_proxy_alone() -> Result<()> {
    let set = ReplicaSet::start(Options::single().proxied()).await?;
    let uri = format!("{}&serverSelectionTimeoutMS=500&heartbeatFrequencyMS=500", set.uri());
    let client = Client::with_uri_str(uri).await?;
    let ping = || async {
        client.database("admin").run_command(doc! { "ping": 1 }).await.map_err(|e| e.to_string())
    };
    ping().await.map_err(anyhow::Error::msg)?;
    set.proxy()?.set(Mode::Cut);
    assert!(ping().await.is_err());
    set.proxy()?.set(Mode::Open);
    eventually("the way back", Duration::from_secs(10), ping).await?;
    Ok(())
}

#[tokio::test]
async fn a_standalone_is_no_replica_set() -> Result<()> {
    let single = ReplicaSet::start(Options::standalone()).await?;
    let hello = single.client().database("admin").run_command(doc! { "hello": 1 }).await?;
    assert!(hello.get("setName").is_none());
    Ok(())
}

#[tokio::test]
async fn a_workload_writes_every_kind_of_change_and_stops() -> Result<()> {
    use std::collections::BTreeSet;
    let set = ReplicaSet::start(Options::single()).await?;
    let client = set.client();
    workload::seed(&client, "live", "alpha", 1500, 3).await?;
    let alpha = client.database("live").collection::<Document>("alpha");
    assert_eq!(alpha.count_documents(doc! {}).await?, 1500);
    let mut stream = client.watch().await?.with_type::<Document>();
    let plan = Plan { pause: Duration::ZERO, ..Plan::new(11, "live").with_ddl() };
    let workload = Workload::start(&client, &plan);
    workload.writes(2000).await?;
    let counts = workload.stop().await?;
    assert!(counts.refused < counts.writes, "{counts:?}");
    assert!(counts.writes >= 600 && counts.transactions > 0 && counts.ddl > 0, "{counts:?}");

    let mut kinds = BTreeSet::new();
    alpha.insert_one(doc! { "_id": "the end" }).await?;
    while let Some(event) = stream.try_next().await? {
        kinds.insert(event.get_str("operationType")?.to_owned());
        if event
            .get_document("documentKey")
            .is_ok_and(|key| key.get_str("_id").ok() == Some("the end"))
        {
            break;
        }
    }
    for kind in ["insert", "update", "replace", "delete"] {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
    Ok(())
}

#[test]
fn every_module_of_this_suite_is_part_of_it() -> Result<()> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    let main = std::fs::read_to_string(folder.join("main.rs"))?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let declared = main.lines().any(|line| line == format!("mod {name};"));
        assert!(name == "main" || declared, "{name} is not declared in main.rs and never runs");
    }
    Ok(())
}
