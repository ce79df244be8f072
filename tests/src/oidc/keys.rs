//! RSA keys that exist for one test run, and tokens signed with them. The header and the claims are
//! what the caller says, so that broken tokens can be made too.

use anyhow::{Result, anyhow, ensure};
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A private key with the id under which its public half is published.
pub struct SigningKey {
    /// `kid`.
    id: String,
    /// The key.
    pair: KeyPair,
}

impl SigningKey {
    /// Generates a 2048-bit key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate(id: impl Into<String>) -> Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|e| anyhow!("RSA key: {e}"))?;
        Ok(Self { id: id.into(), pair })
    }

    /// The `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half, as a member of a JWKS.
    pub fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id,
            "n": encode(public.modulus().big_endian_without_leading_zero()),
            "e": encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// Signs claims under the usual header.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        self.sign_with(&json!({"alg": "RS256", "typ": "JWT", "kid": self.id}), claims)
    }

    /// Signs claims (RS256) under a header of the caller's.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> Result<String> {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// Signs any text as header and as claims.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign_text(&self, header: &str, claims: &str) -> Result<String> {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", encode(header), encode(claims));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .map_err(|e| anyhow!("sign: {e}"))?;
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The token with its claims changed and its signature as it was.
///
/// # Errors
/// When it is no JWT.
pub fn tamper(token: &str, change: impl FnOnce(&mut Value)) -> Result<String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err(anyhow!("not a JWT"));
    };
    let mut claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload)?)?;
    let before = claims.clone();
    change(&mut claims);
    ensure!(claims != before, "nothing was changed");
    Ok(format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string())))
}
