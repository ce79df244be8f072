//! The command line: the daemon's options under mongosync's names, and the client commands.
//!
//! Parsing only: values of the daemon's options go on as text and are checked with the other
//! layers of the configuration, so that everything wrong is told at once.

mod args;
mod author;
mod preflight;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap, ffi::OsString, io::Write, path::PathBuf, process::ExitCode,
    time::Duration,
};

use clap::{Parser, error::ErrorKind};
use secrecy::SecretString;
use serde_json::{Map, Value};

use self::args::{
    Cli, ClientArgs, FederationArgs, PreflightArgs, ReachArgs, ResetArgs, StartArgs, WaitArgs,
    read_body,
};
use author::PluginArgs;
pub use author::{
    AuthorCommand, Documents, QuarantineCommand, show_conformance, show_fates, show_inspection,
    show_loaded, show_quarantined, show_replayed, show_speed,
};
pub use preflight::{show, show_roles};

use crate::{
    client::{self, Entry, FederationCommand, Wait},
    config::{Layer, client_port},
    error::{Error, Kind, Result},
    model::options::Copied,
    person::Reach,
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
    /// Compare two clusters.
    Verify {
        /// Options of the command line.
        flags: Layer,
        /// `--config`
        config: Option<PathBuf>,
        /// Which direction and which namespaces, as a body of `start`.
        body: Map<String, Value>,
        /// Whether a sync runs meanwhile.
        during_sync: bool,
        /// Where to note what is equal.
        checkpoint: Option<PathBuf>,
        /// How to show what was found.
        output: client::Output,
    },
    /// Call a daemon.
    Client(client::Command, client::Options),
    /// Log a person in to a daemon's API.
    Login(client::Options, LoginOptions),
    /// Forget the session at a daemon.
    Logout(client::Options),
    /// Ask a question first, then do it.
    Confirmed(&'static str, Box<Self>),
    /// Forget the sync of a daemon that is down.
    Reset {
        /// Options of the command line.
        flags: Layer,
        /// `--config`
        config: Option<PathBuf>,
        /// What becomes of what was copied.
        copied: Copied,
    },
    /// Check whether a sync could begin.
    Preflight {
        /// Options of the command line.
        flags: Layer,
        /// `--config`
        config: Option<PathBuf>,
        /// What `start` would be told.
        body: Map<String, Value>,
        /// How to show it.
        output: client::Output,
    },
    /// Do something about documents in quarantine.
    Quarantine {
        /// Options of the command line.
        flags: Layer,
        /// `--config`
        config: Option<PathBuf>,
        /// What.
        command: QuarantineCommand,
        /// How to show it.
        output: client::Output,
    },
    /// Do something for the author of a plugin.
    Author(AuthorCommand, client::Output),
    /// Print what roles a sync needs.
    PrintRoles {
        /// What `start` would be told.
        body: Map<String, Value>,
        /// How to show it.
        output: client::Output,
    },
}

/// How a person logs in.
#[derive(Debug)]
pub struct LoginOptions {
    /// How they are reached.
    pub reach: Reach,
    /// Ways to log in; those of the daemon when empty.
    pub flows: Vec<String>,
    /// Whose account.
    pub username: Option<String>,
    /// Where the person means to log in, when that is a private address.
    pub issuer: Option<String>,
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

/// What is asked before what was copied is dropped.
const ASK_DROP: &str =
    "The sync will be given up, and what it has copied will be removed from the destination.";
/// What is asked before a sync is given up.
const ASK_KEEP: &str = "The sync will be given up; it cannot be resumed.";

/// An invocation that asks first, unless told not to.
fn asking(invocation: Invocation, copied: Copied, yes: bool) -> Invocation {
    match (yes, copied) {
        (true, _) => invocation,
        (false, Copied::Drop) => Invocation::Confirmed(ASK_DROP, Box::new(invocation)),
        (false, Copied::Keep) => Invocation::Confirmed(ASK_KEEP, Box::new(invocation)),
    }
}

/// What becomes of what was copied.
fn copied(dropped: bool) -> Copied {
    if dropped { Copied::Drop } else { Copied::Keep }
}

/// A reset with its options.
fn reset_of(args: ResetArgs) -> Invocation {
    let copied = copied(args.drop_destination_data);
    let config = args.daemon.config.clone();
    let reset = Invocation::Reset { flags: args.daemon.layer(), config, copied };
    asking(reset, copied, args.yes)
}

/// An abort with its options.
fn abort_of(
    dropped: bool,
    yes: bool,
    args: WaitArgs,
    env: &BTreeMap<String, String>,
) -> Result<Invocation> {
    let mut body = Map::new();
    body.insert("dropDestinationData".to_owned(), dropped.into());
    let wait = if args.wait { Wait::Yes } else { Wait::No };
    let options = options(args.reach, args.timeout, env)?;
    let command = client::Command::Abort(body, wait);
    Ok(asking(Invocation::Client(command, options), copied(dropped), yes))
}

/// Where the daemon is, how to reach it, and how its answer is shown.
fn options(
    reach: ReachArgs,
    timeout: Option<u64>,
    env: &BTreeMap<String, String>,
) -> Result<client::Options> {
    let port = reach.port.map_or_else(|| client_port(env), Ok)?;
    let entry = Entry {
        tls: reach.tls,
        ca: reach.tls_ca_file,
        certificate: reach.tls_certificate_key_file,
        token: token(reach.token_file, env)?,
    };
    let timeout = timeout.map(Duration::from_secs);
    Ok(client::Options { host: reach.host, port, output: reach.output.into(), timeout, entry })
}

/// A preflight with its options; both roles are given, or neither.
fn preflight_of(args: PreflightArgs) -> Result<Invocation> {
    let mut body = args.fields.request()?;
    if !body.keys().any(|key| ["source", "destination"].iter().any(|n| n.eq_ignore_ascii_case(key)))
    {
        body.insert("source".to_owned(), "cluster0".into());
        body.insert("destination".to_owned(), "cluster1".into());
    }
    let output = args.output.into();
    if args.print_roles {
        return Ok(Invocation::PrintRoles { body, output });
    }
    let config = args.daemon.config.clone();
    Ok(Invocation::Preflight { flags: args.daemon.layer(), config, body, output })
}

/// A client command with its options.
fn client(command: ClientArgs, env: &BTreeMap<String, String>) -> Result<Invocation> {
    let wait = |args: &WaitArgs| if args.wait { Wait::Yes } else { Wait::No };
    let (command, reach, timeout) = match command {
        ClientArgs::Reset(args) => return Ok(reset_of(*args)),
        ClientArgs::Login(args) => {
            let login = LoginOptions {
                reach: Reach {
                    browser: args.browser.unwrap_or_default(),
                    redirect: args.redirect_uri.unwrap_or_default(),
                },
                flows: args.flows,
                username: args.username,
                issuer: args.issuer,
            };
            return Ok(Invocation::Login(options(args.reach, None, env)?, login));
        }
        ClientArgs::Logout { reach } => {
            return Ok(Invocation::Logout(options(reach, None, env)?));
        }
        ClientArgs::Abort { drop_destination_data, yes, wait } => {
            return abort_of(drop_destination_data, yes, wait, env);
        }
        ClientArgs::Preflight(args) => return preflight_of(*args),
        ClientArgs::Start(args) => {
            let StartArgs { fields, wait: args } = *args;
            (client::Command::Start(fields.request()?, wait(&args)), args.reach, args.timeout)
        }
        ClientArgs::Progress { watch, collections, reach } => {
            let command = match (watch, collections) {
                (true, _) => client::Command::Watch,
                (false, true) => client::Command::Collections,
                (false, false) => client::Command::Progress,
            };
            (command, reach, None)
        }
        ClientArgs::Verify(args) => {
            let body = args.request();
            let config = args.daemon.config.clone();
            return Ok(Invocation::Verify {
                flags: args.daemon.layer(),
                config,
                body,
                during_sync: args.during_sync,
                checkpoint: args.checkpoint_file,
                output: args.output.into(),
            });
        }
        ClientArgs::Mismatches { reach } => (client::Command::Mismatches, reach, None),
        ClientArgs::Plugins { reach } => (client::Command::Plugins, reach, None),
        ClientArgs::Plugin(args) => match *args {
            PluginArgs::List { reach } => (client::Command::Plugins, reach, None),
            other => return other.invocation(),
        },
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
    Ok(Invocation::Client(command, options(reach, timeout, env)?))
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
