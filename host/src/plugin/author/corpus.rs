//! Documents that every filter must be able to judge: each BSON type, the smallest and the deepest,
//! names and values that trip careless readers.

use bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp,
    doc, oid::ObjectId, spec::BinarySubtype,
};

/// Deepest nesting that servers store, less a margin for what wraps documents on the wire.
const DEPTH: usize = 96;
/// Size of the largest document, in bytes: a batch of the copy holds several of these.
const LARGE: usize = 1024 * 1024;

/// One value of every type.
fn values() -> Vec<Bson> {
    let id = ObjectId::from_bytes(*b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b");
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    let mut values = vec![
        Bson::Double(1.5),
        Bson::Double(-0.0),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::String(String::new()),
        Bson::String("text \u{e4}\u{f6}\u{fc} \u{1f511} \0 end".to_owned()),
        doc! {}.into(),
        doc! {"a": 1, "b": {"c": []}}.into(),
        Bson::Array(vec![]),
        Bson::Array(vec![1.into(), "two".into(), doc! {"three": 3}.into(), Bson::Null]),
        Bson::Binary(binary(BinarySubtype::Generic, b"")),
        Bson::Binary(binary(BinarySubtype::BinaryOld, b"old")),
        Bson::Binary(binary(BinarySubtype::Uuid, &[7; 16])),
        Bson::Binary(binary(BinarySubtype::UserDefined(0x80), b"own")),
        Bson::Undefined,
        Bson::ObjectId(id),
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::DateTime(DateTime::from_millis(0)),
        Bson::DateTime(DateTime::from_millis(i64::MIN)),
        Bson::Null,
        Bson::JavaScriptCode("f()".to_owned()),
        Bson::Symbol("symbol".to_owned()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "g()".to_owned(),
            scope: doc! {"x": 1},
        }),
        Bson::Int32(i32::MIN),
        Bson::Int32(i32::MAX),
        Bson::Timestamp(Timestamp { time: u32::MAX, increment: 1 }),
        Bson::Int64(i64::MIN),
        Bson::Int64(i64::MAX),
        Bson::Decimal128(Decimal128::from_bytes([0x30; 16])),
        Bson::MinKey,
        Bson::MaxKey,
    ];
    values.push(Bson::RegularExpression(Regex {
        pattern: bson::cstr!("^a.*").to_owned(),
        options: bson::cstr!("im").to_owned(),
    }));
    values
}

/// The documents, each with an `_id` of its own.
pub(super) fn documents() -> Vec<RawDocumentBuf> {
    let mut documents = vec![doc! {"_id": "smallest"}];
    for (position, value) in values().into_iter().enumerate() {
        let number = i64::try_from(position).unwrap_or_default();
        documents.push(doc! {"_id": number, "value": value.clone(), "list": [value.clone()],
        "inner": {"value": value.clone()}});
        // A server takes neither an array nor a pattern as an `_id`.
        let can_be_id =
            !matches!(value, Bson::Array(_) | Bson::RegularExpression(_) | Bson::Undefined);
        if can_be_id {
            documents.push(doc! {"_id": {"of": number, "id": value.clone()}, "plain": 1});
        }
    }
    let mut deep = doc! {"bottom": true};
    for level in 0..DEPTH {
        deep = if level % 2 == 0 {
            doc! {"d": deep}
        } else {
            doc! {"d": [deep]}
        };
    }
    documents.push(doc! {"_id": "deep", "d": deep});
    documents.push(doc! {"_id": "wide", "fields": (0..1000).collect::<Vec<i32>>()});
    documents.push(doc! {"_id": "large", "text": "x".repeat(LARGE)});
    documents.push(doc! {"_id": "names", "": 1, "$a": 2, "a.b": 3, " ": 4, "\u{fc}": 5, "0": 6,
    "__proto__": 7, "constructor": 8, "toString": 9});
    // Where `_id` is not the first field.
    documents.push(doc! {"before": 1, "_id": "late", "after": 2});
    documents
        .iter()
        .filter_map(|document| RawDocumentBuf::try_from(document).ok())
        .chain([doubled(), not_utf8()])
        .collect()
}

/// A document with text that is no UTF-8, which servers store when a driver sends it.
fn not_utf8() -> RawDocumentBuf {
    const HOLE: u8 = 0x01;
    let text = "\u{1}\u{1}text";
    let document = bson::rawdoc! {"_id": "not utf-8", "value": text, "status": text,
    "list": [text, {"value": text}], "inner": {"value": text, "other": text}, "plain": text};
    let mut bytes = document.into_bytes();
    let texts: Vec<usize> = bytes
        .windows(2)
        .enumerate()
        .filter_map(|(at, two)| (two == [HOLE, HOLE]).then_some(at))
        .collect();
    for at in texts {
        if let Some(place) = bytes.get_mut(at..at + 2) {
            place.copy_from_slice(&[0xFF, 0xC0]);
        }
    }
    RawDocumentBuf::from_bytes(bytes).unwrap_or_default()
}

/// A document with the same name twice, which servers store when a driver sends it.
fn doubled() -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    document.append(bson::cstr!("_id"), "doubled");
    document.append(bson::cstr!("a"), 1);
    document.append(bson::cstr!("a"), "two");
    document
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn there_is_every_type_and_every_document_can_be_read() {
        let mut types = std::collections::BTreeSet::new();
        let mut others = 0;
        for document in documents() {
            for field in &document {
                match field {
                    Ok((_, value)) => {
                        types.insert(value.element_type() as u8);
                    }
                    Err(_) => others += 1,
                }
            }
        }
        assert_eq!(others, 3, "texts that are no UTF-8");
        // All but the pointer, which nothing writes any more.
        let expected = (0x01..=0x13_u8).filter(|kind| *kind != 0x0C).chain([0x7F, 0xFF]);
        assert_eq!(types.into_iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
