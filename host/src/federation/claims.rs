//! The claims of a token whose signature is good.

use std::time::Duration;

use serde_json::{Map, Value};

use super::config::{AuthorizationType, Federation};

/// Leeway for `nbf` and `iat`, which only say that clocks differ.
const FUTURE_LEEWAY_SECS: f64 = 60.0;
/// Longest name of a user or a group, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Most groups of one token.
const MAX_GROUPS: usize = 1000;
/// A moment before this program was written; a clock that shows less is wrong.
const OLDEST_NOW_SECS: u64 = 1_760_000_000;

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Principal {
    /// `<federation>/<user>`
    pub(super) user: String,
    /// `<federation>/<group>`, for the authorization type `groupMembership`.
    pub(super) groups: Vec<String>,
    /// `jti`, for the audit.
    pub(super) token_id: Option<String>,
}

/// Checks the claims. `now` is the time since 1970.
///
/// # Errors
/// Why the token is refused, in words that hold nothing of it.
pub(super) fn check(
    claims: &Map<String, Value>,
    federation: &Federation,
    now: Duration,
) -> Result<Principal, &'static str> {
    if now.as_secs() < OLDEST_NOW_SECS {
        return Err("this machine's clock is wrong");
    }
    if claims.get("iss").and_then(Value::as_str) != Some(federation.issuer.as_str()) {
        return Err("the issuer is another one");
    }
    check_audience(claims, federation)?;
    check_times(claims, federation, now.as_secs_f64())?;
    let subject = name(claims.get("sub")).ok_or("sub is missing or no usable name")?;
    let user = match federation.user_claim.as_str() {
        "sub" => subject,
        claim => name(claims.get(claim)).ok_or("the user claim is missing or no usable name")?,
    };
    let groups = match federation.authorization_type {
        AuthorizationType::UserId => Vec::new(),
        AuthorizationType::GroupMembership => groups(claims, federation)?,
    };
    let token_id = claims.get("jti").and_then(Value::as_str).and_then(usable).map(str::to_owned);
    let prefixed = |name: &str| format!("{}/{name}", federation.name);
    Ok(Principal {
        user: prefixed(user),
        groups: groups.into_iter().map(prefixed).collect(),
        token_id,
    })
}

/// `aud` names the API, and `azp` nobody else when there are several audiences.
fn check_audience(
    claims: &Map<String, Value>,
    federation: &Federation,
) -> Result<(), &'static str> {
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => many
            .iter()
            .map(|item| item.as_str().ok_or("aud is no list of names"))
            .collect::<Result<_, _>>()?,
        _ => return Err("aud is missing or no name"),
    };
    if !audiences.contains(&federation.audience.as_str()) {
        return Err("the audience is another one");
    }
    if audiences.len() > 1
        && let Some(party) = claims.get("azp")
        && party.as_str() != federation.client_id.as_deref()
    {
        return Err("the token was issued to another client");
    }
    Ok(())
}

/// `exp`, `nbf` and `iat`.
fn check_times(
    claims: &Map<String, Value>,
    federation: &Federation,
    now: f64,
) -> Result<(), &'static str> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if seconds.is_finite() && (0.0..1e11).contains(&seconds) => {
                Ok(Some(seconds))
            }
            _ => Err("exp, nbf or iat is no time"),
        },
    };
    let expires = time("exp")?.ok_or("exp is missing")?;
    let not_before = time("nbf")?;
    let issued = time("iat")?;
    let skew = Duration::from_secs(federation.clock_skew_secs).as_secs_f64();
    if expires + skew <= now {
        return Err("the token has expired");
    }
    if not_before.is_some_and(|time| time > now + FUTURE_LEEWAY_SECS) {
        return Err("the token is not yet valid");
    }
    if issued.is_some_and(|time| time > now + FUTURE_LEEWAY_SECS) {
        return Err("the token was issued in the future");
    }
    let longest = Duration::from_secs(federation.max_token_life_secs).as_secs_f64();
    if expires - issued.unwrap_or(now) > longest {
        return Err("the token lives too long");
    }
    Ok(())
}

/// The groups, one or many.
fn groups<'c>(
    claims: &'c Map<String, Value>,
    federation: &Federation,
) -> Result<Vec<&'c str>, &'static str> {
    let values = match claims.get(&federation.groups_claim) {
        Some(one @ Value::String(_)) => std::slice::from_ref(one),
        Some(Value::Array(many)) if many.len() <= MAX_GROUPS => many.as_slice(),
        Some(Value::Array(_)) => return Err("there are too many groups"),
        Some(_) => return Err("the groups claim is no list of names"),
        None if claims.contains_key("_claim_names") || claims.contains_key("hasgroups") => {
            return Err("the issuer left the groups out because there are too many");
        }
        None => return Err("the groups claim is missing"),
    };
    values
        .iter()
        .map(|value| name(Some(value)).ok_or("a group is no usable name"))
        .collect::<Result<_, _>>()
}

/// A name out of a claim.
fn name(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).and_then(usable)
}

/// Text that can be a name.
fn usable(text: &str) -> Option<&str> {
    let fits =
        !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control);
    fits.then_some(text)
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
