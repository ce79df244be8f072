//! Who is let in to the control API: every known attack on a token, the issuer's keys and what can go
//! wrong with them, roles, restrictions, and the daemon behind all that.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use serde_json::{Value, json};
use syncline::federation::{Access, Action, Audit, Decision, Question, Store};
use syncline_tests::{
    eventually::eventually,
    oidc::{
        idp::{DISCOVERY, FakeIdp, JWKS, Scripted},
        keys::{SigningKey, tamper},
    },
};

/// For whom the tokens are.
const AUDIENCE: &str = "api://syncline";
/// A caller.
const HERE: &str = "127.0.0.1";

/// A federation whose members of `sync` may do everything.
fn federation(idp: &FakeIdp) -> Value {
    json!({
        "name": "acme", "issuer": idp.issuer(), "audience": AUDIENCE, "clientId": "cli",
        "roles": [{ "role": "acme/sync", "actions": ["view", "operate", "commit", "administer"] }],
    })
}

/// The gate for a federation, and its audit.
struct Gate {
    access: Access,
    folder: tempfile::TempDir,
}

impl Gate {
    fn new(federation: Value) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let audit = Audit::to_file(&folder.path().join("audit"))?;
        Ok(Self { access: Access::new(Store::Fixed(federation), audit)?, folder })
    }

    async fn ask(&self, headers: &[&[u8]], action: Action, client: &str, server: &str) -> Decision {
        let question = Question {
            authorization: headers,
            client: client.parse::<IpAddr>().unwrap(),
            server: server.parse::<IpAddr>().unwrap(),
            action,
            request: "GET /test",
            request_id: "1",
        };
        self.access.decide(question).await
    }

    async fn may(&self, token: &str, action: Action) -> Decision {
        let header = format!("Bearer {token}");
        self.ask(&[header.as_bytes()], action, HERE, HERE).await
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("audit")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn last_reason(&self) -> String {
        self.audit().last().unwrap()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A token with the header changed.
fn header(idp: &FakeIdp, change: impl FnOnce(&mut Value)) -> Result<String> {
    let mut header = json!({ "alg": "RS256", "typ": "JWT", "kid": idp.key_id()? });
    change(&mut header);
    idp.mint_with_header(&header, AUDIENCE)
}

/// A token whose claims are this text.
fn claims_text(idp: &FakeIdp, text: &str) -> Result<String> {
    let header = json!({ "alg": "RS256", "kid": idp.key_id()? }).to_string();
    idp.sign_text(&header, text)
}

/// A token signed with a shared secret.
fn shared_secret(idp: &FakeIdp, secret: &[u8]) -> Result<String> {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some(idp.key_id()?);
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    Ok(jsonwebtoken::encode(&header, &idp.claims(AUDIENCE), &key)?)
}

#[tokio::test]
async fn good_tokens_are_let_in() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let gate = Gate::new(federation(&idp))?;
    let good = [
        idp.mint(AUDIENCE, |_| ())?,
        idp.mint(AUDIENCE, |c| c["aud"] = json!(["other", AUDIENCE]))?,
        idp.mint(AUDIENCE, |c| {
            c["aud"] = json!(["other", AUDIENCE]);
            c["azp"] = json!("cli");
        })?,
        idp.mint(AUDIENCE, |c| c["groups"] = json!("sync"))?,
        idp.mint(AUDIENCE, |c| c["exp"] = json!(now() as f64 + 100.5))?,
        idp.mint(AUDIENCE, |c| c["nbf"] = json!(now() + 30))?,
        header(&idp, |h| h["typ"] = json!("at+jwt"))?,
        header(&idp, |h| h["typ"] = json!("application/at+JWT"))?,
        header(&idp, |h| drop(h.as_object_mut().unwrap().remove("typ")))?,
        // Keys that a token brings along are not looked at.
        header(&idp, |h| h["jku"] = json!("http://127.0.0.1:1/jwks"))?,
    ];
    for (index, token) in good.iter().enumerate() {
        let decision = gate.may(token, Action::Administer).await;
        assert_eq!(decision, Decision::Allowed, "token {index}: {}", gate.last_reason());
    }
    assert_eq!(idp.counts().jwks, 1);
    let line = gate.audit().pop().unwrap();
    assert_eq!(line["user"], "acme/workload");
    assert_eq!(line["roles"], json!(["acme/sync"]));
    assert_eq!(line["decision"], "allowed");
    assert_eq!(line["client"], HERE);
    Ok(())
}

#[tokio::test]
async fn every_attack_on_a_token_is_refused() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let gate = Gate::new(federation(&idp))?;
    let kid = idp.key_id()?;
    let foreign = SigningKey::generate(kid.as_str())?;
    let good = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&good, Action::View).await, Decision::Allowed);
    let parts: Vec<&str> = good.split('.').collect();
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let unsigned = |alg: &str, signature: &str| {
        let header = encode(&json!({ "alg": alg, "typ": "JWT", "kid": kid }).to_string());
        format!("{header}.{}.{signature}", parts[1])
    };
    let mint = |change: &dyn Fn(&mut Value)| idp.mint(AUDIENCE, |claims| change(claims));
    let without = |name: &'static str| {
        idp.mint(AUDIENCE, |claims| drop(claims.as_object_mut().unwrap().remove(name)))
    };
    let base = idp.claims(AUDIENCE).to_string();
    let twice = |member: &str| claims_text(&idp, &base.replacen('{', &format!("{{{member},"), 1));
    let jwk = idp.public_keys()[0].clone();
    let n = jwk["n"].as_str().unwrap().to_owned();
    let many: Vec<String> = (0..1001).map(|n| format!("g{n}")).collect();
    let other_header = json!({ "alg": "RS256", "typ": "at+jwt", "kid": kid }).to_string();
    let attacks: Vec<(&str, String)> = vec![
        // No token.
        ("nothing", String::new()),
        ("opaque", "0123456789abcdef".to_owned()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("five parts, encrypted", format!("{good}.x.y")),
        ("an empty part", format!("{}..{}", parts[0], parts[2])),
        ("padding", format!("{}.{}.{}=", parts[0], parts[1], parts[2])),
        ("a space before", format!(" {good}")),
        ("no JSON", format!("{}.{}.{}", encode("x"), parts[1], parts[2])),
        ("too long", mint(&|c| c["x"] = json!("x".repeat(9000)))?),
        // Algorithm.
        ("alg none", unsigned("none", "")),
        ("alg none with a signature", unsigned("none", parts[2])),
        ("alg NONE", unsigned("NONE", parts[2])),
        ("alg nOnE", unsigned("nOnE", "eA")),
        ("alg in lower case", header(&idp, |h| h["alg"] = json!("rs256"))?),
        ("alg missing", header(&idp, |h| drop(h.as_object_mut().unwrap().remove("alg")))?),
        ("alg a list", header(&idp, |h| h["alg"] = json!(["RS256"]))?),
        ("alg not allowed", header(&idp, |h| h["alg"] = json!("RS512"))?),
        ("alg of another family", header(&idp, |h| h["alg"] = json!("ES256"))?),
        ("HS256 by the modulus", shared_secret(&idp, n.as_bytes())?),
        ("HS256 by the key set's entry", shared_secret(&idp, jwk.to_string().as_bytes())?),
        ("HS256 by nothing", shared_secret(&idp, b"")?),
        ("alg with a space", header(&idp, |h| h["alg"] = json!("RS256 "))?),
        ("alg null", header(&idp, |h| h["alg"] = json!(null))?),
        // Header.
        ("kid missing", header(&idp, |h| drop(h.as_object_mut().unwrap().remove("kid")))?),
        ("kid a number", header(&idp, |h| h["kid"] = json!(1))?),
        ("kid empty", header(&idp, |h| h["kid"] = json!(""))?),
        ("kid too long", header(&idp, |h| h["kid"] = json!("k".repeat(300)))?),
        ("kid unknown", header(&idp, |h| h["kid"] = json!("other"))?),
        ("kid a path", header(&idp, |h| h["kid"] = json!("../../dev/null"))?),
        ("crit", header(&idp, |h| h["crit"] = json!(["exp"]))?),
        ("kid null", header(&idp, |h| h["kid"] = json!(null))?),
        ("kid in other case", header(&idp, |h| h["kid"] = json!(kid.to_uppercase()))?),
        ("kid with something behind", header(&idp, |h| h["kid"] = json!(format!("{kid}\0")))?),
        ("crit empty", header(&idp, |h| h["crit"] = json!([]))?),
        ("b64 false", header(&idp, |h| h["b64"] = json!(false))?),
        ("zip", header(&idp, |h| h["zip"] = json!("DEF"))?),
        ("enc", header(&idp, |h| h["enc"] = json!("A256GCM"))?),
        ("typ of a logout", header(&idp, |h| h["typ"] = json!("logout+jwt"))?),
        ("typ of a proof", header(&idp, |h| h["typ"] = json!("dpop+jwt"))?),
        ("typ of an event", header(&idp, |h| h["typ"] = json!("secevent+jwt"))?),
        ("typ of a key binding", header(&idp, |h| h["typ"] = json!("kb+jwt"))?),
        ("typ of an encrypted token", header(&idp, |h| h["typ"] = json!("JWE"))?),
        ("typ of an ID token", header(&idp, |h| h["typ"] = json!("id_token+jwt"))?),
        ("typ empty", header(&idp, |h| h["typ"] = json!(""))?),
        ("b64 true", header(&idp, |h| h["b64"] = json!(true))?),
        ("typ a number", header(&idp, |h| h["typ"] = json!(1))?),
        (
            "a member of the header twice",
            idp.sign_text(&format!(r#"{{"alg":"RS256","kid":"{kid}","kid":"{kid}"}}"#), &base)?,
        ),
        // Signature.
        ("another key of the same id", foreign.sign(&idp.claims(AUDIENCE))?),
        ("changed claims", tamper(&good, |c| c["sub"] = json!("root"))?),
        ("a signature of zeros", format!("{}.{}.{}", parts[0], parts[1], "A".repeat(342))),
        ("the signature cut", format!("{}.{}.{}", parts[0], parts[1], &parts[2][..100])),
        (
            "a key brought along",
            foreign.sign_with(
                &json!({ "alg": "RS256", "kid": kid, "jwk": foreign.jwk() }),
                &idp.claims(AUDIENCE),
            )?,
        ),
        (
            "a certificate brought along",
            foreign.sign_with(
                &json!({ "alg": "RS256", "kid": kid, "x5c": ["MIIB"], "x5t": "eA",
                    "x5u": format!("{}/certificate", idp.issuer()) }),
                &idp.claims(AUDIENCE),
            )?,
        ),
        (
            "a place of keys brought along",
            foreign.sign_with(
                &json!({ "alg": "RS256", "kid": kid, "jku": format!("{}{JWKS}", idp.issuer()) }),
                &idp.claims(AUDIENCE),
            )?,
        ),
        ("another header", format!("{}.{}.{}", encode(&other_header), parts[1], parts[2])),
        // Issuer and audience.
        ("iss missing", without("iss")?),
        ("iss another", mint(&|c| c["iss"] = json!("https://evil.example"))?),
        ("iss with a slash", mint(&|c| c["iss"] = json!(format!("{}/", idp.issuer())))?),
        ("iss a list", mint(&|c| c["iss"] = json!(["https://evil.example", idp.issuer()]))?),
        ("iss an object", mint(&|c| c["iss"] = json!({}))?),
        ("aud missing", without("aud")?),
        ("aud another", mint(&|c| c["aud"] = json!("api://other"))?),
        ("aud the client, an ID token", mint(&|c| c["aud"] = json!("cli"))?),
        ("aud a number", mint(&|c| c["aud"] = json!(1))?),
        ("iss in other case", mint(&|c| c["iss"] = json!(idp.issuer().to_uppercase()))?),
        ("iss null", mint(&|c| c["iss"] = json!(null))?),
        ("aud null", mint(&|c| c["aud"] = json!(null))?),
        ("aud an object", mint(&|c| c["aud"] = json!({ "0": AUDIENCE }))?),
        ("aud in other case", mint(&|c| c["aud"] = json!(AUDIENCE.to_uppercase()))?),
        ("aud longer", mint(&|c| c["aud"] = json!(format!("{AUDIENCE}/x")))?),
        ("aud empty", mint(&|c| c["aud"] = json!([]))?),
        ("aud with a number", mint(&|c| c["aud"] = json!([AUDIENCE, 1]))?),
        (
            "azp another",
            mint(&|c| {
                c["aud"] = json!([AUDIENCE, "other"]);
                c["azp"] = json!("evil");
            })?,
        ),
        // Times.
        ("exp missing", without("exp")?),
        ("exp past", mint(&|c| c["exp"] = json!(now() - 1))?),
        ("exp now", mint(&|c| c["exp"] = json!(now()))?),
        ("exp text", mint(&|c| c["exp"] = json!((now() + 100).to_string()))?),
        ("exp negative", mint(&|c| c["exp"] = json!(-1))?),
        ("exp null", mint(&|c| c["exp"] = json!(null))?),
        ("exp a list", mint(&|c| c["exp"] = json!([now() + 100]))?),
        ("exp of milliseconds", mint(&|c| c["exp"] = json!((now() + 100) * 1000))?),
        ("exp endless", mint(&|c| c["exp"] = json!(1e300))?),
        ("exp too far", mint(&|c| c["exp"] = json!(now() + 90_000))?),
        (
            "exp too far, iat missing",
            mint(&|c| {
                drop(c.as_object_mut().unwrap().remove("iat"));
                c["exp"] = json!(now() + 90_000);
            })?,
        ),
        ("nbf ahead", mint(&|c| c["nbf"] = json!(now() + 120))?),
        ("nbf text", mint(&|c| c["nbf"] = json!("0"))?),
        ("iat ahead", mint(&|c| c["iat"] = json!(now() + 120))?),
        ("iat text", mint(&|c| c["iat"] = json!("0"))?),
        // Names.
        ("sub missing", without("sub")?),
        ("sub empty", mint(&|c| c["sub"] = json!(""))?),
        ("sub a number", mint(&|c| c["sub"] = json!(1))?),
        ("sub too long", mint(&|c| c["sub"] = json!("s".repeat(257)))?),
        ("sub with a line break", mint(&|c| c["sub"] = json!("a\nb"))?),
        ("groups missing", without("groups")?),
        ("groups an object", mint(&|c| c["groups"] = json!({ "sync": true }))?),
        ("groups with a number", mint(&|c| c["groups"] = json!(["sync", 1]))?),
        ("groups with a control character", mint(&|c| c["groups"] = json!(["sync", "\u{1}"]))?),
        ("too many groups", mint(&|c| c["groups"] = json!(many))?),
        (
            "groups left out by the issuer",
            mint(&|c| {
                drop(c.as_object_mut().unwrap().remove("groups"));
                c["_claim_names"] = json!({ "groups": "src1" });
            })?,
        ),
        (
            "groups not carried",
            mint(&|c| {
                drop(c.as_object_mut().unwrap().remove("groups"));
                c["hasgroups"] = json!(true);
            })?,
        ),
        ("claims a list", claims_text(&idp, &format!("[{base}]"))?),
        ("claims of bytes that are no text", {
            let header = json!({ "alg": "RS256", "kid": kid }).to_string();
            idp.sign_text(&header, &base.replacen("workload", "work\u{FFFF}\\ud800", 1))?
        }),
        // The same thing said twice.
        ("iss twice", twice(r#""iss":"https://evil.example""#)?),
        ("aud twice", twice(r#""aud":"api://other""#)?),
        ("exp twice", twice(r#""exp":1"#)?),
        ("sub twice", twice(r#""sub":"root""#)?),
        ("groups twice", twice(r#""groups":["admins"]"#)?),
        ("aud twice, one escaped", twice(r#""\u0061ud":"api://other""#)?),
        ("something within twice", twice(r#""x":{"y":{"z":1,"z":2}}"#)?),
        ("something behind the claims", claims_text(&idp, &format!("{base}{{}}"))?),
    ];
    let count = attacks.len();
    for (name, token) in attacks {
        let decision = gate.may(&token, Action::View).await;
        assert_eq!(decision, Decision::Unauthenticated, "{name}");
        assert!(!gate.last_reason().is_empty(), "{name}");
    }
    // The header itself.
    let bearer = format!("Bearer {good}");
    let others: [(&str, Vec<&[u8]>); 5] = [
        ("two headers", vec![bearer.as_bytes(), bearer.as_bytes()]),
        ("another scheme", vec![b"Basic dXNlcjpwYXNz"]),
        ("no scheme", vec![good.as_bytes()]),
        ("no text", vec![b"Bearer \xFF\xFE"]),
        ("nothing behind the scheme", vec![b"Bearer "]),
    ];
    for (name, headers) in others {
        let decision = gate.ask(&headers, Action::View, HERE, HERE).await;
        assert_eq!(decision, Decision::Unauthenticated, "{name}");
    }
    assert_eq!(gate.ask(&[], Action::View, HERE, HERE).await, Decision::Anonymous);
    let audit = gate.audit();
    assert_eq!(audit.len(), count + 7);
    let text = fs::read_to_string(gate.folder.path().join("audit"))?;
    assert!(!text.contains("eyJ") && !text.contains(parts[2]), "a token in the audit");
    // Unknown key ids cost no further load so soon after the first.
    assert_eq!(idp.counts().jwks, 1);
    eprintln!("attacks refused: {}", count + 5);
    Ok(())
}

#[tokio::test]
async fn what_can_be_refused_by_itself_reaches_no_network() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let other = FakeIdp::start().await?;
    let gate = Gate::new(federation(&idp))?;
    let foreign = other.mint(AUDIENCE, |_| ())?;
    for (name, token) in [
        ("opaque", "0123456789abcdef".to_owned()),
        ("five parts", "a.b.c.d.e".to_owned()),
        ("too long", idp.mint(AUDIENCE, |c| c["x"] = json!("x".repeat(9000)))?),
        ("alg none", header(&idp, |h| h["alg"] = json!("none"))?),
        ("alg not allowed", header(&idp, |h| h["alg"] = json!("ES384"))?),
        ("a shared secret", shared_secret(&idp, b"secret")?),
        ("crit", header(&idp, |h| h["crit"] = json!(["exp"]))?),
        ("another type", header(&idp, |h| h["typ"] = json!("logout+jwt"))?),
        ("no key id", header(&idp, |h| drop(h.as_object_mut().unwrap().remove("kid")))?),
        ("another issuer", foreign),
        ("keys brought along by another", {
            let place = format!("{}{JWKS}", other.issuer());
            let claims = json!({ "iss": other.issuer(), "aud": AUDIENCE }).to_string();
            let header = json!({ "alg": "RS256", "kid": other.key_id()?, "jku": place });
            other.sign_text(&header.to_string(), &claims)?
        }),
    ] {
        assert_eq!(gate.may(&token, Action::View).await, Decision::Unauthenticated, "{name}");
    }
    for asked in [idp.counts(), other.counts()] {
        assert_eq!((asked.discovery, asked.jwks), (0, 0));
    }
    Ok(())
}

#[tokio::test]
async fn callers_that_come_together_cost_one_load_of_the_keys() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let mut federation = federation(&idp);
    federation["jwksMinimumQuiescePeriodSecs"] = json!(0);
    let gate = Gate::new(federation)?;
    let mut slow = Scripted::json(200, &json!({ "keys": idp.public_keys() }));
    slow.delay = Duration::from_millis(300);
    idp.once(JWKS, slow);
    let token = idp.mint(AUDIENCE, |_| ())?;
    let decisions = join_all((0..200).map(|_| gate.may(&token, Action::View))).await;
    assert!(decisions.iter().all(|decision| *decision == Decision::Allowed));
    assert_eq!((idp.counts().discovery, idp.counts().jwks), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_withdrawn_key_ends_by_itself_where_keys_are_polled() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let mut federation = federation(&idp);
    federation["jwksMinimumQuiescePeriodSecs"] = json!(0);
    federation["jwksPollSecs"] = json!(1);
    let gate = Gate::new(federation)?;
    let old = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&old, Action::View).await, Decision::Allowed);
    idp.rotate()?;
    idp.retire_old_keys();
    let ended = eventually("the end of a withdrawn key", Duration::from_secs(120), || async {
        match gate.may(&old, Action::View).await {
            Decision::Unauthenticated => Ok(()),
            decision => Err(decision),
        }
    });
    tokio::select! {
        ended = ended => ended?,
        never = gate.access.poll_keys() => match never {},
    }
    let new = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&new, Action::View).await, Decision::Allowed);
    Ok(())
}

#[tokio::test]
async fn a_flood_of_unknown_keys_does_not_reach_the_issuer() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let gate = Gate::new(federation(&idp))?;
    for number in 0..300 {
        let token = header(&idp, |h| h["kid"] = json!(format!("flood-{number}")))?;
        assert_eq!(gate.may(&token, Action::View).await, Decision::Unauthenticated);
    }
    assert_eq!(idp.counts().jwks, 1);
    let good = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&good, Action::View).await, Decision::Allowed);
    assert_eq!(idp.counts().jwks, 1);
    Ok(())
}

#[tokio::test]
async fn rotated_keys_are_found_and_revoked_ones_are_not() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let mut federation = federation(&idp);
    federation["jwksMinimumQuiescePeriodSecs"] = json!(0);
    let gate = Gate::new(federation)?;
    let old = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&old, Action::View).await, Decision::Allowed);
    idp.rotate()?;
    let new = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&new, Action::View).await, Decision::Allowed);
    assert_eq!(idp.counts().jwks, 2);
    assert_eq!(gate.may(&old, Action::View).await, Decision::Allowed);
    // Withdrawn, but still known here, until somebody says so.
    idp.retire_old_keys();
    assert_eq!(gate.may(&old, Action::View).await, Decision::Allowed);
    gate.access.revoke_keys()?;
    assert_eq!(gate.may(&old, Action::View).await, Decision::Unauthenticated);
    assert_eq!(gate.may(&new, Action::View).await, Decision::Allowed);
    Ok(())
}

#[tokio::test]
async fn a_revocation_does_not_wait_and_old_keys_do_not_come_back() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let gate = Gate::new(federation(&idp))?;
    let old = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&old, Action::View).await, Decision::Allowed);
    idp.rotate()?;
    idp.retire_old_keys();
    gate.access.revoke_keys()?;
    // Within the quiesce period, which a revocation skips once.
    let new = idp.mint(AUDIENCE, |_| ())?;
    assert_eq!(gate.may(&new, Action::View).await, Decision::Allowed);
    assert_eq!(gate.may(&old, Action::View).await, Decision::Unauthenticated);
    assert_eq!(idp.counts().jwks, 2);
    // While the issuer is down there is nothing to fall back to.
    idp.fault(JWKS, Some(Scripted::json(500, &json!({}))));
    gate.access.revoke_keys()?;
    assert_eq!(gate.may(&new, Action::View).await, Decision::Unauthenticated);
    assert_eq!(gate.last_reason(), "the issuer's keys cannot be had");
    Ok(())
}

/// A status with a header.
fn answer(status: u16, name: &str, value: &str, body: String) -> Scripted {
    Scripted {
        status,
        headers: vec![(name.to_owned(), value.to_owned())],
        body,
        delay: Duration::ZERO,
    }
}

#[tokio::test]
async fn an_issuer_that_misbehaves_lets_nobody_in() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let other = FakeIdp::start().await?;
    let keys = json!({ "keys": idp.public_keys() });
    let discovery = |change: &dyn Fn(&mut Value)| {
        let mut body = json!({ "issuer": idp.issuer(),
            "jwks_uri": format!("{}{JWKS}", idp.issuer()) });
        change(&mut body);
        Scripted::json(200, &body)
    };
    let mut slow = Scripted::json(200, &keys);
    slow.delay = Duration::from_secs(30);
    let mut padded = keys.clone();
    padded["padding"] = json!("x".repeat(10 * 1024 * 1024));
    let mut doubled = keys.clone();
    doubled["keys"].as_array_mut().unwrap().extend(idp.public_keys());
    let mut weak = keys.clone();
    weak["keys"][0]["n"] = json!(BASE64_URL_SAFE_NO_PAD.encode([0xC1; 128]));
    let mut secret = keys.clone();
    secret["keys"][0] = json!({ "kty": "oct", "kid": idp.key_id()?, "k": "c2VjcmV0" });
    let mut encrypting = keys.clone();
    encrypting["keys"][0]["use"] = json!("enc");
    let mut crossed = keys.clone();
    crossed["keys"][0]["alg"] = json!("RS512");
    let mut signing = keys.clone();
    signing["keys"][0]["key_ops"] = json!(["sign"]);
    let mut even = keys.clone();
    even["keys"][0]["e"] = json!("AQAA");
    let mut nameless = keys.clone();
    drop(nameless["keys"][0].as_object_mut().unwrap().remove("kid"));
    let mut crowd = keys.clone();
    for number in 0..100 {
        let mut key = keys["keys"][0].clone();
        key["kid"] = json!(format!("more-{number}"));
        crowd["keys"].as_array_mut().unwrap().push(key);
    }
    let cut = keys.to_string()[..100].to_owned();
    let twice = keys.to_string().replacen('{', "{\"keys\":[],", 1);
    let elsewhere = format!("{}{JWKS}", other.issuer());
    let cases = [
        ("keys of 10 MB", JWKS, Scripted::json(200, &padded)),
        ("slow keys", JWKS, slow),
        ("keys that redirect", JWKS, answer(302, "location", &elsewhere, String::new())),
        ("keys that are gone", JWKS, Scripted::json(404, &json!({}))),
        ("keys that are HTML", JWKS, answer(200, "content-type", "text/html", "<html>".to_owned())),
        ("no keys", JWKS, Scripted::json(200, &json!({ "keys": [] }))),
        ("a key twice", JWKS, Scripted::json(200, &doubled)),
        ("a weak key", JWKS, Scripted::json(200, &weak)),
        ("a key for another algorithm", JWKS, Scripted::json(200, &crossed)),
        ("a key that may only sign", JWKS, Scripted::json(200, &signing)),
        ("a key with an even exponent", JWKS, Scripted::json(200, &even)),
        ("a key without an id", JWKS, Scripted::json(200, &nameless)),
        ("a hundred and one keys", JWKS, Scripted::json(200, &crowd)),
        ("keys twice", JWKS, answer(200, "content-type", "application/json", twice)),
        ("keys cut off", JWKS, answer(200, "content-type", "application/json", cut)),
        ("a shared secret", JWKS, Scripted::json(200, &secret)),
        ("a key for encryption", JWKS, Scripted::json(200, &encrypting)),
        (
            "keys of somebody else",
            JWKS,
            Scripted::json(200, &json!({ "keys": other.public_keys() })),
        ),
        (
            "discovery of another issuer",
            DISCOVERY,
            discovery(&|body| body["issuer"] = json!("https://evil.example")),
        ),
        ("discovery without keys", DISCOVERY, discovery(&|body| body["jwks_uri"] = json!(null))),
        (
            "discovery to a private address",
            DISCOVERY,
            discovery(&|body| body["jwks_uri"] = json!("https://10.0.0.1/jwks")),
        ),
        (
            "discovery to a metadata service",
            DISCOVERY,
            discovery(&|body| body["jwks_uri"] = json!("http://169.254.169.254/jwks")),
        ),
        (
            "discovery to a plain place",
            DISCOVERY,
            discovery(&|body| body["jwks_uri"] = json!("http://keys.example/jwks")),
        ),
        (
            "discovery to a metadata service, mapped",
            DISCOVERY,
            discovery(&|body| body["jwks_uri"] = json!("https://[::ffff:169.254.169.254]/jwks")),
        ),
        (
            "discovery to a metadata service, as a number",
            DISCOVERY,
            discovery(&|body| body["jwks_uri"] = json!("https://2852039166/jwks")),
        ),
        (
            "discovery of 10 MB",
            DISCOVERY,
            discovery(&|body| body["padding"] = json!("x".repeat(10 * 1024 * 1024))),
        ),
        (
            "discovery to a file",
            DISCOVERY,
            discovery(&|body| body["jwks_uri"] = json!("file:///etc/passwd")),
        ),
        (
            "discovery that redirects",
            DISCOVERY,
            answer(301, "location", &format!("{}{DISCOVERY}", idp.issuer()), String::new()),
        ),
    ];
    let token = idp.mint(AUDIENCE, |_| ())?;
    for (name, path, fault) in cases {
        let gate = Gate::new(federation(&idp))?;
        idp.fault(path, Some(fault));
        let decision = gate.may(&token, Action::View).await;
        idp.fault(path, None);
        assert_eq!(decision, Decision::Unauthenticated, "{name}");
        // The failure counts as a try: nobody is asked again at once.
        let before = idp.counts();
        assert_eq!(gate.may(&token, Action::View).await, Decision::Unauthenticated, "{name}");
        assert_eq!(idp.counts().discovery, before.discovery, "{name}");
    }
    assert_eq!(other.counts().jwks, 0, "a redirect was followed");
    Ok(())
}

#[tokio::test]
async fn rights_come_from_the_roles_of_the_groups() -> Result<()> {
    use Action::{Administer, Commit, Operate, View};
    let idp = FakeIdp::start().await?;
    let mut federation = federation(&idp);
    federation["roles"] = json!([
        { "role": "looking", "actions": ["view"] },
        { "role": "acme/viewers", "roles": ["looking"] },
        { "role": "acme/operators", "actions": ["operate"], "roles": ["acme/viewers"] },
        { "role": "acme/committers", "actions": ["commit"] },
        { "role": "acme/admins", "actions": ["administer"], "roles": ["acme/operators", "acme/committers"] },
        { "role": "acme/nothing" },
        { "role": "other/admins", "actions": ["administer"] },
    ]);
    let gate = Gate::new(federation)?;
    let all = [View, Operate, Commit, Administer];
    for (groups, allowed) in [
        (json!(["viewers"]), vec![View]),
        (json!(["operators"]), vec![View, Operate]),
        (json!(["committers"]), vec![Commit]),
        (json!(["committers", "viewers"]), vec![View, Commit]),
        (json!(["admins"]), all.to_vec()),
        (json!("admins"), all.to_vec()),
        (json!(["nothing", "unknown"]), vec![]),
        (json!([]), vec![]),
        // A name is not a role of its own accord, nor one of another federation, nor in other case.
        (json!(["looking", "acme/admins", "Admins", "admins ", "other/admins"]), vec![]),
    ] {
        let token = idp.mint(AUDIENCE, |claims| claims["groups"] = groups.clone())?;
        for action in all {
            let expected =
                if allowed.contains(&action) { Decision::Allowed } else { Decision::Forbidden };
            assert_eq!(gate.may(&token, action).await, expected, "{groups} {action:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn users_are_known_by_their_claim() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let mut federation = federation(&idp);
    federation["authorizationType"] = json!("userId");
    federation["userClaim"] = json!("email");
    federation["users"] = json!([{ "user": "acme/alice@acme.example", "roles": ["acme/sync"] }]);
    let gate = Gate::new(federation)?;
    let token = |email: Value| {
        idp.mint(AUDIENCE, |claims| {
            claims["email"] = email;
            drop(claims.as_object_mut().unwrap().remove("groups"));
        })
    };
    let alice = token(json!("alice@acme.example"))?;
    assert_eq!(gate.may(&alice, Action::Commit).await, Decision::Allowed);
    let bob = token(json!("bob@acme.example"))?;
    assert_eq!(gate.may(&bob, Action::View).await, Decision::Forbidden);
    for nobody in [json!(null), json!(""), json!(["alice@acme.example"])] {
        assert_eq!(gate.may(&token(nobody)?, Action::View).await, Decision::Unauthenticated);
    }
    // The groups of a user count for nothing here.
    let grouped = idp.mint(AUDIENCE, |claims| claims["email"] = json!("bob@acme.example"))?;
    assert_eq!(gate.may(&grouped, Action::View).await, Decision::Forbidden);
    Ok(())
}

#[tokio::test]
async fn restrictions_of_every_role_have_to_be_met() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let mut federation = federation(&idp);
    federation["roles"] = json!([
        { "role": "acme/free", "actions": ["view"] },
        { "role": "acme/office", "actions": ["view"], "authenticationRestrictions": [
            { "clientSource": ["10.1.0.0/16", "2001:db8::/32"], "serverAddress": ["192.0.2.1"] },
            { "clientSource": ["10.9.9.9"] } ] },
        { "role": "acme/child", "actions": ["view"], "roles": ["acme/office"] },
    ]);
    let gate = Gate::new(federation)?;
    for (group, client, server, passes) in [
        ("free", "203.0.113.1", "192.0.2.9", true),
        ("office", "10.1.2.3", "192.0.2.1", true),
        ("office", "::ffff:10.1.2.3", "::ffff:192.0.2.1", true),
        ("office", "2001:db8::7", "192.0.2.1", true),
        ("office", "10.9.9.9", "198.51.100.1", true),
        ("office", "10.1.2.3", "192.0.2.2", false),
        ("office", "10.2.0.1", "192.0.2.1", false),
        ("office", "2001:db9::7", "192.0.2.1", false),
        ("office", "0.0.0.0", "0.0.0.0", false),
        ("child", "10.1.2.3", "192.0.2.1", true),
        ("child", "203.0.113.1", "192.0.2.1", false),
        // One role that does not pass takes the others with it.
        ("free office", "203.0.113.1", "192.0.2.1", false),
    ] {
        let groups: Vec<&str> = group.split(' ').collect();
        let token = idp.mint(AUDIENCE, |claims| claims["groups"] = json!(groups))?;
        let header = format!("Bearer {token}");
        let decision = gate.ask(&[header.as_bytes()], Action::View, client, server).await;
        let expected = if passes { Decision::Allowed } else { Decision::Forbidden };
        assert_eq!(decision, expected, "{group} from {client} to {server}");
    }
    Ok(())
}

#[tokio::test]
async fn a_federation_is_kept_in_its_file_and_stays_what_it_was() -> Result<()> {
    let idp = FakeIdp::start().await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("federation.json");
    let open = || Access::new(Store::File(path.clone()), Audit::default());
    let access = open()?;
    assert!(access.federation().is_none());
    assert!(access.edit(federation(&idp)).await.is_err());
    assert!(access.delete().await.is_err());
    access.create(federation(&idp)).await?;
    assert!(access.create(federation(&idp)).await.is_err(), "there is one at most");
    let mut renamed = federation(&idp);
    renamed["name"] = json!("Acme");
    assert!(access.edit(renamed).await.unwrap_err().detail().contains("acme"));
    let mut changed = federation(&idp);
    changed["groupsClaim"] = json!("roles");
    access.edit(changed).await?;
    let again = open()?.federation().context("it was kept")?;
    assert_eq!(again.groups_claim, "roles");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
    }
    // A broken file is not the same as none: it lets nobody in.
    fs::write(&path, "{")?;
    assert!(open().is_err());
    fs::write(&path, r#"{"name":"acme"}"#)?;
    assert!(open().is_err());
    access.delete().await?;
    assert!(!path.exists() && open()?.federation().is_none());
    let fixed = Access::new(Store::Fixed(federation(&idp)), Audit::default())?;
    assert!(fixed.delete().await.is_err() && fixed.federation().is_some());
    Ok(())
}
