//! Measurements of the daemon against what the servers can do, taken in one run on one machine.
//! For people, not for the test suite: `cargo run -p syncline-tests --bin bench -- --help`.

pub mod changes;
pub mod copy;
mod documents;
pub mod many;
pub mod plugins;
mod raw;
pub mod verify;

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mongodb::bson::doc;

use crate::{
    cluster::{Options, ReplicaSet},
    compare::{Comparison, METADATA},
    daemon::Daemon,
    mongod,
    server::Server,
};

/// Database of the documents.
const DATABASE: &str = "bench";
/// Collection of the documents.
const COLLECTION: &str = "items";
/// Where the ceilings are measured on the destination.
const CEILING: &str = "ceiling";
/// Cache of a server: the data of a round fits, as that of a server's present work should.
const CACHE_MEGABYTES: u32 = 2048;
/// Attempts to give a process its processors.
const PIN_ATTEMPTS: usize = 20;
/// How long one phase may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Documents or operations per second.
#[derive(Debug, Clone, Copy)]
struct Measure {
    /// Per second.
    rate: f64,
    /// Seconds.
    seconds: f64,
}

impl Measure {
    /// So many since then.
    fn since(begun: Instant, count: u64) -> Self {
        let seconds = begun.elapsed().as_secs_f64();
        Self { rate: count as f64 / seconds, seconds }
    }
}

/// Prints what the numbers are measured on, and how busy it is.
fn machine() -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    println!(
        "{} processors{}, {}, load {}",
        std::thread::available_parallelism()?,
        model.unwrap_or_default().replace('\t', ""),
        read("/proc/meminfo").lines().next().unwrap_or_default(),
        read("/proc/loadavg").trim()
    );
    println!(
        "mongod {} on both sides of loopback, syncline {} ({} build)",
        mongod::version(&mongod::locate()?)?,
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { "dev" } else { "release" }
    );
    Ok(())
}

/// Two empty clusters of one member with room in their oplogs.
async fn clusters() -> Result<(ReplicaSet, ReplicaSet)> {
    clusters_of(Options::single()).await
}

/// The same, of such members.
async fn clusters_of(options: Options) -> Result<(ReplicaSet, ReplicaSet)> {
    let options = Options { oplog_megabytes: 2048, cache_megabytes: CACHE_MEGABYTES, ..options };
    // What is dropped goes at once, not after five minutes of rounds.
    let options = options.with_parameter("minSnapshotHistoryWindowInSeconds", "0");
    tokio::try_join!(ReplicaSet::start(options.clone()), ReplicaSet::start(options))
}

/// The middle one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The one that so large a share (0 to 1) of the values does not exceed.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

/// Processor seconds that a process has used.
fn processor_seconds(pid: Option<u32>) -> f64 {
    let Some(pid) = pid else { return 0.0 };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks: f64 = stat
        .rsplit_once(") ")
        .map(|(_, rest)| {
            rest.split(' ').skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum()
        })
        .unwrap_or_default();
    // The kernel counts in hundredths for user space on every machine this runs on.
    ticks / 100.0
}

/// Processor seconds of both servers.
fn server_seconds(source: &ReplicaSet, destination: &ReplicaSet) -> (f64, f64) {
    let of = |set: &ReplicaSet| set.servers().iter().map(|s| processor_seconds(s.pid())).sum();
    (of(source), of(destination))
}

/// Waits until a progress fits, looking often.
async fn wait(
    daemon: &Daemon,
    what: &str,
    fits: impl Fn(&serde_json::Value) -> bool,
) -> Result<serde_json::Value> {
    let begun = Instant::now();
    loop {
        let progress = daemon.progress().await.with_context(|| daemon.output_tail())?;
        if fits(&progress) {
            return Ok(progress);
        }
        if begun.elapsed() > LIMIT {
            bail!("no {what} after {LIMIT:?}: {progress}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails unless both clusters hold the same.
async fn check_identical(source: &ReplicaSet, destination: &ReplicaSet) -> Result<()> {
    Comparison::new().run(&source.client(), &destination.client()).await?.check()
}

/// Gives the servers of a cluster half of the processors; this process, what it starts from now on and
/// the servers of the other cluster get the other half.
fn set_apart(cluster: &ReplicaSet, others: &ReplicaSet) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    if processors < 2 {
        bail!("one processor cannot be divided");
    }
    let half = processors / 2;
    let pin = |pid: u32, list: String| {
        let arguments = ["--all-tasks", "--cpu-list", "--pid", &list, &pid.to_string()];
        let mut outcome = Ok(());
        // A thread that ends in between is an error of it.
        for _ in 0..PIN_ATTEMPTS {
            outcome = mongod::run(Command::new("taskset").args(arguments));
            if outcome.is_ok() {
                break;
            }
        }
        outcome.context("taskset of util-linux")
    };
    for pid in others.servers().iter().filter_map(Server::pid).chain([std::process::id()]) {
        pin(pid, format!("0-{}", half - 1))?;
    }
    for pid in cluster.servers().iter().filter_map(Server::pid) {
        pin(pid, format!("{half}-{}", processors - 1))?;
    }
    println!(
        "the destination's server has {} processors for itself, all else the others",
        processors - half
    );
    Ok(())
}

/// Drops what a sync or a ceiling has left on the destination, and has the server write the rest of
/// its work to disk, so that the next one begins as this one did.
async fn clear(destination: &ReplicaSet) -> Result<()> {
    let client = destination.client();
    for database in [DATABASE, CEILING, METADATA] {
        client.database(database).drop().await?;
    }
    // What was dropped is gone from the disk only with a checkpoint.
    client.database("admin").run_command(doc! { "fsync": 1 }).await?;
    Ok(())
}
