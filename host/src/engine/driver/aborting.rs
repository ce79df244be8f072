//! How the owner of the state gives a sync up.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Engine, RELEASE_PATIENCE};
use crate::{
    engine::{abort, checkpoint::SyncRecord, lease::Wait},
    error::{Error, Kind, Result},
    model::{
        options::{ClusterLabel, Copied},
        progress::{Failure, Progress, State},
    },
    ports::Table,
};

impl Engine {
    /// Stops the run and records that the sync is given up; the rest follows when the request is
    /// answered.
    pub(super) async fn abort(&mut self, copied: Copied) -> Result<()> {
        let Some((record, source)) = self.sync.clone() else {
            return Err(Error::new(Kind::InvalidState, "there is no sync"));
        };
        abort::check(&record.get().await, copied)?;
        // Whatever the run stops with is of no interest any more, unless it was a commit's end.
        if let Err(error) = self.stop_run().await {
            tracing::info!(error = %error.full(), "the run ended badly before the abort");
        }
        let snapshot = record.get().await;
        if let Err(error) = abort::check(&snapshot, copied) {
            self.publish_sync(&snapshot);
            if snapshot.state == State::Committing {
                self.start_run(true)?;
            }
            return Err(error);
        }
        let store = self.clusters(source).map(|clusters| Arc::clone(&clusters.store));
        let store = store.ok_or_else(|| Error::new(Kind::Internal, "a direction is missing"))?;
        let recorded = record.change(&*store, |record| {
            record.state = State::Aborting;
            if record.abort != Some(Copied::Drop) {
                record.abort = Some(copied);
            }
        });
        recorded.await?;
        tracing::info!(copied = copied.name(), "aborting");
        self.progress.send_modify(|progress| {
            progress.state = State::Aborting;
            progress.can_commit = false;
            progress.lag_seconds = None;
            progress.failure = None;
        });
        Ok(())
    }

    /// Does what an abort recorded. Whether the process is to stop before that is done.
    ///
    /// # Errors
    /// Those of the clusters, after they were published; the next process goes on.
    pub(super) async fn carry_out_abort(&mut self, stop: &CancellationToken) -> Result<bool> {
        let Some((record, source)) = self.sync.clone() else { return Ok(false) };
        let record = record.get().await;
        let done = {
            let Self { settings, leases, requests, .. } = self;
            let Some(clusters) = settings.clusters(source) else { return Ok(false) };
            let work = abort::carry_out(clusters, &record, &settings.metadata_database);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(true),
                    Some(lost) = leases.next() => break lost,
                    done = &mut work => break done,
                    Some(envelope) = requests.recv() => {
                        let answer = abort::answer(&record, &envelope.request);
                        drop(envelope.reply.send(answer));
                    }
                }
            }
        };
        if let Err(error) = done {
            let failure = Failure { kind: error.kind(), detail: error.full() };
            self.progress.send_modify(|progress| progress.failure = Some(failure));
            self.release().await;
            return Err(error);
        }
        self.forget().await;
        tracing::info!("aborted");
        Ok(false)
    }

    /// Erases the metadata with the lease, and is idle.
    pub(super) async fn forget(&mut self) {
        for source in [ClusterLabel::Cluster0, ClusterLabel::Cluster1] {
            if self.leases.of(source).is_empty() {
                continue;
            }
            self.leases.of(source).shutdown().await;
            if let Some(clusters) = self.settings.clusters(source) {
                // What is left of it means nothing without the record.
                match tokio::time::timeout(RELEASE_PATIENCE, clusters.store.erase()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(error = %error.full(), "empty metadata is left behind");
                    }
                    Err(_) => tracing::warn!("empty metadata is left behind"),
                }
            }
        }
        self.sync = None;
        self.progress.send_modify(|progress| {
            *progress = Progress {
                state: State::Idle,
                instance_id: std::mem::take(&mut progress.instance_id),
                coordinator_id: progress.coordinator_id.take(),
                ..Progress::default()
            };
        });
    }

    /// Gives up the sync that the metadata holds, without running it: for a daemon that is down.
    /// Of a sync that is committed only the metadata can go. Whether there was one.
    ///
    /// # Errors
    /// `LeaseLost` while a daemon runs the sync, `MetadataMismatch` for that of other clusters,
    /// `InvalidState` to drop what the application may have written to.
    pub async fn reset(mut self, copied: Copied) -> Result<bool> {
        for label in [ClusterLabel::Cluster0, ClusterLabel::Cluster1] {
            let Some(clusters) = self.settings.clusters(label) else { continue };
            let Some(document) = clusters.store.load(Table::Sync).await?.pop() else { continue };
            self.hold(label, Wait::No).await?;
            let given_up = self.give_up(label, &document, copied).await;
            if let Err(error) = given_up {
                self.release().await;
                return Err(error);
            }
            self.forget().await;
            return Ok(true);
        }
        Ok(false)
    }

    /// What [`Self::reset`] does under the lease.
    async fn give_up(
        &self,
        label: ClusterLabel,
        document: &bson::Document,
        copied: Copied,
    ) -> Result<()> {
        let Some(clusters) = self.settings.clusters(label) else { return Ok(()) };
        let record = match SyncRecord::from_document(document) {
            Ok(record) => record,
            // Of another version: what it copied is not known here, but it can be forgotten.
            Err(_unreadable) if copied == Copied::Keep => {
                tracing::warn!("the metadata is another version's; write blocks may be left");
                return abort::forget(&*clusters.store).await;
            }
            Err(unreadable) => return Err(unreadable),
        };
        self.check_clusters(&record, clusters).await?;
        match abort::check(&record, copied) {
            Ok(()) => {}
            Err(_committed) if copied == Copied::Keep && record.state == State::Committed => {
                return abort::forget(&*clusters.store).await;
            }
            Err(error) => return Err(error),
        }
        let abort = if record.abort == Some(Copied::Drop) { Copied::Drop } else { copied };
        let record = SyncRecord { state: State::Aborting, abort: Some(abort), ..record };
        clusters.store.put(Table::Sync, vec![record.to_document()?]).await?;
        abort::carry_out(clusters, &record, &self.settings.metadata_database).await
    }
}
