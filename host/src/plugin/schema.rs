//! The part of JSON Schema that describes configurations: types, keys, bounds, choices. A keyword
//! that is not known here is refused, so that no check is left out in silence.

use fancy_regex::Regex;
use serde_json::{Map, Value};

/// Deepest nesting of a schema.
const MAX_DEPTH: u32 = 32;
/// Keywords that check nothing.
const ANNOTATIONS: [&str; 8] =
    ["$schema", "$id", "$comment", "title", "description", "default", "examples", "format"];

/// Checks a value. Returns what is wrong with it, each with its place and without values, which may
/// be secrets.
///
/// # Errors
/// What is wrong with the schema itself.
pub(crate) fn check(schema: &Value, value: &Value) -> Result<Vec<String>, String> {
    let mut checker = Checker { problems: Vec::new() };
    checker.check(schema, value, "config", 0)?;
    Ok(checker.problems)
}

/// Collects problems.
struct Checker {
    /// What is wrong so far.
    problems: Vec<String>,
}

impl Checker {
    /// Notes a problem.
    fn add(&mut self, place: &str, what: &str) {
        self.problems.push(format!("{place}: {what}"));
    }

    /// Checks a value against a schema.
    fn check(
        &mut self,
        schema: &Value,
        value: &Value,
        place: &str,
        depth: u32,
    ) -> Result<(), String> {
        let schema = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => {
                self.add(place, "is not allowed");
                return Ok(());
            }
            Value::Object(schema) if depth < MAX_DEPTH => schema,
            Value::Object(_) => return Err("is nested too deeply".to_owned()),
            _ => return Err(format!("the schema of {place} is neither table nor boolean")),
        };
        for (keyword, argument) in schema {
            let malformed = || format!("`{keyword}` of {place} makes no sense");
            match keyword.as_str() {
                "type" => self.check_type(argument, value, place).ok_or_else(malformed)?,
                "enum" => {
                    if !argument.as_array().ok_or_else(malformed)?.contains(value) {
                        self.add(place, &format!("is none of {argument}"));
                    }
                }
                "const" => {
                    if argument != value {
                        self.add(place, &format!("is not {argument}"));
                    }
                }
                "required" => {
                    for key in argument.as_array().ok_or_else(malformed)? {
                        let key = key.as_str().ok_or_else(malformed)?;
                        if value.as_object().is_some_and(|fields| !fields.contains_key(key)) {
                            self.add(place, &format!("`{key}` is missing"));
                        }
                    }
                }
                "properties" => {
                    for (key, schema) in argument.as_object().ok_or_else(malformed)? {
                        // Without a value the schema itself is still looked at.
                        let inner = value.get(key);
                        let mut nowhere = Self { problems: Vec::new() };
                        let checker = if inner.is_some() { &mut *self } else { &mut nowhere };
                        let inner = inner.unwrap_or(&Value::Null);
                        checker.check(schema, inner, &format!("{place}.{key}"), depth + 1)?;
                    }
                }
                "additionalProperties" => {
                    let known = schema.get("properties").and_then(Value::as_object);
                    self.check_others(argument, known, value, place, depth)?;
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(argument, item, &format!("{place}[{index}]"), depth + 1)?;
                    }
                }
                "minimum" | "maximum" => {
                    let bound = argument.as_f64().ok_or_else(malformed)?;
                    let least = keyword == "minimum";
                    let beyond = |number| if least { number < bound } else { number > bound };
                    if value.as_f64().is_some_and(beyond) {
                        let word = if least { "less" } else { "more" };
                        self.add(place, &format!("is {word} than {argument}"));
                    }
                }
                "minLength" | "maxLength" | "minItems" | "maxItems" => {
                    let bound = argument.as_u64().ok_or_else(malformed)?;
                    self.check_length(keyword, bound, value, place);
                }
                "pattern" => {
                    let pattern = argument.as_str().ok_or_else(malformed)?;
                    let regex = Regex::new(pattern).map_err(|_| malformed())?;
                    // A pattern that backtracks without end matches nothing.
                    if value.as_str().is_some_and(|text| !regex.is_match(text).unwrap_or(false)) {
                        self.add(place, &format!("does not match {pattern}"));
                    }
                }
                "anyOf" => {
                    let mut fits = false;
                    for schema in argument.as_array().ok_or_else(malformed)? {
                        let mut attempt = Self { problems: Vec::new() };
                        attempt.check(schema, value, place, depth + 1)?;
                        fits |= attempt.problems.is_empty();
                    }
                    if !fits {
                        self.add(place, "fits none of the forms it may have");
                    }
                }
                known if ANNOTATIONS.contains(&known) => {}
                _ => return Err(format!("`{keyword}` of {place} is not supported")),
            }
        }
        Ok(())
    }

    /// Checks `type`; `None` when the keyword itself is malformed.
    fn check_type(&mut self, argument: &Value, value: &Value, place: &str) -> Option<()> {
        let single = std::slice::from_ref(argument);
        let names = argument.as_array().map_or(single, Vec::as_slice);
        let mut fits = false;
        for name in names {
            fits |= match name.as_str()? {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "null" => value.is_null(),
                "number" => value.is_number(),
                "integer" => {
                    value.is_i64()
                        || value.is_u64()
                        || value.as_f64().is_some_and(|number| number.fract() == 0.0)
                }
                _ => return None,
            };
        }
        if !fits {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            self.add(place, &format!("is no {}", names.join(" or ")));
        }
        Some(())
    }

    /// Checks the keys that `properties` does not name.
    fn check_others(
        &mut self,
        argument: &Value,
        known: Option<&Map<String, Value>>,
        value: &Value,
        place: &str,
        depth: u32,
    ) -> Result<(), String> {
        for (key, inner) in value.as_object().into_iter().flatten() {
            if known.is_some_and(|known| known.contains_key(key)) {
                continue;
            }
            if argument == &Value::Bool(false) {
                self.add(place, &format!("unknown key `{key}`"));
            } else {
                self.check(argument, inner, &format!("{place}.{key}"), depth + 1)?;
            }
        }
        Ok(())
    }

    /// Checks the length of a text or of a list.
    fn check_length(&mut self, keyword: &str, bound: u64, value: &Value, place: &str) {
        let length = match (keyword, value) {
            ("minLength" | "maxLength", Value::String(text)) => text.chars().count(),
            ("minItems" | "maxItems", Value::Array(items)) => items.len(),
            _ => return,
        };
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if keyword.starts_with("min") && length < bound {
            self.add(place, &format!("is shorter than {bound}"));
        }
        if keyword.starts_with("max") && length > bound {
            self.add(place, &format!("is longer than {bound}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_keyword_checks_what_it_says() {
        for (schema, good, bad) in [
            (json!({"type": ["string", "null"]}), json!(null), json!(1)),
            (json!({"type": "integer"}), json!(2.0), json!(2.5)),
            (json!({"enum": ["a", 1]}), json!(1), json!("b")),
            (json!({"const": {"a": 1}}), json!({"a": 1}), json!({"a": 2})),
            (json!({"required": ["a"]}), json!({"a": null}), json!({})),
            (json!({"properties": {"a": {"type": "null"}}}), json!({"b": 1}), json!({"a": 1})),
            (
                json!({"additionalProperties": {"type": "null"}}),
                json!({"x": null}),
                json!({"x": 1}),
            ),
            (json!({"items": {"minimum": 3}}), json!([3, 4]), json!([3, 2])),
            (json!({"maximum": 3}), json!(3), json!(3.5)),
            (json!({"minLength": 2, "maxLength": 3}), json!("äö"), json!("ä")),
            (json!({"minItems": 1, "maxItems": 2}), json!([1]), json!([1, 2, 3])),
            (json!({"pattern": "^a+$"}), json!("aa"), json!("ab")),
            (json!({"anyOf": [{"type": "null"}, {"const": 1}]}), json!(1), json!(2)),
            (json!({"title": "x", "items": true}), json!([1]), json!(null)),
        ] {
            assert_eq!(check(&schema, &good), Ok(Vec::new()), "{schema}");
            let found = check(&schema, &bad).unwrap();
            assert_eq!(found.is_empty(), schema.get("title").is_some(), "{schema}");
        }
    }

    #[test]
    fn a_schema_that_cannot_be_followed_is_refused() {
        let mut deep = json!(true);
        for _ in 0..40 {
            deep = json!({"items": deep});
        }
        let mut nested = json!(1);
        for _ in 0..40 {
            nested = json!([nested]);
        }
        assert!(check(&deep, &nested).is_err());
        for schema in [
            json!({"if": {}}),
            json!({"type": "text"}),
            json!({"required": "a"}),
            json!({"pattern": "("}),
            json!({"properties": {"absent": {"type": 1}}}),
            json!("object"),
        ] {
            assert!(check(&schema, &json!({})).is_err(), "{schema}");
        }
    }
}
