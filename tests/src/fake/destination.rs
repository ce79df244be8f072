//! `Destination` over a cluster in memory.

use std::sync::Arc;

use async_trait::async_trait;
use bson::{Document, RawDocumentBuf, Uuid};
use syncline::{
    error::{Error, Kind, Result},
    model::{Batch, ClusterTime, Namespace, facts::ClusterFacts},
    ports::{
        BatchReader, BlockingRights, Bounds, ClusterInfo, CollectionInfo, Destination, Fetched,
        InsertReport, ReadBack,
    },
};

use super::{
    Chaos, Cluster,
    cluster::{apply_to_index, set_options},
    documents::{Cursor, id_of, is_within},
    source,
};

/// The cluster that is written to. Like a server it creates what is written to; like the driver's
/// port it repeats a write whose reply was lost.
#[derive(Debug, Clone)]
pub struct FakeDestination {
    /// What it holds.
    cluster: Arc<Cluster>,
    /// What goes wrong.
    chaos: Chaos,
}

/// A refusal that a retry does not mend.
fn refused(kind: Kind, text: String) -> Error {
    Error::new(kind, text)
}

impl FakeDestination {
    /// A destination behind an adversary.
    pub fn new(cluster: Arc<Cluster>, chaos: Chaos) -> Self {
        Self { cluster, chaos }
    }

    /// Does something, perhaps twice; the last answer counts.
    async fn perform<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        self.begin().await?;
        if self.chaos.loses_reply() {
            // What the first attempt said is what was lost.
            drop(work());
            self.chaos.step().await;
        }
        let result = work();
        self.chaos.step().await;
        result
    }

    /// Waits until a write may be done, or refuses it.
    async fn begin(&self) -> Result<()> {
        self.chaos.step().await;
        self.cluster.pass_gate().await;
        match self.cluster.state().refuses {
            Some(kind) => Err(refused(kind, "the server refuses every write".to_owned())),
            None => Ok(()),
        }
    }

    /// Puts a document, if no unique index is against it.
    fn put(&self, namespace: &Namespace, document: &RawDocumentBuf) -> Result<()> {
        let mut state = self.cluster.state();
        state.create(namespace, &RawDocumentBuf::new());
        let time = state.tick();
        let Some(collection) = state.named_mut(namespace) else {
            return Err(refused(Kind::WriteFailed, format!("{namespace} is a view")));
        };
        if collection.violates(document) {
            return Err(refused(Kind::WriteFailed, format!("{namespace}: duplicate key")));
        }
        let uuid = collection.uuid;
        if state.loses.as_ref() == Some(&id_of(document)) {
            return Ok(());
        }
        let Some(collection) = state.named_mut(namespace) else { return Ok(()) };
        collection.documents.put(&id_of(document), Some(document.clone()), time);
        state.tidy(&uuid);
        Ok(())
    }

    /// Deletes by `{_id: …}`.
    fn remove(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) {
        let mut state = self.cluster.state();
        let time = state.tick();
        let Some(collection) = state.named_mut(namespace) else { return };
        for id in ids {
            if collection.documents.get(id).is_some() {
                collection.documents.put(id, None, time);
            }
        }
        let uuid = collection.uuid;
        state.tidy(&uuid);
    }

    /// Inserts a part of a batch that begins at `first`.
    fn insert_part(
        &self,
        namespace: &Namespace,
        documents: &[RawDocumentBuf],
        first: usize,
        ordered: bool,
    ) -> Result<InsertReport> {
        let mut report = InsertReport::default();
        for (index, document) in documents.iter().enumerate() {
            let exists = self
                .cluster
                .state()
                .named(namespace)
                .is_some_and(|c| c.documents.get(document).is_some());
            if !exists {
                self.put(namespace, document)?;
                continue;
            }
            report.duplicates.push(first + index);
            if ordered {
                break;
            }
        }
        Ok(report)
    }
}

#[async_trait]
impl Destination for FakeDestination {
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

    async fn list(&self) -> Result<Vec<CollectionInfo>> {
        Ok(source::list(&self.cluster, &self.chaos).await)
    }

    async fn create(&self, namespace: &Namespace, options: &RawDocumentBuf) -> Result<()> {
        self.perform(|| {
            self.cluster.state().create(namespace, options);
            Ok(())
        })
        .await
    }

    async fn find(&self, namespace: &Namespace) -> Result<Option<Uuid>> {
        self.chaos.step().await;
        Ok(self.cluster.state().names.get(namespace).copied())
    }

    async fn drop_collection(&self, namespace: &Namespace) -> Result<()> {
        self.perform(|| {
            self.cluster.state().drop_collection(namespace);
            Ok(())
        })
        .await
    }

    async fn is_empty(&self, namespace: &Namespace) -> Result<bool> {
        self.chaos.step().await;
        let state = self.cluster.state();
        Ok(state.named(namespace).is_none_or(|c| c.documents.iter().next().is_none()))
    }

    async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        self.perform(|| {
            if self.cluster.state().rename(from, to, false) {
                return Ok(());
            }
            Err(refused(Kind::WriteFailed, format!("cannot rename {from} to {to}")))
        })
        .await
    }

    async fn insert(
        &self,
        namespace: &Namespace,
        documents: &Batch,
        ordered: bool,
    ) -> Result<InsertReport> {
        let documents: Vec<RawDocumentBuf> =
            documents.documents().map(|d| d.map(ToOwned::to_owned)).collect::<Result<_>>()?;
        self.begin().await?;
        if self.chaos.loses_reply() {
            let done = usize::try_from(self.chaos.below(documents.len() as u64 + 1));
            let part = documents.get(..done.unwrap_or_default()).unwrap_or_default();
            drop(self.insert_part(namespace, part, 0, ordered)?);
            self.chaos.step().await;
        }
        let middle = documents.len() / 2;
        let mut report = self.insert_part(namespace, &documents[..middle], 0, ordered)?;
        if ordered && !report.duplicates.is_empty() {
            return Ok(report);
        }
        self.chaos.step().await;
        let rest = self.insert_part(namespace, &documents[middle..], middle, ordered)?;
        report.duplicates.extend(rest.duplicates);
        self.chaos.step().await;
        Ok(report)
    }

    async fn upsert(&self, namespace: &Namespace, documents: &[RawDocumentBuf]) -> Result<()> {
        if documents.is_empty() {
            return Ok(());
        }
        self.perform(|| documents.iter().try_for_each(|document| self.put(namespace, document)))
            .await
    }

    async fn delete(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.perform(|| {
            self.remove(namespace, ids);
            Ok(())
        })
        .await
    }

    async fn read(&self, request: ReadBack) -> Result<Option<Box<dyn BatchReader>>> {
        self.chaos.step().await;
        if self.cluster.state().named(&request.namespace).is_none() {
            return Ok(None);
        }
        let cursor = if request.natural_order { Cursor::Record(None) } else { Cursor::Id(None) };
        let (cluster, chaos) = (Arc::clone(&self.cluster), self.chaos.clone());
        Ok(Some(Box::new(FakeReadBack { cluster, chaos, request, cursor })))
    }

    async fn fetch(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) -> Result<Fetched> {
        self.chaos.step().await;
        let (found, complete) = {
            let state = self.cluster.state();
            let documents = state.named(namespace).map(|collection| &collection.documents);
            let mut found: Vec<RawDocumentBuf> = documents
                .into_iter()
                .flat_map(|documents| ids.iter().filter_map(|id| documents.get(id)))
                .cloned()
                .collect();
            // A full answer: the others are to be asked for again.
            let complete = found.len() <= source::FETCH_ANSWER;
            found.truncate(source::FETCH_ANSWER);
            (Batch::from_documents(found), complete)
        };
        self.chaos.step().await;
        Ok(Fetched::Documents { found, complete })
    }

    async fn empty(&self, namespace: &Namespace, bounds: &Bounds) -> Result<u64> {
        self.chaos.step().await;
        let mut removed = 0;
        loop {
            let ids: Vec<RawDocumentBuf> = {
                let state = self.cluster.state();
                let documents = state.named(namespace).map(|c| c.documents.iter());
                documents
                    .into_iter()
                    .flatten()
                    .map(|document| id_of(document))
                    .filter(|id| is_within(bounds, id))
                    .take(3)
                    .collect()
            };
            if ids.is_empty() {
                return Ok(removed);
            }
            removed += ids.len() as u64;
            self.delete(namespace, &ids).await?;
        }
    }

    async fn create_indexes(
        &self,
        namespace: &Namespace,
        uuid: Option<Uuid>,
        specs: &[RawDocumentBuf],
    ) -> Result<()> {
        let specs: Vec<Document> =
            specs.iter().filter_map(|spec| Document::try_from(spec.as_ref()).ok()).collect();
        self.perform(|| {
            let mut state = self.cluster.state();
            if uuid.is_some() && uuid != state.named(namespace).map(|named| named.uuid) {
                return Err(refused(Kind::IndexBuildFailed, format!("{namespace}: another UUID")));
            }
            state.create(namespace, &RawDocumentBuf::new());
            for spec in &specs {
                let known = state
                    .named(namespace)
                    .and_then(|c| c.indexes.iter().find(|o| o.get("name") == spec.get("name")));
                let is_same = known.map(|known| known == spec);
                if is_same == Some(false)
                    || (is_same.is_none() && !state.create_index(namespace, spec))
                {
                    return Err(refused(Kind::IndexBuildFailed, format!("{namespace}: {spec}")));
                }
            }
            Ok(())
        })
        .await
    }

    async fn index_builds(&self) -> Result<usize> {
        self.chaos.step().await;
        Ok(2)
    }

    async fn drop_indexes(&self, namespace: &Namespace, names: &[&str]) -> Result<()> {
        self.perform(|| {
            for name in names {
                self.cluster.state().drop_index(namespace, name);
            }
            Ok(())
        })
        .await
    }

    async fn modify(&self, namespace: &Namespace, fields: Document) -> Result<()> {
        self.perform(|| {
            let mut state = self.cluster.state();
            let missing = || refused(Kind::IndexBuildFailed, format!("{namespace}: {fields}"));
            let collection = state.named_mut(namespace).ok_or_else(missing)?;
            let mut options = fields.clone();
            if let Some(change) = options.remove("index") {
                let change = change.as_document().cloned().unwrap_or_default();
                let place = collection
                    .indexes
                    .iter()
                    .position(|spec| spec.get("name") == change.get("name"))
                    .ok_or_else(missing)?;
                let mut spec = collection.indexes[place].clone();
                let converts = change.get_bool("unique").unwrap_or(false);
                if converts && collection.has_duplicates(&spec) {
                    return Err(refused(
                        Kind::DuplicateKeyAtCommit,
                        format!("{namespace}: {spec}"),
                    ));
                }
                if converts && !spec.contains_key("prepareUnique") && !spec.contains_key("unique") {
                    return Err(missing());
                }
                apply_to_index(&mut spec, &change);
                collection.indexes[place] = spec;
            }
            set_options(collection, &options);
            Ok(())
        })
        .await
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

    async fn wait_for_writes(&self, _tag: &str) -> Result<()> {
        Ok(())
    }

    async fn wait_for_process(&self, _tag: &str) -> Result<()> {
        Ok(())
    }

    async fn ping(&self) -> Result<u64> {
        Ok(1)
    }
}

/// A scan of the destination.
struct FakeReadBack {
    /// Whose.
    cluster: Arc<Cluster>,
    /// What goes wrong.
    chaos: Chaos,
    /// Which.
    request: ReadBack,
    /// How far it is.
    cursor: Cursor,
}

#[async_trait]
impl BatchReader for FakeReadBack {
    async fn next(&mut self) -> Result<Option<Batch>> {
        self.chaos.step().await;
        let broken = || Err(Error::new(Kind::TransientNetwork, "the scan broke"));
        if self.chaos.breaks_scan() {
            return broken();
        }
        let most = u64::from(self.request.batch_count).clamp(1, 6);
        let count = usize::try_from(self.chaos.below(most)).unwrap_or_default() + 1;
        let found = {
            let state = self.cluster.state();
            let Some(collection) = state.named(&self.request.namespace) else { return broken() };
            let bounds = &self.request.bounds;
            collection.documents.scan(&mut self.cursor, bounds, state.clock, count)
        };
        self.chaos.step().await;
        Ok((!found.is_empty()).then(|| Batch::from_documents(&found)))
    }
}
