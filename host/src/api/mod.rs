//! The HTTP control API: mongosync's six routes in its envelope, and a few of our own.
//!
//! A handler extracts, calls the engine's handle and converts. The listener is loopback only;
//! requests that a web page could have made are refused (`guard`).
//!
//! Invariant: this room knows the engine's handle and plain data, no driver and no wasm; `axum` is
//! named nowhere else.

mod error;
mod guard;
mod plugins;
mod progress;
mod request;
mod routes;
mod server;
mod start;
mod verification;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use server::{bind, serve};

use serde_json::{Map, Value};

use crate::{
    engine::EngineHandle,
    error::Result,
    model::{options::StartOptions, plugin::PluginInfo, verification::VerificationProgress},
};

/// Yields what is loaded now; called once per request.
pub type PluginList = Arc<dyn Fn() -> Vec<PluginInfo> + Send + Sync>;

/// Reads the body of `/start`; the command `preflight` takes the same.
///
/// # Errors
/// `StartOptionsInvalid` with every problem found.
pub fn start_options(body: &Map<String, Value>) -> Result<StartOptions> {
    start::parse(body)
}

/// The answer of `/verification` about a comparison.
pub fn verification_answer(found: &VerificationProgress) -> Value {
    verification::answer(Some(found))
}

/// What the handlers work with.
#[derive(Clone)]
pub struct ApiState {
    /// The sync.
    pub engine: EngineHandle,
    /// The loaded plugins.
    pub plugins: PluginList,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").finish_non_exhaustive()
    }
}
