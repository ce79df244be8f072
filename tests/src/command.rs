//! The real binary as a command that ends by itself.

use std::{
    io::{Seek, Write},
    process::Command,
};

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
    run_with(arguments, environment, "").await
}

/// As [`run`], with text on standard input.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    arguments: &[&str],
    environment: &[(&str, &str)],
    input: &str,
) -> Result<Finished> {
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let environment: Vec<(String, String)> =
        environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let output = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut command = Command::new(binary::locate()?);
        Ok(command.args(arguments).envs(environment).stdin(stdin).output()?)
    })
    .await??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Finished {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    })
}
