//! Both sides of one collection: compared range by range, and `_id` by `_id`.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Uuid};
use tokio::time::Instant;

use super::{
    MOST_SUSPECTS,
    merge::{Budget, Scanned, Side, Sieve, id_document, merge},
};
use crate::{
    engine::filter::Chain,
    error::{Error, Kind, Result},
    model::{
        Batch, ClusterTime, Namespace,
        order::canonical_id,
        verification::{Mismatch, MismatchKind},
    },
    ports::{Bounds, Destination, Fetched, ReadBack, ReadRequest, Source},
};

/// Data per batch of a scan.
const BATCH_BYTES: u64 = 2 * 1024 * 1024;
/// Documents per batch of a scan at most.
const BATCH_DOCUMENTS: u64 = 20_000;
/// Scans of one collection that break before giving up.
const ATTEMPTS: usize = 5;
/// Documents looked up at once at most.
pub(super) const LOOKUP: usize = 1_000;

/// How a collection can be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// By the index on `_id`, within bounds.
    Index,
    /// As stored, which is by `_id`: clustered collections.
    Storage,
    /// Each document is looked up on the other side: under a collation of its own, the order of
    /// `_id` is not ours.
    Lookup,
}

/// Where a collection is on both sides.
pub(super) struct Target {
    /// Name on the source.
    pub(super) source: Namespace,
    /// UUID on the source.
    pub(super) uuid: Uuid,
    /// Name on the destination.
    pub(super) destination: Namespace,
    /// How to walk it.
    pub(super) walk: Walk,
    /// Whether documents vanish from it without an event: capped collections. The destination
    /// does the same, but not at the same moment, so what is there in addition says nothing.
    pub(super) is_capped: bool,
    /// What its documents go through.
    pub(super) chain: Option<Arc<Chain>>,
    /// Average size of a document in bytes.
    pub(super) average: u64,
}

impl Target {
    /// Documents per answer of a scan.
    fn batch_count(&self) -> u32 {
        let count = (BATCH_BYTES / self.average.max(1)).clamp(1, BATCH_DOCUMENTS);
        u32::try_from(count).unwrap_or(1)
    }
}

/// The two clusters.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    /// The cluster that is right.
    pub(super) source: &'a dyn Source,
    /// The cluster that is compared with it.
    pub(super) destination: &'a dyn Destination,
}

impl Pair<'_> {
    /// Compares a range. `None` when the source has no collection of that name and UUID.
    ///
    /// # Errors
    /// `TransientNetwork` when a scan broke; those of the ports and of the filters.
    pub(super) async fn scan(
        &self,
        target: &Target,
        bounds: &Bounds,
        after: ClusterTime,
        budget: Budget,
    ) -> Result<Option<Scanned>> {
        let mut found = Scanned::new(budget.suspects);
        let natural_order = target.walk != Walk::Index;
        let request = ReadRequest {
            namespace: target.source.clone(),
            uuid: target.uuid,
            bounds: bounds.clone(),
            after,
            natural_order,
            batch_count: target.batch_count(),
        };
        let read_back = ReadBack {
            namespace: target.destination.clone(),
            bounds: bounds.clone(),
            natural_order,
            batch_count: target.batch_count(),
        };
        let Some(source) = self.source.read(request).await? else { return Ok(None) };
        let withheld = Arc::new(AtomicU64::new(0));
        let sieve = target.chain.clone().map(|chain| {
            let (namespace, withheld) = (target.source.clone(), Arc::clone(&withheld));
            Sieve { chain, namespace, withheld }
        });
        let mut source = Side::new(source, sieve);
        let destination = self.destination.read(read_back).await?;
        let mut destination = destination.map(|reader| Side::new(reader, None));
        if target.walk != Walk::Lookup
            && let Some(destination) = destination
        {
            // Only a walk by the index can begin in the middle.
            let until = budget.until.filter(|_| target.walk == Walk::Index);
            merge(source, destination, until, &mut found).await?;
            found.next.take_if(|_| target.walk != Walk::Index);
            found.withheld = withheld.load(Relaxed);
            return Ok(Some(found));
        }
        while !found.is_cut
            && let Some(batch) = source.next().await?
        {
            found.source_documents += u64::try_from(batch.count()).unwrap_or(0);
            if !self.look_up(target, &batch, after, &mut found).await? {
                return Ok(None);
            }
        }
        while let (Some(side), false) = (&mut destination, found.is_cut)
            && let Some(batch) = side.next().await?
        {
            found.destination_documents += u64::try_from(batch.count()).unwrap_or(0);
            if !self.look_up(target, &batch, after, &mut found).await? {
                return Ok(None);
            }
        }
        found.withheld = withheld.load(Relaxed);
        Ok(Some(found))
    }

    /// Compares a collection from some `_id` on with what is on the source at `after` or later, for so long at
    /// most if it can go on later. What differs is compared again after each of the pauses, in milliseconds, and
    /// only what differs every time is told.
    ///
    /// # Errors
    /// Those of the ports and of the filters.
    pub(super) async fn compare(
        &self,
        target: &Target,
        from: Option<RawDocumentBuf>,
        after: ClusterTime,
        pauses: &[u64],
        most: Option<Duration>,
    ) -> Result<Compared> {
        let bounds = Bounds { lower: from, ..Bounds::default() };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let until = most.map(|most| Instant::now() + most);
            let budget = Budget { suspects: MOST_SUSPECTS, until };
            let scanned = self.scan(target, &bounds, after, budget).await;
            let found = match scanned {
                Ok(Some(found)) => found,
                // Dropped or renamed meanwhile: nothing to compare it with.
                Ok(None) => return Ok(Compared::default()),
                Err(error) if error.is_transient() && attempt < ATTEMPTS => continue,
                Err(error) => return Err(error),
            };
            let mut suspects = found.suspects;
            let mut differing = Vec::new();
            for pause in pauses {
                if suspects.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(*pause)).await;
                differing.clear();
                for ids in suspects.chunks(LOOKUP) {
                    let checked = self.check(target, ids, after).await?;
                    differing.extend(checked.unwrap_or_default());
                }
                suspects = differing.iter().map(|(id, _)| id.clone()).collect();
            }
            if suspects.is_empty() {
                differing.clear();
            }
            // A scan that ended early for nothing has not seen everything.
            let is_cut = found.is_cut && found.next.is_none();
            if is_cut && differing.is_empty() && attempt < ATTEMPTS {
                continue;
            }
            let documents = (found.source_documents, found.destination_documents);
            let (withheld, next) = (found.withheld, found.next);
            return Ok(Compared { differing, documents, withheld, is_cut, next });
        }
    }

    /// Looks a batch up on both sides; false when the source has no such collection any more.
    async fn look_up(
        &self,
        target: &Target,
        batch: &Batch,
        after: ClusterTime,
        found: &mut Scanned,
    ) -> Result<bool> {
        let mut ids = Vec::with_capacity(batch.count());
        for document in batch.documents() {
            ids.push(id_document(document?));
        }
        for part in ids.chunks(LOOKUP) {
            match self.check(target, part, after).await? {
                None => return Ok(false),
                Some(differing) => differing.iter().for_each(|(id, _)| found.suspect(id)),
            }
            if found.is_full() {
                found.is_cut = true;
                break;
            }
        }
        Ok(true)
    }

    /// Compares documents by `_id` and returns those that are not equal. `None` when the source
    /// has no such collection any more.
    ///
    /// # Errors
    /// Those of the ports and of the filters.
    pub(super) async fn check(
        &self,
        target: &Target,
        ids: &[RawDocumentBuf],
        after: ClusterTime,
    ) -> Result<Option<Vec<(RawDocumentBuf, MismatchKind)>>> {
        let mut differing = Vec::new();
        let mut wanted: Vec<RawDocumentBuf> = ids.to_vec();
        while !wanted.is_empty() {
            let fetched = self.source.fetch(&target.source, target.uuid, &wanted, after).await?;
            let Some((found, mut asked, left)) = answered(fetched, wanted)? else {
                return Ok(None);
            };
            let kept = match &target.chain {
                None => found,
                Some(chain) => chain.apply(&target.source, found).await?.kept,
            };
            let ours = by_id(&kept)?;
            while !asked.is_empty() {
                let fetched = self.destination.fetch(&target.destination, &asked).await?;
                let nothing = (Batch::from_documents(Vec::<RawDocumentBuf>::new()), Vec::new());
                let (present, settled, open) = match answered(fetched, asked.clone())? {
                    Some(answer) => answer,
                    None => (nothing.0, asked, nothing.1),
                };
                let theirs = by_id(&present)?;
                for id in settled {
                    let key = canonical_id(&id);
                    let kind = difference(ours.get(&key).copied(), theirs.get(&key).copied());
                    if let Some(kind) = kind
                        && !(target.is_capped && kind == MismatchKind::Extra)
                    {
                        differing.push((id, kind));
                    }
                }
                asked = open;
            }
            wanted = left;
        }
        Ok(Some(differing))
    }
}

/// What the comparison of a collection found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Documents that differ.
    pub(super) differing: Vec<(RawDocumentBuf, MismatchKind)>,
    /// Documents of both sides that were seen.
    pub(super) documents: (u64, u64),
    /// Documents of the source that could not pass their filters.
    pub(super) withheld: u64,
    /// Whether there was too much that seemed to differ: what comes after it was not looked at.
    pub(super) is_cut: bool,
    /// `{_id: …}` of where to go on, when it was not compared to its end.
    pub(super) next: Option<RawDocumentBuf>,
}

impl Compared {
    /// What differs, as it is listed.
    pub(super) fn mismatches(self, target: &Target) -> impl Iterator<Item = Mismatch> {
        self.differing.into_iter().map(|(id, kind)| Mismatch {
            namespace: target.destination.to_string(),
            kind,
            id: Some(id),
            detail: None,
        })
    }
}

/// What a fetch found, which of the asked ids that settles, and which are to be asked for again.
/// `None` when the collection is gone.
type Answer = Option<(Batch, Vec<RawDocumentBuf>, Vec<RawDocumentBuf>)>;

/// Reads an answer of a fetch.
fn answered(fetched: Fetched, asked: Vec<RawDocumentBuf>) -> Result<Answer> {
    match fetched {
        Fetched::CollectionGone => Ok(None),
        Fetched::Documents { found, complete: true } => Ok(Some((found, asked, Vec::new()))),
        Fetched::Documents { found, complete: false } => {
            let known = by_id(&found)?;
            let (settled, left): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|id| known.contains_key(&canonical_id(id)));
            if settled.is_empty() {
                return Err(Error::new(
                    Kind::ReadFailed,
                    "an answer without documents claims that there are more",
                ));
            }
            Ok(Some((found, settled, left)))
        }
    }
}

/// Documents by the canonical form of their `_id`.
fn by_id(batch: &Batch) -> Result<HashMap<Vec<u8>, &RawDocument>> {
    batch.documents().map(|document| document.map(|d| (canonical_id(d), d))).collect()
}

/// How a document on the destination is not the one that should be there.
fn difference(wanted: Option<&RawDocument>, present: Option<&RawDocument>) -> Option<MismatchKind> {
    match (wanted, present) {
        (None, None) => None,
        (Some(_), None) => Some(MismatchKind::Missing),
        (None, Some(_)) => Some(MismatchKind::Extra),
        (Some(a), Some(b)) if a.as_bytes() == b.as_bytes() => None,
        (Some(a), Some(b)) if same_fields(a, b) => Some(MismatchKind::FieldOrder),
        _ => Some(MismatchKind::Different),
    }
}

/// Whether two documents have the same fields in whatever order, at every depth.
pub(super) fn same_fields(left: &RawDocument, right: &RawDocument) -> bool {
    let sorted = |document: &RawDocument| {
        let mut names: Vec<String> =
            document.iter().flatten().map(|(name, _)| name.as_str().to_owned()).collect();
        names.sort();
        names
    };
    // A name that is there twice makes "the same field" meaningless.
    let names = sorted(left);
    names.windows(2).all(|pair| pair.first() != pair.last())
        && names == sorted(right)
        && left.iter().flatten().all(|(name, value)| {
            right.get(name.as_str()).is_ok_and(|other| other.is_some_and(|o| same(value, o)))
        })
}

/// Whether two values are the same but for the order of fields.
fn same(left: RawBsonRef<'_>, right: RawBsonRef<'_>) -> bool {
    match (left, right) {
        (RawBsonRef::Document(a), RawBsonRef::Document(b)) => same_fields(a, b),
        (RawBsonRef::Array(a), RawBsonRef::Array(b)) => {
            let (mut a, mut b) = (a.into_iter(), b.into_iter());
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return true,
                    (Some(Ok(x)), Some(Ok(y))) if same(x, y) => {}
                    _ => return false,
                }
            }
        }
        (a, b) => bytes_of(a) == bytes_of(b),
    }
}

/// A value as it is stored.
fn bytes_of(value: RawBsonRef<'_>) -> Vec<u8> {
    let mut document = RawDocumentBuf::new();
    document.append(bson::cstr!(""), value);
    document.into_bytes()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn kinds_of_difference_are_told_apart() {
        let wanted = rawdoc! { "_id": 1, "a": { "x": 1, "y": [1, { "p": 1, "q": 2 }] }, "b": 1 };
        let moved = rawdoc! { "_id": 1, "b": 1, "a": { "y": [1, { "q": 2, "p": 1 }], "x": 1 } };
        let typed = rawdoc! { "_id": 1, "a": { "x": 1, "y": [1, { "p": 1, "q": 2 }] }, "b": 1i64 };
        let swapped = rawdoc! { "_id": 1, "a": { "x": 1, "y": [{ "p": 1, "q": 2 }, 1] }, "b": 1 };
        let kind = |present| difference(Some(&wanted), Some(present));
        assert_eq!(kind(&wanted), None);
        assert_eq!(kind(&moved), Some(MismatchKind::FieldOrder));
        assert_eq!(kind(&typed), Some(MismatchKind::Different));
        assert_eq!(kind(&swapped), Some(MismatchKind::Different));
        assert_eq!(difference(Some(&wanted), None), Some(MismatchKind::Missing));
        assert_eq!(difference(None, Some(&wanted)), Some(MismatchKind::Extra));
    }
}
