//! What every part of a running sync shares.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bson::Uuid;
use tokio::sync::{Notify, RwLock, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::{
    catalog::Table,
    checkpoint,
    filter::{Chain, DocumentFilters, NamespaceFilter},
    hot::HotDocuments,
    quarantine::Quarantine,
    remap::Remap,
    verify::Verification,
};
use crate::{
    error::Result,
    model::{Namespace, options::StartOptions},
    ports::{self, CollectionStats, Destination, Source, StateStore},
};

/// How hard the sync works, by `loadLevel`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Partitions copied at the same time.
    pub(crate) copy_workers: usize,
    /// Appliers of change events.
    pub(crate) appliers: usize,
    /// Indexes in one command at most.
    pub(crate) index_batch: usize,
}

impl Load {
    /// So many workers and appliers.
    fn of(copy_workers: usize, appliers: usize) -> Self {
        Self { copy_workers, appliers, index_batch: 2 }
    }

    /// The meaning of `loadLevel` 1 to 4.
    pub(crate) fn of_level(level: u8) -> Self {
        match level {
            0 | 1 => Self::of(1, 2),
            2 => Self::of(2, 4),
            3 => Self::of(4, 4),
            _ => Self::of(8, 8),
        }
    }
}

/// Sizes at which work is cut.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Collections of at least this size are looked at for random ids.
    pub random_id_bytes: u64,
    /// Data per partition: small enough that a restart loses little.
    pub partition_bytes: u64,
    /// Documents per partition: bounds what an event stream can make dirty meanwhile.
    pub partition_documents: u64,
    /// Below this, and with less data than [`Self::partition_bytes`], a collection is one partition, and
    /// too quick to need a tail of its own.
    pub small_documents: u64,
    /// Dirty ids of one partition before it is begun anew instead.
    pub dirty_ids: usize,
    /// The same in bytes of memory.
    pub dirty_bytes: usize,
    /// Bytes of events between reading and writing.
    pub event_bytes: usize,
    /// Bytes of copied and fetched documents between reading and writing. Each is held about
    /// three times over: as read, as command, as message.
    pub document_bytes: usize,
    /// Ids that the verifier remembers, in all; past that it scans partitions again.
    pub verify_ids: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            random_id_bytes: 20 * 1024 * 1024 * 1024,
            partition_bytes: 64 * 1024 * 1024,
            partition_documents: 50_000,
            small_documents: 2_000,
            dirty_ids: 100_000,
            dirty_bytes: 12 * 1024 * 1024,
            event_bytes: 24 * 1024 * 1024,
            document_bytes: 32 * 1024 * 1024,
            verify_ids: 200_000,
        }
    }
}

impl Limits {
    /// Whether a collection is not worth being cut.
    pub(crate) fn is_small(&self, stats: CollectionStats) -> bool {
        stats.documents < self.small_documents && stats.bytes < self.partition_bytes
    }
}

/// Counters that `/progress` shows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Change events applied.
    pub(crate) events_applied: AtomicU64,
    /// Events about collections and indexes among them.
    pub(crate) ddl_applied: AtomicU64,
}

impl Counters {
    /// Counts an applied event about a collection.
    pub(crate) fn add_ddl(&self) {
        self.add_events(1);
        self.ddl_applied.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts applied events.
    pub(crate) fn add_events(&self, count: usize) {
        self.events_applied.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
    }
}

/// Everything a run works with.
pub(crate) struct Context {
    /// The cluster that is read.
    pub(crate) source: Arc<dyn Source>,
    /// The cluster that is written to.
    pub(crate) destination: Arc<dyn Destination>,
    /// The metadata database.
    pub(crate) store: Arc<dyn StateStore>,
    /// Which namespaces.
    pub(crate) namespaces: NamespaceFilter,
    /// Under which names.
    pub(crate) remap: Remap,
    /// Which documents.
    pub(crate) documents: Arc<DocumentFilters>,
    /// The options of `/start`.
    pub(crate) options: StartOptions,
    /// How hard to work.
    pub(crate) load: Load,
    /// Sizes at which work is cut.
    pub(crate) limits: Limits,
    /// Where copy and stream meet. A short std lock, never held across an await; a channel would
    /// not do, because "claimed" must be true for both sides at the same moment.
    table: Mutex<Table>,
    /// A scan has ended and waits for the router; one permit is kept.
    pub(crate) scanned: Notify,
    /// Bytes of documents that may be between source and destination.
    memory: Semaphore,
    /// Wakes workers that found nothing to claim, and whoever waits for workers to leave.
    pub(crate) changed: Notify,
    /// Held while the shape of the destination is changed or compared: by DDL alone, by others
    /// together. Never for as long as an index build takes.
    pub(crate) shape: RwLock<()>,
    /// Collections whose indexes are being built, each with what ends that.
    building: Mutex<HashMap<Uuid, CancellationToken>>,
    /// An index is missing that was not; one permit is kept.
    pub(crate) unbuilt: Notify,
    /// Held while indexes that refuse documents are set aside.
    pub(crate) setting_aside: tokio::sync::Mutex<()>,
    /// Held while a collection is saved.
    saving: tokio::sync::Mutex<()>,
    /// Documents whose changes are skipped until the commit.
    pub(crate) hot: HotDocuments,
    /// Documents that cannot pass their filters.
    pub(crate) quarantine: Quarantine,
    /// For `/progress`.
    pub(crate) counters: Counters,
    /// What is compared.
    pub(crate) verification: Verification,
}

impl Context {
    /// A context with an empty table.
    ///
    /// # Errors
    /// `NamespaceRemapConflict` for a remap that contradicts itself.
    pub(crate) fn new(
        ports: (Arc<dyn Source>, Arc<dyn Destination>, Arc<dyn StateStore>),
        namespaces: NamespaceFilter,
        documents: Arc<DocumentFilters>,
        options: StartOptions,
        (load, limits): (Load, Limits),
    ) -> Result<Self> {
        let (source, destination, store) = ports;
        let verification = Verification::new(options.verification.unwrap_or(true), &limits);
        Ok(Self {
            remap: Remap::new(&options.namespace_remap)?,
            source,
            destination,
            store,
            namespaces,
            documents,
            options,
            load,
            limits,
            table: Mutex::new(Table::new(limits.dirty_ids, limits.dirty_bytes)),
            scanned: Notify::new(),
            memory: Semaphore::new(limits.document_bytes),
            changed: Notify::new(),
            shape: RwLock::new(()),
            building: Mutex::default(),
            unbuilt: Notify::new(),
            setting_aside: tokio::sync::Mutex::new(()),
            saving: tokio::sync::Mutex::new(()),
            hot: HotDocuments::default(),
            quarantine: Quarantine::default(),
            counters: Counters::default(),
            verification,
        })
    }

    /// The same with documents whose changes are skipped until the commit.
    pub(crate) fn with_hot(self, hot: HotDocuments) -> Self {
        Self { hot, ..self }
    }

    /// The table, locked for a moment.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room for so many bytes of documents; for all there is when there is less. Whoever
    /// holds a share must not wait for another one before that is given back.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let share = bytes.clamp(1, self.limits.document_bytes.max(1));
        self.memory.acquire_many(u32::try_from(share).unwrap_or(u32::MAX)).await.ok()
    }

    /// Announces an index build of a collection, which is over when the guard is dropped. Waits while an
    /// event about collections is applied.
    pub(crate) async fn begin_build(&self, uuid: Uuid) -> Building<'_> {
        let _shape = self.shape.read().await;
        let stop = CancellationToken::new();
        self.building().insert(uuid, stop.clone());
        Building { context: self, uuid, stop }
    }

    /// Whether a build is not over yet, which it is once its outcome is stored.
    pub(crate) fn is_building(&self) -> bool {
        !self.building().is_empty()
    }

    /// Tells the builds of these collections to end and waits until they have; whether there was one.
    pub(crate) async fn stop_builds(&self, uuids: &[Uuid]) -> bool {
        let mut found = false;
        loop {
            let changed = self.changed.notified();
            let mut busy = false;
            for stop in uuids.iter().filter_map(|uuid| self.building().get(uuid).cloned()) {
                stop.cancel();
                busy = true;
            }
            if !busy {
                return found;
            }
            found = true;
            changed.await;
        }
    }

    /// The builds, locked for a moment.
    fn building(&self) -> MutexGuard<'_, HashMap<Uuid, CancellationToken>> {
        self.building.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain of a source namespace.
    ///
    /// # Errors
    /// `FilterInvalid` when a pattern backtracks without end.
    pub(crate) fn chain(&self, namespace: &Namespace) -> Result<Option<Arc<Chain>>> {
        self.documents.chain(namespace)
    }

    /// Saves what is known of a collection. One at a time, so that an older state never comes
    /// last.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn save_collection(&self, uuid: &Uuid) -> Result<()> {
        let _saving = self.saving.lock().await;
        let stored = {
            let table = self.table();
            table.get(uuid).map(|entry| checkpoint::collection_to_document(uuid, entry))
        };
        match stored {
            None => Ok(()),
            Some(document) => self.store.put(ports::Table::Collections, vec![document?]).await,
        }
    }
}

/// Indexes of a collection are being built while it lives.
pub(crate) struct Building<'a> {
    /// Where it is announced.
    context: &'a Context,
    /// The collection.
    uuid: Uuid,
    /// Set when the build is in the way of an event.
    pub(crate) stop: CancellationToken,
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        self.context.building().remove(&self.uuid);
        self.context.changed.notify_waiters();
    }
}
