//! The person at this machine: a browser, the listener for its way back, and the terminal.
//!
//! ```text
//!  plugin ── listen ──► listener on loopback        (one login at a time)
//!         ── browse ──► browser at http://localhost:27097/redirect/<random>
//!                          └─ 307 ─► provider ─► /redirect?code&state ─ 303 ─► /success/<random>
//!         ── show code ─► terminal, until the call is over
//! ```
//!
//! The browser is opened at an address of our own, which sends it on: the provider's URL stays off
//! command lines, and it is known that a browser came.
//!
//! Invariant: what comes back is told to the caller alone; no code and no URL of a provider reaches
//! the log.

mod browser;
mod listener;
mod pages;
mod redirect;

#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Mutex, time::Instant};

pub use browser::Browser;
pub use redirect::Redirect;

use crate::{
    model::token::{DeviceCode, PersonError},
    ports::{Person, WayBack},
    tasks::TaskSet,
};

/// How a person is reached.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// What opens a browser.
    pub browser: Browser,
    /// Where it comes back to.
    pub redirect: Redirect,
}

/// The person in front of this process's terminal.
#[derive(Debug)]
pub struct Terminal {
    /// How they are reached.
    reach: Reach,
    /// Held during a login in a browser.
    turn: Arc<Mutex<()>>,
}

impl Terminal {
    /// A person who is reached in this way.
    pub fn new(reach: Reach) -> Self {
        Self { reach, turn: Arc::default() }
    }
}

/// Writes a line for the person. Without anybody to read it nothing is lost.
fn say(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

#[async_trait]
impl Person for Terminal {
    async fn listen(&self) -> Result<Box<dyn WayBack>, PersonError> {
        if matches!(self.reach.browser, Browser::None) {
            return Err(PersonError::Unreached("no browser is to be opened".to_owned()));
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let listener = listener::Listener::bind(&self.reach.redirect).await?;
        Ok(Box::new(Attempt { listener, browser: self.reach.browser.clone(), _turn: turn }))
    }

    fn show(&self, code: &DeviceCode) -> Result<Box<dyn Send>, PersonError> {
        say(&format!(
            "\nTo log in, open {} on any device and enter the code\n\n    {}\n",
            code.verification_uri, code.user_code
        ));
        if let Some(whole) = &code.verification_uri_complete {
            say(&format!("or open {whole}"));
        }
        say(&format!("The code is good for {}.", left(code.expires_in)));
        let mut shown = TaskSet::new();
        if io::stderr().is_terminal() {
            let end = Instant::now() + code.expires_in;
            shown.spawn("device-code", async move {
                loop {
                    let rest = end.saturating_duration_since(Instant::now());
                    drop(write!(io::stderr(), "\rwaiting, {} left   ", left(rest)));
                    if rest.is_zero() {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        Ok(Box::new(shown))
    }
}

/// A duration as minutes and seconds.
fn left(rest: Duration) -> String {
    let seconds = rest.as_secs();
    format!("{}:{:02} minutes", seconds / 60, seconds % 60)
}

/// One login in a browser.
struct Attempt {
    /// Where the browser comes back to.
    listener: listener::Listener,
    /// What opens it.
    browser: Browser,
    /// Keeps others waiting.
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

#[async_trait]
impl WayBack for Attempt {
    fn address(&self) -> &str {
        self.listener.address()
    }

    async fn browse(
        self: Box<Self>,
        url: &str,
        state: &str,
    ) -> Result<Vec<(String, String)>, PersonError> {
        self.listener.wait(url, state, &self.browser).await
    }
}
