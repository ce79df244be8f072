//! Names and the plugins behind them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::{
    filter::Filter,
    grant::Access,
    identity::Issuer,
    load::{self, Loaded, Loader},
    manifest::Manifest,
};
use crate::{
    error::{Error, Kind, Result},
    model::plugin::{ComponentSource, PluginInfo, PluginSettings, PluginSpec, World},
    ports::{DocumentFilter, Person, TokenIssuer},
};

/// Every loaded plugin. Loading happens at start, and when a connection string asks for an identity
/// provider; the lock is held for a look-up only.
pub struct Registry {
    /// What loading needs.
    loader: Loader,
    /// Loaded plugins by name.
    plugins: Mutex<BTreeMap<String, Plugin>>,
    /// Who can be sent to a login, once somebody is known.
    person: Arc<OnceLock<Arc<dyn Person>>>,
}

/// A loaded plugin.
#[derive(Clone)]
enum Plugin {
    /// A document filter.
    Filter(Arc<Filter>),
    /// An identity provider.
    Issuer(Arc<Issuer>),
}

impl Plugin {
    /// The component.
    fn loaded(&self) -> &Loaded {
        match self {
            Self::Filter(filter) => filter.loaded(),
            Self::Issuer(issuer) => issuer.loaded(),
        }
    }
}

impl Registry {
    /// Loads the plugins of the config file.
    ///
    /// # Errors
    /// Of the first plugin that cannot be used, with its name: `PluginNotFound`,
    /// `PluginNotComponent`, `PluginWrongWorld`, `PluginVersion`, `PluginImportDenied`,
    /// `PluginDigestMismatch`, `PluginConfigInvalid`, `ConfigInvalid`, or what its first call ends
    /// in.
    pub async fn load(specs: Vec<PluginSpec>) -> Result<Self> {
        Self::with(&PluginSettings::default(), specs).await
    }

    /// As [`Self::load`], with keys to check signatures and a place for compiled components.
    ///
    /// # Errors
    /// As [`Self::load`], and `PluginUnsigned`.
    pub async fn with(settings: &PluginSettings, specs: Vec<PluginSpec>) -> Result<Self> {
        let loader = Loader::new(settings)?;
        let registry = Self { loader, plugins: Mutex::default(), person: Arc::default() };
        for spec in specs {
            registry.load_one(spec).await?;
        }
        Ok(registry)
    }

    /// Says who can be sent to a login. The first one stays.
    pub fn introduce(&self, person: Arc<dyn Person>) {
        drop(self.person.set(person));
    }

    /// Loads one more plugin under its name.
    ///
    /// # Errors
    /// As [`Self::load`]; `ConfigInvalid` when the name is taken.
    pub async fn load_one(&self, spec: PluginSpec) -> Result<()> {
        let name = spec.name.clone();
        let taken =
            || Error::new(Kind::ConfigInvalid, format!("plugins: the name `{name}` is used twice"));
        if self.find(&name).is_some() {
            return Err(taken());
        }
        let loaded = load::load(&self.loader, spec).await?;
        let (digest, source) = (loaded.digest.clone(), loaded.source.clone());
        let plugin = match loaded.world {
            World::DocumentFilter => Plugin::Filter(Arc::new(Filter::new(loaded).await?)),
            World::IdentityProvider => {
                Plugin::Issuer(Arc::new(Issuer::new(loaded, Arc::clone(&self.person)).await?))
            }
        };
        let world = plugin.loaded().world.name();
        tracing::info!(plugin = name, world, component = source, digest, "plugin loaded");
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        if plugins.contains_key(&name) {
            return Err(taken());
        }
        plugins.insert(name, plugin);
        Ok(())
    }

    /// What a built-in plugin needs to be loaded without an entry in the config file: everything its
    /// manifest asks for, under its own name.
    ///
    /// # Errors
    /// `PluginNotFound` when nothing of this name is built in.
    pub fn builtin_spec(name: &str, config: serde_json::Value) -> Result<PluginSpec> {
        let builtin = syncline_plugin_bundle::find(name).ok_or_else(|| {
            Error::new(Kind::PluginNotFound, format!("nothing is built in as `{name}`"))
        })?;
        let manifest = Manifest::parse(builtin.manifest, &format!("builtin:{name}"))?;
        Ok(PluginSpec {
            name: manifest.name.clone(),
            component: ComponentSource::Builtin(name.to_owned()),
            digest: None,
            grants: Access::everything_asked(&manifest, &config),
            config,
            limits: manifest.asked_limits(),
        })
    }

    /// A filter by its name. A built-in one that has no entry is loaded without a configuration.
    ///
    /// # Errors
    /// `PluginNotFound`, `PluginWrongWorld`, and those of [`Self::load`] for a built-in one.
    pub async fn filter(&self, name: &str) -> Result<Arc<dyn DocumentFilter>> {
        match self.get(name).await? {
            Plugin::Filter(filter) => Ok(filter),
            Plugin::Issuer(_) => Err(wrong_world(name, World::IdentityProvider)),
        }
    }

    /// An identity provider by its name. A built-in one that has no entry is loaded without a
    /// configuration.
    ///
    /// # Errors
    /// `PluginNotFound`, `PluginWrongWorld`, and those of [`Self::load`] for a built-in one.
    pub async fn issuer(&self, name: &str) -> Result<Arc<dyn TokenIssuer>> {
        match self.get(name).await? {
            Plugin::Issuer(issuer) => Ok(issuer),
            Plugin::Filter(_) => Err(wrong_world(name, World::DocumentFilter)),
        }
    }

    /// What is loaded, by name.
    pub fn info(&self) -> Vec<PluginInfo> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins
            .values()
            .map(|plugin| {
                let loaded = plugin.loaded();
                let (instances, counters, namespaces) = match plugin {
                    Plugin::Filter(filter) => {
                        (filter.instances(), filter.counters(), filter.namespaces())
                    }
                    Plugin::Issuer(issuer) => (issuer.instances(), issuer.counters(), Vec::new()),
                };
                PluginInfo {
                    name: loaded.shared.name.clone(),
                    world: loaded.world,
                    version: loaded.version.clone(),
                    contract_version: loaded.contract.clone(),
                    component: loaded.source.clone(),
                    digest: loaded.digest.clone(),
                    grants: loaded.shared.access.to_grants(),
                    instances,
                    counters,
                    namespaces,
                }
            })
            .collect()
    }

    /// A loaded plugin.
    fn find(&self, name: &str) -> Option<Plugin> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// A loaded plugin, or a built-in one that is loaded now.
    async fn get(&self, name: &str) -> Result<Plugin> {
        if let Some(plugin) = self.find(name) {
            return Ok(plugin);
        }
        if syncline_plugin_bundle::find(name).is_some() {
            let config = serde_json::Value::Object(serde_json::Map::new());
            let loaded = self.load_one(Self::builtin_spec(name, config)?).await;
            // Somebody else may have loaded it meanwhile.
            return match self.find(name) {
                Some(plugin) => Ok(plugin),
                None => Err(loaded.err().unwrap_or_else(|| not_found(name, &[]))),
            };
        }
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<&str> = plugins.keys().map(String::as_str).collect();
        for name in syncline_plugin_bundle::names() {
            names.push(name);
        }
        Err(not_found(name, &names))
    }
}

/// The error for a name that means nothing.
fn not_found(name: &str, known: &[&str]) -> Error {
    let nearest = known
        .iter()
        .filter(|known| strsim::damerau_levenshtein(known, name) <= 2)
        .map(|known| format!("; did you mean `{known}`?"))
        .next()
        .unwrap_or_default();
    Error::new(
        Kind::PluginNotFound,
        format!("there is no plugin `{name}`, neither under `plugins:` nor built in{nearest}"),
    )
}

/// The error for a plugin of the other world.
fn wrong_world(name: &str, world: World) -> Error {
    let wanted = match world {
        World::DocumentFilter => World::IdentityProvider,
        World::IdentityProvider => World::DocumentFilter,
    };
    Error::new(
        Kind::PluginWrongWorld,
        format!("plugin `{name}` is a {}, a {} is needed here", world.name(), wanted.name()),
    )
}
