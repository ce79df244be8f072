//! Typed configuration: JSON into the author's struct, with errors that name the key.

use std::fmt;

use serde::de::DeserializeOwned;

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path of the key, `keep.status`; empty when the whole block is meant.
    key: String,
    /// What is wrong with it and what to do.
    problem: String,
}

impl ConfigError {
    /// Says what is wrong with a key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// Path of the key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "`{}`: {}", self.key, self.problem)
        }
    }
}

impl std::error::Error for ConfigError {}

/// Parses a plugin's configuration. A key that `T` does not know is an error, at any depth, whether
/// or not `T` says `deny_unknown_fields`.
///
/// # Errors
/// [`ConfigError`] with the path of the key.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, ConfigError> {
    let mut unknown = None;
    let mut track = serde_path_to_error::Track::new();
    let mut source = serde_json::Deserializer::from_str(json);
    let tracked = serde_path_to_error::Deserializer::new(&mut source, &mut track);
    let parsed = serde_ignored::deserialize(tracked, |path| {
        unknown.get_or_insert_with(|| clean(&path.to_string()));
    });
    let value = match parsed {
        Ok(value) => value,
        Err(error) => {
            let path = track.path().to_string();
            let key = if path == "." { String::new() } else { path };
            return Err(ConfigError::new(key, without_position(&error.to_string())));
        }
    };
    match unknown {
        Some(key) => Err(ConfigError::new(key, "no such key")),
        None => Ok(value),
    }
}

/// Takes the marks of optional values (`?`) out of a path.
fn clean(path: &str) -> String {
    path.split('.').filter(|part| *part != "?").collect::<Vec<_>>().join(".")
}

/// Cuts ` at line 1 column 7`: the operator wrote YAML, not this JSON.
fn without_position(message: &str) -> &str {
    message.rfind(" at line ").and_then(|end| message.get(..end)).unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Sample {
        #[allow(dead_code, reason = "only its presence matters")]
        name: String,
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Inner {
        count: u8,
    }

    #[test]
    fn a_good_block_is_parsed() {
        let sample: Sample = parse(r#"{"name":"a","inner":{"count":3}}"#).unwrap();
        assert_eq!(sample.inner.unwrap().count, 3);
    }

    #[test]
    fn an_unknown_key_is_named_at_any_depth() {
        let error = parse::<Sample>(r#"{"name":"a","inner":{"count":3,"cuont":4}}"#).unwrap_err();
        assert_eq!(error.to_string(), "`inner.cuont`: no such key");
        let error = parse::<Sample>(r#"{"name":"a","extra":1}"#).unwrap_err();
        assert_eq!(error.key(), "extra");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_path() {
        let error = parse::<Sample>(r#"{"name":"a","inner":{"count":"x"}}"#).unwrap_err();
        assert_eq!(error.key(), "inner.count");
        assert!(!error.to_string().contains("line"), "{error}");
    }

    #[test]
    fn a_missing_key_is_named() {
        let error = parse::<Sample>("{}").unwrap_err();
        assert!(error.to_string().contains("`name`"), "{error}");
    }
}
