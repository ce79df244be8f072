//! Every way to name the file and everything that can be in it.

use std::time::Duration;

use serde_json::json;
use syncline_sdk::{
    IdentityProvider, config,
    identity::{Credential, Failure, Flow, Reason, TokenRequest},
    testing::FakeHost,
};

use super::{KUBERNETES, TokenFile};

/// Something of the shape of a JWT.
const JWT: &str = "aGVhZA.Ym9keQ.c2ln";

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

/// A call with this configuration.
fn run(config: &serde_json::Value, host: &FakeHost) -> Result<Credential, Failure> {
    config::parse(&config.to_string()).and_then(TokenFile::new).unwrap().get_token(host, &request())
}

/// A host where no variable is set.
fn bare() -> FakeHost {
    FakeHost::new()
        .without_env("AZURE_FEDERATED_TOKEN_FILE")
        .without_env("AWS_WEB_IDENTITY_TOKEN_FILE")
}

#[test]
fn the_file_is_the_configured_one_else_a_variable_else_that_of_kubernetes() {
    let file = |host: FakeHost, path: &str| host.with_file(path, format!("{JWT}\n").as_bytes());
    let path_of = |credential: Credential| {
        assert_eq!(credential.access_token, JWT);
        assert_eq!(credential.expires_in, None);
        credential.audit[0].1.clone()
    };
    let host = file(bare(), "/own");
    assert_eq!(path_of(run(&json!({"path": "/own"}), &host).unwrap()), "/own");
    let host = bare().with_env("AZURE_FEDERATED_TOKEN_FILE", "/azure");
    let host = file(host.with_env("AWS_WEB_IDENTITY_TOKEN_FILE", "/aws"), "/azure");
    assert_eq!(path_of(run(&json!({}), &host).unwrap()), "/azure");
    let host = file(bare().with_env("AWS_WEB_IDENTITY_TOKEN_FILE", "/aws"), "/aws");
    assert_eq!(path_of(run(&json!({}), &host).unwrap()), "/aws");
    let host = file(bare().with_env("AZURE_FEDERATED_TOKEN_FILE", ""), KUBERNETES);
    assert_eq!(path_of(run(&json!({}), &host).unwrap()), KUBERNETES);
}

#[test]
fn a_file_without_a_token_is_a_failure_that_quotes_nothing() {
    for (content, lasts) in [
        ("", false),
        (" \n", false),
        ("secret", true),
        ("secret.token", true),
        ("secret.to ken.x", true),
        ("secret.token.x\nsecret.token.y", true),
    ] {
        let host = bare().with_file("/own", content.as_bytes());
        let failure = run(&json!({"path": "/own"}), &host).unwrap_err();
        let text = match failure {
            Failure::Config(text) if lasts => text,
            Failure::Unavailable { reason, .. } if !lasts => reason,
            other => panic!("{content:?}: {other:?}"),
        };
        assert!(text.contains("/own") && !text.contains("secret"), "{text}");
    }
    let host = bare().with_file("/own", &[0xFF, 0xFE, 0x2E]);
    assert!(matches!(run(&json!({"path": "/own"}), &host), Err(Failure::Unavailable { .. })));
    let host = bare().with_file("/own", "a".repeat(64 * 1024 + 1).as_bytes());
    assert!(matches!(run(&json!({"path": "/own"}), &host), Err(Failure::Config(_))));
}

#[test]
fn what_is_not_granted_is_a_matter_of_configuration() {
    let Err(Failure::Config(text)) = run(&json!({"path": "/own"}), &bare()) else { panic!() };
    assert!(text.contains("/own"), "{text}");
    let Err(Failure::Config(text)) = run(&json!({}), &FakeHost::new()) else { panic!() };
    assert!(text.contains("AZURE_FEDERATED_TOKEN_FILE"), "{text}");
}

#[test]
fn a_person_and_a_relative_path_are_refused() {
    let person = TokenRequest { flow: Flow::Human, ..request() };
    let provider = config::parse("{}").and_then(TokenFile::new).unwrap();
    assert!(matches!(provider.get_token(&bare(), &person), Err(Failure::Unsupported(_))));
    assert_eq!(provider.describe().name, "token-file");
    let error = config::parse(r#"{"path":"token"}"#).and_then(TokenFile::new).unwrap_err();
    assert_eq!(error.key(), "path");
}
