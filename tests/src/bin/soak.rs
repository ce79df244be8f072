//! `cargo run -p syncline-tests --bin soak -- --minutes 60 --seed 1`: one sync under live load for as
//! long as asked, while the daemon is killed, stopped and paused, primaries step down or are killed,
//! and collections come and go. It ends with a commit and an independent comparison. With
//! `--reverses 3` the roles are swapped three times after that, each way back as long as the first.
//!
//! Ends with 0 only if the clusters are byte for byte the same, the daemon never had more memory than
//! its bound, and the servers' folders stayed small.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program for people, not part of the product"
)]

use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mongodb::{
    Client,
    bson::{Document, RawDocument, doc},
};
use serde_json::{Value, json};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    compare::{Comparison, Expected},
    daemon::{Config, Daemon},
    random::Random,
    workload::{self, Plan, Workload},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the daemon may have in memory.
const MAX_MEMORY: u64 = 256 * 1024 * 1024;
/// What all servers together may have on disk.
const MAX_DISK: u64 = 12 << 30;
/// Documents below this value are filtered out.
const KEPT_FROM: i64 = 50;
/// Documents of the filtered collection.
const FILTERED: u64 = 3_000;
/// Documents that the growing collection keeps.
const KEPT_EVENTS: i64 = 20_000;
/// How long any one step may take.
const LIMIT: Duration = Duration::from_secs(900);

/// The command line.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long the load lasts in each direction.
    #[arg(long, default_value_t = 5)]
    minutes: u64,
    /// How often the roles are swapped after the commit.
    #[arg(long, default_value_t = 0)]
    reverses: u64,
    /// Seed of everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Members of each replica set.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the soak of seed {} failed: {error:#}", arguments.seed);
            ExitCode::FAILURE
        }
    }
}

/// Both clusters, the daemon, and what was done to them.
struct Soak {
    /// Where documents come from.
    source: ReplicaSet,
    /// Where they go.
    destination: ReplicaSet,
    /// Between them.
    daemon: Daemon,
    /// Numbers.
    random: Random,
    /// Faults by name.
    faults: BTreeMap<&'static str, u64>,
    /// Events that former lives of the daemon applied.
    applied_before: u64,
    /// Events that this life applied when it was last asked.
    applied: u64,
    /// Longest lag seen, in seconds.
    longest_lag: u64,
}

/// The whole soak.
async fn run(arguments: &Arguments) -> Result<()> {
    let options = |name: &str| {
        let one = Options { nodes: arguments.nodes, ..Options::single() };
        one.named(name).with_oplog(400)
    };
    let (source, destination) = tokio::try_join!(
        ReplicaSet::start(options("source")),
        ReplicaSet::start(options("destination"))
    )?;
    let client = source.client();
    workload::seed(&client, "live", "alpha", 8_000, 1).await?;
    workload::seed(&client, "live", "beta", 3_000, 2).await?;
    // What a filter withholds does not come back, so there is none where the roles are swapped.
    let is_reversible = arguments.reverses > 0;
    let config = if is_reversible {
        Config::new(&source.uri(), &destination.uri())
    } else {
        filtered(&source, &destination)
    };
    fill_border(&client).await?;
    let load = Load::start(&client, arguments.seed, 0);

    let daemon = Daemon::start(config).await?;
    daemon.start_with(json!({ "reversible": is_reversible })).await?;
    let mut soak = Soak {
        source,
        destination,
        daemon,
        random: Random::new(arguments.seed ^ 0x50AC),
        faults: BTreeMap::new(),
        applied_before: 0,
        applied: 0,
        longest_lag: 0,
    };
    let begun = Instant::now();
    soak.endure(load, Duration::from_secs(arguments.minutes * 60)).await?;
    soak.finish(begun, !is_reversible).await?;
    for round in 1..=arguments.reverses {
        std::mem::swap(&mut soak.source, &mut soak.destination);
        let load = Load::start(&soak.source.client(), arguments.seed, round);
        soak.reverse().await?;
        println!("way back {round}");
        soak.endure(load, Duration::from_secs(arguments.minutes * 60)).await?;
        soak.finish(begun, false).await?;
    }
    Ok(())
}

/// What applications write.
struct Load {
    /// Everything there is, DDL included.
    live: Workload,
    /// Writers of the other two collections.
    writers: JoinSet<Result<()>>,
    /// Ends those.
    stop: CancellationToken,
}

impl Load {
    /// Starts writing; `round` is how often the roles were swapped.
    fn start(client: &Client, seed: u64, round: u64) -> Self {
        let seed = seed + 1_000 * round;
        let plan = Plan { pause: Duration::from_millis(4), ..Plan::new(seed, "live") };
        let live = Workload::start(client, &plan.with_ddl().through_faults());
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        writers.spawn(cross_the_border(client.clone(), seed, stop.clone()));
        writers.spawn(grow(client.clone(), round as i64 * 1_000_000_000, stop.clone()));
        Self { live, writers, stop }
    }

    /// Ends when every writer has.
    async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.writers.join_next().await {
            ended??;
        }
        let counts = self.live.stop().await?;
        println!("the load has ended: {counts:?}");
        Ok(())
    }
}

/// Options of the daemon: one collection is filtered.
fn filtered(source: &ReplicaSet, destination: &ReplicaSet) -> Config {
    Config::new(&source.uri(), &destination.uri())
        .with(
            "plugins",
            json!([{ "name": "large", "component": "builtin:match-documents",
            "config": { "keep": { "value": { "$gte": KEPT_FROM } } } }]),
        )
        .with(
            "filters",
            json!([{ "namespaces": [{ "database": "border", "collections": ["items"] }],
            "plugins": ["large"] }]),
        )
}

/// What the filter shall do, written again and independently of the plugin.
fn expected(namespace: &str, document: &RawDocument) -> Expected {
    let value = document.get_i64("value").unwrap_or_default();
    if namespace == "border.items" && value < KEPT_FROM {
        Expected::Nothing
    } else {
        Expected::Same
    }
}

/// Fills the collection that may be filtered.
async fn fill_border(client: &Client) -> Result<()> {
    let documents = (0..FILTERED as i64).map(|n| doc! { "_id": n, "value": n % 100 });
    client.database("border").collection("items").insert_many(documents).await?;
    Ok(())
}

/// Moves documents across the filter's border until stopped. What an election refuses is left out.
async fn cross_the_border(client: Client, seed: u64, stop: CancellationToken) -> Result<()> {
    let items = client.database("border").collection::<Document>("items");
    let mut random = Random::new(seed);
    while !stop.is_cancelled() {
        let id = random.below(FILTERED) as i64;
        let value = random.below(100) as i64;
        if random.chance(10) {
            drop(items.delete_one(doc! { "_id": id }).await);
            drop(items.insert_one(doc! { "_id": id, "value": value }).await);
        } else {
            drop(items.update_one(doc! { "_id": id }, doc! { "$set": { "value": value } }).await);
        }
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    Ok(())
}

/// Inserts in bulk and deletes what is old, so that the collection stays as large as it is.
async fn grow(client: Client, mut next: i64, stop: CancellationToken) -> Result<()> {
    let events = client.database("grow").collection::<Document>("events");
    let text = "e".repeat(400);
    while !stop.is_cancelled() {
        let batch = (next..next + 200).map(|n| doc! { "_id": n, "n": n, "text": &text });
        drop(events.insert_many(batch).await);
        next += 200;
        if next % 2_000 == 0 {
            let old = doc! { "_id": { "$lt": next - KEPT_EVENTS } };
            drop(events.delete_many(old).await);
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    Ok(())
}

impl Soak {
    /// One fault after the other for so long, until the load has ended.
    async fn endure(&mut self, load: Load, duration: Duration) -> Result<()> {
        let begun = Instant::now();
        let until = begun + duration;
        let mut next_line = begun + Duration::from_secs(60);
        while Instant::now() < until {
            let pause = Duration::from_millis(4_000 + self.random.below(14_000));
            tokio::time::sleep(pause).await;
            self.look().await?;
            self.fault().await?;
            ensure!(!load.live.is_finished(), "a writer has ended before its time");
            if Instant::now() >= next_line {
                self.line(begun, &load.live).await?;
                next_line += Duration::from_secs(60);
            }
        }
        load.stop().await
    }

    /// Swaps the roles while applications write; sometimes the daemon dies over it.
    async fn reverse(&mut self) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(self.random.below(5_000))).await;
        self.end_life();
        self.daemon.command("reverse").await?;
        if self.random.chance(60) {
            tokio::time::sleep(Duration::from_millis(self.random.below(1_500))).await;
            self.daemon.kill();
            self.relaunch().await?;
            *self.faults.entry("kills").or_default() += 1;
        }
        self.daemon.wait_state("RUNNING", LIMIT).await?;
        Ok(())
    }

    /// Looks at the daemon: it runs, has not failed, and has little in memory.
    async fn look(&mut self) -> Result<Value> {
        ensure!(self.daemon.is_running(), "the daemon has ended:\n{}", self.daemon.output_tail());
        let progress = self.daemon.progress().await.with_context(|| self.daemon.output_tail())?;
        let applied = progress["totalEventsApplied"].as_u64().unwrap_or_default();
        self.applied = self.applied.max(applied);
        let lag = progress["lagTimeSeconds"].as_u64().unwrap_or_default();
        self.longest_lag = self.longest_lag.max(lag);
        let memory = self.daemon.peak_memory();
        ensure!(memory <= MAX_MEMORY, "the daemon has had {memory} bytes in memory");
        Ok(progress)
    }

    /// Something goes wrong.
    async fn fault(&mut self) -> Result<()> {
        let name = match self.random.below(20) {
            0..7 => {
                self.end_life();
                self.daemon.kill();
                // Sometimes nobody is there for a while.
                let absence = self.random.below(4) * self.random.below(1_000);
                tokio::time::sleep(Duration::from_millis(absence)).await;
                self.relaunch().await?;
                "kills"
            }
            7 | 8 => {
                self.end_life();
                self.daemon.terminate().await?;
                self.relaunch().await?;
                "stops"
            }
            9..13 => {
                self.daemon.wait_state("RUNNING", LIMIT).await?;
                self.daemon.command("pause").await?;
                self.daemon.wait_state("PAUSED", LIMIT).await?;
                tokio::time::sleep(Duration::from_millis(self.random.below(3_000))).await;
                self.daemon.command("resume").await?;
                "pauses"
            }
            13 | 14 => step_down(&self.source, "source").await?,
            15 | 16 => step_down(&self.destination, "destination").await?,
            17 => kill_primary(&mut self.source, "source").await?,
            18 => kill_primary(&mut self.destination, "destination").await?,
            _ => "quiet",
        };
        *self.faults.entry(name).or_default() += 1;
        Ok(())
    }

    /// Starts the daemon again and again while a cluster has no primary, as a supervisor does.
    async fn relaunch(&mut self) -> Result<()> {
        let mut attempts = 0;
        loop {
            match self.daemon.launch().await {
                Err(error) if attempts < 30 && error.to_string().contains("SYNC-1101") => {
                    attempts += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The daemon's counters begin anew with its next life.
    fn end_life(&mut self) {
        self.applied_before += std::mem::take(&mut self.applied);
    }

    /// Bytes on the disks of all servers.
    fn disk(&self) -> u64 {
        let servers = self.source.servers().iter().chain(self.destination.servers());
        servers.filter_map(|server| server.log_file().parent().map(size_of)).sum()
    }

    /// Prints what there is to say.
    async fn line(&mut self, begun: Instant, live: &Workload) -> Result<()> {
        let progress = self.look().await?;
        let disk = self.disk();
        let memory = self.daemon.pid().and_then(syncline_tests::process::resident_memory);
        println!(
            "{:>4} s  {} {} lag {} s (longest {})  events {}  {:?}  faults {:?}  memory {} MB (peak {})  disk {} MB",
            begun.elapsed().as_secs(),
            progress["state"].as_str().unwrap_or("-"),
            progress["info"].as_str().unwrap_or("-"),
            progress["lagTimeSeconds"],
            self.longest_lag,
            self.applied_before + self.applied,
            live.counts(),
            self.faults,
            memory.unwrap_or_default() >> 20,
            self.daemon.peak_memory() >> 20,
            disk >> 20,
        );
        ensure!(disk <= MAX_DISK, "the servers have {disk} bytes on disk");
        Ok(())
    }

    /// Commits and compares.
    async fn finish(&mut self, begun: Instant, is_filtered: bool) -> Result<()> {
        self.source.wait_writable().await?;
        self.destination.wait_writable().await?;
        self.daemon.commit(LIMIT).await?;
        self.look().await?;
        let comparison = Comparison::new();
        let comparison = if is_filtered { comparison.expecting(expected) } else { comparison };
        let report = comparison.run(&self.source.client(), &self.destination.client()).await?;
        println!("{report}");
        report.check()?;
        ensure!(
            !is_filtered || report.withheld > 0,
            "the filter kept everything; it proves nothing"
        );
        println!(
            "identical after {} s: {} events applied, faults {:?}, longest lag {} s, peak memory {} MB, disk {} MB",
            begun.elapsed().as_secs(),
            self.applied_before + self.applied,
            self.faults,
            self.longest_lag,
            self.daemon.peak_memory() >> 20,
            self.disk() >> 20,
        );
        Ok(())
    }
}

/// Another member becomes primary.
async fn step_down(set: &ReplicaSet, side: &str) -> Result<&'static str> {
    set.step_down().await.with_context(|| format!("stepping the {side}'s primary down"))?;
    Ok("step-downs")
}

/// The primary dies and comes back. A set of one has no other, so it only steps down.
async fn kill_primary(set: &mut ReplicaSet, side: &str) -> Result<&'static str> {
    if set.servers().len() < 3 {
        return step_down(set, side).await;
    }
    let primary = set.wait_writable().await?;
    set.server_mut(primary).kill();
    set.wait_writable().await.with_context(|| format!("after the {side}'s primary died"))?;
    set.server_mut(primary).launch().await?;
    Ok("server kills")
}

/// Bytes of everything in a folder. What vanishes meanwhile counts nothing.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
