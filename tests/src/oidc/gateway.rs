//! A TCP proxy in front of a replica set that speaks `MONGODB-OIDC` in its place.
//!
//! One listener per member; every greeting's reply is rewritten, also the streamed ones, so that
//! clients never learn the members' own addresses. The conversation is held here (`session`)
//! and everything else passes through unread but for its command's name.
//!
//! A server behind with access control sees a user that the gateway made for the roles of the token
//! (`shadow`) and judges its privileges; one without sees an unauthenticated peer, and the gateway
//! judges roughly. Between client and gateway there is no TLS.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

pub use super::session::{Access, Stats};
use super::{
    failing::{Failing, Failure},
    hello::{self, AddressMap},
    session::{Realm, Session, error},
    shadow::{self, Shadows},
    trust::{IdentityProvider, Trust},
    wire::{Message, OP_MSG, OP_QUERY},
};

/// How the stand-in server is configured.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// `oidcIdentityProviders`
    pub providers: Vec<IdentityProvider>,
    /// Roles on `admin` that exist, by full name (`prefix/group`).
    pub roles: BTreeMap<String, Access>,
    /// Users in `$external` with their roles, for providers without an authorization claim and a
    /// server without access control.
    pub users: BTreeMap<String, Vec<String>>,
    /// `JWKSMinimumQuiescePeriodSecs`; 0 loads keys whenever one is unknown.
    pub jwks_quiesce: Duration,
    /// `JWKSPollSecs`; `None` does not poll.
    pub jwks_poll: Option<Duration>,
    /// The administrator of a server with access control. Then `roles` and `users` are those of the
    /// server.
    pub administrator: Option<mongodb::Client>,
    /// Life of a user that the gateway made there and nobody uses any more.
    pub shadow_idle: Duration,
    /// An authority (PEM) whose certificates the providers may show.
    pub authority: Option<String>,
}

impl ServerConfig {
    /// One provider for workloads; the members of one group may do everything.
    pub fn workload(issuer: &str, audience: &str, group: &str) -> Self {
        Self {
            providers: vec![IdentityProvider::workload(issuer, audience, "oidc")],
            roles: BTreeMap::from([(format!("oidc/{group}"), Access::All)]),
            users: BTreeMap::new(),
            jwks_quiesce: Duration::ZERO,
            jwks_poll: None,
            administrator: None,
            shadow_idle: Duration::from_secs(60),
            authority: None,
        }
    }

    /// The same in front of a server with access control.
    #[must_use]
    pub fn with_administrator(self, client: mongodb::Client) -> Self {
        Self { administrator: Some(client), ..self }
    }

    /// The same with providers whose certificates are of this authority (PEM).
    #[must_use]
    pub fn trusting(self, authority: &str) -> Self {
        Self { authority: Some(authority.to_owned()), ..self }
    }

    /// One provider for people; the members of one group may do everything.
    pub fn people(issuer: &str, audience: &str, client_id: &str, group: &str) -> Self {
        let mut config = Self::workload(issuer, audience, group);
        config.providers = vec![IdentityProvider::people(issuer, audience, "oidc", client_id)];
        config
    }
}

/// The running gateway. Dropping it stops it and closes its connections.
pub struct Gateway {
    /// Gateway addresses by member.
    addresses: Arc<AddressMap>,
    /// Name of the replica set, if it is one.
    set_name: Option<String>,
    /// What the sessions share.
    realm: Arc<Realm>,
    /// The listeners' tasks, which own the connections' tasks.
    _tasks: JoinSet<()>,
}

impl Gateway {
    /// Starts one listener per member of the set that `upstream` (`host:port`) belongs to.
    ///
    /// # Errors
    /// When the server cannot be reached or the configuration is one that a server refuses.
    pub async fn start(upstream: &str, config: ServerConfig) -> Result<Self> {
        let greeting = greet(upstream).await.with_context(|| format!("greet {upstream}"))?;
        let mut members: Vec<String> = Vec::new();
        for list in ["hosts", "passives", "arbiters"] {
            let Ok(hosts) = greeting.get_array(list) else { continue };
            members.extend(hosts.iter().filter_map(|host| host.as_str().map(str::to_owned)));
        }
        if members.is_empty() {
            members.push(upstream.to_owned());
        }
        let realm = Arc::new(Realm {
            trust: Trust::believing(
                config.providers,
                config.jwks_quiesce,
                config.authority.as_deref(),
            )
            .await?,
            roles: config.roles,
            users: config.users,
            shadows: config.administrator.map(|client| Shadows::new(client, config.shadow_idle)),
            failing: Failing::default(),
            stats: Arc::default(),
        });
        let mut listeners = Vec::new();
        let mut addresses = AddressMap::new();
        for member in members {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            addresses.insert(member.clone(), listener.local_addr()?.to_string());
            listeners.push((member, listener));
        }
        let addresses = Arc::new(addresses);
        let mut tasks = JoinSet::new();
        for (member, listener) in listeners {
            tasks.spawn(listen(listener, member, Arc::clone(&realm), Arc::clone(&addresses)));
        }
        if let Some(period) = config.jwks_poll {
            let realm = Arc::clone(&realm);
            tasks.spawn(async move {
                loop {
                    tokio::time::sleep(period).await;
                    for (issuer, error) in realm.trust.refresh().await {
                        tracing::warn!(issuer, error, "keys could not be loaded");
                    }
                }
            });
        }
        let set_name = greeting.get_str("setName").ok().map(str::to_owned);
        Ok(Self { addresses, set_name, realm, _tasks: tasks })
    }

    /// The gateway's addresses, one per member.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.values().cloned().collect()
    }

    /// A connection string for a workload whose tokens come from Azure's metadata service.
    pub fn azure_uri(&self, audience: &str) -> String {
        self.uri(&format!("ENVIRONMENT:azure,TOKEN_RESOURCE:{audience}"))
    }

    /// A connection string with the given `authMechanismProperties`.
    pub fn uri(&self, properties: &str) -> String {
        format!("{}&authMechanismProperties={properties}", self.person_uri(None))
    }

    /// A connection string for a person, perhaps with a name.
    pub fn person_uri(&self, name: Option<&str>) -> String {
        let set = self.set_name.as_ref().map(|name| format!("&replicaSet={name}"));
        let name = name.map(|name| format!("{name}@"));
        format!(
            "mongodb://{}{}/?authMechanism=MONGODB-OIDC{}",
            name.unwrap_or_default(),
            self.addresses().join(","),
            set.unwrap_or_default()
        )
    }

    /// Counters and the log of refusals.
    pub fn stats(&self) -> &Stats {
        &self.realm.stats
    }

    /// Sets `failCommand` for SASL commands, as `configureFailPoint` does.
    pub fn fail_point(&self, command: &Document) {
        self.realm.failing.configure(command);
    }

    /// Loads the providers' keys now, as `oidcRefreshKeys` does; what failed, by issuer.
    pub async fn refresh_keys(&self) -> Vec<(String, String)> {
        self.realm.trust.refresh().await
    }
}

/// Asks a server who it is.
async fn greet(upstream: &str) -> Result<Document> {
    let mut stream = TcpStream::connect(upstream).await?;
    Message::command(&doc! { "hello": 1, "$db": "admin" })?.write(&mut stream).await?;
    let reply = Message::read(&mut stream).await?.context("no answer")?.document()?;
    ensure!(reply.get_f64("ok").ok() == Some(1.0), "hello failed: {reply}");
    Ok(reply)
}

/// Takes connections for one member.
async fn listen(
    listener: TcpListener,
    member: String,
    realm: Arc<Realm>,
    addresses: Arc<AddressMap>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                Stats::count(&realm.stats.connections);
                let realm = Arc::clone(&realm);
                let (member, addresses) = (member.clone(), Arc::clone(&addresses));
                connections.spawn(async move {
                    let ended = Connection::serve(client, &member, realm, addresses).await;
                    if let Err(error) = ended {
                        tracing::debug!(error = format!("{error:#}"), member, "connection ended");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One client's connection with the one behind it.
struct Connection {
    /// From the client.
    client_in: OwnedReadHalf,
    /// To the client.
    client_out: OwnedWriteHalf,
    /// The member.
    upstream: TcpStream,
    /// Who is on it.
    session: Session,
    /// For rewriting.
    addresses: Arc<AddressMap>,
    /// Shared.
    realm: Arc<Realm>,
    /// `client.application.name` of the greeting.
    app_name: Option<String>,
}

/// What is done to the replies of a forwarded command.
enum Replies {
    /// Nothing.
    Pass,
    /// Addresses are replaced, and the first one gets the speculative conversation's reply.
    Greeting { speculative: Option<Document>, has_mechanism: bool },
    /// The shadow's name is replaced.
    Status,
    /// Watched for the end of another mechanism's conversation.
    OtherMechanism,
    /// Once the server has taken this fail point, it holds for SASL commands too.
    FailPoint(Document),
}

impl Connection {
    /// Serves a client until one of the two sides closes.
    async fn serve(
        client: TcpStream,
        member: &str,
        realm: Arc<Realm>,
        addresses: Arc<AddressMap>,
    ) -> Result<()> {
        let upstream = TcpStream::connect(member).await.context("connect to the member")?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        let (peer, own) = (client.peer_addr()?.ip(), client.local_addr()?.ip());
        let (client_in, client_out) = client.into_split();
        let session = Session::new(Arc::clone(&realm), peer, own);
        let mut this =
            Self { client_in, client_out, upstream, session, addresses, realm, app_name: None };
        while let Some(message) = Message::read(&mut this.client_in).await? {
            this.handle(message).await?;
        }
        Ok(())
    }

    /// Handles one message of the client's, with all its replies.
    async fn handle(&mut self, message: Message) -> Result<()> {
        if !matches!(message.op_code, OP_MSG | OP_QUERY) {
            bail!("opcode {} is not spoken here", message.op_code);
        }
        let command = message.raw()?;
        let first = command.iter().next().context("empty command")??;
        let name = first.0.to_string();
        if message.op_code == OP_QUERY
            && !(hello::is_hello(&name) && message.query_namespace()?.ends_with(".$cmd"))
        {
            let text = format!(
                "Unsupported OP_QUERY command: {name}. The client driver may require an upgrade."
            );
            return self.answer(&message, &error(352, "UnsupportedOpQueryCommand", &text)).await;
        }
        if let Some(refusal) = self.session.refusal(&name, command) {
            return self.answer(&message, &refusal).await;
        }
        if hello::is_hello(&name) {
            let mut greeting = message.document()?;
            let name = greeting
                .get_document("client")
                .and_then(|client| client.get_document("application")?.get_str("name"));
            if let Ok(name) = name {
                self.app_name = Some(name.to_owned());
            }
            let speculative = match hello::prepare(&mut greeting) {
                Some(start) => self.session.speculate(&start).await,
                None => None,
            };
            let has_mechanism = match greeting.get_str("saslSupportedMechs") {
                Ok(user) => match user.strip_prefix("$external.") {
                    Some(user) => self.session.knows(user).await?,
                    None => false,
                },
                Err(_) => false,
            };
            let message = message.with_document(&greeting)?;
            // The greeting goes first: a server wants it at the beginning.
            self.forward(&message, Replies::Greeting { speculative, has_mechanism }).await?;
            return self.log_in().await;
        }
        match name.as_str() {
            "saslStart" | "saslContinue" => {
                let command = message.document()?;
                if self.session.is_ours(&name, &command) {
                    match self.realm.failing.meet(&name, self.app_name.as_deref()) {
                        Some(Failure::Close) => bail!("the fail point closes the connection"),
                        Some(Failure::Code(code)) => {
                            let text = "Failing command via 'failCommand' failpoint";
                            return self.answer(&message, &error(code, "", text)).await;
                        }
                        None => {}
                    }
                    let reply = self.session.sasl(&name, &command).await;
                    self.log_in().await?;
                    return self.answer(&message, &reply).await;
                }
                if name == "saslStart" {
                    self.session.abandon_step();
                }
                self.forward(&message, Replies::OtherMechanism).await
            }
            "connectionStatus" => match self.session.connection_status(&message.document()?) {
                Some(reply) => self.answer(&message, &reply).await,
                None => self.forward(&message, Replies::Status).await,
            },
            "configureFailPoint" => {
                let command = message.document()?;
                self.forward(&message, Replies::FailPoint(command)).await
            }
            "oidcListKeys" | "oidcRefreshKeys" => {
                let command = message.document()?;
                // Without access control behind, the session has judged already.
                let may = match &self.realm.shadows {
                    Some(_) => shadow::may_manage_keys(&mut self.upstream).await?,
                    None => true,
                };
                let reply = self.session.keys(&name, &command, may).await.context("a reply")?;
                self.answer(&message, &reply).await
            }
            "logout" => {
                self.session.log_out();
                self.forward(&message, Replies::Pass).await
            }
            _ => self.forward(&message, Replies::Pass).await,
        }
    }

    /// Logs in behind the gateway, if a token was just taken.
    async fn log_in(&mut self) -> Result<()> {
        match self.session.take_login() {
            Some(login) => shadow::log_in(&mut self.upstream, &login).await,
            None => Ok(()),
        }
    }

    /// Answers in the server's place, unless the client wants no answer.
    async fn answer(&mut self, message: &Message, reply: &Document) -> Result<()> {
        if !message.has_more_to_come() {
            message.reply(reply)?.write(&mut self.client_out).await?;
        }
        Ok(())
    }

    /// Sends a message on and its replies back: one, or as many as the server streams.
    async fn forward(&mut self, message: &Message, mut replies: Replies) -> Result<()> {
        message.write(&mut self.upstream).await?;
        if message.has_more_to_come() {
            return Ok(());
        }
        loop {
            let mut peeked = [0];
            // Reading is not cancel safe, but the other branch ends the connection.
            let reply = tokio::select! {
                reply = Message::read(&mut self.upstream) => {
                    reply?.context("the member closed the connection")?
                }
                peeked = self.client_in.peek(&mut peeked) => {
                    peeked?;
                    bail!("the client closed, or spoke before its answer");
                }
            };
            let reply = self.treat(reply, &mut replies)?;
            reply.write(&mut self.client_out).await?;
            if !reply.has_more_to_come() {
                return Ok(());
            }
        }
    }

    /// Changes or watches a reply.
    fn treat(&mut self, reply: Message, replies: &mut Replies) -> Result<Message> {
        match replies {
            Replies::Pass => Ok(reply),
            Replies::Status => {
                let mut document = reply.document()?;
                self.session.rename(&mut document);
                reply.with_document(&document)
            }
            Replies::Greeting { speculative, has_mechanism } => {
                let mut document = reply.document()?;
                hello::rewrite(&mut document, &self.addresses)?;
                if *has_mechanism {
                    hello::add_mechanism(&mut document);
                }
                if let Some(done) = speculative.take() {
                    document.insert("speculativeAuthenticate", done);
                } else if document
                    .get_document("speculativeAuthenticate")
                    .is_ok_and(|other| other.get_bool("done").ok() == Some(true))
                {
                    self.session.admit_upstream();
                }
                reply.with_document(&document)
            }
            Replies::FailPoint(command) => {
                if reply.document()?.get_f64("ok").ok() == Some(1.0) {
                    self.realm.failing.configure(command);
                }
                Ok(reply)
            }
            Replies::OtherMechanism => {
                let document = reply.document()?;
                if document.get_bool("done").ok() == Some(true)
                    && document.get_f64("ok").ok() == Some(1.0)
                {
                    self.session.admit_upstream();
                }
                Ok(reply)
            }
        }
    }
}
