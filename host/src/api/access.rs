//! Who may do what, asked for every request: the federation's decision as an HTTP answer, and the
//! routes that change the federation.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    Json,
    body::Body,
    extract::{Extension, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    ApiState,
    error::{ApiError, ApiResult},
    request::{self, RequestId},
};
use crate::{
    error::{Error, Kind},
    federation::{Action, Decision, Question},
};

/// Between whom a connection is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// The caller.
    pub(super) client: IpAddr,
    /// This server, as the caller reached it.
    pub(super) server: IpAddr,
}

/// What a request needs; `None` for what everybody may ask.
fn action_of(method: &Method, path: &str) -> Option<Action> {
    match path {
        "/healthz" | "/readyz" | "/api/v1/login" => None,
        path if path.starts_with("/api/v1/federation") => Some(Action::Administer),
        // What is given up or handed over does not come back.
        "/api/v1/commit" | "/api/v1/abort" => Some(Action::Commit),
        _ if method == Method::GET || method == Method::HEAD => Some(Action::View),
        _ => Some(Action::Operate),
    }
}

/// Lets a request through or answers it with 401 or 403, as RFC 6750 has it.
pub(super) async fn authorize(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let Some(action) = action_of(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let id = request.extensions().get::<RequestId>().cloned().unwrap_or_else(RequestId::new);
    let nowhere = Peer {
        client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        server: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let peer = request.extensions().get::<Peer>().copied().unwrap_or(nowhere);
    let what = format!("{} {}", request.method(), request.uri().path());
    let headers: Vec<&[u8]> = request
        .headers()
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let question = Question {
        authorization: &headers,
        client: peer.client.to_canonical(),
        server: peer.server.to_canonical(),
        action,
        request: &what,
        request_id: id.as_str(),
    };
    let decision = match state.access.decide(question).await {
        // Without a federation only this machine is let in.
        Decision::Open if !state.exposure.is_local => Decision::Anonymous,
        decision => decision,
    };
    let refuse = |kind: Kind, detail: &str, challenge: Option<&'static str>| {
        let mut response = ApiError::from(Error::new(kind, detail)).respond(&id);
        if let Some(challenge) = challenge {
            let value = HeaderValue::from_static(challenge);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    };
    match decision {
        Decision::Open | Decision::Allowed => next.run(request).await,
        Decision::Anonymous => refuse(
            Kind::Unauthenticated,
            "the request needs a bearer token",
            Some("Bearer realm=\"syncline\""),
        ),
        Decision::Unauthenticated => refuse(
            Kind::Unauthenticated,
            "the token is not accepted",
            Some("Bearer realm=\"syncline\", error=\"invalid_token\""),
        ),
        Decision::Forbidden => refuse(
            Kind::AccessDenied,
            "the token does not allow this",
            Some("Bearer realm=\"syncline\", error=\"insufficient_scope\""),
        ),
        Decision::Unavailable => {
            refuse(Kind::Internal, "the decision about the request cannot be written down", None)
        }
    }
}

/// `GET /api/v1/federation`
pub(super) async fn get(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
) -> Response {
    let answer = match state.access.federation().map(serde_json::to_value) {
        Some(Ok(federation)) => {
            Json(json!({"success": true, "federation": federation})).into_response()
        }
        None => {
            let error = Error::new(Kind::NotFound, "there is no federation");
            ApiError::from(error).respond(&id)
        }
        Some(Err(error)) => {
            let error =
                Error::new(Kind::Internal, "the federation cannot be shown").caused_by(error);
            ApiError::from(error).respond(&id)
        }
    };
    std::future::ready(answer).await
}

/// `GET /api/v1/login`: where people log in. Everybody may ask; it holds no secret.
pub(super) async fn offer(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
) -> Response {
    let federation = state.access.federation();
    let found = federation.and_then(|one| Some((one.client_id.clone()?, one)));
    let answer = match found {
        Some((client_id, federation)) => {
            let flows: Vec<&str> = federation.flows.iter().map(|flow| flow.name()).collect();
            Json(json!({"success": true, "login": {
                "issuer": federation.issuer, "clientId": client_id,
                "requestedScopes": federation.requested_scopes, "flows": flows,
            }}))
            .into_response()
        }
        None => {
            let error =
                Error::new(Kind::NotFound, "nobody logs in here: no federation has a clientId");
            ApiError::from(error).respond(&id)
        }
    };
    std::future::ready(answer).await
}

/// `POST /api/v1/federation`
pub(super) async fn create(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    let outcome = async { Ok(state.access.create(federation(body).await?).await?) }.await;
    reply(&id, StatusCode::CREATED, outcome)
}

/// `PUT /api/v1/federation`
pub(super) async fn edit(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    let outcome = async { Ok(state.access.edit(federation(body).await?).await?) }.await;
    reply(&id, StatusCode::OK, outcome)
}

/// `DELETE /api/v1/federation`
pub(super) async fn delete(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
) -> Response {
    let outcome = async {
        if !state.exposure.is_local {
            let detail = "off loopback the API needs a federation; listen on 127.0.0.1 first";
            return Err(ApiError::from(Error::new(Kind::FederationInvalid, detail)));
        }
        Ok(state.access.delete().await?)
    };
    reply(&id, StatusCode::OK, outcome.await)
}

/// `POST /api/v1/federation/revoke-jwks`
pub(super) async fn revoke(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
) -> Response {
    let outcome = state.access.revoke_keys().map_err(ApiError::from);
    std::future::ready(reply(&id, StatusCode::OK, outcome)).await
}

/// The body of a change.
async fn federation(body: Body) -> ApiResult<Value> {
    Ok(Value::Object(request::object(body).await?))
}

/// The envelope.
fn reply(id: &RequestId, status: StatusCode, outcome: ApiResult<()>) -> Response {
    match outcome {
        Ok(()) => (status, Json(json!({"success": true}))).into_response(),
        Err(error) => error.respond(id),
    }
}
