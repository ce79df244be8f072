//! Broken networks and elections under live writes.

use std::time::Duration;

use anyhow::Result;
use mongodb::bson::doc;
use syncline_tests::{
    cluster::Options,
    daemon::Daemon,
    faults::Mode,
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase};

/// Lets the fault last a while; faults are made of time.
async fn hold() {
    tokio::time::sleep(Duration::from_millis(1500)).await;
}

/// Breaks the connection to one side in several ways in one phase. The workload writes past the proxy.
async fn broken_network(phase: Phase, break_source: bool) -> Result<()> {
    let (source, destination) = if break_source {
        (Options::single().proxied(), Options::single())
    } else {
        (Options::single(), Options::single().proxied())
    };
    let pair = Pair::start_with(source, destination).await?;
    let broken = if break_source { &pair.source } else { &pair.destination };
    let direct = pair.source.servers()[0].direct_client(None)?;
    workload::seed(&direct, "live", "alpha", 6000, 1).await?;
    let live = Workload::start(&direct, &Plan::new(9, "live"));
    let daemon = Daemon::start(pair.config()).await?;
    let slow = pair.begin(&daemon, phase).await?;
    for mode in [Mode::Cut, Mode::HoldReplies, Mode::Cut, Mode::Delay(Duration::from_millis(30))] {
        broken.proxy()?.set(mode);
        hold().await;
    }
    broken.proxy()?.set(Mode::Open);
    drop(slow);
    live.writes(100).await?;
    live.stop().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_broken_network_to_the_source_during_the_copy() -> Result<()> {
    broken_network(Phase::Copy, true).await
}

#[tokio::test]
async fn a_broken_network_to_the_source_during_the_stream() -> Result<()> {
    broken_network(Phase::Stream, true).await
}

#[tokio::test]
async fn a_broken_network_to_the_destination_during_the_copy() -> Result<()> {
    broken_network(Phase::Copy, false).await
}

#[tokio::test]
async fn a_broken_network_to_the_destination_during_the_stream() -> Result<()> {
    broken_network(Phase::Stream, false).await
}

#[tokio::test]
async fn elections_on_both_sides_lose_nothing() -> Result<()> {
    let pair = Pair::start_with(Options::three(), Options::three()).await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 3000, 1).await?;
    let live = Workload::start(&client, &Plan::new(21, "live"));
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, Phase::Copy).await?;
    pair.source.step_down().await?;
    // The fail point stays with the member that is no longer primary.
    pair.destination.step_down().await?;
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    pair.destination.step_down().await?;
    pair.source.step_down().await?;
    live.writes(200).await?;
    live.stop().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_write_refused_for_good_stops_the_sync_with_a_named_error() -> Result<()> {
    let pair = Pair::start().await?;
    workload::seed(&pair.source.client(), "live", "alpha", 500, 1).await?;
    let mut daemon = pair.daemon().await?;
    pair.begin(&daemon, Phase::Stream).await?;
    // Unauthorized: no retry mends it.
    let data = doc! { "failCommands": ["insert", "update", "delete"], "errorCode": 13,
    "namespace": "live.alpha" };
    let refused = pair.destination.fail_point("failCommand", "alwaysOn", data).await?;
    let alpha = pair.source.client().database("live").collection("alpha");
    alpha.insert_one(doc! { "_id": "one more" }).await?;
    let status = daemon.wait(LONG).await?;
    assert_eq!(status.code(), Some(77), "{}", daemon.output_tail());
    let last = daemon.output_tail();
    assert!(last.contains("SYNC-1105") && last.contains("advice"), "{last}");

    // Mended and restarted, it goes on.
    drop(refused);
    daemon.launch().await?;
    daemon.commit(LONG).await?;
    pair.check_identical().await?;
    Ok(())
}
