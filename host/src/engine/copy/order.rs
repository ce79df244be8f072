//! Whether the ids of a collection follow the order in which its documents are stored. Where they
//! do not, a scan by `_id` reads the disk all over the place, and one in the order of storage is
//! much quicker.

use bson::RawDocumentBuf;

use crate::model::order::compare_ids;

/// Ids looked at.
pub(super) const SAMPLE: u32 = 400;
/// Fewer tell nothing.
const FEWEST: usize = 100;
/// Correlation (Kendall's, 0 to 1 whatever the direction) below which ids are random, in percent.
const RANDOM_BELOW: usize = 50;

/// Whether ids, given in the order of storage, have little to do with it.
pub(super) fn is_random(ids: &[RawDocumentBuf]) -> bool {
    if ids.len() < FEWEST {
        return false;
    }
    let (mut ascending, mut descending) = (0_usize, 0_usize);
    for (place, first) in ids.iter().enumerate() {
        for second in ids.iter().skip(place + 1) {
            match compare_ids(first, second) {
                std::cmp::Ordering::Less => ascending += 1,
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => descending += 1,
            }
        }
    }
    let pairs = (ascending + descending).max(1);
    ascending.abs_diff(descending) * 100 < pairs * RANDOM_BELOW
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn ascending_and_descending_ids_follow_the_storage() {
        let mut ids: Vec<_> = (0..300).map(|n| rawdoc! { "_id": n }).collect();
        assert!(!is_random(&ids));
        ids.reverse();
        assert!(!is_random(&ids));
    }

    #[test]
    fn scattered_ids_do_not() {
        let ids: Vec<_> = (0..300_i64).map(|n| rawdoc! { "_id": n * 7_919 % 10_007 }).collect();
        assert!(is_random(&ids));
        assert!(!is_random(ids.get(..50).unwrap()), "too few to tell");
    }
}
