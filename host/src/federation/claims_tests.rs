use serde_json::json;

use super::*;

/// The time of every test, in seconds.
const NOW: u64 = 2_000_000_000;

/// What a federation makes of claims at a time.
fn judge(
    federation: impl FnOnce(&mut Value),
    claims: impl FnOnce(&mut Value),
    now: Duration,
) -> Result<Principal, &'static str> {
    let mut rules = json!({
        "name": "acme", "issuer": "https://login.example", "audience": "api", "clientId": "cli",
    });
    federation(&mut rules);
    let mut body = json!({
        "iss": "https://login.example", "aud": "api", "sub": "ann", "groups": ["ops"],
        "iat": NOW - 10, "exp": NOW + 100,
    });
    claims(&mut body);
    let body = body.as_object().unwrap();
    check(body, &Federation::parse(rules).unwrap(), now)
}

/// The same now, with the usual rules.
fn now(claims: impl FnOnce(&mut Value)) -> Result<Principal, &'static str> {
    judge(|_| (), claims, Duration::from_secs(NOW))
}

#[test]
fn a_good_token_names_its_owner() {
    let principal = now(|claims| claims["jti"] = json!("7")).unwrap();
    assert_eq!(principal.user, "acme/ann");
    assert_eq!(principal.groups, ["acme/ops"]);
    assert_eq!(principal.token_id.as_deref(), Some("7"));
    // What cannot be written down as it is, is not.
    assert_eq!(now(|claims| claims["jti"] = json!("7\n8")).unwrap().token_id, None);
}

#[test]
fn times_end_where_the_leeway_ends() {
    type Change = fn(&mut Value);
    let cases: [(u64, Change, bool); 12] = [
        (0, |c| c["exp"] = json!(NOW), false),
        (0, |c| c["exp"] = json!(NOW as f64 + 0.5), true),
        (0, |c| c["exp"] = json!(NOW + 1), true),
        (30, |c| c["exp"] = json!(NOW - 29), true),
        (30, |c| c["exp"] = json!(NOW - 30), false),
        (60, |c| c["exp"] = json!(NOW - 61), false),
        (0, |c| c["nbf"] = json!(NOW + 60), true),
        (60, |c| c["nbf"] = json!(NOW + 61), false),
        (0, |c| c["iat"] = json!(NOW + 60), true),
        (60, |c| c["iat"] = json!(NOW + 61), false),
        (0, |c| c["exp"] = json!(NOW - 10 + 86_400), true),
        (0, |c| c["exp"] = json!(NOW - 10 + 86_401), false),
    ];
    for (index, (skew, change, passes)) in cases.into_iter().enumerate() {
        let rules = |rules: &mut Value| rules["clockSkewSecs"] = json!(skew);
        let found = judge(rules, change, Duration::from_secs(NOW));
        assert_eq!(found.is_ok(), passes, "case {index}: {found:?}");
    }
}

#[test]
fn a_clock_that_cannot_be_right_lets_nobody_in() {
    for wrong in [Duration::ZERO, Duration::from_secs(OLDEST_NOW_SECS - 1)] {
        let found = judge(|_| (), |claims| claims["iat"] = json!(0), wrong);
        assert_eq!(found, Err("this machine's clock is wrong"));
    }
}

#[test]
fn names_and_groups_have_bounds() {
    let longest = "n".repeat(MAX_NAME_BYTES);
    assert!(now(|claims| claims["sub"] = json!(longest)).is_ok());
    assert!(now(|claims| claims["sub"] = json!(format!("{longest}n"))).is_err());
    let groups = |count: usize| -> Vec<String> { (0..count).map(|n| format!("g{n}")).collect() };
    assert!(now(|claims| claims["groups"] = json!(groups(MAX_GROUPS))).is_ok());
    assert!(now(|claims| claims["groups"] = json!(groups(MAX_GROUPS + 1))).is_err());
    // A claim of another name, which need not be a top-level word.
    let rules = |rules: &mut Value| rules["groupsClaim"] = json!("https://acme.example/groups");
    let claims = |claims: &mut Value| claims["https://acme.example/groups"] = json!("staff");
    let found = judge(rules, claims, Duration::from_secs(NOW)).unwrap();
    assert_eq!(found.groups, ["acme/staff"]);
}
