//! A fake identity provider on loopback: discovery, JWKS with rotation, tokens for one workload, and
//! the metadata endpoint of Azure. It answers by HTTP as the real ones do; what goes wrong is
//! scripted.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    clients::{self, Clients, Proof},
    clouds, imds,
    keys::SigningKey,
    people::{self, People, Person},
    tls::TlsListener,
};

/// Path of the discovery document.
pub const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Path of the key set.
pub const JWKS: &str = "/jwks";

/// An answer that an endpoint gives instead of its own.
#[derive(Debug, Clone)]
pub struct Scripted {
    /// HTTP status; 0 hangs up in the middle of the answer.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
    /// Time before the answer.
    pub delay: Duration,
}

impl Scripted {
    /// A status with a JSON body, at once.
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }

    /// No answer: the connection ends.
    pub fn hang_up() -> Self {
        Self::json(0, &Value::Null)
    }
}

/// Who the tokens are about, and for how long.
#[derive(Debug, Clone)]
pub struct Workload {
    /// `sub`.
    pub subject: String,
    /// `groups`.
    pub groups: Vec<String>,
    /// Life of a token.
    pub lifetime: Duration,
    /// Client ids of managed identities that exist beside the default one.
    pub client_ids: Vec<String>,
    /// Audiences that exist; empty means every one.
    pub audiences: Vec<String>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            subject: "workload".to_owned(),
            groups: vec!["sync".to_owned()],
            lifetime: Duration::from_secs(3600),
            client_ids: Vec::new(),
            audiences: Vec::new(),
        }
    }
}

/// Requests counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Discovery documents.
    pub discovery: u64,
    /// Key sets.
    pub jwks: u64,
    /// Requests to the metadata endpoint, refused ones too.
    pub imds: u64,
    /// Requests to Entra's token endpoint, refused ones too.
    pub entra: u64,
    /// Requests to the metadata service of GCP, refused ones too.
    pub gcp: u64,
    /// Requests to the token endpoint of OAuth 2, refused ones too.
    pub oauth: u64,
    /// Tokens issued by any of them.
    pub issued: u64,
    /// Browsers that came to log in.
    pub authorize: u64,
    /// Requests to the token endpoint for people, refused ones too.
    pub token: u64,
    /// Device codes asked for.
    pub device: u64,
    /// Tokens issued for a refresh token.
    pub refreshed: u64,
}

/// What the handlers share.
pub(super) struct Shared {
    /// Base URL, which is the issuer too.
    pub(super) issuer: String,
    /// Keys that sign and are published; the last one signs.
    keys: Mutex<Vec<SigningKey>>,
    /// Who.
    workload: Mutex<Workload>,
    /// Answers to give first.
    script: Mutex<VecDeque<Scripted>>,
    /// Queries of the metadata endpoint, in order.
    queries: Mutex<Vec<BTreeMap<String, String>>>,
    /// Number of the next token.
    serial: AtomicU64,
    /// Number of the next key.
    key_serial: AtomicU64,
    /// Counters.
    discovery: AtomicU64,
    /// Counters.
    jwks: AtomicU64,
    /// Counters.
    imds: AtomicU64,
    /// Counters.
    pub(super) entra: AtomicU64,
    /// Counters.
    pub(super) gcp: AtomicU64,
    /// Counters.
    pub(super) oauth: AtomicU64,
    /// Clients of the token endpoint.
    pub(super) clients: Clients,
    /// Counters.
    issued: AtomicU64,
    /// Whether every token endpoint is out of order.
    is_down: AtomicBool,
    /// What paths answer in the place of their own from now on.
    faults: Mutex<BTreeMap<&'static str, Scripted>>,
    /// What paths answer first, once each.
    once: Mutex<BTreeMap<&'static str, VecDeque<Scripted>>>,
    /// People and what was issued to them.
    pub(super) people: Mutex<People>,
}

/// Locks; a panic elsewhere fails its own test.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970.
pub(super) fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Shared {
    /// Claims of a token for an audience, before anybody changes them.
    pub(super) fn claims(&self, audience: &str) -> Value {
        let workload = lock(&self.workload).clone();
        let now = epoch_seconds();
        json!({
            "iss": self.issuer, "aud": audience, "sub": workload.subject,
            "groups": workload.groups, "iat": now, "nbf": now,
            "exp": now + workload.lifetime.as_secs(),
            "jti": self.serial.fetch_add(1, Ordering::SeqCst).to_string(),
        })
    }

    /// Signs with the current key.
    pub(super) fn sign(&self, claims: &Value) -> Result<String> {
        lock(&self.keys).last().context("the provider has no key")?.sign(claims)
    }

    /// The published keys.
    pub(super) fn public_keys(&self) -> Vec<Value> {
        lock(&self.keys).iter().map(SigningKey::jwk).collect()
    }

    /// The answer that a path gives in the place of its own.
    pub(super) async fn faulty(&self, path: &str) -> Option<Response> {
        let first = lock(&self.once).get_mut(path).and_then(VecDeque::pop_front);
        let answer = first.or_else(|| lock(&self.faults).get(path).cloned())?;
        tokio::time::sleep(answer.delay).await;
        Some(respond(answer))
    }

    /// The answer of every token endpoint while they are out of order.
    pub(super) fn outage(&self) -> Option<Response> {
        self.is_down
            .load(Ordering::SeqCst)
            .then(|| (StatusCode::SERVICE_UNAVAILABLE, "out of order").into_response())
    }

    /// Who the tokens are about.
    pub(super) fn workload(&self) -> Workload {
        lock(&self.workload).clone()
    }

    /// Counts a request to the metadata endpoint and takes the scripted answer, if there is one.
    pub(super) fn next_scripted(&self, query: BTreeMap<String, String>) -> Option<Scripted> {
        self.imds.fetch_add(1, Ordering::SeqCst);
        lock(&self.queries).push(query);
        lock(&self.script).pop_front()
    }

    /// Counts an issued token.
    pub(super) fn count_issued(&self) {
        self.issued.fetch_add(1, Ordering::SeqCst);
    }
}

/// The running provider. Dropping it stops it.
pub struct FakeIdp {
    /// What the handlers share.
    shared: Arc<Shared>,
    /// The server's task.
    _tasks: JoinSet<()>,
}

impl FakeIdp {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// When no port or no key can be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        Self::serve(Place::Plain(listener))
    }

    /// Starts it with TLS: `certificate` is a PEM with the key, for `localhost`.
    ///
    /// # Errors
    /// When no port or no key can be had, or the PEM cannot be used.
    pub async fn start_tls(certificate: &str) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        Self::serve(Place::Tls(TlsListener::new(listener, certificate)?))
    }

    /// Starts it.
    fn serve(place: Place) -> Result<Self> {
        let issuer = match &place {
            Place::Plain(listener) => format!("http://{}", listener.local_addr()?),
            Place::Tls(listener) => format!("https://localhost:{}", listener.port()?),
        };
        let shared = Arc::new(Shared {
            issuer,
            keys: Mutex::new(vec![SigningKey::generate("key-0")?]),
            workload: Mutex::default(),
            script: Mutex::default(),
            queries: Mutex::default(),
            serial: AtomicU64::new(0),
            key_serial: AtomicU64::new(1),
            discovery: AtomicU64::new(0),
            jwks: AtomicU64::new(0),
            imds: AtomicU64::new(0),
            entra: AtomicU64::new(0),
            gcp: AtomicU64::new(0),
            oauth: AtomicU64::new(0),
            clients: Clients::default(),
            issued: AtomicU64::new(0),
            is_down: AtomicBool::new(false),
            faults: Mutex::default(),
            once: Mutex::default(),
            people: Mutex::default(),
        });
        let app = Router::new()
            .route(DISCOVERY, get(discovery))
            .route(JWKS, get(jwks))
            .route(imds::PATH, any(imds::token))
            .route(clouds::ENTRA, post(clouds::entra))
            .route(clouds::GCP, get(clouds::gcp))
            .route(clients::PATH, post(clients::token))
            .route(people::AUTHORIZE, get(people::authorize))
            .route(people::TOKEN, post(people::token))
            .route(people::DEVICE, post(people::device))
            .with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let served = match place {
                Place::Plain(listener) => axum::serve(listener, app).await,
                Place::Tls(listener) => axum::serve(listener, app).await,
            };
            if let Err(error) = served {
                tracing::error!(%error, "fake identity provider stopped");
            }
        });
        Ok(Self { shared, _tasks: tasks })
    }

    /// The issuer, and the base URL of every endpoint.
    pub fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    /// Host and port, as `GCE_METADATA_HOST` has it.
    pub fn authority(&self) -> &str {
        self.shared.issuer.trim_start_matches("http://")
    }

    /// The token endpoint of OAuth 2, which wants an `audience`.
    pub fn token_endpoint(&self) -> String {
        format!("{}{}", self.shared.issuer, clients::PATH)
    }

    /// Adds a client of that endpoint.
    pub fn register(&self, id: &str, proof: Proof) {
        self.shared.clients.register(id, proof);
    }

    /// Puts every token endpoint out of order, or back.
    pub fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Lets a path (of this module, [`people`], [`clouds`] or [`clients`]) answer something else from
    /// now on, or itself again.
    pub fn fault(&self, path: &'static str, answer: Option<Scripted>) {
        let mut faults = lock(&self.shared.faults);
        match answer {
            Some(answer) => drop(faults.insert(path, answer)),
            None => drop(faults.remove(path)),
        }
    }

    /// Lets a path answer something else once, before its own.
    pub fn once(&self, path: &'static str, answer: Scripted) {
        lock(&self.shared.once).entry(path).or_default().push_back(answer);
    }

    /// Changes who logs in and how.
    pub fn person(&self, change: impl FnOnce(&mut Person)) {
        change(&mut lock(&self.shared.people).person);
    }

    /// Every secret issued to people so far: codes, refresh tokens, device codes, access tokens.
    pub fn secrets(&self) -> Vec<String> {
        lock(&self.shared.people).secrets.clone()
    }

    /// The public keys, as the key set has them.
    pub fn public_keys(&self) -> Vec<Value> {
        self.shared.public_keys()
    }

    /// Signs any text as header and as claims with the current key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign_text(&self, header: &str, claims: &str) -> Result<String> {
        lock(&self.shared.keys).last().context("no key")?.sign_text(header, claims)
    }

    /// A federated token of an AKS workload, as the kubelet mounts it.
    ///
    /// # Errors
    /// When signing fails.
    pub fn federated_token(&self) -> Result<String> {
        let mut claims = self.shared.claims(clouds::EXCHANGE_AUDIENCE);
        claims["exp"] = json!(epoch_seconds() + 3600);
        self.shared.sign(&claims)
    }

    /// What stands in the place of `http://169.254.169.254`.
    pub fn imds_origin(&self) -> &str {
        &self.shared.issuer
    }

    /// Changes who the tokens are about.
    pub fn change(&self, change: impl FnOnce(&mut Workload)) {
        change(&mut lock(&self.shared.workload));
    }

    /// Makes a token without asking the endpoint; `change` edits its claims.
    ///
    /// # Errors
    /// When signing fails.
    pub fn mint(&self, audience: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
        let mut claims = self.shared.claims(audience);
        change(&mut claims);
        self.shared.sign(&claims)
    }

    /// Makes a token with the given header and signed with the current key.
    ///
    /// # Errors
    /// When signing fails.
    pub fn mint_with_header(&self, header: &Value, audience: &str) -> Result<String> {
        let claims = self.shared.claims(audience);
        lock(&self.shared.keys).last().context("no key")?.sign_with(header, &claims)
    }

    /// Claims of a token, for a foreign key to sign.
    pub fn claims(&self, audience: &str) -> Value {
        self.shared.claims(audience)
    }

    /// The id of the key that signs now.
    ///
    /// # Errors
    /// When there is none.
    pub fn key_id(&self) -> Result<String> {
        Ok(lock(&self.shared.keys).last().context("no key")?.id().to_owned())
    }

    /// Adds an answer that the metadata endpoint gives once, before its own.
    pub fn script(&self, answer: Scripted) {
        lock(&self.shared.script).push_back(answer);
    }

    /// Signs with a new key from now on; the old ones stay published.
    ///
    /// # Errors
    /// When no key can be had.
    pub fn rotate(&self) -> Result<()> {
        let number = self.shared.key_serial.fetch_add(1, Ordering::SeqCst);
        let key = SigningKey::generate(format!("key-{number}"))?;
        lock(&self.shared.keys).push(key);
        Ok(())
    }

    /// Publishes only the key that signs now.
    pub fn retire_old_keys(&self) {
        let mut keys = lock(&self.shared.keys);
        let old = keys.len().saturating_sub(1);
        keys.drain(..old);
    }

    /// Queries that the metadata endpoint got, in order.
    pub fn queries(&self) -> Vec<BTreeMap<String, String>> {
        lock(&self.shared.queries).clone()
    }

    /// Counters.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counts {
            discovery: read(&self.shared.discovery),
            jwks: read(&self.shared.jwks),
            imds: read(&self.shared.imds),
            entra: read(&self.shared.entra),
            gcp: read(&self.shared.gcp),
            oauth: read(&self.shared.oauth),
            issued: read(&self.shared.issued),
            ..lock(&self.shared.people).counts()
        }
    }
}

/// Where it listens.
enum Place {
    /// Plain HTTP.
    Plain(TcpListener),
    /// TLS.
    Tls(TlsListener),
}

/// `/.well-known/openid-configuration`
async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    shared.discovery.fetch_add(1, Ordering::SeqCst);
    if let Some(answer) = shared.faulty(DISCOVERY).await {
        return answer;
    }
    let at = |path: &str| format!("{}{path}", shared.issuer);
    Json(json!({
        "issuer": shared.issuer,
        "jwks_uri": at("/jwks"),
        "authorization_endpoint": at(people::AUTHORIZE),
        "token_endpoint": at(people::TOKEN),
        "device_authorization_endpoint": at(people::DEVICE),
        "scopes_supported": ["openid", "offline_access", "profile"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
    .into_response()
}

/// `/jwks`
async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    shared.jwks.fetch_add(1, Ordering::SeqCst);
    if let Some(answer) = shared.faulty(JWKS).await {
        return answer;
    }
    Json(json!({ "keys": shared.public_keys() })).into_response()
}

/// Turns a scripted answer into a response.
pub(super) fn respond(answer: Scripted) -> Response {
    if answer.status == 0 {
        let cut = futures_util::stream::iter([
            Ok(answer.body),
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        ]);
        return Body::from_stream(cut).into_response();
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).unwrap_or_else(|error| {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("bad script: {error}")).into_response()
    })
}

/// A JSON answer.
pub(super) fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string())
        .into_response()
}
