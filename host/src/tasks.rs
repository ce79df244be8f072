//! Structured concurrency: every task has an owner that joins it, and a panic is an error.
//!
//! A [`TaskSet`] is held by whoever started the tasks; dropping it aborts them. [`Stop`] is the
//! pair of signals that every long task listens to: *drain* (take nothing new, finish, flush) and
//! *cancel* (stop now).
//!
//! Invariant: this is the only room that spawns.

use std::{any::Any, collections::HashMap, future::Future};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// The two stop signals of a scope; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take nothing new, finish what is under way, flush.
    pub drain: CancellationToken,
    /// Stop now.
    pub cancel: CancellationToken,
}

impl Stop {
    /// A pair that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A pair that follows this one and can also be set on its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), cancel: self.cancel.child_token() }
    }

    /// Asks to drain; when that was asked before, asks to stop now.
    pub fn escalate(&self) {
        if self.drain.is_cancelled() {
            self.cancel.cancel();
        }
        self.drain.cancel();
    }

    /// Asks to stop now, without draining first.
    pub fn stop_now(&self) {
        self.drain.cancel();
        self.cancel.cancel();
    }
}

/// Runs `work` to its end. The first SIGINT or SIGTERM asks it to drain, the next to stop now;
/// SIGUSR1 calls `on_user`.
///
/// # Errors
/// What `work` returns; `Internal` when signals cannot be received.
pub async fn heed_signals(
    mut work: impl Future<Output = Result<()>> + Unpin,
    stop: &Stop,
    on_user: impl Fn(),
) -> Result<()> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Error::new(Kind::Internal, "cannot receive signals").caused_by(error))
    };
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut user = listen(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = user.recv() => {
                on_user();
                continue;
            }
        }
        tracing::info!(hurry = stop.drain.is_cancelled(), "asked to stop by a signal");
        stop.escalate();
    }
}

/// Runs a task on a thread and a runtime of its own, where the load of the others cannot hold it
/// up. Dropping the future does not end the task: it needs a token that does.
///
/// # Errors
/// What the task returns; `Internal` when there is no thread, or the task panicked.
pub async fn on_own_thread<F>(name: &'static str, task: F) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let broken = |error: std::io::Error| {
        Error::new(Kind::Internal, format!("no runtime for `{name}`")).caused_by(error)
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody listens when the process is ending.
            drop(sender.send(runtime.block_on(task)));
        })
        .map_err(broken)?;
    ended
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal, format!("the task `{name}` panicked"))))
}

/// Runs work that blocks, and that nobody waits for, on a thread of its own. The end of the process
/// ends it too, so it must leave nothing half done under a final name.
pub fn aside(name: &'static str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::warn!(%error, task = name, "there is no thread for it");
    }
}

/// Tasks of one owner. Dropping the set aborts what still runs.
#[derive(Debug, Default)]
pub struct TaskSet {
    /// The tasks.
    tasks: JoinSet<Result<()>>,
    /// Their names, for the error of one that panics.
    names: HashMap<Id, &'static str>,
}

impl TaskSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task. The name appears in the error if it panics.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Tasks that have not been joined.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether every task has been joined.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the next task to finish; `None` when there is none left. Cancel safe.
    ///
    /// # Errors
    /// In the result: what the task returned, or `Internal` with the task's name when it panicked.
    pub async fn next(&mut self) -> Option<Result<()>> {
        match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => {
                self.names.remove(&id);
                Some(result)
            }
            Err(error) => {
                let name = self.names.remove(&error.id()).unwrap_or("unnamed");
                Some(ended(name, error))
            }
        }
    }

    /// Waits for all tasks. At the first error the others are aborted and joined.
    ///
    /// # Errors
    /// The first error of a task.
    pub async fn join(&mut self) -> Result<()> {
        while let Some(result) = self.next().await {
            if result.is_err() {
                self.shutdown().await;
                return result;
            }
        }
        Ok(())
    }

    /// Aborts every task and waits until all are gone; their results are dropped.
    pub async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
        self.names.clear();
    }
}

/// The result of a task that did not return: an abort is no failure, a panic is.
fn ended(name: &'static str, error: JoinError) -> Result<()> {
    match error.try_into_panic() {
        Ok(payload) => Err(Error::new(
            Kind::Internal,
            format!("task `{name}` panicked: {}", panic_text(payload.as_ref())),
        )),
        Err(_aborted) => Ok(()),
    }
}

/// The message of a panic, when it has one.
fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_that_names_the_task() {
        let mut tasks = TaskSet::new();
        tasks.spawn("copy-writer", async { panic!("boom {}", 7) });
        let error = tasks.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert_eq!(error.detail(), "task `copy-writer` panicked: boom 7");
        assert!(tasks.next().await.is_none());
    }

    #[tokio::test]
    async fn join_returns_the_first_error_and_leaves_nothing_running() {
        let mut tasks = TaskSet::new();
        let running = CancellationToken::new();
        let guard = running.clone().drop_guard();
        tasks.spawn("endless", async move {
            let _guard = guard;
            pending().await
        });
        tasks.spawn("failing", async { Err(Error::new(Kind::WriteFailed, "refused")) });
        assert_eq!(tasks.join().await.unwrap_err().kind(), Kind::WriteFailed);
        assert!(tasks.is_empty());
        assert!(running.is_cancelled(), "the endless task was aborted and dropped");
    }

    #[tokio::test]
    async fn dropping_the_set_aborts_its_tasks() {
        let mut tasks = TaskSet::new();
        let running = CancellationToken::new();
        let guard = running.clone().drop_guard();
        tasks.spawn("endless", async move {
            let _guard = guard;
            pending().await
        });
        drop(tasks);
        running.cancelled().await;
    }

    #[tokio::test]
    async fn signals_drain_and_then_hurry() {
        let stop = Stop::new();
        let terminate = || async {
            let pid = std::process::id().to_string();
            tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        };
        let work = Box::pin(async {
            terminate().await;
            stop.drain.cancelled().await;
            assert!(!stop.cancel.is_cancelled());
            terminate().await;
            stop.cancel.cancelled().await;
            Err(Error::new(Kind::LeaseLost, "the end"))
        });
        let outcome = heed_signals(work, &stop, || {}).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::LeaseLost);
    }

    #[test]
    fn the_second_signal_hurries_and_children_follow() {
        let stop = Stop::new();
        let child = stop.child();
        stop.escalate();
        assert!(child.drain.is_cancelled() && !child.cancel.is_cancelled());
        stop.escalate();
        assert!(child.cancel.is_cancelled());
        let other = Stop::new();
        other.child().stop_now();
        assert!(!other.drain.is_cancelled(), "a child does not stop its parent");
    }
}
