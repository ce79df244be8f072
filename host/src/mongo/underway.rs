//! What is under way on a server: operations that outlive the connection they came by.
//!
//! A server goes on with a write whose client has died or lost the network. Before anything is
//! written that such a write could undo, we wait until it is over. Everyone may see their own
//! operations; no privilege is needed.

use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use tokio::time::Instant;

use super::{
    classify::classify,
    client::{Connection, app_name},
    retry::retry,
};
use crate::error::{Kind, Result};

/// How often we look.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a connection of a dead process may stay open with nothing under way. Its server reads
/// what is left in the socket and then sees the end; only a host that fell silent keeps longer.
const IDLE_PATIENCE: Duration = Duration::from_secs(5);

/// Waits until a process has neither an operation nor (for a while) a connection on the server.
///
/// # Errors
/// Those of the server.
pub(super) async fn wait_for_process(connection: &Connection, tag: &str) -> Result<()> {
    let begin = Instant::now();
    let mut told = false;
    loop {
        let found = look(connection, doc! { "appName": app_name(tag) }, true).await?;
        let active = found.iter().filter(|op| op.get_bool("active").unwrap_or(false)).count();
        if found.is_empty() || (active == 0 && begin.elapsed() >= IDLE_PATIENCE) {
            return Ok(());
        }
        if !told && active > 0 {
            tracing::info!(active, "waiting for operations of a former process to end");
            told = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What changes documents or collections, index builds apart, which go on by themselves.
const WRITES: [&str; 8] =
    ["insert", "update", "delete", "create", "drop", "renameCollection", "collMod", "dropIndexes"];

/// Waits until a process has no write under way; it may go on with other things meanwhile.
///
/// # Errors
/// Those of the server.
pub(super) async fn wait_for_writes(connection: &Connection, tag: &str) -> Result<()> {
    let writes = WRITES.map(|name| doc! { format!("command.{name}"): { "$exists": true } });
    let filter = doc! { "appName": app_name(tag), "active": true, "$or": writes.to_vec() };
    while !look(connection, filter.clone(), false).await?.is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until no operation with this comment is under way.
///
/// # Errors
/// Those of the server.
pub(super) async fn wait_for_comment(connection: &Connection, comment: &str) -> Result<()> {
    while !look(connection, doc! { "command.comment": comment }, false).await?.is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Operations that match, and idle connections too when asked for. A driver's monitor, which hangs
/// on the server with a `hello`, does not count.
async fn look(connection: &Connection, filter: Document, idle: bool) -> Result<Vec<Document>> {
    let what = format!("{}: cannot look at what is under way", connection.label);
    retry(&what, || async {
        connection
            .client
            .database("admin")
            .aggregate([
                doc! { "$currentOp": { "allUsers": false, "idleConnections": idle } },
                doc! { "$match": filter.clone() },
                doc! { "$match": {
                    "command.hello": { "$exists": false },
                    "command.isMaster": { "$exists": false },
                    "command.ismaster": { "$exists": false },
                } },
                doc! { "$project": { "active": 1 } },
            ])
            .await
            .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))?
            .try_collect()
            .await
            .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))
    })
    .await
}
