//! What must hold whenever a position or a partition is saved: an engine that begins there loses
//! nothing.
//!
//! A document whose partition is saved as done will not be read again. So every event of it at or
//! before the position must be on the destination: the document there is one that the source had
//! at that event or after it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bson::{Document, RawDocumentBuf, Uuid};
use syncline::{
    model::ClusterTime,
    ports::{Bounds, Table},
};
use syncline_tests::fake::{Cluster, KeepSmall, Tables, documents::is_within};

use crate::{schedule::World, workload::FILTERED};

/// Sees everything that is saved.
#[derive(Debug, Default)]
pub struct Oracle {
    /// The first thing that was wrong.
    wrong: Mutex<Option<String>>,
    /// Documents looked at.
    checks: AtomicU64,
}

/// What is saved of a collection: its UUID on the destination, and what of it is done.
struct Saved {
    /// On the destination.
    uuid: Uuid,
    /// Ranges that will not be read again.
    done: Vec<Bounds>,
}

impl Oracle {
    /// Watches the metadata of a world.
    pub fn watch(world: &World) -> Arc<Self> {
        let oracle = Arc::new(Self::default());
        let own = Arc::clone(&oracle);
        let tables = Arc::downgrade(&world.tables);
        let (source, destination) = (Arc::clone(&world.source), Arc::clone(&world.destination));
        let filter = Arc::clone(&world.filter);
        world.tables.watch(move |table| {
            if table != Table::Collections
                && let Some(tables) = tables.upgrade()
                && let Some(record) = tables.all(Table::Sync).pop()
                && let Ok(position) = record.get_document("position")
            {
                own.check(&tables, &source, &destination, &filter, position);
            }
        });
        oracle
    }

    /// How many documents were looked at.
    pub fn checks(&self) -> u64 {
        self.checks.load(Ordering::SeqCst)
    }

    /// The first thing that was wrong.
    pub fn verdict(&self) -> Option<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at every document of every collection that is saved as done.
    fn check(
        &self,
        tables: &Tables,
        source: &Cluster,
        destination: &Cluster,
        filter: &KeepSmall,
        position: &Document,
    ) {
        let time = ClusterTime::from(position.get_timestamp("time").unwrap());
        // A token in the middle of a transaction covers only what is before it.
        let is_whole = position
            .get_document("token")
            .and_then(|token| token.get_str("_data"))
            .is_ok_and(|data| data.ends_with("FFFFFFFF"));
        let is_covered = |event: ClusterTime| event < time || (is_whole && event == time);
        let (source, destination) = (source.state(), destination.state());
        for (uuid, saved) in saved(tables) {
            let (Some(from), Some(to)) =
                (source.collections.get(&uuid), destination.collections.get(&saved.uuid))
            else {
                continue;
            };
            let is_filtered = from.namespace.database() == FILTERED;
            for (id, states) in from.documents.states_since(is_covered) {
                if !saved.done.iter().any(|bounds| is_within(bounds, id)) {
                    continue;
                }
                self.checks.fetch_add(1, Ordering::SeqCst);
                let present = to.documents.get(id);
                let expected = |state: &Option<&RawDocumentBuf>| match state {
                    Some(document) if is_filtered => filter.expected(document),
                    other => other.cloned(),
                };
                if !states.iter().any(|state| expected(state).as_ref() == present) {
                    self.report(format!(
                        "position {time} is saved, but {}, {id:?} is {present:?} and not one of {states:?}",
                        from.namespace
                    ));
                }
            }
        }
    }

    /// Keeps the first thing that is wrong.
    fn report(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }
}

/// What the metadata says of every collection, by UUID on the source.
fn saved(tables: &Tables) -> HashMap<Uuid, Saved> {
    let uuid = |document: &Document, key: &str| {
        document.get_str(key).ok().and_then(|text| Uuid::parse_str(text).ok())
    };
    let mut all = HashMap::new();
    for document in tables.all(Table::Collections) {
        let is_planned = document.get_bool("planned").unwrap_or_default()
            && !document.get_bool("dropped").unwrap_or_default();
        if let (true, Some(own), Some(other)) =
            (is_planned, uuid(&document, "_id"), uuid(&document, "destinationUuid"))
        {
            all.insert(own, Saved { uuid: other, done: Vec::new() });
        }
    }
    for document in tables.all(Table::Partitions) {
        let bound = |key: &str| {
            document.get_document(key).ok().map(|d| RawDocumentBuf::try_from(d).unwrap())
        };
        let bounds = Bounds { lower: bound("lower"), upper: bound("upper") };
        if let Some(collection) = uuid(&document, "collection").and_then(|own| all.get_mut(&own))
            && document.get_bool("done").unwrap_or_default()
        {
            collection.done.push(bounds);
        }
    }
    all
}
