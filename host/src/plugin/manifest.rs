//! `plugin.toml`: what a plugin says of itself and what it asks for.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{
    error::{Error, Kind, Result},
    model::plugin::World,
};

/// Longest manifest that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024;

/// A manifest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Name of the plugin.
    pub(crate) name: String,
    /// Version of the plugin.
    #[serde(rename = "version")]
    _version: semver::Version,
    /// World, as the contract names it.
    world: String,
    /// What it does, for people.
    #[serde(rename = "description", default)]
    _description: String,
    /// SPDX expression.
    #[serde(rename = "licence", default)]
    _licence: String,
    /// What it asks for.
    #[serde(default)]
    pub(crate) asks: Asks,
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
    /// Files by absolute path, or `config.KEY`, or `env.NAME`.
    #[serde(default)]
    pub(crate) files: Vec<String>,
    /// Clocks.
    #[serde(default)]
    pub(crate) clock: bool,
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
        let folder = component.parent().unwrap_or(Path::new("."));
        let candidates = [component.with_extension("toml"), folder.join("plugin.toml")];
        match candidates.into_iter().find(|path| path.is_file()) {
            Some(path) => Self::read(&path).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a manifest.
    fn read(path: &PathBuf) -> Result<Self> {
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
}
