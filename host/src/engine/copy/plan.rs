//! Cuts a collection into partitions.

use bson::RawDocumentBuf;

use crate::{
    engine::context::Limits,
    model::order::compare_ids,
    ports::{Bounds, CollectionStats},
};

/// Random ids taken per partition; more make the cuts more even.
const SAMPLES_PER_PARTITION: u64 = 10;
/// Most partitions of one collection.
const MAX_PARTITIONS: u64 = 50_000;

/// Partitions per worker that a collection should have, so that all workers end at about the same
/// time.
const PARTITIONS_PER_WORKER: u64 = 8;
/// A partition is not made smaller than this share of the limits only to have more of them.
const SMALLEST_SHARE: u64 = 16;

/// How many partitions a collection of this size gets, the tail not counted.
pub(super) fn partition_count(stats: CollectionStats, limits: &Limits, workers: usize) -> u64 {
    if limits.is_small(stats) {
        return 1;
    }
    let worth = |size: u64, limit: u64| size / (limit / SMALLEST_SHARE).max(1);
    let shared = worth(stats.bytes, limits.partition_bytes)
        .max(worth(stats.documents, limits.partition_documents))
        .min(PARTITIONS_PER_WORKER * u64::try_from(workers).unwrap_or(1));
    let by_bytes = stats.bytes.div_ceil(limits.partition_bytes.max(1));
    let by_documents = stats.documents.div_ceil(limits.partition_documents.max(1));
    by_bytes.max(by_documents).max(shared).min(stats.documents).clamp(1, MAX_PARTITIONS)
}

/// Whether the part above the greatest `_id` becomes a partition of its own.
pub(super) fn wants_tail(stats: CollectionStats, limits: &Limits) -> bool {
    !limits.is_small(stats)
}

/// How many ids to sample for a number of partitions.
pub(super) fn sample_count(partitions: u64) -> u32 {
    if partitions < 2 {
        return 0;
    }
    u32::try_from(partitions * SAMPLES_PER_PARTITION).unwrap_or(u32::MAX)
}

/// The ranges that sampled ids cut the collection into, with a tail that begins at `greatest`.
pub(super) fn bounds(
    mut samples: Vec<RawDocumentBuf>,
    partitions: u64,
    greatest: Option<RawDocumentBuf>,
) -> Vec<Bounds> {
    samples.sort_by(|a, b| compare_ids(a, b));
    let step = usize::try_from(SAMPLES_PER_PARTITION).unwrap_or(1);
    let cuts = usize::try_from(partitions.saturating_sub(1)).unwrap_or(0);
    let mut points: Vec<RawDocumentBuf> =
        samples.into_iter().skip(step - 1).step_by(step).take(cuts).collect();
    if let Some(greatest) = greatest {
        points.push(greatest);
    }
    // A range that would begin at the greatest or end at the least of all values is no range.
    points.retain(|point| {
        !matches!(point.get("_id"), Ok(Some(bson::RawBsonRef::MinKey | bson::RawBsonRef::MaxKey)))
    });
    points.sort_by(|a, b| compare_ids(a, b));
    points.dedup_by(|a, b| compare_ids(a, b).is_eq());
    let mut ranges = Vec::with_capacity(points.len() + 1);
    let mut lower = None;
    for point in points {
        ranges.push(Bounds { lower: lower.take(), upper: Some(point.clone()) });
        lower = Some(point);
    }
    ranges.push(Bounds { lower, upper: None });
    ranges
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn small_collections_are_one_partition() {
        let stats = CollectionStats { bytes: 1 << 20, documents: 1_000 };
        assert_eq!(partition_count(stats, &Limits::default(), 4), 1);
        assert!(!wants_tail(stats, &Limits::default()));
        assert_eq!(bounds(Vec::new(), 1, None), vec![Bounds::default()]);
    }

    #[test]
    fn partitions_follow_bytes_and_documents() {
        let big = CollectionStats { bytes: 1 << 30, documents: 10_000 };
        assert_eq!(partition_count(big, &Limits::default(), 1), 16);
        let many = CollectionStats { bytes: 1 << 20, documents: 1_000_000 };
        assert_eq!(partition_count(many, &Limits::default(), 1), 20);
    }

    #[test]
    fn a_few_large_documents_are_cut_too() {
        let large = CollectionStats { bytes: 30 << 30, documents: 1_900 };
        assert_eq!(partition_count(large, &Limits::default(), 4), 480);
        let huge = CollectionStats { bytes: 1 << 30, documents: 7 };
        assert_eq!(partition_count(huge, &Limits::default(), 4), 7);
    }

    #[test]
    fn a_collection_of_some_size_has_work_for_all_workers() {
        let middling = CollectionStats { bytes: 300 << 20, documents: 200_000 };
        assert_eq!(partition_count(middling, &Limits::default(), 4), 32);
        let little = CollectionStats { bytes: 9 << 20, documents: 4_000 };
        assert_eq!(partition_count(little, &Limits::default(), 4), 2);
    }

    #[test]
    fn ranges_are_half_open_adjacent_and_without_gap() {
        let samples: Vec<_> = (0..30).rev().map(|i| rawdoc! { "_id": i }).collect();
        let ranges = bounds(samples, 3, Some(rawdoc! { "_id": 29 }));
        assert_eq!(ranges.len(), 4);
        assert_eq!(ranges.first().unwrap().lower, None);
        assert_eq!(ranges.last().unwrap().upper, None);
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].upper, pair[1].lower);
        }
        assert_eq!(ranges.last().unwrap().lower, Some(rawdoc! { "_id": 29 }));
    }

    #[test]
    fn equal_samples_make_no_empty_range() {
        let samples = vec![rawdoc! { "_id": 1 }; 40];
        assert_eq!(bounds(samples, 4, Some(rawdoc! { "_id": 1.0 })).len(), 2);
    }
}
