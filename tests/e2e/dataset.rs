//! A source with a little of everything.

use anyhow::Result;
use mongodb::{
    Client,
    bson::{Document, doc},
};
use syncline_tests::workload;

/// Fills a cluster with collections, options, indexes, views and documents of many kinds.
pub async fn varied(client: &Client) -> Result<()> {
    plain(client).await?;
    options(client).await?;
    indexes(client).await
}

/// Collections without options, with ids of all types.
async fn plain(client: &Client) -> Result<()> {
    workload::seed(client, "app", "mixed", 4000, 1).await?;
    workload::seed(client, "app", "Mixed", 50, 2).await?;
    workload::seed(client, "other-db", "dots.in.name", 300, 3).await?;
    client.database("app").run_command(doc! { "create": "empty" }).await?;
    let large: Vec<Document> = (0..6_i32)
        .map(|number| doc! { "_id": number, "text": "x".repeat(3 << 20), "n": { "n": number } })
        .collect();
    client.database("app").collection("large").insert_many(large).await?;
    Ok(())
}

/// Collections with options.
async fn options(client: &Client) -> Result<()> {
    let database = client.database("opt");
    for command in [
        doc! { "create": "validated", "validator": { "$jsonSchema": { "required": ["a"] } },
        "validationLevel": "moderate", "validationAction": "warn" },
        doc! { "create": "german", "collation": { "locale": "de", "strength": 2 } },
        doc! { "create": "ring", "capped": true, "size": 1 << 20, "max": 500 },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "cx" } },
        doc! { "create": "images", "changeStreamPreAndPostImages": { "enabled": true } },
        doc! { "create": "adults", "viewOn": "validated", "pipeline": [{ "$match": { "a": { "$gt": 18 } } }] },
        doc! { "create": "view_of_view", "viewOn": "adults", "pipeline": [{ "$project": { "a": 1 } }] },
        doc! { "create": "french", "viewOn": "validated", "pipeline": [], "collation": { "locale": "fr" } },
    ] {
        database.run_command(command).await?;
    }
    for name in ["validated", "german", "ring", "clustered", "images"] {
        let documents: Vec<Document> =
            (0..200_i32).map(|number| doc! { "_id": format!("k{number}"), "a": number }).collect();
        database.collection(name).insert_many(documents).await?;
    }
    // Natural order of a capped collection is not the order of its ids.
    let more: Vec<Document> =
        (0..400_i32).rev().map(|number| doc! { "_id": number, "a": number }).collect();
    database.collection("ring").insert_many(more).await?;
    Ok(())
}

/// Indexes of every kind.
async fn indexes(client: &Client) -> Result<()> {
    let documents: Vec<Document> = (0..500_i32)
        .map(|number| {
            doc! {
                "_id": number, "u": number, "t": mongodb::bson::DateTime::now(), "text": "some words",
                "where": { "type": "Point", "coordinates": [f64::from(number % 90), 10.5] },
                "list": [number, number + 1], "deep": { "er": number % 7 },
            }
        })
        .collect();
    let database = client.database("idx");
    database.collection("many").insert_many(documents).await?;
    let specs = vec![
        doc! { "key": { "u": 1 }, "name": "unique", "unique": true },
        doc! { "key": { "deep.er": 1, "u": -1 }, "name": "compound" },
        doc! { "key": { "t": 1 }, "name": "ttl", "expireAfterSeconds": 86_400 },
        doc! { "key": { "list": 1 }, "name": "multikey_hidden", "hidden": true },
        doc! { "key": { "where": "2dsphere" }, "name": "sphere" },
        doc! { "key": { "text": "text" }, "name": "words", "default_language": "english" },
        doc! { "key": { "$**": 1 }, "name": "wild", "wildcardProjection": { "text": 0 } },
        doc! { "key": { "u": "hashed" }, "name": "hashed" },
        doc! { "key": { "list": 1, "u": 1 }, "name": "sparse", "sparse": true },
        doc! { "key": { "u": 1, "t": 1 }, "name": "partial_unique", "unique": true,
        "partialFilterExpression": { "u": { "$gt": 100 } } },
        doc! { "key": { "text": 1 }, "name": "folded", "collation": { "locale": "en", "strength": 1 } },
        doc! { "key": { "deep.er": -1.0 }, "name": "double_direction" },
    ];
    database.run_command(doc! { "createIndexes": "many", "indexes": specs }).await?;
    let german = doc! { "createIndexes": "german", "indexes": [
        { "key": { "a": 1 }, "name": "inherited" },
        { "key": { "b": 1 }, "name": "simple", "collation": { "locale": "simple" } },
    ] };
    client.database("opt").run_command(german).await?;
    Ok(())
}
