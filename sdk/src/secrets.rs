//! Secrets that the host puts in their place; the plugin knows their names alone.
//!
//! A manifest asks for them under `secrets`, the operator says where their values stand. See
//! [`Host::send_with`](crate::Host::send_with) and [`Host::sign_jwt`](crate::Host::sign_jwt). A whole
//! provider that posts one:
//!
//! ```
//! use syncline_sdk::{
//!     Host, HostError, IdentityProvider,
//!     config::ConfigError,
//!     http::Request,
//!     identity::{Credential, Descriptor, Failure, Flow, TokenRequest},
//!     secrets::Placement,
//! };
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     url: String,
//! }
//!
//! struct Company(Config);
//!
//! impl IdentityProvider for Company {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         Ok(Self(config))
//!     }
//!
//!     fn describe(&self) -> Descriptor {
//!         Descriptor {
//!             name: "company".into(),
//!             version: "1.0.0".into(),
//!             flows: vec![Flow::Machine],
//!             origins: vec![self.0.url.clone()],
//!         }
//!     }
//!
//!     fn get_token(&self, host: &impl Host, _: &TokenRequest) -> Result<Credential, Failure> {
//!         let request = Request::post_form(&self.0.url, &[("grant_type", "client_credentials")]);
//!         let secret = Placement::form("client-secret", "client_secret");
//!         let answer = host.send_with(request, &[secret]).map_err(|error| match error {
//!             HostError::TimedOut => Failure::TimedOut,
//!             other => Failure::Unavailable { reason: other.to_string(), retry_after: None },
//!         })?;
//!         match String::from_utf8(answer.body) {
//!             Ok(access_token) if answer.status == 200 => Ok(Credential {
//!                 access_token,
//!                 expires_in: None,
//!                 refresh_token: None,
//!                 audit: Vec::new(),
//!             }),
//!             _ => Err(Failure::Internal(format!("it answered {}", answer.status))),
//!         }
//!     }
//! }
//!
//! syncline_sdk::export_identity_provider!(Company);
//! # fn main() {}
//! ```

/// Where the host puts a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Into a header.
    Header {
        /// Its name.
        name: String,
        /// What stands before the secret, for example `Bearer ` with the space.
        before: String,
    },
    /// Into `Authorization: Basic`, as the password of this user.
    Basic {
        /// The user; for OAuth the client id.
        user: String,
    },
    /// Into a field at the end of an `application/x-www-form-urlencoded` body.
    Form {
        /// Its name.
        field: String,
    },
}

/// One secret in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Name of the secret, as the manifest asks for it.
    pub secret: String,
    /// Where it goes.
    pub place: Place,
}

impl Placement {
    /// The secret as the password of `Authorization: Basic`.
    pub fn basic(secret: impl Into<String>, user: impl Into<String>) -> Self {
        Self { secret: secret.into(), place: Place::Basic { user: user.into() } }
    }

    /// The secret as a field of a form.
    pub fn form(secret: impl Into<String>, field: impl Into<String>) -> Self {
        Self { secret: secret.into(), place: Place::Form { field: field.into() } }
    }

    /// The secret as `Authorization: Bearer`.
    pub fn bearer(secret: impl Into<String>) -> Self {
        let place =
            Place::Header { name: "Authorization".to_owned(), before: "Bearer ".to_owned() };
        Self { secret: secret.into(), place }
    }
}
