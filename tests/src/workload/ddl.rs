//! One writer that changes the catalog, in the workload's database and in a second one that comes and
//! goes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use mongodb::{
    Database,
    bson::{Document, doc},
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters,
    documents::{document, id},
    is_expected,
};
use crate::random::Random;

/// Collections that this writer plays with; none of them is another writer's.
const NAMES: [&str; 4] = ["moving_a", "moving_b", "moving_c", "Moving_A"];
/// Indexes that it drops; `*` are all of them.
const DROPPED: [&str; 10] = [
    "f0_up",
    "f1_down",
    "count_sparse",
    "count_up",
    "at_ttl",
    "place_sphere",
    "spot_flat",
    "title_text",
    "count_hashed",
    "*",
];
/// Views that it makes.
const VIEWS: [&str; 2] = ["seen_a", "seen_b"];

/// A task that creates, renames and drops collections and indexes until it is stopped.
pub(super) struct DdlWriter {
    /// Where.
    database: Database,
    /// Own random numbers.
    random: Random,
    /// Collections of the other writers, for indexes.
    others: Vec<String>,
    /// Whether servers die meanwhile.
    faults: bool,
    /// Shared counters.
    counters: Arc<Counters>,
}

impl DdlWriter {
    /// A writer with its own random numbers.
    pub(super) fn new(
        database: Database,
        random: Random,
        others: Vec<String>,
        faults: bool,
        counters: Arc<Counters>,
    ) -> Self {
        Self { database, random, others, faults, counters }
    }

    /// Changes the catalog until stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            match self.step().await {
                Ok(()) => self.counters.ddl.fetch_add(1, Ordering::Relaxed),
                Err(error) if is_expected(&error, self.faults) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed)
                }
                Err(error) => return Err(error).context("the catalog writer failed"),
            };
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// One change.
    async fn step(&mut self) -> mongodb::error::Result<()> {
        let database = self.place();
        let name = *self.random.pick(&NAMES);
        match self.random.below(26) {
            0 | 1 => {
                let command = self.creation(name);
                database.run_command(command).await?;
            }
            2..7 => {
                // Implicit creation, or more documents.
                let first = self.random.below(500);
                let batch: Vec<Document> = (first..first + 20)
                    .map(|number| document(&mut self.random, id(number)))
                    .collect();
                database.collection(name).insert_many(batch).ordered(false).await?;
            }
            7 | 8 => database.collection::<Document>(name).drop().await?,
            9..12 => {
                let (from, to) = (database.name().to_owned(), self.place().name().to_owned());
                let other = *self.random.pick(&NAMES);
                let command = doc! {
                    "renameCollection": format!("{from}.{name}"),
                    "to": format!("{to}.{other}"),
                    "dropTarget": self.random.chance(50),
                };
                self.database.client().database("admin").run_command(command).await?;
            }
            12..16 => {
                let target = self.indexed(&database, name);
                let spec = self.index();
                database.run_command(doc! { "createIndexes": target, "indexes": [spec] }).await?;
            }
            16 => {
                let target = self.indexed(&database, name);
                let index = *self.random.pick(&DROPPED);
                // All of them only where nothing else relies on one.
                let target = if index == "*" { name.to_owned() } else { target };
                database.run_command(doc! { "dropIndexes": target, "index": index }).await?;
            }
            17..20 => {
                let command = self.modification(name);
                database.run_command(command).await?;
            }
            20 => {
                let pipeline = [doc! { "$limit": 40 }, doc! { "$out": name }];
                let from = self.random.pick(&self.others).clone();
                self.database.collection::<Document>(&from).aggregate(pipeline).await?;
            }
            21 | 22 => self.transaction(&database, name).await?,
            23 | 24 => self.misfit(&database, name).await?,
            _ if self.random.chance(30) => self.spare().drop().await?,
            _ => {
                let from = self.random.pick(&self.others).clone();
                let view = doc! { "create": *self.random.pick(&VIEWS), "viewOn": from,
                "pipeline": [{ "$match": { "count": { "$gt": self.random.below(900) as i32 } } }] };
                let gone = *self.random.pick(&VIEWS);
                self.database.collection::<Document>(gone).drop().await?;
                self.database.run_command(view).await?;
            }
        }
        Ok(())
    }

    /// The database that comes and goes.
    fn spare(&self) -> Database {
        self.database.client().database(&format!("{}_two", self.database.name()))
    }

    /// One of the two databases.
    fn place(&mut self) -> Database {
        if self.random.chance(75) { self.database.clone() } else { self.spare() }
    }

    /// `create` with one of many options.
    fn creation(&mut self, name: &str) -> Document {
        let mut command = doc! { "create": name };
        let options = match self.random.below(7) {
            0 => doc! {},
            1 => doc! { "collation": { "locale": "de", "strength": 2 } },
            2 => doc! { "validator": { "count": { "$ne": -7 } } },
            3 => doc! { "capped": true, "size": 30_000, "max": 60 },
            4 => doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
            5 => doc! { "changeStreamPreAndPostImages": { "enabled": true } },
            _ => doc! { "viewOn": "alpha", "pipeline": [{ "$limit": 3 }] },
        };
        command.extend(options);
        command
    }

    /// The specification of an index.
    fn index(&mut self) -> Document {
        let field = *self.random.pick(&["f0", "f1", "count", "nested.b.c"]);
        match self.random.below(12) {
            0 => doc! { "key": { field: 1 }, "name": format!("{field}_up") },
            1 => doc! { "key": { field: -1, "hits": 1 }, "name": format!("{field}_down") },
            2 => doc! { "key": { field: 1 }, "name": format!("{field}_sparse"), "sparse": true },
            3 => {
                doc! { "key": { "_id": 1, field: 1 }, "name": format!("{field}_unique"), "unique": true }
            }
            4 => doc! { "key": { "at": 1 }, "name": "at_ttl", "expireAfterSeconds": 90_000 },
            5 => {
                doc! { "key": { field: 1, "_id": -1 }, "name": format!("{field}_hidden"), "hidden": true }
            }
            6 => doc! { "key": { "place": "2dsphere" }, "name": "place_sphere" },
            7 => doc! { "key": { "spot": "2d" }, "name": "spot_flat", "min": -180, "max": 180 },
            8 => {
                doc! { "key": { "title": "text" }, "name": "title_text", "default_language": "german" }
            }
            9 => doc! { "key": { "count": "hashed" }, "name": "count_hashed" },
            10 => doc! { "key": { "nested.$**": 1 }, "name": "nested_wild" },
            _ => {
                let partial = doc! { "count": { "$gt": 500 } };
                let collation = doc! { "locale": "de", "strength": 1 };
                doc! { "key": { "title": 1, field: 1 }, "name": format!("{field}_partial"),
                "partialFilterExpression": partial, "collation": collation }
            }
        }
    }

    /// `collMod` of one of many things.
    fn modification(&mut self, name: &str) -> Document {
        let number = self.random.below(1000) as i32;
        let mut command = doc! { "collMod": name };
        let change = match self.random.below(5) {
            0 => doc! { "validator": { "count": { "$ne": -number } } },
            1 => doc! { "validationLevel": "moderate", "validationAction": "warn" },
            2 => {
                doc! { "changeStreamPreAndPostImages": { "enabled": self.random.chance(50) } }
            }
            3 => doc! { "index": { "name": "at_ttl", "expireAfterSeconds": 80_000 + number } },
            _ => doc! { "index": { "name": "f0_up", "hidden": self.random.chance(50) } },
        };
        command.extend(change);
        command
    }

    /// A document that an index would refuse, which is dropped just before; or the document's end.
    async fn misfit(&mut self, database: &Database, name: &str) -> mongodb::error::Result<()> {
        let target = self.indexed(database, name);
        let collection = database.collection::<Document>(&target);
        let this = doc! { "_id": "misfit" };
        if self.random.chance(50) {
            collection.delete_one(this).await?;
            return Ok(());
        }
        let misfits = [
            ("place_sphere", doc! { "place": "nowhere" }),
            ("spot_flat", doc! { "spot": "nowhere" }),
            ("title_text", doc! { "title": "any", "language": 7 }),
            ("count_hashed", doc! { "count": [1, 2] }),
            ("f1_down", doc! { "f1": [1, 2], "hits": [1, 2] }),
        ];
        let (index, body) = self.random.pick(&misfits);
        let gone = doc! { "dropIndexes": &target, "index": *index };
        // Often there is none.
        drop(database.run_command(gone).await);
        collection.replace_one(this, body.clone()).upsert(true).await?;
        Ok(())
    }

    /// A transaction that creates a collection, or finds it there.
    async fn transaction(&mut self, database: &Database, name: &str) -> mongodb::error::Result<()> {
        let number = self.random.below(500);
        let batch = [document(&mut self.random, id(number))];
        let mut session = database.client().start_session().await?;
        session.start_transaction().await?;
        let other = self.random.pick(&self.others).clone();
        let work = async {
            let collection = database.collection::<Document>(name);
            collection.insert_many(batch).session(&mut session).await?;
            let other = self.database.collection::<Document>(&other);
            let change = doc! { "$inc": { "hits": 1_i64 } };
            other.update_one(doc! {}, change).session(&mut session).await?;
            Ok(())
        }
        .await;
        if work.is_err() {
            drop(session.abort_transaction().await);
            return work;
        }
        session.commit_transaction().await
    }

    /// A collection whose indexes change: one of ours or one of the other writers'.
    fn indexed(&mut self, database: &Database, ours: &str) -> String {
        if database.name() != self.database.name() || self.random.chance(50) {
            ours.to_owned()
        } else {
            self.random.pick(&self.others).clone()
        }
    }
}
