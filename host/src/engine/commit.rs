//! The hand-over: an ordered sequence of steps, each recorded before it begins and repeatable.
//!
//! ```text
//! requested ─▶ draining ─▶ restoring ─▶ converting ─▶ finished
//!  block source  apply all   TTL, hidden,   canWrite;     COMMITTED
//!  writes, set   up to the   prepareUnique, unique
//!  the fence     fence,      views; checked
//!                verified
//! ```
//!
//! A crash anywhere is taken up again from the recorded step.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    blocking::{self, Block},
    capped,
    checkpoint::CommitStep,
    context::Context,
    filter::NamespaceFilter,
    hot, indexes,
    record::Record,
    remap::Remap,
    stream::StreamStatus,
    verify,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Namespace,
        progress::{Phase, Progress, State},
        verification::VerificationProgress,
    },
    ports::{CollectionInfo, CollectionKind, Source},
};

/// What the sequence works with.
pub(crate) struct Commit<'a> {
    /// What the run shares.
    pub(crate) context: &'a Context,
    /// The sync record.
    pub(crate) record: &'a Record,
    /// How far the stream is.
    pub(crate) status: watch::Receiver<StreamStatus>,
    /// Ends the stream once it has reached the fence.
    pub(crate) end_stream: CancellationToken,
    /// Where progress is published.
    pub(crate) progress: &'a Arc<watch::Sender<Progress>>,
}

impl Commit<'_> {
    /// Runs the sequence from the recorded step to the end. Cancel safe: dropping it leaves the
    /// recorded step, from which the next run goes on.
    ///
    /// # Errors
    /// `DuplicateKeyAtCommit` when a unique index cannot be converted; the commit can be repeated.
    /// Otherwise as classified.
    pub(crate) async fn run(mut self) -> Result<()> {
        loop {
            let step = self.record.get().await.commit;
            tracing::info!(step = ?step, "commit step");
            let next = match step {
                CommitStep::None | CommitStep::Requested => {
                    self.fence().await?;
                    continue;
                }
                CommitStep::Draining => {
                    self.drain().await?;
                    CommitStep::Restoring
                }
                CommitStep::Restoring => {
                    capped::restore(self.context).await?;
                    indexes::restore(self.context).await?;
                    let views = self.views().await?;
                    verify::check_restored(self.context, &views, self.publish()).await?;
                    self.mark_way_back().await?;
                    blocking::release_destination(
                        &*self.context.destination,
                        self.record,
                        &*self.context.store,
                        Block::Never,
                    )
                    .await?;
                    CommitStep::Converting
                }
                CommitStep::Converting => {
                    self.progress.send_modify(|progress| progress.can_write = true);
                    indexes::convert_unique(self.context).await?;
                    CommitStep::Finished
                }
                CommitStep::Finished => return self.finish().await,
            };
            self.record.change(&*self.context.store, |record| record.commit = next).await?;
        }
    }

    /// Shows what a verification has found.
    fn publish(&self) -> impl Fn(VerificationProgress) + use<> {
        let progress = Arc::clone(self.progress);
        move |found| progress.send_modify(|progress| progress.verification = Some(found))
    }

    /// Blocks source writes where that was asked for, and marks the end of what is synced.
    async fn fence(&mut self) -> Result<()> {
        // No event tells of one that is created during the sync.
        for info in self.context.source.list().await? {
            if info.kind == CollectionKind::TimeSeries
                && self.context.namespaces.includes(&info.namespace)?
            {
                let text = format!("{}: cannot be synced: time-series", info.namespace);
                return Err(Error::new(Kind::UnsupportedOperation, text));
            }
        }
        blocking::block_source(&*self.context.source, self.record, &*self.context.store).await?;
        blocking::publish(&self.record.get().await, self.progress);
        let fence = self.context.source.append_note("commit").await?;
        self.record
            .change(&*self.context.store, |record| {
                record.fence = Some(fence);
                record.commit = CommitStep::Draining;
            })
            .await
    }

    /// Waits until everything before the fence is on the destination, and ends the stream.
    async fn drain(&mut self) -> Result<()> {
        let fence = self.record.get().await.fence.ok_or_else(|| {
            Error::new(Kind::MetadataMismatch, "the commit's fence is missing from the metadata")
        })?;
        let ended = || Error::new(Kind::Internal, "the change stream ended before the fence");
        self.status.wait_for(|status| status.applied >= fence).await.map_err(|_| ended())?;
        // An event up to the fence may have brought one.
        indexes::wait_until_built(self.context).await;
        let publish = self.publish();
        verify::finish(self.context, &mut self.status, fence, publish).await?;
        self.end_stream.cancel();
        // The router drops its end once everything is written and saved.
        while self.status.changed().await.is_ok() {}
        hot::fetch_all(self.context, fence).await?;
        Ok(())
    }

    /// Remembers where a way back begins, before anybody may write to the destination. Kept when
    /// the step is repeated.
    async fn mark_way_back(&self) -> Result<()> {
        let present = self.record.get().await;
        if !self.context.options.reversible || present.reverse_from.is_some() {
            return Ok(());
        }
        let time = self.context.destination.cluster_time().await?;
        self.record.change(&*self.context.store, |record| record.reverse_from = Some(time)).await
    }

    /// Brings the views of the destination in line with the source's, and returns those. Beside
    /// other data, views that are not the sync's stay.
    ///
    /// # Errors
    /// `NamespaceConflict` when something else has a view's name.
    async fn views(&self) -> Result<Vec<CollectionInfo>> {
        let Context { source, destination, namespaces, remap, options, .. } = self.context;
        let mut wanted = wanted_views(&**source, namespaces, remap).await?;
        // What the source makes of a collection after the fence is not part of the sync.
        let collections: HashSet<Namespace> = {
            let table = self.context.table();
            let present = table.iter().filter(|(_, entry)| !entry.dropped);
            present.map(|(_, entry)| entry.destination.clone()).collect()
        };
        wanted.retain(|view| !collections.contains(&view.namespace));
        let present = destination.list().await?;
        let is_there = |view: &CollectionInfo| present.iter().any(|other| is_same(view, other));
        for info in &present {
            let is_ours = info.kind == CollectionKind::View
                && !options.pre_existing
                && match remap.source(&info.namespace)? {
                    Some(name) => namespaces.includes(&name)?,
                    None => false,
                };
            if is_ours && !wanted.iter().any(|view| is_same(view, info)) {
                destination.drop_collection(&info.namespace).await?;
            } else if !is_ours
                && wanted.iter().any(|v| v.namespace == info.namespace && !is_same(v, info))
            {
                let text = format!(
                    "the view {0} cannot be created: the destination holds another {0}",
                    info.namespace
                );
                return Err(Error::new(Kind::NamespaceConflict, text));
            }
        }
        for view in wanted.iter().filter(|view| !is_there(view)) {
            destination.create(&view.namespace, &view.options).await?;
        }
        Ok(wanted)
    }

    /// Records the end.
    async fn finish(&self) -> Result<()> {
        self.record
            .change(&*self.context.store, |record| {
                record.state = State::Committed;
                record.phase = Phase::CommitCompleted;
            })
            .await
    }
}

/// The views of the source that are synced, as the destination gets them.
///
/// # Errors
/// Those of the source; `UnsupportedOperation` for a view that cannot be renamed.
pub(super) async fn wanted_views(
    source: &dyn Source,
    namespaces: &NamespaceFilter,
    remap: &Remap,
) -> Result<Vec<CollectionInfo>> {
    let mut wanted = Vec::new();
    for mut info in source.list().await? {
        if info.kind == CollectionKind::View && namespaces.includes(&info.namespace)? {
            info.options = remap.view(&info.namespace, &info.options)?;
            info.namespace = remap.destination(&info.namespace)?;
            wanted.push(info);
        }
    }
    Ok(wanted)
}

/// Whether two views have the same name and definition.
pub(super) fn is_same(left: &CollectionInfo, right: &CollectionInfo) -> bool {
    left.kind == right.kind
        && left.namespace == right.namespace
        && left.options.as_bytes() == right.options.as_bytes()
}
