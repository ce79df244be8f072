//! Namespace filters as the API and the config file write them, read into `model::options`.

use serde_json::Value;

use super::problems::{Case, Fields, Problems, type_name};
use crate::model::options::{CollectionMatch, DatabaseMatch, NamePattern, NamespaceMatch};

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
