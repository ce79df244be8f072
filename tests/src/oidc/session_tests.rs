//! The SASL conversation and the rules of a session, message by message; no server is needed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bson::{Binary, Bson, Document, RawDocumentBuf, doc, spec::BinarySubtype};
use serde_json::json;

use super::{
    idp::FakeIdp,
    session::{Access, Realm, Session},
    trust::{IdentityProvider, Trust, now_seconds},
};

const AUDIENCE: &str = "api://cluster";
/// A client and a server on this machine.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn realm(idp: &FakeIdp, change: impl FnOnce(&mut IdentityProvider)) -> Arc<Realm> {
    crate::install_crypto();
    let mut entry = IdentityProvider::workload(idp.issuer(), AUDIENCE, "oidc");
    change(&mut entry);
    Arc::new(Realm {
        trust: Trust::new(vec![entry], Duration::ZERO).await.unwrap(),
        roles: BTreeMap::from([("oidc/sync".to_owned(), Access::All)]),
        users: BTreeMap::from([("oidc/workload".to_owned(), vec!["oidc/sync".to_owned()])]),
        shadows: None,
        failing: Default::default(),
        stats: Arc::default(),
    })
}

fn payload(content: &Document) -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: content.to_vec().unwrap() })
}

fn start(content: &Document) -> Document {
    doc! {
        "saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": payload(content),
        "$db": "$external",
    }
}

fn next(id: i32, content: &Document) -> Document {
    doc! {
        "saslContinue": 1, "conversationId": id, "payload": payload(content), "$db": "$external",
    }
}

fn jwt(token: &str) -> Document {
    doc! { "jwt": token }
}

fn assert_failed(reply: &Document) {
    assert_eq!(reply.get_i32("code").unwrap(), 18, "{reply}");
    assert_eq!(reply.get_str("errmsg").unwrap(), "Authentication failed.");
}

/// The code with which a command is refused; `None` when it passes.
fn refused(session: &Session, command: &Document) -> Option<i32> {
    let name = command.keys().next().unwrap();
    let raw = RawDocumentBuf::try_from(command).unwrap();
    session.refusal(name, &raw).map(|reply| reply.get_i32("code").unwrap())
}

/// A token that ends in half a second, and the wait for its end.
fn short(idp: &FakeIdp) -> String {
    idp.mint(AUDIENCE, |claims| claims["exp"] = json!(now_seconds() + 0.5)).unwrap()
}

async fn until_refused(session: &Session) {
    crate::eventually::eventually("the token's end", Duration::from_secs(5), || async {
        refused(session, &doc! { "find": "c" }).filter(|code| *code == 391).ok_or("it lives")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn one_step_is_enough_with_a_token() {
    let idp = FakeIdp::start().await.unwrap();
    let mut session = Session::new(realm(&idp, |_| ()).await, HERE, HERE);
    assert_eq!(refused(&session, &doc! { "find": "c" }), Some(13));
    for command in ["hello", "ping", "buildInfo", "saslStart", "endSessions", "connectionStatus"] {
        assert_eq!(refused(&session, &doc! { command: 1 }), None);
    }
    let token = idp.mint(AUDIENCE, |_| ()).unwrap();
    let reply = session.sasl("saslStart", &start(&jwt(&token))).await;
    assert_eq!(reply, doc! { "conversationId": 1, "done": true, "payload": empty(), "ok": 1.0 });
    assert_eq!(refused(&session, &doc! { "find": "c" }), None);
    session.log_out();
    assert_eq!(refused(&session, &doc! { "find": "c" }), Some(13));
}

fn empty() -> Bson {
    Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() })
}

#[tokio::test]
async fn a_person_takes_two_steps() {
    let idp = FakeIdp::start().await.unwrap();
    let realm = realm(&idp, |entry| {
        entry.supports_human_flows = true;
        entry.client_id = Some("client".to_owned());
        entry.request_scopes = vec!["fizz".to_owned()];
    });
    let mut session = Session::new(realm.await, HERE, HERE);
    let reply = session.sasl("saslStart", &start(&doc! { "n": "workload" })).await;
    assert!(!reply.get_bool("done").unwrap());
    let info = reply.get_binary_generic("payload").unwrap();
    assert_eq!(
        Document::from_reader(info.as_slice()).unwrap(),
        doc! { "issuer": idp.issuer(), "clientId": "client", "requestScopes": ["fizz"] }
    );
    assert_eq!(refused(&session, &doc! { "find": "c" }), Some(13));
    let token = idp.mint(AUDIENCE, |_| ()).unwrap();
    assert!(session.is_ours("saslContinue", &doc! {}));
    let reply = session.sasl("saslContinue", &next(1, &jwt(&token))).await;
    assert!(reply.get_bool("done").unwrap());
    assert_eq!(refused(&session, &doc! { "find": "c" }), None);
}

#[tokio::test]
async fn broken_conversations_fail_with_the_one_answer() {
    let idp = FakeIdp::start().await.unwrap();
    let realm = realm(&idp, |entry| {
        entry.supports_human_flows = true;
        entry.client_id = Some("client".to_owned());
    })
    .await;
    let good = idp.mint(AUDIENCE, |_| ()).unwrap();
    let mut elsewhere = start(&jwt(&good));
    elsewhere.insert("$db", "admin");
    let mut text = start(&jwt(&good));
    text.insert("payload", "text");
    for bad in [start(&doc! { "n": 1 }), start(&jwt("x.y.z")), elsewhere, text] {
        let mut session = Session::new(Arc::clone(&realm), HERE, HERE);
        assert_failed(&session.sasl("saslStart", &bad).await);
        assert_eq!(refused(&session, &doc! { "find": "c" }), Some(13));
    }
    // Another number, no token, another person than announced.
    for (first, second) in [
        (doc! {}, next(7, &jwt(&good))),
        (doc! {}, next(1, &doc! {})),
        (doc! { "n": "somebody" }, next(1, &jwt(&good))),
    ] {
        let mut session = Session::new(Arc::clone(&realm), HERE, HERE);
        session.sasl("saslStart", &start(&first)).await;
        assert_failed(&session.sasl("saslContinue", &second).await);
        // The conversation is over after a failure.
        assert!(!session.is_ours("saslContinue", &doc! {}));
    }
    assert_eq!(realm.stats.sasl_succeeded.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_workloads_server_sends_nobody_to_log_in() {
    let idp = FakeIdp::start().await.unwrap();
    let mut session = Session::new(realm(&idp, |_| ()).await, HERE, HERE);
    assert_failed(&session.sasl("saslStart", &start(&doc! {})).await);
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_only_the_same_user_renews_it() {
    let idp = FakeIdp::start().await.unwrap();
    let realm = realm(&idp, |_| ()).await;
    let mut session = Session::new(Arc::clone(&realm), HERE, HERE);
    session.sasl("saslStart", &start(&jwt(&short(&idp)))).await;
    assert_eq!(refused(&session, &doc! { "find": "c" }), None);

    // The same user again passes, and the session lives no longer for it.
    let long = idp.mint(AUDIENCE, |_| ()).unwrap();
    let reply = session.sasl("saslStart", &start(&jwt(&long))).await;
    assert!(reply.get_bool("done").unwrap());
    let other = idp.mint(AUDIENCE, |claims| claims["sub"] = json!("other")).unwrap();
    assert_failed(&session.sasl("saslStart", &start(&jwt(&other))).await);

    until_refused(&session).await;
    assert_eq!(refused(&session, &doc! { "getMore": 1_i64 }), Some(391));
    for command in ["hello", "saslStart", "saslContinue", "logout", "endSessions", "ping"] {
        assert_eq!(refused(&session, &doc! { command: 1 }), None, "{command}");
    }
    let status = session.connection_status(&doc! { "connectionStatus": 1 }).unwrap();
    let users = status.get_document("authInfo").unwrap().get_array("authenticatedUsers").unwrap();
    assert!(users.is_empty());

    assert_failed(&session.sasl("saslStart", &start(&jwt(&other))).await);
    session.sasl("saslStart", &start(&jwt(&long))).await;
    assert_eq!(refused(&session, &doc! { "find": "c" }), None);
    assert_eq!(realm.stats.reauthenticated.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_person_reauthenticates_in_two_steps_too() {
    let idp = FakeIdp::start().await.unwrap();
    let realm = realm(&idp, |entry| {
        entry.supports_human_flows = true;
        entry.client_id = Some("client".to_owned());
    });
    let realm = realm.await;
    let mut session = Session::new(Arc::clone(&realm), HERE, HERE);
    session.sasl("saslStart", &start(&jwt(&short(&idp)))).await;
    until_refused(&session).await;
    let first = session.sasl("saslStart", &start(&doc! { "n": "workload" })).await;
    assert!(!first.get_bool("done").unwrap());
    let id = first.get_i32("conversationId").unwrap();
    // The first step alone changes nothing.
    assert_eq!(refused(&session, &doc! { "find": "c" }), Some(391));
    assert!(session.is_ours("saslContinue", &doc! {}));
    // Somebody else is not let in, and the conversation is over.
    let other = idp.mint(AUDIENCE, |claims| claims["sub"] = json!("other")).unwrap();
    assert_failed(&session.sasl("saslContinue", &next(id, &jwt(&other))).await);
    assert!(!session.is_ours("saslContinue", &doc! {}));
    assert_eq!(refused(&session, &doc! { "find": "c" }), Some(391));
    let first = session.sasl("saslStart", &start(&doc! { "n": "workload" })).await;
    let id = first.get_i32("conversationId").unwrap();
    let long = idp.mint(AUDIENCE, |_| ()).unwrap();
    let reply = session.sasl("saslContinue", &next(id, &jwt(&long))).await;
    assert!(reply.get_bool("done").unwrap(), "{reply}");
    assert_eq!(refused(&session, &doc! { "find": "c" }), None);
    assert_eq!(realm.stats.reauthenticated.load(Ordering::SeqCst), 1);
    // Another mechanism's conversation is not taken for this one.
    session.sasl("saslStart", &start(&doc! {})).await;
    session.abandon_step();
    assert!(!session.is_ours("saslContinue", &doc! {}));
}

#[tokio::test]
async fn without_an_authorization_claim_the_user_has_to_exist() {
    let idp = FakeIdp::start().await.unwrap();
    let realm = realm(&idp, |entry| entry.authorization_claim = None).await;
    let mut session = Session::new(Arc::clone(&realm), HERE, HERE);
    let known = idp.mint(AUDIENCE, |claims| claims["groups"] = json!(null)).unwrap();
    session.sasl("saslStart", &start(&jwt(&known))).await;
    assert_eq!(refused(&session, &doc! { "insert": "c" }), None);
    let mut session = Session::new(realm, HERE, HERE);
    let unknown = idp.mint(AUDIENCE, |claims| claims["sub"] = json!("nobody")).unwrap();
    assert_failed(&session.sasl("saslStart", &start(&jwt(&unknown))).await);
}

#[tokio::test]
async fn a_failed_speculation_leaves_nobody_and_is_not_told() {
    let idp = FakeIdp::start().await.unwrap();
    let mut session = Session::new(realm(&idp, |_| ()).await, HERE, HERE);
    let mut bad = start(&jwt("x.y.z"));
    bad.insert("db", "$external");
    assert_eq!(session.speculate(&bad).await, None);
    assert_eq!(refused(&session, &doc! { "find": "c" }), Some(13));
    let mut good = start(&jwt(&idp.mint(AUDIENCE, |_| ()).unwrap()));
    good.insert("db", "$external");
    let reply = session.speculate(&good).await.unwrap();
    assert!(!reply.contains_key("ok"));
    assert_eq!(refused(&session, &doc! { "find": "c" }), None);
}
