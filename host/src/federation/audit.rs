//! The audit: one JSON line for every decision, in a file of its own or in the log.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::error::{Error, Kind, Result};

/// Where the lines go.
#[derive(Default)]
pub struct Audit {
    /// The file; without one they go to the log.
    file: Option<Mutex<File>>,
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    /// When.
    pub(super) time: String,
    /// Id of the request.
    pub(super) request_id: &'a str,
    /// Who; only after the token was verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    /// Roles in effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) roles: Vec<&'a str>,
    /// `jti` of the token, or the beginning of its SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<String>,
    /// Id of the key, when the signature was good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<&'a str>,
    /// From where.
    pub(super) client: IpAddr,
    /// What was asked for.
    pub(super) request: &'a str,
    /// The right it needs.
    pub(super) action: &'static str,
    /// `allowed`, `unauthenticated` or `forbidden`.
    pub(super) decision: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
}

impl Audit {
    /// Lines into a file, which is made when it is missing and readable for its owner only.
    ///
    /// # Errors
    /// `ConfigInvalid` when it cannot be opened.
    pub fn to_file(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(|error| {
            Error::new(Kind::ConfigInvalid, format!("auditLog: cannot open {}", path.display()))
                .caused_by(error)
        })?;
        Ok(Self { file: Some(Mutex::new(file)) })
    }

    /// Writes a line; `false` when it could not be written, and then nothing may be allowed.
    pub(super) fn write(&self, line: &Line<'_>) -> bool {
        let Ok(mut text) = serde_json::to_string(line) else { return false };
        match &self.file {
            None => {
                tracing::info!(target: "audit", decision = text, "decision about a request");
                true
            }
            Some(file) => {
                text.push('\n');
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                match file.write_all(text.as_bytes()) {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::error!(%error, "cannot write the audit log");
                        false
                    }
                }
            }
        }
    }
}
