//! One process per sync: a lease in the metadata database, renewed while the process lives.
//!
//! The lease is kept by the destination's own clock. A holder that cannot renew it stops writing
//! (the [`WriteGate`] closes) until it can; if another process has taken the lease meanwhile, the
//! holder stops for good. A holder that died on this machine is replaced at once, one on another
//! machine when its lease has lapsed. Before the new holder writes anything, it waits until the
//! server has done with what the former ones had sent.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    error::{Error, Kind, Result},
    model::{gate::WriteGate, options::ClusterLabel},
    ports::{Destination, StateStore},
    tasks::TaskSet,
};

/// How long a lease holds without renewal.
const TIME_TO_LIVE: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The gate closes this much before the lease lapses, for the time a write is under way.
const MARGIN: Duration = Duration::from_secs(2);
/// How long a start-up waits for a lease to lapse.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether to wait for a lease that another process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Refuse at once.
    No,
    /// Until it should have lapsed.
    UntilLapsed,
}

/// Takes the lease and opens the gate. Returns who may have left operations on the server; the
/// caller keeps the lease and calls [`settle`] before anything is written.
///
/// # Errors
/// `LeaseLost` when another process holds it, and goes on holding it while we wait.
pub(crate) async fn acquire(
    store: &dyn StateStore,
    owner: &str,
    gate: &WriteGate,
    wait: Wait,
) -> Result<Vec<String>> {
    let begin = Instant::now();
    let mut gone = None;
    loop {
        let asked = Instant::now();
        let lease = store.take_lease(owner, gone.as_deref(), TIME_TO_LIVE).await?;
        if lease.owner == owner {
            gate.open_until(asked + TIME_TO_LIVE - MARGIN);
            return Ok(lease.former_owners);
        }
        let holder = lease.owner;
        if gone.is_none() && is_gone(&holder) {
            tracing::warn!("the process that held the lease is gone, taking over");
            gone = Some(holder);
            continue;
        }
        if wait == Wait::No || begin.elapsed() > PATIENCE {
            return Err(Error::new(
                Kind::LeaseLost,
                format!("the lease of this sync is held by {}", describe(&holder)),
            ));
        }
        tracing::info!(holder = describe(&holder), "waiting for the lease to lapse");
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// Waits until nothing of the former owners is under way on the destination, and forgets them.
///
/// # Errors
/// Those of the destination and the store.
pub(crate) async fn settle(
    store: &dyn StateStore,
    destination: &dyn Destination,
    owner: &str,
    former_owners: &[String],
) -> Result<()> {
    if former_owners.is_empty() {
        return Ok(());
    }
    for former in former_owners {
        destination.wait_for_process(tag_of(former)).await?;
    }
    store.forget_former_owners(owner).await
}

/// Renews the lease until it is lost. Failures of the destination are waited out: nobody else can
/// take the lease meanwhile, and the gate is closed.
///
/// # Errors
/// `LeaseLost` when another process has taken it.
pub(crate) async fn keep(store: &dyn StateStore, owner: &str, gate: &WriteGate) -> Result<()> {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let asked = Instant::now();
        match store.take_lease(owner, None, TIME_TO_LIVE).await {
            Ok(lease) if lease.owner == owner => gate.open_until(asked + TIME_TO_LIVE - MARGIN),
            Ok(lease) => {
                gate.close();
                return Err(Error::new(
                    Kind::LeaseLost,
                    format!("the lease of this sync was taken by {}", describe(&lease.owner)),
                ));
            }
            Err(error) => tracing::warn!(error = %error.full(), "cannot renew the lease"),
        }
    }
}

/// The name under which this process holds leases: the tag that its operations carry, its
/// instance id, and where it runs.
pub(crate) fn owner(tag: &str, instance_id: &str) -> String {
    format!("{tag} {instance_id} {} {}", place().unwrap_or_default(), std::process::id())
}

/// The tag in an owner's name.
pub(crate) fn tag_of(owner: &str) -> &str {
    owner.split(' ').next().unwrap_or_default()
}

/// This boot of this machine and this process namespace, in which a process id means something.
fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.to_string_lossy()))
}

/// Whether the owner is a process of this place that does not exist any more.
fn is_gone(owner: &str) -> bool {
    let mut parts = owner.rsplitn(3, ' ');
    let (Some(pid), Some(where_)) = (parts.next(), parts.next()) else { return false };
    pid.parse::<u32>().is_ok()
        && place().is_some_and(|own| own == where_)
        && !std::path::Path::new("/proc").join(pid).exists()
}

/// The owner as messages show it.
fn describe(owner: &str) -> String {
    let mut parts = owner.rsplitn(3, ' ');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(pid), _, Some(name)) => {
            let instance = name.split_once(' ').map_or(name, |(_, instance)| instance);
            format!("instance {instance} (process {pid})")
        }
        _ => owner.to_owned(),
    }
}

/// What renews the lease of either direction, by its source.
pub(crate) struct Leases {
    /// cluster0 is the source.
    cluster0: TaskSet,
    /// cluster1 is the source.
    cluster1: TaskSet,
}

impl Leases {
    /// No lease is held.
    pub(crate) fn new() -> Self {
        Self { cluster0: TaskSet::new(), cluster1: TaskSet::new() }
    }

    /// Of a direction; empty when its lease is not held.
    pub(crate) fn of(&mut self, source: ClusterLabel) -> &mut TaskSet {
        match source {
            ClusterLabel::Cluster0 => &mut self.cluster0,
            ClusterLabel::Cluster1 => &mut self.cluster1,
        }
    }

    /// How one ended; `None` when none is held. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<()>> {
        tokio::select! {
            Some(ended) = self.cluster0.next() => Some(ended),
            Some(ended) = self.cluster1.next() => Some(ended),
            else => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_process_of_this_place_is_gone() {
        let own = owner("t4g", "one two");
        assert!(!is_gone(&own), "this process lives");
        assert_eq!(tag_of(&own), "t4g");
        assert!(describe(&own).starts_with("instance one two (process "));
        let Some(place) = place() else { return };
        // Process ids end below 2^22.
        assert!(is_gone(&format!("x {place} 99999999")));
        assert!(!is_gone("x other/pid:[1] 99999999"));
        assert!(!is_gone("nonsense"));
    }
}
