//! Workforce federation of the control API: what the operator configures, and who a caller turned
//! out to be.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Algorithms that a token may be signed with, unless the operator says otherwise.
const DEFAULT_ALGORITHMS: [&str; 2] = ["RS256", "ES256"];
/// Every algorithm that can be allowed.
const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
/// Longest leeway for clocks, in seconds.
const MAX_SKEW_SECS: u64 = 60;
/// Longest token that can be allowed, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Look at progress, plugins and metrics.
    View,
    /// Start, pause, resume and reverse.
    Operate,
    /// Hand over to the destination.
    Commit,
    /// Change the federation.
    Administer,
}

impl Action {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Commit => "commit",
            Self::Administer => "administer",
        }
    }
}

/// How rights come out of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AuthorizationType {
    /// The groups of the token are roles.
    #[default]
    GroupMembership,
    /// The user of the token is one of the federation's users.
    UserId,
}

/// How a person logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoginFlow {
    /// Authorization code with PKCE, in a browser.
    AuthCode,
    /// A code that is typed in on another device.
    Device,
}

impl LoginFlow {
    /// The name on the command line and for the plugin.
    pub fn name(self) -> &'static str {
        match self {
            Self::AuthCode => "auth-code",
            Self::Device => "device-auth",
        }
    }
}

/// From where and to where a caller may connect; an empty list means any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restriction {
    /// Addresses of callers, as IP or CIDR.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_source: Vec<String>,
    /// Addresses of this server, as IP or CIDR.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_address: Vec<String>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Role {
    /// `<federation>/<group>`, or any name for one that others inherit.
    pub role: String,
    /// What it grants.
    #[serde(default)]
    pub actions: BTreeSet<Action>,
    /// Roles it inherits.
    #[serde(default)]
    pub roles: Vec<String>,
    /// One of these has to fit; none means no restriction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authentication_restrictions: Vec<Restriction>,
}

/// A user, for the authorization type `userId`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct User {
    /// `<federation>/<principal>`
    pub user: String,
    /// Roles of the user.
    #[serde(default)]
    pub roles: Vec<String>,
    /// One of these has to fit; none means no restriction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authentication_restrictions: Vec<Restriction>,
}

/// A federation. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Federation {
    /// Name; in front of every role and user.
    pub name: String,
    /// Issuer, exactly as tokens have it in `iss`.
    pub issuer: String,
    /// OAuth client of the people who log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Audience, one of the token's `aud`.
    pub audience: String,
    /// Scopes to request at login.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requested_scopes: Vec<String>,
    /// Where rights come from.
    #[serde(default)]
    pub authorization_type: AuthorizationType,
    /// Claim with the user's name.
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    /// Claim with the groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    /// How people may log in.
    #[serde(default = "default_flows")]
    pub flows: Vec<LoginFlow>,
    /// Signature algorithms.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<String>,
    /// Leeway for `exp`.
    #[serde(default)]
    pub clock_skew_secs: u64,
    /// Longest life (`exp` - `iat`) that is accepted.
    #[serde(default = "default_max_life")]
    pub max_token_life_secs: u64,
    /// Longest token.
    #[serde(default = "default_max_token_bytes")]
    pub max_token_bytes: usize,
    /// Least time between two loads of the keys.
    #[serde(default = "default_quiesce")]
    pub jwks_minimum_quiesce_period_secs: u64,
    /// Time between two loads of the keys that no token asks for; 0 leaves them out.
    #[serde(default = "default_poll")]
    pub jwks_poll_secs: u64,
    /// Lets the issuer be at private addresses; loopback has to be named in the issuer instead.
    #[serde(default)]
    pub allow_private_issuer: bool,
    /// Roles.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// Users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

/// For serde.
fn default_user_claim() -> String {
    "sub".to_owned()
}

/// For serde.
fn default_groups_claim() -> String {
    "groups".to_owned()
}

/// For serde.
fn default_flows() -> Vec<LoginFlow> {
    vec![LoginFlow::AuthCode]
}

/// For serde.
fn default_algorithms() -> Vec<String> {
    DEFAULT_ALGORITHMS.map(str::to_owned).to_vec()
}

/// For serde.
fn default_max_life() -> u64 {
    24 * 3600
}

/// For serde.
fn default_max_token_bytes() -> usize {
    8 * 1024
}

/// For serde.
fn default_quiesce() -> u64 {
    60
}

/// For serde.
fn default_poll() -> u64 {
    300
}

impl Federation {
    /// Reads a federation and checks it.
    ///
    /// # Errors
    /// `FederationInvalid` with every problem found.
    pub fn parse(value: serde_json::Value) -> Result<Self> {
        let federation: Self = serde_json::from_value(value)
            .map_err(|error| Error::new(Kind::FederationInvalid, error.to_string()))?;
        let problems = federation.problems();
        if problems.is_empty() {
            return Ok(federation);
        }
        Err(Error::new(Kind::FederationInvalid, problems.join("; ")))
    }

    /// Everything that is wrong with it.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |fits: bool, problem: &str| {
            if !fits {
                problems.push(problem.to_owned());
            }
        };
        check(is_name(&self.name), "name: 1 to 64 letters, digits, `-` and `_`");
        check(is_issuer(&self.issuer), "issuer: https://, a host and perhaps a path");
        check(!self.audience.is_empty(), "audience: is empty");
        check(
            self.client_id.as_ref() != Some(&self.audience),
            "audience: is the client id, so that every ID token would pass; give the API its own",
        );
        check(self.client_id.as_deref() != Some(""), "clientId: is empty");
        check(!self.user_claim.is_empty(), "userClaim: is empty");
        check(!self.groups_claim.is_empty(), "groupsClaim: is empty");
        check(!self.flows.is_empty(), "flows: authCode, device or both");
        check(
            !self.algorithms.is_empty()
                && self.algorithms.iter().all(|name| ALGORITHMS.contains(&name.as_str())),
            "algorithms: of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA",
        );
        check(self.clock_skew_secs <= MAX_SKEW_SECS, "clockSkewSecs: at most 60");
        check(
            (60..=30 * 24 * 3600).contains(&self.max_token_life_secs),
            "maxTokenLifeSecs: 60 to 2592000",
        );
        check(
            (512..=MAX_TOKEN_BYTES).contains(&self.max_token_bytes),
            "maxTokenBytes: 512 to 16384",
        );
        check(
            self.jwks_minimum_quiesce_period_secs <= 24 * 3600,
            "jwksMinimumQuiescePeriodSecs: at most 86400",
        );
        check(self.jwks_poll_secs <= 24 * 3600, "jwksPollSecs: at most 86400");
        self.role_problems(&mut problems);
        problems
    }

    /// What is wrong with roles and users.
    fn role_problems(&self, problems: &mut Vec<String>) {
        let prefix = format!("{}/", self.name);
        let mut names = BTreeSet::new();
        for role in &self.roles {
            if role.role.is_empty() || !names.insert(role.role.as_str()) {
                problems.push(format!("roles: `{}` is empty or there twice", role.role));
            }
        }
        let mut users = BTreeSet::new();
        for user in &self.users {
            if !user.user.starts_with(&prefix) || !users.insert(user.user.as_str()) {
                problems.push(format!(
                    "users: `{}` does not begin with `{prefix}` or is there twice",
                    user.user
                ));
            }
        }
        let inherited = self.roles.iter().flat_map(|role| &role.roles);
        for name in inherited.chain(self.users.iter().flat_map(|user| &user.roles)) {
            if !names.contains(name.as_str()) {
                problems.push(format!("roles: there is no `{name}`"));
            }
        }
        let restrictions = self.roles.iter().flat_map(|role| &role.authentication_restrictions);
        let of_users = self.users.iter().flat_map(|user| &user.authentication_restrictions);
        for restriction in restrictions.chain(of_users) {
            for text in restriction.client_source.iter().chain(&restriction.server_address) {
                if network(text).is_none() {
                    problems.push(format!("authenticationRestrictions: `{text}` is no address"));
                }
            }
        }
        for role in &self.roles {
            if self.closure(std::iter::once(role.role.as_str())).is_none() {
                problems.push(format!("roles: `{}` inherits itself", role.role));
            }
        }
    }

    /// The roles with these names and all they inherit; unknown ones are left out. `None` when one
    /// inherits itself.
    pub fn closure<'a>(
        &'a self,
        names: impl Iterator<Item = &'a str>,
    ) -> Option<BTreeMap<&'a str, &'a Role>> {
        let known: BTreeMap<&str, &Role> =
            self.roles.iter().map(|role| (role.role.as_str(), role)).collect();
        let mut found = BTreeMap::new();
        for name in names {
            let mut path = Vec::new();
            if !descend(name, &known, &mut found, &mut path) {
                return None;
            }
        }
        Some(found)
    }
}

/// Adds a role and what it inherits; `false` when it inherits itself.
fn descend<'a>(
    name: &'a str,
    known: &BTreeMap<&'a str, &'a Role>,
    found: &mut BTreeMap<&'a str, &'a Role>,
    path: &mut Vec<&'a str>,
) -> bool {
    if path.contains(&name) {
        return false;
    }
    let Some(role) = known.get(name) else { return true };
    if found.insert(name, role).is_some() {
        return true;
    }
    path.push(name);
    let sound = role.roles.iter().all(|inner| descend(inner, known, found, path));
    path.pop();
    sound
}

/// Whether text can be a federation's name.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
}

/// Whether text is `https://` and a place, or `http://` on loopback by name or address.
fn is_issuer(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain && is_safe_url(&url)
}

/// Whether a URL is `https`, or names loopback.
pub(super) fn is_safe_url(url: &url::Url) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => names_loopback(url),
        _ => false,
    }
}

/// Whether the host of a URL is loopback, by its address or as `localhost`.
pub(super) fn names_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An address or a network.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(change: impl FnOnce(&mut serde_json::Value)) -> Result<Federation> {
        let mut value = json!({
            "name": "acme", "issuer": "https://login.example/t", "audience": "api://sync",
            "clientId": "cli",
            "roles": [
                { "role": "base", "actions": ["view"] },
                { "role": "acme/ops", "actions": ["operate"], "roles": ["base"] },
            ],
        });
        change(&mut value);
        Federation::parse(value)
    }

    #[test]
    fn defaults_are_those_of_mongodb() {
        let federation = with(|_| ()).unwrap();
        assert_eq!(federation.user_claim, "sub");
        assert_eq!(federation.groups_claim, "groups");
        assert_eq!(federation.authorization_type, AuthorizationType::GroupMembership);
        assert_eq!(federation.jwks_minimum_quiesce_period_secs, 60);
        assert_eq!(federation.jwks_poll_secs, 300);
        assert_eq!(federation.clock_skew_secs, 0);
        let found = federation.closure(["acme/ops", "acme/none"].into_iter()).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["acme/ops", "base"]);
        let again = Federation::parse(serde_json::to_value(&federation).unwrap()).unwrap();
        assert_eq!(again, federation);
    }

    #[test]
    fn every_fault_is_named() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 23] = [
            (|v| v["name"] = json!("a b"), "name"),
            (|v| v["issuer"] = json!("http://login.example"), "issuer"),
            (|v| v["issuer"] = json!("https://u@login.example"), "issuer"),
            (|v| v["issuer"] = json!("https://login.example?x"), "issuer"),
            (|v| v["issuer"] = json!("ftp://localhost"), "issuer"),
            (|v| v["audience"] = json!(""), "audience"),
            (|v| v["audience"] = json!("cli"), "ID token"),
            (|v| v["flows"] = json!([]), "flows"),
            (|v| v["flows"] = json!(["password"]), "password"),
            (|v| v["algorithms"] = json!(["HS256"]), "algorithms"),
            (|v| v["algorithms"] = json!(["none"]), "algorithms"),
            (|v| v["clockSkewSecs"] = json!(61), "clockSkewSecs"),
            (|v| v["maxTokenBytes"] = json!(20000), "maxTokenBytes"),
            (|v| v["maxTokenLifeSecs"] = json!(1), "maxTokenLifeSecs"),
            (|v| v["jwksMinimumQuiescePeriodSecs"] = json!(86_401), "jwksMinimumQuiescePeriodSecs"),
            (|v| v["jwksPollSecs"] = json!(86_401), "jwksPollSecs"),
            (|v| v["roles"][1]["roles"] = json!(["nobody"]), "nobody"),
            (|v| v["roles"][0]["roles"] = json!(["acme/ops"]), "inherits itself"),
            (|v| v["roles"][0]["actions"] = json!(["all"]), "all"),
            (|v| v["roles"][1]["role"] = json!("base"), "twice"),
            (|v| v["users"] = json!([{ "user": "other/alice" }]), "other/alice"),
            (
                |v| {
                    v["roles"][0]["authenticationRestrictions"] =
                        json!([{ "clientSource": ["nope"] }]);
                },
                "nope",
            ),
            (|v| v["secret"] = json!("x"), "secret"),
        ];
        for (change, word) in cases {
            let error = with(change).unwrap_err();
            assert_eq!(error.kind(), Kind::FederationInvalid);
            assert!(error.detail().contains(word), "{word}: {error}");
        }
        for issuer in ["http://127.0.0.1:9", "http://[::1]:9/x", "http://localhost:9"] {
            with(|v| v["issuer"] = json!(issuer)).unwrap();
        }
    }
}
