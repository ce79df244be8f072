//! Throughput and lag of change event application.
//!
//! *Catch-up*: operations are done on the source while the sync is paused; measured is how long the
//! daemon takes from `/resume` until they are on the destination, against the same operations sent
//! ready-made to the destination by as many writers as the daemon has appliers (majority, journaled).
//! *Lag*: at a share of that rate, the time from the acknowledgement of a write on the source until a
//! reader finds it on the destination.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mongodb::{
    Client,
    bson::{Bson, Document, RawDocumentBuf, doc},
};
use tokio::task::JoinSet;

use super::{
    CEILING, COLLECTION, DATABASE, Measure, check_identical, clusters, documents, machine, median,
    processor_seconds, quantile, raw, server_seconds, set_apart, wait,
};
use crate::{
    cluster::ReplicaSet,
    daemon::{Config, Daemon},
    random::Random,
};

/// Statements of one command.
const STATEMENTS: usize = 1_000;
/// Where the lag is probed.
const PROBES: &str = "probes";
/// Longest time a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(120);

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Documents before the operations.
    #[arg(long, default_value_t = 50_000)]
    documents: u64,
    /// Bytes per document, about.
    #[arg(long, default_value_t = 1000)]
    bytes: usize,
    /// Operations per round: half of them updates, a quarter inserts, the rest replacements and
    /// deletes.
    #[arg(long, default_value_t = 100_000)]
    operations: u64,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Writers of the ceiling.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// `loadLevel` of the daemon.
    #[arg(long, default_value_t = 3)]
    load_level: u8,
    /// Seconds for which the lag is watched.
    #[arg(long, default_value_t = 30)]
    lag_seconds: u64,
    /// Share of the catch-up rate at which it is watched.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// Gives the destination's server processors of its own.
    #[arg(long)]
    apart: bool,
}

/// Operations in the order in which one writer sends them, ready-made.
struct Script {
    /// Commands with how many operations each stands for.
    commands: Vec<(RawDocumentBuf, u64)>,
}

/// Makes operations on the documents whose id leaves `writer` over when divided by `writers`, so that
/// writers do not meet.
fn script(
    arguments: &Arguments,
    round: u64,
    writer: u64,
    count: u64,
    random: &mut Random,
) -> Script {
    let writers = arguments.workers as u64;
    let filler = random.word(arguments.bytes);
    let id = |n: u64| i64::try_from(n * writers + writer).unwrap_or_default();
    let own = (arguments.documents / writers).max(1);
    let mut next = 1_000_000 * (round + 1);
    let mut script = Script { commands: Vec::new() };
    let mut left = count;
    while left > 0 {
        let now = left.min(STATEMENTS as u64);
        left -= now;
        let (mut updates, mut inserts, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..now {
            let target = id(random.below(own));
            match random.below(8) {
                0..4 => updates.push(Bson::Document(doc! {
                    "q": { "_id": target },
                    "u": { "$set": { "group": random.below(1000) as i32, "name": random.word(12) } },
                })),
                4..6 => {
                    next += 1;
                    inserts.push(Bson::Document(
                        doc! { "_id": id(next), "value": random.unit(), "text": &filler },
                    ));
                }
                6 => updates.push(Bson::Document(doc! {
                    "q": { "_id": target },
                    "u": { "_id": target, "value": random.unit(), "text": &filler },
                    "upsert": true,
                })),
                _ => deletes.push(Bson::Document(doc! { "q": { "_id": target }, "limit": 1 })),
            }
        }
        for (verb, list, statements) in [
            ("update", "updates", updates),
            ("insert", "documents", inserts),
            ("delete", "deletes", deletes),
        ] {
            let count = statements.len() as u64;
            let command = doc! {
                verb: COLLECTION, "ordered": false, list: statements,
                "writeConcern": { "w": "majority", "j": true },
            };
            if count > 0
                && let Ok(command) = RawDocumentBuf::try_from(&command)
            {
                script.commands.push((command, count));
            }
        }
    }
    script
}

/// Makes every writer's operations of a round.
fn scripts(arguments: &Arguments, round: u64) -> Arc<Vec<Script>> {
    let writers = arguments.workers as u64;
    let mut random = Random::new(round + 7);
    let each = arguments.operations / writers;
    Arc::new((0..writers).map(|w| script(arguments, round, w, each, &mut random)).collect())
}

/// Sends operations, each writer its own, as fast as the server takes them.
async fn send(client: &Client, database: &str, scripts: &Arc<Vec<Script>>) -> Result<Measure> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..scripts.len() {
        let (handle, scripts) = (client.database(database), Arc::clone(scripts));
        tasks.spawn(async move {
            let mut sent = 0;
            for (command, count) in scripts.get(writer).map(|s| &s.commands).into_iter().flatten() {
                let reply = handle.run_raw_command(command.clone()).await?;
                ensure!(reply.get_array("writeErrors").is_err(), "{reply}");
                sent += count;
            }
            anyhow::Ok(sent)
        });
    }
    let mut sent = 0;
    while let Some(ended) = tasks.join_next().await {
        sent += ended??;
    }
    Ok(Measure::since(begun, sent))
}

/// The newest operation time of a cluster.
async fn newest(cluster: &ReplicaSet) -> Result<(u64, u64)> {
    let hello = cluster.client().database("admin").run_command(doc! { "hello": 1 }).await?;
    let last = hello.get_document("lastWrite")?.get_document("opTime")?.get_timestamp("ts")?;
    Ok((last.time.into(), last.increment.into()))
}

/// Measures it.
///
/// # Errors
/// Whatever keeps it from being measured, a wrong destination among others.
pub async fn run(arguments: &Arguments) -> Result<()> {
    machine()?;
    println!(
        "{} documents of {} bytes, {} operations a round, {} writers, loadLevel {}",
        arguments.documents,
        arguments.bytes,
        arguments.operations,
        arguments.workers,
        arguments.load_level
    );
    let (source, destination) = clusters().await?;
    if arguments.apart {
        set_apart(&destination, &source)?;
    }
    let batches = Arc::new(documents::make(arguments.documents, arguments.bytes)?);
    raw::write(&source.client(), DATABASE, &batches, 4).await?;
    let config = Config::new(&source.uri(), &destination.uri())
        .with("loadLevel", u64::from(arguments.load_level));
    let daemon = Daemon::start(config).await?;
    daemon.start_sync().await?;
    wait(&daemon, "canCommit", |p| p["canCommit"] == true).await?;

    // The ceiling works on a copy of the documents beside the daemon's.
    raw::write(&destination.client(), CEILING, &batches, 4).await?;
    let (mut ceilings, mut rates) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let scripts = scripts(arguments, round as u64);
        daemon.command("pause").await?;
        wait(&daemon, "pause", |p| p["state"] == "PAUSED").await?;
        let ceiling = send(&destination.client(), CEILING, &scripts).await?;
        let done = send(&source.client(), DATABASE, &scripts).await?;
        let goal = newest(&source).await?;
        let before = (processor_seconds(daemon.pid()), server_seconds(&source, &destination));
        let begun = Instant::now();
        daemon.command("resume").await?;
        wait(&daemon, "catching up", |p| {
            let time = &p["appliedClusterTime"];
            time["t"].as_u64().zip(time["i"].as_u64()).is_some_and(|time| time >= goal)
        })
        .await?;
        let caught = Measure::since(begun, arguments.operations);
        let servers = server_seconds(&source, &destination);
        println!(
            "round {round}: ready-made {:.0}/s, on the source {:.0}/s, catch-up {:.0}/s ({:.2} s); processor \
             seconds: daemon {:.1}, source {:.1}, destination {:.1}",
            ceiling.rate,
            done.rate,
            caught.rate,
            caught.seconds,
            processor_seconds(daemon.pid()) - before.0,
            servers.0 - before.1.0,
            servers.1 - before.1.1
        );
        ceilings.push(ceiling.rate);
        rates.push(caught.rate);
    }
    destination.client().database(CEILING).drop().await?;
    check_identical(&source, &destination).await?;
    let (ceiling, rate) = (median(&ceilings), median(&rates));
    println!(
        "median: ready-made {ceiling:.0}/s, catch-up {rate:.0}/s, ratio {:.2}; peak memory of the \
         daemon {:.0} MB",
        rate / ceiling,
        daemon.pid().and_then(crate::process::peak_memory).unwrap_or_default() as f64 / 1e6
    );
    lag(arguments, &source, &destination, rate * arguments.share).await?;
    check_identical(&source, &destination).await
}

/// Watches the lag while so many operations a second are done on the source.
async fn lag(
    arguments: &Arguments,
    source: &ReplicaSet,
    destination: &ReplicaSet,
    rate: f64,
) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let writer = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        let (handle, arguments) = (source.client().database(DATABASE), arguments.clone());
        tokio::spawn(async move { pace(&handle, &arguments, rate, &stop, &sent).await })
    };
    // Both ends get a moment to come up to speed.
    wait_until_sent(&sent, rate).await;
    let counted = (Instant::now(), sent.load(Ordering::Relaxed));
    let end = Instant::now() + Duration::from_secs(arguments.lag_seconds);
    let from = source.client().database(DATABASE).collection::<Document>(PROBES);
    let to = destination.client().database(DATABASE).collection::<Document>(PROBES);
    let mut lags = Vec::new();
    let mut number = 0_i64;
    while Instant::now() < end {
        number += 1;
        from.insert_one(doc! { "_id": number }).await?;
        let written = Instant::now();
        while to.find_one(doc! { "_id": number }).await?.is_none() {
            ensure!(written.elapsed() < PROBE_LIMIT, "probe {number} did not arrive");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        lags.push(written.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let real = Measure::since(counted.0, sent.load(Ordering::Relaxed) - counted.1);
    stop.store(true, Ordering::Relaxed);
    writer.await??;
    println!(
        "lag at {:.0}/s ({rate:.0}/s wanted), {} probes: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, worst {:.0} ms",
        real.rate,
        lags.len(),
        quantile(&lags, 0.5),
        quantile(&lags, 0.9),
        quantile(&lags, 0.99),
        quantile(&lags, 1.0)
    );
    // A last probe: everything before it is on the destination when it is, but for other appliers.
    wait_for_equal(source, destination).await
}

/// Waits until the writer has done a second's worth.
async fn wait_until_sent(sent: &AtomicU64, rate: f64) {
    let begun = Instant::now();
    while (sent.load(Ordering::Relaxed) as f64) < rate && begun.elapsed() < Duration::from_secs(10)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until both sides hold equally many documents.
async fn wait_for_equal(source: &ReplicaSet, destination: &ReplicaSet) -> Result<()> {
    let begun = Instant::now();
    loop {
        match check_identical(source, destination).await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > PROBE_LIMIT => {
                return Err(error).context("after the load");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Updates documents at a steady rate, a fiftieth of a second's worth at a time.
async fn pace(
    handle: &mongodb::Database,
    arguments: &Arguments,
    rate: f64,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let mut random = Random::new(99);
    let step = Duration::from_millis(20);
    let begun = Instant::now();
    let mut number = 10_000_000_000_i64;
    while !stop.load(Ordering::Relaxed) {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        let now = due.saturating_sub(sent.load(Ordering::Relaxed)).min(5_000);
        if now > 0 {
            let (mut updates, mut inserts) = (Vec::new(), Vec::new());
            for _ in 0..now {
                if random.below(4) == 0 {
                    number += 1;
                    inserts.push(Bson::Document(doc! { "_id": number, "value": random.unit() }));
                } else {
                    let id = i64::try_from(random.below(arguments.documents))?;
                    updates.push(Bson::Document(doc! {
                        "q": { "_id": id }, "u": { "$set": { "group": random.below(1000) as i32 } },
                    }));
                }
            }
            for (verb, list, statements) in
                [("update", "updates", updates), ("insert", "documents", inserts)]
            {
                if statements.is_empty() {
                    continue;
                }
                let command = doc! { verb: COLLECTION, "ordered": false, list: statements };
                let reply = handle.run_raw_command(RawDocumentBuf::try_from(&command)?).await?;
                ensure!(reply.get_array("writeErrors").is_err(), "{reply}");
            }
            sent.fetch_add(now, Ordering::Relaxed);
        }
        tokio::time::sleep(step).await;
    }
    Ok(())
}
