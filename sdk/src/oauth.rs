//! What token services have in common: their errors, the shape of a token, and trying again.

use std::time::Duration;

use serde_json::Value as Json;

use crate::{
    host::{Host, HostError},
    http::{Request, Response},
    identity::{Failure, OauthError},
    log,
    secrets::Placement,
};

/// Longest text of a service that is passed on, in characters.
const MAX_TEXT: usize = 300;

/// The error in a body as OAuth writes it, or the status when there is none.
pub fn error(response: &Response) -> OauthError {
    let body: Json = serde_json::from_slice(&response.body).unwrap_or(Json::Null);
    let text = |key| {
        let text = body.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
        text.map(|text| text.chars().take(MAX_TEXT).collect::<String>())
    };
    OauthError {
        code: text("error").unwrap_or_else(|| format!("status {}", response.status)),
        description: text("error_description"),
    }
}

/// `access_token` of a body, or what is wrong with it. The body itself is never quoted.
///
/// # Errors
/// What is wrong, in words.
pub fn access_token(body: &Json) -> Result<String, &'static str> {
    let token = body
        .get("access_token")
        .and_then(Json::as_str)
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .ok_or("there is no access_token")?;
    if is_jwt(token) { Ok(token.to_owned()) } else { Err("access_token is no JWT") }
}

/// Seconds written as a number or as text.
pub fn seconds(value: Option<&Json>) -> Option<u64> {
    match value? {
        Json::Number(number) => number.as_u64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Whether text has the shape of a signed JWT: three parts in base64url.
pub fn is_jwt(text: &str) -> bool {
    let mut parts = 0;
    for part in text.split('.') {
        parts += 1;
        let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if part.is_empty() || !part.bytes().all(base64url) {
            return false;
        }
    }
    parts == 3
}

/// `Retry-After`, when it is a number of seconds.
pub fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.header("retry-after").and_then(|text| text.trim().parse().ok());
    seconds.map(Duration::from_secs)
}

/// What one try came to.
pub enum Try<T> {
    /// It is done.
    Done(T),
    /// Asking again may help.
    Later {
        /// What happened.
        reason: String,
        /// Pause the service asked for.
        retry_after: Option<Duration>,
    },
}

/// Sends a request that has to be answered before `end`. What asking again can mend is
/// [`Try::Later`]; `service` names who is asked.
///
/// # Errors
/// [`Failure`] when asking again does not help or there is no time left.
pub fn send(
    host: &impl Host,
    request: Request,
    end: Duration,
    service: &str,
) -> Result<Try<Response>, Failure> {
    sorted(host.send(in_time(host, request, end)?), service)
}

/// As [`send`], with secrets put in by the host.
///
/// # Errors
/// As [`send`].
pub fn send_with(
    host: &impl Host,
    request: Request,
    secrets: &[Placement],
    end: Duration,
    service: &str,
) -> Result<Try<Response>, Failure> {
    sorted(host.send_with(in_time(host, request, end)?, secrets), service)
}

/// The request with a time-out that ends by `end`.
fn in_time(host: &impl Host, mut request: Request, end: Duration) -> Result<Request, Failure> {
    let left = end.saturating_sub(host.monotonic());
    if left.is_zero() {
        return Err(Failure::TimedOut);
    }
    request.timeout = Some(request.timeout.map_or(left, |wanted| wanted.min(left)));
    Ok(request)
}

/// Sorts what came of a request.
fn sorted(outcome: Result<Response, HostError>, service: &str) -> Result<Try<Response>, Failure> {
    let later = |reason| Ok(Try::Later { reason, retry_after: None });
    match outcome {
        Ok(response) => Ok(Try::Done(response)),
        Err(HostError::TimedOut) => later(format!("{service} did not answer in time")),
        Err(HostError::Unavailable(text)) => later(format!("{service} cannot be reached: {text}")),
        Err(HostError::Denied(text)) => Err(Failure::Config(text)),
        Err(error @ (HostError::Limit(_) | HostError::Invalid(_) | HostError::NotFound(_))) => {
            Err(Failure::Internal(error.to_string()))
        }
    }
}

/// Tries until it is done, the pauses are used up, or no time is left before `end`.
///
/// # Errors
/// That of a try, or [`Failure::Unavailable`] with the last reason.
pub fn with_retries<T>(
    host: &impl Host,
    end: Duration,
    pauses: &[Duration],
    mut attempt: impl FnMut() -> Result<Try<T>, Failure>,
) -> Result<T, Failure> {
    let mut pauses = pauses.iter();
    loop {
        let (reason, retry_after) = match attempt()? {
            Try::Done(value) => return Ok(value),
            Try::Later { reason, retry_after } => (reason, retry_after),
        };
        let pause = pauses.next().map(|own| retry_after.map_or(*own, |asked| asked.max(*own)));
        match pause {
            Some(pause) if host.monotonic() + pause < end => {
                log::warn(&format!("{reason}; next try in {} ms", pause.as_millis()));
                host.sleep(pause);
            }
            pause => {
                return Err(Failure::Unavailable { reason, retry_after: pause.or(retry_after) });
            }
        }
    }
}

/// The value of a setting: that of the configuration, else that of an environment variable. An
/// empty one counts as missing.
///
/// # Errors
/// [`Failure::Config`] when the variable is not granted.
pub fn setting(
    host: &impl Host,
    configured: Option<&str>,
    variable: &str,
) -> Result<Option<String>, Failure> {
    if let Some(value) = configured.filter(|value| !value.is_empty()) {
        return Ok(Some(value.to_owned()));
    }
    match host.env(variable) {
        Ok(value) => Ok(value.filter(|value| !value.is_empty())),
        Err(error) => Err(Failure::Config(error.to_string())),
    }
}

/// Reads the JWT in a file, without the white space around it.
///
/// # Errors
/// [`Failure`]: not granted, not there, not a JWT. The content is never quoted.
pub fn token_file(host: &impl Host, path: &str, max_bytes: u32) -> Result<String, Failure> {
    let content = match host.read_file(path, max_bytes) {
        Ok(content) => content,
        Err(HostError::Denied(text)) => return Err(Failure::Config(text)),
        // A mount may be in the middle of its rotation.
        Err(error @ (HostError::NotFound(_) | HostError::Unavailable(_) | HostError::TimedOut)) => {
            return Err(Failure::Unavailable { reason: error.to_string(), retry_after: None });
        }
        Err(error @ (HostError::Limit(_) | HostError::Invalid(_))) => {
            return Err(Failure::Config(error.to_string()));
        }
    };
    let text = std::str::from_utf8(&content).unwrap_or_default().trim();
    if text.is_empty() {
        let reason = format!("{path} holds nothing");
        return Err(Failure::Unavailable { reason, retry_after: None });
    }
    if !is_jwt(text) {
        return Err(Failure::Config(format!("{path} holds no JWT")));
    }
    Ok(text.to_owned())
}

/// Whether a URL's origin may be asked for tokens: `https`, or this machine.
pub fn is_safe_origin(origin: &str) -> bool {
    let host_of = |rest: &str| -> Option<String> {
        let fits = !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ', '\\']);
        fits.then(|| rest.to_owned())
    };
    if let Some(rest) = origin.strip_prefix("https://") {
        return host_of(rest).is_some();
    }
    let Some(place) = origin.strip_prefix("http://").and_then(host_of) else { return false };
    let name = match place.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => place.as_str(),
    };
    let octets: Vec<&str> = name.split('.').collect();
    let is_loopback = octets.len() == 4
        && octets.first() == Some(&"127")
        && octets.iter().all(|octet| octet.parse::<u8>().is_ok());
    is_loopback || matches!(name, "localhost" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_or_this_machine_may_be_asked() {
        for good in ["https://a.example", "https://a:1", "http://127.0.0.1:9", "http://[::1]:9"] {
            assert!(is_safe_origin(good), "{good}");
        }
        for bad in [
            "http://a.example",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "http://localhost@evil.example",
            "https://",
            "https://a/b",
            "ftp://a",
            "",
        ] {
            assert!(!is_safe_origin(bad), "{bad}");
        }
    }

    #[test]
    fn a_jwt_has_three_parts_of_its_alphabet() {
        assert!(is_jwt("a-_.b.c"));
        for bad in ["", "a.b", "a.b.c.d", "a..c", "a.b.c=", "a.b.c "] {
            assert!(!is_jwt(bad), "{bad}");
        }
    }
}
