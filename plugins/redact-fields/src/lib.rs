//! Removes, masks, hashes or truncates fields. README.md says what each action does to which value.

mod action;

use action::Action;
use syncline_sdk::{
    DocumentFilter, Namespace, Plan, Verdict,
    bson::{Document, Field, Malformed, Value, Writer},
    config::ConfigError,
    path::Paths,
};

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Fields that are left out.
    #[serde(default)]
    remove: Vec<String>,
    /// Fields whose value is blanked, its type kept.
    #[serde(default)]
    mask: Vec<Mask>,
    /// Fields whose value is replaced by a keyed hash.
    #[serde(default)]
    hash: Vec<String>,
    /// Key of the hashes.
    hash_key: Option<String>,
    /// Fields whose text is cut.
    #[serde(default)]
    truncate: Vec<Truncate>,
}

/// An entry of `mask`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mask {
    /// Dotted path.
    field: String,
    /// Characters at the start of a text that stay.
    #[serde(default)]
    keep_first: usize,
    /// Characters at the end of a text that stay.
    #[serde(default)]
    keep_last: usize,
}

/// An entry of `truncate`.
#[derive(Debug, serde::Deserialize)]
struct Truncate {
    /// Dotted path.
    field: String,
    /// Characters that stay.
    length: usize,
}

/// Shortest key, in bytes: a shorter one is guessed.
const MIN_KEY_BYTES: usize = 16;

/// The filter.
#[derive(Debug)]
pub struct RedactFields {
    /// What is done where.
    paths: Paths<Action>,
}

impl DocumentFilter for RedactFields {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let mut paths = Paths::default();
        for (index, field) in config.remove.iter().enumerate() {
            paths.insert(&format!("remove[{index}]"), field, Action::Remove)?;
        }
        for (index, mask) in config.mask.iter().enumerate() {
            let action = Action::Mask { first: mask.keep_first, last: mask.keep_last };
            paths.insert(&format!("mask[{index}].field"), &mask.field, action)?;
        }
        for (index, truncate) in config.truncate.iter().enumerate() {
            let action = Action::Truncate { length: truncate.length };
            paths.insert(&format!("truncate[{index}].field"), &truncate.field, action)?;
        }
        match (&config.hash_key, config.hash.is_empty()) {
            (None, false) => {
                return Err(ConfigError::new("hashKey", "missing: `hash` needs a key"));
            }
            (Some(_), true) => {
                return Err(ConfigError::new("hashKey", "there is nothing under `hash`"));
            }
            (Some(key), false) if key.len() < MIN_KEY_BYTES => {
                return Err(ConfigError::new(
                    "hashKey",
                    format!("shorter than {MIN_KEY_BYTES} bytes; hashes could be undone by trying"),
                ));
            }
            (Some(key), false) => {
                for (index, field) in config.hash.iter().enumerate() {
                    let action = Action::hash(key.as_bytes());
                    paths.insert(&format!("hash[{index}]"), field, action)?;
                }
            }
            (None, true) => {}
        }
        if paths.is_empty() {
            return Err(ConfigError::new(
                "",
                "nothing to do: name fields to remove, mask, hash or truncate",
            ));
        }
        Ok(Self { paths })
    }

    fn plan(&self) -> Plan {
        Plan { replaces: true, reads: Vec::new() }
    }

    fn judge(&self, _: &Namespace<'_>, document: Document<'_>) -> Result<Verdict, Malformed> {
        if !touches(document, &self.paths)? {
            return Ok(Verdict::Keep);
        }
        let mut writer = Writer::with_capacity(document.as_bytes().len());
        fields(document, &self.paths, &mut writer)?;
        let redacted = writer.finish();
        if redacted.as_bytes() == document.as_bytes() {
            return Ok(Verdict::Keep);
        }
        Ok(Verdict::Replace(redacted))
    }
}

/// Whether a document has one of the fields at its top.
fn touches(document: Document<'_>, paths: &Paths<Action>) -> Result<bool, Malformed> {
    let mut fields = document.fields();
    while let Some(field) = fields.next_field()? {
        if paths.get(field.key).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the fields of a document.
fn fields(
    document: Document<'_>,
    paths: &Paths<Action>,
    writer: &mut Writer,
) -> Result<(), Malformed> {
    for field in document.fields() {
        let field = field?;
        match paths.get(field.key) {
            None => writer.field(&field),
            Some(next) => match next.leaf() {
                Some(action) => action.apply(field.key, &field, writer)?,
                None => inside(&field, next, writer)?,
            },
        }
    }
    Ok(())
}

/// Writes a field in which something may be redacted: documents, and documents in arrays.
fn inside(field: &Field<'_>, paths: &Paths<Action>, writer: &mut Writer) -> Result<(), Malformed> {
    match field.value()? {
        Value::Document(inner) => {
            writer.begin_document(field.key);
            fields(inner, paths, writer)?;
            writer.end();
        }
        Value::Array(array) => {
            writer.begin_array(field.key);
            for element in array.fields() {
                inside(&element?, paths, writer)?;
            }
            writer.end();
        }
        _ => writer.field(field),
    }
    Ok(())
}

syncline_sdk::export_document_filter!(RedactFields);

#[cfg(test)]
mod tests;
