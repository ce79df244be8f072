//! The keys of one issuer, kept: loaded when a key is unknown, the set is old, or from time to time,
//! never more often than the quiesce period allows, and by one request at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{config::Federation, fetch::Fetcher, keys::KeySet};
use crate::error::Result;

/// How long old keys are used while the issuer cannot be asked.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// How long an unknown key id stays unknown.
const UNKNOWN_TIME: Duration = Duration::from_secs(60);
/// Most unknown key ids remembered.
const MAX_UNKNOWN: usize = 1024;
/// Least time between two revocations that let the quiesce period be skipped.
const WAIVER_SPACING: Duration = Duration::from_secs(5);

/// The cache.
pub(super) struct KeyCache {
    /// The issuer.
    issuer: String,
    /// Least time between two loads.
    quiesce: Duration,
    /// Loads.
    fetcher: Fetcher,
    /// Held during a load. An async lock because its holder waits for the network.
    flight: tokio::sync::Mutex<()>,
    /// What is known. Never held across an await.
    state: Mutex<State>,
}

/// What is known.
#[derive(Default)]
struct State {
    /// The keys, and when and for how long they were loaded.
    keys: Option<(Arc<KeySet>, Instant, Duration)>,
    /// When a load was tried last, whatever came of it.
    tried: Option<Instant>,
    /// Whether the next load need not wait for the quiesce period.
    is_waived: bool,
    /// When that was granted last.
    waived: Option<Instant>,
    /// Unknown key ids, and when they were found to be so.
    unknown: BTreeMap<String, Instant>,
    /// Counts revocations, so that a load begun before one is thrown away.
    generation: u64,
}

impl KeyCache {
    /// An empty cache for a federation.
    ///
    /// # Errors
    /// `Internal` when there is no TLS.
    pub(super) fn new(federation: &Federation) -> Result<Self> {
        Ok(Self {
            issuer: federation.issuer.clone(),
            quiesce: Duration::from_secs(federation.jwks_minimum_quiesce_period_secs),
            fetcher: Fetcher::new(federation)?,
            flight: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
        })
    }

    /// A set that has a key of this id.
    ///
    /// # Errors
    /// That there is none, or none can be had.
    pub(super) async fn with_key(
        &self,
        kid: &str,
    ) -> std::result::Result<Arc<KeySet>, &'static str> {
        if let Some(settled) = self.look(kid, Instant::now()) {
            return settled;
        }
        let _flight = self.flight.lock().await;
        // Somebody else may have loaded meanwhile.
        if let Some(settled) = self.look(kid, Instant::now()) {
            return settled;
        }
        if self.may_load(Instant::now()) {
            self.load().await;
        }
        self.settle(kid, Instant::now())
    }

    /// Loads the keys anew, unless that was done within the quiesce period.
    pub(super) async fn poll(&self) {
        let _flight = self.flight.lock().await;
        if self.may_load(Instant::now()) {
            self.load().await;
        }
    }

    /// Drops every key. The next token loads them anew, at once unless there was a revocation just
    /// before.
    pub(super) fn revoke(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.keys = None;
        state.unknown.clear();
        state.generation += 1;
        if state.waived.is_none_or(|last| now >= last + WAIVER_SPACING) {
            state.waived = Some(now);
            state.is_waived = true;
        }
    }

    /// The answer without a load, when there is one.
    fn look(
        &self,
        kid: &str,
        now: Instant,
    ) -> Option<std::result::Result<Arc<KeySet>, &'static str>> {
        let state = self.state();
        if let Some((keys, loaded, life)) = &state.keys
            && keys.has(kid)
            && now < *loaded + *life
        {
            return Some(Ok(Arc::clone(keys)));
        }
        let is_unknown = state.unknown.get(kid).is_some_and(|since| now < *since + UNKNOWN_TIME);
        is_unknown.then_some(Err("the key is unknown"))
    }

    /// Whether the quiesce period is over; counts as a try when it is.
    fn may_load(&self, now: Instant) -> bool {
        let mut state = self.state();
        let rested = state.tried.is_none_or(|last| now >= last + self.quiesce);
        if !rested && !state.is_waived {
            return false;
        }
        state.is_waived = false;
        state.tried = Some(now);
        true
    }

    /// Loads the keys and replaces them all; a load that fails changes nothing.
    async fn load(&self) {
        let generation = self.state().generation;
        match self.fetcher.load(&self.issuer).await {
            Ok(loaded) => {
                let mut state = self.state();
                if state.generation == generation {
                    tracing::info!(issuer = self.issuer, keys = loaded.keys.len(), "keys loaded");
                    state.keys = Some((Arc::new(loaded.keys), Instant::now(), loaded.life));
                    state.unknown.clear();
                }
            }
            Err(why) => tracing::warn!(issuer = self.issuer, why, "keys cannot be loaded"),
        }
    }

    /// The answer after a load, or without one: old keys are better than none for a while.
    fn settle(&self, kid: &str, now: Instant) -> std::result::Result<Arc<KeySet>, &'static str> {
        let mut state = self.state();
        match &state.keys {
            Some((keys, loaded, _)) if keys.has(kid) && now < *loaded + STALE => {
                return Ok(Arc::clone(keys));
            }
            Some(_) => {}
            None => return Err("the issuer's keys cannot be had"),
        }
        state.unknown.retain(|_, since| now < *since + UNKNOWN_TIME);
        if state.unknown.len() < MAX_UNKNOWN {
            state.unknown.insert(kid.to_owned(), now);
        }
        Err("the key is unknown")
    }

    /// The state. A panic of another holder leaves nothing half-written, so poison is ignored.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
