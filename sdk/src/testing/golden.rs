//! Golden files: configuration and documents in, verdicts or an error out, as JSON.
//!
//! ```json
//! { "config": { "keep": { "a": 1 } },
//!   "namespace": "app.users",
//!   "documents": [{ "_id": 1, "a": 1 }, { "_id": 2 }],
//!   "expect": ["keep", "drop"] }
//! ```
//!
//! Documents are extended JSON; the order of fields is not compared. A verdict is `"keep"`, `"drop"`, `{"replace": document}` or
//! `{"reject": "part of the reason"}`. A configuration that is refused has `"error": "its beginning"`
//! in the place of documents and verdicts.

use std::{fs, path::Path};

use bson::Bson;
use serde_json::Value as Json;

use crate::{
    config,
    filter::{DocumentFilter, Namespace, Verdict, judge_batch},
};

/// Runs every `.json` file of a folder through a filter, document by document and as one batch.
///
/// # Panics
/// When something else comes out than the file says, or the folder holds no file.
#[allow(clippy::panic, reason = "this is how a test fails")]
pub fn check<F: DocumentFilter>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let mut count = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            if let Err(problem) = case::<F>(&path) {
                panic!("{}: {problem}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 0, "{} holds no golden file", folder.display());
}

/// Runs one file.
fn case<F: DocumentFilter>(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let case: Json = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let config = case.get("config").cloned().unwrap_or_else(|| Json::Object(Default::default()));
    let made = config::parse(&config.to_string()).and_then(F::new);
    let filter = match (made, case.get("error").and_then(Json::as_str)) {
        (Ok(filter), None) => filter,
        (Err(error), Some(expected)) if error.to_string().starts_with(expected) => return Ok(()),
        (Err(error), Some(expected)) => return Err(format!("error {error}, expected {expected}")),
        (Err(error), None) => return Err(format!("the configuration is refused: {error}")),
        (Ok(_), Some(expected)) => return Err(format!("no error, expected {expected}")),
    };
    let namespace = case.get("namespace").and_then(Json::as_str).unwrap_or("app.documents");
    let (database, collection) = namespace.split_once('.').ok_or("`namespace` has no dot")?;
    let namespace = Namespace { database, collection };
    let list = |name| case.get(name).and_then(Json::as_array).ok_or(format!("no list `{name}`"));
    let (documents, expected) = (list("documents")?, list("expect")?);
    if documents.len() != expected.len() {
        return Err(format!("{} documents, {} verdicts", documents.len(), expected.len()));
    }
    let (mut flat, mut bytes) = (Vec::new(), Vec::new());
    for (position, (document, expected)) in documents.iter().zip(expected).enumerate() {
        let document = encode(document)?;
        let view = crate::bson::Document::new(&document).map_err(|error| error.to_string())?;
        let verdict = filter.judge(&namespace, view).map_err(|error| error.to_string())?;
        bytes.push(compare(&verdict, expected).map_err(|e| format!("document {position}: {e}"))?);
        flat.extend_from_slice(&document);
    }
    let count = u32::try_from(documents.len()).map_err(|error| error.to_string())?;
    match judge_batch(&filter, &namespace, count, &flat) {
        Ok(outcome) if outcome.verdicts == bytes => Ok(()),
        Ok(_) => Err("as one batch the documents get other verdicts".to_owned()),
        Err(position) => Err(format!("document {position} of the batch cannot be read")),
    }
}

/// BSON of a document in extended JSON.
fn encode(json: &Json) -> Result<Vec<u8>, String> {
    match Bson::try_from(json.clone()) {
        Ok(Bson::Document(document)) => document.to_vec().map_err(|error| error.to_string()),
        Ok(_) => Err(format!("{json} is no document")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a document is the one in extended JSON, whatever the order of its fields.
fn same(json: &Json, found: &bson::Document) -> bool {
    matches!(Bson::try_from(json.clone()), Ok(Bson::Document(wanted)) if wanted == *found)
}

/// Compares a verdict with the expected one and returns its byte.
fn compare(verdict: &Verdict, expected: &Json) -> Result<u8, String> {
    match verdict {
        Verdict::Keep if expected == "keep" => Ok(0),
        Verdict::Drop if expected == "drop" => Ok(1),
        Verdict::Replace(document) => {
            let found = bson::Document::from_reader(document.as_bytes())
                .map_err(|error| format!("the replacement is no document: {error}"))?;
            match expected.get("replace") {
                Some(wanted) if same(wanted, &found) => Ok(2),
                _ => Err(format!("replaced by {found}, expected {expected}")),
            }
        }
        Verdict::Reject(reason) => match expected.get("reject").and_then(Json::as_str) {
            Some(part) if reason.contains(part) => Ok(5),
            _ => Err(format!("rejected: {reason}, expected {expected}")),
        },
        other => Err(format!("{other:?}, expected {expected}")),
    }
}
