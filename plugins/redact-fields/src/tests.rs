//! The golden files, and what no golden file can say.

use bson::{Bson, Document, doc};
use serde_json::json;
use syncline_sdk::{
    DocumentFilter, Namespace, Verdict, bson::Document as Raw, config, testing::golden,
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
fn the_key_is_not_shown() {
    let config = json!({"hash": ["a"], "hashKey": "correct horse battery"}).to_string();
    let filter = RedactFields::new(config::parse(&config).unwrap()).unwrap();
    assert!(!format!("{filter:?}").contains("horse"));
}
