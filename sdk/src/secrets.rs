//! Secrets that the host puts in their place; the plugin knows their names alone.
//!
//! A manifest asks for them under `secrets`, the operator says where their values stand. See
//! [`Host::send_with`](crate::Host::send_with) and [`Host::sign_jwt`](crate::Host::sign_jwt).

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
