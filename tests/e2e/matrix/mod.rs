//! Every kind of change, each during the copy, during the stream and across deaths of the daemon,
//! many in one sync.
//!
//! A scenario is two lists of commands: what is there before the sync, and what happens during it.
//! Each has a database of its own, so one comparison at the end says which of them went wrong.

mod catalog;
mod documents;
mod ids;
mod indexes;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};
use syncline_tests::{cluster::Options, random::Random};

use super::support::{LONG, Pair, wait_info};

/// Scenarios that run side by side.
const SIDE_BY_SIDE: usize = 3;
/// How long an insert of the copy is held back: long enough that the copy and the changes meet.
const SLOW_INSERT_MS: i32 = 120;
/// Part of the scenarios after which the daemon is killed.
const BETWEEN_KILLS: usize = 6;

/// One command of a scenario.
#[derive(Debug, Clone)]
enum Step {
    /// On the scenario's database.
    Own(Document),
    /// On its second database.
    Other(Document),
    /// On `admin`.
    Admin(Document),
    /// In one transaction, on the scenario's database.
    Transaction(Vec<Document>),
}

/// What is there before, and what happens.
#[derive(Debug, Clone)]
struct Scenario {
    /// Also names the database.
    name: &'static str,
    /// Before the sync.
    before: Vec<Step>,
    /// During the sync.
    during: Vec<Step>,
}

impl Scenario {
    /// A scenario on its own database.
    fn new(name: &'static str, before: Vec<Document>, during: Vec<Document>) -> Self {
        let own = |commands: Vec<Document>| commands.into_iter().map(Step::Own).collect();
        Self { name, before: own(before), during: own(during) }
    }

    /// A scenario of steps.
    fn steps(name: &'static str, before: Vec<Document>, during: Vec<Step>) -> Self {
        Self { during, ..Self::new(name, before, Vec::new()) }
    }

    /// Runs commands.
    async fn run(&self, client: &Client, steps: &[Step]) -> Result<()> {
        let own = client.database(&format!("m_{}", self.name));
        let other = client.database(&format!("m_{}_2", self.name));
        for step in steps {
            let (database, command) = match step {
                Step::Own(command) => (own.clone(), command),
                Step::Other(command) => (other.clone(), command),
                Step::Admin(command) => (client.database("admin"), command),
                Step::Transaction(commands) => {
                    self.transaction(client, commands).await?;
                    continue;
                }
            };
            let reply = database.run_command(command.clone()).await;
            check(reply).with_context(|| format!("{}: {}", self.name, short(command)))?;
        }
        Ok(())
    }

    /// Runs commands in one transaction, again when the server asks for it.
    async fn transaction(&self, client: &Client, commands: &[Document]) -> Result<()> {
        let database = client.database(&format!("m_{}", self.name));
        let mut session = client.start_session().await?;
        for _ in 0..50 {
            session.start_transaction().await?;
            let work = async {
                for command in commands {
                    let reply = database.run_command(command.clone()).session(&mut session).await?;
                    check(Ok(reply)).map_err(mongodb::error::Error::custom)?;
                }
                Ok::<_, mongodb::error::Error>(())
            }
            .await;
            let ended = match work {
                Ok(()) => session.commit_transaction().await,
                Err(error) => {
                    drop(session.abort_transaction().await);
                    Err(error)
                }
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(e) if e.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR) => {}
                Err(e) => return Err(e).with_context(|| format!("{}: transaction", self.name)),
            }
        }
        bail!("{}: the transaction is aborted again and again", self.name)
    }
}

/// An error for a reply with write errors: a scenario does nothing that fails.
fn check(reply: mongodb::error::Result<Document>) -> Result<()> {
    let reply = reply?;
    match reply.get_array("writeErrors") {
        Ok(errors) => bail!("{errors:?}"),
        Err(_) => Ok(()),
    }
}

/// The beginning of a command.
fn short(command: &Document) -> String {
    command.to_string().chars().take(200).collect()
}

/// `insert`
fn insert(name: &str, documents: impl IntoIterator<Item = Document>) -> Document {
    doc! { "insert": name, "documents": documents.into_iter().map(Bson::Document).collect::<Vec<_>>() }
}

/// Twelve documents with a few fields.
fn some(name: &str) -> Document {
    let documents =
        (0..12_i32).map(|n| doc! { "_id": n, "n": n, "m": n % 3, "s": format!("s{n}") });
    insert(name, documents)
}

/// One more document, so that a change of the catalog stands between writes.
fn touch(name: &str) -> Document {
    static SERIAL: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(1000);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    insert(name, [doc! { "_id": serial, "touched": name }])
}

/// `update` of one document, or of all that match.
fn update(name: &str, query: Document, change: impl Into<Bson>, multi: bool) -> Document {
    doc! { "update": name, "updates": [{ "q": query, "u": change.into(), "multi": multi }] }
}

/// `createIndexes` with one index.
fn index(name: &str, spec: Document) -> Document {
    doc! { "createIndexes": name, "indexes": [spec] }
}

/// Every scenario, shuffled by a seed.
fn all(seed: u64) -> Vec<Scenario> {
    let mut scenarios = catalog::scenarios();
    scenarios.extend(indexes::scenarios());
    scenarios.extend(documents::scenarios());
    scenarios.extend(ids::scenarios());
    let mut random = Random::new(seed);
    for place in (1..scenarios.len()).rev() {
        scenarios.swap(place, random.index(place + 1));
    }
    scenarios
}

/// Seed of the order: `SYNCLINE_SEED`.
fn seed() -> u64 {
    std::env::var("SYNCLINE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Runs one part of scenarios side by side; an error names all that failed.
async fn run(
    client: &Client,
    scenarios: &[Scenario],
    part: impl Fn(&Scenario) -> &[Step] + Copy,
) -> Result<()> {
    let ended: Vec<Result<()>> = futures_util::stream::iter(scenarios)
        .map(|scenario| scenario.run(client, part(scenario)))
        .buffer_unordered(SIDE_BY_SIDE)
        .collect()
        .await;
    let failed: Vec<String> =
        ended.into_iter().filter_map(|ended| ended.err().map(|e| format!("{e:#}"))).collect();
    anyhow::ensure!(failed.is_empty(), "the source refused:\n{}", failed.join("\n"));
    Ok(())
}

/// Two clusters, the source prepared.
async fn prepared(scenarios: &[Scenario]) -> Result<Pair> {
    let roomy = || Options::single().with_cache(1024);
    let pair = Pair::start_with(roomy(), roomy()).await?;
    run(&pair.source.client(), scenarios, |scenario| &scenario.before).await?;
    Ok(pair)
}

/// Slows the copy down, but lets it get on.
async fn slow_copy(pair: &Pair) -> Result<syncline_tests::cluster::FailPoint> {
    let data = doc! {
        "failCommands": ["insert"], "blockConnection": true, "blockTimeMS": SLOW_INSERT_MS,
    };
    pair.destination.fail_point("failCommand", "alwaysOn", data).await
}

#[tokio::test]
async fn every_change_during_the_copy_arrives() -> Result<()> {
    let scenarios = all(seed());
    let pair = prepared(&scenarios).await?;
    let daemon = pair.daemon().await?;
    let slow = slow_copy(&pair).await?;
    daemon.start_sync().await?;
    wait_info(&daemon, "collection copy").await?;
    run(&pair.source.client(), &scenarios, |scenario| &scenario.during).await?;
    drop(slow);
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn every_change_during_the_stream_arrives() -> Result<()> {
    let scenarios = all(seed());
    let pair = prepared(&scenarios).await?;
    let daemon = pair.daemon().await?;
    daemon.start_sync().await?;
    daemon.wait_can_commit(LONG).await?;
    run(&pair.source.client(), &scenarios, |scenario| &scenario.during).await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn every_change_around_deaths_of_the_daemon_arrives() -> Result<()> {
    let scenarios = all(seed());
    let mut random = Random::new(seed());
    let pair = prepared(&scenarios).await?;
    let mut daemon = pair.daemon().await?;
    let mut slow = Some(slow_copy(&pair).await?);
    daemon.start_sync().await?;
    wait_info(&daemon, "collection copy").await?;
    let parts = scenarios.chunks(scenarios.len().div_ceil(BETWEEN_KILLS));
    for (number, part) in parts.enumerate() {
        if number == BETWEEN_KILLS / 2 {
            drop(slow.take());
            wait_info(&daemon, "change event application").await?;
        }
        run(&pair.source.client(), part, |scenario| &scenario.during).await?;
        // The daemon dies while it applies what has just happened.
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        daemon.kill();
        daemon.launch().await?;
    }
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
