//! The token endpoint of an OAuth 2 server: client credentials with a secret in the header, a secret in
//! the form, or an assertion signed with the client's key. As strict as the specifications are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::idp::{Shared, epoch_seconds, json_response};

/// Path of the token endpoint.
pub const PATH: &str = "/oauth2/token";
/// How an assertion is presented.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How a client shows who it is.
#[derive(Debug, Clone)]
pub enum Proof {
    /// A secret in `Authorization: Basic`.
    Basic(String),
    /// A secret in the form.
    Form(String),
    /// An assertion signed with ES256; this is the public key in PEM.
    Key(String),
}

/// Clients that exist.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// By their ids.
    proofs: Mutex<BTreeMap<String, Proof>>,
    /// Assertions that were taken; each is good for once.
    seen: Mutex<BTreeSet<String>>,
}

impl Clients {
    /// Adds a client.
    pub(super) fn register(&self, id: &str, proof: Proof) {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.insert(id.to_owned(), proof);
    }

    /// Says who asks, or why that is not clear.
    fn authenticate(
        &self,
        basic: Option<(String, String)>,
        form: &BTreeMap<String, String>,
        endpoint: &str,
    ) -> Result<String, String> {
        let field = |name: &str| form.get(name).map(String::as_str);
        let ways = [
            basic.is_some(),
            form.contains_key("client_secret"),
            form.contains_key("client_assertion"),
        ];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err("exactly one way to authenticate is needed".to_owned());
        }
        let id = match &basic {
            Some((id, _)) => id.clone(),
            None => field("client_id").ok_or("client_id is missing")?.to_owned(),
        };
        let proof = self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        match (proof.ok_or("the client is not known")?, basic) {
            (Proof::Basic(secret), Some((_, given))) if given == secret => Ok(id),
            (Proof::Form(secret), None) if field("client_secret") == Some(&secret) => Ok(id),
            (Proof::Key(key), None) if field("client_assertion_type") == Some(ASSERTION_TYPE) => {
                self.check_assertion(
                    field("client_assertion").unwrap_or_default(),
                    &key,
                    &id,
                    endpoint,
                )
                .map(|()| id)
            }
            _ => Err("the client did not show who it is".to_owned()),
        }
    }

    /// Checks an assertion.
    fn check_assertion(
        &self,
        assertion: &str,
        key: &str,
        id: &str,
        endpoint: &str,
    ) -> Result<(), String> {
        let text = |error: jsonwebtoken::errors::Error| error.to_string();
        let key = DecodingKey::from_ec_pem(key.as_bytes()).map_err(text)?;
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[endpoint]);
        validation.set_issuer(&[id]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let claims =
            jsonwebtoken::decode::<Value>(assertion, &key, &validation).map_err(text)?.claims;
        if claims["sub"] != id {
            return Err("sub is not the client".to_owned());
        }
        let serial = claims["jti"].as_str().ok_or("jti is missing")?.to_owned();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.insert(serial) { Ok(()) } else { Err("the assertion was used before".to_owned()) }
    }
}

/// A refusal in the words of OAuth.
fn refuse(status: StatusCode, code: &str, why: &str) -> Response {
    json_response(status, &json!({ "error": code, "error_description": why }))
}

/// Answers a request for a token.
pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    shared.oauth.fetch_add(1, Ordering::SeqCst);
    if let Some(answer) = shared.faulty(PATH).await {
        return answer;
    }
    if let Some(outage) = shared.outage() {
        return outage;
    }
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let form: BTreeMap<String, String> =
        url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    if !is_form || form.get("grant_type").is_none_or(|kind| kind != "client_credentials") {
        let why = "client_credentials in a form is all there is";
        return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", why);
    }
    let endpoint = format!("{}{PATH}", shared.issuer);
    if let Err(why) = shared.clients.authenticate(basic(&headers), &form, &endpoint) {
        return refuse(StatusCode::UNAUTHORIZED, "invalid_client", &why);
    }
    let Some(audience) = form.get("audience") else {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request", "audience is missing");
    };
    let claims = shared.claims(audience);
    let left = claims["exp"].as_u64().unwrap_or_default().saturating_sub(epoch_seconds());
    match shared.sign(&claims) {
        Ok(token) => {
            shared.count_issued();
            let body = json!({ "token_type": "Bearer", "expires_in": left, "access_token": token });
            json_response(StatusCode::OK, &body)
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "server_error", &error.to_string()),
    }
}

/// User and password of `Authorization: Basic`, both form-encoded before they were put together.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    let decoded = |text: &str| {
        url::form_urlencoded::parse(format!("x={text}").as_bytes())
            .next()
            .map(|(_, v)| v.into_owned())
    };
    Some((decoded(user)?, decoded(password)?))
}
