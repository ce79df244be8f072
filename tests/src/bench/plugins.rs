//! What document filters cost: a copy with one that keeps everything against a copy without, a filter
//! in WebAssembly against the same logic as native code, calls, instances and loading.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, RawDocumentBuf, doc, rawdoc};
use serde_json::{Value, json};
use syncline_plugin_match_documents::MatchDocuments;
use syncline_sdk::{DocumentFilter, Namespace, config, filter::judge_batch};

use super::{
    COLLECTION, DATABASE, LIMIT, Measure, check_identical, clear, clusters, documents, machine,
    median, raw,
};
use crate::{
    cluster::ReplicaSet,
    command,
    daemon::{Config, Daemon},
};

/// A filter that looks at two fields and keeps everything.
const KEEP_ALL: &str =
    r#"{"keep": {"_id": {"$exists": true}, "no.such.field": {"$exists": false}}}"#;
/// A filter that keeps half of the made documents.
const KEEP_HALF: &str = r#"{"keep": {"status": "active"}}"#;
/// Documents in a batch.
const BATCH: u32 = 1000;

/// How to measure it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Documents of the copy; 0 leaves the copy out.
    #[arg(long, default_value_t = 300_000)]
    documents: u64,
    /// Bytes per document, about.
    #[arg(long, default_value_t = 1024)]
    bytes: u32,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Further components to measure, each with `{"status": "active"}`.
    #[arg(long)]
    component: Vec<PathBuf>,
}

/// Measures.
///
/// # Errors
/// When a server or the program cannot be run, or a copy is wrong.
pub async fn run(arguments: &Arguments) -> Result<()> {
    machine()?;
    filters(arguments).await?;
    start().await?;
    if arguments.documents > 0 {
        copies(arguments).await?;
    }
    Ok(())
}

/// A filter against the same logic as native code, round by round.
async fn filters(arguments: &Arguments) -> Result<()> {
    let (mut guests, mut natives) = (Vec::new(), Vec::new());
    let mut last = Value::Null;
    for round in 1..=arguments.rounds {
        let speed = measured("builtin:match-documents", KEEP_HALF, arguments.bytes).await?;
        let native = native(arguments.bytes)?;
        let guest = speed["documentsPerSecond"].as_f64().context("no rate")?;
        println!(
            "round {round}: match-documents {guest:.0}/s, native {native:.0}/s, ratio {:.2}",
            guest / native
        );
        guests.push(guest);
        natives.push(native);
        last = speed;
    }
    let (guest, native) = (median(&guests), median(&natives));
    println!(
        "median, {} bytes a document, one core: match-documents {guest:.0}/s ({:.0} MB/s), native \
         {native:.0}/s, ratio {:.2}",
        arguments.bytes,
        guest * f64::from(arguments.bytes) / 1e6,
        guest / native
    );
    println!("match-documents: {last}");
    for component in &arguments.component {
        let path = component.display().to_string();
        let speed = measured(&path, r#"{"status": "active"}"#, arguments.bytes).await?;
        let bytes = std::fs::metadata(component)?.len();
        println!("{path} ({bytes} bytes): {speed}");
    }
    Ok(())
}

/// What `plugin bench` says of a component.
async fn measured(component: &str, config: &str, bytes: u32) -> Result<Value> {
    let (size, batch) = (bytes.to_string(), BATCH.to_string());
    let words = [
        "plugin",
        "bench",
        component,
        "--config",
        config,
        "--size",
        &size,
        "--batch",
        &batch,
        "--seconds",
        "2",
        "--output",
        "json",
    ];
    let finished = command::run(&words, &[]).await?;
    ensure!(finished.code == Some(0), "{finished:?}");
    finished.json()
}

/// Documents a second of the same logic in this program, as compiled as the program itself.
fn native(bytes: u32) -> Result<f64> {
    let filter = config::parse(KEEP_HALF).and_then(MatchDocuments::new)?;
    let filler = "x".repeat(usize::try_from(bytes.saturating_sub(100))?);
    let mut flat = Vec::new();
    for number in 0..BATCH {
        let status = if number % 2 == 0 { "active" } else { "gone" };
        let document: RawDocumentBuf = rawdoc! {"_id": i64::from(number), "status": status,
        "number": i64::from(number), "name": "Ada Lovelace", "text": filler.as_str()};
        flat.extend_from_slice(document.as_bytes());
    }
    let namespace = Namespace { database: "app", collection: "documents" };
    let (begun, mut judged) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(2) {
        // As the host does: the documents are copied once, the verdicts come back.
        let copy = std::hint::black_box(flat.clone());
        let outcome = judge_batch(&filter, &namespace, BATCH, &copy);
        let outcome = outcome.map_err(|at| anyhow::anyhow!("document {at} cannot be read"))?;
        judged += u64::try_from(std::hint::black_box(outcome).verdicts.len())?;
    }
    Ok(judged as f64 / begun.elapsed().as_secs_f64())
}

/// From the start of the process to IDLE with seven plugins loaded, first without compiled ones.
async fn start() -> Result<()> {
    let (source, destination) = clusters().await?;
    let cache = tempfile::tempdir()?;
    let filter = |name: &str, component: &str, config: Value| json!({ "name": name, "component": component, "config": config });
    let plugins: Vec<Value> = (0..3)
        .map(|n| filter(&format!("m{n}"), "builtin:match-documents", json!({ "keep": { "a": n } })))
        .chain((0..2).map(|n| {
            filter(
                &format!("r{n}"),
                "builtin:redact-fields",
                json!({ "remove": [format!("f{n}")] }),
            )
        }))
        .chain((0..2).map(|n| {
            filter(
                &format!("n{n}"),
                "builtin:rename-fields",
                json!({ "rename": { "a": format!("b{n}") } }),
            )
        }))
        .collect();
    let mut taken = Vec::new();
    for _ in 0..6 {
        let config = Config::new(&source.uri(), &destination.uri())
            .with("plugins", plugins.clone())
            .with("pluginCache", cache.path().join("plugins").display().to_string());
        let begun = Instant::now();
        let daemon = Daemon::start(config).await?;
        daemon.wait_state("IDLE", LIMIT).await?;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(daemon);
    }
    let without = Config::new(&source.uri(), &destination.uri());
    let begun = Instant::now();
    let daemon = Daemon::start(without).await?;
    daemon.wait_state("IDLE", LIMIT).await?;
    let bare = begun.elapsed().as_secs_f64() * 1e3;
    drop(daemon);
    let (first, rest) = taken.split_first().context("nothing was started")?;
    println!(
        "process to IDLE with seven plugins: {first:.0} ms compiling, {:.0} ms cached; {bare:.0} ms \
         without plugins (connections to two clusters are part of each)",
        median(rest)
    );
    Ok(())
}

/// Copies with and without a filter, in turn.
async fn copies(arguments: &Arguments) -> Result<()> {
    let (source, destination) = clusters().await?;
    let batches = documents::make(arguments.documents, usize::try_from(arguments.bytes)?)?;
    let batches = std::sync::Arc::new(batches);
    raw::write(&source.client(), DATABASE, &batches, 4).await?;
    let (mut plain, mut filtered) = (Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let without = copy(arguments, &source, &destination, None).await?;
        let with = copy(arguments, &source, &destination, Some(KEEP_ALL)).await?;
        println!(
            "round {round}: copy {:.0}/s ({:.2} s), with a filter {:.0}/s ({:.2} s), ratio {:.2}",
            without.rate,
            without.seconds,
            with.rate,
            with.seconds,
            with.rate / without.rate
        );
        plain.push(without.rate);
        filtered.push(with.rate);
    }
    let (plain, filtered) = (median(&plain), median(&filtered));
    println!(
        "median: copy {plain:.0}/s, with a filter that keeps all {filtered:.0}/s, ratio {:.2}",
        filtered / plain
    );
    Ok(())
}

/// One copy.
async fn copy(
    arguments: &Arguments,
    source: &ReplicaSet,
    destination: &ReplicaSet,
    filter: Option<&str>,
) -> Result<Measure> {
    let mut config = Config::new(&source.uri(), &destination.uri());
    if let Some(filter) = filter {
        let filter: Value = serde_json::from_str(filter)?;
        config.set(
            "plugins",
            json!([{ "name": "all", "component": "builtin:match-documents", "config": filter }]),
        );
        config.set(
            "filters",
            json!([{ "namespaces": [{ "database": DATABASE }], "plugins": ["all"] }]),
        );
    }
    let mut daemon = Daemon::start(config).await?;
    let begun = Instant::now();
    daemon.start_sync().await?;
    let is_copied = |progress: &Value| progress["info"] == "change event application";
    daemon.wait_for("end of the copy", LIMIT, is_copied).await?;
    let measure = Measure::since(begun, arguments.documents);
    daemon.wait_can_commit(LIMIT).await?;
    daemon.kill();
    let copied = destination.client().database(DATABASE).collection::<Document>(COLLECTION);
    let count = copied.count_documents(doc! {}).await?;
    ensure!(count == arguments.documents, "{count} documents arrived");
    check_identical(source, destination).await?;
    clear(destination).await?;
    Ok(measure)
}
