//! What the operator's file says of plugins, and what the host reports of them.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

/// Where a component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentSource {
    /// Embedded in the binary, by name (`builtin:match-documents`).
    Builtin(String),
    /// A file.
    File(PathBuf),
}

/// The kind of work a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum World {
    /// Keeps, drops or replaces documents.
    DocumentFilter,
    /// Yields tokens.
    IdentityProvider,
}

impl World {
    /// Name of the world in the WIT package.
    pub fn name(self) -> &'static str {
        match self {
            Self::DocumentFilter => "document-filter",
            Self::IdentityProvider => "identity-provider",
        }
    }
}

/// Where the value of a secret stands. It is read whenever it is used, so that it can be rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file, whose content without the line break at its end is the secret.
    File(PathBuf),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// What the operator lets a plugin do; empty means nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Origins (`https://login.example.com`, `http://169.254.169.254`) it may call.
    pub origins: Vec<String>,
    /// Environment variables it may read.
    pub env: Vec<String>,
    /// Files it may read, by absolute path.
    pub files: Vec<PathBuf>,
    /// Secrets that the host puts in place for it, by the name the plugin uses. It never reads them.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Whether it may read clocks.
    pub clock: bool,
    /// Whether it may send a person to a login.
    pub interaction: bool,
}

/// Limits the operator changed; `None` leaves the default of the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitOverrides {
    /// Linear memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Time for one call.
    pub deadline: Option<Duration>,
    /// Elements of each of its tables.
    pub table_elements: Option<u64>,
    /// Lines in the log per second.
    pub log_lines: Option<u32>,
    /// HTTP requests in one call.
    pub http_requests: Option<u32>,
    /// HTTP requests under way at once.
    pub http_at_once: Option<u32>,
    /// Time for one HTTP request.
    pub http_timeout: Option<Duration>,
    /// Longest HTTP body, either way, in bytes.
    pub http_body_bytes: Option<u64>,
    /// Longest file that is read, in bytes.
    pub file_bytes: Option<u64>,
}

/// What holds for every plugin of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginSettings {
    /// Minisign keys. When there are any, a component from a file needs a signature by one of them.
    pub trusted_keys: Vec<String>,
    /// Folder of compiled components; `None` compiles at every start.
    pub cache: Option<PathBuf>,
}

/// One entry of `plugins:` in the config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginSpec {
    /// Name by which filters and connection strings refer to it.
    pub name: String,
    /// The component.
    pub component: ComponentSource,
    /// Expected SHA-256 in lowercase hex, when the operator pins one.
    pub digest: Option<String>,
    /// The plugin's own configuration.
    pub config: serde_json::Value,
    /// What it may do.
    pub grants: Grants,
    /// Changed limits.
    pub limits: LimitOverrides,
}

/// Counters of a loaded plugin since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PluginCounters {
    /// Calls made.
    pub calls: u64,
    /// Calls that ended in an error.
    pub errors: u64,
    /// Documents kept as they are.
    pub kept: u64,
    /// Documents dropped.
    pub dropped: u64,
    /// Documents replaced.
    pub replaced: u64,
    /// Half of the calls took no longer than this, in microseconds.
    pub p50_micros: u64,
    /// All but one of a hundred calls took no longer than this, in microseconds.
    pub p99_micros: u64,
}

/// What became of the documents of a collection in one filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceCounters {
    /// The collection; `others` stands for all beyond those that are counted each by itself.
    pub namespace: String,
    /// Documents kept as they are.
    pub kept: u64,
    /// Documents dropped.
    pub dropped: u64,
    /// Documents replaced.
    pub replaced: u64,
    /// Documents that could not pass, and calls that ended in an error.
    pub errors: u64,
}

/// A document in quarantine.
#[derive(Debug, Clone)]
pub struct Quarantined {
    /// Where it comes from, by its name on the source.
    pub namespace: String,
    /// `{_id: …}`
    pub id: bson::RawDocumentBuf,
    /// The filter that it cannot pass.
    pub plugin: String,
    /// Code of the error.
    pub code: String,
    /// Why.
    pub reason: String,
    /// The document; `None` when it is too large to be kept.
    pub document: Option<bson::RawDocumentBuf>,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Documents that are on the destination now.
    pub written: u64,
    /// Documents that the filters drop.
    pub dropped: u64,
    /// Documents that still cannot pass.
    pub refused: u64,
    /// Documents that stay because the destination holds another one of their `_id`.
    pub present: u64,
}

/// What the host reports of a loaded plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginInfo {
    /// Name in the config file, or the built-in's name.
    pub name: String,
    /// What it does.
    pub world: World,
    /// Its own version, as its manifest says.
    pub version: Option<String>,
    /// Version of the contract it was built for.
    pub contract_version: String,
    /// Path or `builtin:…`.
    pub component: String,
    /// SHA-256 of the component in lowercase hex.
    pub digest: String,
    /// What it was granted.
    pub grants: Grants,
    /// Live instances.
    pub instances: usize,
    /// What it did so far.
    pub counters: PluginCounters,
    /// What a filter did so far, by collection.
    pub namespaces: Vec<NamespaceCounters>,
}
