//! Logs a person in with OpenID Connect: authorization code with PKCE in a browser, or a code that is
//! typed in on another device, and later the refresh token.
//!
//! The browser, the listener for its way back and the terminal are the host's. README.md has the
//! table of answers.

mod code;
mod device;
mod discovery;
mod kept;
mod token;

use std::time::Duration;

use syncline_sdk::{
    Host, IdentityProvider,
    config::ConfigError,
    identity::{Credential, Descriptor, Failure, Flow, TokenRequest},
    oauth,
};

use discovery::Metadata;
use kept::Kept;

/// Kept back of the caller's time, to bring the answer home.
const MARGIN: Duration = Duration::from_secs(2);
/// Scopes that are asked for wherever the provider has them.
const USUAL_SCOPES: [&str; 2] = ["openid", "offline_access"];
/// Longest issuer, client id and list of scopes, in bytes.
const MAX_TEXT_BYTES: usize = 2048;

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Authorization code with PKCE, in a browser.
    AuthCode,
    /// A code that is typed in on another device.
    DeviceAuth,
}

/// The operator's `config`. What the server says about its provider counts where nothing stands here.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Instead of the server's issuer.
    issuer: Option<String>,
    /// Instead of the server's client id.
    client_id: Option<String>,
    /// Scopes to request besides the server's.
    scopes: Option<Vec<String>>,
    /// Ways to log in, in order of preference; the browser alone when nothing stands here.
    flows: Option<Vec<Way>>,
    /// Sends the ID token in the place of the access token; then the client id is the audience.
    id_token_as_access_token: Option<bool>,
    /// Leaves the nonce out, for providers that refuse it.
    no_nonce: Option<bool>,
    /// Origin of the token endpoint, when it is not the issuer's; only to be granted.
    #[serde(rename = "tokenOrigin")]
    _token_origin: Option<String>,
    /// Origin of the device endpoint, when it is not the issuer's; only to be granted.
    #[serde(rename = "deviceOrigin")]
    _device_origin: Option<String>,
}

/// The provider.
#[derive(Debug)]
pub struct WorkforceOidc {
    /// The configuration.
    config: Config,
}

/// Who logs in where.
struct Login<'a> {
    /// Issuer.
    issuer: &'a str,
    /// OAuth client.
    client_id: &'a str,
    /// What the provider says of itself.
    metadata: &'a Metadata,
    /// Scopes, with spaces between.
    scope: String,
    /// Whose account, when the caller knows.
    hint: Option<&'a str>,
    /// When it has to be over, by the monotonic clock.
    end: Duration,
    /// Whether the ID token is the token.
    id_token: bool,
    /// Whether a nonce is sent.
    nonce: bool,
}

impl IdentityProvider for WorkforceOidc {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if config.issuer.as_deref().is_some_and(|issuer| !is_safe_url(issuer)) {
            return Err(ConfigError::new("issuer", "expected https:// and a host"));
        }
        if config.client_id.as_deref().is_some_and(|id| !is_text(id)) {
            return Err(ConfigError::new("clientId", "it is empty, too long or no plain text"));
        }
        let scopes = config.scopes.iter().flatten();
        if scopes.into_iter().any(|scope| !is_text(scope) || scope.contains(' ')) {
            return Err(ConfigError::new("scopes", "expected names without spaces"));
        }
        if config.flows.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::new("flows", "expected auth-code, device-auth or both"));
        }
        Ok(Self { config })
    }

    fn describe(&self) -> Descriptor {
        Descriptor {
            name: "workforce-oidc".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            flows: vec![Flow::Human],
            origins: self.config.issuer.iter().cloned().collect(),
        }
    }

    fn get_token(&self, host: &impl Host, request: &TokenRequest) -> Result<Credential, Failure> {
        if request.flow == Flow::Machine {
            return Err(Failure::Unsupported(
                "workforce-oidc logs people in; a workload needs another plugin".to_owned(),
            ));
        }
        let said = request.idp.as_ref();
        let own = &self.config;
        let issuer = own.issuer.as_deref().or(said.map(|idp| idp.issuer.as_str()));
        let issuer = issuer.ok_or_else(|| missing("issuer"))?;
        if !is_safe_url(issuer) || issuer.len() > MAX_TEXT_BYTES {
            return Err(Failure::Config("the issuer is neither https nor this machine".to_owned()));
        }
        let client_id = own.client_id.as_deref();
        let client_id = client_id.or_else(|| said.and_then(|idp| idp.client_id.as_deref()));
        let client_id = client_id.ok_or_else(|| missing("client id"))?;
        if !is_text(client_id) {
            return Err(Failure::Config("the client id is no plain text".to_owned()));
        }
        let end = host.monotonic() + request.timeout.saturating_sub(MARGIN);
        let metadata = discovery::fetch(host, issuer, end)?;
        let wanted = said.iter().flat_map(|idp| &idp.request_scopes);
        let wanted = wanted.chain(own.scopes.iter().flatten()).map(String::as_str);
        let login = Login {
            issuer,
            client_id,
            scope: scope_of(&metadata, wanted)?,
            metadata: &metadata,
            hint: request.principal.as_deref(),
            end,
            id_token: own.id_token_as_access_token.unwrap_or(false),
            nonce: !own.no_nonce.unwrap_or(false),
        };
        // A refresh token of another issuer or client stays here.
        let kept = request.refresh_token.as_deref().and_then(Kept::open);
        if let Some(kept) = kept.filter(|kept| kept.fits(&login)) {
            return token::refresh(host, &login, &kept);
        }
        self.log_in(host, &login)
    }
}

impl WorkforceOidc {
    /// Tries the ways in order. The next one is tried only when the person was not reached.
    fn log_in(&self, host: &impl Host, login: &Login<'_>) -> Result<Credential, Failure> {
        const USUAL: &[Way] = &[Way::AuthCode];
        let ways = self.config.flows.as_deref().unwrap_or(USUAL);
        let mut why = String::new();
        for way in ways {
            let outcome = match way {
                Way::AuthCode => code::log_in(host, login),
                Way::DeviceAuth => device::log_in(host, login),
            };
            match outcome {
                Err(Failure::InteractionRequired(text)) => why = text,
                settled => return settled,
            }
        }
        if ways.contains(&Way::DeviceAuth) {
            return Err(Failure::InteractionRequired(why));
        }
        let advice = "a code on another device needs `flows` with device-auth";
        Err(Failure::InteractionRequired(format!("{why}; {advice}")))
    }
}

/// The error for something that neither the server nor the configuration says.
fn missing(what: &str) -> Failure {
    Failure::Config(format!(
        "nobody names the {what}: the server has no identity provider for people, and the \
         configuration of workforce-oidc has none"
    ))
}

/// Scopes to ask for: the usual ones that the provider has, and the wanted ones.
fn scope_of<'a>(
    metadata: &Metadata,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<String, Failure> {
    let usual = USUAL_SCOPES.into_iter().filter(|scope| metadata.has_scope(scope));
    let mut scopes: Vec<&str> = Vec::new();
    for scope in usual.chain(wanted) {
        if !is_text(scope) || scope.contains(' ') {
            return Err(Failure::Config("a scope is no plain word".to_owned()));
        }
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    Ok(scopes.join(" "))
}

/// Whether text is printable ASCII of a bearable length.
fn is_text(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TEXT_BYTES
        && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Whether a URL is `https`, or on this machine, and holds no user name and nothing odd.
fn is_safe_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let (host, path) = match rest.find(['/', '?', '#']) {
        Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
        None => (rest, ""),
    };
    oauth::is_safe_origin(&format!("{scheme}://{host}"))
        && !path.contains('#')
        && path.bytes().all(|byte| byte.is_ascii_graphic())
}

syncline_sdk::export_identity_provider!(WorkforceOidc);

#[cfg(test)]
mod tests;
