//! Indexes that would become one while they are relaxed: the server tells two with the same key
//! apart by uniqueness, which they lose during the sync.
//!
//! Invariant: no I/O.

use std::collections::BTreeMap;

use bson::{Bson, Document, RawDocument, RawDocumentBuf};

use super::indexes;
use crate::{
    error::{Error, Kind, Result},
    model::Namespace,
};

/// By what the server tells relaxed indexes apart, beside their names.
const IDENTITY: [&str; 5] =
    ["key", "collation", "sparse", "partialFilterExpression", "wildcardProjection"];

/// Pairs of names of the indexes that would become one.
pub(crate) fn pairs<'a>(
    specs: impl IntoIterator<Item = &'a RawDocumentBuf>,
) -> Vec<(String, String)> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut pairs = Vec::new();
    for spec in specs {
        let name = spec.get_str("name").unwrap_or_default().to_owned();
        match seen.entry(identity(spec)) {
            std::collections::btree_map::Entry::Occupied(other) => {
                pairs.push((other.get().clone(), name));
            }
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(name);
            }
        }
    }
    pairs
}

/// Refuses indexes of a collection that would become one.
///
/// # Errors
/// `IndexesCollide` with their names.
pub(crate) fn refuse<'a>(
    namespace: &Namespace,
    specs: impl IntoIterator<Item = &'a RawDocumentBuf>,
) -> Result<()> {
    match pairs(specs).first() {
        None => Ok(()),
        Some((one, other)) => Err(Error::new(
            Kind::IndexesCollide,
            format!("{namespace}: the indexes {one} and {other} differ only in being unique"),
        )),
    }
}

/// What the server tells a relaxed index by. Numbers of different types are the same to it.
fn identity(spec: &RawDocument) -> String {
    let relaxed = Document::try_from(indexes::relaxed(spec, true).as_ref()).unwrap_or_default();
    let mut identity = Document::new();
    for field in IDENTITY {
        match relaxed.get(field) {
            None | Some(Bson::Boolean(false)) => {}
            Some(value) => {
                identity.insert(field, normal(value));
            }
        }
    }
    identity.to_string()
}

/// A value with its numbers in one type.
fn normal(value: &Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Double(f64::from(*number)),
        #[allow(clippy::cast_precision_loss, reason = "keys and options are small numbers")]
        Bson::Int64(number) => Bson::Double(*number as f64),
        Bson::Document(document) => {
            let fields = document.iter().map(|(name, value)| (name.clone(), normal(value)));
            Bson::Document(fields.collect())
        }
        Bson::Array(values) => values.iter().map(normal).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn only_what_becomes_one_collides() {
        let plain = rawdoc! { "v": 2, "key": { "a": 1 }, "name": "plain" };
        let is_one = |other: RawDocumentBuf| !pairs([&plain, &other]).is_empty();
        for other in [
            rawdoc! { "v": 2, "key": { "a": 1 }, "name": "x", "unique": true },
            rawdoc! { "v": 2, "key": { "a": 1.0 }, "name": "x", "unique": true, "hidden": true },
            rawdoc! { "v": 1, "key": { "a": true }, "name": "x", "sparse": false },
            rawdoc! { "key": { "a": 1 }, "name": "x", "collation": { "locale": "simple" } },
            rawdoc! { "key": { "a": 1 }, "name": "x", "expireAfterSeconds": 9, "unique": true },
        ] {
            assert!(is_one(other.clone()), "{other:?}");
        }
        for other in [
            rawdoc! { "key": { "a": -1 }, "name": "x", "unique": true },
            rawdoc! { "key": { "a": 1, "b": 1 }, "name": "x", "unique": true },
            rawdoc! { "key": { "a": "hashed" }, "name": "x" },
            rawdoc! { "key": { "a": 1 }, "name": "x", "unique": true, "sparse": true },
            rawdoc! { "key": { "a": 1 }, "name": "x", "partialFilterExpression": { "b": 1 } },
            rawdoc! { "key": { "a": 1 }, "name": "x", "collation": { "locale": "de" } },
        ] {
            assert!(!is_one(other.clone()), "{other:?}");
        }
        let order = [
            rawdoc! { "key": { "a": 1, "b": 1 }, "name": "ab", "unique": true },
            rawdoc! { "key": { "b": 1, "a": 1 }, "name": "ba" },
        ];
        assert!(pairs(&order).is_empty());
    }

    #[test]
    fn the_refusal_names_both() {
        let specs = [
            rawdoc! { "key": { "a": 1 }, "name": "first" },
            rawdoc! { "key": { "a": 1 }, "name": "second", "unique": true },
        ];
        let error = refuse(&Namespace::new("app", "items").unwrap(), &specs).unwrap_err();
        assert_eq!(error.kind(), Kind::IndexesCollide);
        let text = error.full();
        assert!(["app.items", "first", "second"].iter().all(|word| text.contains(word)), "{text}");
    }
}
