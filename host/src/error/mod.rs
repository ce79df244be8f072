//! The one error type that crosses rooms, and the table that says what each kind means.
//!
//! A room may have a `thiserror` enum of its own for what its callers distinguish; everything that
//! leaves a room is an [`Error`]: a [`Kind`] (what class of failure), a sentence (what, where) and
//! a source chain. What the host does about a kind, its stable code and the advice for the operator
//! stand in `recovery` and nowhere else.
//!
//! Invariant: this room imports no other room.

mod code;
mod recovery;

pub use code::Kind;
pub use recovery::{Backoff, Recovery};

use std::fmt;

/// Result of everything in the host that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A classified failure: what kind, what happened and where, and what caused it.
///
/// The detail is written for the operator and never holds a secret, a URI with a password or a
/// value of a document.
pub struct Error {
    /// The class, from which code, advice, recovery, HTTP status and exit code follow.
    kind: Kind,
    /// What happened and where, without the text of the source.
    detail: String,
    /// The cause, if another error caused this one.
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), source: None }
    }

    /// Attaches the error that caused this one.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts the place in front of the detail (`"app.users: …"`), keeping kind and cause.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.detail = format!("{place}: {}", self.detail);
        self
    }

    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened and where, without the causes.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Detail and every cause, joined by `": "`; what logs and API bodies show.
    pub fn full(&self) -> String {
        let mut text = self.detail.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            let line = inner.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = inner.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} {:?}] {}", self.kind.code(), self.kind, self.full())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as &(dyn std::error::Error + 'static))
    }
}
