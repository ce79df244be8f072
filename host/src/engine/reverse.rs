//! The way back: after a commit the roles are swapped, without a new copy.
//!
//! ```text
//! COMMITTED ─▶ REVERSING ──────────────────────────────────────────────▶ RUNNING
//!              the catalog turned round, the indexes of the new           from where the
//!              destination relaxed, the metadata written there            application could write
//! ```
//!
//! Whatever was written on the new source since the application was let in is in its oplog, and
//! the sync begins there. Every step can be repeated: the old record says REVERSING until the new
//! one is stored on the new destination, and of two records the one of the higher generation counts.

use std::{collections::HashMap, sync::Arc};

use bson::{Document, RawBsonRef, RawDocument, Uuid, doc};

use super::{
    blocking::{Block, Blocks},
    capped,
    catalog::{Entry, Index, Partition, PartitionState},
    checkpoint::{self, CommitStep, SyncRecord},
    indexes,
    record::Record,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        ClusterTime,
        change::Position,
        progress::{Phase, State},
    },
    ports::{Bounds, Destination, StateStore, Table},
};

/// Option of an index and of a clustered collection.
const TTL: &str = "expireAfterSeconds";
/// Collections written to the store at once.
const CHUNK: usize = 500;

/// What turning round works with.
pub(crate) struct Reversal {
    /// The record of the sync that was committed.
    pub(crate) record: Arc<Record>,
    /// Where its metadata is: on the new source.
    pub(crate) old_store: Arc<dyn StateStore>,
    /// What was the source.
    pub(crate) destination: Arc<dyn Destination>,
    /// Where the metadata goes: on the new destination.
    pub(crate) store: Arc<dyn StateStore>,
    /// Whose write blocks there are, by the new roles.
    pub(crate) blocks: Blocks,
}

/// From when on the way back must bring over what was written.
///
/// # Errors
/// `InvalidState` when the sync was not started as reversible.
pub(crate) fn begin(record: &SyncRecord) -> Result<ClusterTime> {
    let refuse = |text: &str| Err(Error::new(Kind::InvalidState, text.to_owned()));
    if !record.options.reversible {
        return refuse("this sync was not started as reversible, so its roles cannot be swapped");
    }
    match record.reverse_from {
        Some(time) => Ok(time),
        None => refuse("the metadata does not say since when the application may write"),
    }
}

/// The write blocks by the new roles: what is to be done where nothing stands yet, and whose those
/// are that stand.
pub(crate) fn swapped(old: Blocks, resolved: Blocks) -> Blocks {
    let keep = |standing: Block, resolved: Block| match standing {
        Block::Ours | Block::Foreign => standing,
        Block::Never | Block::NoUsers | Block::Wanted => resolved,
    };
    Blocks {
        source: keep(old.destination, resolved.source),
        destination: keep(old.source, resolved.destination),
    }
}

/// Turns the sync round; when it returns, the new record is stored and the old one is gone.
///
/// # Errors
/// `DestinationChanged` when the old source no longer has a collection that was synced;
/// `IndexBuildFailed` when an index of it cannot be relaxed. Repeatable.
pub(crate) async fn turn(reversal: &Reversal) -> Result<()> {
    let old = reversal.record.get().await;
    let from = begin(&old)?;
    let collections = turned(reversal, from).await?;
    relax(reversal, &collections).await?;
    let store = &*reversal.store;
    for table in Table::ALL {
        store.remove(table, doc! {}).await?;
    }
    for chunk in collections.chunks(CHUNK) {
        let mut stored = Vec::with_capacity(chunk.len());
        let mut partitions = Vec::with_capacity(chunk.len());
        for (uuid, entry) in chunk {
            stored.push(checkpoint::collection_to_document(uuid, entry)?);
            for (index, partition) in entry.partitions.iter().flatten().enumerate() {
                let bounds = &partition.bounds;
                partitions.push(checkpoint::partition_to_document(uuid, index, bounds, true)?);
            }
        }
        store.put(Table::Partitions, partitions).await?;
        store.put(Table::Collections, stored).await?;
    }
    let mut options = old.options.clone();
    std::mem::swap(&mut options.source, &mut options.destination);
    let record = SyncRecord {
        state: State::Running,
        phase: Phase::ChangeEventApplication,
        options,
        source_identity: old.destination_identity,
        destination_identity: old.source_identity,
        position: Some(Position { token: None, time: from }),
        commit: CommitStep::None,
        fence: None,
        blocks: reversal.blocks,
        reverse_from: None,
        hot: Vec::new(),
        generation: old.generation + 1,
        ..old
    };
    store.put(Table::Sync, vec![record.to_document()?]).await?;
    for table in Table::ALL {
        reversal.old_store.remove(table, doc! {}).await?;
    }
    Ok(())
}

/// The catalog by the new roles.
async fn turned(reversal: &Reversal, from: ClusterTime) -> Result<Vec<(Uuid, Entry)>> {
    // Nothing is copied, but the verifier goes by them, too.
    let mut cut: HashMap<Uuid, Vec<(i64, Bounds)>> = HashMap::new();
    for document in reversal.old_store.load(Table::Partitions).await? {
        let (uuid, index, partition) = checkpoint::partition_from_document(&document, from)?;
        cut.entry(uuid).or_default().push((index, partition.bounds));
    }
    let mut collections = Vec::new();
    for document in reversal.old_store.load(Table::Collections).await? {
        let (uuid, entry, _) = checkpoint::collection_from_document(&document, from)?;
        if entry.dropped {
            continue;
        }
        let Some(own) = entry.destination_uuid else {
            let text = format!("{}: the metadata has no UUID of it", entry.destination);
            return Err(Error::new(Kind::MetadataMismatch, text));
        };
        let indexes = entry.indexes.into_iter().map(|index| Index { built: true, ..index });
        let mut swapped =
            Entry::to_copy(entry.destination, entry.source, entry.options, indexes.collect(), from);
        swapped.destination_uuid = Some(uuid);
        swapped.stats = entry.stats;
        swapped.copied = entry.stats;
        let mut bounds = cut.remove(&uuid).unwrap_or_default();
        if bounds.is_empty() {
            bounds.push((0, Bounds::default()));
        }
        bounds.sort_by_key(|(index, _)| *index);
        let done = |(_, bounds)| Partition { bounds, state: PartitionState::Done };
        swapped.partitions = Some(bounds.into_iter().map(done).collect());
        collections.push((own, swapped));
    }
    Ok(collections)
}

/// Relaxes the indexes of the new destination, which are the source's own until now. Nothing is
/// changed unless every collection is the one that was synced.
async fn relax(reversal: &Reversal, collections: &[(Uuid, Entry)]) -> Result<()> {
    let present = reversal.destination.list().await?;
    let mut gone = Vec::new();
    let mut changes = Vec::new();
    for (_, entry) in collections {
        let found = present.iter().find(|info| {
            info.namespace == entry.destination && info.uuid == entry.destination_uuid
        });
        let Some(info) = found else {
            gone.push(entry.destination.to_string());
            continue;
        };
        let change = capped::relaxation(&info.options);
        if !change.is_empty() {
            changes.push((&entry.destination, change));
        }
        for change in info.indexes.iter().flat_map(|spec| indexes::relaxation(spec)) {
            let fields: Document = doc! { "index": change };
            changes.push((&entry.destination, fields));
        }
    }
    if !gone.is_empty() {
        let text = format!(
            "not the collections any more that were synced, the old source was changed after the \
             commit: {}",
            gone.join(", ")
        );
        return Err(Error::new(Kind::DestinationChanged, text));
    }
    for (namespace, fields) in changes {
        reversal.destination.modify(namespace, fields).await?;
    }
    Ok(())
}

/// What a way back that was given up has left on the old source, in words: where it is not as it
/// was. The catalog is that of the sync that was committed.
///
/// # Errors
/// Those of the cluster and of the store.
pub(crate) async fn left_behind(
    old_source: &dyn Destination,
    old_store: &dyn StateStore,
) -> Result<Vec<String>> {
    let present = old_source.list().await?;
    let mut left = Vec::new();
    for document in old_store.load(Table::Collections).await? {
        let (uuid, entry, _) = checkpoint::collection_from_document(&document, ClusterTime::ZERO)?;
        if entry.dropped {
            continue;
        }
        let name = &entry.source;
        let Some(info) = present.iter().find(|i| i.namespace == *name && i.uuid == Some(uuid))
        else {
            left.push(format!("{name} is not the collection any more that was synced"));
            continue;
        };
        for (option, what) in
            [("size", "is capped at another size"), (TTL, "deletes nothing any more")]
        {
            if number(&info.options, option) != number(&entry.options, option) {
                left.push(format!("{name} {what}"));
            }
        }
        for index in &entry.indexes {
            let own = index.wanted.get_str("name").unwrap_or_default();
            let found = info.indexes.iter().find(|s| s.get_str("name").is_ok_and(|n| n == own));
            for what in found.map(|spec| lost(&index.wanted, spec)).unwrap_or_default() {
                left.push(format!("{name}: the index {own} {what}"));
            }
        }
    }
    Ok(left)
}

/// A number among options or in an index.
fn number(options: &RawDocument, name: &str) -> Option<i64> {
    match options.get(name) {
        Ok(Some(RawBsonRef::Int32(n))) => Some(i64::from(n)),
        Ok(Some(RawBsonRef::Int64(n))) => Some(n),
        #[allow(clippy::cast_possible_truncation, reason = "saturates, and is only compared")]
        Ok(Some(RawBsonRef::Double(n))) => Some(n as i64),
        _ => None,
    }
}

/// What an index has lost by being relaxed.
fn lost(wanted: &RawDocument, present: &RawDocument) -> Vec<&'static str> {
    let is_gone = |name| {
        let has = |spec: &RawDocument| spec.get_bool(name).unwrap_or(false);
        has(wanted) && !has(present)
    };
    [
        (is_gone("unique"), "is not unique any more"),
        (is_gone("hidden"), "is not hidden any more"),
        (number(wanted, TTL) != number(present, TTL), "deletes nothing any more"),
    ]
    .into_iter()
    .filter_map(|(is_so, what)| is_so.then_some(what))
    .collect()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn what_an_index_has_lost_is_told() {
        let wanted = rawdoc! {
            "key": { "a": 1 }, "name": "a", "unique": true, "hidden": true, "expireAfterSeconds": 60,
        };
        assert!(lost(&wanted, &wanted).is_empty());
        let relaxed = rawdoc! { "key": { "a": 1 }, "name": "a", "expireAfterSeconds": i32::MAX };
        assert_eq!(lost(&wanted, &relaxed).len(), 3);
        let plain = rawdoc! { "key": { "a": 1 }, "name": "a" };
        assert!(lost(&plain, &plain).is_empty());
    }

    #[test]
    fn blocks_that_stand_keep_their_owner() {
        let resolved = Blocks { source: Block::Wanted, destination: Block::Wanted };
        let old = Blocks { source: Block::Ours, destination: Block::Never };
        let expected = Blocks { source: Block::Wanted, destination: Block::Ours };
        assert_eq!(swapped(old, resolved), expected);
        let old = Blocks { source: Block::NoUsers, destination: Block::Foreign };
        let expected = Blocks { source: Block::Foreign, destination: Block::Wanted };
        assert_eq!(swapped(old, resolved), expected);
    }
}
