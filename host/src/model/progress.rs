//! What the engine publishes about a sync; the API turns it into the wire form.

use std::sync::Arc;

use super::{ClusterTime, verification::VerificationProgress};

/// The public state, as mongosync names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Connecting and reading the metadata.
    #[default]
    Initializing,
    /// Waiting for `/start`.
    Idle,
    /// Copying or applying.
    Running,
    /// Stopped by `/pause`.
    Paused,
    /// Between `/commit` and the end.
    Committing,
    /// Done.
    Committed,
    /// Swapping roles.
    Reversing,
    /// Being given up by `/abort`; IDLE afterwards.
    Aborting,
}

impl State {
    /// The wire word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Idle => "IDLE",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Committing => "COMMITTING",
            Self::Committed => "COMMITTED",
            Self::Reversing => "REVERSING",
            Self::Aborting => "ABORTING",
        }
    }

    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Initializing,
        Self::Idle,
        Self::Running,
        Self::Paused,
        Self::Committing,
        Self::Committed,
        Self::Reversing,
        Self::Aborting,
    ];

    /// Parses the wire word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == word)
    }
}

/// What a running sync is doing; the wire's `info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Listing collections.
    Planning,
    /// Collection copy.
    CollectionCopy,
    /// Change event application.
    ChangeEventApplication,
    /// After `/commit`, before the end.
    WaitingForCommit,
    /// The end.
    CommitCompleted,
}

impl Phase {
    /// The wire word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planning => "initializing collections and indexes",
            Self::CollectionCopy => "collection copy",
            Self::ChangeEventApplication => "change event application",
            Self::WaitingForCommit => "waiting for commit to complete",
            Self::CommitCompleted => "commit completed",
        }
    }
}

/// Progress of one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionProgress {
    /// `database.collection` on the source.
    pub namespace: String,
    /// Size on the source when the copy began, in bytes.
    pub total_bytes: u64,
    /// Read so far, in bytes.
    pub copied_bytes: u64,
    /// Documents read so far.
    pub copied_documents: u64,
    /// Partitions in all; 0 until the collection is planned.
    pub partitions: u64,
    /// Partitions copied.
    pub partitions_done: u64,
}

/// Progress of the index builds after the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexProgress {
    /// Indexes built.
    pub indexes_built: u64,
    /// Indexes to build in all.
    pub indexes_total: u64,
    /// Collections finished.
    pub collections_finished: u64,
    /// Collections in all.
    pub collections_total: u64,
    /// Data under the built indexes, in bytes: a collection counts once for each.
    pub bytes_built: u64,
    /// Data under all of them, in bytes.
    pub bytes_total: u64,
}

/// Everything `/progress` tells. Absent values are `None`; see the API document for the null rules.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// State of the sync.
    pub state: State,
    /// Whether `/commit` would be accepted now.
    pub can_commit: bool,
    /// Whether the application may write to the destination.
    pub can_write: bool,
    /// What it is doing; `None` when idle.
    pub phase: Option<Phase>,
    /// Whether changes that queued up during the copy are still being worked off (`ceaStage`).
    pub draining: bool,
    /// Seconds between the newest change on the source and the newest applied.
    pub lag_seconds: Option<u32>,
    /// Change events applied since the process started.
    pub events_applied: u64,
    /// Events about collections and indexes among them.
    pub ddl_applied: u64,
    /// Seconds until the copy is done, at the rate of the last minute; `None` while unknown.
    pub copy_seconds: Option<u64>,
    /// Seconds until the indexes are built, at the rate since the first of them; `None` while unknown.
    pub index_seconds: Option<u64>,
    /// Seconds until everything is compared once, at the rate of the last minute; `None` while unknown.
    pub verification_seconds: Option<u64>,
    /// Seconds until the source's oplog forgets what is not applied; `None` while unknown.
    pub oplog_seconds: Option<u64>,
    /// Bytes to copy in all.
    pub total_bytes: u64,
    /// Bytes copied.
    pub copied_bytes: u64,
    /// Index builds after the copy.
    pub indexes: Option<IndexProgress>,
    /// `(source, destination)`, each `"cluster0: host:port"`.
    pub direction: Option<(String, String)>,
    /// Round trip to the source in milliseconds; `-1` when the last ping failed.
    pub source_ping_ms: Option<i64>,
    /// Round trip to the destination in milliseconds; `-1` when the last ping failed.
    pub destination_ping_ms: Option<i64>,
    /// Seconds until change event application has caught up, when the lag falls.
    pub catchup_seconds: Option<u64>,
    /// Id of this process.
    pub instance_id: String,
    /// Id of the coordinating process; our own when alone.
    pub coordinator_id: Option<String>,
    /// Everything at or before it is on the destination; `None` before the copy is done.
    pub applied_cluster_time: Option<ClusterTime>,
    /// Per collection, largest first.
    pub collections: Arc<Vec<CollectionProgress>>,
    /// The comparison of both sides; `None` when there is none.
    pub verification: Option<VerificationProgress>,
    /// Documents in quarantine: they cannot pass their filters.
    pub quarantined: u64,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Why the sync stopped, when it did: code, text, advice.
    pub failure: Option<Failure>,
}

/// A failure as observers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the error.
    pub kind: crate::error::Kind,
    /// Full text, without secrets.
    pub detail: String,
}
