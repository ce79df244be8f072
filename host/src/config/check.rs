//! From what was given to what is valid; every problem is noted before anything is refused.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{
    Config, DEFAULT_METADATA_DATABASE, DEFAULT_PORT, Verbosity, api,
    names::{Given, Layer},
    plugins::Sections,
    problems::{Case, Fields, Problems, unknown},
};
use crate::model::{Namespace, options::HotDocument, plugin::PluginSettings};

/// Longest database name a server takes, in bytes.
const MAX_DATABASE_BYTES: usize = 63;
/// Longest id, in characters; it goes into every log line.
const MAX_ID_CHARS: usize = 128;

/// Checks everything. The result is only to be used when no problem was added.
pub(super) fn check(
    values: &Layer,
    sections: Sections,
    env: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> Config {
    check_ignored(values, problems);
    let text = |name: &str| values.get(name).map(|given| given.text.expose_secret().to_owned());
    Config {
        cluster0: uri("cluster0", values, env, problems),
        cluster1: uri("cluster1", values, env, problems),
        port: port(values, problems),
        log_path: directory("logPath", "log to stdout", values, problems),
        metrics_path: metrics_path(values, problems),
        verbosity: verbosity(values, problems),
        load_level: number("loadLevel", 1..=4, values, problems),
        metadata_database: metadata_database(values, problems),
        instance_id: match text("id") {
            Some(id) => instance_id(id, values, problems),
            None => uuid::Uuid::new_v4().to_string(),
        },
        hot_documents: hot_documents(values, problems),
        create_indexes_batch_size: number("createIndexesBatchSize", 1..=64, values, problems),
        is_verification_disabled: switch("disableVerification", values, problems)
            .unwrap_or_default(),
        plugins: sections.plugins,
        plugin_settings: PluginSettings {
            trusted_keys: sections.trusted_keys,
            cache: sections.cache.folder(env),
        },
        filters: sections.filters,
        identity: sections.identity,
        api: api::check(values, sections.federation, problems),
    }
}

/// The API's port.
pub(super) fn port(values: &Layer, problems: &mut Problems) -> u16 {
    number("port", 0..=u16::MAX, values, problems).unwrap_or(DEFAULT_PORT)
}

/// `hotDocIDs`: one `{db, collection, ids: [{_id: …}]}` or a list of them, in extended JSON.
fn hot_documents(values: &Layer, problems: &mut Problems) -> Vec<HotDocument> {
    let Some(given) = values.get("hotDocIDs") else { return Vec::new() };
    let Ok(value) = serde_json::from_str::<Value>(given.text.expose_secret()) else {
        problems.add(&given.origin, "is no JSON");
        return Vec::new();
    };
    let mut hot = Vec::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items.into_iter().rev()),
            value => hot.extend(hot_entry(&value, &given.origin, problems)),
        }
    }
    hot
}

/// The documents of one entry of `hotDocIDs`.
fn hot_entry(value: &Value, place: &str, problems: &mut Problems) -> Vec<HotDocument> {
    let known = ["db", "collection", "ids"];
    let Some(fields) = Fields::open(value, place, &known, Case::Exact, problems) else {
        return Vec::new();
    };
    let database = fields.text("db", problems).unwrap_or_default();
    let collection = fields.text("collection", problems).unwrap_or_default();
    let Ok(namespace) = Namespace::new(database, collection) else {
        problems.add(place, "needs `db` and `collection`");
        return Vec::new();
    };
    let ids = fields.list("ids", problems);
    if ids.is_empty() {
        problems.add(place, "needs `ids`, a list of {\"_id\": …}");
    }
    let mut hot = Vec::with_capacity(ids.len());
    for (index, id) in ids.iter().enumerate() {
        let document = match bson::Bson::try_from(id.clone()) {
            Ok(bson::Bson::Document(document)) => document,
            _ => bson::Document::new(),
        };
        match bson::RawDocumentBuf::try_from(&document) {
            Ok(id) if document.len() == 1 && document.contains_key("_id") => {
                hot.push(HotDocument { namespace: namespace.clone(), id });
            }
            _ => problems.add(
                &format!("{}[{index}]", fields.at("ids")),
                "expected {\"_id\": …} in extended JSON and nothing else",
            ),
        }
    }
    hot
}

/// Options without effect here must still be well formed.
fn check_ignored(values: &Layer, problems: &mut Problems) {
    for name in ["acceptDisclaimer", "disableTelemetry", "enableCappedCollectionHandling"] {
        switch(name, values, problems);
    }
}

/// A connection string: as it is, from a file or from an environment variable. It is never shown.
fn uri(
    name: &'static str,
    values: &Layer,
    env: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> SecretString {
    let Some(given) = values.get(name) else {
        problems.add(name, format!("is missing; give --{name} or set it in the config file"));
        return SecretString::default();
    };
    match resolve(given.text.expose_secret(), env) {
        Ok(text) if text.starts_with("mongodb://") || text.starts_with("mongodb+srv://") => {
            SecretString::from(text)
        }
        Ok(_) => {
            problems.add(
                &given.origin,
                "expected mongodb://… or mongodb+srv://…, or file:PATH or env:NAME that holds one",
            );
            SecretString::default()
        }
        Err(fault) => {
            problems.add(&given.origin, fault);
            SecretString::default()
        }
    }
}

/// Follows `file:` and `env:`, once.
fn resolve(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    if let Some(path) = text.strip_prefix("file:") {
        return std::fs::read_to_string(path)
            .map(|held| held.trim().to_owned())
            .map_err(|error| format!("the file {path} cannot be read: {error}"));
    }
    if let Some(name) = text.strip_prefix("env:") {
        return env
            .get(name)
            .map(|held| held.trim().to_owned())
            .ok_or_else(|| format!("the environment variable {name} is not set"));
    }
    Ok(text.trim().to_owned())
}

/// A directory, which is made when something is to be written into it.
fn directory(
    name: &'static str,
    otherwise: &str,
    values: &Layer,
    problems: &mut Problems,
) -> Option<PathBuf> {
    let given = values.get(name)?;
    let path = Path::new(given.text.expose_secret());
    if path.as_os_str().is_empty() {
        problems.add(&given.origin, format!("is empty; leave it out to {otherwise}"));
    } else if path.exists() && !path.is_dir() {
        problems.add(&given.origin, format!("{} is a file, expected a directory", path.display()));
    }
    Some(path.to_owned())
}

/// The directory of the metrics file, unless there shall be none.
fn metrics_path(values: &Layer, problems: &mut Problems) -> Option<PathBuf> {
    let path = directory("metricsLoggingFilepath", "write no metrics", values, problems);
    let is_disabled = switch("disableMetricsLogging", values, problems) == Some(true);
    path.filter(|_| !is_disabled)
}

/// How much is logged.
fn verbosity(values: &Layer, problems: &mut Problems) -> Verbosity {
    let Some(given) = values.get("verbosity") else { return Verbosity::default() };
    let word = given.text.expose_secret();
    Verbosity::parse(word).unwrap_or_else(|| {
        problems.add(&given.origin, unknown("value", word, Verbosity::WORDS));
        Verbosity::default()
    })
}

/// The metadata database: a name a server takes, and none that belongs to somebody else.
fn metadata_database(values: &Layer, problems: &mut Problems) -> String {
    let Some(given) = values.get("metadataDatabase") else {
        return DEFAULT_METADATA_DATABASE.to_owned();
    };
    let name = given.text.expose_secret();
    let foreign = ["admin", "local", "config"].contains(&name)
        || name.starts_with("__mdb_internal")
        || name.starts_with("mongosync_");
    if name.is_empty() || name.len() > MAX_DATABASE_BYTES {
        problems.add(&given.origin, format!("expected a name of 1 to {MAX_DATABASE_BYTES} bytes"));
    } else if name.contains(['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0']) {
        problems.add(&given.origin, "holds a character that a database name may not have");
    } else if foreign {
        problems.add(&given.origin, format!("`{name}` belongs to the server or to another tool"));
    }
    name.to_owned()
}

/// The given id of this process.
fn instance_id(id: String, values: &Layer, problems: &mut Problems) -> String {
    if id.is_empty() || id.chars().count() > MAX_ID_CHARS || id.chars().any(char::is_control) {
        problems.add(
            &origin("id", values),
            format!("expected 1 to {MAX_ID_CHARS} printable characters"),
        );
    }
    id
}

/// A whole number within bounds.
fn number<N>(
    name: &str,
    bounds: RangeInclusive<N>,
    values: &Layer,
    problems: &mut Problems,
) -> Option<N>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let given = values.get(name)?;
    let number = given.text.expose_secret().trim().parse().ok().filter(|n| bounds.contains(n));
    if number.is_none() {
        problems.add(
            &given.origin,
            format!("expected a whole number from {} to {}", bounds.start(), bounds.end()),
        );
    }
    number
}

/// `true` or `false`.
fn switch(name: &str, values: &Layer, problems: &mut Problems) -> Option<bool> {
    let given = values.get(name)?;
    match given.text.expose_secret().trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => {
            problems.add(&given.origin, "expected true or false");
            None
        }
    }
}

/// Where an option was given.
fn origin(name: &str, values: &Layer) -> String {
    values.get(name).map_or_else(|| name.to_owned(), |Given { origin, .. }| origin.clone())
}
