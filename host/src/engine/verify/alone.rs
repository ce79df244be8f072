//! The verifier alone: any two clusters, without a sync of this process between them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bson::RawDocumentBuf;
use futures_util::{StreamExt, TryStreamExt};

use super::{
    embedded::failed,
    pair::{Pair, Target, Walk},
    shape,
};
use crate::{
    engine::{
        capped,
        context::Load,
        filter::{DocumentFilters, NamespaceFilter},
        indexes,
    },
    error::Result,
    model::{
        ClusterTime,
        options::NamespaceMatch,
        verification::{Mismatch, MismatchKind, VerificationPhase, VerificationProgress},
    },
    ports::{CollectionInfo, CollectionKind, Destination, Source},
};

/// Pauses before suspects are compared again when nothing is written to either side.
const SETTLED: [u64; 2] = [200, 800];
/// Pauses, in milliseconds, when a sync runs: its lag has to fit in, half a minute in all.
const LIVE: [u64; 6] = [500, 1_000, 2_000, 4_000, 8_000, 15_000];
/// What a difference may be explained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Nothing: both sides are at rest.
    Settled,
    /// A sync runs: documents are late, indexes are relaxed, and there are no views yet.
    Live,
}

/// Two clusters and what of them is to be compared.
pub struct Alone {
    /// The cluster that is right.
    pub source: Arc<dyn Source>,
    /// The cluster that is compared with it.
    pub destination: Arc<dyn Destination>,
    /// Namespaces to compare; empty means everything.
    pub include: Vec<NamespaceMatch>,
    /// Namespaces not to compare.
    pub exclude: Vec<NamespaceMatch>,
    /// Which documents.
    pub documents: Arc<DocumentFilters>,
    /// Name of the metadata database, which is left out.
    pub metadata_database: String,
    /// `loadLevel`, 1 to 4.
    pub load_level: u8,
    /// What a difference may be explained with.
    pub patience: Patience,
}

/// A comparison under way.
struct Comparison<'a> {
    /// What was asked for.
    alone: &'a Alone,
    /// Which namespaces.
    namespaces: NamespaceFilter,
    /// What is found so far.
    progress: Mutex<VerificationProgress>,
    /// Is told of every step.
    report: &'a (dyn Fn(&VerificationProgress) + Sync),
}

/// Compares two clusters. Differences are in the result, not an error.
///
/// # Errors
/// Those of the clusters and of the filters.
pub async fn verify(
    alone: &Alone,
    report: &(dyn Fn(&VerificationProgress) + Sync),
) -> Result<VerificationProgress> {
    let namespaces =
        NamespaceFilter::new(&alone.include, &alone.exclude, &alone.metadata_database)?;
    let progress = Mutex::new(VerificationProgress {
        phase: VerificationPhase::Scanning,
        ..VerificationProgress::default()
    });
    let comparison = Comparison { alone, namespaces, progress, report };
    comparison.run().await?;
    Ok(comparison.progress.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Alone {
    /// The error that says what a result holds.
    ///
    /// # Errors
    /// `VerificationFailed` when there are differences, or a comparison was cut short by them.
    pub fn verdict(progress: &VerificationProgress) -> Result<()> {
        if progress.is_clean() { Ok(()) } else { Err(failed(progress)) }
    }

    /// Pauses before suspects are compared again.
    fn pauses(&self) -> &'static [u64] {
        match self.patience {
            Patience::Settled => &SETTLED,
            Patience::Live => &LIVE,
        }
    }
}

impl Comparison<'_> {
    /// What is found so far, locked for a moment.
    fn progress(&self) -> MutexGuard<'_, VerificationProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is found and tells of it.
    fn update(&self, change: impl FnOnce(&mut VerificationProgress)) {
        let shown = {
            let mut progress = self.progress();
            change(&mut progress);
            progress.clone()
        };
        (self.report)(&shown);
    }

    /// What of a listing is compared.
    fn included(&self, listed: Vec<CollectionInfo>) -> Result<Vec<CollectionInfo>> {
        let mut included = Vec::new();
        for info in listed {
            if self.namespaces.includes(&info.namespace)? {
                included.push(info);
            }
        }
        Ok(included)
    }

    /// Compares everything.
    async fn run(&self) -> Result<()> {
        let wanted = self.included(self.alone.source.list().await?)?;
        let present = self.included(self.alone.destination.list().await?)?;
        let by_name: HashMap<String, &CollectionInfo> =
            present.iter().map(|info| (info.namespace.to_string(), info)).collect();
        let is_live = self.alone.patience == Patience::Live;
        let mut pairs = Vec::new();
        for info in &wanted {
            let other = by_name.get(&info.namespace.to_string()).copied();
            match (info.kind, other) {
                (CollectionKind::View, _) if is_live => {}
                (CollectionKind::View, other) => self.compare_views(info, other),
                (_, Some(other)) if other.kind == info.kind => pairs.push((info, other)),
                _ => self.add(info, MismatchKind::Missing, None),
            }
        }
        let is_known = |info: &CollectionInfo| wanted.iter().any(|w| w.namespace == info.namespace);
        for info in present.iter().filter(|info| !is_known(info)) {
            let kind = match info.kind {
                CollectionKind::View => MismatchKind::View,
                _ => MismatchKind::Extra,
            };
            self.add(info, kind, None);
        }
        let count = u64::try_from(pairs.len()).unwrap_or(0);
        self.update(|progress| progress.collections_total = count);
        let at_once = Load::of_level(self.alone.load_level).copy_workers;
        futures_util::stream::iter(pairs)
            .map(|(info, other)| self.compare(info, other))
            .buffer_unordered(at_once)
            .try_collect::<()>()
            .await
    }

    /// Adds a mismatch that is about a whole collection or view.
    fn add(&self, info: &CollectionInfo, kind: MismatchKind, detail: Option<String>) {
        let namespace = info.namespace.to_string();
        self.update(|progress| progress.add(&Mismatch { namespace, kind, id: None, detail }));
    }

    /// Compares the definitions of a view.
    fn compare_views(&self, info: &CollectionInfo, other: Option<&CollectionInfo>) {
        match other {
            None => self.add(info, MismatchKind::View, Some("it is missing".to_owned())),
            Some(other) => {
                for name in shape::options(&info.options, &other.options) {
                    self.add(info, MismatchKind::View, Some(name));
                }
            }
        }
    }

    /// Compares a collection.
    async fn compare(&self, info: &CollectionInfo, other: &CollectionInfo) -> Result<()> {
        let options = match self.alone.patience {
            Patience::Settled => info.options.clone(),
            Patience::Live => capped::relaxed(&info.options),
        };
        for name in shape::options(&options, &other.options) {
            self.add(info, MismatchKind::Options, Some(name));
        }
        let has_collation = has_collation(info);
        let wanted: Vec<RawDocumentBuf> = match self.alone.patience {
            Patience::Settled => info.indexes.clone(),
            Patience::Live => {
                info.indexes.iter().map(|spec| indexes::relaxed(spec, has_collation)).collect()
            }
        };
        for wrong in shape::indexes(&wanted, &other.indexes, &[]) {
            self.add(info, MismatchKind::Index, Some(wrong));
        }
        let Some(uuid) = info.uuid else { return Ok(()) };
        let stats = self.alone.source.stats(&info.namespace).await?;
        let target = Target {
            source: info.namespace.clone(),
            uuid,
            destination: other.namespace.clone(),
            walk: match info.options.get("clusteredIndex") {
                _ if has_collation => Walk::Lookup,
                Ok(Some(_)) => Walk::Storage,
                _ => Walk::Index,
            },
            is_capped: info.options.get_bool("capped").unwrap_or(false),
            chain: self.alone.documents.chain(&info.namespace)?,
            average: stats.bytes / stats.documents.max(1),
        };
        self.update(|progress| progress.documents_estimated += stats.documents);
        let pair = Pair { source: &*self.alone.source, destination: &*self.alone.destination };
        let compared = pair.compare(&target, ClusterTime::ZERO, self.alone.pauses()).await?;
        self.update(|progress| {
            progress.collections_scanned += 1;
            progress.source_documents += compared.documents.0;
            progress.destination_documents += compared.documents.1;
            progress.quarantined += compared.withheld;
            if compared.is_cut {
                Arc::make_mut(&mut progress.cut).push(target.destination.to_string());
            }
            for mismatch in compared.mismatches(&target) {
                progress.add(&mismatch);
            }
        });
        Ok(())
    }
}

/// Whether a collection's `_id`s compare by something else than bytes.
fn has_collation(info: &CollectionInfo) -> bool {
    info.options
        .get_document("collation")
        .is_ok_and(|c| c.get_str("locale").is_ok_and(|locale| locale != "simple"))
}
