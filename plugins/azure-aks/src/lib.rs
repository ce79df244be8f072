//! Exchanges the federated token of an AKS workload for a token of Entra ID.
//!
//! Everything comes from the variables that AKS sets, or from the configuration. README.md has the
//! table of answers.

use std::time::Duration;

use serde_json::Value as Json;
use syncline_sdk::{
    Host, IdentityProvider,
    config::ConfigError,
    http::{Request, Response, percent_encode},
    identity::{Credential, Descriptor, Failure, Flow, TokenRequest},
    oauth::{self, Try},
};

/// Entra ID, unless a sovereign cloud's is named.
const AUTHORITY: &str = "https://login.microsoftonline.com";
/// How an assertion of another issuer is presented.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Pauses between tries.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Kept back of the caller's time, to bring the answer home.
const MARGIN: Duration = Duration::from_secs(2);
/// Longest answer and longest federated token, in bytes.
const MAX_BYTES: u32 = 64 * 1024;
/// Who is asked, for messages.
const SERVICE: &str = "Entra ID";

/// The operator's `config`; what is missing comes from the environment.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Instead of `AZURE_TENANT_ID`.
    tenant_id: Option<String>,
    /// Instead of `AZURE_APP_CLIENT_ID`.
    app_client_id: Option<String>,
    /// Instead of `AZURE_CLIENT_ID`.
    client_id: Option<String>,
    /// Instead of `AZURE_FEDERATED_TOKEN_FILE`.
    federated_token_file: Option<String>,
    /// Instead of `AZURE_AUTHORITY_HOST`.
    authority_host: Option<String>,
    /// Instead of `<app client id>/.default`.
    scope: Option<String>,
}

/// The provider.
#[derive(Debug)]
pub struct AzureAks {
    /// The configuration.
    config: Config,
}

impl IdentityProvider for AzureAks {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if let Some(authority) = &config.authority_host
            && !oauth::is_safe_origin(authority.trim_end_matches('/'))
        {
            return Err(ConfigError::new("authorityHost", "expected https:// and a host"));
        }
        if config.tenant_id.as_ref().is_some_and(|tenant| !is_tenant(tenant)) {
            return Err(ConfigError::new("tenantId", "expected letters, digits, dots and dashes"));
        }
        if config.federated_token_file.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err(ConfigError::new("federatedTokenFile", "expected an absolute path"));
        }
        if config.scope.as_ref().is_some_and(|scope| scope.trim().is_empty()) {
            return Err(ConfigError::new("scope", "it is empty"));
        }
        Ok(Self { config })
    }

    fn describe(&self) -> Descriptor {
        let authority = self.config.authority_host.as_deref().unwrap_or(AUTHORITY);
        Descriptor {
            name: "azure-aks".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flows: vec![Flow::Machine],
            origins: vec![authority.trim_end_matches('/').to_owned()],
        }
    }

    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure> {
        if request.flow == Flow::Human {
            return Err(Failure::Unsupported(
                "azure-aks serves workloads; a person needs another plugin".to_owned(),
            ));
        }
        let settings = Settings::gather(host, &self.config)?;
        let end = host.monotonic() + request.timeout.saturating_sub(MARGIN);
        oauth::with_retries(host, end, &PAUSES, || {
            // Read at every try: the kubelet rotates it.
            let assertion = oauth::token_file(host, &settings.token_file, MAX_BYTES)?;
            let mut request = Request::post_form(
                settings.url.clone(),
                &[
                    ("grant_type", "client_credentials"),
                    ("client_id", &settings.client_id),
                    ("client_assertion_type", ASSERTION_TYPE),
                    ("client_assertion", &assertion),
                    ("scope", &settings.scope),
                ],
            );
            request.max_response_bytes = Some(MAX_BYTES);
            match oauth::send(host, request, end, SERVICE)? {
                Try::Done(response) => read(&response, &settings),
                Try::Later { reason, retry_after } => Ok(Try::Later { reason, retry_after }),
            }
        })
    }
}

/// Everything an exchange needs.
struct Settings {
    /// The token endpoint.
    url: String,
    /// The identity that presents the assertion.
    client_id: String,
    /// What the token is for.
    scope: String,
    /// Where the federated token is.
    token_file: String,
}

impl Settings {
    /// Takes each setting from the configuration or from its variable, and names what is missing.
    fn gather(host: &impl Host, config: &Config) -> Result<Self, Failure> {
        let mut missing = Vec::new();
        let mut need = |configured: &Option<String>, variable: &'static str| {
            let value = oauth::setting(host, configured.as_deref(), variable)?;
            if value.is_none() {
                missing.push(variable);
            }
            Ok::<_, Failure>(value.unwrap_or_default())
        };
        let tenant = need(&config.tenant_id, "AZURE_TENANT_ID")?;
        let app = match &config.scope {
            Some(_) => String::new(),
            None => need(&config.app_client_id, "AZURE_APP_CLIENT_ID")?,
        };
        let client_id = need(&config.client_id, "AZURE_CLIENT_ID")?;
        let token_file = need(&config.federated_token_file, "AZURE_FEDERATED_TOKEN_FILE")?;
        if !missing.is_empty() {
            return Err(Failure::Config(format!(
                "not set in the environment: {}",
                missing.join(", ")
            )));
        }
        if !is_tenant(&tenant) {
            return Err(Failure::Config(
                "AZURE_TENANT_ID may hold letters, digits, dots and dashes".to_owned(),
            ));
        }
        let authority =
            oauth::setting(host, config.authority_host.as_deref(), "AZURE_AUTHORITY_HOST")?;
        let authority = authority.as_deref().unwrap_or(AUTHORITY).trim_end_matches('/');
        if !oauth::is_safe_origin(authority) {
            return Err(Failure::Config(
                "AZURE_AUTHORITY_HOST is not https:// and a host".to_owned(),
            ));
        }
        Ok(Self {
            url: format!("{authority}/{}/oauth2/v2.0/token", percent_encode(&tenant)),
            client_id,
            scope: config.scope.clone().unwrap_or_else(|| format!("{app}/.default")),
            token_file,
        })
    }
}

/// Whether text can be a tenant: an id or a domain.
fn is_tenant(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    !text.is_empty() && !text.bytes().all(|byte| byte == b'.') && text.bytes().all(fits)
}

/// Reads an answer. The body of a success is never quoted.
fn read(response: &Response, settings: &Settings) -> Result<Try<Credential>, Failure> {
    match response.status {
        200 => token(&response.body, settings)
            .map(Try::Done)
            .map_err(|problem| Failure::Internal(format!("{SERVICE} answered 200, but {problem}"))),
        408 | 429 | 500 | 502 | 503 | 504 => {
            let error = oauth::error(response);
            let text = error.description.unwrap_or(error.code);
            Ok(Try::Later {
                reason: format!("{SERVICE} answered {}: {text}", response.status),
                retry_after: oauth::retry_after(response),
            })
        }
        status @ 300..=399 => Err(Failure::Internal(format!(
            "{SERVICE} answered with a redirect ({status}), which it never does"
        ))),
        _ => {
            let mut error = oauth::error(response);
            // What follows the first line are ids and times of the request.
            let text = error.description.as_deref().and_then(|text| text.lines().next());
            error.description = text.map(|text| match hint(text) {
                Some(hint) => format!("{text} ({hint})"),
                None => text.to_owned(),
            });
            Err(Failure::Denied(error))
        }
    }
}

/// What to look at, for the usual mistakes.
fn hint(description: &str) -> Option<&'static str> {
    let (code, _) = description.strip_prefix("AADSTS")?.split_once(':')?;
    match code {
        "70021" | "700211" | "700212" | "700213" => {
            Some("issuer, subject or audience of the federated credential differ")
        }
        "700024" => Some("the federated token is outside its life; is this machine's clock right?"),
        "700016" => Some("AZURE_CLIENT_ID is unknown in this tenant"),
        "90002" => Some("AZURE_TENANT_ID is unknown"),
        "500011" => {
            Some("AZURE_APP_CLIENT_ID is unknown; set `scope`, such as api://<id>/.default")
        }
        _ => None,
    }
}

/// The token in a body, or what is wrong with it.
fn token(body: &[u8], settings: &Settings) -> Result<Credential, &'static str> {
    let body: Json = serde_json::from_slice(body).map_err(|_| "its body is no JSON")?;
    let access_token = oauth::access_token(&body)?;
    Ok(Credential {
        access_token,
        expires_in: oauth::seconds(body.get("expires_in")).map(Duration::from_secs),
        refresh_token: None,
        audit: vec![
            ("client_id".to_owned(), settings.client_id.clone()),
            ("scope".to_owned(), settings.scope.clone()),
        ],
    })
}

syncline_sdk::export_identity_provider!(AzureAks);

#[cfg(test)]
mod tests;
