//! Broken networks and elections under live writes.

use std::time::Duration;

use anyhow::Result;
use mongodb::bson::doc;
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    daemon::Daemon,
    faults::Mode,
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase, wait_info};

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

/// How a set loses its primary.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// It dies and comes back later.
    Killed,
    /// It gives its office up.
    SteppedDown,
    /// Nobody reaches it for a while, and it reaches nobody.
    CutOff,
}

/// Takes the primary away and waits for the next one.
async fn lose_primary(set: &mut ReplicaSet, loss: Loss) -> Result<()> {
    let primary = set.wait_writable().await?;
    match loss {
        Loss::SteppedDown => drop(set.step_down().await?),
        Loss::Killed => {
            set.server_mut(primary).kill();
            set.wait_writable().await?;
            set.server_mut(primary).launch().await?;
        }
        Loss::CutOff => {
            set.servers()[primary].freeze(true)?;
            let next = syncline_tests::eventually::eventually("another primary", LONG, || async {
                match set.primary().await {
                    Ok(next) if next != primary => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
            set.servers()[primary].freeze(false)?;
            next?;
        }
    }
    set.wait_writable().await?;
    Ok(())
}

/// One side loses its primary in every way during the copy and the stream, and once more while
/// indexes are built and while the commit runs.
async fn primaries_are_lost(on_source: bool) -> Result<()> {
    let (source, destination) = if on_source {
        (Options::three(), Options::single())
    } else {
        (Options::single(), Options::three())
    };
    let mut pair = Pair::start_with(source, destination).await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 4000, 1).await?;
    let specs: Vec<_> = (0..6)
        .map(|n| doc! { "key": { format!("f{n}"): 1, "_id": 1 }, "name": format!("f{n}"), "unique": true })
        .collect();
    let command = doc! { "createIndexes": "alpha", "indexes": specs };
    client.database("live").run_command(command).await?;
    let live = Workload::start(&client, &Plan::new(33, "live").through_faults());
    let daemon = pair.daemon().await?;
    let slow = pair.begin(&daemon, Phase::Copy).await?;
    let losses = [Loss::Killed, Loss::SteppedDown, Loss::CutOff];
    for loss in losses {
        lose_primary(if on_source { &mut pair.source } else { &mut pair.destination }, loss)
            .await?;
    }
    let data =
        doc! { "failCommands": ["createIndexes"], "blockConnection": true, "blockTimeMS": 2000 };
    let building = pair.destination.fail_point("failCommand", doc! { "times": 1 }, data).await?;
    drop(slow);
    wait_info(&daemon, "change event application").await?;
    let side = if on_source { &mut pair.source } else { &mut pair.destination };
    lose_primary(side, Loss::Killed).await?;
    drop(building);
    daemon.wait_can_commit(LONG).await?;
    for loss in losses {
        live.writes(50).await?;
        lose_primary(if on_source { &mut pair.source } else { &mut pair.destination }, loss)
            .await?;
    }
    live.writes(50).await?;
    live.stop().await?;
    daemon.wait_can_commit(LONG).await?;
    daemon.command("commit").await?;
    let side = if on_source { &mut pair.source } else { &mut pair.destination };
    lose_primary(side, Loss::Killed).await?;
    daemon.wait_state("COMMITTED", LONG).await?;
    pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn primaries_of_the_source_are_lost_in_every_phase() -> Result<()> {
    primaries_are_lost(true).await
}

#[tokio::test]
async fn primaries_of_the_destination_are_lost_in_every_phase() -> Result<()> {
    primaries_are_lost(false).await
}
