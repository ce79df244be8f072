//! What the owner of the state does after a failure: it takes a commit back, and lifts write blocks.

use super::{Engine, RELEASE_PATIENCE};
use crate::{
    engine::{
        blocking::{self, Block},
        checkpoint::CommitStep,
        record::Record,
    },
    error::{Error, Result},
    model::progress::{Phase, State},
    ports::StateStore,
};

impl Engine {
    /// Goes on with a sync whose commit has failed, unless the stream is over already: its source
    /// is the application's again, and what differs is compared until it is mended.
    pub(super) async fn take_back_commit(&mut self) -> Result<()> {
        let Some((record, source)) = self.sync.clone() else { return Ok(()) };
        let Some(clusters) = self.clusters(source) else { return Ok(()) };
        let store = &*clusters.store;
        if record.get().await.commit > CommitStep::Draining {
            return Ok(());
        }
        forget_fence(&record, store).await?;
        blocking::release_source(&*clusters.source, &record, store, Block::Wanted).await?;
        record
            .change(store, |record| {
                record.state = State::Running;
                record.phase = Phase::ChangeEventApplication;
                record.commit = CommitStep::None;
            })
            .await?;
        blocking::publish(&record.get().await, &self.progress);
        self.progress.send_modify(|progress| {
            progress.state = State::Running;
            progress.phase = Some(Phase::ChangeEventApplication);
        });
        self.start_run(false)
    }

    /// Lifts our write blocks after a failure; the next run sets them again. The source stays
    /// blocked once the destination has everything: going back would lose nothing, but neither
    /// would a new fence be seen.
    pub(super) async fn release_blocks(&self) {
        let Some((record, source)) = &self.sync else { return };
        let Some(clusters) = self.clusters(*source) else { return };
        let store = &*clusters.store;
        let released = async {
            blocking::release_destination(&*clusters.destination, record, store, Block::Wanted)
                .await?;
            if record.get().await.commit <= CommitStep::Draining {
                forget_fence(record, store).await?;
                blocking::release_source(&*clusters.source, record, store, Block::Wanted).await?;
            }
            Ok::<_, Error>(())
        };
        match tokio::time::timeout(RELEASE_PATIENCE, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(error = %error.full(), "a write block was not lifted");
            }
            Err(_) => tracing::error!("a write block was not lifted: no answer in time"),
        }
    }
}

/// What is written from now on is before the fence that the next commit sets.
async fn forget_fence(record: &Record, store: &dyn StateStore) -> Result<()> {
    record
        .change(store, |record| {
            if record.commit == CommitStep::Draining {
                record.commit = CommitStep::Requested;
                record.fence = None;
            }
        })
        .await
}
