//! An issuer's published keys: which of them may verify what.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::json;

/// Most keys of one set.
const MAX_KEYS: usize = 100;
/// Longest key id, in bytes.
const MAX_KID_BYTES: usize = 256;
/// Shortest and longest modulus of an RSA key, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The usable keys of an issuer by their ids.
#[derive(Default)]
pub(super) struct KeySet {
    /// By `kid`.
    keys: BTreeMap<String, Key>,
}

/// One key.
struct Key {
    /// The key.
    key: DecodingKey,
    /// What it may verify.
    algorithms: Vec<(&'static str, Algorithm)>,
}

impl KeySet {
    /// Reads a JWKS. Keys that can verify nothing are left out; of two with one id, both.
    ///
    /// # Errors
    /// What is wrong with the whole.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let body = json::parse(bytes)?;
        let Some(Value::Array(items)) = body.get("keys") else { return Err("there are no keys") };
        if items.len() > MAX_KEYS {
            return Err("there are more than 100 keys");
        }
        let mut keys = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for item in items {
            let Value::Object(jwk) = item else { return Err("a key is no object") };
            let Some(kid) = jwk.get("kid").and_then(Value::as_str) else { continue };
            if kid.is_empty() || kid.len() > MAX_KID_BYTES {
                continue;
            }
            if !seen.insert(kid.to_owned()) {
                keys.remove(kid);
                continue;
            }
            if let Some(key) = read(jwk) {
                keys.insert(kid.to_owned(), key);
            }
        }
        Ok(Self { keys })
    }

    /// Whether there is a key of this id.
    pub(super) fn has(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Verifies a signature.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn verify(
        &self,
        kid: &str,
        algorithm: &str,
        message: &str,
        signature: &str,
    ) -> Result<(), &'static str> {
        let key = self.keys.get(kid).ok_or("the key is unknown")?;
        let (_, algorithm) = key
            .algorithms
            .iter()
            .find(|(name, _)| *name == algorithm)
            .ok_or("the key is of another kind than the algorithm")?;
        match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, *algorithm) {
            Ok(true) => Ok(()),
            _ => Err("the signature is wrong"),
        }
    }
}

/// Reads a key; `None` when it can verify nothing here.
fn read(jwk: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if jwk.contains_key("use") && text("use") != Some("sig") {
        return None;
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|item| item == "verify") => {}
        Some(_) => return None,
    }
    let (key, mut algorithms) = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let (modulus, exponent) = (text("n")?, text("e")?);
            if !is_sound_rsa(modulus, exponent) {
                return None;
            }
            let algorithms = vec![
                ("RS256", Algorithm::RS256),
                ("RS384", Algorithm::RS384),
                ("RS512", Algorithm::RS512),
                ("PS256", Algorithm::PS256),
                ("PS384", Algorithm::PS384),
                ("PS512", Algorithm::PS512),
            ];
            (DecodingKey::from_rsa_components(modulus, exponent).ok()?, algorithms)
        }
        ("EC", Some(curve)) => {
            let algorithm = match curve {
                "P-256" => ("ES256", Algorithm::ES256),
                "P-384" => ("ES384", Algorithm::ES384),
                _ => return None,
            };
            (DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?, vec![algorithm])
        }
        ("OKP", Some("Ed25519")) => {
            let key = DecodingKey::from_ed_components(text("x")?).ok()?;
            (key, vec![("EdDSA", Algorithm::EdDSA)])
        }
        // A shared secret has no place in a published set.
        _ => return None,
    };
    if jwk.contains_key("alg") {
        let own = text("alg")?;
        algorithms.retain(|(name, _)| *name == own);
    }
    (!algorithms.is_empty()).then_some(Key { key, algorithms })
}

/// Whether an RSA key is neither too weak nor too slow.
fn is_sound_rsa(modulus: &str, exponent: &str) -> bool {
    let decode = |text: &str| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let start = bytes.iter().position(|byte| *byte != 0)?;
        bytes.get(start..).map(<[u8]>::to_vec)
    };
    let (Some(modulus), Some(exponent)) = (decode(modulus), decode(exponent)) else { return false };
    let first = modulus.first().map_or(8, |byte| byte.leading_zeros() as usize);
    let bits = modulus.len() * 8 - first;
    let is_odd = exponent.last().is_some_and(|byte| byte & 1 == 1);
    RSA_BITS.contains(&bits) && is_odd && exponent.as_slice() != [1] && exponent.len() <= 4
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn modulus(bytes: usize) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(vec![0xC1; bytes])
    }

    /// How many keys are left of a set of one.
    fn kept(change: impl FnOnce(&mut Value)) -> usize {
        let mut jwk =
            json!({ "kty": "RSA", "kid": "k", "use": "sig", "n": modulus(256), "e": "AQAB" });
        change(&mut jwk);
        KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap().len()
    }

    #[test]
    fn only_keys_that_may_verify_are_kept() {
        type Change = fn(&mut Value);
        let cases: [(Change, usize); 22] = [
            (|_| (), 1),
            (|k| k["key_ops"] = json!(["verify"]), 1),
            (|k| k["alg"] = json!("PS512"), 1),
            (|k| k["alg"] = json!("RSA-OAEP"), 0),
            (|k| k["alg"] = json!(7), 0),
            (|k| k["alg"] = json!("ES256"), 0),
            (|k| k["use"] = json!("enc"), 0),
            (|k| k["use"] = json!(1), 0),
            (|k| k["key_ops"] = json!(["sign"]), 0),
            (|k| k["key_ops"] = json!("verify"), 0),
            (|k| k["kid"] = json!(""), 0),
            (|k| k["kid"] = json!("x".repeat(257)), 0),
            (|k| k["n"] = json!(modulus(128)), 0),
            (|k| k["n"] = json!(modulus(255)), 0),
            (|k| k["n"] = json!(modulus(1025)), 0),
            (|k| k["e"] = json!("AQ"), 0),
            (|k| k["e"] = json!("AQAA"), 0),
            (|k| k["e"] = json!("AQAAAAAAAAE"), 0),
            (|k| k["kty"] = json!("oct"), 0),
            (|k| *k = json!({ "kty": "oct", "kid": "k", "k": "c2VjcmV0" }), 0),
            (|k| *k = json!({ "kty": "EC", "crv": "P-521", "kid": "k", "x": "AA", "y": "AA" }), 0),
            (|k| *k = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": "AA", "y": "AA" }), 1),
        ];
        for (index, (change, expected)) in cases.into_iter().enumerate() {
            assert_eq!(kept(change), expected, "case {index}");
        }
    }

    #[test]
    fn a_short_key_verifies_nothing_though_its_signature_is_good() {
        // Of a key of 1024 bits that signed `a.b` with RS256 and is gone.
        const MODULUS: &str = "zzdHYjVTQGqac2f0PiZN8HKFfaW-dXw20Sa7xpRXQifcptZ-_QDV3OERzp3kWqkyiB4vpJUBL45\
            EL_fBMkDMOa9SapDC_wSkLZmiqgxSxSFqmEsixXMqZ5kv5S48Yt20G9qz1WEDLqG1bsY92xgDIBrqVyLwbKpjEf830SWjafc";
        const SIGNATURE: &str = "SK2J90wjhqu8HX44pfo-ev3iJH8aXBr7DkNZ2Oz98V_cvPQBO6VMLUjIdwwjRP9r5au7g8dHi\
            kmXq7v-bZbU6LukObAcHO77aOfm9qxR2e1Dqx7e4KIXnRYpIjjRgdaLXoSHUO7bWNGpfBFyCrT2rJXmPQ41MelTSGiULIeekjk";
        let set = json!({ "keys": [{ "kty": "RSA", "kid": "k", "n": MODULUS, "e": "AQAB" }] });
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(set.verify("k", "RS256", "a.b", SIGNATURE), Err("the key is unknown"));
    }

    #[test]
    fn a_key_verifies_what_it_is_made_for() {
        let rsa = json!({ "kty": "RSA", "kid": "rsa", "n": modulus(256), "e": "AQAB" });
        let own =
            json!({ "kty": "RSA", "kid": "own", "alg": "RS512", "n": modulus(256), "e": "AQAB" });
        let curve = json!({ "kty": "EC", "crv": "P-256", "kid": "ec", "x": "AA", "y": "AA" });
        let set = json!({ "keys": [rsa, own, curve] }).to_string();
        let set = KeySet::parse(set.as_bytes()).unwrap();
        for (kid, algorithm, is_fit) in [
            ("rsa", "RS256", true),
            ("rsa", "PS512", true),
            ("rsa", "ES256", false),
            ("rsa", "HS256", false),
            ("rsa", "none", false),
            ("own", "RS512", true),
            ("own", "RS256", false),
            ("ec", "ES256", true),
            ("ec", "ES384", false),
            ("ec", "RS256", false),
        ] {
            let expected = match is_fit {
                true => "the signature is wrong",
                false => "the key is of another kind than the algorithm",
            };
            assert_eq!(
                set.verify(kid, algorithm, "a.b", "c2ln"),
                Err(expected),
                "{kid} {algorithm}"
            );
        }
    }

    #[test]
    fn two_keys_of_one_id_are_none() {
        let key = |kid: &str| json!({ "kty": "RSA", "kid": kid, "n": modulus(256), "e": "AQAB" });
        let set = json!({ "keys": [key("a"), key("b"), key("a"), key("a")] }).to_string();
        let set = KeySet::parse(set.as_bytes()).unwrap();
        assert!(set.has("b") && !set.has("a"));
        let many: Vec<Value> = (0..101).map(|n| key(&n.to_string())).collect();
        for bad in
            [json!({ "keys": many }), json!({ "keys": {} }), json!({}), json!({ "keys": [1] })]
        {
            assert!(KeySet::parse(bad.to_string().as_bytes()).is_err());
        }
        assert!(KeySet::parse(br#"{"keys":[],"keys":[]}"#).is_err());
    }
}
