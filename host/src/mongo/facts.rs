//! What a cluster tells of itself for a preflight. What its user may not read is left unknown.

use std::collections::HashMap;

use bson::{Bson, Document, doc};

use super::{
    classify::{classify, code_of},
    client::Connection,
    retry::retry,
};
use crate::{
    error::{Kind, Result},
    model::{
        ClusterTime, Namespace,
        facts::{Access, ClusterFacts, DiskSpace, OplogSpan, Privilege, Resource},
    },
};

/// `repl.userWriteBlockMode` of a server that blocks user writes.
const USER_WRITES_BLOCKED: i64 = 2;

/// Asks a cluster everything; used for both sides.
///
/// # Errors
/// Those of a connection that a retry does not mend. What the server refuses to tell is `None`.
pub(super) async fn facts(connection: &Connection) -> Result<ClusterFacts> {
    let hello = ask(connection, "admin", doc! { "hello": 1 }).await?.unwrap_or_default();
    let count = |key: &str| hello.get_array(key).map_or(0, Vec::len);
    let version =
        ask(connection, "admin", doc! { "getParameter": 1, "featureCompatibilityVersion": 1 })
            .await?;
    let status = doc! { "serverStatus": 1, "metrics": 0, "wiredTiger": 0, "locks": 0 };
    let status = ask(connection, "admin", status).await?;
    let disk = ask(connection, "admin", doc! { "dbStats": 1 }).await?;
    Ok(ClusterFacts {
        feature_version: version.as_ref().and_then(feature_version),
        data_members: count("hosts") + count("passives"),
        arbiters: count("arbiters"),
        access: access(connection).await?,
        oplog: oplog(connection).await?,
        disk: disk.and_then(|stats| {
            Some(DiskSpace {
                total_bytes: bytes(&stats, "fsTotalSize").filter(|total| *total > 0)?,
                used_bytes: bytes(&stats, "fsUsedSize")?,
            })
        }),
        user_writes_blocked: status.and_then(|status| {
            let mode = status.get_document("repl").ok()?.get("userWriteBlockMode")?;
            whole(mode).map(|mode| mode == USER_WRITES_BLOCKED)
        }),
    })
}

/// Bytes on disk of a collection with its indexes; 0 when it is gone or may not be asked.
///
/// # Errors
/// As [`facts`].
pub(super) async fn stored_bytes(connection: &Connection, namespace: &Namespace) -> Result<u64> {
    let command = doc! { "collStats": namespace.collection() };
    let stats = ask(connection, namespace.database(), command).await?.unwrap_or_default();
    let size = |key: &str| bytes(&stats, key).unwrap_or(0);
    Ok(size("storageSize").saturating_add(size("totalIndexSize")))
}

/// The format of each index of a collection, by name (`formatVersion` of `collStats`); empty when it
/// is gone or may not be asked.
///
/// # Errors
/// As [`facts`].
pub(super) async fn index_formats(
    connection: &Connection,
    namespace: &Namespace,
) -> Result<HashMap<String, i64>> {
    let command = doc! { "collStats": namespace.collection() };
    let stats = ask(connection, namespace.database(), command).await?.unwrap_or_default();
    let details = stats.get_document("indexDetails").into_iter().flatten();
    Ok(details
        .filter_map(|(name, detail)| {
            let metadata = detail.as_document()?.get_document("metadata").ok()?;
            Some((name.clone(), whole(metadata.get("formatVersion")?)?))
        })
        .collect())
}

/// Bytes of the documents of a database, and on disk with indexes.
///
/// # Errors
/// As [`facts`].
pub(super) async fn database_bytes(
    connection: &Connection,
    database: &str,
) -> Result<Option<(u64, u64)>> {
    let stats = ask(connection, database, doc! { "dbStats": 1 }).await?;
    Ok(stats.map(|stats| {
        let size = |key: &str| bytes(&stats, key).unwrap_or(0);
        (size("dataSize"), size("storageSize").saturating_add(size("indexSize")))
    }))
}

/// Runs a command; `None` when the server refuses it.
async fn ask(
    connection: &Connection,
    database: &str,
    command: Document,
) -> Result<Option<Document>> {
    let name = command.keys().next().cloned().unwrap_or_default();
    let what = format!("{}: cannot run {name}", connection.label);
    retry(&what, || async {
        match connection.client.database(database).run_command(command.clone()).await {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => {
                let classified = classify(&error, what.clone(), Kind::ReadFailed);
                if code_of(&error).is_some() && !classified.is_transient() {
                    tracing::debug!(error = %classified.full(), "the cluster does not tell");
                    Ok(None)
                } else {
                    Err(classified)
                }
            }
        }
    })
    .await
}

/// Who we are. A user on a server without access control counts as none.
async fn access(connection: &Connection) -> Result<Access> {
    let command = doc! { "connectionStatus": 1, "showPrivileges": true };
    let status = ask(connection, "admin", command).await?.unwrap_or_default();
    let info = status.get_document("authInfo").cloned().unwrap_or_default();
    let users = info.get_array("authenticatedUsers").map_or(0, Vec::len);
    if users == 0 {
        return Ok(Access::Open);
    }
    let privileges: Vec<Privilege> = info
        .get_array("authenticatedUserPrivileges")
        .map(|all| all.iter().filter_map(Bson::as_document).filter_map(privilege).collect())
        .unwrap_or_default();
    let access = Access::User(privileges);
    let command = doc! { "getCmdLineOpts": 1 };
    // Nobody without the privilege is told, unless nothing is checked at all.
    if !access.allows("getCmdLineOpts", &Resource::Cluster)
        && ask(connection, "admin", command).await?.is_some()
    {
        return Ok(Access::Open);
    }
    Ok(access)
}

/// One privilege; `None` for a resource that no action of ours is about.
fn privilege(document: &Document) -> Option<Privilege> {
    let resource = document.get_document("resource").ok()?;
    let resource = if resource.get_bool("anyResource").unwrap_or(false) {
        Resource::Any
    } else if resource.get_bool("cluster").unwrap_or(false) {
        Resource::Cluster
    } else {
        Resource::of(resource.get_str("db").ok()?, resource.get_str("collection").ok()?)
    };
    let actions = document.get_array("actions").ok()?;
    let actions = actions.iter().filter_map(Bson::as_str).map(str::to_owned).collect();
    Some(Privilege { resource, actions })
}

/// The feature compatibility version, in numbers.
fn feature_version(reply: &Document) -> Option<Vec<i64>> {
    let text = reply.get_document("featureCompatibilityVersion").ok()?.get_str("version").ok()?;
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// From when to when the oplog reaches.
async fn oplog(connection: &Connection) -> Result<Option<OplogSpan>> {
    let end = async |order: i32| -> Result<Option<ClusterTime>> {
        let find = doc! {
            "find": "oplog.rs", "sort": { "$natural": order }, "limit": 1, "projection": { "ts": 1 },
        };
        let reply = ask(connection, "local", find).await?;
        Ok(reply.and_then(|reply| {
            let batch = reply.get_document("cursor").ok()?.get_array("firstBatch").ok()?;
            let entry = batch.first()?.as_document()?;
            entry.get_timestamp("ts").ok().map(ClusterTime::from)
        }))
    };
    let (Some(first), Some(last)) = (end(1).await?, end(-1).await?) else { return Ok(None) };
    let stats = ask(connection, "local", doc! { "collStats": "oplog.rs" }).await?;
    let size = |key: &str| stats.as_ref().and_then(|stats| bytes(stats, key)).unwrap_or(0);
    Ok(Some(OplogSpan { first, last, bytes: size("size"), max_bytes: size("maxSize") }))
}

/// A number of bytes, in whatever numeric type the server sends it.
fn bytes(document: &Document, key: &str) -> Option<u64> {
    document.get(key).and_then(whole).map(|number| number.max(0).unsigned_abs())
}

/// A whole number of any numeric type.
fn whole(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        // The server counts bytes in doubles; they are whole and far below 2^53.
        #[allow(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_read_as_the_server_writes_them() {
        let read = |document: Document| privilege(&document).map(|p| (p.resource, p.actions));
        let actions = vec!["find".to_owned()];
        for (resource, expected) in [
            (doc! { "cluster": true }, Some(Resource::Cluster)),
            (doc! { "anyResource": true }, Some(Resource::Any)),
            (doc! { "db": "", "collection": "" }, Some(Resource::everywhere())),
            (doc! { "db": "a", "collection": "b" }, Some(Resource::of("a", "b"))),
            (doc! { "system_buckets": "" }, None),
        ] {
            let found = read(doc! { "resource": resource, "actions": ["find"] });
            assert_eq!(found, expected.map(|resource| (resource, actions.clone())));
        }
    }

    #[test]
    fn versions_and_sizes_come_in_several_types() {
        let reply = doc! { "featureCompatibilityVersion": { "version": "6.0" } };
        assert_eq!(feature_version(&reply), Some(vec![6, 0]));
        let sizes = doc! { "a": 7_i32, "b": 8_i64, "c": 9.0, "d": "10", "e": -1 };
        let read: Vec<Option<u64>> =
            ["a", "b", "c", "d", "e", "f"].map(|k| bytes(&sizes, k)).into();
        assert_eq!(read, [Some(7), Some(8), Some(9), None, Some(0), None]);
    }
}
