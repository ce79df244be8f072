//! What a running instance holds on the host's side: its limits, its voice in the log and the part
//! of WASI that has no effect.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::{
    io::AsyncWrite,
    time::{Duration, Instant},
};
use wasmtime::component::Resource;
use wasmtime_wasi::{
    Deterministic, HostMonotonicClock, HostWallClock, ResourceTable, WasiCtx, WasiCtxBuilder,
    WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    clocks::WasiClocksView,
    p2::{DynPollable, OutputStream, Pollable, StreamResult, bindings::clocks::monotonic_clock},
};

use super::{
    egress::{Egress, Origin},
    grant::Access,
    limits::{Limiter, Limits, MAX_RESOURCES},
};
use crate::{
    error::Error,
    model::plugin::World,
    ports::{Person, WayBack},
};

/// Longest text of a guest that goes into an error.
const MAX_QUOTED: usize = 300;

/// What all instances of a plugin share.
pub(crate) struct Shared {
    /// Name in the config file.
    pub(crate) name: String,
    /// Limits.
    pub(crate) limits: Limits,
    /// What it may do.
    pub(crate) access: Access,
    /// Configuration as canonical JSON.
    pub(crate) config: String,
    /// Lines of the present second.
    budget: Mutex<LineBudget>,
}

/// Counts log lines.
struct LineBudget {
    /// When the present second began.
    since: Instant,
    /// Lines in it.
    lines: u32,
    /// Lines left out in it.
    dropped: u64,
}

impl Shared {
    /// What all instances of a plugin share.
    pub(crate) fn new(name: String, limits: Limits, access: Access, config: String) -> Self {
        let budget = Mutex::new(LineBudget { since: Instant::now(), lines: 0, dropped: 0 });
        Self { name, limits, access, config, budget }
    }

    /// Writes a line of the guest to the log, unless it says too much.
    pub(crate) fn log(&self, level: tracing::Level, message: &str, fields: &[(String, String)]) {
        if !self.spend_line() {
            return;
        }
        let mut text = clean(message, self.limits.log_line_bytes);
        for (key, value) in fields {
            let left = self.limits.log_line_bytes.saturating_sub(text.len());
            text.push_str(&clean(&format!(" {key}={value}"), left));
        }
        let plugin = self.name.as_str();
        match level {
            tracing::Level::ERROR => tracing::error!(target: "plugin", plugin, "{text}"),
            tracing::Level::WARN => tracing::warn!(target: "plugin", plugin, "{text}"),
            tracing::Level::INFO => tracing::info!(target: "plugin", plugin, "{text}"),
            tracing::Level::DEBUG => tracing::debug!(target: "plugin", plugin, "{text}"),
            tracing::Level::TRACE => tracing::trace!(target: "plugin", plugin, "{text}"),
        }
    }

    /// Takes a line out of the budget of the present second; `false` when it is used up.
    fn spend_line(&self) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.since.elapsed() >= Duration::from_secs(1) {
            let dropped = budget.dropped;
            *budget = LineBudget { since: Instant::now(), lines: 0, dropped: 0 };
            if dropped > 0 {
                let plugin = self.name.as_str();
                tracing::warn!(target: "plugin", plugin, dropped, "log lines left out");
            }
        }
        if budget.lines >= self.limits.log_lines {
            budget.dropped += 1;
            return false;
        }
        budget.lines += 1;
        true
    }
}

/// Text of a guest made fit for a log or an error: one line, no control characters, nothing that
/// looks like a token, cut.
pub(crate) fn clean(text: &str, max_bytes: usize) -> String {
    let mut line = String::new();
    for character in without_tokens(text).chars() {
        let character = if character.is_control() { ' ' } else { character };
        if line.len() + character.len_utf8() > max_bytes {
            break;
        }
        line.push(character);
    }
    line
}

/// Puts a mark in the place of everything that has the shape of a JWT.
fn without_tokens(text: &str) -> String {
    /// How every JWT begins: `{"` in base64url.
    const START: &str = "eyJ";
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, _)) = rest.split_once(START) {
        let from = rest.get(before.len()..).unwrap_or_default();
        let of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let end = from.find(|c: char| !of_token(c)).unwrap_or(from.len());
        let (run, after) = from.split_at_checked(end).unwrap_or((from, ""));
        kept.push_str(before);
        kept.push_str(if run.contains('.') { "[token]" } else { run });
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// Text of a guest for an error.
pub(crate) fn quoted(text: &str) -> String {
    clean(text, MAX_QUOTED)
}

/// State of one instance.
pub(crate) struct Guest {
    /// What it shares with the others.
    pub(crate) shared: Arc<Shared>,
    /// Memory and tables.
    pub(crate) limiter: Limiter,
    /// Text of the last panic it logged.
    pub(crate) panic: Option<String>,
    /// When the present call ends.
    pub(crate) deadline: Instant,
    /// What a call in progress has used; identity providers only.
    pub(crate) call: Call,
    /// Its way out; identity providers only.
    pub(crate) egress: Option<Arc<Egress>>,
    /// WASI without effect.
    wasi: WasiCtx,
    /// Resources of WASI.
    table: ResourceTable,
}

/// What a call in progress has used.
#[derive(Default)]
pub(crate) struct Call {
    /// Whether it may wait and reach the network.
    pub(crate) online: bool,
    /// HTTP requests sent.
    pub(crate) requests: u32,
    /// The person who logs in; nobody in the call of a workload.
    pub(crate) person: Option<Arc<dyn Person>>,
    /// Where the browser comes back to.
    pub(crate) way_back: Option<Box<dyn WayBack>>,
    /// The device code that is shown.
    pub(crate) shown: Option<Box<dyn Send>>,
    /// The person's issuer, which may be asked beside the granted origins.
    pub(crate) issuer: Option<Origin>,
    /// The first thing that was refused for lack of a grant.
    pub(crate) denied: Option<Error>,
}

impl Guest {
    /// State of a new instance.
    pub(crate) fn new(shared: Arc<Shared>, world: World, egress: Option<Arc<Egress>>) -> Self {
        Self {
            limiter: Limiter::new(&shared.limits),
            wasi: inert(&shared, world),
            panic: None,
            deadline: Instant::now() + shared.limits.deadline,
            call: Call::default(),
            egress,
            table: resources(),
            shared,
        }
    }

    /// Whether the call in progress may wait.
    pub(super) fn may_pause(&self) -> bool {
        self.shared.access.clock && self.call.online
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Room for what an instance holds of the host.
fn resources() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_RESOURCES);
    table
}

/// WASI without effect: nothing to read, nothing to open, output into the log. Clocks stand still
/// unless they are granted; for a filter they always do, and its random numbers repeat, since its
/// verdicts may not depend on them.
fn inert(shared: &Arc<Shared>, world: World) -> WasiCtx {
    let mut builder = WasiCtxBuilder::new();
    builder
        .stdout(Output { shared: Arc::clone(shared), level: tracing::Level::INFO })
        .stderr(Output { shared: Arc::clone(shared), level: tracing::Level::WARN })
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    if world == World::DocumentFilter || !shared.access.clock {
        builder.wall_clock(StandingClock).monotonic_clock(StandingClock);
    }
    if world == World::DocumentFilter {
        builder
            .secure_random(Deterministic::new(vec![0x53]))
            .insecure_random(Deterministic::new(vec![0x59]))
            .insecure_random_seed(0x4E43);
    }
    builder.build()
}

/// The clock of WASI by which guests pause: where there is no pause to be had, a pause is over at once.
impl monotonic_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.clocks().now()
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.clocks().resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let when = if self.may_pause() { when } else { 0 };
        self.clocks().subscribe_instant(when)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let duration = if self.may_pause() { duration } else { 0 };
        self.clocks().subscribe_duration(duration)
    }
}

/// A clock that stands still.
struct StandingClock;

impl HostWallClock for StandingClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StandingClock {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Standard output of a guest: whole lines into the log.
#[derive(Clone)]
struct Output {
    /// Whose it is.
    shared: Arc<Shared>,
    /// At which level its lines are written.
    level: tracing::Level,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.is_empty()) {
            self.shared.log(self.level, line, &[]);
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.shared.limits.log_line_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::plugin::LimitOverrides;

    #[test]
    fn tokens_and_control_characters_do_not_get_through() {
        assert_eq!(
            clean("got eyJhbGci.eyJz_dWI-.c2ln=, then \x1b[2J\n!", 100),
            "got [token], then  [2J !"
        );
        assert_eq!(clean("(eyJhbGci.x)eyJ", 100), "([token])eyJ");
        assert_eq!(clean("eyJust a word", 100), "eyJust a word");
        assert_eq!(clean("äöü", 3), "ä");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_has_so_many_lines() {
        let limits = Limits::new(World::DocumentFilter, &LimitOverrides::default());
        let shared = Shared::new("x".into(), limits, Access::default(), "{}".into());
        let lines = |_| shared.spend_line();
        assert_eq!((0..150).map(lines).filter(|spent| *spent).count(), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..150).map(lines).filter(|spent| *spent).count(), 100);
    }
}
