//! The real daemon as a child process, and a client of its API.

use std::{
    fs,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    binary, eventually::eventually, ports::Port, process::Supervised, server::write_private,
};

/// How long the API may take to answer after a start or a restart.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Options of the daemon, as they stand in its config file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys and values of the file.
    values: serde_json::Map<String, Value>,
    /// Environment of the daemon besides ours.
    environment: Vec<(String, String)>,
    /// How the harness gets in.
    entry: Entry,
}

/// How the harness gets in to the API.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// Bearer token of every request.
    token: Option<String>,
    /// PEM of the authority to trust; set when the daemon speaks TLS.
    authority: Option<String>,
    /// PEM of a certificate with its key.
    identity: Option<String>,
}

impl Config {
    /// Options for a pair of clusters.
    pub fn new(cluster0: &str, cluster1: &str) -> Self {
        let mut config = Self {
            values: serde_json::Map::new(),
            environment: Vec::new(),
            entry: Entry::default(),
        };
        config.set("cluster0", cluster0);
        config.set("cluster1", cluster1);
        config
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// The same with a key.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// The same with a bearer token in every request of the harness.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.entry.token = Some(token.to_owned());
        self
    }

    /// The same for a daemon that speaks TLS: the authority to trust, and perhaps a certificate with
    /// its key to show, all in PEM.
    #[must_use]
    pub fn with_tls(mut self, authority: &str, identity: Option<&str>) -> Self {
        self.entry.authority = Some(authority.to_owned());
        self.entry.identity = identity.map(str::to_owned);
        self
    }

    /// The same with an environment variable.
    #[must_use]
    pub fn with_environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }
}

impl Config {
    /// The options as a config file for a command; it lives as long as what is returned.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn to_file(&self) -> Result<tempfile::NamedTempFile> {
        // Created readable for us alone, as the daemon wants it.
        let mut file = tempfile::Builder::new().prefix("syncline-").suffix(".yaml").tempfile()?;
        std::io::Write::write_all(
            &mut file,
            Value::Object(self.values.clone()).to_string().as_bytes(),
        )?;
        Ok(file)
    }
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON body.
    pub body: Value,
}

impl Answer {
    /// Whether the envelope says so.
    pub fn is_success(&self) -> bool {
        self.body["success"] == json!(true)
    }

    /// `error` of the envelope, or nothing.
    pub fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }

    /// Fails unless the envelope says success.
    ///
    /// # Errors
    /// With the whole answer.
    pub fn check(self) -> Result<Self> {
        if self.is_success() { Ok(self) } else { bail!("{}: {}", self.status, self.body) }
    }
}

/// How a daemon that was meant to end by itself ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Everything it printed.
    pub output: String,
}

/// A daemon. Dropping it kills the process.
#[derive(Debug)]
pub struct Daemon {
    /// The process, unless it was killed or has ended.
    process: Option<Supervised>,
    /// Its API.
    port: Port,
    /// To the API.
    http: reqwest::Client,
    /// What it was started with.
    config: Config,
    /// Config file and output.
    folder: TempDir,
    /// Highest resident memory seen over all its lives, in bytes.
    peak_memory: u64,
}

impl Daemon {
    /// Starts a daemon and waits until its API answers.
    ///
    /// # Errors
    /// When it cannot be built or ends at once; the text carries its output.
    pub async fn start(config: Config) -> Result<Self> {
        let mut daemon = Self::prepare(config)?;
        daemon.launch().await?;
        Ok(daemon)
    }

    /// Starts a daemon that is expected to refuse, and waits for its end.
    ///
    /// # Errors
    /// When it is still running after a minute.
    pub async fn run_to_end(config: Config) -> Result<Ended> {
        let mut daemon = Self::prepare(config)?;
        daemon.spawn().await?;
        let ended = daemon.wait(READY_LIMIT).await?;
        Ok(Ended { code: ended.code(), output: daemon.output() })
    }

    /// Reserves a port and makes the folder.
    fn prepare(config: Config) -> Result<Self> {
        crate::install_crypto();
        let mut http =
            reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).pool_max_idle_per_host(0);
        if let Some(pem) = &config.entry.authority {
            http = http.tls_certs_merge([reqwest::Certificate::from_pem(pem.as_bytes())?]);
        }
        if let Some(pem) = &config.entry.identity {
            http = http.identity(reqwest::Identity::from_pem(pem.as_bytes())?);
        }
        let http = http.build()?;
        let folder = tempfile::Builder::new().prefix("syncline-daemon-").tempdir()?;
        let port = Port::reserve()?;
        Ok(Self { process: None, port, http, config, folder, peak_memory: 0 })
    }

    /// Starts the process (again), with the same options, and waits until its API knows the state.
    ///
    /// # Errors
    /// When it ends at once or does not answer; the text carries the end of its output.
    pub async fn launch(&mut self) -> Result<()> {
        self.spawn().await?;
        let deadline = Instant::now() + READY_LIMIT;
        while !self.is_initialized().await {
            if !self.is_running() {
                bail!("the daemon ended at its start:\n{}", self.output_tail());
            }
            if Instant::now() > deadline {
                bail!("the daemon's API does not answer:\n{}", self.output_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether the API answers and knows the state of the sync.
    async fn is_initialized(&self) -> bool {
        self.progress().await.is_ok_and(|progress| progress["state"] != "INITIALIZING")
    }

    /// Writes the config file and starts the process.
    async fn spawn(&mut self) -> Result<()> {
        let program = tokio::task::spawn_blocking(binary::locate).await??;
        let file = self.folder.path().join("syncline.yaml");
        if file.exists() {
            fs::remove_file(&file)?;
        }
        let mut values = self.config.values.clone();
        values.entry("port").or_insert_with(|| json!(self.port.number()));
        // JSON is YAML.
        write_private(&file, &serde_json::to_string_pretty(&values)?)?;
        let arguments = ["--config".to_owned(), file.display().to_string()];
        let environment = &self.config.environment;
        let process =
            Supervised::spawn(&program, &arguments, environment, &self.output_file(), None)?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the process at once (`SIGKILL`).
    pub fn kill(&mut self) {
        self.note_memory();
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks the process to end (`SIGTERM`) and waits for it.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.note_memory();
        self.process.as_ref().context("the daemon does not run")?.signal("TERM")?;
        self.wait(READY_LIMIT).await
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// When it is still running after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        let (process, status) = tokio::task::spawn_blocking(move || {
            let status = process.wait(limit);
            (process, status)
        })
        .await?;
        let Some(status) = status else {
            self.process = Some(process);
            bail!("the daemon still runs after {limit:?}:\n{}", self.output_tail());
        };
        Ok(status)
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Supervised::is_running)
    }

    /// Process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Supervised::pid)
    }

    /// The options, to be changed before the next [`Self::launch`].
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Port of the API.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Highest resident memory over all lives so far, in bytes.
    pub fn peak_memory(&mut self) -> u64 {
        self.note_memory();
        self.peak_memory
    }

    /// Asks the kernel.
    fn note_memory(&mut self) {
        let now = self.pid().and_then(crate::process::peak_memory).unwrap_or_default();
        self.peak_memory = self.peak_memory.max(now);
    }

    /// File that collects what the process prints: its log as JSON lines, and what panics say.
    pub fn output_file(&self) -> PathBuf {
        self.folder.path().join("output.log")
    }

    /// Everything printed so far, over all lives.
    pub fn output(&self) -> String {
        fs::read(self.output_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Last lines printed.
    pub fn output_tail(&self) -> String {
        let text = self.output();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Fails when one of these texts, or anything that begins as tokens do, stands in the output, in the
    /// command line of the process or in an answer of the API.
    ///
    /// # Errors
    /// Names the place, not the secret.
    pub async fn check_secrets(&self, secrets: &[&str]) -> Result<()> {
        let mut places = vec![("output", self.output())];
        if let Some(pid) = self.pid() {
            let line = fs::read(format!("/proc/{pid}/cmdline"))?;
            places.push(("command line", String::from_utf8_lossy(&line).into_owned()));
            for path in ["/api/v1/progress", "/api/v1/plugins", "/metrics"] {
                places.push((path, self.request("GET", path, None).await?.body.to_string()));
            }
        }
        for (place, text) in places {
            // The encoding of `{"`.
            if text.contains("eyJ") {
                bail!("a token stands in the {place} of the daemon");
            }
            for (number, secret) in secrets.iter().enumerate() {
                if text.contains(secret) {
                    bail!("secret number {number} stands in the {place} of the daemon");
                }
            }
        }
        Ok(())
    }

    /// Sends a request to the API.
    ///
    /// # Errors
    /// When no HTTP answer comes back.
    pub async fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
        self.request_as(self.config.entry.token.as_deref(), method, path, body).await
    }

    /// Sends a request with this token, or with none.
    ///
    /// # Errors
    /// When no HTTP answer comes back.
    pub async fn request_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> Result<Answer> {
        let scheme = if self.config.entry.authority.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}{path}", self.port.number());
        let mut request = self.http.request(method.parse()?, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body })
    }

    /// `POST` of a JSON body to a path below `/api/v1`.
    ///
    /// # Errors
    /// When no HTTP answer comes back.
    pub async fn post(&self, command: &str, body: &Value) -> Result<Answer> {
        self.request("POST", &format!("/api/v1/{command}"), Some(&body.to_string())).await
    }

    /// Starts the sync from cluster0 to cluster1 and expects success.
    ///
    /// # Errors
    /// With the answer when it is refused.
    pub async fn start_sync(&self) -> Result<()> {
        self.start_with(json!({})).await
    }

    /// The same with more options of `/start`.
    ///
    /// # Errors
    /// With the answer when it is refused.
    pub async fn start_with(&self, options: Value) -> Result<()> {
        let mut body = json!({ "source": "cluster0", "destination": "cluster1" });
        if let (Some(body), Value::Object(options)) = (body.as_object_mut(), options) {
            body.extend(options);
        }
        self.post("start", &body).await?.check().context("/start")?;
        Ok(())
    }

    /// A command without options; expects success.
    ///
    /// # Errors
    /// With the answer when it is refused.
    pub async fn command(&self, command: &str) -> Result<()> {
        self.post(command, &json!({})).await?.check().with_context(|| format!("/{command}"))?;
        Ok(())
    }

    /// The `progress` object.
    ///
    /// # Errors
    /// When the API does not answer with success.
    pub async fn progress(&self) -> Result<Value> {
        let answer = self.request("GET", "/api/v1/progress", None).await?.check()?;
        Ok(answer.body["progress"].clone())
    }

    /// Waits until the progress satisfies a condition; fails early when the daemon has ended.
    ///
    /// # Errors
    /// After `limit`, with the last progress and the end of the output.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let waited = eventually(what, limit, || async {
            match self.progress().await {
                Ok(progress) if condition(&progress) => Ok(Ok(progress)),
                Ok(progress) => Err(progress.to_string()),
                Err(error) if !self.is_running() => {
                    Ok(Err(error.context(format!("the daemon has ended while waiting: {what}"))))
                }
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        waited
            .and_then(|progress| progress)
            .with_context(|| format!("end of the daemon's output:\n{}", self.output_tail()))
    }

    /// Waits for a state.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub async fn wait_state(&self, state: &str, limit: Duration) -> Result<Value> {
        self.wait_for(&format!("state {state}"), limit, |progress| progress["state"] == state).await
    }

    /// Waits until the copy is over and `canCommit` is true.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub async fn wait_can_commit(&self, limit: Duration) -> Result<Value> {
        self.wait_for("canCommit", limit, |progress| progress["canCommit"] == true).await
    }

    /// Waits for `canCommit`, commits and waits for the end.
    ///
    /// # Errors
    /// When any of it fails.
    pub async fn commit(&self, limit: Duration) -> Result<Value> {
        self.wait_can_commit(limit).await?;
        self.command("commit").await?;
        self.wait_state("COMMITTED", limit).await
    }
}
