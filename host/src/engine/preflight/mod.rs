//! Preflight: may these clusters be synced. Every check is made, and everything found is told at
//! once; `start` refuses what the command `preflight` would have told to fail.
//!
//! Invariant: nothing is written to either cluster.

mod checks;
mod roles;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt};

pub use roles::{Side, role};

use self::checks::Sizes;
use super::{filter::NamespaceFilter, remap::Remap};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Namespace,
        facts::{Finding, Grade, Report},
        options::StartOptions,
    },
    ports::{ClusterInfo, CollectionInfo, CollectionKind, Destination, Source},
};

/// Collections that are measured at the same time.
const CONCURRENCY: usize = 16;

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

/// Looks at both clusters as a sync with these options would find them.
///
/// # Errors
/// Those of connections that a retry does not mend; what the clusters lack is in the report.
pub(crate) async fn examine(
    source: &dyn Source,
    destination: &dyn Destination,
    namespaces: &NamespaceFilter,
    options: &StartOptions,
) -> Result<Report> {
    let remap = Remap::new(&options.namespace_remap)?;
    let (source_info, destination_info) = tokio::try_join!(source.info(), destination.info())?;
    let (source_facts, destination_facts) = tokio::try_join!(source.facts(), destination.facts())?;
    let mut findings = Vec::new();
    if let Err(error) = check_distinct(&source_info, &destination_info) {
        findings.push(Finding::fail("clusters", "both", error.kind(), error.full()));
    }
    findings.extend(checks::versions(&source_info, &destination_info));
    findings.extend(checks::feature_versions(
        source_facts.feature_version.as_deref(),
        destination_facts.feature_version.as_deref(),
    ));
    findings.push(checks::topology(Side::Source, &source_info, &source_facts));
    findings.push(checks::topology(Side::Destination, &destination_info, &destination_facts));

    let listed = source.list().await;
    let wanted = match &listed {
        Ok(listed) => Ok(wanted(listed, namespaces)?),
        Err(error) => Err(error),
    };
    let existing = destination.list().await;
    let mut databases = BTreeSet::new();
    let mut destinations = HashSet::new();
    for info in wanted.iter().flatten() {
        databases.insert(info.namespace.database().to_owned());
        destinations.insert(remap.destination(&info.namespace)?);
    }
    findings.extend(checks::privileges(Side::Source, &source_facts, options, &databases));
    databases = destinations.iter().map(|namespace| namespace.database().to_owned()).collect();
    databases.insert(namespaces.metadata_database().to_owned());
    findings.extend(checks::privileges(Side::Destination, &destination_facts, options, &databases));

    let mut sizes = Sizes::default();
    match &wanted {
        Ok(wanted) => {
            findings.push(checks::supported(wanted));
            findings.extend(checks::colliding_indexes(wanted, options.build_indexes));
            if options.reversible {
                let formats = index_formats(source, wanted).await?;
                findings.push(checks::index_formats(wanted, &formats));
            }
            sizes = measure(source, listed.as_deref().unwrap_or_default(), wanted).await?;
        }
        Err(error) => findings.push(refused("collections", "source", error)?),
    }
    match (&wanted, &existing) {
        (Ok(wanted), Ok(existing)) => {
            let problems = remap.problems(wanted, existing, namespaces.metadata_database())?;
            findings.extend(checks::impossible_names(problems));
            let left_over = left_over(existing, namespaces, &remap, options)?;
            findings.push(checks::conflicts(&destinations, &left_over, existing));
        }
        (_, Err(error)) => findings.push(refused("namespaces", "destination", error)?),
        (Err(_), Ok(_)) => {}
    }
    findings.push(checks::oplog(&source_facts, &sizes));
    findings.push(checks::disk(&destination_facts, &sizes, options));
    findings.extend(checks::write_block_of_source(&source_facts));
    Ok(Report { findings })
}

/// The collections and views that the options ask for.
fn wanted(listed: &[CollectionInfo], namespaces: &NamespaceFilter) -> Result<Vec<CollectionInfo>> {
    let mut wanted = Vec::new();
    for info in listed {
        if namespaces.includes(&info.namespace)? {
            wanted.push(info.clone());
        }
    }
    Ok(wanted)
}

/// What of the destination's would be left over after the sync: the filter takes it in.
fn left_over(
    existing: &[CollectionInfo],
    namespaces: &NamespaceFilter,
    remap: &Remap,
    options: &StartOptions,
) -> Result<HashSet<Namespace>> {
    let mut left_over = HashSet::new();
    if options.pre_existing {
        return Ok(left_over);
    }
    for info in existing {
        if let Some(source) = remap.source(&info.namespace)?
            && namespaces.includes(&source)?
        {
            left_over.insert(info.namespace.clone());
        }
    }
    Ok(left_over)
}

/// A listing that a cluster refuses is a finding; one that breaks off is an error.
fn refused(check: &'static str, cluster: &'static str, error: &Error) -> Result<Finding> {
    if error.is_transient() {
        return Err(Error::new(error.kind(), error.full()));
    }
    Ok(Finding::fail(check, cluster, error.kind(), error.full()))
}

/// How large the collections are.
async fn measure(
    source: &dyn Source,
    listed: &[CollectionInfo],
    wanted: &[CollectionInfo],
) -> Result<Sizes> {
    let count = |infos: &[CollectionInfo]| {
        let mut counts: HashMap<String, usize> = HashMap::new();
        for info in infos.iter().filter(|info| info.kind == CollectionKind::Collection) {
            *counts.entry(info.namespace.database().to_owned()).or_default() += 1;
        }
        counts
    };
    let all = count(listed);
    // Databases that are wanted as they are tell their size as a whole.
    let mut whole = HashSet::new();
    let mut sum = Sizes::default();
    for (database, wanted) in count(wanted) {
        if all.get(&database) == Some(&wanted)
            && let Some((data_bytes, stored_bytes)) = source.database_bytes(&database).await?
        {
            sum = sum.plus(Sizes { data_bytes, stored_bytes });
            whole.insert(database);
        }
    }
    let collections: Vec<Namespace> = wanted
        .iter()
        .filter(|info| info.kind == CollectionKind::Collection)
        .filter(|info| !whole.contains(info.namespace.database()))
        .map(|info| info.namespace.clone())
        .collect();
    futures_util::stream::iter(collections)
        .map(|namespace| async move {
            // A user without the privilege is told so elsewhere.
            match source.stats(&namespace).await {
                Ok(stats) => {
                    let stored_bytes = source.stored_bytes(&namespace).await?;
                    Ok(Sizes { data_bytes: stats.bytes, stored_bytes })
                }
                Err(error) if error.kind() == Kind::PermissionDenied => Ok(Sizes::default()),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_fold(sum, |sum, one| async move { Ok(sum.plus(one)) })
        .await
}

/// In which format unique indexes are kept: collection, index, format.
async fn index_formats(
    source: &dyn Source,
    wanted: &[CollectionInfo],
) -> Result<HashMap<Namespace, HashMap<String, i64>>> {
    let with_unique = wanted.iter().filter(|info| checks::unique_indexes(info).next().is_some());
    let namespaces: Vec<Namespace> = with_unique.map(|info| info.namespace.clone()).collect();
    futures_util::stream::iter(namespaces)
        .map(|namespace| async move {
            let formats = source.index_formats(&namespace).await?;
            Ok((namespace, formats))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

/// Logs what a person should look at.
pub(crate) fn log(report: &Report) {
    for finding in report.of_grade(Grade::Warn) {
        tracing::warn!(
            check = finding.check,
            cluster = finding.cluster,
            "preflight: {}",
            finding.sentence()
        );
    }
}

/// Why a collection cannot be synced, if it cannot.
pub(crate) fn unsupported(info: &CollectionInfo) -> Option<&'static str> {
    if info.kind == CollectionKind::TimeSeries {
        return Some("time-series");
    }
    matches!(info.options.get("encryptedFields"), Ok(Some(_))).then_some("queryable encryption")
}
