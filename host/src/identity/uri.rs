//! Connection strings: which of them ask for `MONGODB-OIDC`, from which provider, and the string
//! that the driver gets instead.
//!
//! The driver refuses `ENVIRONMENT:azure` without `TOKEN_RESOURCE` and knows no plugins, so the
//! provider's properties are read here and taken out before the driver parses the rest. Everything
//! else of the string goes through byte for byte; the driver judges it.

use std::fmt;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    error::{Error, Kind, Result},
    identity::hosts,
    model::{options::ClusterLabel, token::Flow},
};

/// The mechanism's name in a connection string.
const MECHANISM: &str = "MONGODB-OIDC";
/// Property that names the provider.
const ENVIRONMENT: &str = "ENVIRONMENT";
/// Property that names the audience.
const TOKEN_RESOURCE: &str = "TOKEN_RESOURCE";
/// `ENVIRONMENT` values that begin so name a plugin.
const PLUGIN_PREFIX: &str = "plugin:";
/// The plugin that logs people in.
pub const WORKFORCE: &str = "workforce-oidc";
/// The plugin of the AKS form of `ENVIRONMENT:azure`.
pub const AKS: &str = "azure-aks";
/// What it needs: variables, and the keys of its configuration that do as well.
const AKS_SETTINGS: [(&str, &[&str]); 4] = [
    ("AZURE_TENANT_ID", &["tenantId"]),
    ("AZURE_APP_CLIENT_ID", &["appClientId", "scope"]),
    ("AZURE_CLIENT_ID", &["clientId"]),
    ("AZURE_FEDERATED_TOKEN_FILE", &["federatedTokenFile"]),
];
/// Options (in lower case) whose values are replaced in [`ClusterUri::redacted`].
const SECRET_OPTIONS: [&str; 3] =
    ["tlscertificatekeyfilepassword", "sslclientcertificatekeypassword", "proxypassword"];
/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";

/// A cluster's connection string, taken apart as far as a sync needs it.
#[derive(Clone)]
pub struct ClusterUri {
    /// Which option it came from.
    pub label: ClusterLabel,
    /// What the driver parses: the given string, without the identity provider's properties.
    pub driver_uri: SecretString,
    /// The given string without passwords; safe in logs.
    pub redacted: String,
    /// Hosts as written, with their ports; for `mongodb+srv` the one name.
    pub hosts: Vec<String>,
    /// Whether the connections use TLS.
    pub tls: bool,
    /// Set when the string asks for `MONGODB-OIDC`.
    pub oidc: Option<OidcSpec>,
}

impl fmt::Debug for ClusterUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterUri")
            .field("label", &self.label.name())
            .field("uri", &self.redacted)
            .field("oidc", &self.oidc)
            .finish_non_exhaustive()
    }
}

/// What a connection string says about the tokens of its connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcSpec {
    /// The plugin that yields them.
    pub plugin: String,
    /// `TOKEN_RESOURCE`: for whom the tokens are issued.
    pub audience: Option<String>,
    /// User name of the string (a managed identity's client id, or what a plugin makes of it).
    pub principal: Option<String>,
    /// Machine or human.
    pub flow: Flow,
    /// Hosts that may see a token: names, or `*.` and a domain for everything below it.
    pub allowed_hosts: Vec<String>,
    /// All other properties, by name, and `ENVIRONMENT`.
    pub extra: Vec<(String, String)>,
}

/// What the configuration says about a cluster's tokens, in the place of its connection string.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides<'a> {
    /// The plugin that yields them.
    pub plugin: Option<&'a str>,
    /// For whom they are issued.
    pub audience: Option<&'a str>,
    /// Hosts that may see one.
    pub allowed_hosts: Option<&'a [String]>,
    /// The configuration that [`AKS`] would get; what it says is not asked of the environment.
    pub aks: Option<&'a serde_json::Value>,
}

impl ClusterUri {
    /// Parses a connection string, without a configuration beside it; see [`Self::parse_with`].
    ///
    /// # Errors
    /// As [`Self::parse_with`].
    pub fn parse(
        label: ClusterLabel,
        uri: &SecretString,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        Self::parse_with(label, uri, Overrides::default(), env)
    }

    /// Parses a connection string. `env` looks up environment variables; nothing else is read.
    ///
    /// # Errors
    /// `UriInvalid` when the string is malformed or its OIDC properties contradict each other or a
    /// variable they need is missing. No error shows any part of the string in front of the options.
    pub fn parse_with(
        label: ClusterLabel,
        uri: &SecretString,
        overrides: Overrides<'_>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let parts = Parts::split(uri.expose_secret()).map_err(|e| e.at(label.name()))?;
        let hosts = parts.hosts().map_err(|e| e.at(label.name()))?;
        let oidc = parts.oidc(&hosts, overrides, env).map_err(|e| e.at(label.name()))?;
        let driver_uri = match &oidc {
            Some(oidc) => parts.without_provider(oidc.flow),
            None => uri.expose_secret().to_owned(),
        };
        Ok(Self {
            label,
            driver_uri: SecretString::from(driver_uri),
            redacted: parts.redacted(),
            tls: parts.tls(),
            hosts,
            oidc,
        })
    }

    /// Whether the hosts come from DNS, so that [`Self::hosts`] holds the name to look up.
    pub fn is_srv(&self) -> bool {
        self.redacted.starts_with("mongodb+srv://")
    }
}

/// A connection string, split but not decoded.
struct Parts<'a> {
    /// `mongodb` or `mongodb+srv`.
    scheme: &'a str,
    /// User name, if there is one.
    user: Option<&'a str>,
    /// Password, if a colon follows the user name.
    password: Option<&'a str>,
    /// Hosts, divided by commas.
    hosts: &'a str,
    /// What follows the hosts' slash, and whether there was one.
    database: Option<&'a str>,
    /// Options as written.
    options: Vec<(&'a str, &'a str)>,
}

/// A `UriInvalid` error.
fn invalid(detail: impl Into<String>) -> Error {
    Error::new(Kind::UriInvalid, detail)
}

impl<'a> Parts<'a> {
    /// Splits at the same characters as the driver.
    fn split(uri: &'a str) -> Result<Self> {
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| {
            invalid("the connection string does not begin with mongodb:// or mongodb+srv://")
        })?;
        if !matches!(scheme, "mongodb" | "mongodb+srv") {
            return Err(invalid(
                "the connection string does not begin with mongodb:// or mongodb+srv://",
            ));
        }
        let (front, query) = match rest.split_once('?') {
            Some((front, query)) => (front, Some(query)),
            None => (rest, None),
        };
        let (userinfo, place) = match front.rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, front),
        };
        let (user, password) = match userinfo.map(|text| (text, text.split_once(':'))) {
            Some((_, Some((user, password)))) => (Some(user), Some(password)),
            Some((user, None)) => (Some(user), None),
            None => (None, None),
        };
        let (hosts, database) = match place.split_once('/') {
            Some((hosts, database)) => (hosts, Some(database)),
            None => (place, None),
        };
        let mut options = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            // The text is not shown: a password with a bare `?` would end up here.
            options.push(pair.split_once('=').ok_or_else(|| {
                invalid(
                    "an option of the connection string is not key=value; if the user name or \
                     the password holds one of : / ? # [ ] @ %, percent-encode it",
                )
            })?);
        }
        Ok(Self { scheme, user, password, hosts, database, options })
    }

    /// The hosts as written, checked for shape. Only their position is shown: a badly encoded
    /// password can end up among them.
    fn hosts(&self) -> Result<Vec<String>> {
        let hosts: Vec<String> = self.hosts.split(',').map(str::to_owned).collect();
        for (index, host) in hosts.iter().enumerate() {
            if !hosts::is_well_formed(host) {
                return Err(invalid(format!(
                    "host {} of {} in the connection string is not a host or host:port; if the \
                     user name or the password holds one of : / ? # [ ] @ %, percent-encode it",
                    index + 1,
                    hosts.len()
                )));
            }
        }
        Ok(hosts)
    }

    /// The decoded value of an option, which may be given once.
    fn option(&self, name: &str) -> Result<Option<String>> {
        let mut values = self.options.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let first = values.next();
        if values.next().is_some() {
            return Err(invalid(format!("the connection string gives {name} more than once")));
        }
        first.map(|(_, value)| decode(value, name)).transpose()
    }

    /// Whether the driver will use TLS: asked for, or the default of `mongodb+srv`.
    fn tls(&self) -> bool {
        let given = self
            .options
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case("tls") || key.eq_ignore_ascii_case("ssl"));
        match given {
            Some((_, value)) => *value == "true",
            None => self.scheme == "mongodb+srv",
        }
    }

    /// What the string says about OIDC; `None` when it asks for another mechanism.
    fn oidc(
        &self,
        hosts: &[String],
        overrides: Overrides<'_>,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Option<OidcSpec>> {
        let Some(mechanism) = self.option("authMechanism")? else { return Ok(None) };
        if mechanism != MECHANISM {
            if mechanism.eq_ignore_ascii_case(MECHANISM) {
                return Err(invalid(format!("authMechanism has to be written {MECHANISM}")));
            }
            return Ok(None);
        }
        if self.password.is_some() {
            return Err(invalid(format!("{MECHANISM} takes no password; remove it")));
        }
        if self.option("authSource")?.is_some_and(|source| source != "$external") {
            return Err(invalid(format!("authSource has to be $external with {MECHANISM}")));
        }
        let principal = match self.user {
            None | Some("") => None,
            Some(user) => Some(decode(user, "user name")?),
        };
        let properties = match self.option("authMechanismProperties")? {
            Some(text) => properties(&text)?,
            None => Vec::new(),
        };
        let audience = overrides.audience.or_else(|| property(&properties, TOKEN_RESOURCE));
        let plugin = match overrides.plugin {
            Some(plugin) => plugin.to_owned(),
            None => choose(&properties, audience, overrides.aks, env)?,
        };
        let allowed_hosts = match overrides.allowed_hosts {
            Some(patterns) => patterns.to_vec(),
            None => hosts::default_patterns(hosts, self.scheme == "mongodb+srv"),
        };
        // The server tells a person's client where to log in; a workload's does not ask.
        let is_person = plugin == WORKFORCE && property(&properties, ENVIRONMENT).is_none();
        Ok(Some(OidcSpec {
            plugin,
            audience: audience.map(str::to_owned),
            principal,
            flow: if is_person { Flow::Human } else { Flow::Machine },
            allowed_hosts,
            extra: properties.into_iter().filter(|(name, _)| name != TOKEN_RESOURCE).collect(),
        }))
    }

    /// The string without provider properties and a workload's user name. A person's name goes to the
    /// server, which picks the identity provider by it.
    fn without_provider(&self, flow: Flow) -> String {
        let name = match (flow, self.user) {
            (Flow::Human, Some(user)) if !user.is_empty() => format!("{user}@"),
            _ => String::new(),
        };
        self.render(&name, |key, value| {
            (!key.eq_ignore_ascii_case("authMechanismProperties")).then(|| value.to_owned())
        })
    }

    /// The string without secrets.
    fn redacted(&self) -> String {
        // A bare `?` in a password moves the rest of it, and the `@`, behind the hosts.
        let displaced = |(key, value): &(&str, &str)| key.contains('@') || value.contains('@');
        if self.user.is_none() && self.options.iter().any(displaced) {
            return format!("{}://{REDACTED}", self.scheme);
        }
        let userinfo = match (self.user, self.password) {
            (None, _) => String::new(),
            (Some(user), None) => format!("{user}@"),
            (Some(user), Some(_)) => format!("{user}:{REDACTED}@"),
        };
        self.render(&userinfo, |key, value| {
            if SECRET_OPTIONS.contains(&key.to_ascii_lowercase().as_str()) {
                return Some(REDACTED.to_owned());
            }
            if key.eq_ignore_ascii_case("authMechanismProperties")
                && value.to_ascii_uppercase().contains("AWS_SESSION_TOKEN")
            {
                return Some(REDACTED.to_owned());
            }
            Some(value.to_owned())
        })
    }

    /// Puts the string together again; `value` says what each option becomes, `None` drops it.
    fn render(&self, userinfo: &str, value: impl Fn(&str, &str) -> Option<String>) -> String {
        let mut text = format!("{}://{userinfo}{}", self.scheme, self.hosts);
        let options: Vec<String> = self
            .options
            .iter()
            .filter_map(|(key, given)| value(key, given).map(|value| format!("{key}={value}")))
            .collect();
        if let Some(database) = self.database {
            text.push('/');
            text.push_str(database);
        } else if !options.is_empty() {
            text.push('/');
        }
        if !options.is_empty() {
            text.push('?');
            text.push_str(&options.join("&"));
        }
        text
    }
}

/// Percent-decodes once, as the driver does.
fn decode(text: &str, what: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| invalid(format!("the {what} of the connection string is not UTF-8")))
}

/// Splits the decoded properties at commas, and each at its first colon.
fn properties(text: &str) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for piece in text.split(',') {
        let Some((name, value)) = piece.split_once(':') else {
            return Err(invalid(format!(
                "authMechanismProperties: \"{piece}\" is not NAME:value (a value cannot hold a \
                 comma in a connection string, not even an encoded one)"
            )));
        };
        if matches!(name, "ALLOWED_HOSTS" | "OIDC_CALLBACK" | "OIDC_HUMAN_CALLBACK") {
            return Err(invalid(format!(
                "authMechanismProperties: {name} cannot be given in a connection string"
            )));
        }
        if found.iter().any(|(known, _)| known == name) {
            return Err(invalid(format!("authMechanismProperties: {name} is given twice")));
        }
        found.push((name.to_owned(), value.to_owned()));
    }
    Ok(found)
}

/// The value of a property.
fn property<'p>(properties: &'p [(String, String)], name: &str) -> Option<&'p str> {
    properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Chooses the plugin that yields the tokens.
fn choose(
    properties: &[(String, String)],
    resource: Option<&str>,
    aks: Option<&serde_json::Value>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String> {
    let environment = property(properties, ENVIRONMENT);
    if let Some(plugin) = environment.and_then(|value| value.strip_prefix(PLUGIN_PREFIX)) {
        return plugin_name(plugin);
    }
    if let Some((name, _)) =
        properties.iter().find(|(name, _)| name != ENVIRONMENT && name != TOKEN_RESOURCE)
    {
        return Err(invalid(format!(
            "authMechanismProperties: {name} is not a property of {MECHANISM}; there are \
             ENVIRONMENT and TOKEN_RESOURCE, in capitals"
        )));
    }
    if resource == Some("") {
        return Err(invalid("authMechanismProperties: TOKEN_RESOURCE is empty"));
    }
    match (environment, resource) {
        (Some("azure"), Some(_)) => Ok("azure-imds".to_owned()),
        (Some("azure"), None) => {
            let is_configured = |key: &&str| {
                let value = aks.and_then(|config| config.get(key)?.as_str());
                value.is_some_and(|value| !value.is_empty())
            };
            let (missing, keys): (Vec<&str>, Vec<&str>) = AKS_SETTINGS
                .into_iter()
                .filter(|(name, keys)| {
                    env(name).is_none_or(|value| value.is_empty())
                        && !keys.iter().any(is_configured)
                })
                .filter_map(|(name, keys)| Some((name, *keys.first()?)))
                .unzip();
            if missing.is_empty() {
                return Ok(AKS.to_owned());
            }
            Err(invalid(format!(
                "ENVIRONMENT:azure without TOKEN_RESOURCE is the identity of an AKS workload, \
                 which needs the environment variable{} {}; `config` of the cluster's `identity` \
                 may say it too ({}); on a virtual machine give TOKEN_RESOURCE",
                if missing.len() == 1 { "" } else { "s" },
                missing.join(", "),
                keys.join(", ")
            )))
        }
        (Some("gcp"), Some(_)) => Ok("gcp".to_owned()),
        (Some("gcp"), None) => Err(invalid("ENVIRONMENT:gcp needs TOKEN_RESOURCE:<audience>")),
        (Some("k8s" | "test") | None, Some(_)) => Err(invalid(
            "TOKEN_RESOURCE needs ENVIRONMENT:azure, ENVIRONMENT:gcp or ENVIRONMENT:plugin:<name>",
        )),
        (Some("k8s"), None) => Ok("token-file".to_owned()),
        (None, None) => Ok(WORKFORCE.to_owned()),
        (Some(other), _) => Err(invalid(format!(
            "ENVIRONMENT:{other} is unknown; there are azure, gcp, k8s and plugin:<name>"
        ))),
    }
}

/// Checks the name behind `ENVIRONMENT:plugin:`.
fn plugin_name(name: &str) -> Result<String> {
    let fits = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if !fits {
        return Err(invalid(
            "ENVIRONMENT:plugin:<name> needs a name of letters, digits, -, _ and dots",
        ));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
#[path = "uri_tests.rs"]
mod tests;
