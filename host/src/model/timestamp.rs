//! Cluster time, the order in which a replica set did things.

use std::fmt;

/// A MongoDB timestamp: seconds since the Unix epoch and an ordinal within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClusterTime {
    /// Seconds since the Unix epoch.
    pub t: u32,
    /// Ordinal within the second.
    pub i: u32,
}

impl ClusterTime {
    /// The earliest time; before everything.
    pub const ZERO: Self = Self { t: 0, i: 0 };

    /// Whole seconds by which `self` is behind `newer`, never negative.
    pub fn seconds_behind(self, newer: Self) -> u32 {
        newer.t.saturating_sub(self.t)
    }
}

impl From<bson::Timestamp> for ClusterTime {
    fn from(value: bson::Timestamp) -> Self {
        Self { t: value.time, i: value.increment }
    }
}

impl From<ClusterTime> for bson::Timestamp {
    fn from(value: ClusterTime) -> Self {
        Self { time: value.t, increment: value.i }
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.t, self.i)
    }
}
