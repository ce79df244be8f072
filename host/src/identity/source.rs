//! The token service: one per cluster, between the driver and an identity provider.
//!
//! The driver asks whenever its own cached token is gone: at the first connection, after a refusal,
//! and once per connection when the server wants to authenticate again (error 391). It neither says
//! why nor waits its turn for long, so everything a provider has to be spared is here:
//!
//! ```text
//!  callback ──► cached and settling? ──yes──► the cached token
//!                 │ no
//!                 ▼
//!           one flight at a time ──► cached since this caller asked? ──yes──► that one
//!                 │ no
//!                 ▼
//!           a failure is still fresh? ──yes──► old token if alive, else the failure again
//!                 │ no
//!                 ▼
//!           provider, at most every 100 ms, under the caller's deadline
//! ```
//!
//! A refused token cannot be told from a round of reauthentications by the callback alone: both
//! are a second question right after an answer. The rule is therefore time: a token younger than
//! five seconds (half its life, if that is shorter) is handed out again, an older one is replaced.
//! Who *knows* that a token was refused says so through [`TokenService::rejected`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use secrecy::SecretString;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::{hosts, token::Token, uri::ClusterUri, uri::OidcSpec};
use crate::{
    error::{Error, Kind, Result},
    model::{
        options::ClusterLabel,
        token::{Credential, Flow, IdpInfo, Reason, TokenError, TokenRequest},
    },
    ports::TokenIssuer,
    tasks::TaskSet,
    telemetry::metrics,
};

/// Least time between two calls of a provider, as the drivers' specification has it.
const MIN_SPACING: Duration = Duration::from_millis(100);
/// Longest one call of a provider may take.
const MAX_CALL: Duration = Duration::from_secs(30);
/// Time a caller has when it does not say: what the driver gives a machine.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// Longest one call may take in which a person logs in, and the time of a caller then: what the
/// driver gives a person.
const PERSON: Duration = Duration::from_secs(5 * 60);
/// Kept back from the caller's deadline, to answer in time.
const MARGIN: Duration = Duration::from_secs(1);
/// First pause after a failure that may pass.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// First pause after a failure that a person has to mend.
const FIRST_LONG_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause between two calls after failures.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// First and longest pause after a person did not log in: nobody wants a browser to open each minute.
const PERSON_PAUSES: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];
/// Times a refresh token is shown whose answer was lost. It may be used up by then, and who shows a
/// used one again and again is taken for a thief.
pub const MAX_LOST_REFRESHES: u32 = 2;
/// Longest reason of a provider that is passed on, in characters.
const MAX_REASON_CHARS: usize = 500;

/// Hands out tokens for the connections of one cluster.
pub struct TokenService {
    /// Which cluster.
    label: ClusterLabel,
    /// What its connection string says.
    spec: OidcSpec,
    /// Hosts of the connection string.
    hosts: Vec<String>,
    /// Whether the connections are encrypted.
    tls: bool,
    /// The provider.
    issuer: Arc<dyn TokenIssuer>,
    /// Held during a provider's call. An async lock because its holder waits for the network.
    flight: tokio::sync::Mutex<()>,
    /// What is known. A lock and not a task, because callers come from the driver's tasks and
    /// only look; it is never held across an await.
    state: Mutex<State>,
    /// Told when there is a new token.
    pub(super) renewed: Arc<Notify>,
    /// Renews before the end, once somebody uses the service.
    pub(super) renewal: Mutex<TaskSet>,
}

/// What a service knows.
#[derive(Default)]
struct State {
    /// The newest token.
    token: Option<Token>,
    /// Whether the newest token was refused.
    is_rejected: bool,
    /// Tokens refused since one worked long enough to be replaced by age.
    rejections: u32,
    /// The last failure, if it came after the newest token.
    failure: Option<Failure>,
    /// When the provider was called last.
    last_call: Option<Instant>,
    /// Calls of the provider so far.
    calls: u64,
    /// Those that yielded no token.
    failures: u64,
    /// Host that the cluster announces and that may not see a token.
    intruder: Option<String>,
    /// The newest token that was handed out, and when first.
    handed: Option<(u64, Instant)>,
    /// What the server says about its provider; a person's only.
    idp: Option<IdpInfo>,
    /// To get the next token without the person.
    refresh: Option<SecretString>,
    /// Whether the newest token came by the refresh token.
    is_refreshed: bool,
    /// How often the present refresh token was shown without an answer.
    lost_refreshes: u32,
}

/// A failure, as long as nobody tries again.
#[derive(Debug)]
struct Failure {
    /// The provider's reason, cleaned.
    reason: String,
    /// Failures in a row.
    streak: u32,
    /// When to try again.
    retry_at: Instant,
}

/// Who wants a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// A connection that authenticates; a person may be asked for it.
    Connection,
    /// The renewal before the end: nobody waits, so no person is asked.
    Renewal,
}

/// Whether trying again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlook {
    /// By itself, soon.
    Passing,
    /// Not before a person changes something.
    Lasting,
}

impl fmt::Debug for TokenService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenService")
            .field("cluster", &self.label.name())
            .field("plugin", &self.spec.plugin)
            .finish_non_exhaustive()
    }
}

impl TokenService {
    /// A service for the cluster of a connection string.
    ///
    /// # Errors
    /// `UriInvalid` when the string does not ask for OIDC, or when its hosts may not see a token:
    /// connections without TLS leave this machine, or a host is not on the allow-list.
    pub fn new(uri: &ClusterUri, issuer: Arc<dyn TokenIssuer>) -> Result<Arc<Self>> {
        let Some(spec) = uri.oidc.clone() else {
            return Err(Error::new(
                Kind::UriInvalid,
                format!(
                    "{}: the connection string does not ask for MONGODB-OIDC",
                    uri.label.name()
                ),
            ));
        };
        let service = Self {
            label: uri.label,
            spec,
            hosts: uri.hosts.clone(),
            tls: uri.tls,
            issuer,
            flight: tokio::sync::Mutex::new(()),
            state: Mutex::new(State::default()),
            renewed: Arc::default(),
            renewal: Mutex::default(),
        };
        // The one name of an SRV string is looked up, not connected to; what it leads to is
        // judged by `observe_hosts`.
        let is_srv = uri.is_srv();
        for host in service.hosts.iter().filter(|_| !is_srv) {
            service.judge(host)?;
        }
        Ok(Arc::new(service))
    }

    /// Which cluster this service is for.
    pub fn label(&self) -> ClusterLabel {
        self.label
    }

    /// Whether a token may only travel encrypted: it does, or a host is not this machine.
    pub(super) fn needs_tls(&self) -> bool {
        self.tls || self.hosts.iter().any(|host| !hosts::is_loopback(host))
    }

    /// Checks the provider's configuration without any network.
    ///
    /// # Errors
    /// `IdentityProviderFailure` with what to correct.
    pub async fn validate(&self) -> Result<()> {
        self.issuer.validate().await.map_err(|error| self.failed(&reason_of(&error)))
    }

    /// Calls of the provider so far, for metrics.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Calls that yielded no token, for metrics.
    pub fn failures(&self) -> u64 {
        self.state().failures
    }

    /// Life left of the newest token, for metrics; `None` before the first.
    pub fn remaining(&self) -> Option<Duration> {
        let now = Instant::now();
        self.state().token.as_ref().map(|token| token.remaining(now))
    }

    /// Hands out a token. `deadline` is when the caller stops waiting.
    ///
    /// Cancel safe: a dropped call abandons the provider's call if it is the one that makes it,
    /// and the next caller makes another.
    ///
    /// # Errors
    /// `IdentityProviderFailure` with the provider's reason, or when a host of the cluster may not
    /// see a token.
    pub async fn token(&self, deadline: Option<Instant>) -> Result<Token> {
        let asked_at = Instant::now();
        let deadline = deadline.unwrap_or(asked_at + self.patience(DEFAULT_DEADLINE));
        let deadline = deadline.checked_sub(MARGIN).unwrap_or(deadline);
        if let Some(token) = self.cached(asked_at, asked_at)? {
            return Ok(token);
        }
        let Ok(_flight) = timeout_at(deadline, self.flight.lock()).await else {
            return Err(self.failed("no answer within the driver's deadline"));
        };
        if let Some(token) = self.cached(asked_at, Instant::now())? {
            return Ok(token);
        }
        let token = self.fetch(Asker::Connection, deadline).await?;
        self.state().hand_out(&token, Instant::now());
        Ok(token)
    }

    /// The same for a person: `idp` is what the server says about its provider.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub async fn token_of_person(&self, deadline: Option<Instant>, idp: IdpInfo) -> Result<Token> {
        self.state().idp = Some(idp);
        self.token(deadline).await
    }

    /// Whether a person logs in.
    pub(super) fn is_person(&self) -> bool {
        self.spec.flow == Flow::Human
    }

    /// Hosts that may see a token.
    pub(super) fn allowed_hosts(&self) -> &[String] {
        &self.spec.allowed_hosts
    }

    /// A time for a machine, or that of a person.
    fn patience(&self, machine: Duration) -> Duration {
        if self.is_person() { PERSON } else { machine }
    }

    /// Whether there is something to renew by, without a person; then when.
    pub(super) fn renewal_due(&self) -> Option<Instant> {
        let state = self.state();
        if self.is_person() && state.refresh.is_none() {
            return None;
        }
        let due = state.token.as_ref().filter(|_| !state.is_rejected)?.renew_at();
        Some(state.failure.as_ref().map_or(due, |failure| failure.retry_at.max(due)))
    }

    /// Renews the token before its end, unless somebody else does. What comes of it is in the state.
    pub(super) async fn renew(&self) {
        let now = Instant::now();
        let Ok(_flight) = timeout_at(now + MAX_CALL, self.flight.lock()).await else { return };
        if self.renewal_due().is_some_and(|due| due <= Instant::now()) {
            drop(self.fetch(Asker::Renewal, Instant::now() + MAX_CALL).await);
        }
    }

    /// Why there is no token at present, if there is none. The driver tells the reason only to the
    /// operation whose connection asked; others see a cleared pool or no server, and who reports
    /// their errors asks here.
    pub fn failure(&self) -> Option<Error> {
        if self.usable(Instant::now()).is_some() {
            return None;
        }
        let reason = self.state().failure.as_ref().map(|failure| failure.reason.clone())?;
        Some(self.failed(&reason))
    }

    /// Says that the server refused a token; the next caller gets another. Only the newest token
    /// can be refused this way: a late word about an older one changes nothing.
    pub fn rejected(&self, generation: u64) {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|token| token.generation() == generation)
            && !state.is_rejected
        {
            state.is_rejected = true;
            state.rejections = state.rejections.saturating_add(1);
        }
    }

    /// Says that the server refused a token, most likely the newest.
    pub(super) fn refused(&self) {
        let newest = self.state().token.as_ref().map(Token::generation);
        if let Some(generation) = newest {
            self.rejected(generation);
        }
    }

    /// Says which hosts the cluster announces. Once one of them may not see a token, none is
    /// handed out until the cluster no longer announces it.
    pub fn observe_hosts<'h>(&self, announced: impl IntoIterator<Item = &'h str>) {
        let intruder = announced
            .into_iter()
            .find_map(|host| self.judge(host).err())
            .map(|error| error.detail().to_owned());
        self.state().intruder = intruder;
    }

    /// Whether a host may see a token.
    fn judge(&self, host: &str) -> Result<()> {
        let refuse = |why: String| {
            Err(Error::new(Kind::UriInvalid, format!("{}: {why}", self.label.name())))
        };
        if !hosts::is_allowed(host, &self.spec.allowed_hosts) {
            return refuse(format!(
                "{host} is not among the hosts that may see a token ({}); name every member in \
                 the connection string",
                self.spec.allowed_hosts.join(", ")
            ));
        }
        if !self.tls && !hosts::is_loopback(host) {
            return refuse(format!(
                "a token would travel to {host} in clear; add tls=true to the connection string"
            ));
        }
        Ok(())
    }

    /// The cached token, if a caller that asked at `asked_at` can use it without a call.
    fn cached(&self, asked_at: Instant, now: Instant) -> Result<Option<Token>> {
        let mut state = self.state();
        if let Some(intruder) = &state.intruder {
            return Err(Error::new(Kind::IdentityProviderFailure, intruder.clone()));
        }
        if state.is_rejected {
            return Ok(None);
        }
        let Some(token) = state.token.clone().filter(|token| token.is_alive(now)) else {
            return Ok(None);
        };
        let is_wanted = match state.handed {
            Some((generation, since)) if generation == token.generation() => {
                token.issued_at() >= asked_at || now < since + token.settling_time()
            }
            // Renewed before anybody asked.
            _ => true,
        };
        if !is_wanted {
            return Ok(None);
        }
        state.hand_out(&token, now);
        Ok(Some(token))
    }

    /// Calls the provider until there is a token, a lasting failure, or no time. The flight is held.
    async fn fetch(&self, asker: Asker, deadline: Instant) -> Result<Token> {
        let mut attempt = 0;
        loop {
            if let Some(settled) = self.settled_by_failure(Instant::now()) {
                return settled;
            }
            sleep_until(self.next_call_at(deadline)?).await;
            let refresh = self.refresh_token();
            if asker == Asker::Renewal && self.is_person() && refresh.is_none() {
                return Err(self.failed("a person has to log in"));
            }
            let reason = self.reason(Instant::now());
            let outcome = self.call(reason, refresh, attempt, deadline).await;
            let now = Instant::now();
            let error = match outcome {
                Ok(credential) => {
                    match Token::accept(&credential, self.calls(), now, SystemTime::now()) {
                        Ok(token) => return Ok(self.keep(token, &credential)),
                        Err(why) => TokenError::Unavailable { reason: why, retry_after: None },
                    }
                }
                Err(error) => error,
            };
            if self.gave_up_refresh(&error) {
                // The person is asked at once, if somebody waits.
                attempt += 1;
                continue;
            }
            let retry_at = self.note_failure(&error, now);
            attempt += 1;
            // With a living token in hand nobody waits for a provider that is down, and a lasting
            // failure does not go away by waiting.
            if self.usable(now).is_some() || outlook_of(&error) == Outlook::Lasting {
                continue;
            }
            if retry_at >= deadline {
                return Err(self.failed(&reason_of(&error)));
            }
            sleep_until(retry_at).await;
        }
    }

    /// What a failure that is still fresh means for a caller: the old token while it lives, else
    /// the failure again. `None` when the provider may be called.
    fn settled_by_failure(&self, now: Instant) -> Option<Result<Token>> {
        let state = self.state();
        let failure = state.failure.as_ref().filter(|failure| now < failure.retry_at)?;
        let reason = failure.reason.clone();
        drop(state);
        Some(self.usable(now).ok_or_else(|| self.failed(&reason)))
    }

    /// The present token, if the server would still take it.
    fn usable(&self, now: Instant) -> Option<Token> {
        let state = self.state();
        if state.is_rejected {
            return None;
        }
        state.token.as_ref().filter(|token| token.is_alive(now)).cloned()
    }

    /// The earliest time of the next call: 100 ms after the last, and further apart while the
    /// server refuses one token after the other.
    fn next_call_at(&self, deadline: Instant) -> Result<Instant> {
        let state = self.state();
        let Some(last) = state.last_call else { return Ok(Instant::now()) };
        let refused_in_a_row = if state.is_rejected { state.rejections } else { 0 };
        drop(state);
        // The first refusal is answered at once: that is a key rotation. More are a mistake.
        let spacing = match refused_in_a_row {
            0 | 1 => MIN_SPACING,
            more => pause_after(more - 1, FIRST_PAUSE, MAX_PAUSE),
        };
        let at = last + spacing;
        if at >= deadline {
            return Err(self.failed(
                "the server refused the last tokens; check issuer, audience and claims there",
            ));
        }
        Ok(at)
    }

    /// Why a token is wanted now.
    fn reason(&self, now: Instant) -> Reason {
        let state = self.state();
        match &state.token {
            None => Reason::Initial,
            Some(_) if state.is_rejected => Reason::Rejected,
            Some(token) if token.is_alive(now) && token.is_ending(now) => Reason::Expiring,
            Some(_) => Reason::Reauthentication,
        }
    }

    /// The refresh token to show, if there is one.
    fn refresh_token(&self) -> Option<SecretString> {
        let mut state = self.state();
        if state.is_rejected && state.is_refreshed {
            // What it yields is not what the server wants.
            state.refresh = None;
        }
        state.refresh.clone()
    }

    /// One call of the provider, under its deadline.
    async fn call(
        &self,
        reason: Reason,
        refresh_token: Option<SecretString>,
        attempt: u32,
        deadline: Instant,
    ) -> Result<Credential, TokenError> {
        metrics::add(metrics::TOKEN_CALLS, self.tag());
        let now = Instant::now();
        let timeout = deadline.saturating_duration_since(now).min(self.patience(MAX_CALL));
        let idp = {
            let mut state = self.state();
            state.last_call = Some(now);
            state.calls += 1;
            state.idp.clone()
        };
        let request = TokenRequest {
            flow: self.spec.flow,
            cluster: self.label.name().to_owned(),
            reason,
            audience: self.spec.audience.clone(),
            principal: self.spec.principal.clone(),
            hosts: self.hosts.clone(),
            idp,
            refresh_token,
            timeout,
            attempt,
            extra: self.spec.extra.clone(),
        };
        timeout_at(now + timeout, self.issuer.get_token(request))
            .await
            .unwrap_or(Err(TokenError::TimedOut))
    }

    /// Stores a new token and hands it out.
    fn keep(&self, token: Token, credential: &Credential) -> Token {
        tracing::debug!(
            cluster = self.label.name(),
            plugin = self.issuer.name(),
            life_seconds = token.remaining(Instant::now()).as_secs(),
            audit = ?credential.audit,
            "identity provider yielded a token"
        );
        let ends = SystemTime::now() + token.remaining(Instant::now());
        let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        metrics::set_count(metrics::TOKEN_EXPIRY, self.tag(), ends);
        let mut state = self.state();
        if !state.is_rejected {
            state.rejections = 0;
        }
        state.token = Some(token.clone());
        state.is_rejected = false;
        state.failure = None;
        state.lost_refreshes = 0;
        if self.is_person() {
            state.is_refreshed = state.refresh.is_some();
            state.refresh.clone_from(&credential.refresh_token);
        }
        drop(state);
        self.renewed.notify_one();
        token
    }

    /// Drops the refresh token when its failure says so; whether it did.
    fn gave_up_refresh(&self, error: &TokenError) -> bool {
        let mut state = self.state();
        if state.refresh.is_none() {
            return false;
        }
        let is_over = match error {
            TokenError::RefreshRejected => true,
            // The answer may have been lost on its way, and with it the next refresh token.
            TokenError::TimedOut => {
                state.lost_refreshes += 1;
                state.lost_refreshes >= MAX_LOST_REFRESHES
            }
            _ => false,
        };
        if is_over {
            state.refresh = None;
            drop(state);
            let (cluster, error) = (self.label.name(), reason_of(error));
            tracing::info!(cluster, error, "the next token needs the person");
        }
        is_over
    }

    /// The label of this cluster's metrics.
    fn tag(&self) -> Option<(&'static str, &'static str)> {
        Some(("cluster", self.label.name()))
    }

    /// Remembers a failure and says when the provider may be called again.
    fn note_failure(&self, error: &TokenError, now: Instant) -> Instant {
        metrics::add(metrics::TOKEN_FAILURES, self.tag());
        let mut state = self.state();
        state.failures += 1;
        let streak = state.failure.as_ref().map_or(0, |failure| failure.streak).saturating_add(1);
        let [first, longest] = match outlook_of(error) {
            _ if self.is_person() && state.refresh.is_none() => PERSON_PAUSES,
            Outlook::Passing => [FIRST_PAUSE, MAX_PAUSE],
            Outlook::Lasting => [FIRST_LONG_PAUSE, MAX_PAUSE],
        };
        let asked_for = match error {
            TokenError::Unavailable { retry_after: Some(pause), .. } => *pause,
            _ => Duration::ZERO,
        };
        let retry_at = now + pause_after(streak, first, longest).max(asked_for.min(MAX_PAUSE));
        let reason = reason_of(error);
        if streak.is_power_of_two() {
            tracing::warn!(
                cluster = self.label.name(),
                plugin = self.issuer.name(),
                streak,
                error = reason,
                "identity provider yielded no token"
            );
        }
        state.failure = Some(Failure { reason, streak, retry_at });
        retry_at
    }

    /// The public form of a failure.
    fn failed(&self, reason: &str) -> Error {
        Error::new(
            Kind::IdentityProviderFailure,
            format!(
                "{}: identity provider \"{}\": {reason}",
                self.label.name(),
                self.issuer.name()
            ),
        )
    }

    /// The state. A panic of another holder leaves nothing half-written, so poison is ignored.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes that a token is handed out.
    fn hand_out(&mut self, token: &Token, now: Instant) {
        if self.handed.is_none_or(|(generation, _)| generation != token.generation()) {
            self.handed = Some((token.generation(), now));
        }
    }
}

/// The pause after the `streak`th failure in a row: doubling from `first`, at most `longest`.
fn pause_after(streak: u32, first: Duration, longest: Duration) -> Duration {
    let doublings = streak.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(longest)
}

/// Whether an error goes away by itself.
fn outlook_of(error: &TokenError) -> Outlook {
    match error {
        TokenError::Unavailable { .. }
        | TokenError::TimedOut
        | TokenError::Cancelled
        | TokenError::RefreshRejected => Outlook::Passing,
        TokenError::Config(_)
        | TokenError::InteractionRequired(_)
        | TokenError::Denied(_)
        | TokenError::Unsupported(_)
        | TokenError::Plugin(_) => Outlook::Lasting,
    }
}

/// A provider's words on one line, of bounded length, without anything that looks like a token.
pub fn reason_of(error: &TokenError) -> String {
    let text = match error {
        TokenError::Plugin(inner) => format!("{} ({})", inner.full(), inner.kind().code()),
        other => other.to_string(),
    };
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .map(|word| if word.contains("eyJ") { "[redacted]" } else { word })
        .collect();
    words.join(" ").chars().take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "person_tests.rs"]
mod person_tests;
