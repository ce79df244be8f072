//! Guests that misbehave end in the named error, within their limits, and leave the host alive.

use bson::{RawDocumentBuf, rawdoc};
use tempfile::TempDir;
use tokio::time::{Duration, Instant};

use super::{
    guest::{self, FilterText},
    load, refusal, users,
};
use crate::{
    error::{Error, Kind},
    model::{Batch, plugin::PluginSpec},
    ports::Verdict,
};

/// Some documents with ascending ids.
fn documents(count: i32) -> Batch {
    Batch::from_documents((0..count).map(|id| rawdoc! {"_id": id, "a": "text"}))
}

/// Loads a text guest and lets it judge.
async fn judge(text: FilterText, batch: &Batch) -> Result<Option<Vec<Verdict>>, Error> {
    judge_with(text, batch, |_| {}).await
}

/// Loads a text guest with a changed entry and lets it judge; afterwards the same filter must still
/// answer or fail in the same way, which shows that the host is not poisoned.
async fn judge_with(
    text: FilterText,
    batch: &Batch,
    change: impl FnOnce(&mut PluginSpec),
) -> Result<Option<Vec<Verdict>>, Error> {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::filter(&text));
    change(&mut spec);
    let registry = load(spec).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let result = filter.apply(&users(), batch).await;
    let again = filter.apply(&users(), batch).await;
    match (&result, &again) {
        (Ok(first), Ok(second)) => assert_eq!(first, second),
        (Err(first), Err(second)) => assert_eq!(first.kind(), second.kind()),
        (first, second) => panic!("first {first:?}, then {second:?}"),
    }
    let errors = registry.info()[0].counters.errors;
    assert_eq!(errors, if result.is_err() { 2 } else { 0 });
    // Nothing that failed stays alive.
    assert_eq!(registry.info()[0].instances, usize::from(result.is_ok()));
    result
}

#[tokio::test]
async fn a_well_behaved_text_guest_keeps_everything() {
    assert_eq!(judge(FilterText::default(), &documents(5)).await.unwrap(), None);
}

#[tokio::test]
async fn an_endless_loop_ends_with_its_deadline() {
    let text = FilterText { apply: "(loop $forever (br $forever))", ..FilterText::default() };
    let start = Instant::now();
    let error = judge_with(text, &documents(1), |spec| {
        spec.limits.deadline = Some(Duration::from_millis(50));
    })
    .await
    .unwrap_err();
    assert_eq!(error.kind(), Kind::PluginDeadline);
    assert!(error.detail().contains("plugin `guest`: app.users: document 0"), "{error}");
    assert!(error.detail().contains("50 ms"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn other_tasks_run_while_a_guest_computes() {
    let text = FilterText { apply: "(loop $forever (br $forever))", ..FilterText::default() };
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::filter(&text));
    spec.limits.deadline = Some(Duration::from_secs(60));
    let registry = load(spec).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let (namespace, batch) = (users(), documents(1));
    // On one thread: the other branch only ends if the guest yields.
    tokio::select! {
        _ = filter.apply(&namespace, &batch) => panic!("the guest never ends"),
        () = async { for _ in 0..20 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(registry.info()[0].instances, 0);
}

#[tokio::test]
async fn a_loop_in_init_is_an_error_of_loading() {
    let text = FilterText { init: "(loop $forever (br $forever))", ..FilterText::default() };
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::filter(&text));
    spec.limits.deadline = Some(Duration::from_millis(50));
    assert_eq!(refusal(spec).await.kind(), Kind::PluginDeadline);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_named() {
    let text = FilterText {
        apply: "(loop $more
                  (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
                unreachable",
        ..FilterText::default()
    };
    let error = judge_with(text, &documents(2), |spec| {
        spec.limits.memory_bytes = Some(8 * 1024 * 1024);
    })
    .await
    .unwrap_err();
    assert_eq!(error.kind(), Kind::PluginMemory);
    assert!(error.detail().contains("limits.memoryBytes"), "{error}");
}

#[tokio::test]
async fn a_guest_that_bears_the_refusal_of_memory_goes_on() {
    let text = FilterText {
        apply: "(drop (memory.grow (i32.const 60000)))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))",
        ..FilterText::default()
    };
    assert_eq!(judge(text, &documents(3)).await.unwrap(), None);
}

#[tokio::test]
async fn a_trap_names_the_document() {
    // Traps for the document whose `_id` is 13: its value stands at byte 9.
    let text = FilterText {
        apply: "(block $done
          (loop $next
            (br_if $done (i32.ge_u (local.get $i) (local.get $len)))
            (if (i32.eq (i32.const 13)
                  (i32.load (i32.add (i32.const 9) (i32.add (local.get $docs) (local.get $i)))))
              (then unreachable))
            (local.set $i (i32.add (local.get $i)
              (i32.load (i32.add (local.get $docs) (local.get $i)))))
            (br $next)))
          (i32.store (i32.const 1028) (i32.const 2048))
          (i32.store (i32.const 1032) (local.get $count))",
        ..FilterText::default()
    };
    let error = judge(text, &documents(100)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginTrap);
    assert!(error.detail().contains("document 13 of a batch of 100"), "{error}");
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let text = FilterText {
        imports: "(func $deep (param i32) (result i32)
                    (i32.add (i32.const 1) (call $deep (local.get 0))))",
        apply: "(drop (call $deep (i32.const 0)))",
        ..FilterText::default()
    };
    assert_eq!(judge(text, &documents(1)).await.unwrap_err().kind(), Kind::PluginTrap);
}

#[tokio::test]
async fn a_wrong_number_of_verdicts_is_refused() {
    let text = FilterText {
        apply: "(i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (i32.add (local.get $count) (i32.const 1)))",
        ..FilterText::default()
    };
    let error = judge(text, &documents(4)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginOutputInvalid);
    assert!(error.detail().contains("verdicts for"), "{error}");
}

#[tokio::test]
async fn a_list_outside_its_memory_is_a_trap() {
    let text = FilterText {
        apply: "(i32.store (i32.const 1028) (i32.const 0x7fff0000))
                (i32.store (i32.const 1032) (i32.const 0x40000000))",
        ..FilterText::default()
    };
    assert_eq!(judge(text, &documents(1)).await.unwrap_err().kind(), Kind::PluginTrap);
}

#[tokio::test]
async fn an_answer_larger_than_allowed_is_not_read() {
    let text = FilterText {
        apply: "(drop (memory.grow (i32.const 200)))
                (i32.store (i32.const 1028) (i32.const 0))
                (i32.store (i32.const 1032) (i32.const 8000000))",
        ..FilterText::default()
    };
    let error = judge(text, &documents(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginOutputInvalid, "{error:?}");
}

/// Replaces the first document by itself with one byte added to the byte at `offset`.
fn replacing(offset: &str) -> FilterText {
    let text = format!(
        "(i32.store8 (i32.add (local.get $docs) (i32.const {offset}))
           (i32.add (i32.const 1)
             (i32.load8_u (i32.add (local.get $docs) (i32.const {offset})))))
         (i32.store8 (i32.const 2048) (i32.const 2))
         (i32.store (i32.const 1028) (i32.const 2048))
         (i32.store (i32.const 1032) (local.get $count))
         (i32.store (i32.const 1036) (local.get $docs))
         (i32.store (i32.const 1040) (i32.load (local.get $docs)))"
    );
    FilterText {
        plan: "(i32.store8 (i32.const 1024) (i32.const 1))",
        apply: Box::leak(text.into_boxed_str()),
        ..FilterText::default()
    }
}

#[tokio::test]
async fn a_replacement_takes_the_place_of_its_document() {
    // Byte 20 is the first letter of "text".
    let verdicts = judge(replacing("20"), &documents(2)).await.unwrap().unwrap();
    let expected: RawDocumentBuf = rawdoc! {"_id": 0, "a": "uext"};
    assert_eq!(verdicts, [Verdict::Replace(expected), Verdict::Keep]);
}

#[tokio::test]
async fn a_changed_id_is_refused() {
    let error = judge(replacing("9"), &documents(2)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginChangedId);
}

#[tokio::test]
async fn a_malformed_replacement_is_refused() {
    // Byte 13 is the type of the second field.
    let error = judge(replacing("13"), &documents(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginOutputInvalid);
}

/// A filter that logs 50,000 lines in a call and keeps everything.
pub(super) fn flooding() -> FilterText {
    FilterText {
        imports: r#"(import "syncline:host/log@0.1.0" "emit"
                      (func $emit (param i32 i32 i32 i32 i32)))"#,
        apply: "(loop $again
                  (call $emit (i32.const 2) (i32.const 1024) (i32.const 64) (i32.const 0) (i32.const 0))
                  (local.set $i (i32.add (local.get $i) (i32.const 1)))
                  (br_if $again (i32.lt_u (local.get $i) (i32.const 50000))))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))",
        ..FilterText::default()
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_harmless() {
    assert_eq!(judge(flooding(), &documents(1)).await.unwrap(), None);
}

#[tokio::test]
async fn wasi_is_there_without_effect() {
    // Traps when it sees a variable of the environment or a clock that moves.
    let text = FilterText {
        imports: r#"(import "wasi:cli/environment@0.2.0" "get-environment"
                      (func $environment (param i32)))
                    (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))"#,
        apply: "(call $environment (i32.const 1200))
                (if (i32.load (i32.const 1204)) (then unreachable))
                (if (i64.ne (call $now) (i64.const 0)) (then unreachable))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))",
        world: Some(
            "package test:guest;
             world test {
               include syncline:plugin/document-filter@0.1.0;
               import wasi:cli/environment@0.2.0;
               import wasi:clocks/monotonic-clock@0.2.0;
             }
             package wasi:cli@0.2.0 {
               interface environment { get-environment: func() -> list<tuple<string, string>>; }
             }
             package wasi:clocks@0.2.0 {
               interface monotonic-clock { type instant = u64; now: func() -> instant; }
             }",
        ),
        ..FilterText::default()
    };
    assert_eq!(judge(text, &documents(1)).await.unwrap(), None);
}

#[tokio::test]
async fn sockets_can_be_imported_and_never_opened() {
    // Runtimes of some languages import them. Traps unless the refusal is `access-denied`.
    let text = FilterText {
        imports: r#"(import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket"
                      (func $tcp (param i32 i32)))
                    (import "wasi:sockets/udp-create-socket@0.2.0" "create-udp-socket"
                      (func $udp (param i32 i32)))"#,
        apply: "(call $tcp (i32.const 0) (i32.const 1200))
                (call $udp (i32.const 1) (i32.const 1208))
                (if (i32.ne (i32.const 1) (i32.load8_u (i32.const 1200))) (then unreachable))
                (if (i32.ne (i32.const 1) (i32.load8_u (i32.const 1204))) (then unreachable))
                (if (i32.ne (i32.const 1) (i32.load8_u (i32.const 1208))) (then unreachable))
                (if (i32.ne (i32.const 1) (i32.load8_u (i32.const 1212))) (then unreachable))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))",
        world: Some(
            "package test:guest;
             world test {
               include syncline:plugin/document-filter@0.1.0;
               import wasi:sockets/tcp-create-socket@0.2.0;
               import wasi:sockets/udp-create-socket@0.2.0;
             }
             package wasi:sockets@0.2.0 {
               interface network {
                 enum error-code {
                   unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
                   concurrency-conflict, not-in-progress, would-block, invalid-state,
                   new-socket-limit, address-not-bindable, address-in-use, remote-unreachable,
                   connection-refused, connection-reset, connection-aborted, datagram-too-large,
                   name-unresolvable, temporary-resolver-failure, permanent-resolver-failure,
                 }
                 enum ip-address-family { ipv4, ipv6 }
               }
               interface tcp { resource tcp-socket; }
               interface udp { resource udp-socket; }
               interface tcp-create-socket {
                 use network.{error-code, ip-address-family};
                 use tcp.{tcp-socket};
                 create-tcp-socket: func(family: ip-address-family)
                   -> result<tcp-socket, error-code>;
               }
               interface udp-create-socket {
                 use network.{error-code, ip-address-family};
                 use udp.{udp-socket};
                 create-udp-socket: func(family: ip-address-family)
                   -> result<udp-socket, error-code>;
               }
             }",
        ),
        ..FilterText::default()
    };
    assert_eq!(judge(text, &documents(1)).await.unwrap(), None);
}

#[tokio::test]
async fn an_instance_serves_many_batches() {
    let folder = TempDir::new().unwrap();
    // Remembers in its memory how often it was asked, and traps unless that goes up.
    let text = FilterText {
        imports: "(global $calls (mut i32) (i32.const 0))",
        apply: "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))
                (i32.store8 (i32.const 2048) (i32.gt_u (global.get $calls) (i32.const 1)))",
        ..FilterText::default()
    };
    let spec = guest::spec(&folder, "guest", &guest::filter(&text));
    let registry = load(spec).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    assert_eq!(filter.apply(&users(), &documents(1)).await.unwrap(), None);
    let second = filter.apply(&users(), &documents(1)).await.unwrap();
    assert_eq!(second, Some(vec![Verdict::Drop]));
}
