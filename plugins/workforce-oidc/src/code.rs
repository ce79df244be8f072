//! Authorization code with PKCE.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use syncline_sdk::{
    Host, HostError,
    http::percent_encode,
    identity::{Credential, Failure, OauthError},
};

use crate::{Login, token};

/// Random bytes in a verifier, a state and a nonce.
const SECRET_BYTES: u32 = 32;
/// Longest text of the provider that is passed on, in characters.
const MAX_TEXT: usize = 300;

/// Sends the person to the provider and brings the code home.
///
/// # Errors
/// `InteractionRequired` when the person was not reached, else why there is no token.
pub(crate) fn log_in(host: &impl Host, login: &Login<'_>) -> Result<Credential, Failure> {
    let Some(endpoint) = &login.metadata.authorization_endpoint else {
        let text = "the identity provider has no login in a browser".to_owned();
        return Err(Failure::InteractionRequired(text));
    };
    let redirect_uri = host.listen().map_err(|error| unreached(error, "listening"))?;
    let (verifier, state) = (secret(host)?, secret(host)?);
    let nonce = if login.nonce { Some(secret(host)?) } else { None };
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    let mut fields = vec![
        ("response_type", "code"),
        ("client_id", login.client_id),
        ("redirect_uri", redirect_uri.as_str()),
        ("scope", login.scope.as_str()),
        ("state", state.as_str()),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    fields.extend(nonce.as_deref().map(|nonce| ("nonce", nonce)));
    fields.extend(login.hint.map(|hint| ("login_hint", hint)));
    let query: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
    let join = if endpoint.contains('?') { '&' } else { '?' };
    let url = format!("{endpoint}{join}{}", query.join("&"));
    let back = host.browse(&url, &state).map_err(|error| unreached(error, "the browser"))?;
    let code = code_of(&back, login)?;
    token::redeem(host, login, code, &redirect_uri, &verifier, nonce.as_deref())
}

/// Text that nobody can guess: 43 characters of base64url.
fn secret(host: &impl Host) -> Result<String, Failure> {
    let bytes = host.random(SECRET_BYTES).map_err(|error| Failure::Config(error.to_string()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// What it means that the host could not do its part.
pub(crate) fn unreached(error: HostError, what: &str) -> Failure {
    match error {
        HostError::Denied(text) => Failure::Config(text),
        HostError::Unavailable(text) => Failure::InteractionRequired(text),
        HostError::TimedOut => Failure::TimedOut,
        other => Failure::Internal(format!("{what}: {other}")),
    }
}

/// The code among what came back.
fn code_of<'b>(back: &'b [(String, String)], login: &Login<'_>) -> Result<&'b str, Failure> {
    let named = |name: &str| {
        let mut values = back.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Ok(Some(value.as_str())),
            (None, _) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Failure::Internal(format!("the browser came back with two of {name}")))
            }
        }
    };
    // Who answers is checked first: an error of somebody else is none of ours.
    match named("iss")? {
        Some(issuer) if issuer != login.issuer => {
            return Err(Failure::Internal("another issuer sent the browser back".to_owned()));
        }
        None if login.metadata.names_issuer => {
            return Err(Failure::Internal("the browser came back without iss".to_owned()));
        }
        _ => {}
    }
    if let Some(error) = named("error")? {
        let short = |text: &str| plain(text);
        return Err(Failure::Denied(OauthError {
            code: short(error),
            description: named("error_description")?.map(short),
        }));
    }
    named("code")?
        .filter(|code| !code.is_empty())
        .ok_or_else(|| Failure::Internal("the browser came back without a code".to_owned()))
}

/// Text in the characters that OAuth allows for errors, cut.
fn plain(text: &str) -> String {
    let allowed = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    text.chars().filter(allowed).take(MAX_TEXT).collect()
}
