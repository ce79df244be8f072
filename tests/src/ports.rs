//! Loopback ports that no other test process takes while we hold them.
//!
//! Ports lie below the range from which the kernel takes outgoing ports, and each is held by a file
//! lock for as long as its [`Port`] lives, so that a killed server can come back on the same port.

use std::{env, fs, net::TcpListener, path::PathBuf, process};

use anyhow::{Context, Result, bail};

use crate::random::Random;

/// First port of the range.
const FIRST: u16 = 20_000;
/// Number of ports in the range.
const COUNT: u16 = 12_000;
/// Attempts before giving up; the range is far larger than what tests use.
const ATTEMPTS: usize = 500;

/// A reserved port.
#[derive(Debug)]
pub struct Port {
    /// The number.
    number: u16,
    /// Holds the lock until dropped.
    _lock: fs::File,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Errors
    /// When no free port is found or the lock folder cannot be used.
    pub fn reserve() -> Result<Self> {
        let folder = lock_folder()?;
        let mut random = Random::from_entropy();
        for _ in 0..ATTEMPTS {
            let number = FIRST + (random.below(u64::from(COUNT)) as u16);
            let lock = fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(folder.join(number.to_string()));
            let Ok(lock) = lock else { continue };
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("found no free port between {FIRST} and {} in {ATTEMPTS} attempts", FIRST + COUNT)
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

/// The folder of the lock files. One per user, so that a shared machine's permissions do not bite.
fn lock_folder() -> Result<PathBuf> {
    let user = fs::metadata(format!("/proc/{}", process::id()))
        .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))
        .unwrap_or_default();
    let folder = env::temp_dir().join(format!("syncline-ports-{user}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}
