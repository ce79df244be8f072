//! From a file of an author to a loaded plugin.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Kind, Result},
    model::{
        author::{Inspection, ManifestFacts, Subject},
        plugin::{
            ComponentSource, Grants, LimitOverrides, PluginSettings, PluginSpec, SecretSource,
        },
    },
    plugin::{
        grant::Access,
        inspect as names,
        load::{self, Loaded, Loader},
        manifest::Manifest,
    },
};

/// Folders above a component in which its manifest is looked for: enough for
/// `target/wasm32-wasip2/release` in a project.
const FOLDERS: usize = 5;
/// Variable that stands for every secret a plugin asks for.
const SECRET: &str = "SYNCLINE_PLUGIN_SECRET";

/// Reads what a file says of itself. Nothing is compiled.
///
/// # Errors
/// `PluginNotFound`, `PluginNotComponent`, `PluginWrongWorld`, `PluginVersion`, `ConfigInvalid`.
pub fn inspect(subject: &Subject) -> Result<Inspection> {
    let (bytes, manifest, component) = load::read(&subject.component)?;
    let manifest = override_of(subject)?.or(manifest);
    let interfaces = names::interfaces(&bytes)?;
    let (world, contract) = load::exported_world(&interfaces.exports)?;
    Ok(Inspection {
        component,
        world,
        contract,
        digest: load::digest(&bytes),
        bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        imports: interfaces.imports,
        manifest: manifest.map(|manifest| facts(&manifest)),
    })
}

/// What a manifest says.
fn facts(manifest: &Manifest) -> ManifestFacts {
    let asks = &manifest.asks;
    let number = |value: Option<u64>| value.map(|value| value.to_string()).into_iter().collect();
    let asks: Vec<(&'static str, Vec<String>)> = [
        ("origins", asks.origins.clone()),
        ("env", asks.env.clone()),
        ("files", asks.files.clone()),
        ("secrets", asks.secrets.clone()),
        ("clock", asks.clock.then(|| "true".to_owned()).into_iter().collect()),
        ("interaction", asks.interaction.then(|| "true".to_owned()).into_iter().collect()),
        ("memoryBytes", number(asks.memory_bytes)),
        ("deadlineMs", number(asks.deadline_ms)),
    ]
    .into_iter()
    .filter(|(_, entries): &(_, Vec<String>)| !entries.is_empty())
    .collect();
    ManifestFacts {
        name: manifest.name.clone(),
        version: manifest.version.to_string(),
        description: manifest.description.clone(),
        licence: manifest.licence.clone(),
        asks,
    }
}

/// The manifest that stands elsewhere than where the daemon looks: named, or in a folder above.
fn override_of(subject: &Subject) -> Result<Option<Manifest>> {
    manifest_of(subject)
        .filter(|path| !is_beside(subject, path))
        .map(|p| Manifest::read(&p))
        .transpose()
}

/// Whether the daemon would find this manifest by itself.
fn is_beside(subject: &Subject, manifest: &Path) -> bool {
    subject.manifest.is_none()
        && matches!(&subject.component, ComponentSource::File(path)
            if Manifest::place_beside(path).is_some_and(|place| place == manifest))
}

/// Where the manifest stands: named, beside the component, or in a folder above it.
fn manifest_of(subject: &Subject) -> Option<PathBuf> {
    if subject.manifest.is_some() {
        return subject.manifest.clone();
    }
    let ComponentSource::File(path) = &subject.component else { return None };
    if let Some(place) = Manifest::place_beside(path) {
        return Some(place);
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let mut above = path.ancestors().skip(2).take(FOLDERS);
    above.find_map(|folder| Some(folder.join("plugin.toml")).filter(|place| place.is_file()))
}

/// Where an author keeps golden files: `tests/golden` beside the manifest.
pub(super) fn golden_folder(subject: &Subject) -> Option<PathBuf> {
    let manifest = manifest_of(subject)?;
    Some(manifest.parent()?.join("tests/golden")).filter(|folder| folder.is_dir())
}

/// A plugin that is loaded with what it asks for.
pub(super) struct Candidate {
    /// The plugin.
    pub(super) loaded: Loaded,
    /// Its manifest.
    pub(super) manifest: Option<Manifest>,
    /// Its configuration.
    pub(super) config: serde_json::Value,
}

/// Loads a plugin with what it asks for. Secrets have no values.
///
/// # Errors
/// As [`load::load`].
pub(super) async fn load(subject: &Subject, settings: &PluginSettings) -> Result<Candidate> {
    let (_, manifest, place) = load::read(&subject.component)?;
    let manifest = override_of(subject)?.or(manifest);
    let grants = match &manifest {
        Some(manifest) => Grants {
            secrets: manifest
                .asks
                .secrets
                .iter()
                .map(|name| (name.clone(), SecretSource::Env(SECRET.to_owned())))
                .collect::<BTreeMap<_, _>>(),
            ..Access::everything_asked(manifest, &subject.config)
        },
        None => Grants::default(),
    };
    let limits = manifest.as_ref().map_or_else(LimitOverrides::default, Manifest::asked_limits);
    let spec = PluginSpec {
        name: manifest.as_ref().map_or_else(|| file_name(&place), |found| found.name.clone()),
        component: subject.component.clone(),
        digest: None,
        config: subject.config.clone(),
        grants,
        limits,
    };
    let loader = Loader::new(settings)?;
    let loaded = load::load_with(&loader, spec, manifest.clone()).await?;
    Ok(Candidate { loaded, manifest, config: subject.config.clone() })
}

/// A name for a plugin that has none.
fn file_name(place: &str) -> String {
    Path::new(place).file_stem().map_or_else(|| "plugin".to_owned(), |s| s.to_string_lossy().into())
}

/// An error about a plugin that is used for what it is not.
pub(super) fn only_filters() -> Error {
    Error::new(Kind::PluginWrongWorld, "this is for document filters; a provider judges nothing")
}
