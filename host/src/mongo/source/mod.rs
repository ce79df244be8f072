//! `Source` over the driver: listings, scans in raw batches, refetches, and the change stream.

mod listing;
pub(super) mod readback;
mod scan;
mod stream;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use bson::{Document, RawArrayBuf, RawDocumentBuf, Uuid, cstr, doc, rawdoc, spec::BinarySubtype};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::{options::RunCursorCommandOptions, raw_batch_cursor::RawBatchCursor};

pub(super) use self::{listing::list, scan::append_bounds};
use self::{scan::ScanReader, stream::StreamReader};
use super::{
    blocking,
    classify::{NAMESPACE_NOT_FOUND, UUID_MISMATCH, classify, code_of},
    client::Connection,
    facts,
    retry::{Pauses, retry},
    topology,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Batch, ClusterTime, Namespace, change::Position, facts::ClusterFacts},
    ports::{
        BatchReader, BlockingRights, ClusterInfo, CollectionInfo, CollectionStats, EventReader,
        Fetched, ReadRequest, Source,
    },
};

/// A sample of more than one part in so many of a collection makes the server read all of it.
const SCANNED_SHARE: u64 = 20;

/// The cluster that is read.
pub(crate) struct MongoSource {
    /// Connection and label.
    connection: Connection,
}

impl MongoSource {
    /// A source behind a connection.
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }
}

/// `{level: majority, afterClusterTime: …}`
fn read_concern(after: ClusterTime) -> RawDocumentBuf {
    let mut concern = rawdoc! { "level": "majority" };
    if after > ClusterTime::ZERO {
        concern.append(cstr!("afterClusterTime"), bson::Timestamp::from(after));
    }
    concern
}

/// A UUID as the server stores it.
fn uuid_value(uuid: Uuid) -> bson::Binary {
    bson::Binary { subtype: BinarySubtype::Uuid, bytes: uuid.bytes().to_vec() }
}

/// Runs a cursor command and yields raw batches.
async fn cursor(
    connection: &Connection,
    database: &str,
    command: RawDocumentBuf,
    batch_count: u32,
    wait: Option<Duration>,
) -> mongodb::error::Result<RawBatchCursor> {
    let options = RunCursorCommandOptions::builder().batch_size(batch_count).max_time(wait).build();
    connection
        .client
        .database(database)
        .run_raw_cursor_command(command)
        .with_options(options)
        .batch()
        .await
}

/// Copies the documents of an answer out of it.
fn batch_of(answer: &mongodb::raw_batch_cursor::RawBatch) -> Result<Batch> {
    let broken = |e: &dyn std::fmt::Display| {
        Error::new(Kind::ReadFailed, format!("the source sent an unreadable batch: {e}"))
    };
    let array = answer.doc_slices().map_err(|e| broken(&e))?;
    let mut count = 0;
    for element in array.iter_elements() {
        element.map_err(|e| broken(&e))?;
        count += 1;
    }
    Ok(Batch::from_array(array.to_owned(), count))
}

#[async_trait]
impl Source for MongoSource {
    async fn info(&self) -> Result<ClusterInfo> {
        retry("describe the source", || topology::inspect(&self.connection.client)).await
    }

    async fn facts(&self) -> Result<ClusterFacts> {
        facts::facts(&self.connection).await
    }

    async fn cluster_time(&self) -> Result<ClusterTime> {
        retry("read the source's time", || topology::newest_time(&self.connection.client)).await
    }

    async fn append_note(&self, message: &str) -> Result<ClusterTime> {
        let what = "cannot append a note to the source's oplog";
        retry(what, || async {
            let reply = self
                .connection
                .client
                .database("admin")
                .run_command(doc! {
                    "appendOplogNote": 1, "data": { "syncline": message },
                    "writeConcern": { "w": "majority" },
                })
                .await
                .map_err(|e| classify(&e, what, Kind::ReadFailed))?;
            reply
                .get_timestamp("operationTime")
                .map(ClusterTime::from)
                .map_err(|e| Error::new(Kind::ReadFailed, what).caused_by(e))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<CollectionInfo>> {
        list(&self.connection).await
    }

    async fn list_of(&self, databases: &BTreeSet<String>) -> Result<Vec<CollectionInfo>> {
        listing::list_of(&self.connection, databases.iter().cloned()).await
    }

    async fn stats(&self, namespace: &Namespace) -> Result<CollectionStats> {
        let what = format!("cannot read the size of {namespace}");
        retry(&what, || async {
            let found = self
                .connection
                .client
                .database(namespace.database())
                .collection::<Document>(namespace.collection())
                .aggregate([
                    doc! { "$collStats": { "storageStats": {} } },
                    doc! { "$project": {
                        "size": { "$toLong": "$storageStats.size" },
                        "count": { "$toLong": "$storageStats.count" },
                    } },
                ])
                .await;
            let answers = match found {
                Err(e) if code_of(&e) == Some(NAMESPACE_NOT_FOUND) => {
                    return Ok(CollectionStats::default());
                }
                other => other.map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))?,
            };
            let parts: Vec<Document> = answers
                .try_collect()
                .await
                .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))?;
            let sum = |key: &str| {
                parts
                    .iter()
                    .filter_map(|p| p.get_i64(key).ok())
                    .map(|n| n.max(0).unsigned_abs())
                    .sum()
            };
            Ok(CollectionStats { bytes: sum("size"), documents: sum("count") })
        })
        .await
    }

    async fn stored_bytes(&self, namespace: &Namespace) -> Result<u64> {
        facts::stored_bytes(&self.connection, namespace).await
    }

    async fn index_formats(&self, namespace: &Namespace) -> Result<HashMap<String, i64>> {
        facts::index_formats(&self.connection, namespace).await
    }

    async fn database_bytes(&self, database: &str) -> Result<Option<(u64, u64)>> {
        facts::database_bytes(&self.connection, database).await
    }

    async fn sample_ids(
        &self,
        namespace: &Namespace,
        count: u32,
        documents: u64,
    ) -> Result<Vec<RawDocumentBuf>> {
        let what = format!("cannot sample {namespace}");
        retry(&what, || async {
            let mut command = rawdoc! {
                "aggregate": namespace.collection(), "cursor": {}, "allowDiskUse": true,
            };
            let sample = rawdoc! { "$sample": { "size": i64::from(count) } };
            // A sample of a good part of a collection reads all of it: then better its ids alone.
            if u64::from(count).saturating_mul(SCANNED_SHARE) > documents {
                command.append(
                    cstr!("pipeline"),
                    RawArrayBuf::from_iter([rawdoc! { "$project": { "_id": 1 } }, sample]),
                );
                command.append(cstr!("hint"), rawdoc! { "_id": 1 });
            } else {
                command.append(
                    cstr!("pipeline"),
                    RawArrayBuf::from_iter([sample, rawdoc! { "$project": { "_id": 1 } }]),
                );
            }
            collect(&self.connection, namespace.database(), command, &what).await
        })
        .await
    }

    async fn stored_ids(&self, namespace: &Namespace, count: u32) -> Result<Vec<RawDocumentBuf>> {
        let what = format!("cannot look at the order of {namespace}");
        let mut list = RawArrayBuf::new();
        for id in self.sample_ids(namespace, count, u64::MAX).await? {
            list.push(crate::model::order::id_of(&id));
        }
        let found = retry(&what, || async {
            let command = rawdoc! {
                "find": namespace.collection(), "filter": { "_id": { "$in": list.clone() } },
                "projection": { "_id": 1 }, "showRecordId": true,
            };
            collect(&self.connection, namespace.database(), command, &what).await
        })
        .await?;
        let mut placed: Vec<(i64, RawDocumentBuf)> = found
            .iter()
            .map(|document| {
                let mut id = RawDocumentBuf::new();
                id.append(cstr!("_id"), crate::model::order::id_of(document));
                (document.get_i64("$recordId").unwrap_or_default(), id)
            })
            .collect();
        placed.sort_by_key(|(place, _)| *place);
        Ok(placed.into_iter().map(|(_, id)| id).collect())
    }

    async fn greatest_id(&self, namespace: &Namespace) -> Result<Option<RawDocumentBuf>> {
        let what = format!("cannot read the greatest _id of {namespace}");
        retry(&what, || async {
            let command = rawdoc! {
                "find": namespace.collection(), "hint": { "_id": 1 }, "sort": { "_id": -1 },
                "projection": { "_id": 1 }, "limit": 1i64, "singleBatch": true,
                "readConcern": { "level": "majority" },
            };
            let mut found = collect(&self.connection, namespace.database(), command, &what).await?;
            Ok(found.pop())
        })
        .await
    }

    async fn read(&self, request: ReadRequest) -> Result<Option<Box<dyn BatchReader>>> {
        let what = format!("cannot scan {}", request.namespace);
        let mut command = rawdoc! {
            "find": request.namespace.collection(),
            "collectionUUID": uuid_value(request.uuid),
            "batchSize": i64::from(request.batch_count),
            "noCursorTimeout": true,
            "readConcern": read_concern(request.after),
        };
        if request.natural_order {
            command.append(cstr!("hint"), rawdoc! { "$natural": 1 });
        } else {
            append_bounds(&mut command, &request.bounds);
        }
        retry(&what, || async {
            let opened = cursor(
                &self.connection,
                request.namespace.database(),
                command.clone(),
                request.batch_count,
                None,
            )
            .await;
            match opened {
                Ok(answers) => {
                    let reader: Box<dyn BatchReader> =
                        Box::new(ScanReader { answers, what: what.clone() });
                    Ok(Some(reader))
                }
                Err(e) if matches!(code_of(&e), Some(UUID_MISMATCH | NAMESPACE_NOT_FOUND)) => {
                    Ok(None)
                }
                Err(e) => Err(classify(&e, what.clone(), Kind::ReadFailed)),
            }
        })
        .await
    }

    async fn fetch(
        &self,
        namespace: &Namespace,
        uuid: Uuid,
        ids: &[RawDocumentBuf],
        after: ClusterTime,
    ) -> Result<Fetched> {
        let what = format!("cannot fetch changed documents of {namespace}");
        let mut list = RawArrayBuf::new();
        for id in ids {
            list.push(crate::model::order::id_of(id));
        }
        retry(&what, || async {
            let mut collection = namespace.collection().to_owned();
            // A rename tells the new name; a second one in between is followed too.
            for _ in 0..8 {
                let command = rawdoc! {
                    "find": collection.as_str(),
                    "filter": { "_id": { "$in": list.clone() } },
                    "collectionUUID": uuid_value(uuid),
                    "batchSize": i64::from(u32::MAX >> 1),
                    "readConcern": read_concern(after),
                };
                match fetch_once(&self.connection, namespace.database(), command).await {
                    Ok(fetched) => return Ok(fetched),
                    Err(e) if code_of(&e) == Some(NAMESPACE_NOT_FOUND) => {
                        return Ok(Fetched::CollectionGone);
                    }
                    Err(e) if code_of(&e) == Some(UUID_MISMATCH) => {
                        let actual = e
                            .server_response()
                            .and_then(|reply| reply.get_str("actualCollection").ok())
                            .map(str::to_owned);
                        match actual {
                            Some(name) => collection = name,
                            None => return Ok(Fetched::CollectionGone),
                        }
                    }
                    Err(e) => return Err(classify(&e, what.clone(), Kind::ReadFailed)),
                }
            }
            Err(Error::new(
                Kind::TransientNetwork,
                format!("{what}: it is renamed again and again"),
            ))
        })
        .await
    }

    async fn open_stream(&self, from: Position) -> Result<Box<dyn EventReader>> {
        let mut reader = StreamReader::new(self.connection.clone(), from);
        // Open once now, so that a lost position is an error of the start.
        let mut pauses = Pauses::new("open the change stream");
        while let Err(error) = reader.ensure_open().await {
            pauses.wait(error).await?;
        }
        Ok(Box::new(reader))
    }

    async fn block_user_writes(&self, blocked: bool) -> Result<()> {
        blocking::block_user_writes(&self.connection, blocked).await
    }

    async fn is_blocked(&self) -> Result<bool> {
        blocking::is_blocked(&self.connection).await
    }

    async fn blocking_rights(&self) -> Result<BlockingRights> {
        blocking::blocking_rights(&self.connection).await
    }

    async fn ping(&self) -> Result<u64> {
        ping(&self.connection).await
    }
}

/// Round trip in milliseconds; used for both sides. Not retried: a failure is an answer.
pub(super) async fn ping(connection: &Connection) -> Result<u64> {
    let begin = tokio::time::Instant::now();
    connection.client.database("admin").run_command(doc! { "ping": 1 }).await.map_err(|e| {
        classify(&e, format!("{}: no answer to a ping", connection.label), Kind::ReadFailed)
    })?;
    Ok(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Every document of a cursor command, for small results.
pub(super) async fn collect(
    connection: &Connection,
    database: &str,
    command: RawDocumentBuf,
    what: &str,
) -> Result<Vec<RawDocumentBuf>> {
    let failed = |e| classify(&e, what, Kind::ReadFailed);
    let mut answers = cursor(connection, database, command, 100_000, None).await.map_err(failed)?;
    let mut documents = Vec::new();
    while let Some(answer) = answers.next().await {
        for document in batch_of(&answer.map_err(failed)?)?.documents() {
            documents.push(document?.to_owned());
        }
    }
    Ok(documents)
}

/// Runs a find and takes its first answer, which the server limits to 16 MiB.
async fn fetch_once(
    connection: &Connection,
    database: &str,
    command: RawDocumentBuf,
) -> mongodb::error::Result<Fetched> {
    let mut answers = cursor(connection, database, command, u32::MAX >> 1, None).await?;
    let Some(answer) = answers.next().await else {
        return Ok(Fetched::Documents {
            found: Batch::from_array(RawArrayBuf::new(), 0),
            complete: true,
        });
    };
    let answer = answer?;
    let documents = answer.doc_slices()?;
    let mut count = 0;
    for element in documents.iter_elements() {
        element?;
        count += 1;
    }
    let complete = answer
        .as_raw_document()
        .get_document("cursor")
        .and_then(|cursor| cursor.get_i64("id"))
        .is_ok_and(|id| id == 0);
    Ok(Fetched::Documents { found: Batch::from_array(documents.to_owned(), count), complete })
}
