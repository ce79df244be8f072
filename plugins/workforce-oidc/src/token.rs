//! The token endpoint: what is sent and what its answers mean.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value as Json;
use syncline_sdk::{
    Host,
    http::{Request, Response},
    identity::{Credential, Failure},
    log,
    oauth::{self, Try},
};

use crate::{Login, discovery::SERVICE, kept::Kept};

/// Longest answer, in bytes.
const MAX_BYTES: u32 = 64 * 1024;
/// Clock difference that an ID token may have.
const LEEWAY_SECONDS: f64 = 60.0;

/// A request whose answer is bounded.
pub(crate) fn limited(mut request: Request) -> Request {
    request.max_response_bytes = Some(MAX_BYTES);
    request
}

/// Redeems a code. Once: a code that is shown twice is taken for stolen.
///
/// # Errors
/// [`Failure`]
pub(crate) fn redeem(
    host: &impl Host,
    login: &Login<'_>,
    code: &str,
    redirect_uri: &str,
    verifier: &str,
    nonce: Option<&str>,
) -> Result<Credential, Failure> {
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("code_verifier", verifier),
        ("client_id", login.client_id),
    ];
    let response = match send(host, login, &fields)? {
        Try::Done(response) => response,
        Try::Later { reason, retry_after } => {
            return Err(Failure::Unavailable { reason, retry_after });
        }
    };
    if response.status != 200 {
        return Err(refused(&response));
    }
    read(host, login, &response.body, nonce, None)
}

/// Gets the next token with a refresh token. Once: a token that rotates and is shown twice is taken
/// for stolen, so the host decides about the next try.
///
/// # Errors
/// `RefreshRejected` when the person has to log in again, `TimedOut` when no answer came, so that
/// the token may be used up, else [`Failure`].
pub(crate) fn refresh(
    host: &impl Host,
    login: &Login<'_>,
    kept: &Kept,
) -> Result<Credential, Failure> {
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", kept.token.as_str()),
        ("client_id", login.client_id),
    ];
    let response = match send(host, login, &fields)? {
        Try::Done(response) => response,
        Try::Later { reason, .. } => {
            log::warn(&format!("{reason}, and it may have used up the refresh token"));
            return Err(Failure::TimedOut);
        }
    };
    match response.status {
        200 => read(host, login, &response.body, None, Some(kept)),
        400..=499 if !matches!(response.status, 408 | 429) => {
            Err(Failure::RefreshRejected(oauth::error(&response)))
        }
        _ => Err(refused(&response)),
    }
}

/// Sends a form to the token endpoint.
///
/// # Errors
/// [`Failure`]: nothing was sent.
fn send(
    host: &impl Host,
    login: &Login<'_>,
    fields: &[(&str, &str)],
) -> Result<Try<Response>, Failure> {
    let request = Request::post_form(login.metadata.token_endpoint.as_str(), fields);
    oauth::send(host, limited(request), login.end, SERVICE).map_err(no_time)
}

/// No time for a request is no lost answer.
pub(crate) fn no_time(failure: Failure) -> Failure {
    match failure {
        Failure::TimedOut => Failure::Unavailable {
            reason: format!("no time was left to ask {SERVICE}"),
            retry_after: None,
        },
        other => other,
    }
}

/// What an answer means that is not 200.
pub(crate) fn refused(response: &Response) -> Failure {
    match response.status {
        408 | 429 | 500..=599 => {
            let error = oauth::error(response);
            Failure::Unavailable {
                reason: format!(
                    "{SERVICE} answered {}: {}",
                    response.status,
                    error.description.unwrap_or(error.code)
                ),
                retry_after: oauth::retry_after(response),
            }
        }
        status @ 300..=399 => {
            Failure::Internal(format!("{SERVICE} answered with a redirect ({status})"))
        }
        _ => Failure::Denied(oauth::error(response)),
    }
}

/// Reads tokens. `nonce` is what the ID token has to repeat; `before` is what was refreshed.
///
/// # Errors
/// [`Failure::Internal`] with what is wrong; no part of a body is quoted.
pub(crate) fn read(
    host: &impl Host,
    login: &Login<'_>,
    body: &[u8],
    nonce: Option<&str>,
    before: Option<&Kept>,
) -> Result<Credential, Failure> {
    credential(host, login, body, nonce, before)
        .map_err(|what| Failure::Internal(format!("{SERVICE} answered 200, but {what}")))
}

/// What [`read`] does.
fn credential(
    host: &impl Host,
    login: &Login<'_>,
    body: &[u8],
    nonce: Option<&str>,
    before: Option<&Kept>,
) -> Result<Credential, &'static str> {
    let body: Json = serde_json::from_slice(body).map_err(|_| "its body is no JSON")?;
    let text = |key: &str| body.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
    let kind = text("token_type");
    if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("token_type is not Bearer");
    }
    let now = Duration::from_millis(host.now_ms()).as_secs_f64();
    let id = match text("id_token") {
        Some(token) => Some((token, check_id(token, login, nonce, now)?)),
        // A login that asked for one gets one; a refresh may come without.
        None if nonce.is_some() && login.scope.split(' ').any(|scope| scope == "openid") => {
            return Err("there is no id_token");
        }
        None => None,
    };
    let subject = id.as_ref().map(|(_, subject)| subject.as_str());
    let known = before.and_then(|kept| kept.subject.as_deref());
    if let (Some(known), Some(subject)) = (known, subject)
        && known != subject
    {
        return Err("its id_token is about somebody else than before");
    }
    let subject = subject.or(known);
    let access_token = match (login.id_token, &id) {
        (false, _) => oauth::access_token(&body)?,
        (true, Some((token, _))) => (*token).to_owned(),
        (true, None) => return Err("there is no id_token"),
    };
    let kept = match (text("refresh_token"), before) {
        (Some(token), _) => Some(Kept::new(token, login, subject)),
        // Without a new one the old one stays good.
        (None, Some(kept)) => Some(kept.clone()),
        (None, None) => None,
    };
    let life = oauth::seconds(body.get("expires_in")).filter(|_| !login.id_token);
    let mut audit = vec![
        ("issuer".to_owned(), login.issuer.to_owned()),
        ("client_id".to_owned(), login.client_id.to_owned()),
    ];
    audit.extend(subject.map(|subject| ("subject".to_owned(), subject.to_owned())));
    Ok(Credential {
        access_token,
        expires_in: life.map(Duration::from_secs),
        refresh_token: kept.and_then(|kept| kept.close()),
        audit,
    })
}

/// Checks an ID token that came straight from the token endpoint, and says whom it is about. Its
/// signature is not looked at: who answered is known from the connection.
fn check_id(
    token: &str,
    login: &Login<'_>,
    nonce: Option<&str>,
    now: f64,
) -> Result<String, &'static str> {
    if !oauth::is_jwt(token) {
        return Err("id_token is no JWT");
    }
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| "id_token is no base64url")?;
    let claims: Json = serde_json::from_slice(&payload).map_err(|_| "id_token holds no JSON")?;
    let text = |key: &str| claims.get(key).and_then(Json::as_str);
    let bare = |text: &str| text.strip_suffix('/').unwrap_or(text).to_owned();
    if text("iss").map(bare) != Some(bare(login.issuer)) {
        return Err("id_token is of another issuer");
    }
    let is_for_us = match claims.get("aud") {
        Some(Json::String(one)) => one == login.client_id,
        Some(Json::Array(many)) => {
            many.iter().any(|one| one.as_str() == Some(login.client_id))
                && (many.len() == 1 || text("azp").is_none_or(|azp| azp == login.client_id))
        }
        _ => false,
    };
    if !is_for_us {
        return Err("id_token is for somebody else");
    }
    let exp = claims.get("exp").and_then(Json::as_f64).ok_or("id_token has no exp")?;
    if exp + LEEWAY_SECONDS < now {
        return Err("id_token has expired; is this machine's clock right?");
    }
    if nonce.is_some_and(|nonce| text("nonce") != Some(nonce)) {
        return Err("id_token does not repeat the nonce");
    }
    let subject = text("sub").filter(|sub| !sub.is_empty()).ok_or("id_token has no sub")?;
    Ok(subject.to_owned())
}
