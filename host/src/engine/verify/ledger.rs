//! What is compared and what is not: partitions, ids that events have touched, and mismatches.
//!
//! ```text
//! partition:  waiting ──claim──▶ scanning ──▶ done ──too many ids──▶ waiting
//!                                 │    ▲
//!                                 ▼    └──claim
//!                               begun: the rest is scanned later
//! id:         young ──generation──▶ ripe ──claim──▶ compared ─┬─ equal: forgotten
//!               ▲                                             ├─ differs: young again
//!               └── touched by an event ◀── listed ◀──────────┘  the second time, untouched: listed
//! ```
//!
//! A *generation* is compared once everything that touched its ids is on the destination. An id
//! that differs there is a mismatch only if no event touches it up to a note in the oplog written
//! after it was read: then nothing that was under way can explain the difference. As long as
//! events go on touching it, it is only compared again.
//!
//! Invariant: nothing here waits; ids are bounded, past the bound their partition is scanned again.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    time::Duration,
};

use bson::{RawDocumentBuf, Uuid};
use tokio::time::Instant;

use super::merge::Scanned;
use crate::{
    model::{
        ClusterTime,
        order::{canonical_id, compare_ids},
        verification::{Mismatch, MismatchKind, VerificationPhase, VerificationProgress},
    },
    ports::Bounds,
};

/// How long a scan that could not be done waits.
const RETRY_SCAN: Duration = Duration::from_secs(1);
/// How often what is listed is compared again.
const RECHECK: Duration = Duration::from_secs(5);
/// Ids of one comparison.
const CHECK_IDS: usize = 1_000;
/// An id longer than this, in bytes, counts as several.
const ID_BYTES: usize = 256;

/// How far a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// To be scanned; events need not be remembered.
    Waiting,
    /// Scanned in part: what events touch there is compared, the rest is to be scanned.
    Begun,
    /// A worker is on it.
    Scanning,
    /// Scanned; what events touch is compared.
    Done,
}

/// A partition.
#[derive(Debug)]
struct Part {
    /// Its range.
    bounds: Bounds,
    /// How far it is.
    pass: Pass,
    /// Whether the store says that it is compared and nothing is open.
    saved: bool,
    /// Ids of it that are to be compared.
    open: usize,
    /// Mismatches, by the canonical form of the id.
    listed: HashMap<Vec<u8>, (RawDocumentBuf, MismatchKind)>,
    /// `{_id: …}` up to which it is scanned, when it is in part.
    from: Option<RawDocumentBuf>,
    /// Not to be scanned before.
    not_before: Option<Instant>,
    /// Documents of both sides that the last scan saw.
    documents: (u64, u64),
    /// Scans begun, to tell an old one's result from the present one's.
    attempts: u64,
}

impl Part {
    /// A partition that is to be scanned, or is done already.
    fn new(bounds: Bounds, pass: Pass, saved: bool) -> Self {
        Self {
            bounds,
            pass,
            saved,
            open: 0,
            listed: HashMap::new(),
            from: None,
            not_before: None,
            documents: (0, 0),
            attempts: 0,
        }
    }

    /// Whether everything in it is compared and equal.
    fn is_clean(&self) -> bool {
        self.pass == Pass::Done && self.open == 0 && self.listed.is_empty()
    }
}

/// A collection.
#[derive(Debug, Default)]
struct Collection {
    /// Its partitions in `_id` order.
    parts: Vec<Part>,
    /// Changes of its shape so far.
    epoch: u64,
    /// Whether its shape is being changed.
    is_changing: bool,
}

impl Collection {
    /// The partition of an id.
    fn find(&self, id: &RawDocumentBuf) -> usize {
        let after = self.parts.partition_point(|part| match &part.bounds.lower {
            None => true,
            Some(lower) => compare_ids(lower, id) != Ordering::Greater,
        });
        after.saturating_sub(1)
    }
}

/// An id that is to be compared.
#[derive(Debug, Clone)]
struct Item {
    /// `{_id: …}`
    id: RawDocumentBuf,
    /// Its partition.
    part: usize,
    /// When it was last touched; zero for one that a scan found, or that was listed.
    since: ClusterTime,
    /// Whether an event has touched it since it was last read.
    is_touched: bool,
    /// It differed when it was last read, in this epoch of its collection.
    differed: Option<u64>,
}

impl Item {
    /// As how many ids it counts.
    fn weight(&self) -> usize {
        1 + self.id.as_bytes().len() / ID_BYTES
    }
}

/// Ids that are compared together.
#[derive(Debug, Default)]
struct Generation {
    /// By collection and canonical form.
    items: HashMap<Uuid, HashMap<Vec<u8>, Item>>,
    /// To be compared when everything up to here is applied.
    time: ClusterTime,
    /// Whether it waits for a note in the oplog first.
    needs_note: bool,
}

impl Generation {
    /// The oldest of its items.
    fn oldest(&self) -> Option<ClusterTime> {
        self.items.values().flat_map(HashMap::values).map(|item| item.since).min()
    }
}

/// An id in a comparison.
#[derive(Debug)]
pub(super) struct Asked {
    /// The id.
    item: Item,
    /// Its canonical form.
    key: Vec<u8>,
    /// Whether it is a mismatch if it differs again.
    is_settled: bool,
}

/// Ids of one collection that are to be compared now.
#[derive(Debug)]
pub(super) struct Check {
    /// The collection.
    pub(super) uuid: Uuid,
    /// The ids.
    asked: Vec<Asked>,
    /// The collection's epoch; `None` while its shape is being changed.
    epoch: Option<u64>,
}

impl Check {
    /// The ids as they are asked for.
    pub(super) fn ids(&self) -> Vec<RawDocumentBuf> {
        self.asked.iter().map(|asked| asked.item.id.clone()).collect()
    }
}

/// A partition that is to be scanned.
#[derive(Debug)]
pub(super) struct Scan {
    /// The collection.
    pub(super) uuid: Uuid,
    /// Position of the partition.
    pub(super) index: usize,
    /// Its range.
    pub(super) bounds: Bounds,
    /// Not before everything up to here is applied.
    pub(super) after: ClusterTime,
    /// The collection's epoch; `None` while its shape is being changed.
    epoch: Option<u64>,
    /// Which scan of the partition this is.
    attempt: u64,
}

/// Work of the verifier.
#[derive(Debug)]
pub(super) enum Work {
    /// Compare options and indexes.
    Shape,
    /// Write a note into the oplog and tell its time.
    Note,
    /// Compare ids.
    Check(Check),
    /// Compare a partition.
    Scan(Scan),
    /// Nothing now.
    Wait,
}

/// The options and indexes of a collection.
#[derive(Debug, Default)]
struct Shape {
    /// Changes so far.
    epoch: u64,
    /// Whether it is being changed.
    is_changing: bool,
    /// The epoch in which it was last compared.
    compared: Option<u64>,
    /// What differed then.
    listed: Vec<Mismatch>,
}

impl Shape {
    /// Whether it is to be compared: it changed since, or it differed.
    fn is_due(&self) -> bool {
        self.compared != Some(self.epoch) || !self.listed.is_empty()
    }
}

/// The comparison of options and indexes.
#[derive(Debug, Default)]
struct Shapes {
    /// By UUID on the source; capped collections, too.
    known: HashMap<Uuid, Shape>,
    /// Collections of the destination that the source does not have.
    extra: Vec<Mismatch>,
    /// A worker is on it.
    is_busy: bool,
    /// How often they were compared.
    rounds: u64,
    /// Not to be compared before.
    not_before: Option<Instant>,
    /// Whether to compare even if nothing is due.
    is_wanted: bool,
}

/// What a comparison of options and indexes found.
#[derive(Debug, Default)]
pub(super) struct Shaped {
    /// What differs, by UUID on the source; of every collection that was compared.
    pub(super) found: HashMap<Uuid, Vec<Mismatch>>,
    /// Collections of the destination that the source does not have.
    pub(super) extra: Vec<Mismatch>,
}

/// Everything the verifier knows.
#[derive(Debug)]
pub(super) struct Ledger {
    /// By UUID on the source.
    collections: HashMap<Uuid, Collection>,
    /// In the order in which they are scanned.
    order: Vec<Uuid>,
    /// Ids that are being collected.
    young: Generation,
    /// Ids that are being compared.
    ripe: Generation,
    /// The oldest of what workers have taken out of `ripe`, and how much that is.
    taken: (ClusterTime, usize),
    /// Ids that are to be compared, in all.
    held: usize,
    /// Ids that are listed, in all.
    listed: usize,
    /// Ids at most, in all.
    most: usize,
    /// The newest event that was told of.
    newest: ClusterTime,
    /// Options and indexes.
    shapes: Shapes,
    /// When what is listed is compared again.
    recheck_at: Option<Instant>,
}

impl Ledger {
    /// An empty ledger that holds at most so many ids.
    pub(super) fn new(most: usize) -> Self {
        Self {
            collections: HashMap::new(),
            order: Vec::new(),
            young: Generation::default(),
            ripe: Generation::default(),
            taken: (ClusterTime::ZERO, 0),
            held: 0,
            listed: 0,
            most: most.max(8),
            newest: ClusterTime::ZERO,
            shapes: Shapes::default(),
            recheck_at: None,
        }
    }

    /// Adds a collection that it does not know: its ranges, and which of them need no scan.
    pub(super) fn add(&mut self, uuid: Uuid, bounds: Vec<Bounds>, done: Done<'_>) {
        if self.collections.contains_key(&uuid) {
            return;
        }
        let part = |(index, bounds): (usize, Bounds)| {
            let (pass, saved) = match done {
                Done::All => (Pass::Done, false),
                Done::Saved(saved) if saved.contains(&index) => (Pass::Done, true),
                Done::None | Done::Saved(_) => (Pass::Waiting, false),
            };
            Part::new(bounds, pass, saved)
        };
        let parts = bounds.into_iter().enumerate().map(part).collect();
        self.collections.insert(uuid, Collection { parts, ..Collection::default() });
        self.order.push(uuid);
    }

    /// Adds the shape of a collection, capped ones included.
    pub(super) fn add_shape(&mut self, uuid: Uuid) {
        self.shapes.known.entry(uuid).or_default();
    }

    /// Whether a collection is known.
    pub(super) fn knows(&self, uuid: &Uuid) -> bool {
        self.collections.contains_key(uuid)
    }

    /// Forgets a collection.
    pub(super) fn remove(&mut self, uuid: &Uuid) {
        self.shapes.known.remove(uuid);
        let gone = self.collections.remove(uuid);
        self.listed -= gone.iter().flat_map(|c| &c.parts).map(|p| p.listed.len()).sum::<usize>();
        self.order.retain(|other| other != uuid);
        for generation in [&mut self.young, &mut self.ripe] {
            let gone = generation.items.remove(uuid);
            self.held -= gone.iter().flat_map(HashMap::values).map(Item::weight).sum::<usize>();
        }
    }

    /// An event has touched an id.
    pub(super) fn touch(&mut self, uuid: &Uuid, id: &RawDocumentBuf, time: ClusterTime) {
        let Some(collection) = self.collections.get_mut(uuid) else { return };
        self.newest = self.newest.max(time);
        let index = collection.find(id);
        let count = collection.parts.len();
        let Some(part) = collection.parts.get_mut(index) else { return };
        let is_behind = |from: &RawDocumentBuf| compare_ids(from, id) != Ordering::Greater;
        if part.pass == Pass::Waiting
            || (part.pass == Pass::Begun && part.from.as_ref().is_some_and(is_behind))
        {
            return;
        }
        self.young.time = self.young.time.max(time);
        let item =
            Item { id: id.clone(), part: index, since: time, is_touched: true, differed: None };
        let weight = item.weight();
        let own = self.young.items.entry(*uuid).or_default().entry(canonical_id(id));
        let mut is_new = false;
        own.and_modify(|known| {
            known.is_touched = true;
            known.since = time;
        })
        .or_insert_with(|| {
            is_new = true;
            item
        });
        if is_new {
            part.open += 1;
            self.held += weight;
            // One of many gives way before it takes all the room.
            let most = self.most / count.clamp(2, 8);
            if part.open > most || self.held > self.most {
                self.scan_again(uuid, index, None);
            }
        }
    }

    /// Forgets the collected ids of a partition and scans it again.
    fn scan_again(&mut self, uuid: &Uuid, index: usize, not_before: Option<Instant>) {
        let Some(collection) = self.collections.get_mut(uuid) else { return };
        let Some(part) = collection.parts.get_mut(index) else { return };
        part.pass = Pass::Waiting;
        part.from = None;
        part.not_before = not_before;
        if let Some(items) = self.young.items.get_mut(uuid) {
            let gone = items.extract_if(|_, item| item.part == index);
            for (_, item) in gone {
                part.open -= 1;
                self.held -= item.weight();
            }
        }
    }

    /// The shape of a collection is going to change.
    pub(super) fn shape_changes(&mut self, uuid: &Uuid) {
        if let Some(collection) = self.collections.get_mut(uuid) {
            collection.is_changing = true;
        }
        if let Some(shape) = self.shapes.known.get_mut(uuid) {
            shape.is_changing = true;
        }
    }

    /// The shape of a collection has changed, or an event about it was of no concern.
    pub(super) fn shape_changed(&mut self, uuid: &Uuid, is_changed: bool) {
        if let Some(collection) = self.collections.get_mut(uuid) {
            collection.is_changing = false;
            collection.epoch += u64::from(is_changed);
        }
        if let Some(shape) = self.shapes.known.get_mut(uuid) {
            shape.is_changing = false;
            shape.epoch += u64::from(is_changed);
        }
    }

    /// Takes the next piece of work, when everything up to `applied` is on the destination.
    pub(super) fn claim(&mut self, applied: ClusterTime, now: Instant) -> Work {
        if self.is_shape_due(now) {
            self.shapes.is_busy = true;
            self.shapes.is_wanted = false;
            return Work::Shape;
        }
        if self.ripe.items.is_empty() && self.taken.1 == 0 && !self.young.items.is_empty() {
            self.ripe = std::mem::take(&mut self.young);
            if self.ripe.needs_note {
                // Not before the note's time is known.
                self.ripe.time = ClusterTime { t: u32::MAX, i: u32::MAX };
                return Work::Note;
            }
        }
        if !self.ripe.items.is_empty()
            && applied >= self.ripe.time
            && let Some(check) = self.take_check()
        {
            return Work::Check(check);
        }
        if self.held < self.most / 2
            && let Some(scan) = self.take_scan(now)
        {
            return Work::Scan(scan);
        }
        if self.recheck_at.is_some_and(|at| now >= at) {
            self.recheck();
            self.recheck_at = Some(now + RECHECK);
        }
        Work::Wait
    }

    /// Whether options and indexes are to be compared.
    fn is_shape_due(&self, now: Instant) -> bool {
        let shapes = &self.shapes;
        !shapes.is_busy
            && shapes.not_before.is_none_or(|at| now >= at)
            && (shapes.is_wanted
                || shapes.rounds == 0
                || !shapes.extra.is_empty()
                || shapes.known.values().any(Shape::is_due))
    }

    /// Ids of one collection out of the ripe generation.
    fn take_check(&mut self) -> Option<Check> {
        let uuid = self.ripe.items.keys().next().copied()?;
        let items = self.ripe.items.get_mut(&uuid)?;
        let keys: Vec<Vec<u8>> = items.keys().take(CHECK_IDS).cloned().collect();
        let collection = self.collections.get(&uuid);
        let epoch = collection.filter(|c| !c.is_changing).map(|c| c.epoch);
        let young = self.young.items.get(&uuid);
        let mut asked = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(item) = items.remove(&key) else { continue };
            let is_settled = item.differed.is_some()
                && item.differed == epoch
                && !item.is_touched
                && !young.is_some_and(|young| young.contains_key(&key));
            self.taken.0 =
                if self.taken.1 == 0 { item.since } else { self.taken.0.min(item.since) };
            self.taken.1 += 1;
            asked.push(Asked { item, key, is_settled });
        }
        if items.is_empty() {
            self.ripe.items.remove(&uuid);
        }
        Some(Check { uuid, asked, epoch })
    }

    /// The next partition that waits.
    fn take_scan(&mut self, now: Instant) -> Option<Scan> {
        let after = self.newest;
        for uuid in &self.order {
            let Some(collection) = self.collections.get_mut(uuid) else { continue };
            let epoch = (!collection.is_changing).then_some(collection.epoch);
            for (index, part) in collection.parts.iter_mut().enumerate() {
                let is_left = matches!(part.pass, Pass::Waiting | Pass::Begun);
                if is_left && part.not_before.is_none_or(|at| now >= at) {
                    part.pass = Pass::Scanning;
                    part.attempts += 1;
                    let (mut bounds, attempt) = (part.bounds.clone(), part.attempts);
                    bounds.lower = part.from.clone().or(bounds.lower);
                    return Some(Scan { uuid: *uuid, index, bounds, after, epoch, attempt });
                }
            }
        }
        None
    }

    /// The time of the note that the ripe generation waits for.
    pub(super) fn noted(&mut self, time: ClusterTime) {
        self.ripe.time = time;
    }

    /// What a scan found; `None` when it could not be done.
    pub(super) fn scanned(&mut self, scan: &Scan, found: Option<Scanned>, now: Instant) {
        let Some(collection) = self.collections.get_mut(&scan.uuid) else { return };
        let epoch = (!collection.is_changing).then_some(collection.epoch);
        let Some(part) = collection.parts.get_mut(scan.index) else { return };
        if part.pass != Pass::Scanning || part.attempts != scan.attempt {
            // Too many ids were touched meanwhile: it waits for the next scan.
            return;
        }
        let Some(found) = found.filter(|_| epoch.is_some() && epoch == scan.epoch) else {
            if part.from.is_some() {
                part.pass = Pass::Begun;
                part.not_before = Some(now + RETRY_SCAN);
            } else {
                self.scan_again(&scan.uuid, scan.index, Some(now + RETRY_SCAN));
            }
            return;
        };
        let before = part.from.take().map_or((0, 0), |_| part.documents);
        part.documents =
            (before.0 + found.source_documents, before.1 + found.destination_documents);
        // What was found is compared and listed before there is more.
        part.not_before = found.is_full().then(|| now + RECHECK);
        part.pass = match (&found.next, found.is_cut) {
            (Some(_), _) => Pass::Begun,
            (None, true) => Pass::Waiting,
            (None, false) => Pass::Done,
        };
        part.from = found.next;
        for id in found.suspects {
            self.suspect(&scan.uuid, scan.index, id);
        }
    }

    /// Has an id compared.
    fn suspect(&mut self, uuid: &Uuid, part: usize, id: RawDocumentBuf) {
        let since = ClusterTime::ZERO;
        self.young.needs_note = true;
        let key = canonical_id(&id);
        let items = self.young.items.entry(*uuid).or_default();
        if items.contains_key(&key) {
            return;
        }
        let item = Item { id, part, since, is_touched: false, differed: None };
        self.held += item.weight();
        items.insert(key, item);
        if let Some(part) = self.collections.get_mut(uuid).and_then(|c| c.parts.get_mut(part)) {
            part.open += 1;
        }
    }

    /// What a comparison found; `None` when it could not be done.
    pub(super) fn checked(
        &mut self,
        check: Check,
        differing: Option<Vec<(RawDocumentBuf, MismatchKind)>>,
        now: Instant,
    ) {
        self.taken.1 -= check.asked.len();
        let weight: usize = check.asked.iter().map(|asked| asked.item.weight()).sum();
        self.held = self.held.saturating_sub(weight);
        let Some(collection) = self.collections.get_mut(&check.uuid) else { return };
        let is_done = differing.is_some();
        let kinds: HashMap<Vec<u8>, MismatchKind> =
            differing.into_iter().flatten().map(|(id, kind)| (canonical_id(&id), kind)).collect();
        for Asked { item, key, is_settled } in check.asked {
            let Some(part) = collection.parts.get_mut(item.part) else { continue };
            part.open = part.open.saturating_sub(1);
            let kind = kinds.get(&key).copied();
            if is_done && kind.is_none() {
                self.listed -= usize::from(part.listed.remove(&key).is_some());
                continue;
            }
            if let (Some(kind), true) = (kind, is_settled) {
                self.recheck_at = self.recheck_at.or(Some(now + RECHECK));
                if part.listed.contains_key(&key) || self.listed < self.most {
                    let known = part.listed.insert(key, (item.id, kind));
                    self.listed += usize::from(known.is_none());
                } else {
                    // No room to remember it: another scan will find it again.
                    part.pass = Pass::Waiting;
                    part.from = None;
                    part.not_before = Some(now + RECHECK);
                }
                continue;
            }
            self.young.needs_note = true;
            let differed = if is_done { check.epoch } else { None };
            let items = self.young.items.entry(check.uuid).or_default();
            match items.get_mut(&key) {
                Some(known) => known.differed = differed,
                None => {
                    self.held += item.weight();
                    items.insert(key, Item { differed, is_touched: false, ..item });
                    part.open += 1;
                }
            }
        }
    }

    /// Has everything that is listed compared again.
    fn recheck(&mut self) {
        let mut again = Vec::new();
        for (uuid, collection) in &self.collections {
            for (index, part) in collection.parts.iter().enumerate() {
                again.extend(part.listed.values().map(|(id, _)| (*uuid, index, id.clone())));
            }
        }
        for (uuid, index, id) in again {
            self.suspect(&uuid, index, id);
        }
    }

    /// Has everything compared once more that is not known to be equal: before a commit ends.
    pub(super) fn compare_anew(&mut self) {
        self.recheck();
        for part in self.collections.values_mut().flat_map(|c| &mut c.parts) {
            part.not_before = None;
        }
        self.shapes.is_wanted = true;
        self.shapes.not_before = None;
        for shape in self.shapes.known.values_mut() {
            shape.compared = None;
        }
    }

    /// The shapes that nobody changes at the moment, each with its epoch.
    pub(super) fn quiet_shapes(&self) -> HashMap<Uuid, u64> {
        let quiet = self.shapes.known.iter().filter(|(_, shape)| !shape.is_changing);
        quiet.map(|(uuid, shape)| (*uuid, shape.epoch)).collect()
    }

    /// What a comparison of options and indexes found that began when `quiet` were quiet. What was
    /// equal at some moment since is compared; what differed only if it is the same still.
    pub(super) fn shaped(&mut self, quiet: &HashMap<Uuid, u64>, shaped: Shaped, next: Instant) {
        let shapes = &mut self.shapes;
        shapes.is_busy = false;
        shapes.rounds += 1;
        shapes.not_before = Some(next);
        shapes.extra = shaped.extra;
        for (uuid, found) in shaped.found {
            let (Some(shape), Some(epoch)) = (shapes.known.get_mut(&uuid), quiet.get(&uuid)) else {
                continue;
            };
            if found.is_empty() || (!shape.is_changing && shape.epoch == *epoch) {
                shape.compared = Some(*epoch);
                shape.listed = found;
            }
        }
    }

    /// What is listed of options, indexes and collections.
    fn misshapen(&self) -> impl Iterator<Item = &Mismatch> {
        self.shapes.known.values().flat_map(|shape| &shape.listed).chain(&self.shapes.extra)
    }

    /// Whether everything has been compared at least once. A collection that is altered again and
    /// again is left to the commit.
    pub(super) fn is_complete(&self) -> bool {
        let is_shaped = |shape: &Shape| shape.compared.is_some() || shape.epoch > 0;
        self.shapes.rounds > 0
            && self.shapes.known.values().all(is_shaped)
            && self.collections.values().flat_map(|c| &c.parts).all(|p| p.pass == Pass::Done)
    }

    /// Whether something differs for certain.
    pub(super) fn has_mismatch(&self) -> bool {
        self.listed > 0 || self.misshapen().next().is_some()
    }

    /// The oldest that is not compared, zero if that is since ever; `None` when nothing is open.
    pub(super) fn oldest(&self) -> Option<ClusterTime> {
        let taken = (self.taken.1 > 0).then_some(self.taken.0);
        [self.young.oldest(), self.ripe.oldest(), taken].into_iter().flatten().min()
    }

    /// Whether something at or before a time is not compared, or a shape is not. A partition that
    /// holds more mismatches than are remembered is compared well enough.
    pub(super) fn is_open(&self, time: ClusterTime) -> bool {
        let is_compared = |part: &Part| match part.pass {
            Pass::Done => true,
            Pass::Waiting | Pass::Begun => part.not_before.is_some() && !part.listed.is_empty(),
            Pass::Scanning => false,
        };
        self.shapes.is_wanted
            || self.shapes.is_busy
            || self.shapes.known.values().any(|shape| shape.compared != Some(shape.epoch))
            || !self.collections.values().flat_map(|c| &c.parts).all(is_compared)
            || self.oldest().is_some_and(|oldest| oldest <= time)
    }

    /// What is published; lag and estimate are the caller's. `name` is the destination's name of a
    /// collection.
    pub(super) fn progress(&self, name: impl Fn(&Uuid) -> Option<String>) -> VerificationProgress {
        let mut progress = VerificationProgress {
            phase: if self.is_complete() {
                VerificationPhase::Following
            } else {
                VerificationPhase::Scanning
            },
            ..VerificationProgress::default()
        };
        let mut misshapen: Vec<&Mismatch> = self.misshapen().collect();
        misshapen.sort_by(|a, b| (&a.namespace, &a.detail).cmp(&(&b.namespace, &b.detail)));
        for mismatch in misshapen {
            progress.add(mismatch);
        }
        for uuid in &self.order {
            let Some(collection) = self.collections.get(uuid) else { continue };
            let is_scanned = collection.parts.iter().all(|part| part.pass == Pass::Done);
            progress.collections_total += 1;
            progress.collections_scanned += u64::from(is_scanned);
            for part in &collection.parts {
                progress.source_documents += part.documents.0;
                progress.destination_documents += part.documents.1;
                let mut listed: Vec<_> = part.listed.values().collect();
                listed.sort_by(|(a, _), (b, _)| compare_ids(a, b));
                for (id, kind) in listed {
                    progress.add(&Mismatch {
                        namespace: name(uuid).unwrap_or_default(),
                        kind: *kind,
                        id: Some(id.clone()),
                        detail: None,
                    });
                }
            }
        }
        progress
    }

    /// Partitions whose saved state is not the present one: which, and whether it is clean. With
    /// `only_worse`, only those that are saved as clean and are not. What is returned counts as
    /// saved.
    pub(super) fn unsaved(&mut self, only_worse: bool) -> Vec<(Uuid, usize, bool)> {
        let mut unsaved = Vec::new();
        for (uuid, collection) in &mut self.collections {
            for (index, part) in collection.parts.iter_mut().enumerate() {
                let is_clean = part.is_clean();
                if part.saved != is_clean && !(only_worse && is_clean) {
                    part.saved = is_clean;
                    unsaved.push((*uuid, index, is_clean));
                }
            }
        }
        unsaved
    }
}

/// Which partitions of a collection need no scan.
#[derive(Debug, Clone, Copy)]
pub(super) enum Done<'a> {
    /// None is compared.
    None,
    /// Everything in it came through the stream and was told of.
    All,
    /// These are compared.
    Saved(&'a HashSet<usize>),
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
