//! Identity providers.

use std::{fmt, time::Duration};

use serde::de::DeserializeOwned;

use crate::{config::ConfigError, host::Host};

/// Who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// A workload.
    Machine,
    /// A person.
    Human,
}

/// Why a token is wanted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is none yet.
    Initial,
    /// The present one is about to expire.
    Expiring,
    /// The server refused the present one.
    Rejected,
    /// The server asked to authenticate again.
    Reauthentication,
}

/// What the server says about its identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdpInfo {
    /// Issuer URL.
    pub issuer: String,
    /// OAuth client id.
    pub client_id: Option<String>,
    /// Scopes to request.
    pub request_scopes: Vec<String>,
}

/// What is wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Who logs in.
    pub flow: Flow,
    /// `cluster0` or `cluster1`.
    pub cluster: String,
    /// Why now.
    pub reason: Reason,
    /// `TOKEN_RESOURCE` of the connection string.
    pub audience: Option<String>,
    /// User name of the connection string.
    pub principal: Option<String>,
    /// Hosts the token will be sent to.
    pub hosts: Vec<String>,
    /// Human flow only.
    pub idp: Option<IdpInfo>,
    /// From an earlier answer; human flow only.
    pub refresh_token: Option<String>,
    /// Time left for this call.
    pub timeout: Duration,
    /// 0 for the first try.
    pub attempt: u32,
    /// Further properties by name.
    pub extra: Vec<(String, String)>,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("flow", &self.flow)
            .field("cluster", &self.cluster)
            .field("reason", &self.reason)
            .field("audience", &self.audience)
            .field("principal", &self.principal)
            .field("timeout", &self.timeout)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// A token. Debug shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The token.
    pub access_token: String,
    /// Lifetime left, when the provider says so.
    pub expires_in: Option<Duration>,
    /// To get the next one without a person.
    pub refresh_token: Option<String>,
    /// For the audit log, never secrets.
    pub audit: Vec<(String, String)>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("expires_in", &self.expires_in)
            .field("audit", &self.audit)
            .finish_non_exhaustive()
    }
}

/// The provider's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthError {
    /// `error`
    pub code: String,
    /// `error_description`
    pub description: Option<String>,
}

/// Why there is no token; each variant is what the host does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Refuse to start: the configuration cannot be used.
    Config(String),
    /// Drop the refresh token and start over.
    RefreshRejected(OauthError),
    /// Stop and show the provider's words.
    Denied(OauthError),
    /// A person is needed and none can be reached.
    InteractionRequired(String),
    /// Back off and try again.
    Unavailable {
        /// What happened.
        reason: String,
        /// Pause the provider asked for.
        retry_after: Option<Duration>,
    },
    /// No answer came, or the time was not enough. A refresh token that was shown may be used up: the
    /// host shows it once more at most.
    TimedOut,
    /// The person gave up.
    Cancelled,
    /// This plugin does not do this.
    Unsupported(String),
    /// The provider answered nonsense, or the plugin is at fault.
    Internal(String),
}

/// The plugin about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Name of the plugin.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it can do.
    pub flows: Vec<Flow>,
    /// Origins that the present configuration needs.
    pub origins: Vec<String>,
}

/// Gets tokens. Caching, single flight and refreshing are the host's.
pub trait IdentityProvider: Sized + 'static {
    /// The operator's `config`. Unknown keys are refused for you.
    type Config: DeserializeOwned;

    /// Makes a provider. No network: the host calls this to check the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] with the key that cannot be used.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// The plugin about itself.
    fn describe(&self) -> Descriptor;

    /// Gets a token. Each call meets a fresh instance. Generic, so that the component imports only
    /// what is used of the host.
    ///
    /// # Errors
    /// [`Failure`]: what the host should do next.
    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure>;
}
