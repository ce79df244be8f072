//! Entra ID's token endpoint, for the exchange of an AKS workload's federated token, and the identity
//! endpoint of GCP's metadata service; both as strict as the real ones.

use std::{collections::BTreeMap, sync::Arc, sync::atomic::Ordering};

use axum::{
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::Jwk};
use serde_json::{Value, json};

use super::idp::{Shared, epoch_seconds, json_response};

/// Path of the token endpoint.
pub const ENTRA: &str = "/{tenant}/oauth2/v2.0/token";
/// Path of the identity endpoint.
pub const GCP: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";
/// The tenant that exists.
pub const TENANT: &str = "11111111-2222-3333-4444-555555555555";
/// The managed identity that exists.
pub const CLIENT_ID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
/// For whom a federated token has to be.
pub(super) const EXCHANGE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// A refusal in Entra's words.
fn refuse(status: u16, error: &str, number: u32, text: &str) -> Response {
    json_response(
        StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
        &json!({
            "error": error,
            "error_description": format!("AADSTS{number}: {text}\r\nTrace ID: 0"),
            "error_codes": [number],
        }),
    )
}

/// Exchanges a federated token.
pub(super) async fn entra(
    State(shared): State<Arc<Shared>>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    shared.entra.fetch_add(1, Ordering::SeqCst);
    if let Some(answer) = shared.faulty(ENTRA).await {
        return answer;
    }
    if let Some(outage) = shared.outage() {
        return outage;
    }
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let fields: BTreeMap<String, String> =
        url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    if !form || field("grant_type") != "client_credentials" {
        return refuse(400, "invalid_request", 900144, "The request body must be a form.");
    }
    if tenant != TENANT {
        return refuse(400, "invalid_request", 90002, "Tenant not found.");
    }
    if field("client_id") != CLIENT_ID {
        return refuse(400, "unauthorized_client", 700016, "Application was not found.");
    }
    if field("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
        return refuse(401, "invalid_client", 7000218, "The assertion's type is missing.");
    }
    if let Err(why) = check_assertion(&shared, field("client_assertion")) {
        return refuse(401, "invalid_client", 700024, &why);
    }
    let Some(resource) = field("scope").strip_suffix("/.default") else {
        return refuse(400, "invalid_scope", 1002012, "The scope must end in /.default.");
    };
    let claims = shared.claims(resource);
    let left = claims["exp"].as_u64().unwrap_or_default().saturating_sub(epoch_seconds());
    match shared.sign(&claims) {
        Ok(token) => {
            shared.count_issued();
            let body = json!({
                "token_type": "Bearer", "expires_in": left, "ext_expires_in": left,
                "access_token": token,
            });
            json_response(StatusCode::OK, &body)
        }
        Err(error) => refuse(500, "server_error", 90033, &error.to_string()),
    }
}

/// Checks a federated token against the published keys.
fn check_assertion(shared: &Shared, assertion: &str) -> Result<(), String> {
    let header = jsonwebtoken::decode_header(assertion).map_err(|error| error.to_string())?;
    let jwk = shared
        .public_keys()
        .into_iter()
        .find(|jwk| jwk["kid"].as_str() == header.kid.as_deref())
        .ok_or("the key is not known")?;
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|error| error.to_string())?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[EXCHANGE_AUDIENCE]);
    validation.leeway = 0;
    jsonwebtoken::decode::<Value>(assertion, &key, &validation)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Answers with an identity token, as text.
pub(super) async fn gcp(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    shared.gcp.fetch_add(1, Ordering::SeqCst);
    if let Some(answer) = shared.faulty(GCP).await {
        return answer;
    }
    if let Some(outage) = shared.outage() {
        return outage;
    }
    let flavor = [("metadata-flavor", "Google")];
    let is_marked = headers.get("metadata-flavor").is_some_and(|value| value == "Google");
    if !is_marked || headers.contains_key("x-forwarded-for") {
        return (StatusCode::FORBIDDEN, flavor, "Missing Metadata-Flavor:Google header.")
            .into_response();
    }
    let audience = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, value)| name == "audience" && !value.is_empty())
        .map(|(_, value)| value.into_owned());
    let Some(audience) = audience else {
        return (StatusCode::BAD_REQUEST, flavor, "non-empty audience parameter required")
            .into_response();
    };
    match shared.sign(&shared.claims(&audience)) {
        Ok(token) => {
            shared.count_issued();
            ([("metadata-flavor", "Google"), ("content-type", "text/html")], token).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
