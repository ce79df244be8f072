//! `Source` over a cluster in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bson::{RawDocumentBuf, Uuid};
use syncline::{
    error::{Error, Kind, Result},
    model::{Batch, ClusterTime, Namespace, change::Position, facts::ClusterFacts},
    ports::{
        BatchReader, BlockingRights, Bounds, ClusterInfo, CollectionInfo, CollectionStats,
        EventReader, Fetched, ReadRequest, Source, StreamBatch,
    },
};

use super::{
    Chaos, Cluster,
    cluster::{Call, State},
    documents::{Cursor, id_of},
    events::{raw, resume_token, token, token_behind},
};

/// Documents in one answer of a fetch.
pub(super) const FETCH_ANSWER: usize = 3;

/// How long the change stream waits for events.
const STREAM_WAIT: Duration = Duration::from_millis(500);

/// The cluster that is read.
#[derive(Debug, Clone)]
pub struct FakeSource {
    /// What it holds.
    cluster: Arc<Cluster>,
    /// What goes wrong.
    chaos: Chaos,
}

impl FakeSource {
    /// A source behind an adversary.
    pub fn new(cluster: Arc<Cluster>, chaos: Chaos) -> Self {
        Self { cluster, chaos }
    }
}

/// The time of a majority snapshot that is not older than `after`.
fn snapshot(chaos: &Chaos, state: &State, after: ClusterTime) -> ClusterTime {
    if !chaos.reads_stale() {
        return state.clock;
    }
    let newer: Vec<ClusterTime> =
        state.oplog.iter().rev().map(|event| event.time).take_while(|t| *t >= after).collect();
    let choice = usize::try_from(chaos.below(newer.len() as u64)).unwrap_or_default();
    newer.get(choice).copied().unwrap_or(state.clock)
}

/// Index specifications of whatever has a name now.
pub(super) fn indexes_of(state: &State, namespace: &Namespace) -> Vec<RawDocumentBuf> {
    state.named(namespace).map(|c| c.indexes.iter().map(raw).collect()).unwrap_or_default()
}

/// Lists a cluster as a client does: names first, indexes one by one after.
pub(super) async fn list(cluster: &Cluster, chaos: &Chaos) -> Vec<CollectionInfo> {
    chaos.step().await;
    let names: Vec<Namespace> = {
        let state = cluster.state();
        state.names.keys().chain(state.views.keys()).cloned().collect()
    };
    let mut databases: Vec<String> = names.iter().map(|n| n.database().to_owned()).collect();
    databases.dedup();
    databases.sort();
    databases.dedup();
    let mut all: Vec<CollectionInfo> = Vec::new();
    for database in databases {
        chaos.step().await;
        let mut infos: Vec<CollectionInfo> = {
            let state = cluster.state();
            state
                .names
                .keys()
                .chain(state.views.keys())
                .filter(|namespace| namespace.database() == database)
                .filter_map(|namespace| state.describe(namespace))
                .collect()
        };
        for info in &mut infos {
            chaos.step().await;
            info.indexes = indexes_of(&cluster.state(), &info.namespace);
        }
        all.extend(infos);
    }
    all
}

#[async_trait]
impl Source for FakeSource {
    async fn info(&self) -> Result<ClusterInfo> {
        Ok(self.cluster.info())
    }

    async fn facts(&self) -> Result<ClusterFacts> {
        Ok(self.cluster.facts())
    }

    async fn cluster_time(&self) -> Result<ClusterTime> {
        self.chaos.step().await;
        Ok(self.cluster.state().clock)
    }

    async fn append_note(&self, message: &str) -> Result<ClusterTime> {
        self.chaos.step().await;
        if self.chaos.loses_reply() {
            self.cluster.change(|state| state.note(message));
            self.chaos.step().await;
        }
        let time = self.cluster.change(|state| state.note(message));
        self.chaos.step().await;
        Ok(time)
    }

    async fn list(&self) -> Result<Vec<CollectionInfo>> {
        Ok(list(&self.cluster, &self.chaos).await)
    }

    async fn list_of(&self, databases: &BTreeSet<String>) -> Result<Vec<CollectionInfo>> {
        let mut listed = list(&self.cluster, &self.chaos).await;
        listed.retain(|info| databases.contains(info.namespace.database()));
        Ok(listed)
    }

    async fn stats(&self, namespace: &Namespace) -> Result<CollectionStats> {
        self.chaos.step().await;
        let state = self.cluster.state();
        let Some(collection) = state.named(namespace) else {
            return Ok(CollectionStats::default());
        };
        let mut stats = CollectionStats::default();
        for document in collection.documents.iter() {
            stats.bytes += document.as_bytes().len() as u64;
            stats.documents += 1;
        }
        Ok(stats)
    }

    async fn stored_bytes(&self, namespace: &Namespace) -> Result<u64> {
        Ok(self.stats(namespace).await?.bytes)
    }

    async fn index_formats(&self, _namespace: &Namespace) -> Result<HashMap<String, i64>> {
        Ok(HashMap::new())
    }

    async fn database_bytes(&self, _database: &str) -> Result<Option<(u64, u64)>> {
        Ok(None)
    }

    async fn sample_ids(
        &self,
        namespace: &Namespace,
        count: u32,
        _documents: u64,
    ) -> Result<Vec<RawDocumentBuf>> {
        self.chaos.step().await;
        let state = self.cluster.state();
        let ids: Vec<RawDocumentBuf> = state
            .named(namespace)
            .map(|c| c.documents.iter().map(|document| id_of(document)).collect())
            .unwrap_or_default();
        if ids.is_empty() {
            return Ok(ids);
        }
        let pick = || usize::try_from(self.chaos.below(ids.len() as u64)).unwrap_or_default();
        Ok((0..count).map(|_| ids[pick()].clone()).collect())
    }

    async fn stored_ids(&self, namespace: &Namespace, count: u32) -> Result<Vec<RawDocumentBuf>> {
        self.chaos.step().await;
        let state = self.cluster.state();
        let stored = state.named(namespace).map(|c| c.documents.in_storage_order());
        let count = usize::try_from(count).unwrap_or_default();
        Ok(stored.iter().flatten().take(count).map(|document| id_of(document)).collect())
    }

    async fn greatest_id(&self, namespace: &Namespace) -> Result<Option<RawDocumentBuf>> {
        self.chaos.step().await;
        let state = self.cluster.state();
        Ok(state.named(namespace).and_then(|c| c.documents.iter().last().map(|d| id_of(d))))
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<Box<dyn BatchReader>>> {
        self.chaos.step().await;
        let opened = {
            let mut state = self.cluster.state();
            let newest = state.clock;
            state.calls.push(Call::Scan(newest));
            state.names.get(&request.namespace) == Some(&request.uuid)
        };
        self.chaos.step().await;
        if !opened {
            return Ok(None);
        }
        let cursor = if request.natural_order { Cursor::Record(None) } else { Cursor::Id(None) };
        let after = request.after;
        let (cluster, chaos) = (Arc::clone(&self.cluster), self.chaos.clone());
        Ok(Some(Box::new(FakeScan { cluster, chaos, request, cursor, after })))
    }

    async fn fetch(
        &self,
        namespace: &Namespace,
        uuid: Uuid,
        ids: &[RawDocumentBuf],
        after: ClusterTime,
    ) -> Result<Fetched> {
        self.chaos.step().await;
        self.cluster.pass_gate().await;
        let fetched = {
            let state = self.cluster.state();
            let time = snapshot(&self.chaos, &state, after);
            let found = state
                .collections
                .get(&uuid)
                .filter(|c| c.namespace.database() == namespace.database());
            match found {
                None => Fetched::CollectionGone,
                Some(collection) => {
                    let mut found: Vec<_> =
                        ids.iter().filter_map(|id| collection.documents.get_at(id, time)).collect();
                    // A full answer: the others are to be asked for again.
                    let complete = found.len() <= FETCH_ANSWER;
                    found.truncate(FETCH_ANSWER);
                    Fetched::Documents { found: Batch::from_documents(found), complete }
                }
            }
        };
        self.chaos.step().await;
        Ok(fetched)
    }

    async fn open_stream(&self, from: Position) -> Result<Box<dyn EventReader>> {
        self.chaos.step().await;
        let behind = match &from.token {
            Some(token) => token
                .get_str("_data")
                .map(str::to_owned)
                .map_err(|e| Error::new(Kind::ReadFailed, "resume token").caused_by(e))?,
            // Everything at the time itself is told.
            None => token(from.time, 0),
        };
        self.cluster.state().calls.push(Call::Stream(from.time));
        let include = from.token.is_none();
        let stream = FakeStream {
            cluster: Arc::clone(&self.cluster),
            chaos: self.chaos.clone(),
            behind,
            include,
        };
        stream.check_oplog()?;
        Ok(Box::new(stream))
    }

    async fn block_user_writes(&self, blocked: bool) -> Result<()> {
        self.chaos.step().await;
        self.cluster.state().blocks.push(blocked);
        Ok(())
    }

    async fn is_blocked(&self) -> Result<bool> {
        self.chaos.step().await;
        Ok(self.cluster.state().blocks.last() == Some(&true))
    }

    async fn blocking_rights(&self) -> Result<BlockingRights> {
        self.chaos.step().await;
        Ok(BlockingRights::Full)
    }

    async fn ping(&self) -> Result<u64> {
        Ok(1)
    }
}

/// A scan: at each answer it looks at another snapshot, never at an older one.
struct FakeScan {
    /// What is scanned.
    cluster: Arc<Cluster>,
    /// What goes wrong.
    chaos: Chaos,
    /// What was asked for.
    request: ReadRequest,
    /// How far it is.
    cursor: Cursor,
    /// The next snapshot is not older.
    after: ClusterTime,
}

#[async_trait]
impl BatchReader for FakeScan {
    async fn next(&mut self) -> Result<Option<Batch>> {
        self.chaos.step().await;
        let broken = || Err(Error::new(Kind::TransientNetwork, "the scan broke"));
        if self.chaos.breaks_scan() {
            return broken();
        }
        let found = {
            let state = self.cluster.state();
            // A rename or drop under a scan kills it.
            let Some(collection) = state
                .collections
                .get(&self.request.uuid)
                .filter(|c| c.namespace == self.request.namespace)
            else {
                return broken();
            };
            self.after = snapshot(&self.chaos, &state, self.after);
            let most = u64::from(self.request.batch_count).clamp(1, 6);
            let count = usize::try_from(self.chaos.below(most)).unwrap_or_default() + 1;
            let bounds = if self.request.natural_order {
                Bounds::default()
            } else {
                self.request.bounds.clone()
            };
            collection.documents.scan(&mut self.cursor, &bounds, self.after, count)
        };
        self.chaos.step().await;
        Ok((!found.is_empty()).then(|| Batch::from_documents(&found)))
    }
}

/// The change stream.
struct FakeStream {
    /// Whose.
    cluster: Arc<Cluster>,
    /// What goes wrong.
    chaos: Chaos,
    /// `_data` of the last token delivered.
    behind: String,
    /// Whether the event with that token is still to be told.
    include: bool,
}

impl FakeStream {
    /// Fails when the oplog does not reach back to its place.
    fn check_oplog(&self) -> Result<()> {
        let state = self.cluster.state();
        let lost = state.oldest().checked_sub(1).and_then(|last| state.oplog.get(last));
        match lost {
            Some(event) if event.token > self.behind => {
                Err(Error::new(Kind::OplogPositionLost, "the oplog has moved on"))
            }
            _ => Ok(()),
        }
    }

    /// What there is to tell.
    fn take(&mut self) -> Option<StreamBatch> {
        let mut state = self.cluster.state();
        let begin = state.oplog.partition_point(|event| {
            event.token < self.behind || (!self.include && event.token == self.behind)
        });
        let left = state.oplog.len() - begin;
        if left == 0 {
            return None;
        }
        let most = usize::try_from(self.chaos.below(12)).unwrap_or_default() + 1;
        let told = &state.oplog[begin..begin + left.min(most)];
        let last = told.last()?;
        let events = Batch::from_documents(told.iter().filter_map(|event| event.body.as_ref()));
        let (time, count) = (last.time, told.len());
        self.behind = if count == left { token_behind(time) } else { last.token.clone() };
        state.told += count;
        self.include = false;
        Some(StreamBatch {
            events,
            position: Position { token: Some(resume_token(&self.behind)), time },
        })
    }
}

#[async_trait]
impl EventReader for FakeStream {
    async fn next(&mut self) -> Result<StreamBatch> {
        self.chaos.step().await;
        self.check_oplog()?;
        let cluster = Arc::clone(&self.cluster);
        let changed = cluster.changed.notified();
        if let Some(told) = self.take() {
            return Ok(told);
        }
        // An elapsed time is as good as a change: it is looked again either way.
        drop(tokio::time::timeout(STREAM_WAIT, changed).await);
        self.chaos.step().await;
        if let Some(told) = self.take() {
            return Ok(told);
        }
        let time = self.cluster.state().clock;
        self.behind = token_behind(time);
        self.include = false;
        let position = Position { token: Some(resume_token(&self.behind)), time };
        Ok(StreamBatch { events: Batch::from_documents(Vec::<RawDocumentBuf>::new()), position })
    }
}
