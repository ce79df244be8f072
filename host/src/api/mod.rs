//! The HTTP control API: mongosync's six routes in its envelope, and a few of our own.
//!
//! A handler extracts, calls the engine's handle and converts. Requests that a web page could have
//! made are refused (`guard`), then `federation` is asked whether the caller may (`access`). Without
//! a federation the listener is loopback only.
//!
//! Invariant: this room knows the engine's handle, the federation and plain data, no driver and no
//! wasm; `axum` is
//! named nowhere else.

mod access;
mod error;
mod guard;
mod metrics;
mod plugins;
mod progress;
mod request;
mod routes;
mod server;
mod start;
mod tls;
mod verification;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

pub use metrics::log_metrics;
pub use server::{bind, serve};
pub use tls::Tls;

use crate::{
    engine::EngineHandle,
    error::Result,
    federation::Access,
    model::{options::StartOptions, plugin::PluginInfo, verification::VerificationProgress},
};

/// Yields what is loaded now; called once per request.
pub type PluginList = Arc<dyn Fn() -> Vec<PluginInfo> + Send + Sync>;

/// Reads the body of `/start`; the commands `preflight` and `verify` take the same.
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
    /// Who may do what.
    pub access: Arc<Access>,
    /// Where the listener can be reached from; set by [`serve`].
    pub exposure: Exposure,
}

/// Where the listener can be reached from.
#[derive(Debug, Clone, Copy)]
pub struct Exposure {
    /// From this machine only.
    pub is_local: bool,
    /// By TLS only.
    pub is_encrypted: bool,
}

impl Default for Exposure {
    fn default() -> Self {
        Self { is_local: true, is_encrypted: false }
    }
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").finish_non_exhaustive()
    }
}
