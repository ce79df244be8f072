//! How the owner of the state swaps the roles after a commit.

use std::sync::Arc;

use super::{Engine, Running};
use crate::{
    engine::{
        blocking,
        checkpoint::SyncRecord,
        lease::Wait,
        record::Record,
        reverse::{self, Reversal},
        run::{Control, Outcome},
    },
    error::{Error, Kind, Result},
    model::{change::Position, options::ClusterLabel, progress::State},
    ports::Table,
    tasks::TaskSet,
};

/// The other one.
pub(super) fn other(label: ClusterLabel) -> ClusterLabel {
    match label {
        ClusterLabel::Cluster0 => ClusterLabel::Cluster1,
        ClusterLabel::Cluster1 => ClusterLabel::Cluster0,
    }
}

impl Engine {
    /// Records that the roles are to be swapped, and begins with it. What can be refused is refused
    /// before.
    ///
    /// # Errors
    /// `InvalidState`, `OplogPositionLost`, `PermissionDenied`.
    pub(super) async fn reverse(&mut self) -> Result<()> {
        let (record, source) = self.present()?;
        let old = record.get().await;
        let time = reverse::begin(&old)?;
        self.new_blocks(&old, source).await?;
        {
            let clusters = self.direction(other(source))?;
            // The new source must still hold everything since then.
            drop(clusters.source.open_stream(Position { token: None, time }).await?);
        }
        self.hold(source, Wait::No).await?;
        self.hold(other(source), Wait::No).await?;
        self.enter(State::Reversing).await?;
        self.start_reversing().await
    }

    /// Swaps the roles of a sync that is recorded as REVERSING, in the background.
    ///
    /// # Errors
    /// Those of the lease and of the clusters.
    pub(super) async fn start_reversing(&mut self) -> Result<()> {
        let (record, source) = self.present()?;
        self.hold(other(source), Wait::UntilLapsed).await?;
        let blocks = self.new_blocks(&record.get().await, source).await?;
        let (old, new) = (self.direction(source)?, self.direction(other(source))?);
        let reversal = Reversal {
            record,
            old_store: Arc::clone(&old.store),
            destination: Arc::clone(&new.destination),
            store: Arc::clone(&new.store),
            blocks,
        };
        let control = Control::default();
        let drain = control.drain.clone();
        let (sender, ended) = tokio::sync::oneshot::channel();
        let mut task = TaskSet::new();
        task.spawn("reverse", async move {
            let outcome = tokio::select! {
                biased;
                () = drain.cancelled() => Ok(Outcome::Drained),
                turned = reverse::turn(&reversal) => turned.map(|()| Outcome::Reversed),
            };
            // Nobody listens when the engine is being dropped.
            drop(sender.send(outcome));
            Ok(())
        });
        self.running = Some(Running { control, ended, task });
        Ok(())
    }

    /// The roles are swapped: goes on with the new record.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn reversed(&mut self) -> Result<()> {
        let (_, old) = self.present()?;
        let source = other(old);
        let stored = self.direction(source)?.store.load(Table::Sync).await?.pop();
        let missing = || Error::new(Kind::Internal, "the record of the way back is missing");
        let record = SyncRecord::from_document(&stored.ok_or_else(missing)?)?;
        tracing::info!(source = source.name(), "the roles are swapped");
        self.release_of(old).await;
        self.publish_sync(&record);
        self.sync = Some((Arc::new(Record::new(record)), source));
        self.start_run(false)
    }

    /// What is to be blocked by the new roles.
    async fn new_blocks(&self, old: &SyncRecord, source: ClusterLabel) -> Result<blocking::Blocks> {
        let new = self.direction(other(source))?;
        let resolved = blocking::resolve(&*new.source, &*new.destination, &old.options).await?;
        Ok(reverse::swapped(old.blocks, resolved))
    }

    /// The sync and its source.
    fn present(&self) -> Result<(Arc<Record>, ClusterLabel)> {
        self.sync.clone().ok_or_else(|| Error::new(Kind::InvalidState, "there is no sync"))
    }

    /// The ports of a direction.
    pub(super) fn direction(&self, source: ClusterLabel) -> Result<&super::Clusters> {
        let missing = || Error::new(Kind::Internal, "a direction is missing");
        self.clusters(source).ok_or_else(missing)
    }
}
