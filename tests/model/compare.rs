//! Whether the destination is what the filter makes of the source.

use bson::{Document, RawDocumentBuf};
use syncline_tests::fake::{
    Cluster, KeepSmall,
    cluster::{Collection, State},
};

use crate::workload::FILTERED;

/// A document's fields in alphabetical order: a server keeps options in an order of its own.
fn sorted(document: &Document) -> Vec<(String, bson::Bson)> {
    let mut fields: Vec<_> = document.clone().into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// Documents as they are to be compared: in `_id` order, or as stored where the order is kept.
fn documents(collection: &Collection) -> Vec<RawDocumentBuf> {
    if collection.is_capped() {
        return collection.documents.in_storage_order();
    }
    collection.documents.iter().cloned().collect()
}

/// Indexes by name.
fn indexes(collection: &Collection) -> Vec<Vec<(String, bson::Bson)>> {
    let mut all: Vec<Document> = collection.indexes.clone();
    all.sort_by_key(|spec| spec.get_str("name").unwrap_or_default().to_owned());
    all.iter().map(sorted).collect()
}

/// The first difference.
pub fn difference(source: &Cluster, destination: &Cluster, filter: &KeepSmall) -> Option<String> {
    let (source, destination): (&State, &State) = (&source.state(), &destination.state());
    let names = |state: &State| {
        let names: Vec<String> = state.names.keys().map(ToString::to_string).collect();
        names
    };
    if names(source) != names(destination) {
        return Some(format!(
            "collections: {:?} on the source, {:?} on the destination",
            names(source),
            names(destination)
        ));
    }
    if source.views != destination.views {
        return Some(format!("views: {:?}, {:?}", source.views, destination.views));
    }
    for namespace in source.names.keys() {
        let (Some(wanted), Some(found)) = (source.named(namespace), destination.named(namespace))
        else {
            return Some(format!("{namespace}: missing"));
        };
        let options =
            |c: &Collection| sorted(&Document::try_from(c.options.as_ref()).unwrap_or_default());
        if options(wanted) != options(found) {
            return Some(format!("{namespace}: {:?}, {:?}", options(wanted), options(found)));
        }
        if indexes(wanted) != indexes(found) {
            return Some(format!("{namespace}: {:#?}, {:#?}", indexes(wanted), indexes(found)));
        }
        let mut expected = documents(wanted);
        if namespace.database() == FILTERED {
            expected = expected.iter().filter_map(|document| filter.expected(document)).collect();
        }
        let present = documents(found);
        if let Some(place) =
            (0..expected.len().max(present.len())).find(|i| expected.get(*i) != present.get(*i))
        {
            return Some(format!(
                "{namespace}: document {place} of {}/{} is {:?} on the destination, not {:?}",
                expected.len(),
                present.len(),
                present.get(place),
                expected.get(place)
            ));
        }
    }
    None
}
