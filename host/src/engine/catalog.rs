//! What the engine knows of every collection, and in which state the copy of each part is.
//!
//! The [`Table`] is the one place where the copy and the stream meet: the copy claims partitions
//! from it, the stream asks it what to do with an event. Both happen under one short lock, so that
//! "this partition is being copied" is true for both at the same moment.
//!
//! ```text
//! pending ──claim──▶ copying{dirty} ──scan ended──▶ scanned{dirty} ──router──▶ done
//!    ▲                    │
//!    └──── failed, DDL ───┘
//! ```
//!
//! An event for a *pending* part is dropped and raises `read_after`; one for a *copying* or
//! *scanned* part makes its `_id` dirty; one for a *done* part is applied.
//!
//! Invariant: nothing here waits; the lock is never held across an await.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use bson::{RawDocumentBuf, Uuid};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{
        ClusterTime, Namespace,
        order::{canonical_id, compare_ids},
    },
    ports::{Bounds, CollectionStats},
};

/// An index as the source has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Index {
    /// The specification that the destination shall have after the commit.
    pub(crate) wanted: RawDocumentBuf,
    /// Whether its relaxed form exists on the destination.
    pub(crate) built: bool,
}

/// Ids that events touched while their partition was copied, each once, in the order of the first
/// event, which capped collections keep.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// The ids.
    ids: Vec<RawDocumentBuf>,
    /// Their canonical forms.
    known: HashSet<Vec<u8>>,
    /// Memory that both take, about.
    bytes: usize,
}

/// Memory that an id takes beside its two forms: pointers, lengths, the place in the set.
const DIRTY_OVERHEAD: usize = 96;

impl Dirty {
    /// Adds an id.
    fn insert(&mut self, id: &RawDocumentBuf) {
        let canonical = canonical_id(id);
        let bytes = canonical.len() + id.as_bytes().len() + DIRTY_OVERHEAD;
        if self.known.insert(canonical) {
            self.ids.push(id.clone());
            self.bytes += bytes;
        }
    }
}

/// How far the copy of a partition is.
#[derive(Debug)]
pub(crate) enum PartitionState {
    /// Not begun, or to be begun anew.
    Pending {
        /// The scan must see at least everything up to this time.
        read_after: ClusterTime,
        /// Not before the stream has come this far: the source has moved the collection.
        not_before: ClusterTime,
        /// Scans begun before; from the second on the partition is emptied first.
        attempts: u32,
    },
    /// A worker is on it.
    Copying {
        /// Ids that events touched meanwhile.
        dirty: Dirty,
        /// Stops the worker.
        stop: CancellationToken,
        /// Scans begun, this one included.
        attempts: u32,
    },
    /// Everything is written, the router has not taken note yet.
    Scanned {
        /// As in `Copying`.
        dirty: Dirty,
    },
    /// Events are applied.
    Done,
}

/// A half-open `_id` range of a collection.
#[derive(Debug)]
pub(crate) struct Partition {
    /// The range.
    pub(crate) bounds: Bounds,
    /// How far it is.
    pub(crate) state: PartitionState,
}

impl Partition {
    /// All of a collection, to be copied.
    pub(crate) fn whole(read_after: ClusterTime, attempts: u32) -> Self {
        Self {
            bounds: Bounds::default(),
            state: PartitionState::Pending { read_after, not_before: ClusterTime::ZERO, attempts },
        }
    }
}

/// What is known of a collection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are facts that do not exclude each other")]
pub(crate) struct Entry {
    /// Name on the source, as far as the stream has told.
    pub(crate) source: Namespace,
    /// Name on the destination.
    pub(crate) destination: Namespace,
    /// UUID on the destination, once created.
    pub(crate) destination_uuid: Option<Uuid>,
    /// Creation options.
    pub(crate) options: RawDocumentBuf,
    /// Every index but the one on `_id`.
    pub(crate) indexes: Vec<Index>,
    /// Whether the source has dropped it.
    pub(crate) dropped: bool,
    /// Size when the copy began.
    pub(crate) stats: CollectionStats,
    /// Whether it is copied in the order in which it is stored, as one partition.
    pub(crate) natural_order: bool,
    /// Documents and bytes copied.
    pub(crate) copied: CollectionStats,
    /// Partitions in `_id` order; `None` until planned.
    pub(crate) partitions: Option<Vec<Partition>>,
    /// Before planning: what a scan must see.
    pub(crate) read_after: ClusterTime,
    /// Before planning: not before the stream has come this far.
    pub(crate) not_before: ClusterTime,
    /// Workers that are planning or copying it.
    pub(crate) in_flight: usize,
    /// DDL is being applied; nothing may be claimed.
    pub(crate) blocked: bool,
    /// A worker is planning it.
    planning: bool,
}

impl Entry {
    /// A collection that is still to be copied.
    pub(crate) fn to_copy(
        source: Namespace,
        destination: Namespace,
        options: RawDocumentBuf,
        indexes: Vec<Index>,
        read_after: ClusterTime,
    ) -> Self {
        Self {
            source,
            destination,
            destination_uuid: None,
            options,
            indexes,
            dropped: false,
            stats: CollectionStats::default(),
            natural_order: false,
            copied: CollectionStats::default(),
            partitions: None,
            read_after,
            not_before: ClusterTime::ZERO,
            in_flight: 0,
            blocked: false,
            planning: false,
        }
    }

    /// Whether every partition is done (or there is nothing to copy).
    pub(crate) fn is_done(&self) -> bool {
        self.dropped
            || self.partitions.as_ref().is_some_and(|partitions| {
                partitions.iter().all(|p| matches!(p.state, PartitionState::Done))
            })
    }

    /// Whether nothing of it is left to claim or in work.
    fn is_scanned(&self) -> bool {
        self.dropped
            || self.partitions.as_ref().is_some_and(|partitions| {
                partitions.iter().all(|p| {
                    matches!(p.state, PartitionState::Done | PartitionState::Scanned { .. })
                })
            })
    }

    /// Whether it must be kept in the order of the source: capped collections.
    pub(crate) fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }

    /// Whether `_id`s compare by something else than bytes: ranges by our own order would lie.
    pub(crate) fn has_collation(&self) -> bool {
        self.options
            .get_document("collation")
            .is_ok_and(|c| c.get_str("locale").is_ok_and(|l| l != "simple"))
    }

    /// Whether documents are stored by `_id` without an `_id` index.
    pub(crate) fn is_clustered(&self) -> bool {
        matches!(self.options.get("clusteredIndex"), Ok(Some(_)))
    }

    /// Whether all its events go to one applier in order.
    pub(crate) fn is_serial(&self) -> bool {
        self.is_capped() || self.has_collation()
    }

    /// Whether it is copied as one partition.
    pub(crate) fn is_single_partition(&self) -> bool {
        self.natural_order || self.is_capped() || self.has_collation() || self.is_clustered()
    }
}

/// What the stream shall do with an event about a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The copy will see it, or has been told to fetch it again.
    Covered,
    /// Apply it; `serial` means to the applier of the collection.
    Apply {
        /// Whether the collection keeps its order.
        serial: bool,
    },
    /// The collection is gone on the source.
    Dropped,
    /// No such collection is synced.
    Unknown,
}

/// Work for a copy worker.
#[derive(Debug)]
pub(crate) enum Work {
    /// Cut this collection into partitions.
    Plan(Uuid),
    /// Copy this partition.
    Copy(Claim),
    /// Nothing now; look again when something changes.
    Wait,
    /// Everything is scanned.
    Finished,
}

/// A claimed partition.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The collection.
    pub(crate) uuid: Uuid,
    /// Position of the partition.
    pub(crate) index: usize,
    /// Its range.
    pub(crate) bounds: Bounds,
    /// What the scan must see.
    pub(crate) read_after: ClusterTime,
    /// Whether something may be left of an earlier attempt.
    pub(crate) must_empty: bool,
    /// Tells the worker to give up.
    pub(crate) stop: CancellationToken,
}

/// Every collection of the sync.
#[derive(Debug)]
pub(crate) struct Table {
    /// Dirty ids of one partition, and bytes of them, before it is begun anew instead.
    max_dirty: (usize, usize),
    /// By UUID on the source.
    entries: HashMap<Uuid, Entry>,
    /// UUIDs, largest collection first.
    order: Vec<Uuid>,
    /// Everything before it in `order` is scanned.
    first_open: usize,
    /// Whole answers of the stream have been routed up to here.
    stream_time: ClusterTime,
    /// Time of the newest event routed.
    newest_event: ClusterTime,
    /// Partitions that wait for the router.
    scanned: Vec<(Uuid, usize)>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(max_dirty: usize, max_dirty_bytes: usize) -> Self {
        Self {
            max_dirty: (max_dirty, max_dirty_bytes),
            entries: HashMap::new(),
            order: Vec::new(),
            first_open: 0,
            stream_time: ClusterTime::ZERO,
            newest_event: ClusterTime::ZERO,
            scanned: Vec::new(),
        }
    }

    /// Adds a collection.
    pub(crate) fn insert(&mut self, uuid: Uuid, entry: Entry) {
        self.entries.insert(uuid, entry);
        self.order.push(uuid);
        self.first_open = 0;
    }

    /// Sorts the collections by size; called after sizes are known.
    pub(crate) fn sort(&mut self) {
        let entries = &self.entries;
        let size = |uuid: &Uuid| entries.get(uuid).map_or(0, |entry| entry.stats.bytes);
        self.order.sort_by_key(|uuid| std::cmp::Reverse(size(uuid)));
        self.first_open = 0;
    }

    /// A collection.
    pub(crate) fn get(&self, uuid: &Uuid) -> Option<&Entry> {
        self.entries.get(uuid)
    }

    /// A collection, to be changed.
    pub(crate) fn get_mut(&mut self, uuid: &Uuid) -> Option<&mut Entry> {
        self.entries.get_mut(uuid)
    }

    /// Every collection, largest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Uuid, &Entry)> {
        self.order.iter().filter_map(|uuid| self.entries.get_key_value(uuid))
    }

    /// The stream has been routed up to here.
    pub(crate) fn set_stream_time(&mut self, time: ClusterTime) {
        self.stream_time = self.stream_time.max(time);
    }

    /// Whether every collection's events are applied.
    pub(crate) fn is_done(&self) -> bool {
        self.entries.values().all(Entry::is_done)
    }

    /// What to do with an event about a document, given as `{_id: …}`.
    pub(crate) fn route(&mut self, uuid: &Uuid, id: &RawDocumentBuf, time: ClusterTime) -> Route {
        self.newest_event = self.newest_event.max(time);
        let Some(entry) = self.entries.get_mut(uuid) else { return Route::Unknown };
        if entry.dropped {
            return Route::Dropped;
        }
        let serial = entry.is_serial();
        // One that cannot be cut is not begun anew lightly: it may be large.
        let (most, most_bytes) = if entry.is_single_partition() {
            (self.max_dirty.0 * 10, self.max_dirty.1 * 5)
        } else {
            self.max_dirty
        };
        let Some(partitions) = entry.partitions.as_mut() else {
            entry.read_after = entry.read_after.max(time);
            return Route::Covered;
        };
        let Some(partition) = find(partitions, id) else { return Route::Apply { serial } };
        match &mut partition.state {
            PartitionState::Pending { read_after, .. } => {
                *read_after = (*read_after).max(time);
                Route::Covered
            }
            PartitionState::Copying { dirty, stop, .. } => {
                dirty.insert(id);
                if dirty.ids.len() > most || dirty.bytes > most_bytes {
                    stop.cancel();
                }
                Route::Covered
            }
            PartitionState::Scanned { dirty } => {
                dirty.insert(id);
                Route::Covered
            }
            PartitionState::Done => Route::Apply { serial },
        }
    }

    /// Takes the next piece of work, largest collection first and its last partition first: it is
    /// the one that grows, and done early it costs nothing.
    pub(crate) fn claim(&mut self) -> Work {
        let mut waiting = false;
        for position in self.first_open..self.order.len() {
            let Some(uuid) = self.order.get(position).copied() else { break };
            let Some(entry) = self.entries.get_mut(&uuid) else { continue };
            if entry.is_scanned() {
                if position == self.first_open {
                    self.first_open += 1;
                }
                continue;
            }
            if entry.blocked || entry.planning {
                waiting = true;
                continue;
            }
            let Some(partitions) = entry.partitions.as_mut() else {
                if entry.not_before > self.stream_time {
                    waiting = true;
                    continue;
                }
                entry.planning = true;
                entry.in_flight += 1;
                return Work::Plan(uuid);
            };
            for (index, partition) in partitions.iter_mut().enumerate().rev() {
                let PartitionState::Pending { read_after, not_before, attempts } = partition.state
                else {
                    continue;
                };
                if not_before > self.stream_time {
                    continue;
                }
                let stop = CancellationToken::new();
                partition.state = PartitionState::Copying {
                    dirty: Dirty::default(),
                    stop: stop.clone(),
                    attempts: attempts + 1,
                };
                entry.in_flight += 1;
                return Work::Copy(Claim {
                    uuid,
                    index,
                    bounds: partition.bounds.clone(),
                    read_after,
                    must_empty: attempts > 0,
                    stop,
                });
            }
            waiting = true;
        }
        if waiting { Work::Wait } else { Work::Finished }
    }

    /// The partitions of a collection, each pending with what a scan must see. None of them is
    /// claimed before [`Self::planned`].
    pub(crate) fn cut(&mut self, uuid: &Uuid, bounds: Vec<Bounds>, stats: CollectionStats) {
        let Some(entry) = self.entries.get_mut(uuid) else { return };
        entry.stats = stats;
        let read_after = entry.read_after;
        entry.partitions = Some(
            bounds
                .into_iter()
                .map(|bounds| Partition {
                    bounds,
                    state: PartitionState::Pending {
                        read_after,
                        not_before: ClusterTime::ZERO,
                        attempts: 0,
                    },
                })
                .collect(),
        );
    }

    /// The partitions of a collection are saved: they may be claimed.
    pub(crate) fn planned(&mut self, uuid: &Uuid) {
        let Some(entry) = self.entries.get_mut(uuid) else { return };
        entry.planning = false;
        entry.in_flight -= 1;
    }

    /// Planning found the collection gone or moved: again when the stream has come to `now`.
    pub(crate) fn not_planned(&mut self, uuid: &Uuid, now: ClusterTime) {
        let Some(entry) = self.entries.get_mut(uuid) else { return };
        entry.planning = false;
        entry.in_flight -= 1;
        entry.not_before = now;
    }

    /// A scan's last write is acknowledged.
    pub(crate) fn finished(&mut self, uuid: &Uuid, index: usize) {
        let Some(entry) = self.entries.get_mut(uuid) else { return };
        entry.in_flight -= 1;
        let Some(partition) = entry.partitions.as_mut().and_then(|p| p.get_mut(index)) else {
            return;
        };
        if let PartitionState::Copying { dirty, .. } = &mut partition.state {
            let dirty = std::mem::take(dirty);
            partition.state = PartitionState::Scanned { dirty };
            self.scanned.push((*uuid, index));
        }
    }

    /// A scan was given up: the partition is pending again. What was dirty is covered by reading
    /// after everything the stream has routed.
    pub(crate) fn given_up(&mut self, uuid: &Uuid, index: usize, not_before: ClusterTime) {
        let read_after = self.stream_time.max(self.newest_event);
        let Some(entry) = self.entries.get_mut(uuid) else { return };
        entry.in_flight -= 1;
        let Some(partition) = entry.partitions.as_mut().and_then(|p| p.get_mut(index)) else {
            return;
        };
        if let PartitionState::Copying { attempts, .. } = partition.state {
            partition.state = PartitionState::Pending { read_after, not_before, attempts };
        }
    }

    /// Marks every scanned partition done and hands out its dirty ids, to be fetched again.
    pub(crate) fn take_scanned(&mut self) -> Vec<(Uuid, usize, Vec<RawDocumentBuf>)> {
        let mut taken = Vec::new();
        for (uuid, index) in std::mem::take(&mut self.scanned) {
            let Some(partition) = self
                .entries
                .get_mut(&uuid)
                .and_then(|entry| entry.partitions.as_mut())
                .and_then(|partitions| partitions.get_mut(index))
            else {
                continue;
            };
            if let PartitionState::Scanned { dirty } = &mut partition.state {
                let dirty = std::mem::take(dirty).ids;
                partition.state = PartitionState::Done;
                taken.push((uuid, index, dirty));
            }
        }
        taken
    }

    /// Keeps workers off a collection and stops those that are on it. The caller waits until
    /// `in_flight` is 0.
    pub(crate) fn block(&mut self, uuid: &Uuid) {
        let Some(entry) = self.entries.get_mut(uuid) else { return };
        entry.blocked = true;
        for partition in entry.partitions.iter().flatten() {
            if let PartitionState::Copying { stop, .. } = &partition.state {
                stop.cancel();
            }
        }
    }

    /// Lets workers on again.
    pub(crate) fn unblock(&mut self, uuid: &Uuid) {
        if let Some(entry) = self.entries.get_mut(uuid) {
            entry.blocked = false;
        }
        self.first_open = 0;
    }

    /// The source dropped it: nothing of it is copied or applied any more.
    pub(crate) fn mark_dropped(&mut self, uuid: &Uuid) {
        if let Some(entry) = self.entries.get_mut(uuid) {
            entry.dropped = true;
            entry.partitions = None;
            entry.indexes.clear();
        }
        self.scanned.retain(|(scanned, _)| scanned != uuid);
    }
}

/// The partition that an `_id` belongs to.
fn find<'a>(partitions: &'a mut [Partition], id: &RawDocumentBuf) -> Option<&'a mut Partition> {
    if partitions.len() == 1 {
        return partitions.first_mut();
    }
    let after = partitions.partition_point(|partition| match &partition.bounds.lower {
        None => true,
        Some(lower) => compare_ids(lower, id) != Ordering::Greater,
    });
    partitions.get_mut(after.checked_sub(1)?)
}
