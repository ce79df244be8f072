//! Namespace filters as the API and the config file write them, read into `model::options`.

use serde_json::Value;

use super::problems::{Case, Fields, Problems, type_name};
use crate::model::options::{
    CollectionMatch, DatabaseMatch, NamePattern, NamespaceMatch, NamespaceRemap, RemapName,
};

/// Keys of one entry.
const KEYS: &[&str] = &["database", "databaseRegex", "collections", "collectionsRegex"];
/// Databases that belong to the server and are never synced.
const SYSTEM_DATABASES: [&str; 3] = ["admin", "local", "config"];

/// Reads a list of entries; what cannot be read is noted and left out.
pub(crate) fn parse(
    items: &[Value],
    place: &str,
    case: Case,
    problems: &mut Problems,
) -> Vec<NamespaceMatch> {
    items
        .iter()
        .enumerate()
        .filter_map(|(index, item)| parse_entry(item, &format!("{place}[{index}]"), case, problems))
        .collect()
}

/// Reads one entry.
pub(crate) fn parse_entry(
    item: &Value,
    place: &str,
    case: Case,
    problems: &mut Problems,
) -> Option<NamespaceMatch> {
    let fields = Fields::open(item, place, KEYS, case, problems)?;
    let database = database(&fields, case, problems);
    let collections = collections(&fields, case, problems);
    Some(NamespaceMatch { database: database?, collections: collections? })
}

/// The database part.
fn database(fields: &Fields<'_>, case: Case, problems: &mut Problems) -> Option<DatabaseMatch> {
    match (fields.get("database"), fields.get("databaseRegex")) {
        (Some(_), Some(_)) => {
            problems.add(fields.place(), "has both `database` and `databaseRegex`; give one");
            None
        }
        (None, None) => {
            problems.add(fields.place(), "needs a `database` or a `databaseRegex`");
            None
        }
        (Some(_), None) => {
            let name = fields.text("database", problems)?;
            match database_fault(name) {
                None => Some(DatabaseMatch::Name(name.to_owned())),
                Some(fault) => {
                    problems.add(&fields.at("database"), fault);
                    None
                }
            }
        }
        (None, Some(value)) => {
            pattern(value, &fields.at("databaseRegex"), case, problems).map(DatabaseMatch::Pattern)
        }
    }
}

/// The collection part; absent means all.
fn collections(
    fields: &Fields<'_>,
    case: Case,
    problems: &mut Problems,
) -> Option<CollectionMatch> {
    match (fields.get("collections"), fields.get("collectionsRegex")) {
        (Some(_), Some(_)) => {
            problems.add(fields.place(), "has both `collections` and `collectionsRegex`; give one");
            None
        }
        (None, None) => Some(CollectionMatch::All),
        (Some(value), None) => {
            let names = fields.texts("collections", problems);
            if value.as_array().is_some_and(Vec::is_empty) {
                problems
                    .add(&fields.at("collections"), "is empty; leave it out for all collections");
                return None;
            }
            for (index, name) in names.iter().enumerate() {
                if name.starts_with("system.") {
                    problems.add(
                        &format!("{}[{index}]", fields.at("collections")),
                        "system collections are not synced",
                    );
                }
            }
            (!names.is_empty()).then_some(CollectionMatch::Names(names))
        }
        (None, Some(value)) => pattern(value, &fields.at("collectionsRegex"), case, problems)
            .map(CollectionMatch::Pattern),
    }
}

/// A `{pattern, options}` document.
fn pattern(value: &Value, place: &str, case: Case, problems: &mut Problems) -> Option<NamePattern> {
    if !value.is_object() {
        problems.add(
            place,
            format!("expected {{\"pattern\": …, \"options\": …}}, found {}", type_name(value)),
        );
        return None;
    }
    let fields = Fields::open(value, place, &["pattern", "options"], case, problems)?;
    let pattern = fields.text("pattern", problems);
    let options = fields.text("options", problems).unwrap_or_default();
    if fields.get("pattern").is_none() || pattern.is_some_and(str::is_empty) {
        problems.add(&fields.at("pattern"), "is missing or empty");
        return None;
    }
    let doubled = options.char_indices().any(|(at, letter)| options.rfind(letter) != Some(at));
    if doubled || !options.chars().all(|letter| "imsx".contains(letter)) {
        problems.add(&fields.at("options"), "may hold each of the letters i, m, s and x once");
        return None;
    }
    Some(NamePattern { pattern: pattern?.to_owned(), options: options.to_owned() })
}

/// Reads `namespaceRemap`; what cannot be read is noted and left out, and so is what two entries
/// say against each other.
pub(crate) fn parse_remap(
    items: &[Value],
    place: &str,
    case: Case,
    problems: &mut Problems,
) -> Vec<NamespaceRemap> {
    let mut entries: Vec<NamespaceRemap> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("{place}[{index}]");
        let Some(fields) = Fields::open(item, &place, &["from", "to"], case, problems) else {
            continue;
        };
        let from = remap_name(&fields, "from", case, problems);
        let to = remap_name(&fields, "to", case, problems);
        let (Some(from), Some(to)) = (from, to) else { continue };
        if from.collection.is_some() != to.collection.is_some() {
            problems.add(&place, "names a collection on one side only");
            continue;
        }
        if let Some(fault) = to_fault(&to) {
            problems.add(&fields.at("to"), fault);
        }
        if from == to {
            problems.add(&place, "leads to the name that is there already");
        }
        for other in &entries {
            if other.from == from {
                problems.add(&fields.at("from"), "is in an earlier entry, too");
            }
            if other.to == to {
                problems.add(&fields.at("to"), "is where an earlier entry leads, too");
            } else if other.to.database != to.database
                && other.to.database.to_lowercase() == to.database.to_lowercase()
            {
                let fault = format!("differs from `{}` only in letter case", other.to.database);
                problems.add(&fields.at("to"), fault);
            }
        }
        entries.push(NamespaceRemap { from, to });
    }
    entries
}

/// `{database, collection?}`.
fn remap_name(
    entry: &Fields<'_>,
    name: &str,
    case: Case,
    problems: &mut Problems,
) -> Option<RemapName> {
    let Some(value) = entry.get(name) else {
        problems.add(entry.place(), format!("needs `{name}`"));
        return None;
    };
    let fields = Fields::open(value, &entry.at(name), &["database", "collection"], case, problems)?;
    if fields.get("database").is_none() {
        problems.add(fields.place(), "needs a `database`");
    }
    let database = fields.text("database", problems)?;
    let collection = fields.text("collection", problems);
    let fault = database_fault(database)
        .or_else(|| collection.and_then(collection_fault))
        .or_else(|| (fields.get("collection").is_some() && collection.is_none()).then_some(""));
    match fault {
        Some(fault) => {
            if !fault.is_empty() {
                problems.add(fields.place(), fault);
            }
            None
        }
        None => Some(RemapName {
            database: database.to_owned(),
            collection: collection.map(str::to_owned),
        }),
    }
}

/// What is wrong with a collection name, if anything.
fn collection_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.contains(['$', '\0']) || name.starts_with('.') {
        Some("a collection name is not empty, does not begin with a dot and holds no $")
    } else if name.starts_with("system.") {
        Some("system collections are not synced")
    } else {
        None
    }
}

/// What is wrong with a name that we give, besides: it must do on every platform of the server.
fn to_fault(to: &RemapName) -> Option<&'static str> {
    if to.database.contains(['*', '<', '>', ':', '|', '?']) {
        Some("a new database name holds none of * < > : | ? either")
    } else if to.database.starts_with("__mdb_internal") {
        Some("databases whose name begins with __mdb_internal belong to other tools")
    } else {
        None
    }
}

/// What is wrong with a database name, if anything.
fn database_fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 63 {
        Some("a database name has 1 to 63 bytes")
    } else if name.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
        Some("a database name holds none of / \\ . \" $ and no space")
    } else if SYSTEM_DATABASES.contains(&name) {
        Some("admin, local and config are not synced")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::problems::Layout, *};
    use crate::error::Kind;

    fn read(value: &Value) -> (Vec<NamespaceMatch>, String) {
        let mut problems = Problems::new();
        let entries =
            parse(value.as_array().unwrap(), "includeNamespaces", Case::Ignore, &mut problems);
        let text = problems
            .finish(Kind::FilterInvalid, "filter", Layout::Inline)
            .map_or_else(|e| e.full(), |()| String::new());
        (entries, text)
    }

    #[test]
    fn names_and_patterns_are_read() {
        let (entries, text) = read(&json!([
            {"database": "sales", "collections": ["EMEA", "APAC"]},
            {"Database": "marketing"},
            {"databaseRegex": {"pattern": "^app_.+$", "options": "i"},
             "collectionsRegex": {"pattern": "^accounts_.+?$", "options": "ms"}}]));
        assert_eq!(text, "");
        assert_eq!(
            entries,
            vec![
                NamespaceMatch {
                    database: DatabaseMatch::Name("sales".into()),
                    collections: CollectionMatch::Names(vec!["EMEA".into(), "APAC".into()]),
                },
                NamespaceMatch {
                    database: DatabaseMatch::Name("marketing".into()),
                    collections: CollectionMatch::All,
                },
                NamespaceMatch {
                    database: DatabaseMatch::Pattern(NamePattern {
                        pattern: "^app_.+$".into(),
                        options: "i".into(),
                    }),
                    collections: CollectionMatch::Pattern(NamePattern {
                        pattern: "^accounts_.+?$".into(),
                        options: "ms".into(),
                    }),
                },
            ]
        );
    }

    #[test]
    fn a_remap_is_read_and_every_fault_of_it_named() {
        let read = |value: &Value| {
            let mut problems = Problems::new();
            let entries = parse_remap(
                value.as_array().unwrap(),
                "namespaceRemap",
                Case::Ignore,
                &mut problems,
            );
            let text = problems
                .finish(Kind::StartOptionsInvalid, "remap", Layout::Inline)
                .map_or_else(|e| e.full(), |()| String::new());
            (entries, text)
        };
        let name = |database: &str, collection: Option<&str>| RemapName {
            database: database.into(),
            collection: collection.map(str::to_owned),
        };
        let (entries, text) = read(&json!([
            {"from": {"database": "a"}, "to": {"database": "b"}},
            {"From": {"Database": "a", "collection": "x.y"}, "to": {"database": "c", "collection": "z"}}]));
        assert_eq!(text, "");
        assert_eq!(entries.first().map(|e| &e.to), Some(&name("b", None)));
        assert_eq!(entries.last().map(|e| &e.from), Some(&name("a", Some("x.y"))));
        let (_, text) = read(&json!([
            {"from": {"database": "a"}, "to": {"database": "b"}},
            {"from": {"database": "a"}, "to": {"database": "B"}},
            {"from": {"database": "c"}, "to": {"database": "b"}},
            {"from": {"database": "d"}, "to": {"database": "d"}},
            {"from": {"database": "e", "collection": "x"}, "to": {"database": "f"}},
            {"from": {"database": "admin"}, "to": {"database": "g"}},
            {"from": {"database": "h"}, "to": {"database": "local"}},
            {"from": {"database": "i"}, "to": {"database": "q?"}},
            {"from": {"database": "j", "collection": "system.js"}, "to": {"database": "j", "collection": "k"}},
            {"from": {"database": "k"}}, {"from": {}, "to": {"database": "l", "coll": "x"}}]));
        for expected in [
            "namespaceRemap[1].from: is in an earlier entry",
            "namespaceRemap[1].to: differs from `b` only",
            "namespaceRemap[2].to: is where an earlier entry leads",
            "namespaceRemap[3]: leads to the name",
            "namespaceRemap[4]: names a collection on one side",
            "namespaceRemap[5].from: admin, local and config",
            "namespaceRemap[6].to: admin, local and config",
            "namespaceRemap[7].to: a new database name",
            "namespaceRemap[8].from: system collections",
            "namespaceRemap[9]: needs `to`",
            "namespaceRemap[10].from: needs a `database`",
            "namespaceRemap[10].to: unknown key `coll`",
        ] {
            assert!(text.contains(expected), "{expected} not in {text}");
        }
    }

    #[test]
    fn each_fault_is_named_with_its_place() {
        let (entries, text) = read(&json!([
            {},
            {"database": "a", "databaseRegex": {"pattern": "b"}},
            {"database": "admin"},
            {"database": "x.y"},
            {"database": "d", "collections": []},
            {"database": "d", "collections": ["system.views", 7]},
            {"databaseRegex": "^a"},
            {"databaseRegex": {"pattern": ""}},
            {"databaseRegex": {"pattern": "a", "options": "ii"}},
            {"database": "d", "collection": ["c"]},
            "app.users"]));
        assert!(entries.iter().all(|e| e.database == DatabaseMatch::Name("d".into())));
        for expected in [
            "includeNamespaces[0]: needs a `database` or a `databaseRegex`",
            "includeNamespaces[1]: has both",
            "includeNamespaces[2].database: admin, local and config",
            "includeNamespaces[3].database: a database name holds",
            "includeNamespaces[4].collections: is empty",
            "includeNamespaces[5].collections[0]: system collections",
            "includeNamespaces[5].collections[1]: expected a string, found a number",
            "includeNamespaces[6].databaseRegex: expected {\"pattern\"",
            "includeNamespaces[7].databaseRegex.pattern: is missing or empty",
            "includeNamespaces[8].databaseRegex.options: may hold",
            "includeNamespaces[9]: unknown key `collection`, did you mean `collections`?",
            "includeNamespaces[10]: expected an object, found a string",
        ] {
            assert!(text.contains(expected), "{expected} not in {text}");
        }
    }
}
