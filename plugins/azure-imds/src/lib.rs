//! Gets tokens of a managed identity from Azure's instance metadata service (IMDS).
//!
//! The audience is `TOKEN_RESOURCE` of the connection string; its user name, if there is one, is the
//! client id of a user-assigned identity. README.md has the table of answers and retries.

mod answer;

use std::time::Duration;

use answer::Answer;
use syncline_sdk::{
    Host, HostError, IdentityProvider,
    config::ConfigError,
    http::{Request, percent_encode},
    identity::{Credential, Descriptor, Failure, Flow, TokenRequest},
    log,
};

/// Where the metadata service is on every Azure machine.
const ENDPOINT: &str = "http://169.254.169.254";
/// Pauses after answers that say "later", one per retry.
const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Pause while the service is being updated (410).
const UPDATE_PAUSE: Duration = Duration::from_secs(10);
/// How long an update is waited for; the service promises to be back within 70 seconds.
const UPDATE_TIME: Duration = Duration::from_secs(70);
/// Kept back of the caller's time, to bring the answer home.
const MARGIN: Duration = Duration::from_secs(2);
/// Longest answer, in bytes.
const MAX_ANSWER: u32 = 64 * 1024;

/// The operator's `config`.
#[derive(Debug, serde::Deserialize)]
pub struct Config {
    /// Scheme and host of the metadata service.
    #[serde(default = "default_endpoint")]
    endpoint: String,
}

/// [`ENDPOINT`] for serde.
fn default_endpoint() -> String {
    ENDPOINT.to_owned()
}

/// The provider.
#[derive(Debug)]
pub struct AzureImds {
    /// Scheme and host, without a slash at the end.
    endpoint: String,
}

impl IdentityProvider for AzureImds {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let endpoint = config.endpoint.trim_end_matches('/');
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        match host {
            Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']) => {
                Ok(Self { endpoint: endpoint.to_owned() })
            }
            _ => Err(ConfigError::new("endpoint", "expected scheme and host, such as http://host")),
        }
    }

    fn describe(&self) -> Descriptor {
        Descriptor {
            name: "azure-imds".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flows: vec![Flow::Machine],
            origins: vec![self.endpoint.clone()],
        }
    }

    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure> {
        if request.flow == Flow::Human {
            return Err(Failure::Unsupported(
                "azure-imds serves workloads; a person needs another plugin".to_owned(),
            ));
        }
        let Some(audience) = request.audience.as_deref().filter(|text| !text.is_empty()) else {
            return Err(Failure::Config(
                "`TOKEN_RESOURCE` is missing in authMechanismProperties of the connection string"
                    .to_owned(),
            ));
        };
        let mut url = format!(
            "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}",
            self.endpoint,
            percent_encode(audience)
        );
        if let Some(client_id) = request.principal.as_deref().filter(|text| !text.is_empty()) {
            url.push_str("&client_id=");
            url.push_str(&percent_encode(client_id));
        }
        let end = host.monotonic() + request.timeout.saturating_sub(MARGIN);
        Attempts { host, url, end, retries: PAUSES.iter(), updating_since: None }.run()
    }
}

/// The tries of one call.
struct Attempts<'a, H> {
    /// The host.
    host: &'a H,
    /// What is asked for.
    url: String,
    /// When the last try must be over.
    end: Duration,
    /// Pauses left.
    retries: std::slice::Iter<'a, Duration>,
    /// When the service first said that it is being updated.
    updating_since: Option<Duration>,
}

impl<H: Host> Attempts<'_, H> {
    /// Asks until there is an answer that counts, or no time for another try.
    fn run(mut self) -> Result<Credential, Failure> {
        loop {
            let (reason, pause) = match self.ask()? {
                Answer::Token(credential) => return Ok(*credential),
                Answer::Refused(failure) => return Err(failure),
                Answer::Updating => {
                    let now = self.host.monotonic();
                    let since = *self.updating_since.get_or_insert(now);
                    let over = now.saturating_sub(since) + UPDATE_PAUSE > UPDATE_TIME;
                    let reason = "the metadata service is being updated (410)".to_owned();
                    (reason, if over { None } else { Some(UPDATE_PAUSE) })
                }
                Answer::Later { reason, retry_after } => {
                    let pause = self.retries.next().copied();
                    (reason, pause.map(|pause| retry_after.map_or(pause, |asked| asked.max(pause))))
                }
            };
            match pause {
                Some(pause) if self.host.monotonic() + pause < self.end => {
                    log::warn(&format!("{reason}; next try in {} s", pause.as_secs()));
                    self.host.sleep(pause);
                }
                Some(pause) => {
                    return Err(Failure::Unavailable { reason, retry_after: Some(pause) });
                }
                None => return Err(Failure::Unavailable { reason, retry_after: None }),
            }
        }
    }

    /// One try.
    fn ask(&self) -> Result<Answer, Failure> {
        let left = self.end.saturating_sub(self.host.monotonic());
        if left.is_zero() {
            return Err(Failure::TimedOut);
        }
        let mut request = Request::get(self.url.clone())
            .header("Metadata", "true")
            .header("Accept", "application/json");
        request.timeout = Some(left);
        request.max_response_bytes = Some(MAX_ANSWER);
        match self.host.send(request) {
            Ok(response) => Ok(answer::read(&response, self.host.now_ms())),
            Err(HostError::TimedOut) => {
                Ok(Answer::later("the metadata service did not answer in time"))
            }
            Err(HostError::Unavailable(text)) => {
                Ok(Answer::later(format!("the metadata service cannot be reached: {text}")))
            }
            Err(HostError::Denied(text)) => Err(Failure::Config(text)),
            Err(error @ (HostError::Limit(_) | HostError::Invalid(_) | HostError::NotFound(_))) => {
                Err(Failure::Internal(error.to_string()))
            }
        }
    }
}

syncline_sdk::export_identity_provider!(AzureImds);

#[cfg(test)]
mod tests;
