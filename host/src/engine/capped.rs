//! Capped collections: without bound during the sync, as the source has them after the commit.
//!
//! What the source overwrites, it reports as deletes, which the stream applies in their order. A
//! bound of the destination's own would delete at other moments: while the copy is behind, it
//! would throw away what the source still has.

use bson::{Document, RawDocument, RawDocumentBuf, cstr};

use super::context::Context;
use crate::error::{Error, Kind, Result};

/// Size during the sync: the largest that the server takes, a pebibyte.
const UNBOUNDED_BYTES: i64 = 1 << 50;
/// What the server lists for a collection that was given back its unlimited number of documents.
const UNBOUNDED_DOCUMENTS: i64 = i32::MAX as i64;

/// The options with which a collection is created: those of the source, without its bounds.
pub(super) fn relaxed(wanted: &RawDocument) -> RawDocumentBuf {
    if !wanted.get_bool("capped").unwrap_or(false) {
        return wanted.to_owned();
    }
    let mut options = RawDocumentBuf::new();
    for (name, value) in wanted.iter().flatten() {
        match name.as_str() {
            "size" => options.append(name, UNBOUNDED_BYTES),
            "max" => {}
            _ => options.append(name, value),
        }
    }
    options
}

/// The wanted options after a `collMod` of the bounds.
pub(super) fn modified(wanted: &RawDocument, change: &RawDocument) -> RawDocumentBuf {
    let bounds = [("size", change.get("cappedSize")), ("max", change.get("cappedMax"))];
    let mut options = RawDocumentBuf::new();
    for (name, value) in wanted.iter().flatten() {
        if !bounds.iter().any(|(bound, new)| *bound == name.as_str() && matches!(new, Ok(Some(_))))
        {
            options.append(name, value);
        }
    }
    if let Ok(Some(size)) = change.get("cappedSize") {
        options.append(cstr!("size"), size);
    }
    if let Ok(Some(max)) = change.get("cappedMax") {
        let unlimited =
            max.as_i64().or_else(|| max.as_i32().map(i64::from)).is_some_and(|n| n <= 0)
                || max.as_f64().is_some_and(|n| n <= 0.0);
        if unlimited {
            options.append(cstr!("max"), UNBOUNDED_DOCUMENTS);
        } else {
            options.append(cstr!("max"), max);
        }
    }
    options
}

/// What `collMod` has to say to take the bounds off a former source.
pub(super) fn relaxation() -> Document {
    bson::doc! { "cappedSize": UNBOUNDED_BYTES, "cappedMax": 0 }
}

/// What `collMod` has to say to give a collection its bounds back; nothing for one without.
fn restoration(wanted: &RawDocument) -> Result<Document> {
    let mut change = Document::new();
    if !wanted.get_bool("capped").unwrap_or(false) {
        return Ok(change);
    }
    for (option, field) in [("size", "cappedSize"), ("max", "cappedMax")] {
        if let Ok(Some(value)) = wanted.get(option) {
            let value = bson::Bson::try_from(value).map_err(|e| {
                Error::new(Kind::Internal, "the bounds of a collection").caused_by(e)
            })?;
            change.insert(field, value);
        }
    }
    Ok(change)
}

/// Gives every capped collection its bounds back. Repeatable.
///
/// # Errors
/// Those of the destination.
pub(super) async fn restore(context: &Context) -> Result<()> {
    let capped: Vec<_> = context
        .table()
        .iter()
        .filter(|(_, entry)| !entry.dropped && entry.is_capped())
        .map(|(_, entry)| (entry.destination.clone(), restoration(&entry.options)))
        .collect();
    for (namespace, change) in capped {
        context.destination.modify(&namespace, change?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    #[test]
    fn bounds_are_taken_off_and_given_back() {
        let wanted = rawdoc! { "capped": true, "size": 4096, "max": 10, "validator": {} };
        assert_eq!(
            relaxed(&wanted),
            rawdoc! { "capped": true, "size": 1i64 << 50, "validator": {} }
        );
        assert_eq!(restoration(&wanted).unwrap(), doc! { "cappedSize": 4096, "cappedMax": 10 });
        let plain = rawdoc! { "validator": {} };
        assert_eq!(relaxed(&plain), plain);
        assert!(restoration(&plain).unwrap().is_empty());
    }

    #[test]
    fn a_change_of_the_bounds_is_what_is_given_back() {
        let wanted = rawdoc! { "capped": true, "size": 4096 };
        let changed = modified(&wanted, &rawdoc! { "cappedSize": 8192i64, "cappedMax": 7 });
        assert_eq!(restoration(&changed).unwrap(), doc! { "cappedSize": 8192i64, "cappedMax": 7 });
        let unlimited = modified(&changed, &rawdoc! { "cappedMax": 0 });
        assert_eq!(
            restoration(&unlimited).unwrap(),
            doc! { "cappedSize": 8192i64, "cappedMax": i64::from(i32::MAX) }
        );
        assert_eq!(modified(&wanted, &rawdoc! { "validator": {} }), wanted);
    }
}
