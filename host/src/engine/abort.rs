//! Gives a sync up: lifts the write blocks, removes what was copied if asked to, and forgets it.
//!
//! The record says `ABORTING` before anything happens, and goes last; every step can be repeated.
//! Collections are removed by the UUID that the sync gave them, so that one that somebody else has
//! put in a name's place stays. Once the application may write to the destination, nothing is
//! given up any more.
//!
//! Invariant: no run of the sync is under way meanwhile, and this process holds its lease.

use std::collections::HashSet;

use bson::{Uuid, doc};

use super::{
    Request,
    blocking::Block,
    checkpoint::{self, CommitStep, SyncRecord},
    commit,
    driver::Clusters,
    filter::NamespaceFilter,
    remap::Remap,
    state,
};
use crate::{
    error::{Error, Kind, Result},
    model::{ClusterTime, Namespace, options::Copied, progress::State},
    ports::{CollectionInfo, CollectionKind, StateStore, Table},
};

/// Refuses to give up a sync whose destination is the application's already, and to drop what was
/// there before the roles were swapped.
///
/// # Errors
/// `InvalidState`.
pub(super) fn check(record: &SyncRecord, copied: Copied) -> Result<()> {
    if record.generation > 0 && copied == Copied::Drop {
        return Err(Error::new(
            Kind::InvalidState,
            "the roles were swapped: what is on the destination was not copied there, it is the \
             old source's own data",
        ));
    }
    if record.state == State::Committed || record.commit >= CommitStep::Converting {
        return Err(Error::new(
            Kind::InvalidState,
            "the application may write to the destination already, so the sync cannot be aborted",
        ));
    }
    Ok(())
}

/// Answers a request that comes while the sync is given up: more of the same is fine.
///
/// # Errors
/// `InvalidState` for everything else, and for dropping what is being kept.
pub(super) fn answer(record: &SyncRecord, request: &Request) -> Result<()> {
    state::next(State::Aborting, request)?;
    if matches!(request, Request::Abort(Copied::Drop)) && record.abort != Some(Copied::Drop) {
        let text = "the sync is being aborted already, and what it has copied stays";
        return Err(Error::new(Kind::InvalidState, text));
    }
    Ok(())
}

/// Does what an aborting record says. The record is gone afterwards.
///
/// # Errors
/// Those of the clusters; the next call goes on.
pub(super) async fn carry_out(
    clusters: &Clusters,
    record: &SyncRecord,
    metadata_database: &str,
) -> Result<()> {
    if record.blocks.destination == Block::Ours {
        clusters.destination.block_user_writes(false).await?;
    }
    if record.blocks.source == Block::Ours {
        clusters.source.block_user_writes(false).await?;
    }
    if record.abort == Some(Copied::Drop) {
        drop_copied(clusters, record, metadata_database).await?;
    }
    forget(&*clusters.store).await
}

/// Removes what a sync has put on the destination.
async fn drop_copied(
    clusters: &Clusters,
    record: &SyncRecord,
    metadata_database: &str,
) -> Result<()> {
    let mut own: HashSet<Uuid> = HashSet::new();
    let mut begun: HashSet<Namespace> = HashSet::new();
    for document in clusters.store.load(Table::Collections).await? {
        let (_, entry, _) = checkpoint::collection_from_document(&document, ClusterTime::ZERO)?;
        match entry.destination_uuid {
            Some(uuid) => {
                own.insert(uuid);
            }
            // Planning did not come to its end: if it is there and ours, it is empty.
            None => {
                begun.insert(entry.destination);
            }
        }
    }
    for info in clusters.destination.list().await? {
        let ours = match info.uuid {
            Some(uuid) if own.contains(&uuid) => true,
            Some(_) if begun.contains(&info.namespace) => {
                clusters.destination.is_empty(&info.namespace).await?
            }
            _ => false,
        };
        if ours {
            tracing::info!(namespace = %info.namespace, "dropping what was copied");
            clusters.destination.drop_collection(&info.namespace).await?;
        }
    }
    if record.commit >= CommitStep::Restoring {
        drop_views(clusters, record, metadata_database).await?;
    }
    Ok(())
}

/// Removes the views that a commit has created: those that the source has, too, and beside other
/// data only those that are defined alike.
async fn drop_views(clusters: &Clusters, record: &SyncRecord, database: &str) -> Result<()> {
    let options = &record.options;
    let namespaces =
        NamespaceFilter::new(&options.include_namespaces, &options.exclude_namespaces, database)?;
    let remap = Remap::new(&options.namespace_remap)?;
    let own = commit::wanted_views(&*clusters.source, &namespaces, &remap).await?;
    for info in clusters.destination.list().await? {
        let is_own = |view: &CollectionInfo| {
            view.namespace == info.namespace
                && (!options.pre_existing || commit::is_same(view, &info))
        };
        if info.kind == CollectionKind::View && own.iter().any(is_own) {
            clusters.destination.drop_collection(&info.namespace).await?;
        }
    }
    Ok(())
}

/// Removes the record of a sync, the document that says that there is one last.
///
/// # Errors
/// Those of the store.
pub(super) async fn forget(store: &dyn StateStore) -> Result<()> {
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Sync) {
        store.remove(table, doc! {}).await?;
    }
    store.remove(Table::Sync, doc! {}).await
}
