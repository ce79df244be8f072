//! Watches a run and publishes its progress; keeps the position moving when the source is silent.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{context::Context, estimate::Estimates, indexes, stream::StreamStatus};
use crate::{
    error::Result,
    model::{
        ClusterTime,
        progress::{CollectionProgress, IndexProgress, Phase, Progress, State},
        verification::VerificationProgress,
    },
};

/// How often progress is published.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// How often the clusters are pinged.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Silence of the source after which a note is appended to its oplog.
const IDLE_NOTE_AFTER: Duration = Duration::from_secs(10);
/// Largest lag with which a commit is accepted, in seconds.
const MAX_COMMIT_LAG: u32 = 30;
/// Publishes until the run ends.
///
/// # Errors
/// Failures of the source that a retry does not mend.
pub(crate) async fn run(
    context: Arc<Context>,
    status: watch::Receiver<StreamStatus>,
    progress: Arc<watch::Sender<Progress>>,
) -> Result<()> {
    let mut tick = tokio::time::interval(PUBLISH_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut newest = ClusterTime::ZERO;
    let mut newest_since = Instant::now();
    let mut pinged: Option<Instant> = None;
    let mut lags = Trend::default();
    let mut estimates = Estimates::new();
    loop {
        tick.tick().await;
        let now = context.source.cluster_time().await?;
        if now > newest {
            newest = now;
            newest_since = Instant::now();
        } else if newest_since.elapsed() >= IDLE_NOTE_AFTER {
            newest = context.source.append_note("idle").await?;
            newest_since = Instant::now();
        }
        if pinged.is_none_or(|at| at.elapsed() >= PING_EVERY) {
            pinged = Some(Instant::now());
            ping(&context, &progress).await;
        }
        let stream = *status.borrow();
        let lag = stream.applied.seconds_behind(newest);
        lags.push(lag);
        publish(&context, stream, (newest, lag), &lags, &progress);
        estimates.update(&context, stream, &progress).await?;
    }
}

/// Measures both round trips.
async fn ping(context: &Context, progress: &watch::Sender<Progress>) {
    let (source, destination) = tokio::join!(context.source.ping(), context.destination.ping());
    let shown = |answer: Result<u64>| answer.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    progress.send_modify(|progress| {
        progress.source_ping_ms = Some(shown(source));
        progress.destination_ping_ms = Some(shown(destination));
    });
}

/// Computes what `/progress` shows and publishes it.
fn publish(
    context: &Context,
    stream: StreamStatus,
    (newest, lag): (ClusterTime, u32),
    lags: &Trend,
    progress: &watch::Sender<Progress>,
) {
    let built = indexes::all_built(context);
    let (collections, total_bytes, copied_bytes, index_progress) = measure(context);
    let verification = context.verification.progress(&context.table(), newest, stream.applied);
    let verified = context.verification.is_ready(newest, stream.applied, MAX_COMMIT_LAG);
    let quarantined = u64::try_from(context.quarantine.count()).unwrap_or(u64::MAX);
    progress.send_modify(|progress| {
        progress.quarantined = quarantined;
        progress.verification =
            verification.map(|found| VerificationProgress { quarantined, ..found });
        progress.events_applied = context.counters.events_applied.load(Ordering::Relaxed);
        progress.total_bytes = total_bytes.max(copied_bytes);
        progress.copied_bytes = if stream.copy_done { progress.total_bytes } else { copied_bytes };
        progress.collections = Arc::new(collections);
        progress.lag_seconds = Some(lag);
        progress.ddl_applied = context.counters.ddl_applied.load(Ordering::Relaxed);
        progress.applied_cluster_time =
            (stream.copy_done && stream.applied > ClusterTime::ZERO).then_some(stream.applied);
        let after_copy = indexes::is_after_copy(context.options.build_indexes);
        progress.indexes = (stream.copy_done && after_copy).then_some(index_progress);
        let applying = progress.phase >= Some(Phase::ChangeEventApplication);
        progress.catchup_seconds = if applying { lags.seconds_to_zero(lag) } else { None };
        progress.can_commit = progress.state == State::Running
            && progress.phase == Some(Phase::ChangeEventApplication)
            && built
            && verified
            && lag <= MAX_COMMIT_LAG;
    });
}

/// Sums over the table.
fn measure(context: &Context) -> (Vec<CollectionProgress>, u64, u64, IndexProgress) {
    let table = context.table();
    let mut collections = Vec::new();
    let (mut total, mut copied) = (0, 0);
    let mut index_progress = IndexProgress::default();
    let count = |n: usize| u64::try_from(n).unwrap_or(0);
    for (_, entry) in table.iter().filter(|(_, entry)| !entry.dropped) {
        let bytes = entry.stats.bytes.max(entry.copied.bytes);
        total += bytes;
        copied += if entry.is_done() { bytes } else { entry.copied.bytes };
        let built = entry.indexes.iter().filter(|index| index.built).count();
        if !entry.indexes.is_empty() {
            index_progress.collections_total += 1;
            index_progress.collections_finished += u64::from(built == entry.indexes.len());
        }
        index_progress.indexes_built += count(built);
        index_progress.indexes_total += count(entry.indexes.len());
        index_progress.bytes_built += count(built) * bytes;
        index_progress.bytes_total += count(entry.indexes.len()) * bytes;
        let partitions = entry.partitions.as_deref().unwrap_or_default();
        let done = partitions
            .iter()
            .filter(|p| matches!(p.state, super::catalog::PartitionState::Done))
            .count();
        collections.push(CollectionProgress {
            namespace: entry.source.to_string(),
            total_bytes: bytes,
            copied_bytes: if entry.is_done() { bytes } else { entry.copied.bytes },
            copied_documents: entry.copied.documents,
            partitions: count(partitions.len()),
            partitions_done: count(done),
        });
    }
    (collections, total, copied, index_progress)
}

/// The lag over the last minute, to tell when it will be gone.
#[derive(Debug, Default)]
struct Trend(std::collections::VecDeque<u32>);

impl Trend {
    /// Measurements kept: a minute of them.
    const KEPT: usize = 120;

    /// Adds a measurement.
    fn push(&mut self, lag: u32) {
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(lag);
    }

    /// Seconds until the lag is gone if it goes on falling as it did; `None` when it does not fall.
    fn seconds_to_zero(&self, lag: u32) -> Option<u64> {
        let first = *self.0.front()?;
        if lag == 0 {
            return Some(0);
        }
        let fallen = u64::from(first.checked_sub(lag).filter(|fallen| *fallen > 0)?);
        let elapsed = u64::try_from(self.0.len()).unwrap_or(0) * 500 / 1_000;
        Some(u64::from(lag) * elapsed.max(1) / fallen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_given_only_while_the_lag_falls() {
        let mut trend = Trend::default();
        for lag in (50..=100).rev() {
            trend.push(lag);
        }
        assert_eq!(trend.seconds_to_zero(50), Some(25));
        trend.push(200);
        assert_eq!(trend.seconds_to_zero(200), None);
        assert_eq!(trend.seconds_to_zero(0), Some(0));
    }
}
