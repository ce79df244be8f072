//! `_id`s of every type.

use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Timestamp, doc,
    oid::ObjectId, spec::BinarySubtype,
};

use super::{Scenario, insert, update};

/// One `_id` of every type that the server takes, and those that look alike in another type.
fn ids() -> Vec<Bson> {
    let binary = |subtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    vec![
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(f64::INFINITY),
        Bson::Double(-0.0),
        Bson::Int32(1),
        Bson::Int64(2),
        Bson::Double(3.0),
        decimal("4"),
        decimal("5.50"),
        Bson::Int64(i64::MAX),
        Bson::Int64(i64::MIN),
        Bson::Double(9.007_199_254_740_993e15),
        Bson::String(String::new()),
        Bson::String("1".into()),
        Bson::String("null".into()),
        Bson::String("é".into()),
        Bson::String("e\u{301}".into()),
        Bson::String("a\0b".into()),
        Bson::Symbol("sym".into()),
        Bson::ObjectId(ObjectId::from_bytes([9; 12])),
        Bson::String("090909090909090909090909".into()),
        Bson::DateTime(DateTime::from_millis(0)),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::Timestamp(Timestamp { time: 0, increment: 1 }),
        Bson::Timestamp(Timestamp { time: u32::MAX, increment: u32::MAX }),
        binary(BinarySubtype::Generic, &[]),
        binary(BinarySubtype::Generic, &[1, 2, 3]),
        binary(BinarySubtype::Uuid, &[7; 16]),
        binary(BinarySubtype::UserDefined(0x80), &[1, 2, 3]),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "a": 1, "b": 2 }),
        Bson::Document(doc! { "b": 2, "a": 1 }),
        Bson::Document(doc! { "a": { "b": [1, { "c": Bson::Null }] } }),
        Bson::Document(doc! { "a.b": 1 }),
        Bson::JavaScriptCode("f()".into()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "g()".into(),
            scope: doc! { "x": 1 },
        }),
    ]
}

/// A filter for exactly one `_id`.
fn only(id: &Bson) -> Document {
    doc! { "_id": { "$eq": id } }
}

/// Every scenario of this file.
pub(super) fn scenarios() -> Vec<Scenario> {
    let whole = |v: i32| move |id: Bson| doc! { "_id": id, "v": v, "text": "x".repeat(40) };
    let mut changes = Vec::new();
    for (number, id) in ids().into_iter().enumerate() {
        changes.push(match number % 4 {
            0 => update("a", only(&id), doc! { "$set": { "v": "changed" } }, false),
            1 => update("a", only(&id), doc! { "replaced": true }, false),
            2 => doc! { "delete": "a", "deletes": [{ "q": only(&id), "limit": 1 }] },
            _ => update("a", only(&id), doc! { "$unset": { "text": "" } }, false),
        });
    }
    // The same value in another type, after the first one is gone.
    let mut twins = Vec::new();
    for (old, new) in [
        (Bson::Int32(1), Bson::Double(1.0)),
        (Bson::Int64(2), Bson::Int32(2)),
        (Bson::Double(3.0), Bson::Decimal128("3.0".parse().unwrap())),
        (Bson::Double(-0.0), Bson::Int32(0)),
    ] {
        twins.push(doc! { "delete": "a", "deletes": [{ "q": only(&old), "limit": 1 }] });
        twins.push(insert("a", [doc! { "_id": new, "twin": true }]));
    }
    let clustered =
        doc! { "create": "a", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } };
    let capped = doc! { "create": "a", "capped": true, "size": 1_000_000 };
    let mut in_capped = changes.clone();
    in_capped.retain(|change| change.get_str("update").is_ok());
    // A document of a capped collection keeps its size.
    for change in &mut in_capped {
        if let Some(Bson::Array(updates)) = change.get_mut("updates") {
            for one in updates.iter_mut().filter_map(Bson::as_document_mut) {
                one.insert("u", doc! { "$set": { "v": 2 } });
            }
        }
    }
    vec![
        Scenario::new(
            "ids_before",
            vec![insert("a", ids().into_iter().map(whole(1)))],
            changes.clone(),
        ),
        Scenario::new("ids_during", vec![doc! { "create": "a" }], {
            let mut all = vec![insert("a", ids().into_iter().map(whole(1)))];
            all.extend(changes.clone());
            all
        }),
        Scenario::new("ids_twins", vec![insert("a", ids().into_iter().map(whole(1)))], twins),
        Scenario::new(
            "ids_clustered",
            vec![clustered, insert("a", ids().into_iter().map(whole(1)))],
            changes,
        ),
        Scenario::new(
            "ids_capped",
            vec![capped, insert("a", ids().into_iter().map(whole(1)))],
            in_capped,
        ),
    ]
}
