//! Documents made in advance, in arrays as an `insert` command takes them.

use anyhow::Result;
use mongodb::bson::{RawArrayBuf, RawDocumentBuf, rawdoc};

use crate::random::Random;

/// Bytes of one ready-made batch at most, but for a single larger document.
const BATCH_BYTES: usize = 2 << 20;
/// Documents of one ready-made batch at most.
const BATCH_DOCUMENTS: u64 = 20_000;

/// A ready-made batch.
pub(super) struct Ready {
    /// The documents.
    pub(super) documents: RawArrayBuf,
    /// How many.
    pub(super) count: u64,
}

/// A document of about that size.
fn document(
    number: u64,
    bytes: usize,
    filler: &str,
    random: &mut Random,
) -> Result<RawDocumentBuf> {
    let id = i64::try_from(number)?;
    if bytes < 400 {
        let start = random.index((filler.len() / 2).max(1));
        let text = filler.get(start..start + bytes.saturating_sub(60)).unwrap_or(filler);
        return Ok(rawdoc! { "_id": id, "value": random.unit(), "text": text });
    }
    let start = random.index(filler.len() / 2);
    let (less, more) = filler.split_at(start);
    Ok(rawdoc! {
        "_id": id,
        "name": random.word(12),
        "group": random.below(1000) as i32,
        "value": random.unit(),
        "tags": [random.word(5), random.word(5)],
        "place": { "city": random.word(8), "zip": random.below(99_999) as i32 },
        "text": more,
        "more": less,
    })
}

/// Makes documents with ids in ascending order from 0 on.
pub(super) fn make(count: u64, bytes: usize) -> Result<Vec<Ready>> {
    let mut random = Random::new(1);
    let filler = random.word(bytes.max(200));
    let mut batches = Vec::new();
    let mut documents = RawArrayBuf::new();
    let mut pending = 0;
    for number in 0..count {
        documents.push(document(number, bytes, &filler, &mut random)?);
        pending += 1;
        if documents.as_bytes().len() >= BATCH_BYTES || pending == BATCH_DOCUMENTS {
            let full = std::mem::take(&mut documents);
            batches.push(Ready { documents: full, count: std::mem::take(&mut pending) });
        }
    }
    if pending > 0 {
        batches.push(Ready { documents, count: pending });
    }
    Ok(batches)
}

/// Bytes of all batches.
pub(super) fn size(batches: &[Ready]) -> usize {
    batches.iter().map(|batch| batch.documents.as_bytes().len()).sum()
}
