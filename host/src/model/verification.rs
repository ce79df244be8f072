//! What a comparison of two clusters finds.

use std::sync::Arc;

use bson::{RawDocumentBuf, Uuid};

/// Mismatches that are listed at most; the others are only counted.
pub const MAX_LISTED: usize = 1_000;

/// In which way the destination is not what the source makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MismatchKind {
    /// A document or collection is not there.
    Missing,
    /// A document or collection is there that should not be.
    Extra,
    /// A document has other content.
    Different,
    /// A document has the same content in another order of fields.
    FieldOrder,
    /// A collection has other options.
    Options,
    /// An index is missing, is there in addition, or has other properties.
    Index,
    /// A view is missing, is there in addition, or is defined otherwise.
    View,
}

impl MismatchKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Extra,
        Self::Different,
        Self::FieldOrder,
        Self::Options,
        Self::Index,
        Self::View,
    ];

    /// The wire word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Different => "different",
            Self::FieldOrder => "fieldOrder",
            Self::Options => "options",
            Self::Index => "index",
            Self::View => "view",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// `database.collection` on the destination.
    pub namespace: String,
    /// In which way.
    pub kind: MismatchKind,
    /// `{_id: …}` when it is about a document.
    pub id: Option<RawDocumentBuf>,
    /// What exactly, when it is not about a document: an option's or index's name.
    pub detail: Option<String>,
}

/// How far two collections are known to be equal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KnownEqual {
    /// `{_id: …}` from which on nothing is known; `None` when every document is equal.
    pub next: Option<RawDocumentBuf>,
    /// Documents of the source and of the destination before that.
    pub documents: (u64, u64),
    /// Documents of the source before that which cannot pass their filters.
    pub quarantined: u64,
}

/// A pair of collections by their UUIDs, the source's first.
pub type CollectionPair = (Uuid, Uuid);

/// How far a comparison is; the wire's `phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VerificationPhase {
    /// Not begun: the collection copy goes on.
    #[default]
    NotStarted,
    /// Everything is compared once.
    Scanning,
    /// What events touch is compared again.
    Following,
}

impl VerificationPhase {
    /// The wire word, which is mongosync's.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotStarted => "not started",
            Self::Scanning => "initial hashing",
            Self::Following => "stream hashing",
        }
    }
}

/// What is published of a comparison.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VerificationProgress {
    /// How far it is.
    pub phase: VerificationPhase,
    /// Seconds between the newest change on the source and what is compared.
    pub lag_seconds: u32,
    /// Documents on the source, estimated.
    pub documents_estimated: u64,
    /// Documents of the source compared in the first pass.
    pub source_documents: u64,
    /// Documents of the destination compared in the first pass.
    pub destination_documents: u64,
    /// Collections in all.
    pub collections_total: u64,
    /// Collections whose every partition is compared.
    pub collections_scanned: u64,
    /// How many mismatches of each kind there are, in the order of [`MismatchKind::ALL`].
    pub counts: [u64; 7],
    /// The first of them.
    pub mismatches: Arc<Vec<Mismatch>>,
    /// Documents of the source that are rightly absent, because they cannot pass their filters.
    pub quarantined: u64,
    /// Collections whose comparison ended early, because too much in them seemed to differ.
    pub cut: Arc<Vec<String>>,
}

impl VerificationProgress {
    /// How many mismatches there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Whether everything was compared and nothing differs.
    pub fn is_clean(&self) -> bool {
        self.total() == 0 && self.cut.is_empty()
    }

    /// Takes a mismatch into the counts, and into the list while there is room.
    pub fn add(&mut self, mismatch: &Mismatch) {
        for (kind, count) in MismatchKind::ALL.iter().zip(&mut self.counts) {
            *count += u64::from(*kind == mismatch.kind);
        }
        if self.mismatches.len() < MAX_LISTED {
            Arc::make_mut(&mut self.mismatches).push(mismatch.clone());
        }
    }

    /// The counts in words: `2 missing, 1 index`.
    pub fn in_words(&self) -> String {
        let words: Vec<String> = MismatchKind::ALL
            .iter()
            .zip(self.counts)
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| format!("{count} {}", kind.name()))
            .collect();
        if words.is_empty() { "no mismatch".to_owned() } else { words.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mismatch_counts_and_the_list_is_bounded() {
        let mut progress = VerificationProgress::default();
        assert_eq!(progress.in_words(), "no mismatch");
        let mut mismatch = Mismatch {
            namespace: "a.b".to_owned(),
            kind: MismatchKind::Extra,
            id: None,
            detail: None,
        };
        for _ in 0..=MAX_LISTED {
            progress.add(&mismatch);
        }
        mismatch.kind = MismatchKind::View;
        progress.add(&mismatch);
        assert_eq!(progress.mismatches.len(), MAX_LISTED);
        assert_eq!(progress.total(), 1_002);
        assert_eq!(progress.in_words(), "1001 extra, 1 view");
    }
}
