//! The client commands: each is one call of the control API, or a few when it waits.
//!
//! Results go to the given writer as text for people or as JSON for scripts; a failure is an
//! [`Error`] with the kind, and therefore the exit code, that the daemon named.
//!
//! Invariant: talks HTTP only; nothing of the engine is reachable from here.

mod session;
mod text;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use reqwest::{Certificate, Method, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::time::Instant;

pub use session::{Session, Sessions};

use crate::error::{Error, Kind, Result};

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long reading the progress may take.
const READ_TIME: Duration = Duration::from_secs(10);
/// Pause between two looks at the progress.
const POLL: Duration = Duration::from_millis(250);
/// How long a daemon may be unreachable while a command waits; it may be restarting.
const PATIENCE: Duration = Duration::from_secs(15);

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// Where the daemon is and how results are written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host of the API.
    pub host: String,
    /// Port of the API.
    pub port: u16,
    /// How results are written.
    pub output: Output,
    /// How long a command that waits does so; `None` waits for ever.
    pub timeout: Option<Duration>,
    /// How to get in.
    pub entry: Entry,
}

impl Options {
    /// Scheme, host and port of the daemon.
    pub fn place(&self) -> String {
        let host = match self.host.as_str() {
            v6 if v6.contains(':') && !v6.starts_with('[') => format!("[{v6}]"),
            host => host.to_owned(),
        };
        let scheme = if self.entry.tls { "https" } else { "http" };
        format!("{scheme}://{host}:{}", self.port)
    }
}

/// How to get in to a daemon that does not let everybody in.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// Whether to speak TLS.
    pub tls: bool,
    /// PEM file with the authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// PEM file with a certificate and its key, for a daemon that demands one.
    pub certificate: Option<PathBuf>,
    /// Bearer token.
    pub token: Option<SecretString>,
}

/// What to do with the federation of the API's users.
#[derive(Debug, Clone)]
pub enum FederationCommand {
    /// `POST /federation` with this body.
    Create(Map<String, Value>),
    /// `GET /federation`
    Show,
    /// `PUT /federation` with this body.
    Edit(Map<String, Value>),
    /// `DELETE /federation`
    Delete,
    /// `POST /federation/revoke-jwks`
    RevokeKeys,
}

/// Whether a command returns at once or when its effect is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// At once.
    No,
    /// When the effect is there.
    Yes,
}

/// One command.
#[derive(Debug, Clone)]
pub enum Command {
    /// `POST /start` with this body.
    Start(Map<String, Value>, Wait),
    /// `GET /progress`, once.
    Progress,
    /// `GET /progress/collections`, every page.
    Collections,
    /// `GET /progress`, until the sync is committed.
    Watch,
    /// `POST /pause`
    Pause(Wait),
    /// `POST /resume`
    Resume(Wait),
    /// `POST /commit`
    Commit(Wait),
    /// `POST /reverse`
    Reverse(Wait),
    /// `POST /abort`, with the body.
    Abort(Map<String, Value>, Wait),
    /// `GET /plugins`
    Plugins,
    /// `/federation`
    Federation(FederationCommand),
    /// `GET /verification`
    Mismatches,
}

/// What a waiting command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// `canCommit` is true.
    CanCommit,
    /// The state has this name.
    State(&'static str),
}

impl Goal {
    /// Whether the progress shows it.
    fn is_reached(self, progress: &Value) -> bool {
        match self {
            Self::CanCommit => progress.get("canCommit") == Some(&Value::Bool(true)),
            Self::State(name) => progress.get("state").and_then(Value::as_str) == Some(name),
        }
    }

    /// The goal in words.
    fn name(self) -> String {
        match self {
            Self::CanCommit => "canCommit: true".to_owned(),
            Self::State(name) => format!("state {name}"),
        }
    }
}

/// Runs a command and writes its result.
///
/// # Errors
/// What the daemon answered, `ApiUnreachable` when none did.
pub async fn run(command: Command, options: &Options, out: &mut (dyn Write + Send)) -> Result<()> {
    let client = Client::new(options)?;
    let outcome = match command {
        Command::Start(body, wait) => {
            let goal = (wait, Goal::CanCommit);
            client
                .command("start", body, goal, ["started", "started, and ready to commit"], out)
                .await
        }
        Command::Pause(wait) => {
            let goal = (wait, Goal::State("PAUSED"));
            client.command("pause", Map::new(), goal, ["pausing", "paused"], out).await
        }
        Command::Resume(wait) => {
            let goal = (wait, Goal::State("RUNNING"));
            client.command("resume", Map::new(), goal, ["resuming", "running"], out).await
        }
        Command::Commit(wait) => {
            let goal = (wait, Goal::State("COMMITTED"));
            client.command("commit", Map::new(), goal, ["committing", "committed"], out).await
        }
        Command::Reverse(wait) => {
            let goal = (wait, Goal::State("RUNNING"));
            client
                .command("reverse", Map::new(), goal, ["reversing", "running, reversed"], out)
                .await
        }
        Command::Abort(body, wait) => {
            let goal = (wait, Goal::State("IDLE"));
            client.command("abort", body, goal, ["aborting", "aborted"], out).await
        }
        Command::Progress => client.show("progress", text::progress, out).await,
        Command::Collections => client.collections(out).await,
        Command::Plugins => client.show("plugins", text::plugins, out).await,
        Command::Federation(command) => client.federation(command, out).await,
        Command::Mismatches => client.show("verification", text::mismatches, out).await,
        Command::Watch => {
            let mode = match (options.output, io::stdout().is_terminal()) {
                (Output::Json, _) => watch::Mode::Json,
                (Output::Text, true) => watch::Mode::Bars,
                (Output::Text, false) => watch::Mode::Lines,
            };
            watch::watch(&client, mode, out).await
        }
    };
    match outcome {
        Err(Failure::Reported(error, envelope)) => {
            if options.output == Output::Json {
                write_line(out, &envelope.to_string())?;
            }
            Err(error)
        }
        Err(Failure::Other(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// How people log in, as a daemon says.
#[derive(Debug, Clone, Default)]
pub struct LoginOffer {
    /// Issuer.
    pub issuer: String,
    /// OAuth client.
    pub client_id: String,
    /// Scopes to request.
    pub scopes: Vec<String>,
    /// `auth-code` and `device-auth`, as they are allowed.
    pub flows: Vec<String>,
}

/// Asks a daemon how people log in.
///
/// # Errors
/// `NotFound` when nobody can, `ApiUnreachable`.
pub async fn login_offer(options: &Options) -> Result<LoginOffer> {
    let options =
        Options { entry: Entry { token: None, ..options.entry.clone() }, ..options.clone() };
    let answer = match Client::new(&options)?.call(Method::GET, "login", None).await {
        Ok(answer) => answer,
        Err(Failure::Reported(error, _) | Failure::Other(error)) => return Err(error),
    };
    let login = answer.get("login").unwrap_or(&Value::Null);
    let text = |name: &str| login.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |name: &str| {
        let items = login.get(name).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    Ok(LoginOffer {
        issuer: text("issuer"),
        client_id: text("clientId"),
        scopes: list("requestedScopes"),
        flows: list("flows"),
    })
}

/// Asks on the terminal whether to go on.
///
/// # Errors
/// `BadRequest` unless the answer is `yes`.
pub fn confirm(question: &str) -> Result<()> {
    let refused = || Error::new(Kind::BadRequest, "not confirmed; answer `yes` or give --yes");
    // A question that cannot be shown gets no answer either.
    drop(write!(io::stderr(), "{question} Type yes to go on: "));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| refused().caused_by(error))?;
    if answer.trim() == "yes" { Ok(()) } else { Err(refused()) }
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// The daemon said so, in this envelope.
    Reported(Error, Value),
    /// The daemon could not be asked, or waiting was in vain.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// Whether nobody answered.
    fn is_unreachable(&self) -> bool {
        matches!(self, Self::Other(error) if error.kind() == Kind::ApiUnreachable)
    }
}

/// A connection to one daemon.
struct Client {
    /// The HTTP client.
    http: reqwest::Client,
    /// `http://host:port/api/v1`, or `https`.
    base: String,
    /// Bearer token.
    token: Option<SecretString>,
    /// How results are written.
    output: Output,
    /// How long to wait.
    timeout: Option<Duration>,
}

impl Client {
    /// A client for the daemon that the options name.
    fn new(options: &Options) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIME);
        if let Some(path) = &options.entry.ca {
            let authorities = Certificate::from_pem_bundle(&pem(path)?)
                .map_err(|error| unusable(path).caused_by(error))?;
            builder = builder.tls_certs_merge(authorities);
        }
        if let Some(path) = &options.entry.certificate {
            // The cause would describe the key.
            let identity = reqwest::Identity::from_pem(&pem(path)?).map_err(|_| unusable(path))?;
            builder = builder.identity(identity);
        }
        let http = builder
            .build()
            .map_err(|error| Error::new(Kind::Internal, "no HTTP client").caused_by(error))?;
        if !options.entry.tls && options.entry.token.is_some() && !is_loopback(&options.host) {
            return Err(Error::new(
                Kind::ConfigInvalid,
                "a token does not travel in clear to another machine; add --tls",
            ));
        }
        let base = format!("{}/api/v1", options.place());
        let token = options.entry.token.clone();
        Ok(Self { http, base, token, output: options.output, timeout: options.timeout })
    }

    /// Shows or changes the federation.
    async fn federation(
        &self,
        command: FederationCommand,
        out: &mut (dyn Write + Send),
    ) -> Result<(), Failure> {
        let (method, path, body, said) = match command {
            FederationCommand::Create(body) => (Method::POST, "federation", Some(body), "created"),
            FederationCommand::Edit(body) => (Method::PUT, "federation", Some(body), "changed"),
            FederationCommand::Delete => (Method::DELETE, "federation", None, "deleted"),
            FederationCommand::RevokeKeys => {
                (Method::POST, "federation/revoke-jwks", None, "keys revoked")
            }
            FederationCommand::Show => {
                let answer = self.call(Method::GET, "federation", None).await?;
                let federation = answer.get("federation").unwrap_or(&Value::Null);
                return Ok(write_line(out, &format!("{federation:#}"))?);
            }
        };
        let answer = self.call(method, path, body.map(Value::Object).as_ref()).await?;
        match self.output {
            Output::Json => write_line(out, &answer.to_string())?,
            Output::Text => write_line(out, said)?,
        }
        Ok(())
    }

    /// Posts a command, waits when asked to, and says what happened.
    async fn command(
        &self,
        path: &str,
        body: Map<String, Value>,
        (wait, goal): (Wait, Goal),
        [at_once, in_the_end]: [&str; 2],
        out: &mut (dyn Write + Send),
    ) -> Result<(), Failure> {
        let answer = self.call(Method::POST, path, Some(&Value::Object(body))).await?;
        let said = match wait {
            Wait::No => at_once,
            Wait::Yes => {
                self.wait_for(goal).await?;
                in_the_end
            }
        };
        match self.output {
            Output::Json => write_line(out, &answer.to_string())?,
            Output::Text => write_line(out, said)?,
        }
        Ok(())
    }

    /// Gets something and shows it.
    async fn show(
        &self,
        path: &str,
        in_words: fn(&Value) -> String,
        out: &mut (dyn Write + Send),
    ) -> Result<(), Failure> {
        let answer = self.call(Method::GET, path, None).await?;
        match self.output {
            Output::Json => write_line(out, &format!("{answer:#}"))?,
            Output::Text => write_line(out, &in_words(&answer))?,
        }
        Ok(())
    }

    /// Shows every collection, page by page.
    async fn collections(&self, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        const PAGE: usize = 1_000;
        let mut offset = 0;
        loop {
            let path = format!("progress/collections?offset={offset}&limit={PAGE}");
            let answer = self.call(Method::GET, &path, None).await?;
            let page = answer.get("collections").and_then(Value::as_array);
            let page = page.map_or(&[][..], Vec::as_slice);
            for collection in page {
                let line = match self.output {
                    Output::Json => collection.to_string(),
                    Output::Text => text::collection(collection),
                };
                if !try_write_line(out, &line)? {
                    return Ok(());
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
            offset += PAGE;
        }
    }

    /// The `progress` object.
    async fn progress(&self) -> Result<Value, Failure> {
        let mut answer = self.call(Method::GET, "progress", None).await?;
        Ok(answer.get_mut("progress").map(Value::take).unwrap_or_default())
    }

    /// Looks at the progress until the goal is reached, the sync fails or time is up.
    async fn wait_for(&self, goal: Goal) -> Result<(), Failure> {
        let began = Instant::now();
        let mut last_seen = Instant::now();
        loop {
            match self.progress().await {
                Ok(progress) if goal.is_reached(&progress) => return Ok(()),
                Ok(progress) => {
                    if let Some(error) = sync_failure(&progress) {
                        return Err(error.into());
                    }
                    last_seen = Instant::now();
                }
                Err(failure) if failure.is_unreachable() && last_seen.elapsed() < PATIENCE => {}
                Err(failure) => return Err(failure),
            }
            if self.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                let seconds = began.elapsed().as_secs();
                let detail = format!("waited {seconds} s for {} in vain", goal.name());
                return Err(Error::new(Kind::InvalidState, detail).into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// One call; an envelope with `success: false` is an error.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let url = format!("{}/{path}", self.base);
        let unreachable = |error: reqwest::Error| {
            Error::new(Kind::ApiUnreachable, format!("no answer from {}", self.base))
                .caused_by(error.without_url())
        };
        let mut request = self.http.request(method.clone(), url);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if method == Method::GET {
            request = request.timeout(READ_TIME);
        }
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        let answer: Value = serde_json::from_slice(&bytes).map_err(|_not_json| {
            let detail =
                format!("something else than syncline answers at {} (HTTP {status})", self.base);
            Error::new(Kind::ApiUnreachable, detail)
        })?;
        match answer.get("success") {
            Some(Value::Bool(true)) => Ok(answer),
            Some(Value::Bool(false)) => Err(Failure::Reported(reported(&answer), answer)),
            _ => Err(Error::new(
                Kind::ApiUnreachable,
                format!("something else than syncline answers at {} (HTTP {status})", self.base),
            )
            .into()),
        }
    }
}

/// The content of a PEM file.
fn pem(path: &PathBuf) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Error::new(Kind::ConfigInvalid, format!("cannot read {}", path.display())).caused_by(error)
    })
}

/// The error for a PEM file that is none.
fn unusable(path: &std::path::Path) -> Error {
    Error::new(Kind::ConfigInvalid, format!("{} holds nothing usable", path.display()))
}

/// Whether a host is this machine by its name.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The error that an envelope, or `progress.failure`, holds.
fn reported(envelope: &Value) -> Error {
    let text = |name: &str| envelope.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = Kind::ALL
        .iter()
        .copied()
        .find(|kind| kind.code() == text("code"))
        .or_else(|| Kind::ALL.iter().copied().find(|kind| kind.name() == text("error")));
    match kind {
        Some(kind) => Error::new(kind, text("errorDescription")),
        None => {
            Error::new(Kind::Internal, format!("{}: {}", text("error"), text("errorDescription")))
        }
    }
}

/// The failure of the sync that the progress shows, if any.
fn sync_failure(progress: &Value) -> Option<Error> {
    progress.get("failure").filter(|failure| !failure.is_null()).map(reported)
}

/// Shows the answer of `/verification`.
///
/// # Errors
/// `Internal` when it cannot be written.
pub fn show_mismatches(answer: &Value, output: Output, out: &mut (dyn Write + Send)) -> Result<()> {
    match output {
        Output::Json => write_line(out, &format!("{answer:#}")),
        Output::Text => write_line(out, &text::mismatches(answer)),
    }
}

/// Shows on a terminal how far a comparison is: collections done, collections in all, documents.
pub fn show_comparison([done, all, documents]: [u64; 3]) {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        let end = if done == all { "\n" } else { "" };
        // Nobody is hurt when a line of progress cannot be shown.
        drop(write!(terminal, "\r{done} of {all} collections, {documents} documents{end}"));
    }
}

/// Writes one line. A reader that went away (`| head`) is no failure.
fn write_line(out: &mut (dyn Write + Send), line: &str) -> Result<()> {
    try_write_line(out, line).map(|_is_read| ())
}

/// As [`write_line`]; `false` when the reader went away.
fn try_write_line(out: &mut (dyn Write + Send), line: &str) -> Result<bool> {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::new(Kind::Internal, "cannot write the result").caused_by(error)),
    }
}
