//! Throughput of the collection copy against two ceilings:
//!
//! - *write*: what the destination takes when ready-made batches are sent to it;
//! - *pipe*: what comes through a minimal program that reads the source and inserts what it reads.
//!   On one machine the source's server competes with the destination's for the processors; the
//!   pipe pays for that as the daemon does, the write ceiling does not.
//!
//! Each ceiling is taken with the number of workers that is best for it. Rounds alternate, so that
//! all meet the same disturbances; each begins with an empty destination that has nothing left to
//! write to its disk.
//!
//! With `--apart` the destination's server has half of the processors for itself, and the source's,
//! the daemon and the ceilings' clients share the others: as between machines, the destination does
//! not pay for the source.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use mongodb::bson::{Document, doc};

use super::{
    CEILING, COLLECTION, DATABASE, Measure, check_identical, clear, clusters,
    documents::{self, Ready},
    machine, median, processor_seconds, raw, server_seconds, set_apart, wait,
};
use crate::{
    cluster::ReplicaSet,
    daemon::{Config, Daemon},
};

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Documents.
    #[arg(long, default_value_t = 300_000)]
    documents: u64,
    /// Bytes per document, about.
    #[arg(long, default_value_t = 1000)]
    bytes: usize,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Numbers of workers tried for the ceilings.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 4, 8])]
    workers: Vec<usize>,
    /// `loadLevel` of the daemon.
    #[arg(long, default_value_t = 3)]
    load_level: u8,
    /// Leaves the ceilings out.
    #[arg(long)]
    copy_only: bool,
    /// Gives the destination's server processors of its own.
    #[arg(long)]
    apart: bool,
}

/// What one copy of the daemon took.
struct Copied {
    /// Throughput.
    measure: Measure,
    /// Peak memory of the daemon in bytes.
    memory: u64,
    /// Processor seconds of the daemon, the source and the destination.
    processors: (f64, f64, f64),
}

/// Two clusters with the documents in the source, and in memory.
struct Bench {
    /// How to measure.
    arguments: Arguments,
    /// Where the documents are.
    source: ReplicaSet,
    /// Where they go.
    destination: ReplicaSet,
    /// The documents.
    batches: Arc<Vec<Ready>>,
    /// Bytes per document.
    average: usize,
}

/// Measures the copy.
///
/// # Errors
/// Whatever keeps it from being measured, a wrong copy among others.
pub async fn run(arguments: &Arguments) -> Result<()> {
    machine()?;
    let batches = documents::make(arguments.documents, arguments.bytes)?;
    let size = documents::size(&batches);
    println!(
        "{} documents of {} bytes, {:.0} MB, loadLevel {}, {} rounds",
        arguments.documents,
        size / usize::try_from(arguments.documents)?.max(1),
        size as f64 / 1e6,
        arguments.load_level,
        arguments.rounds
    );
    let (source, destination) = clusters().await?;
    if arguments.apart {
        set_apart(&destination, &source)?;
    }
    let bench = Bench {
        average: size / usize::try_from(arguments.documents)?.max(1),
        batches: Arc::new(batches),
        arguments: arguments.clone(),
        source,
        destination,
    };
    raw::write(&bench.source.client(), DATABASE, &bench.batches, 4).await?;
    bench.measure().await
}

impl Bench {
    /// All rounds.
    async fn measure(&self) -> Result<()> {
        let (mut writes, mut pipes, mut copies, mut peak) = (vec![], vec![], vec![], 0);
        let (mut write_workers, mut pipe_workers) = (0, 0);
        if !self.arguments.copy_only {
            (write_workers, pipe_workers) = self.best().await?;
            println!("best workers: {write_workers} to write, {pipe_workers} for the pipe");
        }
        for round in 1..=self.arguments.rounds {
            if !self.arguments.copy_only {
                writes.push(self.write(write_workers).await?.rate);
                pipes.push(self.pipe(pipe_workers).await?.rate);
            }
            let copied = self.copy().await?;
            peak = peak.max(copied.memory);
            copies.push(copied.measure.rate);
            let (daemon, source, destination) = copied.processors;
            println!(
                "round {round}: write {:.0}/s, pipe {:.0}/s, copy {:.0}/s ({:.2} s), peak memory {:.0} MB, \
                 processor seconds: daemon {daemon:.1}, source {source:.1}, destination {destination:.1}",
                writes.last().unwrap_or(&0.0),
                pipes.last().unwrap_or(&0.0),
                copied.measure.rate,
                copied.measure.seconds,
                copied.memory as f64 / 1e6
            );
        }
        let (write, pipe, copy) = (median(&writes), median(&pipes), median(&copies));
        println!(
            "median: write ceiling {write:.0}/s, pipe ceiling {pipe:.0}/s, copy {copy:.0}/s; \
             copy/write {:.2}, copy/pipe {:.2}; peak memory of the daemon {:.0} MB",
            copy / write,
            copy / pipe,
            peak as f64 / 1e6
        );
        Ok(())
    }

    /// The numbers of workers with which the ceilings are highest.
    async fn best(&self) -> Result<(usize, usize)> {
        let (mut write, mut pipe) = ((0.0, 0), (0.0, 0));
        for workers in self.arguments.workers.iter().copied() {
            let rate = self.write(workers).await?.rate;
            if rate > write.0 {
                write = (rate, workers);
            }
            let rate = self.pipe(workers).await?.rate;
            if rate > pipe.0 {
                pipe = (rate, workers);
            }
        }
        Ok((write.1, pipe.1))
    }

    /// The write ceiling.
    async fn write(&self, workers: usize) -> Result<Measure> {
        let client = self.destination.client();
        let measure = raw::write(&client, CEILING, &self.batches, workers).await?;
        clear(&self.destination).await?;
        Ok(measure)
    }

    /// The pipe ceiling.
    async fn pipe(&self, workers: usize) -> Result<Measure> {
        let (source, client) = (self.source.client(), self.destination.client());
        let documents = self.arguments.documents;
        let measure =
            raw::pipe(&source, &client, CEILING, documents, self.average, workers).await?;
        clear(&self.destination).await?;
        Ok(measure)
    }

    /// Lets the daemon copy, from the call of `/start` to the first change event application,
    /// checks the copy and clears the destination.
    async fn copy(&self) -> Result<Copied> {
        let config = Config::new(&self.source.uri(), &self.destination.uri())
            .with("loadLevel", u64::from(self.arguments.load_level));
        let mut daemon = Daemon::start(config).await?;
        let before =
            (processor_seconds(daemon.pid()), server_seconds(&self.source, &self.destination));
        let begun = Instant::now();
        daemon.start_sync().await?;
        wait(&daemon, "end of the copy", |p| p["info"] == "change event application").await?;
        let measure = Measure::since(begun, self.arguments.documents);
        let servers = server_seconds(&self.source, &self.destination);
        let processors = (
            processor_seconds(daemon.pid()) - before.0,
            servers.0 - before.1.0,
            servers.1 - before.1.1,
        );
        wait(&daemon, "canCommit", |p| p["canCommit"] == true).await?;
        let memory = daemon.peak_memory();
        daemon.kill();
        let copied = self.destination.client().database(DATABASE);
        let copied = copied.collection::<Document>(COLLECTION).count_documents(doc! {}).await?;
        ensure!(copied == self.arguments.documents, "{copied} documents arrived");
        check_identical(&self.source, &self.destination).await?;
        clear(&self.destination).await?;
        Ok(Copied { measure, memory, processors })
    }
}
