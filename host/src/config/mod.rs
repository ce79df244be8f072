//! What the operator asked for: read from three layers, checked once, correct after.
//!
//! Flags win over the environment, the environment over the file. Everything that is wrong is
//! reported in one error. Connection strings are secrets from the first moment on.
//!
//! Invariant: this room does no I/O but to read the config file and the files that `file:` names.

mod api;
mod check;
mod file;
pub(crate) mod names;
pub(crate) mod namespaces;
mod plugins;
pub(crate) mod problems;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use secrecy::SecretString;

pub use crate::telemetry::log::Verbosity;
pub use api::ApiConfig;
pub use names::Layer;

use crate::{
    error::{Error, Kind, Result},
    model::{
        options::{ClusterLabel, FilterSpec, HotDocument},
        plugin::{Grants, PluginSettings, PluginSpec},
    },
};

/// Port of the API when none is given.
pub const DEFAULT_PORT: u16 = 27182;
/// Metadata database when none is given.
const DEFAULT_METADATA_DATABASE: &str = "syncline_metadata";

/// How a cluster gets its tokens, where that differs from what its connection string implies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityOverride {
    /// Name of a plugin: of `plugins:` or built in.
    pub plugin: Option<String>,
    /// Its configuration for this cluster, when it differs from that of `plugins:`.
    pub config: Option<serde_json::Value>,
    /// Its grants for this cluster, when they differ from those of `plugins:`.
    pub grants: Option<Grants>,
    /// The audience, in the place of `TOKEN_RESOURCE`; here it may hold a comma.
    pub token_resource: Option<String>,
    /// Hosts that may see a token, in the place of those of the connection string.
    pub allowed_hosts: Option<Vec<String>>,
}

/// The `identity:` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Where Azure's metadata service answers, instead of its fixed address; for tests and proxies.
    pub azure_imds_endpoint: Option<String>,
    /// What opens a browser for a person who logs in to a cluster: a program, `print` or `none`.
    pub browser: Option<String>,
    /// Where that browser comes back to.
    pub redirect_uri: Option<String>,
    /// Override for cluster0.
    pub cluster0: Option<IdentityOverride>,
    /// Override for cluster1.
    pub cluster1: Option<IdentityOverride>,
}

impl IdentityConfig {
    /// The override of a cluster.
    pub fn of(&self, cluster: ClusterLabel) -> Option<&IdentityOverride> {
        match cluster {
            ClusterLabel::Cluster0 => self.cluster0.as_ref(),
            ClusterLabel::Cluster1 => self.cluster1.as_ref(),
        }
    }
}

/// A checked configuration. Its `Debug` shows no connection string.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connection string of cluster0.
    pub cluster0: SecretString,
    /// Connection string of cluster1.
    pub cluster1: SecretString,
    /// Port of the API; 0 lets the system choose.
    pub port: u16,
    /// Directory of the log; `None` logs to stdout.
    pub log_path: Option<PathBuf>,
    /// Directory of the metrics file; `None` writes none.
    pub metrics_path: Option<PathBuf>,
    /// How much is logged.
    pub verbosity: Verbosity,
    /// How hard the sync works, 1 to 4; `None` leaves it to the sync.
    pub load_level: Option<u8>,
    /// Database on the destination that holds what is needed to resume.
    pub metadata_database: String,
    /// Id of this process in logs and progress: `--id`, or a random one.
    pub instance_id: String,
    /// Documents whose changes are skipped until the commit.
    pub hot_documents: Vec<HotDocument>,
    /// Most indexes in one `createIndexes`, when the operator says so.
    pub create_indexes_batch_size: Option<u8>,
    /// Whether a sync that is taken up goes on without verification.
    pub is_verification_disabled: bool,
    /// Plugins of the file.
    pub plugins: Vec<PluginSpec>,
    /// What holds for all of them.
    pub plugin_settings: PluginSettings,
    /// Which namespaces go through which plugins.
    pub filters: Vec<FilterSpec>,
    /// Identity plugins.
    pub identity: IdentityConfig,
    /// How the API is reached and who may use it.
    pub api: ApiConfig,
}

impl Config {
    /// Reads and checks all three layers.
    ///
    /// `flags` come from the command line, `file` from `--config`; `env` is the environment.
    ///
    /// # Errors
    /// `ConfigInvalid` with every problem found.
    pub fn load(flags: Layer, file: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Self> {
        let mut problems = problems::Problems::new();
        let path =
            file.map(Path::to_owned).or_else(|| env.get(names::CONFIG_ENV).map(PathBuf::from));
        let file = path.map(|path| file::read(&path, &mut problems)).unwrap_or_default();
        let mut values = file.values;
        values.overlay(Layer::of_environment(env));
        values.overlay(flags);
        let config = check::check(&values, file.sections, env, &mut problems);
        problems.finish(
            Kind::ConfigInvalid,
            "the configuration is invalid",
            problems::Layout::Lines,
        )?;
        Ok(config)
    }

    /// Logs what is configured, without connection strings and without what plugins are told.
    pub fn log_summary(&self) {
        let plugins: Vec<&str> = self.plugins.iter().map(|spec| spec.name.as_str()).collect();
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "version info");
        tracing::info!(
            port = self.port,
            verbosity = ?self.verbosity,
            load_level = self.load_level,
            metadata_database = self.metadata_database,
            plugins = plugins.join(","),
            filters = self.filters.len(),
            "options"
        );
    }

    /// The connection string of a cluster.
    pub fn uri(&self, cluster: ClusterLabel) -> &SecretString {
        match cluster {
            ClusterLabel::Cluster0 => &self.cluster0,
            ClusterLabel::Cluster1 => &self.cluster1,
        }
    }
}

/// The `plugins:` of a config file and what holds for all of them; the rest of the file must make sense,
/// but connection strings may be missing.
///
/// # Errors
/// `ConfigInvalid` with every problem found.
pub fn plugins_of(
    file: &Path,
    env: &BTreeMap<String, String>,
) -> Result<(Vec<PluginSpec>, PluginSettings)> {
    let mut problems = problems::Problems::new();
    let sections = file::read(file, &mut problems).sections;
    problems.finish(
        Kind::ConfigInvalid,
        "the configuration is invalid",
        problems::Layout::Lines,
    )?;
    let settings =
        PluginSettings { trusted_keys: sections.trusted_keys, cache: sections.cache.folder(env) };
    Ok((sections.plugins, settings))
}

/// What holds for plugins when no config file says otherwise.
pub fn plugin_settings(env: &BTreeMap<String, String>) -> PluginSettings {
    let cache = plugins::CachePlace::default().folder(env);
    PluginSettings { trusted_keys: Vec::new(), cache }
}

/// A plugin's own configuration: a JSON object, or the path of a YAML or JSON file that holds one.
///
/// # Errors
/// `ConfigInvalid` with what it is instead.
pub fn plugin_block(text: &str) -> Result<serde_json::Value> {
    file::block(text).map_err(|fault| Error::new(Kind::ConfigInvalid, format!("--config: {fault}")))
}

/// The environment of the process; what is no Unicode is made so.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
        .collect()
}

/// Port of the API for the client commands: the environment's, or the default.
///
/// # Errors
/// `ConfigInvalid` when the environment holds no port.
pub fn client_port(env: &BTreeMap<String, String>) -> Result<u16> {
    let mut problems = problems::Problems::new();
    let port = check::port(&Layer::of_environment(env), &mut problems);
    problems.finish(Kind::ConfigInvalid, "the environment is invalid", problems::Layout::Lines)?;
    Ok(port)
}
