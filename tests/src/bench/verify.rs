//! The verifier alone against the rate at which both sides can be read at the same time.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use mongodb::{
    Client,
    bson::{RawDocumentBuf, rawdoc},
    options::RunCursorCommandOptions,
};
use tokio::process::Command;

use super::{COLLECTION, DATABASE, Measure, clusters, documents, machine, median, raw};
use crate::{binary, cluster::ReplicaSet};

/// How to measure it.
#[derive(clap::Args)]
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
}

/// Measures.
///
/// # Errors
/// When a server or the program cannot be run, or the two sides differ.
pub async fn run(arguments: &Arguments) -> Result<()> {
    machine()?;
    let (source, destination) = clusters().await?;
    let batches = Arc::new(documents::make(arguments.documents, arguments.bytes)?);
    for set in [&source, &destination] {
        raw::write(&set.client(), DATABASE, &batches, 4).await?;
    }
    println!("{} documents of {} bytes on each side", arguments.documents, arguments.bytes);
    let (mut reads, mut verifications, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let begun = Instant::now();
        let (from, to) = (source.client(), destination.client());
        let (left, right) = tokio::try_join!(read(&from), read(&to))?;
        ensure!(left == right && left == arguments.documents, "{left} and {right} documents read");
        let read = Measure::since(begun, left);
        let verified = verify(&source, &destination, arguments.documents).await?;
        println!(
            "round {round}: both read {:.0}/s ({:.2} s), verified {:.0}/s ({:.2} s), ratio {:.2}",
            read.rate,
            read.seconds,
            verified.rate,
            verified.seconds,
            verified.rate / read.rate
        );
        reads.push(read.rate);
        verifications.push(verified.rate);
        ratios.push(verified.rate / read.rate);
    }
    println!(
        "median: both read {:.0} documents/s, verified {:.0} documents/s, ratio {:.2}",
        median(&reads),
        median(&verifications),
        median(&ratios)
    );
    Ok(())
}

/// Reads everything by the index on `_id` in raw batches and counts it.
async fn read(client: &Client) -> Result<u64> {
    let options = RunCursorCommandOptions::builder().batch_size(2_000).build();
    let command: RawDocumentBuf = rawdoc! {
        "find": COLLECTION, "batchSize": 2_000i64, "hint": { "_id": 1 },
        "readConcern": { "level": "majority" },
    };
    let mut answers = client
        .database(DATABASE)
        .run_raw_cursor_command(command)
        .with_options(options)
        .batch()
        .await?;
    let mut count = 0;
    while let Some(answer) = answers.next().await {
        for element in answer?.doc_slices()?.iter_elements() {
            element?;
            count += 1;
        }
    }
    Ok(count)
}

/// One run of `syncline verify`, with its start and its connections.
async fn verify(source: &ReplicaSet, destination: &ReplicaSet, documents: u64) -> Result<Measure> {
    let program = binary::locate()?;
    let begun = Instant::now();
    let output = Command::new(program)
        .args(["verify", "--cluster0", &source.uri(), "--cluster1", &destination.uri()])
        .output()
        .await
        .context("cannot run syncline")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(Measure::since(begun, documents))
}
