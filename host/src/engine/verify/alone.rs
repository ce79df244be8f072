//! The verifier alone: any two clusters, without a sync of this process between them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bson::RawDocumentBuf;
use futures_util::{StreamExt, TryStreamExt};

use super::{
    MOST_SUSPECTS,
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
        remap::Remap,
    },
    error::Result,
    model::{
        ClusterTime,
        options::{NamespaceMatch, NamespaceRemap},
        verification::{
            CollectionPair, KnownEqual, Mismatch, MismatchKind, VerificationPhase,
            VerificationProgress,
        },
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
    /// Under which names they are on the destination.
    pub remap: Vec<NamespaceRemap>,
    /// Which documents.
    pub documents: Arc<DocumentFilters>,
    /// Name of the metadata database, which is left out.
    pub metadata_database: String,
    /// `loadLevel`, 1 to 4.
    pub load_level: u8,
    /// What a difference may be explained with.
    pub patience: Patience,
    /// After so long it is noted how far a collection is, and what seems to differ is looked at again.
    pub note_every: Duration,
    /// What an earlier comparison has found equal and is not compared again.
    pub known: HashMap<CollectionPair, KnownEqual>,
}

/// Is told how far two collections are equal, each time it is further.
pub type Note<'a> = &'a (dyn Fn(CollectionPair, &KnownEqual) -> Result<()> + Sync);

/// A comparison under way.
struct Comparison<'a> {
    /// What was asked for.
    alone: &'a Alone,
    /// Which namespaces of the source.
    namespaces: NamespaceFilter,
    /// Under which names.
    remap: Remap,
    /// What is found so far.
    progress: Mutex<VerificationProgress>,
    /// Is told of every step.
    report: &'a (dyn Fn(&VerificationProgress) + Sync),
    /// Is told of what is equal.
    note: Note<'a>,
}

/// Compares two clusters. Differences are in the result, not an error.
///
/// # Errors
/// Those of the clusters, of the filters and of `note`; `NamespaceRemapConflict`.
pub async fn verify(
    alone: &Alone,
    report: &(dyn Fn(&VerificationProgress) + Sync),
    note: Note<'_>,
) -> Result<VerificationProgress> {
    let namespaces =
        NamespaceFilter::new(&alone.include, &alone.exclude, &alone.metadata_database)?;
    let progress = Mutex::new(VerificationProgress {
        phase: VerificationPhase::Scanning,
        ..VerificationProgress::default()
    });
    let remap = Remap::new(&alone.remap)?;
    let comparison = Comparison { alone, namespaces, remap, progress, report, note };
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

    /// What of the source is compared, each with its name on the destination.
    async fn wanted(&self) -> Result<Vec<(CollectionInfo, String)>> {
        let mut wanted = Vec::new();
        for mut info in self.alone.source.list().await? {
            if self.namespaces.includes(&info.namespace)? {
                if info.kind == CollectionKind::View {
                    info.options = self.remap.view(&info.namespace, &info.options)?;
                }
                let name = self.remap.destination(&info.namespace)?.to_string();
                wanted.push((info, name));
            }
        }
        Ok(wanted)
    }

    /// What of the destination is compared.
    async fn present(&self) -> Result<Vec<CollectionInfo>> {
        let mut present = Vec::new();
        for info in self.alone.destination.list().await? {
            let source = self.remap.source(&info.namespace)?;
            if source.map_or(Ok(false), |source| self.namespaces.includes(&source))? {
                present.push(info);
            }
        }
        Ok(present)
    }

    /// Compares everything.
    async fn run(&self) -> Result<()> {
        let wanted = self.wanted().await?;
        let present = self.present().await?;
        let by_name: BTreeMap<String, &CollectionInfo> =
            present.iter().map(|info| (info.namespace.to_string(), info)).collect();
        let is_live = self.alone.patience == Patience::Live;
        let mut pairs = Vec::new();
        for (info, name) in &wanted {
            let other = by_name.get(name).copied();
            match (info.kind, other) {
                (CollectionKind::View, _) if is_live => {}
                (CollectionKind::View, other) => self.compare_views(info, name, other),
                (_, Some(other)) if other.kind == info.kind => pairs.push((info, other)),
                _ => self.add(name, MismatchKind::Missing, None),
            }
        }
        let known: HashSet<&str> = wanted.iter().map(|(_, name)| name.as_str()).collect();
        for (name, info) in by_name.iter().filter(|(name, _)| !known.contains(name.as_str())) {
            let kind = match info.kind {
                CollectionKind::View => MismatchKind::View,
                _ => MismatchKind::Extra,
            };
            self.add(name, kind, None);
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

    /// Adds a mismatch that is about a whole collection or view of the destination.
    fn add(&self, name: &str, kind: MismatchKind, detail: Option<String>) {
        let namespace = name.to_owned();
        self.update(|progress| progress.add(&Mismatch { namespace, kind, id: None, detail }));
    }

    /// Compares the definitions of a view.
    fn compare_views(&self, info: &CollectionInfo, name: &str, other: Option<&CollectionInfo>) {
        match other {
            None => self.add(name, MismatchKind::View, Some("it is missing".to_owned())),
            Some(other) => {
                for option in shape::options(&info.options, &other.options) {
                    self.add(name, MismatchKind::View, Some(option));
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
        let name = other.namespace.to_string();
        for option in shape::options(&options, &other.options) {
            self.add(&name, MismatchKind::Options, Some(option));
        }
        let has_collation = has_collation(info);
        let wanted: Vec<RawDocumentBuf> = match self.alone.patience {
            Patience::Settled => info.indexes.clone(),
            Patience::Live => {
                info.indexes.iter().map(|spec| indexes::relaxed(spec, has_collation)).collect()
            }
        };
        for wrong in shape::indexes(&wanted, &other.indexes, &[]) {
            self.add(&name, MismatchKind::Index, Some(wrong));
        }
        let (Some(uuid), Some(other_uuid)) = (info.uuid, other.uuid) else { return Ok(()) };
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
        self.compare_documents(&target, (uuid, other_uuid)).await
    }

    /// Compares the documents of a collection that are not known to be equal.
    async fn compare_documents(&self, target: &Target, uuids: CollectionPair) -> Result<()> {
        let pair = Pair { source: &*self.alone.source, destination: &*self.alone.destination };
        let (mut known, mut is_done) = match self.alone.known.get(&uuids) {
            Some(known) => (known.clone(), known.next.is_none()),
            None => (KnownEqual::default(), false),
        };
        self.update(|progress| {
            progress.source_documents += known.documents.0;
            progress.destination_documents += known.documents.1;
            progress.quarantined += known.quarantined;
        });
        let mut differing = 0;
        while !is_done {
            let (after, pauses) = (ClusterTime::ZERO, self.alone.pauses());
            let from = known.next.take();
            let most = Some(self.alone.note_every);
            let compared = pair.compare(target, from, after, pauses, most).await?;
            differing += compared.differing.len();
            known.next.clone_from(&compared.next);
            known.documents.0 += compared.documents.0;
            known.documents.1 += compared.documents.1;
            known.quarantined += compared.withheld;
            let is_cut = compared.is_cut || (differing >= MOST_SUSPECTS && known.next.is_some());
            is_done = is_cut || known.next.is_none();
            if differing == 0 && !is_cut {
                (self.note)(uuids, &known)?;
            }
            self.update(|progress| {
                progress.source_documents += compared.documents.0;
                progress.destination_documents += compared.documents.1;
                progress.quarantined += compared.withheld;
                if is_cut {
                    Arc::make_mut(&mut progress.cut).push(target.destination.to_string());
                }
                for mismatch in compared.mismatches(target) {
                    progress.add(&mismatch);
                }
            });
        }
        self.update(|progress| progress.collections_scanned += 1);
        Ok(())
    }
}

/// Whether a collection's `_id`s compare by something else than bytes.
fn has_collation(info: &CollectionInfo) -> bool {
    info.options
        .get_document("collation")
        .is_ok_and(|c| c.get_str("locale").is_ok_and(|locale| locale != "simple"))
}
