//! `cargo demo`: the main job from nothing. Two real replica sets, real public data, the source behind
//! `MONGODB-OIDC` with tokens from a metadata service, a document filter plugin on one collection, live
//! writes, a daemon that is killed and started again, commit, and an independent comparison.
//!
//! Ends with 0 only if the comparison finds no difference.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program for people, not part of the product"
)]

use std::{
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mongodb::{
    Client,
    bson::{Document, RawDocument, doc},
};
use serde_json::{Value, json};
use syncline_tests::{
    binary,
    cluster::{Options, ReplicaSet},
    compare::{Comparison, Expected},
    daemon::{Config, Daemon},
    mongod,
    oidc::{
        gateway::{Gateway, ServerConfig},
        idp::FakeIdp,
    },
    public_data::PublicData,
    random::Random,
    workload::{self, Plan, Workload},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Who the tokens are for.
const AUDIENCE: &str = "api://syncline-demo";
/// Life of a token, so short that the sync sees several.
const TOKEN_LIFE: Duration = Duration::from_secs(20);
/// Cities below this population are filtered out.
const SMALL_CITY: i64 = 30_000;
/// How long any one step may take.
const LIMIT: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> ExitCode {
    let begun = Instant::now();
    match run().await {
        Ok(()) => {
            println!(
                "\nDone in {:.0} s: the clusters are identical.",
                begun.elapsed().as_secs_f64()
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line per step.
fn step(number: u32, what: &str) {
    println!("[{number}/8] {what}");
}

/// The whole demo.
async fn run() -> Result<()> {
    syncline_tests::install_crypto();
    step(1, "looking for a MongoDB server, the daemon and the data");
    let server = tokio::task::spawn_blocking(mongod::locate).await??;
    println!("      mongod {} at {}", mongod::version(&server)?, server.display());
    let daemon_binary = tokio::task::spawn_blocking(binary::locate).await??;
    println!("      syncline at {}", daemon_binary.display());
    let data = tokio::task::spawn_blocking(PublicData::load).await??;
    let total = data.cities.len() + data.airports.len() + data.countries.len();
    ensure!(total >= 25_000, "only {total} documents; the packages changed");
    println!("      {total} documents of public data");

    step(2, "starting two replica sets and filling the source");
    let (source, destination) = tokio::try_join!(
        ReplicaSet::start(Options::single().named("source")),
        ReplicaSet::start(Options::single().named("destination"))
    )?;
    fill(&source.client(), &data).await?;

    step(3, "putting an identity provider and an OIDC gateway in front of the source");
    let idp = FakeIdp::start().await?;
    idp.change(|workload| workload.lifetime = TOKEN_LIFE);
    let config = ServerConfig::workload(idp.issuer(), AUDIENCE, "sync");
    let address = source.servers().first().context("the set is empty")?.address();
    let gateway = Gateway::start(&address, config).await?;
    println!("      tokens live {} s", TOKEN_LIFE.as_secs());

    step(4, "starting live writes and the daemon");
    let live = Live::start(&source.client(), &data);
    let config = Config::new(&gateway.azure_uri(AUDIENCE), &destination.uri())
        .with("identity", json!({ "azureImdsEndpoint": idp.imds_origin() }))
        .with(
            "plugins",
            json!([{
                "name": "large-cities",
                "component": "builtin:match-documents",
                "config": { "keep": { "population": { "$gte": SMALL_CITY } } },
            }]),
        )
        .with(
            "filters",
            json!([{
                "namespaces": [{ "database": "world", "collections": ["cities"] }],
                "plugins": ["large-cities"],
            }]),
        );
    let mut daemon = Daemon::start(config).await?;

    step(5, "copying under live writes");
    daemon.start_sync().await?;
    watch_copy(&daemon).await?;

    step(6, "killing the daemon (SIGKILL) and starting it again");
    live.more(200).await?;
    daemon.kill();
    live.more(200).await?;
    daemon.launch().await?;
    daemon.wait_state("RUNNING", LIMIT).await?;
    live.more(200).await?;

    step(7, "applying changes until they are few, then committing");
    watch_lag(&daemon, TOKEN_LIFE + Duration::from_secs(5)).await?;
    let written = live.stop().await?;
    println!("      {written} writes during the sync");
    let last = daemon.commit(LIMIT).await?;
    println!("      state {}, canWrite {}", last["state"], last["canWrite"]);
    let tokens = idp.counts().issued;
    let renewed = gateway.stats().reauthenticated.load(Ordering::SeqCst);
    println!("      {tokens} tokens issued, {renewed} sessions renewed with a fresh one");
    ensure!(tokens > 1, "the token was never renewed");
    println!("      peak memory of the daemon: {} MB", daemon.peak_memory() / 1_000_000);

    step(8, "comparing the clusters byte for byte, independently of the daemon");
    let comparison = Comparison::new().expecting(expected);
    let report = comparison.run(&source.client(), &destination.client()).await?;
    for line in report.to_string().lines() {
        println!("      {line}");
    }
    report.check()?;
    ensure!(report.withheld > 0, "the filter kept everything; it proves nothing");
    let indexes = report.indexes - report.collections;
    println!("      of {} indexes, {indexes} are not on _id alone", report.indexes);
    Ok(())
}

/// What the filter shall do, written again and independently of the plugin.
fn expected(namespace: &str, document: &RawDocument) -> Expected {
    let population = document.get_i64("population").unwrap_or_default();
    if namespace == "world.cities" && population < SMALL_CITY {
        Expected::Nothing
    } else {
        Expected::Same
    }
}

/// Inserts the data and builds indexes of several kinds.
async fn fill(client: &Client, data: &PublicData) -> Result<()> {
    let world = client.database("world");
    for (name, documents) in
        [("cities", &data.cities), ("airports", &data.airports), ("countries", &data.countries)]
    {
        for batch in documents.chunks(2000) {
            world.collection::<Document>(name).insert_many(batch).await?;
        }
    }
    workload::seed(client, "live", "alpha", 2000, 1).await?;
    workload::seed(client, "live", "beta", 2000, 2).await?;
    for (name, specs) in [
        (
            "cities",
            vec![
                doc! { "key": { "location": "2dsphere" }, "name": "where" },
                doc! { "key": { "country.code": 1, "population": -1 }, "name": "by_country" },
                doc! { "key": { "alternateNames": 1 }, "name": "names" },
            ],
        ),
        (
            "airports",
            vec![
                doc! { "key": { "iata": 1 }, "name": "iata", "unique": true, "sparse": true },
                doc! { "key": { "position.point": "2dsphere" }, "name": "where" },
                doc! { "key": { "place.country": 1, "place.region": 1 }, "name": "place" },
                doc! { "key": { "closedAt": 1 }, "name": "closed", "expireAfterSeconds": 86_400 },
            ],
        ),
        (
            "countries",
            vec![
                doc! { "key": { "names.iso3": 1 }, "name": "iso3", "unique": true },
                doc! { "key": { "continent": 1 }, "name": "continent", "hidden": true },
            ],
        ),
    ] {
        world.run_command(doc! { "createIndexes": name, "indexes": specs }).await?;
    }
    Ok(())
}

/// The writers: random changes in `live`, and cities that grow and shrink across the filter's border.
struct Live {
    /// Random changes.
    workload: Workload,
    /// The one that moves cities.
    movers: JoinSet<Result<u64>>,
    /// Ends it.
    stop: CancellationToken,
}

impl Live {
    /// Starts writing.
    fn start(client: &Client, data: &PublicData) -> Self {
        let workload = Workload::start(client, &Plan::new(2026, "live"));
        let stop = CancellationToken::new();
        let ids: Vec<i32> = data.cities.iter().filter_map(|c| c.get_i32("_id").ok()).collect();
        let mut movers = JoinSet::new();
        movers.spawn(move_cities(client.clone(), ids, stop.clone()));
        Self { workload, movers, stop }
    }

    /// Waits for more writes.
    async fn more(&self, writes: u64) -> Result<()> {
        self.workload.writes(writes).await
    }

    /// Stops and counts.
    async fn stop(mut self) -> Result<u64> {
        self.stop.cancel();
        let mut moved = 0;
        while let Some(ended) = self.movers.join_next().await {
            moved += ended??;
        }
        let counts = self.workload.stop().await?;
        Ok(counts.writes + counts.transactions + moved)
    }
}

/// Lets cities grow and shrink until stopped.
async fn move_cities(client: Client, ids: Vec<i32>, stop: CancellationToken) -> Result<u64> {
    let cities = client.database("world").collection::<Document>("cities");
    let mut random = Random::new(30);
    let mut moved = 0;
    while !stop.is_cancelled() {
        let id = *random.pick(&ids);
        let population = SMALL_CITY + i64::try_from(random.below(20_000))? - 10_000;
        let change = doc! { "$set": { "population": population, "census": { "year": 2026 } } };
        cities.update_one(doc! { "_id": id }, change).await?;
        moved += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Ok(moved)
}

/// Draws the copy.
async fn watch_copy(daemon: &Daemon) -> Result<()> {
    let style = "      {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
    let bar = ProgressBar::new(1).with_style(ProgressStyle::with_template(style)?);
    let deadline = Instant::now() + LIMIT;
    loop {
        let progress = daemon.progress().await.with_context(|| daemon.output_tail())?;
        let copy = &progress["collectionCopy"];
        let number = |name: &str| copy[name].as_u64().unwrap_or_default();
        bar.set_length(number("estimatedTotalBytes"));
        bar.set_position(number("estimatedCopiedBytes"));
        bar.set_message(progress["info"].as_str().unwrap_or_default().to_owned());
        if progress["info"] == "change event application" {
            bar.finish();
            println!("      copied {} bytes", number("estimatedCopiedBytes"));
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the copy is not over after {LIMIT:?}: {progress}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Draws the lag for a while, at least until the sync can be committed.
async fn watch_lag(daemon: &Daemon, least: Duration) -> Result<()> {
    let bar = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("      {spinner} {elapsed} {msg}")?);
    let begun = Instant::now();
    loop {
        let progress = daemon.progress().await.with_context(|| daemon.output_tail())?;
        let shown =
            |value: &Value| if value.is_null() { "-".to_owned() } else { value.to_string() };
        bar.set_message(format!(
            "{} events applied, lag {} s, canCommit {}",
            shown(&progress["totalEventsApplied"]),
            shown(&progress["lagTimeSeconds"]),
            progress["canCommit"],
        ));
        bar.tick();
        if progress["canCommit"] == true && begun.elapsed() >= least {
            bar.finish();
            println!("      {} events applied", shown(&progress["totalEventsApplied"]));
            return Ok(());
        }
        if begun.elapsed() > LIMIT {
            bail!("cannot commit after {LIMIT:?}: {progress}");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
