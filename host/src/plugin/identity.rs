//! Identity providers behind the port `TokenIssuer`: a fresh instance per call, so that nothing
//! secret stays in a guest's memory.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Duration, Instant, timeout};
use wasmtime::{Store, UpdateDeadline};

use super::{
    bindings::v0_1::identity::{
        IdentityProvider, IdentityProviderPre,
        exports::syncline::plugin::identity::{self as wit, Failure},
    },
    context::{Guest, quoted},
    egress::{Egress, Origin},
    filter::{from_trap, too_late},
    load::Loaded,
    times::Times,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        plugin::{PluginCounters, World},
        token::{Credential, Flow, Reason, TokenError, TokenRequest},
    },
    ports::{Person, TokenIssuer},
};

/// Bytes that may cross in one call besides HTTP bodies.
const CROSSING_BYTES: usize = 4 * 1024 * 1024;
/// Longest token that is believed, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// A configured identity provider.
pub(crate) struct Issuer {
    /// The component.
    loaded: Arc<Loaded>,
    /// The component, its exports resolved.
    pre: IdentityProviderPre<Guest>,
    /// Its way out.
    egress: Arc<Egress>,
    /// Who can be sent to a login.
    person: Arc<OnceLock<Arc<dyn Person>>>,
    /// Calls in progress.
    alive: AtomicUsize,
    /// Calls.
    calls: AtomicU64,
    /// Failed calls.
    errors: AtomicU64,
    /// How long calls took.
    times: Times,
}

/// What a call reaches.
enum Network {
    /// Nothing.
    None,
    /// The granted origins.
    Machine,
    /// The granted origins, a person, and the issuer that the server names, if it is a public one.
    Human(Option<Origin>),
}

/// Counts a call while it lasts, also when it is dropped.
struct InProgress<'a>(&'a AtomicUsize);

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Issuer {
    /// Makes an issuer and lets the guest check its configuration.
    ///
    /// # Errors
    /// `PluginConfigInvalid` with the key, and what a call can end in.
    pub(crate) async fn new(
        loaded: Loaded,
        person: Arc<OnceLock<Arc<dyn Person>>>,
    ) -> Result<Self> {
        let pre = IdentityProviderPre::new(loaded.pre.clone()).map_err(|error| {
            Error::new(Kind::PluginWrongWorld, "it exports no identity").caused_by(error)
        })?;
        let shared = &loaded.shared;
        let egress = Arc::new(Egress::new(shared.access.origins.clone(), &shared.limits)?);
        let issuer = Self {
            loaded: Arc::new(loaded),
            pre,
            egress,
            person,
            alive: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            times: Times::default(),
        };
        match issuer.validate().await {
            Ok(()) => Ok(issuer),
            Err(TokenError::Plugin(error)) => Err(error),
            Err(TokenError::Config(text)) => {
                Err(issuer.named(Error::new(Kind::PluginConfigInvalid, text)))
            }
            Err(other) => {
                Err(issuer.named(Error::new(Kind::PluginOutputInvalid, other.to_string())))
            }
        }
    }

    /// What the guest says of itself.
    ///
    /// # Errors
    /// What a call can end in.
    pub(crate) async fn describe(&self) -> Result<wit::Descriptor> {
        let deadline = self.loaded.shared.limits.deadline;
        let described = self.call(deadline, &Network::None, async |world, store| {
            world.syncline_plugin_identity().call_describe(store).await.map(Ok)
        });
        described.await.map_err(|error| match error {
            TokenError::Plugin(error) => error,
            other => self.named(Error::new(Kind::PluginOutputInvalid, other.to_string())),
        })
    }

    /// Asks for a token where there is no network and no pause.
    ///
    /// # Errors
    /// As [`TokenIssuer::get_token`].
    pub(crate) async fn get_token_offline(
        &self,
        request: TokenRequest,
    ) -> Result<Credential, TokenError> {
        let deadline = self.loaded.shared.limits.deadline;
        let told = request.timeout;
        let request = to_wit(request, told);
        self.call(deadline, &Network::None, async |world, store| {
            world.syncline_plugin_identity().call_get_token(store, &request).await
        })
        .await
        .and_then(|credential| {
            to_credential(credential).map_err(|error| TokenError::Plugin(self.named(error)))
        })
    }

    /// The component.
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Calls in progress, each with an instance of its own.
    pub(crate) fn instances(&self) -> usize {
        self.alive.load(Relaxed)
    }

    /// What it did so far.
    pub(crate) fn counters(&self) -> PluginCounters {
        PluginCounters {
            calls: self.calls.load(Relaxed),
            errors: self.errors.load(Relaxed),
            p50_micros: self.times.percentile(50),
            p99_micros: self.times.percentile(99),
            ..PluginCounters::default()
        }
    }

    /// Puts the plugin's name in front of an error.
    fn named(&self, error: Error) -> Error {
        error.at(format!("plugin `{}`", self.loaded.shared.name))
    }

    /// A store for one call.
    fn store(&self, deadline: Duration, network: &Network) -> Store<Guest> {
        let shared = Arc::clone(&self.loaded.shared);
        let mut guest = Guest::new(shared, World::IdentityProvider, Some(Arc::clone(&self.egress)));
        guest.deadline = Instant::now() + deadline;
        guest.call.online = !matches!(network, Network::None);
        if let Network::Human(issuer) = network
            && self.loaded.shared.access.interaction
        {
            guest.call.person = self.person.get().cloned();
            guest.call.issuer.clone_from(issuer);
        }
        let mut store = Store::new(self.pre.engine(), guest);
        store.limiter(|guest| &mut guest.limiter);
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(CROSSING_BYTES);
        store.epoch_deadline_callback(|context| {
            // The time-out around the call sees to the deadline; this is the second lock.
            if Instant::now() > context.data().deadline + Duration::from_secs(1) {
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }

    /// Makes an instance, calls one function of it and sorts what went wrong.
    async fn call<T>(
        &self,
        deadline: Duration,
        network: &Network,
        run: impl AsyncFnOnce(
            &IdentityProvider,
            &mut Store<Guest>,
        ) -> wasmtime::Result<Result<T, Failure>>,
    ) -> Result<T, TokenError> {
        self.alive.fetch_add(1, Relaxed);
        let _in_progress = InProgress(&self.alive);
        let mut store = self.store(deadline, network);
        let answer = timeout(deadline, async {
            let world = self.pre.instantiate_async(&mut store).await?;
            run(&world, &mut store).await
        })
        .await;
        let failed = match answer {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(failure))) => to_token_error(failure),
            Ok(Err(error)) => TokenError::Plugin(self.named(from_trap(&mut store, &error))),
            Err(_) => TokenError::Plugin(self.named(too_late(deadline, "to answer"))),
        };
        // What was refused is what the operator can mend, whatever the guest made of it.
        match store.data_mut().call.denied.take() {
            Some(denied) => Err(TokenError::Plugin(self.named(denied))),
            None => Err(failed),
        }
    }
}

#[async_trait]
impl TokenIssuer for Issuer {
    fn name(&self) -> &str {
        &self.loaded.shared.name
    }

    async fn validate(&self) -> Result<(), TokenError> {
        let deadline = self.loaded.shared.limits.deadline;
        self.call(deadline, &Network::None, async |world, store| {
            world.syncline_plugin_identity().call_validate(store).await
        })
        .await
    }

    async fn get_token(&self, request: TokenRequest) -> Result<Credential, TokenError> {
        self.calls.fetch_add(1, Relaxed);
        let begun = Instant::now();
        let limits = &self.loaded.shared.limits;
        let longest = match request.flow {
            Flow::Machine => limits.deadline,
            Flow::Human => limits.person_deadline,
        };
        let deadline = request.timeout.min(longest);
        let network = match request.flow {
            Flow::Machine => Network::Machine,
            Flow::Human => Network::Human(
                request.idp.as_ref().and_then(|idp| Origin::of_stranger(&idp.issuer)),
            ),
        };
        let request = to_wit(request, deadline);
        let result = self
            .call(deadline, &network, async |world, store| {
                world.syncline_plugin_identity().call_get_token(store, &request).await
            })
            .await
            .and_then(|credential| {
                to_credential(credential).map_err(|error| TokenError::Plugin(self.named(error)))
            });
        self.times.add(begun.elapsed());
        if result.is_err() {
            self.errors.fetch_add(1, Relaxed);
        }
        result
    }
}

/// A request in the contract's words.
fn to_wit(request: TokenRequest, deadline: Duration) -> wit::TokenRequest {
    wit::TokenRequest {
        flow: match request.flow {
            Flow::Machine => wit::Flow::Machine,
            Flow::Human => wit::Flow::Human,
        },
        cluster: request.cluster,
        reason: match request.reason {
            Reason::Initial => wit::Reason::Initial,
            Reason::Expiring => wit::Reason::Expiring,
            Reason::Rejected => wit::Reason::Rejected,
            Reason::Reauthentication => wit::Reason::Reauthentication,
        },
        audience: request.audience,
        principal: request.principal,
        hosts: request.hosts,
        idp: request.idp.map(|idp| wit::IdpInfo {
            issuer: idp.issuer,
            client_id: idp.client_id,
            request_scopes: idp.request_scopes,
        }),
        refresh_token: request.refresh_token.map(|token| token.expose_secret().to_owned()),
        timeout_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        attempt: request.attempt,
        extra: request.extra,
    }
}

/// A credential the host can use.
fn to_credential(credential: wit::Credential) -> Result<Credential> {
    let token = credential.access_token;
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(Error::new(
            Kind::PluginOutputInvalid,
            format!("its token has {} bytes; 1 to {MAX_TOKEN_BYTES} are possible", token.len()),
        ));
    }
    Ok(Credential {
        access_token: SecretString::from(token),
        expires_in: credential.expires_in_ms.map(Duration::from_millis),
        refresh_token: credential.refresh_token.map(SecretString::from),
        audit: credential
            .audit
            .into_iter()
            .map(|(key, value)| (quoted(&key), quoted(&value)))
            .collect(),
    })
}

/// A failure in the host's words.
fn to_token_error(failure: Failure) -> TokenError {
    match failure {
        Failure::Config(text) => TokenError::Config(quoted(&text)),
        Failure::RefreshRejected(_) => TokenError::RefreshRejected,
        Failure::Denied(error) => TokenError::Denied(quoted(&match error.description {
            Some(description) => format!("{}: {description}", error.code),
            None => error.code,
        })),
        Failure::InteractionRequired(text) => TokenError::InteractionRequired(quoted(&text)),
        Failure::Unavailable(outage) => TokenError::Unavailable {
            reason: quoted(&outage.reason),
            retry_after: outage.retry_after_ms.map(Duration::from_millis),
        },
        Failure::TimedOut => TokenError::TimedOut,
        Failure::Cancelled => TokenError::Cancelled,
        Failure::Unsupported(text) => TokenError::Unsupported(quoted(&text)),
        Failure::Internal(text) => TokenError::Plugin(Error::new(
            Kind::PluginOutputInvalid,
            format!("the provider's answer cannot be used: {}", quoted(&text)),
        )),
    }
}
