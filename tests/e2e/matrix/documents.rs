//! Changes of documents: every form an update can take, transactions, and large ones.

use mongodb::bson::{Bson, Document, Timestamp, doc};

use super::{Scenario, Step, insert, some, touch, update};

/// Bytes of the largest filler that fits into a document with a few more fields.
const ALMOST_16_MIB: usize = 16 * 1024 * 1024 - 200;

/// A pipeline update.
fn pipeline(name: &str, query: Document, stages: Vec<Document>) -> Document {
    update(name, query, stages.into_iter().map(Bson::Document).collect::<Vec<_>>(), true)
}

/// Documents with arrays, nested documents and names that look like paths.
fn nested(name: &str) -> Document {
    insert(
        name,
        (0..12_i32).map(|n| {
            doc! {
                "_id": n, "z": n, "list": (0..10).collect::<Vec<i32>>(), "a": { "b": { "c": n } },
                "rows": [{ "k": 1, "v": [1, 2, 3] }, { "k": 2, "v": [4, 5, 6] }],
                "0": { "1": n }, "n": n,
            }
        }),
    )
}

/// Every scenario of this file.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = updates();
    all.extend(odd_fields());
    all.extend(others());
    all.extend(transactions());
    all.extend(large());
    all
}

/// Updates by modifiers and pipelines.
fn updates() -> Vec<Scenario> {
    let set =
        |fields: Document| update("a", doc! { "_id": { "$lt": 6 } }, doc! { "$set": fields }, true);
    vec![
        Scenario::new(
            "update_fields",
            vec![nested("a")],
            vec![
                set(doc! { "new": 1, "a.b.c": "x", "a.b.d": 2, "a.e.f.g": 3 }),
                set(
                    doc! { "list.3": "three", "list.12": "far", "rows.0.v.1": 9, "0.1": "numeric" },
                ),
                update(
                    "a",
                    doc! { "_id": 7 },
                    doc! { "$unset": { "z": "", "a.b": "", "rows.0": "" } },
                    false,
                ),
                update("a", doc! { "_id": 8 }, doc! { "$rename": { "z": "a.z", "n": "m" } }, false),
                update(
                    "a",
                    doc! { "_id": 9 },
                    doc! { "$inc": { "n": 1 }, "$mul": { "z": 2.5 },
                    "$min": { "a.b.c": -1 }, "$bit": { "list.2": { "xor": 5 } },
                    "$currentDate": { "when": true, "stamp": { "$type": "timestamp" } } },
                    false,
                ),
            ],
        ),
        Scenario::new(
            "update_arrays",
            vec![nested("a")],
            vec![
                update(
                    "a",
                    doc! {},
                    doc! { "$push": { "list": { "$each": [7, 8], "$position": 2, "$slice": 9 } } },
                    true,
                ),
                update(
                    "a",
                    doc! {},
                    doc! { "$pull": { "list": { "$gt": 6 } }, "$addToSet": { "set": "x" } },
                    true,
                ),
                update("a", doc! {}, doc! { "$pop": { "rows": -1 } }, true),
                update("a", doc! { "list": 2 }, doc! { "$set": { "list.$": "two" } }, true),
                update("a", doc! {}, doc! { "$inc": { "rows.$[].v.$[]": 10 } }, true),
                doc! { "update": "a", "updates": [{ "q": {}, "u": { "$set": { "rows.$[r].k": 99 } },
                "arrayFilters": [{ "r.k": 2 }], "multi": true }] },
                update(
                    "a",
                    doc! {},
                    doc! { "$push": { "list": { "$each": [], "$sort": -1 } } },
                    true,
                ),
            ],
        ),
        Scenario::new(
            "update_truncates",
            vec![nested("a")],
            vec![
                pipeline(
                    "a",
                    doc! {},
                    vec![doc! { "$set": { "list": { "$slice": ["$list", 3] } } }],
                ),
                pipeline(
                    "a",
                    doc! { "_id": { "$lt": 5 } },
                    vec![doc! { "$set": {
                    "rows": { "$map": { "input": "$rows", "in": { "k": "$$this.k", "v": { "$slice": ["$$this.v", 1] } } } } } }],
                ),
            ],
        ),
        Scenario::new(
            "update_reorders",
            vec![nested("a")],
            vec![
                pipeline(
                    "a",
                    doc! {},
                    vec![doc! { "$replaceWith": {
                    "$mergeObjects": [{ "_id": "$_id", "n": 1, "list": [] }, "$$ROOT"] } }],
                ),
                pipeline(
                    "a",
                    doc! {},
                    vec![doc! { "$unset": "z" }, doc! { "$set": { "z": { "$literal": 3 } } }],
                ),
                pipeline("a", doc! {}, vec![doc! { "$set": { "a": { "q": 1, "b": "$a.b" } } }]),
            ],
        ),
        Scenario::new(
            "update_upserts",
            vec![some("a")],
            vec![
                doc! { "update": "a", "updates": [
                    { "q": { "_id": 100 }, "u": { "$set": { "x": 1 }, "$setOnInsert": { "y": 2 } }, "upsert": true },
                    { "q": { "_id": 101, "q": 5 }, "u": { "r": 1 }, "upsert": true },
                    { "q": { "s": "nobody" }, "u": { "$set": { "x": 1 } }, "upsert": true },
                    { "q": { "_id": 1 }, "u": { "replaced": true }, "upsert": true },
                ] },
                doc! { "update": "a", "updates": [{ "q": { "_id": 103 },
                "u": [{ "$set": { "p": { "$add": [1, 2] } } }], "upsert": true }] },
                doc! { "findAndModify": "a", "query": { "_id": 104 }, "update": { "f": 1 }, "upsert": true },
                doc! { "findAndModify": "a", "query": { "_id": 2 }, "update": { "$set": { "g": 1 } }, "new": true },
                doc! { "findAndModify": "a", "query": { "_id": 3 }, "remove": true },
            ],
        ),
        Scenario::new(
            "update_many_times",
            vec![some("a")],
            (0..150_i32)
                .map(|n| match n % 5 {
                    0 => doc! { "delete": "a", "deletes": [{ "q": { "_id": 3 }, "limit": 1 }] },
                    1 => insert("a", [doc! { "_id": 3, "n": n }]),
                    2 => update("a", doc! { "_id": 3 }, doc! { "$push": { "log": n } }, false),
                    3 => update("a", doc! { "_id": 3 }, doc! { "whole": n }, false),
                    _ => update(
                        "a",
                        doc! { "_id": 3 },
                        doc! { "$set": { format!("f{n}"): n } },
                        false,
                    ),
                })
                .collect(),
        ),
    ]
}

/// Field names with dots and dollars, numbers as names, empty names, odd values.
fn odd_fields() -> Vec<Scenario> {
    let odd = |n: i32| {
        doc! {
            "_id": n, "a.b": 1, "$c": 2, "a": { "b": 3, "$d": 4, "e.f": 5 }, "0": [{ "0": 1, "": 2 }], "": "empty",
            "long": { "0": { "1": { "2": [1, 2, 3] } } }, "ünï": "ç",
        }
    };
    let field = |name: &str, value: Bson| {
        doc! { "$replaceWith": { "$setField": {
        "field": { "$literal": name }, "input": "$$ROOT", "value": { "$literal": value } } } }
    };
    vec![
        Scenario::new(
            "odd_names",
            vec![insert("a", (0..10).map(odd))],
            vec![
                insert("a", (20..25).map(odd)),
                update(
                    "a",
                    doc! { "_id": { "$lt": 5 } },
                    doc! { "$set": { "a.b": "inner", "long.0.1.2.1": 9, "0.0.0": 7 } },
                    true,
                ),
                pipeline("a", doc! { "_id": { "$gt": 2 } }, vec![field("a.b", Bson::Int32(77))]),
                pipeline("a", doc! { "_id": { "$gt": 4 } }, vec![field("$c", Bson::Int32(78))]),
                pipeline(
                    "a",
                    doc! { "_id": 22 },
                    vec![field("x.y.z", Bson::Array(vec![1.into(), 2.into()]))],
                ),
                update(
                    "a",
                    doc! { "_id": 3 },
                    doc! { "$unset": { "a.b": "", "long.0": "" } },
                    false,
                ),
                doc! { "delete": "a", "deletes": [{ "q": { "_id": 21 }, "limit": 1 }] },
            ],
        ),
        Scenario::new(
            "odd_numeric_paths",
            vec![
                insert(
                    "a",
                    [
                        doc! { "_id": 1, "x": [{ "0": "inner" }] },
                        doc! { "_id": 2, "x": { "0": [1] } },
                    ],
                ),
                super::index("a", doc! { "key": { "x": 1 }, "name": "x" }),
            ],
            vec![
                update("a", doc! { "_id": 2 }, doc! { "$set": { "x.0.0": 5, "x.1": 6 } }, false),
                pipeline(
                    "a",
                    doc! { "_id": 1 },
                    vec![doc! { "$set": { "x": [{ "0": "other", "1": 2 }] } }],
                ),
                update("a", doc! {}, doc! { "$set": { "y.0": 1 } }, true),
                // The index would be ambiguous with both of these at once; the server takes one alone.
                super::index("a", doc! { "key": { "y.0": 1 }, "name": "y0" }),
            ],
        ),
        Scenario::new(
            "odd_values",
            vec![
                some("a"),
                insert(
                    "a",
                    [
                        doc! { "_id": "zero", "nested": { "ts": Timestamp { time: 0, increment: 0 } }, "last": 1 },
                    ],
                ),
            ],
            vec![
                // The server fills a zero timestamp at the top in on an insert, not on an update.
                update(
                    "a",
                    doc! { "_id": { "$lt": 4 } },
                    doc! { "$set": { "ts": Timestamp { time: 0, increment: 0 } } },
                    true,
                ),
                update(
                    "a",
                    doc! { "_id": "zero" },
                    doc! { "$set": { "nested.n": -0.0, "big": i64::MIN } },
                    false,
                ),
                insert(
                    "a",
                    [
                        doc! { "_id": "symbols", "s": Bson::Symbol("old".into()), "u": Bson::Undefined,
                        "code": Bson::JavaScriptCode("f()".into()), "nan": f64::NAN, "inf": f64::NEG_INFINITY,
                        "min": Bson::MinKey, "max": Bson::MaxKey },
                    ],
                ),
                update(
                    "a",
                    doc! { "_id": "symbols" },
                    doc! { "$set": { "s2": Bson::Symbol("new".into()) } },
                    false,
                ),
            ],
        ),
        Scenario::new(
            "odd_values_before",
            vec![
                some("a"),
                update(
                    "a",
                    doc! { "_id": { "$lt": 4 } },
                    doc! { "$set": { "ts": Timestamp { time: 0, increment: 0 } } },
                    true,
                ),
            ],
            vec![update("a", doc! { "_id": 1 }, doc! { "$set": { "more": 1 } }, false)],
        ),
    ]
}

/// Deletes, collated and capped collections.
fn others() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "delete_many",
            vec![some("a"), some("b")],
            vec![
                doc! { "delete": "a", "deletes": [{ "q": { "m": 1 }, "limit": 0 }] },
                doc! { "delete": "b", "deletes": [{ "q": {}, "limit": 0 }] },
                insert("b", [doc! { "_id": 3, "again": true }]),
            ],
        ),
        Scenario::new(
            "collated_ids",
            vec![
                doc! { "create": "a", "collation": { "locale": "en", "strength": 2 } },
                insert("a", ["a", "B", "c", "D"].map(|id| doc! { "_id": id, "v": 1 })),
            ],
            vec![
                // Another spelling of the same key.
                doc! { "delete": "a", "deletes": [{ "q": { "_id": "A" }, "limit": 1 }] },
                insert("a", [doc! { "_id": "A", "v": 2 }, doc! { "_id": "e", "v": 2 }]),
                update("a", doc! { "_id": "A" }, doc! { "$set": { "more": 1 } }, false),
                update("a", doc! { "_id": "b" }, doc! { "$set": { "v": 3 } }, false),
                doc! { "delete": "a", "deletes": [{ "q": { "_id": "C" }, "limit": 1 }] },
                update("a", doc! { "_id": "d" }, doc! { "replaced": 1 }, false),
            ],
        ),
        Scenario::new(
            "capped_order",
            vec![
                doc! { "create": "a", "capped": true, "size": 20_000, "max": 40 },
                insert("a", (0..60_i32).rev().map(|n| doc! { "_id": n, "v": n })),
            ],
            (100..160_i32)
                .rev()
                .map(|n| insert("a", [doc! { "_id": n, "v": n }]))
                .chain([update("a", doc! { "_id": 120 }, doc! { "$set": { "v": -1 } }, false)])
                .collect(),
        ),
    ]
}

/// Transactions, small and larger than one oplog entry.
fn transactions() -> Vec<Scenario> {
    let blob = |n: i32| doc! { "_id": format!("blob{n}"), "text": "t".repeat(1 << 20) };
    let large = (0..17).map(|n| insert(if n % 2 == 0 { "a" } else { "b" }, [blob(n)])).collect();
    vec![
        Scenario::steps(
            "transaction_small",
            vec![some("a"), some("b")],
            vec![
                Step::Transaction(vec![
                    update("a", doc! { "m": 1 }, doc! { "$set": { "in": "transaction" } }, true),
                    doc! { "delete": "b", "deletes": [{ "q": { "m": 2 }, "limit": 0 }] },
                    insert("b", [doc! { "_id": 2, "again": true }]),
                    touch("a"),
                ]),
                Step::Transaction(vec![
                    some("made_within"),
                    touch("a"),
                    doc! { "create": "made_empty" },
                ]),
            ],
        ),
        Scenario::steps(
            "transaction_large",
            vec![some("a"), some("b")],
            vec![
                Step::Transaction(large),
                Step::Own(touch("a")),
                Step::Transaction(vec![
                    update("a", doc! { "_id": "blob0" }, doc! { "$set": { "x": 1 } }, false),
                    doc! { "delete": "b", "deletes": [{ "q": { "_id": "blob1" }, "limit": 1 }] },
                    insert("b", [doc! { "_id": "blob1", "small": true }]),
                ]),
            ],
        ),
    ]
}

/// Documents at the server's limit, and keys so large that an event does not fit into a document.
fn large() -> Vec<Scenario> {
    let full = |id: &str| doc! { "_id": id, "text": "f".repeat(ALMOST_16_MIB) };
    // The resume token carries the key in hexadecimal, and the event carries the key twice.
    let wide = |letter: &str| doc! { "_id": letter.repeat(300 << 10), "text": "w".repeat(15_600_000), "n": 1 };
    vec![
        Scenario::new(
            "large_documents",
            vec![insert("a", [full("before")]), insert("a", [full("gone")])],
            vec![
                insert("a", [full("during")]),
                update("a", doc! { "_id": "before" }, doc! { "$set": { "n": 1 } }, false),
                update(
                    "a",
                    doc! { "_id": "during" },
                    doc! { "text": "F".repeat(ALMOST_16_MIB) },
                    false,
                ),
                doc! { "delete": "a", "deletes": [{ "q": { "_id": "gone" }, "limit": 1 }] },
                touch("a"),
            ],
        ),
        Scenario::new(
            "large_events",
            vec![some("a"), insert("a", [wide("b")])],
            vec![
                insert("a", [wide("d")]),
                update(
                    "a",
                    doc! { "n": 1, "text": { "$exists": true } },
                    doc! { "$set": { "n": 2 } },
                    true,
                ),
                update(
                    "a",
                    doc! { "n": 2, "_id": { "$gt": "c" } },
                    doc! { "text": "W".repeat(15_600_000), "n": 3 },
                    false,
                ),
                touch("a"),
            ],
        ),
    ]
}
