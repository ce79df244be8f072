//! Errors on the wire: mongosync's envelope, with code, advice and request id of our own.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::request::RequestId;
use crate::{
    error::{Error, Kind},
    telemetry::{metrics, redact},
};

/// A failed request.
#[derive(Debug)]
pub(super) struct ApiError {
    /// What went wrong.
    error: Error,
    /// Status, when it is not the one of the error's kind.
    status: Option<StatusCode>,
}

/// What a handler returns.
pub(super) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A body or a head that cannot be understood.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Error::new(Kind::BadRequest, detail).into()
    }

    /// Replaces the status.
    #[must_use]
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The response.
    pub(super) fn respond(&self, id: &RequestId) -> Response {
        let kind = self.error.kind();
        metrics::add(metrics::ERRORS, Some(("code", kind.code())));
        let status = self.status.unwrap_or_else(|| status_of(kind));
        let body = json!({
            "success": false,
            "error": kind.name(),
            "errorDescription": redact::text(&self.error.full()),
            "code": kind.code(),
            "advice": kind.advice(),
            "requestId": id.as_str(),
        });
        (status, Json(body)).into_response()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self { error, status: None }
    }
}

/// The status of a kind: 4xx when the caller can mend it, 5xx when not.
fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::ConfigInvalid
        | Kind::UriInvalid
        | Kind::SameCluster
        | Kind::FilterInvalid
        | Kind::StartOptionsInvalid
        | Kind::UnsupportedVersion
        | Kind::UnsupportedOperation
        | Kind::IndexesCollide
        | Kind::NotReplicaSet
        | Kind::LoginFailed
        | Kind::FederationInvalid
        | Kind::NamespaceRemapConflict
        | Kind::BadRequest => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::RequestForbidden | Kind::AccessDenied => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::NamespaceConflict
        | Kind::InvalidState
        | Kind::CannotCommitYet
        | Kind::AlreadyStarted
        | Kind::MetadataMismatch
        | Kind::MetadataVersion
        | Kind::DuplicateKeyAtCommit
        | Kind::DestinationChanged
        | Kind::InsufficientDestinationDiskSpace
        | Kind::LeaseLost
        | Kind::VerificationFailed => StatusCode::CONFLICT,
        Kind::ClusterUnreachable | Kind::TransientNetwork => StatusCode::SERVICE_UNAVAILABLE,
        Kind::AuthenticationFailed
        | Kind::PermissionDenied
        | Kind::IdentityProviderFailure
        | Kind::OplogPositionLost
        | Kind::IndexBuildFailed
        | Kind::WriteFailed
        | Kind::ReadFailed
        | Kind::PluginNotFound
        | Kind::PluginNotComponent
        | Kind::PluginWrongWorld
        | Kind::PluginImportDenied
        | Kind::PluginDigestMismatch
        | Kind::PluginConfigInvalid
        | Kind::PluginTrap
        | Kind::PluginDeadline
        | Kind::PluginMemory
        | Kind::PluginOutputInvalid
        | Kind::PluginRejected
        | Kind::PluginChangedId
        | Kind::PluginEgressDenied
        | Kind::PluginVersion
        | Kind::PluginUnsigned
        | Kind::PluginNonconforming
        | Kind::QuarantineFull
        | Kind::PluginFaulty
        | Kind::NamespaceOutsideFilter
        | Kind::PortInUse
        | Kind::ApiUnreachable
        | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
