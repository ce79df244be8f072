//! Shadow users: a Community server takes no identity from elsewhere, so the gateway logs in behind
//! itself, as a user that it makes for the roles of a token. What that user may do, the server
//! decides.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
    hmac, pbkdf2,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use mongodb::Client;
use tokio::{net::TcpStream, sync::Mutex};

use super::{trust::Verified, wire::Message};
use crate::random::Random;

/// How the names of shadow users and roles begin.
const PREFIX: &str = "gateway-shadow-";
/// Action that stands for `oidcListKeys` and `oidcRefreshKeys` on a server that has neither: whoever
/// may set parameters (`hostManager`, `root`) may change what the server believes.
const KEYS_ACTION: &str = "setParameter";

/// A user of the server behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// Name in `admin`.
    pub(super) user: String,
    /// Password.
    password: String,
}

/// A shadow with what was made for it.
struct Shadow {
    /// The user. Connections that are logged in as it hold it too.
    login: Arc<Login>,
    /// Its own roles.
    roles: Vec<String>,
    /// When it was last found in use.
    used: Instant,
}

/// The users that were made so far.
pub(super) struct Shadows {
    /// May make users.
    client: Client,
    /// Users by what they may do.
    users: Mutex<BTreeMap<Vec<String>, Shadow>>,
    /// Tells the shadows of this gateway from another's on the same cluster.
    tag: String,
    /// Life of a shadow that nobody uses.
    idle: Duration,
}

/// Whether a command's argument names a shadow.
pub(super) fn is_shadow(name: &str) -> bool {
    name.starts_with(PREFIX)
}

impl Shadows {
    /// Shadows on the server that a client reaches as its administrator.
    pub(super) fn new(client: Client, idle: Duration) -> Self {
        Self { client, users: Mutex::default(), tag: Random::from_entropy().word(8), idle }
    }

    /// Runs a command on `admin`.
    async fn run(&self, what: &'static str, command: Document) -> Result<Document> {
        self.client.database("admin").run_command(command).await.context(what)
    }

    /// The roles of a token's user that exist, with the inherited ones, and a shadow that has them.
    /// `Err` also when the user has to exist and does not, and when a restriction of theirs or of one
    /// of the roles is not met between these two addresses.
    pub(super) async fn admit(
        &self,
        verified: &Verified,
        client: IpAddr,
        server: IpAddr,
    ) -> Result<(Vec<Document>, Arc<Login>)> {
        let named: Vec<Bson> = match &verified.roles {
            Some(roles) => {
                roles.iter().map(|role| doc! { "role": role, "db": "admin" }.into()).collect()
            }
            None => self.roles_of(&verified.user, client, server).await?,
        };
        let mut found = Vec::new();
        if !named.is_empty() {
            let command = doc! {
                "rolesInfo": named, "showAuthenticationRestrictions": true, "showPrivileges": true,
            };
            let reply = self.run("rolesInfo", command).await?;
            found.extend(reply.get_array("roles")?.iter().filter_map(Bson::as_document).cloned());
        }
        for role in &found {
            for list in RESTRICTIONS {
                let Ok(restrictions) = role.get_array(list) else { continue };
                ensure!(fit(restrictions, client, server), "a restriction is not met");
            }
        }
        let mut shown = found.iter().map(reference).collect::<Result<Vec<Document>>>()?;
        for role in &found {
            let inherited = role.get_array("inheritedRoles").ok().into_iter().flatten();
            for role in inherited.filter_map(Bson::as_document) {
                if !shown.contains(role) {
                    shown.push(role.clone());
                }
            }
        }
        Ok((shown, self.shadow(&found).await?))
    }

    /// The document of a user in `$external`, if there is one.
    pub(super) async fn user(&self, user: &str) -> Result<Option<Document>> {
        let command = doc! {
            "usersInfo": { "user": user, "db": "$external" },
            "showAuthenticationRestrictions": true,
        };
        let reply = self.run("usersInfo", command).await?;
        Ok(reply.get_array("users")?.first().and_then(Bson::as_document).cloned())
    }

    /// The roles in a user's document.
    async fn roles_of(&self, user: &str, client: IpAddr, server: IpAddr) -> Result<Vec<Bson>> {
        let document = self.user(user).await?;
        let document = document.with_context(|| format!("user {user} does not exist"))?;
        if let Ok(entries) = document.get_array("authenticationRestrictions") {
            ensure!(one_fits(entries, client, server), "a restriction of the user is not met");
        }
        Ok(document.get_array("roles")?.clone())
    }

    /// A shadow with these roles: one that is there, or a new one.
    async fn shadow(&self, found: &[Document]) -> Result<Arc<Login>> {
        // A role that is copied is another one when it changes; the others the server looks up.
        let mut key = Vec::new();
        for role in found {
            let whole = if is_restricted(role) { role } else { &reference(role)? };
            key.push(whole.to_string());
        }
        key.sort();
        let mut users = self.users.lock().await;
        self.drop_idle(&mut users).await?;
        if let Some(shadow) = users.get_mut(&key) {
            shadow.used = Instant::now();
            return Ok(Arc::clone(&shadow.login));
        }
        let name = format!("{PREFIX}{}-{}", self.tag, Random::from_entropy().word(8));
        let password = Random::from_entropy().word(32);
        let login = Arc::new(Login { user: name.clone(), password: password.clone() });
        let mut roles = Vec::new();
        let mut granted: Vec<Bson> = Vec::new();
        for (index, role) in found.iter().enumerate() {
            if is_restricted(role) {
                // Without its restrictions: the server would judge by our own address.
                let copy = format!("{name}-{index}");
                let privileges = role.get_array("inheritedPrivileges")?.clone();
                let command = doc! { "createRole": &copy, "privileges": privileges, "roles": [] };
                self.run("createRole", command).await?;
                granted.push(copy.clone().into());
                roles.push(copy);
            } else {
                granted.push(reference(role)?.into());
            }
        }
        let command = doc! {
            "createUser": &name, "pwd": password, "roles": granted, "mechanisms": ["SCRAM-SHA-256"],
        };
        self.run("createUser", command).await?;
        let shadow = Shadow { login: Arc::clone(&login), roles, used: Instant::now() };
        users.insert(key, shadow);
        Ok(login)
    }

    /// Drops the shadows that nobody has used for a while.
    async fn drop_idle(&self, users: &mut BTreeMap<Vec<String>, Shadow>) -> Result<()> {
        let now = Instant::now();
        for shadow in users.values_mut().filter(|shadow| Arc::strong_count(&shadow.login) > 1) {
            shadow.used = now;
        }
        let is_idle = |shadow: &Shadow| {
            Arc::strong_count(&shadow.login) == 1 && now.duration_since(shadow.used) >= self.idle
        };
        let idle: Vec<Vec<String>> = users
            .iter()
            .filter(|(_, shadow)| is_idle(shadow))
            .map(|(key, _)| key.clone())
            .collect();
        for key in idle {
            let Some(shadow) = users.remove(&key) else { continue };
            self.run("dropUser", doc! { "dropUser": &shadow.login.user }).await?;
            for role in shadow.roles {
                self.run("dropRole", doc! { "dropRole": role }).await?;
            }
        }
        Ok(())
    }
}

/// Fields of a role that hold restrictions.
const RESTRICTIONS: [&str; 2] =
    ["authenticationRestrictions", "inheritedAuthenticationRestrictions"];

/// Whether a role has restrictions.
fn is_restricted(role: &Document) -> bool {
    RESTRICTIONS.into_iter().any(|list| role.get_array(list).is_ok_and(|list| !list.is_empty()))
}

/// A role's name and database.
fn reference(role: &Document) -> Result<Document> {
    Ok(doc! { "role": role.get_str("role")?, "db": role.get_str("db")? })
}

/// Whether who is logged in on a connection to the server may list and load keys.
pub(super) async fn may_manage_keys(stream: &mut TcpStream) -> Result<bool> {
    let command = doc! { "connectionStatus": 1, "showPrivileges": true, "$db": "admin" };
    let reply = ask(stream, &command).await?;
    let privileges = reply.get_document("authInfo")?.get_array("authenticatedUserPrivileges")?;
    Ok(privileges.iter().filter_map(Bson::as_document).any(|privilege| {
        let names = |action: &str| {
            let actions = privilege.get_array("actions").ok().into_iter().flatten();
            actions.into_iter().any(|one| one.as_str() == Some(action))
        };
        let is_cluster = privilege.get_document("resource").is_ok_and(|resource| {
            ["cluster", "anyResource"]
                .into_iter()
                .any(|kind| resource.get_bool(kind).unwrap_or(false))
        });
        is_cluster && (names(KEYS_ACTION) || names("anyAction"))
    }))
}

/// Whether every list of restrictions has an entry that fits; nonsense fits nobody.
fn fit(lists: &[Bson], client: IpAddr, server: IpAddr) -> bool {
    lists.iter().all(|list| match list {
        // Roles report a list of lists, one for each role.
        Bson::Array(entries) => one_fits(entries, client, server),
        entry => one_fits(std::slice::from_ref(entry), client, server),
    })
}

/// Whether one of several restrictions fits; without any, everybody does.
fn one_fits(entries: &[Bson], client: IpAddr, server: IpAddr) -> bool {
    let entry_fits = |entry: &Document| {
        let holds = |name: &str, address: IpAddr| match entry.get_array(name) {
            Err(_) => true,
            Ok(ranges) => ranges
                .iter()
                .any(|range| range.as_str().is_some_and(|range| contains(range, address))),
        };
        holds("clientSource", client) && holds("serverAddress", server)
    };
    entries.is_empty() || entries.iter().filter_map(Bson::as_document).any(entry_fits)
}

/// Whether an address or a CIDR range contains an address.
fn contains(range: &str, address: IpAddr) -> bool {
    let (base, bits) = match range.split_once('/') {
        Some((base, bits)) => (base, bits.parse::<u32>().ok()),
        None => (range, Some(if range.contains(':') { 128 } else { 32 })),
    };
    let (Ok(base), Some(bits)) = (base.parse::<IpAddr>(), bits) else { return false };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if bits <= 32 => {
            let shift = 32 - bits;
            u32::from(base).checked_shr(shift).unwrap_or(0)
                == u32::from(address).checked_shr(shift).unwrap_or(0)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if bits <= 128 => {
            let shift = 128 - bits;
            u128::from(base).checked_shr(shift).unwrap_or(0)
                == u128::from(address).checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

/// Sends a command and reads its reply.
async fn ask(stream: &mut TcpStream, command: &Document) -> Result<Document> {
    Message::command(command)?.write(stream).await?;
    let reply = Message::read(stream).await?.context("the member closed")?.document()?;
    ensure!(reply.get_f64("ok").ok() == Some(1.0), "the member refuses: {reply}");
    Ok(reply)
}

/// Logs in on a connection with SCRAM-SHA-256 (RFC 7677).
///
/// # Errors
/// When the server refuses, or does not prove that it knows the password.
pub(super) async fn log_in(stream: &mut TcpStream, login: &Login) -> Result<()> {
    let binary =
        |text: String| Binary { subtype: BinarySubtype::Generic, bytes: text.into_bytes() };
    let nonce = Random::from_entropy().word(24);
    let first = format!("n={},r={nonce}", login.user);
    let reply = ask(
        stream,
        &doc! {
            "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": binary(format!("n,,{first}")),
            "options": { "skipEmptyExchange": true }, "$db": "admin",
        },
    )
    .await?;
    let challenge = payload(&reply)?;
    let field = |name: &str| {
        challenge
            .split(',')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            .with_context(|| format!("the challenge has no {name}"))
    };
    let (whole, salt, rounds) = (field("r")?, field("s")?, field("i")?.parse::<u32>()?);
    ensure!(whole.starts_with(&nonce), "another nonce");
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        std::num::NonZeroU32::new(rounds).context("no rounds")?,
        &BASE64_STANDARD.decode(salt)?,
        login.password.as_bytes(),
        &mut salted,
    );
    let sign = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let last = format!("c=biws,r={whole}");
    let message = format!("{first},{challenge},{last}");
    let client_key = sign(&salted, "Client Key");
    let signature = sign(digest(&SHA256, &client_key).as_ref(), &message);
    let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
    let reply = ask(
        stream,
        &doc! {
            "saslContinue": 1, "conversationId": reply.get_i32("conversationId")?,
            "payload": binary(format!("{last},p={}", BASE64_STANDARD.encode(proof))), "$db": "admin",
        },
    )
    .await?;
    let expected = sign(&sign(&salted, "Server Key"), &message);
    let said = payload(&reply)?;
    let said =
        BASE64_STANDARD.decode(said.strip_prefix("v=").context("no proof of the server")?)?;
    verify_slices_are_equal(&said, &expected).map_err(|_| anyhow!("another server"))?;
    ensure!(reply.get_bool("done")?, "the conversation is not over");
    Ok(())
}

/// The payload of a reply as text.
fn payload(reply: &Document) -> Result<String> {
    Ok(String::from_utf8(reply.get_binary_generic("payload")?.clone())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restrictions_fail_closed() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let list = |entry: Document| vec![Bson::Array(vec![entry.into()])];
        for (entry, fits) in [
            (doc! { "clientSource": ["127.0.0.0/8"] }, true),
            (doc! { "clientSource": ["127.0.0.1"] }, true),
            (doc! { "clientSource": ["10.0.0.0/8", "0.0.0.0/0"] }, true),
            (doc! { "clientSource": ["10.0.0.0/8"] }, false),
            (doc! { "clientSource": ["nope"] }, false),
            (doc! { "clientSource": ["127.0.0.1/33"] }, false),
            (doc! { "clientSource": ["::1"] }, false),
            (doc! { "clientSource": ["127.0.0.1"], "serverAddress": ["10.0.0.1"] }, false),
            (doc! {}, true),
        ] {
            assert_eq!(fit(&list(entry.clone()), here, here), fits, "{entry}");
        }
        assert!(!fit(&[Bson::Int32(1)], here, here));
    }
}
