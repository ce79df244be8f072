//! From the generated identity interface to [`IdentityProvider`].

use std::{marker::PhantomData, time::Duration};

use super::identity::{
    exports::syncline::plugin::identity as wit,
    syncline::host::{
        clock, config as config_import, env, files, http, interaction, secrets, types,
    },
};
use crate::{
    config::{self, ConfigError},
    host::{DeviceCode, Host, HostError},
    http::{Method, Request, Response},
    identity::{
        Credential, Descriptor, Failure, Flow, IdentityProvider, IdpInfo, OauthError, Reason,
        TokenRequest,
    },
    secrets::{Place, Placement},
};

/// The component made of a provider.
pub struct Component<P>(PhantomData<P>);

impl<P: IdentityProvider> wit::Guest for Component<P> {
    fn describe() -> wit::Descriptor {
        match provider::<P>() {
            Ok(provider) => to_descriptor(provider.describe()),
            Err(_) => wit::Descriptor {
                name: String::new(),
                version: String::new(),
                flows: Vec::new(),
                origins: Vec::new(),
            },
        }
    }

    fn validate() -> Result<(), wit::Failure> {
        provider::<P>().map(|_| ()).map_err(|error| wit::Failure::Config(error.to_string()))
    }

    fn get_token(request: wit::TokenRequest) -> Result<wit::Credential, wit::Failure> {
        let provider = provider::<P>().map_err(|error| wit::Failure::Config(error.to_string()))?;
        provider.get_token(&Imports, &from_request(request)).map(to_credential).map_err(to_failure)
    }
}

/// A provider from the configuration the host holds.
fn provider<P: IdentityProvider>() -> Result<P, ConfigError> {
    super::log_panics();
    config::parse(&config_import::all()).and_then(P::new)
}

/// The real host.
struct Imports;

impl Host for Imports {
    fn send(&self, request: Request) -> Result<Response, HostError> {
        http::send(&to_request(request)).map(from_response).map_err(from_host_error)
    }

    fn send_with(&self, request: Request, secrets: &[Placement]) -> Result<Response, HostError> {
        let placements: Vec<secrets::Placement> = secrets.iter().map(to_placement).collect();
        secrets::send_with(&to_request(request), &placements)
            .map(from_response)
            .map_err(from_host_error)
    }

    fn sign_jwt(&self, key: &str, header: &str, claims: &str) -> Result<String, HostError> {
        secrets::sign_jwt(key, header, claims).map_err(from_host_error)
    }

    fn now_ms(&self) -> u64 {
        clock::now_ms()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(clock::monotonic_ms())
    }

    fn sleep(&self, duration: Duration) {
        clock::sleep_ms(millis(duration));
    }

    fn env(&self, name: &str) -> Result<Option<String>, HostError> {
        env::get(name).map_err(from_host_error)
    }

    fn read_file(&self, path: &str, max_bytes: u32) -> Result<Vec<u8>, HostError> {
        files::read(path, max_bytes).map_err(from_host_error)
    }

    fn random(&self, count: u32) -> Result<Vec<u8>, HostError> {
        interaction::random(count).map_err(from_host_error)
    }

    fn listen(&self) -> Result<String, HostError> {
        interaction::listen().map_err(from_host_error)
    }

    fn browse(&self, url: &str, state: &str) -> Result<Vec<(String, String)>, HostError> {
        interaction::browse(url, state).map_err(from_host_error)
    }

    fn show_code(&self, code: &DeviceCode) -> Result<(), HostError> {
        let code = interaction::DeviceCode {
            user_code: code.user_code.clone(),
            verification_uri: code.verification_uri.clone(),
            verification_uri_complete: code.verification_uri_complete.clone(),
            expires_in_ms: millis(code.expires_in),
        };
        interaction::show_code(&code).map_err(from_host_error)
    }
}

/// A request in the contract's words.
fn to_request(request: Request) -> http::Request {
    http::Request {
        method: match request.method {
            Method::Get => http::Method::Get,
            Method::Head => http::Method::Head,
            Method::Post => http::Method::Post,
            Method::Put => http::Method::Put,
            Method::Delete => http::Method::Delete,
            Method::Patch => http::Method::Patch,
        },
        url: request.url,
        headers: request.headers,
        body: request.body,
        timeout_ms: request.timeout.map(millis),
        max_response_bytes: request.max_response_bytes,
    }
}

/// An answer in the SDK's words.
fn from_response(answer: http::Response) -> Response {
    Response { status: answer.status, headers: answer.headers, body: answer.body }
}

/// A placement in the contract's words.
fn to_placement(placement: &Placement) -> secrets::Placement {
    secrets::Placement {
        secret: placement.secret.clone(),
        place: match &placement.place {
            Place::Header { name, before } => {
                secrets::Place::Header((name.clone(), before.clone()))
            }
            Place::Basic { user } => secrets::Place::Basic(user.clone()),
            Place::Form { field } => secrets::Place::Form(field.clone()),
        },
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A host error in the SDK's words.
fn from_host_error(error: types::HostError) -> HostError {
    match error {
        types::HostError::Denied(text) => HostError::Denied(text),
        types::HostError::NotFound(text) => HostError::NotFound(text),
        types::HostError::Limit(text) => HostError::Limit(text),
        types::HostError::TimedOut => HostError::TimedOut,
        types::HostError::Invalid(text) => HostError::Invalid(text),
        types::HostError::Unavailable(text) => HostError::Unavailable(text),
    }
}

/// A request in the SDK's words.
fn from_request(request: wit::TokenRequest) -> TokenRequest {
    TokenRequest {
        flow: match request.flow {
            wit::Flow::Machine => Flow::Machine,
            wit::Flow::Human => Flow::Human,
        },
        cluster: request.cluster,
        reason: match request.reason {
            wit::Reason::Initial => Reason::Initial,
            wit::Reason::Expiring => Reason::Expiring,
            wit::Reason::Rejected => Reason::Rejected,
            wit::Reason::Reauthentication => Reason::Reauthentication,
        },
        audience: request.audience,
        principal: request.principal,
        hosts: request.hosts,
        idp: request.idp.map(|idp| IdpInfo {
            issuer: idp.issuer,
            client_id: idp.client_id,
            request_scopes: idp.request_scopes,
        }),
        refresh_token: request.refresh_token,
        timeout: Duration::from_millis(request.timeout_ms),
        attempt: request.attempt,
        extra: request.extra,
    }
}

/// A descriptor in the contract's words.
fn to_descriptor(descriptor: Descriptor) -> wit::Descriptor {
    wit::Descriptor {
        name: descriptor.name,
        version: descriptor.version,
        flows: descriptor
            .flows
            .into_iter()
            .map(|flow| match flow {
                Flow::Machine => wit::Flow::Machine,
                Flow::Human => wit::Flow::Human,
            })
            .collect(),
        origins: descriptor.origins,
    }
}

/// A credential in the contract's words.
fn to_credential(credential: Credential) -> wit::Credential {
    wit::Credential {
        access_token: credential.access_token,
        expires_in_ms: credential.expires_in.map(millis),
        refresh_token: credential.refresh_token,
        audit: credential.audit,
    }
}

/// A failure in the contract's words.
fn to_failure(failure: Failure) -> wit::Failure {
    let oauth =
        |error: OauthError| wit::OauthError { code: error.code, description: error.description };
    match failure {
        Failure::Config(text) => wit::Failure::Config(text),
        Failure::RefreshRejected(error) => wit::Failure::RefreshRejected(oauth(error)),
        Failure::Denied(error) => wit::Failure::Denied(oauth(error)),
        Failure::InteractionRequired(text) => wit::Failure::InteractionRequired(text),
        Failure::Unavailable { reason, retry_after } => wit::Failure::Unavailable(wit::Outage {
            reason,
            retry_after_ms: retry_after.map(millis),
        }),
        Failure::TimedOut => wit::Failure::TimedOut,
        Failure::Cancelled => wit::Failure::Cancelled,
        Failure::Unsupported(text) => wit::Failure::Unsupported(text),
        Failure::Internal(text) => wit::Failure::Internal(text),
    }
}
