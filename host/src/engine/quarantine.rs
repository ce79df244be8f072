//! Documents that cannot pass their filters, where the operator wants the sync to go on without them.
//!
//! Such a document is not on the destination. It stands in the metadata database with the reason, as it
//! was on the source when it was last looked at, until an event brings a document of that `_id` that
//! can pass, or there is none any more. Everything is written before what it accounts for counts as
//! done, and under an `_id` made of collection and `_id`; so a crash repeats it and nothing else.
//!
//! Invariant: a document is on the destination or here, never silently nowhere.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bson::{Binary, Bson, Document, RawDocument, RawDocumentBuf, Uuid, doc, spec::BinarySubtype};
use sha2::{Digest, Sha256};

use super::filter::Withheld;
use crate::{
    error::{Error, Kind, Result},
    model::{
        MAX_DOCUMENT_BYTES, Namespace,
        order::{canonical_id, compare_ids},
    },
    ports::{Bounds, StateStore, Table},
};

/// Documents of one sync at most: more of them are no exception any longer.
pub(crate) const MOST: usize = 10_000;
/// Room that an entry takes besides its document, in bytes.
const ENVELOPE: usize = 64 * 1024;

/// One document in quarantine.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// UUID of the collection on the source.
    pub(crate) collection: Uuid,
    /// Name of the collection on the source, when it was put here.
    pub(crate) namespace: String,
    /// `{_id: …}`
    pub(crate) id: RawDocumentBuf,
    /// The filter that refused it.
    pub(crate) plugin: String,
    /// Code and reason.
    pub(crate) error: (String, String),
    /// The document; `None` when it is too large to stand here.
    pub(crate) document: Option<RawDocumentBuf>,
}

impl Entry {
    /// An entry for what a filter refused.
    pub(crate) fn new(collection: Uuid, namespace: &Namespace, withheld: Withheld) -> Self {
        let Withheld { document, plugin, error } = withheld;
        Self {
            collection,
            namespace: namespace.to_string(),
            id: id_document(&document),
            plugin,
            error: (error.kind().code().to_owned(), error.full()),
            document: Some(document)
                .filter(|document| document.as_bytes().len() + ENVELOPE < MAX_DOCUMENT_BYTES),
        }
    }

    /// Its `_id` in the store.
    fn key(&self) -> String {
        key(&self.collection, &self.id)
    }

    /// The stored form.
    pub(crate) fn to_document(&self) -> Document {
        let binary = |document: &RawDocumentBuf| {
            let bytes = document.as_bytes().to_vec();
            Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })
        };
        let (code, reason) = &self.error;
        doc! {
            "_id": self.key(),
            "collection": self.collection.to_string(),
            "namespace": &self.namespace,
            "plugin": &self.plugin,
            "code": code,
            "reason": reason,
            "id": binary(&self.id),
            "document": self.document.as_ref().map_or(Bson::Null, binary),
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `MetadataMismatch`.
    pub(crate) fn from_document(stored: &Document) -> Result<Self> {
        let unreadable = || {
            Error::new(
                Kind::MetadataMismatch,
                "the metadata database holds an unreadable document in quarantine",
            )
        };
        let text = |key: &str| stored.get_str(key).map(str::to_owned).map_err(|_| unreadable());
        let raw = |key: &str| match stored.get(key) {
            Some(Bson::Binary(binary)) => {
                RawDocumentBuf::from_bytes(binary.bytes.clone()).map(Some).map_err(|_| unreadable())
            }
            Some(Bson::Null) => Ok(None),
            _ => Err(unreadable()),
        };
        Ok(Self {
            collection: Uuid::parse_str(text("collection")?).map_err(|_| unreadable())?,
            namespace: text("namespace")?,
            id: raw("id")?.ok_or_else(unreadable)?,
            plugin: text("plugin")?,
            error: (text("code")?, text("reason")?),
            document: raw("document")?,
        })
    }
}

/// `{_id: …}` of a document.
fn id_document(document: &RawDocument) -> RawDocumentBuf {
    let mut id = RawDocumentBuf::new();
    id.append(bson::cstr!("_id"), crate::model::order::id_of(document));
    id
}

/// What an entry is stored under: documents whose `_id`s the server holds to be equal share it.
fn key(collection: &Uuid, id: &RawDocument) -> String {
    format!("{collection}:{}", hex::encode(Sha256::digest(canonical_id(id))))
}

/// The quarantine of a running sync. What is stored is known here too, so that events of documents
/// that never were in it cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// Stored under which key: collection and `{_id: …}`.
    known: Mutex<HashMap<String, (Uuid, RawDocumentBuf)>>,
}

impl Quarantine {
    /// What is known, locked for a moment.
    fn known(&self) -> MutexGuard<'_, HashMap<String, (Uuid, RawDocumentBuf)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many documents there are.
    pub(crate) fn count(&self) -> usize {
        self.known().len()
    }

    /// Learns what an earlier process left.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn load(&self, store: &dyn StateStore) -> Result<()> {
        let mut known = HashMap::new();
        for stored in store.load(Table::Quarantine).await? {
            let entry = Entry::from_document(&stored)?;
            known.insert(entry.key(), (entry.collection, entry.id));
        }
        *self.known() = known;
        Ok(())
    }

    /// Puts documents in, over what is there of them.
    ///
    /// # Errors
    /// `QuarantineFull` with the reason of one of them; those of the store.
    pub(crate) async fn put(
        &self,
        store: &dyn StateStore,
        collection: Uuid,
        namespace: &Namespace,
        withheld: Vec<Withheld>,
    ) -> Result<()> {
        if withheld.is_empty() {
            return Ok(());
        }
        let entries: Vec<Entry> =
            withheld.into_iter().map(|one| Entry::new(collection, namespace, one)).collect();
        {
            let mut known = self.known();
            for entry in &entries {
                known.insert(entry.key(), (collection, entry.id.clone()));
                if known.len() > MOST {
                    return Err(Error::new(
                        Kind::QuarantineFull,
                        format!("{MOST} documents, and one more: {}", entry.error.1),
                    ));
                }
            }
        }
        for entry in &entries {
            let (plugin, code) = (entry.plugin.as_str(), entry.error.0.as_str());
            tracing::warn!(%namespace, plugin, code, "a document is in quarantine");
        }
        store.put(Table::Quarantine, entries.iter().map(Entry::to_document).collect()).await
    }

    /// Takes those out of the asked documents that are in.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn release<'a>(
        &self,
        store: &dyn StateStore,
        collection: Uuid,
        ids: impl IntoIterator<Item = &'a RawDocumentBuf>,
    ) -> Result<()> {
        if self.known().is_empty() {
            return Ok(());
        }
        let keys = ids.into_iter().map(|id| key(&collection, id)).collect();
        self.remove(store, keys).await
    }

    /// Takes out everything of a range of a collection: it is copied anew.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn release_range(
        &self,
        store: &dyn StateStore,
        collection: Uuid,
        bounds: &Bounds,
    ) -> Result<()> {
        let is_within = |id: &RawDocument| {
            bounds.lower.as_ref().is_none_or(|lower| compare_ids(id, lower).is_ge())
                && bounds.upper.as_ref().is_none_or(|upper| compare_ids(id, upper).is_lt())
        };
        let keys = self
            .known()
            .iter()
            .filter(|(_, (of, id))| *of == collection && is_within(id))
            .map(|(key, _)| key.clone())
            .collect();
        self.remove(store, keys).await
    }

    /// Removes by key, first from the store.
    async fn remove(&self, store: &dyn StateStore, keys: Vec<String>) -> Result<()> {
        for key in keys {
            if self.known().contains_key(&key) {
                store.remove(Table::Quarantine, doc! { "_id": &key }).await?;
                self.known().remove(&key);
            }
        }
        Ok(())
    }
}
