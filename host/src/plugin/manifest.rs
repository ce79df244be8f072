//! `plugin.toml`: what a plugin says of itself and what it asks for.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{limits::Limits, schema};
use crate::{
    error::{Error, Kind, Result},
    model::plugin::{LimitOverrides, World},
};

/// Longest manifest that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;
/// Problems of a configuration that are listed at once.
const MAX_PROBLEMS: usize = 8;

/// A manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Name of the plugin.
    pub(crate) name: String,
    /// Version of the plugin.
    pub(crate) version: semver::Version,
    /// World, as the contract names it.
    pub(crate) world: String,
    /// What it does, for people.
    #[serde(default)]
    pub(crate) description: String,
    /// SPDX expression.
    #[serde(default)]
    pub(crate) licence: String,
    /// What it asks for.
    #[serde(default)]
    pub(crate) asks: Asks,
    /// JSON Schema of its configuration.
    #[serde(default)]
    pub(crate) config: Option<Json>,
}

/// What a plugin asks for; empty means nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asks {
    /// Origins, or `config.KEY` for the origin of the URL under that key of its configuration, or
    /// `env.NAME` for that in an environment variable; `http://env.NAME` when that holds a host.
    #[serde(default)]
    pub(crate) origins: Vec<String>,
    /// Environment variables by name.
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// Files by absolute path, `config.KEY`, or `env.NAME` for the path that a variable holds.
    #[serde(default)]
    pub(crate) files: Vec<String>,
    /// Secrets by the names it uses.
    #[serde(default)]
    pub(crate) secrets: Vec<String>,
    /// Clocks.
    #[serde(default)]
    pub(crate) clock: bool,
    /// A person to send to a login.
    #[serde(default)]
    pub(crate) interaction: bool,
    /// Linear memory in bytes, when the default of its world is too little.
    #[serde(rename = "memoryBytes", default)]
    pub(crate) memory_bytes: Option<u64>,
    /// Time for one call, when the default of its world is too little.
    #[serde(rename = "deadlineMs", default)]
    pub(crate) deadline_ms: Option<u64>,
}

impl Manifest {
    /// Parses the text of a manifest.
    ///
    /// # Errors
    /// `ConfigInvalid` with the place.
    pub(crate) fn parse(text: &str, place: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            Error::new(
                Kind::ConfigInvalid,
                format!("the manifest {place} is invalid: {}", error.message()),
            )
        })
    }

    /// Reads the manifest beside a component: `NAME.toml` for `NAME.wasm`, else `plugin.toml`.
    ///
    /// # Errors
    /// `ConfigInvalid` when there is one that cannot be read.
    pub(crate) fn beside(component: &Path) -> Result<Option<Self>> {
        Self::place_beside(component).map(|path| Self::read(&path)).transpose()
    }

    /// Where the manifest beside a component is, if there is one.
    pub(crate) fn place_beside(component: &Path) -> Option<PathBuf> {
        let folder = component.parent().unwrap_or(Path::new("."));
        let candidates = [component.with_extension("toml"), folder.join("plugin.toml")];
        candidates.into_iter().find(|path| path.is_file())
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// `ConfigInvalid`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let place = path.display().to_string();
        let unreadable = |error: std::io::Error| {
            Error::new(Kind::ConfigInvalid, format!("cannot read the manifest {place}"))
                .caused_by(error)
        };
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_BYTES {
            return Err(Error::new(
                Kind::ConfigInvalid,
                format!("the manifest {place} is longer than {MAX_BYTES} bytes"),
            ));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?, &place)
    }

    /// Checks that the component is what its manifest says.
    ///
    /// # Errors
    /// `PluginWrongWorld`.
    pub(crate) fn check_world(&self, world: World) -> Result<()> {
        if self.world == world.name() {
            return Ok(());
        }
        Err(Error::new(
            Kind::PluginWrongWorld,
            format!(
                "its manifest says `world = \"{}\"`, but the component is a {}",
                self.world,
                world.name()
            ),
        ))
    }

    /// Checks that the operator's limits give it what it asks for.
    ///
    /// # Errors
    /// `ConfigInvalid` with the key to set.
    pub(crate) fn check_limits(&self, limits: &Limits) -> Result<()> {
        let memory = u64::try_from(limits.memory_bytes).unwrap_or(u64::MAX);
        let time = u64::try_from(limits.deadline.as_millis()).unwrap_or(u64::MAX);
        for (key, asked, granted) in [
            ("memoryBytes", self.asks.memory_bytes, memory),
            ("deadlineMs", self.asks.deadline_ms, time),
        ] {
            if let Some(asked) = asked.filter(|asked| *asked > granted) {
                return Err(Error::new(
                    Kind::ConfigInvalid,
                    format!(
                        "its manifest asks for `{key} = {asked}` and {granted} is granted; set \
                         `limits.{key}`"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The limits it asks for.
    pub(crate) fn asked_limits(&self) -> LimitOverrides {
        LimitOverrides {
            memory_bytes: self.asks.memory_bytes,
            deadline: self.asks.deadline_ms.map(Duration::from_millis),
            ..LimitOverrides::default()
        }
    }

    /// Checks the operator's configuration against the schema, before the plugin sees it.
    ///
    /// # Errors
    /// `PluginConfigInvalid` with the key and without its value, which may be a secret;
    /// `ConfigInvalid` when the schema itself is none.
    pub(crate) fn check_config(&self, config: &Json) -> Result<()> {
        let Some(schema) = &self.config else { return Ok(()) };
        let mut problems = schema::check(schema, config).map_err(|problem| {
            Error::new(Kind::ConfigInvalid, format!("its manifest's `[config]`: {problem}"))
        })?;
        problems.truncate(MAX_PROBLEMS);
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::PluginConfigInvalid, problems.join("; ")))
    }
}
