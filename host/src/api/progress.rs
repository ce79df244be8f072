//! The body of `/progress`: mongosync's names and null rules, and fields of our own.
//!
//! `IDLE` (and `INITIALIZING`, before anything is known) has `null` everywhere but in `state`,
//! `canCommit` and our own `failure`. `PAUSED` has no lag. `ceaStage`, `indexBuilding` and
//! `estimatedSecondsToCEACatchup` are there only during change event application, `warnings` and
//! `quarantinedDocuments` only when there are some, `pingLatencyMs` only when it is known and at least a millisecond.

use serde_json::{Map, Value, json};

use super::verification;
use crate::model::{
    progress::{CollectionProgress, Failure, Phase, Progress, State},
    verification::{VerificationPhase, VerificationProgress},
};

/// Collections in the answer of `/progress`; `/progress/collections` has all of them.
const MAX_COLLECTIONS: usize = 1_000;

/// A page of the progress per collection, largest first.
pub(super) fn collections(progress: &Progress, offset: usize, limit: usize) -> Value {
    let page: Vec<Value> =
        progress.collections.iter().skip(offset).take(limit).map(collection).collect();
    json!({
        "success": true,
        "total": progress.collections.len(),
        "offset": offset,
        "collections": page,
    })
}

/// The whole body.
pub(super) fn body(progress: &Progress) -> Value {
    json!({"progress": object(progress), "success": true})
}

/// The `progress` object.
fn object(progress: &Progress) -> Value {
    let quiet = matches!(progress.state, State::Idle | State::Initializing);
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    let unless_quiet = |value: Value| if quiet { Value::Null } else { value };
    let applying = !quiet && progress.phase == Some(Phase::ChangeEventApplication);

    put("state", progress.state.name().into());
    put("canCommit", progress.can_commit.into());
    put("canWrite", unless_quiet(progress.can_write.into()));
    let info = match progress.state {
        State::Aborting => Some("aborting"),
        _ => progress.phase.map(Phase::name),
    };
    put("info", unless_quiet(info.into()));
    if applying {
        let stage = if progress.draining { "collection copy drain" } else { "steady state" };
        put("ceaStage", stage.into());
    }
    put("lag", lag(progress, quiet));
    put("lagTimeSeconds", lag_seconds(progress, quiet).into());
    put("totalEventsApplied", unless_quiet(progress.events_applied.into()));
    put("collectionCopy", unless_quiet(collection_copy(progress)));
    if let (true, Some(indexes)) = (applying, progress.indexes) {
        put(
            "indexBuilding",
            json!({
                "indexesBuilt": indexes.indexes_built,
                "totalIndexesToBuild": indexes.indexes_total,
                "collectionsFinished": indexes.collections_finished,
                "collectionsTotal": indexes.collections_total,
            }),
        );
    }
    put("directionMapping", unless_quiet(direction(progress)));
    put("source", unless_quiet(ping(progress.source_ping_ms)));
    put("destination", unless_quiet(ping(progress.destination_ping_ms)));
    if let (true, Some(seconds)) = (applying, progress.catchup_seconds) {
        put("estimatedSecondsToCEACatchup", seconds.into());
    }
    if applying && building(progress) {
        put("estimatedSecondsToIndexCompletion", progress.index_seconds.into());
    }
    if comparing(progress) {
        put("estimatedSecondsToVerification", progress.verification_seconds.into());
    }
    if progress.state == State::Running && !progress.can_write {
        put("estimatedOplogTimeRemaining", oplog_time(progress.oplog_seconds).into());
    }
    put("mongosyncID", unless_quiet(progress.instance_id.as_str().into()));
    put("coordinatorID", unless_quiet(progress.coordinator_id.clone().into()));
    put("verification", verification::summary(progress));
    if !quiet && progress.quarantined > 0 {
        put("quarantinedDocuments", progress.quarantined.into());
    }
    if !quiet && !progress.warnings.is_empty() {
        put("warnings", progress.warnings.clone().into());
    }
    put("appliedClusterTime", unless_quiet(applied_time(progress)));
    if copying(progress) {
        put("estimatedSecondsToCopyCompletion", progress.copy_seconds.into());
    }
    let shown = progress.collections.iter().take(MAX_COLLECTIONS);
    put("collections", unless_quiet(shown.map(collection).collect()));
    put("failure", progress.failure.as_ref().map_or(Value::Null, failure));
    Value::Object(out)
}

/// Whether documents are being copied.
fn copying(progress: &Progress) -> bool {
    progress.state == State::Running && progress.phase == Some(Phase::CollectionCopy)
}

/// Whether indexes are left to build.
fn building(progress: &Progress) -> bool {
    progress.indexes.is_some_and(|indexes| indexes.indexes_built < indexes.indexes_total)
}

/// Whether documents are compared for the first time.
fn comparing(progress: &Progress) -> bool {
    let is_scanning = |found: &VerificationProgress| found.phase == VerificationPhase::Scanning;
    progress.state == State::Running && progress.verification.as_ref().is_some_and(is_scanning)
}

/// `estimatedOplogTimeRemaining` in words.
fn oplog_time(seconds: Option<u64>) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    match seconds {
        None => "not checked yet".to_owned(),
        Some(seconds) if seconds > 72 * HOUR => "more than 72 hours".to_owned(),
        Some(seconds) if seconds >= 2 * HOUR => format!("{} hours", seconds / HOUR),
        Some(seconds) if seconds >= HOUR => "1 hour".to_owned(),
        Some(seconds) if seconds >= 15 * MINUTE => format!("{} minutes", seconds / MINUTE),
        Some(_) => "less than 15 minutes".to_owned(),
    }
}

/// Lag in seconds, when there is one to tell.
fn lag_seconds(progress: &Progress, quiet: bool) -> Option<u32> {
    progress.lag_seconds.filter(|_| !quiet && progress.state != State::Paused)
}

/// The `lag` object. Schema changes and writes share one stream here, so they lag alike, once
/// there were some.
fn lag(progress: &Progress, quiet: bool) -> Value {
    match lag_seconds(progress, quiet) {
        None => Value::Null,
        Some(seconds) => json!({
            "overallLagSeconds": seconds,
            "crudLagSeconds": (progress.events_applied > progress.ddl_applied).then_some(seconds),
            "ddlLagSeconds": (progress.ddl_applied > 0).then_some(seconds),
        }),
    }
}

/// The `collectionCopy` object: a total of 1 until it is known, never less than what is copied.
fn collection_copy(progress: &Progress) -> Value {
    let (total, copied) = match progress.phase {
        None | Some(Phase::Planning) => (1, 0),
        Some(_) => (progress.total_bytes.max(progress.copied_bytes), progress.copied_bytes),
    };
    json!({"estimatedTotalBytes": total, "estimatedCopiedBytes": copied})
}

/// The `directionMapping` object.
fn direction(progress: &Progress) -> Value {
    match &progress.direction {
        None => Value::Null,
        Some((source, destination)) => json!({"Source": source, "Destination": destination}),
    }
}

/// The `source` or `destination` object.
fn ping(milliseconds: Option<i64>) -> Value {
    match milliseconds.filter(|ms| *ms != 0) {
        None => json!({}),
        Some(ms) => json!({"pingLatencyMs": ms}),
    }
}

/// The `appliedClusterTime` object.
fn applied_time(progress: &Progress) -> Value {
    progress.applied_cluster_time.map_or(Value::Null, |time| json!({"t": time.t, "i": time.i}))
}

/// One entry of `collections`.
fn collection(collection: &CollectionProgress) -> Value {
    json!({
        "namespace": collection.namespace,
        "estimatedTotalBytes": collection.total_bytes.max(collection.copied_bytes),
        "estimatedCopiedBytes": collection.copied_bytes,
        "copiedDocuments": collection.copied_documents,
        "partitions": collection.partitions,
        "partitionsCopied": collection.partitions_done,
    })
}

/// The `failure` object.
fn failure(failure: &Failure) -> Value {
    json!({
        "error": failure.kind.name(),
        "errorDescription": failure.detail,
        "code": failure.kind.code(),
        "advice": failure.kind.advice(),
    })
}
