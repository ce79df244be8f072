//! `Destination` over the driver: raw write commands, always journaled by a majority.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bson::{
    Bson, Document, RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Uuid, cstr, doc, rawdoc,
    spec::ElementType,
};
use mongodb::Database;

use super::{
    blocking,
    classify::{
        DUPLICATE_KEY, INDEX_NOT_FOUND, NAMESPACE_EXISTS, NAMESPACE_NOT_FOUND, classify,
        classify_reply, classify_write_error, code_of,
    },
    client::Connection,
    facts,
    retry::{Pauses, retry},
    source,
    store::durable,
    topology, underway,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, ClusterTime, MAX_MESSAGE_BYTES, Namespace, facts::ClusterFacts, gate::WriteGate,
        order::id_of,
    },
    ports::{
        BatchReader, BlockingRights, Bounds, ClusterInfo, CollectionInfo, Destination, Fetched,
        InsertReport, ReadBack,
    },
};

/// Statements per update or delete command.
const MAX_STATEMENTS: usize = 10_000;
/// Bytes per update or delete command, well below the server's message limit.
const MAX_COMMAND_BYTES: usize = MAX_MESSAGE_BYTES / 3;
/// Index builds that a server runs at the same time unless it is told otherwise.
const INDEX_BUILDS: usize = 3;
/// Documents whose ids are collected at once when a range is emptied.
const EMPTY_CHUNK: i64 = 10_000;
/// The server refuses an empty `q` update path whose replacement begins with `$`.
const DOLLAR_PREFIXED: i32 = 52;
/// A replacement would change the `_id`: under a collation another document has its place.
const IMMUTABLE_FIELD: i32 = 66;

/// The cluster that is written to.
pub(crate) struct MongoDestination {
    /// Connection and label.
    connection: Connection,
    /// Asked before every attempt of every write.
    gate: WriteGate,
    /// Writes so far, to tell them apart on the server.
    writes: AtomicU64,
}

impl MongoDestination {
    /// A destination behind a connection, written to as long as the gate lets writes through.
    pub(crate) fn new(connection: Connection, gate: WriteGate) -> Self {
        Self { connection, gate, writes: AtomicU64::new(0) }
    }

    /// The database of a namespace.
    fn database(&self, namespace: &Namespace) -> Database {
        self.connection.client.database(namespace.database())
    }

    /// Whether the document at this place of a batch exists, by its `_id`.
    async fn has(&self, namespace: &Namespace, documents: &Batch, index: usize) -> Result<bool> {
        let Some(document) = documents.documents().nth(index).transpose()? else {
            return Ok(false);
        };
        let mut id = RawDocumentBuf::new();
        id.append(cstr!("_id"), id_of(document));
        let fetched = self.fetch(namespace, &[id]).await?;
        Ok(matches!(fetched, Fetched::Documents { found, .. } if !found.is_empty()))
    }

    /// A comment that no other write carries.
    fn comment(&self) -> String {
        format!("{}/{}", self.connection.tag, self.writes.fetch_add(1, Ordering::Relaxed))
    }

    /// Repeats a write while its failure is transient. Each attempt asks the gate, and each but the
    /// first waits until nothing of the one before is under way on the server.
    async fn attempts<T, F, Fut>(&self, what: &str, comment: &str, mut attempt: F) -> Result<T>
    where
        F: FnMut() -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let mut pauses = Pauses::new(what);
        loop {
            self.gate.pass().await?;
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => pauses.wait(error).await?,
            }
            underway::wait_for_comment(&self.connection, comment).await?;
        }
    }

    /// Runs a command; server errors in `tolerated` count as done.
    async fn run(
        &self,
        database: &str,
        mut command: Document,
        tolerated: &[i32],
        what: &str,
        default: Kind,
    ) -> Result<()> {
        let comment = self.comment();
        command.insert("comment", comment.as_str());
        self.attempts(what, &comment, || async {
            match self.connection.client.database(database).run_command(command.clone()).await {
                Ok(_) => Ok(()),
                Err(e) if code_of(&e).is_some_and(|code| tolerated.contains(&code)) => Ok(()),
                Err(e) => Err(classify(&e, what, default)),
            }
        })
        .await
    }

    /// Sends one write command built from statements, chunk by chunk.
    async fn statements(
        &self,
        namespace: &Namespace,
        verb: &'static bson::raw::CStr,
        list: &'static bson::raw::CStr,
        statements: &[RawDocumentBuf],
    ) -> Result<Vec<(usize, Document)>> {
        let what = format!("cannot {} documents of {namespace}", verb.as_str());
        let mut failed = Vec::new();
        let mut begin = 0;
        while begin < statements.len() {
            let mut array = RawArrayBuf::new();
            let mut bytes = 0;
            let mut end = begin;
            for statement in statements.iter().skip(begin).take(MAX_STATEMENTS) {
                if end > begin && bytes + statement.as_bytes().len() > MAX_COMMAND_BYTES {
                    break;
                }
                bytes += statement.as_bytes().len() + 16;
                array.push(statement.as_ref());
                end += 1;
            }
            let concern = durable_raw()?;
            let command = || {
                let mut command = RawDocumentBuf::new();
                command.append(verb, namespace.collection());
                command.append(list, array.as_ref());
                command.append(cstr!("ordered"), false);
                command.append(cstr!("bypassDocumentValidation"), true);
                command.append(cstr!("writeConcern"), concern.as_ref());
                command
            };
            let errors = self.write_command(namespace, command, &what).await?;
            failed.extend(errors.into_iter().map(|(index, error)| (begin + index, error)));
            begin = end;
        }
        Ok(failed)
    }

    /// Runs a write command, made anew for every attempt so that none is kept beside the one that
    /// is sent, and returns its write errors by position.
    async fn write_command(
        &self,
        namespace: &Namespace,
        command: impl Fn() -> RawDocumentBuf + Send + Sync,
        what: &str,
    ) -> Result<Vec<(usize, Document)>> {
        let comment = self.comment();
        self.attempts(what, &comment, || {
            let mut command = command();
            command.append(cstr!("comment"), comment.as_str());
            self.write(namespace, command, what)
        })
        .await
    }

    /// Runs a write command once and returns its write errors by position. A write concern error
    /// is an error of the call, so that the retry repeats the command.
    async fn write(
        &self,
        namespace: &Namespace,
        command: RawDocumentBuf,
        what: &str,
    ) -> Result<Vec<(usize, Document)>> {
        let reply = self
            .database(namespace)
            .run_raw_command(command)
            .await
            .map_err(|e| classify(&e, what, Kind::WriteFailed))?;
        let raw = RawDocumentBuf::try_from(&reply)
            .map_err(|e| Error::new(Kind::WriteFailed, what).caused_by(e))?;
        if let Some(error) = classify_reply(&raw, what, Kind::WriteFailed) {
            return Err(error);
        }
        let Ok(errors) = reply.get_array("writeErrors") else { return Ok(Vec::new()) };
        let mut failed = Vec::new();
        for error in errors {
            let Bson::Document(entry) = error else { continue };
            let classified = classify_write_error(entry, what);
            if classified.is_transient() {
                return Err(classified);
            }
            let index = entry.get_i32("index").unwrap_or_default();
            failed.push((usize::try_from(index).unwrap_or_default(), entry.clone()));
        }
        Ok(failed)
    }
}

/// The write concern of everything.
fn durable_raw() -> Result<RawDocumentBuf> {
    RawDocumentBuf::try_from(&durable())
        .map_err(|e| Error::new(Kind::Internal, "cannot encode a write concern").caused_by(e))
}

/// Whether a write error says that the `_id` exists.
fn is_duplicate_id(error: &Document) -> bool {
    error.get_i32("code").is_ok_and(|code| code == DUPLICATE_KEY)
        && error.get_document("keyPattern").map_or_else(
            |_| error.get_str("errmsg").is_ok_and(|m| m.contains("index: _id_")),
            |pattern| pattern.keys().eq(["_id"]),
        )
}

/// Whether a write error says that the server cannot tell which `_id` exists. In a clustered collection the key
/// of a document does not hold the type of its number, so instead of a duplicate it reports that it cannot
/// read it back: for fractions, NaN and large numbers, at any depth (server 6.0).
fn is_unreadable_key(error: &Document) -> bool {
    error.get_str("errmsg").is_ok_and(|m| m.starts_with("KeyString format error"))
}

/// Whether the server fills a field of the document in when it is inserted or replaces another: a
/// timestamp of zero at the top. It got there by an update, and is to stay as it is.
fn has_zero_timestamp(document: &RawDocument) -> bool {
    document.iter_elements().flatten().any(|element| {
        element.element_type() == ElementType::Timestamp
            && element.key().as_str() != "_id"
            && element.value().is_ok_and(|value| {
                value.as_timestamp().is_some_and(|t| (t.time, t.increment) == (0, 0))
            })
    })
}

/// An update by pipeline that makes a document exactly this one; the server fills nothing in.
fn literally(document: &RawDocument) -> RawArrayBuf {
    let mut literal = RawDocumentBuf::new();
    literal.append(cstr!("$literal"), document);
    let mut stage = RawDocumentBuf::new();
    stage.append(cstr!("$replaceWith"), literal);
    let mut pipeline = RawArrayBuf::new();
    pipeline.push(stage);
    pipeline
}

/// `{_id: …}`, which the server answers without planning; `{_id: {$eq: …}}` where the plain form
/// could be taken for an operator or a pattern.
fn equals_id(id: &RawDocument) -> RawDocumentBuf {
    let value = id_of(id);
    if !matches!(
        value,
        RawBsonRef::Document(_) | RawBsonRef::RegularExpression(_) | RawBsonRef::Array(_)
    ) {
        let mut query = RawDocumentBuf::new();
        query.append(cstr!("_id"), value);
        return query;
    }
    let mut equals = RawDocumentBuf::new();
    equals.append(cstr!("$eq"), value);
    let mut query = RawDocumentBuf::new();
    query.append(cstr!("_id"), equals);
    query
}

#[async_trait]
impl Destination for MongoDestination {
    async fn info(&self) -> Result<ClusterInfo> {
        retry("describe the destination", || topology::inspect(&self.connection.client)).await
    }

    async fn facts(&self) -> Result<ClusterFacts> {
        facts::facts(&self.connection).await
    }

    async fn cluster_time(&self) -> Result<ClusterTime> {
        retry("read the destination's time", || topology::newest_time(&self.connection.client))
            .await
    }

    async fn list(&self) -> Result<Vec<CollectionInfo>> {
        source::list(&self.connection).await
    }

    async fn create(&self, namespace: &Namespace, options: &RawDocumentBuf) -> Result<()> {
        let what = format!("cannot create {namespace}");
        let mut command = doc! { "create": namespace.collection() };
        let options = Document::try_from(options.as_ref())
            .map_err(|e| Error::new(Kind::UnsupportedOperation, what.clone()).caused_by(e))?;
        command.extend(options);
        command.insert("writeConcern", durable());
        self.run(
            namespace.database(),
            command,
            &[NAMESPACE_EXISTS],
            &what,
            Kind::UnsupportedOperation,
        )
        .await
    }

    async fn find(&self, namespace: &Namespace) -> Result<Option<Uuid>> {
        let what = format!("cannot look up {namespace}");
        let listed = retry(&what, || async {
            self.database(namespace)
                .run_command(
                    doc! { "listCollections": 1, "filter": { "name": namespace.collection() } },
                )
                .await
                .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))
        })
        .await?;
        Ok(listed
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"))
            .ok()
            .and_then(|batch| batch.first().and_then(Bson::as_document))
            .and_then(|entry| entry.get_document("info").ok())
            .and_then(|info| match info.get("uuid") {
                Some(Bson::Binary(binary)) => binary.to_uuid().ok(),
                _ => None,
            }))
    }

    async fn is_empty(&self, namespace: &Namespace) -> Result<bool> {
        let what = format!("cannot look into {namespace}");
        retry(&what, || async {
            let command = rawdoc! {
                "find": namespace.collection(), "limit": 1i64, "singleBatch": true,
                "projection": { "_id": 1 }, "readConcern": { "level": "majority" },
            };
            let found =
                source::collect(&self.connection, namespace.database(), command, &what).await?;
            Ok(found.is_empty())
        })
        .await
    }

    async fn drop_collection(&self, namespace: &Namespace) -> Result<()> {
        let command = doc! { "drop": namespace.collection(), "writeConcern": durable() };
        let what = format!("cannot drop {namespace}");
        self.run(namespace.database(), command, &[NAMESPACE_NOT_FOUND], &what, Kind::WriteFailed)
            .await
    }

    async fn rename(&self, from: &Namespace, to: &Namespace) -> Result<()> {
        let command = doc! {
            "renameCollection": from.to_string(), "to": to.to_string(), "writeConcern": durable(),
        };
        let what = format!("cannot rename {from} to {to}");
        self.run("admin", command, &[], &what, Kind::WriteFailed).await
    }

    async fn insert(
        &self,
        namespace: &Namespace,
        documents: &Batch,
        ordered: bool,
    ) -> Result<InsertReport> {
        let what = format!("cannot insert into {namespace}");
        let concern = durable_raw()?;
        let command = || {
            let mut command = RawDocumentBuf::new();
            command.append(cstr!("insert"), namespace.collection());
            command.append(cstr!("ordered"), ordered);
            command.append(cstr!("bypassDocumentValidation"), true);
            command.append(cstr!("writeConcern"), concern.as_ref());
            command.append(cstr!("documents"), documents.as_array());
            command
        };
        let errors = self.write_command(namespace, command, &what).await?;
        let mut report = InsertReport::default();
        for (index, error) in errors {
            let is_known = is_duplicate_id(&error)
                || (is_unreadable_key(&error) && self.has(namespace, documents, index).await?);
            if !is_known {
                return Err(classify_write_error(&error, &what));
            }
            report.duplicates.push(index);
        }
        // An ordered insert stopped at its first duplicate.
        let written = match report.duplicates.first() {
            Some(first) if ordered => *first,
            _ => documents.count(),
        };
        let mut filled_in = Vec::new();
        for document in documents.documents().take(written) {
            let document = document?;
            if has_zero_timestamp(document) {
                filled_in.push(document.to_owned());
            }
        }
        self.upsert(namespace, &filled_in).await?;
        Ok(report)
    }

    async fn upsert(&self, namespace: &Namespace, documents: &[RawDocumentBuf]) -> Result<()> {
        let statements: Vec<RawDocumentBuf> = documents
            .iter()
            .map(|document| {
                let mut statement = RawDocumentBuf::new();
                statement.append(cstr!("q"), equals_id(document));
                if has_zero_timestamp(document) {
                    statement.append(cstr!("u"), literally(document));
                } else {
                    statement.append(cstr!("u"), document.as_ref());
                }
                statement.append(cstr!("upsert"), true);
                statement
            })
            .collect();
        let failed =
            self.statements(namespace, cstr!("update"), cstr!("updates"), &statements).await?;
        for (index, error) in failed {
            let code = error.get_i32("code").unwrap_or_default();
            let Some(document) = documents.get(index) else { continue };
            // An update takes no replacement with a field that begins with `$`, an insert does;
            // and a concurrent upsert of the same `_id` cannot be, so a duplicate is our retry.
            if matches!(code, DOLLAR_PREFIXED | IMMUTABLE_FIELD | 9 | 14 | DUPLICATE_KEY)
                && (code != DUPLICATE_KEY || is_duplicate_id(&error))
            {
                let what = format!("cannot replace a document of {namespace}");
                self.delete(namespace, std::slice::from_ref(document)).await?;
                let report =
                    self.insert(namespace, &Batch::from_documents([document]), false).await?;
                if report.duplicates.is_empty() {
                    continue;
                }
                return Err(classify_write_error(&error, &what));
            }
            return Err(classify_write_error(
                &error,
                &format!("cannot replace a document of {namespace}"),
            ));
        }
        Ok(())
    }

    async fn delete(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) -> Result<()> {
        let statements: Vec<RawDocumentBuf> = ids
            .iter()
            .map(|id| {
                let mut statement = RawDocumentBuf::new();
                statement.append(cstr!("q"), equals_id(id));
                statement.append(cstr!("limit"), 1);
                statement
            })
            .collect();
        let failed =
            self.statements(namespace, cstr!("delete"), cstr!("deletes"), &statements).await?;
        match failed.first() {
            None => Ok(()),
            Some((_, error)) => {
                Err(classify_write_error(error, &format!("cannot delete documents of {namespace}")))
            }
        }
    }

    async fn read(&self, request: ReadBack) -> Result<Option<Box<dyn BatchReader>>> {
        source::readback::read(&self.connection, &request).await
    }

    async fn fetch(&self, namespace: &Namespace, ids: &[RawDocumentBuf]) -> Result<Fetched> {
        source::readback::fetch(&self.connection, namespace, ids).await
    }

    async fn empty(&self, namespace: &Namespace, bounds: &Bounds) -> Result<u64> {
        let what = format!("cannot read the ids of {namespace}");
        let mut removed = 0;
        loop {
            let mut find = rawdoc! {
                "find": namespace.collection(),
                "projection": { "_id": 1 },
                "limit": EMPTY_CHUNK,
                "batchSize": EMPTY_CHUNK,
                "readConcern": { "level": "majority" },
            };
            if *bounds != Bounds::default() {
                source::append_bounds(&mut find, bounds);
            }
            let ids = retry(&what, || {
                source::collect(&self.connection, namespace.database(), find.clone(), &what)
            })
            .await?;
            if ids.is_empty() {
                return Ok(removed);
            }
            removed += u64::try_from(ids.len()).unwrap_or_default();
            self.delete(namespace, &ids).await?;
        }
    }

    async fn create_indexes(
        &self,
        namespace: &Namespace,
        uuid: Option<Uuid>,
        specs: &[RawDocumentBuf],
    ) -> Result<()> {
        if specs.is_empty() {
            return Ok(());
        }
        let what = format!("cannot create indexes of {namespace}");
        let indexes: Vec<Bson> = specs
            .iter()
            .map(|spec| {
                Document::try_from(spec.as_ref())
                    .map(Bson::Document)
                    .map_err(|e| Error::new(Kind::IndexBuildFailed, what.clone()).caused_by(e))
            })
            .collect::<Result<_>>()?;
        let mut command = doc! {
            "createIndexes": namespace.collection(), "indexes": indexes,
            // Old servers kept options that mean nothing.
            "ignoreUnknownIndexOptions": true, "writeConcern": durable(),
        };
        if let Some(uuid) = uuid {
            // Without it the server would make a collection for the indexes where there is none.
            command.insert("collectionUUID", uuid);
        }
        self.run(namespace.database(), command, &[], &what, Kind::IndexBuildFailed).await
    }

    async fn index_builds(&self) -> Result<usize> {
        let what = "cannot read the number of index builds";
        let reply = retry(what, || async {
            self.connection
                .client
                .database("admin")
                .run_command(doc! { "getParameter": 1, "maxNumActiveUserIndexBuilds": 1 })
                .await
                .map_err(|e| classify(&e, what, Kind::ReadFailed))
        })
        .await;
        // A user without the privilege to ask still gets what every server does.
        let builds = reply.ok().and_then(|reply| reply.get_i32("maxNumActiveUserIndexBuilds").ok());
        Ok(builds.and_then(|builds| usize::try_from(builds).ok()).unwrap_or(INDEX_BUILDS).max(1))
    }

    async fn drop_indexes(&self, namespace: &Namespace, names: &[&str]) -> Result<()> {
        let index = match names {
            [] => return Ok(()),
            [name] => Bson::from(*name),
            names => Bson::from(names.to_vec()),
        };
        let what = format!("cannot drop index {} of {namespace}", names.join(", "));
        let command = doc! {
            "dropIndexes": namespace.collection(), "index": index, "writeConcern": durable(),
        };
        self.run(
            namespace.database(),
            command,
            &[INDEX_NOT_FOUND, NAMESPACE_NOT_FOUND],
            &what,
            Kind::IndexBuildFailed,
        )
        .await
    }

    async fn modify(&self, namespace: &Namespace, fields: Document) -> Result<()> {
        let what = format!("cannot modify {namespace}");
        let mut command = doc! { "collMod": namespace.collection() };
        command.extend(fields);
        command.insert("writeConcern", durable());
        self.run(namespace.database(), command, &[], &what, Kind::IndexBuildFailed).await
    }

    async fn block_user_writes(&self, blocked: bool) -> Result<()> {
        blocking::block_user_writes(&self.connection, blocked).await
    }

    async fn wait_for_process(&self, tag: &str) -> Result<()> {
        underway::wait_for_process(&self.connection, tag).await
    }

    async fn wait_for_writes(&self, tag: &str) -> Result<()> {
        underway::wait_for_writes(&self.connection, tag).await
    }

    async fn is_blocked(&self) -> Result<bool> {
        blocking::is_blocked(&self.connection).await
    }

    async fn blocking_rights(&self) -> Result<BlockingRights> {
        blocking::blocking_rights(&self.connection).await
    }

    async fn ping(&self) -> Result<u64> {
        source::ping(&self.connection).await
    }
}
