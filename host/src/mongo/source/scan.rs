//! One scan of a partition, in raw batches.

use async_trait::async_trait;
use bson::{RawDocumentBuf, cstr, rawdoc};
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

/// Appends `min`, `max` and the hint that goes with them to a find command.
pub(in crate::mongo) fn append_bounds(command: &mut RawDocumentBuf, bounds: &Bounds) {
    command.append(cstr!("hint"), rawdoc! { "_id": 1 });
    if let Some(lower) = &bounds.lower {
        command.append(cstr!("min"), lower.clone());
    }
    if let Some(upper) = &bounds.upper {
        command.append(cstr!("max"), upper.clone());
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
