//! One writer of documents.

use std::sync::{Arc, atomic::Ordering};

use anyhow::{Context, Result};
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, doc},
    options::UpdateModifications,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counters, Plan,
    documents::{document, field, id, list, value},
    is_expected,
};
use crate::random::Random;

/// A task that writes documents until it is stopped.
pub(super) struct Writer {
    /// To the cluster.
    client: Client,
    /// What to write where.
    plan: Plan,
    /// Own random numbers.
    random: Random,
    /// Shared counters.
    counters: Arc<Counters>,
}

impl Writer {
    /// A writer with its own random numbers.
    pub(super) fn new(client: Client, plan: Plan, random: Random, counters: Arc<Counters>) -> Self {
        Self { client, plan, random, counters }
    }

    /// Writes until stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            let (done, counter) = if self.random.chance(5) {
                (self.transaction().await, &self.counters.transactions)
            } else {
                (self.write().await, &self.counters.writes)
            };
            match done {
                Ok(()) => counter.fetch_add(1, Ordering::Relaxed),
                Err(error) if is_expected(&error, self.plan.faults) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed)
                }
                Err(error) => return Err(error).context("a writer failed"),
            };
            tokio::time::sleep(self.plan.pause).await;
        }
        Ok(())
    }

    /// One of the collections.
    fn collection(&mut self) -> Collection<Document> {
        let name = self.random.pick(&self.plan.collections).clone();
        self.client.database(&self.plan.database).collection(&name)
    }

    /// One of the ids.
    fn key(&mut self) -> Bson {
        id(self.random.below(self.plan.keys))
    }

    /// A filter for exactly one id, whatever its type.
    fn by_id(&mut self) -> Document {
        doc! { "_id": { "$eq": self.key() } }
    }

    /// One write outside a transaction.
    async fn write(&mut self) -> mongodb::error::Result<()> {
        let collection = self.collection();
        let by_id = self.by_id();
        match self.random.below(20) {
            0..3 => {
                let key = self.key();
                let fresh = document(&mut self.random, key);
                collection.insert_one(fresh).await?;
            }
            3 => {
                let fresh: Vec<Document> = (0..4)
                    .map(|_| {
                        let key = self.key();
                        document(&mut self.random, key)
                    })
                    .collect();
                collection.insert_many(fresh).ordered(false).await?;
            }
            4..6 => {
                collection.delete_one(by_id).await?;
            }
            6 => {
                // Delete and insert again at once, with other content.
                let key = self.key();
                collection.delete_one(doc! { "_id": { "$eq": key.clone() } }).await?;
                collection.insert_one(document(&mut self.random, key)).await?;
            }
            7..9 => {
                let key = self.key();
                let mut fresh = document(&mut self.random, key.clone());
                fresh.remove("_id");
                collection
                    .replace_one(doc! { "_id": { "$eq": key } }, fresh)
                    .upsert(self.random.chance(50))
                    .await?;
            }
            9 => {
                let lowest = self.random.below(1000) as i32;
                let range = doc! { "count": { "$gte": lowest, "$lt": lowest + 20 } };
                collection.update_many(range, doc! { "$inc": { "hits": 1_i64 } }).await?;
            }
            10..12 => {
                let change = self.pipeline();
                collection.update_one(by_id, change).await?;
            }
            _ => {
                let change = self.modifiers();
                collection.update_one(by_id, change).upsert(self.random.chance(10)).await?;
            }
        }
        Ok(())
    }

    /// An update with modifiers.
    fn modifiers(&mut self) -> Document {
        let random = &mut self.random;
        match random.below(11) {
            0 => doc! { "$set": { field(random): value(random, 2) } },
            1 => doc! { "$set": { "nested.b.c": random.below(50) as i64, "nested.new": 1 } },
            2 => doc! { "$unset": { field(random): "" } },
            3 => doc! { "$inc": { "count": 1, "hits": 2_i64 }, "$unset": { "nested.a": "" } },
            4 => doc! { "$push": { "list": { "$each": list(random), "$slice": -8 } } },
            5 => doc! { "$push": { "list": { "$each": [value(random, 0)], "$position": 0 } } },
            6 => doc! { "$pop": { "list": 1 } },
            // Fails on documents whose list is too short to be numbers only; that is part of the game.
            7 => doc! { "$set": { "list.1": value(random, 1), "list.5": "far" } },
            8 => doc! { "$rename": { field(random): "renamed" } },
            9 => doc! { "$set": { format!("{}.0", field(random)): value(random, 0) } },
            _ => doc! { "$mul": { "count": 2 }, "$currentDate": { "touched": true } },
        }
    }

    /// An update by pipeline: these move fields, shorten arrays and make names with dots.
    fn pipeline(&mut self) -> UpdateModifications {
        let random = &mut self.random;
        let stage = match random.below(5) {
            0 => doc! { "$replaceWith": {
                "$mergeObjects": [{ "_id": "$_id", "first": value(random, 0).into_literal() }, "$$ROOT"]
            } },
            1 => doc! { "$set": { "list": { "$slice": [{ "$ifNull": ["$list", []] }, 2] } } },
            2 => doc! { "$replaceWith": { "$setField": {
                "field": "with.dot", "input": "$$ROOT", "value": random.below(100) as i32
            } } },
            3 => {
                let name = field(random);
                let moved = value(random, 1).into_literal();
                return UpdateModifications::Pipeline(vec![
                    doc! { "$unset": name },
                    doc! { "$set": { name: moved } },
                ]);
            }
            _ => doc! { "$set": { "nested": { "$mergeObjects": [
                { "b": { "c": random.below(9) as i64 } }, { "a": "$nested.a" }
            ] } } },
        };
        UpdateModifications::Pipeline(vec![stage])
    }

    /// One transaction over two documents, sometimes in two collections.
    async fn transaction(&mut self) -> mongodb::error::Result<()> {
        let (one, other) = (self.collection(), self.collection());
        let key = self.key();
        let fresh = document(&mut self.random, key);
        let by_id = self.by_id();
        let deleted = self.by_id();
        let change = self.modifiers();
        let abort = self.random.chance(10);
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        let work = async {
            other.update_one(by_id, change).session(&mut session).await?;
            other.delete_one(deleted).session(&mut session).await?;
            one.insert_one(fresh).session(&mut session).await?;
            Ok(())
        }
        .await;
        if abort || work.is_err() {
            // The server may have aborted it already.
            drop(session.abort_transaction().await);
            return work;
        }
        session.commit_transaction().await
    }
}

/// Makes a value safe inside an aggregation expression.
trait IntoLiteral {
    /// `{$literal: …}`
    fn into_literal(self) -> Document;
}

impl IntoLiteral for Bson {
    fn into_literal(self) -> Document {
        doc! { "$literal": self }
    }
}
