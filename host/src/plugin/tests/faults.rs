//! Faults that are the filter's and not a document's.

use bson::rawdoc;
use tempfile::TempDir;
use tokio::time::Duration;
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt};

use super::{
    guest::{self, FilterText},
    load, users,
};
use crate::{error::Kind, model::Batch, plugin::Registry};

/// Some documents with ascending ids.
fn documents(count: i32) -> Batch {
    Batch::from_documents((0..count).map(|id| rawdoc! {"_id": id}))
}

/// A registry with one text guest.
async fn registry(text: FilterText, deadline: Option<Duration>) -> Registry {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::filter(&text));
    spec.limits.deadline = deadline;
    load(spec).await.unwrap()
}

#[tokio::test]
async fn an_instance_that_cannot_start_is_no_documents_fault() {
    // Traps for the document whose `_id` is 13, and, once the log is at its most talkative, whenever
    // an instance is made.
    let text = FilterText {
        imports: r#"(import "syncline:host/log@0.1.0" "enabled"
                      (func $enabled (param i32) (result i32)))"#,
        init: "(if (call $enabled (i32.const 0)) (then unreachable))",
        apply: "(block $done
          (loop $next
            (br_if $done (i32.ge_u (local.get $i) (local.get $len)))
            (if (i32.eq (i32.const 13)
                  (i32.load (i32.add (i32.const 9) (i32.add (local.get $docs) (local.get $i)))))
              (then unreachable))
            (local.set $i (i32.add (local.get $i)
              (i32.load (i32.add (local.get $docs) (local.get $i)))))
            (br $next)))
          (i32.store (i32.const 1028)
            (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
          (i32.store (i32.const 1032) (local.get $count))",
        ..FilterText::default()
    };
    let registry = registry(text, None).await;
    let filter = registry.filter("guest").await.unwrap();
    let sorted = filter.judge_each(&users(), &documents(100)).await.unwrap();
    let refused: Vec<_> = sorted.refused.iter().map(|refused| refused.position).collect();
    assert_eq!(refused, [13]);
    // The instance that is left crashes, and no other can be made.
    let talkative = tracing_subscriber::registry().with(LevelFilter::TRACE);
    let _guard = tracing::subscriber::set_default(talkative);
    let error = filter.judge_each(&users(), &documents(100)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginTrap);
    assert!(!error.detail().contains("document"), "{error}");
    let error = filter.apply(&users(), &documents(100)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginTrap);
    assert!(!error.detail().contains("document"), "{error}");
    assert_eq!(registry.info()[0].instances, 0);
}

#[tokio::test]
async fn a_filter_that_fails_for_too_many_documents_of_a_batch_is_at_fault() {
    let text = FilterText { apply: "unreachable", ..FilterText::default() };
    let registry = registry(text, None).await;
    let filter = registry.filter("guest").await.unwrap();
    // As many as may be theirs.
    let sorted = filter.judge_each(&users(), &documents(20)).await.unwrap();
    assert_eq!(sorted.refused.len(), 20);
    assert!(sorted.refused.iter().all(|refused| refused.error.kind() == Kind::PluginTrap));
    let error = filter.judge_each(&users(), &documents(1000)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginFaulty);
    assert!(error.detail().contains("21 documents of a batch of 1000"), "{error}");
    assert!(error.detail().contains("SYNC-1507"), "{error}");
}

#[tokio::test]
async fn a_filter_that_never_ends_does_not_hold_the_sync_up_for_every_document() {
    let text = FilterText { apply: "(loop $forever (br $forever))", ..FilterText::default() };
    let registry = registry(text, Some(Duration::from_millis(10))).await;
    let filter = registry.filter("guest").await.unwrap();
    let error = filter.judge_each(&users(), &documents(1000)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginFaulty);
    assert!(error.detail().contains("SYNC-1508"), "{error}");
}

#[tokio::test]
async fn verdicts_are_counted_by_collection() {
    // Drops every document of the collection with a long name.
    let text = FilterText {
        apply: "(i32.store (i32.const 1028)
            (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
          (i32.store (i32.const 1032) (local.get $count))
          (memory.fill (i32.load (i32.const 1028))
            (i32.gt_u (local.get $coll_len) (i32.const 5)) (local.get $count))",
        ..FilterText::default()
    };
    let registry = registry(text, None).await;
    let filter = registry.filter("guest").await.unwrap();
    let other = crate::model::Namespace::parse("app.customers").unwrap();
    filter.apply(&users(), &documents(3)).await.unwrap();
    filter.apply(&other, &documents(5)).await.unwrap();
    filter.judge_each(&other, &documents(2)).await.unwrap();
    let info = &registry.info()[0];
    let found: Vec<_> = info
        .namespaces
        .iter()
        .map(|one| (one.namespace.as_str(), one.kept, one.dropped, one.replaced, one.errors))
        .collect();
    assert_eq!(found, [("app.customers", 0, 7, 0, 0), ("app.users", 3, 0, 0, 0)]);
    assert_eq!((info.counters.kept, info.counters.dropped, info.counters.calls), (3, 7, 3));
}
