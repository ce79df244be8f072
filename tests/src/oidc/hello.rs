//! What the gateway changes in a greeting and in its replies, so that clients talk to the gateway
//! and to nobody else.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use bson::{Bson, Document};

/// Names of the greeting.
const NAMES: [&str; 3] = ["hello", "isMaster", "ismaster"];
/// Fields of a reply that hold lists of addresses.
const LISTS: [&str; 3] = ["hosts", "passives", "arbiters"];
/// Fields of a reply that hold one address.
const SINGLES: [&str; 2] = ["me", "primary"];

/// Addresses of the members and, for each, the gateway's address that stands in for it.
pub(super) type AddressMap = BTreeMap<String, String>;

/// Whether a command is a greeting.
pub(super) fn is_hello(command: &str) -> bool {
    NAMES.contains(&command)
}

/// Replaces every address in the reply to a greeting.
///
/// # Errors
/// When it announces a member that the gateway does not stand in for: the client would go round it.
pub(super) fn rewrite(reply: &mut Document, map: &AddressMap) -> Result<()> {
    let translate = |address: &str| {
        map.get(address)
            .cloned()
            .ok_or_else(|| anyhow!("the set announces {address}, for which there is no gateway"))
    };
    for name in LISTS {
        let Some(Bson::Array(list)) = reply.get_mut(name) else { continue };
        for entry in list.iter_mut() {
            if let Bson::String(address) = entry {
                *address = translate(address)?;
            }
        }
    }
    for name in SINGLES {
        if let Some(Bson::String(address)) = reply.get_mut(name) {
            *address = translate(address)?;
        }
    }
    Ok(())
}

/// Adds the mechanism to those that a user can log in with.
pub(super) fn add_mechanism(reply: &mut Document) {
    let mut mechanisms = reply.get_array("saslSupportedMechs").cloned().unwrap_or_default();
    mechanisms.push("MONGODB-OIDC".into());
    reply.insert("saslSupportedMechs", mechanisms);
}

/// Takes compression out of a greeting, so that every message stays readable, and a speculative
/// authentication with `MONGODB-OIDC`, which the server behind does not know; returns the latter.
pub(super) fn prepare(greeting: &mut Document) -> Option<Document> {
    greeting.remove("compression");
    let is_ours = greeting
        .get_document("speculativeAuthenticate")
        .is_ok_and(|start| start.get_str("mechanism").ok() == Some("MONGODB-OIDC"));
    match is_ours.then(|| greeting.remove("speculativeAuthenticate")).flatten() {
        Some(Bson::Document(start)) => Some(start),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn every_address_is_replaced_and_an_unknown_one_is_an_error() {
        let map = AddressMap::from([
            ("a:1".to_owned(), "g:11".to_owned()),
            ("b:2".to_owned(), "g:12".to_owned()),
        ]);
        let mut reply = doc! {
            "hosts": ["a:1"], "passives": ["b:2"], "arbiters": ["b:2"], "me": "b:2",
            "primary": "a:1", "setName": "a:1", "ok": 1.0,
        };
        rewrite(&mut reply, &map).unwrap();
        assert_eq!(
            reply,
            doc! {
                "hosts": ["g:11"], "passives": ["g:12"], "arbiters": ["g:12"], "me": "g:12",
                "primary": "g:11", "setName": "a:1", "ok": 1.0,
            }
        );
        assert!(rewrite(&mut doc! { "hosts": ["c:3"] }, &map).is_err());
    }

    #[test]
    fn only_our_speculation_is_taken_out() {
        let start = doc! { "saslStart": 1, "mechanism": "MONGODB-OIDC" };
        let mut greeting =
            doc! { "hello": 1, "compression": ["zstd"], "speculativeAuthenticate": start.clone() };
        assert_eq!(prepare(&mut greeting), Some(start));
        assert_eq!(greeting, doc! { "hello": 1 });
        let scram =
            doc! { "hello": 1, "speculativeAuthenticate": { "mechanism": "SCRAM-SHA-256" } };
        let mut greeting = scram.clone();
        assert_eq!(prepare(&mut greeting), None);
        assert_eq!(greeting, scram);
    }
}
