//! Planning: what is there to copy. It opens the change stream first, lists the source, and lists every
//! database again of which the stream shows that a collection changed since. Whatever the stream says
//! up to then is in the listing or will be seen by a scan.

use std::collections::{BTreeMap, BTreeSet};

use bson::Uuid;
use futures_util::{StreamExt, TryStreamExt};

use super::{
    capped,
    catalog::{Entry, Index, Partition, PartitionState},
    checkpoint, collisions,
    context::Context,
    indexes, preflight,
    record::Record,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        ClusterTime, Namespace,
        change::{Change, ChangeKind, Position},
        options::BuildIndexes,
        progress::Phase,
    },
    ports::{CollectionInfo, CollectionKind, CollectionStats, EventReader, Table},
};

/// Collections looked at or created at the same time.
const CONCURRENCY: usize = 8;
/// Listings tried before giving up on a source that changes its collections all the time.
const MAX_LISTINGS: u32 = 50;
/// Makes the table, creates the collections on the destination, saves everything, and hands over
/// the stream, which goes on where the plan ends.
///
/// A crash anywhere in between begins planning anew; empty collections that it left on the
/// destination are taken over.
///
/// # Errors
/// `NamespaceConflict` when the destination got documents meanwhile; otherwise as classified.
pub(crate) async fn plan(context: &Context, record: &Record) -> Result<Box<dyn EventReader>> {
    let begin = context.source.cluster_time().await?;
    let (reader, listed, position) = stable_listing(context, begin).await?;
    let mut collections = Vec::new();
    for info in listed {
        if info.kind == CollectionKind::View || !context.namespaces.includes(&info.namespace)? {
            continue;
        }
        if let Some(why) = preflight::unsupported(&info) {
            let text = format!("{}: cannot be synced: {why}", info.namespace);
            return Err(Error::new(Kind::UnsupportedOperation, text));
        }
        let Some(uuid) = info.uuid else {
            return Err(Error::new(Kind::ReadFailed, format!("{}: has no UUID", info.namespace)));
        };
        let mut entry = describe(context, info, position.time)?;
        collisions::refuse(&entry.source, entry.indexes.iter().map(|index| &index.wanted))?;
        entry.natural_order = context.namespaces.is_natural_order(&entry.source)?;
        collections.push((uuid, entry));
    }
    let sources: Vec<Namespace> = collections.iter().map(|(_, e)| e.source.clone()).collect();
    let metadata = context.namespaces.metadata_database();
    let problems = context.remap.conflicts(&sources, &BTreeSet::new(), metadata)?;
    if !problems.is_empty() {
        return Err(Error::new(Kind::NamespaceRemapConflict, problems.join("; ")));
    }
    remove_leftovers(context).await?;
    context.store.remove(Table::Partitions, bson::doc! {}).await?;
    context.store.remove(Table::Collections, bson::doc! {}).await?;
    context.store.remove(Table::Verification, bson::doc! {}).await?;
    context.store.remove(Table::Quarantine, bson::doc! {}).await?;
    // Recorded before they exist, so that a later planning can tell them from somebody else's.
    context.store.put(Table::Collections, stored(&collections)?).await?;
    let entries: Vec<(Uuid, Entry)> = futures_util::stream::iter(collections)
        .map(|(uuid, entry)| async move { Ok((uuid, prepare(context, entry).await?)) })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<_>>()
        .await?;
    context.store.put(Table::Collections, stored(&entries)?).await?;
    {
        let mut table = context.table();
        for (uuid, entry) in entries {
            table.insert(uuid, entry);
        }
        table.sort();
        table.set_stream_time(position.time);
    }
    if !indexes::is_after_copy(context.options.build_indexes)
        && context.options.build_indexes != BuildIndexes::Never
    {
        indexes::build_all(context, None).await?;
    }
    record
        .change(&*context.store, |record| {
            record.phase = Phase::CollectionCopy;
            record.position = Some(position);
        })
        .await?;
    Ok(reader)
}

/// A listing that is true at the stream's position: each database is listed until nothing in it has changed
/// since. The stream begins before the listing but is opened after it: its first answer tells all there is
/// already, where an open stream would wait for more.
async fn stable_listing(
    context: &Context,
    begin: ClusterTime,
) -> Result<(Box<dyn EventReader>, Vec<CollectionInfo>, Position)> {
    let mut opened: Option<Box<dyn EventReader>> = None;
    let mut listing = Listing::default();
    for _ in 0..MAX_LISTINGS {
        let before = context.source.cluster_time().await?;
        listing.complete(context, before).await?;
        let after = context.source.append_note("planning").await?;
        let mut reader = match opened.take() {
            Some(reader) => reader,
            None => context.source.open_stream(Position { token: None, time: begin }).await?,
        };
        loop {
            let answer = reader.next().await?;
            for event in answer.events.documents() {
                let change = Change::parse(event?)?;
                if concerns(context, &change)? {
                    listing.changed(&change);
                }
            }
            if answer.position.time >= after {
                if listing.is_complete() {
                    return Ok((reader, listing.collections(), answer.position));
                }
                opened = Some(reader);
                break;
            }
        }
        tracing::info!(
            databases = listing.missing.len(),
            "collections changed while they were listed, listing their databases again"
        );
    }
    Err(Error::new(
        Kind::ReadFailed,
        "the source creates and drops collections faster than they can be listed",
    ))
}

/// What the databases of the source hold, each as it was found when nothing in it changed.
#[derive(Default)]
struct Listing {
    /// What was found, by database.
    found: BTreeMap<String, Vec<CollectionInfo>>,
    /// Databases whose listing is younger than the first one, with its time.
    younger: BTreeMap<String, ClusterTime>,
    /// When the first listing began.
    first: Option<ClusterTime>,
    /// Databases that changed since they were listed.
    missing: BTreeSet<String>,
}

impl Listing {
    /// Lists everything, and later what has changed.
    async fn complete(&mut self, context: &Context, now: ClusterTime) -> Result<()> {
        let listed = if self.first.is_none() {
            self.first = Some(now);
            context.source.list().await?
        } else {
            let missing = std::mem::take(&mut self.missing);
            let listed = context.source.list_of(&missing).await?;
            for database in missing {
                self.found.remove(&database);
                self.younger.insert(database, now);
            }
            listed
        };
        for info in listed {
            self.found.entry(info.namespace.database().to_owned()).or_default().push(info);
        }
        Ok(())
    }

    /// Takes note of an event about a collection.
    fn changed(&mut self, change: &Change) {
        let target = match &change.kind {
            ChangeKind::Rename { to, .. } => Some(to),
            _ => None,
        };
        for namespace in change.namespace.iter().chain(target) {
            let listed = self.younger.get(namespace.database()).copied().or(self.first);
            if listed.is_none_or(|listed| change.time > listed) {
                self.missing.insert(namespace.database().to_owned());
            }
        }
    }

    /// Whether nothing has changed since it was listed.
    fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Everything that was found.
    fn collections(self) -> Vec<CollectionInfo> {
        self.found.into_values().flatten().collect()
    }
}

/// Whether an event changes what a listing of the sync's namespaces shows.
fn concerns(context: &Context, change: &Change) -> Result<bool> {
    if change.kind.is_crud() {
        return Ok(false);
    }
    let included = |namespace: Option<&Namespace>| match namespace {
        Some(namespace) => context.namespaces.includes(namespace),
        None => Ok(false),
    };
    let target = match &change.kind {
        ChangeKind::Rename { to, .. } => Some(to),
        _ => None,
    };
    Ok(included(change.namespace.as_ref())? || included(target)?)
}

/// The stored forms of collections.
fn stored(entries: &[(Uuid, Entry)]) -> Result<Vec<bson::Document>> {
    entries.iter().map(|(uuid, entry)| checkpoint::collection_to_document(uuid, entry)).collect()
}

/// Drops what a planning that did not come to its end has created, as far as it is still empty:
/// the source may have renamed or dropped it since.
async fn remove_leftovers(context: &Context) -> Result<()> {
    for document in context.store.load(Table::Collections).await? {
        let (_, entry, _) = checkpoint::collection_from_document(&document, ClusterTime::ZERO)?;
        if context.destination.is_empty(&entry.destination).await? {
            context.destination.drop_collection(&entry.destination).await?;
        }
    }
    Ok(())
}

/// What is to be copied of a listed collection.
fn describe(context: &Context, info: CollectionInfo, read_after: ClusterTime) -> Result<Entry> {
    let wanted = info
        .indexes
        .into_iter()
        .filter(|spec| indexes::is_wanted(spec, context.options.build_indexes))
        .map(|wanted| Index { wanted, built: false })
        .collect();
    let destination = context.remap.destination(&info.namespace)?;
    Ok(Entry::to_copy(info.namespace, destination, info.options, wanted, read_after))
}

/// Creates a collection on the destination.
async fn prepare(context: &Context, mut entry: Entry) -> Result<Entry> {
    let namespace = entry.destination.clone();
    if context.destination.find(&namespace).await?.is_some() {
        // An empty one hides nothing, unless others use the destination too.
        if context.options.pre_existing || !context.destination.is_empty(&namespace).await? {
            return Err(Error::new(
                Kind::NamespaceConflict,
                format!("the destination already holds {namespace}"),
            ));
        }
        context.destination.drop_collection(&namespace).await?;
    }
    context.destination.create(&namespace, &capped::relaxed(&entry.options)).await?;
    entry.destination_uuid = context.destination.find(&namespace).await?;
    entry.stats = context.source.stats(&entry.source).await?;
    if entry.is_single_partition() || context.limits.is_small(entry.stats) {
        // There is nothing to cut, and so nothing to save before it is done.
        entry.partitions = Some(vec![Partition::whole(entry.read_after, 0)]);
    }
    Ok(entry)
}

/// Reads the table back after a restart. Partitions that were not done are begun anew, after
/// everything up to `position`.
///
/// # Errors
/// `MetadataMismatch` for what cannot be read.
pub(crate) async fn load(context: &Context, position: &Position) -> Result<()> {
    let read_after = position.time;
    let mut entries = Vec::new();
    for document in context.store.load(Table::Collections).await? {
        entries.push(checkpoint::collection_from_document(&document, read_after)?);
    }
    let mut partitions: std::collections::HashMap<Uuid, Vec<_>> = std::collections::HashMap::new();
    for document in context.store.load(Table::Partitions).await? {
        let (uuid, index, partition) = checkpoint::partition_from_document(&document, read_after)?;
        partitions.entry(uuid).or_default().push((index, partition));
    }
    let mut table = context.table();
    for (uuid, mut entry, planned) in entries {
        if planned && !entry.dropped {
            let mut own = partitions.remove(&uuid).unwrap_or_default();
            own.sort_by_key(|(index, _)| *index);
            if own.is_empty() {
                own.push((0, Partition::whole(read_after, 1)));
            }
            entry.copied = share_done(&own, entry.stats);
            entry.partitions = Some(own.into_iter().map(|(_, partition)| partition).collect());
        }
        table.insert(uuid, entry);
    }
    table.sort();
    table.set_stream_time(read_after);
    Ok(())
}

/// What of a collection counts as copied after a restart: the share of its done partitions.
fn share_done(partitions: &[(i64, Partition)], stats: CollectionStats) -> CollectionStats {
    let done = partitions.iter().filter(|(_, p)| matches!(p.state, PartitionState::Done)).count();
    let all = u64::try_from(partitions.len().max(1)).unwrap_or(1);
    let done = u64::try_from(done).unwrap_or(0);
    CollectionStats { bytes: stats.bytes / all * done, documents: stats.documents / all * done }
}
