//! Whether the destination is what the filter makes of the source.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Document, RawDocumentBuf};
use syncline::{
    model::{
        Namespace,
        options::{
            CollectionMatch, DatabaseMatch, NamespaceMatch, NamespaceRemap, RemapName, StartOptions,
        },
    },
    ports::Table,
};
use syncline_tests::fake::{
    Cluster, KeepSmall, Tables,
    cluster::{Collection, State},
};

use crate::workload::FILTERED;

/// What of the source is synced, and under which names.
#[derive(Debug, Default, Clone, Copy)]
pub struct Names {
    /// Whether a database and two collections get other names.
    pub remapped: bool,
    /// Whether a database is left out.
    pub excluded: bool,
}

/// The database that is left out or gets another name.
const OTHER: &str = "other";
/// Collections that get other names, in databases that keep theirs.
const MOVED: [(&str, &str, &str); 2] = [("app", "a", "z"), (FILTERED, "b", "y")];

impl Names {
    /// The name on the destination; `None` when it is not synced.
    pub fn there(self, namespace: &Namespace) -> Option<Namespace> {
        let (database, collection) = (namespace.database(), namespace.collection());
        if self.excluded && database == OTHER {
            return None;
        }
        if !self.remapped {
            return Some(namespace.clone());
        }
        if database == OTHER {
            return Namespace::new("elsewhere", collection).ok();
        }
        let moved = MOVED.iter().find(|(d, from, _)| *d == database && *from == collection);
        Namespace::new(database, moved.map_or(collection, |(_, _, to)| *to)).ok()
    }

    /// Asks for it.
    pub fn ask(self, options: &mut StartOptions) {
        if self.excluded {
            options.exclude_namespaces.push(NamespaceMatch {
                database: DatabaseMatch::Name(OTHER.to_owned()),
                collections: CollectionMatch::All,
            });
        }
        if self.remapped {
            let name = |database: &str, collection: Option<&str>| RemapName {
                database: database.to_owned(),
                collection: collection.map(str::to_owned),
            };
            let mut entries = vec![(name(OTHER, None), name("elsewhere", None))];
            for (database, from, to) in MOVED {
                entries.push((name(database, Some(from)), name(database, Some(to))));
            }
            options.namespace_remap =
                entries.into_iter().map(|(from, to)| NamespaceRemap { from, to }).collect();
        }
    }

    /// The views that are expected.
    fn views(self, source: &State) -> BTreeMap<Namespace, Document> {
        let mut views = BTreeMap::new();
        for (name, options) in &source.views {
            let Some(there) = self.there(name) else { continue };
            let mut options = Document::try_from(options.as_ref()).unwrap();
            let on = options.get_str("viewOn").unwrap().to_owned();
            if let Some(on) = self.there(&name.sibling(&on).unwrap()) {
                options.insert("viewOn", on.collection());
            }
            views.insert(there, options);
        }
        views
    }
}

/// A document's fields in alphabetical order: a server keeps options in an order of its own.
fn sorted(document: &Document) -> Vec<(String, bson::Bson)> {
    let mut fields: Vec<_> = document.clone().into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// Documents as they are to be compared: in `_id` order, or as stored where the order is kept. A
/// filter that lets a document in later puts it behind those that were there before.
fn documents(collection: &Collection) -> Vec<RawDocumentBuf> {
    if collection.is_capped() && collection.namespace.database() != FILTERED {
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

/// The first difference between what cannot pass and what is in quarantine.
pub fn quarantine(
    source: &Cluster,
    tables: &Tables,
    filter: &KeepSmall,
    names: Names,
) -> Option<String> {
    let source: &State = &source.state();
    let mut expected = BTreeSet::new();
    for collection in source.collections.values() {
        let is_synced = source.names.get(&collection.namespace) == Some(&collection.uuid)
            && names.there(&collection.namespace).is_some();
        if !is_synced || collection.namespace.database() != FILTERED {
            continue;
        }
        for document in collection.documents.iter().filter(|document| filter.is_refused(document)) {
            expected.insert((collection.uuid.to_string(), document.as_bytes().to_vec()));
        }
    }
    let mut found = BTreeSet::new();
    for entry in tables.all(Table::Quarantine) {
        let document = entry.get_binary_generic("document").unwrap().clone();
        found.insert((entry.get_str("collection").unwrap().to_owned(), document));
    }
    if found == expected {
        return None;
    }
    let shown = |set: &BTreeSet<(String, Vec<u8>)>, other: &BTreeSet<(String, Vec<u8>)>| {
        let first = set.difference(other).next().cloned();
        first.map(|(uuid, bytes)| (uuid, RawDocumentBuf::from_bytes(bytes)))
    };
    Some(format!(
        "quarantine: missing {:?}, too much {:?}",
        shown(&expected, &found),
        shown(&found, &expected)
    ))
}

/// The first difference.
pub fn difference(
    source: &Cluster,
    destination: &Cluster,
    filter: &KeepSmall,
    names: Names,
) -> Option<String> {
    let (source, destination): (&State, &State) = (&source.state(), &destination.state());
    let expected: BTreeSet<Namespace> =
        source.names.keys().filter_map(|name| names.there(name)).collect();
    let present: BTreeSet<Namespace> = destination.names.keys().cloned().collect();
    if expected != present {
        return Some(format!("collections: {present:?} on the destination, not {expected:?}"));
    }
    let views: BTreeMap<Namespace, Document> = destination
        .views
        .iter()
        .map(|(name, options)| (name.clone(), Document::try_from(options.as_ref()).unwrap()))
        .collect();
    if names.views(source) != views {
        return Some(format!("views: {views:?}, not {:?}", names.views(source)));
    }
    for namespace in source.names.keys() {
        let Some(there) = names.there(namespace) else { continue };
        let (Some(wanted), Some(found)) = (source.named(namespace), destination.named(&there))
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
