//! Real replica sets (and standalones) on loopback.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use mongodb::{
    Client,
    bson::{Document, doc},
    options::Credential,
};

use crate::{
    eventually::eventually,
    faults::Proxy,
    mongod,
    random::Random,
    server::{Server, Started, direct_client},
};

/// Attempts to find ports that nobody takes between the look and the start.
const START_ATTEMPTS: usize = 5;
/// How long an election may take on a busy machine.
const ELECTION_LIMIT: Duration = Duration::from_secs(240);

/// What kind of cluster to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of data-bearing members.
    pub nodes: usize,
    /// Name of the set; `None` starts a standalone.
    pub set_name: Option<String>,
    /// Oplog size in megabytes.
    pub oplog_megabytes: u32,
    /// Cache of a member in megabytes; the server takes no less than 256.
    pub cache_megabytes: u32,
    /// Whether users must authenticate; the harness then makes a `root` user.
    pub auth: bool,
    /// Whether members advertise proxies instead of themselves.
    pub proxied: bool,
    /// `--setParameter` values.
    pub parameters: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            set_name: Some("rs".to_owned()),
            oplog_megabytes: 512,
            cache_megabytes: 256,
            auth: false,
            proxied: false,
            parameters: Vec::new(),
        }
    }
}

impl Options {
    /// A set of one member.
    pub fn single() -> Self {
        Self::default()
    }

    /// A set of three members.
    pub fn three() -> Self {
        Self { nodes: 3, ..Self::default() }
    }

    /// A server that is no replica set.
    pub fn standalone() -> Self {
        Self { set_name: None, ..Self::default() }
    }

    /// The same with users.
    #[must_use]
    pub fn with_auth(self) -> Self {
        Self { auth: true, ..self }
    }

    /// The same with a proxy in front of every member.
    #[must_use]
    pub fn proxied(self) -> Self {
        Self { proxied: true, ..self }
    }

    /// The same under another set name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { set_name: Some(name.to_owned()), ..self }
    }

    /// The same with a larger cache, for large transactions.
    #[must_use]
    pub fn with_cache(self, megabytes: u32) -> Self {
        Self { cache_megabytes: megabytes, ..self }
    }

    /// The same with an oplog of another size.
    #[must_use]
    pub fn with_oplog(self, megabytes: u32) -> Self {
        Self { oplog_megabytes: megabytes, ..self }
    }

    /// The same with a server parameter.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same without the server's own no-op writes, so that an idle set is really silent.
    #[must_use]
    pub fn silent(self) -> Self {
        self.with_parameter("writePeriodicNoops", "false")
    }

    /// Command line that all members share.
    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--setParameter",
            "enableTestCommands=1",
            "--setParameter",
            "diagnosticDataCollectionEnabled=false",
            "--setParameter",
            "ttlMonitorSleepSecs=1",
        ]
        .map(str::to_owned)
        .to_vec();
        let cache = f64::from(self.cache_megabytes) / 1024.0;
        arguments.extend(["--wiredTigerCacheSizeGB".to_owned(), cache.to_string()]);
        if let Some(name) = &self.set_name {
            arguments.extend(["--replSet".to_owned(), name.clone()]);
            arguments.extend(["--oplogSize".to_owned(), self.oplog_megabytes.to_string()]);
        }
        for (name, value) in &self.parameters {
            arguments.extend(["--setParameter".to_owned(), format!("{name}={value}")]);
        }
        arguments
    }
}

/// A running cluster. Dropping it kills its servers and removes their folders.
#[derive(Debug)]
pub struct ReplicaSet {
    /// The members.
    servers: Vec<Server>,
    /// What it was started with.
    options: Options,
    /// Password of the user `root`, when there are users.
    password: Option<String>,
    /// Client made at the start.
    client: Client,
}

impl ReplicaSet {
    /// Starts a cluster and waits until it takes writes.
    ///
    /// # Errors
    /// When there is no `mongod`, or it does not start; the text carries the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        crate::install_crypto();
        let program = tokio::task::spawn_blocking(mongod::locate).await??;
        let key = Random::from_entropy().word(64);
        let password = options.auth.then(|| Random::from_entropy().word(24));
        let key = password.as_ref().and(options.set_name.as_ref()).map(|_| key.as_str());
        let mut servers = Vec::new();
        for _ in 0..options.nodes {
            servers.push(start_member(&program, &options, key).await?);
        }
        if options.set_name.is_some() {
            initiate(&servers, &options).await?;
        }
        if let Some(password) = &password {
            create_root(&servers, password).await?;
        }
        let uri = uri_of(&servers, &options, password.as_deref());
        let client = Client::with_uri_str(&uri).await?;
        let set = Self { servers, options, password, client };
        set.wait_writable().await?;
        Ok(set)
    }

    /// Connection string with everything a client needs, credentials included.
    pub fn uri(&self) -> String {
        uri_of(&self.servers, &self.options, self.password.as_deref())
    }

    /// Connection string for another user.
    pub fn uri_as(&self, user: &str, password: &str) -> String {
        uri_with(&self.servers, &self.options, Some((user, password)))
    }

    /// Connection string without credentials.
    pub fn uri_without_credentials(&self) -> String {
        uri_with(&self.servers, &self.options, None)
    }

    /// A client that follows the primary. Made on the runtime that started the set.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Password of `root`, for a scan of logs.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The members.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// One member, to be killed or started again.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn server_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }

    /// The only member's proxy.
    ///
    /// # Errors
    /// When the set was started without proxies.
    pub fn proxy(&self) -> Result<&Proxy> {
        self.servers.first().context("the set is empty")?.proxy()
    }

    /// Credentials of `root`, when there are users.
    pub fn credential(&self) -> Option<Credential> {
        self.password.as_ref().map(|password| {
            Credential::builder()
                .username("root".to_owned())
                .password(password.clone())
                .source("admin".to_owned())
                .build()
        })
    }

    /// Index of the member that is the writable primary now.
    ///
    /// # Errors
    /// When none is.
    pub async fn primary(&self) -> Result<usize> {
        for (index, server) in self.servers.iter().enumerate() {
            if server.is_running()
                && let Ok(hello) = server.admin(None, doc! { "hello": 1 }).await
                && hello.get_bool("isWritablePrimary").unwrap_or(false)
            {
                return Ok(index);
            }
        }
        bail!("no member is primary")
    }

    /// Waits until a primary takes writes.
    ///
    /// # Errors
    /// When no member becomes primary in time.
    pub async fn wait_writable(&self) -> Result<usize> {
        eventually("a writable primary", ELECTION_LIMIT, || async {
            self.primary().await.map_err(|error| error.to_string())
        })
        .await
    }

    /// Makes the primary step down and waits for the next one (in a set of one: the same again).
    ///
    /// # Errors
    /// When there is no primary, or none afterwards.
    pub async fn step_down(&self) -> Result<usize> {
        let primary = &self.servers[self.primary().await?];
        let command = doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 0, "force": true };
        primary.admin(self.credential(), command).await?;
        primary.admin(self.credential(), doc! { "replSetFreeze": 0 }).await?;
        self.wait_writable().await
    }

    /// Sets a fail point on the primary until the guard is dropped.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn fail_point(
        &self,
        name: &str,
        mode: impl Into<mongodb::bson::Bson>,
        data: Document,
    ) -> Result<FailPoint> {
        let server = &self.servers[self.primary().await?];
        let command = doc! { "configureFailPoint": name, "mode": mode.into(), "data": data };
        server.admin(self.credential(), command).await?;
        let address = server.address();
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Ok(FailPoint {
            name: name.to_owned(),
            port: port.context("the server has no port")?,
            credential: self.credential(),
        })
    }

    /// Creates a user in `admin`.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn create_user(&self, name: &str, password: &str, roles: &[&str]) -> Result<()> {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        let command = doc! { "createUser": name, "pwd": password, "roles": roles };
        self.client.database("admin").run_command(command).await?;
        Ok(())
    }
}

/// A fail point that is switched off when this guard is dropped.
#[derive(Debug)]
pub struct FailPoint {
    /// Its name.
    name: String,
    /// Server that holds it.
    port: u16,
    /// Credentials to switch it off.
    credential: Option<Credential>,
}

impl Drop for FailPoint {
    fn drop(&mut self) {
        let (name, port) = (self.name.clone(), self.port);
        let credential = self.credential.take();
        // A thread of its own: a drop cannot wait on the runtime it runs on.
        let off = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let client = direct_client(port, credential)?;
                let command = doc! { "configureFailPoint": name, "mode": "off" };
                client.database("admin").run_command(command).await?;
                Ok(())
            })
        });
        let off = off.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread panicked")));
        if let Err(error) = off {
            eprintln!("fail point {} could not be switched off: {error:#}", self.name);
        }
    }
}

/// Starts one member, on other ports if somebody takes ours.
async fn start_member(program: &Path, options: &Options, key: Option<&str>) -> Result<Server> {
    let mut arguments = options.arguments();
    if options.auth && key.is_none() {
        arguments.push("--auth".to_owned());
    }
    for _ in 0..START_ATTEMPTS {
        if let Started::Ready(server) =
            Server::start(program, &arguments, key, options.proxied).await?
        {
            return Ok(*server);
        }
    }
    bail!("every port was taken by somebody else in {START_ATTEMPTS} attempts")
}

/// Makes a replica set of fresh servers, with timings that elect quickly.
async fn initiate(servers: &[Server], options: &Options) -> Result<()> {
    let members: Vec<Document> = (0_i32..)
        .zip(servers)
        .map(|(id, server)| doc! { "_id": id, "host": server.public_address() })
        .collect();
    let config = doc! {
        "_id": options.set_name.as_deref(),
        "members": members,
        "settings": { "electionTimeoutMillis": 3000, "heartbeatIntervalMillis": 500 },
    };
    let first = servers.first().context("a set needs a member")?;
    first.admin(None, doc! { "replSetInitiate": config }).await?;
    eventually("the first election", ELECTION_LIMIT, || async {
        let hello =
            first.admin(None, doc! { "hello": 1 }).await.map_err(|error| error.to_string())?;
        let primary = hello.get_str("primary").is_ok();
        if primary { Ok(()) } else { Err(hello.to_string()) }
    })
    .await
}

/// Creates the user `root` through the localhost exception.
async fn create_root(servers: &[Server], password: &str) -> Result<()> {
    let command = doc! { "createUser": "root", "pwd": password, "roles": ["root"] };
    eventually("a primary to create the first user on", ELECTION_LIMIT, || async {
        let mut seen = Vec::new();
        for server in servers {
            match server.admin(None, command.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => seen.push(error.to_string()),
            }
        }
        Err(seen)
    })
    .await
}

/// Connection string of a cluster as `root`, or without credentials when it has no users.
fn uri_of(servers: &[Server], options: &Options, password: Option<&str>) -> String {
    uri_with(servers, options, password.map(|password| ("root", password)))
}

/// Connection string with these credentials.
fn uri_with(servers: &[Server], options: &Options, user: Option<(&str, &str)>) -> String {
    let hosts: Vec<String> = servers.iter().map(Server::public_address).collect();
    let login = user.map_or_else(String::new, |(user, password)| format!("{user}:{password}@"));
    let mut query = Vec::new();
    if let Some(name) = &options.set_name {
        query.push(format!("replicaSet={name}"));
    }
    if user.is_some() {
        query.push("authSource=admin".to_owned());
    }
    format!("mongodb://{login}{}/?{}", hosts.join(","), query.join("&"))
}
