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
    ports::Verdict,
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

#[tokio::test]
async fn a_trap_in_the_end_of_a_session_is_of_no_consequence() {
    let text = FilterText {
        imports: r#"(func (export "syncline:plugin/filter@0.1.0#[dtor]session") (param i32)
                      unreachable)"#,
        ..FilterText::default()
    };
    let folder = TempDir::new().unwrap();
    let registry = load(guest::spec(&folder, "guest", &guest::filter(&text))).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let batch = Batch::from_documents([rawdoc! {"_id": 1}]);
    assert_eq!(filter.apply(&users(), &batch).await.unwrap(), None);
    // An instance ends with its memory; nothing of it is called any more.
    drop(filter);
    drop(registry);
}

#[tokio::test]
async fn documents_that_fail_are_told_apart_from_those_that_pass() {
    // Traps for the document whose `_id` is 13, rejects 5; the `_id` stands at byte 9.
    let text = FilterText {
        imports: r#"(data (i32.const 3000) "odd")"#,
        apply: "(local.set $self (i32.const 0))
          (i32.store (i32.const 3100) (i32.const 3000))
          (i32.store (i32.const 3104) (i32.const 3))
          (memory.fill (i32.const 2048) (i32.const 0) (local.get $count))
          (block $done
            (loop $next
              (br_if $done (i32.ge_u (local.get $self) (local.get $count)))
              (if (i32.eq (i32.const 13) (i32.load (i32.add (i32.const 9) (local.get $docs))))
                (then unreachable))
              (if (i32.eq (i32.const 5) (i32.load (i32.add (i32.const 9) (local.get $docs))))
                (then
                  (i32.store8 (i32.add (i32.const 2048) (local.get $self)) (i32.const 5))
                  (i32.store (i32.const 1044) (i32.const 3100))
                  (i32.store (i32.const 1048) (i32.const 1))))
              (local.set $docs (i32.add (local.get $docs) (i32.load (local.get $docs))))
              (local.set $self (i32.add (local.get $self) (i32.const 1)))
              (br $next)))
          (i32.store (i32.const 1028) (i32.const 2048))
          (i32.store (i32.const 1032) (local.get $count))",
        ..FilterText::default()
    };
    let folder = TempDir::new().unwrap();
    let registry = load(guest::spec(&folder, "guest", &guest::filter(&text))).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let batch = Batch::from_documents((0..100).map(|id| rawdoc! {"_id": id}));
    let sorted = filter.judge_each(&users(), &batch).await.unwrap();
    let refused: Vec<_> =
        sorted.refused.iter().map(|one| (one.position, one.error.kind())).collect();
    assert_eq!(refused, [(5, Kind::PluginRejected), (13, Kind::PluginTrap)]);
    assert!(sorted.refused[0].error.detail().contains("odd"), "{:?}", sorted.refused);
    let dropped: Vec<usize> = (0..100).filter(|n| sorted.verdicts[*n] == Verdict::Drop).collect();
    assert_eq!(dropped, [5, 13]);
    let counters = registry.info()[0].counters;
    assert_eq!((counters.kept, counters.errors), (98, 2));
}

/// A component with so many more instances of an empty core module.
fn with_instances(component: &[u8], count: u8) -> Vec<u8> {
    let (mut depth, mut modules) = (0, 0_u8);
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload.unwrap() {
            wasmparser::Payload::ModuleSection { .. } => {
                modules += u8::from(depth == 0);
                depth += 1;
            }
            wasmparser::Payload::ComponentSection { .. } => depth += 1,
            wasmparser::Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    let mut list = vec![count];
    for _ in 0..count {
        list.extend([0, modules, 0]);
    }
    let length = u8::try_from(list.len() & 0x7F).unwrap();
    let rest = u8::try_from(list.len() >> 7).unwrap();
    let module = [1, 8, 0, b'a', b's', b'm', 1, 0, 0, 0];
    [component, &module, &[2, length | 0x80, rest], &list].concat()
}

#[tokio::test]
async fn instances_tables_and_memories_are_counted() {
    let folder = TempDir::new().unwrap();
    for (within, beyond, what) in [
        (
            guest::identity(&"(table 1 funcref)".repeat(16), ""),
            guest::identity(&"(table 1 funcref)".repeat(17), ""),
            "table count",
        ),
        (
            guest::identity(&"(memory 1)".repeat(7), ""),
            guest::identity(&"(memory 1)".repeat(8), ""),
            "memory count",
        ),
        (
            with_instances(&guest::identity("", ""), 60),
            with_instances(&guest::identity("", ""), 64),
            "instance count",
        ),
    ] {
        load(guest::spec(&folder, "within", &within)).await.unwrap();
        let error = refusal(guest::spec(&folder, "beyond", &beyond)).await;
        assert_eq!(error.kind(), Kind::PluginMemory, "{error}");
        assert!(error.detail().contains(what), "{error}");
    }
}

#[tokio::test]
async fn a_component_beyond_its_size_is_not_read() {
    let folder = TempDir::new().unwrap();
    let spec = guest::spec(&folder, "large", b"");
    let file = std::fs::File::create(folder.path().join("large.wasm")).unwrap();
    file.set_len(crate::plugin::limits::MAX_COMPONENT_BYTES + 1).unwrap();
    let error = refusal(spec).await;
    assert_eq!(error.kind(), Kind::PluginNotComponent);
    assert!(error.detail().contains("is larger than 67108864 bytes"), "{error}");
}

/// Counts what plugins say in the log.
struct Lines(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == "plugin" {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_second_of_the_log_has_so_many_lines_of_a_guest() {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::filter(&super::hostile::flooding()));
    spec.limits.log_lines = Some(7);
    spec.limits.deadline = Some(std::time::Duration::from_secs(60));
    let registry = load(spec).await.unwrap();
    let filter = registry.filter("guest").await.unwrap();
    let lines = std::sync::Arc::default();
    let log = tracing_subscriber::layer::SubscriberExt::with(
        tracing_subscriber::registry(),
        Lines(std::sync::Arc::clone(&lines)),
    );
    let begun = tokio::time::Instant::now();
    let _guard = tracing::subscriber::set_default(log);
    let batch = Batch::from_documents([rawdoc! {"_id": 1}]);
    assert_eq!(filter.apply(&users(), &batch).await.unwrap(), None);
    // Seven, and the line about those left out, for each second that it took.
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let lines = lines.load(std::sync::atomic::Ordering::Relaxed);
    assert!((7..=8 * seconds).contains(&lines), "{lines} in {seconds} s");
}
