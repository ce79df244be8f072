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
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mongodb::bson::doc;

use crate::{
    cluster::{Options, ReplicaSet},
    compare::{Comparison, METADATA},
    daemon::Daemon,
    mongod,
};

/// Database of the documents.
const DATABASE: &str = "bench";
/// Collection of the documents.
const COLLECTION: &str = "items";
/// Where the ceilings are measured on the destination.
const CEILING: &str = "ceiling";
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
    let options = || Options { oplog_megabytes: 2048, ..Options::single() };
    tokio::try_join!(ReplicaSet::start(options()), ReplicaSet::start(options()))
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

/// Drops what a sync has left on the destination.
async fn clear(destination: &ReplicaSet) -> Result<()> {
    let client = destination.client();
    for database in [DATABASE, METADATA] {
        client.database(database).drop().await?;
    }
    // What was dropped is gone from the disk only with a checkpoint.
    client.database("admin").run_command(doc! { "fsync": 1 }).await?;
    Ok(())
}
