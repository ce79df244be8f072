//! Waiting for something to become true, with a deadline and a message that says what was last seen.

use std::{fmt::Debug, future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until `look` answers `Ok`. A look that answers `Err` says what it saw instead.
///
/// # Errors
/// After `limit`, with `what` was awaited and what the last look saw.
pub async fn eventually<T, S, F, R>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> R,
    R: Future<Output = std::result::Result<T, S>>,
    S: Debug,
{
    let deadline = Instant::now() + limit;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => bail!("{what}: the look itself took longer than {limit:?}; before: {last:?}"),
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {limit:?}; last seen: {last:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_what_the_first_good_look_saw() {
        let mut looks = 0;
        let value = eventually("third look", Duration::from_secs(1), || {
            looks += 1;
            let seen = looks;
            async move { if seen >= 3 { Ok(seen) } else { Err(seen) } }
        })
        .await;
        assert_eq!(value.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_at_the_deadline_and_says_what_it_saw() {
        let error = eventually("never", Duration::from_secs(1), || async { Err::<(), _>("blue") })
            .await
            .unwrap_err();
        assert!(error.to_string().contains("never"), "{error}");
        assert!(error.to_string().contains("blue"), "{error}");
    }
}
