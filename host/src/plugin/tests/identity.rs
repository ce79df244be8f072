//! Identity providers: the first-party one as a real component against a fake of its service, and
//! guests that misbehave.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode},
    routing::get,
};
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

use super::{guest, load, refusal};
use crate::{
    error::Kind,
    model::{
        plugin::{Grants, World},
        token::{Credential, Flow, Reason, TokenError, TokenRequest},
    },
    plugin::Registry,
};

/// Something of the shape of a JWT.
const JWT: &str = "aGVhZA.Ym9keQ.c2ln";

/// A machine's request.
pub(super) fn request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Machine,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: Some("api://sync".to_owned()),
        principal: Some("client 1".to_owned()),
        hosts: vec!["db.example.com:27017".to_owned()],
        idp: None,
        refresh_token: None,
        timeout: Duration::from_secs(20),
        attempt: 0,
        extra: Vec::new(),
    }
}

/// The metadata service, with scripted answers.
struct Imds {
    /// Scheme, host and port.
    endpoint: String,
    /// Requests so far.
    requests: Arc<AtomicUsize>,
    /// Keeps it running.
    _tasks: JoinSet<()>,
}

/// What the fake needs to answer.
#[derive(Clone)]
struct Script {
    /// Answers in order; the last one repeats.
    answers: Arc<[(StatusCode, String)]>,
    /// Requests so far.
    requests: Arc<AtomicUsize>,
}

impl Imds {
    /// Starts a fake.
    async fn start(answers: &[(u16, String)]) -> Self {
        let answers: Vec<(StatusCode, String)> = answers
            .iter()
            .map(|(status, body)| (StatusCode::from_u16(*status).unwrap(), body.clone()))
            .collect();
        let requests = Arc::new(AtomicUsize::new(0));
        let script = Script { answers: answers.into(), requests: Arc::clone(&requests) };
        let app =
            Router::new().route("/metadata/identity/oauth2/token", get(answer)).with_state(script);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { endpoint, requests, _tasks: tasks }
    }
}

/// Answers as the service does: strict about its header and its parameters.
async fn answer(
    State(script): State<Script>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let number = script.requests.fetch_add(1, Ordering::SeqCst);
    let expected = "api-version=2018-02-01&resource=api%3A%2F%2Fsync&client_id=client%201";
    let metadata = headers.get("metadata").is_some_and(|value| value == "true");
    if !metadata || headers.contains_key("x-forwarded-for") || query.as_deref() != Some(expected) {
        let body = json!({"error": "bad_request_102", "error_description": format!("{query:?}")});
        return (StatusCode::BAD_REQUEST, body.to_string());
    }
    script.answers[number.min(script.answers.len() - 1)].clone()
}

/// A good body.
fn good() -> String {
    json!({"access_token": JWT, "expires_in": "3600", "client_id": "c1"}).to_string()
}

/// Loads the provider as the host does for a connection string, and gets a token.
async fn token(imds: &Imds, request: TokenRequest) -> Result<Credential, TokenError> {
    let registry = Registry::load(Vec::new()).await.unwrap();
    let config = json!({"endpoint": imds.endpoint});
    registry.load_one(Registry::builtin_spec("azure-imds", config).unwrap()).await.unwrap();
    registry.issuer("azure-imds").await.unwrap().get_token(request).await
}

#[tokio::test]
async fn azure_imds_gets_a_token_through_the_sandbox() {
    let imds = Imds::start(&[(200, good())]).await;
    let credential = token(&imds, request()).await.unwrap();
    assert_eq!(credential.access_token.expose_secret(), JWT);
    assert_eq!(credential.expires_in, Some(Duration::from_secs(3600)));
    assert!(credential.audit.contains(&("client_id".to_owned(), "c1".to_owned())));
    assert_eq!(imds.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn azure_imds_tries_again_after_a_pause() {
    let imds = Imds::start(&[(500, String::new()), (200, good())]).await;
    let start = Instant::now();
    token(&imds, request()).await.unwrap();
    assert_eq!(imds.requests.load(Ordering::SeqCst), 2);
    assert!(start.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn azure_imds_passes_on_a_refusal() {
    let body = json!({"error": "invalid_request", "error_description": "Identity not found"});
    let imds = Imds::start(&[(400, body.to_string())]).await;
    let error = token(&imds, request()).await.unwrap_err();
    let TokenError::Denied(text) = error else { panic!("{error:?}") };
    assert_eq!(text, "invalid_request: Identity not found");
}

#[tokio::test]
async fn azure_imds_says_what_the_connection_string_lacks() {
    let imds = Imds::start(&[(200, good())]).await;
    let error = token(&imds, TokenRequest { audience: None, ..request() }).await.unwrap_err();
    assert!(matches!(&error, TokenError::Config(text) if text.contains("TOKEN_RESOURCE")));
    let error = token(&imds, TokenRequest { flow: Flow::Human, ..request() }).await.unwrap_err();
    assert!(matches!(error, TokenError::Unsupported(_)));
    assert_eq!(imds.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn azure_imds_needs_its_grants_at_load() {
    let mut spec = Registry::builtin_spec("azure-imds", json!({})).unwrap();
    assert_eq!(spec.grants.origins, ["http://169.254.169.254"]);
    spec.grants.origins.clear();
    let error = refusal(spec.clone()).await;
    assert_eq!(error.kind(), Kind::PluginImportDenied);
    assert!(error.detail().contains("origins:"), "{error}");
    assert!(error.detail().contains("http://169.254.169.254"), "{error}");
    // An origin that it does not ask for is no help.
    spec.grants.origins = vec!["https://example.com".to_owned()];
    assert_eq!(refusal(spec.clone()).await.kind(), Kind::PluginImportDenied);
    spec.grants =
        Grants { clock: false, ..Registry::builtin_spec("azure-imds", json!({})).unwrap().grants };
    let error = refusal(spec).await;
    assert!(error.detail().contains("clock: true"), "{error}");
}

#[tokio::test]
async fn an_origin_that_is_not_granted_sees_no_request() {
    let imds = Imds::start(&[(200, good())]).await;
    let mut spec =
        Registry::builtin_spec("azure-imds", json!({"endpoint": imds.endpoint})).unwrap();
    spec.grants.origins = vec!["http://169.254.169.254".to_owned()];
    let registry = load(spec).await.unwrap();
    let issuer = registry.issuer("azure-imds").await.unwrap();
    let error = issuer.get_token(request()).await.unwrap_err();
    let TokenError::Plugin(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), Kind::PluginEgressDenied);
    assert!(error.detail().contains(&imds.endpoint), "{error}");
    assert_eq!(imds.requests.load(Ordering::SeqCst), 0);
    assert_eq!(registry.info()[0].counters.errors, 1);
}

#[tokio::test]
async fn a_wrong_configuration_is_found_at_load() {
    for (config, key) in [(json!({"endpoint": "ftp://x"}), "endpoint"), (json!({"x": 1}), "`x`")] {
        let mut spec = Registry::builtin_spec("azure-imds", json!({})).unwrap();
        spec.config = config;
        let error = refusal(spec).await;
        // A URL that is no origin is refused by the host, before the guest sees it.
        assert!(matches!(error.kind(), Kind::PluginConfigInvalid | Kind::ConfigInvalid));
        assert!(error.detail().contains(key) || error.detail().contains("ftp"), "{error}");
    }
}

#[tokio::test]
async fn a_builtin_provider_needs_no_entry() {
    let registry = Registry::load(Vec::new()).await.unwrap();
    let issuer = registry.issuer("azure-imds").await.unwrap();
    issuer.validate().await.unwrap();
    let info = registry.info();
    assert_eq!((info[0].world, info[0].grants.clock), (World::IdentityProvider, true));
    assert_eq!(registry.filter("azure-imds").await.err().unwrap().kind(), Kind::PluginWrongWorld);
}

/// The error of a text guest's `get-token`.
async fn failing(imports: &str, get_token: &str, grants: Grants) -> TokenError {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::identity(imports, get_token));
    spec.grants = grants;
    let registry = load(spec).await.unwrap();
    let issuer = registry.issuer("guest").await.unwrap();
    let request = TokenRequest { timeout: Duration::from_millis(200), ..request() };
    let error = issuer.get_token(request).await.unwrap_err();
    assert_eq!(registry.info()[0].instances, 0, "no instance outlives its call");
    error
}

#[tokio::test]
async fn misbehaving_providers_end_in_the_named_error() {
    for (body, expected) in [
        ("(loop $forever (br $forever))", Kind::PluginDeadline),
        ("unreachable", Kind::PluginTrap),
        (
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
             unreachable",
            Kind::PluginMemory,
        ),
        // Zeros are a credential with an empty token.
        ("", Kind::PluginOutputInvalid),
    ] {
        let error = failing("", body, Grants::default()).await;
        let TokenError::Plugin(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), expected, "{body}");
        assert!(error.detail().starts_with("plugin `guest`: "), "{error}");
    }
}

#[tokio::test]
async fn a_sleep_ends_with_the_deadline() {
    let imports = r#"(import "syncline:host/clock@0.1.0" "sleep-ms" (func $sleep (param i64)))"#;
    let grants = Grants { clock: true, ..Grants::default() };
    let error = failing(imports, "(call $sleep (i64.const 3600000))", grants).await;
    assert!(matches!(&error, TokenError::Plugin(error) if error.kind() == Kind::PluginDeadline));
}

/// Imports for a guest that reads a file or a variable named at 3000.
fn reading(interface: &str, function: &str, name: &str) -> String {
    let params = if function == "read" { "i32 i32 i32 i32" } else { "i32 i32 i32" };
    format!(
        r#"(import "syncline:host/{interface}@0.1.0" "{function}" (func $read (param {params})))
           (data (i32.const 3000) "{name}")"#
    )
}

#[tokio::test]
async fn a_granted_file_is_read_and_no_other() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, JWT).unwrap();
    let name = path.to_str().unwrap();
    let length = name.len();
    // Reads the file and answers with its content as the token.
    let body = format!(
        "(call $read (i32.const 3000) (i32.const {length}) (i32.const 1000) (i32.const 1200))
         (if (i32.load8_u (i32.const 1200)) (then unreachable))
         (i32.store (i32.const 1032) (i32.load (i32.const 1204)))
         (i32.store (i32.const 1036) (i32.load (i32.const 1208)))"
    );
    let imports = reading("files", "read", name);
    let component = guest::identity(&imports, &body);
    let mut spec = guest::spec(&folder, "reader", &component);
    spec.grants.files = vec![path.clone()];
    let registry = load(spec).await.unwrap();
    let issuer = registry.issuer("reader").await.unwrap();
    let credential = issuer.get_token(request()).await.unwrap();
    assert_eq!(credential.access_token.expose_secret(), JWT);
    // Rotation is seen at the next call.
    std::fs::write(&path, "bmV3.bmV3.bmV3").unwrap();
    let credential = issuer.get_token(request()).await.unwrap();
    assert_eq!(credential.access_token.expose_secret(), "bmV3.bmV3.bmV3");

    let grants = Grants { files: vec!["/etc/hostname".into()], ..Grants::default() };
    let error = failing(&imports, &body, grants).await;
    let TokenError::Plugin(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), Kind::PluginImportDenied);
    assert!(error.detail().contains(name) && error.detail().contains("grants.files"), "{error}");
}

#[tokio::test]
async fn a_variable_that_is_not_granted_is_not_told() {
    let body = "(call $read (i32.const 3000) (i32.const 4) (i32.const 1200))
                (if (i32.load8_u (i32.const 1200)) (then unreachable))";
    let grants = Grants { env: vec!["SOMETHING_ELSE".to_owned()], ..Grants::default() };
    let error = failing(&reading("env", "get", "HOME"), body, grants).await;
    let TokenError::Plugin(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), Kind::PluginImportDenied);
    assert!(error.detail().contains("`HOME`"), "{error}");
}
