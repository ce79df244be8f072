//! One `mongod` process with its folder and port.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mongodb::{
    Client,
    bson::{Document, doc},
    options::{ClientOptions, Credential, ServerAddress},
};
use tempfile::TempDir;

use crate::{faults::Proxy, ports::Port, process::Supervised};

/// How long a server may take to answer its first ping on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(300);

/// A `mongod`. Dropping it kills the process and removes its folder.
#[derive(Debug)]
pub struct Server {
    /// The process, unless it was killed.
    process: Option<Supervised>,
    /// Command line without the program.
    arguments: Vec<String>,
    /// The program.
    program: PathBuf,
    /// Port it listens on.
    port: Port,
    /// Proxy in front of it, when its set advertises proxies.
    proxy: Option<Proxy>,
    /// Data, log and key file.
    folder: TempDir,
}

/// What the first start of a server found.
pub(crate) enum Started {
    /// It answers.
    Ready(Box<Server>),
    /// Somebody else took the port in between; try another.
    PortTaken,
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be started; the text ends with the tail of its log.
    pub(crate) async fn start(
        program: &Path,
        own_arguments: &[String],
        key: Option<&str>,
        proxied: bool,
    ) -> Result<Started> {
        let folder = tempfile::Builder::new().prefix("syncline-mongod-").tempdir()?;
        let data = folder.path().join("data");
        fs::create_dir(&data)?;
        let port = Port::reserve()?;
        let proxy =
            proxied.then(|| Proxy::start(([127, 0, 0, 1], port.number()).into())).transpose()?;
        let mut arguments = vec![
            "--dbpath".to_owned(),
            data.display().to_string(),
            "--port".to_owned(),
            port.number().to_string(),
        ];
        if let Some(key) = key {
            let file = folder.path().join("key");
            write_private(&file, key)?;
            arguments.extend(["--keyFile".to_owned(), file.display().to_string()]);
        }
        arguments.extend_from_slice(own_arguments);
        let program = program.to_owned();
        let mut server = Self { process: None, arguments, program, port, proxy, folder };
        match server.launch().await {
            Ok(()) => Ok(Started::Ready(Box::new(server))),
            Err(_) if server.log_tail().contains("Address already in use") => {
                Ok(Started::PortTaken)
            }
            Err(error) => Err(error),
        }
    }

    /// Starts the process (again) and waits until it answers.
    ///
    /// # Errors
    /// When it ends at once or does not answer in time.
    pub async fn launch(&mut self) -> Result<()> {
        let process = Supervised::spawn(
            &self.program,
            &self.arguments,
            &[],
            &self.log_file(),
            Some(self.folder.path()),
        )?;
        self.process = Some(process);
        let client = self.direct_client(None)?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let ping = client.database("admin").run_command(doc! { "ping": 1 }).await;
            let Err(error) = ping else { return Ok(()) };
            if !self.is_running() {
                bail!("mongod ended at its start; end of its log:\n{}", self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("mongod does not answer ({error}); end of its log:\n{}", self.log_tail());
            }
        }
    }

    /// Kills the process at once (`SIGKILL`); data, port and proxy stay for a later [`Self::launch`].
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops (`SIGSTOP`) or continues the process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let process = self.process.as_ref().context("the server does not run")?;
        process.signal(if frozen { "STOP" } else { "CONT" })
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Supervised::is_running)
    }

    /// Process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Supervised::pid)
    }

    /// The real address, past any proxy.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// The address it is known by: the proxy's, if it has one.
    pub fn public_address(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.address(), Proxy::address)
    }

    /// The proxy in front of it.
    ///
    /// # Errors
    /// When the set was started without proxies.
    pub fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("this set was started without proxies")
    }

    /// A client of this server alone, past any proxy, whatever its role.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn direct_client(&self, credential: Option<Credential>) -> Result<Client> {
        direct_client(self.port.number(), credential)
    }

    /// File that collects the server's log.
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("mongod.log")
    }

    /// Last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Runs a command on `admin` of this server, past any proxy.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn admin(
        &self,
        credential: Option<Credential>,
        command: Document,
    ) -> Result<Document> {
        let client = self.direct_client(credential)?;
        Ok(client.database("admin").run_command(command).await?)
    }
}

/// A client of one server on a loopback port, whatever its role.
///
/// # Errors
/// When the client cannot be made.
pub(crate) fn direct_client(port: u16, credential: Option<Credential>) -> Result<Client> {
    crate::install_crypto();
    let options = ClientOptions::builder()
        .hosts(vec![ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: Some(port) }])
        .direct_connection(true)
        .credential(credential)
        .server_selection_timeout(Duration::from_secs(2))
        .connect_timeout(Duration::from_secs(5))
        .build();
    Ok(Client::with_options(options)?)
}

/// Writes a file that only its owner may read, from its first byte on.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
