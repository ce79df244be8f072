//! Every answer the exchange can give.

use std::time::Duration;

use serde_json::json;
use syncline_sdk::{
    HostError, IdentityProvider, config,
    http::{Method, Response},
    identity::{Credential, Failure, Flow, OauthError, Reason, TokenRequest},
    testing::FakeHost,
};

use super::AzureAks;

/// Something of the shape of a JWT.
const JWT: &str = "aGVhZA.Ym9keQ.c2ln";
/// The federated token.
const ASSERTION: &str = "ZmVk.ZXJh.dGVk";

/// A provider with this configuration.
fn provider(config: &serde_json::Value) -> AzureAks {
    config::parse(&config.to_string()).and_then(AzureAks::new).unwrap()
}

/// A machine's request.
fn request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Machine,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: None,
        principal: None,
        hosts: Vec::new(),
        idp: None,
        refresh_token: None,
        timeout: Duration::from_secs(60),
        attempt: 0,
        extra: Vec::new(),
    }
}

/// A pod as AKS sets it up.
fn pod() -> FakeHost {
    FakeHost::new()
        .with_env("AZURE_TENANT_ID", "tenant-1")
        .with_env("AZURE_APP_CLIENT_ID", "app-1")
        .with_env("AZURE_CLIENT_ID", "client-1")
        .with_env("AZURE_FEDERATED_TOKEN_FILE", "/token")
        .without_env("AZURE_AUTHORITY_HOST")
        .with_file("/token", format!("{ASSERTION}\n").as_bytes())
}

/// What a call with scripted answers ends in.
fn run(host: &FakeHost) -> Result<Credential, Failure> {
    provider(&json!({})).get_token(host, &request())
}

/// A good body.
fn good() -> String {
    json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": JWT})
        .to_string()
}

/// Seconds slept.
fn slept(host: &FakeHost) -> Vec<u64> {
    host.sleeps().iter().map(Duration::as_secs).collect()
}

#[test]
fn the_request_is_the_exchange_of_the_federated_token() {
    let host = pod().answer(200, good());
    let credential = run(&host).unwrap();
    assert_eq!(credential.access_token, JWT);
    assert_eq!(credential.expires_in, Some(Duration::from_secs(3599)));
    assert!(credential.audit.contains(&("client_id".to_owned(), "client-1".to_owned())));
    let request = &host.requests()[0];
    assert_eq!(request.method, Method::Post);
    assert_eq!(request.url, "https://login.microsoftonline.com/tenant-1/oauth2/v2.0/token");
    let body = String::from_utf8(request.body.clone()).unwrap();
    assert_eq!(
        body,
        "grant_type=client_credentials&client_id=client-1&client_assertion_type=\
         urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=ZmVk.ZXJh.dGVk&scope=app-1%2F.default"
    );
    let form = ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned());
    assert!(request.headers.contains(&form));
    assert_eq!(request.max_response_bytes, Some(64 * 1024));
}

#[test]
fn the_configuration_wins_over_the_environment() {
    let host = pod()
        .with_env("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/")
        .with_file("/other", b"b3Ro.ZXIx.eA")
        .answer(200, good())
        .answer(200, good());
    run(&host).unwrap();
    let config = json!({
        "tenantId": "t.example", "clientId": "c 2", "federatedTokenFile": "/other",
        "authorityHost": "http://127.0.0.1:9/", "scope": "api://x/.default",
    });
    provider(&config).get_token(&host, &request()).unwrap();
    let requests = host.requests();
    assert!(requests[0].url.starts_with("https://login.microsoftonline.us/tenant-1/"));
    assert_eq!(requests[1].url, "http://127.0.0.1:9/t.example/oauth2/v2.0/token");
    let body = String::from_utf8(requests[1].body.clone()).unwrap();
    assert!(body.contains("client_id=c%202&") && body.contains("client_assertion=b3Ro.ZXIx.eA&"));
    assert!(body.ends_with("&scope=api%3A%2F%2Fx%2F.default"), "{body}");
}

#[test]
fn every_missing_variable_is_named() {
    let all =
        ["AZURE_TENANT_ID", "AZURE_APP_CLIENT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"];
    for name in all {
        for host in [pod().without_env(name), pod().with_env(name, "")] {
            let Err(Failure::Config(text)) = run(&host) else { panic!("{name}") };
            assert!(text.ends_with(&format!(": {name}")), "{text}");
            assert!(host.requests().is_empty());
        }
    }
    let host = pod().without_env(all[0]).without_env(all[2]);
    let Err(Failure::Config(text)) = run(&host) else { panic!() };
    assert!(text.ends_with("AZURE_TENANT_ID, AZURE_CLIENT_ID"), "{text}");
    assert!(matches!(run(&FakeHost::new()), Err(Failure::Config(_))));
}

#[test]
fn unsafe_settings_are_refused_without_asking() {
    for (name, value) in [
        ("AZURE_TENANT_ID", "../x"),
        ("AZURE_TENANT_ID", ".."),
        ("AZURE_TENANT_ID", "a?b"),
        ("AZURE_AUTHORITY_HOST", "http://login.example"),
        ("AZURE_AUTHORITY_HOST", "login.example"),
        ("AZURE_AUTHORITY_HOST", "https://a/b"),
    ] {
        let host = pod().with_env(name, value);
        let Err(Failure::Config(text)) = run(&host) else { panic!("{name}={value}") };
        assert!(text.contains(name), "{text}");
        assert!(host.requests().is_empty());
    }
    for (key, value) in [
        ("authorityHost", "http://login.example"),
        ("tenantId", "a/b"),
        ("federatedTokenFile", "token"),
        ("scope", " "),
    ] {
        let config = json!({ key: value }).to_string();
        assert_eq!(config::parse(&config).and_then(AzureAks::new).unwrap_err().key(), key);
    }
}

#[test]
fn a_success_without_a_usable_token_is_a_failure_that_quotes_nothing() {
    for body in ["", "<html>secret</html>", "{}", r#"{"access_token":"secret"}"#, "[1]"] {
        let host = pod().answer(200, body);
        let Err(Failure::Internal(text)) = run(&host) else { panic!("{body}") };
        assert!(!text.contains("secret"), "{text}");
    }
    for (expires_in, expected) in
        [(json!(77), Some(77)), (json!("77"), Some(77)), (json!(null), None)]
    {
        let body = json!({"access_token": format!("{JWT}\n"), "expires_in": expires_in});
        let credential = run(&pod().answer(200, body.to_string())).unwrap();
        assert_eq!(credential.access_token, JWT);
        assert_eq!(credential.expires_in.map(|left| left.as_secs()), expected);
    }
}

#[test]
fn refusals_are_final_and_explained() {
    for (status, code, description, hint) in [
        (400, "invalid_request", "AADSTS70021: No matching record", "federated credential"),
        (401, "invalid_client", "AADSTS700213: No matching record", "federated credential"),
        (401, "invalid_client", "AADSTS700024: Client assertion", "outside its life"),
        (400, "unauthorized_client", "AADSTS700016: Application", "AZURE_CLIENT_ID"),
        (400, "invalid_request", "AADSTS90002: Tenant", "AZURE_TENANT_ID"),
        (400, "invalid_resource", "AADSTS500011: The resource", "scope"),
        (400, "invalid_scope", "AADSTS1: Other", "Other"),
    ] {
        let body = json!({"error": code, "error_description":
            format!("{description}\r\nTrace ID: 1\r\nCorrelation ID: 2"), "error_codes": [1]});
        let host = pod().answer(status, body.to_string());
        let Err(Failure::Denied(error)) = run(&host) else { panic!("{description}") };
        assert_eq!(error.code, code);
        let text = error.description.unwrap();
        assert!(text.starts_with(description) && text.contains(hint), "{text}");
        assert!(!text.contains("Trace") && !text.contains(ASSERTION), "{text}");
        assert_eq!(host.requests().len(), 1);
    }
    let host = pod().answer(403, "<html>");
    let error = OauthError { code: "status 403".to_owned(), description: None };
    assert_eq!(run(&host), Err(Failure::Denied(error)));
}

#[test]
fn what_may_pass_is_tried_again_with_the_token_of_that_moment() {
    for status in [408, 429, 500, 502, 503, 504] {
        let host =
            pod().answer(status, "").answer(status, "").answer(status, "").answer(status, "");
        assert!(matches!(run(&host), Err(Failure::Unavailable { .. })), "{status}");
        assert_eq!(slept(&host), [1, 2, 4]);
    }
    for status in [501, 505] {
        let host = pod().answer(status, "");
        assert!(matches!(run(&host), Err(Failure::Denied(_))), "{status}");
    }
    let busy = Response {
        status: 429,
        headers: vec![("retry-after".to_owned(), "7".to_owned())],
        body: Vec::new(),
    };
    let host = pod()
        .outcome(Ok(busy))
        .outcome(Err(HostError::TimedOut))
        .outcome(Err(HostError::Unavailable("refused".to_owned())))
        .answer(200, good());
    run(&host).unwrap();
    assert_eq!(slept(&host), [7, 2, 4]);
}

#[test]
fn redirects_and_refusals_of_the_host_end_it() {
    for status in [301, 302, 307, 308] {
        let host = pod().answer(status, "");
        assert!(matches!(run(&host), Err(Failure::Internal(text)) if text.contains("redirect")));
        assert_eq!(host.requests().len(), 1);
    }
    let host = pod().outcome(Err(HostError::Denied("grant it".to_owned())));
    assert_eq!(run(&host), Err(Failure::Config("grant it".to_owned())));
    let host = pod().outcome(Err(HostError::Limit("too long".to_owned())));
    assert!(matches!(run(&host), Err(Failure::Internal(_))));
}

#[test]
fn a_federated_token_that_is_none_is_not_sent() {
    for (content, lasts) in [("", false), ("\n", false), ("secret", true), ("a.b", true)] {
        let host = pod().with_file("/token", content.as_bytes());
        match run(&host) {
            Err(Failure::Config(text)) if lasts => assert!(!text.contains("secret"), "{text}"),
            Err(Failure::Unavailable { .. }) if !lasts => {}
            other => panic!("{content:?}: {other:?}"),
        }
        assert!(host.requests().is_empty());
    }
    let host = pod().with_env("AZURE_FEDERATED_TOKEN_FILE", "/elsewhere");
    assert!(matches!(run(&host), Err(Failure::Config(text)) if text.contains("/elsewhere")));
}

#[test]
fn a_person_is_refused_and_it_describes_itself() {
    let person = TokenRequest { flow: Flow::Human, ..request() };
    let provider = provider(&json!({}));
    assert!(matches!(provider.get_token(&pod(), &person), Err(Failure::Unsupported(_))));
    assert_eq!(provider.describe().origins, ["https://login.microsoftonline.com"]);
}
