//! Keeps the documents for which a condition on fields holds. The condition is a subset of MongoDB's
//! query language; README.md lists what is in it.

mod compare;
mod condition;
mod literal;
mod number;
mod pattern;
mod test;
mod walk;

use condition::Condition;
use syncline_sdk::{DocumentFilter, Namespace, Plan, Verdict, bson, config::ConfigError};

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
pub struct Config {
    /// What a document must fulfil to be on the destination.
    keep: serde_json::Map<String, serde_json::Value>,
}

/// The filter.
#[derive(Debug)]
pub struct MatchDocuments {
    /// Parsed `keep`.
    keep: Condition,
}

impl DocumentFilter for MatchDocuments {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.keep.is_empty() {
            return Err(ConfigError::new("keep", "an empty condition keeps everything; say one"));
        }
        Ok(Self { keep: Condition::parse("keep", &config.keep)? })
    }

    fn plan(&self) -> Plan {
        Plan { replaces: false, reads: self.keep.top_level_fields() }
    }

    fn judge(
        &self,
        _: &Namespace<'_>,
        document: bson::Document<'_>,
    ) -> Result<Verdict, bson::Malformed> {
        Ok(if self.keep.holds(document)? { Verdict::Keep } else { Verdict::Drop })
    }
}

syncline_sdk::export_document_filter!(MatchDocuments);

#[cfg(test)]
mod tests;
