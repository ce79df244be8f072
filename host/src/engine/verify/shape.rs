//! Options, indexes and views: compared by name, without regard to the order in which a server
//! lists them.

use bson::{Bson, Document, RawDocument, RawDocumentBuf};

use crate::engine::indexes::modern_key;

/// Fields of an index that say nothing of it.
const NOISE: [&str; 2] = ["ns", "background"];

/// What stands in the listing of an index, in an order of ours.
fn fields(spec: &RawDocument) -> Vec<(String, Bson)> {
    let mut fields: Vec<(String, Bson)> = Document::try_from(spec)
        .unwrap_or_default()
        .into_iter()
        .filter(|(name, value)| !NOISE.contains(&name.as_str()) && !is_default(name, value))
        .collect();
    // The destination has the key of an index of an old server in values that are taken today.
    if let (Ok(key), Some((_, value))) =
        (spec.get_document("key"), fields.iter_mut().find(|(name, _)| name == "key"))
        && let Ok(modern) = Document::try_from(modern_key(key).as_ref())
    {
        *value = Bson::Document(modern);
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// Whether a field says what would be so without it.
fn is_default(name: &str, value: &Bson) -> bool {
    match (name, value) {
        ("collation", Bson::Document(collation)) => {
            collation.get_str("locale").is_ok_and(|locale| locale == "simple")
        }
        ("hidden" | "unique" | "sparse" | "prepareUnique", Bson::Boolean(false)) => true,
        _ => false,
    }
}

/// Whether an option of a collection says what would be so without it: a `collMod` of one of a kind
/// makes the server list all of them.
fn is_default_option(name: &str, value: &Bson) -> bool {
    match (name, value) {
        ("validationLevel", Bson::String(level)) => level == "strict",
        ("validationAction", Bson::String(action)) => action == "error",
        ("validator", Bson::Document(rules)) => rules.is_empty(),
        ("changeStreamPreAndPostImages", Bson::Document(images)) => {
            images.get_bool("enabled").is_ok_and(|enabled| !enabled)
        }
        ("capped", Bson::Boolean(false)) => true,
        // A number of documents that was taken back.
        ("max", value) => number(value) == Some(f64::from(i32::MAX)),
        _ => false,
    }
}

/// A number as the server compares it.
fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(n) => Some(f64::from(*n)),
        #[allow(clippy::cast_precision_loss, reason = "options are small numbers")]
        Bson::Int64(n) => Some(*n as f64),
        Bson::Double(n) => Some(*n),
        _ => None,
    }
}

/// Whether two values mean the same: a server keeps `60` and `60.0` as it was given them. The order
/// of fields counts, as it does in the key of an index.
fn same(left: &Bson, right: &Bson) -> bool {
    match (left, right) {
        (Bson::Document(left), Bson::Document(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }
        (Bson::Array(left), Bson::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
        }
        _ => {
            let is_equal = |(a, b): (f64, f64)| a == b || (a.is_nan() && b.is_nan());
            left == right || number(left).zip(number(right)).is_some_and(is_equal)
        }
    }
}

/// Names of the fields in which two lists differ.
fn differing(left: &[(String, Bson)], right: &[(String, Bson)]) -> Vec<String> {
    let find = |list: &[(String, Bson)], name: &str| {
        list.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
    };
    let mut names: Vec<&String> = left.iter().chain(right).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| match (find(left, name), find(right, name)) {
            (Some(a), Some(b)) => !same(&a, &b),
            _ => true,
        })
        .cloned()
        .collect()
}

/// Names of the options in which two collections or views differ.
pub(super) fn options(wanted: &RawDocument, present: &RawDocument) -> Vec<String> {
    let list = |options: &RawDocument| -> Vec<(String, Bson)> {
        let fields = Document::try_from(options).unwrap_or_default().into_iter();
        fields.filter(|(name, value)| !is_default_option(name, value)).collect()
    };
    differing(&list(wanted), &list(present))
}

/// Name of an index.
fn name_of(spec: &RawDocument) -> &str {
    spec.get_str("name").unwrap_or_default()
}

/// What is wrong with the indexes of a collection, in words, one entry an index. `ignored` are
/// fields that are not compared.
pub(super) fn indexes(
    wanted: &[RawDocumentBuf],
    present: &[RawDocumentBuf],
    ignored: &[&str],
) -> Vec<String> {
    let list = |spec: &RawDocument| {
        let mut list = fields(spec);
        list.retain(|(name, _)| !ignored.contains(&name.as_str()));
        list
    };
    let is_own = |spec: &&RawDocumentBuf| name_of(spec) != "_id_";
    let find = |all: &[RawDocumentBuf], name: &str| {
        all.iter().find(|spec| name_of(spec) == name).map(|spec| list(spec))
    };
    let mut wrong = Vec::new();
    for spec in wanted.iter().filter(is_own) {
        let name = name_of(spec);
        match find(present, name) {
            None => wrong.push(format!("{name} is missing")),
            Some(other) => {
                let names = differing(&list(spec), &other);
                if !names.is_empty() {
                    wrong.push(format!("{name} differs in {}", names.join(", ")));
                }
            }
        }
    }
    for spec in present.iter().filter(is_own) {
        let is_clustered = spec.get_bool("clustered").unwrap_or(false);
        if !is_clustered && find(wanted, name_of(spec)).is_none() {
            wrong.push(format!("{} is there in addition", name_of(spec)));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn options_are_compared_by_name() {
        let wanted = rawdoc! { "capped": true, "size": 4096, "validator": { "a": 1, "b": 1 } };
        let same = rawdoc! { "size": 4096.0, "validator": { "a": 1, "b": 1 }, "capped": true };
        let other = rawdoc! { "size": 8192, "validator": { "b": 1, "a": 1 }, "capped": true };
        assert!(options(&wanted, &same).is_empty());
        assert_eq!(options(&wanted, &other), ["size", "validator"]);
        assert_eq!(options(&wanted, &rawdoc! { "size": 4096 }), ["capped", "validator"]);
        let default = rawdoc! { "validationLevel": "strict", "validationAction": "error" };
        assert!(options(&default, &rawdoc! {}).is_empty());
        assert_eq!(
            options(&default, &rawdoc! { "validationAction": "warn" }),
            ["validationAction"]
        );
        let unlimited = rawdoc! { "capped": true, "size": 4096, "max": 2_147_483_647 };
        assert!(options(&rawdoc! { "capped": true, "size": 4096 }, &unlimited).is_empty());
    }

    #[test]
    fn every_difference_of_indexes_is_named() {
        let wanted = [
            rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
            rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a_1", "unique": true },
            rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b_1", "expireAfterSeconds": 60 },
            rawdoc! { "v": 2, "key": { "c": 1 }, "name": "c_1" },
        ];
        let present = [
            rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
            rawdoc! { "key": { "a": 1 }, "v": 2, "name": "a_1" },
            rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b_1", "expireAfterSeconds": 60i64 },
            rawdoc! { "v": 2, "key": { "d": 1 }, "name": "d_1" },
        ];
        let order = |key| [rawdoc! { "v": 2, "key": key, "name": "order" }];
        assert_eq!(
            indexes(&order(rawdoc! { "a": 1, "b": 1 }), &order(rawdoc! { "b": 1, "a": 1.0 }), &[]),
            ["order differs in key"]
        );
        assert_eq!(
            indexes(&wanted, &present, &[]),
            ["a_1 differs in unique", "c_1 is missing", "d_1 is there in addition"]
        );
        let old = rawdoc! { "a": true, "b": "" };
        assert!(indexes(&order(old), &order(rawdoc! { "a": 1, "b": 1 }), &[]).is_empty());
        assert_eq!(indexes(&wanted, &wanted, &[]), Vec::<String>::new());
        assert_eq!(indexes(&wanted, &present, &["unique"]).len(), 2);
    }
}
