use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use tokio::time::advance;

use super::*;

/// A second before the end of what `span` ends.
const MOMENT: Duration = Duration::from_secs(1);

/// A cache for an issuer that does not answer.
fn cache() -> KeyCache {
    let federation = json!({
        "name": "acme", "issuer": "http://127.0.0.1:1", "audience": "api",
    });
    KeyCache::new(&Federation::parse(federation).unwrap()).unwrap()
}

/// The same with keys of these ids that were loaded just now.
fn cache_with(kids: &[&str], life: Duration) -> KeyCache {
    let cache = cache();
    let modulus = BASE64_URL_SAFE_NO_PAD.encode([0xC1; 256]);
    let keys: Vec<_> = kids
        .iter()
        .map(|kid| json!({ "kty": "RSA", "kid": kid, "n": modulus, "e": "AQAB" }))
        .collect();
    let keys = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    cache.state().keys = Some((Arc::new(keys), Instant::now(), life));
    cache
}

/// How many loads were tried since `before`, by the time of the last.
fn tried(cache: &KeyCache) -> Option<Instant> {
    cache.state().tried
}

#[tokio::test(start_paused = true)]
async fn old_keys_serve_for_a_day_while_the_issuer_is_away_and_no_longer() {
    let cache = cache_with(&["a"], Duration::from_secs(300));
    assert!(cache.with_key("a").await.is_ok());
    assert_eq!(tried(&cache), None, "a known key costs no load");
    advance(STALE - Duration::from_secs(60)).await;
    assert!(cache.with_key("a").await.is_ok());
    assert!(tried(&cache).is_some(), "old keys are asked for again");
    advance(Duration::from_secs(61)).await;
    assert_eq!(cache.with_key("a").await.err(), Some("the key is unknown"));
}

#[tokio::test(start_paused = true)]
async fn a_load_is_not_tried_again_within_the_quiesce_period_whatever_came_of_it() {
    let cache = cache();
    assert!(cache.with_key("a").await.is_err());
    let first = tried(&cache).unwrap();
    advance((first + cache.quiesce).duration_since(Instant::now()) - MOMENT).await;
    assert!(cache.with_key("b").await.is_err());
    cache.poll().await;
    assert_eq!(tried(&cache), Some(first));
    advance(MOMENT).await;
    cache.poll().await;
    assert!(tried(&cache).unwrap() > first);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_stays_unknown_for_a_minute_and_few_are_remembered() {
    let cache = cache_with(&["a"], Duration::from_secs(3600));
    assert!(cache.with_key("other").await.is_err());
    let first = tried(&cache).unwrap();
    // Even where the quiesce period would allow a load.
    cache.state().tried = None;
    assert!(cache.with_key("other").await.is_err());
    assert_eq!(tried(&cache), None);
    for number in 0..2 * MAX_UNKNOWN {
        assert!(cache.with_key(&format!("flood-{number}")).await.is_err());
    }
    assert_eq!(cache.state().unknown.len(), MAX_UNKNOWN);
    assert!(cache.with_key("a").await.is_ok());
    advance(UNKNOWN_TIME).await;
    assert!(cache.with_key("other").await.is_err());
    assert!(tried(&cache).unwrap() > first);
    assert_eq!(cache.state().unknown.len(), 1, "what is over is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_skips_the_quiesce_period_but_not_again_at_once() {
    let cache = cache_with(&["a"], Duration::from_secs(3600));
    cache.poll().await;
    let polled = tried(&cache).unwrap();
    advance(MOMENT).await;
    cache.revoke();
    assert!(cache.with_key("a").await.is_err(), "old keys do not serve after a revocation");
    let waived = tried(&cache).unwrap();
    assert!(waived > polled);
    cache.revoke();
    assert!(cache.with_key("a").await.is_err());
    assert_eq!(tried(&cache), Some(waived), "one that follows at once waits");
    advance(WAIVER_SPACING).await;
    cache.revoke();
    assert!(cache.with_key("a").await.is_err());
    assert!(tried(&cache).unwrap() > waived);
}
