//! Reading a request: its id and its JSON body.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    http::{HeaderValue, StatusCode},
};
use serde_json::{Map, Value};

use super::error::{ApiError, ApiResult};

/// Largest body, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Entries of a page when the query does not say.
const PAGE: usize = 100;
/// Most entries of a page.
const MAX_PAGE: usize = 1_000;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Id of one request, in its log lines, its response header and its error body.
#[derive(Debug, Clone)]
pub(super) struct RequestId(String);

impl RequestId {
    /// A new id; ids of one process sort by time.
    pub(super) fn new() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The id as text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a header.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

/// The body as a JSON object, whatever its content type says; an empty body is `{}`.
///
/// # Errors
/// `BadRequest` for anything else, with status 413 or 408 where they fit.
pub(super) async fn object(body: Body) -> ApiResult<Map<String, Value>> {
    let bytes = match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_length_limit(&error) => {
            return Err(ApiError::bad_request(format!(
                "the body is larger than {MAX_BODY_BYTES} bytes"
            ))
            .with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Ok(Err(_broken)) => return Err(ApiError::bad_request("the body broke off")),
        Err(_elapsed) => {
            return Err(ApiError::bad_request(format!(
                "the body did not arrive within {} s",
                BODY_TIME.as_secs()
            ))
            .with_status(StatusCode::REQUEST_TIMEOUT));
        }
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ApiError::bad_request("the body is no JSON object")),
        Err(error) => Err(ApiError::bad_request(format!("the body is no JSON: {error}"))),
    }
}

/// `offset` and `limit` of a query: from the first on, a hundred at a time, unless it says else.
///
/// # Errors
/// `BadRequest` for anything else in it.
pub(super) fn page(query: &str) -> ApiResult<(usize, usize)> {
    let (mut offset, mut limit) = (0, PAGE);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = value.parse::<usize>().ok();
        match (name, number) {
            ("offset", Some(number)) => offset = number,
            ("limit", Some(number)) if (1..=MAX_PAGE).contains(&number) => limit = number,
            ("offset" | "limit", _) => {
                return Err(ApiError::bad_request(format!(
                    "offset is a whole number, limit one from 1 to {MAX_PAGE}"
                )));
            }
            _ => return Err(ApiError::bad_request("the query takes offset and limit only")),
        }
    }
    Ok((offset, limit))
}

/// Whether reading stopped at the limit.
fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.to_string() == "length limit exceeded" {
            return true;
        }
        cause = inner.source();
    }
    false
}
