use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use syncline_sdk::{
    HostError, IdentityProvider,
    http::{Request, Response},
    identity::{Credential, Failure, Flow, IdpInfo, Reason, TokenRequest},
    testing::FakeHost,
};

use super::{Config, WorkforceOidc};

const ISSUER: &str = "https://idp.example/tenant";
const REDIRECT: &str = "http://localhost:27097/redirect";
const ACCESS: &str = "aGVhZA.Ym9keQ.c2ln";

fn request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Human,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: None,
        principal: Some("ann@corp.example".to_owned()),
        hosts: vec!["db.example:27017".to_owned()],
        idp: Some(IdpInfo {
            issuer: ISSUER.to_owned(),
            client_id: Some("cli".to_owned()),
            request_scopes: vec!["api://db/.default".to_owned()],
        }),
        refresh_token: None,
        timeout: Duration::from_secs(300),
        attempt: 0,
        extra: Vec::new(),
    }
}

fn discovery(change: impl FnOnce(&mut Value)) -> String {
    let mut document = json!({
        "issuer": ISSUER,
        "authorization_endpoint": "https://idp.example/authorize",
        "token_endpoint": "https://idp.example/token",
        "device_authorization_endpoint": "https://idp.example/device",
        "scopes_supported": ["openid", "offline_access", "email"],
    });
    change(&mut document);
    document.to_string()
}

fn id_token(change: impl FnOnce(&mut Value)) -> String {
    // The third lot of random bytes of the fake is the nonce.
    let mut claims = json!({
        "iss": ISSUER, "aud": "cli", "sub": "ann", "nonce": lot(2),
        "exp": FakeHost::START_MS / 1000 + 600,
    });
    change(&mut claims);
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2ln", encode("{}"), encode(&claims.to_string()))
}

/// What the fake's n-th lot of 32 random bytes becomes.
fn lot(number: u8) -> String {
    BASE64_URL_SAFE_NO_PAD.encode([number; 32])
}

fn tokens(change: impl FnOnce(&mut Value)) -> String {
    let mut body = json!({
        "access_token": ACCESS, "token_type": "Bearer", "expires_in": 3600,
        "refresh_token": "r1", "id_token": id_token(|_| ()),
    });
    change(&mut body);
    body.to_string()
}

/// A host whose person logs in.
fn willing() -> FakeHost {
    FakeHost::new()
        .with_listener(Ok(REDIRECT))
        .with_terminal(Ok(()))
        .way_back(Ok(&[("code", "c0de"), ("state", "STATE")]))
}

fn provider(config: Value) -> WorkforceOidc {
    WorkforceOidc::new(serde_json::from_value::<Config>(config).unwrap()).unwrap()
}

fn get(host: &FakeHost) -> Result<Credential, Failure> {
    provider(json!({})).get_token(host, &request())
}

fn both() -> WorkforceOidc {
    provider(json!({ "flows": ["auth-code", "device-auth"] }))
}

fn form(request: &Request) -> Vec<String> {
    let mut fields: Vec<String> =
        String::from_utf8(request.body.clone()).unwrap().split('&').map(str::to_owned).collect();
    fields.sort();
    fields
}

fn internal(outcome: Result<Credential, Failure>) -> String {
    match outcome {
        Err(Failure::Internal(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_person_logs_in_with_a_browser() {
    let host = willing().answer(200, discovery(|_| ())).answer(200, tokens(|_| ()));
    let credential = get(&host).unwrap();
    assert_eq!(credential.access_token, ACCESS);
    assert_eq!(credential.expires_in, Some(Duration::from_secs(3600)));
    assert!(credential.audit.contains(&("subject".to_owned(), "ann".to_owned())));
    let requests = host.requests();
    assert_eq!(requests[0].url, format!("{ISSUER}/.well-known/openid-configuration"));
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(lot(0).as_bytes()));
    assert_eq!(
        host.urls(),
        [format!(
            "https://idp.example/authorize?response_type=code&client_id=cli\
             &redirect_uri=http%3A%2F%2Flocalhost%3A27097%2Fredirect\
             &scope=openid%20offline_access%20api%3A%2F%2Fdb%2F.default&state={}\
             &code_challenge={challenge}&code_challenge_method=S256&nonce={}\
             &login_hint=ann%40corp.example",
            lot(1),
            lot(2)
        )]
    );
    assert!((43..=128).contains(&lot(0).len()));
    assert_eq!(requests[1].url, "https://idp.example/token");
    assert_eq!(
        form(&requests[1]),
        [
            "client_id=cli".to_owned(),
            "code=c0de".to_owned(),
            format!("code_verifier={}", lot(0)),
            "grant_type=authorization_code".to_owned(),
            "redirect_uri=http%3A%2F%2Flocalhost%3A27097%2Fredirect".to_owned(),
        ]
    );
    assert_eq!(requests.len(), 2);
}

#[test]
fn scopes_that_the_provider_does_not_have_are_left_out() {
    for (supported, scope) in [
        (json!(["email"]), "api%3A%2F%2Fdb%2F.default%20x"),
        (json!(["openid"]), "openid%20api%3A%2F%2Fdb%2F.default%20x"),
        (Value::Null, "openid%20offline_access%20api%3A%2F%2Fdb%2F.default%20x"),
    ] {
        let host = willing()
            .answer(200, discovery(|document| document["scopes_supported"] = supported.clone()))
            .answer(200, tokens(|_| ()));
        let provider = provider(json!({ "scopes": ["x", "api://db/.default"] }));
        provider.get_token(&host, &request()).unwrap();
        assert!(host.urls()[0].contains(&format!("&scope={scope}&state")), "{:?}", host.urls());
    }
}

#[test]
fn what_the_browser_comes_back_with_is_checked() {
    let go = |back: &[(&str, &str)], names_issuer: bool| {
        let host = FakeHost::new().with_listener(Ok(REDIRECT)).way_back(Ok(back));
        let host = host
            .answer(
                200,
                discovery(|document| {
                    document["authorization_response_iss_parameter_supported"] =
                        json!(names_issuer);
                }),
            )
            .answer(200, tokens(|_| ()));
        (get(&host), host.requests().len())
    };
    for (back, names_issuer, word) in [
        (&[("state", "STATE")][..], false, "without a code"),
        (&[("code", "")], false, "without a code"),
        (&[("code", "a"), ("code", "b")], false, "two of code"),
        (&[("code", "a"), ("iss", "https://evil.example")], false, "another issuer"),
        (&[("error", "x"), ("iss", "https://evil.example")], true, "another issuer"),
        (&[("code", "a")], true, "without iss"),
    ] {
        let (outcome, requests) = go(back, names_issuer);
        assert!(internal(outcome).contains(word), "{back:?}");
        assert_eq!(requests, 1, "nothing is redeemed: {back:?}");
    }
    assert!(go(&[("code", "a"), ("iss", ISSUER)], true).0.is_ok());
    let (outcome, _) =
        go(&[("error", "access_denied"), ("error_description", "no \"way\"\n\u{7}ü")], false);
    let Err(Failure::Denied(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.code, "access_denied");
    assert_eq!(error.description.as_deref(), Some("no way"));
}

#[test]
fn without_a_browser_there_is_a_code_when_it_is_allowed() {
    let device = json!({ "device_code": "d", "user_code": "ABCD-EFGH", "expires_in": 600,
        "verification_uri": "https://idp.example/activate", "interval": 3 });
    let no_browser = || HostError::Unavailable("no browser".to_owned());
    for host in [
        FakeHost::new().with_listener(Err(no_browser())),
        FakeHost::new().with_listener(Ok(REDIRECT)).way_back(Err(no_browser())),
    ] {
        let host = host
            .with_terminal(Ok(()))
            .answer(200, discovery(|_| ()))
            .answer(200, device.to_string())
            .answer(200, tokens(|body| body["id_token"] = json!(id_token(|_| ()))));
        both().get_token(&host, &request()).unwrap();
        let code = host.codes().pop().unwrap();
        assert_eq!(code.user_code, "ABCD-EFGH");
        assert_eq!(code.verification_uri, "https://idp.example/activate");
        // The person's own time ends before the code's.
        assert_eq!(code.expires_in, Duration::from_secs(298));
        let requests = host.requests();
        assert_eq!(
            form(&requests[1]),
            ["client_id=cli", "scope=openid%20offline_access%20api%3A%2F%2Fdb%2F.default"]
        );
        assert_eq!(
            form(&requests[2]),
            [
                "client_id=cli",
                "device_code=d",
                "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code"
            ]
        );
        assert_eq!(host.sleeps(), [Duration::from_secs(3)], "one interval before the first poll");
    }
    // Not allowed, and never after the person was reached.
    let host = FakeHost::new().with_listener(Err(no_browser())).answer(200, discovery(|_| ()));
    let outcome = get(&host);
    assert!(
        matches!(&outcome, Err(Failure::InteractionRequired(text)) if text.contains("device-auth")),
        "{outcome:?}"
    );
    let host = FakeHost::new()
        .with_listener(Ok(REDIRECT))
        .way_back(Err(HostError::TimedOut))
        .with_terminal(Ok(()))
        .answer(200, discovery(|_| ()));
    assert_eq!(both().get_token(&host, &request()), Err(Failure::TimedOut));
    assert!(host.codes().is_empty());
}

/// A device flow whose token endpoint answers this.
fn polling(answers: Vec<Result<Response, HostError>>) -> (Result<Credential, Failure>, Vec<u64>) {
    let device = json!({ "device_code": "d", "user_code": "A1", "expires_in": 100,
        "verification_uri": "http://localhost:1/activate" });
    let mut host = FakeHost::new()
        .with_terminal(Ok(()))
        .answer(200, discovery(|_| ()))
        .answer(200, device.to_string());
    for answer in answers {
        host = host.outcome(answer);
    }
    let provider = provider(json!({ "flows": ["device-auth"], "noNonce": true }));
    let outcome = provider.get_token(&host, &request());
    (outcome, host.sleeps().iter().map(Duration::as_secs).collect())
}

fn answer(status: u16, body: impl Into<String>) -> Result<Response, HostError> {
    Ok(Response { status, headers: Vec::new(), body: body.into().into_bytes() })
}

fn error(code: &str) -> Result<Response, HostError> {
    answer(400, json!({ "error": code }).to_string())
}

#[test]
fn a_device_keeps_the_pace_it_is_told() {
    let busy = Ok(Response {
        status: 429,
        headers: vec![("retry-after".to_owned(), "9".to_owned())],
        body: Vec::new(),
    });
    let (outcome, sleeps) = polling(vec![
        error("authorization_pending"),
        error("slow_down"),
        error("authorization_pending"),
        busy,
        Err(HostError::TimedOut),
        answer(200, tokens(|_| ())),
    ]);
    assert_eq!(outcome.unwrap().access_token, ACCESS);
    assert_eq!(sleeps, [5, 5, 10, 10, 10, 20]);
}

#[test]
fn a_device_asks_neither_without_a_pause_nor_for_one_slow_answer_less() {
    let device = json!({ "device_code": "d", "user_code": "A1", "expires_in": 100, "interval": 0,
        "verification_uri": "http://localhost:1/activate" });
    let host = FakeHost::new()
        .with_terminal(Ok(()))
        .answer(200, discovery(|_| ()))
        .answer(200, device.to_string())
        .answer(408, "")
        .answer(400, json!({ "error": "authorization_pending" }).to_string())
        .answer(200, tokens(|_| ()));
    let provider = provider(json!({ "flows": ["device-auth"], "noNonce": true }));
    assert_eq!(provider.get_token(&host, &request()).unwrap().access_token, ACCESS);
    assert_eq!(host.sleeps(), [Duration::from_secs(5); 3]);
    assert_eq!(host.codes()[0].expires_in, Duration::from_secs(100), "the code ends first");
}

#[test]
fn a_device_stops_when_it_is_told() {
    for (answers, code) in [
        (vec![error("access_denied")], "access_denied"),
        (vec![error("expired_token")], "expired_token"),
        (vec![error("invalid_client")], "invalid_client"),
        (vec![error("authorization_pending"); 40], "expired_token"),
    ] {
        let (outcome, sleeps) = polling(answers);
        let Err(Failure::Denied(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.code, code);
        assert!(sleeps.iter().sum::<u64>() < 100, "{sleeps:?}");
    }
}

#[test]
fn a_device_code_is_judged_before_it_is_shown() {
    let good = json!({ "device_code": "d", "user_code": "A", "expires_in": 100,
        "verification_uri": "https://idp.example/a" });
    for (change, word) in [
        (json!({ "user_code": null }), "user_code"),
        (json!({ "user_code": "A\u{1b}[2J" }), "user_code"),
        (json!({ "verification_uri": "http://idp.example/a" }), "verification_uri"),
        (json!({ "verification_uri": "javascript:alert(1)" }), "verification_uri"),
        (json!({ "device_code": null }), "device_code"),
        (json!({ "expires_in": null }), "expires_in"),
    ] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let host = FakeHost::new()
            .with_terminal(Ok(()))
            .answer(200, discovery(|_| ()))
            .answer(200, body.to_string());
        let provider = provider(json!({ "flows": ["device-auth"] }));
        assert!(internal(provider.get_token(&host, &request())).contains(word), "{body}");
        assert!(host.codes().is_empty());
    }
    let provider = provider(json!({ "flows": ["device-auth"] }));
    let host = FakeHost::new().answer(200, discovery(|_| ())).answer(403, "no");
    let outcome = provider.get_token(&host, &request());
    assert!(matches!(&outcome, Err(Failure::Denied(error)) if error.code == "status 403"));
    let host = FakeHost::new().answer(
        200,
        discovery(|d| drop(d.as_object_mut().unwrap().remove("device_authorization_endpoint"))),
    );
    let outcome = provider.get_token(&host, &request());
    assert!(matches!(&outcome, Err(Failure::InteractionRequired(_))), "{outcome:?}");
}

#[test]
fn discovery_is_believed_only_when_it_fits() {
    for (change, word) in [
        (json!({ "issuer": "https://evil.example" }), "another issuer"),
        (json!({ "issuer": null }), "no issuer"),
        (json!({ "token_endpoint": null }), "token_endpoint"),
        (json!({ "token_endpoint": "http://idp.example/token" }), "token_endpoint"),
        (json!({ "authorization_endpoint": "javascript:x" }), "authorization_endpoint"),
        (json!({ "device_authorization_endpoint": "http://x.example" }), "device_authorization"),
        (json!({ "code_challenge_methods_supported": ["plain"] }), "S256"),
    ] {
        let host = willing().answer(
            200,
            discovery(|d| d.as_object_mut().unwrap().extend(change.as_object().unwrap().clone())),
        );
        assert!(internal(get(&host)).contains(word), "{change}");
        assert!(host.urls().is_empty());
    }
    // A slash at the end is no other issuer.
    let host = willing()
        .answer(200, discovery(|d| d["issuer"] = json!(format!("{ISSUER}/"))))
        .answer(200, tokens(|_| ()));
    assert!(get(&host).is_ok());
    assert!(internal(get(&willing().answer(200, "<html>"))).contains("no JSON"));
    assert!(internal(get(&willing().answer(302, ""))).contains("302"));
    // The other place of RFC 8414.
    let host = willing().answer(404, "").answer(200, discovery(|_| ())).answer(200, tokens(|_| ()));
    get(&host).unwrap();
    assert_eq!(
        host.requests()[1].url,
        "https://idp.example/.well-known/oauth-authorization-server/tenant"
    );
    // What may pass is tried again.
    let host = willing().answer(503, "").answer(200, discovery(|_| ())).answer(200, tokens(|_| ()));
    get(&host).unwrap();
    let host = willing().answer(503, "").answer(503, "").answer(503, "");
    assert!(matches!(get(&host), Err(Failure::Unavailable { .. })));
    assert_eq!(host.requests().len(), 3);
}

#[test]
fn tokens_are_checked_and_never_quoted() {
    let other = |change: &dyn Fn(&mut Value)| tokens(|t| t["id_token"] = json!(id_token(change)));
    let cases: Vec<(String, &str)> = vec![
        ("<html>".to_owned(), "no JSON"),
        (tokens(|t| t["access_token"] = json!("")), "no access_token"),
        (tokens(|t| t["access_token"] = json!("opaque")), "no JWT"),
        (tokens(|t| t["token_type"] = json!("DPoP")), "Bearer"),
        (tokens(|t| t["id_token"] = Value::Null), "no id_token"),
        (tokens(|t| t["id_token"] = json!("a.b")), "no JWT"),
        (other(&|c| c["iss"] = json!("https://evil.example")), "another issuer"),
        (other(&|c| c["aud"] = json!("other")), "somebody else"),
        (other(&|c| c["aud"] = json!([])), "somebody else"),
        (
            other(&|c| {
                c["aud"] = json!(["cli", "x"]);
                c["azp"] = json!("x");
            }),
            "somebody else",
        ),
        (other(&|c| c["exp"] = json!(1)), "expired"),
        (other(&|c| c["exp"] = Value::Null), "exp"),
        (other(&|c| c["nonce"] = json!("other")), "nonce"),
        (other(&|c| c["nonce"] = Value::Null), "nonce"),
        (other(&|c| c["sub"] = json!("")), "sub"),
    ];
    for (body, word) in cases {
        let host = willing().answer(200, discovery(|_| ())).answer(200, &body);
        let text = internal(get(&host));
        assert!(text.contains(word), "{word}: {text}");
        assert!(!text.contains("c2ln") && !text.contains("r1"), "{text}");
        assert_eq!(host.requests().len(), 2, "a code is redeemed once");
    }
    for (status, retry) in [(500, true), (503, true), (429, true), (400, false), (401, false)] {
        let body = json!({ "error": "invalid_grant", "error_description": "used" }).to_string();
        let host = willing().answer(200, discovery(|_| ())).answer(status, body);
        let outcome = get(&host);
        assert_eq!(matches!(outcome, Err(Failure::Unavailable { .. })), retry, "{outcome:?}");
        assert_eq!(matches!(outcome, Err(Failure::Denied(_))), !retry, "{outcome:?}");
        assert_eq!(host.requests().len(), 2);
    }
    let host = willing().answer(200, discovery(|_| ())).answer(307, "");
    assert!(internal(get(&host)).contains("redirect"));
}

#[test]
fn a_provider_may_leave_the_nonce_out_or_send_the_id_token() {
    let provider = |config: Value| provider(config);
    let host = willing()
        .answer(200, discovery(|_| ()))
        .answer(200, tokens(|t| t["id_token"] = json!(id_token(|c| c["nonce"] = Value::Null))));
    provider(json!({ "noNonce": true })).get_token(&host, &request()).unwrap();
    assert!(!host.urls()[0].contains("nonce"));
    let host = willing()
        .answer(200, discovery(|_| ()))
        .answer(200, tokens(|t| t["access_token"] = json!("opaque")));
    let provider = provider(json!({ "idTokenAsAccessToken": true }));
    let credential = provider.get_token(&host, &request()).unwrap();
    assert_eq!(credential.access_token, id_token(|_| ()));
    assert_eq!(credential.expires_in, None, "its exp counts");
}

/// A refresh with what a login left, and the forms sent.
fn refreshed(
    left: &str,
    change: impl FnOnce(&mut TokenRequest),
    answers: Vec<Result<Response, HostError>>,
) -> (Result<Credential, Failure>, FakeHost) {
    let mut host = willing().answer(200, discovery(|_| ()));
    for answer in answers {
        host = host.outcome(answer);
    }
    let mut request = TokenRequest { refresh_token: Some(left.to_owned()), ..request() };
    change(&mut request);
    (provider(json!({})).get_token(&host, &request), host)
}

fn left() -> String {
    let host = willing().answer(200, discovery(|_| ())).answer(200, tokens(|_| ()));
    get(&host).unwrap().refresh_token.unwrap()
}

#[test]
fn a_refresh_token_is_used_and_rotates() {
    let next = tokens(|t| {
        t["refresh_token"] = json!("r2");
        t["id_token"] = json!(id_token(|c| c["nonce"] = Value::Null));
    });
    let (outcome, host) = refreshed(&left(), |_| (), vec![answer(200, next)]);
    let rotated = outcome.unwrap().refresh_token.unwrap();
    assert!(rotated.contains("\"r2\""), "{rotated}");
    assert!(host.urls().is_empty(), "nobody was asked");
    assert_eq!(
        form(&host.requests()[1]),
        ["client_id=cli", "grant_type=refresh_token", "refresh_token=r1"]
    );
    // Without a new one the old one stays.
    let kept = tokens(|t| {
        t["refresh_token"] = Value::Null;
        t["id_token"] = Value::Null;
    });
    let (outcome, _) = refreshed(&left(), |_| (), vec![answer(200, kept)]);
    assert_eq!(outcome.unwrap().refresh_token.unwrap(), left());
    // A refusal asks for a new login, an outage does not.
    for (status, rejected) in [(400, true), (401, true), (500, false), (503, false), (429, false)] {
        let body = json!({ "error": "invalid_grant" }).to_string();
        let (outcome, host) = refreshed(&left(), |_| (), vec![answer(status, body)]);
        assert_eq!(matches!(outcome, Err(Failure::RefreshRejected(_))), rejected, "{status}");
        assert_eq!(host.requests().len(), 2, "shown once");
    }
    // Somebody else's token is not taken.
    let other = tokens(|t| {
        t["id_token"] = json!(id_token(|c| {
            c["sub"] = json!("eve");
            c["nonce"] = Value::Null;
        }));
    });
    let (outcome, _) = refreshed(&left(), |_| (), vec![answer(200, other)]);
    assert!(internal(outcome).contains("somebody else"));
    // What belongs to another client or issuer, or is nonsense, is not sent: the person logs in.
    for kept in
        [left().replace("\"cli\"", "\"x\""), left().replace(ISSUER, "https://b"), "r1".into()]
    {
        let (outcome, host) = refreshed(&kept, |_| (), vec![answer(200, tokens(|_| ()))]);
        outcome.unwrap();
        assert_eq!(host.urls().len(), 1);
        assert!(form(&host.requests()[1]).contains(&"code=c0de".to_owned()));
    }
}

#[test]
fn a_refresh_whose_answer_is_lost_is_told_from_one_that_was_not_sent() {
    for lost in [HostError::TimedOut, HostError::Unavailable("connection reset".to_owned())] {
        let (outcome, host) = refreshed(&left(), |_| (), vec![Err(lost)]);
        assert_eq!(outcome, Err(Failure::TimedOut), "the token may be used up");
        assert_eq!(host.requests().len(), 2, "shown once");
    }
    // No time for the token endpoint, or for discovery.
    for (latency, requests) in [(298, 1), (0, 0)] {
        let host = willing().latency(Duration::from_secs(latency)).answer(200, discovery(|_| ()));
        let timeout = Duration::from_secs(if requests == 0 { 1 } else { 300 });
        let request = TokenRequest { refresh_token: Some(left()), timeout, ..request() };
        let outcome = provider(json!({})).get_token(&host, &request);
        assert!(matches!(outcome, Err(Failure::Unavailable { .. })), "{outcome:?}");
        assert_eq!(host.requests().len(), requests, "the token was not shown");
    }
}

#[test]
fn settings_win_over_the_server_and_both_are_checked() {
    let own = json!({ "issuer": ISSUER, "clientId": "cli" });
    let host = willing().answer(200, discovery(|_| ())).answer(200, tokens(|_| ()));
    provider(own).get_token(&host, &TokenRequest { idp: None, ..request() }).unwrap();
    for (request, word) in [
        (TokenRequest { idp: None, ..request() }, "issuer"),
        (with_idp(|idp| idp.client_id = None), "client id"),
        (with_idp(|idp| idp.client_id = Some("a\nb".into())), "client id"),
        (with_idp(|idp| idp.issuer = "http://idp.example".into()), "https"),
        (with_idp(|idp| idp.issuer = "https://user@idp.example".into()), "https"),
    ] {
        let outcome = provider(json!({})).get_token(&FakeHost::new(), &request);
        assert!(
            matches!(&outcome, Err(Failure::Config(text)) if text.contains(word)),
            "{outcome:?}"
        );
    }
    let host = FakeHost::new().answer(200, discovery(|_| ()));
    let bad = with_idp(|idp| idp.request_scopes = vec!["a b".into()]);
    assert!(matches!(provider(json!({})).get_token(&host, &bad), Err(Failure::Config(_))));
    let machine = TokenRequest { flow: Flow::Machine, ..request() };
    let outcome = provider(json!({})).get_token(&FakeHost::new(), &machine);
    assert!(matches!(outcome, Err(Failure::Unsupported(_))));
    for (config, key) in [
        (json!({ "issuer": "http://x.example" }), "issuer"),
        (json!({ "clientId": "" }), "clientId"),
        (json!({ "scopes": ["a b"] }), "scopes"),
        (json!({ "flows": [] }), "flows"),
    ] {
        let error = WorkforceOidc::new(serde_json::from_value(config).unwrap()).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    // Without the grant nothing begins.
    let host = FakeHost::new().answer(200, discovery(|_| ()));
    assert!(matches!(get(&host), Err(Failure::Config(_))));
}

/// A request with another provider.
fn with_idp(change: impl FnOnce(&mut IdpInfo)) -> TokenRequest {
    let mut request = request();
    change(request.idp.as_mut().unwrap());
    request
}
