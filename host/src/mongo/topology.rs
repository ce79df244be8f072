//! What a cluster is: set name, identity, version, and its newest operation time.

use bson::{Document, doc};
use mongodb::Client;

use super::classify::{classify, code_of};
use crate::{
    error::{Error, Kind, Result},
    model::ClusterTime,
    ports::ClusterInfo,
};

/// Asks the primary what cluster it belongs to. Also proves that the credentials work.
///
/// # Errors
/// `NotReplicaSet` for a standalone; otherwise as classified.
pub(super) async fn inspect(client: &Client) -> Result<ClusterInfo> {
    let admin = client.database("admin");
    let run = async |command: Document, what: &str| {
        admin.run_command(command).await.map_err(|e| classify(&e, what, Kind::ReadFailed))
    };
    let hello = run(doc! { "hello": 1 }, "cannot say hello").await?;
    let routed = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if routed {
        return Err(Error::new(
            Kind::NotReplicaSet,
            "the connection string leads to a mongos; sharded clusters cannot be synced yet",
        ));
    }
    let set_name = hello.get_str("setName").ok().map(str::to_owned);
    if set_name.is_none() {
        return Err(Error::new(
            Kind::NotReplicaSet,
            "the server is a standalone; a sync needs a replica set",
        ));
    }
    // Needs no privilege but a valid login, which `hello` does not.
    run(
        doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true },
        "cannot log in",
    )
    .await?;
    let build = run(doc! { "buildInfo": 1 }, "cannot read the server's version").await?;
    let version = build
        .get_array("versionArray")
        .map(|parts| parts.iter().filter_map(|p| p.as_i32().map(i64::from)).collect())
        .unwrap_or_default();
    let mut hosts: Vec<String> = hello
        .get_array("hosts")
        .map(|hosts| hosts.iter().filter_map(|h| h.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    hosts.sort();
    let identity = match admin.run_command(doc! { "replSetGetConfig": 1 }).await {
        Ok(reply) => reply
            .get_document("config")
            .and_then(|config| config.get_document("settings"))
            .and_then(|settings| settings.get_object_id("replicaSetId"))
            .map(bson::oid::ObjectId::to_hex)
            .ok(),
        Err(error) if code_of(&error).is_some() => None,
        Err(error) => {
            return Err(classify(
                &error,
                "cannot read the replica set's configuration",
                Kind::ReadFailed,
            ));
        }
    };
    let primary = hello
        .get_str("primary")
        .or_else(|_| hello.get_str("me"))
        .map(str::to_owned)
        .unwrap_or_default();
    let fallback = || format!("{}/{}", set_name.clone().unwrap_or_default(), hosts.join(","));
    Ok(ClusterInfo {
        identity: identity.unwrap_or_else(fallback),
        set_name,
        hosts,
        version,
        primary,
    })
}

/// Newest majority-committed operation time, as the primary tells it.
///
/// # Errors
/// As classified; `ReadFailed` when the server tells no time.
pub(super) async fn newest_time(client: &Client) -> Result<ClusterTime> {
    let reply = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await
        .map_err(|e| classify(&e, "cannot read the cluster's time", Kind::ReadFailed))?;
    let from_hello = reply
        .get_document("lastWrite")
        .and_then(|last| last.get_document("majorityOpTime"))
        .and_then(|time| time.get_timestamp("ts"));
    from_hello.or_else(|_| reply.get_timestamp("operationTime")).map(ClusterTime::from).map_err(
        |e| Error::new(Kind::ReadFailed, "the server tells no operation time").caused_by(e),
    )
}
