//! What the host keeps between two calls: a refresh token with what it is good for.

use serde::{Deserialize, Serialize};

use crate::Login;

/// A refresh token, bound to who issued it to whom.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The token.
    pub(crate) token: String,
    /// Its issuer; it is sent nowhere else.
    issuer: String,
    /// Its client.
    client: String,
    /// `sub` of the ID token, when there was one; it stays.
    pub(crate) subject: Option<String>,
}

impl Kept {
    /// A refresh token of this login.
    pub(crate) fn new(token: &str, login: &Login<'_>, subject: Option<&str>) -> Self {
        Self {
            token: token.to_owned(),
            issuer: login.issuer.to_owned(),
            client: login.client_id.to_owned(),
            subject: subject.map(str::to_owned),
        }
    }

    /// Reads what the host kept; `None` when it is something else.
    pub(crate) fn open(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// As the host keeps it.
    pub(crate) fn close(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// Whether it is of this issuer and client.
    pub(crate) fn fits(&self, login: &Login<'_>) -> bool {
        self.issuer == login.issuer && self.client == login.client_id
    }
}
