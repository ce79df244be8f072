//! What a filter did so far, collection by collection.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Duration;

use super::{super::times::Times, output::Tally};
use crate::model::{
    Namespace,
    plugin::{NamespaceCounters, PluginCounters},
};

/// Collections that are counted each by itself; the others are counted together.
pub(super) const MAX_NAMESPACES: usize = 200;
/// Name of the others. No collection is called so, for it has no dot.
pub(super) const OTHERS: &str = "others";

/// Counters since the plugin was loaded.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Calls.
    calls: AtomicU64,
    /// How long batches took.
    times: Times,
    /// What became of documents.
    documents: Mutex<Documents>,
}

/// What became of documents.
#[derive(Debug, Default)]
struct Documents {
    /// By collection.
    by_namespace: HashMap<Namespace, NamespaceCounters>,
    /// Of all collections that have no entry.
    others: NamespaceCounters,
}

impl Counters {
    /// Notes the begin of a call.
    pub(super) fn begin(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// Notes how long a call took.
    pub(super) fn took(&self, time: Duration) {
        self.times.add(time);
    }

    /// Notes verdicts, and failures: documents that cannot pass, calls that came to nothing.
    pub(super) fn count(&self, namespace: &Namespace, tally: Tally, errors: usize) {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = documents.by_namespace.len() >= MAX_NAMESPACES;
        if !is_full && !documents.by_namespace.contains_key(namespace) {
            let fresh =
                NamespaceCounters { namespace: namespace.to_string(), ..Default::default() };
            documents.by_namespace.insert(namespace.clone(), fresh);
        }
        let Documents { by_namespace, others } = &mut *documents;
        let counters = by_namespace.get_mut(namespace).unwrap_or(others);
        counters.kept += tally.kept;
        counters.dropped += tally.dropped;
        counters.replaced += tally.replaced;
        counters.errors += u64::try_from(errors).unwrap_or(u64::MAX);
    }

    /// What became of documents, collection by collection, in the order of their names.
    pub(super) fn namespaces(&self) -> Vec<NamespaceCounters> {
        let documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = documents.by_namespace.values().cloned().collect();
        list.sort_unstable_by(|left, right| left.namespace.cmp(&right.namespace));
        if documents.others != NamespaceCounters::default() {
            list.push(NamespaceCounters {
                namespace: OTHERS.to_owned(),
                ..documents.others.clone()
            });
        }
        list
    }

    /// All of it together.
    pub(super) fn total(&self) -> PluginCounters {
        let mut total = PluginCounters {
            calls: self.calls.load(Relaxed),
            p50_micros: self.times.percentile(50),
            p99_micros: self.times.percentile(99),
            ..PluginCounters::default()
        };
        for counters in self.namespaces() {
            total.kept += counters.kept;
            total.dropped += counters.dropped;
            total.replaced += counters.replaced;
            total.errors += counters.errors;
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_counted_each_by_itself_up_to_a_bound() {
        let counters = Counters::default();
        let tally = Tally { kept: 2, dropped: 1, replaced: 0 };
        for round in 0..2 {
            for number in 0..MAX_NAMESPACES + 5 {
                let namespace = Namespace::new("app", format!("c{number:04}")).unwrap();
                counters.count(&namespace, tally, round);
            }
        }
        let list = counters.namespaces();
        assert_eq!(list.len(), MAX_NAMESPACES + 1);
        assert_eq!(
            list[3],
            NamespaceCounters {
                namespace: "app.c0003".into(),
                kept: 4,
                dropped: 2,
                replaced: 0,
                errors: 1
            }
        );
        let others = list.last().unwrap();
        assert_eq!((others.namespace.as_str(), others.kept, others.errors), (OTHERS, 20, 5));
        let total = counters.total();
        let all = u64::try_from(MAX_NAMESPACES + 5).unwrap();
        assert_eq!((total.kept, total.dropped, total.errors), (4 * all, 2 * all, all));
    }
}
