//! Every answer the protocol can give.

use std::time::Duration;

use serde_json::json;
use syncline_sdk::{
    HostError, IdentityProvider, config,
    http::Response,
    identity::{Credential, Failure, Flow, OauthError, Reason, TokenRequest},
    testing::{FakeHost, logged},
};

use super::AzureImds;

/// Something of the shape of a JWT.
const JWT: &str = "aGVhZA.Ym9keQ.c2ln";

/// A provider with this configuration.
fn provider(config: &serde_json::Value) -> AzureImds {
    config::parse(&config.to_string()).and_then(AzureImds::new).unwrap()
}

/// A machine's request.
fn request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Machine,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: Some("api://sync line".to_owned()),
        principal: None,
        hosts: vec!["db.example.com".to_owned()],
        idp: None,
        refresh_token: None,
        timeout: Duration::from_secs(60),
        attempt: 0,
        extra: Vec::new(),
    }
}

/// What a call with scripted answers ends in.
fn run(host: &FakeHost) -> Result<Credential, Failure> {
    provider(&json!({})).get_token(host, &request())
}

/// A good body.
fn good() -> String {
    let on = FakeHost::START_MS / 1000 + 3599;
    json!({
        "access_token": JWT, "client_id": "c1", "expires_in": "86399", "expires_on": on.to_string(),
        "ext_expires_in": "86399", "not_before": "1", "resource": "api://sync line",
        "token_type": "Bearer", "refresh_token": "",
    })
    .to_string()
}

/// Seconds slept.
fn slept(host: &FakeHost) -> Vec<u64> {
    host.sleeps().iter().map(Duration::as_secs).collect()
}

#[test]
fn the_request_is_what_the_service_wants() {
    let host = FakeHost::new().answer(200, good());
    run(&host).unwrap();
    let request = &host.requests()[0];
    assert_eq!(
        request.url,
        "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01\
         &resource=api%3A%2F%2Fsync%20line"
    );
    assert!(request.headers.contains(&("Metadata".to_owned(), "true".to_owned())));
    assert!(request.headers.contains(&("Accept".to_owned(), "application/json".to_owned())));
    assert_eq!(request.timeout, Some(Duration::from_secs(58)));
    assert_eq!(request.max_response_bytes, Some(64 * 1024));
}

#[test]
fn a_user_assigned_identity_is_chosen_by_the_user_name() {
    let host = FakeHost::new().answer(200, good());
    let request = TokenRequest { principal: Some("id&x".to_owned()), ..request() };
    provider(&json!({"endpoint": "http://127.0.0.1:9/"})).get_token(&host, &request).unwrap();
    let url = host.requests()[0].url.clone();
    assert!(url.starts_with("http://127.0.0.1:9/metadata/identity/oauth2/token?"), "{url}");
    assert!(url.ends_with("&client_id=id%26x"), "{url}");
}

#[test]
fn a_token_comes_with_the_life_it_has_left() {
    let credential = run(&FakeHost::new().answer(200, good())).unwrap();
    assert_eq!(credential.access_token, JWT);
    assert_eq!(credential.expires_in, Some(Duration::from_secs(3599)));
    assert_eq!(credential.refresh_token, None);
    assert!(credential.audit.contains(&("client_id".to_owned(), "c1".to_owned())));
    assert!(!format!("{credential:?}").contains(JWT));
}

#[test]
fn expiry_may_be_number_text_relative_or_missing() {
    let start = FakeHost::START_MS / 1000;
    for (fields, expected) in [
        (json!({"expires_on": start + 100}), Some(100)),
        (json!({"expires_on": format!(" {} ", start + 100)}), Some(100)),
        (json!({"expires_in": 77}), Some(77)),
        (json!({"expires_in": "77"}), Some(77)),
        (json!({"expires_on": "06/20/2026 02:57:58 AM +00:00", "expires_in": "5"}), Some(5)),
        (json!({}), None),
    ] {
        let mut body = fields.clone();
        body["access_token"] = json!(format!("{JWT}\n"));
        let credential = run(&FakeHost::new().answer(200, body.to_string())).unwrap();
        assert_eq!(credential.access_token, JWT);
        assert_eq!(credential.expires_in.map(|left| left.as_secs()), expected, "{fields}");
    }
}

#[test]
fn a_success_without_a_usable_token_is_a_failure_that_quotes_nothing() {
    let expired = json!({"access_token": JWT, "expires_on": 1000}).to_string();
    for body in [
        "",
        "<html>secret</html>",
        "{}",
        r#"{"access_token":""}"#,
        r#"{"access_token":7}"#,
        r#"{"access_token":"secret"}"#,
        r#"{"access_token":"a.b"}"#,
        r#"{"access_token":"a.b.c d"}"#,
        r#"{"access_token":"a..c"}"#,
        "[1]",
        expired.as_str(),
    ] {
        let host = FakeHost::new().answer(200, body);
        let Err(Failure::Internal(text)) = run(&host) else { panic!("{body} is no failure") };
        assert!(!text.contains("secret") && !text.contains(JWT), "{text}");
        assert_eq!(host.requests().len(), 1);
    }
}

#[test]
fn refusals_are_final_and_in_the_services_words() {
    for (status, code) in [
        (400, "invalid_request"),
        (400, "invalid_resource"),
        (400, "bad_request_102"),
        (401, "unknown_source"),
        (401, "unauthorized_client"),
        (403, "access_denied"),
        (405, "unsupported"),
    ] {
        let body = json!({"error": code, "error_description": "Identity not found"}).to_string();
        let host = FakeHost::new().answer(status, body);
        let expected = OauthError {
            code: code.to_owned(),
            description: Some("Identity not found".to_owned()),
        };
        assert_eq!(run(&host), Err(Failure::Denied(expected)));
        assert_eq!((host.requests().len(), host.sleeps().len()), (1, 0));
    }
    for body in ["", "not json", "{}", r#"{"error":""}"#] {
        let expected = OauthError { code: "status 400".to_owned(), description: None };
        assert_eq!(run(&FakeHost::new().answer(400, body)), Err(Failure::Denied(expected)));
    }
}

#[test]
fn passing_troubles_are_tried_again_with_growing_pauses() {
    for status in [404, 408, 429, 500, 502, 503, 504, 511] {
        let host = FakeHost::new().answer(status, "").answer(status, "").answer(200, good());
        assert_eq!(run(&host).unwrap().access_token, JWT, "{status}");
        assert_eq!(slept(&host), [1, 2]);
        assert_eq!(logged().len(), 2);
    }
    let host = FakeHost::new()
        .outcome(Err(HostError::TimedOut))
        .outcome(Err(HostError::Unavailable("refused".to_owned())))
        .answer(200, good());
    assert!(run(&host).is_ok());
    assert_eq!(slept(&host), [1, 2]);
}

#[test]
fn after_three_retries_it_gives_up_with_the_last_reason() {
    let body = json!({"error": "unknown", "error_description": "Failed to retrieve token"});
    let host = (0..4).fold(FakeHost::new(), |host, _| host.answer(500, body.to_string()));
    let Err(Failure::Unavailable { reason, retry_after: None }) = run(&host) else {
        panic!("it should be unavailable")
    };
    assert!(reason.contains("500") && reason.contains("Failed to retrieve token"), "{reason}");
    assert_eq!(slept(&host), [1, 2, 4]);
    assert_eq!(host.requests().len(), 4);
}

#[test]
fn a_pause_the_service_asks_for_is_kept() {
    let throttled = Response {
        status: 429,
        headers: vec![("retry-after".to_owned(), "5".to_owned())],
        body: Vec::new(),
    };
    let host = FakeHost::new().outcome(Ok(throttled.clone())).answer(200, good());
    assert!(run(&host).is_ok());
    assert_eq!(slept(&host), [5]);
    let long =
        Response { headers: vec![("retry-after".to_owned(), "600".to_owned())], ..throttled };
    let Err(Failure::Unavailable { retry_after, .. }) = run(&FakeHost::new().outcome(Ok(long)))
    else {
        panic!("it should be unavailable")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(600)));
}

#[test]
fn an_update_of_the_service_is_waited_for_as_long_as_there_is_time() {
    let host = FakeHost::new().answer(410, "").answer(410, "").answer(200, good());
    assert!(run(&host).is_ok());
    assert_eq!(slept(&host), [10, 10]);

    // 58 seconds are enough for five pauses; the caller is told when to come back.
    let host = (0..10).fold(FakeHost::new(), |host, _| host.answer(410, ""));
    let Err(Failure::Unavailable { reason, retry_after }) = run(&host) else {
        panic!("it should be unavailable")
    };
    assert!(reason.contains("410"), "{reason}");
    assert_eq!(retry_after, Some(Duration::from_secs(10)));
    assert_eq!(slept(&host), [10; 5]);

    // With more time it waits 70 seconds and no longer.
    let host = (0..10).fold(FakeHost::new(), |host, _| host.answer(410, ""));
    let patient = TokenRequest { timeout: Duration::from_secs(300), ..request() };
    assert!(provider(&json!({})).get_token(&host, &patient).is_err());
    assert_eq!(slept(&host), [10; 7]);
}

#[test]
fn no_try_begins_when_the_time_is_up() {
    let host = FakeHost::new().latency(Duration::from_secs(30)).answer(500, "").answer(500, "");
    let Err(Failure::Unavailable { .. }) = run(&host) else { panic!("it should be unavailable") };
    assert_eq!(host.requests().len(), 2);
    let host = FakeHost::new();
    let hurried = TokenRequest { timeout: Duration::from_secs(1), ..request() };
    assert_eq!(provider(&json!({})).get_token(&host, &hurried), Err(Failure::TimedOut));
    assert!(host.requests().is_empty());
}

#[test]
fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let host = FakeHost::new().answer(status, "");
        assert!(matches!(run(&host), Err(Failure::Internal(text)) if text.contains("redirect")));
        assert_eq!(host.requests().len(), 1);
    }
}

#[test]
fn what_the_host_refuses_is_a_matter_of_configuration() {
    let host = FakeHost::new().outcome(Err(HostError::Denied("grant it".to_owned())));
    assert_eq!(run(&host), Err(Failure::Config("grant it".to_owned())));
    let host = FakeHost::new().outcome(Err(HostError::Limit("too long".to_owned())));
    assert!(matches!(run(&host), Err(Failure::Internal(_))));
}

#[test]
fn a_request_it_cannot_serve_is_refused_without_asking() {
    let host = FakeHost::new();
    let person = TokenRequest { flow: Flow::Human, ..request() };
    let provider = provider(&json!({}));
    assert!(matches!(provider.get_token(&host, &person), Err(Failure::Unsupported(_))));
    for audience in [None, Some(String::new())] {
        let vague = TokenRequest { audience, ..request() };
        let Err(Failure::Config(text)) = provider.get_token(&host, &vague) else {
            panic!("it should be refused")
        };
        assert!(text.contains("TOKEN_RESOURCE"), "{text}");
    }
    assert!(host.requests().is_empty());
}

#[test]
fn a_wrong_configuration_is_refused_by_its_key() {
    for endpoint in ["", "169.254.169.254", "ftp://x", "http://", "http://a/b", "http://u@h"] {
        let config = json!({ "endpoint": endpoint }).to_string();
        let error = config::parse(&config).and_then(AzureImds::new).unwrap_err();
        assert_eq!(error.key(), "endpoint", "{endpoint}");
    }
    let error = config::parse::<super::Config>(r#"{"endpiont":"x"}"#).unwrap_err();
    assert_eq!(error.key(), "endpiont");
}

#[test]
fn it_describes_itself() {
    let descriptor = provider(&json!({})).describe();
    assert_eq!(descriptor.name, "azure-imds");
    assert_eq!(descriptor.flows, [Flow::Machine]);
    assert_eq!(descriptor.origins, ["http://169.254.169.254"]);
}
