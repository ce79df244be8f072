//! The copy of a varied source, idle and under live writes.

use anyhow::Result;
use syncline_tests::{
    cluster::Options,
    daemon::Daemon,
    workload::{self, Plan, Workload},
};

use super::{
    dataset,
    support::{LONG, Pair, has_metadata, wait_info},
};

#[tokio::test]
async fn a_varied_source_arrives_byte_for_byte() -> Result<()> {
    let pair = Pair::start().await?;
    dataset::varied(&pair.source.client()).await?;
    let daemon = pair.daemon().await?;
    let idle = daemon.progress().await?;
    assert_eq!(idle["state"], "IDLE", "{idle}");
    assert!(idle["info"].is_null() && idle["lag"].is_null(), "{idle}");
    assert!(!has_metadata(&pair.destination.client()).await?, "nothing is written before /start");

    daemon.start_sync().await?;
    let ready = daemon.wait_can_commit(LONG).await?;
    assert_eq!(ready["info"], "change event application", "{ready}");
    assert_eq!(ready["canWrite"], false, "{ready}");
    let copied = &ready["collectionCopy"];
    assert_eq!(copied["estimatedTotalBytes"], copied["estimatedCopiedBytes"], "{ready}");
    let done = daemon.commit(LONG).await?;
    assert_eq!(done["info"], "commit completed", "{done}");
    assert_eq!(done["canWrite"], true, "{done}");
    let report = pair.check_identical().await?;
    assert_eq!((report.databases, report.views), (4, 3), "{report}");
    Ok(())
}

#[tokio::test]
async fn live_writes_in_both_phases_arrive_byte_for_byte() -> Result<()> {
    let pair = Pair::start().await?;
    let client = pair.source.client();
    workload::seed(&client, "live", "alpha", 6000, 5).await?;
    workload::seed(&client, "live", "beta", 2000, 6).await?;
    let live = Workload::start(&client, &Plan::new(17, "live"));
    live.writes(50).await?;

    let daemon = pair.daemon().await?;
    let slow = pair.slow_copy().await?;
    daemon.start_sync().await?;
    wait_info(&daemon, "collection copy").await?;
    let during_copy = live.counts().writes;
    live.writes(300).await?;
    drop(slow);
    daemon.wait_can_commit(LONG).await?;
    assert!(live.counts().writes > during_copy);
    live.writes(500).await?;
    let progress = daemon.progress().await?;
    assert!(progress["totalEventsApplied"].as_u64() > Some(0), "{progress}");
    let counts = live.stop().await?;
    daemon.commit(LONG).await?;
    let report = pair.check_identical().await?;
    println!("{counts:?}\n{report}");
    Ok(())
}

#[tokio::test]
async fn passwords_never_show_and_the_config_file_is_private() -> Result<()> {
    let pair =
        Pair::start_with(Options::single().with_auth(), Options::single().with_auth()).await?;
    dataset::varied(&pair.source.client()).await?;
    let daemon = Daemon::start(pair.config().with("verbosity", "TRACE")).await?;
    daemon.start_sync().await?;
    let secrets: Vec<&str> =
        [pair.source.password(), pair.destination.password()].into_iter().flatten().collect();
    assert_eq!(secrets.len(), 2);
    daemon.wait_can_commit(LONG).await?;
    daemon.check_secrets(&secrets).await?;
    daemon.commit(LONG).await?;
    daemon.check_secrets(&secrets).await?;
    pair.check_identical().await?;
    Ok(())
}
