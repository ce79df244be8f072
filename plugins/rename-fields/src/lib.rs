//! Renames and moves fields. README.md says what happens in arrays and in collisions.

use std::collections::BTreeMap;

use syncline_sdk::{
    DocumentFilter, Namespace, Plan, Verdict,
    bson::{Document, Field, Malformed, Value, Writer},
    config::ConfigError,
    path::Paths,
};

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
pub struct Config {
    /// From old dotted path to new dotted path.
    rename: BTreeMap<String, String>,
}

/// Where a field goes.
#[derive(Debug)]
enum Target {
    /// It gets another name and stays in its document.
    Here(String),
    /// It goes to this place among the moved fields.
    Away(usize),
}

/// The filter.
#[derive(Debug)]
pub struct RenameFields {
    /// What becomes of the fields there are.
    old: Paths<Target>,
    /// Where moved fields go: their place among the moved ones.
    new: Paths<usize>,
    /// The new paths of the moved fields.
    moved: Vec<String>,
}

impl DocumentFilter for RenameFields {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let mut filter = Self { old: Paths::default(), new: Paths::default(), moved: Vec::new() };
        // All new paths, so that two fields do not get one name.
        let mut targets = Paths::default();
        for (from, to) in &config.rename {
            let key = format!("rename.{from}");
            if from == to {
                return Err(ConfigError::new(key, "old and new name are the same"));
            }
            let inside = |outer: &str, inner: &str| {
                inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
            };
            if inside(from, to) || inside(to, from) {
                return Err(ConfigError::new(key, "a field cannot move into or out of itself"));
            }
            targets.insert(&key, to, ())?;
            let (here, name) = split(to);
            let target = if split(from).0 == here {
                Target::Here(name.to_owned())
            } else {
                filter.new.insert(&key, to, filter.moved.len())?;
                filter.moved.push(to.clone());
                Target::Away(filter.moved.len() - 1)
            };
            filter.old.insert(&key, from, target)?;
        }
        if filter.old.is_empty() {
            return Err(ConfigError::new("rename", "nothing to do: say `old: new`"));
        }
        Ok(filter)
    }

    fn plan(&self) -> Plan {
        Plan { replaces: true, reads: Vec::new() }
    }

    fn judge(&self, _: &Namespace<'_>, document: Document<'_>) -> Result<Verdict, Malformed> {
        let mut run = Run { taken: vec![None; self.moved.len()], renamed: false, problem: None };
        let mut writer = Writer::with_capacity(document.as_bytes().len());
        run.rename(document, &self.old, Arrays::None, &mut writer)?;
        if let Some(problem) = run.problem {
            return Ok(Verdict::Reject(problem));
        }
        let renamed = writer.finish();
        if run.taken.iter().all(Option::is_none) {
            return Ok(if run.renamed { Verdict::Replace(renamed) } else { Verdict::Keep });
        }
        let mut writer = Writer::with_capacity(renamed.as_bytes().len() + 64);
        run.put(Some(renamed.as_document()), &self.new, &self.moved, &mut writer)?;
        match run.problem {
            Some(problem) => Ok(Verdict::Reject(problem)),
            None => Ok(Verdict::Replace(writer.finish())),
        }
    }
}

/// The path of the document a field is in, and the field's name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// Whether a document has a field of this name.
fn has(document: Document<'_>, name: &str) -> Result<bool, Malformed> {
    let mut fields = document.fields();
    while let Some(field) = fields.next_field()? {
        if field.key == name.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the way to a document leads through an array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrays {
    /// It does not.
    None,
    /// It does.
    Some,
}

/// The work on one document.
struct Run<'a> {
    /// Fields that go elsewhere.
    taken: Vec<Option<Field<'a>>>,
    /// Whether a name changed.
    renamed: bool,
    /// Why the document cannot be written.
    problem: Option<String>,
}

impl<'a> Run<'a> {
    /// Writes the fields of a document under their new names, without those that go elsewhere.
    fn rename(
        &mut self,
        document: Document<'a>,
        paths: &Paths<Target>,
        arrays: Arrays,
        writer: &mut Writer,
    ) -> Result<(), Malformed> {
        for field in document.fields() {
            let field = field?;
            let Some(next) = paths.get(field.key) else {
                writer.field(&field);
                continue;
            };
            match next.leaf() {
                None => self.inside(&field, next, arrays, writer)?,
                Some(Target::Here(name)) => {
                    // The name is free if nobody has it, or whoever has it gets another one.
                    let free = paths.get(name.as_bytes()).is_some_and(|next| next.leaf().is_some());
                    if !free && has(document, name)? {
                        self.problem(format!(
                            "`{}` cannot become `{name}`: there is such a field beside it",
                            String::from_utf8_lossy(field.key)
                        ));
                    }
                    self.renamed = true;
                    writer.field_as(name, &field);
                }
                Some(Target::Away(_)) if arrays == Arrays::Some => self.problem(format!(
                    "`{}` cannot move: it is inside of an array",
                    String::from_utf8_lossy(field.key)
                )),
                Some(Target::Away(place)) => {
                    if let Some(slot) = self.taken.get_mut(*place) {
                        *slot = Some(field);
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes a field in which something may be renamed.
    fn inside(
        &mut self,
        field: &Field<'a>,
        paths: &Paths<Target>,
        arrays: Arrays,
        writer: &mut Writer,
    ) -> Result<(), Malformed> {
        match field.value()? {
            Value::Document(inner) => {
                writer.begin_document(field.key);
                self.rename(inner, paths, arrays, writer)?;
                writer.end();
            }
            Value::Array(array) => {
                writer.begin_array(field.key);
                for element in array.fields() {
                    self.inside(&element?, paths, Arrays::Some, writer)?;
                }
                writer.end();
            }
            _ => writer.field(field),
        }
        Ok(())
    }

    /// Writes a document with the moved fields at their places, after what is there.
    fn put(
        &mut self,
        document: Option<Document<'_>>,
        paths: &Paths<usize>,
        moved: &[String],
        writer: &mut Writer,
    ) -> Result<(), Malformed> {
        if let Some(document) = document {
            for field in document.fields() {
                let field = field?;
                let Some(next) = paths.get(field.key).filter(|next| self.awaits(next)) else {
                    writer.field(&field);
                    continue;
                };
                match field.value()? {
                    Value::Document(inner) if next.leaf().is_none() => {
                        writer.begin_document(field.key);
                        self.put(Some(inner), next, moved, writer)?;
                        writer.end();
                    }
                    _ => {
                        let path = self.first(next).and_then(|place| moved.get(place).cloned());
                        self.problem(format!(
                            "nothing can move to `{}`: something else is there",
                            path.unwrap_or_default()
                        ));
                    }
                }
            }
        }
        for (name, next) in paths.steps() {
            let present = document.map_or(Ok(false), |document| has(document, name))?;
            if present || !self.awaits(next) {
                continue;
            }
            match next.leaf().and_then(|place| self.taken.get(*place)) {
                Some(Some(field)) => writer.field_as(name, field),
                _ => {
                    writer.begin_document(name);
                    self.put(None, next, moved, writer)?;
                    writer.end();
                }
            }
        }
        Ok(())
    }

    /// Whether a taken field goes to one of these paths.
    fn awaits(&self, paths: &Paths<usize>) -> bool {
        self.first(paths).is_some()
    }

    /// The first taken field that goes to one of these paths.
    fn first(&self, paths: &Paths<usize>) -> Option<usize> {
        match paths.leaf() {
            Some(place) => matches!(self.taken.get(*place), Some(Some(_))).then_some(*place),
            None => paths.steps().find_map(|(_, next)| self.first(next)),
        }
    }

    /// Keeps the first reason.
    fn problem(&mut self, reason: String) {
        self.problem.get_or_insert(reason);
    }
}

syncline_sdk::export_document_filter!(RenameFields);

#[cfg(test)]
mod tests {
    use syncline_sdk::{
        DocumentFilter, Namespace, Verdict,
        bson::{Document, Value, Writer},
        config,
        testing::golden,
    };

    use super::RenameFields;

    #[test]
    fn text_that_is_no_utf_8_moves_as_it_is() {
        let filter =
            config::parse(r#"{"rename":{"a":"b","c":"d.e"}}"#).and_then(RenameFields::new).unwrap();
        let mut writer = Writer::new();
        for name in ["_id", "a", "b2", "c"] {
            writer.value(name, Value::NotUtf8(b"\xFFx"));
        }
        let document = writer.finish();
        let namespace = Namespace { database: "app", collection: "users" };
        let verdict = filter.judge(&namespace, document.as_document()).unwrap();
        let Verdict::Replace(renamed) = verdict else { panic!("{verdict:?}") };
        let get = |document: Document<'_>, name: &str| match document.get(name).unwrap() {
            Some(Value::NotUtf8(bytes)) => bytes == b"\xFFx",
            _ => false,
        };
        let renamed = renamed.as_document();
        assert!(["_id", "b", "b2"].iter().all(|name| get(renamed, name)));
        let Some(Value::Document(inner)) = renamed.get("d").unwrap() else { panic!("no d") };
        assert!(get(inner, "e"));
    }

    #[test]
    fn the_golden_files_come_true() {
        golden::check::<RenameFields>(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    }
}
