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
use secrecy::SecretString;

use self::args::{
    Cli, ClientArgs, FederationArgs, OutputArg, ReachArgs, StartArgs, WaitArgs, read_body,
};
use crate::{
    client::{self, Entry, FederationCommand, Wait},
    config::{Layer, client_port},
    error::{Error, Kind, Result},
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
        ClientArgs::Plugins { reach } => (client::Command::Plugins, reach, None),
        ClientArgs::Federation { command } => {
            let (command, reach) = federation(command)?;
            (client::Command::Federation(command), reach, None)
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
    let entry = Entry {
        tls: reach.tls,
        ca: reach.tls_ca_file,
        certificate: reach.tls_certificate_key_file,
        token: token(reach.token_file, env)?,
    };
    let options = client::Options { host: reach.host, port, output, timeout, entry };
    Ok(Invocation::Client(command, options))
}

/// What to do with the federation, and where the daemon is.
fn federation(command: FederationArgs) -> Result<(FederationCommand, ReachArgs)> {
    Ok(match command {
        FederationArgs::Create(args) => {
            (FederationCommand::Create(read_body(&args.body)?), args.reach)
        }
        FederationArgs::Edit(args) => (FederationCommand::Edit(read_body(&args.body)?), args.reach),
        FederationArgs::Show { reach } => (FederationCommand::Show, reach),
        FederationArgs::Delete { reach } => (FederationCommand::Delete, reach),
        FederationArgs::RevokeJwks { reach } => (FederationCommand::RevokeKeys, reach),
    })
}

/// The bearer token: of the file, else of the environment. It is never an argument, which others on
/// the machine can read.
fn token(file: Option<PathBuf>, env: &BTreeMap<String, String>) -> Result<Option<SecretString>> {
    let text = match file {
        Some(path) => Some(std::fs::read_to_string(&path).map_err(|error| {
            Error::new(Kind::ConfigInvalid, format!("cannot read {}", path.display()))
                .caused_by(error)
        })?),
        None => env.get("SYNCLINE_TOKEN").cloned(),
    };
    let text = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(text.map(SecretString::from))
}
