//! An author's golden files, run through the component: configuration and documents in, verdicts or a
//! refusal out. The files are those that the SDK runs natively; `sdk/src/testing/golden.rs` has their
//! form.

use std::path::{Path, PathBuf};

use bson::{Bson, RawDocument, RawDocumentBuf};
use serde_json::Value as Json;

use super::{
    conformance::{Said, judged},
    subject::Candidate,
};
use crate::{error::Kind, model::Namespace, plugin::filter::Filter};

/// Every `.json` file of some files and folders, in order.
///
/// # Errors
/// What cannot be read.
pub(super) fn files(places: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for place in places {
        if place.is_file() {
            files.push(place.clone());
            continue;
        }
        let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", place.display());
        for entry in std::fs::read_dir(place).map_err(cannot)? {
            let path = entry.map_err(cannot)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Runs one file.
///
/// # Errors
/// What comes out instead of what the file says.
pub(super) async fn check(candidate: &Candidate, file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let case: Json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let config = case.get("config").cloned().unwrap_or_else(|| Json::Object(Default::default()));
    let expected = case.get("error").and_then(Json::as_str);
    // The schema speaks before the plugin does, in words of its own, but about the same key.
    if let Some(Err(error)) = candidate.manifest.as_ref().map(|found| found.check_config(&config)) {
        return match expected {
            Some(expected) if names_key(error.detail(), expected) => Ok(()),
            Some(expected) => Err(format!("error {error}, expected {expected}")),
            None => Err(format!("the configuration is refused: {error}")),
        };
    }
    let filter = match (Filter::new(candidate.loaded.with_config(&config)).await, expected) {
        (Ok(filter), None) => filter,
        (Ok(_), Some(expected)) => return Err(format!("no error, expected {expected}")),
        (Err(error), Some(expected)) => {
            // The plugin's name stands before its words.
            let said = error.detail().split_once("`: ").map_or("", |(_, said)| said);
            let is_it = error.kind() == Kind::PluginConfigInvalid && said.starts_with(expected);
            return if is_it { Ok(()) } else { Err(format!("error {error}, expected {expected}")) };
        }
        (Err(error), None) => return Err(format!("the configuration is refused: {error}")),
    };
    let namespace = case.get("namespace").and_then(Json::as_str).unwrap_or("app.documents");
    let namespace = Namespace::parse(namespace).map_err(|error| error.to_string())?;
    let list = |name| case.get(name).and_then(Json::as_array).ok_or(format!("no list `{name}`"));
    let (documents, expected) = (list("documents")?, list("expect")?);
    if documents.len() != expected.len() {
        return Err(format!("{} documents, {} verdicts", documents.len(), expected.len()));
    }
    let documents = documents.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let said = judged(&filter, &namespace, &documents).await.map_err(|error| error.to_string())?;
    for (position, (said, expected)) in said.iter().zip(expected).enumerate() {
        compare(said, expected).map_err(|problem| format!("document {position}: {problem}"))?;
    }
    Ok(())
}

/// Whether an error is about the key with which an expected one begins, if it begins with one.
fn names_key(said: &str, expected: &str) -> bool {
    let key = expected.strip_prefix('`').and_then(|rest| rest.split(['`', '.', '[']).next());
    key.is_none_or(|key| said.contains(key))
}

/// The documents of golden files, whatever is expected of them.
pub(super) fn documents(files: &[PathBuf]) -> Vec<RawDocumentBuf> {
    let mut documents = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let case: Json = serde_json::from_str(&text).unwrap_or_default();
        let listed = case.get("documents").and_then(Json::as_array);
        documents.extend(listed.into_iter().flatten().filter_map(|json| encode(json).ok()));
    }
    documents
}

/// BSON of a document in extended JSON.
///
/// # Errors
/// Why it is none.
pub(super) fn encode(json: &Json) -> Result<RawDocumentBuf, String> {
    match Bson::try_from(json.clone()) {
        Ok(Bson::Document(document)) => {
            RawDocumentBuf::try_from(&document).map_err(|error| error.to_string())
        }
        Ok(_) => Err(format!("{json} is no document")),
        Err(error) => Err(error.to_string()),
    }
}

/// Compares what was said with what is expected.
fn compare(said: &Said, expected: &Json) -> Result<(), String> {
    let wanted = |key| expected.get(key);
    match said {
        Said::Kept if expected == "keep" => Ok(()),
        Said::Dropped if expected == "drop" => Ok(()),
        Said::Replaced(document) => match wanted("replace") {
            Some(json) if same(json, document) => Ok(()),
            _ => Err(format!("it is replaced by {}, expected {expected}", relaxed(document))),
        },
        Said::Refused(_, reason) => match wanted("reject").and_then(Json::as_str) {
            Some(part) if reason.contains(part) => Ok(()),
            _ => Err(format!("it is rejected: {reason}, expected {expected}")),
        },
        Said::Kept => Err(format!("it is kept, expected {expected}")),
        Said::Dropped => Err(format!("it is dropped, expected {expected}")),
    }
}

/// Whether a document is the one in extended JSON, whatever the order of its fields.
fn same(json: &Json, found: &RawDocument) -> bool {
    let found = bson::Document::try_from(found).ok();
    matches!((Bson::try_from(json.clone()), found),
        (Ok(Bson::Document(wanted)), Some(found)) if wanted == found)
}

/// A document as relaxed extended JSON.
pub(super) fn relaxed(document: &RawDocument) -> Json {
    bson::Document::try_from(document)
        .map_or(Json::Null, |document| Bson::Document(document).into_relaxed_extjson())
}

#[cfg(test)]
mod tests {
    use super::names_key;

    #[test]
    fn what_the_schema_says_is_about_the_same_key() {
        let said = "config: `hashKey` is missing; config.mask[0]: is no object";
        for expected in ["`hashKey`: missing", "`mask[0].field`: it", "nothing to do"] {
            assert!(names_key(said, expected), "{expected}");
        }
        assert!(!names_key(said, "`remove[0]`: `_id`"));
    }
}
