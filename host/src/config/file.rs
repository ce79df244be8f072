//! The YAML file: syntax and the keys at its top.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde_json::Value;

use super::{
    names::{Layer, OPTIONS, Shape},
    plugins::Sections,
    problems::{Case, Fields, Problems, type_name},
};
use crate::telemetry::redact;

/// Largest config file that is read, in bytes; a larger one is something else.
const MAX_BYTES: u64 = 1024 * 1024;

/// A file, taken apart.
#[derive(Debug, Default)]
pub(super) struct File {
    /// Options that flags and the environment can override.
    pub(super) values: Layer,
    /// `plugins:`, `filters:` and `identity:`.
    pub(super) sections: Sections,
}

/// Reads the file; what is wrong with it is noted, and the rest is still used.
pub(super) fn read(path: &Path, problems: &mut Problems) -> File {
    let place = path.display().to_string();
    let text = match text_of(path) {
        Ok(text) => text,
        Err(fault) => {
            problems.add(&place, fault);
            return File::default();
        }
    };
    match parse(&text) {
        Ok(root) => take_apart(&root, path, problems),
        Err(fault) => {
            problems.add(&place, fault);
            File::default()
        }
    }
}

/// An object: the text itself, or what the file of that name holds.
pub(super) fn block(text: &str) -> Result<Value, String> {
    let (place, held) = if text.trim_start().starts_with('{') {
        ("the text".to_owned(), text.to_owned())
    } else {
        let path = Path::new(text);
        (text.to_owned(), text_of(path).map_err(|fault| format!("{text} {fault}"))?)
    };
    match parse(&held).map_err(|fault| format!("{place} {fault}"))? {
        value @ Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        other => Err(format!("{place} holds {}, expected an object", type_name(&other))),
    }
}

/// The text of the file.
fn text_of(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    std::fs::read_to_string(path).map_err(cannot)
}

/// YAML to JSON. The message of a fault never shows the text around it: that may be a password.
fn parse(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options::<Value>(text, options).map_err(|error| {
        let error = error.without_snippet();
        let message = error.to_string();
        let first = message.lines().next().unwrap_or("syntax error");
        format!("is no valid YAML: {}", redact::text(first))
    })
}

/// Sorts the keys into options and sections.
fn take_apart(root: &Value, path: &Path, problems: &mut Problems) -> File {
    let mut known: Vec<&'static str> = OPTIONS.iter().map(|option| option.name).collect();
    known.extend(Sections::KEYS);
    let empty = Value::Object(serde_json::Map::new());
    let root = if root.is_null() { &empty } else { root };
    let place = path.display().to_string();
    let Some(fields) = Fields::open(root, "", &known, Case::Exact, problems) else {
        return File::default();
    };
    let mut file = File::default();
    for option in OPTIONS {
        let Some(value) = fields.get(option.name) else { continue };
        match (scalar(value), option.shape, value) {
            (Some(_), Shape::Switch, Value::String(_) | Value::Number(_))
            | (None, Shape::Switch, _) => problems
                .add(option.name, format!("expected true or false, found {}", type_name(value))),
            (Some(text), _, _) => file.values.set(
                option.name,
                SecretString::from(text),
                format!("{} in {place}", option.name),
            ),
            (None, Shape::Json, _) => file.values.set(
                option.name,
                SecretString::from(value.to_string()),
                format!("{} in {place}", option.name),
            ),
            (None, Shape::Value, _) => problems
                .add(option.name, format!("expected a single value, found {}", type_name(value))),
        }
    }
    let base = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    file.sections = Sections::read(&fields, &base, problems);
    file
}

/// The text of a scalar.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(switch) => Some(switch.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
