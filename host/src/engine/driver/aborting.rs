//! How the owner of the state gives a sync up.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Engine, RELEASE_PATIENCE, reversing::other};
use crate::{
    engine::{abort, blocking::Block, checkpoint::SyncRecord, lease::Wait, reverse},
    error::{Error, Kind, Result},
    model::{
        options::{ClusterLabel, Copied},
        progress::{Failure, Progress, State},
    },
    ports::Table,
};

/// What a reset has given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenUp {
    /// There was no sync.
    Nothing,
    /// A sync.
    Sync,
    /// The way back of a sync that was committed.
    WayBack {
        /// In what the old source is not as it was, in words.
        left: Vec<String>,
    },
}

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
    /// Of a sync that is committed, or on its way back, only the metadata can go.
    ///
    /// # Errors
    /// `LeaseLost` while a daemon runs the sync, `MetadataMismatch` for that of other clusters,
    /// `InvalidState` to drop what the application may have written to.
    pub async fn reset(mut self, copied: Copied) -> Result<GivenUp> {
        let mut found = Vec::new();
        for label in [ClusterLabel::Cluster0, ClusterLabel::Cluster1] {
            let Some(clusters) = self.settings.clusters(label) else { continue };
            if let Some(document) = clusters.store.load(Table::Sync).await?.pop() {
                found.push((label, document));
            }
        }
        // Swapping the roles ended between storing the new record and removing the old one.
        found.sort_by_key(|(_, document)| document.get_i32("generation").unwrap_or_default());
        let Some((label, document)) = found.pop() else { return Ok(GivenUp::Nothing) };
        let given_up = self.give_up(label, &document, !found.is_empty(), copied).await;
        if given_up.is_err() {
            self.release().await;
        } else {
            self.forget().await;
        }
        given_up
    }

    /// What [`Self::reset`] does. It takes the lease, and that of the other direction where
    /// something of an unfinished way back may be: `is_twice` says that there is another record.
    async fn give_up(
        &mut self,
        label: ClusterLabel,
        document: &bson::Document,
        is_twice: bool,
        copied: Copied,
    ) -> Result<GivenUp> {
        self.hold(label, Wait::No).await?;
        let clusters = self.direction(label)?;
        let record = match SyncRecord::from_document(document) {
            Ok(record) => record,
            // Of another version: what it copied is not known here, but it can be forgotten.
            Err(_unreadable) if copied == Copied::Keep => {
                tracing::warn!("the metadata is another version's; write blocks may be left");
                return abort::forget(&*clusters.store).await.map(|()| GivenUp::Sync);
            }
            Err(unreadable) => return Err(unreadable),
        };
        self.check_clusters(&record, clusters).await?;
        let is_reversing = record.state == State::Reversing;
        let is_handed_over = is_reversing || record.state == State::Committed;
        if copied == Copied::Drop || !is_handed_over {
            abort::check(&record, copied)?;
        }
        if is_twice || is_reversing {
            self.hold(other(label), Wait::No).await?;
            abort::forget(&*self.direction(other(label))?.store).await?;
        }
        let clusters = self.direction(label)?;
        if is_reversing {
            let old_source = &*self.direction(other(label))?.destination;
            let mut left = reverse::left_behind(old_source, &*clusters.store).await?;
            if record.blocks.source == Block::Ours {
                left.push("user writes are blocked".to_owned());
            }
            abort::forget(&*clusters.store).await?;
            return Ok(GivenUp::WayBack { left });
        }
        if is_handed_over {
            return abort::forget(&*clusters.store).await.map(|()| GivenUp::Sync);
        }
        let abort = if record.abort == Some(Copied::Drop) { Copied::Drop } else { copied };
        let record = SyncRecord { state: State::Aborting, abort: Some(abort), ..record };
        clusters.store.put(Table::Sync, vec![record.to_document()?]).await?;
        abort::carry_out(clusters, &record, &self.settings.metadata_database).await?;
        Ok(GivenUp::Sync)
    }
}
