//! The seams at which rooms meet. A trait stands here only because it has two implementations:
//! the real one and the one the tests use.
//!
//! Ports are called once per batch or rarer and held as `Arc<dyn …>`.
//!
//! Invariant: only `model` and `error` types appear in a signature.

use async_trait::async_trait;
use bson::RawDocumentBuf;

use crate::{
    error::Result,
    model::{
        Batch, Namespace,
        token::{Credential, TokenError, TokenRequest},
    },
};

/// What a filter says about one document.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The document goes on as it is.
    Keep,
    /// The document is not on the destination.
    Drop,
    /// This document goes on in its place; `_id` is unchanged, the filter port has checked it.
    Replace(RawDocumentBuf),
}

/// Judges documents. The same document always gets the same verdict.
#[async_trait]
pub trait DocumentFilter: Send + Sync {
    /// The name in the config file.
    fn name(&self) -> &str;

    /// What the verdicts depend on (component digest, configuration, contract version), as one
    /// string that is recorded with the sync.
    fn fingerprint(&self) -> &str;

    /// Judges a batch: as many verdicts as documents, in order. `None` means that every document
    /// is kept, which is the common case and costs no allocation.
    ///
    /// # Errors
    /// The `Plugin…` kinds; nothing of the batch may be used then.
    async fn apply(&self, namespace: &Namespace, batch: &Batch) -> Result<Option<Vec<Verdict>>>;
}

/// Yields tokens for `MONGODB-OIDC`.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &str;

    /// Checks the configuration without any network.
    ///
    /// # Errors
    /// `TokenError::Config` with what to correct.
    async fn validate(&self) -> Result<(), TokenError>;

    /// Gets a token. The caller holds the cache, the single flight and the deadline.
    ///
    /// # Errors
    /// See [`TokenError`]. Cancel safe: dropping the future abandons the call and its instance.
    async fn get_token(&self, request: TokenRequest) -> Result<Credential, TokenError>;
}
