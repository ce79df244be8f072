//! Preflight: may these clusters be synced.

use super::{filter::NamespaceFilter, remap::Remap};
use crate::{
    error::{Error, Kind, Result},
    model::options::{StartOptions, WriteBlocking},
    ports::{ClusterInfo, CollectionInfo, CollectionKind, Destination, Source},
};

/// Names in a message at most.
const NAMES_SHOWN: usize = 20;

/// Refuses two connection strings that lead to the same cluster.
///
/// # Errors
/// `SameCluster`.
pub(crate) fn check_distinct(source: &ClusterInfo, destination: &ClusterInfo) -> Result<()> {
    if source.identity == destination.identity {
        return Err(Error::new(
            Kind::SameCluster,
            format!(
                "cluster0 and cluster1 are both the replica set {} at {}",
                source.set_name.as_deref().unwrap_or("behind a mongos"),
                source.primary
            ),
        ));
    }
    Ok(())
}

/// Refuses versions that cannot be synced.
///
/// # Errors
/// `UnsupportedVersion`.
fn check_versions(source: &ClusterInfo, destination: &ClusterInfo) -> Result<()> {
    let dotted = |version: &[i64]| {
        version.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(".")
    };
    let major = |info: &ClusterInfo| info.version.first().copied().unwrap_or(0);
    for (name, info) in [("source", source), ("destination", destination)] {
        if major(info) < 6 {
            return Err(Error::new(
                Kind::UnsupportedVersion,
                format!("the {name} runs {}, at least 6.0 is needed", dotted(&info.version)),
            ));
        }
    }
    if major(destination) < major(source) {
        return Err(Error::new(
            Kind::UnsupportedVersion,
            format!(
                "the destination runs {}, older than the source's {}",
                dotted(&destination.version),
                dotted(&source.version)
            ),
        ));
    }
    Ok(())
}

/// Refuses a sync that would meet existing collections or collections it cannot handle.
///
/// # Errors
/// `NamespaceConflict`, `NamespaceRemapConflict` and `UnsupportedOperation`, each with every namespace concerned.
pub(crate) async fn preflight(
    source: &dyn Source,
    destination: &dyn Destination,
    namespaces: &NamespaceFilter,
    remap: &Remap,
) -> Result<()> {
    check_versions(&source.info().await?, &destination.info().await?)?;
    let mut wanted = Vec::new();
    for info in source.list().await? {
        if namespaces.includes(&info.namespace)? {
            wanted.push(info);
        }
    }
    let unsupported: Vec<String> = wanted
        .iter()
        .filter_map(|info| unsupported(info).map(|why| format!("{} ({why})", info.namespace)))
        .collect();
    if !unsupported.is_empty() {
        return Err(Error::new(
            Kind::UnsupportedOperation,
            format!("the source holds collections that cannot be synced: {}", shown(&unsupported)),
        ));
    }
    let existing = destination.list().await?;
    let impossible = remap.problems(&wanted, &existing, namespaces.metadata_database())?;
    if !impossible.is_empty() {
        return Err(Error::new(
            Kind::NamespaceRemapConflict,
            format!("the destination cannot give these names: {}", shown(&impossible)),
        ));
    }
    let mut conflicts = Vec::new();
    for info in &wanted {
        let name = remap.destination(&info.namespace)?;
        if existing.iter().any(|other| other.namespace == name) {
            conflicts.push(name.to_string());
        }
    }
    if !conflicts.is_empty() {
        return Err(Error::new(
            Kind::NamespaceConflict,
            format!("the destination already holds {}", shown(&conflicts)),
        ));
    }
    Ok(())
}

/// Refuses a write block that would stop the sync itself.
///
/// # Errors
/// `StartOptionsInvalid` with the side whose user lacks the privilege.
pub(crate) async fn check_write_blocking(
    source: &dyn Source,
    destination: &dyn Destination,
    options: &StartOptions,
) -> Result<()> {
    let refuse = |side: &str| {
        Err(Error::new(
            Kind::StartOptionsInvalid,
            format!(
                "enableUserWriteBlocking: the {side}'s user lacks the action \
                 bypassWriteBlockingMode (a cluster without users cannot be blocked)"
            ),
        ))
    };
    if options.write_blocking != WriteBlocking::None && !destination.bypasses_write_block().await? {
        return refuse("destination");
    }
    // Notes in the oplog are written to the source after the block.
    if options.write_blocking == WriteBlocking::SourceAndDestination
        && !source.bypasses_write_block().await?
    {
        return refuse("source");
    }
    Ok(())
}

/// Why a collection cannot be synced, if it cannot.
pub(crate) fn unsupported(info: &CollectionInfo) -> Option<&'static str> {
    if info.kind == CollectionKind::TimeSeries {
        return Some("time-series");
    }
    matches!(info.options.get("encryptedFields"), Ok(Some(_))).then_some("queryable encryption")
}

/// The first names of a list and how many more there are.
pub(crate) fn shown(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
