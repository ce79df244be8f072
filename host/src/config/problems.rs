//! Reading loose JSON into strict types: finds every problem before it gives up.
//!
//! The config file and the body of `/start` are both read this way. Values are named by their
//! place (`plugins[1].grants.origins[0]`); a value is never repeated in a message unless it is a
//! word that the operator chose from a list, so that secrets stay out.

use std::fmt::Display;

use serde_json::{Map, Value};

use crate::error::{Error, Kind, Result};

/// Whether keys must match in letter case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// `loadLevel` only.
    Exact,
    /// `LoadLevel` too, as the API has always taken it.
    Ignore,
}

/// How several problems are put into one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// A line each, for a terminal.
    Lines,
    /// One line, for an API body.
    Inline,
}

/// What is wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// One sentence each.
    list: Vec<String>,
}

impl Problems {
    /// Nothing wrong yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Notes what is wrong at a place; an empty place is the whole.
    pub(crate) fn add(&mut self, place: &str, text: impl Display) {
        self.list.push(if place.is_empty() {
            text.to_string()
        } else {
            format!("{place}: {text}")
        });
    }

    /// Nothing wrong, or one error that holds everything.
    ///
    /// # Errors
    /// Of the given kind, when a problem was added.
    pub(crate) fn finish(self, kind: Kind, headline: &str, layout: Layout) -> Result<()> {
        let (before, between) = match layout {
            Layout::Lines => ("\n  - ", "\n  - "),
            Layout::Inline => (" ", "; "),
        };
        match self.list.as_slice() {
            [] => Ok(()),
            [only] => Err(Error::new(kind, format!("{headline}: {only}"))),
            all => Err(Error::new(
                kind,
                format!("{headline}, {} problems:{before}{}", all.len(), all.join(between)),
            )),
        }
    }
}

/// The known keys of one JSON object, with the place for messages.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    /// Where the object stands.
    place: String,
    /// Known name and value; `null` counts as absent.
    entries: Vec<(&'static str, &'a Value)>,
}

impl<'a> Fields<'a> {
    /// Opens an object; unknown and doubled keys are problems. `None` when it is no object.
    pub(crate) fn open(
        value: &'a Value,
        place: &str,
        known: &[&'static str],
        case: Case,
        problems: &mut Problems,
    ) -> Option<Self> {
        let Value::Object(map) = value else {
            problems.add(place, format!("expected an object, found {}", type_name(value)));
            return None;
        };
        Some(Self::of_map(map, place, known, case, problems))
    }

    /// As [`Self::open`], of a map.
    pub(crate) fn of_map(
        map: &'a Map<String, Value>,
        place: &str,
        known: &[&'static str],
        case: Case,
        problems: &mut Problems,
    ) -> Self {
        let mut entries: Vec<(&'static str, &'a Value)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            let found = known.iter().copied().find(|name| match case {
                Case::Exact => *name == key,
                Case::Ignore => name.eq_ignore_ascii_case(key),
            });
            match found {
                None => problems.add(place, unknown("key", key, known)),
                Some(name) if entries.iter().any(|(other, _)| *other == name) => {
                    problems.add(place, format!("`{name}` is given twice"));
                }
                Some(name) => entries.push((name, value)),
            }
        }
        Self { place: place.to_owned(), entries }
    }

    /// Place of a field.
    pub(crate) fn at(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// Place of the object itself.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The value, unless absent or `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.entries
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
            .filter(|value| !value.is_null())
    }

    /// A string; anything else is a problem.
    pub(crate) fn text(&self, name: &str, problems: &mut Problems) -> Option<&'a str> {
        let value = self.get(name)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong_type(name, "a string", value, problems);
        }
        text
    }

    /// `true` or `false`; anything else is a problem.
    pub(crate) fn switch(&self, name: &str, problems: &mut Problems) -> Option<bool> {
        let value = self.get(name)?;
        let switch = value.as_bool();
        if switch.is_none() {
            self.wrong_type(name, "true or false", value, problems);
        }
        switch
    }

    /// A whole number within bounds; anything else is a problem.
    pub(crate) fn number(
        &self,
        name: &str,
        bounds: std::ops::RangeInclusive<u64>,
        problems: &mut Problems,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let number = value.as_u64().filter(|number| bounds.contains(number));
        if number.is_none() {
            problems.add(
                &self.at(name),
                format!("expected a whole number from {} to {}", bounds.start(), bounds.end()),
            );
        }
        number
    }

    /// A list, empty when absent; anything else is a problem.
    pub(crate) fn list(&self, name: &str, problems: &mut Problems) -> &'a [Value] {
        match self.get(name) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong_type(name, "a list", other, problems);
                &[]
            }
        }
    }

    /// A list of strings, empty when absent; anything else is a problem.
    pub(crate) fn texts(&self, name: &str, problems: &mut Problems) -> Vec<String> {
        let mut texts = Vec::new();
        for (index, item) in self.list(name, problems).iter().enumerate() {
            match item.as_str() {
                Some(text) if !text.is_empty() => texts.push(text.to_owned()),
                Some(_) => problems.add(&format!("{}[{index}]", self.at(name)), "is empty"),
                None => problems.add(
                    &format!("{}[{index}]", self.at(name)),
                    format!("expected a string, found {}", type_name(item)),
                ),
            }
        }
        texts
    }

    /// One word of a list of words; anything else is a problem.
    pub(crate) fn word<T>(
        &self,
        name: &str,
        words: &[&'static str],
        parse: impl Fn(&str) -> Option<T>,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.text(name, problems)?;
        let parsed = parse(text);
        if parsed.is_none() {
            problems.add(&self.at(name), unknown("value", text, words));
        }
        parsed
    }

    /// Notes a value of the wrong type.
    fn wrong_type(&self, name: &str, expected: &str, found: &Value, problems: &mut Problems) {
        problems.add(&self.at(name), format!("expected {expected}, found {}", type_name(found)));
    }
}

/// ``unknown key `x`, did you mean `y`?`` or the list of what is known.
pub(crate) fn unknown(what: &str, word: &str, known: &[&'static str]) -> String {
    let word: String = word.chars().take(64).collect();
    match nearest(&word, known) {
        Some(near) => format!("unknown {what} `{word}`, did you mean `{near}`?"),
        None => format!("unknown {what} `{word}`; known: {}", known.join(", ")),
    }
}

/// The known word that `word` is most likely meant to be.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = word.to_lowercase().replace(['-', '_'], "");
    known
        .iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), *name))
        .filter(|(score, _)| *score >= 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A JSON type in words.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_is_reported_and_values_are_not() {
        let value = json!({"lodLevel": 3, "port": "s3cret", "logPath": 7, "verbosity": "LOUD"});
        let mut problems = Problems::new();
        let known = ["loadLevel", "port", "logPath", "verbosity"];
        let fields = Fields::open(&value, "file", &known, Case::Exact, &mut problems).unwrap();
        fields.number("port", 1..=65535, &mut problems);
        fields.text("logPath", &mut problems);
        fields.word("verbosity", &["INFO"], |_| None::<()>, &mut problems);
        let error = problems.finish(Kind::ConfigInvalid, "config", Layout::Lines).unwrap_err();
        let text = error.full();
        assert!(text.contains("unknown key `lodLevel`, did you mean `loadLevel`?"), "{text}");
        assert!(text.contains("file.port: expected a whole number from 1 to 65535"), "{text}");
        assert!(text.contains("file.logPath: expected a string, found a number"), "{text}");
        assert!(text.contains("file.verbosity: unknown value `LOUD`"), "{text}");
        assert!(text.contains("4 problems") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn keys_may_differ_in_case_only_where_allowed() {
        let value = json!({"Source": "a", "source": "b"});
        let mut problems = Problems::new();
        Fields::open(&value, "", &["source"], Case::Ignore, &mut problems).unwrap();
        assert!(
            problems
                .finish(Kind::BadRequest, "body", Layout::Inline)
                .unwrap_err()
                .full()
                .contains("twice")
        );
        let mut problems = Problems::new();
        Fields::open(&json!({"Source": "a"}), "", &["source"], Case::Exact, &mut problems);
        let text = problems.finish(Kind::BadRequest, "body", Layout::Inline).unwrap_err().full();
        assert!(text.contains("did you mean `source`?"), "{text}");
    }
}
