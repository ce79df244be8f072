//! What the servers can do by themselves: the least a program can send them, with the same write
//! concern as the daemon (majority, journaled).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use mongodb::{
    Client, Database,
    bson::{Document, RawArray, doc, rawdoc},
    options::RunCursorCommandOptions,
    raw_batch_cursor::RawBatchCursor,
};
use tokio::task::JoinSet;

use super::{COLLECTION, DATABASE, Measure, documents::Ready};

/// Documents per answer of a raw read.
const READ_COUNT: u32 = 20_000;
/// Bytes per answer of a raw read, about.
const READ_BYTES: usize = 2 << 20;

/// One `insert` of documents as they are.
async fn insert(database: &Database, documents: &RawArray) -> Result<()> {
    let mut command = rawdoc! {
        "insert": COLLECTION, "ordered": false, "bypassDocumentValidation": true,
        "writeConcern": { "w": "majority", "j": true },
    };
    command.append(bson::cstr!("documents"), documents);
    let reply = database.run_raw_command(command).await?;
    ensure!(reply.get_array("writeErrors").is_err(), "{reply}");
    Ok(())
}

/// Writes all batches into an empty collection as fast as the server takes them.
pub(super) async fn write(
    client: &Client,
    database: &str,
    batches: &Arc<Vec<Ready>>,
    workers: usize,
) -> Result<Measure> {
    let handle = client.database(database);
    handle.run_command(doc! { "create": COLLECTION }).await?;
    let begun = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (handle, batches, next) = (handle.clone(), Arc::clone(batches), Arc::clone(&next));
        tasks.spawn(async move {
            let mut written = 0;
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                insert(&handle, &batch.documents).await?;
                written += batch.count;
            }
            anyhow::Ok(written)
        });
    }
    let mut written = 0;
    while let Some(ended) = tasks.join_next().await {
        written += ended??;
    }
    Ok(Measure::since(begun, written))
}

/// Opens a scan of the ids `from..to`.
async fn scan(source: &Client, from: i64, to: i64, count: u32) -> Result<RawBatchCursor> {
    let options = RunCursorCommandOptions::builder().batch_size(count).build();
    let command = rawdoc! {
        "find": COLLECTION, "batchSize": i64::from(count), "hint": { "_id": 1 },
        "min": { "_id": from }, "max": { "_id": to },
        "readConcern": { "level": "majority" },
    };
    Ok(source
        .database(DATABASE)
        .run_raw_cursor_command(command)
        .with_options(options)
        .batch()
        .await?)
}

/// Reads the source and writes what comes as it comes, the next answer while the last is written.
/// The documents' ids are `0..documents`.
pub(super) async fn pipe(
    source: &Client,
    destination: &Client,
    database: &str,
    documents: u64,
    average: usize,
    workers: usize,
) -> Result<Measure> {
    let handle = destination.database(database);
    handle.run_command(doc! { "create": COLLECTION }).await?;
    let begun = Instant::now();
    let count = u32::try_from((READ_BYTES / average.max(1)).max(1))?.min(READ_COUNT);
    // More ranges than workers, so that all end at about the same time.
    let ranges = u64::try_from(workers * 8)?.min(documents).max(1);
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let (source, handle, next) = (source.clone(), handle.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let range = u64::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                if range >= ranges {
                    return anyhow::Ok(());
                }
                let edge = |n: u64| i64::try_from(documents * n / ranges);
                let mut answers = scan(&source, edge(range)?, edge(range + 1)?, count).await?;
                let mut answer = answers.next().await.transpose()?;
                while let Some(current) = answer {
                    let array = current.doc_slices()?;
                    let writing = async {
                        if array.is_empty() { Ok(()) } else { insert(&handle, array).await }
                    };
                    let (written, next) = tokio::join!(writing, answers.next());
                    written?;
                    answer = next.transpose()?;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let measured = Measure::since(begun, documents);
    let copied = handle.collection::<Document>(COLLECTION).count_documents(doc! {}).await?;
    ensure!(copied == documents, "the pipe copied {copied} of {documents} documents");
    Ok(measured)
}
