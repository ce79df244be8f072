//! An applier: takes what the router hands it, folds it, writes it, says how far it is.
//!
//! An applier owns its documents: the router sends every event of a document to the same one, so
//! order per document is the order of its queue.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bson::{RawArrayBuf, RawDocumentBuf, Uuid};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    bulk::{self, Bulk, Operation},
    floor::Done,
};
use crate::{
    engine::{
        context::Context,
        filter::{Chain, Filtered},
        indexes,
    },
    error::{Error, Kind, Result},
    model::{Batch, ClusterTime, Namespace, order::canonical_id},
    ports::Fetched,
};

/// Collections, and fetches of one collection, that an applier has in work at the same time.
const CONCURRENCY: usize = 2;
/// Operations folded at once at most.
const MAX_FOLDED: usize = 5_000;
/// Bytes per write at most.
const MAX_WRITE_BYTES: usize = 4 * 1024 * 1024;
/// Documents per write at most.
const MAX_WRITE_DOCUMENTS: usize = 5_000;
/// Bytes fetched at once, by the collection's average size.
const FETCH_BYTES: u64 = 4 * 1024 * 1024;
/// Documents fetched at once at most.
const MAX_FETCH_DOCUMENTS: u64 = 1_000;

/// A hand-over of the router.
pub(super) struct Chunk {
    /// Its sequence number.
    pub(super) sequence: u64,
    /// What happened, in order.
    pub(super) operations: Vec<(Uuid, Operation)>,
    /// A fetch must see at least everything up to here.
    pub(super) after: ClusterTime,
    /// How many change events it stands for.
    pub(super) events: usize,
    /// Share of the memory budget, given back when the chunk is written.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// Applies chunks until the router hangs up.
///
/// # Errors
/// Whatever a retry does not mend; nothing after the last reported mark counts as applied.
pub(super) async fn run(
    context: Arc<Context>,
    mut chunks: mpsc::Receiver<Chunk>,
    done: Arc<Done>,
) -> Result<()> {
    while let Some(first) = chunks.recv().await {
        let mut sequence = first.sequence;
        let mut after = first.after;
        let mut events = first.events;
        let mut permits = vec![first.permit];
        let mut operations = first.operations;
        // What has queued up meanwhile is folded together.
        while operations.len() < MAX_FOLDED {
            let Ok(next) = chunks.try_recv() else { break };
            sequence = next.sequence;
            after = after.max(next.after);
            events += next.events;
            permits.push(next.permit);
            operations.extend(next.operations);
        }
        let mut by_collection: Vec<(Uuid, Vec<Operation>)> = Vec::new();
        let mut places: HashMap<Uuid, usize> = HashMap::new();
        for (uuid, operation) in operations {
            let place = *places.entry(uuid).or_insert_with(|| {
                by_collection.push((uuid, Vec::new()));
                by_collection.len() - 1
            });
            if let Some((_, list)) = by_collection.get_mut(place) {
                list.push(operation);
            }
        }
        let writes = by_collection
            .into_iter()
            .map(|(uuid, list)| apply(&context, uuid, list, after).boxed());
        stream::iter(writes).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        context.counters.add_events(events);
        done.advance(sequence);
        drop(permits);
    }
    Ok(())
}

/// Brings documents of a collection in line with the source, outside of the stream.
///
/// # Errors
/// Those of the clusters and of the filters.
pub(crate) async fn bring(
    context: &Context,
    uuid: Uuid,
    ids: Vec<RawDocumentBuf>,
    after: ClusterTime,
) -> Result<()> {
    let operations = ids.into_iter().map(Operation::Refetch).collect();
    apply(context, uuid, operations, after).await
}

/// What a write needs to know of a collection.
struct Target {
    /// Name on the source.
    source: Namespace,
    /// Name on the destination.
    destination: Namespace,
    /// Inserts keep the order of the source.
    ordered: bool,
    /// Nothing is done at the same time.
    serial: bool,
    /// Document filters.
    chain: Option<Arc<Chain>>,
    /// Documents to fetch at once.
    fetch_count: usize,
    /// Average size of a document in bytes.
    average: u64,
}

/// Writes the folded operations of one collection.
async fn apply(
    context: &Context,
    uuid: Uuid,
    operations: Vec<Operation>,
    after: ClusterTime,
) -> Result<()> {
    let described = context.table().get(&uuid).filter(|entry| !entry.dropped).map(|entry| {
        let average = (entry.stats.bytes / entry.stats.documents.max(1)).max(1);
        let count = (FETCH_BYTES / average).clamp(1, MAX_FETCH_DOCUMENTS);
        (
            entry.source.clone(),
            entry.destination.clone(),
            entry.is_capped(),
            entry.is_serial(),
            usize::try_from(count).unwrap_or(1),
            average,
        )
    });
    let Some((source, destination, ordered, serial, fetch_count, average)) = described else {
        return Ok(());
    };
    let chain = context.chain(&source)?;
    let target = Target { source, destination, ordered, serial, chain, fetch_count, average };
    if ordered {
        for run in bulk::runs(operations, target.chain.is_some()) {
            write(context, uuid, &target, run, after).await?;
        }
        return Ok(());
    }
    let folded = bulk::fold(operations, target.chain.is_some());
    write(context, uuid, &target, folded, after).await
}

/// Writes disjoint sets of documents.
async fn write(
    context: &Context,
    uuid: Uuid,
    target: &Target,
    bulk: Bulk,
    after: ClusterTime,
) -> Result<()> {
    let Bulk { inserts, upserts, refetches, deletes } = bulk;
    // One chunk is fetched while another is written, where no order is kept.
    let chunks_at_once = if target.serial { 1 } else { CONCURRENCY };
    let chunks: Vec<Vec<RawDocumentBuf>> =
        refetches.chunks(target.fetch_count).map(<[RawDocumentBuf]>::to_vec).collect();
    let fetches = chunks.into_iter().map(|ids| refetch(context, uuid, target, ids, after).boxed());
    let fetching = stream::iter(fetches).buffer_unordered(chunks_at_once).try_collect::<()>();
    let deleting = async {
        if deletes.is_empty() {
            return Ok(());
        }
        context.destination.delete(&target.destination, &deletes).await?;
        context.quarantine.release(&*context.store, uuid, &deletes).await
    };
    let writing = async {
        for batch in batches(inserts) {
            insert(context, uuid, target, batch).await?;
        }
        if !upserts.is_empty() {
            upsert(context, uuid, target, &upserts).await?;
        }
        Ok(())
    };
    if target.serial {
        // Deletes first: under a collation another document may already have the deleted one's
        // key, and would go in its place.
        deleting.await?;
        fetching.await?;
        return writing.await;
    }
    let writing = async {
        deleting.await?;
        writing.await
    };
    tokio::try_join!(fetching, writing).map(|_| ())
}

/// Inserts documents; those that exist already (an event seen again after a crash) are replaced.
async fn insert(
    context: &Context,
    uuid: Uuid,
    target: &Target,
    mut documents: Vec<RawDocumentBuf>,
) -> Result<()> {
    loop {
        let batch = Batch::from_documents(&documents);
        let report = indexes::set_aside_for(context, &uuid, || {
            context.destination.insert(&target.destination, &batch, target.ordered)
        })
        .await?;
        let Some(first) = report.duplicates.first().copied() else { return Ok(()) };
        if !target.ordered {
            let known: HashSet<usize> = report.duplicates.into_iter().collect();
            let existing: Vec<RawDocumentBuf> = documents
                .into_iter()
                .enumerate()
                .filter_map(|(index, document)| known.contains(&index).then_some(document))
                .collect();
            return upsert(context, uuid, target, &existing).await;
        }
        // An ordered insert stopped at the first one: replace it and go on behind it.
        let rest = documents.split_off((first + 1).min(documents.len()));
        if let Some(existing) = documents.pop() {
            upsert(context, uuid, target, &[existing]).await?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        documents = rest;
    }
}

/// Replaces documents, or inserts them where they do not exist.
async fn upsert(
    context: &Context,
    uuid: Uuid,
    target: &Target,
    documents: &[RawDocumentBuf],
) -> Result<()> {
    let write = || context.destination.upsert(&target.destination, documents);
    indexes::set_aside_for(context, &uuid, write).await
}

/// Brings documents in line with their present state on the source, seen through the filters.
async fn refetch(
    context: &Context,
    uuid: Uuid,
    target: &Target,
    mut wanted: Vec<RawDocumentBuf>,
    after: ClusterTime,
) -> Result<()> {
    while !wanted.is_empty() {
        let expected = u64::try_from(wanted.len()).unwrap_or(1).saturating_mul(target.average);
        let share = context.reserve(usize::try_from(expected).unwrap_or(usize::MAX)).await;
        let fetched = context.source.fetch(&target.source, uuid, &wanted, after).await?;
        let (found, complete) = match fetched {
            Fetched::CollectionGone => (Batch::from_array(RawArrayBuf::new(), 0), true),
            Fetched::Documents { found, complete } => (found, complete),
        };
        // Under a collation the server may find a document with another `_id` than asked for.
        let asked: HashSet<Vec<u8>> = wanted.iter().map(|id| canonical_id(id)).collect();
        let mut answered = HashSet::with_capacity(found.count());
        for document in found.documents() {
            answered.insert(canonical_id(document?));
        }
        if answered.is_empty() && !complete {
            return Err(Error::new(
                Kind::ReadFailed,
                format!(
                    "{}: an answer without documents claims that there are more",
                    target.source
                ),
            ));
        }
        let Filtered { kept, withheld } = match &target.chain {
            None => Filtered { kept: found, withheld: Vec::new() },
            Some(chain) => chain.apply(&target.source, found).await?,
        };
        // Under a collation it may be about a document that was not asked for, and comes again.
        let refused: HashSet<Vec<u8>> =
            withheld.iter().map(|one| canonical_id(&one.document)).collect();
        let store = &*context.store;
        context.quarantine.put(store, uuid, &target.source, withheld).await?;
        let mut present = HashSet::with_capacity(kept.count());
        let mut documents = Vec::with_capacity(kept.count());
        for document in kept.documents() {
            let document = document?;
            let key = canonical_id(document);
            // What is found for another `_id` has its place: it goes when that one is deleted.
            if asked.contains(&key) || target.serial {
                present.insert(key);
                documents.push(document.to_owned());
            }
        }
        if target.ordered {
            // The order in which they came to be on the source.
            let order: HashMap<Vec<u8>, usize> =
                wanted.iter().enumerate().map(|(place, id)| (canonical_id(id), place)).collect();
            documents.sort_by_cached_key(|document| order.get(&canonical_id(document)).copied());
        }
        let (settled, left): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|id| complete || answered.contains(&canonical_id(id)));
        let passed = settled.iter().filter(|id| !refused.contains(&canonical_id(id)));
        let passed: Vec<RawDocumentBuf> = passed.cloned().collect();
        let gone: Vec<RawDocumentBuf> =
            settled.into_iter().filter(|id| !present.contains(&canonical_id(id))).collect();
        context.destination.delete(&target.destination, &gone).await?;
        upsert(context, uuid, target, &documents).await?;
        context.quarantine.release(store, uuid, &passed).await?;
        drop(share);
        wanted = left;
    }
    Ok(())
}

/// Cuts documents into writes of bounded size.
fn batches(documents: Vec<RawDocumentBuf>) -> Vec<Vec<RawDocumentBuf>> {
    let mut all = Vec::new();
    let mut current: Vec<RawDocumentBuf> = Vec::new();
    let mut bytes = 0;
    for document in documents {
        let size = document.as_bytes().len();
        if !current.is_empty()
            && (bytes + size > MAX_WRITE_BYTES || current.len() >= MAX_WRITE_DOCUMENTS)
        {
            all.push(std::mem::take(&mut current));
            bytes = 0;
        }
        bytes += size;
        current.push(document);
    }
    if !current.is_empty() {
        all.push(current);
    }
    all
}
