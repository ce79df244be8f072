//! The golden files, and what no golden file can say.

use bson::{Bson, Document, doc};
use serde_json::json;
use syncline_sdk::{
    DocumentFilter, Namespace, Verdict,
    bson::{Document as Raw, Value},
    config,
    testing::golden,
};

use super::RedactFields;

/// Where the documents live.
const USERS: Namespace<'static> = Namespace { database: "app", collection: "users" };

#[test]
fn the_golden_files_come_true() {
    golden::check::<RedactFields>(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
}

#[test]
fn every_type_is_masked_and_nothing_of_it_is_left() {
    let filter: RedactFields =
        RedactFields::new(config::parse(r#"{"mask":[{"field":"v"}]}"#).unwrap()).unwrap();
    let values: Vec<Bson> = vec![
        Bson::Double(1.5),
        "secret".into(),
        doc! {"inner": "secret", "list": [1, "secret"]}.into(),
        Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: vec![7; 9],
        }),
        bson::oid::ObjectId::from_bytes([7; 12]).into(),
        true.into(),
        bson::DateTime::from_millis(7).into(),
        Bson::JavaScriptCode("secret".into()),
        Bson::Symbol("secret".into()),
        7.into(),
        7_i64.into(),
        Bson::Timestamp(bson::Timestamp { time: 7, increment: 7 }),
        Bson::Decimal128("7.7".parse().unwrap()),
    ];
    for value in values {
        let bytes = doc! {"_id": 1, "v": value.clone()}.to_vec().unwrap();
        let verdict = filter.judge(&USERS, Raw::new(&bytes).unwrap()).unwrap();
        let Verdict::Replace(masked) = verdict else { panic!("{value} stayed") };
        let masked = Document::from_reader(masked.as_bytes()).unwrap();
        assert_eq!(masked.get("v").unwrap().element_type(), value.element_type());
        assert!(!masked.to_string().contains("secret") && masked.get("v") != Some(&value));
        let again = masked.to_vec().unwrap();
        assert_eq!(filter.judge(&USERS, Raw::new(&again).unwrap()).unwrap(), Verdict::Keep);
    }
}

#[test]
fn text_that_is_no_utf_8_is_redacted_or_passed_on_as_it_is() {
    let bytes = |with_fields: bool| {
        let mut document = doc! {"_id": 1, "other": "?x", "inner": {"other": "?x"}};
        if with_fields {
            document.extend(doc! {"remove": "?x", "mask": "??x", "hash": "?x", "cut": "?xyz"});
        }
        let mut bytes = document.to_vec().unwrap();
        bytes.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xFF);
        bytes
    };
    let config = json!({"remove": ["remove"], "mask": [{"field": "mask", "keepLast": 1}],
        "hash": ["hash"], "hashKey": "correct horse battery",
        "truncate": [{"field": "cut", "length": 2}]});
    let filter: RedactFields =
        RedactFields::new(config::parse(&config.to_string()).unwrap()).unwrap();
    let judged = |bytes: &[u8]| filter.judge(&USERS, Raw::new(bytes).unwrap()).unwrap();
    assert_eq!(judged(&bytes(false)), Verdict::Keep);
    let Verdict::Replace(redacted) = judged(&bytes(true)) else { panic!("it stayed") };
    let redacted = redacted.as_document();
    let get = |name| redacted.get(name).unwrap();
    assert_eq!(get("other"), Some(Value::NotUtf8(b"\xFFx")));
    assert_eq!((get("remove"), get("mask")), (None, Some(Value::String("***"))));
    assert_eq!(get("cut"), Some(Value::NotUtf8(b"\xFFx")));
    assert!(matches!(get("hash"), Some(Value::String(hash)) if hash.len() == 64));
}

#[test]
fn the_key_is_not_shown() {
    let config = json!({"hash": ["a"], "hashKey": "correct horse battery"}).to_string();
    let filter = RedactFields::new(config::parse(&config).unwrap()).unwrap();
    assert!(!format!("{filter:?}").contains("horse"));
}
