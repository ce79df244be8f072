//! What a comparison found.

use std::fmt;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `database.collection`
    pub namespace: String,
    /// What differs, with the document's `_id` or the index's name.
    pub what: String,
}

/// Counts of what was compared on the source, and the first differences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Databases with at least one collection.
    pub databases: u64,
    /// Collections, without views.
    pub collections: u64,
    /// Views.
    pub views: u64,
    /// Indexes, `_id` included.
    pub indexes: u64,
    /// Documents read from the source.
    pub documents: u64,
    /// Documents that an expectation keeps off the destination.
    pub withheld: u64,
    /// Bytes of documents that were found equal.
    pub bytes: u64,
    /// The first differences.
    pub differences: Vec<Difference>,
    /// Differences found in all, kept or not; a lower bound when a collection was given up.
    pub difference_count: u64,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_identical(&self) -> bool {
        self.difference_count == 0
    }

    /// Fails with the differences when there are any, or when nothing was compared at all.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> anyhow::Result<()> {
        if !self.is_identical() {
            anyhow::bail!("the clusters differ:\n{self}");
        }
        if self.collections == 0 {
            anyhow::bail!("the comparison found no collection; it proves nothing");
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} databases, {} collections, {} views, {} indexes, {} documents, {} bytes equal",
            self.databases, self.collections, self.views, self.indexes, self.documents, self.bytes
        )?;
        if self.withheld > 0 {
            writeln!(f, "{} documents rightly not on the destination", self.withheld)?;
        }
        write!(f, "{} differences", self.difference_count)?;
        for difference in &self.differences {
            write!(f, "\n  {}: {}", difference.namespace, difference.what)?;
        }
        Ok(())
    }
}

/// Gathers a report.
pub(super) struct Collector {
    /// What was found so far.
    pub(super) report: Report,
    /// Differences to keep.
    keep: usize,
}

impl Collector {
    /// An empty report.
    pub(super) fn new(keep: usize) -> Self {
        Self { report: Report::default(), keep }
    }

    /// Records a difference.
    pub(super) fn add(&mut self, namespace: &str, what: impl Into<String>) {
        self.report.difference_count += 1;
        if self.report.differences.len() < self.keep {
            let difference = Difference { namespace: namespace.to_owned(), what: what.into() };
            self.report.differences.push(difference);
        }
    }

    /// Whether so much differs that reading on tells nothing new.
    pub(super) fn is_full(&self) -> bool {
        self.report.differences.len() >= self.keep
    }
}
