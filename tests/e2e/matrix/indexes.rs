//! Indexes of every kind, made, dropped and made again.

use mongodb::bson::{Document, doc};

use super::{Scenario, index, insert, some, touch};

/// One index of every kind.
fn kinds() -> Vec<Document> {
    vec![
        doc! { "key": { "n": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "n": -1 }, "name": "sparse", "sparse": true },
        doc! { "key": { "m": 1, "n": -1, "s": 1 }, "name": "compound" },
        doc! { "key": { "s": 1, "n": 1 }, "name": "partial_unique", "unique": true,
        "partialFilterExpression": { "n": { "$gt": 3 } } },
        doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 3_600 },
        doc! { "key": { "at": -1 }, "name": "ttl_now", "expireAfterSeconds": 0, "partialFilterExpression": { "never": true } },
        doc! { "key": { "s": 1 }, "name": "hidden", "hidden": true },
        doc! { "key": { "s": "text", "t": "text" }, "name": "text", "weights": { "s": 5, "t": 2 },
        "default_language": "german", "language_override": "lang" },
        doc! { "key": { "flat": "2d" }, "name": "flat", "bits": 20, "min": -90.0, "max": 90.0 },
        doc! { "key": { "place": "2dsphere", "n": 1 }, "name": "sphere" },
        doc! { "key": { "place": "2dsphere" }, "name": "sphere_old", "2dsphereIndexVersion": 2 },
        doc! { "key": { "s": "hashed" }, "name": "hashed" },
        doc! { "key": { "n": 1, "s": "hashed" }, "name": "compound_hashed" },
        doc! { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "s": 1, "deep.er": 1 } },
        doc! { "key": { "deep.$**": 1 }, "name": "wild_path" },
        doc! { "key": { "s": 1, "m": 1 }, "name": "collated", "collation": { "locale": "fr", "strength": 2 } },
        doc! { "key": { "m": -1.0 }, "name": "double" },
        doc! { "key": { "m": -0.5 }, "name": "fraction" },
        doc! { "key": { "m": mongodb::bson::Bson::Int64(1), "s": -1 }, "name": "long" },
        doc! { "key": { "deep.0.x": 1 }, "name": "numeric path" },
        doc! { "key": { "n": 1, "at": 1 }, "name": "storage", "storageEngine": {
        "wiredTiger": { "configString": "prefix_compression=false" } } },
        doc! { "key": { "_id": 1, "n": 1 }, "name": "with_id", "unique": true, "sparse": true },
    ]
}

/// `createIndexes` with all of them at once.
fn at_once(name: &str) -> Document {
    doc! { "createIndexes": name, "indexes": kinds() }
}

/// Every scenario of this file.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = vec![
        Scenario::new("index_all_at_once", vec![some("a")], vec![at_once("a"), touch("a")]),
        Scenario::new("index_all_there", vec![some("a"), at_once("a")], vec![touch("a")]),
        Scenario::new(
            "index_all_dropped",
            vec![some("a"), at_once("a")],
            vec![doc! { "dropIndexes": "a", "index": "*" }, touch("a")],
        ),
        Scenario::new(
            "index_some_dropped",
            vec![some("a"), at_once("a")],
            vec![
                doc! { "dropIndexes": "a", "index": "unique" },
                doc! { "dropIndexes": "a", "index": { "n": -1 } },
                doc! { "dropIndexes": "a", "index": ["ttl", "hidden", "text"] },
                touch("a"),
            ],
        ),
        Scenario::new(
            "index_other_under_same_name",
            vec![some("a"), index("a", doc! { "key": { "n": 1 }, "name": "x", "unique": true })],
            vec![
                doc! { "dropIndexes": "a", "index": "x" },
                index("a", doc! { "key": { "m": 1 }, "name": "x" }),
                doc! { "dropIndexes": "a", "index": "x" },
                insert("a", [doc! { "_id": "twin", "n": 1 }]),
                index("a", doc! { "key": { "n": 1 }, "name": "x", "sparse": true }),
            ],
        ),
        Scenario::new(
            "index_made_and_dropped",
            vec![some("a")],
            vec![
                index("a", doc! { "key": { "n": 1 }, "name": "fleeting" }),
                doc! { "dropIndexes": "a", "index": "fleeting" },
                index("a", doc! { "key": { "m": 1 }, "name": "stays" }),
            ],
        ),
        Scenario::new("index_of_empty", vec![doc! { "create": "empty" }], vec![at_once("empty")]),
        Scenario::new(
            "index_of_collated",
            vec![
                doc! { "create": "a", "collation": { "locale": "de", "strength": 2 } },
                some("a"),
                index("a", doc! { "key": { "s": 1 }, "name": "inherits" }),
            ],
            vec![
                index("a", doc! { "key": { "n": 1 }, "name": "inherits2" }),
                index(
                    "a",
                    doc! { "key": { "s": 1 }, "name": "simple", "collation": { "locale": "simple" } },
                ),
                index(
                    "a",
                    doc! { "key": { "s": 1, "n": 1 }, "name": "other", "collation": { "locale": "fr" } },
                ),
                index(
                    "a",
                    doc! { "key": { "s": "hashed" }, "name": "hash", "collation": { "locale": "simple" } },
                ),
                touch("a"),
            ],
        ),
        Scenario::new(
            "index_of_clustered",
            vec![
                doc! { "create": "a", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
                some("a"),
            ],
            vec![index("a", doc! { "key": { "n": 1 }, "name": "n", "unique": true }), touch("a")],
        ),
        Scenario::new(
            "index_twins",
            vec![
                some("a"),
                index("a", doc! { "key": { "n": 1 }, "name": "plain" }),
                index("a", doc! { "key": { "n": 1 }, "name": "sparse", "sparse": true }),
                index(
                    "a",
                    doc! { "key": { "n": 1 }, "name": "partial", "partialFilterExpression": { "m": 1 } },
                ),
            ],
            vec![index(
                "a",
                doc! { "key": { "n": 1 }, "name": "collated", "collation": { "locale": "en" } },
            )],
        ),
    ];
    // Values that wander between documents while a unique index exists on the source.
    let set = |id: usize, n: i32| {
        doc! { "update": "a", "updates": [{ "q": { "_id": id as i32 }, "u": { "$set": { "n": n } } }] }
    };
    let mut values: Vec<i32> = (0..12).collect();
    let mut during = Vec::new();
    for one in 0..11 {
        let other = one + 1;
        during.push(set(one, 1_000));
        during.push(set(other, values[one]));
        during.push(set(one, values[other]));
        values.swap(one, other);
    }
    all.push(Scenario::new(
        "index_values_wander",
        vec![some("a"), index("a", doc! { "key": { "n": 1 }, "name": "n", "unique": true })],
        during,
    ));
    all
}
