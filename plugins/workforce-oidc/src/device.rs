//! The device flow (RFC 8628).

use std::time::Duration;

use serde_json::Value as Json;
use syncline_sdk::{
    DeviceCode, Host,
    http::Request,
    identity::{Credential, Failure, OauthError},
    oauth::{self, Try},
};

use crate::{Login, code::unreached, discovery::SERVICE, is_safe_url, token};

/// How the device flow is named at the token endpoint.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Pause between two questions, when the provider does not say, or says none.
const INTERVAL: Duration = Duration::from_secs(5);
/// What `slow_down` adds, for good.
const SLOWER: Duration = Duration::from_secs(5);
/// Longest pause between two questions.
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Longest life of a code that is believed.
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// Longest code that is shown, in characters.
const MAX_CODE: usize = 64;

/// Shows a code and waits until it was typed in.
///
/// # Errors
/// `InteractionRequired` when nothing can be shown, else why there is no token.
pub(crate) fn log_in(host: &impl Host, login: &Login<'_>) -> Result<Credential, Failure> {
    let Some(endpoint) = &login.metadata.device_endpoint else {
        let text = "the identity provider has no login on another device".to_owned();
        return Err(Failure::InteractionRequired(text));
    };
    let fields = [("client_id", login.client_id), ("scope", login.scope.as_str())];
    let request = Request::post_form(endpoint.as_str(), &fields);
    let response = match oauth::send(host, token::limited(request), login.end, SERVICE)? {
        Try::Done(response) => response,
        Try::Later { reason, retry_after } => {
            return Err(Failure::Unavailable { reason, retry_after });
        }
    };
    if response.status != 200 {
        return Err(token::refused(&response));
    }
    let begun = host.monotonic();
    let mut asked = Asked::read(&response.body)
        .map_err(|what| Failure::Internal(format!("the device code: {what}")))?;
    let end = login.end.min(begun + asked.shown.expires_in);
    // What is shown is how long it is any use to type it in.
    asked.shown.expires_in = end.saturating_sub(begun);
    host.show_code(&asked.shown).map_err(|error| unreached(error, "showing the code"))?;
    wait(host, login, &asked, end)
}

/// A device code as the provider gave it.
struct Asked {
    /// What the device shows at the token endpoint.
    device_code: String,
    /// What the person sees.
    shown: DeviceCode,
    /// Pause between two questions.
    interval: Duration,
}

impl Asked {
    /// Reads an answer, or says what is wrong with it.
    fn read(body: &[u8]) -> Result<Self, &'static str> {
        let body: Json = serde_json::from_slice(body).map_err(|_| "its body is no JSON")?;
        let text = |key: &str| body.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
        let user_code = text("user_code").ok_or("there is no user_code")?;
        let is_shown = |c: char| c.is_alphanumeric() || matches!(c, '-' | ' ');
        if user_code.chars().count() > MAX_CODE || !user_code.chars().all(is_shown) {
            return Err("user_code is no code");
        }
        let uri = text("verification_uri").or_else(|| text("verification_url"));
        let uri = uri.filter(|uri| is_safe_url(uri)).ok_or("there is no safe verification_uri")?;
        let complete = text("verification_uri_complete").filter(|uri| is_safe_url(uri));
        let seconds = |key: &str| oauth::seconds(body.get(key)).map(Duration::from_secs);
        let life = seconds("expires_in").ok_or("there is no expires_in")?;
        Ok(Self {
            device_code: text("device_code").ok_or("there is no device_code")?.to_owned(),
            shown: DeviceCode {
                user_code: user_code.to_owned(),
                verification_uri: uri.to_owned(),
                verification_uri_complete: complete.map(str::to_owned),
                expires_in: life.min(MAX_LIFE),
            },
            interval: seconds("interval")
                .filter(|pause| !pause.is_zero())
                .map_or(INTERVAL, |pause| pause.min(MAX_INTERVAL)),
        })
    }
}

/// Asks until there is an answer.
fn wait(
    host: &impl Host,
    login: &Login<'_>,
    asked: &Asked,
    end: Duration,
) -> Result<Credential, Failure> {
    let fields = [
        ("grant_type", GRANT),
        ("device_code", asked.device_code.as_str()),
        ("client_id", login.client_id),
    ];
    let mut interval = asked.interval;
    let mut pause = interval;
    loop {
        if host.monotonic() + pause >= end {
            return Err(expired());
        }
        host.sleep(pause);
        pause = interval;
        let request =
            token::limited(Request::post_form(login.metadata.token_endpoint.as_str(), &fields));
        let response = match oauth::send(host, request, end, SERVICE) {
            Ok(Try::Done(response)) => response,
            Ok(Try::Later { .. }) => {
                // The connection, not the answer: twice the pause, as RFC 8628 asks.
                interval = (interval * 2).min(MAX_INTERVAL);
                pause = interval;
                continue;
            }
            Err(Failure::TimedOut) => return Err(expired()),
            Err(other) => return Err(other),
        };
        if response.status == 200 {
            return token::read(host, login, &response.body, None, None);
        }
        if matches!(response.status, 408 | 429 | 500..=599) {
            pause = interval.max(oauth::retry_after(&response).unwrap_or_default());
            continue;
        }
        match oauth::error(&response).code.as_str() {
            "authorization_pending" => {}
            "slow_down" => {
                interval = (interval + SLOWER).min(MAX_INTERVAL);
                pause = interval;
            }
            "expired_token" => return Err(expired()),
            _ => return Err(token::refused(&response)),
        }
    }
}

/// Nobody typed the code in.
fn expired() -> Failure {
    Failure::Denied(OauthError {
        code: "expired_token".to_owned(),
        description: Some("the code was not typed in in time".to_owned()),
    })
}
