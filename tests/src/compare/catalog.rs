//! Collections, views and indexes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use mongodb::{
    Client,
    bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc},
};

use super::report::Collector;

/// What kind of namespace it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A collection.
    Collection,
    /// A view.
    View,
    /// A time-series collection.
    Timeseries,
}

/// One entry of a listing.
#[derive(Debug)]
pub(super) struct Collection {
    /// Database.
    database: String,
    /// Collection name without the database.
    name: String,
    /// Both.
    namespace: String,
    /// `type` of the listing.
    kind: Kind,
    /// `options` of the listing.
    options: RawDocumentBuf,
}

impl Collection {
    /// Database.
    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// Collection name without the database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// `database.collection`
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What it is.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is capped, so that natural order counts.
    pub(super) fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }
}

/// Lists a database. System collections are left out: views are listed as such, and the rest belongs to
/// the server.
pub(super) async fn list(client: &Client, database: &str) -> Result<Vec<Collection>> {
    let handle = client.database(database);
    let cursor = handle.run_raw_cursor_command(rawdoc! { "listCollections": 1 }).await?;
    let entries = raw_documents(cursor).await?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.get_str("name")?.to_owned();
        if name.starts_with("system.") {
            continue;
        }
        let kind = match entry.get_str("type")? {
            "view" => Kind::View,
            "timeseries" => Kind::Timeseries,
            _ => Kind::Collection,
        };
        found.push(Collection {
            database: database.to_owned(),
            namespace: format!("{database}.{name}"),
            name,
            kind,
            options: entry.get_document("options")?.to_owned(),
        });
    }
    found.sort_by(|one: &Collection, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Compares type and options; for a view the options are its definition.
pub(super) fn compare(ours: &Collection, theirs: &Collection, collector: &mut Collector) {
    if ours.kind != theirs.kind {
        let what = format!("is a {:?} on the source, a {:?} there", ours.kind, theirs.kind);
        collector.add(&ours.namespace, what);
    }
    if ours.options.as_bytes() != theirs.options.as_bytes() {
        let what = format!("options differ: {} | {}", show(&ours.options), show(&theirs.options));
        collector.add(&ours.namespace, what);
    }
}

/// Compares the indexes by name: every field of the specification must be equal in type and value. The
/// order of the fields within a specification does not count, the order within its `key` does.
pub(super) async fn compare_indexes(
    source: (&Client, &Collection),
    destination: (&Client, &Collection),
    collector: &mut Collector,
) -> Result<()> {
    let ours = indexes(source).await?;
    let theirs = indexes(destination).await?;
    let namespace = source.1.namespace();
    for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
        collector.add(namespace, format!("index {name} is only on the destination"));
    }
    for (name, spec) in &ours {
        collector.report.indexes += 1;
        match theirs.get(name) {
            None => collector.add(namespace, format!("index {name} is missing")),
            Some(other) => {
                if fields(spec)? != fields(other)? {
                    let what = format!("index {name} differs: {} | {}", show(spec), show(other));
                    collector.add(namespace, what);
                }
            }
        }
    }
    Ok(())
}

/// Index specifications by name.
async fn indexes(
    (client, collection): (&Client, &Collection),
) -> Result<BTreeMap<String, RawDocumentBuf>> {
    let command = rawdoc! { "listIndexes": collection.name.as_str() };
    let cursor = client.database(&collection.database).run_raw_cursor_command(command).await?;
    let mut found = BTreeMap::new();
    for spec in raw_documents(cursor).await? {
        found.insert(spec.get_str("name").context("an index without a name")?.to_owned(), spec);
    }
    Ok(found)
}

/// Fields of a specification with the bytes of their values, the type byte included.
fn fields(spec: &RawDocument) -> Result<BTreeMap<String, RawDocumentBuf>> {
    let mut found = BTreeMap::new();
    for element in spec {
        let (key, value): (&bson::raw::CStr, RawBsonRef<'_>) = element?;
        let mut single = RawDocumentBuf::new();
        single.append(bson::cstr!("v"), value);
        found.insert(key.as_str().to_owned(), single);
    }
    Ok(found)
}

/// Reads a cursor to its end.
async fn raw_documents(
    cursor: mongodb::Cursor<mongodb::bson::Document>,
) -> Result<Vec<RawDocumentBuf>> {
    Ok(cursor.with_type::<RawDocumentBuf>().try_collect().await?)
}

/// A raw document as readable text.
pub(super) fn show(raw: &RawDocument) -> String {
    Document::try_from(raw)
        .map_or_else(|error| error.to_string(), |document| format!("{document:?}"))
}
