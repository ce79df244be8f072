//! The metadata database on the destination.

use std::time::Duration;

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;

use super::{
    classify::{NAMESPACE_NOT_FOUND, classify, classify_reply, code_of},
    client::Connection,
    retry::retry,
};
use crate::{
    error::{Error, Kind, Result},
    model::gate::WriteGate,
    ports::{Lease, StateStore, Table},
};

/// Documents written per command.
const CHUNK: usize = 500;

/// `StateStore` in a database of the destination.
pub(crate) struct MongoStore {
    /// The destination.
    connection: Connection,
    /// Name of the metadata database.
    database: String,
    /// Asked before every attempt of every write but those of the lease.
    gate: WriteGate,
}

/// Collection of the lease.
const LEASE: &str = "lease";

impl MongoStore {
    /// A store in `database` on the destination, written to as long as the gate lets writes
    /// through.
    pub(crate) fn new(connection: Connection, database: String, gate: WriteGate) -> Self {
        Self { connection, database, gate }
    }

    /// Runs a `findAndModify` of the lease once and returns what it leaves behind, if it found a
    /// lease to change.
    async fn change_lease(&self, mut command: Document) -> Result<Option<Lease>> {
        let what = "cannot change the lease";
        command.insert("new", true);
        command.insert("writeConcern", durable());
        let reply = self
            .connection
            .client
            .database(&self.database)
            .run_command(command)
            .await
            .map_err(|e| classify(&e, what, Kind::WriteFailed))?;
        Ok(reply.get_document("value").ok().and_then(lease_of))
    }

    /// Runs a write command and treats every error in its reply as one.
    async fn write(&self, command: &Document, what: &str) -> Result<()> {
        let database = self.connection.client.database(&self.database);
        retry(what, || async {
            self.gate.pass().await?;
            let reply = database
                .run_command(command.clone())
                .await
                .map_err(|e| classify(&e, what, Kind::WriteFailed))?;
            let raw = bson::RawDocumentBuf::try_from(&reply)
                .map_err(|e| Error::new(Kind::WriteFailed, what).caused_by(e))?;
            if let Some(error) = classify_reply(&raw, what, Kind::WriteFailed) {
                return Err(error);
            }
            match reply.get_array("writeErrors") {
                Ok(errors) if !errors.is_empty() => {
                    Err(Error::new(Kind::WriteFailed, format!("{what}: {errors:?}")))
                }
                _ => Ok(()),
            }
        })
        .await
    }
}

/// Reads a stored lease.
fn lease_of(document: &Document) -> Option<Lease> {
    let former = document.get_array("formerOwners").map(Vec::as_slice).unwrap_or_default();
    Some(Lease {
        owner: document.get_str("owner").ok()?.to_owned(),
        former_owners: former.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect(),
    })
}

/// The write concern of everything: a majority's journal.
pub(super) fn durable() -> Document {
    doc! { "w": "majority", "j": true }
}

#[async_trait]
impl StateStore for MongoStore {
    async fn load(&self, table: Table) -> Result<Vec<Document>> {
        let what = "cannot read the metadata database";
        let collection =
            self.connection.client.database(&self.database).collection::<Document>(table.name());
        retry(what, || async {
            collection
                .find(doc! {})
                .read_concern(mongodb::options::ReadConcern::majority())
                .await
                .map_err(|e| classify(&e, what, Kind::ReadFailed))?
                .try_collect()
                .await
                .map_err(|e| classify(&e, what, Kind::ReadFailed))
        })
        .await
    }

    async fn put(&self, table: Table, documents: Vec<Document>) -> Result<()> {
        for chunk in documents.chunks(CHUNK) {
            let updates: Vec<Bson> = chunk
                .iter()
                .map(|document| {
                    let id = document.get("_id").cloned().unwrap_or(Bson::Null);
                    Bson::Document(
                        doc! { "q": { "_id": { "$eq": id } }, "u": document.clone(), "upsert": true },
                    )
                })
                .collect();
            let command = doc! {
                "update": table.name(), "updates": updates, "ordered": false,
                "writeConcern": durable(),
            };
            self.write(&command, "cannot write the metadata database").await?;
        }
        Ok(())
    }

    async fn remove(&self, table: Table, filter: Document) -> Result<()> {
        let command = doc! {
            "delete": table.name(), "deletes": [ { "q": filter, "limit": 0 } ],
            "writeConcern": durable(),
        };
        self.write(&command, "cannot write the metadata database").await
    }

    async fn take_lease(
        &self,
        owner: &str,
        gone: Option<&str>,
        time_to_live: Duration,
    ) -> Result<Lease> {
        let milliseconds = i64::try_from(time_to_live.as_millis()).unwrap_or(i64::MAX);
        let mut takeable = vec![
            Bson::Document(doc! { "$eq": ["$owner", owner] }),
            Bson::Document(doc! { "$lt": ["$expires", "$$NOW"] }),
        ];
        takeable.extend(gone.map(|gone| Bson::Document(doc! { "$eq": ["$owner", gone] })));
        let update = doc! { "$set": {
            "owner": owner,
            "epoch": { "$cond": [
                { "$eq": ["$owner", owner] },
                "$epoch",
                { "$add": [{ "$ifNull": ["$epoch", 0i64] }, 1i64] },
            ] },
            "expires": { "$add": ["$$NOW", milliseconds] },
            "formerOwners": { "$setDifference": [
                { "$setUnion": [{ "$ifNull": ["$formerOwners", []] }, [{ "$ifNull": ["$owner", owner] }]] },
                [owner],
            ] },
        } };
        let taken = self
            .change_lease(doc! {
                "findAndModify": LEASE,
                "query": { "_id": LEASE, "$expr": { "$or": takeable } },
                "update": [update.clone()],
            })
            .await?;
        if let Some(holder) = taken {
            return Ok(holder);
        }
        // There is no lease yet, or another process holds it: then the upsert meets its `_id`.
        let inserted = self
            .change_lease(doc! {
                "findAndModify": LEASE,
                "query": { "_id": LEASE, "owner": owner },
                "update": [update],
                "upsert": true,
            })
            .await;
        match inserted {
            Ok(Some(holder)) => return Ok(holder),
            Err(error) if error.is_transient() => return Err(error),
            Ok(None) | Err(_) => {}
        }
        let what = "cannot read the lease";
        let lease = self
            .connection
            .client
            .database(&self.database)
            .collection::<Document>(LEASE)
            .find_one(doc! { "_id": LEASE })
            .await
            .map_err(|e| classify(&e, what, Kind::ReadFailed))?;
        lease.as_ref().and_then(lease_of).ok_or_else(|| Error::new(Kind::ReadFailed, what))
    }

    async fn forget_former_owners(&self, owner: &str) -> Result<()> {
        let command = doc! {
            "update": LEASE,
            "updates": [ {
                "q": { "_id": LEASE, "owner": owner },
                "u": { "$set": { "formerOwners": [] } },
            } ],
            "writeConcern": durable(),
        };
        self.write(&command, "cannot change the lease").await
    }

    async fn erase(&self) -> Result<()> {
        for name in Table::ALL.map(Table::name).into_iter().chain([LEASE]) {
            let database = self.connection.client.database(&self.database);
            let what = "cannot remove the metadata database";
            let command = doc! { "drop": name, "writeConcern": durable() };
            retry(what, || async {
                self.gate.pass().await?;
                match database.run_command(command.clone()).await {
                    Ok(_) => Ok(()),
                    Err(e) if code_of(&e) == Some(NAMESPACE_NOT_FOUND) => Ok(()),
                    Err(e) => Err(classify(&e, what, Kind::WriteFailed)),
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn release_lease(&self, owner: &str) -> Result<()> {
        // The document stays: the next owner looks whether something of ours is under way.
        let command = doc! {
            "update": LEASE,
            "updates": [ {
                "q": { "_id": LEASE, "owner": owner },
                "u": { "$set": { "expires": bson::DateTime::from_millis(0) } },
            } ],
            "writeConcern": durable(),
        };
        self.write(&command, "cannot release the lease").await
    }
}
