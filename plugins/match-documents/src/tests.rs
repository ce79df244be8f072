//! The condition language against documents made by the `bson` crate.

use bson::{Bson, Decimal128, Document, doc, oid::ObjectId};
use serde_json::json;
use syncline_sdk::{
    DocumentFilter, Namespace, Verdict, bson::Document as Raw, config, testing::golden,
};

use super::MatchDocuments;

/// A filter from the value of `keep`.
fn filter(keep: &serde_json::Value) -> Result<MatchDocuments, config::ConfigError> {
    config::parse(&json!({ "keep": keep }).to_string()).and_then(MatchDocuments::new)
}

/// Whether a document is kept.
fn kept(keep: &serde_json::Value, document: &Document) -> bool {
    let bytes = document.to_vec().unwrap();
    let namespace = Namespace { database: "app", collection: "users" };
    let filter = filter(keep).unwrap();
    filter.judge(&namespace, Raw::new(&bytes).unwrap()).unwrap() == Verdict::Keep
}

/// Checks one condition against documents that are kept and documents that are not.
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "called with json! literals")]
fn check(keep: serde_json::Value, yes: &[Document], no: &[Document]) {
    for document in yes {
        assert!(kept(&keep, document), "{keep} should keep {document}");
    }
    for document in no {
        assert!(!kept(&keep, document), "{keep} should drop {document}");
    }
}

#[test]
fn the_golden_files_come_true() {
    golden::check::<MatchDocuments>(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
}

#[test]
fn text_that_is_no_utf_8_is_compared_by_its_bytes() {
    let bytes = |text: &str| {
        let mut bytes = doc! {"_id": 1, "s": text, "list": [text]}.to_vec().unwrap();
        bytes.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xFF);
        bytes
    };
    let namespace = Namespace { database: "app", collection: "users" };
    let kept = |keep: &serde_json::Value, text: &str| {
        let bytes = bytes(text);
        let verdict = filter(keep).unwrap().judge(&namespace, Raw::new(&bytes).unwrap());
        verdict.unwrap() == Verdict::Keep
    };
    for keep in [
        json!({"s": {"$gt": "z"}}),
        json!({"s": {"$type": "string"}}),
        json!({"list": {"$ne": "a"}}),
        json!({"s": {"$exists": true}}),
    ] {
        assert!(kept(&keep, "?a"), "{keep}");
    }
    for keep in [json!({"s": "a"}), json!({"s": {"$regex": "a"}}), json!({"s": null})] {
        assert!(!kept(&keep, "?a"), "{keep}");
    }
}

#[test]
fn equality_is_by_value_and_type() {
    check(
        json!({"status": "active"}),
        &[doc! {"x": 1, "status": "active"}, doc! {"status": ["new", "active"]}],
        &[doc! {"status": "Active"}, doc! {}, doc! {"status": null}, doc! {"status": 1}],
    );
    check(json!({"flag": true}), &[doc! {"flag": true}], &[doc! {"flag": 1}, doc! {"flag": false}]);
}

#[test]
fn numbers_compare_across_types() {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    check(
        json!({"n": 5}),
        &[doc! {"n": 5_i32}, doc! {"n": 5_i64}, doc! {"n": 5.0}, doc! {"n": decimal("5.00")}],
        &[doc! {"n": 5.5}, doc! {"n": "5"}, doc! {"n": decimal("5.01")}, doc! {"n": f64::NAN}],
    );
    check(
        json!({"n": {"$gte": 1000}}),
        &[
            doc! {"n": 1000_i32},
            doc! {"n": 1e3},
            doc! {"n": i64::MAX},
            doc! {"n": f64::INFINITY},
            doc! {"n": decimal("1E+6000")},
            doc! {"n": decimal("1000.0000001")},
        ],
        &[
            doc! {"n": 999.999},
            doc! {"n": f64::NAN},
            doc! {"n": decimal("999.9999999999999999999999")},
            doc! {"n": decimal("-1E+6000")},
            doc! {"n": decimal("NaN")},
            doc! {"n": bson::DateTime::from_millis(5000)},
        ],
    );
    check(
        json!({"n": {"$lt": 0.5}}),
        &[doc! {"n": 0_i32}, doc! {"n": i64::MIN}, doc! {"n": decimal("0.25")}, doc! {"n": -0.0}],
        &[doc! {"n": 1_i64}, doc! {"n": 0.5}, doc! {"n": decimal("0.75")}],
    );
}

#[test]
fn large_integers_keep_their_precision_against_doubles() {
    let big = 9_007_199_254_740_993_i64;
    check(
        json!({"n": {"$gt": 9_007_199_254_740_992.0}}),
        &[doc! {"n": big}],
        &[doc! {"n": big - 1}, doc! {"n": 9_007_199_254_740_992.0}],
    );
    check(json!({"n": big}), &[doc! {"n": big}], &[doc! {"n": 9_007_199_254_740_992.0}]);
    check(json!({"n": {"$lt": i64::MAX}}), &[], &[doc! {"n": 9_223_372_036_854_775_808.0}]);
}

#[test]
fn order_stays_within_a_type() {
    check(
        json!({"s": {"$gt": "m"}}),
        &[doc! {"s": "n"}, doc! {"s": "ä"}],
        &[doc! {"s": "m"}, doc! {"s": "M"}, doc! {"s": 99}, doc! {"s": null}, doc! {}],
    );
    let date = |millis| bson::DateTime::from_millis(millis);
    check(
        json!({"at": {"$gte": {"$date": "2024-01-01T00:00:00Z"}, "$lt": {"$date": 1_735_689_600_000_i64}}}),
        &[doc! {"at": date(1_704_067_200_000)}, doc! {"at": date(1_720_000_000_000)}],
        &[doc! {"at": date(1_704_067_199_999)}, doc! {"at": 1_720_000_000_000_i64}],
    );
    let id = ObjectId::from_bytes([7; 12]);
    check(json!({"_id": {"$oid": id.to_hex()}}), &[doc! {"_id": id}], &[doc! {"_id": id.to_hex()}]);
}

#[test]
fn null_means_null_or_not_there() {
    check(
        json!({"a": null}),
        &[doc! {}, doc! {"a": null}, doc! {"a": [1, null]}],
        &[doc! {"a": 0}],
    );
    check(json!({"a": {"$ne": null}}), &[doc! {"a": 0}], &[doc! {}, doc! {"a": null}]);
    check(json!({"a": {"$gte": null}}), &[doc! {}, doc! {"a": null}], &[doc! {"a": 1}]);
    check(
        json!({"a.b": null}),
        &[doc! {"a": {}}, doc! {"a": 5}, doc! {"a": [{"b": 1}, {"c": 1}]}, doc! {}],
        &[doc! {"a": {"b": 1}}, doc! {"a": []}, doc! {"a": [1, 2]}],
    );
}

#[test]
fn existence_is_about_the_field_not_its_value() {
    check(
        json!({"a.b": {"$exists": true}}),
        &[doc! {"a": {"b": null}}, doc! {"a": [{"c": 1}, {"b": 2}]}],
        &[doc! {"a": {}}, doc! {"a": [1]}, doc! {}],
    );
    check(json!({"a": {"$exists": false}}), &[doc! {"b": 1}], &[doc! {"a": null}]);
}

#[test]
fn paths_go_through_documents_and_arrays() {
    check(
        json!({"address.country": {"$in": ["DE", "FR"]}}),
        &[
            doc! {"address": {"street": "x", "country": "DE"}},
            doc! {"address": [{"country": "IT"}, {"country": "FR"}]},
        ],
        &[
            doc! {"address": {"country": "IT"}},
            doc! {"address": [[{"country": "DE"}]]},
            doc! {"address.country": "DE"},
        ],
    );
    check(
        json!({"a.1.b": 7}),
        &[doc! {"a": [{}, {"b": 7}]}, doc! {"a": {"1": {"b": 7}}}, doc! {"a": [0, [{"b": 7}]]}],
        &[doc! {"a": [{"b": 7}]}],
    );
    check(
        json!({"a.0": 1}),
        &[doc! {"a": [1, 2]}, doc! {"a": {"0": [5, 1]}}],
        &[doc! {"a": [2, 1]}, doc! {"a": [[5, 1]]}],
    );
}

#[test]
fn an_array_matches_as_a_whole_or_by_an_element() {
    check(
        json!({"tags": ["a", "b"]}),
        &[doc! {"tags": ["a", "b"]}, doc! {"tags": [["a", "b"], "c"]}],
        &[doc! {"tags": ["b", "a"]}, doc! {"tags": ["a"]}, doc! {"tags": ["a", "b", "c"]}],
    );
    check(
        json!({"scores": {"$gt": 5, "$lt": 3}}),
        &[doc! {"scores": [1, 9]}],
        &[doc! {"scores": [4]}, doc! {"scores": 9}],
    );
    check(
        json!({"tags": {"$nin": ["x", "y"]}}),
        &[doc! {"tags": ["a"]}, doc! {}, doc! {"tags": []}],
        &[doc! {"tags": ["a", "x"]}],
    );
}

#[test]
fn conditions_combine() {
    check(
        json!({"$or": [{"a": 1}, {"b": {"$gt": 2}}], "c": {"$not": {"$in": [9]}}}),
        &[doc! {"a": 1}, doc! {"b": 3, "c": 8}],
        &[doc! {"a": 1, "c": 9}, doc! {"a": 2, "b": 2}],
    );
    check(
        json!({"$nor": [{"a": 1}, {"b": 2}], "$and": [{"c": {"$exists": true}}]}),
        &[doc! {"c": 0}],
        &[doc! {"c": 0, "b": 2}, doc! {}],
    );
}

#[test]
fn types_sizes_and_elements_are_asked_for() {
    check(
        json!({"a": {"$type": ["number", "bool"]}}),
        &[doc! {"a": 1}, doc! {"a": 1.5}, doc! {"a": false}, doc! {"a": ["x", 2_i64]}],
        &[doc! {"a": "1"}, doc! {}, doc! {"a": [[1]]}],
    );
    check(json!({"a": {"$type": 4}}), &[doc! {"a": []}, doc! {"a": [[1]]}], &[doc! {"a": {}}]);
    check(
        json!({"a": {"$size": 2}}),
        &[doc! {"a": [1, 2]}, doc! {"a": [[], []]}],
        &[doc! {"a": [1]}, doc! {"a": [[1, 2]]}, doc! {"a": {"x": 1, "y": 2}}, doc! {}],
    );
    check(
        json!({"a": {"$elemMatch": {"$gt": 5, "$lt": 8}}}),
        &[doc! {"a": [1, 6, 9]}],
        &[doc! {"a": [1, 9]}, doc! {"a": 6}, doc! {"a": [[6]]}],
    );
    check(
        json!({"a": {"$elemMatch": {"x": 1, "y": {"$ne": 2}}}}),
        &[doc! {"a": [{"x": 1, "y": 3}]}, doc! {"a": [0, {"x": [1]}]}],
        &[doc! {"a": [{"x": 1, "y": 2}, {"x": 2}]}, doc! {"a": {"x": 1}}],
    );
    check(
        json!({"a": {"$all": ["x", {"$elemMatch": {"b": 1}}]}}),
        &[doc! {"a": [{"b": 1}, "x"]}],
        &[doc! {"a": ["x"]}, doc! {"a": "x"}],
    );
}

#[test]
fn whole_documents_and_lists_are_compared_in_order() {
    check(
        json!({"a": {"b": [1, {"c": null}]}}),
        &[doc! {"a": {"b": [1.0, {"c": null}]}}],
        &[doc! {"a": {"b": [1]}}, doc! {"a": {"b": [1, {"c": null}], "d": 1}}, doc! {"a": {}}],
    );
    check(
        json!({"a": {"$gt": [1, 2]}}),
        &[doc! {"a": [1, 2, 0]}, doc! {"a": [1, "x"]}, doc! {"a": [[3], 0]}],
        &[doc! {"a": [1, 2]}, doc! {"a": [1, 1]}, doc! {"a": 5}],
    );
    check(json!({"a": {}}), &[doc! {"a": {}}, doc! {"a": [{}]}], &[doc! {"a": []}, doc! {}]);
}

#[test]
fn patterns_mean_what_they_mean_to_the_server() {
    check(
        json!({"a": {"$regex": "^Wien(er)?$"}}),
        &[doc! {"a": "Wien"}, doc! {"a": "Wiener\n"}, doc! {"a": ["x", "Wien"]}],
        &[doc! {"a": "wien"}, doc! {"a": "Wien\nx"}, doc! {"a": 1}, doc! {}],
    );
    check(
        json!({"a": {"$regex": "^b # comment", "$options": "imx"}}),
        &[doc! {"a": "a\nBcd"}, doc! {"a": "b"}],
        &[doc! {"a": "ab"}],
    );
    check(
        json!({"a": {"$in": ["x", {"$regularExpression": {"pattern": "\\w\\.\\<[]]", "options": ""}}]}}),
        &[doc! {"a": "a.<]"}, doc! {"a": "x"}],
        &[doc! {"a": "a.]"}, doc! {"a": "ä.<]"}],
    );
    let stored = Bson::RegularExpression(bson::Regex {
        pattern: bson::cstr!("^a").into(),
        options: bson::cstr!("i").into(),
    });
    check(
        json!({"a": {"$not": {"$regularExpression": {"pattern": "^a", "options": "i"}}}}),
        &[doc! {"a": "b"}, doc! {}],
        &[doc! {"a": "Abc"}, doc! {"a": stored}],
    );
    for pattern in [
        r"(?=a)", r"(?<!a)", r"(a)\1", r"a++", r"a**", r"a$b", r"a{,2}", r"\p{L}", r"\v",
        r"(*UCP)a", r"(?i)a", r"[a", r"(a", r"\", r"\Qa\E", r"*a",
    ] {
        let error = filter(&json!({"a": {"$regex": pattern}})).unwrap_err().to_string();
        assert!(error.starts_with("`keep.a.$regex`: this pattern cannot"), "{pattern}: {error}");
    }
}

#[test]
fn a_fraction_is_compared_with_a_decimal_exactly() {
    let decimal = |text: &str| Bson::Decimal128(text.parse::<Decimal128>().unwrap());
    check(
        json!({"n": {"$gt": {"$numberDecimal": "0.1"}}}),
        // The double 0.1 is a little more than a tenth.
        &[doc! {"n": 0.1}, doc! {"n": decimal("0.10000000000000001")}],
        &[doc! {"n": decimal("0.10")}, doc! {"n": 0.09}, doc! {"n": -0.1}, doc! {"n": 0}],
    );
    check(
        json!({"n": {"$eq": 0.5}}),
        &[doc! {"n": decimal("0.50")}, doc! {"n": 0.5}],
        &[doc! {"n": decimal("0.5000000000000000000000000000000001")}],
    );
    check(
        json!({"n": {"$numberDouble": "NaN"}}),
        &[doc! {"n": f64::NAN}, doc! {"n": decimal("NaN")}],
        &[doc! {"n": 0}, doc! {}],
    );
    check(
        json!({"n": {"$lte": {"$numberDecimal": "-Infinity"}}}),
        &[doc! {"n": f64::NEG_INFINITY}, doc! {"n": decimal("-Infinity")}],
        &[doc! {"n": i64::MIN}, doc! {"n": f64::NAN}, doc! {"n": decimal("-1E+6144")}],
    );
}

#[test]
fn the_plan_names_each_top_level_field_once() {
    let filter = filter(&json!({"b.c": 1, "$or": [{"a": 1}, {"b.d": 2}]})).unwrap();
    assert_eq!(filter.plan().reads, ["a", "b"]);
    assert!(!filter.plan().replaces);
}

#[test]
fn a_wrong_configuration_is_refused_by_its_key() {
    let cases = [
        (json!({}), "`keep`: "),
        (json!({"a": {"$near": [1, 2]}}), "`keep.a.$near`: no such operator"),
        (json!({"a": {"$regex": 1}}), "`keep.a.$regex`: expected text"),
        (json!({"a": {"$regex": "x", "$options": 1}}), "`keep.a.$options`: expected text"),
        (json!({"a": {"$options": "i"}}), "`keep.a.$options`: it belongs"),
        (json!({"a": {"$regex": "x", "$options": "u"}}), "`keep.a.$regex`: no such option `u`"),
        (json!({"a": {"$size": -1}}), "`keep.a.$size`: expected a number of elements"),
        (json!({"a": {"$type": "text"}}), "`keep.a.$type`: expected the name"),
        (json!({"a": {"$type": ["string", 99]}}), "`keep.a.$type`: expected the name"),
        (json!({"a": {"$all": []}}), "`keep.a.$all`: expected a list"),
        (json!({"a": {"$elemMatch": 1}}), "`keep.a.$elemMatch`: expected a condition"),
        (json!({"a": {"$elemMatch": {"b": {"$x": 1}}}}), "`keep.a.$elemMatch.b.$x`: no such"),
        (json!({"a": {"$gt": {"$numberDecimal": "1e"}}}), "`keep.a.$gt.$numberDecimal`: expected"),
        (json!({"$where": "1"}), "`keep.$where`: no such operator"),
        (json!({"$or": []}), "`keep.$or`: expected a list"),
        (json!({"$or": [{"a": 1}, 5]}), "`keep.$or[1]`: expected a condition"),
        (json!({"a": {"$in": "x"}}), "`keep.a.$in`: expected a list"),
        (json!({"a": {"$exists": 1}}), "`keep.a.$exists`: expected true or false"),
        (json!({"a": {"b": 1, "c": 2}}), "`keep.a`: a document of several fields"),
        (
            json!({"a": {"$ne": {"$regularExpression": {"pattern": "a", "options": ""}}}}),
            "`keep.a.$ne`: a regular expression has no order",
        ),
        (json!({"a": {"$gt": 1, "b": 2}}), "`keep.a.b`: no such operator"),
        (json!({"a..b": 1}), "`keep.a..b`: a path"),
        (json!({"a": {"$oid": "xyz"}}), "`keep.a.$oid`: expected 24"),
        (json!({"a": {"$date": "today"}}), "`keep.a.$date`: expected milliseconds"),
        (json!({"a": {"$not": 5}}), "`keep.a.$not`: expected operators"),
    ];
    for (keep, expected) in cases {
        let error = filter(&keep).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{keep}: {error}");
    }
    let error = config::parse::<super::Config>(r#"{"keep":{"a":1},"kepe":{}}"#).unwrap_err();
    assert_eq!(error.to_string(), "`kepe`: no such key");
}

#[test]
fn a_truncated_document_is_an_error_not_a_verdict() {
    let mut bytes = doc! {"a": {"b": 1}, "c": "text"}.to_vec().unwrap();
    let end = bytes.len();
    bytes[end - 6] = 0x55;
    bytes[7] = 0x7E;
    let filter = filter(&json!({"c": "text"})).unwrap();
    let namespace = Namespace { database: "app", collection: "users" };
    assert!(filter.judge(&namespace, Raw::new(&bytes).unwrap()).is_err());
}
