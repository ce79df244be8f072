//! Byte-for-byte comparison of two clusters, independent of the product.
//!
//! What is compared: databases, collections with their type and options, views with their definition,
//! indexes with every field of their specification, and every document, raw bytes against raw bytes,
//! in `_id` order (capped collections in natural order). What is not: collection UUIDs, which differ by
//! design, and the databases `admin`, `local`, `config` and the metadata database.
//!
//! Memory is bounded by the cursors' batches and by the number of differences that are kept.

mod catalog;
mod documents;
mod report;

use std::{collections::BTreeSet, fmt, sync::Arc};

use anyhow::{Context, Result};
use mongodb::{Client, bson::RawDocument};

pub use self::report::{Difference, Report};
use self::{
    catalog::{Collection, Kind},
    report::Collector,
};

/// Databases that no sync copies.
const INTERNAL: [&str; 3] = ["admin", "local", "config"];

/// The product's default metadata database.
pub const METADATA: &str = "syncline_metadata";

/// What shall be on the destination for a document of the source.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// The document as it is.
    Same,
    /// Nothing.
    Nothing,
    /// This document.
    Instead(mongodb::bson::RawDocumentBuf),
}

/// Says for a namespace (`database.collection`) and a source document what is expected.
pub type Expectation = Arc<dyn Fn(&str, &RawDocument) -> Expected + Send + Sync>;

/// Says whether a namespace takes part.
pub type Selection = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A comparison to run.
#[derive(Clone)]
pub struct Comparison {
    /// Databases that are left out besides the internal ones.
    ignored: BTreeSet<String>,
    /// Namespaces that take part on both sides.
    selected: Selection,
    /// What the destination shall hold.
    expected: Option<Expectation>,
    /// Whether indexes are compared.
    indexes: bool,
    /// Differences that are kept; beyond, a collection's comparison stops.
    keep: usize,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            ignored: BTreeSet::from([METADATA.to_owned()]),
            selected: Arc::new(|_| true),
            expected: None,
            indexes: true,
            keep: 20,
        }
    }
}

impl fmt::Debug for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comparison").field("ignored", &self.ignored).finish_non_exhaustive()
    }
}

impl Comparison {
    /// Everything but the internal databases and the metadata database.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same without another database.
    #[must_use]
    pub fn ignoring(mut self, database: &str) -> Self {
        self.ignored.insert(database.to_owned());
        self
    }

    /// The same for some namespaces only.
    #[must_use]
    pub fn only(mut self, selected: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.selected = Arc::new(selected);
        self
    }

    /// The same with a transformation between the source and what is expected.
    #[must_use]
    pub fn expecting(
        mut self,
        expected: impl Fn(&str, &RawDocument) -> Expected + Send + Sync + 'static,
    ) -> Self {
        self.expected = Some(Arc::new(expected));
        self
    }

    /// The same without indexes, for a look before the commit, while they are relaxed.
    #[must_use]
    pub fn without_indexes(mut self) -> Self {
        self.indexes = false;
        self
    }

    /// Compares. Writes to either cluster during the comparison show up as differences.
    ///
    /// # Errors
    /// When a cluster cannot be read. Differences are no error; see [`Report::is_identical`].
    pub async fn run(&self, source: &Client, destination: &Client) -> Result<Report> {
        let mut collector = Collector::new(self.keep);
        let on_source = self.list(source).await.context("listing the source")?;
        let on_destination = self.list(destination).await.context("listing the destination")?;
        let databases: BTreeSet<&str> = on_source.iter().map(Collection::database).collect();
        collector.report.databases = databases.len() as u64;
        for theirs in &on_destination {
            if !on_source.iter().any(|ours| ours.namespace() == theirs.namespace()) {
                collector.add(theirs.namespace(), "the collection is only on the destination");
            }
        }
        for ours in &on_source {
            let theirs =
                on_destination.iter().find(|theirs| theirs.namespace() == ours.namespace());
            let Some(theirs) = theirs else {
                collector.add(ours.namespace(), "the collection is missing on the destination");
                continue;
            };
            self.collection((source, ours), (destination, theirs), &mut collector)
                .await
                .with_context(|| format!("comparing {}", ours.namespace()))?;
        }
        Ok(collector.report)
    }

    /// The collections that take part.
    async fn list(&self, client: &Client) -> Result<Vec<Collection>> {
        let mut found = Vec::new();
        for database in client.list_database_names().await? {
            if !INTERNAL.contains(&database.as_str()) && !self.ignored.contains(&database) {
                found.extend(catalog::list(client, &database).await?);
            }
        }
        found.retain(|collection| (self.selected)(collection.namespace()));
        Ok(found)
    }

    /// Compares one collection that is on both sides.
    async fn collection(
        &self,
        source: (&Client, &Collection),
        destination: (&Client, &Collection),
        collector: &mut Collector,
    ) -> Result<()> {
        let (ours, theirs) = (source.1, destination.1);
        catalog::compare(ours, theirs, collector);
        match ours.kind() {
            Kind::View => collector.report.views += 1,
            Kind::Timeseries => collector
                .add(ours.namespace(), "documents of time-series collections are not compared"),
            Kind::Collection => {
                collector.report.collections += 1;
                if self.indexes {
                    catalog::compare_indexes(source, destination, collector).await?;
                }
                if theirs.kind() == Kind::Collection {
                    documents::compare(source, destination, self.expected.as_ref(), collector)
                        .await?;
                }
            }
        }
        Ok(())
    }
}
