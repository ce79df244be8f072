//! What the token service asks an identity provider, and what it gets.

use std::time::Duration;

use secrecy::SecretString;

use crate::error::Error;

/// Who is authenticating.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flow {
    /// A workload, without a person.
    Machine,
    /// A person at a terminal.
    Human,
}

/// Why a token is wanted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There was none.
    Initial,
    /// The present one is about to expire.
    Expiring,
    /// The server refused the present one.
    Rejected,
    /// The server asked to authenticate again (error 391).
    Reauthentication,
}

/// What a server tells about its identity provider (`IdpInfo` of MONGODB-OIDC).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdpInfo {
    /// Issuer URL.
    pub issuer: String,
    /// OAuth client id, when the server names one.
    pub client_id: Option<String>,
    /// Scopes the server wants requested.
    pub request_scopes: Vec<String>,
}

/// What a person types in on another device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCode {
    /// The code.
    pub user_code: String,
    /// Where to type it in.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// How long the code is good.
    pub expires_in: Duration,
}

/// Why a person did not log in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PersonError {
    /// Nobody was reached: no browser opens, or nothing can listen.
    #[error("{0}")]
    Unreached(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// One request to an identity provider.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// Machine or human.
    pub flow: Flow,
    /// Which connection string asks: `cluster0` or `cluster1`.
    pub cluster: String,
    /// Why now.
    pub reason: Reason,
    /// The audience, `TOKEN_RESOURCE` of the connection string.
    pub audience: Option<String>,
    /// User name of the connection string (a managed identity's client id, a person's name).
    pub principal: Option<String>,
    /// Hosts that the token will be sent to.
    pub hosts: Vec<String>,
    /// What the server says about its provider; human flow only.
    pub idp: Option<IdpInfo>,
    /// Refresh token of an earlier answer; human flow only.
    pub refresh_token: Option<SecretString>,
    /// Time the provider may take.
    pub timeout: Duration,
    /// 0 for the first try, then counting.
    pub attempt: u32,
    /// Further properties (`ENVIRONMENT` and the like), by name.
    pub extra: Vec<(String, String)>,
}

/// A token with what is known about it. Debug shows no secret.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The JWT.
    pub access_token: SecretString,
    /// Lifetime left, when the provider said so.
    pub expires_in: Option<Duration>,
    /// To get the next token without a person.
    pub refresh_token: Option<SecretString>,
    /// For the audit log (issuer, subject, flow), never secrets.
    pub audit: Vec<(String, String)>,
}

/// Why there is no token; each variant is what the host does next.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Refuse to start: the configuration is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// Drop the refresh token and start over.
    #[error("the refresh token was refused")]
    RefreshRejected,
    /// A person is needed and none can be reached.
    #[error("a person has to log in: {0}")]
    InteractionRequired(String),
    /// Stop: the provider said no.
    #[error("denied: {0}")]
    Denied(String),
    /// Back off and try again.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// The provider's words.
        reason: String,
        /// Pause the provider asked for.
        retry_after: Option<Duration>,
    },
    /// No answer came. A refresh token that was shown may be used up.
    #[error("timed out")]
    TimedOut,
    /// The request was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The plugin cannot do this flow.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The plugin itself failed (trap, deadline, nonsense).
    #[error("{0}")]
    Plugin(#[from] Error),
}
