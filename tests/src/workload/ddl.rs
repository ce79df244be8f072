//! One writer that changes the catalog.

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

/// A task that creates, renames and drops collections and indexes until it is stopped.
pub(super) struct DdlWriter {
    /// Where.
    database: Database,
    /// Own random numbers.
    random: Random,
    /// Collections of the other writers, for indexes.
    others: Vec<String>,
    /// Shared counters.
    counters: Arc<Counters>,
}

impl DdlWriter {
    /// A writer with its own random numbers.
    pub(super) fn new(
        database: Database,
        random: Random,
        others: Vec<String>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { database, random, others, counters }
    }

    /// Changes the catalog until stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            match self.step().await {
                Ok(()) => self.counters.ddl.fetch_add(1, Ordering::Relaxed),
                Err(error) if is_expected(&error) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed)
                }
                Err(error) => return Err(error).context("the catalog writer failed"),
            };
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        Ok(())
    }

    /// One change.
    async fn step(&mut self) -> mongodb::error::Result<()> {
        let name = *self.random.pick(&NAMES);
        let other = *self.random.pick(&NAMES);
        let database = self.database.clone();
        match self.random.below(10) {
            0 => {
                let command = match self.random.below(3) {
                    0 => doc! { "create": name },
                    1 => doc! { "create": name, "collation": { "locale": "de", "strength": 2 } },
                    _ => doc! { "create": name, "validator": { "count": { "$ne": -7 } } },
                };
                database.run_command(command).await?;
            }
            1..4 => {
                // Implicit creation, or more documents.
                let first = self.random.below(500);
                let batch: Vec<Document> = (first..first + 20)
                    .map(|number| document(&mut self.random, id(number)))
                    .collect();
                database.collection(name).insert_many(batch).ordered(false).await?;
            }
            4 => database.collection::<Document>(name).drop().await?,
            5 | 6 if name != other => {
                let (client, space) = (database.client(), database.name());
                let command = doc! {
                    "renameCollection": format!("{space}.{name}"),
                    "to": format!("{space}.{other}"),
                    "dropTarget": self.random.chance(50),
                };
                client.database("admin").run_command(command).await?;
            }
            5..9 => {
                let target = self.indexed(name);
                let field = *self.random.pick(&["f0", "f1", "count", "nested.b.c"]);
                let spec = match self.random.below(3) {
                    0 => doc! { "key": { field: 1 }, "name": format!("{field}_up") },
                    1 => doc! { "key": { field: -1, "hits": 1 }, "name": format!("{field}_down") },
                    _ => {
                        doc! { "key": { field: 1 }, "name": format!("{field}_sparse"), "sparse": true }
                    }
                };
                database.run_command(doc! { "createIndexes": target, "indexes": [spec] }).await?;
            }
            _ => {
                let target = self.indexed(name);
                let index = *self.random.pick(&["f0_up", "f1_down", "count_sparse", "count_up"]);
                database.run_command(doc! { "dropIndexes": target, "index": index }).await?;
            }
        }
        Ok(())
    }

    /// A collection whose indexes change: one of ours or one of the other writers'.
    fn indexed(&mut self, ours: &str) -> String {
        if self.random.chance(50) {
            ours.to_owned()
        } else {
            self.random.pick(&self.others).clone()
        }
    }
}
