//! The sync itself: plan, copy, apply changes, commit.
//!
//! The engine meets the world through the ports; it knows no driver, no wasm and no HTTP.
//! [`EngineHandle`] is what the rest of the host sees: commands go to one task that owns the state
//! (`driver`), observers read the published [`Progress`].
//!
//! Invariant: nothing here names `mongodb`, `wasmtime`, `axum` or `reqwest`.

mod abort;
mod blocking;
mod capped;
mod catalog;
mod checkpoint;
mod collisions;
mod commit;
mod context;
mod copy;
mod driver;
mod estimate;
mod filter;
mod hot;
mod indexes;
mod lease;
mod monitor;
mod pattern;
mod plan;
mod preflight;
mod quarantine;
mod record;
mod remap;
mod reverse;
mod run;
mod state;
mod stream;
mod verify;

pub use context::Limits;
pub use driver::{Clusters, Engine, GivenUp, Inbox, Settings, channel};
pub use filter::DocumentFilters;
pub use preflight::{Side, role};
pub use verify::{Alone, Note, Patience, verify};

use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    error::{Error, Kind, Result},
    model::{
        facts::Report,
        options::{Copied, StartOptions},
        progress::Progress,
    },
    ports::{Destination, Source},
};

/// Looks at both clusters as a sync with these options would find them, and changes nothing.
///
/// # Errors
/// `FilterInvalid`, and those of connections that a retry does not mend; what the clusters lack is
/// in the report.
pub async fn preflight(
    source: &dyn Source,
    destination: &dyn Destination,
    options: &StartOptions,
    metadata_database: &str,
) -> Result<Report> {
    let namespaces = filter::NamespaceFilter::new(
        &options.include_namespaces,
        &options.exclude_namespaces,
        metadata_database,
    )?;
    preflight::examine(source, destination, &namespaces, options).await
}

/// What the outside may ask of the engine.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Begin a sync.
    Start(Box<StartOptions>),
    /// Stop for a while.
    Pause,
    /// Go on.
    Resume,
    /// Hand over to the destination.
    Commit,
    /// Swap the roles.
    Reverse,
    /// Give the sync up.
    Abort(Copied),
}

/// A request with the way back.
pub(crate) struct Envelope {
    /// What is asked.
    pub(crate) request: Request,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Result<()>>,
}

/// Handle of the engine for the API. Cloning is cheap.
#[derive(Clone)]
pub struct EngineHandle {
    /// To the task that owns the state.
    requests: mpsc::Sender<Envelope>,
    /// What that task publishes.
    progress: watch::Receiver<Progress>,
}

impl EngineHandle {
    /// A handle over the two channels that the state's owner holds the other ends of.
    pub(crate) fn new(
        requests: mpsc::Sender<Envelope>,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        Self { requests, progress }
    }

    /// Begins a sync. Returns once the request is accepted and recorded, not when it is done.
    ///
    /// # Errors
    /// `InvalidState`, `AlreadyStarted`, and everything preflight can find.
    pub async fn start(&self, options: StartOptions) -> Result<()> {
        self.ask(Request::Start(Box::new(options))).await
    }

    /// Asks a running sync to pause; the state changes when its queues are written.
    ///
    /// # Errors
    /// `InvalidState` unless the sync is running.
    pub async fn pause(&self) -> Result<()> {
        self.ask(Request::Pause).await
    }

    /// Lets a paused sync go on.
    ///
    /// # Errors
    /// `InvalidState` unless the sync is paused.
    pub async fn resume(&self) -> Result<()> {
        self.ask(Request::Resume).await
    }

    /// Hands over to the destination. Returns once the commit is recorded.
    ///
    /// # Errors
    /// `InvalidState` unless running, `CannotCommitYet` unless `canCommit`.
    pub async fn commit(&self) -> Result<()> {
        self.ask(Request::Commit).await
    }

    /// Swaps the roles after a commit.
    ///
    /// # Errors
    /// `InvalidState` unless committed and started as reversible.
    pub async fn reverse(&self) -> Result<()> {
        self.ask(Request::Reverse).await
    }

    /// Gives the sync up. Returns once that is recorded; the state is IDLE when it is done.
    ///
    /// # Errors
    /// `InvalidState` when there is no sync, or the application may write to the destination.
    pub async fn abort(&self, copied: Copied) -> Result<()> {
        self.ask(Request::Abort(copied)).await
    }

    /// The latest published progress; never waits.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Sends a request to the state's owner and waits for its answer.
    async fn ask(&self, request: Request) -> Result<()> {
        let gone = || Error::new(Kind::Internal, "the engine has stopped");
        let (reply, answer) = oneshot::channel();
        self.requests.send(Envelope { request, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
