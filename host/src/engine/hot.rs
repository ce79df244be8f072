//! Hot documents: so often changed that following every change would hold the sync up. Their
//! changes are skipped, and the commit fetches them once.
//!
//! They are known by the name of their collection. Before a rename they are fetched, because
//! nobody asks for them under the new name.

use std::collections::HashMap;

use bson::{RawDocumentBuf, Uuid};

use super::{context::Context, stream};
use crate::{
    error::Result,
    model::{ClusterTime, Namespace, options::HotDocument, order::canonical_id},
};

/// Which documents are hot.
#[derive(Debug, Default)]
pub(crate) struct HotDocuments(HashMap<Namespace, HashMap<Vec<u8>, RawDocumentBuf>>);

impl HotDocuments {
    /// Takes what the operator listed.
    pub(crate) fn new(listed: &[HotDocument]) -> Self {
        let mut hot = Self::default();
        for HotDocument { namespace, id } in listed {
            let ids = hot.0.entry(namespace.clone()).or_default();
            ids.insert(canonical_id(id), id.clone());
        }
        hot
    }

    /// Whether the changes of a document, given as `{_id: …}`, are skipped.
    pub(crate) fn contains(&self, namespace: Option<&Namespace>, id: &RawDocumentBuf) -> bool {
        !self.0.is_empty()
            && namespace
                .and_then(|namespace| self.0.get(namespace))
                .is_some_and(|ids| ids.contains_key(&canonical_id(id)))
    }

    /// The hot documents of a collection.
    fn of(&self, namespace: &Namespace) -> Vec<RawDocumentBuf> {
        self.0.get(namespace).map(|ids| ids.values().cloned().collect()).unwrap_or_default()
    }
}

/// Brings the hot documents of a collection in line with the source. Repeatable.
///
/// # Errors
/// Those of the clusters and of the filters.
pub(crate) async fn fetch(context: &Context, uuid: Uuid, after: ClusterTime) -> Result<()> {
    let source = context.table().get(&uuid).map(|entry| entry.source.clone());
    let ids = source.map(|source| context.hot.of(&source)).unwrap_or_default();
    if ids.is_empty() {
        return Ok(());
    }
    stream::bring(context, uuid, ids, after).await
}

/// Brings all hot documents in line with the source. Repeatable.
///
/// # Errors
/// Those of the clusters and of the filters.
pub(crate) async fn fetch_all(context: &Context, after: ClusterTime) -> Result<()> {
    if context.hot.0.is_empty() {
        return Ok(());
    }
    let uuids: Vec<Uuid> = context.table().iter().map(|(uuid, _)| *uuid).collect();
    for uuid in uuids {
        fetch(context, uuid, after).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn a_hot_document_is_known_by_name_and_id_of_any_number_type() {
        let namespace = Namespace::parse("app.items").unwrap();
        let listed = HotDocument { namespace: namespace.clone(), id: rawdoc! { "_id": 7i64 } };
        let hot = HotDocuments::new(&[listed]);
        assert!(hot.contains(Some(&namespace), &rawdoc! { "_id": 7 }));
        assert!(!hot.contains(Some(&namespace), &rawdoc! { "_id": "7" }));
        assert!(!hot.contains(Namespace::parse("app.other").ok().as_ref(), &rawdoc! { "_id": 7 }));
        assert!(!HotDocuments::default().contains(Some(&namespace), &rawdoc! { "_id": 7 }));
        assert_eq!(hot.of(&namespace).len(), 1);
    }
}
