//! What a cluster holds: databases, collections, indexes. Used for both sides.

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use futures_util::{StreamExt, TryStreamExt};

use super::{batch_of, cursor};
use crate::{
    error::{Error, Kind, Result},
    model::Namespace,
    mongo::{
        classify::{NAMESPACE_NOT_FOUND, classify, code_of},
        client::Connection,
        retry::retry,
    },
    ports::{CollectionInfo, CollectionKind},
};

/// Listings asked for at the same time.
const LISTING_CONCURRENCY: usize = 16;

/// Lists user databases, in alphabetical order.
async fn databases(connection: &Connection) -> Result<Vec<String>> {
    let what = format!("{}: cannot list databases", connection.label);
    let mut names = retry(&what, || async {
        connection
            .client
            .list_database_names()
            .await
            .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))
    })
    .await?;
    names.retain(|name| {
        !matches!(name.as_str(), "admin" | "config" | "local")
            && !name.starts_with("__mdb_internal")
    });
    names.sort();
    Ok(names)
}

/// Lists every user collection and view of a cluster. Used for both sides.
pub(in crate::mongo) async fn list(connection: &Connection) -> Result<Vec<CollectionInfo>> {
    list_of(connection, databases(connection).await?).await
}

/// Lists every user collection and view of these databases.
pub(super) async fn list_of(
    connection: &Connection,
    databases: impl IntoIterator<Item = String> + Send,
) -> Result<Vec<CollectionInfo>> {
    let mut all = Vec::new();
    let databases: Vec<String> = databases.into_iter().collect();
    for database in databases {
        let what = format!("{}: cannot list the collections of {database}", connection.label);
        let entries: Vec<Document> = retry(&what, || async {
            let cursor = connection
                .client
                .database(&database)
                .run_cursor_command(doc! { "listCollections": 1 })
                .await
                .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))?;
            cursor.try_collect().await.map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))
        })
        .await?;
        let infos = futures_util::stream::iter(entries)
            .map(|entry| describe(connection, &database, entry))
            .buffered(LISTING_CONCURRENCY)
            .try_filter_map(|info| async move { Ok(info) })
            .try_collect::<Vec<_>>()
            .await?;
        all.extend(infos);
    }
    Ok(all)
}

/// One entry of `listCollections` with its indexes; `None` for what is not the user's.
async fn describe(
    connection: &Connection,
    database: &str,
    entry: Document,
) -> Result<Option<CollectionInfo>> {
    let Ok(name) = entry.get_str("name") else { return Ok(None) };
    if name.starts_with("system.") {
        return Ok(None);
    }
    let namespace = Namespace::new(database, name)?;
    let kind = match entry.get_str("type") {
        Ok("view") => CollectionKind::View,
        Ok("timeseries") => CollectionKind::TimeSeries,
        _ => CollectionKind::Collection,
    };
    let unreadable = |e: bson::error::Error| {
        Error::new(Kind::ReadFailed, format!("{namespace}: unreadable options")).caused_by(e)
    };
    let options = match entry.get_document("options") {
        Ok(options) => RawDocumentBuf::try_from(options).map_err(unreadable)?,
        Err(_) => RawDocumentBuf::new(),
    };
    let uuid =
        entry.get_document("info").ok().and_then(|info| info.get("uuid")).and_then(|value| {
            match value {
                bson::Bson::Binary(binary) => binary.to_uuid().ok(),
                _ => None,
            }
        });
    let indexes = if kind == CollectionKind::Collection {
        list_indexes(connection, &namespace).await?
    } else {
        Vec::new()
    };
    Ok(Some(CollectionInfo { namespace, kind, uuid, options, indexes }))
}

/// Index specifications of a collection; none when it is gone.
async fn list_indexes(
    connection: &Connection,
    namespace: &Namespace,
) -> Result<Vec<RawDocumentBuf>> {
    let what = format!("{}: cannot list the indexes of {namespace}", connection.label);
    retry(&what, || async {
        // An index that is being built is told by an event when it is done, and else never comes to be.
        let command = rawdoc! { "listIndexes": namespace.collection(), "includeBuildUUIDs": true };
        let opened = cursor(connection, namespace.database(), command, 1_000, None).await;
        let mut answers = match opened {
            Err(e) if code_of(&e) == Some(NAMESPACE_NOT_FOUND) => return Ok(Vec::new()),
            other => other.map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))?,
        };
        let mut specs = Vec::new();
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))?;
            for spec in batch_of(&answer)?.documents() {
                let spec = spec?;
                if !matches!(spec.get("buildUUID"), Ok(Some(_))) {
                    specs.push(spec.to_owned());
                }
            }
        }
        Ok(specs)
    })
    .await
}
