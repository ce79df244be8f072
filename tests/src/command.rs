//! The real binary as a command that ends by itself.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::binary;

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed for programs and people.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// What it printed, as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("{self:?}"))
    }
}

/// Runs the binary with arguments and environment variables besides ours, and waits for its end.
///
/// # Errors
/// When it cannot be built or run.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Finished> {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let environment: Vec<(String, String)> =
        environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let output = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut command = Command::new(binary::locate()?);
        Ok(command.args(arguments).envs(environment).stdin(Stdio::null()).output()?)
    })
    .await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Finished {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}
