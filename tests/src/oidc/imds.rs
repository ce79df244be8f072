//! The token endpoint of Azure's instance metadata service, as strict as the real one.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use serde_json::{Value, json};

use super::idp::{Shared, epoch_seconds, json_response, respond};

/// Where the endpoint is.
pub(super) const PATH: &str = "/metadata/identity/oauth2/token";
/// Versions that the endpoint knows.
const VERSIONS: [&str; 6] =
    ["2018-02-01", "2019-08-01", "2019-11-01", "2020-06-01", "2021-02-01", "2023-07-01"];
/// Parameters that choose an identity; at most one may be given.
const SELECTORS: [&str; 3] = ["client_id", "object_id", "msi_res_id"];

/// Answers a request for a token.
pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let query: BTreeMap<String, String> = pairs.iter().cloned().collect();
    if let Some(answer) = shared.next_scripted(query.clone()) {
        tokio::time::sleep(answer.delay).await;
        return respond(answer);
    }
    if let Some(outage) = shared.outage() {
        return outage;
    }
    match check(&shared, &method, &headers, &pairs, &query) {
        Ok(resource) => issue(&shared, &resource, query.get("client_id")),
        Err((status, body)) => json_response(status, &body),
    }
}

/// A refusal.
fn refuse(error: &str, why: &str) -> (StatusCode, Value) {
    (StatusCode::BAD_REQUEST, json!({ "error": error, "error_description": why }))
}

/// Checks a request and says for which audience it asks.
fn check(
    shared: &Shared,
    method: &Method,
    headers: &HeaderMap,
    pairs: &[(String, String)],
    query: &BTreeMap<String, String>,
) -> Result<String, (StatusCode, Value)> {
    if method != Method::GET {
        return Err((
            StatusCode::METHOD_NOT_ALLOWED,
            json!({ "error": "method_not_allowed", "error_description": "only GET" }),
        ));
    }
    if headers.contains_key("x-forwarded-for") {
        return Err(refuse("invalid_request", "proxied requests are not allowed"));
    }
    let metadata: Vec<_> = headers.get_all("metadata").iter().collect();
    let is_marked =
        matches!(metadata.as_slice(), [value] if value.as_bytes().eq_ignore_ascii_case(b"true"));
    if !is_marked {
        return Err(refuse("bad_request_102", "Required metadata header not specified"));
    }
    if pairs.len() != query.len() {
        return Err(refuse("invalid_request", "a parameter is given twice"));
    }
    match query.get("api-version") {
        None => return Err(refuse("invalid_request", "api-version is missing")),
        Some(version) if !VERSIONS.contains(&version.as_str()) => {
            return Err(refuse("invalid_request", "api-version is not supported"));
        }
        Some(_) => {}
    }
    if SELECTORS.iter().filter(|name| query.contains_key(**name)).count() > 1 {
        return Err(refuse("invalid_request", "more than one identity is selected"));
    }
    let workload = shared.workload();
    let known = |id: &String| workload.client_ids.contains(id);
    if query.contains_key("object_id")
        || query.contains_key("msi_res_id")
        || query.get("client_id").is_some_and(|id| !known(id))
    {
        return Err(refuse("invalid_request", "Identity not found"));
    }
    match query.get("resource") {
        None => Err(refuse("invalid_request", "resource is missing")),
        Some(resource) if resource.is_empty() => {
            Err(refuse("invalid_request", "resource is empty"))
        }
        Some(resource)
            if !workload.audiences.is_empty() && !workload.audiences.contains(resource) =>
        {
            Err(refuse("invalid_resource", "the resource principal was not found in the tenant"))
        }
        Some(resource) => Ok(resource.clone()),
    }
}

/// Issues a token; every value is a string, as in the real answers.
fn issue(shared: &Shared, resource: &str, client_id: Option<&String>) -> Response {
    let claims = shared.claims(resource);
    let token = match shared.sign(&claims) {
        Ok(token) => token,
        Err(error) => {
            return json_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({ "error": "unknown", "error_description": error.to_string() }),
            );
        }
    };
    shared.count_issued();
    let expires_on = claims.get("exp").and_then(Value::as_u64).unwrap_or_default();
    let left = expires_on.saturating_sub(epoch_seconds());
    json_response(
        StatusCode::OK,
        &json!({
            "access_token": token,
            "client_id": client_id.map_or("00000000-0000-0000-0000-000000000000", String::as_str),
            "expires_in": left.to_string(),
            "expires_on": expires_on.to_string(),
            "ext_expires_in": left.to_string(),
            "not_before": epoch_seconds().to_string(),
            "resource": resource,
            "token_type": "Bearer",
        }),
    )
}
