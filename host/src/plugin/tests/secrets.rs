//! Secrets are put in place by the host; nothing gives one to the guest.

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use crate::{
    model::plugin::{Grants, LimitOverrides, SecretSource, World},
    plugin::{
        bindings::v0_1::identity::syncline::host::{
            http::{self, Host as _, Method},
            secrets::{Host, Place, Placement},
            types::HostError,
        },
        context::{Guest, Shared},
        egress::{Egress, Origin},
        grant::Access,
        limits::Limits,
    },
};

/// Private and public half of a key that exists for these tests alone, in PEM.
fn ec_key() -> (&'static str, &'static str) {
    (
        "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgCTRFDMR4jwPN7CS7\nODwaffLm7nlTbA5QdQR3kERkk8ehRANCAAQe5m2TVOo+SE5cVjtsJNwXjvz8+n/y\nw1bl1qfmEeWtDhmfQlj5P2UgPyXf4jqnIXP0WsuPvV1TT+WEkoOycwTo\n-----END PRIVATE KEY-----",
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHuZtk1TqPkhOXFY7bCTcF478/Pp/\n8sNW5dan5hHlrQ4Zn0JY+T9lID8l3+I6pyFz9FrLj71dU0/lhJKDsnME6A==\n-----END PUBLIC KEY-----",
    )
}

/// The secret of these tests.
const SECRET: &str = "s3cret+/& value";

/// An instance's state in a call that may go out, with a secret from a file.
fn guest(folder: &TempDir, origin: &str) -> Guest {
    let path = folder.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let key = folder.path().join("key.pem");
    std::fs::write(&key, ec_key().0).unwrap();
    let mut grants = Grants { origins: vec![origin.to_owned()], ..Grants::default() };
    grants.secrets.insert("login".into(), SecretSource::File(path));
    grants.secrets.insert("key".into(), SecretSource::File(key));
    grants.secrets.insert("unset".into(), SecretSource::Env("SYNCLINE_NOT_SET".into()));
    let access = Access::agree(None, &grants, &serde_json::json!({})).unwrap();
    let limits = Limits::new(World::IdentityProvider, &LimitOverrides::default());
    let egress = Egress::new(access.origins.clone(), &limits).unwrap();
    let shared = Arc::new(Shared::new("guest".into(), limits, access, "{}".into()));
    let mut guest = Guest::new(shared, World::IdentityProvider, Some(Arc::new(egress)));
    guest.call.online = true;
    guest
}

/// Sends one request with placements; the server answers with `answer`. Returns what the server saw
/// and what the guest got.
async fn exchange(
    placements: Vec<(&str, Place)>,
    answer: String,
) -> (String, Result<http::Response, HostError>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let folder = TempDir::new().unwrap();
    let mut guest = guest(&folder, &origin);
    let (sender, seen) = oneshot::channel();
    let server = async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 64 * 1024];
        let mut length = 0;
        // The whole request: headers, and a body that ends in `end` or in what was placed there.
        loop {
            length += socket.read(&mut bytes[length..]).await.unwrap();
            let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let expected: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() == expected {
                sender.send(text).unwrap();
                break;
            }
        }
        socket.write_all(answer.as_bytes()).await.unwrap();
    };
    let request = http::Request {
        method: Method::Post,
        url: format!("{origin}/token"),
        headers: vec![("content-type".into(), "application/x-www-form-urlencoded".into())],
        body: b"grant_type=client_credentials".to_vec(),
        timeout_ms: None,
        max_response_bytes: None,
    };
    let placements = placements
        .into_iter()
        .map(|(secret, place)| Placement { secret: secret.into(), place })
        .collect();
    let (result, ()) = tokio::join!(guest.send_with(request, placements), server);
    (seen.await.unwrap(), result)
}

/// A whole answer with this body.
fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_secret_is_put_where_the_guest_says() {
    let (seen, result) = exchange(
        vec![
            ("login", Place::Header(("X-Key".into(), "Bearer ".into()))),
            ("login", Place::Basic("us er".into())),
            ("login", Place::Form("client_secret".into())),
        ],
        answer("{}"),
    )
    .await;
    assert_eq!(result.unwrap().body, b"{}");
    assert!(seen.contains(&format!("x-key: Bearer {SECRET}\r\n")), "{seen}");
    // us%20er:s3cret%2B%2F%26%20value
    let basic = "authorization: Basic dXMlMjBlcjpzM2NyZXQlMkIlMkYlMjYlMjB2YWx1ZQ==\r\n";
    assert!(seen.contains(basic), "{seen}");
    let body = "grant_type=client_credentials&client_secret=s3cret%2B%2F%26%20value";
    assert!(seen.ends_with(body), "{seen}");
}

#[tokio::test]
async fn an_answer_that_repeats_a_secret_is_kept_from_the_guest() {
    for echo in [SECRET.to_owned(), "s3cret%2B%2F%26%20value".to_owned()] {
        let place = Place::Form("client_secret".into());
        let (_, result) = exchange(vec![("login", place)], answer(&format!("got {echo}!"))).await;
        assert!(matches!(result, Err(HostError::Denied(_))), "{result:?}");
    }
    let header = format!("HTTP/1.1 200 OK\r\nX-Echo: {SECRET}\r\nContent-Length: 0\r\n\r\n");
    let place = Place::Header(("x-key".into(), String::new()));
    let (_, result) = exchange(vec![("login", place)], header).await;
    assert!(matches!(result, Err(HostError::Denied(_))), "{result:?}");
}

/// A plain request.
fn get(url: &str) -> http::Request {
    http::Request {
        method: Method::Get,
        url: url.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: None,
        max_response_bytes: None,
    }
}

#[tokio::test]
async fn a_secret_goes_to_no_issuer_that_a_server_names() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let named = format!("http://{}", listener.local_addr().unwrap());
    let folder = TempDir::new().unwrap();
    let mut guest = guest(&folder, "http://127.0.0.1:9");
    guest.call.issuer = Some(Origin::parse_url(&named).unwrap());
    // It is reached without one.
    let server = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
        socket.write_all(answer("{}").as_bytes()).await.unwrap();
    };
    let (result, ()) = tokio::join!(guest.send(get(&named)), server);
    assert_eq!(result.unwrap().body, b"{}");
    let placed = Placement { secret: "login".into(), place: Place::Form("client_secret".into()) };
    let result = guest.send_with(get(&named), vec![placed]).await;
    let Err(HostError::Denied(text)) = result else { panic!("{result:?}") };
    assert!(text.contains(&named) && text.contains("grants.origins"), "{text}");
    let seen = std::pin::pin!(listener.accept());
    assert!(futures_util::FutureExt::now_or_never(seen).is_none(), "a connection was made");
}

#[tokio::test]
async fn headers_that_hide_a_secret_in_the_answer_are_refused() {
    let folder = TempDir::new().unwrap();
    let mut guest = guest(&folder, "http://127.0.0.1:9");
    for name in ["Range", "if-range", "Accept-Encoding"] {
        let mut request = get("http://127.0.0.1:9/");
        request.headers.push((name.into(), "x".into()));
        let place = Place::Form("client_secret".into());
        let placed = Placement { secret: "login".into(), place };
        let result = guest.send_with(request, vec![placed]).await;
        let Err(HostError::Invalid(text)) = result else { panic!("{name}: {result:?}") };
        assert!(text.contains(name), "{text}");
        let place = Place::Header((name.into(), String::new()));
        let placed = Placement { secret: "login".into(), place };
        let result = guest.send_with(get("http://127.0.0.1:9/"), vec![placed]).await;
        assert!(matches!(result, Err(HostError::Invalid(_))), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn a_secret_that_is_not_granted_or_not_there_stops_the_request() {
    let folder = TempDir::new().unwrap();
    let mut guest = guest(&folder, "http://127.0.0.1:9");
    let request = || get("http://127.0.0.1:9/");
    let placed = |name: &str| {
        vec![Placement { secret: name.into(), place: Place::Form("client_secret".into()) }]
    };
    let error = guest.send_with(request(), placed("other")).await.unwrap_err();
    let HostError::Denied(text) = error else { panic!("{error:?}") };
    assert!(text.contains("`other`") && text.contains("grants.secrets"), "{text}");
    let error = guest.send_with(request(), placed("unset")).await.unwrap_err();
    assert!(matches!(error, HostError::NotFound(_)), "{error:?}");
}

#[tokio::test]
async fn a_key_signs_without_being_shown() {
    let folder = TempDir::new().unwrap();
    let mut guest = guest(&folder, "http://127.0.0.1:9");
    let claims = r#"{"iss":"me","aud":"https://idp","exp":4102444800}"#.to_owned();
    let header = r#"{"alg":"ES256","kid":"k1"}"#.to_owned();
    let signed = guest.sign_jwt("key".into(), header, claims.clone()).await.unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["https://idp"]);
    let key = DecodingKey::from_ec_pem(ec_key().1.as_bytes()).unwrap();
    let token = jsonwebtoken::decode::<serde_json::Value>(&signed, &key, &validation).unwrap();
    assert_eq!(
        (token.claims["iss"].as_str(), token.header.kid.as_deref()),
        (Some("me"), Some("k1"))
    );
    // Neither another kind of key, nor a shared secret, nor a secret that is no key.
    for (key, alg) in [("key", "RS256"), ("key", "HS256"), ("login", "ES256"), ("key", "none")] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        let error = guest.sign_jwt(key.into(), header, claims.clone()).await.unwrap_err();
        let HostError::Invalid(text) = error else { panic!("{error:?}") };
        assert!(!text.contains("s3cret") && !text.contains("PRIVATE"), "{text}");
    }
}

#[tokio::test]
async fn a_call_has_so_many_requests() {
    let folder = TempDir::new().unwrap();
    let mut guest = guest(&folder, "http://127.0.0.1:9");
    // Refused ones count too.
    for _ in 0..8 {
        let result = guest.send(get("http://127.0.0.1:10/")).await;
        assert!(matches!(result, Err(HostError::Denied(_))), "{result:?}");
    }
    let result = guest.send(get("http://127.0.0.1:10/")).await;
    let Err(HostError::Limit(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("limits.httpRequests"), "{text}");
}
