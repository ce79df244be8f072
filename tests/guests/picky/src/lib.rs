//! Keeps what is good, drops what is gone, and fails in two ways for the rest.

use syncline_sdk::{DocumentFilter, Namespace, Verdict, bson, config::ConfigError};

/// What it is told.
#[derive(serde::Deserialize)]
struct Config {
    /// Whether it lets everything pass that it would fail for.
    #[serde(default)]
    mended: bool,
}

struct Picky(Config);

impl DocumentFilter for Picky {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self(config))
    }

    fn judge(
        &self,
        _: &Namespace<'_>,
        document: bson::Document<'_>,
    ) -> Result<Verdict, bson::Malformed> {
        let Some(bson::Value::String(status)) = document.get("status")? else {
            return Ok(Verdict::Keep);
        };
        Ok(match status {
            "gone" => Verdict::Drop,
            "bad" | "crash" if self.0.mended => Verdict::Keep,
            "bad" => Verdict::Reject("its status is bad".to_owned()),
            "crash" => panic!("it cannot bear this"),
            _ => Verdict::Keep,
        })
    }
}

syncline_sdk::export_document_filter!(Picky);
