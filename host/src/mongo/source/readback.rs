//! Reads of the destination, to compare it: by name, and never older than what was acknowledged.

use bson::{RawArrayBuf, RawDocumentBuf, cstr, doc, rawdoc};

use super::{append_bounds, cursor, fetch_once, read_concern, scan::ScanReader};
use crate::{
    error::{Error, Kind, Result},
    model::{Batch, ClusterTime, Namespace, order::id_of},
    mongo::{
        classify::{NAMESPACE_NOT_FOUND, classify, code_of},
        client::Connection,
        retry::retry,
    },
    ports::{BatchReader, Fetched, ReadBack},
};

/// The newest entry of the primary's oplog, whether a majority has it or not: a read after it
/// waits for the majority, which a new primary may not know of yet.
async fn newest_write(connection: &Connection, what: &str) -> Result<ClusterTime> {
    let reply = connection
        .client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await
        .map_err(|e| classify(&e, what, Kind::ReadFailed))?;
    reply
        .get_document("lastWrite")
        .and_then(|last| last.get_document("opTime"))
        .and_then(|time| time.get_timestamp("ts"))
        .or_else(|_| reply.get_timestamp("operationTime"))
        .map(ClusterTime::from)
        .map_err(|e| Error::new(Kind::ReadFailed, what).caused_by(e))
}

/// Opens a scan by name.
pub(in crate::mongo) async fn read(
    connection: &Connection,
    request: &ReadBack,
) -> Result<Option<Box<dyn BatchReader>>> {
    let what = format!("{}: cannot scan {}", connection.label, request.namespace);
    retry(&what, || async {
        let mut command = rawdoc! {
            "find": request.namespace.collection(),
            "batchSize": i64::from(request.batch_count),
            "noCursorTimeout": true,
            "readConcern": read_concern(newest_write(connection, &what).await?),
        };
        if request.natural_order {
            command.append(cstr!("hint"), rawdoc! { "$natural": 1 });
        } else {
            append_bounds(&mut command, &request.bounds);
        }
        let database = request.namespace.database();
        match cursor(connection, database, command, request.batch_count, None).await {
            Ok(answers) => {
                let reader: Box<dyn BatchReader> =
                    Box::new(ScanReader { answers, what: what.clone() });
                Ok(Some(reader))
            }
            Err(e) if code_of(&e) == Some(NAMESPACE_NOT_FOUND) => Ok(None),
            Err(e) => Err(classify(&e, what.clone(), Kind::ReadFailed)),
        }
    })
    .await
}

/// Reads documents by `_id`.
pub(in crate::mongo) async fn fetch(
    connection: &Connection,
    namespace: &Namespace,
    ids: &[RawDocumentBuf],
) -> Result<Fetched> {
    let what = format!("{}: cannot read documents of {namespace}", connection.label);
    let mut list = RawArrayBuf::new();
    for id in ids {
        list.push(id_of(id));
    }
    retry(&what, || async {
        let command = rawdoc! {
            "find": namespace.collection(),
            "filter": { "_id": { "$in": list.clone() } },
            "batchSize": i64::from(u32::MAX >> 1),
            "readConcern": read_concern(newest_write(connection, &what).await?),
        };
        match fetch_once(connection, namespace.database(), command).await {
            Ok(fetched) => Ok(fetched),
            Err(e) if code_of(&e) == Some(NAMESPACE_NOT_FOUND) => Ok(Fetched::Documents {
                found: Batch::from_array(RawArrayBuf::new(), 0),
                complete: true,
            }),
            Err(e) => Err(classify(&e, what.clone(), Kind::ReadFailed)),
        }
    })
    .await
}
