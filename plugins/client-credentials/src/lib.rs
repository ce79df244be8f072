//! Gets tokens from any OAuth 2 token endpoint with the client's own credentials (RFC 6749, section
//! 4.4): a client secret, or a JWT signed with a private key (RFC 7523). The host holds the secret
//! and the key; this plugin knows their names. README.md has the configuration and the table of
//! answers.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use serde_json::{Value as Json, json};
use syncline_sdk::{
    Host, HostError, IdentityProvider,
    config::ConfigError,
    http::{Request, Response},
    identity::{Credential, Descriptor, Failure, Flow, TokenRequest},
    oauth::{self, Try},
    secrets::Placement,
};

/// The secret that is the client's password, by the name the manifest asks for.
const CLIENT_SECRET: &str = "client-secret";
/// The secret that is the client's private key.
const PRIVATE_KEY: &str = "private-key";
/// How an assertion is presented.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Life of an assertion, in seconds: long enough for clocks that differ a little.
const ASSERTION_SECONDS: u64 = 120;
/// Pauses between tries.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Kept back of the caller's time, to bring the answer home.
const MARGIN: Duration = Duration::from_secs(2);
/// Longest answer, in bytes.
const MAX_BYTES: u32 = 64 * 1024;
/// Who is asked, for messages.
const SERVICE: &str = "the token endpoint";
/// Form fields that this plugin writes itself.
const OWN_FIELDS: [&str; 6] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "scope",
];

/// How the client shows who it is, in the words of OpenID Connect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuthMethod {
    /// `Authorization: Basic`, which every server must know.
    #[default]
    ClientSecretBasic,
    /// Fields of the form.
    ClientSecretPost,
    /// A JWT signed with the private key.
    PrivateKeyJwt,
}

/// The field of the form that takes `TOKEN_RESOURCE` of the connection string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum AudienceField {
    /// `audience`
    Audience,
    /// `resource` (RFC 8707)
    Resource,
    /// `scope`
    Scope,
}

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// URL of the token endpoint.
    token_endpoint: String,
    /// The client.
    client_id: String,
    /// How it shows who it is.
    #[serde(default)]
    auth_method: AuthMethod,
    /// What to ask for.
    scope: Option<String>,
    /// Where `TOKEN_RESOURCE` goes; nowhere when not set.
    audience_field: Option<AudienceField>,
    /// Further fields of the form.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    /// `alg` of an assertion.
    algorithm: Option<String>,
    /// `kid` of an assertion.
    key_id: Option<String>,
    /// `aud` of an assertion; the token endpoint when not set.
    assertion_audience: Option<String>,
}

/// Fields of a form, and what the host adds to them.
type Form<'a> = (Vec<(&'a str, String)>, Vec<Placement>);

/// The provider.
#[derive(Debug)]
pub struct ClientCredentials {
    /// The configuration.
    config: Config,
    /// Origin of the token endpoint.
    origin: String,
}

impl IdentityProvider for ClientCredentials {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let origin = origin(&config.token_endpoint).ok_or_else(|| {
            ConfigError::new("tokenEndpoint", "expected https://, a host and a path")
        })?;
        for (key, text) in [
            ("clientId", Some(&config.client_id)),
            ("scope", config.scope.as_ref()),
            ("keyId", config.key_id.as_ref()),
            ("assertionAudience", config.assertion_audience.as_ref()),
        ] {
            if text.is_some_and(|text| text.trim().is_empty()) {
                return Err(ConfigError::new(key, "it is empty"));
            }
        }
        for key in config.parameters.keys() {
            if key.is_empty() || OWN_FIELDS.contains(&key.as_str()) {
                let key = format!("parameters.{key}");
                return Err(ConfigError::new(key, "this field is the plugin's own"));
            }
        }
        if config.scope.is_some() && config.audience_field == Some(AudienceField::Scope) {
            return Err(ConfigError::new("scope", "audienceField already says what it is"));
        }
        if config.auth_method != AuthMethod::PrivateKeyJwt {
            for (key, is_set) in [
                ("algorithm", config.algorithm.is_some()),
                ("keyId", config.key_id.is_some()),
                ("assertionAudience", config.assertion_audience.is_some()),
            ] {
                if is_set {
                    return Err(ConfigError::new(
                        key,
                        "it is for authMethod private_key_jwt alone",
                    ));
                }
            }
        }
        Ok(Self { config, origin })
    }

    fn describe(&self) -> Descriptor {
        Descriptor {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flows: vec![Flow::Machine],
            origins: vec![self.origin.clone()],
        }
    }

    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure> {
        if request.flow == Flow::Human {
            return Err(Failure::Unsupported(
                "client-credentials serves workloads; a person needs another plugin".to_owned(),
            ));
        }
        let end = host.monotonic() + request.timeout.saturating_sub(MARGIN);
        let mut tried = 0;
        oauth::with_retries(host, end, &PAUSES, || {
            tried += 1;
            let (form, secrets) = self.form(host, request, tried)?;
            let fields: Vec<(&str, &str)> =
                form.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut outgoing = Request::post_form(&self.config.token_endpoint, &fields);
            outgoing.max_response_bytes = Some(MAX_BYTES);
            match oauth::send_with(host, outgoing, &secrets, end, SERVICE)? {
                Try::Done(response) => self.read(&response),
                Try::Later { reason, retry_after } => Ok(Try::Later { reason, retry_after }),
            }
        })
    }
}

impl ClientCredentials {
    /// The fields of the form, and what the host adds to the request.
    fn form<'a>(
        &'a self,
        host: &impl Host,
        request: &TokenRequest,
        tried: u32,
    ) -> Result<Form<'a>, Failure> {
        let config = &self.config;
        let mut form = vec![("grant_type", "client_credentials".to_owned())];
        let mut secrets = Vec::new();
        match config.auth_method {
            AuthMethod::ClientSecretBasic => {
                secrets.push(Placement::basic(CLIENT_SECRET, &config.client_id));
            }
            AuthMethod::ClientSecretPost => {
                form.push(("client_id", config.client_id.clone()));
                secrets.push(Placement::form(CLIENT_SECRET, "client_secret"));
            }
            AuthMethod::PrivateKeyJwt => {
                form.push(("client_id", config.client_id.clone()));
                form.push(("client_assertion_type", ASSERTION_TYPE.to_owned()));
                form.push(("client_assertion", self.assertion(host, tried)?));
            }
        }
        if let Some(scope) = &config.scope {
            form.push(("scope", scope.clone()));
        }
        if let Some(field) = config.audience_field {
            let audience = request.audience.clone().filter(|text| !text.is_empty());
            let audience = audience.ok_or_else(|| {
                Failure::Config(
                    "audienceField needs TOKEN_RESOURCE in authMechanismProperties of the \
                     connection string"
                        .to_owned(),
                )
            })?;
            let name = match field {
                AudienceField::Audience => "audience",
                AudienceField::Resource => "resource",
                AudienceField::Scope => "scope",
            };
            form.push((name, audience));
        }
        for (name, value) in &config.parameters {
            form.push((name, value.clone()));
        }
        Ok((form, secrets))
    }

    /// An assertion of this client, signed by the host. Every try gets its own: a server may take each
    /// only once.
    fn assertion(&self, host: &impl Host, tried: u32) -> Result<String, Failure> {
        let config = &self.config;
        let now_ms = host.now_ms();
        let now = now_ms / 1000;
        let mut header =
            json!({"typ": "JWT", "alg": config.algorithm.as_deref().unwrap_or("RS256")});
        if let Some(key_id) = &config.key_id {
            header["kid"] = json!(key_id);
        }
        let audience = config.assertion_audience.as_ref().unwrap_or(&config.token_endpoint);
        let random = RandomState::new().hash_one((now_ms, tried));
        let claims = json!({
            "iss": config.client_id, "sub": config.client_id, "aud": audience,
            "iat": now, "nbf": now.saturating_sub(5), "exp": now + ASSERTION_SECONDS,
            "jti": format!("{now_ms:x}-{tried}-{random:016x}"),
        });
        host.sign_jwt(PRIVATE_KEY, &header.to_string(), &claims.to_string()).map_err(|error| {
            match error {
                HostError::Unavailable(reason) => {
                    Failure::Unavailable { reason, retry_after: None }
                }
                other => Failure::Config(other.to_string()),
            }
        })
    }

    /// Reads an answer. The body of a success is never quoted.
    fn read(&self, response: &Response) -> Result<Try<Credential>, Failure> {
        match response.status {
            200 => self.token(&response.body).map(Try::Done).map_err(|problem| {
                Failure::Internal(format!("{SERVICE} answered 200, but {problem}"))
            }),
            408 | 425 | 429 | 500 | 502 | 503 | 504 => {
                let error = oauth::error(response);
                let text = error.description.unwrap_or(error.code);
                Ok(Try::Later {
                    reason: format!("{SERVICE} answered {}: {text}", response.status),
                    retry_after: oauth::retry_after(response),
                })
            }
            status @ 300..=399 => Err(Failure::Internal(format!(
                "{SERVICE} answered with a redirect ({status}); set tokenEndpoint to where it leads"
            ))),
            404 | 405 => Err(Failure::Config(format!(
                "{SERVICE} answered {}: is tokenEndpoint right?",
                response.status
            ))),
            _ => Err(Failure::Denied(oauth::error(response))),
        }
    }

    /// The token in a body, or what is wrong with it.
    fn token(&self, body: &[u8]) -> Result<Credential, &'static str> {
        let body: Json = serde_json::from_slice(body).map_err(|_| "its body is no JSON")?;
        let kind = body.get("token_type").and_then(Json::as_str).unwrap_or("Bearer");
        if !kind.eq_ignore_ascii_case("bearer") {
            return Err("token_type is not Bearer");
        }
        Ok(Credential {
            access_token: oauth::access_token(&body)?,
            expires_in: oauth::seconds(body.get("expires_in")).map(Duration::from_secs),
            refresh_token: None,
            audit: vec![
                ("client_id".to_owned(), self.config.client_id.clone()),
                ("issuer".to_owned(), self.origin.clone()),
            ],
        })
    }
}

/// The origin of a URL that may be asked for tokens: `https`, or this machine.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    let origin = format!("{scheme}://{authority}");
    let fits = oauth::is_safe_origin(&origin) && !path.contains(['#', ' ']);
    fits.then_some(origin)
}

syncline_sdk::export_identity_provider!(ClientCredentials);

#[cfg(test)]
mod tests;
