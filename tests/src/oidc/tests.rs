//! The stand-ins have to be as strict as what they stand in for; these tests need no server.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    idp::{FakeIdp, Scripted},
    keys::{SigningKey, tamper},
    trust::{IdentityProvider, Trust},
};

const AUDIENCE: &str = "api://cluster";

async fn trust(idp: &FakeIdp) -> Trust {
    crate::install_crypto();
    let entry = IdentityProvider::workload(idp.issuer(), AUDIENCE, "oidc");
    Trust::new(vec![entry], Duration::ZERO).await.unwrap()
}

async fn refusal(trust: &Trust, token: &str) -> String {
    format!("{:#}", trust.verify(token).await.unwrap_err())
}

#[tokio::test]
async fn a_good_token_yields_the_prefixed_user_and_roles() {
    let idp = FakeIdp::start().await.unwrap();
    let trust = trust(&idp).await;
    let verified = trust.verify(&idp.mint(AUDIENCE, |_| ()).unwrap()).await.unwrap();
    assert_eq!(verified.user, "oidc/workload");
    assert_eq!(verified.roles, Some(vec!["oidc/sync".to_owned()]));
    let one_of_two = |claims: &mut Value| claims["aud"] = json!(["other", AUDIENCE]);
    assert!(trust.verify(&idp.mint("x", one_of_two).unwrap()).await.is_ok());
    let one_group = |claims: &mut Value| claims["groups"] = json!("alone");
    let verified = trust.verify(&idp.mint(AUDIENCE, one_group).unwrap()).await.unwrap();
    assert_eq!(verified.roles, Some(vec!["oidc/alone".to_owned()]));
}

#[tokio::test]
async fn claims_that_the_server_refuses_are_refused() {
    let idp = FakeIdp::start().await.unwrap();
    let trust = trust(&idp).await;
    let now = super::idp::epoch_seconds();
    let changes: [(&str, Value, &str); 17] = [
        ("aud", json!("other"), "no identity provider"),
        ("aud", json!(7), "aud"),
        ("aud", json!([AUDIENCE, 7]), "aud"),
        ("aud", Value::Null, "aud"),
        ("iss", json!("https://evil.example"), "no identity provider"),
        ("iss", json!([idp.issuer()]), "iss"),
        ("iss", json!(format!("{}/", idp.issuer())), "no identity provider"),
        ("exp", json!(now - 2), "expired"),
        ("exp", json!("later"), "exp"),
        ("exp", Value::Null, "exp"),
        ("nbf", json!(now + 90), "not yet valid"),
        ("nbf", json!("now"), "nbf"),
        ("sub", Value::Null, "sub"),
        ("sub", json!(["workload"]), "sub"),
        ("groups", Value::Null, "authorization claim"),
        ("groups", json!({ "a": 1 }), "authorization claim"),
        ("groups", json!(["a", 1]), "authorization claim"),
    ];
    for (claim, value, word) in changes {
        let token = idp.mint(AUDIENCE, |claims| claims[claim] = value.clone()).unwrap();
        let why = refusal(&trust, &token).await;
        assert!(why.contains(word), "{claim}: {value}: {why}");
    }
    let removed = idp.mint(AUDIENCE, |claims| drop(claims.as_object_mut().unwrap().remove("exp")));
    assert!(refusal(&trust, &removed.unwrap()).await.contains("exp"));
    let within = idp.mint(AUDIENCE, |claims| claims["nbf"] = json!(now + 30)).unwrap();
    assert!(trust.verify(&within).await.is_ok());
}

#[tokio::test]
async fn headers_and_signatures_that_the_server_refuses_are_refused() {
    let idp = FakeIdp::start().await.unwrap();
    let trust = trust(&idp).await;
    let kid = idp.key_id().unwrap();
    for (header, word) in [
        (json!({ "alg": "RS256", "typ": "JWT" }), "kid"),
        (json!({ "alg": "RS256", "typ": "at+jwt", "kid": kid }), "typ"),
        (json!({ "alg": "RS256", "typ": "jwt", "kid": kid }), "typ"),
        (json!({ "alg": "none", "kid": kid }), "algorithm none"),
        (json!({ "alg": "HS256", "kid": kid }), "algorithm HS256"),
        (json!({ "alg": "RS512", "kid": kid }), "signature"),
        (json!({ "alg": "RS256", "kid": "nobody" }), "unknown"),
        (json!({ "kid": kid }), "alg"),
        (json!([1]), "header"),
    ] {
        let why = refusal(&trust, &idp.mint_with_header(&header, AUDIENCE).unwrap()).await;
        assert!(why.contains(word), "{header}: {why}");
    }
    let without_typ = json!({ "alg": "RS256", "kid": kid });
    assert!(trust.verify(&idp.mint_with_header(&without_typ, AUDIENCE).unwrap()).await.is_ok());

    let good = idp.mint(AUDIENCE, |_| ()).unwrap();
    let foreign = SigningKey::generate(kid).unwrap().sign(&idp.claims(AUDIENCE)).unwrap();
    assert!(refusal(&trust, &foreign).await.contains("signature"));
    let raised = tamper(&good, |claims| claims["groups"] = json!(["root"])).unwrap();
    assert!(refusal(&trust, &raised).await.contains("signature"));
    assert!(refusal(&trust, &format!("{good}.x")).await.contains("segments"));
    assert!(trust.verify(&format!("{good}=")).await.is_err());
    let unsigned = good.rsplit_once('.').unwrap().0;
    assert!(trust.verify(&format!("{unsigned}.")).await.is_err());
}

#[tokio::test]
async fn a_new_key_is_fetched_once_and_a_retired_one_ends_sessions() {
    let idp = FakeIdp::start().await.unwrap();
    let trust = trust(&idp).await;
    let old = trust.verify(&idp.mint(AUDIENCE, |_| ()).unwrap()).await.unwrap();
    let loads = idp.counts().jwks;
    idp.rotate().unwrap();
    let new = trust.verify(&idp.mint(AUDIENCE, |_| ()).unwrap()).await.unwrap();
    assert_eq!(idp.counts().jwks, loads + 1);
    assert_eq!(new.epoch, old.epoch);
    idp.retire_old_keys();
    assert!(trust.refresh().await.is_empty());
    assert_ne!(trust.epoch(idp.issuer()), old.epoch);
    assert_eq!(trust.key_ids()[idp.issuer()], [idp.key_id().unwrap()]);
}

#[tokio::test]
async fn within_the_quiesce_period_no_key_is_fetched() {
    crate::install_crypto();
    let idp = FakeIdp::start().await.unwrap();
    let entry = IdentityProvider::workload(idp.issuer(), AUDIENCE, "oidc");
    let trust = Trust::new(vec![entry], Duration::from_secs(60)).await.unwrap();
    let loads = idp.counts().jwks;
    idp.rotate().unwrap();
    for _ in 0..5 {
        assert!(refusal(&trust, &idp.mint(AUDIENCE, |_| ()).unwrap()).await.contains("unknown"));
    }
    assert_eq!(idp.counts().jwks, loads);
}

#[tokio::test]
async fn configurations_that_the_server_refuses_are_refused() {
    crate::install_crypto();
    let good = || IdentityProvider::workload("http://127.0.0.1:1", "a", "p");
    let bad = [
        vec![],
        vec![good(), good()],
        vec![IdentityProvider { auth_name_prefix: "a/b".to_owned(), ..good() }],
        vec![IdentityProvider { audience: String::new(), ..good() }],
        vec![IdentityProvider { issuer: "http://idp.example".to_owned(), ..good() }],
        vec![IdentityProvider { supports_human_flows: true, ..good() }],
    ];
    for providers in bad {
        let shown = format!("{providers:?}");
        assert!(Trust::new(providers, Duration::ZERO).await.is_err(), "{shown}");
    }
    // An issuer that does not answer is no reason not to start.
    assert!(Trust::new(vec![good()], Duration::ZERO).await.is_ok());
}

/// GETs the metadata endpoint.
async fn imds(idp: &FakeIdp, query: &str, headers: &[(&str, &str)]) -> (StatusCode, Value) {
    crate::install_crypto();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/metadata/identity/oauth2/token?{query}", idp.imds_origin());
    let mut request = client.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn the_metadata_endpoint_answers_in_strings() {
    let idp = FakeIdp::start().await.unwrap();
    idp.change(|workload| workload.client_ids.push("mine".to_owned()));
    let query = "api-version=2018-02-01&resource=api%3A%2F%2Fcluster&client_id=mine";
    let (status, body) = imds(&idp, query, &[("Metadata", "TRUE")]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["resource"], AUDIENCE);
    assert_eq!(body["client_id"], "mine");
    assert_eq!(body["token_type"], "Bearer");
    assert!(["3599", "3600"].contains(&body["expires_in"].as_str().unwrap()));
    let token = body["access_token"].as_str().unwrap();
    assert!(trust(&idp).await.verify(token).await.is_ok());
    assert_eq!(idp.counts().issued, 1);
}

#[tokio::test]
async fn the_metadata_endpoint_refuses_what_the_real_one_refuses() {
    let idp = FakeIdp::start().await.unwrap();
    idp.change(|workload| workload.audiences.push("known".to_owned()));
    const GOOD: &str = "api-version=2018-02-01&resource=known";
    let marked = [("Metadata", "true")];
    let proxied = [("Metadata", "true"), ("X-Forwarded-For", "10.0.0.1")];
    type Headers<'h> = &'h [(&'h str, &'h str)];
    let cases: [(&str, Headers<'_>, &str); 10] = [
        (GOOD, &[], "bad_request_102"),
        (GOOD, &[("Metadata", "yes")], "bad_request_102"),
        (GOOD, &proxied, "invalid_request"),
        ("resource=known", &marked, "invalid_request"),
        ("api-version=1999-01-01&resource=known", &marked, "invalid_request"),
        ("api-version=2018-02-01", &marked, "invalid_request"),
        ("api-version=2018-02-01&resource=", &marked, "invalid_request"),
        ("api-version=2018-02-01&resource=unknown", &marked, "invalid_resource"),
        ("api-version=2018-02-01&resource=known&client_id=x", &marked, "invalid_request"),
        ("api-version=2018-02-01&resource=known&resource=known", &marked, "invalid_request"),
    ];
    for (query, headers, code) in cases {
        let (status, body) = imds(&idp, query, headers).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(body["error"], code, "{query}: {body}");
    }
    assert_eq!(idp.counts().issued, 0);
    assert_eq!(imds(&idp, GOOD, &marked).await.0, StatusCode::OK);
}

#[tokio::test]
async fn scripted_answers_come_first_and_once() {
    let idp = FakeIdp::start().await.unwrap();
    idp.script(Scripted::json(429, &json!({ "error": "too_many_requests" })));
    idp.script(Scripted::json(200, &json!({ "access_token": "" })));
    let get = || imds(&idp, "api-version=2018-02-01&resource=x", &[("Metadata", "true")]);
    assert_eq!(get().await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(get().await.1["access_token"], "");
    assert!(get().await.1["access_token"].as_str().unwrap().len() > 100);
    assert_eq!(idp.counts().imds, 3);
    assert_eq!(idp.queries()[0]["resource"], "x");
}
