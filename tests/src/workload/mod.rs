//! A seeded live writer: several tasks that write to a cluster until they are stopped.
//!
//! All writers share one small set of `_id`s, so that one document sees many changes in a short time,
//! from several writers. The same seed makes the same writers; how they interleave is up to the machine.

mod ddl;
mod documents;
mod operations;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use mongodb::{Client, bson::Document};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::documents::{document, id};
use crate::random::Random;

/// What to write.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seed of everything.
    pub seed: u64,
    /// Tasks that write documents.
    pub writers: u64,
    /// Database.
    pub database: String,
    /// Collections.
    pub collections: Vec<String>,
    /// Documents per collection that writers fight over.
    pub keys: u64,
    /// Pause of each writer between two operations.
    pub pause: Duration,
    /// Whether one more task creates, renames, changes and drops collections and indexes.
    pub ddl: bool,
    /// Whether broken connections are part of the game, because servers die.
    pub faults: bool,
}

impl Plan {
    /// Three writers on two collections.
    pub fn new(seed: u64, database: &str) -> Self {
        Self {
            seed,
            writers: 3,
            database: database.to_owned(),
            collections: vec!["alpha".to_owned(), "beta".to_owned()],
            keys: 400,
            pause: Duration::from_millis(2),
            ddl: false,
            faults: false,
        }
    }

    /// The same with changes of the catalog.
    #[must_use]
    pub fn with_ddl(self) -> Self {
        Self { ddl: true, ..self }
    }

    /// The same, going on while servers die.
    #[must_use]
    pub fn through_faults(self) -> Self {
        Self { faults: true, ..self }
    }
}

/// Operations that succeeded, by kind.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Writes of documents outside transactions.
    writes: AtomicU64,
    /// Committed transactions.
    transactions: AtomicU64,
    /// Changes of the catalog.
    ddl: AtomicU64,
    /// Operations the server refused for reasons that are part of the game.
    refused: AtomicU64,
}

/// What a workload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Writes of documents outside transactions.
    pub writes: u64,
    /// Committed transactions.
    pub transactions: u64,
    /// Changes of the catalog.
    pub ddl: u64,
    /// Operations the server refused (duplicate key, write conflict, path not viable, …).
    pub refused: u64,
}

/// A running workload. Dropping it aborts the writers.
#[derive(Debug)]
pub struct Workload {
    /// Ends the writers between two operations.
    stop: CancellationToken,
    /// The writers.
    tasks: JoinSet<Result<()>>,
    /// What they did.
    counters: Arc<Counters>,
    /// Whether one of them has ended.
    ended: Arc<AtomicBool>,
}

impl Workload {
    /// Starts the writers.
    pub fn start(client: &Client, plan: &Plan) -> Self {
        let stop = CancellationToken::new();
        let counters = Arc::new(Counters::default());
        let ended = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..plan.writers {
            let writer = operations::Writer::new(
                client.clone(),
                plan.clone(),
                Random::new(plan.seed.wrapping_mul(1_000_003).wrapping_add(number)),
                Arc::clone(&counters),
            );
            tasks.spawn(noted(writer.run(stop.clone()), Arc::clone(&ended)));
        }
        if plan.ddl {
            let writer = ddl::DdlWriter::new(
                client.database(&plan.database),
                Random::new(plan.seed ^ 0xDD1),
                plan.collections.clone(),
                plan.faults,
                Arc::clone(&counters),
            );
            tasks.spawn(noted(writer.run(stop.clone()), Arc::clone(&ended)));
        }
        Self { stop, tasks, counters, ended }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            writes: read(&self.counters.writes),
            transactions: read(&self.counters.transactions),
            ddl: read(&self.counters.ddl),
            refused: read(&self.counters.refused),
        }
    }

    /// Waits until that many more writes were done.
    ///
    /// # Errors
    /// When they are not done within a minute.
    pub async fn writes(&self, more: u64) -> Result<()> {
        let goal = self.counts().writes + more;
        crate::eventually::eventually("the workload to write", Duration::from_secs(60), || async {
            let counts = self.counts();
            if counts.writes >= goal { Ok(()) } else { Err(counts) }
        })
        .await
    }

    /// Whether a writer has ended, which only an error brings about before [`Self::stop`].
    pub fn is_finished(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Lets every writer finish its operation and stops it.
    ///
    /// # Errors
    /// When a writer met an error that is not part of the game.
    pub async fn stop(mut self) -> Result<Counts> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a writer panicked")??;
        }
        Ok(self.counts())
    }
}

/// Runs a writer and notes that it has ended.
async fn noted(writer: impl Future<Output = Result<()>>, ended: Arc<AtomicBool>) -> Result<()> {
    let result = writer.await;
    ended.store(true, Ordering::Relaxed);
    result
}

/// Fills a collection with seeded documents, `0..count`.
///
/// # Errors
/// What the server answers.
pub async fn seed(
    client: &Client,
    database: &str,
    name: &str,
    count: u64,
    seed: u64,
) -> Result<()> {
    let mut random = Random::new(seed);
    let collection = client.database(database).collection::<Document>(name);
    let mut batch = Vec::new();
    for number in 0..count {
        batch.push(document(&mut random, id(number)));
        if batch.len() == 1000 {
            collection.insert_many(std::mem::take(&mut batch)).await?;
        }
    }
    if !batch.is_empty() {
        collection.insert_many(batch).await?;
    }
    Ok(())
}

/// Whether an error is a server's refusal, which is part of the game: writers fight over documents,
/// updates meet values of the wrong type, and a collection may be renamed or dropped under a writer.
/// Refused credentials are not, and broken connections only where servers die on purpose.
pub(crate) fn is_expected(error: &mongodb::error::Error, faults: bool) -> bool {
    use mongodb::error::ErrorKind;
    match error.kind.as_ref() {
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::ServerSelection { .. } => faults,
        ErrorKind::Command(command) => !UNEXPECTED_CODES.contains(&command.code),
        ErrorKind::Write(_) | ErrorKind::InsertMany(_) => true,
        _ => error.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR),
    }
}

/// Unauthorized and AuthenticationFailed.
const UNEXPECTED_CODES: [i32; 2] = [13, 18];
