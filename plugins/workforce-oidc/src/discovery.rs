//! What a provider says of itself.

use std::time::Duration;

use serde_json::Value as Json;
use syncline_sdk::{
    Host,
    http::{Request, Response},
    identity::Failure,
    oauth::{self, Try},
};

use crate::{is_safe_url, token};

/// Longest discovery document, in bytes.
const MAX_BYTES: u32 = 1024 * 1024;
/// Pauses between tries.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// Who is asked, for messages.
pub(crate) const SERVICE: &str = "the identity provider";

/// The parts of a discovery document that a login needs. Every URL is `https`, or on this machine.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Where the browser goes.
    pub(crate) authorization_endpoint: Option<String>,
    /// Where tokens come from.
    pub(crate) token_endpoint: String,
    /// Where device codes come from.
    pub(crate) device_endpoint: Option<String>,
    /// Whether the way back from the browser names the issuer.
    pub(crate) names_issuer: bool,
    /// Scopes, when they are listed.
    scopes: Option<Vec<String>>,
}

impl Metadata {
    /// Whether the provider has a scope, as far as it says.
    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        self.scopes.as_ref().is_none_or(|all| all.iter().any(|known| known == scope))
    }
}

/// Gets the document of an issuer.
///
/// # Errors
/// [`Failure`]: it cannot be had, or it cannot be used.
pub(crate) fn fetch(host: &impl Host, issuer: &str, end: Duration) -> Result<Metadata, Failure> {
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    let usual = format!("{base}/.well-known/openid-configuration");
    let mut response = get(host, &usual, end)?;
    if response.status == 404
        && let Some(other) = authorization_server_url(base)
    {
        response = get(host, &other, end)?;
    }
    if response.status != 200 {
        return Err(Failure::Internal(format!(
            "{SERVICE} answered {} to discovery; is the issuer right?",
            response.status
        )));
    }
    read(&response.body, base)
}

/// Where RFC 8414 has the document: between host and path.
fn authorization_server_url(base: &str) -> Option<String> {
    let (scheme, rest) = base.split_once("://")?;
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
    Some(format!("{scheme}://{host}/.well-known/oauth-authorization-server{path}"))
}

/// Gets a document, and tries again what may pass.
fn get(host: &impl Host, url: &str, end: Duration) -> Result<Response, Failure> {
    oauth::with_retries(host, end, &PAUSES, || {
        let mut request = Request::get(url).header("Accept", "application/json");
        request.max_response_bytes = Some(MAX_BYTES);
        match oauth::send(host, request, end, SERVICE)? {
            Try::Done(response) if matches!(response.status, 408 | 429 | 500..=599) => {
                Ok(Try::Later {
                    reason: format!("{SERVICE} answered {} to discovery", response.status),
                    retry_after: oauth::retry_after(&response),
                })
            }
            other => Ok(other),
        }
    })
    .map_err(token::no_time)
}

/// Reads a document.
fn read(body: &[u8], base: &str) -> Result<Metadata, Failure> {
    let bad = |what: &str| Failure::Internal(format!("discovery: {what}"));
    let body: Json = serde_json::from_slice(body).map_err(|_| bad("it is no JSON"))?;
    let text = |key: &str| body.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
    let named = text("issuer").ok_or_else(|| bad("it names no issuer"))?;
    if named.strip_suffix('/').unwrap_or(named) != base {
        return Err(bad("it is about another issuer"));
    }
    let url = |key: &str| match text(key) {
        None => Ok(None),
        Some(url) if is_safe_url(url) => Ok(Some(url.to_owned())),
        Some(_) => Err(bad(&format!("{key} is neither https nor this machine"))),
    };
    if let Some(methods) = body.get("code_challenge_methods_supported").and_then(Json::as_array)
        && !methods.iter().any(|method| method.as_str() == Some("S256"))
    {
        return Err(bad("the provider has no PKCE with S256"));
    }
    let list = |key: &str| {
        let list = body.get(key)?.as_array()?;
        Some(list.iter().filter_map(Json::as_str).map(str::to_owned).collect::<Vec<_>>())
    };
    Ok(Metadata {
        authorization_endpoint: url("authorization_endpoint")?,
        token_endpoint: url("token_endpoint")?.ok_or_else(|| bad("it has no token_endpoint"))?,
        device_endpoint: url("device_authorization_endpoint")?,
        names_issuer: body.get("authorization_response_iss_parameter_supported")
            == Some(&Json::Bool(true)),
        scopes: list("scopes_supported"),
    })
}
