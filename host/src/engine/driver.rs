//! The task that owns the state: requests in, runs started and stopped, progress out.

mod aborting;
mod failing;
mod replaying;
mod reversing;

pub use aborting::GivenUp;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    EngineHandle, Envelope, Request, abort, blocking,
    checkpoint::{CommitStep, SyncRecord},
    context::{Context, Limits, Load},
    filter::{DocumentFilters, NamespaceFilter},
    hot::HotDocuments,
    lease::{self, Leases, Wait},
    preflight,
    record::Record,
    run::{self, Control, Outcome},
    state,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        gate::WriteGate,
        options::{ClusterLabel, HotDocument, StartOptions},
        progress::{Failure, Phase, Progress, State},
        verification::{VerificationPhase, VerificationProgress},
    },
    ports::{ClusterInfo, Destination, Source, StateStore, Table},
    telemetry::metrics,
};

/// `loadLevel` when none is given.
const DEFAULT_LEVEL: u8 = 3;
/// `loadLevel` when none is given and others use the destination.
const GENTLE_LEVEL: u8 = 2;
/// Requests that may wait.
const QUEUE: usize = 16;
/// How long giving the lease back may hold up the end of the process.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// The ports of one direction.
pub struct Clusters {
    /// The cluster that is read.
    pub source: Arc<dyn Source>,
    /// The cluster that is written to.
    pub destination: Arc<dyn Destination>,
    /// The metadata database on the destination.
    pub store: Arc<dyn StateStore>,
    /// Closed when another process takes the sync over; both ports of the destination ask it.
    pub gate: WriteGate,
    /// `"cluster0: host:port"` of source and destination.
    pub names: (String, String),
}

/// What the engine is told at its beginning.
pub struct Settings {
    /// Both directions: cluster0 as the source, cluster1 as the source.
    pub directions: [Clusters; 2],
    /// Which documents.
    pub documents: Arc<DocumentFilters>,
    /// `loadLevel`, 1 to 4; `None` when the operator leaves it to the sync.
    pub load_level: Option<u8>,
    /// Indexes in one command at most.
    pub create_indexes_batch_size: usize,
    /// Documents whose changes are skipped until the commit; a restart may only add to them.
    pub hot: Vec<HotDocument>,
    /// Name of the metadata database.
    pub metadata_database: String,
    /// Whether a sync that is taken up goes on without verification.
    pub is_verification_disabled: bool,
    /// What the operations of this process carry on the servers; no other process has it.
    pub tag: String,
    /// Sizes at which work is cut; the default fits real clusters.
    pub limits: Limits,
}

impl Settings {
    /// The ports of a direction.
    fn clusters(&self, source: ClusterLabel) -> Option<&Clusters> {
        match source {
            ClusterLabel::Cluster0 => self.directions.first(),
            ClusterLabel::Cluster1 => self.directions.last(),
        }
    }
}

/// The engine's end of its handle.
pub struct Inbox {
    /// Requests.
    requests: mpsc::Receiver<Envelope>,
    /// Where progress is published.
    progress: Arc<watch::Sender<Progress>>,
}

/// A handle, which shows `INITIALIZING` until an engine takes the other end.
pub fn channel(instance_id: &str) -> (Inbox, EngineHandle) {
    let (sender, requests) = mpsc::channel(QUEUE);
    let (progress, observed) = watch::channel(Progress {
        instance_id: instance_id.to_owned(),
        coordinator_id: Some(instance_id.to_owned()),
        ..Progress::default()
    });
    let inbox = Inbox { requests, progress: Arc::new(progress) };
    (inbox, EngineHandle::new(sender, observed))
}

/// A run in progress.
struct Running {
    /// How to stop it.
    control: Control,
    /// How it ended.
    ended: oneshot::Receiver<Result<Outcome>>,
    /// The task itself.
    task: crate::tasks::TaskSet,
}

/// The engine: owner of the state.
pub struct Engine {
    /// What it was told.
    settings: Settings,
    /// Requests.
    requests: mpsc::Receiver<Envelope>,
    /// Where progress is published.
    progress: Arc<watch::Sender<Progress>>,
    /// The sync, once started, with its direction.
    sync: Option<(Arc<Record>, ClusterLabel)>,
    /// The present run.
    running: Option<Running>,
    /// Under what name leases are held.
    owner: String,
    /// Renew the leases that are held; two while the roles are swapped.
    leases: Leases,
}

impl Engine {
    /// An engine behind a handle. Nothing happens before [`Self::run`].
    pub fn new(settings: Settings, inbox: Inbox) -> Self {
        let Inbox { requests, progress } = inbox;
        let owner = lease::owner(&settings.tag, &progress.borrow().instance_id);
        let leases = Leases::new();
        Self { settings, requests, progress, sync: None, running: None, owner, leases }
    }

    /// Owns the state until `stop` is set, then drains the run.
    ///
    /// # Errors
    /// Whatever stopped the sync, after it was published; `MetadataMismatch` and
    /// `MetadataVersion` when the metadata cannot be taken up.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        self.check_pair().await?;
        self.take_up().await?;
        loop {
            if self.state() == State::Aborting && self.carry_out_abort(&stop).await? {
                break;
            }
            let ended = async {
                match &mut self.running {
                    Some(running) => (&mut running.ended).await.unwrap_or_else(|_| {
                        Err(Error::new(Kind::Internal, "the sync's task ended without an answer"))
                    }),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(lost) = self.leases.next() => {
                    // What is in hand must not be written any more.
                    drop(self.running.take());
                    return lost;
                }
                outcome = ended => {
                    let kept = self.ended(outcome).await;
                    if kept.is_err() {
                        self.release().await;
                    }
                    kept?;
                }
                request = self.requests.recv() => match request {
                    None => break,
                    Some(envelope) => {
                        let answer = self.answer(envelope.request).await;
                        if let Err(error) = &answer {
                            tracing::info!(code = error.kind().code(), error = %error.full(), "request refused");
                        }
                        // The asker may have gone; the request is carried out all the same.
                        drop(envelope.reply.send(answer));
                    }
                },
            }
        }
        let stopped = self.stop_run().await;
        self.release().await;
        stopped.map(|_| ())
    }

    /// The state as it is published.
    fn state(&self) -> State {
        self.progress.borrow().state
    }

    /// Takes the lease of a direction's sync and keeps it.
    async fn hold(&mut self, source: ClusterLabel, wait: Wait) -> Result<()> {
        if !self.leases.of(source).is_empty() {
            return Ok(());
        }
        let Some(clusters) = self.clusters(source) else {
            return Err(Error::new(Kind::Internal, "a direction is missing"));
        };
        let (store, gate) = (Arc::clone(&clusters.store), clusters.gate.clone());
        let destination = Arc::clone(&clusters.destination);
        let former_owners = lease::acquire(&*store, &self.owner, &gate, wait).await?;
        let owner = self.owner.clone();
        let kept = Arc::clone(&store);
        self.leases
            .of(source)
            .spawn("lease", async move { lease::keep(&*kept, &owner, &gate).await });
        lease::settle(&*store, &*destination, &self.owner, &former_owners).await
    }

    /// Gives the leases back, so that the next process need not wait.
    async fn release(&mut self) {
        self.release_of(ClusterLabel::Cluster0).await;
        self.release_of(ClusterLabel::Cluster1).await;
    }

    /// Gives the lease of a direction back, if it is held.
    async fn release_of(&mut self, source: ClusterLabel) {
        if self.leases.of(source).is_empty() {
            return;
        }
        self.leases.of(source).shutdown().await;
        let Some(clusters) = self.clusters(source) else { return };
        let released = clusters.store.release_lease(&self.owner);
        match tokio::time::timeout(RELEASE_PATIENCE, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %error.full(), "the lease was not given back"),
            Err(_) => tracing::warn!("the destination does not answer, the lease will lapse"),
        }
    }

    /// Refuses two connection strings that lead to the same cluster.
    async fn check_pair(&self) -> Result<()> {
        let [direction, _] = &self.settings.directions;
        let (source, destination) =
            (direction.source.info().await?, direction.destination.info().await?);
        preflight::check_distinct(&source, &destination)
    }

    /// Looks for a sync in the metadata of either destination and goes on with it.
    async fn take_up(&mut self) -> Result<()> {
        let mut found: Option<(ClusterLabel, SyncRecord)> = None;
        let mut stale = Vec::new();
        for label in [ClusterLabel::Cluster0, ClusterLabel::Cluster1] {
            let Some(clusters) = self.clusters(label) else { continue };
            let Some(document) = clusters.store.load(Table::Sync).await?.pop() else { continue };
            let record = SyncRecord::from_document(&document)?;
            if record.options.source != label {
                return Err(Error::new(
                    Kind::MetadataMismatch,
                    "cluster0 and cluster1 are swapped: the metadata database names the source as \
                     the other one",
                ));
            }
            // Swapping the roles ended between storing the new record and removing the old one.
            if found.as_ref().is_none_or(|(_, other)| other.generation < record.generation) {
                stale.extend(found.replace((label, record)).map(|(label, _)| label));
            } else {
                stale.push(label);
            }
        }
        if let Some((label, record)) = found
            && let Some(clusters) = self.clusters(label)
        {
            if record.state == State::Aborting {
                self.check_clusters(&record, clusters).await?;
            } else {
                self.check_same(&record, clusters).await?;
            }
            let state = record.state;
            let store = Arc::clone(&clusters.store);
            if state != State::Committed {
                self.hold(label, Wait::UntilLapsed).await?;
            }
            for old in stale {
                if let Some(clusters) = self.clusters(old) {
                    abort::forget(&*clusters.store).await?;
                }
            }
            tracing::info!(state = state.name(), phase = record.phase.name(), "taking up a sync");
            let kept = Arc::new(Record::new(record.clone()));
            if record.generation == 0
                && record.hot != self.settings.hot
                && state != State::Committed
            {
                let hot = self.settings.hot.clone();
                kept.change(&*store, |record| record.hot = hot).await?;
            }
            if self.settings.is_verification_disabled
                && state != State::Committed
                && record.options.verification != Some(false)
            {
                tracing::warn!("the sync goes on without verification");
                kept.change(&*store, |record| record.options.verification = Some(false)).await?;
            }
            self.sync = Some((kept, label));
            self.publish_sync(&record);
            match state {
                State::Running | State::Committing => {
                    self.start_run(record.commit > CommitStep::None)?;
                }
                State::Reversing => self.start_reversing().await?,
                State::Initializing
                | State::Idle
                | State::Paused
                | State::Committed
                | State::Aborting => {}
            }
            return Ok(());
        }
        self.progress.send_modify(|progress| progress.state = State::Idle);
        Ok(())
    }

    /// Refuses a record of other clusters.
    async fn check_clusters(&self, record: &SyncRecord, clusters: &Clusters) -> Result<()> {
        let source = clusters.source.info().await?.identity;
        let destination = clusters.destination.info().await?.identity;
        if record.source_identity != source || record.destination_identity != destination {
            return Err(Error::new(
                Kind::MetadataMismatch,
                "the metadata database belongs to a sync between other clusters",
            ));
        }
        Ok(())
    }

    /// Refuses a record of other clusters, other document filters or fewer hot documents.
    async fn check_same(&self, record: &SyncRecord, clusters: &Clusters) -> Result<()> {
        self.check_clusters(record, clusters).await?;
        let forgotten = record.hot.iter().find(|hot| !self.settings.hot.contains(hot));
        if let Some(forgotten) = forgotten
            && record.state != State::Committed
        {
            return Err(Error::new(
                Kind::MetadataMismatch,
                format!(
                    "hotDocIDs lists less of {} than before; documents may only be added",
                    forgotten.namespace
                ),
            ));
        }
        if record.filters != self.settings.documents.fingerprints() {
            return Err(Error::new(
                Kind::MetadataMismatch,
                "the sync began with other document filters (another plugin, configuration or order)",
            ));
        }
        Ok(())
    }

    /// Publishes what a record says.
    fn publish_sync(&self, record: &SyncRecord) {
        let names = self.clusters(record.options.source).map(|clusters| clusters.names.clone());
        self.progress.send_modify(|progress| {
            progress.state = record.state;
            progress.phase = Some(record.phase);
            progress.can_write = record.commit >= CommitStep::Converting;
            progress.direction = names;
            if record.state == State::Committed {
                progress.can_commit = false;
            }
        });
        blocking::publish(record, &self.progress);
        for warning in &self.progress.borrow().warnings {
            tracing::warn!("{warning}");
        }
    }

    /// The ports of a direction.
    fn clusters(&self, source: ClusterLabel) -> Option<&Clusters> {
        self.settings.clusters(source)
    }

    /// Answers a request.
    async fn answer(&mut self, request: Request) -> Result<()> {
        let present = self.state();
        if let Request::Start(options) = &request
            && self.is_the_same(present, options).await
        {
            return Ok(());
        }
        let next = state::next(present, &request)?;
        match request {
            Request::Start(options) => self.start(*options).await,
            Request::Pause => {
                self.stop_run().await?;
                self.enter(next).await
            }
            Request::Resume => {
                self.enter(next).await?;
                self.start_run(false)
            }
            Request::Commit => self.commit(present).await,
            Request::Abort(copied) => self.abort(copied).await,
            Request::Reverse => self.reverse().await,
        }
    }

    /// Whether the sync that runs is the one that is asked for: a client may repeat a `start` whose
    /// answer it has not seen, or send it again after a restart.
    async fn is_the_same(&self, present: State, asked: &StartOptions) -> bool {
        match &self.sync {
            Some((record, _)) if matches!(present, State::Running | State::Committing) => {
                let begun = record.get().await.options;
                let skip_disk_space_check = begun.skip_disk_space_check;
                begun == StartOptions { skip_disk_space_check, ..asked.clone() }
            }
            _ => false,
        }
    }

    /// Begins a sync.
    async fn start(&mut self, options: StartOptions) -> Result<()> {
        let namespaces = self.namespaces(&options)?;
        self.hold(options.source, Wait::No).await?;
        let begun = self.begin(options, &namespaces).await;
        match begun {
            Ok(record) => {
                self.publish_sync(&record);
                let source = record.options.source;
                self.sync = Some((Arc::new(Record::new(record)), source));
                self.start_run(false)
            }
            Err(error) if error.kind() == Kind::AlreadyStarted => {
                self.release().await;
                Err(error)
            }
            Err(error) => {
                // Nothing was begun, so nothing is left behind.
                self.forget().await;
                Err(error)
            }
        }
    }

    /// Checks the clusters and records a sync.
    async fn begin(
        &self,
        options: StartOptions,
        namespaces: &NamespaceFilter,
    ) -> Result<SyncRecord> {
        let missing = || Error::new(Kind::Internal, "a direction is missing");
        let clusters = self.clusters(options.source).ok_or_else(missing)?;
        if !clusters.store.load(Table::Sync).await?.is_empty() {
            return Err(Error::new(
                Kind::AlreadyStarted,
                "another process has started a sync between these clusters",
            ));
        }
        let report =
            preflight::examine(&*clusters.source, &*clusters.destination, namespaces, &options)
                .await?;
        preflight::log(&report);
        if let Some(refusal) = report.refusal() {
            return Err(refusal);
        }
        if options.reversible {
            self.check_reversible(clusters).await?;
        }
        let blocks = blocking::resolve(&*clusters.source, &*clusters.destination, &options).await?;
        let record = SyncRecord {
            state: State::Running,
            phase: Phase::Planning,
            source_identity: clusters.source.info().await?.identity,
            destination_identity: clusters.destination.info().await?.identity,
            filters: self.settings.documents.fingerprints().to_vec(),
            position: None,
            commit: CommitStep::None,
            fence: None,
            abort: None,
            blocks,
            reverse_from: None,
            hot: self.settings.hot.clone(),
            generation: 0,
            options,
        };
        clusters.store.put(Table::Sync, vec![record.to_document()?]).await?;
        Ok(record)
    }

    /// Refuses a sync whose way back could not be gone.
    async fn check_reversible(&self, clusters: &Clusters) -> Result<()> {
        if !self.settings.documents.fingerprints().is_empty() {
            return Err(Error::new(
                Kind::StartOptionsInvalid,
                "reversible cannot be combined with document filters: what they leave out would \
                 be gone on the way back",
            ));
        }
        let major = |info: ClusterInfo| info.version.first().copied();
        let (source, destination) =
            (clusters.source.info().await?, clusters.destination.info().await?);
        if major(source) != major(destination) {
            return Err(Error::new(
                Kind::UnsupportedVersion,
                "reversible needs the same major version on both sides",
            ));
        }
        Ok(())
    }

    /// The namespace filter of a sync.
    fn namespaces(&self, options: &StartOptions) -> Result<NamespaceFilter> {
        NamespaceFilter::new(
            &options.include_namespaces,
            &options.exclude_namespaces,
            &self.settings.metadata_database,
        )
    }

    /// Records a commit and lets the run carry it out.
    async fn commit(&mut self, present: State) -> Result<()> {
        if present == State::Running && !self.progress.borrow().can_commit {
            return Err(Error::new(Kind::CannotCommitYet, self.why_not()));
        }
        let Some((record, source)) = self.sync.clone() else {
            return Err(Error::new(Kind::InvalidState, "there is no sync"));
        };
        let Some(clusters) = self.clusters(source) else {
            return Err(Error::new(Kind::Internal, "a direction is missing"));
        };
        if present == State::Running {
            record
                .change(&*clusters.store, |record| {
                    record.state = State::Committing;
                    record.commit = CommitStep::Requested;
                })
                .await?;
        }
        self.progress.send_modify(|progress| {
            progress.state = State::Committing;
            progress.can_commit = false;
            progress.failure = None;
            progress.phase = Some(Phase::WaitingForCommit);
        });
        match &self.running {
            Some(running) => running.control.commit.cancel(),
            // A commit that failed is taken up again.
            None => self.start_run(true)?,
        }
        Ok(())
    }

    /// What a commit still waits for.
    fn why_not(&self) -> String {
        let progress = self.progress.borrow();
        match progress.phase {
            Some(Phase::ChangeEventApplication)
                if progress.verification.as_ref().is_some_and(|v| v.total() > 0) =>
            {
                let found = progress.verification.as_ref().map(VerificationProgress::in_words);
                format!("the verification has found {}", found.unwrap_or_default())
            }
            Some(Phase::ChangeEventApplication)
                if progress
                    .verification
                    .as_ref()
                    .is_some_and(|v| v.phase != VerificationPhase::Following) =>
            {
                "the verification has not compared everything yet".to_owned()
            }
            Some(Phase::ChangeEventApplication) => match progress.indexes {
                Some(indexes) if indexes.indexes_built < indexes.indexes_total => format!(
                    "{} of {} indexes are built",
                    indexes.indexes_built, indexes.indexes_total
                ),
                _ => format!(
                    "the lag is {} s, at most 30 are allowed",
                    progress.lag_seconds.unwrap_or_default()
                ),
            },
            Some(phase) => format!("the sync is still in the phase `{}`", phase.name()),
            None => "the sync has not begun".to_owned(),
        }
    }

    /// Records a state and publishes it.
    async fn enter(&mut self, state: State) -> Result<()> {
        if let Some((record, source)) = self.sync.clone()
            && let Some(clusters) = self.clusters(source)
        {
            record.change(&*clusters.store, |record| record.state = state).await?;
        }
        self.progress.send_modify(|progress| {
            progress.state = state;
            if state == State::Paused {
                progress.lag_seconds = None;
                progress.can_commit = false;
            }
        });
        Ok(())
    }

    /// Starts a run of the recorded sync.
    fn start_run(&mut self, commit: bool) -> Result<()> {
        let Some((record, source)) = self.sync.clone() else {
            return Err(Error::new(Kind::Internal, "there is no sync to run"));
        };
        let Some(clusters) = self.clusters(source) else {
            return Err(Error::new(Kind::Internal, "a direction is missing"));
        };
        let ports = (
            Arc::clone(&clusters.source),
            Arc::clone(&clusters.destination),
            Arc::clone(&clusters.store),
        );
        let control = Control::default();
        if commit {
            control.commit.cancel();
        }
        let (sender, ended) = oneshot::channel();
        let mut task = crate::tasks::TaskSet::new();
        let progress = Arc::clone(&self.progress);
        let documents = Arc::clone(&self.settings.documents);
        let settings_level = self.settings.load_level;
        let index_batch = self.settings.create_indexes_batch_size;
        let limits = self.settings.limits;
        let metadata_database = self.settings.metadata_database.clone();
        let hot = self.settings.hot.clone();
        let own = control.clone();
        task.spawn("run", async move {
            let present = record.get().await;
            // They are not taken along on the way back.
            let hot = HotDocuments::new(if present.generation == 0 { &hot } else { &[] });
            let options = present.options;
            let default = if options.pre_existing { GENTLE_LEVEL } else { DEFAULT_LEVEL };
            let load = Load { index_batch, ..Load::of_level(settings_level.unwrap_or(default)) };
            let namespaces = NamespaceFilter::new(
                &options.include_namespaces,
                &options.exclude_namespaces,
                &metadata_database,
            )?
            .with_natural_order(&options.natural_order)?;
            let context =
                Context::new(ports, namespaces, documents, options, (load, limits))?.with_hot(hot);
            let context = Arc::new(context);
            let outcome = Box::pin(run::run(context, record, own, progress)).await;
            // Nobody listens when the engine is being dropped.
            drop(sender.send(outcome));
            Ok(())
        });
        self.running = Some(Running { control, ended, task });
        Ok(())
    }

    /// Drains the present run and waits for its end.
    async fn stop_run(&mut self) -> Result<Option<Outcome>> {
        let Some(mut running) = self.running.take() else { return Ok(None) };
        running.control.drain.cancel();
        let outcome = (&mut running.ended).await;
        running.task.shutdown().await;
        match outcome {
            Ok(Ok(Outcome::Abandoned)) => {
                // Nothing of it may land after what comes next.
                if let Some(clusters) =
                    self.sync.as_ref().and_then(|(_, source)| self.clusters(*source))
                {
                    let tag = lease::tag_of(&self.owner);
                    clusters.destination.wait_for_writes(tag).await?;
                }
                Ok(Some(Outcome::Drained))
            }
            Ok(outcome) => outcome.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// A run has ended by itself.
    async fn ended(&mut self, outcome: Result<Outcome>) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.task.shutdown().await;
        }
        match outcome {
            Ok(Outcome::Committed) => {
                tracing::info!("committed");
                self.progress.send_modify(|progress| {
                    progress.state = State::Committed;
                    progress.phase = Some(Phase::CommitCompleted);
                    progress.can_commit = false;
                    progress.can_write = true;
                });
                Ok(())
            }
            Ok(Outcome::Drained | Outcome::Abandoned) => Ok(()),
            Ok(Outcome::Reversed) => self.reversed().await,
            Err(error) => {
                metrics::add(metrics::ERRORS, Some(("code", error.kind().code())));
                let failure = Failure { kind: error.kind(), detail: error.full() };
                self.progress.send_modify(|progress| {
                    progress.failure = Some(failure);
                    progress.can_commit = false;
                });
                // Duplicates are for the operator to remove; the commit can be repeated.
                // So are mismatches to mend.
                if matches!(error.kind(), Kind::DuplicateKeyAtCommit | Kind::VerificationFailed) {
                    tracing::error!(code = error.kind().code(), error = %error.full(), "commit failed");
                    return self.take_back_commit().await;
                }
                // What another process has taken over is its own to lift.
                if error.kind() != Kind::LeaseLost {
                    self.release_blocks().await;
                }
                Err(error)
            }
        }
    }
}
