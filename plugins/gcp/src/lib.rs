//! Gets identity tokens of a machine's service account from the metadata service of GCP.
//!
//! The audience is `TOKEN_RESOURCE` of the connection string. README.md has the table of answers.

use std::time::Duration;

use syncline_sdk::{
    Host, IdentityProvider,
    config::ConfigError,
    http::{Request, Response, percent_encode},
    identity::{Credential, Descriptor, Failure, Flow, OauthError, TokenRequest},
    oauth::{self, Try},
};

/// Where the metadata service is on every machine of GCP.
const ENDPOINT: &str = "http://metadata.google.internal";
/// Variable that names another host.
const HOST_VARIABLE: &str = "GCE_METADATA_HOST";
/// Pauses between tries; a new pod's service needs some seconds.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];
/// Kept back of the caller's time, to bring the answer home.
const MARGIN: Duration = Duration::from_secs(2);
/// Longest time of one try.
const TRY_TIME: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const MAX_ANSWER: u32 = 64 * 1024;
/// Who is asked, for messages.
const SERVICE: &str = "the metadata service";

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
pub struct Config {
    /// Scheme and host of the metadata service.
    endpoint: Option<String>,
}

/// The provider.
#[derive(Debug)]
pub struct Gcp {
    /// Scheme and host of the configuration, without a slash at the end.
    endpoint: Option<String>,
}

impl IdentityProvider for Gcp {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint.map(|text| text.trim_end_matches('/').to_owned());
        if endpoint.as_ref().is_some_and(|text| !is_origin(text)) {
            return Err(ConfigError::new(
                "endpoint",
                "expected scheme and host, such as http://host",
            ));
        }
        Ok(Self { endpoint })
    }

    fn describe(&self) -> Descriptor {
        Descriptor {
            name: "gcp".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flows: vec![Flow::Machine],
            origins: vec![self.endpoint.clone().unwrap_or_else(|| ENDPOINT.to_owned())],
        }
    }

    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure> {
        if request.flow == Flow::Human {
            return Err(Failure::Unsupported(
                "gcp serves workloads; a person needs another plugin".to_owned(),
            ));
        }
        let Some(audience) = request.audience.as_deref().filter(|text| !text.is_empty()) else {
            return Err(Failure::Config(
                "`TOKEN_RESOURCE` is missing in authMechanismProperties of the connection string"
                    .to_owned(),
            ));
        };
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/default/identity?audience={}",
            self.endpoint(host)?,
            percent_encode(audience)
        );
        let end = host.monotonic() + request.timeout.saturating_sub(MARGIN);
        oauth::with_retries(host, end, &PAUSES, || {
            let mut request = Request::get(url.clone()).header("Metadata-Flavor", "Google");
            request.timeout = Some(TRY_TIME);
            request.max_response_bytes = Some(MAX_ANSWER);
            match oauth::send(host, request, end, SERVICE)? {
                Try::Done(response) => read(&response),
                Try::Later { reason, retry_after } => Ok(Try::Later { reason, retry_after }),
            }
        })
    }
}

impl Gcp {
    /// Scheme and host of the metadata service.
    fn endpoint(&self, host: &impl Host) -> Result<String, Failure> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        match oauth::setting(host, None, HOST_VARIABLE)? {
            None => Ok(ENDPOINT.to_owned()),
            Some(name) => {
                let endpoint = format!("http://{name}");
                if is_origin(&endpoint) {
                    Ok(endpoint)
                } else {
                    Err(Failure::Config(format!("{HOST_VARIABLE} is no host or host:port")))
                }
            }
        }
    }
}

/// Whether text is a scheme and a host with nothing behind it.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']))
}

/// Reads an answer. The body of a success is never quoted.
fn read(response: &Response) -> Result<Try<Credential>, Failure> {
    let denied = |why: &str| {
        Err(Failure::Denied(OauthError {
            code: format!("status {}", response.status),
            description: Some(why.to_owned()),
        }))
    };
    match response.status {
        200 => {
            if response.header("metadata-flavor") != Some("Google") {
                return Err(Failure::Internal(
                    "the answer does not come from a metadata service of GCP (Metadata-Flavor is \
                     missing)"
                        .to_owned(),
                ));
            }
            let text = std::str::from_utf8(&response.body).unwrap_or_default().trim();
            if !oauth::is_jwt(text) {
                return Err(Failure::Internal(
                    "the metadata service answered 200, but its body is no JWT".to_owned(),
                ));
            }
            // The host reads the life of the token from the token.
            Ok(Try::Done(Credential {
                access_token: text.to_owned(),
                expires_in: None,
                refresh_token: None,
                audit: vec![("account".to_owned(), "default".to_owned())],
            }))
        }
        408 | 429 | 500..=599 => Ok(Try::Later {
            reason: format!("{SERVICE} answered {}", response.status),
            retry_after: oauth::retry_after(response),
        }),
        400 => denied("the metadata service refuses the audience"),
        403 => denied("the metadata service refuses the request; is there a proxy in between?"),
        404 => denied("no service account is attached to this machine"),
        status @ 300..=399 => Err(Failure::Internal(format!(
            "the metadata service answered with a redirect ({status}), which it never does"
        ))),
        _ => denied("the metadata service refuses the request"),
    }
}

syncline_sdk::export_identity_provider!(Gcp);

#[cfg(test)]
mod tests;
