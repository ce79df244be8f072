//! `database.collection`, parsed once and correct after.

use std::fmt;

use crate::error::{Error, Kind, Result};

/// A database and a collection name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    /// Database name, never empty and without a dot.
    database: String,
    /// Collection name, never empty; may hold dots.
    collection: String,
}

impl Namespace {
    /// A namespace from names that a server gave us.
    ///
    /// # Errors
    /// `FilterInvalid` when a name is empty or the database holds a dot.
    pub fn new(database: impl Into<String>, collection: impl Into<String>) -> Result<Self> {
        let (database, collection) = (database.into(), collection.into());
        if database.is_empty() || collection.is_empty() || database.contains('.') {
            return Err(Error::new(
                Kind::FilterInvalid,
                format!("`{database}.{collection}` is no namespace"),
            ));
        }
        Ok(Self { database, collection })
    }

    /// Parses `database.collection`; the collection may hold further dots.
    ///
    /// # Errors
    /// `FilterInvalid` when there is no dot or a part is empty.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once('.') {
            Some((database, collection)) => Self::new(database, collection),
            None => Err(Error::new(
                Kind::FilterInvalid,
                format!("`{text}` is no namespace, expected database.collection"),
            )),
        }
    }

    /// A collection of another name in the same database, as it stands in a view.
    ///
    /// # Errors
    /// `FilterInvalid` when the name is empty.
    pub fn sibling(&self, collection: &str) -> Result<Self> {
        Self::new(self.database.clone(), collection)
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The collection's name.
    pub fn collection(&self) -> &str {
        &self.collection
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.collection)
    }
}
