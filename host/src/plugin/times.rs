//! How long calls take: a histogram of fixed size that many threads write without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Four buckets for each doubling, from a microsecond to an hour and beyond.
const BUCKETS: usize = 132;

/// Counts of calls by duration; a bucket is at most a quarter wider than its lower end.
#[derive(Debug)]
pub(crate) struct Times([AtomicU64; BUCKETS]);

impl Default for Times {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Times {
    /// Notes one call.
    pub(crate) fn add(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.0.get(bucket(micros).min(BUCKETS - 1)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// The time in microseconds that so many of a hundred calls stayed below; zero before the first.
    pub(crate) fn percentile(&self, percent: u64) -> u64 {
        let counts: Vec<u64> = self.0.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() * percent).div_ceil(100);
        let mut seen = 0;
        for (index, count) in counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && wanted > 0 {
                return upper(index);
            }
        }
        0
    }
}

/// The bucket of a duration.
fn bucket(micros: u64) -> usize {
    if micros < 4 {
        return usize::try_from(micros).unwrap_or(0);
    }
    let doubling = micros.ilog2();
    let quarter = (micros >> (doubling - 2)) & 3;
    usize::try_from(u64::from(doubling - 1) * 4 + quarter).unwrap_or(BUCKETS)
}

/// The longest duration in a bucket.
fn upper(index: usize) -> u64 {
    let index = u64::try_from(index).unwrap_or(0);
    if index < 4 {
        return index;
    }
    let (doubling, quarter) = (index / 4 + 1, index % 4);
    ((quarter + 5) << (doubling - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_within_its_bucket() {
        let mut last = 0;
        for micros in (0..5_000).chain((0..32).map(|n| 1_u64 << n)) {
            let index = bucket(micros);
            assert!(upper(index) >= micros, "{micros}");
            assert!(index == 0 || upper(index - 1) < micros, "{micros}");
            last = last.max(index);
        }
        assert!(last < BUCKETS);
    }

    #[test]
    fn percentiles_are_of_what_was_noted() {
        let times = Times::default();
        assert_eq!(times.percentile(50), 0);
        for micros in 1..=100 {
            times.add(Duration::from_micros(micros * 10));
        }
        assert!((500..=640).contains(&times.percentile(50)), "{}", times.percentile(50));
        assert!((990..=1279).contains(&times.percentile(99)), "{}", times.percentile(99));
        times.add(Duration::MAX);
    }
}
