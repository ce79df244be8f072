//! The decision about one request.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, Notify, Semaphore};

use super::{
    audit::{Audit, Line},
    cache::KeyCache,
    claims::{self, Principal},
    config::{Action, AuthorizationType, Federation, Restriction, Role, network},
    store::Store,
    token,
};
use crate::error::{Error, Kind, Result};

/// Signatures checked at once; more wait.
const MAX_CHECKS: usize = 16;

/// Decides who may do what.
pub struct Access {
    /// Where the federation is kept.
    store: Store,
    /// The federation in force.
    active: RwLock<Option<Arc<Active>>>,
    /// Held while the federation is changed.
    change: Mutex<()>,
    /// Wakes the polling when the federation was changed.
    changed: Notify,
    /// Where decisions are written down.
    audit: Audit,
    /// Bounds the work on signatures.
    checks: Semaphore,
}

/// A federation with the keys of its issuer.
struct Active {
    /// The federation.
    federation: Federation,
    /// The keys.
    keys: KeyCache,
}

/// What is asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Values of all `Authorization` headers.
    pub authorization: &'a [&'a [u8]],
    /// Address of the caller.
    pub client: IpAddr,
    /// Address at which the caller reached this server.
    pub server: IpAddr,
    /// The right that is needed.
    pub action: Action,
    /// Method and path.
    pub request: &'a str,
    /// Id of the request.
    pub request_id: &'a str,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// There is no federation; who reaches the port may do everything.
    Open,
    /// The caller may.
    Allowed,
    /// No token was given.
    Anonymous,
    /// The token is not good. Why stands in the audit alone.
    Unauthenticated,
    /// The caller is known and may not.
    Forbidden,
    /// The audit cannot be written.
    Unavailable,
}

/// Whom a good token belongs to.
struct Verified {
    /// Who.
    principal: Principal,
    /// The key that signed it.
    kid: String,
}

impl Access {
    /// Reads the federation from its place.
    ///
    /// # Errors
    /// `FederationInvalid` when there is one that cannot be used.
    pub fn new(store: Store, audit: Audit) -> Result<Self> {
        let active = store.read()?.map(Active::new).transpose()?.map(Arc::new);
        Ok(Self {
            store,
            active: RwLock::new(active),
            change: Mutex::new(()),
            changed: Notify::new(),
            audit,
            checks: Semaphore::new(MAX_CHECKS),
        })
    }

    /// The federation in force.
    pub fn federation(&self) -> Option<Federation> {
        self.active().map(|active| active.federation.clone())
    }

    /// Puts the first federation in force.
    ///
    /// # Errors
    /// `FederationInvalid` when it cannot be used or there is one already.
    pub async fn create(&self, value: serde_json::Value) -> Result<()> {
        let _change = self.change.lock().await;
        if self.active().is_some() {
            return Err(Error::new(
                Kind::FederationInvalid,
                "there is a federation already; edit or delete it",
            ));
        }
        self.put(Federation::parse(value)?)
    }

    /// Replaces the federation; its name stays.
    ///
    /// # Errors
    /// `FederationInvalid` when it cannot be used, there is none, or the name differs.
    pub async fn edit(&self, value: serde_json::Value) -> Result<()> {
        let _change = self.change.lock().await;
        let next = Federation::parse(value)?;
        match self.active() {
            None => Err(none()),
            Some(active) if active.federation.name != next.name => Err(Error::new(
                Kind::FederationInvalid,
                format!(
                    "the name stays `{}`; delete the federation to use another",
                    active.federation.name
                ),
            )),
            Some(_) => self.put(next),
        }
    }

    /// Removes the federation.
    ///
    /// # Errors
    /// `FederationInvalid` when there is none or it cannot be removed.
    pub async fn delete(&self) -> Result<()> {
        let _change = self.change.lock().await;
        if self.active().is_none() {
            return Err(none());
        }
        self.store.write(None)?;
        self.enforce(None);
        Ok(())
    }

    /// Drops the issuer's keys at once; tokens are good again when their key is published then.
    ///
    /// # Errors
    /// `FederationInvalid` when there is no federation.
    pub fn revoke_keys(&self) -> Result<()> {
        let active = self.active().ok_or_else(none)?;
        active.keys.revoke();
        tracing::warn!(issuer = active.federation.issuer, "keys revoked");
        Ok(())
    }

    /// Loads the issuer's keys from time to time, so that one that is withdrawn ends without a token
    /// that asks for another. Does not end.
    ///
    /// Cancel safe.
    pub async fn poll_keys(&self) -> Infallible {
        loop {
            let active = self.active();
            let period = active.as_ref().map_or(0, |active| active.federation.jwks_poll_secs);
            match active {
                Some(active) if period > 0 => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(Duration::from_secs(period)) => active.keys.poll().await,
                },
                _ => self.changed.notified().await,
            }
        }
    }

    /// Decides, and writes the decision down.
    ///
    /// Cancel safe.
    pub async fn decide(&self, question: Question<'_>) -> Decision {
        let Some(active) = self.active() else { return Decision::Open };
        let federation = &active.federation;
        let token = match bearer(question.authorization) {
            Ok(Some(token)) => token,
            Ok(None) => {
                return self.note(question, None, None, (Decision::Anonymous, Some("no token")));
            }
            Err(why) => {
                return self.note(question, None, None, (Decision::Unauthenticated, Some(why)));
            }
        };
        let verified = match self.verify(token, &active).await {
            Ok(verified) => verified,
            Err(why) => {
                let outcome = (Decision::Unauthenticated, Some(why));
                return self.note(question, Some(token), None, outcome);
            }
        };
        let (roles, outcome) = judge(federation, &verified.principal, question);
        let who = Some((&verified, roles.as_slice()));
        self.note(question, Some(token), who, outcome)
    }

    /// The federation in force, with its keys.
    fn active(&self) -> Option<Arc<Active>> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores a federation and puts it in force. The change is held.
    fn put(&self, federation: Federation) -> Result<()> {
        let active = Arc::new(Active::new(federation)?);
        self.store.write(Some(&active.federation))?;
        self.enforce(Some(active));
        Ok(())
    }

    /// Puts a federation in force, or none. The change is held.
    fn enforce(&self, active: Option<Arc<Active>>) {
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        self.changed.notify_one();
    }

    /// Verifies a token. The order is that of cost, and of what may be believed.
    async fn verify(
        &self,
        text: &str,
        active: &Active,
    ) -> std::result::Result<Verified, &'static str> {
        let open = token::open(text, &active.federation)?;
        let keys = active.keys.with_key(&open.kid).await?;
        let _check = self.checks.acquire().await.map_err(|_| "the server is stopping")?;
        keys.verify(&open.kid, &open.algorithm, open.message, open.signature)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let principal = claims::check(&open.claims, &active.federation, now)?;
        Ok(Verified { principal, kid: open.kid })
    }

    /// Writes a decision down. What cannot be written down is not allowed.
    fn note(
        &self,
        question: Question<'_>,
        token: Option<&str>,
        who: Option<(&Verified, &[&str])>,
        (decision, reason): (Decision, Option<&'static str>),
    ) -> Decision {
        let token_id = who.and_then(|(verified, _)| verified.principal.token_id.clone());
        let written = self.audit.write(&Line {
            time: jiff::Timestamp::now().to_string(),
            request_id: question.request_id,
            user: who.map(|(verified, _)| verified.principal.user.as_str()),
            roles: who.map(|(_, roles)| roles.to_vec()).unwrap_or_default(),
            token: token_id.or_else(|| token.map(fingerprint)),
            kid: who.map(|(verified, _)| verified.kid.as_str()),
            client: question.client,
            request: question.request,
            action: question.action.name(),
            decision: match decision {
                Decision::Open | Decision::Allowed => "allowed",
                Decision::Anonymous | Decision::Unauthenticated => "unauthenticated",
                Decision::Forbidden | Decision::Unavailable => "forbidden",
            },
            reason,
        });
        if written { decision } else { Decision::Unavailable }
    }
}

impl Active {
    /// A federation without keys yet.
    fn new(federation: Federation) -> Result<Self> {
        let keys = KeyCache::new(&federation)?;
        Ok(Self { federation, keys })
    }
}

/// The error for a change of nothing.
fn none() -> Error {
    Error::new(Kind::FederationInvalid, "there is no federation")
}

/// The token of the one `Authorization` header; `None` when there is no header.
fn bearer<'a>(headers: &[&'a [u8]]) -> std::result::Result<Option<&'a str>, &'static str> {
    let header = match headers {
        [] => return Ok(None),
        [one] => std::str::from_utf8(one).map_err(|_| "the header is no text")?,
        _ => return Err("there is more than one Authorization header"),
    };
    match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(Some(token))
        }
        _ => Err("the header is no bearer token"),
    }
}

/// The first half of a token's SHA-256, which tells tokens apart and shows none.
fn fingerprint(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    hex::encode(digest.get(..16).unwrap_or_default())
}

/// What the roles of a caller allow.
fn judge<'f>(
    federation: &'f Federation,
    principal: &Principal,
    question: Question<'_>,
) -> (Vec<&'f str>, (Decision, Option<&'static str>)) {
    let forbidden = |why| (Decision::Forbidden, Some(why));
    let user = federation.users.iter().find(|user| user.user == principal.user);
    let names: Vec<&str> = match (federation.authorization_type, user) {
        (AuthorizationType::GroupMembership, _) => {
            principal.groups.iter().map(String::as_str).collect()
        }
        (AuthorizationType::UserId, Some(user)) => user.roles.iter().map(String::as_str).collect(),
        (AuthorizationType::UserId, None) => {
            return (Vec::new(), forbidden("the user is not known here"));
        }
    };
    // By the names of the federation, so that what is written down is what is configured.
    let held = federation.roles.iter().map(|role| role.role.as_str());
    let Some(roles) = federation.closure(held.filter(|name| names.contains(name))) else {
        return (Vec::new(), forbidden("a role inherits itself"));
    };
    let listed: Vec<&str> = roles.keys().copied().collect();
    let passes = |restrictions: &[Restriction]| {
        restrictions.is_empty() || restrictions.iter().any(|one| fits(one, question))
    };
    let user_passes = user.is_none_or(|user| passes(&user.authentication_restrictions));
    let all: Vec<&&Role> = roles.values().collect();
    if !user_passes || !all.iter().all(|role| passes(&role.authentication_restrictions)) {
        return (listed, forbidden("an authentication restriction is not met"));
    }
    let actions: BTreeSet<Action> =
        all.iter().flat_map(|role| role.actions.iter().copied()).collect();
    if actions.contains(&question.action) {
        (listed, (Decision::Allowed, None))
    } else {
        (listed, forbidden("no role grants the action"))
    }
}

/// Whether both lists of a restriction fit; a list of nonsense fits nobody.
fn fits(restriction: &Restriction, question: Question<'_>) -> bool {
    let holds = |list: &[String], address: IpAddr| {
        let address = address.to_canonical();
        list.is_empty()
            || list.iter().any(|text| network(text).is_some_and(|net| net.contains(&address)))
    };
    holds(&restriction.client_source, question.client)
        && holds(&restriction.server_address, question.server)
}
