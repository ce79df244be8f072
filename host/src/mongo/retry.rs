//! The one loop that repeats an operation while its failure is transient.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::{
    error::{Backoff, Error, Result},
    telemetry::metrics,
};

/// An attempt that lasted so long did not fail for want of a connection: the time begins anew.
const LONG_ATTEMPT: Duration = Duration::from_secs(120);

/// The pauses between the attempts of one operation: growing, jittered, for half an hour after the first
/// failure ([`Backoff::NETWORK`]).
pub(super) struct Pauses<'a> {
    /// For the log.
    what: &'a str,
    /// The pauses that are left.
    left: ExponentialBackoff,
    /// Attempts that failed.
    attempts: u32,
    /// When it failed first, and when the present attempt began.
    failing: Option<(Instant, Instant)>,
}

/// The pauses of one operation, without an end of their own.
fn growing() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Backoff::NETWORK.first)
        .with_max_delay(Backoff::NETWORK.longest)
        .with_jitter()
        .without_max_times()
        .build()
}

impl<'a> Pauses<'a> {
    /// All pauses of one operation.
    pub(super) fn new(what: &'a str) -> Self {
        Self { what, left: growing(), attempts: 0, failing: None }
    }

    /// Waits before the next attempt. The first failure and every later power of two are logged.
    /// Cancel safe.
    ///
    /// # Errors
    /// The given error, when it is not transient or the time is up.
    pub(super) async fn wait(&mut self, error: Error) -> Result<()> {
        let now = Instant::now();
        let since = match self.failing {
            Some((since, began)) if now.duration_since(began) < LONG_ATTEMPT => since,
            Some(_) => {
                self.left = growing();
                now
            }
            None => now,
        };
        let is_over = now.duration_since(since) >= Backoff::NETWORK.give_up_after;
        let pause: Duration = match self.left.next() {
            Some(pause) if error.is_transient() && !is_over => pause,
            _ => return Err(error),
        };
        self.attempts += 1;
        metrics::add(metrics::RETRIES, None);
        if self.attempts.is_power_of_two() {
            tracing::warn!(
                what = self.what,
                attempts = self.attempts,
                pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                error = %error.full(),
                "operation failed, trying again"
            );
        }
        tokio::time::sleep(pause).await;
        self.failing = Some((since, Instant::now()));
        Ok(())
    }
}

/// Repeats `operation` until it succeeds, fails for good, or the pauses are used up.
///
/// Cancel safe as far as the operation is: dropping the future ends the loop.
///
/// # Errors
/// The last error of the operation.
pub(super) async fn retry<T, F, Fut>(what: &str, mut operation: F) -> Result<T>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<T>> + Send,
{
    let mut pauses = Pauses::new(what);
    loop {
        match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => pauses.wait(error).await?,
        }
    }
}
