//! Lets writes through only while this process holds the lease of the sync.
//!
//! A process that was stopped for a while must not write what it had in hand before it knows that
//! nobody has taken over. So every write asks the gate, which closes by itself when the lease was
//! not renewed in time, and for good when another process took it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{sync::Notify, time::Instant};

use crate::error::{Error, Kind, Result};

/// How a gate stands.
#[derive(Debug, Clone, Copy)]
enum Standing {
    /// No lease is needed.
    Open,
    /// Open until then.
    Until(Instant),
    /// Another process holds the lease.
    Lost,
}

/// The gate in front of a destination. Clones share it.
#[derive(Debug, Clone)]
pub struct WriteGate {
    /// How it stands, and whoever waits for a change. A lock and not a channel, because every
    /// write looks and only the lease's keeper changes it; never held across an await.
    shared: Arc<(Mutex<Standing>, Notify)>,
}

impl Default for WriteGate {
    fn default() -> Self {
        Self { shared: Arc::new((Mutex::new(Standing::Open), Notify::new())) }
    }
}

impl WriteGate {
    /// Lets writes through until `deadline`, when the lease lapses unless it is renewed.
    pub fn open_until(&self, deadline: Instant) {
        self.set(Standing::Until(deadline));
    }

    /// Lets nothing through any more.
    pub fn close(&self) {
        self.set(Standing::Lost);
    }

    /// Waits until a write may go out. Cancel safe.
    ///
    /// # Errors
    /// `LeaseLost` when another process holds the lease.
    pub async fn pass(&self) -> Result<()> {
        loop {
            // Registered before looking, so that no change in between is missed.
            let changed = self.shared.1.notified();
            match self.standing() {
                Standing::Open => return Ok(()),
                Standing::Until(deadline) if Instant::now() < deadline => return Ok(()),
                Standing::Until(_) => changed.await,
                Standing::Lost => {
                    return Err(Error::new(
                        Kind::LeaseLost,
                        "another process has taken over this sync",
                    ));
                }
            }
        }
    }

    /// How it stands now.
    fn standing(&self) -> Standing {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how it stands and wakes whoever waits.
    fn set(&self, standing: Standing) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = standing;
        self.shared.1.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lapsed_gate_holds_writes_back_until_it_is_renewed() {
        let gate = WriteGate::default();
        gate.pass().await.unwrap();
        gate.open_until(Instant::now() + Duration::from_secs(10));
        gate.pass().await.unwrap();
        tokio::time::advance(Duration::from_secs(11)).await;
        let waiting = tokio::time::timeout(Duration::from_secs(60), gate.pass());
        assert!(waiting.await.is_err(), "a write went out after the lease lapsed");
        gate.open_until(Instant::now() + Duration::from_secs(10));
        gate.pass().await.unwrap();
        gate.close();
        assert_eq!(gate.pass().await.unwrap_err().kind(), Kind::LeaseLost);
    }
}
