//! Collections that delete by themselves, capped ones and clustered ones with a TTL: without bound
//! during the sync, as the source has them after the commit. (A TTL of an index is the index's.)
//!
//! What the source deletes, it reports, and the stream applies that in its order. A bound of the
//! destination's own would delete at other moments: while the copy is behind, it would throw away
//! what the source still has.

use bson::{Document, RawDocument, RawDocumentBuf, cstr};

use super::context::Context;
use crate::error::{Error, Kind, Result};

/// Size during the sync: the largest that the server takes, a pebibyte.
const UNBOUNDED_BYTES: i64 = 1 << 50;
/// What the server lists for a collection that was given back its unlimited number of documents.
const UNBOUNDED_DOCUMENTS: i64 = i32::MAX as i64;
/// Option of a clustered collection, and field of `collMod`: the TTL in seconds.
const EXPIRES: &str = "expireAfterSeconds";

/// The options with which a collection is created: those of the source, without its bounds.
pub(super) fn relaxed(wanted: &RawDocument) -> RawDocumentBuf {
    let (is_capped, is_clustered) = (is_capped(wanted), is_clustered(wanted));
    let mut options = RawDocumentBuf::new();
    for (name, value) in wanted.iter().flatten() {
        match name.as_str() {
            "size" if is_capped => options.append(name, UNBOUNDED_BYTES),
            "max" if is_capped => {}
            EXPIRES if is_clustered => {}
            _ => options.append(name, value),
        }
    }
    options
}

/// Whether it is capped.
fn is_capped(options: &RawDocument) -> bool {
    options.get_bool("capped").unwrap_or(false)
}

/// Whether its documents are stored by `_id`.
fn is_clustered(options: &RawDocument) -> bool {
    matches!(options.get("clusteredIndex"), Ok(Some(_)))
}

/// Whether a field of `collMod` is about a bound.
pub(super) fn is_bound(field: &str) -> bool {
    matches!(field, "cappedSize" | "cappedMax" | EXPIRES)
}

/// The wanted options after a `collMod` of the bounds.
pub(super) fn modified(wanted: &RawDocument, change: &RawDocument) -> RawDocumentBuf {
    let bounds = [
        ("size", change.get("cappedSize")),
        ("max", change.get("cappedMax")),
        (EXPIRES, change.get(EXPIRES)),
    ];
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
    if let Ok(Some(seconds)) = change.get(EXPIRES)
        && seconds.as_str().is_none()
    {
        options.append(cstr!("expireAfterSeconds"), seconds);
    }
    options
}

/// What `collMod` has to say to take the bounds off a former source; nothing for one without.
pub(super) fn relaxation(options: &RawDocument) -> Document {
    if is_capped(options) {
        return bson::doc! { "cappedSize": UNBOUNDED_BYTES, "cappedMax": 0 };
    }
    if is_clustered(options) && matches!(options.get(EXPIRES), Ok(Some(_))) {
        return bson::doc! { EXPIRES: "off" };
    }
    Document::new()
}

/// What `collMod` has to say to give a collection its bounds back; nothing for one without.
fn restoration(wanted: &RawDocument) -> Result<Document> {
    let mut change = Document::new();
    let bounds: &[(&str, &str)] = if is_capped(wanted) {
        &[("size", "cappedSize"), ("max", "cappedMax")]
    } else if is_clustered(wanted) {
        &[(EXPIRES, EXPIRES)]
    } else {
        &[]
    };
    for (option, field) in bounds {
        if let Ok(Some(value)) = wanted.get(option) {
            let value = bson::Bson::try_from(value).map_err(|e| {
                Error::new(Kind::Internal, "the bounds of a collection").caused_by(e)
            })?;
            change.insert(*field, value);
        }
    }
    Ok(change)
}

/// Gives every collection its bounds back. Repeatable.
///
/// # Errors
/// Those of the destination.
pub(super) async fn restore(context: &Context) -> Result<()> {
    let bounded: Vec<_> = context
        .table()
        .iter()
        .filter(|(_, entry)| !entry.dropped)
        .map(|(_, entry)| (entry.destination.clone(), restoration(&entry.options)))
        .collect();
    for (namespace, change) in bounded {
        let change = change?;
        if !change.is_empty() {
            context.destination.modify(&namespace, change).await?;
        }
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
    fn the_ttl_of_a_clustered_collection_is_taken_off_and_given_back() {
        let clustered = || rawdoc! { "key": { "_id": 1 }, "unique": true };
        let wanted = rawdoc! { "clusteredIndex": clustered(), "expireAfterSeconds": 5i64 };
        let without = rawdoc! { "clusteredIndex": clustered() };
        assert_eq!(relaxed(&wanted), without);
        assert_eq!(restoration(&wanted).unwrap(), doc! { "expireAfterSeconds": 5i64 });
        assert_eq!(relaxation(&wanted), doc! { "expireAfterSeconds": "off" });
        assert_eq!(modified(&wanted, &rawdoc! { "expireAfterSeconds": "off" }), without);
        let later = modified(&wanted, &rawdoc! { "expireAfterSeconds": 9i64 });
        assert_eq!(restoration(&later).unwrap(), doc! { "expireAfterSeconds": 9i64 });
        assert!(restoration(&without).unwrap().is_empty() && relaxation(&without).is_empty());
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
