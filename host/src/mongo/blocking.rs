//! The write block of a cluster, the same on both sides.

use bson::{Bson, doc};

use super::{classify::classify, client::Connection, retry::retry};
use crate::{
    error::{Kind, Result},
    ports::BlockingRights,
};

/// What blocking user writes takes: to set the block, to write in spite of it, and to look first.
const ACTIONS: [&str; 3] = ["setUserWriteBlockMode", "bypassWriteBlockingMode", "serverStatus"];
/// `repl.userWriteBlockMode` of a server that blocks.
const ENABLED: i64 = 2;

/// Whether the connection's user may block user writes and write in spite of it.
///
/// # Errors
/// Those of the server.
pub(super) async fn blocking_rights(connection: &Connection) -> Result<BlockingRights> {
    let what = format!("{}: cannot read the connection's privileges", connection.label);
    let reply = retry(&what, || async {
        connection
            .client
            .database("admin")
            .run_command(doc! { "connectionStatus": 1, "showPrivileges": true })
            .await
            .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))
    })
    .await?;
    let list = |name: &str| {
        reply
            .get_document("authInfo")
            .and_then(|info| info.get_array(name))
            .map(Vec::as_slice)
            .unwrap_or_default()
    };
    if list("authenticatedUsers").is_empty() {
        return Ok(BlockingRights::NoUsers);
    }
    let mut lacking = ACTIONS.to_vec();
    for privilege in list("authenticatedUserPrivileges").iter().filter_map(Bson::as_document) {
        let is_cluster = privilege.get_document("resource").is_ok_and(|resource| {
            resource.contains_key("cluster") || resource.contains_key("anyResource")
        });
        let Ok(actions) = privilege.get_array("actions") else { continue };
        let grants = |name: &str| {
            actions.iter().any(|a| a.as_str().is_some_and(|a| a == name || a == "anyAction"))
        };
        lacking.retain(|action| !(is_cluster && grants(action)));
    }
    Ok(if lacking.is_empty() { BlockingRights::Full } else { BlockingRights::Lacks(lacking) })
}

/// Whether user writes are blocked now.
///
/// # Errors
/// Those of the server.
pub(super) async fn is_blocked(connection: &Connection) -> Result<bool> {
    let what = format!("{}: cannot read the user write block", connection.label);
    let reply = retry(&what, || async {
        connection
            .client
            .database("admin")
            .run_command(doc! { "serverStatus": 1, "repl": 1 })
            .await
            .map_err(|e| classify(&e, what.clone(), Kind::ReadFailed))
    })
    .await?;
    let mode = reply.get_document("repl").ok().and_then(|repl| repl.get("userWriteBlockMode"));
    Ok(match mode {
        Some(Bson::Int32(mode)) => i64::from(*mode) == ENABLED,
        Some(Bson::Int64(mode)) => *mode == ENABLED,
        _ => false,
    })
}

/// `setUserWriteBlockMode`. Repeatable.
///
/// # Errors
/// Those of the server.
pub(super) async fn block_user_writes(connection: &Connection, blocked: bool) -> Result<()> {
    let what = format!("{}: cannot change the user write block", connection.label);
    retry(&what, || async {
        connection
            .client
            .database("admin")
            .run_command(doc! { "setUserWriteBlockMode": 1, "global": blocked })
            .await
            .map(|_| ())
            .map_err(|e| classify(&e, what.clone(), Kind::WriteFailed))
    })
    .await
}
