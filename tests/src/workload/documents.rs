//! Documents and ids of all shapes.

use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc, oid::ObjectId,
    spec::BinarySubtype,
};

use crate::random::Random;

/// The `_id` with that number: every number is another value, the types take turns.
pub fn id(number: u64) -> Bson {
    let long = i64::try_from(number).unwrap_or(i64::MAX);
    match number {
        3 => return Bson::Null,
        4 => return Bson::Boolean(false),
        5 => return Bson::Boolean(true),
        6 => return Bson::Double(f64::NAN),
        7 => return Bson::MinKey,
        8 => return Bson::MaxKey,
        9 => return Bson::String(String::new()),
        _ => {}
    }
    match number % 11 {
        0 => Bson::Int32(i32::try_from(number).unwrap_or(i32::MAX)),
        1 => Bson::Int64(long),
        2 => Bson::Double(number as f64 + 0.5),
        3 => Bson::String(format!("key-{number}")),
        4 => {
            let mut bytes = [7; 12];
            bytes[4..].copy_from_slice(&number.to_be_bytes());
            Bson::ObjectId(ObjectId::from_bytes(bytes))
        }
        5 => Bson::DateTime(DateTime::from_millis(long - 50)),
        6 => Bson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: number.to_le_bytes().to_vec(),
        }),
        7 => Bson::Document(doc! { "tenant": long % 7, "key": { "n": long } }),
        8 => Bson::Timestamp(Timestamp {
            time: u32::try_from(number).unwrap_or(u32::MAX),
            increment: 1,
        }),
        9 => Bson::Int64(-long),
        // The text of a number that is also an id of its own.
        _ => Bson::String(number.to_string()),
    }
}

/// A document with nested parts.
pub fn document(random: &mut Random, id: Bson) -> Document {
    let mut document = doc! { "_id": id };
    for _ in 0..=random.below(4) {
        let name = field(random);
        document.insert(name, value(random, 2));
    }
    document.insert("count", random.below(1000) as i32);
    document.insert("list", list(random));
    document
        .insert("nested", doc! { "a": value(random, 1), "b": { "c": random.below(50) as i64 } });
    // What geospatial and text indexes are made of.
    if random.chance(40) {
        let place = [random.unit() * 90.0, random.unit() * 90.0];
        document.insert("place", doc! { "type": "Point", "coordinates": place.to_vec() });
        document.insert("spot", place.to_vec());
        document.insert("title", format!("{} {}", random.word(6), random.word(9)));
    }
    if random.chance(2) {
        document.insert("blob", random.word(50_000));
    }
    document
}

/// A field name that updates can find again.
pub(super) fn field(random: &mut Random) -> &'static str {
    ["f0", "f1", "f2", "f3", "f4", "f5"][random.index(6)]
}

/// A short array.
pub(super) fn list(random: &mut Random) -> Vec<Bson> {
    (0..random.below(6)).map(|_| value(random, 0)).collect()
}

/// A value of any type, nested at most `depth` deep.
pub(super) fn value(random: &mut Random, depth: u32) -> Bson {
    match random.below(if depth == 0 { 11 } else { 14 }) {
        0 => Bson::Int32(random.next() as i32),
        1 => Bson::Int64(random.next() as i64),
        2 => Bson::Double(random.unit()),
        3 => Bson::Double(-0.0),
        4 => Bson::String(random.word(12)),
        5 => Bson::Boolean(random.chance(50)),
        6 => Bson::Null,
        7 => Bson::DateTime(DateTime::from_millis(random.below(1 << 40) as i64)),
        8 => Bson::Decimal128(Decimal128::from_bytes(decimal(random))),
        9 => Bson::RegularExpression(mongodb::bson::Regex {
            pattern: bson::cstr!("^a.*b$").into(),
            options: bson::cstr!("im").into(),
        }),
        10 => Bson::String("grün, 緑, \u{1F7E9}".to_owned()),
        11 => Bson::Array(list(random)),
        // Numeric names look like array positions in an update's path.
        12 => Bson::Document(doc! { "0": value(random, depth - 1), "1": random.below(9) as i32 }),
        _ => Bson::Document(
            doc! { "y": value(random, depth - 1), "x": { "deep": value(random, depth - 1) } },
        ),
    }
}

/// A decimal with two digits after the point.
fn decimal(random: &mut Random) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(random.next() as u32).to_le_bytes());
    // Biased exponent 6176 − 2 in the top bits.
    bytes[14..].copy_from_slice(&(((6176_u16 - 2) << 1).to_le_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_distinct_and_of_many_types() {
        let ids: Vec<Bson> = (0..2000).map(id).collect();
        let bytes: BTreeSet<Vec<u8>> = ids
            .iter()
            .map(|id| mongodb::bson::serialize_to_vec(&doc! { "_id": id }).unwrap())
            .collect();
        assert_eq!(bytes.len(), ids.len());
        let types: BTreeSet<u8> = ids.iter().map(|id| id.element_type() as u8).collect();
        assert!(types.len() >= 13, "{types:?}");
    }
}
