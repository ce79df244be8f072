//! `cargo run -p syncline-tests --bin bench -- copy`: throughput of the daemon's copy against what the
//! destination can take, measured in one run on the same machine with the same documents.
//!
//! The ceiling is measured with ready-made `insert` commands of raw documents (majority, journaled), by
//! as many workers as the daemon uses. Rounds alternate, so that both meet the same disturbances.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program for people, not part of the product"
)]

use std::{
    fs,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use mongodb::{
    Client,
    bson::{Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc},
};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    compare::{Comparison, METADATA},
    daemon::{Config, Daemon},
    mongod,
    random::Random,
};
use tokio::{sync::Mutex, task::JoinSet};

/// Database of the documents.
const DATABASE: &str = "bench";
/// Collection of the documents.
const COLLECTION: &str = "items";
/// Where the ceiling is measured on the destination.
const CEILING: &str = "ceiling";
/// Bytes of one ready-made batch, about what the daemon's batches have.
const BATCH_BYTES: usize = 2 << 20;
/// How long one copy may take.
const LIMIT: Duration = Duration::from_secs(900);

/// Measures.
#[derive(Parser)]
struct Arguments {
    /// What.
    #[command(subcommand)]
    what: What,
}

/// What to measure.
#[derive(Subcommand)]
enum What {
    /// Throughput of the collection copy.
    Copy(CopyArguments),
}

/// How to measure it.
#[derive(clap::Args)]
struct CopyArguments {
    /// Documents.
    #[arg(long, default_value_t = 300_000)]
    documents: u64,
    /// Bytes per document, about.
    #[arg(long, default_value_t = 1200)]
    bytes: usize,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Workers of the ceiling.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// `loadLevel` of the daemon.
    #[arg(long, default_value_t = 3)]
    load_level: u8,
}

#[tokio::main]
async fn main() -> ExitCode {
    let What::Copy(arguments) = Arguments::parse().what;
    match copy(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Documents and seconds of one measurement.
#[derive(Debug, Clone, Copy)]
struct Measure {
    /// Documents per second.
    rate: f64,
    /// Seconds.
    seconds: f64,
}

/// Measures the copy.
async fn copy(arguments: &CopyArguments) -> Result<()> {
    machine()?;
    let (source, destination) = tokio::try_join!(
        ReplicaSet::start(Options { oplog_megabytes: 4096, ..Options::single() }),
        ReplicaSet::start(Options { oplog_megabytes: 4096, ..Options::single() })
    )?;
    let batches = make(arguments)?;
    let size: usize = batches.iter().map(|batch| batch.documents.as_bytes().len()).sum();
    println!(
        "{} documents, {:.0} MB, {} batches, {} workers, loadLevel {}, {} rounds",
        arguments.documents,
        size as f64 / 1e6,
        batches.len(),
        arguments.workers,
        arguments.load_level,
        arguments.rounds
    );
    let batches = Arc::new(batches);
    write(&source.client(), DATABASE, &batches, arguments.workers).await?;

    let (mut ceilings, mut copies, mut peak) = (Vec::new(), Vec::new(), 0);
    for round in 1..=arguments.rounds {
        let ceiling = write(&destination.client(), CEILING, &batches, arguments.workers).await?;
        destination.client().database(CEILING).drop().await?;
        let (copied, memory) = daemon_copy(&source, &destination, arguments).await?;
        println!(
            "round {round}: ceiling {:.0}/s ({:.2} s), copy {:.0}/s ({:.2} s), ratio {:.2}, \
             peak memory {:.0} MB",
            ceiling.rate,
            ceiling.seconds,
            copied.rate,
            copied.seconds,
            copied.rate / ceiling.rate,
            memory as f64 / 1e6
        );
        peak = peak.max(memory);
        ceilings.push(ceiling.rate);
        copies.push(copied.rate);
    }
    let (ceiling, copied) = (median(&mut ceilings), median(&mut copies));
    println!(
        "median: ceiling {ceiling:.0} documents/s, copy {copied:.0} documents/s, ratio {:.2}; \
         peak memory of the daemon {:.0} MB",
        copied / ceiling,
        peak as f64 / 1e6
    );
    Ok(())
}

/// Prints what the numbers were measured on.
fn machine() -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let server = mongod::locate()?;
    println!(
        "{} processors{}, {}",
        std::thread::available_parallelism()?,
        model.unwrap_or_default().replace('\t', ""),
        memory.lines().next().unwrap_or_default()
    );
    println!(
        "mongod {} on both sides of loopback, syncline {} ({} build)",
        mongod::version(&server)?,
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "dev" } else { "release" }
    );
    Ok(())
}

/// The middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A ready-made batch.
struct Batch {
    /// The documents as the `insert` command takes them.
    documents: RawArrayBuf,
    /// How many.
    count: u64,
}

/// Makes the documents, with ids in ascending order.
fn make(arguments: &CopyArguments) -> Result<Vec<Batch>> {
    let mut random = Random::new(1);
    let mut batches = Vec::new();
    let mut documents = RawArrayBuf::new();
    let mut count = 0;
    let filler = random.word(arguments.bytes);
    for number in 0..arguments.documents {
        let start = random.index(arguments.bytes / 2);
        let document: RawDocumentBuf = rawdoc! {
            "_id": i64::try_from(number)?,
            "name": random.word(12),
            "group": random.below(1000) as i32,
            "value": random.unit(),
            "tags": [random.word(5), random.word(5)],
            "place": { "city": random.word(8), "zip": random.below(99_999) as i32 },
            "text": &filler[start..],
            "more": &filler[..start],
        };
        documents.push(document);
        count += 1;
        if documents.as_bytes().len() >= BATCH_BYTES {
            batches.push(Batch { documents: std::mem::take(&mut documents), count });
            count = 0;
        }
    }
    if count > 0 {
        batches.push(Batch { documents, count });
    }
    Ok(batches)
}

/// Writes all batches into an empty collection as fast as the server takes them.
async fn write(
    client: &Client,
    database: &str,
    batches: &Arc<Vec<Batch>>,
    workers: usize,
) -> Result<Measure> {
    let handle = client.database(database);
    handle.run_command(doc! { "create": COLLECTION }).await?;
    let begun = Instant::now();
    let next = Arc::new(Mutex::new(0_usize));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (handle, batches, next) = (handle.clone(), Arc::clone(batches), Arc::clone(&next));
        tasks.spawn(async move {
            let mut written = 0;
            loop {
                let index = {
                    let mut next = next.lock().await;
                    *next += 1;
                    *next - 1
                };
                let Some(batch) = batches.get(index) else { return anyhow::Ok(written) };
                let mut command = rawdoc! {
                    "insert": COLLECTION, "ordered": false, "bypassDocumentValidation": true,
                    "writeConcern": { "w": "majority", "j": true },
                };
                command.append(bson::cstr!("documents"), batch.documents.as_ref());
                let reply = handle.run_raw_command(command).await?;
                ensure!(reply.get_array("writeErrors").is_err(), "{reply}");
                written += batch.count;
            }
        });
    }
    let mut written = 0;
    while let Some(ended) = tasks.join_next().await {
        written += ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Measure { rate: written as f64 / seconds, seconds })
}

/// Lets the daemon copy, from the answer to `/start` to the first change event application, checks the
/// copy and clears the destination.
async fn daemon_copy(
    source: &ReplicaSet,
    destination: &ReplicaSet,
    arguments: &CopyArguments,
) -> Result<(Measure, u64)> {
    let config = Config::new(&source.uri(), &destination.uri())
        .with("loadLevel", u64::from(arguments.load_level));
    let mut daemon = Daemon::start(config).await?;
    let begun = Instant::now();
    daemon.start_sync().await?;
    loop {
        let progress = daemon.progress().await.with_context(|| daemon.output_tail())?;
        if progress["info"] == "change event application" {
            break;
        }
        if begun.elapsed() > LIMIT {
            bail!("the copy is not over after {LIMIT:?}: {progress}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    daemon.wait_can_commit(LIMIT).await?;
    let memory = daemon.peak_memory();
    daemon.kill();
    let report = Comparison::new().run(&source.client(), &destination.client()).await?;
    report.check()?;
    let client = destination.client();
    let copied = client
        .database(DATABASE)
        .collection::<Document>(COLLECTION)
        .count_documents(doc! {})
        .await?;
    for database in [DATABASE, METADATA] {
        client.database(database).drop().await?;
    }
    Ok((Measure { rate: copied as f64 / seconds, seconds }, memory))
}
