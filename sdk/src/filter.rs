//! Document filters.

use serde::de::DeserializeOwned;

use crate::{bson, config::ConfigError};

/// The collection a document belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace<'a> {
    /// Database.
    pub database: &'a str,
    /// Collection.
    pub collection: &'a str,
}

/// What a filter says about one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it is.
    Keep,
    /// It is not on the destination.
    Drop,
    /// This document goes on in its place; its `_id` is the same, byte for byte.
    Replace(bson::DocumentBuf),
    /// It must not pass silently: the sync stops with this reason.
    Reject(String),
}

/// What a filter will do, once it is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether a verdict may be [`Verdict::Replace`].
    pub replaces: bool,
    /// Top-level fields that the verdicts depend on; empty means any. Documents then hold these fields
    /// alone. With `replaces` it means nothing.
    pub reads: Vec<String>,
}

/// Judges documents. The verdict depends on the configuration, the namespace and the document, on
/// nothing else: the host may ask again, in another order, in another instance.
pub trait DocumentFilter: Sized + 'static {
    /// The operator's `config`. Unknown keys are refused for you.
    type Config: DeserializeOwned;

    /// Makes a filter.
    ///
    /// # Errors
    /// [`ConfigError`] with the key that cannot be used.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// What it will do.
    fn plan(&self) -> Plan {
        Plan::default()
    }

    /// Judges one document.
    ///
    /// # Errors
    /// [`bson::Malformed`] when the document cannot be read; the host stops and says which one.
    fn judge(
        &self,
        namespace: &Namespace<'_>,
        document: bson::Document<'_>,
    ) -> Result<Verdict, bson::Malformed>;
}

/// What became of a batch, in the form the contract wants.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One byte a document.
    pub verdicts: Vec<u8>,
    /// Replacements end to end.
    pub replacements: Vec<u8>,
    /// Reasons of rejections.
    pub rejects: Vec<String>,
}

/// Judges documents that stand end to end.
///
/// # Errors
/// The position of the first document that cannot be read.
pub fn judge_batch<F: DocumentFilter>(
    filter: &F,
    namespace: &Namespace<'_>,
    count: u32,
    documents: &[u8],
) -> Result<Outcome, u32> {
    // Zeros, which is what most documents get.
    let mut verdicts = vec![0; count as usize];
    let (mut replacements, mut rejects) = (Vec::new(), Vec::new());
    let mut rest = documents;
    for (position, place) in (0..count).zip(&mut verdicts) {
        let (document, tail) = bson::Document::split_first(rest).map_err(|_| position)?;
        rest = tail;
        match filter.judge(namespace, document).map_err(|_| position)? {
            Verdict::Keep => {}
            Verdict::Drop => *place = 1,
            Verdict::Replace(document) => {
                replacements.extend_from_slice(document.as_bytes());
                *place = 2;
            }
            Verdict::Reject(reason) => {
                rejects.push(reason);
                *place = 5;
            }
        }
    }
    if rest.is_empty() { Ok(Outcome { verdicts, replacements, rejects }) } else { Err(count) }
}
