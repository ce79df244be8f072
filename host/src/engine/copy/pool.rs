//! The copy workers: claim, read, filter, write.
//!
//! A worker holds at most two batches: one is written while the next is read. All workers share a
//! budget of bytes, for which a batch waits before it is read. A scan that breaks,
//! or whose collection the source has moved, is given up and claimed again; a second attempt first
//! empties the partition on the destination, because what the first one left may be older than
//! events that were only remembered in memory.

use std::sync::Arc;

use bson::Uuid;
use tokio_util::sync::CancellationToken;

use super::{order, plan};
use crate::{
    engine::{
        catalog::{Claim, Work},
        checkpoint,
        context::Context,
        filter::Filtered,
        indexes,
    },
    error::{Error, Kind, Result},
    model::{Batch, ClusterTime},
    ports::{self, Bounds, CollectionStats, ReadRequest},
};

/// Data per batch: large enough to make calls cheap, small enough that memory stays bounded.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Documents per batch at most.
const BATCH_DOCUMENTS: u64 = 20_000;
/// Largest answer of a server, but for the envelope.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// One worker: works until everything is scanned. Returns early, leaving the rest to a later run,
/// when `cancel` is set.
///
/// # Errors
/// Whatever a retry does not mend.
pub(crate) async fn run(context: Arc<Context>, cancel: CancellationToken) -> Result<()> {
    loop {
        // Registered before looking, so that no change in between is missed.
        let changed = context.changed.notified();
        let work = context.table().claim();
        match work {
            Work::Finished => {
                context.changed.notify_waiters();
                return Ok(());
            }
            Work::Wait => tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = changed => {}
            },
            Work::Plan(uuid) => plan_collection(&context, uuid, &cancel).await?,
            Work::Copy(claim) => copy_partition(&context, claim, &cancel).await?,
        }
        if cancel.is_cancelled() {
            return Ok(());
        }
    }
}

/// Cuts a collection into partitions and saves them.
async fn plan_collection(context: &Context, uuid: Uuid, cancel: &CancellationToken) -> Result<()> {
    let described = context
        .table()
        .get(&uuid)
        .map(|entry| (entry.source.clone(), entry.is_single_partition(), entry.stats));
    let Some((namespace, single, known)) = described else { return Ok(()) };
    let planned = async {
        let stats = context.source.stats(&namespace).await?;
        let stats = if stats == CollectionStats::default() { known } else { stats };
        let mut ranges = vec![Bounds::default()];
        let mut natural_order = false;
        if !single
            && context.options.detect_random_id
            && stats.bytes >= context.limits.random_id_bytes
        {
            natural_order =
                order::is_random(&context.source.stored_ids(&namespace, order::SAMPLE).await?);
            if natural_order {
                tracing::info!(%namespace, "the ids are random: copied in the order of storage");
            }
        }
        if !single && !natural_order {
            let workers = context.load.copy_workers;
            let count = plan::partition_count(stats, &context.limits, workers);
            let samples = match plan::sample_count(count) {
                0 => Vec::new(),
                wanted => context.source.sample_ids(&namespace, wanted, stats.documents).await?,
            };
            let greatest = if plan::wants_tail(stats, &context.limits) {
                context.source.greatest_id(&namespace).await?
            } else {
                None
            };
            ranges = plan::bounds(samples, count, greatest);
        }
        Ok::<_, Error>((ranges, stats, natural_order))
    };
    let (ranges, stats, natural_order) = match unless_stopped(cancel, cancel, planned).await {
        Some(Ok(planned)) => planned,
        None => {
            context.table().not_planned(&uuid, ClusterTime::ZERO);
            return Ok(());
        }
        Some(Err(error)) => {
            context.table().not_planned(&uuid, ClusterTime::ZERO);
            return Err(error);
        }
    };
    let collection = doc_of_uuid(&uuid);
    let mut stored = Vec::with_capacity(ranges.len());
    for (index, bounds) in ranges.iter().enumerate() {
        stored.push(checkpoint::partition_to_document(&uuid, index, bounds, false)?);
    }
    context.store.remove(ports::Table::Partitions, collection).await?;
    context.store.put(ports::Table::Partitions, stored).await?;
    context.table().cut(&uuid, ranges, stats);
    if natural_order && let Some(entry) = context.table().get_mut(&uuid) {
        entry.natural_order = true;
    }
    // Saved before anything is copied: after a crash the partitions count as begun.
    context.save_collection(&uuid).await?;
    context.table().planned(&uuid);
    context.changed.notify_waiters();
    Ok(())
}

/// The filter for every partition of a collection.
fn doc_of_uuid(uuid: &Uuid) -> bson::Document {
    bson::doc! { "collection": uuid.to_string() }
}

/// How a scan ended.
enum Scan {
    /// Every write is acknowledged.
    Finished,
    /// It was told to stop.
    Stopped,
    /// The source has moved the collection.
    Moved,
}

/// Copies one partition and tells the table how it ended.
async fn copy_partition(context: &Context, claim: Claim, cancel: &CancellationToken) -> Result<()> {
    let mut copied = CollectionStats::default();
    let outcome = scan(context, &claim, cancel, &mut copied).await;
    let give_up = |not_before: ClusterTime| {
        let mut table = context.table();
        if let Some(entry) = table.get_mut(&claim.uuid) {
            entry.copied.bytes = entry.copied.bytes.saturating_sub(copied.bytes);
            entry.copied.documents = entry.copied.documents.saturating_sub(copied.documents);
        }
        table.given_up(&claim.uuid, claim.index, not_before);
    };
    let result = match outcome {
        Ok(Scan::Finished) => {
            context.table().finished(&claim.uuid, claim.index);
            context.scanned.notify_one();
            Ok(())
        }
        Ok(Scan::Stopped) => {
            give_up(ClusterTime::ZERO);
            Ok(())
        }
        Ok(Scan::Moved) => {
            // The stream will tell what became of it; until it has, nothing can be read.
            let now = context.source.append_note("waiting for a moved collection").await;
            give_up(*now.as_ref().unwrap_or(&ClusterTime::ZERO));
            now.map(|_| ())
        }
        Err(error) if error.is_transient() => {
            tracing::warn!(error = %error.full(), "a scan broke and begins anew");
            give_up(ClusterTime::ZERO);
            Ok(())
        }
        Err(error) => {
            give_up(ClusterTime::ZERO);
            Err(error)
        }
    };
    context.changed.notify_waiters();
    result
}

/// Reads a partition and writes it.
async fn scan(
    context: &Context,
    claim: &Claim,
    cancel: &CancellationToken,
    copied: &mut CollectionStats,
) -> Result<Scan> {
    let described = context.table().get(&claim.uuid).map(|entry| {
        let average = entry.stats.bytes / entry.stats.documents.max(1);
        (
            entry.source.clone(),
            entry.destination.clone(),
            entry.is_single_partition(),
            entry.is_capped(),
            average.max(1),
        )
    });
    let Some((source, destination, natural_order, ordered, average)) = described else {
        return Ok(Scan::Stopped);
    };
    let chain = context.chain(&source)?;
    if claim.must_empty {
        context.destination.empty(&destination, &claim.bounds).await?;
    }
    // What an earlier attempt put there may be gone from the source, and no event will tell.
    context.quarantine.release_range(&*context.store, claim.uuid, &claim.bounds).await?;
    let request = ReadRequest {
        namespace: source.clone(),
        uuid: claim.uuid,
        bounds: claim.bounds.clone(),
        after: claim.read_after,
        natural_order,
        batch_count: u32::try_from((BATCH_BYTES / average).clamp(1, BATCH_DOCUMENTS)).unwrap_or(1),
    };
    let opened = unless_stopped(cancel, &claim.stop, context.source.read(request)).await;
    let Some(opened) = opened else { return Ok(Scan::Stopped) };
    let Some(mut reader) = opened? else { return Ok(Scan::Moved) };
    let write = async |batch: Batch| -> Result<()> {
        let (bytes, documents) = (batch.document_bytes(), batch.count());
        let batch = match &chain {
            None => batch,
            Some(chain) => {
                let Filtered { kept, withheld } = chain.apply(&source, batch).await?;
                context.quarantine.put(&*context.store, claim.uuid, &source, withheld).await?;
                kept
            }
        };
        if !batch.is_empty() {
            let report = indexes::set_aside_for(context, &claim.uuid, || {
                context.destination.insert(&destination, &batch, ordered)
            })
            .await?;
            check_duplicates(&destination, report.duplicates.len(), ordered)?;
        }
        let add = CollectionStats {
            bytes: u64::try_from(bytes).unwrap_or(0),
            documents: u64::try_from(documents).unwrap_or(0),
        };
        if let Some(entry) = context.table().get_mut(&claim.uuid) {
            entry.copied.bytes += add.bytes;
            entry.copied.documents += add.documents;
        }
        Ok(())
    };
    // How large an answer will be is not known before it is there: the last one is the guess.
    let mut expected = usize::try_from(BATCH_BYTES).unwrap_or(MAX_ANSWER_BYTES);
    if average > BATCH_BYTES / 32 {
        expected = MAX_ANSWER_BYTES;
    }
    let first = async {
        let share = context.reserve(expected).await;
        reader.next().await.map(|batch| (share, batch))
    };
    let Some(first) = unless_stopped(cancel, &claim.stop, first).await else {
        return Ok(Scan::Stopped);
    };
    let (mut share, mut batch) = first?;
    while let Some(current) = batch {
        if cancel.is_cancelled() || claim.stop.is_cancelled() {
            return Ok(Scan::Stopped);
        }
        let size = current.size_bytes();
        if let Some(surplus) = share.as_mut().and_then(|s| s.split(expected.saturating_sub(size))) {
            drop(surplus);
        }
        expected = size.max(MAX_ANSWER_BYTES / 16);
        copied.bytes += u64::try_from(current.document_bytes()).unwrap_or(0);
        copied.documents += u64::try_from(current.count()).unwrap_or(0);
        let writing = async {
            let written = write(current).await;
            drop(share.take());
            written
        };
        let reading = async {
            let share = context.reserve(expected).await;
            reader.next().await.map(|batch| (share, batch))
        };
        // What is being written is not given up.
        let (written, next) = tokio::join!(writing, unless_stopped(cancel, &claim.stop, reading));
        written?;
        let Some(next) = next else { return Ok(Scan::Stopped) };
        (share, batch) = next?;
    }
    if claim.stop.is_cancelled() {
        return Ok(Scan::Stopped);
    }
    Ok(Scan::Finished)
}

/// What `work` comes to, unless the scan is to stop first.
async fn unless_stopped<T>(
    cancel: &CancellationToken,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        () = stop.cancelled() => None,
        value = work => Some(value),
    }
}

/// Nothing else writes into a partition while it is copied, so a duplicate can only be our own
/// batch, sent again after its reply was lost. An ordered insert stops there, which a capped
/// collection does not survive.
fn check_duplicates(
    namespace: &crate::model::Namespace,
    duplicates: usize,
    ordered: bool,
) -> Result<()> {
    if duplicates > 0 && ordered {
        return Err(Error::new(
            Kind::TransientNetwork,
            format!("{namespace}: a reply was lost in the middle of a capped collection"),
        ));
    }
    Ok(())
}
