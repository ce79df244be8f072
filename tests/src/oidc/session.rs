//! One client connection's authentication: the SASL conversation, and which commands pass.
//!
//! The gateway refuses what the server would: 13 before authentication, 391 once the token has expired
//! or its key was revoked. Privileges are the server's where it has access control and the gateway logs
//! in behind itself (`shadow`); otherwise the gateway judges them roughly.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use bson::{Binary, Bson, Document, RawDocument, doc, spec::BinarySubtype};
use serde_json::{Value, json};

use super::{
    failing::Failing,
    shadow::{Login, Shadows, is_shadow},
    trust::{Trust, Verified, now_seconds},
};

/// What a role may do on the stand-in; the real server has privileges instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing beyond being known.
    Nothing,
    /// Reading everything.
    Read,
    /// Everything.
    All,
}

/// Counters of a gateway.
#[derive(Debug, Default)]
pub struct Stats {
    /// Conversations that ended well, without speculative ones.
    pub sasl_succeeded: AtomicU64,
    /// Conversations that were refused, without speculative ones.
    pub sasl_failed: AtomicU64,
    /// Speculative conversations that ended well.
    pub speculative_succeeded: AtomicU64,
    /// Speculative conversations that were left unanswered.
    pub speculative_failed: AtomicU64,
    /// Conversations that renewed an expired session.
    pub reauthenticated: AtomicU64,
    /// Commands answered with 391.
    pub reauthentication_required: AtomicU64,
    /// Commands answered with 13.
    pub unauthorized: AtomicU64,
    /// Client connections taken.
    pub connections: AtomicU64,
    /// Why tokens were refused: the server's log, never told to clients.
    pub refusals: std::sync::Mutex<Vec<String>>,
    /// Who was let in, with the claims of `logClaims`: the server's log.
    pub admissions: std::sync::Mutex<Vec<Value>>,
}

impl Stats {
    /// Adds one.
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::SeqCst);
    }

    /// Adds to the log.
    fn refuse(&self, why: String) {
        tracing::info!(why, "authentication failed");
        self.refusals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(why);
    }

    /// Adds to the log.
    fn admit(&self, verified: &Verified) {
        let entry = json!({ "user": verified.user, "claims": verified.logged });
        tracing::info!(%entry, "successfully authenticated");
        self.admissions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
    }
}

/// What the sessions of a gateway share.
pub(super) struct Realm {
    /// Who may issue tokens.
    pub(super) trust: Trust,
    /// Roles that exist, by full name; others grant nothing.
    pub(super) roles: BTreeMap<String, Access>,
    /// Users that exist in `$external`, with their roles, for providers without an authorization
    /// claim.
    pub(super) users: BTreeMap<String, Vec<String>>,
    /// Users of a server with access control.
    pub(super) shadows: Option<Shadows>,
    /// The fail point for SASL commands.
    pub(super) failing: Failing,
    /// Counters.
    pub(super) stats: Arc<Stats>,
}

/// Who is on the connection.
enum Auth {
    /// Nobody.
    None,
    /// A federated user.
    Federated(Box<User>),
    /// Whoever the server behind let in.
    Upstream,
}

/// A conversation whose first step was answered.
struct Step {
    /// What the second step has to name.
    id: i32,
    /// As whom the person wants to log in, when the first step said so.
    principal: Option<String>,
}

/// A federated user.
struct User {
    /// The token's word.
    verified: Verified,
    /// Roles that exist, inherited ones too.
    roles: Vec<Document>,
    /// The most that one of them grants.
    access: Access,
}

/// One connection's state.
pub(super) struct Session {
    /// Shared.
    realm: Arc<Realm>,
    /// Who.
    auth: Auth,
    /// The conversation that goes on. Who is on the connection stays meanwhile.
    step: Option<Step>,
    /// The last conversation's number.
    conversation: i32,
    /// Addresses of the client and of the gateway.
    between: (IpAddr, IpAddr),
    /// As whom to log in behind the gateway before the next command.
    login: Option<Arc<Login>>,
    /// As whom that was done.
    logged_in: Option<Arc<Login>>,
}

/// Commands that need no authentication, and pass when it has expired.
const WITHOUT_AUTHENTICATION: [&str; 17] = [
    "hello",
    "isMaster",
    "ismaster",
    "ping",
    "buildInfo",
    "buildinfo",
    "saslStart",
    "saslContinue",
    "authenticate",
    "getnonce",
    "logout",
    "connectionStatus",
    "whatsmyuri",
    "listCommands",
    "features",
    "endSessions",
    "_isSelf",
];
/// Commands that a reader may use.
const READING: [&str; 25] = [
    "find",
    "getMore",
    "killCursors",
    "aggregate",
    "count",
    "distinct",
    "listCollections",
    "listIndexes",
    "listDatabases",
    "dbStats",
    "dbstats",
    "collStats",
    "collstats",
    "dataSize",
    "dbHash",
    "dbhash",
    "explain",
    "serverStatus",
    "hostInfo",
    "getParameter",
    "replSetGetStatus",
    "replSetGetConfig",
    "startSession",
    "refreshSessions",
    "abortTransaction",
];

/// An error reply.
pub(super) fn error(code: i32, name: &str, message: &str) -> Document {
    doc! { "ok": 0.0, "errmsg": message, "code": code, "codeName": name }
}

/// The one answer to everything wrong with a token.
fn authentication_failed() -> Document {
    error(18, "AuthenticationFailed", "Authentication failed.")
}

impl Session {
    /// A connection on which nobody is.
    pub(super) fn new(realm: Arc<Realm>, client: IpAddr, server: IpAddr) -> Self {
        Self {
            realm,
            auth: Auth::None,
            step: None,
            conversation: 0,
            between: (client, server),
            login: None,
            logged_in: None,
        }
    }

    /// As whom to log in behind the gateway now, if that is not done yet.
    pub(super) fn take_login(&mut self) -> Option<Arc<Login>> {
        let login = self.login.take()?;
        self.logged_in = Some(Arc::clone(&login));
        Some(login)
    }

    /// Whether a SASL command is for the gateway and not for the server behind.
    pub(super) fn is_ours(&self, name: &str, command: &Document) -> bool {
        match name {
            "saslStart" => command.get_str("mechanism").ok() == Some("MONGODB-OIDC"),
            "saslContinue" => self.step.is_some(),
            _ => false,
        }
    }

    /// Answers a SASL command.
    pub(super) async fn sasl(&mut self, name: &str, command: &Document) -> Document {
        match self.converse(name, command, command.get_str("$db").unwrap_or_default()).await {
            Ok(mut reply) => {
                if reply.get_bool("done").ok() == Some(true) {
                    Stats::count(&self.realm.stats.sasl_succeeded);
                }
                reply.insert("ok", 1.0);
                reply
            }
            Err(why) => {
                Stats::count(&self.realm.stats.sasl_failed);
                self.realm.stats.refuse(why);
                authentication_failed()
            }
        }
    }

    /// Tries a speculative conversation; `None` when it fails, which the client is not told.
    pub(super) async fn speculate(&mut self, start: &Document) -> Option<Document> {
        let db = start.get_str("db").unwrap_or_default();
        match self.converse("saslStart", start, db).await {
            Ok(reply) => {
                Stats::count(&self.realm.stats.speculative_succeeded);
                Some(reply)
            }
            Err(why) => {
                Stats::count(&self.realm.stats.speculative_failed);
                self.realm.stats.refuse(format!("speculative: {why}"));
                None
            }
        }
    }

    /// One step of a conversation: the reply without `ok`, or why it fails.
    async fn converse(
        &mut self,
        name: &str,
        command: &Document,
        db: &str,
    ) -> Result<Document, String> {
        // It is over, unless this step is answered with another.
        let step = self.step.take();
        if db != "$external" {
            return Err(format!("{name} on {db}"));
        }
        let Some(Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes })) =
            command.get("payload")
        else {
            return Err("payload is not binary".to_owned());
        };
        let payload = Document::from_reader(bytes.as_slice())
            .map_err(|error| format!("payload is not BSON: {error}"))?;
        let stepped = match (step, name) {
            (Some(step), "saslContinue") => {
                if command.get_i32("conversationId").ok() != Some(step.id) {
                    return Err("another conversation".to_owned());
                }
                step.principal
            }
            (None, "saslContinue") => return Err("no conversation".to_owned()),
            _ => {
                self.conversation += 1;
                None
            }
        };
        let jwt = match (payload.get("jwt"), name) {
            (Some(Bson::String(jwt)), _) => jwt.clone(),
            (_, "saslStart") => return self.first_step(&payload),
            _ => return Err("the second step has no jwt".to_owned()),
        };
        let verified = self.realm.trust.verify(&jwt).await.map_err(|error| format!("{error:#}"))?;
        if stepped.is_some_and(|principal| principal != verified.principal) {
            return Err("principal names of the two steps differ".to_owned());
        }
        self.admit(&verified).await?;
        self.realm.stats.admit(&verified);
        Ok(self.step_reply(true, Vec::new()))
    }

    /// Answers a first step with what a person's client needs to know.
    fn first_step(&mut self, payload: &Document) -> Result<Document, String> {
        let principal = match payload.get("n") {
            None => None,
            Some(Bson::String(name)) => Some(name.clone()),
            Some(_) => return Err("n is not a string".to_owned()),
        };
        let entry = self
            .realm
            .trust
            .human(principal.as_deref())
            .ok_or("no identity provider for people")?;
        let mut info = doc! { "issuer": entry.issuer.clone() };
        if let Some(client_id) = &entry.client_id {
            info.insert("clientId", client_id.clone());
        }
        if !entry.request_scopes.is_empty() {
            info.insert("requestScopes", entry.request_scopes.clone());
        }
        let bytes = info.to_vec().map_err(|error| error.to_string())?;
        self.step = Some(Step { id: self.conversation, principal });
        Ok(self.step_reply(false, bytes))
    }

    /// The reply to a step, without `ok`.
    fn step_reply(&self, done: bool, payload: Vec<u8>) -> Document {
        let payload = Binary { subtype: BinarySubtype::Generic, bytes: payload };
        doc! { "conversationId": self.conversation, "done": done, "payload": payload }
    }

    /// Puts the user of a token that passed on the connection, if the rules let them.
    async fn admit(&mut self, verified: &Verified) -> Result<(), String> {
        let mut is_renewal = false;
        if let Auth::Federated(present) = &self.auth {
            if present.verified.user != verified.user {
                return Err("another user is on the connection".to_owned());
            }
            if !self.is_over(&present.verified) {
                // The same user again is let in, but the session does not live longer for it.
                return Ok(());
            }
            is_renewal = true;
        }
        let (roles, access) = match &self.realm.shadows {
            Some(shadows) => {
                let (client, server) = self.between;
                let (roles, login) = shadows
                    .admit(verified, client, server)
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                // The one that is logged in goes on: its cursors live.
                if self.logged_in.as_ref() != Some(&login) {
                    self.login = Some(login);
                }
                (roles, Access::All)
            }
            None => self.configured_roles(verified)?,
        };
        if is_renewal {
            Stats::count(&self.realm.stats.reauthenticated);
        }
        self.auth = Auth::Federated(Box::new(User { verified: verified.clone(), roles, access }));
        Ok(())
    }

    /// The roles of the gateway's configuration, and the most that one of them grants.
    fn configured_roles(&self, verified: &Verified) -> Result<(Vec<Document>, Access), String> {
        let named = match &verified.roles {
            Some(roles) => roles,
            None => self
                .realm
                .users
                .get(&verified.user)
                .ok_or_else(|| format!("user {} does not exist", verified.user))?,
        };
        let known: Vec<(&String, Access)> =
            named.iter().filter_map(|role| Some((role, *self.realm.roles.get(role)?))).collect();
        let roles = known.iter().map(|(role, _)| doc! { "role": role, "db": "admin" }).collect();
        let access = known.iter().map(|(_, access)| *access).max().unwrap_or(Access::Nothing);
        Ok((roles, access))
    }

    /// Whether a session's token is over: expired, or signed with a key that is no longer published.
    fn is_over(&self, verified: &Verified) -> bool {
        now_seconds() >= verified.expires_at
            || self.realm.trust.epoch(&verified.issuer) != verified.epoch
    }

    /// The server behind let somebody in with another mechanism.
    pub(super) fn admit_upstream(&mut self) {
        self.auth = Auth::Upstream;
    }

    /// Another mechanism's conversation begins.
    pub(super) fn abandon_step(&mut self) {
        self.step = None;
    }

    /// Nobody is on the connection any more.
    pub(super) fn log_out(&mut self) {
        self.auth = Auth::None;
        self.step = None;
        self.logged_in = None;
    }

    /// Whether `$external` has a user of this name who can log in with a token.
    pub(super) async fn knows(&self, user: &str) -> Result<bool> {
        match &self.realm.shadows {
            Some(shadows) => Ok(shadows.user(user).await?.is_some()),
            None => Ok(self.realm.users.contains_key(user)),
        }
    }

    /// Answers the commands about keys; the others are none of the gateway's. `may` says whether the
    /// server behind would let this connection use them.
    pub(super) async fn keys(&self, name: &str, command: &Document, may: bool) -> Option<Document> {
        if !matches!(name, "oidcListKeys" | "oidcRefreshKeys") {
            return None;
        }
        if command.get_str("$db").ok() != Some("admin") {
            return Some(error(13, "Unauthorized", "may only be run against the admin database."));
        }
        if !may {
            Stats::count(&self.realm.stats.unauthorized);
            let text = format!("not authorized on admin to execute command {name}");
            return Some(error(13, "Unauthorized", &text));
        }
        let trust = &self.realm.trust;
        Some(if name == "oidcListKeys" {
            let mut sets = Document::new();
            for (issuer, ids) in trust.key_ids() {
                let keys: Vec<Bson> =
                    ids.into_iter().map(|id| doc! { "kid": id, "kty": "RSA" }.into()).collect();
                sets.insert(issuer, doc! { "keys": keys });
            }
            doc! { "keySets": sets, "ok": 1.0 }
        } else {
            let failures: Vec<Bson> = trust
                .refresh()
                .await
                .into_iter()
                .map(|(issuer, error)| doc! { "issuer": issuer, "error": error }.into())
                .collect();
            if failures.is_empty() {
                doc! { "ok": 1.0 }
            } else {
                let mut reply =
                    error(96, "OperationFailed", "Failed to refresh identity providers");
                reply.insert("failures", failures);
                reply
            }
        })
    }

    /// The refusal of a command, if it is refused.
    pub(super) fn refusal(&self, name: &str, command: &RawDocument) -> Option<Document> {
        if WITHOUT_AUTHENTICATION.contains(&name) {
            return None;
        }
        let user = match &self.auth {
            Auth::Upstream => return None,
            Auth::Federated(user) => user,
            Auth::None => {
                Stats::count(&self.realm.stats.unauthorized);
                let text = format!("Command {name} requires authentication");
                return Some(error(13, "Unauthorized", &text));
            }
        };
        if self.is_over(&user.verified) {
            Stats::count(&self.realm.stats.reauthentication_required);
            let text = format!(
                "Command {name} requires reauthentication since the current authorization \
                 session has expired. Please re-auth."
            );
            return Some(error(391, "ReauthenticationRequired", &text));
        }
        if self.realm.shadows.is_some() && names_shadow(name, command) {
            return Some(error(13, "Unauthorized", "the gateway's own users stay as they are"));
        }
        let allowed = match user.access {
            Access::All => true,
            Access::Read => READING.contains(&name) && !writes(command),
            Access::Nothing => false,
        };
        if allowed {
            return None;
        }
        Stats::count(&self.realm.stats.unauthorized);
        let db = command.get_str("$db").unwrap_or_default();
        let text = format!("not authorized on {db} to execute command {name}");
        Some(error(13, "Unauthorized", &text))
    }

    /// Puts the federated user and their roles in the place of the shadow and its in the server's
    /// reply to `connectionStatus`.
    pub(super) fn rename(&self, reply: &mut Document) {
        let Auth::Federated(user) = &self.auth else { return };
        if let Ok(info) = reply.get_document_mut("authInfo") {
            let name = doc! { "user": user.verified.user.clone(), "db": "$external" };
            info.insert("authenticatedUsers", vec![Bson::from(name)]);
            let roles: Vec<Bson> = user.roles.iter().cloned().map(Bson::from).collect();
            info.insert("authenticatedUserRoles", roles);
        }
    }

    /// The reply to `connectionStatus`; `None` when the server behind has to answer.
    pub(super) fn connection_status(&self, command: &Document) -> Option<Document> {
        if let (Some(_), Auth::Federated(user)) = (&self.realm.shadows, &self.auth)
            && !self.is_over(&user.verified)
        {
            return None;
        }
        let user = match &self.auth {
            Auth::Upstream => return None,
            Auth::Federated(user) if !self.is_over(&user.verified) => Some(user),
            Auth::Federated(_) | Auth::None => None,
        };
        let users: Vec<Bson> = user
            .iter()
            .map(|user| doc! { "user": user.verified.user.clone(), "db": "$external" }.into())
            .collect();
        let roles: Vec<Bson> =
            user.iter().flat_map(|user| &user.roles).map(|role| role.clone().into()).collect();
        let mut info = doc! { "authenticatedUsers": users, "authenticatedUserRoles": roles };
        let shows_privileges = match command.get("showPrivileges") {
            Some(Bson::Boolean(shows)) => *shows,
            Some(Bson::Int32(number)) => *number != 0,
            _ => false,
        };
        if shows_privileges {
            let privileges = match user.map_or(Access::Nothing, |user| user.access) {
                Access::Nothing => Vec::new(),
                Access::Read => vec![Bson::from(doc! {
                    "resource": { "db": "", "collection": "" },
                    "actions": READING_ACTIONS.to_vec(),
                })],
                Access::All => vec![Bson::from(doc! {
                    "resource": { "anyResource": true }, "actions": ["anyAction"],
                })],
            };
            info.insert("authenticatedUserPrivileges", privileges);
        }
        Some(doc! { "authInfo": info, "ok": 1.0 })
    }
}

/// Actions that `connectionStatus` shows of a reader.
const READING_ACTIONS: [&str; 8] = [
    "changeStream",
    "collStats",
    "dbHash",
    "dbStats",
    "find",
    "killCursors",
    "listCollections",
    "listIndexes",
];

/// Whether a command would change one of the gateway's own users or roles, or hand one on.
fn names_shadow(name: &str, command: &RawDocument) -> bool {
    if !["User", "Role"].into_iter().any(|what| name.contains(what)) {
        return false;
    }
    let is_sweep = matches!(name, "dropAllUsersFromDatabase" | "dropAllRolesFromDatabase");
    if is_sweep && command.get_str("$db").is_ok_and(|db| db == "admin") {
        return true;
    }
    Document::try_from(command).is_ok_and(|command| command.values().any(mentions_shadow))
}

/// Whether a value is the name of a shadow, or holds one.
fn mentions_shadow(value: &Bson) -> bool {
    match value {
        Bson::String(text) => is_shadow(text),
        Bson::Array(values) => values.iter().any(mentions_shadow),
        Bson::Document(inner) => inner.values().any(mentions_shadow),
        _ => false,
    }
}

/// Whether an aggregation writes.
fn writes(command: &RawDocument) -> bool {
    let Ok(stages) = command.get_array("pipeline") else { return false };
    stages.into_iter().flatten().any(|stage| {
        stage.as_document().is_some_and(|stage| {
            matches!(stage.get("$out"), Ok(Some(_))) || matches!(stage.get("$merge"), Ok(Some(_)))
        })
    })
}
