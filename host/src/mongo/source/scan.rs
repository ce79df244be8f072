//! One scan of a partition, in raw batches.

use async_trait::async_trait;
use bson::{RawArrayBuf, RawDocumentBuf, cstr, rawdoc};
use futures_util::StreamExt;
use mongodb::raw_batch_cursor::RawBatchCursor;

use super::batch_of;
use crate::{
    error::{Kind, Result},
    model::Batch,
    mongo::classify::{
        CAPPED_POSITION_LOST, NAMESPACE_NOT_FOUND, UUID_MISMATCH, classify, code_of,
    },
    ports::{BatchReader, Bounds},
};

/// The plan of a scan was killed: the collection was dropped or renamed under it.
const QUERY_PLAN_KILLED: i32 = 175;

/// Appends a range and the hint that goes with it to a find command, which has no filter yet.
///
/// A server ends a scan with `min` and without `max` before `MaxKey`, so that a document with that
/// `_id` would be missing. The last range is an expression, which compares values of all types and
/// which the server turns into a scan of the index to its very end.
pub(in crate::mongo) fn append_bounds(command: &mut RawDocumentBuf, bounds: &Bounds) {
    command.append(cstr!("hint"), rawdoc! { "_id": 1 });
    match (&bounds.lower, &bounds.upper) {
        (None, None) => {}
        (Some(lower), None) => {
            if let Ok(Some(least)) = lower.get("_id") {
                let mut literal = RawDocumentBuf::new();
                literal.append(cstr!("$literal"), least);
                let mut operands = RawArrayBuf::new();
                operands.push("$_id");
                operands.push(literal);
                let expression = rawdoc! { "$expr": { "$gte": operands } };
                command.append(cstr!("filter"), expression);
            }
        }
        (lower, Some(upper)) => {
            if let Some(lower) = lower {
                command.append(cstr!("min"), lower.clone());
            }
            command.append(cstr!("max"), upper.clone());
        }
    }
}

/// A scan in progress.
pub(super) struct ScanReader {
    /// The server's cursor.
    pub(super) answers: RawBatchCursor,
    /// For messages.
    pub(super) what: String,
}

#[async_trait]
impl BatchReader for ScanReader {
    async fn next(&mut self) -> Result<Option<Batch>> {
        match self.answers.next().await {
            None => Ok(None),
            Some(Ok(answer)) => Ok(Some(batch_of(&answer)?)),
            // Whatever killed the scan, the answer is to look again and begin anew.
            Some(Err(e))
                if matches!(
                    code_of(&e),
                    Some(
                        QUERY_PLAN_KILLED
                            | NAMESPACE_NOT_FOUND
                            | UUID_MISMATCH
                            // The end of a capped collection has overtaken the scan.
                            | CAPPED_POSITION_LOST
                            | 43
                            | 237
                    )
                ) =>
            {
                Err(classify(&e, self.what.clone(), Kind::TransientNetwork))
            }
            Some(Err(e)) => Err(classify(&e, self.what.clone(), Kind::ReadFailed)),
        }
    }
}
