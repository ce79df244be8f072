//! The seams at which rooms meet. A trait stands here only because it has two implementations:
//! the real one and the one the tests use.
//!
//! Ports are called once per batch or rarer and held as `Arc<dyn …>`.
//!
//! Invariant: only `model` and `error` types appear in a signature.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, Uuid};

use crate::{
    error::{Error, Result},
    model::{
        Batch, ClusterTime, Namespace,
        change::Position,
        facts::ClusterFacts,
        token::{Credential, DeviceCode, PersonError, TokenError, TokenRequest},
    },
};

/// What kind of thing a listing holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectionKind {
    /// An ordinary collection.
    Collection,
    /// A view.
    View,
    /// A time-series collection.
    TimeSeries,
}

/// A collection or view as a cluster lists it.
#[derive(Debug, Clone)]
pub struct CollectionInfo {
    /// Its name.
    pub namespace: Namespace,
    /// What it is.
    pub kind: CollectionKind,
    /// UUID; views have none.
    pub uuid: Option<Uuid>,
    /// Creation options as `listCollections` gives them.
    pub options: RawDocumentBuf,
    /// Index specifications as `listIndexes` gives them, with the one on `_id`.
    pub indexes: Vec<RawDocumentBuf>,
}

/// What a cluster says of itself.
#[derive(Debug, Clone)]
pub struct ClusterInfo {
    /// `setName` of the replica set; `None` through a mongos.
    pub set_name: Option<String>,
    /// An id that two connection strings share exactly when they lead to the same replica set.
    pub identity: String,
    /// Hosts of the set as it names them, sorted.
    pub hosts: Vec<String>,
    /// Server version, for example `[6, 0, 5]`.
    pub version: Vec<i64>,
    /// `host:port` of the primary.
    pub primary: String,
}

/// Size of a collection at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectionStats {
    /// Uncompressed size of the documents in bytes.
    pub bytes: u64,
    /// Number of documents.
    pub documents: u64,
}

/// A half-open `_id` range; `None` is an open end. Each bound is a document `{_id: …}`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bounds {
    /// First `_id` of the range.
    pub lower: Option<RawDocumentBuf>,
    /// First `_id` after the range.
    pub upper: Option<RawDocumentBuf>,
}

/// One scan of a partition.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// The collection's name when the scan was planned.
    pub namespace: Namespace,
    /// Its UUID; another collection of that name is an error.
    pub uuid: Uuid,
    /// Which documents.
    pub bounds: Bounds,
    /// The scan sees at least everything up to this time.
    pub after: ClusterTime,
    /// Documents in storage order instead of `_id` order; only without bounds.
    pub natural_order: bool,
    /// Documents per answer.
    pub batch_count: u32,
}

/// One scan of the destination, to compare it.
#[derive(Debug, Clone)]
pub struct ReadBack {
    /// The collection.
    pub namespace: Namespace,
    /// Which documents.
    pub bounds: Bounds,
    /// Documents in storage order instead of `_id` order; only without bounds.
    pub natural_order: bool,
    /// Documents per answer.
    pub batch_count: u32,
}

/// Batches of a scan.
#[async_trait]
pub trait BatchReader: Send {
    /// The next batch; `None` at the end. Not cancel safe.
    ///
    /// # Errors
    /// `TransientNetwork` when the scan broke and has to begin anew, `ReadFailed` otherwise.
    async fn next(&mut self) -> Result<Option<Batch>>;
}

/// One answer of the change stream.
#[derive(Debug)]
pub struct StreamBatch {
    /// Raw events, oldest first; may be empty.
    pub events: Batch,
    /// Everything up to here has been delivered.
    pub position: Position,
}

/// The change stream of a cluster.
#[async_trait]
pub trait EventReader: Send {
    /// The next answer; waits about half a second for events, then comes back empty. Reconnects
    /// by itself after transient failures, without losing or repeating an answer.
    ///
    /// # Errors
    /// `OplogPositionLost` when the source no longer holds the position.
    async fn next(&mut self) -> Result<StreamBatch>;
}

/// Whether the connection's user may block the writes of others and write all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockingRights {
    /// It may.
    Full,
    /// It lacks these cluster privileges.
    Lacks(Vec<&'static str>),
    /// The connection has no user, because the cluster has no access control. Nobody could write.
    NoUsers,
}

/// What an operation on a moved collection found.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// Documents that exist, in no particular order.
    Documents {
        /// The documents.
        found: Batch,
        /// Whether these are all; an answer holds 16 MiB at most, ask again for the others.
        complete: bool,
    },
    /// No collection has the UUID any more.
    CollectionGone,
}

/// The cluster that is read. It is never written to, but for notes in the oplog and write blocking.
#[async_trait]
pub trait Source: Send + Sync {
    /// What the cluster says of itself.
    async fn info(&self) -> Result<ClusterInfo>;
    /// What a preflight looks at.
    async fn facts(&self) -> Result<ClusterFacts>;
    /// Newest majority-committed operation time.
    async fn cluster_time(&self) -> Result<ClusterTime>;
    /// Writes a note into the oplog and returns its time.
    async fn append_note(&self, message: &str) -> Result<ClusterTime>;
    /// Every user collection and view with options and indexes.
    async fn list(&self) -> Result<Vec<CollectionInfo>>;
    /// Those of some databases.
    async fn list_of(&self, databases: &BTreeSet<String>) -> Result<Vec<CollectionInfo>>;
    /// Size of a collection; zero when it is gone.
    async fn stats(&self, namespace: &Namespace) -> Result<CollectionStats>;
    /// Bytes on disk of a collection with its indexes; zero when it is gone.
    async fn stored_bytes(&self, namespace: &Namespace) -> Result<u64>;
    /// The format in which the storage engine of the primary keeps each index, by the index's name;
    /// empty when the collection is gone or the cluster does not tell.
    async fn index_formats(&self, namespace: &Namespace) -> Result<HashMap<String, i64>>;
    /// Bytes of the documents of all of a database's collections, and on disk with indexes; `None` when
    /// the cluster does not tell.
    async fn database_bytes(&self, database: &str) -> Result<Option<(u64, u64)>>;
    /// Up to `count` random `_id`s as `{_id: …}`, unsorted, of a collection of about so many documents.
    async fn sample_ids(
        &self,
        namespace: &Namespace,
        count: u32,
        documents: u64,
    ) -> Result<Vec<RawDocumentBuf>>;
    /// Up to `count` random `_id`s as `{_id: …}`, in the order in which the documents are stored.
    async fn stored_ids(&self, namespace: &Namespace, count: u32) -> Result<Vec<RawDocumentBuf>>;
    /// The greatest `_id`; `None` when there is no document.
    async fn greatest_id(&self, namespace: &Namespace) -> Result<Option<RawDocumentBuf>>;
    /// Opens a scan; `None` when no collection has that name and UUID (renamed or dropped).
    async fn read(&self, request: ReadRequest) -> Result<Option<Box<dyn BatchReader>>>;
    /// Reads the present state of documents by `_id`, following a rename within the database.
    async fn fetch(
        &self,
        namespace: &Namespace,
        uuid: Uuid,
        ids: &[RawDocumentBuf],
        after: ClusterTime,
    ) -> Result<Fetched>;
    /// Opens the change stream of the whole cluster.
    async fn open_stream(&self, from: Position) -> Result<Box<dyn EventReader>>;
    /// Blocks or unblocks user writes on the whole cluster.
    async fn block_user_writes(&self, blocked: bool) -> Result<()>;
    /// Whether user writes are blocked now, by whomever.
    async fn is_blocked(&self) -> Result<bool>;
    /// Whether we may block user writes, and our own writes go on then.
    async fn blocking_rights(&self) -> Result<BlockingRights>;
    /// Round trip in milliseconds.
    async fn ping(&self) -> Result<u64>;
}

/// What an insert did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InsertReport {
    /// Positions in the batch of the documents whose `_id` existed already.
    pub duplicates: Vec<usize>,
}

/// The cluster that is written to, always with `w: majority, j: true`.
#[async_trait]
pub trait Destination: Send + Sync {
    /// What the cluster says of itself.
    async fn info(&self) -> Result<ClusterInfo>;
    /// What a preflight looks at.
    async fn facts(&self) -> Result<ClusterFacts>;
    /// Newest majority-committed operation time.
    async fn cluster_time(&self) -> Result<ClusterTime>;
    /// Every user collection and view with options and indexes.
    async fn list(&self) -> Result<Vec<CollectionInfo>>;
    /// Creates a collection or view with options as the source lists them; no error when
    /// something of that name exists.
    async fn create(&self, namespace: &Namespace, options: &RawDocumentBuf) -> Result<()>;
    /// The UUID of the collection that has a name now.
    async fn find(&self, namespace: &Namespace) -> Result<Option<Uuid>>;
    /// Drops a collection or view; no error when it does not exist.
    async fn drop_collection(&self, namespace: &Namespace) -> Result<()>;
    /// Whether a collection holds no document.
    async fn is_empty(&self, namespace: &Namespace) -> Result<bool>;
    /// Renames a collection; nothing may have the new name.
    async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<()>;
    /// Inserts documents. Existing `_id`s are reported, every other refusal is an error.
    async fn insert(
        &self,
        namespace: &Namespace,
        documents: &Batch,
        ordered: bool,
    ) -> Result<InsertReport>;
    /// Puts each document in the place of the one with its `_id`, or inserts it.
    async fn upsert(&self, namespace: &Namespace, documents: &[RawDocumentBuf]) -> Result<()>;
    /// Deletes documents by `_id`, each given as `{_id: …}`; missing ones are fine.
    async fn delete(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) -> Result<()>;
    /// Opens a scan for a comparison; `None` when nothing has that name. It sees everything that
    /// was acknowledged before.
    async fn read(&self, request: ReadBack) -> Result<Option<Box<dyn BatchReader>>>;
    /// Reads documents by `_id` as everything that was acknowledged before has left them.
    async fn fetch(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) -> Result<Fetched>;
    /// Deletes every document of a range and returns how many there were.
    async fn empty(&self, namespace: &Namespace, bounds: &Bounds) -> Result<u64>;
    /// Creates indexes of the collection that has this name, and this UUID if one is given; an identical
    /// index that exists is fine.
    async fn create_indexes(
        &self,
        namespace: &Namespace,
        uuid: Option<Uuid>,
        specs: &[RawDocumentBuf],
    ) -> Result<()>;
    /// How many index builds the cluster runs at the same time.
    async fn index_builds(&self) -> Result<usize>;
    /// Drops indexes by name, built or being built: those of one `create_indexes` have to be named
    /// together for that. No error when they do not exist.
    async fn drop_indexes(&self, namespace: &Namespace, names: &[&str]) -> Result<()>;
    /// Runs `collMod` with these fields.
    async fn modify(&self, namespace: &Namespace, fields: Document) -> Result<()>;
    /// Blocks or unblocks user writes on the whole cluster.
    async fn block_user_writes(&self, blocked: bool) -> Result<()>;
    /// Whether user writes are blocked now, by whomever.
    async fn is_blocked(&self) -> Result<bool>;
    /// Whether we may block user writes, and our own writes go on then.
    async fn blocking_rights(&self) -> Result<BlockingRights>;
    /// Waits until nothing is under way that a former process has sent. A server goes on with an
    /// operation whose client has died; written later than what we write, it would undo it.
    async fn wait_for_process(&self, tag: &str) -> Result<()>;
    /// Waits until a process that may live on has no write under way.
    async fn wait_for_writes(&self, tag: &str) -> Result<()>;
    /// Round trip in milliseconds.
    async fn ping(&self) -> Result<u64>;
}

/// The lease of a sync as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub owner: String,
    /// Who held it before and may have left operations on the server.
    pub former_owners: Vec<String>,
}

/// The tables of the metadata database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// One document: state, phase, options, position.
    Sync,
    /// One document a collection.
    Collections,
    /// One document a partition.
    Partitions,
    /// One document a partition that is verified.
    Verification,
    /// One document a document that cannot pass a filter.
    Quarantine,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 5] =
        [Self::Sync, Self::Collections, Self::Partitions, Self::Verification, Self::Quarantine];

    /// Its name in the metadata database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Collections => "collections",
            Self::Partitions => "partitions",
            Self::Verification => "verification",
            Self::Quarantine => "quarantine",
        }
    }
}

/// The metadata database. Every write is on a majority's disk when the call returns.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Every document of a table.
    async fn load(&self, table: Table) -> Result<Vec<Document>>;
    /// Writes documents by their `_id`, replacing earlier ones.
    async fn put(&self, table: Table, documents: Vec<Document>) -> Result<()>;
    /// Removes the documents that match an equality filter.
    async fn remove(&self, table: Table, filter: Document) -> Result<()>;
    /// Takes or renews the lease of the sync for `time_to_live` by the store's clock, unless
    /// another owner (but for `gone`) holds one that has not lapsed. Not retried: the caller goes
    /// on asking.
    async fn take_lease(
        &self,
        owner: &str,
        gone: Option<&str>,
        time_to_live: Duration,
    ) -> Result<Lease>;
    /// Forgets the former owners: nothing of theirs is under way any more.
    async fn forget_former_owners(&self, owner: &str) -> Result<()>;
    /// Removes everything, the lease with it.
    async fn erase(&self) -> Result<()>;
    /// Lets the lease lapse now, if `owner` holds it.
    async fn release_lease(&self, owner: &str) -> Result<()>;
}

/// What a filter says about one document.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The document goes on as it is.
    Keep,
    /// The document is not on the destination.
    Drop,
    /// This document goes on in its place; `_id` is unchanged, the filter port has checked it.
    Replace(RawDocumentBuf),
}

/// A document that a filter cannot let pass.
#[derive(Debug)]
pub struct Refused {
    /// Its position in the batch.
    pub position: usize,
    /// Why: one of the `Plugin…` kinds.
    pub error: Error,
}

/// What a filter said of a batch whose documents may each fail by itself.
#[derive(Debug)]
pub struct Sorted {
    /// As many verdicts as documents; `Drop` for those that are refused.
    pub verdicts: Vec<Verdict>,
    /// Those that are refused, by position.
    pub refused: Vec<Refused>,
}

/// Judges documents. The same document always gets the same verdict.
#[async_trait]
pub trait DocumentFilter: Send + Sync {
    /// The name in the config file.
    fn name(&self) -> &str;

    /// What the verdicts depend on (component digest, configuration, contract version), as one
    /// string that is recorded with the sync.
    fn fingerprint(&self) -> &str;

    /// Judges a batch: as many verdicts as documents, in order. `None` means that every document
    /// is kept, which is the common case and costs no allocation.
    ///
    /// # Errors
    /// The `Plugin…` kinds; nothing of the batch may be used then.
    async fn apply(&self, namespace: &Namespace, batch: &Batch) -> Result<Option<Vec<Verdict>>>;

    /// As [`Self::apply`], but a document that cannot pass is told by itself and the others are
    /// judged.
    ///
    /// # Errors
    /// What is wrong with the filter, whatever the document.
    async fn judge_each(&self, namespace: &Namespace, batch: &Batch) -> Result<Sorted>;
}

/// Yields tokens for `MONGODB-OIDC`.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &str;

    /// Checks the configuration without any network.
    ///
    /// # Errors
    /// `TokenError::Config` with what to correct.
    async fn validate(&self) -> Result<(), TokenError>;

    /// Gets a token. The caller holds the cache, the single flight and the deadline.
    ///
    /// # Errors
    /// See [`TokenError`]. Cancel safe: dropping the future abandons the call and its instance.
    async fn get_token(&self, request: TokenRequest) -> Result<Credential, TokenError>;
}

/// A person at this machine, who can be sent to a login.
#[async_trait]
pub trait Person: Send + Sync {
    /// Listens for the browser's way back, once any other login is over.
    ///
    /// # Errors
    /// `Unreached` when nothing can listen.
    async fn listen(&self) -> Result<Box<dyn WayBack>, PersonError>;

    /// Shows a device code until what it returns is dropped.
    ///
    /// # Errors
    /// `Unreached` when there is nowhere to show it.
    fn show(&self, code: &DeviceCode) -> Result<Box<dyn Send>, PersonError>;
}

/// The way back from a browser. Dropping it stops listening.
#[async_trait]
pub trait WayBack: Send {
    /// The address to name to the provider (`redirect_uri`).
    fn address(&self) -> &str;

    /// Sends the browser to a URL and waits until it comes back with this `state`, for as long as the
    /// caller does. Returns the parameters that it came back with.
    ///
    /// # Errors
    /// `Unreached` when no browser came, `Invalid` for a URL that no browser is sent to.
    async fn browse(
        self: Box<Self>,
        url: &str,
        state: &str,
    ) -> Result<Vec<(String, String)>, PersonError>;
}
