//! A document filter: what is small stays, one part of it changed.

use async_trait::async_trait;
use bson::{RawDocument, RawDocumentBuf};
use syncline::{
    error::{Error, Kind, Result},
    model::{Batch, Namespace},
    ports::{DocumentFilter, Refused, Sorted, Verdict},
};

/// Keeps documents whose `k` is below a bound; of those, the ones with an odd `k` lose `secret`.
#[derive(Debug)]
pub struct KeepSmall {
    /// The bound.
    pub below: i32,
    /// Whether it crashes.
    pub fails: bool,
    /// Documents with this `k` cannot pass.
    pub refuses: Option<i32>,
}

impl KeepSmall {
    /// Whether a document cannot pass.
    pub fn is_refused(&self, document: &RawDocument) -> bool {
        self.refuses.is_some() && document.get_i32("k").ok() == self.refuses
    }

    /// What becomes of a document that can pass.
    pub fn verdict(&self, document: &RawDocument) -> Verdict {
        let k = document.get_i32("k").unwrap_or_default();
        if k >= self.below {
            return Verdict::Drop;
        }
        if k % 2 == 0 {
            return Verdict::Keep;
        }
        let mut changed = RawDocumentBuf::new();
        for (name, value) in document.iter().flatten() {
            if name.as_str() != "secret" {
                changed.append(name, value);
            }
        }
        Verdict::Replace(changed)
    }

    /// What is to be on the destination.
    pub fn expected(&self, document: &RawDocument) -> Option<RawDocumentBuf> {
        if self.is_refused(document) {
            return None;
        }
        match self.verdict(document) {
            Verdict::Drop => None,
            Verdict::Keep => Some(document.to_owned()),
            Verdict::Replace(changed) => Some(changed),
        }
    }
}

#[async_trait]
impl DocumentFilter for KeepSmall {
    fn name(&self) -> &str {
        "keep-small"
    }

    fn fingerprint(&self) -> &str {
        "keep-small"
    }

    async fn apply(&self, _: &Namespace, batch: &Batch) -> Result<Option<Vec<Verdict>>> {
        tokio::task::yield_now().await;
        if self.fails {
            return Err(Error::new(Kind::PluginTrap, "keep-small: unreachable"));
        }
        if let Some(Ok(refused)) =
            batch.documents().find(|d| d.as_ref().is_ok_and(|d| self.is_refused(d)))
        {
            return Err(Error::new(Kind::PluginRejected, format!("{:?}", refused.get("_id"))));
        }
        let verdicts =
            batch.documents().map(|d| d.map(|d| self.verdict(d))).collect::<Result<Vec<_>>>()?;
        Ok(verdicts.iter().any(|v| *v != Verdict::Keep).then_some(verdicts))
    }

    async fn judge_each(&self, namespace: &Namespace, batch: &Batch) -> Result<Sorted> {
        tokio::task::yield_now().await;
        let mut sorted = Sorted { verdicts: Vec::new(), refused: Vec::new() };
        for (position, document) in batch.documents().enumerate() {
            let document = document?;
            if self.fails || self.is_refused(document) {
                let error = Error::new(Kind::PluginRejected, format!("{namespace}: refused"));
                sorted.refused.push(Refused { position, error });
                sorted.verdicts.push(Verdict::Drop);
            } else {
                sorted.verdicts.push(self.verdict(document));
            }
        }
        Ok(sorted)
    }
}
