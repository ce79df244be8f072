//! The verifier: is the destination, document by document and byte for byte, what the filters make
//! of the source?
//!
//! It begins with change event application. Every partition of the copy is compared once; after
//! that only what events have touched since. What differs is compared again and is a mismatch only
//! when nothing that was under way can explain it (`ledger`); a mismatch is compared again every
//! few seconds, so that one that was mended goes away. Options and indexes are compared as they
//! have to be at that moment, relaxed before the commit.
//!
//! Collections with a TTL index are compared like others: on the destination nothing expires before
//! the commit, and what expires on the source comes as an event. Of capped collections the documents
//! are compared by the comparison alone: in a running sync a scan of one that wraps around is
//! overtaken again and again.
//!
//! Invariant: no connection of its own, and nothing is written but notes in the source's oplog and
//! our own metadata.

mod alone;
mod embedded;
mod ledger;
mod merge;
mod pair;
mod shape;

pub use alone::{Alone, Note, Patience, verify};
pub(crate) use embedded::{check_restored, finish, load, run};

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bson::{RawDocumentBuf, Uuid};
use tokio::sync::Notify;

use self::ledger::{Done, Ledger};
use super::{catalog::Table, checkpoint, context::Limits};
use crate::{
    error::Result,
    model::{
        ClusterTime,
        change::{Change, ChangeKind},
        verification::VerificationProgress,
    },
    ports::{self, Bounds, StateStore},
};

/// Suspects of one scan that are remembered; past that it ends and is done again later.
const MOST_SUSPECTS: usize = 1_000;

/// What the verifier shares with the stream, the commit and whoever watches.
pub(crate) struct Verification {
    /// Whether there is to be a verification at all.
    pub(crate) is_enabled: bool,
    /// Whether events are to be told of: what costs anything per event comes after this.
    is_active: AtomicBool,
    /// Whether every collection is in the ledger.
    has_begun: AtomicBool,
    /// What is compared. A short std lock, never held across an await.
    ledger: Mutex<Ledger>,
    /// Held while states are saved, so that an older one never comes last.
    saving: tokio::sync::Mutex<()>,
    /// When the newest change of each collection that keeps its order was routed, capped ones among
    /// them. A short std lock, as above.
    serial: Mutex<HashMap<Uuid, ClusterTime>>,
    /// Wakes idle workers.
    changed: Notify,
}

impl Verification {
    /// Nothing compared yet.
    pub(crate) fn new(is_enabled: bool, limits: &Limits) -> Self {
        Self {
            is_enabled,
            is_active: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            ledger: Mutex::new(Ledger::new(limits.verify_ids)),
            saving: tokio::sync::Mutex::new(()),
            serial: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The ledger, locked for a moment.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The router has routed an event about a document.
    pub(crate) fn touch(&self, uuid: &Uuid, id: &RawDocumentBuf, time: ClusterTime) {
        if self.is_active.load(Ordering::Acquire) {
            self.ledger().touch(uuid, id, time);
        }
    }

    /// The router has routed an event about a document of a collection that keeps its order.
    pub(crate) fn touch_serial(&self, uuid: Uuid, time: ClusterTime) {
        self.serial().insert(uuid, time);
    }

    /// Whether such a collection has changed after this time, as far as the stream has come.
    fn is_serial_touched(&self, uuid: &Uuid, after: ClusterTime) -> bool {
        self.serial().get(uuid).is_some_and(|time| *time > after)
    }

    /// Their newest changes, locked for a moment.
    fn serial(&self) -> MutexGuard<'_, HashMap<Uuid, ClusterTime>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The router is about to apply an event about a collection.
    pub(crate) fn shape_changes(&self, change: &Change) {
        if self.is_active.load(Ordering::Acquire) {
            let mut ledger = self.ledger();
            for uuid in concerned(change) {
                ledger.shape_changes(&uuid);
            }
        }
    }

    /// The router has applied an event about a collection, or it was of no concern.
    pub(crate) fn shape_changed(&self, change: &Change, is_concerned: bool, table: &Table) {
        if !self.is_active.load(Ordering::Acquire) {
            return;
        }
        let mut ledger = self.ledger();
        for uuid in concerned(change) {
            if table.get(&uuid).is_none_or(|entry| entry.dropped) {
                ledger.remove(&uuid);
            } else if self.has_begun.load(Ordering::Acquire) {
                ledger.add_shape(uuid);
                if !ledger.knows(&uuid)
                    && let Some(bounds) = bounds_of(table, &uuid)
                {
                    // Everything in it will come through the stream.
                    ledger.add(uuid, bounds, Done::All);
                }
            }
        }
        for uuid in concerned(change) {
            ledger.shape_changed(&uuid, is_concerned);
        }
        drop(ledger);
        self.changed.notify_waiters();
    }

    /// An index of a collection is about to be dropped without an event.
    pub(crate) fn index_changes(&self, uuid: &Uuid) {
        if self.is_active.load(Ordering::Acquire) {
            self.ledger().shape_changes(uuid);
        }
    }

    /// It was.
    pub(crate) fn index_changed(&self, uuid: &Uuid) {
        if self.is_active.load(Ordering::Acquire) {
            self.ledger().shape_changed(uuid, true);
        }
        self.changed.notify_waiters();
    }

    /// Takes every collection into the ledger that is not in it.
    fn begin(&self, table: &Table) {
        let mut ledger = self.ledger();
        for (uuid, _) in table.iter().filter(|(_, entry)| !entry.dropped) {
            ledger.add_shape(*uuid);
            if let Some(bounds) = bounds_of(table, uuid) {
                ledger.add(*uuid, bounds, Done::None);
            }
        }
        drop(ledger);
        self.is_active.store(true, Ordering::Release);
        self.has_begun.store(true, Ordering::Release);
    }

    /// Whether it stands in the way of a commit, when the newest change of the source is at
    /// `newest` and everything up to `applied` is on the destination.
    pub(crate) fn is_ready(
        &self,
        newest: ClusterTime,
        applied: ClusterTime,
        most_lag: u32,
    ) -> bool {
        if !self.is_enabled {
            return true;
        }
        let has_begun = self.has_begun.load(Ordering::Acquire);
        let ledger = self.ledger();
        has_begun
            && ledger.is_complete()
            && !ledger.has_mismatch()
            && ledger.oldest() != Some(ClusterTime::ZERO)
            && lag(&ledger, newest, applied) <= most_lag
    }

    /// What is published.
    pub(crate) fn progress(
        &self,
        table: &Table,
        newest: ClusterTime,
        applied: ClusterTime,
    ) -> Option<VerificationProgress> {
        if !self.is_enabled {
            return None;
        }
        let entries = || table.iter().filter(|(_, entry)| !entry.dropped);
        let ledger = self.ledger();
        let mut progress = if self.has_begun.load(Ordering::Acquire) {
            let name = |uuid: &Uuid| table.get(uuid).map(|entry| entry.destination.to_string());
            ledger.progress(name)
        } else {
            let count = u64::try_from(entries().count()).unwrap_or(0);
            VerificationProgress { collections_total: count, ..VerificationProgress::default() }
        };
        progress.lag_seconds = lag(&ledger, newest, applied);
        let estimated = entries().map(|(_, entry)| entry.stats.documents).sum();
        progress.documents_estimated = progress.source_documents.max(estimated);
        Some(progress)
    }

    /// Saves which partitions are compared; with `only_worse` only those that no longer are, which
    /// has to be known before the position passes the events that touched them.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn save(&self, store: &dyn StateStore, only_worse: bool) -> Result<()> {
        if !self.is_active.load(Ordering::Acquire) {
            return Ok(());
        }
        let _saving = self.saving.lock().await;
        let unsaved = self.ledger().unsaved(only_worse);
        if unsaved.is_empty() {
            return Ok(());
        }
        let documents = unsaved
            .into_iter()
            .map(|(uuid, index, is_clean)| checkpoint::verified_to_document(&uuid, index, is_clean))
            .collect();
        store.put(ports::Table::Verification, documents).await
    }

    /// Takes up what an earlier process has compared.
    fn take_up(&self, table: &Table, saved: &[(Uuid, HashSet<usize>)]) {
        let mut ledger = self.ledger();
        for (uuid, done) in saved {
            if table.get(uuid).is_some_and(|entry| !entry.dropped)
                && let Some(bounds) = bounds_of(table, uuid)
            {
                ledger.add(*uuid, bounds, Done::Saved(done));
            }
        }
        drop(ledger);
        self.is_active.store(true, Ordering::Release);
    }
}

/// Collections that an event is about.
fn concerned(change: &Change) -> impl Iterator<Item = Uuid> {
    let dropped = match &change.kind {
        ChangeKind::Rename { dropped, .. } => *dropped,
        _ => None,
    };
    change.uuid.into_iter().chain(dropped)
}

/// The ranges in which the copy has cut a collection; none of a capped one.
fn bounds_of(table: &Table, uuid: &Uuid) -> Option<Vec<Bounds>> {
    let entry = table.get(uuid).filter(|entry| !entry.is_capped())?;
    let partitions = entry.partitions.as_ref()?;
    Some(partitions.iter().map(|partition| partition.bounds.clone()).collect())
}

/// Seconds between the newest change of the source and what is compared.
fn lag(ledger: &Ledger, newest: ClusterTime, applied: ClusterTime) -> u32 {
    let oldest = ledger.oldest().filter(|oldest| *oldest > ClusterTime::ZERO);
    oldest.map_or(applied, |oldest| oldest.min(applied)).seconds_behind(newest)
}
