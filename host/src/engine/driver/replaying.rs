//! How documents in quarantine are listed, and brought in once they can pass.
//!
//! A replay takes what stands in quarantine, not what the source holds by now: the source may be gone.
//! It holds the lease, so that no daemon applies an event of such a document at the same moment.

use std::collections::HashMap;

use bson::{RawDocumentBuf, Uuid, doc};

use super::Engine;
use crate::{
    engine::{
        checkpoint::{self, SyncRecord},
        filter::Filtered,
        lease::Wait,
        quarantine::Entry,
    },
    error::{Error, Kind, Result},
    model::{
        Batch, ClusterTime, Namespace,
        options::ClusterLabel,
        plugin::{Quarantined, Replayed},
        progress::State,
    },
    ports::{Destination, Fetched, Table},
};

/// Where the documents of a collection belong.
struct Place {
    /// Name on the source.
    source: Namespace,
    /// Name on the destination.
    destination: Namespace,
}

/// What became of one document.
enum Fate {
    /// It is on the destination.
    Written,
    /// The filters drop it.
    Dropped,
    /// It still cannot pass: the entry as it is now.
    Refused(Box<Entry>),
    /// The destination holds another document of its `_id`.
    Present,
}

impl Engine {
    /// The documents in quarantine, of whichever direction the sync has.
    ///
    /// # Errors
    /// Those of the stores; `MetadataMismatch` for what cannot be read.
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>> {
        let mut all = Vec::new();
        for clusters in &self.settings.directions {
            for stored in clusters.store.load(Table::Quarantine).await? {
                let Entry { namespace, id, plugin, error: (code, reason), document, .. } =
                    Entry::from_document(&stored)?;
                all.push(Quarantined { namespace, id, plugin, code, reason, document });
            }
        }
        Ok(all)
    }

    /// Lets the documents in quarantine through the filters again, and brings in those that pass; for
    /// a daemon that is down. Before the commit the filters must be those that the sync began with.
    ///
    /// # Errors
    /// `LeaseLost` while a daemon runs the sync, `MetadataMismatch` for other clusters or filters,
    /// `InvalidState` without a sync or while it is given up, those of the clusters. Repeatable.
    pub async fn replay(mut self) -> Result<Replayed> {
        for label in [ClusterLabel::Cluster0, ClusterLabel::Cluster1] {
            let Some(clusters) = self.settings.clusters(label) else { continue };
            let Some(document) = clusters.store.load(Table::Sync).await?.pop() else { continue };
            let record = SyncRecord::from_document(&document)?;
            self.hold(label, Wait::No).await?;
            let replayed = self.replay_of(label, &record).await;
            self.release().await;
            return replayed;
        }
        Err(Error::new(Kind::InvalidState, "there is no sync"))
    }

    /// What [`Self::replay`] does under the lease.
    async fn replay_of(&self, label: ClusterLabel, record: &SyncRecord) -> Result<Replayed> {
        let Some(clusters) = self.settings.clusters(label) else { return Ok(Replayed::default()) };
        match record.state {
            State::Committed => self.check_clusters(record, clusters).await?,
            State::Aborting | State::Reversing => {
                let text = format!("the sync is {}", record.state.name());
                return Err(Error::new(Kind::InvalidState, text));
            }
            _ => self.check_same(record, clusters).await?,
        }
        let mut places: HashMap<Uuid, Place> = HashMap::new();
        for document in clusters.store.load(Table::Collections).await? {
            let (uuid, entry, _) =
                checkpoint::collection_from_document(&document, ClusterTime::ZERO)?;
            if !entry.dropped {
                let (source, destination) = (entry.source, entry.destination);
                places.insert(uuid, Place { source, destination });
            }
        }
        let mut replayed = Replayed::default();
        for stored in clusters.store.load(Table::Quarantine).await? {
            let entry = Entry::from_document(&stored)?;
            let key = doc! { "_id": stored.get("_id") };
            let Some(place) = places.get(&entry.collection) else {
                // The collection was dropped after the document was put here.
                clusters.store.remove(Table::Quarantine, key).await?;
                replayed.dropped += 1;
                continue;
            };
            match self.replay_one(&*clusters.destination, place, entry).await? {
                Fate::Written => replayed.written += 1,
                Fate::Dropped => replayed.dropped += 1,
                Fate::Refused(entry) => {
                    replayed.refused += 1;
                    clusters.store.put(Table::Quarantine, vec![entry.to_document()]).await?;
                    continue;
                }
                Fate::Present => {
                    replayed.present += 1;
                    continue;
                }
            }
            clusters.store.remove(Table::Quarantine, key).await?;
        }
        Ok(replayed)
    }

    /// Lets one document through the filters and writes what they make of it.
    async fn replay_one(
        &self,
        destination: &dyn Destination,
        place: &Place,
        mut entry: Entry,
    ) -> Result<Fate> {
        let Some(document) = entry.document.clone() else {
            entry.error.1 = "it is too large to be kept here; change it on the source".to_owned();
            return Ok(Fate::Refused(Box::new(entry)));
        };
        let chain = self.settings.documents.chain(&place.source)?.ok_or_else(|| {
            let text = format!("no filter of the config file is for {}", place.source);
            Error::new(Kind::MetadataMismatch, text)
        })?;
        let batch = Batch::from_documents([&document]);
        let Filtered { kept, withheld } = chain.apply_each(&place.source, batch).await?;
        if let Some(withheld) = withheld.into_iter().next() {
            let entry = Entry::new(entry.collection, &place.source, withheld);
            return Ok(Fate::Refused(Box::new(entry)));
        }
        if kept.is_empty() {
            return Ok(Fate::Dropped);
        }
        let report = destination.insert(&place.destination, &kept, false).await?;
        if report.duplicates.is_empty() || is_there(destination, place, &entry.id, &kept).await? {
            return Ok(Fate::Written);
        }
        Ok(Fate::Present)
    }
}

/// Whether the destination holds exactly what would be written: an earlier replay has written it.
async fn is_there(
    destination: &dyn Destination,
    place: &Place,
    id: &RawDocumentBuf,
    kept: &Batch,
) -> Result<bool> {
    let ids = std::slice::from_ref(id);
    let Fetched::Documents { found, .. } = destination.fetch(&place.destination, ids).await? else {
        return Ok(false);
    };
    let found: Vec<_> = found.documents().collect::<Result<_>>()?;
    let wanted: Vec<_> = kept.documents().collect::<Result<_>>()?;
    Ok(found == wanted)
}
