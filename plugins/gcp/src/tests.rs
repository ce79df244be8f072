//! Every answer the protocol can give.

use std::time::Duration;

use serde_json::json;
use syncline_sdk::{
    HostError, IdentityProvider, config,
    http::Response,
    identity::{Credential, Failure, Flow, Reason, TokenRequest},
    testing::FakeHost,
};

use super::Gcp;

/// Something of the shape of a JWT.
const JWT: &str = "aGVhZA.Ym9keQ.c2ln";

/// A provider with this configuration.
fn provider(config: &serde_json::Value) -> Gcp {
    config::parse(&config.to_string()).and_then(Gcp::new).unwrap()
}

/// A machine's request.
fn request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Machine,
        cluster: "cluster1".to_owned(),
        reason: Reason::Initial,
        audience: Some("api://sync line".to_owned()),
        principal: None,
        hosts: Vec::new(),
        idp: None,
        refresh_token: None,
        timeout: Duration::from_secs(60),
        attempt: 0,
        extra: Vec::new(),
    }
}

/// A host where the variable is not set.
fn bare() -> FakeHost {
    FakeHost::new().without_env("GCE_METADATA_HOST")
}

/// A good answer with this body.
fn good(body: &str) -> Result<Response, HostError> {
    Ok(Response {
        status: 200,
        headers: vec![("metadata-flavor".to_owned(), "Google".to_owned())],
        body: body.as_bytes().to_vec(),
    })
}

/// What a call with scripted answers ends in.
fn run(host: &FakeHost) -> Result<Credential, Failure> {
    provider(&json!({})).get_token(host, &request())
}

/// Milliseconds slept.
fn slept(host: &FakeHost) -> Vec<u128> {
    host.sleeps().iter().map(Duration::as_millis).collect()
}

#[test]
fn the_request_is_what_the_service_wants() {
    let host = bare().outcome(good(&format!("{JWT}\n")));
    let credential = run(&host).unwrap();
    assert_eq!(credential.access_token, JWT);
    assert_eq!(credential.expires_in, None);
    let request = &host.requests()[0];
    assert_eq!(
        request.url,
        "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/\
         identity?audience=api%3A%2F%2Fsync%20line"
    );
    assert_eq!(request.headers, [("Metadata-Flavor".to_owned(), "Google".to_owned())]);
    assert_eq!(request.max_response_bytes, Some(64 * 1024));
}

#[test]
fn another_host_is_named_by_the_configuration_or_by_the_variable() {
    let host = FakeHost::new().with_env("GCE_METADATA_HOST", "169.254.169.254:80");
    let host = host.outcome(good(JWT));
    run(&host).unwrap();
    assert!(host.requests()[0].url.starts_with("http://169.254.169.254:80/computeMetadata/v1/"));
    let host = FakeHost::new().with_env("GCE_METADATA_HOST", "other").outcome(good(JWT));
    let own = provider(&json!({"endpoint": "http://127.0.0.1:9/"}));
    own.get_token(&host, &request()).unwrap();
    assert!(host.requests()[0].url.starts_with("http://127.0.0.1:9/computeMetadata/v1/"));
    for bad in ["a/b", "a?b", "u@a", "a b"] {
        let host = FakeHost::new().with_env("GCE_METADATA_HOST", bad);
        assert!(matches!(run(&host), Err(Failure::Config(_))), "{bad}");
        assert!(host.requests().is_empty());
    }
}

#[test]
fn a_success_that_is_none_is_a_failure_that_quotes_nothing() {
    for body in ["", "\n", "<html>secret</html>", "secret", "a.b", "a..c", "{\"a\":\"secret\"}"] {
        let host = bare().outcome(good(body));
        let Err(Failure::Internal(text)) = run(&host) else { panic!("{body}") };
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(host.requests().len(), 1);
    }
    // A captive portal answers anything.
    let host = bare().answer(200, JWT);
    let Err(Failure::Internal(text)) = run(&host) else { panic!("no flavor") };
    assert!(text.contains("Metadata-Flavor") && !text.contains(JWT), "{text}");
}

#[test]
fn refusals_are_final() {
    for (status, word) in [(400, "audience"), (401, "refuses"), (403, "proxy"), (404, "account")] {
        let host = bare().answer(status, "<html>secret</html>");
        let Err(Failure::Denied(error)) = run(&host) else { panic!("{status}") };
        assert_eq!(error.code, format!("status {status}"));
        let text = error.description.unwrap();
        assert!(text.contains(word) && !text.contains("secret"), "{text}");
        assert_eq!(host.requests().len(), 1);
    }
}

#[test]
fn what_may_pass_is_tried_again_six_times() {
    for status in [408, 429, 500, 502, 503, 599] {
        let mut host = bare();
        for _ in 0..6 {
            host = host.answer(status, "");
        }
        let Err(Failure::Unavailable { reason, .. }) = run(&host) else { panic!("{status}") };
        assert!(reason.contains(&status.to_string()), "{reason}");
        assert_eq!(slept(&host), [100, 200, 400, 800, 1600]);
    }
    let host = bare()
        .outcome(Err(HostError::Unavailable("refused".to_owned())))
        .outcome(Err(HostError::TimedOut))
        .answer(503, "")
        .outcome(good(JWT));
    assert_eq!(run(&host).unwrap().access_token, JWT);
    assert_eq!(slept(&host), [100, 200, 400]);
}

#[test]
fn a_pause_that_the_service_asks_for_is_kept_unless_time_is_up() {
    let later = |seconds: &str| {
        Ok(Response {
            status: 429,
            headers: vec![("retry-after".to_owned(), seconds.to_owned())],
            body: Vec::new(),
        })
    };
    let host = bare().outcome(later("3")).outcome(good(JWT));
    run(&host).unwrap();
    assert_eq!(slept(&host), [3000]);
    let host = bare().outcome(later("300"));
    let Err(Failure::Unavailable { retry_after, .. }) = run(&host) else { panic!("no time") };
    assert_eq!(retry_after, Some(Duration::from_secs(300)));
    assert!(slept(&host).is_empty());
    let hurried = TokenRequest { timeout: Duration::from_secs(1), ..request() };
    let host = bare();
    assert_eq!(provider(&json!({})).get_token(&host, &hurried), Err(Failure::TimedOut));
    assert!(host.requests().is_empty());
}

#[test]
fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let host = bare().answer(status, "");
        assert!(matches!(run(&host), Err(Failure::Internal(text)) if text.contains("redirect")));
        assert_eq!(host.requests().len(), 1);
    }
}

#[test]
fn what_it_cannot_serve_is_refused_without_asking() {
    let host = bare();
    let provider = provider(&json!({}));
    let person = TokenRequest { flow: Flow::Human, ..request() };
    assert!(matches!(provider.get_token(&host, &person), Err(Failure::Unsupported(_))));
    for audience in [None, Some(String::new())] {
        let vague = TokenRequest { audience, ..request() };
        assert!(matches!(provider.get_token(&host, &vague), Err(Failure::Config(_))));
    }
    let host = FakeHost::new();
    assert!(matches!(run(&host), Err(Failure::Config(_))));
    let host = bare().outcome(Err(HostError::Denied("grant it".to_owned())));
    assert_eq!(run(&host), Err(Failure::Config("grant it".to_owned())));
    let host = bare().outcome(Err(HostError::Limit("too long".to_owned())));
    assert!(matches!(run(&host), Err(Failure::Internal(_))));
}

#[test]
fn a_wrong_configuration_is_refused_by_its_key() {
    for endpoint in ["", "127.0.0.1", "ftp://x", "http://", "http://a/b", "http://u@h"] {
        let config = json!({ "endpoint": endpoint }).to_string();
        let error = config::parse(&config).and_then(Gcp::new).unwrap_err();
        assert_eq!(error.key(), "endpoint", "{endpoint}");
    }
    assert_eq!(provider(&json!({})).describe().origins, ["http://metadata.google.internal"]);
}
