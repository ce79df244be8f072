//! How far the stream is applied: the newest position with nothing outstanding before it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use crate::model::change::Position;

/// How far one applier is; shared with it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The newest sequence number that is on the destination.
    mark: AtomicU64,
    /// Tells the router that it moved.
    moved: Arc<Notify>,
}

impl Done {
    /// Everything up to this sequence number is on the destination.
    pub(super) fn advance(&self, sequence: u64) {
        self.mark.fetch_max(sequence, Ordering::Release);
        self.moved.notify_one();
    }

    /// The newest sequence number that is on the destination.
    fn get(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }
}

/// What one applier was handed.
#[derive(Debug)]
struct Handed {
    /// The newest sequence number handed to it.
    sent: u64,
    /// It was idle when everything up to this number had been handed out.
    idle_at: u64,
    /// How far it is.
    done: Arc<Done>,
}

impl Handed {
    /// The newest sequence number before its oldest outstanding work; `None` when it is idle.
    fn holds(&self) -> Option<u64> {
        let done = self.done.get();
        (done < self.sent).then(|| done.max(self.idle_at))
    }
}

/// What was handed to the appliers, and up to where it is done.
#[derive(Debug)]
pub(super) struct Floor {
    /// What is known of each applier.
    appliers: Vec<Handed>,
    /// Positions by sequence number, oldest first, that are not yet reached.
    candidates: VecDeque<(u64, Position)>,
    /// Sequence number of the next hand-over.
    next: u64,
    /// Notified whenever an applier has got further.
    moved: Arc<Notify>,
}

impl Floor {
    /// A floor over so many appliers.
    pub(super) fn new(appliers: usize) -> Self {
        let moved = Arc::new(Notify::new());
        let handed = || Handed {
            sent: 0,
            idle_at: 0,
            done: Arc::new(Done { mark: AtomicU64::new(0), moved: Arc::clone(&moved) }),
        };
        Self {
            appliers: (0..appliers).map(|_| handed()).collect(),
            candidates: VecDeque::new(),
            next: 1,
            moved,
        }
    }

    /// Notified (one permit is kept) whenever an applier has got further.
    pub(super) fn moved(&self) -> Arc<Notify> {
        Arc::clone(&self.moved)
    }

    /// The mark that an applier moves.
    pub(super) fn done(&self, applier: usize) -> Option<Arc<Done>> {
        self.appliers.get(applier).map(|handed| Arc::clone(&handed.done))
    }

    /// The sequence number of a new hand-over.
    pub(super) fn begin(&mut self) -> u64 {
        let sequence = self.next;
        self.next += 1;
        sequence
    }

    /// Something of this sequence number goes to an applier.
    pub(super) fn sent(&mut self, applier: usize, sequence: u64) {
        if let Some(handed) = self.appliers.get_mut(applier) {
            if handed.holds().is_none() {
                handed.idle_at = sequence - 1;
            }
            handed.sent = sequence;
        }
    }

    /// Once everything up to `sequence` is done, `position` is reached.
    pub(super) fn reached_by(&mut self, sequence: u64, position: Position) {
        self.candidates.push_back((sequence, position));
    }

    /// The newest sequence number with nothing outstanding at or before it.
    pub(super) fn sequence(&self) -> u64 {
        self.appliers.iter().filter_map(Handed::holds).min().unwrap_or(self.next - 1)
    }

    /// The newest position that is reached, if it is newer than the last one asked for.
    pub(super) fn take_reached(&mut self) -> Option<Position> {
        let floor = self.sequence();
        let mut reached = None;
        while let Some((sequence, _)) = self.candidates.front() {
            if *sequence > floor {
                break;
            }
            reached = self.candidates.pop_front().map(|(_, position)| position);
        }
        reached
    }

    /// Whether nothing is outstanding.
    pub(super) fn is_idle(&self) -> bool {
        self.sequence() == self.next - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClusterTime;

    fn at(t: u32) -> Position {
        Position { token: None, time: ClusterTime { t, i: 0 } }
    }

    #[test]
    fn a_busy_applier_holds_the_floor_before_what_it_was_handed() {
        let mut floor = Floor::new(2);
        let first = floor.begin();
        floor.sent(0, first);
        floor.reached_by(first, at(1));
        let second = floor.begin();
        floor.sent(1, second);
        floor.reached_by(second, at(2));
        assert_eq!(floor.take_reached(), None);
        floor.done(1).unwrap().advance(second);
        assert_eq!(floor.take_reached(), None, "applier 0 has not done the first");
        floor.done(0).unwrap().advance(first);
        assert_eq!(floor.take_reached(), Some(at(2)));
        assert!(floor.is_idle());
        assert_eq!(floor.take_reached(), None);
    }

    #[test]
    fn a_hand_over_without_work_is_reached_at_once() {
        let mut floor = Floor::new(3);
        let sequence = floor.begin();
        floor.reached_by(sequence, at(9));
        assert_eq!(floor.take_reached(), Some(at(9)));
    }

    #[test]
    fn an_idle_applier_does_not_hold_back_later_work_of_others() {
        let mut floor = Floor::new(2);
        let first = floor.begin();
        floor.sent(0, first);
        floor.reached_by(first, at(1));
        floor.done(0).unwrap().advance(first);
        let second = floor.begin();
        floor.sent(1, second);
        floor.reached_by(second, at(2));
        assert_eq!(floor.take_reached(), Some(at(1)));
        floor.done(1).unwrap().advance(second);
        assert_eq!(floor.take_reached(), Some(at(2)));
    }
}
