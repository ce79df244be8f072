//! Every way to show who the client is, and every answer an endpoint can give.

use std::time::Duration;

use serde_json::{Value, json};
use syncline_sdk::{
    HostError, IdentityProvider, config,
    http::{Method, Response},
    identity::{Credential, Failure, Flow, OauthError, TokenRequest},
    secrets::Placement,
    testing::{FakeHost, token_request},
};

use super::ClientCredentials;

/// Something of the shape of a JWT.
const JWT: &str = "aGVhZA.Ym9keQ.c2ln";
/// The endpoint.
const URL: &str = "https://login.example.com/oauth2/token";

/// A configuration with changes.
fn config(changes: Value) -> Value {
    let mut config = json!({"tokenEndpoint": URL, "clientId": "client 1"});
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A provider with this configuration.
fn provider(config: &Value) -> ClientCredentials {
    config::parse(&config.to_string()).and_then(ClientCredentials::new).unwrap()
}

/// A host that grants both secrets.
fn host() -> FakeHost {
    FakeHost::new().with_secret("client-secret").with_secret("private-key")
}

/// What a call with scripted answers ends in.
fn run(changes: Value, host: &FakeHost) -> Result<Credential, Failure> {
    provider(&config(changes)).get_token(host, &token_request())
}

/// A good body.
fn good() -> String {
    json!({"token_type": "bearer", "expires_in": 300, "access_token": JWT}).to_string()
}

/// The body of the first request.
fn body(host: &FakeHost) -> String {
    String::from_utf8(host.requests()[0].body.clone()).unwrap()
}

/// Seconds slept.
fn slept(host: &FakeHost) -> Vec<u64> {
    host.sleeps().iter().map(Duration::as_secs).collect()
}

#[test]
fn a_secret_goes_into_the_header_unless_told_otherwise() {
    let host = host().answer(200, good());
    let credential = run(json!({}), &host).unwrap();
    assert_eq!(credential.access_token, JWT);
    assert_eq!(credential.expires_in, Some(Duration::from_secs(300)));
    assert!(credential.audit.contains(&("client_id".to_owned(), "client 1".to_owned())));
    let request = &host.requests()[0];
    assert_eq!((request.method, request.url.as_str()), (Method::Post, URL));
    assert_eq!(body(&host), "grant_type=client_credentials");
    assert_eq!(host.placements()[0], [Placement::basic("client-secret", "client 1")]);
}

#[test]
fn a_secret_goes_into_the_form_when_the_server_wants_it_there() {
    let host = host().answer(200, good());
    run(json!({"authMethod": "client_secret_post", "scope": "a b"}), &host).unwrap();
    assert_eq!(body(&host), "grant_type=client_credentials&client_id=client%201&scope=a%20b");
    assert_eq!(host.placements()[0], [Placement::form("client-secret", "client_secret")]);
}

#[test]
fn a_key_signs_an_assertion_of_its_own_for_every_try() {
    let host = host().answer(503, "").answer(200, good());
    let changes = json!({"authMethod": "private_key_jwt", "keyId": "k1", "algorithm": "ES256"});
    run(changes, &host).unwrap();
    assert_eq!(host.placements()[0], []);
    assert!(body(&host).contains("client_assertion=fake.signature.0"), "{}", body(&host));
    assert!(body(&host).contains("client_assertion_type=urn%3Aietf%3Aparams%3Aoauth"));
    let signed = host.signed();
    assert_eq!(signed.len(), 2);
    let header: Value = serde_json::from_str(&signed[0].header).unwrap();
    assert_eq!(header, json!({"typ": "JWT", "alg": "ES256", "kid": "k1"}));
    let claims: Vec<Value> =
        signed.iter().map(|signed| serde_json::from_str(&signed.claims).unwrap()).collect();
    assert_ne!(claims[0]["jti"], claims[1]["jti"]);
    let now = FakeHost::START_MS / 1000;
    assert_eq!(claims[0]["iss"], "client 1");
    assert_eq!(claims[0]["sub"], "client 1");
    assert_eq!(claims[0]["aud"], URL);
    assert_eq!(claims[0]["iat"], now);
    assert_eq!(claims[0]["exp"], now + 120);
    assert!(signed.iter().all(|signed| signed.key == "private-key"));
}

#[test]
fn the_audience_of_an_assertion_can_be_another() {
    let host = host().answer(200, good());
    let changes =
        json!({"authMethod": "private_key_jwt", "assertionAudience": "https://issuer.example"});
    run(changes, &host).unwrap();
    let claims: Value = serde_json::from_str(&host.signed()[0].claims).unwrap();
    assert_eq!(claims["aud"], "https://issuer.example");
    let header: Value = serde_json::from_str(&host.signed()[0].header).unwrap();
    assert_eq!(header, json!({"typ": "JWT", "alg": "RS256"}));
}

#[test]
fn the_token_resource_goes_where_the_server_looks_for_it() {
    for (field, expected) in [
        ("audience", "&audience=api%3A%2F%2Fx"),
        ("resource", "&resource=api"),
        ("scope", "&scope=api"),
    ] {
        let host = host().answer(200, good());
        let request = TokenRequest { audience: Some("api://x".to_owned()), ..token_request() };
        let provider = provider(&config(json!({"audienceField": field})));
        provider.get_token(&host, &request).unwrap();
        assert!(body(&host).contains(expected), "{}", body(&host));
        let Err(Failure::Config(text)) = provider.get_token(&host, &token_request()) else {
            panic!("no audience is needed")
        };
        assert!(text.contains("TOKEN_RESOURCE"), "{text}");
    }
}

#[test]
fn further_parameters_are_sent() {
    let host = host().answer(200, good());
    run(json!({"parameters": {"tenant": "a&b", "version": "2"}}), &host).unwrap();
    assert_eq!(body(&host), "grant_type=client_credentials&tenant=a%26b&version=2");
}

#[test]
fn a_configuration_that_cannot_be_used_names_its_key() {
    let refused = |changes: Value| {
        config::parse(&config(changes).to_string())
            .and_then(ClientCredentials::new)
            .map(|_| ())
            .unwrap_err()
            .key()
            .to_owned()
    };
    for url in [
        "http://login.example.com/token",
        "login.example.com",
        "https://",
        "ftp://a/b",
        "https://a@b/token",
        "https://a/token#x",
    ] {
        assert_eq!(refused(json!({"tokenEndpoint": url})), "tokenEndpoint", "{url}");
    }
    for (changes, key) in [
        (json!({"clientId": " "}), "clientId"),
        (json!({"scope": ""}), "scope"),
        (json!({"scope": "a", "audienceField": "scope"}), "scope"),
        (json!({"parameters": {"client_secret": "oops"}}), "parameters.client_secret"),
        (json!({"keyId": "k"}), "keyId"),
        (json!({"authMethod": "none"}), "authMethod"),
        (json!({"clientSecret": "oops"}), "clientSecret"),
    ] {
        assert_eq!(refused(changes), key);
    }
    // This machine may be asked in plain text.
    provider(&config(json!({"tokenEndpoint": "http://127.0.0.1:8080/token?x=1"})));
}

#[test]
fn refusals_are_passed_on_in_the_servers_words() {
    for status in [400, 401, 403] {
        let answer = json!({"error": "invalid_client", "error_description": "unknown client"});
        let Err(Failure::Denied(error)) =
            run(json!({}), &host().answer(status, answer.to_string()))
        else {
            panic!("{status} is a refusal")
        };
        let description = Some("unknown client".to_owned());
        assert_eq!(error, OauthError { code: "invalid_client".to_owned(), description });
    }
    let Err(Failure::Denied(error)) = run(json!({}), &host().answer(418, "<html>")) else {
        panic!("418 is a refusal")
    };
    assert_eq!(error.code, "status 418");
}

#[test]
fn a_wrong_address_is_told_as_such() {
    for status in [404, 405] {
        let Err(Failure::Config(text)) = run(json!({}), &host().answer(status, "")) else {
            panic!("{status} is a wrong address")
        };
        assert!(text.contains("tokenEndpoint"), "{text}");
    }
    let Err(Failure::Internal(text)) = run(json!({}), &host().answer(302, "")) else {
        panic!("a redirect is not followed")
    };
    assert!(text.contains("302"), "{text}");
}

#[test]
fn what_may_pass_is_tried_again() {
    for status in [408, 425, 429, 500, 502, 503, 504] {
        let host = host().answer(status, "").answer(200, good());
        run(json!({}), &host).unwrap();
        assert_eq!(slept(&host), [1], "{status}");
    }
    let host = host()
        .outcome(Err(HostError::Unavailable("connection refused".to_owned())))
        .outcome(Err(HostError::TimedOut))
        .answer(200, good());
    run(json!({}), &host).unwrap();
    assert_eq!(slept(&host), [1, 2]);
}

#[test]
fn the_server_says_how_long_to_wait_and_the_caller_how_long_there_is() {
    let busy = Response {
        status: 429,
        headers: vec![("retry-after".to_owned(), "7".to_owned())],
        body: Vec::new(),
    };
    let waiting = host().outcome(Ok(busy.clone())).answer(200, good());
    run(json!({}), &waiting).unwrap();
    assert_eq!(slept(&waiting), [7]);

    let host = host().outcome(Ok(busy));
    let request = TokenRequest { timeout: Duration::from_secs(5), ..token_request() };
    let Err(Failure::Unavailable { retry_after, .. }) =
        provider(&config(json!({}))).get_token(&host, &request)
    else {
        panic!("there is no time to wait")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
    let request = TokenRequest { timeout: Duration::from_secs(1), ..token_request() };
    let answer = provider(&config(json!({}))).get_token(&host, &request);
    assert_eq!(answer, Err(Failure::TimedOut));
}

#[test]
fn an_answer_without_a_token_is_a_failure_that_quotes_nothing() {
    for (body, expected) in [
        ("secret", "no JSON"),
        ("{}", "no access_token"),
        (r#"{"access_token": ""}"#, "no access_token"),
        (r#"{"access_token": "opaque-secret"}"#, "no JWT"),
        (r#"{"access_token": "aGVhZA.Ym9keQ.c2ln", "token_type": "DPoP"}"#, "token_type"),
    ] {
        let Err(Failure::Internal(text)) = run(json!({}), &host().answer(200, body)) else {
            panic!("{body} is no answer")
        };
        assert!(text.contains(expected) && !text.contains("secret"), "{text}");
    }
}

#[test]
fn a_secret_or_key_that_is_not_granted_is_a_matter_of_configuration() {
    let bare = FakeHost::new();
    for changes in [json!({}), json!({"authMethod": "private_key_jwt"})] {
        let Err(Failure::Config(text)) = run(changes, &bare) else { panic!("nothing is granted") };
        assert!(text.contains("secrets"), "{text}");
    }
    assert_eq!(bare.requests(), []);
}

#[test]
fn a_person_is_sent_elsewhere() {
    let request = TokenRequest { flow: Flow::Human, ..token_request() };
    let answer = provider(&config(json!({}))).get_token(&host(), &request);
    assert!(matches!(answer, Err(Failure::Unsupported(_))), "{answer:?}");
}

#[test]
fn it_says_where_it_goes() {
    let described = provider(&config(json!({}))).describe();
    assert_eq!(described.origins, ["https://login.example.com"]);
    assert_eq!(described.name, "client-credentials");
}
