//! Pause and resume, and the death of the daemon at any moment.

use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::bson::{Document, doc};
use syncline_tests::{
    daemon::Daemon,
    random::Random,
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase, wait_info, wait_under_way};

/// The scenario in one phase.
async fn pause_in(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 5000, 1).await?;
    let live = Workload::start(&client, &Plan::new(3, "live"));
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, phase).await?;
    live.writes(50).await?;

    daemon.command("pause").await?;
    let paused = daemon.wait_state("PAUSED", LONG).await?;
    assert!(paused["lag"].is_null() && paused["lagTimeSeconds"].is_null(), "{paused}");
    assert_eq!(paused["canCommit"], false, "{paused}");
    let again = daemon.post("pause", &serde_json::json!({})).await?;
    assert_eq!((again.status, again.error()), (409, "InvalidState"), "{again:?}");
    drop(slow);

    let alpha = pair.destination.client().database("live").collection::<Document>("alpha");
    let before = alpha.count_documents(doc! {}).await?;
    let sum = || async {
        let pipeline = [doc! { "$group": { "_id": null, "sum": { "$sum": "$hits" } } }];
        let mut cursor = alpha.aggregate(pipeline).await?;
        anyhow::Ok(if cursor.advance().await? {
            cursor.deserialize_current()?
        } else {
            doc! {}
        })
    };
    let sum_before = sum().await?;
    live.writes(200).await?;
    assert_eq!(alpha.count_documents(doc! {}).await?, before, "a paused sync writes nothing");
    assert_eq!(sum().await?, sum_before, "a paused sync writes nothing");

    daemon.command("resume").await?;
    let running = daemon.post("resume", &serde_json::json!({})).await?;
    assert_eq!((running.status, running.error()), (409, "InvalidState"), "{running:?}");
    daemon.wait_can_commit(LONG).await?;
    live.writes(100).await?;
    live.stop().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_paused_copy_goes_on() -> Result<()> {
    pause_in(Phase::Copy).await
}

#[tokio::test]
async fn a_paused_stream_goes_on() -> Result<()> {
    pause_in(Phase::Stream).await
}

#[tokio::test]
async fn a_paused_sync_is_still_paused_after_a_restart() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "live", "alpha", 500, 1).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    daemon.command("pause").await?;
    daemon.wait_state("PAUSED", LONG).await?;
    daemon.terminate().await?;
    daemon.launch().await?;
    daemon.wait_state("PAUSED", LONG).await?;
    daemon.command("resume").await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

/// How often the daemon is killed: `SYNCLINE_KILLS`, or few enough for every run of the suite.
fn kills() -> u64 {
    std::env::var("SYNCLINE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

#[tokio::test]
async fn a_daemon_killed_at_random_moments_loses_nothing() -> Result<()> {
    let seed = std::env::var("SYNCLINE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 20_000, 1).await?;
    workload::seed(&client, "live", "beta", 10_000, 2).await?;
    let index = doc! { "key": { "count": 1, "_id": 1 }, "name": "count_id", "unique": true };
    let command = doc! { "createIndexes": "alpha", "indexes": [index] };
    client.database("live").run_command(command).await?;
    let live = Workload::start(&client, &Plan::new(seed, "live").with_ddl());
    let mut random = Random::new(seed);
    let mut daemon = pair.daemon().await?;

    let mut phases = Vec::new();
    // While inserts are slow, the copy outlives many deaths.
    let mut slow = Some(pair.slow_copy().await?);
    daemon.start_sync().await?;
    for number in 0..kills() {
        if number == kills().div_ceil(2) {
            drop(slow.take());
            wait_info(&daemon, "change event application").await?;
        }
        // The random moment is the point of this test.
        tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
        let progress = daemon.progress().await?;
        phases.push(progress["info"].as_str().unwrap_or("-").to_owned());
        daemon.kill();
        assert!(!daemon.is_running());
        daemon.launch().await?;
    }
    drop(slow.take());
    println!("killed during: {phases:?}");
    assert!(phases.iter().any(|phase| phase == "collection copy"), "{phases:?}");
    assert!(phases.iter().any(|phase| phase == "change event application"), "{phases:?}");
    daemon.wait_state("RUNNING", LONG).await?;
    live.writes(100).await?;
    let counts = live.stop().await?;
    // Every death leaves more to catch up with.
    daemon.commit(LONG + Duration::from_secs(2) * u32::try_from(kills())?).await?;
    let report = pair.check_identical().await?;
    println!("{} kills, {counts:?}\n{report}", kills());
    Ok(())
}

#[tokio::test]
async fn a_daemon_killed_during_commit_finishes_it_after_a_restart() -> Result<()> {
    let pair = Pair::start().await?;
    super::dataset::varied(&pair.source.client()).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    // The conversion of indexes is held back, so that the kill comes in its midst.
    let data = doc! { "failCommands": ["collMod"], "blockConnection": true, "blockTimeMS": 500 };
    let slow = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    daemon.command("commit").await?;
    daemon.wait_state("COMMITTING", LONG).await?;
    daemon.kill();
    drop(slow);
    daemon.launch().await?;
    daemon.wait_state("COMMITTED", LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

/// A server may still be working on a write when the daemon that sent it is dead and the next one has
/// begun again. The source changes in between, so the late write carries old documents.
async fn late_write(release_first: bool) -> Result<()> {
    let pair = Pair::start().await?;
    let items = pair.source.client().database("app").collection::<Document>("items");
    // Several batches, so that there is an insert to catch on a slow machine too.
    let filler = "x".repeat(4000);
    let documents: Vec<Document> =
        (0..3000_i32).map(|n| doc! { "_id": n, "text": "old", "filler": &filler }).collect();
    items.insert_many(documents).await?;
    let mut daemon = pair.daemon().await?;
    let slow = pair.slow_copy().await?;
    daemon.start_sync().await?;
    // The first insert is on the server, held back there: it gets its collection's name when it goes on.
    let held = doc! { "command.insert": "items", "ns": "app.$cmd" };
    wait_under_way(&pair.destination.client(), "an insert on the server", held).await?;
    daemon.kill();
    items.delete_many(doc! { "_id": { "$lt": 1000 } }).await?;
    items.update_many(doc! {}, doc! { "$set": { "text": "new" } }).await?;
    if release_first {
        drop(slow);
        daemon.launch().await?;
    } else {
        daemon.launch().await?;
        wait_info(&daemon, "collection copy").await?;
        drop(slow);
    }
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_write_of_a_dead_daemon_that_lands_before_the_next_copy_is_not_kept() -> Result<()> {
    late_write(false).await
}

#[tokio::test]
async fn a_write_of_a_dead_daemon_that_lands_after_the_next_copy_is_not_kept() -> Result<()> {
    late_write(true).await
}

/// Sends a signal to a daemon.
fn signal(daemon: &Daemon, name: &str) -> Result<()> {
    let pid = daemon.pid().context("the daemon does not run")?.to_string();
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status()?;
    anyhow::ensure!(status.success(), "kill -{name} {pid}");
    Ok(())
}

#[tokio::test]
async fn a_second_daemon_is_refused_while_the_first_lives() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "live", "alpha", 2000, 1).await?;
    let live = Workload::start(&pair.source.client(), &Plan::new(61, "live"));
    let first = pair.daemon().await?;
    pair.begin(&first, Phase::Stream).await?;
    let second = Daemon::run_to_end(pair.config()).await?;
    assert_ne!(second.code, Some(0), "{}", second.output);
    assert!(second.output.contains("SYNC-1410"), "{}", second.output);
    assert!(first.is_running());
    live.writes(100).await?;
    live.stop().await?;
    first.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

/// A daemon stands still for longer than its lease holds; another one takes over, and then the first
/// one wakes up.
async fn wake_after_a_takeover(phase: Phase) -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "live", "alpha", 8000, 1).await?;
    let live = Workload::start(&pair.source.client(), &Plan::new(62, "live"));
    let mut first = pair.daemon().await?;
    let slow = pair.begin(&first, phase).await?;
    live.writes(50).await?;
    signal(&first, "STOP")?;
    live.writes(50).await?;
    let second = pair.daemon().await?;
    assert_eq!(second.progress().await?["state"], "RUNNING");
    live.writes(50).await?;
    signal(&first, "CONT")?;
    let ended = first.wait(LONG).await?;
    assert_ne!(ended.code(), Some(0), "{}", first.output_tail());
    assert!(first.output().contains("SYNC-1410"), "{}", first.output_tail());
    live.writes(50).await?;
    drop(slow);
    second.wait_can_commit(LONG).await?;
    live.stop().await?;
    second.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_stood_still_is_fenced_off_during_the_copy() -> Result<()> {
    wake_after_a_takeover(Phase::Copy).await
}

#[tokio::test]
async fn a_daemon_that_stood_still_is_fenced_off_in_the_stream() -> Result<()> {
    wake_after_a_takeover(Phase::Stream).await
}
