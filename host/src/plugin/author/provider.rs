//! The part of the conformance suite that is about identity providers. No request leaves the host:
//! what a provider does without a network shows whether it can say what is wrong.

use std::{sync::Arc, time::Duration};

use serde_json::{Value as Json, json};

use super::{
    conformance::{Checks, coded, manifest},
    subject::Candidate,
};
use crate::{
    error::Kind,
    model::token::{Credential, Flow, IdpInfo, Reason, TokenError, TokenRequest},
    plugin::{
        bindings::v0_1::identity::exports::syncline::plugin::identity::{self as wit, Descriptor},
        egress::Origin,
        identity::Issuer,
    },
};

/// Time that a call is told it has.
const TIME: Duration = Duration::from_secs(10);

/// Checks an identity provider.
pub(super) async fn check(candidate: &Candidate, checks: &mut Checks) {
    let loading = "it can be loaded with what it asks for, and accepts its configuration";
    let issuer =
        match Issuer::new(candidate.loaded.with_config(&candidate.config), Arc::default()).await {
            Ok(issuer) => issuer,
            Err(error) => return checks.failed(loading, coded(&error)),
        };
    checks.is_ok(loading, Ok(()));
    manifest(candidate, checks);
    let describing = "it describes itself, always in the same way";
    let described = match (issuer.describe().await, issuer.describe().await) {
        (Ok(first), Ok(second)) if text(&first) == text(&second) => first,
        (Ok(first), Ok(second)) => {
            return checks.failed(describing, format!("first {first:?}, then {second:?}"));
        }
        (Err(error), _) | (_, Err(error)) => return checks.failed(describing, coded(&error)),
    };
    checks.is_ok(describing, Ok(()));
    checks.is_ok("its name and version are those of its manifest", named(candidate, &described));
    checks.is_ok("it says whom it serves", served(&described));
    checks.is_ok("it goes where its manifest says", origins(candidate, &described));
    for flow in [Flow::Machine, Flow::Human] {
        let (serves, who) = match flow {
            Flow::Machine => (described.flows.contains(&wit::Flow::Machine), "a workload"),
            Flow::Human => (described.flows.contains(&wit::Flow::Human), "a person"),
        };
        let name = if serves {
            format!("without a network it tells {who} what is wrong")
        } else {
            format!("it tells {who} that it serves others")
        };
        let answer = issuer.get_token_offline(request(flow, TIME)).await;
        checks.is_ok(name, in_words(answer, serves));
        let hurried = issuer.get_token_offline(request(flow, Duration::ZERO)).await;
        checks.is_ok(format!("with no time left it tells {who} so"), in_words(hurried, serves));
    }
    checks.is_ok("a configuration is refused in words, not by a crash", odd(candidate).await);
}

/// A descriptor fit to be compared.
fn text(descriptor: &Descriptor) -> String {
    format!("{descriptor:?}")
}

/// A request of some caller.
fn request(flow: Flow, timeout: Duration) -> TokenRequest {
    let idp = IdpInfo {
        issuer: "https://issuer.example".to_owned(),
        client_id: Some("client".to_owned()),
        request_scopes: vec!["openid".to_owned()],
    };
    TokenRequest {
        flow,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: Some("api://audience".to_owned()),
        principal: Some("principal".to_owned()),
        hosts: vec!["db.example:27017".to_owned()],
        idp: (flow == Flow::Human).then_some(idp),
        refresh_token: None,
        timeout,
        attempt: 0,
        extra: vec![("a-later-addition".to_owned(), "something".to_owned())],
    }
}

/// Whether it is who its manifest says.
fn named(candidate: &Candidate, described: &Descriptor) -> Result<(), String> {
    let Some(manifest) = &candidate.manifest else {
        return Err(
            "a provider needs a plugin.toml: without one nobody can tell what to grant".into()
        );
    };
    let (name, version) = (&manifest.name, manifest.version.to_string());
    if (&described.name, &described.version) == (name, &version) {
        return Ok(());
    }
    Err(format!(
        "it says {} {}, its manifest says {name} {version}",
        described.name, described.version
    ))
}

/// Whether it serves anybody.
fn served(described: &Descriptor) -> Result<(), String> {
    if described.flows.is_empty() { Err("`flows` is empty".to_owned()) } else { Ok(()) }
}

/// Whether the origins it needs are among those its manifest asks for.
fn origins(candidate: &Candidate, described: &Descriptor) -> Result<(), String> {
    let granted = &candidate.loaded.shared.access.origins;
    for text in &described.origins {
        let origin = Origin::parse_url(text).map_err(|error| error.to_string())?;
        if !granted.contains(&origin) {
            return Err(format!("it needs {text}, which its manifest does not ask for"));
        }
    }
    Ok(())
}

/// Whether an answer is a token, or a failure in words.
fn in_words(answer: Result<Credential, TokenError>, serves: bool) -> Result<(), String> {
    match answer {
        Ok(_) if !serves => Err("it hands out a token all the same".to_owned()),
        Err(TokenError::Plugin(error)) => Err(coded(&error)),
        _ => Ok(()),
    }
}

/// Whether configurations that make no sense are refused in words.
async fn odd(candidate: &Candidate) -> Result<(), String> {
    let mut unknown = candidate.config.clone();
    if let Json::Object(fields) = &mut unknown {
        fields.insert("a key that nothing knows".to_owned(), json!([1, null, {"a": true}]));
    }
    for config in [unknown, json!({"": {"": [[]]}})] {
        match Issuer::new(candidate.loaded.with_config(&config), Arc::default()).await {
            Err(error) if error.kind() != Kind::PluginConfigInvalid => {
                return Err(format!("configured with {config}: {}", coded(&error)));
            }
            _ => {}
        }
    }
    Ok(())
}
