//! What the tests of the daemon share: a pair of clusters, and moments to act at.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::{FailPoint, Options, ReplicaSet},
    compare::{Comparison, METADATA, Report},
    daemon::{Config, Daemon},
    eventually::eventually,
};

/// Long enough for anything here on a slow, busy machine.
pub const LONG: Duration = Duration::from_secs(180);

/// How long one insert of the copy is held back while a test acts during the copy.
const SLOW_INSERT_MS: i32 = 1500;

/// Two clusters.
pub struct Pair {
    /// cluster0
    pub source: ReplicaSet,
    /// cluster1
    pub destination: ReplicaSet,
}

/// When a scenario acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// While documents are being copied.
    Copy,
    /// After the copy, while changes are applied.
    Stream,
}

impl Pair {
    /// Two sets of one member each.
    pub async fn start() -> Result<Self> {
        Self::start_with(Options::single(), Options::single()).await
    }

    /// Two clusters of that kind.
    pub async fn start_with(source: Options, destination: Options) -> Result<Self> {
        let (source, destination) =
            tokio::try_join!(ReplicaSet::start(source), ReplicaSet::start(destination))?;
        Ok(Self { source, destination })
    }

    /// Options of a daemon between them.
    pub fn config(&self) -> Config {
        Config::new(&self.source.uri(), &self.destination.uri())
    }

    /// A daemon between them, not yet told to start.
    pub async fn daemon(&self) -> Result<Daemon> {
        Daemon::start(self.config()).await
    }

    /// Compares everything; fails on any difference.
    pub async fn check_identical(&self) -> Result<Report> {
        self.check(Comparison::new()).await
    }

    /// Compares in one way; fails on any difference.
    pub async fn check(&self, comparison: Comparison) -> Result<Report> {
        let report = comparison.run(&self.source.client(), &self.destination.client()).await?;
        report.check()?;
        Ok(report)
    }

    /// Holds back every insert on the destination, so that the copy lasts until the guard is dropped.
    pub async fn slow_copy(&self) -> Result<FailPoint> {
        let data = doc! {
            "failCommands": ["insert"], "blockConnection": true, "blockTimeMS": SLOW_INSERT_MS,
        };
        self.destination.fail_point("failCommand", "alwaysOn", data).await
    }

    /// Starts the sync and returns in the given phase. During the copy, the guard holds it there.
    pub async fn begin(&self, daemon: &Daemon, phase: Phase) -> Result<Option<FailPoint>> {
        self.begin_with(daemon, phase, json!({})).await
    }

    /// The same with more options of `/start`.
    ///
    /// # Errors
    /// When the phase is not reached.
    pub async fn begin_with(
        &self,
        daemon: &Daemon,
        phase: Phase,
        options: Value,
    ) -> Result<Option<FailPoint>> {
        let guard = match phase {
            Phase::Copy => Some(self.slow_copy().await?),
            Phase::Stream => None,
        };
        daemon.start_with(options).await?;
        match phase {
            Phase::Copy => wait_info(daemon, "collection copy").await?,
            Phase::Stream => daemon.wait_can_commit(LONG).await?,
        };
        Ok(guard)
    }

    /// Waits until the destination has everything that is on the source now, whether or not anything
    /// is written to the source.
    pub async fn wait_applied(&self, daemon: &Daemon) -> Result<Value> {
        let hello = self.source.client().database("admin").run_command(doc! { "hello": 1 }).await?;
        let last = hello.get_document("lastWrite")?.get_document("opTime")?.get_timestamp("ts")?;
        let goal = (u64::from(last.time), u64::from(last.increment));
        daemon
            .wait_for(&format!("the changes up to {goal:?} on the destination"), LONG, |progress| {
                applied(progress).is_some_and(|time| time >= goal)
            })
            .await
    }
}

/// `appliedClusterTime` of a progress.
pub fn applied(progress: &Value) -> Option<(u64, u64)> {
    let time = &progress["appliedClusterTime"];
    Some((time["t"].as_u64()?, time["i"].as_u64()?))
}

/// Waits for an `info`.
pub async fn wait_info(daemon: &Daemon, info: &str) -> Result<Value> {
    daemon.wait_for(&format!("info {info}"), LONG, |progress| progress["info"] == info).await
}

/// What is on a cluster in short: document counts and index names by namespace. Equal before and after
/// means that a refused request changed nothing.
pub async fn inventory(client: &Client) -> Result<BTreeMap<String, (u64, Vec<String>)>> {
    let mut found = BTreeMap::new();
    for database in client.list_database_names().await? {
        if ["admin", "local", "config"].contains(&database.as_str()) {
            continue;
        }
        let handle = client.database(&database);
        for name in handle.list_collection_names().await? {
            let collection = handle.collection::<Document>(&name);
            let count = collection.count_documents(doc! {}).await?;
            let mut indexes = collection.list_index_names().await.unwrap_or_default();
            indexes.sort();
            found.insert(format!("{database}.{name}"), (count, indexes));
        }
    }
    Ok(found)
}

/// Whether a daemon left its metadata database behind.
pub async fn has_metadata(client: &Client) -> Result<bool> {
    Ok(client.list_database_names().await?.iter().any(|name| name == METADATA))
}

/// One index of a collection, raw.
pub async fn index(client: &Client, database: &str, name: &str, index: &str) -> Result<Document> {
    let command = doc! { "listIndexes": name };
    let mut cursor = client.database(database).run_cursor_command(command).await?;
    while cursor.advance().await? {
        let spec = cursor.deserialize_current()?;
        if spec.get_str("name").is_ok_and(|name| name == index) {
            return Ok(spec);
        }
    }
    Err(anyhow::anyhow!("no index {index}")).with_context(|| format!("{database}.{name}"))
}

/// Waits until an operation that fits the filter of `$currentOp` is under way on a cluster.
pub async fn wait_under_way(client: &Client, what: &str, filter: Document) -> Result<()> {
    let stages = [doc! { "$currentOp": { "allUsers": true } }, doc! { "$match": filter }];
    eventually(what, LONG, || async {
        let found = client.database("admin").aggregate(stages.clone()).await;
        match found.map_err(|error| error.to_string())?.advance().await {
            Ok(true) => Ok(()),
            Ok(false) => Err("none".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await
}
