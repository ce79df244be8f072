//! The routes and their handlers.

use axum::{
    Json, Router,
    body::Body,
    extract::{Extension, State},
    http::{StatusCode, Uri, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;

use super::{
    ApiState, access,
    error::{ApiError, ApiResult},
    guard, metrics, plugins, progress,
    request::{self, RequestId},
    start, verification,
};
use crate::{
    config::problems::{Case, Fields, Layout, Problems},
    error::{Error, Kind},
    model::{options::Copied, progress::State as SyncState},
    telemetry::metrics::render,
};

/// A command without options.
#[derive(Debug, Clone, Copy)]
enum Command {
    /// `/pause`
    Pause,
    /// `/resume`
    Resume,
    /// `/commit`
    Commit,
    /// `/reverse`
    Reverse,
}

/// The whole API.
pub(super) fn router(state: ApiState) -> Router {
    Router::new()
        .route("/api/v1/start", post(post_start))
        .route("/api/v1/pause", post(post_pause))
        .route("/api/v1/resume", post(post_resume))
        .route("/api/v1/commit", post(post_commit))
        .route("/api/v1/reverse", post(post_reverse))
        .route("/api/v1/abort", post(post_abort))
        .route("/api/v1/progress", get(get_progress))
        .route("/api/v1/progress/collections", get(get_collections))
        .route("/api/v1/verification", get(get_verification))
        .route("/api/v1/plugins", get(get_plugins))
        .route(
            "/api/v1/federation",
            get(access::get).post(access::create).put(access::edit).delete(access::delete),
        )
        .route("/api/v1/login", get(access::offer))
        .route("/api/v1/federation/revoke-jwks", post(access::revoke))
        .route("/healthz", get(get_health))
        .route("/readyz", get(get_ready))
        .route("/metrics", get(get_metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), access::authorize))
        .layer(middleware::from_fn_with_state(state.exposure, guard::guard))
        .with_state(state)
}

/// `POST /api/v1/start`
async fn post_start(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    reply(&id, Box::pin(run_start(state, body)).await)
}

/// `POST /api/v1/pause`
async fn post_pause(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    reply(&id, run_plain(state, body, Command::Pause).await)
}

/// `POST /api/v1/resume`
async fn post_resume(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    reply(&id, run_plain(state, body, Command::Resume).await)
}

/// `POST /api/v1/commit`
async fn post_commit(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    reply(&id, run_plain(state, body, Command::Commit).await)
}

/// `POST /api/v1/reverse`
async fn post_reverse(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    reply(&id, run_plain(state, body, Command::Reverse).await)
}

/// `POST /api/v1/abort`
async fn post_abort(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    body: Body,
) -> Response {
    reply(&id, run_abort(state, body).await)
}

/// `GET /api/v1/progress`; reads what is published and asks nobody.
async fn get_progress(State(state): State<ApiState>) -> Response {
    std::future::ready(Json(progress::body(&state.engine.progress())).into_response()).await
}

/// `GET /api/v1/progress/collections?offset=…&limit=…`
async fn get_collections(
    State(state): State<ApiState>,
    Extension(id): Extension<RequestId>,
    uri: Uri,
) -> Response {
    std::future::ready(match request::page(uri.query().unwrap_or_default()) {
        Ok((offset, limit)) => {
            Json(progress::collections(&state.engine.progress(), offset, limit)).into_response()
        }
        Err(error) => error.respond(&id),
    })
    .await
}

/// `GET /api/v1/verification`; reads what is published and asks nobody.
async fn get_verification(State(state): State<ApiState>) -> Response {
    let body = verification::answer(state.engine.progress().verification.as_ref());
    std::future::ready(Json(body).into_response()).await
}

/// `GET /api/v1/plugins`
async fn get_plugins(State(state): State<ApiState>) -> Response {
    std::future::ready(Json(plugins::body(&(state.plugins)())).into_response()).await
}

/// `GET /healthz`: 200 while the sync is sound, 503 after it failed.
async fn get_health(State(state): State<ApiState>) -> Response {
    let progress = state.engine.progress();
    let (status, word) = match progress.failure {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let body = json!({"status": word, "state": progress.state.name()});
    std::future::ready((status, Json(body)).into_response()).await
}

/// `GET /readyz`: 200 once the daemon knows its state and takes commands.
async fn get_ready(State(state): State<ApiState>) -> Response {
    let present = state.engine.progress().state;
    let (status, word) = match present {
        SyncState::Initializing => (StatusCode::SERVICE_UNAVAILABLE, "initializing"),
        _ => (StatusCode::OK, "ready"),
    };
    let body = json!({"status": word, "state": present.name()});
    std::future::ready((status, Json(body)).into_response()).await
}

/// `GET /metrics`
async fn get_metrics(State(state): State<ApiState>) -> Response {
    metrics::observe(&state.engine.progress(), &(state.plugins)());
    let form = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    std::future::ready((form, render()).into_response()).await
}

/// Any other path.
async fn not_found(Extension(id): Extension<RequestId>) -> Response {
    let error = Error::new(Kind::NotFound, "there is no such path");
    std::future::ready(ApiError::from(error).respond(&id)).await
}

/// A known path with another method.
async fn method_not_allowed(Extension(id): Extension<RequestId>) -> Response {
    let error = Error::new(Kind::MethodNotAllowed, "the path does not take this method");
    std::future::ready(ApiError::from(error).respond(&id)).await
}

/// Starts the sync.
async fn run_start(state: ApiState, body: Body) -> ApiResult<()> {
    let body = request::object(body).await?;
    let options = start::parse(&body)?;
    initialized(&state)?;
    Ok(state.engine.start(options).await?)
}

/// Gives the sync up.
async fn run_abort(state: ApiState, body: Body) -> ApiResult<()> {
    const DROP: &str = "dropDestinationData";
    let body = request::object(body).await?;
    let mut problems = Problems::new();
    let fields = Fields::of_map(&body, "", &[DROP], Case::Ignore, &mut problems);
    let dropped = fields.switch(DROP, &mut problems).unwrap_or(false);
    problems.finish(Kind::BadRequest, "the body is invalid", Layout::Inline)?;
    initialized(&state)?;
    let copied = if dropped { Copied::Drop } else { Copied::Keep };
    Ok(state.engine.abort(copied).await?)
}

/// Runs a command whose body must be empty.
async fn run_plain(state: ApiState, body: Body, command: Command) -> ApiResult<()> {
    let body = request::object(body).await?;
    let mut problems = Problems::new();
    drop(Fields::of_map(&body, "", &[], Case::Ignore, &mut problems));
    problems.finish(Kind::BadRequest, "the body must be {}", Layout::Inline)?;
    initialized(&state)?;
    let engine = &state.engine;
    Ok(match command {
        Command::Pause => engine.pause().await,
        Command::Resume => engine.resume().await,
        Command::Commit => engine.commit().await,
        Command::Reverse => engine.reverse().await,
    }?)
}

/// Refuses commands until the state of the sync is known.
fn initialized(state: &ApiState) -> ApiResult<()> {
    if state.engine.progress().state == SyncState::Initializing {
        let error = Error::new(Kind::InvalidState, "the daemon is still INITIALIZING; try again");
        return Err(ApiError::from(error).with_status(StatusCode::SERVICE_UNAVAILABLE));
    }
    Ok(())
}

/// `{"success": true}` or the envelope of the error.
fn reply(id: &RequestId, outcome: ApiResult<()>) -> Response {
    match outcome {
        Ok(()) => Json(json!({"success": true})).into_response(),
        Err(error) => error.respond(id),
    }
}
