//! What a plugin may do: what it asks for and the operator grants. Without a manifest what it imports
//! is taken for what it asks.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value as Json;

use super::{egress::Origin, manifest::Manifest};
use crate::{
    error::{Error, Kind, Result},
    model::plugin::{Grants, World},
};

/// What a plugin may do, parsed once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Origins it may call.
    pub(crate) origins: Vec<Origin>,
    /// Environment variables it may read.
    pub(crate) env: BTreeSet<String>,
    /// Files it may read.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Whether it may read clocks.
    pub(crate) clock: bool,
}

impl Access {
    /// Intersects what is asked with what is granted.
    ///
    /// # Errors
    /// `ConfigInvalid` when a granted origin or path makes no sense.
    pub(crate) fn agree(
        manifest: Option<&Manifest>,
        grants: &Grants,
        config: &Json,
    ) -> Result<Self> {
        let mut access = Self {
            origins: grants
                .origins
                .iter()
                .map(|text| Origin::parse(text))
                .collect::<Result<_>>()?,
            env: grants.env.iter().cloned().collect(),
            files: grants.files.iter().cloned().collect(),
            clock: grants.clock,
        };
        if let Some(path) = access.files.iter().find(|path| !path.is_absolute()) {
            return Err(Error::new(
                Kind::ConfigInvalid,
                format!("grants.files: {} is no absolute path", path.display()),
            ));
        }
        if let Some(manifest) = manifest {
            let asks = &manifest.asks;
            let origins = asked_origins(manifest, config)?;
            access.origins.retain(|origin| origins.contains(origin));
            access.env.retain(|name| asks.env.contains(name));
            let files: BTreeSet<PathBuf> = resolved(&asks.files, config).map(Into::into).collect();
            access.files.retain(|path| files.contains(path));
            access.clock &= asks.clock;
        }
        Ok(access)
    }

    /// What was agreed, as the operator would write it.
    pub(crate) fn to_grants(&self) -> Grants {
        Grants {
            origins: self.origins.iter().map(ToString::to_string).collect(),
            env: self.env.iter().cloned().collect(),
            files: self.files.iter().cloned().collect(),
            clock: self.clock,
        }
    }

    /// Everything a manifest asks for, as grants. For plugins that are part of this binary.
    pub(crate) fn everything_asked(manifest: &Manifest, config: &Json) -> Grants {
        Grants {
            origins: resolved(&manifest.asks.origins, config)
                .map(|text| Origin::parse_url(&text).map_or(text, |origin| origin.to_string()))
                .collect(),
            env: manifest.asks.env.clone(),
            files: resolved(&manifest.asks.files, config).map(Into::into).collect(),
            clock: manifest.asks.clock,
        }
    }

    /// Checks one import by its name.
    ///
    /// # Errors
    /// `PluginImportDenied` with the grant that is missing, `PluginVersion` for another track.
    pub(crate) fn check_import(
        &self,
        name: &str,
        world: World,
        manifest: Option<&Manifest>,
    ) -> Result<()> {
        let denied = |why: &str| {
            Err(Error::new(Kind::PluginImportDenied, format!("it imports `{name}`: {why}")))
        };
        let (path, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = path.split_once('/').unwrap_or((path, ""));
        match package {
            "syncline:host" => {
                if !version.starts_with("0.1.") {
                    return Err(Error::new(
                        Kind::PluginVersion,
                        format!("it imports `{name}`; this host offers syncline:host 0.1"),
                    ));
                }
            }
            "wasi:cli" | "wasi:io" | "wasi:clocks" | "wasi:random" | "wasi:filesystem" => {
                return if version.starts_with("0.2.") {
                    Ok(())
                } else {
                    denied("only WASI 0.2 is offered, and only without effect")
                };
            }
            _ => return denied("nothing of this kind is offered to plugins"),
        }
        if matches!(interface, "types" | "log") {
            return Ok(());
        }
        if world == World::DocumentFilter {
            return denied("a document filter may only log");
        }
        let asks = manifest.map(|manifest| &manifest.asks);
        // A manifest that does not ask for it: runtimes of some languages import a whole world. Each
        // call is then refused.
        let (asked, granted, key) = match interface {
            "config" => return Ok(()),
            "clock" => (asks.is_none_or(|asks| asks.clock), self.clock, "clock: true"),
            "env" => {
                (asks.is_none_or(|asks| !asks.env.is_empty()), !self.env.is_empty(), "env: [NAME]")
            }
            "files" => (
                asks.is_none_or(|asks| !asks.files.is_empty()),
                !self.files.is_empty(),
                "files: [/path]",
            ),
            "http" => (
                asks.is_none_or(|asks| !asks.origins.is_empty()),
                !self.origins.is_empty(),
                "origins: [https://host]",
            ),
            _ => return denied("this host's contract 0.1 has no such interface"),
        };
        if granted || !asked {
            return Ok(());
        }
        let asking = manifest.map(asking).unwrap_or_default();
        denied(&format!("grant it in the config file under `grants` as `{key}`{asking}"))
    }
}

/// What the manifest asks for, for the message.
fn asking(manifest: &Manifest) -> String {
    let asks = &manifest.asks;
    let names: Vec<&str> =
        asks.origins.iter().chain(&asks.env).chain(&asks.files).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!("; it asks for {}", names.join(", ")) }
}

/// The origins a manifest asks for.
fn asked_origins(manifest: &Manifest, config: &Json) -> Result<Vec<Origin>> {
    resolved(&manifest.asks.origins, config).map(|text| Origin::parse_url(&text)).collect()
}

/// Puts values in the place of `config.KEY` and `env.NAME`, the latter perhaps behind a scheme; one
/// that is not set asks for nothing.
fn resolved<'a>(entries: &'a [String], config: &'a Json) -> impl Iterator<Item = String> + use<'a> {
    entries.iter().filter_map(move |entry| {
        if let Some(key) = entry.strip_prefix("config.") {
            return config.get(key).and_then(Json::as_str).map(str::to_owned);
        }
        let (scheme, place) = match entry.split_once("://") {
            Some((scheme, place)) => (format!("{scheme}://"), place),
            None => (String::new(), entry.as_str()),
        };
        match place.strip_prefix("env.") {
            Some(name) => {
                let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
                Some(format!("{scheme}{value}"))
            }
            None => Some(entry.clone()),
        }
    })
}
