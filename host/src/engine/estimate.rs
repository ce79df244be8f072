//! What the monitor guesses and warns of: when the copy, the index builds and the first comparison will be
//! done, how long the oplog still holds the position, and what a person should know.

use std::{collections::VecDeque, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{blocking, context::Context, stream::StreamStatus};
use crate::{
    error::Result,
    model::{
        ClusterTime,
        facts::{ClusterFacts, OplogSpan},
        progress::{Phase, Progress, State},
        verification::VerificationPhase,
    },
};

/// How often the clusters are asked.
const ASK_EVERY: Duration = Duration::from_secs(5 * 60);
/// Over which time a rate is taken, unless it is all the time.
const WINDOW: Duration = Duration::from_secs(60);
/// The rate is unknown before that.
const SHORTEST: Duration = Duration::from_secs(5);
/// An oplog that holds the position for less is small, in seconds.
const SMALL_OPLOG: u64 = 3_600;
/// Lag at which what queued up during the copy counts as worked off, in seconds.
const STEADY_LAG: u32 = 30;

/// How much was done, over the last minute or from the beginning.
#[derive(Debug, Default)]
struct Rate {
    /// Measurements.
    seen: VecDeque<(Instant, u64)>,
    /// Whether the first one is kept: for what is done in few large steps.
    is_long: bool,
}

impl Rate {
    /// Adds a measurement.
    fn push(&mut self, now: Instant, done: u64) {
        // A part that is begun anew takes back what it had counted; the old slope means nothing.
        if self.seen.back().is_some_and(|(_, before)| done < *before) {
            self.seen.clear();
        }
        if self.is_long {
            self.seen.truncate(1);
        }
        let is_old = |at: &Instant| !self.is_long && now.duration_since(*at) > WINDOW;
        while self.seen.front().is_some_and(|(at, _)| is_old(at)) {
            self.seen.pop_front();
        }
        self.seen.push_back((now, done));
    }

    /// Adds a measurement while the work goes on, and tells how many seconds it will; `None` otherwise, or
    /// while nothing can be said.
    fn seconds_left(&mut self, done: u64, total: u64, goes_on: bool) -> Option<u64> {
        if !goes_on {
            self.seen.clear();
            return None;
        }
        self.push(Instant::now(), done);
        self.seconds_to(total)
    }

    /// Seconds until `total` is done at this rate; `None` while nothing can be said.
    fn seconds_to(&self, total: u64) -> Option<u64> {
        let ((begin, first), (end, last)) = (self.seen.front()?, self.seen.back()?);
        let elapsed = end.duration_since(*begin);
        let moved = last.checked_sub(*first).filter(|moved| *moved > 0)?;
        if elapsed < SHORTEST {
            return None;
        }
        let left = u128::from(total.saturating_sub(*last));
        u64::try_from(left * elapsed.as_millis() / u128::from(moved) / 1_000).ok()
    }
}

/// The guesses of one run.
#[derive(Debug)]
pub(super) struct Estimates {
    /// How fast the copy is.
    copy: Rate,
    /// How fast indexes are built.
    indexes: Rate,
    /// How fast documents are compared.
    verification: Rate,
    /// When the source was asked last.
    asked: Option<Instant>,
    /// What it told.
    source: Option<ClusterFacts>,
    /// Whether what queued up during the copy is worked off.
    steady: bool,
}

impl Estimates {
    /// None yet.
    pub(super) fn new() -> Self {
        Self {
            copy: Rate::default(),
            indexes: Rate { is_long: true, ..Rate::default() },
            verification: Rate::default(),
            asked: None,
            source: None,
            steady: false,
        }
    }

    /// Brings the guesses in the published progress up to date.
    ///
    /// # Errors
    /// Failures of a cluster that a retry does not mend.
    pub(super) async fn update(
        &mut self,
        context: &Context,
        stream: StreamStatus,
        progress: &watch::Sender<Progress>,
    ) -> Result<()> {
        if self.asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
            self.asked = Some(Instant::now());
            self.source = Some(context.source.facts().await?);
        }
        let oplog = self.source.as_ref().and_then(|source| source.oplog);
        progress.send_modify(|progress| {
            let applying = progress.phase >= Some(Phase::ChangeEventApplication);
            self.steady |= applying && progress.lag_seconds.is_some_and(|lag| lag <= STEADY_LAG);
            progress.draining = applying && !self.steady;
            let copying = progress.phase == Some(Phase::CollectionCopy) && !stream.copy_done;
            let (copied, total) = (progress.copied_bytes, progress.total_bytes);
            progress.copy_seconds = self.copy.seconds_left(copied, total, copying);
            let indexes = progress.indexes.unwrap_or_default();
            let building = indexes.indexes_built < indexes.indexes_total;
            let (built, total) = (indexes.bytes_built, indexes.bytes_total);
            progress.index_seconds = self.indexes.seconds_left(built, total, building);
            let compared = progress.verification.as_ref().map_or((0, 0, false), |found| {
                let scanning = stream.copy_done && found.phase == VerificationPhase::Scanning;
                (found.source_documents, found.documents_estimated, scanning)
            });
            progress.verification_seconds =
                self.verification.seconds_left(compared.0, compared.1, compared.2);
            progress.oplog_seconds = oplog.map(|oplog| remaining(oplog, stream.applied));
            // What the write blocks have to say is published where they change.
            let mut warnings = std::mem::take(&mut progress.warnings);
            warnings.retain(|warning| blocking::is_about(warning));
            if let Some(source) = &self.source {
                add_warnings(&mut warnings, progress, source);
            }
            progress.warnings = warnings;
        });
        Ok(())
    }
}

/// Seconds until the oplog forgets what is applied next.
fn remaining(oplog: OplogSpan, applied: ClusterTime) -> u64 {
    oplog.remaining_seconds(applied.max(oplog.first))
}

/// Adds what a person should know.
fn add_warnings(found: &mut Vec<String>, progress: &Progress, source: &ClusterFacts) {
    if let Some(seconds) = progress.oplog_seconds.filter(|seconds| *seconds < SMALL_OPLOG) {
        found.push(format!(
            "the source's oplog is too small: it will hold what is not applied yet for {} minutes \
             more; a sync that stops for longer has to start over",
            seconds / 60
        ));
    }
    let blocked = "user writes are blocked on the source";
    if source.user_writes_blocked == Some(true)
        && progress.state == State::Running
        && !found.iter().any(|warning| blocking::is_about_source(warning))
    {
        found.push(blocked.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_copy_is_estimated_from_its_last_minute() {
        let mut rate = Rate::default();
        assert_eq!(rate.seconds_to(100), None);
        rate.push(Instant::now(), 0);
        tokio::time::advance(Duration::from_secs(4)).await;
        rate.push(Instant::now(), 400);
        assert_eq!(rate.seconds_to(1_000), None, "too early to say");
        tokio::time::advance(Duration::from_secs(6)).await;
        rate.push(Instant::now(), 1_000);
        assert_eq!(rate.seconds_to(3_000), Some(20));
        assert_eq!(rate.seconds_to(1_000), Some(0));
        // What was fast before the last minute does not count.
        tokio::time::advance(Duration::from_secs(61)).await;
        rate.push(Instant::now(), 1_000);
        tokio::time::advance(Duration::from_secs(10)).await;
        rate.push(Instant::now(), 1_100);
        assert_eq!(rate.seconds_to(2_100), Some(100));
        rate.push(Instant::now(), 500);
        assert_eq!(rate.seconds_to(2_000), None, "a part was begun anew");
        let mut steps = Rate { is_long: true, ..Rate::default() };
        for done in [0, 0, 0, 500] {
            steps.seconds_left(done, 1_500, true);
            tokio::time::advance(Duration::from_secs(100)).await;
        }
        assert_eq!(steps.seconds_left(500, 1_500, true), Some(800), "from the beginning");
        assert_eq!(steps.seconds_left(500, 1_500, false), None);
        assert_eq!(steps.seconds_left(500, 1_500, true), None, "another beginning");
    }

    #[test]
    fn the_oplog_holds_the_position_for_as_long_as_it_is_behind_its_end() {
        let time = |t| ClusterTime { t, i: 0 };
        let full = OplogSpan { first: time(1_000), last: time(9_000), bytes: 5, max_bytes: 5 };
        assert_eq!(remaining(full, time(8_200)), 7_200);
        assert_eq!(remaining(full, time(10)), 0, "a position that is gone already");
    }
}
