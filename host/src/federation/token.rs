//! A token taken apart, before anything in it is believed.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{config::Federation, json};

/// Longest key id, in bytes.
const MAX_KID_BYTES: usize = 256;
/// Types that an access token may have.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// A token whose header may be acted on; its claims are not verified.
pub(super) struct Unverified<'t> {
    /// What is signed.
    pub(super) message: &'t str,
    /// The signature, in base64url.
    pub(super) signature: &'t str,
    /// Algorithm, one that the federation allows.
    pub(super) algorithm: String,
    /// Key id.
    pub(super) kid: String,
    /// The claims.
    pub(super) claims: Map<String, Value>,
}

/// Takes a token apart and checks everything that needs no key: size, shape, header, and that it
/// claims to be of the federation's issuer.
///
/// # Errors
/// Why it is refused, in words that hold nothing of it.
pub(super) fn open<'t>(
    text: &'t str,
    federation: &Federation,
) -> Result<Unverified<'t>, &'static str> {
    if text.len() > federation.max_token_bytes {
        return Err("the token is too long");
    }
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err("the token is no JWT of three parts");
    };
    if [header, payload, signature].iter().any(|part| part.is_empty()) {
        return Err("a part of the token is empty");
    }
    let header = object(header)?;
    let (algorithm, kid) = check_header(&header, federation)?;
    let claims = object(payload)?;
    if BASE64_URL_SAFE_NO_PAD.decode(signature).is_err() {
        return Err("the signature is no base64url");
    }
    if claims.get("iss").and_then(Value::as_str) != Some(federation.issuer.as_str()) {
        return Err("the issuer is another one");
    }
    let (message, signature) = text.rsplit_once('.').unwrap_or_default();
    Ok(Unverified { message, signature, algorithm, kid, claims })
}

/// A part as a JSON object.
fn object(part: &str) -> Result<Map<String, Value>, &'static str> {
    let bytes =
        BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| "a part of the token is no base64url")?;
    match json::parse(&bytes)? {
        Value::Object(map) => Ok(map),
        _ => Err("a part of the token is no JSON object"),
    }
}

/// Checks the header; yields algorithm and key id. `jku`, `jwk`, `x5u`, `x5c` and `x5t` are not
/// looked at: keys come from the configured issuer alone.
fn check_header(
    header: &Map<String, Value>,
    federation: &Federation,
) -> Result<(String, String), &'static str> {
    if header.contains_key("crit") {
        return Err("the header has critical extensions");
    }
    if ["zip", "enc", "b64"].iter().any(|name| header.contains_key(*name)) {
        return Err("the token is compressed, encrypted or detached");
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if TYPES.contains(&typ.to_ascii_lowercase().as_str()) => {}
        Some(_) => return Err("the token is of another type"),
    }
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or("there is no algorithm")?;
    if !federation.algorithms.iter().any(|allowed| allowed == algorithm) {
        return Err("the algorithm is not allowed");
    }
    let kid = header.get("kid").and_then(Value::as_str).ok_or("there is no key id")?;
    if kid.is_empty() || kid.len() > MAX_KID_BYTES {
        return Err("the key id is empty or too long");
    }
    Ok((algorithm.to_owned(), kid.to_owned()))
}
