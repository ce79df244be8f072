//! What the stand-in server believes: its identity providers, their keys, and which tokens pass.
//!
//! The checks and their order are the server's. Signatures are verified by `jsonwebtoken`; every
//! other check is here, because that crate is more lenient than the server.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fancy_regex::Regex;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use tokio::time::Instant;

/// Clock difference that `nbf` may have; `exp` has none.
const NBF_LEEWAY_SECONDS: f64 = 60.0;
/// Time for one request to a provider.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// One entry of the server's `oidcIdentityProviders`.
#[derive(Debug, Clone)]
pub struct IdentityProvider {
    /// `issuer`
    pub issuer: String,
    /// `audience`
    pub audience: String,
    /// `authNamePrefix`
    pub auth_name_prefix: String,
    /// `clientId`; needed for human flows.
    pub client_id: Option<String>,
    /// `requestScopes`
    pub request_scopes: Vec<String>,
    /// `supportsHumanFlows`
    pub supports_human_flows: bool,
    /// `matchPattern`: a regular expression that the name of the first step has to contain.
    pub match_pattern: Option<String>,
    /// `principalName`
    pub principal_name: String,
    /// `authorizationClaim`; `None` is `useAuthorizationClaim: false`.
    pub authorization_claim: Option<String>,
    /// `logClaims`
    pub log_claims: Vec<String>,
}

impl IdentityProvider {
    /// An entry for workloads, whose groups come from the claim `groups`.
    pub fn workload(issuer: &str, audience: &str, prefix: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            auth_name_prefix: prefix.to_owned(),
            client_id: None,
            request_scopes: Vec::new(),
            supports_human_flows: false,
            match_pattern: None,
            principal_name: "sub".to_owned(),
            authorization_claim: Some("groups".to_owned()),
            log_claims: vec!["iss".to_owned(), "sub".to_owned()],
        }
    }

    /// An entry for people.
    pub fn people(issuer: &str, audience: &str, prefix: &str, client_id: &str) -> Self {
        Self {
            client_id: Some(client_id.to_owned()),
            supports_human_flows: true,
            ..Self::workload(issuer, audience, prefix)
        }
    }

    /// Whether a person of this name is sent here.
    fn matches(&self, principal: Option<&str>) -> bool {
        match (&self.match_pattern, principal) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(name)) => {
                Regex::new(pattern).is_ok_and(|regex| regex.is_match(name).unwrap_or(false))
            }
        }
    }
}

/// A token that passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// `{prefix}/{principal}`
    pub user: String,
    /// The principal alone.
    pub principal: String,
    /// `{prefix}/{group}` for every group; `None` when roles come from the user's document.
    pub roles: Option<Vec<String>>,
    /// `exp`, in seconds since 1970.
    pub expires_at: f64,
    /// `iss`
    pub issuer: String,
    /// Key changes of the issuer when the token passed.
    pub epoch: u64,
    /// The claims of `logClaims` that it has.
    pub logged: BTreeMap<String, Value>,
}

/// The keys of one issuer.
#[derive(Default)]
struct KeySet {
    /// Modulus and exponent by `kid`.
    keys: BTreeMap<String, (String, String)>,
    /// The last attempt to load them.
    last_attempt: Option<Instant>,
    /// How often a key vanished or changed.
    epoch: u64,
}

/// Providers with their keys.
pub struct Trust {
    /// The entries.
    providers: Vec<IdentityProvider>,
    /// Least time between two loads of an issuer's keys.
    quiesce: Duration,
    /// Keys by issuer.
    sets: Mutex<BTreeMap<String, KeySet>>,
    /// One load at a time.
    loading: tokio::sync::Mutex<()>,
    /// HTTP.
    http: reqwest::Client,
}

/// Seconds since 1970.
pub(super) fn now_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Trust {
    /// Checks the entries as the server does at start, and loads what keys can be had.
    ///
    /// # Errors
    /// When an entry is one that the server refuses. An unreachable issuer is none.
    pub async fn new(providers: Vec<IdentityProvider>, quiesce: Duration) -> Result<Self> {
        Self::believing(providers, quiesce, None).await
    }

    /// The same with an authority (PEM) whose certificates the providers may show.
    ///
    /// # Errors
    /// As [`Self::new`], and when the authority cannot be read.
    pub async fn believing(
        providers: Vec<IdentityProvider>,
        quiesce: Duration,
        authority: Option<&str>,
    ) -> Result<Self> {
        ensure!(!providers.is_empty(), "oidcIdentityProviders is empty");
        for (index, one) in providers.iter().enumerate() {
            let name_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            ensure!(
                !one.auth_name_prefix.is_empty() && one.auth_name_prefix.chars().all(name_fits),
                "authNamePrefix: letters, digits, - and _"
            );
            ensure!(
                one.issuer.starts_with("https://") || one.issuer.starts_with("http://127.0.0.1:"),
                "issuer: https is needed off loopback"
            );
            ensure!(!one.audience.is_empty(), "audience is empty");
            ensure!(
                !one.supports_human_flows || one.client_id.is_some(),
                "clientId is needed for human flows"
            );
            ensure!(
                !providers
                    .iter()
                    .skip(index + 1)
                    .any(|other| { other.issuer == one.issuer && other.audience == one.audience }),
                "two entries have the same issuer and audience"
            );
        }
        let human: Vec<&IdentityProvider> =
            providers.iter().filter(|entry| entry.supports_human_flows).collect();
        for entry in &providers {
            if let Some(pattern) = &entry.match_pattern {
                ensure!(Regex::new(pattern).is_ok(), "matchPattern is no regular expression");
            }
        }
        ensure!(
            human.len() <= 1 || human.iter().all(|entry| entry.match_pattern.is_some()),
            "several entries for human flows need a matchPattern each"
        );
        ensure!(
            !human
                .windows(2)
                .any(|pair| { pair[0].match_pattern.is_none() && pair[1].match_pattern.is_some() }),
            "entries with a matchPattern come before those without"
        );
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(FETCH_TIMEOUT);
        if let Some(pem) = authority {
            http = http.add_root_certificate(reqwest::Certificate::from_pem(pem.as_bytes())?);
        }
        let trust = Self {
            providers,
            quiesce,
            sets: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            http: http.build()?,
        };
        for (issuer, error) in trust.refresh().await {
            tracing::warn!(issuer, error, "keys could not be loaded; they will be when needed");
        }
        Ok(trust)
    }

    /// The keys. A panic elsewhere fails its own test.
    fn sets(&self) -> MutexGuard<'_, BTreeMap<String, KeySet>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads every issuer's keys that are not too fresh (`oidcRefreshKeys`); what failed.
    pub async fn refresh(&self) -> Vec<(String, String)> {
        let mut failures = Vec::new();
        let issuers: std::collections::BTreeSet<&str> =
            self.providers.iter().map(|entry| entry.issuer.as_str()).collect();
        for issuer in issuers {
            if let Err(error) = self.load(issuer).await {
                failures.push((issuer.to_owned(), format!("{error:#}")));
            }
        }
        failures
    }

    /// Published keys by issuer (`oidcListKeys`).
    pub fn key_ids(&self) -> BTreeMap<String, Vec<String>> {
        self.sets()
            .iter()
            .map(|(issuer, set)| (issuer.clone(), set.keys.keys().cloned().collect()))
            .collect()
    }

    /// Key changes of an issuer so far; sessions remember the number they began with.
    pub fn epoch(&self, issuer: &str) -> u64 {
        self.sets().get(issuer).map_or(0, |set| set.epoch)
    }

    /// The entry that a person would be sent to, for the first step of a conversation.
    pub fn human(&self, principal: Option<&str>) -> Option<&IdentityProvider> {
        let mut human = self.providers.iter().filter(|entry| entry.supports_human_flows);
        // Without a name there may be no choice.
        if principal.is_none() && human.clone().count() > 1 {
            return None;
        }
        human.find(|entry| principal.is_none() || entry.matches(principal))
    }

    /// Loads an issuer's keys, unless that was tried within the quiesce period.
    async fn load(&self, issuer: &str) -> Result<()> {
        let _one = self.loading.lock().await;
        {
            let mut sets = self.sets();
            let set = sets.entry(issuer.to_owned()).or_default();
            if set.last_attempt.is_some_and(|at| at.elapsed() < self.quiesce) {
                return Ok(());
            }
            set.last_attempt = Some(Instant::now());
        }
        let keys = self.download(issuer).await?;
        let mut sets = self.sets();
        let set = sets.entry(issuer.to_owned()).or_default();
        // An added key disturbs nobody; a vanished or changed one ends sessions.
        if set.keys.iter().any(|(id, key)| keys.get(id) != Some(key)) {
            set.epoch += 1;
        }
        set.keys = keys;
        Ok(())
    }

    /// Discovery, then the key set. One bad key makes the whole load fail.
    async fn download(&self, issuer: &str) -> Result<BTreeMap<String, (String, String)>> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let metadata = self.get(&format!("{base}/.well-known/openid-configuration")).await?;
        let said = metadata.get("issuer").and_then(Value::as_str).context("metadata: issuer")?;
        ensure!(said.trim_end_matches('/') == base, "metadata names another issuer");
        let uri = metadata.get("jwks_uri").and_then(Value::as_str).context("metadata: jwks_uri")?;
        let set = self.get(uri).await?;
        let mut keys = BTreeMap::new();
        for key in set.get("keys").and_then(Value::as_array).context("keys")? {
            let text = |name: &str| key.get(name).and_then(Value::as_str);
            if text("kty") != Some("RSA") {
                tracing::warn!("a key that is not RSA is skipped");
                continue;
            }
            let id = text("kid").filter(|id| !id.is_empty()).context("a key without kid")?;
            let (n, e) = (text("n").context("n")?, text("e").context("e")?);
            let modulus = BASE64_URL_SAFE_NO_PAD.decode(n)?;
            let bits = modulus.iter().skip_while(|byte| **byte == 0).count() * 8;
            ensure!(bits >= 2048, "key {id} has {bits} bits");
            let exponent = BASE64_URL_SAFE_NO_PAD.decode(e)?;
            ensure!(
                exponent.len() > 1 || exponent.first().is_some_and(|byte| *byte >= 3),
                "key {id} has an exponent below 3"
            );
            let old = keys.insert(id.to_owned(), (n.to_owned(), e.to_owned()));
            ensure!(old.is_none(), "two keys have the id {id}");
        }
        Ok(keys)
    }

    /// GETs JSON.
    async fn get(&self, url: &str) -> Result<Value> {
        Ok(self.http.get(url).send().await?.error_for_status()?.json().await?)
    }

    /// A key by id, with one load when it is unknown.
    async fn key(&self, issuer: &str, id: &str) -> Result<(String, String)> {
        let find = || self.sets().get(issuer).and_then(|set| set.keys.get(id).cloned());
        if let Some(key) = find() {
            return Ok(key);
        }
        self.load(issuer).await?;
        find().context("the token's key is unknown")
    }

    /// Verifies a token as the server does, in the server's order.
    ///
    /// # Errors
    /// Why it is refused; for the server's log, the client learns nothing.
    pub async fn verify(&self, token: &str) -> Result<Verified> {
        let parts: Vec<&str> = token.split('.').collect();
        let [header_text, payload_text, signature] = parts.as_slice() else {
            bail!("not three segments");
        };
        let object = |text: &str| -> Result<Value> {
            let value: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(text)?)?;
            ensure!(value.is_object(), "a segment is no JSON object");
            Ok(value)
        };
        let header = object(header_text).context("header")?;
        let alg = header.get("alg").and_then(Value::as_str).context("alg")?;
        let kid = header.get("kid").and_then(Value::as_str).context("kid")?;
        ensure!(
            header.get("typ").is_none_or(|typ| typ.as_str() == Some("JWT")),
            "typ is something else than JWT"
        );
        let claims = object(payload_text).context("payload")?;
        let issuer = claims.get("iss").and_then(Value::as_str).context("iss")?;
        claims.get("sub").and_then(Value::as_str).context("sub")?;
        let audiences = strings(claims.get("aud").context("aud")?).context("aud")?;
        let exp = claims.get("exp").and_then(Value::as_f64).context("exp")?;
        let entry = self
            .providers
            .iter()
            .find(|entry| entry.issuer == issuer && audiences.contains(&entry.audience))
            .context("no identity provider with this issuer and audience")?;
        let now = now_seconds();
        if let Some(nbf) = claims.get("nbf") {
            ensure!(nbf.as_f64().context("nbf")? <= now + NBF_LEEWAY_SECONDS, "not yet valid");
        }
        ensure!(exp >= now, "expired");

        let (n, e) = self.key(issuer, kid).await?;
        let epoch = self.epoch(issuer);
        let algorithm = match alg {
            "RS256" => Algorithm::RS256,
            "RS384" => Algorithm::RS384,
            "RS512" => Algorithm::RS512,
            "PS256" => Algorithm::PS256,
            _ => bail!("algorithm {alg} is not allowed"),
        };
        let key = DecodingKey::from_rsa_components(&n, &e)?;
        let message = format!("{header_text}.{payload_text}");
        ensure!(
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm)?,
            "the signature is wrong"
        );

        let principal = claims
            .get(&entry.principal_name)
            .and_then(Value::as_str)
            .context("the principal claim is missing or no string")?;
        let prefixed = |name: &str| format!("{}/{name}", entry.auth_name_prefix);
        let roles = match &entry.authorization_claim {
            Some(claim) => {
                let groups = claims.get(claim).context("the authorization claim is missing")?;
                let groups = strings(groups).context("the authorization claim")?;
                Some(groups.iter().map(|group| prefixed(group)).collect())
            }
            None => None,
        };
        let logged = entry
            .log_claims
            .iter()
            .filter_map(|name| Some((name.clone(), claims.get(name)?.clone())))
            .collect();
        Ok(Verified {
            user: prefixed(principal),
            principal: principal.to_owned(),
            roles,
            expires_at: exp,
            issuer: issuer.to_owned(),
            epoch,
            logged,
        })
    }
}

/// A string or an array of strings.
fn strings(value: &Value) -> Result<Vec<String>> {
    match value {
        Value::String(one) => Ok(vec![one.clone()]),
        Value::Array(many) => many
            .iter()
            .map(|item| item.as_str().map(str::to_owned).context("not only strings"))
            .collect(),
        _ => bail!("neither a string nor an array of strings"),
    }
}
