//! What a plugin may do: what it asks for and the operator grants. Without a manifest what it imports
//! is taken for what it asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde_json::Value as Json;

use super::{egress::Origin, manifest::Manifest};
use crate::{
    error::{Error, Kind, Result},
    model::plugin::{Grants, SecretSource, World},
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
    /// Secrets the host puts in place for it.
    pub(crate) secrets: BTreeMap<String, SecretSource>,
    /// Whether it may read clocks.
    pub(crate) clock: bool,
    /// Whether it may send a person to a login.
    pub(crate) interaction: bool,
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
        let access = Self {
            origins: grants
                .origins
                .iter()
                .map(|text| Origin::parse(text))
                .collect::<Result<_>>()?,
            env: grants.env.iter().cloned().collect(),
            files: grants.files.iter().cloned().collect(),
            secrets: grants.secrets.clone(),
            clock: grants.clock,
            interaction: grants.interaction,
        };
        if let Some(path) = access.files.iter().find(|path| !path.is_absolute()) {
            return Err(Error::new(
                Kind::ConfigInvalid,
                format!("grants.files: {} is no absolute path", path.display()),
            ));
        }
        if let Some(manifest) = manifest {
            access.check_asked(manifest, config)?;
        }
        Ok(access)
    }

    /// Checks that nothing is granted that the manifest does not ask for: either the operator means
    /// another plugin, or the plugin's author forgot to say what it does.
    fn check_asked(&self, manifest: &Manifest, config: &Json) -> Result<()> {
        let asks = &manifest.asks;
        let origins = asked_origins(manifest, config)?;
        let files: BTreeSet<PathBuf> = resolved(&asks.files, config).map(Into::into).collect();
        let origin = self.origins.iter().find(|granted| !origins.contains(granted));
        let env = self.env.iter().find(|granted| !asks.env.contains(granted));
        let file = self.files.iter().find(|granted| !files.contains(*granted));
        let secret = self.secrets.keys().find(|granted| !asks.secrets.contains(granted));
        let clock = (self.clock && !asks.clock).then_some("true");
        let person = (self.interaction && !asks.interaction).then_some("true");
        let excess = [
            ("origins", origin.map(ToString::to_string)),
            ("env", env.cloned()),
            ("files", file.map(|path| path.display().to_string())),
            ("secrets", secret.cloned()),
            ("clock", clock.map(ToOwned::to_owned)),
            ("interaction", person.map(ToOwned::to_owned)),
        ];
        let Some((key, granted)) =
            excess.into_iter().find_map(|(key, granted)| Some((key, granted?)))
        else {
            return Ok(());
        };
        Err(Error::new(
            Kind::PluginImportDenied,
            format!(
                "`grants.{key}` has {granted}, which its manifest does not ask for; take it away, \
                 or have it added there under `[asks]` as `{key}`"
            ),
        ))
    }

    /// What was agreed, as the operator would write it.
    pub(crate) fn to_grants(&self) -> Grants {
        Grants {
            origins: self.origins.iter().map(ToString::to_string).collect(),
            env: self.env.iter().cloned().collect(),
            files: self.files.iter().cloned().collect(),
            secrets: self.secrets.clone(),
            clock: self.clock,
            interaction: self.interaction,
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
            // Where a secret stands is for the operator to say.
            secrets: BTreeMap::new(),
            clock: manifest.asks.clock,
            interaction: manifest.asks.interaction,
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
            "wasi:cli" | "wasi:io" | "wasi:clocks" | "wasi:random" | "wasi:filesystem"
            | "wasi:sockets" => {
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
            "interaction" => {
                (asks.is_none_or(|asks| asks.interaction), self.interaction, "interaction: true")
            }
            "env" => {
                (asks.is_none_or(|asks| !asks.env.is_empty()), !self.env.is_empty(), "env: [NAME]")
            }
            "files" => (
                asks.is_none_or(|asks| !asks.files.is_empty()),
                !self.files.is_empty(),
                "files: [/path]",
            ),
            "secrets" => (
                asks.is_none_or(|asks| !asks.secrets.is_empty()),
                !self.secrets.is_empty(),
                "secrets: { NAME: env:VARIABLE }",
            ),
            "http" => (
                asks.is_none_or(|asks| !asks.origins.is_empty()),
                // A person's issuer is not known before the call.
                !self.origins.is_empty() || self.interaction,
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
    let names: Vec<&str> = [&asks.origins, &asks.env, &asks.files, &asks.secrets]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
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
