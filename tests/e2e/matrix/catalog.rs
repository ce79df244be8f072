//! Collections, views and databases.

use mongodb::bson::{Document, doc};

use super::{Scenario, Step, index, insert, some, touch, update};

/// `renameCollection` between or within the databases of a scenario: names with a slash are in the
/// second database.
fn rename(scenario: &str, from: &str, to: &str, drop_target: bool) -> Step {
    let full = |name: &str| match name.strip_prefix('/') {
        Some(name) => format!("m_{scenario}_2.{name}"),
        None => format!("m_{scenario}.{name}"),
    };
    Step::Admin(doc! { "renameCollection": full(from), "to": full(to), "dropTarget": drop_target })
}

/// On the scenario's database.
fn own(command: Document) -> Step {
    Step::Own(command)
}

/// Every scenario of this file.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = creations();
    all.extend(drops());
    all.extend(renames());
    all.extend(modifications());
    all.extend(server_made());
    all
}

/// `create` with every option.
fn creations() -> Vec<Scenario> {
    let create = |name: &'static str, options: Document| {
        let mut command = doc! { "create": "made" };
        command.extend(options);
        let more = (0..5_i32).map(|n| doc! { "_id": format!("k{n}"), "a": n });
        Scenario::new(name, vec![some("kept")], vec![command, insert("made", more)])
    };
    vec![
        create("create_plain", doc! {}),
        create(
            "create_validator",
            doc! { "validator": { "$jsonSchema": { "required": ["a"] } },
            "validationLevel": "moderate", "validationAction": "warn" },
        ),
        create("create_expression", doc! { "validator": { "$expr": { "$gte": ["$a", 0] } } }),
        create(
            "create_collation",
            doc! { "collation": { "locale": "fr", "strength": 2, "backwards": true } },
        ),
        create("create_capped", doc! { "capped": true, "size": 100_000, "max": 3 }),
        create(
            "create_clustered",
            doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "mine" } },
        ),
        create(
            "create_clustered_ttl",
            doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true },
            "expireAfterSeconds": 7_200 },
        ),
        create(
            "create_clustered_collation",
            doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true },
            "collation": { "locale": "de", "strength": 2 } },
        ),
        create("create_images", doc! { "changeStreamPreAndPostImages": { "enabled": true } }),
        create(
            "create_engine",
            doc! { "storageEngine": { "wiredTiger": { "configString": "block_compressor=zlib" } } },
        ),
        create(
            "create_index_engine",
            doc! { "indexOptionDefaults": { "storageEngine": {
            "wiredTiger": { "configString": "prefix_compression=false" } } } },
        ),
        create(
            "create_capped_collation",
            doc! { "capped": true, "size": 9_000,
            "collation": { "locale": "sv", "caseLevel": true } },
        ),
        Scenario::new(
            "create_views",
            vec![some("base"), doc! { "create": "old", "viewOn": "base", "pipeline": [] }],
            vec![
                doc! { "create": "one", "viewOn": "base", "pipeline": [{ "$match": { "n": 1 } }] },
                doc! { "create": "two", "viewOn": "one", "pipeline": [{ "$project": { "n": 1 } }] },
                doc! { "create": "english", "viewOn": "base", "pipeline": [],
                "collation": { "locale": "en", "strength": 2 } },
                doc! { "collMod": "old", "viewOn": "one", "pipeline": [{ "$limit": 2 }] },
                touch("base"),
            ],
        ),
        Scenario::new(
            "create_implicitly",
            vec![some("kept")],
            vec![
                some("by_insert"),
                doc! { "update": "by_upsert", "updates": [
                { "q": { "_id": 1 }, "u": { "$set": { "a": 1 } }, "upsert": true } ] },
                index("by_index", doc! { "key": { "a": 1 }, "name": "a" }),
            ],
        ),
        Scenario::new(
            "create_odd_names",
            vec![some("dots.in.name"), some("space and ü")],
            vec![
                some("a..b"),
                some("x y"),
                touch("dots.in.name"),
                touch("space and ü"),
                some("-dash"),
                some("ends."),
                some("緑"),
            ],
        ),
    ]
}

/// `drop`, `dropDatabase`, and the same name again.
fn drops() -> Vec<Scenario> {
    let empty = doc! { "create": "empty" };
    vec![
        Scenario::new(
            "drop_plain",
            vec![some("gone"), some("kept")],
            vec![touch("gone"), doc! { "drop": "gone" }, touch("kept")],
        ),
        Scenario::new(
            "drop_and_recreate",
            vec![some("again")],
            vec![
                touch("again"),
                doc! { "drop": "again" },
                some("again"),
                touch("again"),
                doc! { "drop": "again" },
                doc! { "create": "again", "collation": { "locale": "de", "strength": 1 } },
                touch("again"),
            ],
        ),
        Scenario::new(
            "drop_and_change_kind",
            vec![
                doc! { "create": "ring", "capped": true, "size": 50_000 },
                some("ring"),
                some("plain"),
                some("base"),
                doc! { "create": "view", "viewOn": "base", "pipeline": [] },
            ],
            vec![
                doc! { "drop": "ring" },
                some("ring"),
                doc! { "drop": "plain" },
                doc! { "create": "plain", "capped": true, "size": 50_000 },
                some("plain"),
                doc! { "drop": "view" },
                some("view"),
                doc! { "drop": "base" },
                doc! { "create": "base", "viewOn": "view", "pipeline": [] },
            ],
        ),
        Scenario::new(
            "drop_with_indexes",
            vec![
                some("indexed"),
                index("indexed", doc! { "key": { "n": 1 }, "name": "n", "unique": true }),
            ],
            vec![
                doc! { "drop": "indexed" },
                some("indexed"),
                index("indexed", doc! { "key": { "m": 1 }, "name": "n" }),
            ],
        ),
        Scenario::new(
            "drop_empty",
            vec![empty.clone(), some("kept")],
            vec![doc! { "drop": "empty" }, empty],
        ),
        Scenario::new(
            "drop_database",
            vec![
                some("a"),
                some("b"),
                doc! {
                "create": "v", "viewOn": "a", "pipeline": [] },
            ],
            vec![touch("a"), doc! { "dropDatabase": 1 }],
        ),
        Scenario::new(
            "drop_database_again",
            vec![some("a"), some("b")],
            vec![
                doc! { "dropDatabase": 1 },
                some("a"),
                doc! { "dropDatabase": 1 },
                some("b"),
                touch("b"),
            ],
        ),
        Scenario::new(
            "letter_case",
            vec![some("Sample"), some("other")],
            vec![
                some("sample"),
                doc! { "drop": "Sample" },
                some("SAMPLE"),
                doc! { "drop": "other" },
                some("Other"),
            ],
        ),
    ]
}

/// `renameCollection`.
fn renames() -> Vec<Scenario> {
    let other = |command: Document| Step::Other(command);
    vec![
        Scenario::steps(
            "rename_chain",
            vec![some("a")],
            vec![
                own(touch("a")),
                rename("rename_chain", "a", "b", false),
                own(touch("b")),
                rename("rename_chain", "b", "c", false),
                own(touch("c")),
                rename("rename_chain", "c", "a", false),
                own(touch("a")),
                own(some("c")),
            ],
        ),
        Scenario::steps(
            "rename_swap",
            vec![some("a"), touch("b")],
            vec![
                rename("rename_swap", "a", "x", false),
                rename("rename_swap", "b", "a", false),
                rename("rename_swap", "x", "b", false),
                own(touch("a")),
                own(touch("b")),
            ],
        ),
        Scenario::steps(
            "rename_over",
            vec![some("a"), some("b"), touch("b")],
            vec![
                rename("rename_over", "a", "b", true),
                own(touch("b")),
                own(some("a")),
                rename("rename_over", "b", "a", true),
                own(touch("a")),
            ],
        ),
        Scenario::steps(
            "rename_case",
            vec![some("a")],
            vec![rename("rename_case", "a", "A", false), own(touch("A")), own(some("a"))],
        ),
        Scenario::steps(
            "rename_and_drop",
            vec![some("a"), some("b")],
            vec![
                rename("rename_and_drop", "a", "c", false),
                own(doc! { "drop": "c" }),
                own(some("c")),
                own(doc! { "drop": "b" }),
                rename("rename_and_drop", "c", "b", false),
                own(touch("b")),
            ],
        ),
        Scenario::steps(
            "rename_with_options",
            vec![
                doc! { "create": "ring", "capped": true, "size": 60_000 },
                some("ring"),
                doc! { "create": "german", "collation": { "locale": "de" } },
                some("german"),
                doc! { "create": "heap", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
                some("heap"),
                index("german", doc! { "key": { "s": 1 }, "name": "s", "unique": true }),
            ],
            vec![
                rename("rename_with_options", "ring", "ring2", false),
                own(touch("ring2")),
                rename("rename_with_options", "german", "german2", false),
                own(touch("german2")),
                rename("rename_with_options", "heap", "heap2", false),
                own(touch("heap2")),
                own(index("german2", doc! { "key": { "n": 1 }, "name": "n", "hidden": true })),
            ],
        ),
        Scenario::steps(
            "rename_database",
            vec![
                some("a"),
                index(
                    "a",
                    doc! { "key": { "n": -1 }, "name": "n", "unique": true, "sparse": true },
                ),
                some("stays"),
            ],
            vec![
                own(touch("a")),
                rename("rename_database", "a", "/a", false),
                other(touch("a")),
                other(update("a", doc! { "m": 1 }, doc! { "$inc": { "n": 100 } }, true)),
                rename("rename_database", "/a", "back", false),
                own(touch("back")),
            ],
        ),
        Scenario {
            before: vec![own(some("a")), other(some("a")), other(touch("a"))],
            ..Scenario::steps(
                "rename_database_over",
                vec![],
                vec![
                    rename("rename_database_over", "a", "/a", true),
                    other(touch("a")),
                    own(some("a")),
                ],
            )
        },
        Scenario::steps(
            "rename_implicit",
            vec![some("kept")],
            vec![
                own(some("fresh")),
                rename("rename_implicit", "fresh", "fresher", false),
                own(touch("fresher")),
                own(some("fresh")),
                rename("rename_implicit", "fresh", "fresher", true),
            ],
        ),
    ]
}

/// `collMod` of everything.
fn modifications() -> Vec<Scenario> {
    let ring = doc! { "create": "ring", "capped": true, "size": 100_000, "max": 1_000 };
    vec![
        Scenario::new(
            "modify_validator",
            vec![
                some("a"),
                doc! {
                "create": "b", "validator": { "n": { "$gte": 0 } } },
                some("b"),
            ],
            vec![
                doc! { "collMod": "a", "validator": { "n": { "$gte": -5 } }, "validationLevel": "moderate" },
                doc! { "collMod": "a", "validationAction": "warn" },
                touch("a"),
                doc! { "collMod": "b", "validator": {} },
                insert("b", [doc! { "_id": "x", "n": -1 }]),
                doc! { "collMod": "b", "validationLevel": "off" },
            ],
        ),
        Scenario::new(
            "modify_images",
            vec![
                some("a"),
                doc! {
                "create": "b", "changeStreamPreAndPostImages": { "enabled": true } },
                some("b"),
            ],
            vec![
                doc! { "collMod": "a", "changeStreamPreAndPostImages": { "enabled": true } },
                touch("a"),
                doc! { "collMod": "b", "changeStreamPreAndPostImages": { "enabled": false } },
                touch("b"),
            ],
        ),
        Scenario::new(
            "modify_capped",
            vec![ring.clone(), some("ring")],
            vec![
                doc! { "collMod": "ring", "cappedSize": 200_000 },
                touch("ring"),
                doc! { "collMod": "ring", "cappedMax": 500 },
                touch("ring"),
                doc! { "collMod": "ring", "cappedSize": 150_000, "cappedMax": 400 },
            ],
        ),
        Scenario::new(
            "modify_clustered",
            vec![
                doc! {
                "create": "a", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
                some("a"),
                doc! {
                "create": "b", "clusteredIndex": { "key": { "_id": 1 }, "unique": true },
                "expireAfterSeconds": 9_000 },
                some("b"),
            ],
            vec![
                doc! { "collMod": "a", "expireAfterSeconds": 5_000 },
                touch("a"),
                doc! { "collMod": "b", "expireAfterSeconds": "off" },
                touch("b"),
            ],
        ),
        Scenario::new(
            "modify_indexes",
            vec![
                some("a"),
                index("a", doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 3_600 }),
                index("a", doc! { "key": { "s": 1 }, "name": "plain" }),
                index("a", doc! { "key": { "n": 1 }, "name": "uni" }),
                index("a", doc! { "key": { "m": 1 }, "name": "hid", "hidden": true }),
                index("a", doc! { "key": { "n": -1 }, "name": "prepared" }),
            ],
            vec![
                doc! { "collMod": "a", "index": { "name": "ttl", "expireAfterSeconds": 7_200 } },
                doc! { "collMod": "a", "index": { "keyPattern": { "s": 1 }, "hidden": true } },
                doc! { "collMod": "a", "index": { "name": "plain", "expireAfterSeconds": 900 } },
                doc! { "collMod": "a", "index": { "name": "hid", "hidden": false } },
                doc! { "collMod": "a", "index": { "name": "uni", "prepareUnique": true } },
                touch("a"),
                doc! { "collMod": "a", "index": { "name": "uni", "unique": true } },
                doc! { "collMod": "a", "index": { "name": "prepared", "prepareUnique": true } },
            ],
        ),
        Scenario::new(
            "modify_unprepare",
            vec![some("a"), index("a", doc! { "key": { "n": 1 }, "name": "n" })],
            vec![
                doc! { "collMod": "a", "index": { "name": "n", "prepareUnique": true } },
                touch("a"),
                doc! { "collMod": "a", "index": { "name": "n", "prepareUnique": false } },
                insert("a", [doc! { "_id": "x", "n": 1 }, doc! { "_id": "y", "n": 1 }]),
            ],
        ),
        Scenario::new(
            "modify_and_index_at_once",
            vec![some("a"), index("a", doc! { "key": { "s": 1 }, "name": "s" })],
            vec![
                doc! { "collMod": "a", "index": { "name": "s", "hidden": true },
                "validator": { "n": { "$ne": 77 } } },
                touch("a"),
            ],
        ),
    ]
}

/// Collections that the server makes on the way to something else.
fn server_made() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "made_by_out",
            vec![
                some("from"),
                some("into"),
                index(
                    "into",
                    doc! {
                    "key": { "n": 1 }, "name": "n" },
                ),
            ],
            vec![
                doc! { "aggregate": "from", "pipeline": [{ "$match": { "m": 1 } }, { "$out": "into" }], "cursor": {} },
                touch("into"),
                doc! { "aggregate": "from", "pipeline": [{ "$out": "fresh" }], "cursor": {} },
            ],
        ),
        Scenario::new(
            "made_by_merge",
            vec![some("from"), some("into")],
            vec![doc! { "aggregate": "from", "cursor": {}, "pipeline": [
            { "$set": { "merged": true, "_id": { "$add": ["$_id", 6] } } }, { "$merge": "into" }] }],
        ),
    ]
}
