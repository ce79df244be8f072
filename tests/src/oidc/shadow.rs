//! Shadow users: a Community server takes no identity from elsewhere, so the gateway logs in behind
//! itself, as a user that it makes for the roles of a token. What that user may do, the server
//! decides.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
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

use super::wire::Message;
use crate::random::Random;

/// How the names of shadow users and roles begin.
const PREFIX: &str = "gateway-shadow-";

/// A user of the server behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    /// Name in `admin`.
    pub(super) user: String,
    /// Password.
    password: String,
}

/// The users that were made so far.
pub(super) struct Shadows {
    /// May make users.
    client: Client,
    /// Users by their roles.
    users: Mutex<BTreeMap<Vec<String>, Login>>,
    /// Number of the next user.
    next: AtomicU32,
}

/// Whether a command's argument names a shadow.
pub(super) fn is_shadow(name: &str) -> bool {
    name.starts_with(PREFIX)
}

impl Shadows {
    /// Shadows on the server that a client reaches as its administrator.
    pub(super) fn new(client: Client) -> Self {
        Self { client, users: Mutex::default(), next: AtomicU32::new(0) }
    }

    /// The roles among the named ones that exist, and a user that has them. `Err` also when a
    /// restriction of one of them is not met between these two addresses.
    pub(super) async fn admit(
        &self,
        named: &[String],
        client: IpAddr,
        server: IpAddr,
    ) -> Result<(Vec<String>, Login)> {
        let asked: Vec<Bson> =
            named.iter().map(|role| doc! { "role": role, "db": "admin" }.into()).collect();
        let mut found = Vec::new();
        if !asked.is_empty() {
            let command = doc! {
                "rolesInfo": asked, "showAuthenticationRestrictions": true, "showPrivileges": true,
            };
            let reply = self.client.database("admin").run_command(command).await?;
            found.extend(reply.get_array("roles")?.iter().filter_map(Bson::as_document).cloned());
        }
        for role in &found {
            for list in ["authenticationRestrictions", "inheritedAuthenticationRestrictions"] {
                let Ok(restrictions) = role.get_array(list) else { continue };
                ensure!(fit(restrictions, client, server), "a restriction is not met");
            }
        }
        let mut roles: Vec<String> =
            found.iter().filter_map(|role| role.get_str("role").ok().map(str::to_owned)).collect();
        roles.sort();
        let mut users = self.users.lock().await;
        if let Some(login) = users.get(&roles) {
            return Ok((roles, login.clone()));
        }
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let login =
            Login { user: format!("{PREFIX}{number}"), password: Random::from_entropy().word(32) };
        let mut granted: Vec<String> = Vec::new();
        for (index, role) in found.iter().enumerate() {
            granted.push(self.unrestricted(role, &format!("{PREFIX}{number}-{index}")).await?);
        }
        let command = doc! {
            "createUser": &login.user, "pwd": &login.password, "roles": granted,
            "mechanisms": ["SCRAM-SHA-256"],
        };
        self.client.database("admin").run_command(command).await.context("createUser")?;
        users.insert(roles.clone(), login.clone());
        Ok((roles, login))
    }

    /// A role without restrictions that grants the same: the server would judge by our own address.
    async fn unrestricted(&self, role: &Document, name: &str) -> Result<String> {
        let own = role.get_str("role")?.to_owned();
        let is_restricted = ["authenticationRestrictions", "inheritedAuthenticationRestrictions"]
            .into_iter()
            .any(|list| role.get_array(list).is_ok_and(|list| !list.is_empty()));
        if !is_restricted {
            return Ok(own);
        }
        let command = doc! {
            "createRole": name, "privileges": role.get_array("inheritedPrivileges")?.clone(),
            "roles": [],
        };
        self.client.database("admin").run_command(command).await.context("createRole")?;
        Ok(name.to_owned())
    }
}

/// Whether every list of restrictions has an entry that fits; nonsense fits nobody.
fn fit(lists: &[Bson], client: IpAddr, server: IpAddr) -> bool {
    let entry_fits = |entry: &Document| {
        let holds = |name: &str, address: IpAddr| match entry.get_array(name) {
            Err(_) => true,
            Ok(ranges) => ranges
                .iter()
                .any(|range| range.as_str().is_some_and(|range| contains(range, address))),
        };
        holds("clientSource", client) && holds("serverAddress", server)
    };
    lists.iter().all(|list| match list {
        // Roles report a list of lists, one for each role.
        Bson::Array(entries) => {
            entries.is_empty() || entries.iter().filter_map(Bson::as_document).any(entry_fits)
        }
        Bson::Document(entry) => entry_fits(entry),
        _ => false,
    })
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
