//! Planning, copy and memory with very many collections, most of them empty or small.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt};
use mongodb::bson::{Document, doc};

use super::{check_identical, clusters_of, machine, processor_seconds, wait};
use crate::{
    cluster::Options,
    daemon::{Config, Daemon},
};

/// Collections made at the same time.
const CONCURRENCY: usize = 16;

/// How to measure it.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Collections, a hundred in a database.
    #[arg(long, default_value_t = 10_000)]
    collections: usize,
    /// Documents in every fifth of them.
    #[arg(long, default_value_t = 20)]
    documents: i32,
    /// Leaves the comparison at the end out.
    #[arg(long)]
    unchecked: bool,
}

/// Measures it.
///
/// # Errors
/// Whatever keeps it from being measured, a wrong copy among others.
pub async fn run(arguments: &Arguments) -> Result<()> {
    machine()?;
    // A server holds two files or more open for a collection; those not in use are closed early here, or
    // it meets the limit of open files of its process.
    let (source, destination) = clusters_of(
        Options::single()
            .with_parameter("wiredTigerFileHandleCloseIdleTime", "10")
            .with_parameter("wiredTigerFileHandleCloseMinimum", "250")
            .with_parameter("wiredTigerFileHandleCloseScanInterval", "2"),
    )
    .await?;
    let client = source.client();
    let made = Instant::now();
    futures_util::stream::iter(0..arguments.collections)
        .map(|number| {
            let database = client.database(&format!("many{:03}", number / 100));
            async move {
                let name = format!("c{number:05}");
                database.create_collection(&name).await?;
                if number.is_multiple_of(5) {
                    let documents =
                        (0..arguments.documents).map(|n| doc! { "_id": n, "number": n });
                    database.collection::<Document>(&name).insert_many(documents).await?;
                }
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<_>>()
        .await?;
    println!("{} collections made in {:.1} s", arguments.collections, made.elapsed().as_secs_f64());
    let daemon = Daemon::start(Config::new(&source.uri(), &destination.uri())).await?;
    let begun = Instant::now();
    daemon.start_sync().await?;
    let seconds = |from: Instant| Duration::as_secs_f64(&from.elapsed());
    let planning = |p: &serde_json::Value| {
        p["state"] == "RUNNING"
            && p["info"].is_string()
            && p["info"] != "initializing collections and indexes"
    };
    wait(&daemon, "end of the planning", planning).await?;
    let planned = seconds(begun);
    wait(&daemon, "end of the copy", |p| p["info"] == "change event application").await?;
    let copied = seconds(begun);
    wait(&daemon, "canCommit", |p| p["canCommit"] == true).await?;
    println!(
        "{} collections: planned after {planned:.1} s, copied after {copied:.1} s; daemon: peak memory \
         {:.0} MB, {:.1} processor seconds",
        arguments.collections,
        daemon.pid().and_then(crate::process::peak_memory).unwrap_or_default() as f64 / 1e6,
        processor_seconds(daemon.pid())
    );
    if !arguments.unchecked {
        check_identical(&source, &destination).await?;
    }
    Ok(())
}
