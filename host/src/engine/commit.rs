//! The hand-over: an ordered sequence of steps, each recorded before it begins and repeatable.
//!
//! ```text
//! requested ─▶ draining ─▶ restoring ─▶ converting ─▶ finished
//!  block source  apply all   TTL, hidden,   canWrite;     COMMITTED
//!  writes, set   up to the   prepareUnique, unique
//!  the fence     fence       views
//! ```
//!
//! A crash anywhere is taken up again from the recorded step.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    capped, checkpoint::CommitStep, context::Context, indexes, record::Record, stream::StreamStatus,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        options::WriteBlocking,
        progress::{Phase, Progress, State},
    },
    ports::{CollectionInfo, CollectionKind},
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
                    self.views().await?;
                    if self.blocks_destination() {
                        self.context.destination.block_user_writes(false).await?;
                    }
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

    /// Whether the destination was blocked from the start.
    fn blocks_destination(&self) -> bool {
        self.context.options.write_blocking != WriteBlocking::None
    }

    /// Blocks source writes where that was asked for, and marks the end of what is synced.
    async fn fence(&mut self) -> Result<()> {
        if self.context.options.write_blocking == WriteBlocking::SourceAndDestination {
            self.context.source.block_user_writes(true).await?;
        }
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
        self.end_stream.cancel();
        // The router drops its end once everything is written and saved.
        while self.status.changed().await.is_ok() {}
        Ok(())
    }

    /// Brings the views of the destination in line with the source's.
    async fn views(&self) -> Result<()> {
        let remap = &self.context.remap;
        let mut wanted = Vec::new();
        for mut info in self.context.source.list().await? {
            if info.kind == CollectionKind::View
                && self.context.namespaces.includes(&info.namespace)?
            {
                info.options = remap.view(&info.namespace, &info.options)?;
                info.namespace = remap.destination(&info.namespace)?;
                wanted.push(info);
            }
        }
        let mut present = Vec::new();
        for info in self.context.destination.list().await? {
            if info.kind == CollectionKind::View
                && let Some(source) = remap.source(&info.namespace)?
                && self.context.namespaces.includes(&source)?
            {
                present.push(info);
            }
        }
        let same = |a: &CollectionInfo, b: &CollectionInfo| {
            a.namespace == b.namespace && a.options.as_bytes() == b.options.as_bytes()
        };
        for view in &present {
            if !wanted.iter().any(|other| same(view, other)) {
                self.context.destination.drop_collection(&view.namespace).await?;
            }
        }
        for view in &wanted {
            if !present.iter().any(|other| same(view, other)) {
                self.context.destination.create(&view.namespace, &view.options).await?;
            }
        }
        Ok(())
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
