//! Folds what one applier took into at most one operation a document.

use std::collections::HashMap;

use bson::RawDocumentBuf;

use crate::model::order::canonical_id;

/// What happened to a document, with its `_id` as `{_id: …}`.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    /// It was inserted.
    Insert(RawDocumentBuf, RawDocumentBuf),
    /// It was replaced.
    Replace(RawDocumentBuf, RawDocumentBuf),
    /// It changed somehow: look at the source.
    Refetch(RawDocumentBuf),
    /// It was deleted.
    Delete(RawDocumentBuf),
}

impl Operation {
    /// The document's `_id` as `{_id: …}`.
    fn id(&self) -> &RawDocumentBuf {
        match self {
            Self::Insert(id, _) | Self::Replace(id, _) | Self::Refetch(id) | Self::Delete(id) => id,
        }
    }
}

/// Disjoint sets of documents: each is in one of them.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// New documents, in the order of the source.
    pub(super) inserts: Vec<RawDocumentBuf>,
    /// Documents that may exist.
    pub(super) upserts: Vec<RawDocumentBuf>,
    /// Ids to be fetched from the source.
    pub(super) refetches: Vec<RawDocumentBuf>,
    /// Ids to be deleted.
    pub(super) deletes: Vec<RawDocumentBuf>,
}

/// Folds operations of one collection. For each document only the last insert, replace or delete
/// counts, and a change after it makes it a refetch. With `always_refetch` (a document filter) no
/// document of an event is used, only its `_id`.
pub(super) fn fold(operations: Vec<Operation>, always_refetch: bool) -> Bulk {
    let mut slots: Vec<Option<Operation>> = Vec::with_capacity(operations.len());
    let mut places: HashMap<Vec<u8>, usize> = HashMap::with_capacity(operations.len());
    for operation in operations {
        let operation = match operation {
            Operation::Insert(id, _) | Operation::Replace(id, _) if always_refetch => {
                Operation::Refetch(id)
            }
            other => other,
        };
        let key = canonical_id(operation.id());
        let earlier = places
            .insert(key, slots.len())
            .and_then(|place| slots.get_mut(place).and_then(Option::take));
        let folded = match (earlier, operation) {
            // Still new to the destination.
            (Some(Operation::Insert(..)), Operation::Replace(id, document)) => {
                Operation::Insert(id, document)
            }
            // Whatever there was before the delete is on the destination still.
            (Some(_), Operation::Insert(id, document)) => Operation::Replace(id, document),
            (_, operation) => operation,
        };
        slots.push(Some(folded));
    }
    Bulk::of(slots).unwrap_or_default()
}

/// Cuts operations of a capped collection into what can be written at once without changing the
/// order in which documents come to be: each document once in a run, replacements and fetches
/// apart. Deletes go along with inserts, as a full collection reports them in turns: they come
/// first, and what is inserted and deleted in one run is only deleted.
pub(super) fn runs(operations: Vec<Operation>, always_refetch: bool) -> Vec<Bulk> {
    let mut runs = Vec::new();
    let mut slots: Vec<Option<Operation>> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut present = Sort::Turns;
    for operation in operations {
        let operation = match operation {
            Operation::Insert(id, _) | Operation::Replace(id, _) if always_refetch => {
                Operation::Refetch(id)
            }
            other => other,
        };
        let sort = Sort::of(&operation);
        let key = canonical_id(operation.id());
        let earlier = places.get(&key).copied().filter(|_| sort == present);
        let fits = match (&operation, earlier) {
            _ if sort != present => false,
            (_, None) => true,
            (Operation::Refetch(_), Some(_)) => continue,
            (Operation::Delete(_), Some(place)) => {
                // A crash may have left what was inserted: it is deleted all the same.
                if let Some(slot) = slots.get_mut(place) {
                    *slot = Some(operation);
                }
                continue;
            }
            (Operation::Insert(..) | Operation::Replace(..), Some(_)) => false,
        };
        if !fits {
            places.clear();
            runs.extend(Bulk::of(std::mem::take(&mut slots)));
            present = sort;
        }
        places.insert(key, slots.len());
        slots.push(Some(operation));
    }
    runs.extend(Bulk::of(slots));
    runs
}

/// What goes into one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// Inserts and deletes.
    Turns,
    /// Replacements.
    Replacements,
    /// Fetches.
    Fetches,
}

impl Sort {
    /// The sort of an operation.
    fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Insert(..) | Operation::Delete(_) => Self::Turns,
            Operation::Replace(..) => Self::Replacements,
            Operation::Refetch(_) => Self::Fetches,
        }
    }
}

impl Bulk {
    /// The operations by kind; `None` without any.
    fn of(slots: Vec<Option<Operation>>) -> Option<Self> {
        let mut bulk = None;
        for operation in slots.into_iter().flatten() {
            let bulk = bulk.get_or_insert_with(Self::default);
            match operation {
                Operation::Insert(_, document) => bulk.inserts.push(document),
                Operation::Replace(_, document) => bulk.upserts.push(document),
                Operation::Refetch(id) => bulk.refetches.push(id),
                Operation::Delete(id) => bulk.deletes.push(id),
            }
        }
        bulk
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn id(n: i32) -> RawDocumentBuf {
        rawdoc! { "_id": n }
    }

    fn body(n: i32, v: &str) -> RawDocumentBuf {
        rawdoc! { "_id": n, "v": v }
    }

    fn shape(operations: Vec<Operation>) -> (usize, usize, usize, usize) {
        let bulk = fold(operations, false);
        (bulk.inserts.len(), bulk.upserts.len(), bulk.refetches.len(), bulk.deletes.len())
    }

    #[test]
    fn only_the_last_state_of_a_document_counts() {
        use Operation as O;
        let insert = |v| O::Insert(id(1), body(1, v));
        let replace = |v| O::Replace(id(1), body(1, v));
        assert_eq!(shape(vec![insert("a"), replace("b")]), (1, 0, 0, 0));
        assert_eq!(shape(vec![insert("a"), O::Refetch(id(1))]), (0, 0, 1, 0));
        assert_eq!(shape(vec![insert("a"), O::Delete(id(1))]), (0, 0, 0, 1));
        assert_eq!(shape(vec![O::Delete(id(1)), insert("a")]), (0, 1, 0, 0));
        assert_eq!(shape(vec![O::Refetch(id(1)), replace("a")]), (0, 1, 0, 0));
        assert_eq!(
            shape(vec![insert("a"), O::Delete(id(1)), insert("b"), replace("c")]),
            (0, 1, 0, 0)
        );
        let bulk = fold(vec![insert("a"), replace("b")], false);
        assert_eq!(bulk.inserts, vec![body(1, "b")]);
    }

    #[test]
    fn equal_ids_of_different_types_are_one_document() {
        let operations = vec![
            Operation::Delete(rawdoc! { "_id": 1i64 }),
            Operation::Insert(rawdoc! { "_id": 1.0 }, rawdoc! { "_id": 1.0 }),
        ];
        assert_eq!(shape(operations), (0, 1, 0, 0));
    }

    #[test]
    fn inserts_keep_their_order() {
        let operations = (0..5).rev().map(|n| Operation::Insert(id(n), body(n, "x"))).collect();
        let bulk = fold(operations, false);
        assert_eq!(bulk.inserts, (0..5).rev().map(|n| body(n, "x")).collect::<Vec<_>>());
    }

    #[test]
    fn runs_keep_the_order_in_which_documents_come_to_be() {
        use Operation as O;
        let insert = |n| O::Insert(id(n), body(n, "a"));
        let operations = vec![
            insert(1),
            insert(2),
            O::Refetch(id(2)),
            O::Refetch(id(2)),
            O::Delete(id(1)),
            insert(1),
        ];
        let shapes: Vec<_> = runs(operations.clone(), false)
            .iter()
            .map(|b| (b.inserts.len(), b.upserts.len(), b.refetches.len(), b.deletes.len()))
            .collect();
        assert_eq!(shapes, [(2, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 0, 0, 0)]);
        let filtered = runs(operations, true);
        assert_eq!(filtered.first().unwrap().refetches, [id(1), id(2)]);
    }

    #[test]
    fn a_full_capped_collection_is_written_in_few_runs() {
        use Operation as O;
        let insert = |n| O::Insert(id(n), body(n, "a"));
        let turns = (3..8).flat_map(|n| [insert(n), O::Delete(id(n - 2))]);
        let found = runs(turns.chain([insert(1)]).collect(), false);
        let ids = |list: &[RawDocumentBuf]| -> Vec<i32> {
            list.iter().map(|document| document.get_i32("_id").unwrap()).collect()
        };
        let found: Vec<_> = found.iter().map(|b| (ids(&b.inserts), ids(&b.deletes))).collect();
        assert_eq!(found, [(vec![6, 7], vec![3, 1, 4, 2, 5]), (vec![1], vec![])]);
    }

    #[test]
    fn a_filtered_collection_is_always_looked_at_again() {
        let operations = vec![
            Operation::Insert(id(1), body(1, "a")),
            Operation::Replace(id(2), body(2, "a")),
            Operation::Delete(id(3)),
        ];
        let bulk = fold(operations, true);
        assert_eq!((bulk.refetches.len(), bulk.deletes.len()), (2, 1));
        assert!(bulk.inserts.is_empty() && bulk.upserts.is_empty());
    }
}
