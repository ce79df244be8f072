//! One run of a sync: from a record to its end, a pause, or an error.
//!
//! ```text
//! plan (or load) ─▶ stream opens ─┬─▶ router + appliers ───────────────────┐
//!                                 ├─▶ copy workers ─▶ indexes ─▶ (commit) ─┤─▶ end
//!                                 └─▶ monitor ─────────────────────────────┘
//! ```

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    blocking,
    checkpoint::CommitStep,
    commit::Commit,
    context::Context,
    copy, indexes, monitor, plan,
    record::Record,
    stream::{Router, StreamStatus},
    verify,
};
use crate::{
    error::{Error, Kind, Result},
    model::progress::{Phase, Progress},
    tasks::TaskSet,
};

/// How long what is under way may take when a run is asked to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How a run ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was asked to stop; everything taken is written and the position saved.
    Drained,
    /// It was asked to stop, and a cluster kept it waiting: what was under way is given up, as in a crash. The
    /// destination may still be working on some of it.
    Abandoned,
    /// The commit is done.
    Committed,
    /// The roles are swapped; another record counts now.
    Reversed,
}

/// What the owner of the state tells a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control {
    /// Finish what is under way and stop.
    pub(crate) drain: CancellationToken,
    /// A commit is recorded; carry it out.
    pub(crate) commit: CancellationToken,
}

/// Runs a sync. Dropping the future abandons it; the record says where the next run goes on.
///
/// # Errors
/// Whatever a retry does not mend.
pub(crate) async fn run(
    context: Arc<Context>,
    record: Arc<Record>,
    control: Control,
    progress: Arc<watch::Sender<Progress>>,
) -> Result<Outcome> {
    let snapshot = record.get().await;
    progress.send_modify(|progress| progress.phase = Some(snapshot.phase));
    // From then on the application may write.
    if snapshot.commit < CommitStep::Converting {
        blocking::block_destination(&*context.destination, &record, &*context.store).await?;
        blocking::publish(&record.get().await, &progress);
    }
    if snapshot.commit > CommitStep::Draining {
        return finish_commit(&context, &record, &control, &progress).await;
    }
    let reader = match snapshot.position {
        None => tokio::select! {
            biased;
            () = control.drain.cancelled() => return Ok(Outcome::Drained),
            reader = plan::plan(&context, &record) => reader?,
        },
        Some(position) => {
            plan::load(&context, &position).await?;
            verify::load(&context).await?;
            context.quarantine.load(&*context.store).await?;
            context.source.open_stream(position).await?
        }
    };
    let mut tasks = TaskSet::new();
    let position = record.get().await.position.map(|position| position.time).unwrap_or_default();
    let (status_sender, status) =
        watch::channel(StreamStatus { observed: position, applied: position, copy_done: false });
    let end_stream = CancellationToken::new();
    let router = Router::new(Arc::clone(&context), Arc::clone(&record), status_sender);
    tasks.spawn("router", router.run(reader, end_stream.clone()));
    tasks.spawn(
        "monitor",
        monitor::run(Arc::clone(&context), status.clone(), Arc::clone(&progress)),
    );
    if context.verification.is_enabled {
        tasks.spawn("verification", verify::run(Arc::clone(&context), status.clone()));
    }
    tasks.spawn("indexes", indexes::keep_built(Arc::clone(&context), status.clone()));
    let stop_copy = CancellationToken::new();
    let mut copying = TaskSet::new();
    if !context.table().is_done() {
        for _ in 0..context.load.copy_workers {
            copying.spawn("copy-worker", copy::run(Arc::clone(&context), stop_copy.clone()));
        }
    }
    let flow = flow(&context, &record, &control, &progress, status.clone(), end_stream.clone());
    tokio::pin!(flow);
    let mut refused = None;
    let mut outcome = loop {
        tokio::select! {
            biased;
            Some(ended) = tasks.next() => ended?,
            Some(ended) = copying.next() => ended?,
            () = control.drain.cancelled() => break Outcome::Drained,
            finished = &mut flow => match finished {
                Ok(()) => break Outcome::Committed,
                // The sync may go on at once: nothing of this run may still be under way then.
                Err(error) if error.kind() == Kind::VerificationFailed => {
                    refused = Some(error);
                    break Outcome::Drained;
                }
                Err(error) => return Err(error),
            }
        }
    };
    if outcome == Outcome::Drained {
        stop_copy.cancel();
        end_stream.cancel();
        let drained = async {
            copying.join().await?;
            wait_for_router(&mut tasks, status).await?;
            context.verification.save(&*context.store, false).await?;
            // Nobody is in the middle of changing the record.
            record.get().await;
            Ok::<_, Error>(())
        };
        tokio::pin!(drained);
        // The flow goes on meanwhile: it may be the one that holds the record. How it ends without
        // a stream says nothing, unless it ends well.
        let mut flowing = refused.is_none();
        let limit = tokio::time::sleep(DRAIN_LIMIT);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                biased;
                result = &mut drained => break result?,
                () = &mut limit => {
                    tracing::warn!("a cluster does not answer: what is under way is given up");
                    outcome = Outcome::Abandoned;
                    break;
                }
                finished = &mut flow, if flowing => {
                    flowing = false;
                    if finished.is_ok() {
                        outcome = Outcome::Committed;
                    }
                }
            }
        }
    }
    tasks.shutdown().await;
    match refused {
        // The next process waits for what is still under way.
        Some(error) if outcome == Outcome::Abandoned => {
            Err(Error::new(Kind::TransientNetwork, "a cluster does not answer").caused_by(error))
        }
        Some(error) => Err(error),
        None => Ok(outcome),
    }
}

/// Waits until the router has written and saved everything, which it shows by hanging up.
async fn wait_for_router(
    tasks: &mut TaskSet,
    mut status: watch::Receiver<StreamStatus>,
) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            ended = tasks.next() => match ended {
                Some(ended) => ended?,
                None => return Ok(()),
            },
        }
    }
}

/// What happens one after the other: copy, indexes, commit.
async fn flow(
    context: &Context,
    record: &Record,
    control: &Control,
    progress: &Arc<watch::Sender<Progress>>,
    mut status: watch::Receiver<StreamStatus>,
    end_stream: CancellationToken,
) -> Result<()> {
    let enter = async |phase: Phase| -> Result<()> {
        if record.get().await.phase < phase {
            record.change(&*context.store, |record| record.phase = phase).await?;
        }
        progress.send_modify(|progress| progress.phase = progress.phase.max(Some(phase)));
        Ok(())
    };
    enter(Phase::CollectionCopy).await?;
    let stopped = || Error::new(Kind::Internal, "the router stopped");
    // The router says so once it has saved the last partition as done.
    status.wait_for(|status| status.copy_done).await.map_err(|_| stopped())?;
    enter(Phase::ChangeEventApplication).await?;
    tracing::info!("collection copy finished");
    indexes::wait_until_built(context).await;
    tracing::info!("indexes built");
    control.commit.cancelled().await;
    enter(Phase::WaitingForCommit).await?;
    Commit { context, record, status, end_stream, progress }.run().await
}

/// Takes a commit up again whose stream had ended already.
async fn finish_commit(
    context: &Context,
    record: &Record,
    control: &Control,
    progress: &Arc<watch::Sender<Progress>>,
) -> Result<Outcome> {
    let position = record.get().await.position.ok_or_else(|| {
        Error::new(Kind::MetadataMismatch, "a commit is under way without a position")
    })?;
    plan::load(context, &position).await?;
    let (_, status) = watch::channel(StreamStatus::default());
    let commit = Commit { context, record, status, end_stream: CancellationToken::new(), progress };
    tokio::select! {
        biased;
        () = control.drain.cancelled() => Ok(Outcome::Drained),
        finished = commit.run() => finished.map(|()| Outcome::Committed),
    }
}
