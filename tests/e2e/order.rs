//! The engine's order of `_id`s against the server's own, on generated values of every type.

use std::cmp::Ordering;

use anyhow::{Result, ensure};
use bson::{
    Binary, Bson, DateTime, Document, JavaScriptCodeWithScope, RawBsonRef, RawDocumentBuf, Regex,
    Timestamp, cstr, doc, oid::ObjectId, spec::BinarySubtype,
};
use futures_util::TryStreamExt;
use syncline::model::order::{canonical_id, compare_ids};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    random::Random,
};

/// Generated documents.
const COUNT: usize = 1_500;
/// Ranges looked into.
const RANGES: usize = 60;

/// A number where types meet or end.
fn number(random: &mut Random) -> Bson {
    let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
    let texts = [
        "NaN",
        "Infinity",
        "-Infinity",
        "0",
        "-0",
        "0E+3",
        "1.5",
        "1.50",
        "1E-6176",
        "0.1",
        "9.9E+6144",
        "-1E+400",
        "9223372036854775807",
        "9223372036854775808",
        "9007199254740993",
        "-2.5",
        "1E+308",
    ];
    let doubles = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        1.5,
        0.1,
        -2.5,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        9_007_199_254_740_992.0,
        9_223_372_036_854_775_808.0,
        -9_223_372_036_854_775_808.0,
        1e300,
    ];
    let longs = [
        i64::MIN,
        i64::MAX,
        0,
        -1,
        1,
        9_007_199_254_740_993,
        9_007_199_254_740_992,
        i64::MAX - 1,
        -2,
    ];
    match random.below(6) {
        0 => decimal(texts[random.index(texts.len())]),
        1 => Bson::Double(*random.pick(&doubles)),
        2 => Bson::Int64(*random.pick(&longs)),
        3 => Bson::Int32(i32::try_from(random.below(20)).unwrap() - 10),
        4 => Bson::Double((random.unit() - 0.5) * 40.0),
        _ => decimal(&format!("{:.3}", (random.unit() - 0.5) * 20.0)),
    }
}

/// A text, with characters beyond ASCII and with NUL.
fn text(random: &mut Random) -> String {
    let parts = ["", "a", "b", "A", "ä", "é", "\u{0}", "\u{10ffff}", "z", "aa"];
    (0..random.below(4)).map(|_| *random.pick(&parts)).collect()
}

/// Some bytes.
fn bytes(random: &mut Random) -> Vec<u8> {
    (0..random.below(5)).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

/// A document of few fields.
fn document(random: &mut Random, depth: u32) -> Document {
    let names = ["a", "b", "", "ab"];
    let mut document = Document::new();
    for _ in 0..random.below(3) {
        let name = *random.pick(&names);
        document.insert(name, value(random, depth + 1));
    }
    document
}

/// A DBPointer, which only bytes can express.
fn pointer(random: &mut Random) -> Bson {
    let namespace = ["a.b", "a.c", "longer.name"][random.index(3)];
    let mut raw = vec![0x0c, b'v', 0];
    raw.extend(i32::try_from(namespace.len() + 1).unwrap().to_le_bytes());
    raw.extend(namespace.as_bytes());
    raw.push(0);
    raw.extend([u8::try_from(random.below(4)).unwrap(); 12]);
    let mut whole = i32::try_from(raw.len() + 5).unwrap().to_le_bytes().to_vec();
    whole.extend(raw);
    whole.push(0);
    let document = RawDocumentBuf::from_bytes(whole).unwrap();
    let value = document.get("v").unwrap().unwrap();
    Bson::try_from(value).unwrap()
}

/// A value of any type.
fn value(random: &mut Random, depth: u32) -> Bson {
    let subtypes = [
        BinarySubtype::Generic,
        BinarySubtype::Function,
        BinarySubtype::UuidOld,
        BinarySubtype::Uuid,
        BinarySubtype::Md5,
        BinarySubtype::UserDefined(0x80),
        BinarySubtype::UserDefined(0xff),
    ];
    match random.below(if depth > 2 { 17 } else { 21 }) {
        0 => Bson::MinKey,
        1 => Bson::MaxKey,
        2 => Bson::Null,
        3 => Bson::Undefined,
        4..7 => number(random),
        7 => Bson::String(text(random)),
        8 => Bson::Symbol(text(random)),
        9 => Bson::Binary(Binary { subtype: *random.pick(&subtypes), bytes: bytes(random) }),
        10 => Bson::ObjectId(ObjectId::from_bytes([u8::try_from(random.below(256)).unwrap(); 12])),
        11 => Bson::Boolean(random.below(2) == 0),
        12 => {
            Bson::DateTime(DateTime::from_millis(i64::try_from(random.below(200)).unwrap() - 100))
        }
        13 => Bson::Timestamp(Timestamp {
            time: [0, 1, u32::MAX, 1 << 31][random.index(4)],
            increment: u32::try_from(random.below(3)).unwrap(),
        }),
        14 => Bson::RegularExpression(Regex {
            pattern: ["a", "b", "^a", ""][random.index(4)].try_into().unwrap(),
            options: ["", "i", "im"][random.index(3)].try_into().unwrap(),
        }),
        15 => Bson::JavaScriptCode(text(random)),
        16 => pointer(random),
        17 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: text(random),
            scope: document(random, depth),
        }),
        18 => Bson::Array((0..random.below(3)).map(|_| value(random, depth + 1)).collect()),
        _ => Bson::Document(document(random, depth)),
    }
}

/// `{_id: …}`; what the server does not take for an `_id` goes into a document.
fn id(random: &mut Random) -> RawDocumentBuf {
    let value = match value(random, 0) {
        refused @ (Bson::Array(_) | Bson::RegularExpression(_) | Bson::Undefined) => {
            Bson::Document(doc! { "v": refused })
        }
        Bson::Document(document) if random.below(2) == 0 => Bson::Document(doc! { "v": document }),
        taken => taken,
    };
    RawDocumentBuf::try_from(&doc! { "_id": value }).unwrap()
}

/// Whether two ids are the same to the byte.
fn same(left: &RawDocumentBuf, right: &RawDocumentBuf) -> bool {
    left.as_bytes() == right.as_bytes()
}

#[tokio::test]
async fn ids_of_every_type_sort_as_on_the_server() -> Result<()> {
    let cluster = ReplicaSet::start(Options::single()).await?;
    let database = cluster.client().database("order");
    let collection = database.collection::<RawDocumentBuf>("ids");
    let mut random = Random::new(20);
    let mut taken: Vec<RawDocumentBuf> = Vec::new();
    for _ in 0..COUNT {
        let candidate = id(&mut random);
        let twin = taken.iter().find(|other| canonical_id(other) == canonical_id(&candidate));
        let mut command = RawDocumentBuf::new();
        command.append(cstr!("insert"), "ids");
        let mut documents = bson::RawArrayBuf::new();
        documents.push(candidate.as_ref());
        command.append(cstr!("documents"), documents);
        let reply = database.run_raw_command(command).await?;
        let error = reply.get_array("writeErrors").ok().and_then(|errors| errors.first());
        let code = error.and_then(Bson::as_document).and_then(|e| e.get_i32("code").ok());
        match code {
            None => {
                ensure!(twin.is_none(), "{candidate:?} is not {twin:?} to the server");
                taken.push(candidate);
            }
            Some(11_000) => ensure!(twin.is_some(), "the server has {candidate:?} already"),
            // What is no legal `_id` in a document either, like a field that begins with `$`.
            Some(other) => ensure!(other != 0, "{reply}"),
        }
    }
    ensure!(taken.len() > COUNT / 3, "only {} ids", taken.len());

    let sorted: Vec<RawDocumentBuf> =
        collection.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?;
    ensure!(sorted.len() == taken.len());
    for pair in sorted.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        ensure!(compare_ids(before, after) == Ordering::Less, "{before:?} before {after:?}");
        ensure!(compare_ids(after, before) == Ordering::Greater, "{after:?} after {before:?}");
    }
    for _ in 0..RANGES {
        let (one, other) = (random.pick(&sorted).clone(), random.pick(&sorted).clone());
        let (lower, upper) =
            if compare_ids(&one, &other).is_le() { (one, other) } else { (other, one) };
        let is_end = |id: &RawDocumentBuf| {
            matches!(id.get("_id"), Ok(Some(RawBsonRef::MinKey | RawBsonRef::MaxKey)))
        };
        if same(&lower, &upper) || is_end(&lower) || is_end(&upper) {
            continue;
        }
        let bound = |id: &RawDocumentBuf| Document::try_from(id.as_ref());
        let found: Vec<RawDocumentBuf> = collection
            .find(doc! {})
            .hint(mongodb::options::Hint::Keys(doc! { "_id": 1 }))
            .min(bound(&lower)?)
            .max(bound(&upper)?)
            .await?
            .try_collect()
            .await?;
        let ours: Vec<&RawDocumentBuf> = sorted
            .iter()
            .filter(|id| compare_ids(id, &lower).is_ge() && compare_ids(id, &upper).is_lt())
            .collect();
        let equal = found.len() == ours.len() && found.iter().zip(ours).all(|(a, b)| same(a, b));
        ensure!(equal, "between {lower:?} and {upper:?}");
    }
    // The last range of a collection, and of what is emptied, is an expression.
    for _ in 0..RANGES {
        let lower = random.pick(&sorted).clone();
        let least = Document::try_from(lower.as_ref())?.get("_id").cloned();
        let from = doc! { "$expr": { "$gte": ["$_id", { "$literal": least }] } };
        let hint = mongodb::options::Hint::Keys(doc! { "_id": 1 });
        let found: Vec<RawDocumentBuf> =
            collection.find(from).hint(hint).await?.try_collect().await?;
        let ours: Vec<&RawDocumentBuf> =
            sorted.iter().filter(|id| compare_ids(id, &lower).is_ge()).collect();
        let equal = found.len() == ours.len() && found.iter().zip(ours).all(|(a, b)| same(a, b));
        ensure!(equal, "from {lower:?} on");
    }
    Ok(())
}
