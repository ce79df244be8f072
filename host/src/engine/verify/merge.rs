//! Two scans in `_id` order, walked side by side.
//!
//! What is equal byte by byte is passed over; every `_id` that is not is a *suspect*, to be looked
//! at again. So an order that the server and we see differently costs a second look, never a
//! mismatch that stays unseen.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bson::{RawDocument, RawDocumentBuf};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    engine::filter::Chain,
    error::Result,
    model::{
        Batch, Namespace,
        order::{canonical_id, compare_ids, id_of},
    },
    ports::BatchReader,
    tasks::TaskSet,
};

/// Where a scan ends that has not come to the end of its range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Suspects that are remembered, about.
    pub(super) suspects: usize,
    /// When it ends, as soon as it has come any further.
    pub(super) until: Option<Instant>,
}

/// Batches of one side that wait to be compared, beside the one that is being read.
const READ_AHEAD: usize = 1;

/// What a scan of a range found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// `{_id: …}` of what is not equal on both sides.
    pub(super) suspects: Vec<RawDocumentBuf>,
    /// Suspects at which the scan ends.
    most: usize,
    /// Whether the scan ended before the end of its range.
    pub(super) is_cut: bool,
    /// `{_id: …}` of where to go on, if it can be said: everything before is compared.
    pub(super) next: Option<RawDocumentBuf>,
    /// Documents that the source's side held, after the filters.
    pub(super) source_documents: u64,
    /// Documents that the destination's side held.
    pub(super) destination_documents: u64,
    /// Documents of the source that could not pass their filters.
    pub(super) withheld: u64,
}

impl Scanned {
    /// Nothing yet; to end at `most` suspects.
    pub(super) fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// Adds a suspect.
    pub(super) fn suspect(&mut self, document: &RawDocument) {
        self.suspects.push(id_document(document));
    }

    /// Whether there are as many suspects as are remembered.
    pub(super) fn is_full(&self) -> bool {
        self.suspects.len() >= self.most
    }
}

/// `{_id: …}` of a document.
pub(super) fn id_document(document: &RawDocument) -> RawDocumentBuf {
    let mut id = RawDocumentBuf::new();
    id.append(bson::cstr!("_id"), id_of(document));
    id
}

/// What the documents of the source go through on their way to be compared.
pub(super) struct Sieve {
    /// The filters.
    pub(super) chain: Arc<Chain>,
    /// Where the documents come from.
    pub(super) namespace: Namespace,
    /// How many could not pass, which is why they are rightly absent.
    pub(super) withheld: Arc<AtomicU64>,
}

impl Sieve {
    /// What is to be on the other side.
    async fn apply(&self, batch: Batch) -> Result<Batch> {
        let filtered = self.chain.apply(&self.namespace, batch).await?;
        let count = u64::try_from(filtered.withheld.len()).unwrap_or(u64::MAX);
        self.withheld.fetch_add(count, Relaxed);
        Ok(filtered.kept)
    }
}

/// One side, read ahead by a task of its own.
pub(super) struct Side {
    /// Its answers.
    answers: mpsc::Receiver<Result<Option<Batch>>>,
    /// The task.
    _reading: TaskSet,
    /// The present batch; `None` before the first and after the last.
    batch: Option<Batch>,
    /// Documents of it that are compared.
    passed: usize,
}

impl Side {
    /// Begins to read; documents go through the chain if there is one.
    pub(super) fn new(reader: Box<dyn BatchReader>, chain: Option<Sieve>) -> Self {
        let (sender, answers) = mpsc::channel(READ_AHEAD);
        let mut reading = TaskSet::new();
        reading.spawn("verify-reader", read_ahead(reader, chain, sender));
        Self { answers, _reading: reading, batch: None, passed: 0 }
    }

    /// The next batch as it comes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>> {
        self.answers.recv().await.unwrap_or(Ok(None))
    }

    /// Makes sure that there is something to compare; false at the end.
    async fn fill(&mut self) -> Result<bool> {
        while self.batch.as_ref().is_none_or(|batch| self.passed >= batch.count()) {
            self.passed = 0;
            self.batch = self.next().await?;
            if self.batch.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What is compared next, after a [`Self::fill`].
    fn head(&self) -> Result<Option<&RawDocument>> {
        let batch = self.batch.as_ref();
        batch.and_then(|batch| batch.documents().nth(self.passed)).transpose()
    }
}

/// Reads batches until the end, an error, or nobody wants them.
async fn read_ahead(
    mut reader: Box<dyn BatchReader>,
    chain: Option<Sieve>,
    answers: mpsc::Sender<Result<Option<Batch>>>,
) -> Result<()> {
    loop {
        let answer = match (reader.next().await, &chain) {
            (Ok(Some(batch)), Some(sieve)) => sieve.apply(batch).await.map(Some),
            (answer, _) => answer,
        };
        let is_last = !matches!(answer, Ok(Some(_)));
        if answers.send(answer).await.is_err() || is_last {
            return Ok(());
        }
    }
}

/// Walks both sides to their ends, until there are too many suspects, or until time is up.
///
/// # Errors
/// Those of the scans.
pub(super) async fn merge(
    mut source: Side,
    mut destination: Side,
    until: Option<Instant>,
    found: &mut Scanned,
) -> Result<()> {
    let mut is_over = false;
    loop {
        let (left, right) = tokio::join!(source.fill(), destination.fill());
        let (left, right) = (left?, right?);
        if is_over {
            let heads = [source.head()?, destination.head()?];
            let first = heads.into_iter().flatten().min_by(|a, b| compare_ids(a, b));
            found.next = first.map(id_document);
            found.is_cut = found.next.is_some();
            return Ok(());
        }
        let passed = match (&source.batch, &destination.batch) {
            (Some(batch), Some(other)) if left && right => {
                step((batch, source.passed), (other, destination.passed), found)?
            }
            (Some(batch), _) if left => (rest(batch, source.passed, found)?, 0),
            (_, Some(other)) if right => (0, rest(other, destination.passed, found)?),
            _ => return Ok(()),
        };
        source.passed += passed.0;
        destination.passed += passed.1;
        found.source_documents += u64::try_from(passed.0).unwrap_or(0);
        found.destination_documents += u64::try_from(passed.1).unwrap_or(0);
        is_over = found.is_full() || until.is_some_and(|until| Instant::now() >= until);
    }
}

/// Compares what is left of two batches until one of them ends or there are too many suspects. Returns
/// how many of each are passed.
fn step(
    (source, source_from): (&Batch, usize),
    (destination, destination_from): (&Batch, usize),
    found: &mut Scanned,
) -> Result<(usize, usize)> {
    let mut left = source.documents().skip(source_from);
    let mut right = destination.documents().skip(destination_from);
    let (mut ours, mut theirs) = (left.next().transpose()?, right.next().transpose()?);
    let mut passed = (0, 0);
    while let (Some(wanted), Some(present), false) = (ours, theirs, found.is_full()) {
        let order = if wanted.as_bytes() == present.as_bytes() {
            Ordering::Equal
        } else {
            let order = compare_ids(wanted, present);
            if order != Ordering::Greater {
                found.suspect(wanted);
            }
            // Equal in our order, and yet perhaps two: then both are looked at.
            if order == Ordering::Greater
                || (order == Ordering::Equal && canonical_id(wanted) != canonical_id(present))
            {
                found.suspect(present);
            }
            order
        };
        if order != Ordering::Greater {
            passed.0 += 1;
            ours = left.next().transpose()?;
        }
        if order != Ordering::Less {
            passed.1 += 1;
            theirs = right.next().transpose()?;
        }
    }
    Ok(passed)
}

/// The other side has ended: everything left is a suspect, as long as there is room.
fn rest(batch: &Batch, from: usize, found: &mut Scanned) -> Result<usize> {
    let mut passed = 0;
    for document in batch.documents().skip(from) {
        if found.is_full() {
            break;
        }
        found.suspect(document?);
        passed += 1;
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bson::rawdoc;

    use super::*;

    /// Batches from memory.
    struct Batches(Vec<Vec<RawDocumentBuf>>);

    #[async_trait]
    impl BatchReader for Batches {
        async fn next(&mut self) -> Result<Option<Batch>> {
            if self.0.is_empty() {
                return Ok(None);
            }
            Ok(Some(Batch::from_documents(self.0.remove(0))))
        }
    }

    /// A side of documents cut into batches of so many.
    fn side(documents: &[RawDocumentBuf], cut: usize) -> Side {
        let batches = documents.chunks(cut).map(<[_]>::to_vec).collect();
        Side::new(Box::new(Batches(batches)), None)
    }

    #[tokio::test]
    async fn every_difference_is_a_suspect_wherever_batches_are_cut() {
        let with = |id: i32, v: i32| rawdoc! { "_id": id, "v": v };
        let source: Vec<_> = (0..20).filter(|id| *id != 7).map(|id| with(id, 0)).collect();
        let destination: Vec<_> =
            (0..22).filter(|id| *id != 3).map(|id| with(id, i32::from(id == 11))).collect();
        for (a, b) in [(1, 1), (2, 5), (5, 2), (30, 30), (1, 30)] {
            let mut found = Scanned::new(100);
            merge(side(&source, a), side(&destination, b), None, &mut found).await.unwrap();
            let ids: Vec<i32> =
                found.suspects.iter().map(|id| id.get_i32("_id").unwrap()).collect();
            assert_eq!(ids, [3, 7, 11, 20, 21], "batches of {a} and {b}");
            assert_eq!((found.source_documents, found.destination_documents), (19, 21));
            assert!(!found.is_cut);
        }
    }

    #[tokio::test]
    async fn equal_numbers_of_two_types_and_another_order_of_fields_are_suspects() {
        let source = [rawdoc! { "_id": 1 }, rawdoc! { "_id": 2, "a": 1, "b": 2 }];
        let destination = [rawdoc! { "_id": 1i64 }, rawdoc! { "_id": 2, "b": 2, "a": 1 }];
        let mut found = Scanned::new(100);
        merge(side(&source, 1), side(&destination, 2), None, &mut found).await.unwrap();
        assert_eq!(found.suspects, [rawdoc! { "_id": 1 }, rawdoc! { "_id": 2 }]);
    }

    #[tokio::test]
    async fn suspects_are_bounded() {
        let source: Vec<_> = (0..50).map(|id| rawdoc! { "_id": id }).collect();
        let mut found = Scanned::new(10);
        merge(side(&source, 5), side(&[], 5), None, &mut found).await.unwrap();
        assert_eq!(found.suspects.len(), 10);
        assert!(found.is_cut);
        assert_eq!(found.next, Some(rawdoc! { "_id": 10 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_that_ended_goes_on_where_it_was() {
        let with = |id: i32, v: i32| rawdoc! { "_id": id, "v": v };
        let source: Vec<_> = (0..40).filter(|id| id % 9 != 0).map(|id| with(id, 0)).collect();
        let destination: Vec<_> = (3..44).map(|id| with(id, i32::from(id % 7 == 0))).collect();
        let wrong = [1, 2, 7, 9, 14, 18, 21, 27, 28, 35, 36, 40, 41, 42, 43];
        for (most, cut) in [(1, 1), (2, 3), (3, 2), (100, 5)] {
            let (mut seen, mut from) = (Vec::new(), 0);
            let mut passed = (0, 0);
            loop {
                let rest = |all: &[RawDocumentBuf]| {
                    let keep = |d: &&RawDocumentBuf| d.get_i32("_id").unwrap() >= from;
                    all.iter().filter(keep).cloned().collect::<Vec<_>>()
                };
                let mut found = Scanned::new(most);
                let until = Some(Instant::now());
                let (left, right) = (side(&rest(&source), cut), side(&rest(&destination), 4));
                merge(left, right, until, &mut found).await.unwrap();
                seen.extend(found.suspects.iter().map(|id| id.get_i32("_id").unwrap()));
                passed.0 += found.source_documents;
                passed.1 += found.destination_documents;
                let Some(next) = found.next else { break };
                from = next.get_i32("_id").unwrap();
            }
            assert_eq!(seen, wrong, "{most} suspects, batches of {cut}");
            assert_eq!(passed, (35, 41), "nothing is passed twice");
        }
    }
}
