//! The command line: the daemon's options under mongosync's names, and the client commands.
//!
//! Parsing only: values of the daemon's options go on as text and are checked with the other
//! layers of the configuration, so that everything wrong is told at once.

mod args;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap, ffi::OsString, io::Write, path::PathBuf, process::ExitCode,
    time::Duration,
};

use clap::{Parser, error::ErrorKind};

use self::args::{Cli, ClientArgs, OutputArg, PluginArgs, StartArgs, WaitArgs};
use crate::{
    client::{self, Wait},
    config::{Layer, client_port},
    error::{Error, Result},
    telemetry::redact,
};

/// Exit code for a command line that cannot be understood.
const USAGE: u8 = 64;
/// What the process is to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the daemon.
    Daemon {
        /// Options of the command line.
        flags: Layer,
        /// `--config`
        config: Option<PathBuf>,
    },
    /// Call a daemon.
    Client(client::Command, client::Options),
}

/// Why there is nothing to do: help, version, or a command line that cannot be understood.
#[derive(Debug)]
pub struct Early {
    /// What to print.
    text: String,
    /// Exit code; 0 prints to stdout, anything else to stderr.
    code: u8,
}

impl Early {
    /// Prints, and yields the exit code.
    pub fn print(&self) -> ExitCode {
        let written = if self.code == 0 {
            std::io::stdout().write_all(self.text.as_bytes())
        } else {
            std::io::stderr().write_all(self.text.as_bytes())
        };
        drop(written);
        ExitCode::from(self.code)
    }
}

/// Prints an error with its code and advice to stderr, and yields its exit code.
pub fn report(error: &Error) -> ExitCode {
    let kind = error.kind();
    let text = format!(
        "error [{} {}]: {}\n  advice: {}\n",
        kind.code(),
        kind.name(),
        redact::text(&error.full()),
        error.advice()
    );
    drop(std::io::stderr().write_all(text.as_bytes()));
    ExitCode::from(kind.exit_code())
}

/// Parses the command line; the first argument is the program.
///
/// # Errors
/// [`Early`] for help, version and a command line that cannot be understood.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &BTreeMap<String, String>,
) -> std::result::Result<Invocation, Early> {
    let cli = Cli::try_parse_from(args).map_err(|error| early(&error))?;
    let Some(command) = cli.command else {
        let config = cli.daemon.config.clone();
        return Ok(Invocation::Daemon { flags: cli.daemon.layer(), config });
    };
    client(command, env).map_err(|error| Early {
        text: format!("error [{}]: {}\n", error.kind().code(), error.full()),
        code: error.kind().exit_code(),
    })
}

/// What clap wants printed; a connection string in it is hidden.
fn early(error: &clap::Error) -> Early {
    let code = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => USAGE,
    };
    Early { text: redact::text(&error.render().to_string()).into_owned(), code }
}

/// A client command with its options.
fn client(command: ClientArgs, env: &BTreeMap<String, String>) -> Result<Invocation> {
    let wait = |args: &WaitArgs| if args.wait { Wait::Yes } else { Wait::No };
    let (command, reach, timeout) = match command {
        ClientArgs::Start(args) => {
            let StartArgs { fields, wait: args } = *args;
            (client::Command::Start(fields.request()?, wait(&args)), args.reach, args.timeout)
        }
        ClientArgs::Progress { watch: true, reach } => (client::Command::Watch, reach, None),
        ClientArgs::Progress { watch: false, reach } => (client::Command::Progress, reach, None),
        ClientArgs::Plugins { reach } | ClientArgs::Plugin(PluginArgs::List { reach }) => {
            (client::Command::Plugins, reach, None)
        }
        ClientArgs::Pause(args) => (client::Command::Pause(wait(&args)), args.reach, args.timeout),
        ClientArgs::Resume(args) => {
            (client::Command::Resume(wait(&args)), args.reach, args.timeout)
        }
        ClientArgs::Commit(args) => {
            (client::Command::Commit(wait(&args)), args.reach, args.timeout)
        }
        ClientArgs::Reverse(args) => {
            (client::Command::Reverse(wait(&args)), args.reach, args.timeout)
        }
    };
    let port = reach.port.map_or_else(|| client_port(env), Ok)?;
    let output = match reach.output {
        OutputArg::Text => client::Output::Text,
        OutputArg::Json => client::Output::Json,
    };
    let timeout = timeout.map(Duration::from_secs);
    Ok(Invocation::Client(command, client::Options { host: reach.host, port, output, timeout }))
}
