//! The sync record in memory and in the store, changed together.

use tokio::sync::Mutex;

use super::checkpoint::SyncRecord;
use crate::{
    error::Result,
    ports::{StateStore, Table},
};

/// The one sync record of this process. Changes are written before they are visible; the lock is
/// held meanwhile, because two writers must not overtake each other on the way to the store.
pub(crate) struct Record(Mutex<SyncRecord>);

impl Record {
    /// Takes a record over that is stored already.
    pub(crate) fn new(record: SyncRecord) -> Self {
        Self(Mutex::new(record))
    }

    /// A copy of the present record.
    pub(crate) async fn get(&self) -> SyncRecord {
        self.0.lock().await.clone()
    }

    /// Changes the record and writes it with a majority.
    ///
    /// # Errors
    /// Those of the store; the record in memory is unchanged then.
    pub(crate) async fn change(
        &self,
        store: &dyn StateStore,
        change: impl FnOnce(&mut SyncRecord) + Send,
    ) -> Result<()> {
        let mut present = self.0.lock().await;
        let mut next = present.clone();
        change(&mut next);
        store.put(Table::Sync, vec![next.to_document()?]).await?;
        *present = next;
        Ok(())
    }
}
