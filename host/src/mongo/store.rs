//! The metadata database on the destination.

use async_trait::async_trait;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;

use super::{classify::classify, classify::classify_reply, client::Connection, retry::retry};
use crate::{
    error::{Error, Kind, Result},
    ports::{StateStore, Table},
};

/// Documents written per command.
const CHUNK: usize = 500;

/// `StateStore` in a database of the destination.
pub(crate) struct MongoStore {
    /// The destination.
    connection: Connection,
    /// Name of the metadata database.
    database: String,
}

impl MongoStore {
    /// A store in `database` on the destination.
    pub(crate) fn new(connection: Connection, database: String) -> Self {
        Self { connection, database }
    }

    /// Runs a write command and treats every error in its reply as one.
    async fn write(&self, command: &Document, what: &str) -> Result<()> {
        let database = self.connection.client.database(&self.database);
        retry(what, || async {
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
}
