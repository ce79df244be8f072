//! From a file to something that can be instantiated: bytes, digest, exports, imports, compilation,
//! in this order, so that nothing unchecked is compiled and nothing ungranted is linked.

use std::{path::Path, sync::Arc};

use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use wasmtime::{
    Engine,
    component::{Component, HasSelf, InstancePre, Linker},
};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;

use super::{
    bindings::v0_1,
    cache::{self, Cache},
    context::{Guest, Shared},
    engine::Engines,
    grant::Access,
    inspect,
    limits::{Limits, MAX_COMPONENT_BYTES},
    manifest::Manifest,
    signature,
};
use crate::{
    error::{Error, Kind, Result},
    model::plugin::{ComponentSource, PluginSettings, PluginSpec, World},
};

/// A component that is checked, compiled and linked.
pub(crate) struct Loaded {
    /// What its instances share.
    pub(crate) shared: Arc<Shared>,
    /// What it does.
    pub(crate) world: World,
    /// Version of the contract it was built for.
    pub(crate) contract: String,
    /// Its own version, as its manifest says.
    pub(crate) version: Option<String>,
    /// Path or `builtin:…`.
    pub(crate) source: String,
    /// SHA-256 in lowercase hex.
    pub(crate) digest: String,
    /// Ready to be instantiated.
    pub(crate) pre: InstancePre<Guest>,
}

impl Loaded {
    /// The same component with another configuration.
    pub(crate) fn with_config(&self, config: &Json) -> Self {
        let shared = &self.shared;
        Self {
            shared: Arc::new(Shared::new(
                shared.name.clone(),
                shared.limits.clone(),
                shared.access.clone(),
                canonical(config),
            )),
            world: self.world,
            contract: self.contract.clone(),
            version: self.version.clone(),
            source: self.source.clone(),
            digest: self.digest.clone(),
            pre: self.pre.clone(),
        }
    }
}

/// What loading needs besides an entry of the config file.
#[derive(Clone)]
pub(crate) struct Loader {
    /// What components run on.
    engines: Engines,
    /// Keys that signatures are checked with.
    trusted_keys: Arc<[String]>,
    /// Compiled components.
    cache: Option<Arc<Cache>>,
}

impl Loader {
    /// Builds the engines and opens the cache.
    ///
    /// # Errors
    /// `Internal` when this machine can run no engine.
    pub(crate) fn new(settings: &PluginSettings) -> Result<Self> {
        Ok(Self {
            engines: Engines::new()?,
            trusted_keys: settings.trusted_keys.as_slice().into(),
            cache: settings.cache.as_deref().and_then(Cache::open).map(Arc::new),
        })
    }
}

/// Loads a plugin.
///
/// # Errors
/// `PluginNotFound`, `PluginDigestMismatch`, `PluginUnsigned`, `PluginNotComponent`, `PluginWrongWorld`,
/// `PluginVersion`, `PluginImportDenied`, `ConfigInvalid`, each with the plugin's name.
pub(crate) async fn load(loader: &Loader, spec: PluginSpec) -> Result<Loaded> {
    load_with(loader, spec, None).await
}

/// As [`load`], with a manifest that stands elsewhere than beside the component.
///
/// # Errors
/// As [`load`].
pub(crate) async fn load_with(
    loader: &Loader,
    spec: PluginSpec,
    manifest: Option<Manifest>,
) -> Result<Loaded> {
    let loader = loader.clone();
    let name = spec.name.clone();
    // Reading and compiling take from milliseconds to seconds.
    let loaded = tokio::task::spawn_blocking(move || load_blocking(&loader, spec, manifest)).await;
    match loaded {
        Ok(loaded) => loaded.map_err(|error| error.at(format!("plugin `{name}`"))),
        Err(error) => Err(Error::new(Kind::Internal, format!("plugin `{name}`: loading crashed"))
            .caused_by(error)),
    }
}

/// What [`load`] does, on a thread of its own.
fn load_blocking(loader: &Loader, spec: PluginSpec, elsewhere: Option<Manifest>) -> Result<Loaded> {
    let (bytes, beside, source) = read(&spec.component)?;
    let manifest = elsewhere.or(beside);
    let digest = digest(&bytes);
    check_digest(spec.digest.as_deref(), &digest)?;
    if let ComponentSource::File(path) = &spec.component {
        signature::check(&loader.trusted_keys, path, &bytes)?;
    }
    let interfaces = inspect::interfaces(&bytes)?;
    let (world, contract) = exported_world(&interfaces.exports)?;
    if let Some(manifest) = &manifest {
        manifest.check_world(world)?;
    }
    let config = match spec.config {
        Json::Null => Json::Object(serde_json::Map::new()),
        Json::Object(_) => spec.config,
        _ => return Err(Error::new(Kind::PluginConfigInvalid, "`config` is no mapping")),
    };
    let access = Access::agree(manifest.as_ref(), &spec.grants, &config)?;
    for import in &interfaces.imports {
        access.check_import(import, world, manifest.as_ref())?;
    }
    let limits = Limits::new(world, &spec.limits);
    if let Some(manifest) = &manifest {
        manifest.check_limits(&limits)?;
        manifest.check_config(&config)?;
    }
    let pre = compile(loader, world, &bytes, &digest)?;
    let version = manifest.map(|manifest| manifest.version.to_string());
    let shared = Arc::new(Shared::new(spec.name, limits, access, canonical(&config)));
    Ok(Loaded { shared, world, contract, version, source, digest, pre })
}

/// SHA-256 in lowercase hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Gets the bytes, the manifest and the name of the place.
///
/// # Errors
/// `PluginNotFound`, `PluginNotComponent`, `ConfigInvalid`.
pub(crate) fn read(source: &ComponentSource) -> Result<(Vec<u8>, Option<Manifest>, String)> {
    match source {
        ComponentSource::Builtin(name) => {
            let place = format!("builtin:{name}");
            let builtin = syncline_plugin_bundle::find(name).ok_or_else(|| {
                let names: Vec<_> = syncline_plugin_bundle::names().collect();
                let message =
                    format!("nothing is built in as `{name}`; there are {}", names.join(", "));
                Error::new(Kind::PluginNotFound, message)
            })?;
            let manifest = Manifest::parse(builtin.manifest, &place)?;
            Ok((builtin.component.to_vec(), Some(manifest), place))
        }
        ComponentSource::File(path) => {
            let place = path.display().to_string();
            Ok((read_file(path)?, Manifest::beside(path)?, place))
        }
    }
}

/// Reads a component file of a bearable size.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error: std::io::Error| {
        Error::new(Kind::PluginNotFound, format!("cannot read {}", path.display())).caused_by(error)
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let message = format!("{} is no file", path.display());
        return Err(Error::new(Kind::PluginNotFound, message));
    }
    if metadata.len() > MAX_COMPONENT_BYTES {
        return Err(Error::new(
            Kind::PluginNotComponent,
            format!("{} is larger than {MAX_COMPONENT_BYTES} bytes", path.display()),
        ));
    }
    std::fs::read(path).map_err(unreadable)
}

/// Compares the digest with the one the operator pinned.
fn check_digest(expected: Option<&str>, found: &str) -> Result<()> {
    let Some(expected) = expected else { return Ok(()) };
    let expected = expected.strip_prefix("sha256:").unwrap_or(expected);
    if expected.eq_ignore_ascii_case(found) {
        return Ok(());
    }
    Err(Error::new(
        Kind::PluginDigestMismatch,
        format!("its SHA-256 is {found}, the config file says {expected}"),
    ))
}

/// Finds out which world a component implements, and for which version of the contract.
///
/// # Errors
/// `PluginWrongWorld`, `PluginVersion`.
pub(crate) fn exported_world(exports: &[String]) -> Result<(World, String)> {
    let mut worlds = Vec::new();
    for export in exports {
        let Some((interface, version)) =
            export.strip_prefix("syncline:plugin/").and_then(|rest| rest.split_once('@'))
        else {
            continue;
        };
        let world = match interface {
            "filter" => World::DocumentFilter,
            "identity" => World::IdentityProvider,
            _ => continue,
        };
        let spoken = semver::Version::parse(version).ok().filter(|v| (v.major, v.minor) == (0, 1));
        if spoken.is_none() {
            return Err(Error::new(
                Kind::PluginVersion,
                format!("it was built for syncline:plugin {version}; this host speaks 0.1"),
            ));
        }
        worlds.push((world, version.to_owned()));
    }
    match (worlds.pop(), worlds.is_empty()) {
        (Some(world), true) => Ok(world),
        (Some(_), false) => Err(Error::new(
            Kind::PluginWrongWorld,
            "it is both a document filter and an identity provider; a plugin is one thing",
        )),
        (None, _) => Err(Error::new(
            Kind::PluginWrongWorld,
            if exports.is_empty() {
                "it exports nothing".to_owned()
            } else {
                format!("it exports neither filter nor identity, but {}", exports.join(", "))
            },
        )),
    }
}

/// Compiles and links.
fn compile(
    loader: &Loader,
    world: World,
    bytes: &[u8],
    digest: &str,
) -> Result<InstancePre<Guest>> {
    let engine = match world {
        World::DocumentFilter => &loader.engines.filter,
        World::IdentityProvider => &loader.engines.identity,
    };
    let component = component(engine, loader.cache.as_deref(), bytes, digest)?;
    let linker = linker(engine, world)
        .map_err(|error| Error::new(Kind::Internal, "the host's functions").caused_by(error))?;
    let pre = linker.instantiate_pre(&component).map_err(|error| {
        Error::new(
            Kind::PluginImportDenied,
            "it imports a function that this host's contract 0.1 does not have",
        )
        .caused_by(error)
    })?;
    let types = match world {
        World::DocumentFilter => v0_1::filter::DocumentFilterPre::new(pre.clone()).map(drop),
        World::IdentityProvider => v0_1::identity::IdentityProviderPre::new(pre.clone()).map(drop),
    };
    types.map_err(|error| {
        Error::new(Kind::PluginWrongWorld, "what it exports differs from the contract 0.1")
            .caused_by(error)
    })?;
    Ok(pre)
}

/// Takes a compiled component out of the cache, or compiles it and keeps it there.
fn component(
    engine: &Engine,
    cache: Option<&Cache>,
    bytes: &[u8],
    digest: &str,
) -> Result<Component> {
    let key = cache::key(engine, digest);
    if let Some(code) = cache.and_then(|cache| cache.get(&key)) {
        // SAFETY: the code comes out of a file that only this user can write, under a name made of
        // the component's digest and all that the engine's code depends on, and its sum is right:
        // it is what `serialize` gave us below.
        #[allow(unsafe_code, reason = "the only way to load compiled components")]
        let loaded = unsafe { Component::deserialize(engine, &code) };
        match loaded {
            Ok(component) => return Ok(component),
            Err(error) => tracing::warn!(%error, key, "a compiled plugin cannot be used"),
        }
    }
    let component = Component::from_binary(engine, bytes).map_err(|error| {
        Error::new(Kind::PluginNotComponent, "it cannot be compiled").caused_by(error)
    })?;
    if let Some(cache) = cache {
        match component.serialize() {
            Ok(code) => cache.put(&key, &code),
            Err(error) => tracing::warn!(%error, key, "a compiled plugin cannot be kept"),
        }
    }
    Ok(component)
}

/// The functions a world may import. What a plugin was not granted is not reached: its name has
/// been checked, and each call checks again.
fn linker(engine: &Engine, world: World) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    // Pauses are ours.
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
    linker.allow_shadowing(false);
    match world {
        World::DocumentFilter => {
            v0_1::filter::DocumentFilter::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)
        }
        World::IdentityProvider => {
            v0_1::identity::IdentityProvider::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| {
                guest
            })
        }
    }?;
    Ok(linker)
}

/// JSON with sorted keys and no spaces, so that equal configurations have equal texts.
fn canonical(value: &Json) -> String {
    match value {
        Json::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            let fields: Vec<String> = fields
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Json::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}
