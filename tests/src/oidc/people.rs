//! The part of the fake identity provider that people use: authorization code with PKCE, device
//! codes, and refresh tokens that rotate. As strict as the real ones: codes are good once, a refresh
//! token that is shown twice revokes its family.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::idp::{Counts, Shared, epoch_seconds, json_response, lock};
use crate::random::Random;

/// Path of the authorization endpoint.
pub const AUTHORIZE: &str = "/authorize";
/// Path of the token endpoint.
pub const TOKEN: &str = "/token";
/// Path of the device authorization endpoint.
pub const DEVICE: &str = "/device";
/// What `slow_down` adds to a device's pause, for good.
const SLOWER: Duration = Duration::from_secs(5);
/// The client that exists.
pub const CLIENT: &str = "syncline-cli";

/// Who logs in, and how.
#[derive(Debug, Clone)]
pub struct Person {
    /// `sub`.
    pub subject: String,
    /// `groups`.
    pub groups: Vec<String>,
    /// `aud` of access tokens, unless a scope `<audience>/.default` names another.
    pub audience: String,
    /// Whether the person agrees; otherwise the provider answers `access_denied`.
    pub agrees: bool,
    /// Whether refresh tokens are issued.
    pub has_refresh: bool,
    /// Errors with which device polls are answered first.
    pub device_answers: VecDeque<&'static str>,
    /// Pause between two polls that is asked for, and enforced.
    pub interval: Duration,
    /// Life of a device code.
    pub device_life: Duration,
}

impl Default for Person {
    fn default() -> Self {
        Self {
            subject: "ann".to_owned(),
            groups: vec!["sync".to_owned()],
            audience: "api://db".to_owned(),
            agrees: true,
            has_refresh: true,
            device_answers: VecDeque::new(),
            interval: Duration::from_secs(1),
            device_life: Duration::from_secs(300),
        }
    }
}

/// A code on its way.
struct Code {
    /// `code_challenge`
    challenge: String,
    /// `redirect_uri`
    redirect_uri: String,
    /// What was asked for.
    grant: Grant,
    /// The family of refresh tokens that came of it, once it was redeemed.
    redeemed: Option<u64>,
}

/// What was asked for.
#[derive(Debug, Clone)]
struct Grant {
    /// `scope`
    scope: String,
    /// `nonce`
    nonce: Option<String>,
}

/// A device that waits.
struct Device {
    /// What was asked for.
    grant: Grant,
    /// When it ends.
    end: Instant,
    /// When it asked last.
    asked: Option<Instant>,
    /// Pause between two polls that is enforced.
    interval: Duration,
    /// Whether its token was taken.
    is_used: bool,
}

/// People and what was issued to them.
#[derive(Default)]
pub(super) struct People {
    /// Who logs in now.
    pub(super) person: Person,
    /// Codes.
    codes: BTreeMap<String, Code>,
    /// Devices.
    devices: BTreeMap<String, Device>,
    /// Refresh tokens with their family; used ones stay.
    refresh: BTreeMap<String, (u64, Grant, bool)>,
    /// Families that were revoked.
    revoked: BTreeSet<u64>,
    /// Number of the next family.
    families: u64,
    /// Every secret that was issued.
    pub(super) secrets: Vec<String>,
    /// Requests.
    counts: Counts,
}

impl People {
    /// The counters of this part.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// A new secret.
    fn secret(&mut self, prefix: &str) -> String {
        let secret = format!("{prefix}-{}", Random::from_entropy().word(32));
        self.secrets.push(secret.clone());
        secret
    }
}

/// Fields of a query or a form; a name that is there twice is nonsense.
fn fields(text: &str) -> Option<BTreeMap<String, String>> {
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let fields: BTreeMap<String, String> = pairs.iter().cloned().collect();
    (fields.len() == pairs.len()).then_some(fields)
}

/// A refusal as OAuth writes it.
fn refuse(error: &str, why: &str) -> Response {
    json_response(StatusCode::BAD_REQUEST, &json!({ "error": error, "error_description": why }))
}

/// Sends the browser back with a code; nobody has to type anything.
pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    lock(&shared.people).counts.authorize += 1;
    if let Some(answer) = shared.faulty(AUTHORIZE).await {
        return answer;
    }
    let Some(asked) = fields(&query.unwrap_or_default()) else {
        return refuse("invalid_request", "a parameter is given twice");
    };
    let field = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
    // Nothing is sent to a place that is not registered.
    let redirect = url::Url::parse(field("redirect_uri"));
    let Ok(mut redirect) = redirect else {
        return refuse("invalid_request", "redirect_uri is no URL");
    };
    let is_registered = redirect.scheme() == "http"
        && matches!(redirect.host_str(), Some("localhost" | "127.0.0.1"))
        && redirect.path() == "/redirect"
        && redirect.query().is_none();
    if field("client_id") != CLIENT || !is_registered {
        return refuse("invalid_request", "the client or its redirect_uri is not registered");
    }
    let back = |redirect: &mut url::Url, pairs: &[(&str, &str)]| {
        let mut query = redirect.query_pairs_mut();
        query.extend_pairs(pairs);
        query.append_pair("state", field("state")).append_pair("iss", &shared.issuer);
    };
    let is_sound = field("response_type") == "code"
        && field("code_challenge_method") == "S256"
        && field("code_challenge").len() == 43
        && field("state").len() >= 22;
    let mut people = lock(&shared.people);
    if !is_sound {
        back(&mut redirect, &[("error", "invalid_request")]);
    } else if people.person.agrees {
        let code = people.secret("code");
        back(&mut redirect, &[("code", &code)]);
        let grant = Grant { scope: field("scope").to_owned(), nonce: asked.get("nonce").cloned() };
        let known = Code {
            challenge: field("code_challenge").to_owned(),
            redirect_uri: field("redirect_uri").to_owned(),
            grant,
            redeemed: None,
        };
        people.codes.insert(code, known);
    } else {
        let words = [("error", "access_denied"), ("error_description", "the person said no")];
        back(&mut redirect, &words);
    }
    (StatusCode::FOUND, [(header::LOCATION, redirect.to_string())]).into_response()
}

/// Gives a device its codes.
pub(super) async fn device(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    lock(&shared.people).counts.device += 1;
    if let Some(answer) = shared.faulty(DEVICE).await {
        return answer;
    }
    let Some(asked) = form(&headers, &body) else {
        return refuse("invalid_request", "no form");
    };
    if asked.get("client_id").is_none_or(|client| client != CLIENT) {
        return refuse("invalid_client", "the client is not known");
    }
    let mut people = lock(&shared.people);
    let device_code = people.secret("device");
    let (life, interval) = (people.person.device_life, people.person.interval);
    let device = Device {
        grant: Grant { scope: asked.get("scope").cloned().unwrap_or_default(), nonce: None },
        end: Instant::now() + life,
        asked: None,
        interval,
        is_used: false,
    };
    people.devices.insert(device_code.clone(), device);
    let place = format!("{}/activate", shared.issuer);
    json_response(
        StatusCode::OK,
        &json!({
            "device_code": device_code, "user_code": "WDJB-MJHT", "verification_uri": place,
            "verification_uri_complete": format!("{place}?user_code=WDJB-MJHT"),
            "expires_in": life.as_secs(), "interval": interval.as_secs(),
        }),
    )
}

/// The fields of a form.
fn form(headers: &HeaderMap, body: &str) -> Option<BTreeMap<String, String>> {
    let kind = headers.get(header::CONTENT_TYPE)?;
    kind.as_bytes().starts_with(b"application/x-www-form-urlencoded").then(|| fields(body))?
}

/// Issues tokens.
pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    lock(&shared.people).counts.token += 1;
    if let Some(answer) = shared.faulty(TOKEN).await {
        return answer;
    }
    if let Some(outage) = shared.outage() {
        return outage;
    }
    let Some(asked) = form(&headers, &body) else {
        return refuse("invalid_request", "no form, or a parameter is given twice");
    };
    let field = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
    if field("client_id") != CLIENT || asked.contains_key("client_secret") {
        return refuse("invalid_client", "the client is not known, or shows a secret it has not");
    }
    let mut people = lock(&shared.people);
    let outcome = match field("grant_type") {
        "authorization_code" => {
            redeem(&mut people, field("code"), field("redirect_uri"), field("code_verifier"))
        }
        "refresh_token" => refresh(&mut people, field("refresh_token")),
        "urn:ietf:params:oauth:grant-type:device_code" => poll(&mut people, field("device_code")),
        _ => Err(("unsupported_grant_type", "this grant is not spoken here")),
    };
    match outcome {
        Ok((family, grant)) => issue(&shared, &mut people, family, &grant),
        Err((error, why)) => refuse(error, why),
    }
}

/// What a request for tokens comes to: the family and what was asked for, or a refusal.
type Outcome = Result<(u64, Grant), (&'static str, &'static str)>;

/// Takes a code.
fn redeem(people: &mut People, code: &str, redirect_uri: &str, verifier: &str) -> Outcome {
    let family = people.families;
    let Some(known) = people.codes.get_mut(code) else {
        return Err(("invalid_grant", "the code is not known"));
    };
    if let Some(family) = known.redeemed {
        people.revoked.insert(family);
        return Err(("invalid_grant", "the code was used before"));
    }
    // Used up, whatever comes of it.
    known.redeemed = Some(family);
    people.families += 1;
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()));
    if known.redirect_uri != redirect_uri
        || known.challenge != challenge
        || !(43..=128).contains(&verifier.len())
    {
        return Err(("invalid_grant", "the redirect_uri or the verifier is another"));
    }
    Ok((family, known.grant.clone()))
}

/// Takes a refresh token.
fn refresh(people: &mut People, token: &str) -> Outcome {
    let Some((family, grant, is_used)) = people.refresh.get_mut(token) else {
        return Err(("invalid_grant", "the refresh token is not known"));
    };
    let (family, grant) = (*family, grant.clone());
    if std::mem::replace(is_used, true) {
        people.revoked.insert(family);
        return Err(("invalid_grant", "the refresh token was used before"));
    }
    if people.revoked.contains(&family) {
        return Err(("invalid_grant", "the refresh token was revoked"));
    }
    people.counts.refreshed += 1;
    Ok((family, Grant { nonce: None, ..grant }))
}

/// Answers a device.
fn poll(people: &mut People, code: &str) -> Outcome {
    let agrees = people.person.agrees;
    let scripted = people.person.device_answers.pop_front();
    let Some(device) = people.devices.get_mut(code) else {
        return Err(("invalid_grant", "the device code is not known"));
    };
    let now = Instant::now();
    // A tenth of leeway: clocks and networks are not exact.
    let interval = device.interval;
    let is_early = device.asked.is_some_and(|last| now + interval / 10 < last + interval);
    device.asked = Some(now);
    if now >= device.end || device.is_used {
        return Err(("expired_token", "the device code is over"));
    }
    if scripted == Some("slow_down") || is_early {
        device.interval += SLOWER;
        return Err(("slow_down", "too fast"));
    }
    if let Some(error) = scripted {
        return Err((error, "as scripted"));
    }
    if !agrees {
        return Err(("access_denied", "the person said no"));
    }
    device.is_used = true;
    let grant = device.grant.clone();
    let family = people.families;
    people.families += 1;
    Ok((family, grant))
}

/// Signs the tokens.
fn issue(shared: &Shared, people: &mut People, family: u64, grant: &Grant) -> Response {
    let person = people.person.clone();
    let named = grant.scope.split(' ').find_map(|scope| scope.strip_suffix("/.default"));
    let mut access = shared.claims(named.unwrap_or(&person.audience));
    access["sub"] = json!(person.subject);
    access["groups"] = json!(person.groups);
    let left = access["exp"].as_u64().unwrap_or_default().saturating_sub(epoch_seconds());
    let mut id = shared.claims(CLIENT);
    id["sub"] = json!(person.subject);
    if let Some(nonce) = &grant.nonce {
        id["nonce"] = json!(nonce);
    }
    let (Ok(access), Ok(id)) = (shared.sign(&access), shared.sign(&id)) else {
        return refuse("server_error", "no key");
    };
    let mut body = json!({ "access_token": access, "token_type": "Bearer", "expires_in": left });
    people.secrets.push(access);
    let has = |wanted: &str| grant.scope.split(' ').any(|scope| scope == wanted);
    if has("openid") {
        body["id_token"] = json!(id);
    }
    if person.has_refresh && has("offline_access") {
        let token = people.secret("refresh");
        people.refresh.insert(token.clone(), (family, grant.clone(), false));
        body["refresh_token"] = Value::String(token);
    }
    shared.count_issued();
    json_response(StatusCode::OK, &body)
}
