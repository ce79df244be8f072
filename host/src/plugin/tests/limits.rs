//! Limits besides memory and time, and what is left of a guest that broke one.

use bson::rawdoc;
use tempfile::TempDir;

use super::{
    guest::{self, FilterText},
    load, refusal, users,
};
use crate::{
    error::{Error, Kind},
    model::{Batch, plugin::PluginSpec},
};

/// What judging one document ends in.
async fn judged(text: FilterText, change: impl FnOnce(&mut PluginSpec)) -> Error {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::filter(&text));
    change(&mut spec);
    let registry = load(spec).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let batch = Batch::from_documents([rawdoc! {"_id": 1}]);
    let error = filter.apply(&users(), &batch).await.unwrap_err();
    assert_eq!(registry.info()[0].instances, 0, "nothing that failed stays alive");
    error
}

/// What loading ends in.
async fn loaded(text: FilterText) -> Error {
    let folder = TempDir::new().unwrap();
    refusal(guest::spec(&folder, "guest", &guest::filter(&text))).await
}

#[tokio::test]
async fn a_table_beyond_the_limit_is_named() {
    let growing = || FilterText {
        imports: "(table $t 1 funcref)",
        apply: "(loop $more
                  (br_if $more (i32.ne
                    (table.grow $t (ref.null func) (i32.const 64)) (i32.const -1))))
                unreachable",
        ..FilterText::default()
    };
    for limit in [None, Some(500)] {
        let error = judged(growing(), |spec| spec.limits.table_elements = limit).await;
        assert_eq!(error.kind(), Kind::PluginMemory);
        assert!(error.detail().contains("limits.tableElements"), "{error}");
    }
}

#[tokio::test]
async fn a_trap_before_the_first_batch_is_an_error_of_loading() {
    for text in [
        FilterText { init: "unreachable", ..FilterText::default() },
        FilterText { plan: "unreachable", ..FilterText::default() },
        FilterText { imports: "(func $start unreachable) (start $start)", ..FilterText::default() },
    ] {
        assert_eq!(loaded(text).await.kind(), Kind::PluginTrap);
    }
}

#[tokio::test]
async fn a_memory_that_begins_beyond_the_limit_is_named() {
    let text = FilterText {
        imports: "(func $hungry (if (i32.eq (i32.const -1) (memory.grow (i32.const 2000)))
                     (then unreachable))) (start $hungry)",
        ..FilterText::default()
    };
    assert_eq!(loaded(text).await.kind(), Kind::PluginMemory);
}

#[tokio::test]
async fn a_replacement_nobody_announced_is_refused() {
    let text = FilterText {
        apply: "(i32.store8 (i32.const 2048) (i32.const 2))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))
                (i32.store (i32.const 1036) (local.get $docs))
                (i32.store (i32.const 1040) (local.get $len))",
        ..FilterText::default()
    };
    let error = judged(text, |_| {}).await;
    assert_eq!(error.kind(), Kind::PluginOutputInvalid);
    assert!(error.detail().contains("announces no replacements"), "{error}");
}

#[tokio::test]
async fn a_rejected_document_stops_with_the_filters_reason() {
    let text = FilterText {
        imports: r#"(data (i32.const 3000) "too\1b[2J odd")"#,
        apply: "(i32.store8 (i32.const 2048) (i32.const 5))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))
                (i32.store (i32.const 1044) (i32.const 3100))
                (i32.store (i32.const 1048) (i32.const 1))
                (i32.store (i32.const 3100) (i32.const 3000))
                (i32.store (i32.const 3104) (i32.const 11))",
        ..FilterText::default()
    };
    let error = judged(text, |_| {}).await;
    assert_eq!(error.kind(), Kind::PluginRejected);
    assert!(error.detail().contains("too [2J odd"), "{error}");
}

#[tokio::test]
async fn an_unknown_verdict_is_refused() {
    let text = FilterText {
        apply: "(i32.store8 (i32.const 2048) (i32.const 3))
                (i32.store (i32.const 1028) (i32.const 2048))
                (i32.store (i32.const 1032) (local.get $count))",
        ..FilterText::default()
    };
    assert_eq!(judged(text, |_| {}).await.kind(), Kind::PluginOutputInvalid);
}

/// Resident memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_of_guests_that_fail_is_given_back() {
    // Each takes 48 MiB, writes to all of it and traps.
    let text = FilterText {
        apply: "(drop (memory.grow (i32.const 768)))
                (memory.fill (i32.const 131072) (i32.const 1) (i32.const 50331648))
                unreachable",
        ..FilterText::default()
    };
    let folder = TempDir::new().unwrap();
    let registry = load(guest::spec(&folder, "guest", &guest::filter(&text))).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let batch = Batch::from_documents([rawdoc! {"_id": 1}]);
    let before = resident();
    for _ in 0..20 {
        let error = filter.apply(&users(), &batch).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PluginTrap);
        assert_eq!(registry.info()[0].instances, 0);
    }
    // Each call had two instances of 48 MiB, one after the other; the bound leaves room for other tests.
    let grown = resident().saturating_sub(before);
    assert!(grown < 768 * 1024 * 1024, "{grown} bytes more are resident");
}
