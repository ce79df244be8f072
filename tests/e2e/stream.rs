//! Change event application.

use std::time::Duration;

use anyhow::Result;
use mongodb::bson::{Document, doc};
use syncline_tests::{
    cluster::Options,
    compare::Comparison,
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase, applied};

#[tokio::test]
async fn the_applied_time_of_an_idle_source_moves_on() -> Result<()> {
    let pair = Pair::start_with(Options::single().silent(), Options::single().silent()).await?;
    workload::seed(&pair.source.client(), "app", "items", 100, 1).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    let first = daemon.wait_for("an applied time", LONG, |p| applied(p).is_some()).await?;
    let mut last = applied(&first);
    for _ in 0..2 {
        let next = daemon
            .wait_for("a later applied time", Duration::from_secs(60), |p| applied(p) > last)
            .await?;
        last = applied(&next);
    }
    pair.check(Comparison::new().without_indexes()).await?;
    Ok(())
}

#[tokio::test]
async fn the_destination_has_everything_up_to_the_applied_time() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "live", "alpha", 500, 1).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    for round in 0..3 {
        let live = Workload::start(&pair.source.client(), &Plan::new(round, "live"));
        live.writes(200).await?;
        live.stop().await?;
        pair.wait_applied(&daemon).await?;
        pair.check(Comparison::new().without_indexes()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn changes_of_one_document_arrive_in_order() -> Result<()> {
    let pair = Pair::start().await?;
    let items = pair.source.client().database("app").collection::<Document>("items");
    items.insert_one(doc! { "_id": "hot", "n": 0, "log": [] }).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    for number in 1..400_i32 {
        match number % 9 {
            0 => {
                items.delete_one(doc! { "_id": "hot" }).await?;
                items.insert_one(doc! { "_id": "hot", "n": number, "log": [number] }).await?;
            }
            1 => {
                items.replace_one(doc! { "_id": "hot" }, doc! { "log": [], "n": number }).await?;
            }
            2 => {
                items.update_one(doc! { "_id": "hot" }, doc! { "$unset": { "n": "" } }).await?;
            }
            _ => {
                let change = doc! { "$set": { "n": number }, "$push": { "log": number } };
                items.update_one(doc! { "_id": "hot" }, change).await?;
            }
        }
    }
    pair.wait_applied(&daemon).await?;
    pair.check(Comparison::new().without_indexes()).await?;
    Ok(())
}

#[tokio::test]
async fn values_of_a_unique_index_may_wander_between_documents() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    let database = client.database("app");
    let items = database.collection::<Document>("items");
    let index = doc! { "key": { "seat": 1 }, "name": "seat", "unique": true };
    database.run_command(doc! { "createIndexes": "items", "indexes": [index] }).await?;
    let documents: Vec<Document> = (0..40_i32).map(|n| doc! { "_id": n, "seat": n }).collect();
    items.insert_many(documents).await?;
    let daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    for round in 0..60_i32 {
        // One document gives its seat up, another takes it; two appliers may see this in any order.
        let (from, to) = (round % 40, (round + 1) % 40);
        let seat = |n: i32| doc! { "_id": n };
        let freed = items.find_one(seat(from)).await?.and_then(|d| d.get_i32("seat").ok());
        let taken = items.find_one(seat(to)).await?.and_then(|d| d.get_i32("seat").ok());
        items.update_one(seat(from), doc! { "$set": { "seat": 1000 + round } }).await?;
        items.update_one(seat(to), doc! { "$set": { "seat": freed } }).await?;
        items.update_one(seat(from), doc! { "$set": { "seat": taken } }).await?;
    }
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
