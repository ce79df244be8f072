//! The sections `plugins:`, `filters:` and `identity:` of the config file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use url::Url;

use super::{
    IdentityConfig, IdentityOverride, namespaces,
    problems::{Case, Fields, Problems, nearest},
};
use crate::model::{
    options::{FilterSpec, OnError},
    plugin::{ComponentSource, Grants, LimitOverrides, PluginSpec, SecretSource},
};

/// Bounds of `limits.memoryBytes`: one page of linear memory to the address space of a guest.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=4 * 1024 * 1024 * 1024;
/// Bounds of `limits.deadlineMs`: a millisecond to ten minutes.
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1..=600_000;
/// Bounds of `limits.httpBodyBytes` and `limits.fileBytes`: a byte to 64 MiB.
const BODY_BYTES: std::ops::RangeInclusive<u64> = 1..=64 * 1024 * 1024;
/// Prefix of a component that is embedded in the binary.
const BUILTIN: &str = "builtin:";

/// What the sections say.
#[derive(Debug, Default)]
pub(super) struct Sections {
    /// `plugins:`
    pub(super) plugins: Vec<PluginSpec>,
    /// `filters:`
    pub(super) filters: Vec<FilterSpec>,
    /// `identity:`
    pub(super) identity: IdentityConfig,
    /// `federation:`, as it stands; the room of that name checks it.
    pub(super) federation: Option<Value>,
    /// `trustedKeys:`
    pub(super) trusted_keys: Vec<String>,
    /// `pluginCache:`
    pub(super) cache: CachePlace,
}

/// Where compiled plugins are kept.
#[derive(Debug, Default)]
pub(super) enum CachePlace {
    /// In the user's cache folder.
    #[default]
    Usual,
    /// Nowhere.
    None,
    /// In this folder.
    Folder(PathBuf),
}

impl CachePlace {
    /// The folder, if there is one.
    pub(super) fn folder(self, env: &BTreeMap<String, String>) -> Option<PathBuf> {
        let absolute =
            |name: &str| env.get(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
        match self {
            Self::None => None,
            Self::Folder(folder) => Some(folder),
            Self::Usual => absolute("XDG_CACHE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
                .map(|folder| folder.join("syncline/plugins")),
        }
    }
}

impl Sections {
    /// Keys of the sections at the top of the file.
    pub(super) const KEYS: [&'static str; 6] =
        ["plugins", "filters", "identity", "federation", "trustedKeys", "pluginCache"];

    /// Reads them; relative paths are taken from `base`, the file's directory.
    pub(super) fn read(root: &Fields<'_>, base: &Path, problems: &mut Problems) -> Self {
        let plugins = plugins(root.list("plugins", problems), base, problems);
        let filters = filters(root.list("filters", problems), &plugins, problems);
        let identity =
            root.get("identity").map(|value| identity(value, problems)).unwrap_or_default();
        let trusted_keys = root.texts("trustedKeys", problems);
        let cache = match root.text("pluginCache", problems) {
            None => CachePlace::Usual,
            Some("none") => CachePlace::None,
            Some(folder) => CachePlace::Folder(base.join(folder)),
        };
        let federation = root.get("federation").cloned();
        Self { plugins, filters, identity, federation, trusted_keys, cache }
    }
}

/// Reads `plugins:`.
fn plugins(items: &[Value], base: &Path, problems: &mut Problems) -> Vec<PluginSpec> {
    let mut specs: Vec<PluginSpec> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("plugins[{index}]");
        let Some(spec) = plugin(item, &place, base, problems) else { continue };
        if specs.iter().any(|other| other.name == spec.name) {
            problems.add(&place, format!("the name `{}` is taken by another plugin", spec.name));
        }
        specs.push(spec);
    }
    specs
}

/// Reads one entry of `plugins:`.
fn plugin(item: &Value, place: &str, base: &Path, problems: &mut Problems) -> Option<PluginSpec> {
    const KEYS: &[&str] = &["name", "component", "digest", "config", "grants", "limits"];
    let fields = Fields::open(item, place, KEYS, Case::Exact, problems)?;
    let name = plugin_name(&fields, "name", problems);
    let component = component(&fields, base, problems);
    let digest = fields.text("digest", problems).and_then(|text| {
        let digest = digest(text);
        if digest.is_none() {
            problems.add(&fields.at("digest"), "expected sha256: and 64 hexadecimal digits");
        }
        digest
    });
    let config =
        fields.get("config").cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let grants = fields
        .get("grants")
        .map(|value| grants(value, &fields.at("grants"), problems))
        .unwrap_or_default();
    let limits = fields
        .get("limits")
        .map(|value| limits(value, &fields.at("limits"), problems))
        .unwrap_or_default();
    Some(PluginSpec { name: name?, component: component?, digest, config, grants, limits })
}

/// A plugin's name: letters, digits, `-` and `_`.
fn plugin_name(fields: &Fields<'_>, key: &'static str, problems: &mut Problems) -> Option<String> {
    if fields.get(key).is_none() {
        problems.add(fields.place(), format!("`{key}` is missing"));
        return None;
    }
    let name = fields.text(key, problems)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        problems.add(&fields.at(key), "a name has 1 to 64 letters, digits, `-` or `_`");
        return None;
    }
    Some(name.to_owned())
}

/// `builtin:NAME` or a path.
fn component(fields: &Fields<'_>, base: &Path, problems: &mut Problems) -> Option<ComponentSource> {
    if fields.get("component").is_none() {
        problems.add(fields.place(), "`component` is missing: builtin:NAME or a path");
        return None;
    }
    let text = fields.text("component", problems)?;
    match text.strip_prefix(BUILTIN) {
        Some("") => {
            problems.add(&fields.at("component"), "names no plugin after `builtin:`");
            None
        }
        Some(name) => Some(ComponentSource::Builtin(name.to_owned())),
        None if text.is_empty() => {
            problems.add(&fields.at("component"), "is empty");
            None
        }
        None => Some(ComponentSource::File(base.join(text))),
    }
}

/// The hexadecimal digits of `sha256:…`, in lower case.
fn digest(text: &str) -> Option<String> {
    let digits = text.strip_prefix("sha256:")?;
    (digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| digits.to_ascii_lowercase())
}

/// Reads `grants:`.
fn grants(value: &Value, place: &str, problems: &mut Problems) -> Grants {
    const KEYS: &[&str] = &["origins", "env", "files", "secrets", "clock", "interaction"];
    let Some(fields) = Fields::open(value, place, KEYS, Case::Exact, problems) else {
        return Grants::default();
    };
    let mut origins = Vec::new();
    for (index, text) in fields.texts("origins", problems).iter().enumerate() {
        match origin(text) {
            Some(origin) => origins.push(origin),
            None => problems.add(
                &format!("{}[{index}]", fields.at("origins")),
                "expected http:// or https://, a host and perhaps a port, and no more",
            ),
        }
    }
    let env = fields.texts("env", problems);
    if env.iter().any(|name| name.contains(['=', '\0'])) {
        problems.add(&fields.at("env"), "expected names of environment variables");
    }
    let files: Vec<PathBuf> =
        fields.texts("files", problems).into_iter().map(PathBuf::from).collect();
    if files.iter().any(|path| !path.is_absolute()) {
        problems.add(&fields.at("files"), "expected absolute paths");
    }
    let secrets = fields
        .get("secrets")
        .map(|value| secrets(value, &fields.at("secrets"), problems))
        .unwrap_or_default();
    let clock = fields.switch("clock", problems).unwrap_or(false);
    let interaction = fields.switch("interaction", problems).unwrap_or(false);
    Grants { origins, env, files, secrets, clock, interaction }
}

/// Reads `grants.secrets`: names to where the values stand, never the values themselves.
fn secrets(value: &Value, place: &str, problems: &mut Problems) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    let Some(entries) = value.as_object() else {
        problems.add(place, "expected a mapping of names to env:NAME or file:/PATH");
        return secrets;
    };
    for (name, source) in entries {
        let source = source.as_str().unwrap_or_default();
        let source = match (source.strip_prefix("env:"), source.strip_prefix("file:")) {
            (Some(name), _) if !name.is_empty() && !name.contains(['=', '\0']) => {
                SecretSource::Env(name.to_owned())
            }
            (_, Some(path)) if Path::new(path).is_absolute() => SecretSource::File(path.into()),
            _ => {
                problems.add(
                    &format!("{place}.{name}"),
                    "expected env:NAME or file:/PATH, which hold the secret",
                );
                continue;
            }
        };
        secrets.insert(name.clone(), source);
    }
    secrets
}

/// `scheme://host[:port]` in its canonical form.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let bare = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && bare).then(|| url.origin().ascii_serialization())
}

/// Reads `limits:`.
fn limits(value: &Value, place: &str, problems: &mut Problems) -> LimitOverrides {
    const KEYS: &[&str] = &[
        "memoryBytes",
        "deadlineMs",
        "tableElements",
        "logLinesPerSecond",
        "httpRequests",
        "httpAtOnce",
        "httpTimeoutMs",
        "httpBodyBytes",
        "fileBytes",
    ];
    let Some(fields) = Fields::open(value, place, KEYS, Case::Exact, problems) else {
        return LimitOverrides::default();
    };
    let mut count = |name: &str, bounds| {
        fields.number(name, bounds, problems).and_then(|number| u32::try_from(number).ok())
    };
    let (log_lines, http_requests, http_at_once) = (
        count("logLinesPerSecond", 0..=10_000),
        count("httpRequests", 1..=1_000),
        count("httpAtOnce", 1..=64),
    );
    LimitOverrides {
        memory_bytes: fields.number("memoryBytes", MEMORY_BYTES, problems),
        deadline: fields.number("deadlineMs", DEADLINE_MS, problems).map(Duration::from_millis),
        table_elements: fields.number("tableElements", 1..=10_000, problems),
        log_lines,
        http_requests,
        http_at_once,
        http_timeout: fields
            .number("httpTimeoutMs", DEADLINE_MS, problems)
            .map(Duration::from_millis),
        http_body_bytes: fields.number("httpBodyBytes", BODY_BYTES, problems),
        file_bytes: fields.number("fileBytes", BODY_BYTES, problems),
    }
}

/// Reads `filters:`.
fn filters(items: &[Value], plugins: &[PluginSpec], problems: &mut Problems) -> Vec<FilterSpec> {
    let known: Vec<&str> = plugins.iter().map(|spec| spec.name.as_str()).collect();
    let mut specs = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let place = format!("filters[{index}]");
        let Some(fields) = Fields::open(
            item,
            &place,
            &["namespaces", "plugins", "onError"],
            Case::Exact,
            problems,
        ) else {
            continue;
        };
        for key in ["namespaces", "plugins"] {
            if fields.get(key).is_none_or(|list| list.as_array().is_some_and(Vec::is_empty)) {
                problems.add(&place, format!("`{key}` is missing or empty"));
            }
        }
        let namespaces = namespaces::parse(
            fields.list("namespaces", problems),
            &fields.at("namespaces"),
            Case::Exact,
            problems,
        );
        let names = fields.texts("plugins", problems);
        for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
            let hint = nearest(name, &known).map_or_else(
                || "add it under `plugins:`".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            problems.add(&fields.at("plugins"), format!("no plugin is named `{name}`, {hint}"));
        }
        let on_error = match fields.text("onError", problems) {
            None | Some("stop") => OnError::Stop,
            Some("quarantine") => OnError::Quarantine,
            Some(_) => {
                problems.add(&fields.at("onError"), "expected stop or quarantine");
                OnError::Stop
            }
        };
        specs.push(FilterSpec { namespaces, plugins: names, on_error });
    }
    specs
}

/// Reads `identity:`.
fn identity(value: &Value, problems: &mut Problems) -> IdentityConfig {
    const KEYS: &[&str] = &["azureImdsEndpoint", "browser", "redirectUri", "cluster0", "cluster1"];
    let Some(fields) = Fields::open(value, "identity", KEYS, Case::Exact, problems) else {
        return IdentityConfig::default();
    };
    let azure_imds_endpoint = fields.text("azureImdsEndpoint", problems).and_then(|text| {
        let origin = origin(text);
        if origin.is_none() {
            problems.add(
                &fields.at("azureImdsEndpoint"),
                "expected http:// or https://, a host and perhaps a port, and no more",
            );
        }
        origin
    });
    let browser = fields.text("browser", problems).map(str::to_owned);
    let redirect_uri = fields.text("redirectUri", problems).map(str::to_owned);
    let cluster0 = fields
        .get("cluster0")
        .and_then(|value| identity_override(value, &fields.at("cluster0"), problems));
    let cluster1 = fields
        .get("cluster1")
        .and_then(|value| identity_override(value, &fields.at("cluster1"), problems));
    IdentityConfig { azure_imds_endpoint, browser, redirect_uri, cluster0, cluster1 }
}

/// Reads the override of one cluster.
fn identity_override(
    value: &Value,
    place: &str,
    problems: &mut Problems,
) -> Option<IdentityOverride> {
    const KEYS: &[&str] = &["plugin", "config", "grants", "tokenResource", "allowedHosts"];
    let fields = Fields::open(value, place, KEYS, Case::Exact, problems)?;
    let plugin = match fields.get("plugin") {
        Some(_) => plugin_name(&fields, "plugin", problems),
        None => None,
    };
    let config = fields.get("config").cloned();
    let grants = fields.get("grants").map(|value| grants(value, &fields.at("grants"), problems));
    let token_resource = fields.text("tokenResource", problems).map(str::to_owned);
    if token_resource.as_ref().is_some_and(String::is_empty) {
        problems.add(&fields.at("tokenResource"), "is empty");
    }
    let allowed_hosts = fields.get("allowedHosts").is_some().then(|| {
        let hosts = fields.texts("allowedHosts", problems);
        if hosts.is_empty() || !hosts.iter().all(|host| is_host_pattern(host)) {
            problems.add(
                &fields.at("allowedHosts"),
                "expected names of hosts without ports, or `*.` and a domain",
            );
        }
        hosts
    });
    Some(IdentityOverride { plugin, config, grants, token_resource, allowed_hosts })
}

/// Whether text names a host, or everything below a domain.
fn is_host_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_name = !name.is_empty()
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
        });
    is_name || text.parse::<std::net::Ipv6Addr>().is_ok()
}
