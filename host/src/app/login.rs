//! A person logs in to the API of a daemon, and commands use what that left behind.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use crate::{
    client::{self, LoginOffer, Options, Session, Sessions},
    error::{Error, Kind, Result},
    identity,
    model::token::{Credential, Flow, IdpInfo, Reason, TokenError, TokenRequest},
    person::{Reach, Terminal},
    plugin::Registry,
    ports::TokenIssuer,
};

/// Time a person has.
const PERSON: Duration = Duration::from_secs(5 * 60);
/// Time a renewal has.
const RENEWAL: Duration = Duration::from_secs(30);

/// What `syncline login` was told besides where the daemon is.
#[derive(Debug, Clone, Default)]
pub struct LoginArgs {
    /// How the person is reached.
    pub reach: Reach,
    /// Instead of the ways that the daemon names.
    pub flows: Vec<String>,
    /// Whose account, when they know.
    pub principal: Option<String>,
}

/// Logs a person in and keeps the session.
///
/// # Errors
/// `LoginFailed` with the provider's words, `NotFound` when the daemon has no login, `ApiUnreachable`.
pub async fn login(
    options: &Options,
    args: LoginArgs,
    env: &BTreeMap<String, String>,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let sessions = Sessions::of(env)?;
    let offer = client::login_offer(options).await?;
    let flows = if args.flows.is_empty() { offer.flows.clone() } else { args.flows };
    let (registry, issuer) = provider(&flows).await?;
    registry.introduce(Arc::new(Terminal::new(args.reach)));
    let request = request(options, &offer, args.principal, Reason::Initial, PERSON);
    let credential = issuer.get_token(request).await.map_err(|error| failed(&error))?;
    sessions.put(&options.place(), Some(&session(&offer, &credential)?))?;
    let who = credential.audit.iter().find(|(name, _)| name == "subject");
    let who = who.map_or(String::new(), |(_, subject)| format!(" as {subject}"));
    // A reader that went away is no failure.
    drop(writeln!(out, "logged in at {}{who}", options.place()));
    Ok(())
}

/// Forgets the session at a daemon.
///
/// # Errors
/// `ConfigInvalid` when it cannot be forgotten.
pub fn logout(
    options: &Options,
    env: &BTreeMap<String, String>,
    out: &mut (dyn Write + Send),
) -> Result<()> {
    let found = Sessions::of(env)?.put(&options.place(), None)?;
    let text = if found { "logged out" } else { "there was no session" };
    drop(writeln!(out, "{text}"));
    Ok(())
}

/// Puts the token of a session into options that have none, renewed when it is about to end. A
/// session that can no longer be renewed is forgotten, and the daemon says what to do; one that could
/// not be renewed this time is kept, and standard error says why.
///
/// # Errors
/// `ConfigInvalid` when the sessions cannot be read or written.
pub async fn with_session(mut options: Options, env: &BTreeMap<String, String>) -> Result<Options> {
    if options.entry.token.is_some() {
        return Ok(options);
    }
    // Without a place there are no sessions.
    let Ok(sessions) = Sessions::of(env) else { return Ok(options) };
    let place = options.place();
    let Some(found) = sessions.get(&place)? else { return Ok(options) };
    if found.is_good() {
        options.entry.token = Some(found.token);
        return Ok(options);
    }
    options.entry.token = renewed(&options, &sessions, &place).await?.map(|session| session.token);
    Ok(options)
}

/// Renews a session, unless another process has done so.
async fn renewed(options: &Options, sessions: &Sessions, place: &str) -> Result<Option<Session>> {
    let turn = sessions.turn()?;
    let Some(mut found) = sessions.get(place)? else { return Ok(None) };
    if found.is_good() {
        return Ok(Some(found));
    }
    let may_show = found.lost_refreshes < identity::MAX_LOST_REFRESHES;
    let Some(refresh) = found.refresh.clone().filter(|_| may_show) else {
        sessions.put_in_turn(&turn, place, None)?;
        return Ok(None);
    };
    let offer = LoginOffer {
        issuer: found.issuer.clone(),
        client_id: found.client_id.clone(),
        ..LoginOffer::default()
    };
    let (_registry, issuer) = provider(&[]).await?;
    let mut request = request(options, &offer, None, Reason::Expiring, RENEWAL);
    request.refresh_token = Some(refresh);
    // Noted before it is shown: whoever ends this process meanwhile loses the answer as well.
    found.lost_refreshes += 1;
    sessions.put_in_turn(&turn, place, Some(&found))?;
    let next = match issuer.get_token(request).await {
        Ok(credential) => Some(session(&offer, &credential)?),
        Err(TokenError::RefreshRejected) => None,
        Err(TokenError::TimedOut) if found.lost_refreshes >= identity::MAX_LOST_REFRESHES => None,
        Err(error) => {
            // It may work the next time.
            if !matches!(error, TokenError::TimedOut) {
                found.lost_refreshes -= 1;
                sessions.put_in_turn(&turn, place, Some(&found))?;
            }
            let why = identity::reason_of(&error);
            drop(writeln!(io::stderr(), "the session at {place} was not renewed: {why}"));
            return Ok(None);
        }
    };
    sessions.put_in_turn(&turn, place, next.as_ref())?;
    Ok(next)
}

/// The plugin that logs people in.
async fn provider(flows: &[String]) -> Result<(Registry, Arc<dyn TokenIssuer>)> {
    let config = if flows.is_empty() { json!({}) } else { json!({ "flows": flows }) };
    let registry = Registry::load(Vec::new()).await?;
    registry.load_one(Registry::builtin_spec(identity::WORKFORCE, config)?).await?;
    let issuer = registry.issuer(identity::WORKFORCE).await?;
    Ok((registry, issuer))
}

/// What the plugin is asked.
fn request(
    options: &Options,
    offer: &LoginOffer,
    principal: Option<String>,
    reason: Reason,
    timeout: Duration,
) -> TokenRequest {
    TokenRequest {
        flow: Flow::Human,
        cluster: "api".to_owned(),
        reason,
        audience: None,
        principal,
        hosts: vec![format!("{}:{}", options.host, options.port)],
        idp: Some(IdpInfo {
            issuer: offer.issuer.clone(),
            client_id: Some(offer.client_id.clone()).filter(|id| !id.is_empty()),
            request_scopes: offer.scopes.clone(),
        }),
        refresh_token: None,
        timeout,
        attempt: 0,
        extra: Vec::new(),
    }
}

/// What is kept of a credential.
fn session(offer: &LoginOffer, credential: &Credential) -> Result<Session> {
    let life = identity::life_of(credential)
        .map_err(|what| Error::new(Kind::LoginFailed, format!("the token is of no use: {what}")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Session {
        token: credential.access_token.clone(),
        refresh: credential.refresh_token.clone(),
        expires_at: (now + life).as_secs(),
        issuer: offer.issuer.clone(),
        client_id: offer.client_id.clone(),
        lost_refreshes: 0,
    })
}

/// The error of a login.
fn failed(error: &TokenError) -> Error {
    Error::new(Kind::LoginFailed, identity::reason_of(error))
}
