//! WASI gives nothing away, and takes no more of the host than its limit.

use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::time::Duration;

use super::{
    guest::{self, FilterText},
    identity::request,
    load, users,
};
use crate::{
    error::Kind,
    model::{
        Batch,
        token::{TokenError, TokenRequest},
    },
};

/// What both worlds import here, as WIT.
const WASI: &str = "
  package wasi:clocks@0.2.0 {
    interface monotonic-clock {
      use wasi:io/poll@0.2.0.{pollable};
      now: func() -> u64;
      subscribe-instant: func(when: u64) -> pollable;
      subscribe-duration: func(when: u64) -> pollable;
    }
    interface wall-clock {
      record datetime { seconds: u64, nanoseconds: u32 }
      now: func() -> datetime;
    }
  }
  package wasi:io@0.2.0 {
    interface poll { resource pollable { block: func(); } }
  }";

/// A world of a test with WASI's clocks.
fn world(included: &str) -> String {
    format!(
        "package test:guest;
         world test {{
           include syncline:plugin/{included}@0.1.0;
           import wasi:clocks/monotonic-clock@0.2.0;
           import wasi:clocks/wall-clock@0.2.0;
           import wasi:io/poll@0.2.0;
         }}
         {WASI}"
    )
}

/// Imports of the core module.
const IMPORTS: &str = r#"
  (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration"
    (func $pause (param i64) (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-instant"
    (func $until (param i64) (result i32)))
  (import "wasi:clocks/wall-clock@0.2.0" "now" (func $wall (param i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))
  (data (i32.const 3000) "aGVhZA.Ym9keQ.c2ln")"#;

/// Traps when a clock moves, and waits an hour in each of both ways.
const HOUR_WITHOUT_CLOCKS: &str = "
  (if (i64.ne (call $now) (i64.const 0)) (then unreachable))
  (call $wall (i32.const 1200))
  (if (i64.ne (i64.load (i32.const 1200)) (i64.const 0)) (then unreachable))
  (call $block (call $pause (i64.const 3600000000000)))
  (call $block (call $until (i64.const 3600000000000)))
  (if (i64.ne (call $now) (i64.const 0)) (then unreachable))";

/// Answers with a token.
const TOKEN: &str = "
  (memory.fill (i32.const 1024) (i32.const 0) (i32.const 64))
  (i32.store (i32.const 1032) (i32.const 3000))
  (i32.store (i32.const 1036) (i32.const 18))";

#[tokio::test]
async fn a_filter_has_no_clock_and_no_pause() {
    let apply = format!(
        "{HOUR_WITHOUT_CLOCKS}
         (i32.store (i32.const 1028)
           (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
         (i32.store (i32.const 1032) (local.get $count))"
    );
    let world: &'static str = Box::leak(world("document-filter").into_boxed_str());
    let text = FilterText {
        imports: IMPORTS,
        apply: Box::leak(apply.into_boxed_str()),
        world: Some(world),
        ..FilterText::default()
    };
    let folder = TempDir::new().unwrap();
    let registry = load(guest::spec(&folder, "guest", &guest::filter(&text))).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let batch = Batch::from_documents([bson::rawdoc! {"_id": 1}]);
    assert_eq!(filter.apply(&users(), &batch).await.unwrap(), None);
}

#[tokio::test]
async fn a_provider_has_no_clock_and_no_pause_without_the_grant() {
    let folder = TempDir::new().unwrap();
    let world = world("identity-provider");
    let get_token = format!("{HOUR_WITHOUT_CLOCKS}{TOKEN}");
    let component = guest::identity_in(&world, IMPORTS, HOUR_WITHOUT_CLOCKS, &get_token);
    let mut spec = guest::spec(&folder, "guest", &component);
    // Loading it asks for `validate`, which is offline.
    let registry = load(spec.clone()).await.unwrap();
    let issuer = registry.issuer("guest").await.unwrap();
    let credential = issuer.get_token(request()).await.unwrap();
    assert_eq!(credential.access_token.expose_secret(), "aGVhZA.Ym9keQ.c2ln");

    // With the grant clocks move, and a pause takes its time where a call may wait at all.
    let validate = "(if (i64.eq (call $now) (i64.const 0)) (then unreachable))
        (call $wall (i32.const 1200))
        (if (i64.eq (i64.load (i32.const 1200)) (i64.const 0)) (then unreachable))
        (call $block (call $pause (i64.const 3600000000000)))";
    let waiting = "(call $block (call $pause (i64.const 3600000000000)))";
    let component = guest::identity_in(&world, IMPORTS, validate, waiting);
    spec.component = guest::spec(&folder, "waiting", &component).component;
    spec.grants.clock = true;
    let registry = load(spec).await.unwrap();
    let issuer = registry.issuer("guest").await.unwrap();
    let request = TokenRequest { timeout: Duration::from_millis(200), ..request() };
    let error = issuer.get_token(request).await.unwrap_err();
    assert!(matches!(&error, TokenError::Plugin(error) if error.kind() == Kind::PluginDeadline));
}

/// The error of a filter that runs this for a batch.
async fn judged(apply: &'static str) -> crate::error::Error {
    let world: &'static str = Box::leak(world("document-filter").into_boxed_str());
    let text = FilterText { imports: IMPORTS, apply, world: Some(world), ..FilterText::default() };
    let folder = TempDir::new().unwrap();
    let registry = load(guest::spec(&folder, "guest", &guest::filter(&text))).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let batch = Batch::from_documents([bson::rawdoc! {"_id": 1}]);
    let error = filter.apply(&users(), &batch).await.unwrap_err();
    assert_eq!(registry.info()[0].instances, 0, "nothing that failed stays alive");
    error
}

#[tokio::test]
async fn things_of_the_host_are_limited() {
    // Asks for places to wait at and gives none back: each takes memory of the host.
    let error = judged(
        "(loop $more
           (drop (call $pause (i64.const 0)))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $more (i32.lt_u (local.get $i) (i32.const 5000))))
         (i32.store (i32.const 1028)
           (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
         (i32.store (i32.const 1032) (local.get $count))",
    )
    .await;
    assert_eq!(error.kind(), Kind::PluginMemory, "{error}");
    assert!(error.detail().contains("things of the host"), "{error}");
}

#[tokio::test]
async fn handles_of_a_guests_own_are_limited() {
    let error = judged("(loop $more (drop (call $new (i32.const 1))) (br $more))").await;
    assert_eq!(error.kind(), Kind::PluginMemory, "{error}");
    assert!(error.detail().contains("handle limit"), "{error}");
}
