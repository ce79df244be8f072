//! The host's functions as a trait, so that plugin logic can be tested without a host.

use std::{fmt, time::Duration};

use crate::{
    http::{Request, Response},
    secrets::Placement,
};

/// Why a host function did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostError {
    /// Not granted; names the key.
    Denied(String),
    /// There is no such thing.
    NotFound(String),
    /// A limit is used up.
    Limit(String),
    /// It took longer than it may.
    TimedOut,
    /// The argument makes no sense.
    Invalid(String),
    /// It may work later.
    Unavailable(String),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(text) => write!(f, "not granted: {text}"),
            Self::NotFound(text) => write!(f, "not found: {text}"),
            Self::Limit(text) => write!(f, "limit reached: {text}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Invalid(text) => write!(f, "invalid: {text}"),
            Self::Unavailable(text) => write!(f, "unavailable: {text}"),
        }
    }
}

impl std::error::Error for HostError {}

/// What an identity provider can ask of the host.
pub trait Host {
    /// Sends an HTTP request. Redirects are not followed.
    ///
    /// # Errors
    /// [`HostError`]; an answer of any status is no error.
    fn send(&self, request: Request) -> Result<Response, HostError>;

    /// As [`Self::send`], with secrets put in on the way out.
    ///
    /// # Errors
    /// [`HostError`]; `Denied` when a name is not granted, and when the answer repeats a secret.
    fn send_with(&self, request: Request, secrets: &[Placement]) -> Result<Response, HostError>;

    /// A JWT in compact form, signed with the private key (PEM) that is granted as the secret `key`.
    /// `header` and `claims` are JSON objects; `alg` of the header is one of RS256, RS384, RS512,
    /// PS256, PS384, PS512, ES256, ES384 and EdDSA.
    ///
    /// # Errors
    /// `Denied` when the name is not granted, `NotFound` when there is no such secret, `Invalid` when
    /// it is no key for the algorithm.
    fn sign_jwt(&self, key: &str, header: &str, claims: &str) -> Result<String, HostError>;

    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Time since some fixed moment; never goes backwards.
    fn monotonic(&self) -> Duration;

    /// Waits.
    fn sleep(&self, duration: Duration);

    /// An environment variable.
    ///
    /// # Errors
    /// `Denied` when the name is not granted.
    fn env(&self, name: &str) -> Result<Option<String>, HostError>;

    /// The content of a file.
    ///
    /// # Errors
    /// `Denied` when the path is not granted, `NotFound`, `Limit`.
    fn read_file(&self, path: &str, max_bytes: u32) -> Result<Vec<u8>, HostError>;

    /// Bytes that nobody can guess, 1 to 1024.
    ///
    /// # Errors
    /// `Denied` when a person is not granted.
    fn random(&self, _count: u32) -> Result<Vec<u8>, HostError> {
        Err(no_person())
    }

    /// Listens for the browser's way back and returns the address to name to the provider.
    ///
    /// # Errors
    /// `Denied`, `Unavailable` when nothing can listen, `TimedOut`.
    fn listen(&self) -> Result<String, HostError> {
        Err(no_person())
    }

    /// Sends the browser to a URL and waits until it comes back with this `state`.
    ///
    /// # Errors
    /// `Denied`, `Unavailable` when no browser opens, `TimedOut` when the person did not finish.
    fn browse(&self, _url: &str, _state: &str) -> Result<Vec<(String, String)>, HostError> {
        Err(no_person())
    }

    /// Shows a device code until the end of the call.
    ///
    /// # Errors
    /// `Denied`, `Unavailable` when there is no terminal.
    fn show_code(&self, _code: &DeviceCode) -> Result<(), HostError> {
        Err(no_person())
    }
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

/// The answer of a host that has nobody to ask.
fn no_person() -> HostError {
    HostError::Denied("interaction: true".to_owned())
}
