//! Reads a token that something else keeps fresh in a file: a Kubernetes service account's, or any
//! mounted one. The file is opened by its path at every call, so a rotation is seen at once.

use syncline_sdk::{
    Host, IdentityProvider,
    config::ConfigError,
    identity::{Credential, Descriptor, Failure, Flow, TokenRequest},
    oauth,
};

/// Variables that name the file, the first that is set counts.
const VARIABLES: [&str; 2] = ["AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"];
/// Where Kubernetes mounts the token of a pod's service account.
const KUBERNETES: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// Longest file, in bytes.
const MAX_FILE: u32 = 64 * 1024;

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
pub struct Config {
    /// Absolute path of the file.
    path: Option<String>,
}

/// The provider.
#[derive(Debug)]
pub struct TokenFile {
    /// The file of the configuration.
    path: Option<String>,
}

impl IdentityProvider for TokenFile {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err(ConfigError::new("path", "expected an absolute path"));
        }
        Ok(Self { path: config.path })
    }

    fn describe(&self) -> Descriptor {
        Descriptor {
            name: "token-file".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flows: vec![Flow::Machine],
            origins: Vec::new(),
        }
    }

    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure> {
        if request.flow == Flow::Human {
            return Err(Failure::Unsupported(
                "token-file serves workloads; a person needs another plugin".to_owned(),
            ));
        }
        let path = self.path(host)?;
        let access_token = oauth::token_file(host, &path, MAX_FILE)?;
        // The host reads the life of the token from the token.
        Ok(Credential {
            access_token,
            expires_in: None,
            refresh_token: None,
            audit: vec![("file".to_owned(), path)],
        })
    }
}

impl TokenFile {
    /// The file to read.
    fn path(&self, host: &impl Host) -> Result<String, Failure> {
        if let Some(path) = &self.path {
            return Ok(path.clone());
        }
        for variable in VARIABLES {
            if let Some(path) = oauth::setting(host, None, variable)? {
                return Ok(path);
            }
        }
        Ok(KUBERNETES.to_owned())
    }
}

syncline_sdk::export_identity_provider!(TokenFile);

#[cfg(test)]
mod tests;
