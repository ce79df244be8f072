//! Where the federation is kept: in the daemon's config file, where only an editor changes it, or in
//! a file of its own that the API writes.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::config::Federation;
use crate::error::{Error, Kind, Result};

/// Longest file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The place.
#[derive(Debug)]
pub enum Store {
    /// In the config file, as it stands there.
    Fixed(Value),
    /// In a file of its own.
    File(PathBuf),
    /// Nowhere.
    None,
}

impl Store {
    /// Reads the federation, if there is one.
    ///
    /// # Errors
    /// `FederationInvalid` when there is one that cannot be used: no federation is not the same as
    /// a broken one.
    pub(super) fn read(&self) -> Result<Option<Federation>> {
        let value = match self {
            Self::None => return Ok(None),
            Self::Fixed(value) => value.clone(),
            Self::File(path) => match read_file(path)? {
                None => return Ok(None),
                Some(value) => value,
            },
        };
        Federation::parse(value).map(Some).map_err(|error| error.at("federation"))
    }

    /// Replaces or removes it.
    ///
    /// # Errors
    /// `FederationInvalid` when it cannot be changed from here, or not be written.
    pub(super) fn write(&self, federation: Option<&Federation>) -> Result<()> {
        let path = match self {
            Self::File(path) => path,
            Self::Fixed(_) => {
                return Err(refused(
                    "the federation stands in the config file; change it there and restart",
                ));
            }
            Self::None => {
                return Err(refused(
                    "there is no place to keep a federation; set federationFile for the daemon",
                ));
            }
        };
        let done = match federation {
            Some(federation) => replace(path, federation),
            None => match fs::remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
        };
        done.map_err(|error| refused(&format!("cannot write {}", path.display())).caused_by(error))
    }
}

/// A change that is refused.
fn refused(detail: &str) -> Error {
    Error::new(Kind::FederationInvalid, detail)
}

/// Reads a file, if it is there.
fn read_file(path: &Path) -> Result<Option<Value>> {
    let unreadable = |error: std::io::Error| {
        refused(&format!("cannot read {}", path.display())).caused_by(error)
    };
    let length = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(unreadable)?.len(),
    };
    if length > MAX_BYTES {
        return Err(refused(&format!("{} is longer than {MAX_BYTES} bytes", path.display())));
    }
    let text = fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| refused(&format!("{} is no JSON", path.display())).caused_by(error))
}

/// Puts a new file in the place of an old one, in one step; only its owner may read it.
fn replace(path: &Path, federation: &Federation) -> std::io::Result<()> {
    let next = path.with_extension("next");
    let text = serde_json::to_vec_pretty(federation)?;
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&next)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&next, path)
}
