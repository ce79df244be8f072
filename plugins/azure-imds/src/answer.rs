//! What the metadata service answers, and what that means.

use std::time::Duration;

use serde_json::Value as Json;
use syncline_sdk::{
    http::Response,
    identity::{Credential, Failure},
    oauth,
};

/// An answer.
pub(crate) enum Answer {
    /// A token.
    Token(Box<Credential>),
    /// Asking again is of no use.
    Refused(Failure),
    /// The service is being updated (410).
    Updating,
    /// Asking again may help.
    Later {
        /// What happened.
        reason: String,
        /// Pause the service asked for.
        retry_after: Option<Duration>,
    },
}

impl Answer {
    /// "Later", without a pause asked for.
    pub(crate) fn later(reason: impl Into<String>) -> Self {
        Self::Later { reason: reason.into(), retry_after: None }
    }
}

/// Reads an answer.
pub(crate) fn read(response: &Response, now_ms: u64) -> Answer {
    match response.status {
        200 => match token(&response.body, now_ms) {
            Ok(credential) => Answer::Token(Box::new(credential)),
            Err(problem) => Answer::Refused(Failure::Internal(format!(
                "the metadata service answered 200, but {problem}"
            ))),
        },
        410 => Answer::Updating,
        404 | 408 | 429 | 500..=599 => {
            let error = oauth::error(response);
            let text = error.description.unwrap_or(error.code);
            Answer::Later {
                reason: format!("the metadata service answered {}: {text}", response.status),
                retry_after: oauth::retry_after(response),
            }
        }
        status @ 300..=399 => Answer::Refused(Failure::Internal(format!(
            "the metadata service answered with a redirect ({status}), which it never does"
        ))),
        _ => Answer::Refused(Failure::Denied(oauth::error(response))),
    }
}

/// The token in a body, or what is wrong with it. The body itself is never quoted.
fn token(body: &[u8], now_ms: u64) -> Result<Credential, &'static str> {
    let body: Json = serde_json::from_slice(body).map_err(|_| "its body is no JSON")?;
    let access_token = oauth::access_token(&body)?;
    let expires_in =
        match (oauth::seconds(body.get("expires_on")), oauth::seconds(body.get("expires_in"))) {
            // The service caches: only the absolute time tells what is left.
            (Some(on), _) => {
                let left_ms = on.saturating_mul(1000).saturating_sub(now_ms);
                if left_ms == 0 {
                    return Err("the token is past its expires_on; is this machine's clock right?");
                }
                Some(Duration::from_millis(left_ms))
            }
            (None, Some(seconds)) => Some(Duration::from_secs(seconds)),
            (None, None) => None,
        };
    let mut audit = Vec::new();
    for key in ["client_id", "resource"] {
        if let Some(text) = body.get(key).and_then(Json::as_str).filter(|text| !text.is_empty()) {
            audit.push((key.to_owned(), text.to_owned()));
        }
    }
    Ok(Credential { access_token, expires_in, refresh_token: None, audit })
}
