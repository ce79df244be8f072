//! How the API is reached and who may use it.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;

use super::{names::Layer, problems::Problems};

/// The API's listener and its federation.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiConfig {
    /// Address to listen on.
    pub bind_ip: IpAddr,
    /// PEM file with certificate and key.
    pub certificate: Option<PathBuf>,
    /// PEM file with the authorities whose clients' certificates are demanded.
    pub client_ca: Option<PathBuf>,
    /// The `federation:` section, as it stands.
    pub federation: Option<serde_json::Value>,
    /// File in which the API keeps the federation.
    pub federation_file: Option<PathBuf>,
    /// File for decisions about requests.
    pub audit_log: Option<PathBuf>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            bind_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            certificate: None,
            client_ca: None,
            federation: None,
            federation_file: None,
            audit_log: None,
        }
    }
}

/// Checks the options about the API.
pub(super) fn check(
    values: &Layer,
    federation: Option<serde_json::Value>,
    problems: &mut Problems,
) -> ApiConfig {
    let mut config = ApiConfig { federation, ..ApiConfig::default() };
    if let Some(given) = values.get("bindIp") {
        match given.text.expose_secret().parse() {
            Ok(address) => config.bind_ip = address,
            Err(_) => problems.add(&given.origin, "expected an IP address"),
        }
    }
    config.certificate = existing("tlsCertificateKeyFile", values, problems);
    config.client_ca = existing("tlsCAFile", values, problems);
    config.federation_file = path("federationFile", values, problems);
    config.audit_log = path("auditLog", values, problems);
    if config.client_ca.is_some() && config.certificate.is_none() {
        problems.add("tlsCAFile", "needs tlsCertificateKeyFile");
    }
    if config.federation.is_some() && config.federation_file.is_some() {
        problems.add("federationFile", "the config file has a `federation:` already");
    }
    let is_federated = config.federation.is_some() || config.federation_file.is_some();
    if !config.bind_ip.is_loopback() && (config.certificate.is_none() || !is_federated) {
        problems.add(
            "bindIp",
            "off loopback the API needs TLS (tlsCertificateKeyFile) and a federation",
        );
    }
    config
}

/// A path.
fn path(name: &'static str, values: &Layer, problems: &mut Problems) -> Option<PathBuf> {
    let given = values.get(name)?;
    let text = given.text.expose_secret();
    if text.is_empty() {
        problems.add(&given.origin, "is empty");
        return None;
    }
    Some(Path::new(text).to_owned())
}

/// The path of a file that is there.
fn existing(name: &'static str, values: &Layer, problems: &mut Problems) -> Option<PathBuf> {
    let path = path(name, values, problems)?;
    if !path.is_file() {
        problems.add(name, format!("{} is no file", path.display()));
    }
    Some(path)
}
