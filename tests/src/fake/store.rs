//! `StateStore` in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bson::{Bson, Document};
use syncline::{
    error::Result,
    ports::{Lease, StateStore, Table},
};

use super::Chaos;

/// What is called after each document that is written.
type Watch = Box<dyn Fn(Table) + Send>;

/// The metadata database; it outlives the engines.
#[derive(Default)]
pub struct Tables {
    /// Documents by table, in the order in which they were first written.
    tables: Mutex<HashMap<Table, Vec<Document>>>,
    /// Sees every write.
    watch: Mutex<Option<Watch>>,
}

impl Tables {
    /// Every document of a table.
    pub fn all(&self, table: Table) -> Vec<Document> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.get(&table).cloned().unwrap_or_default()
    }

    /// Calls `watch` after each document that is written from now on.
    pub fn watch(&self, watch: impl Fn(Table) + Send + 'static) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(watch));
    }

    /// Writes a document by its `_id`.
    fn put(&self, table: Table, document: Document) {
        {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            let documents = tables.entry(table).or_default();
            match documents.iter_mut().find(|other| other.get("_id") == document.get("_id")) {
                Some(other) => *other = document,
                None => documents.push(document),
            }
        }
        if let Some(watch) = self.watch.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            watch(table);
        }
    }

    /// Removes what matches.
    fn remove(&self, table: Table, filter: &Document) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = |document: &Document| {
            filter.iter().all(|(name, value): (&String, &Bson)| document.get(name) == Some(value))
        };
        tables.entry(table).or_default().retain(|document| !matches(document));
    }
}

/// The metadata database behind an adversary. A write of many documents is not atomic.
pub struct FakeStore {
    /// What it holds.
    tables: Arc<Tables>,
    /// What goes wrong.
    chaos: Chaos,
}

impl FakeStore {
    /// A store behind an adversary.
    pub fn new(tables: Arc<Tables>, chaos: Chaos) -> Self {
        Self { tables, chaos }
    }
}

#[async_trait]
impl StateStore for FakeStore {
    async fn load(&self, table: Table) -> Result<Vec<Document>> {
        self.chaos.step().await;
        Ok(self.tables.all(table))
    }

    async fn put(&self, table: Table, documents: Vec<Document>) -> Result<()> {
        self.chaos.step().await;
        for document in documents {
            self.tables.put(table, document);
            self.chaos.step().await;
        }
        Ok(())
    }

    async fn remove(&self, table: Table, filter: Document) -> Result<()> {
        self.chaos.step().await;
        self.tables.remove(table, &filter);
        self.chaos.step().await;
        Ok(())
    }

    // One engine at a time: its crash is the end of everything it had under way.
    async fn take_lease(
        &self,
        owner: &str,
        _gone: Option<&str>,
        _time_to_live: Duration,
    ) -> Result<Lease> {
        self.chaos.step().await;
        Ok(Lease { owner: owner.to_owned(), former_owners: Vec::new() })
    }

    async fn forget_former_owners(&self, _owner: &str) -> Result<()> {
        Ok(())
    }

    async fn erase(&self) -> Result<()> {
        for table in Table::ALL {
            self.remove(table, Document::new()).await?;
        }
        Ok(())
    }

    async fn release_lease(&self, _owner: &str) -> Result<()> {
        self.chaos.step().await;
        Ok(())
    }
}
