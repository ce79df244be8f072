//! The documents of one collection, with every version of each, in `_id` order and in the order
//! of storage.

use std::cmp::Ordering;

use bson::{RawDocument, RawDocumentBuf};
use syncline::{
    model::{ClusterTime, order::compare_ids},
    ports::Bounds,
};

/// A state of a document.
#[derive(Debug, Clone)]
struct Version {
    /// Since when.
    time: ClusterTime,
    /// Place in the order of storage; a document keeps it until it is deleted.
    record: u64,
    /// The document; `None` when it was deleted.
    document: Option<RawDocumentBuf>,
}

/// Every version of what had one `_id`.
#[derive(Debug, Clone)]
struct Slot {
    /// `{_id: …}` as it was first seen; equal ids of other types come here too.
    id: RawDocumentBuf,
    /// Oldest first.
    versions: Vec<Version>,
}

impl Slot {
    /// The state at a time.
    fn at(&self, time: ClusterTime) -> Option<(u64, &RawDocumentBuf)> {
        let version = self.versions.iter().rev().find(|version| version.time <= time)?;
        version.document.as_ref().map(|document| (version.record, document))
    }

    /// The present state.
    fn present(&self) -> Option<(u64, &RawDocumentBuf)> {
        let version = self.versions.last()?;
        version.document.as_ref().map(|document| (version.record, document))
    }
}

/// Documents with their history.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// In `_id` order.
    slots: Vec<Slot>,
    /// The next place in the order of storage.
    next_record: u64,
}

/// `{_id: …}` of a document.
pub fn id_of(document: &RawDocument) -> RawDocumentBuf {
    let mut id = RawDocumentBuf::new();
    id.append(bson::cstr!("_id"), syncline::model::order::id_of(document));
    id
}

/// Whether an `_id` is in a range.
pub fn is_within(bounds: &Bounds, id: &RawDocument) -> bool {
    bounds.lower.as_ref().is_none_or(|lower| compare_ids(lower, id) != Ordering::Greater)
        && bounds.upper.as_ref().is_none_or(|upper| compare_ids(upper, id) == Ordering::Greater)
}

/// The place of a scan.
#[derive(Debug, Clone)]
pub enum Cursor {
    /// Behind this `_id`.
    Id(Option<RawDocumentBuf>),
    /// Behind this place of storage.
    Record(Option<u64>),
}

impl Documents {
    /// The slot of an `_id`.
    fn find(&self, id: &RawDocument) -> Result<usize, usize> {
        self.slots.binary_search_by(|slot| compare_ids(&slot.id, id))
    }

    /// The present document with an `_id`.
    pub fn get(&self, id: &RawDocument) -> Option<&RawDocumentBuf> {
        self.slots[self.find(id).ok()?].present().map(|(_, document)| document)
    }

    /// The document with an `_id` at a time.
    pub fn get_at(&self, id: &RawDocument, time: ClusterTime) -> Option<&RawDocumentBuf> {
        self.slots[self.find(id).ok()?].at(time).map(|(_, document)| document)
    }

    /// Every `_id` with the states it had from its last change before `end` on, that one first; ids
    /// that first came later are left out.
    pub fn states_since(
        &self,
        end: impl Fn(ClusterTime) -> bool,
    ) -> impl Iterator<Item = (&RawDocumentBuf, Vec<Option<&RawDocumentBuf>>)> {
        self.slots.iter().filter_map(move |slot| {
            let last = slot.versions.iter().rposition(|version| end(version.time))?;
            let states = slot.versions[last..].iter().map(|v| v.document.as_ref()).collect();
            Some((&slot.id, states))
        })
    }

    /// Writes a document, or its deletion.
    pub fn put(&mut self, id: &RawDocument, document: Option<RawDocumentBuf>, time: ClusterTime) {
        let place = match self.find(id) {
            Ok(place) => place,
            Err(place) => {
                self.slots.insert(place, Slot { id: id_of(id), versions: Vec::new() });
                place
            }
        };
        let record = match self.slots[place].present() {
            Some((record, _)) => record,
            None => {
                self.next_record += 1;
                self.next_record
            }
        };
        self.slots[place].versions.push(Version { time, record, document });
    }

    /// Every state of the document with an `_id`, oldest first.
    pub fn history(&self, id: &RawDocument) -> Vec<Option<&RawDocumentBuf>> {
        let slot = self.find(id).ok().and_then(|place| self.slots.get(place));
        slot.into_iter().flat_map(|s| &s.versions).map(|v| v.document.as_ref()).collect()
    }

    /// Forgets the past.
    pub fn forget(&mut self) {
        self.slots.retain(|slot| slot.present().is_some());
        for slot in &mut self.slots {
            slot.versions.drain(..slot.versions.len() - 1);
        }
    }

    /// Present documents in `_id` order.
    pub fn iter(&self) -> impl Iterator<Item = &RawDocumentBuf> {
        self.slots.iter().filter_map(|slot| slot.present().map(|(_, document)| document))
    }

    /// Present documents in the order of storage.
    pub fn in_storage_order(&self) -> Vec<RawDocumentBuf> {
        let mut all: Vec<_> = self.slots.iter().filter_map(Slot::present).collect();
        all.sort_by_key(|(record, _)| *record);
        all.into_iter().map(|(_, document)| document.clone()).collect()
    }

    /// The next documents of a scan as a snapshot of `time` shows them.
    pub fn scan(
        &self,
        cursor: &mut Cursor,
        bounds: &Bounds,
        time: ClusterTime,
        count: usize,
    ) -> Vec<RawDocumentBuf> {
        let seen = self.slots.iter().filter_map(|slot| slot.at(time).map(|s| (&slot.id, s)));
        match cursor {
            Cursor::Id(last) => {
                let found: Vec<RawDocumentBuf> = seen
                    .filter(|(id, _)| is_within(bounds, id))
                    .filter(|(id, _)| {
                        last.as_ref().is_none_or(|last| compare_ids(last, id) == Ordering::Less)
                    })
                    .take(count)
                    .map(|(_, (_, document))| document.clone())
                    .collect();
                if let Some(document) = found.last() {
                    *last = Some(id_of(document));
                }
                found
            }
            Cursor::Record(last) => {
                let mut found: Vec<(u64, &RawDocumentBuf)> = seen
                    .map(|(_, state)| state)
                    .filter(|(record, _)| last.is_none_or(|last| *record > last))
                    .collect();
                found.sort_by_key(|(record, _)| *record);
                found.truncate(count);
                if let Some((record, _)) = found.last() {
                    *last = Some(*record);
                }
                found.into_iter().map(|(_, document)| document.clone()).collect()
            }
        }
    }
}
