//! What a sync does on a cluster, as privileges; one table for the check and for the roles that
//! `--print-roles` prints.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Document, doc};

use crate::engine::blocking;
use crate::model::{
    facts::{Access, Resource},
    options::{StartOptions, WriteBlocking},
};

/// A cluster by its part in the sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The cluster that is read.
    Source,
    /// The cluster that is written to.
    Destination,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Source, Self::Destination];

    /// `source` or `destination`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// Name of the role that is printed.
    fn role(self) -> &'static str {
        match self {
            Self::Source => "synclineSource",
            Self::Destination => "synclineDestination",
        }
    }
}

/// Without which the sync goes how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// It fails.
    Required,
    /// It cannot be reversed.
    Reverse,
    /// It goes, but a check or a warning is missing.
    Advised,
}

/// One action on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    /// The server's name of the action.
    pub(super) action: &'static str,
    /// On what.
    pub(super) resource: Resource,
    /// How badly.
    pub(super) weight: Weight,
}

/// Cluster-wide actions on the source.
const SOURCE_CLUSTER: &[&str] = &["appendOplogNote", "listDatabases"];
/// Actions on the source's collections.
const SOURCE_COLLECTIONS: &[&str] =
    &["changeStream", "collStats", "find", "listCollections", "listIndexes"];
/// Cluster-wide actions on the destination.
const DESTINATION_CLUSTER: &[&str] = &["listDatabases"];
/// Actions on the destination's collections.
const DESTINATION_COLLECTIONS: &[&str] = &[
    "bypassDocumentValidation",
    "collMod",
    "convertToCapped",
    "createCollection",
    "createIndex",
    "dropCollection",
    "dropIndex",
    "find",
    "insert",
    "listCollections",
    "listIndexes",
    "remove",
    "renameCollectionSameDB",
    "update",
];
/// Actions of a write block.
const WRITE_BLOCK: &[&str] = &["bypassWriteBlockingMode", "serverStatus", "setUserWriteBlockMode"];
/// Cluster-wide actions that only tell.
const TELLING: &[&str] = &["getParameter", "replSetGetConfig", "serverStatus"];
/// Actions that tell how far the oplog reaches.
const OPLOG: &[&str] = &["collStats", "find"];

/// Whether the options ask for a write block on a side.
pub(super) fn blocks_writes(side: Side, options: &StartOptions) -> bool {
    match blocking::mode(options) {
        WriteBlocking::None => false,
        WriteBlocking::DestinationOnly => side == Side::Destination,
        WriteBlocking::SourceAndDestination => true,
    }
}

/// Everything a sync with these options does on a side.
pub(super) fn needs(side: Side, options: &StartOptions) -> Vec<Need> {
    let mut all = Vec::new();
    let mut add = |actions: &[&'static str], resource: Resource, weight: Weight| {
        for action in actions {
            let need = Need { action, resource: resource.clone(), weight };
            if !all.iter().any(|n: &Need| n.action == need.action && n.resource == need.resource) {
                all.push(need);
            }
        }
    };
    for role in Side::ALL {
        let weight = match (role == side, options.reversible) {
            (true, _) => Weight::Required,
            (false, true) => Weight::Reverse,
            (false, false) => continue,
        };
        let (cluster, collections) = match role {
            Side::Source => (SOURCE_CLUSTER, SOURCE_COLLECTIONS),
            Side::Destination => (DESTINATION_CLUSTER, DESTINATION_COLLECTIONS),
        };
        add(cluster, Resource::Cluster, weight);
        add(collections, Resource::everywhere(), weight);
        if blocks_writes(role, options) {
            add(WRITE_BLOCK, Resource::Cluster, weight);
        }
    }
    add(TELLING, Resource::Cluster, Weight::Advised);
    add(OPLOG, Resource::of("local", "oplog.rs"), Weight::Advised);
    add(&["dbStats"], Resource::of("admin", ""), Weight::Advised);
    all.sort_by_key(|need| need.weight);
    all
}

/// What of the needs a user may not do. A need on every collection is met, too, by one privilege
/// for each database that the sync touches; but for reading the change stream, which is one of
/// the whole cluster.
pub(super) fn missing(
    access: &Access,
    needs: &[Need],
    side: Side,
    databases: &BTreeSet<String>,
) -> Vec<Need> {
    let by_database = |need: &Need| {
        need.resource == Resource::everywhere()
            && !databases.is_empty()
            && !(side == Side::Source && matches!(need.action, "changeStream" | "find"))
            && databases.iter().all(|name| access.allows(need.action, &Resource::of(name, "")))
    };
    needs
        .iter()
        .filter(|need| !access.allows(need.action, &need.resource) && !by_database(need))
        .cloned()
        .collect()
}

/// A privilege in words: `find on every database`.
pub(super) fn in_words(need: &Need) -> String {
    let place = match &need.resource {
        Resource::Cluster => "the cluster".to_owned(),
        Resource::Any => "everything".to_owned(),
        Resource::Collections { database, collection } => {
            match (database.as_str(), collection.as_str()) {
                ("", _) => "every database".to_owned(),
                (database, "") => format!("the database {database}"),
                (database, collection) => format!("{database}.{collection}"),
            }
        }
    };
    format!("{} on {place}", need.action)
}

/// The `createRole` command of a side, with everything that a sync with these options uses.
pub fn role(side: Side, options: &StartOptions) -> Document {
    let mut by_resource: BTreeMap<Resource, BTreeSet<&'static str>> = BTreeMap::new();
    for need in needs(side, options) {
        by_resource.entry(need.resource).or_default().insert(need.action);
    }
    let privileges: Vec<Document> = by_resource
        .into_iter()
        .map(|(resource, actions)| {
            let resource = match resource {
                Resource::Cluster => doc! { "cluster": true },
                Resource::Any => doc! { "anyResource": true },
                Resource::Collections { database, collection } => {
                    doc! { "db": database, "collection": collection }
                }
            };
            doc! { "resource": resource, "actions": actions.into_iter().collect::<Vec<_>>() }
        })
        .collect();
    doc! { "createRole": side.role(), "privileges": privileges, "roles": [] }
}
