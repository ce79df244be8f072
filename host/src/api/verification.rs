//! The body of `/verification`, and what `/progress` says of it.

use bson::{Bson, Document, RawDocumentBuf};
use serde_json::{Map, Value, json};

use crate::model::{
    progress::{Progress, State},
    verification::{Mismatch, MismatchKind, VerificationProgress},
};

/// The whole body; `verification` is `null` when nothing is verified.
pub(super) fn answer(found: Option<&VerificationProgress>) -> Value {
    let verification = found.map_or(Value::Null, |verification| {
        let mut body = json!({
            "phase": verification.phase.name(),
            "lagTimeSeconds": verification.lag_seconds,
            "mismatches": verification.total(),
            "byKind": by_kind(verification),
            "listed": verification.mismatches.iter().map(mismatch).collect::<Vec<_>>(),
        });
        // Rightly absent, and not to be overlooked.
        if let (Some(fields), 1..) = (body.as_object_mut(), verification.quarantined) {
            fields.insert("quarantined".to_owned(), verification.quarantined.into());
        }
        if let (Some(fields), false) = (body.as_object_mut(), verification.cut.is_empty()) {
            fields.insert("cut".to_owned(), verification.cut.as_slice().into());
        }
        body
    });
    json!({"verification": verification, "success": true})
}

/// The `verification` object of `/progress`.
pub(super) fn summary(progress: &Progress) -> Value {
    let quiet = matches!(progress.state, State::Idle | State::Initializing);
    let Some(verification) = progress.verification.as_ref().filter(|_| !quiet) else {
        return Value::Null;
    };
    let side = |documents: u64| {
        json!({
            "estimatedDocumentCount": verification.documents_estimated,
            "hashedDocumentCount": documents,
            "lagTimeSeconds": verification.lag_seconds,
            "totalCollectionCount": verification.collections_total,
            "scannedCollectionCount": verification.collections_scanned,
            "phase": verification.phase.name(),
        })
    };
    json!({
        "source": side(verification.source_documents),
        "destination": side(verification.destination_documents),
        "mismatches": verification.total(),
        "mismatchesByKind": by_kind(verification),
    })
}

/// Counts by kind, without zeros.
fn by_kind(verification: &VerificationProgress) -> Value {
    let counts: Map<String, Value> = MismatchKind::ALL
        .iter()
        .zip(verification.counts)
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| (kind.name().to_owned(), count.into()))
        .collect();
    Value::Object(counts)
}

/// One entry of the list; ids as canonical extended JSON.
fn mismatch(mismatch: &Mismatch) -> Value {
    json!({
        "namespace": mismatch.namespace,
        "kind": mismatch.kind.name(),
        "_id": mismatch.id.as_ref().map_or(Value::Null, id),
        "detail": mismatch.detail,
    })
}

/// The `_id` of `{_id: …}`.
fn id(document: &RawDocumentBuf) -> Value {
    Document::try_from(document.as_ref())
        .ok()
        .and_then(|mut document| document.remove("_id"))
        .map_or(Value::Null, Bson::into_canonical_extjson)
}
