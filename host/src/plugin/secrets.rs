//! Secrets: the host puts them into a request or signs with them, the guest knows their names.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::{
    bindings::v0_1::identity::syncline::host::{
        http,
        secrets::{self, Place, Placement},
        types::HostError,
    },
    context::{Guest, quoted},
    egress::Outgoing,
};
use crate::{error::Kind, model::plugin::SecretSource};

/// Longest secret, in bytes; a private key in PEM has a few thousand.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// Shortest secret that is looked for in answers: a shorter one is found by accident.
const MIN_RECOGNISED_BYTES: usize = 6;
/// What stays as it is in a form.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl secrets::Host for Guest {
    async fn send_with(
        &mut self,
        request: http::Request,
        placements: Vec<Placement>,
    ) -> Result<http::Response, HostError> {
        // A secret goes where the operator said, never to an issuer that a server names.
        let mut outgoing = Outgoing { also: None, ..self.outgoing(request)? };
        let given = outgoing.headers.iter().map(|(name, _)| name);
        let placed = placements.iter().filter_map(|placement| match &placement.place {
            Place::Header((name, _)) => Some(name),
            Place::Basic(_) | Place::Form(_) => None,
        });
        if let Some(name) = given.chain(placed).find(|name| changes_answer(name)) {
            return Err(HostError::Invalid(format!(
                "the header `{}` cannot go with a secret",
                quoted(name)
            )));
        }
        let mut spellings = Vec::new();
        for Placement { secret, place } in placements {
            let value = self.secret(&secret).await?;
            let plain = value.expose_secret();
            spellings.push(Zeroizing::new(plain.as_bytes().to_vec()));
            match place {
                Place::Header((name, before)) => {
                    let value = SecretString::from(format!("{before}{plain}"));
                    outgoing.secret_headers.push((name, value));
                }
                Place::Basic(user) => {
                    let pair = Zeroizing::new(format!("{}:{}", &*form(&user), &*form(plain)));
                    let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
                    spellings.push(Zeroizing::new(encoded.as_bytes().to_vec()));
                    let value = SecretString::from(format!("Basic {}", &*encoded));
                    outgoing.secret_headers.push(("authorization".to_owned(), value));
                }
                Place::Form(field) => {
                    let encoded = form(plain);
                    spellings.push(Zeroizing::new(encoded.as_bytes().to_vec()));
                    if !outgoing.body.is_empty() {
                        outgoing.body.push(b'&');
                    }
                    outgoing.body.extend_from_slice(form(&field).as_bytes());
                    outgoing.body.push(b'=');
                    outgoing.body.extend_from_slice(encoded.as_bytes());
                }
            }
        }
        let response = self.go_out(outgoing).await?;
        if spellings.iter().any(|spelling| repeats(&response, spelling)) {
            return Err(self.deny(Kind::PluginEgressDenied, "the answer repeats a secret"));
        }
        Ok(response)
    }

    async fn sign_jwt(
        &mut self,
        key: String,
        header: String,
        claims: String,
    ) -> Result<String, HostError> {
        let header: Header = serde_json::from_str(&header)
            .map_err(|error| HostError::Invalid(format!("the header: {error}")))?;
        let claims: Map<String, Value> = serde_json::from_str(&claims)
            .map_err(|error| HostError::Invalid(format!("the claims: {error}")))?;
        let pem = self.secret(&key).await?;
        let pem = pem.expose_secret().as_bytes();
        let parsed = match header.alg {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem),
            other => {
                return Err(HostError::Invalid(format!("the header: {other:?} is not offered")));
            }
        };
        // The reason might quote the key.
        let unusable =
            || HostError::Invalid(format!("`{key}` is no private key for {:?}", header.alg));
        let parsed = parsed.map_err(|_| unusable())?;
        jsonwebtoken::encode(&header, &claims, &parsed).map_err(|_| unusable())
    }
}

impl Guest {
    /// The value of a granted secret, as it is now.
    async fn secret(&mut self, name: &str) -> Result<SecretString, HostError> {
        let Some(source) = self.shared.access.secrets.get(name).cloned() else {
            let text = format!("it asked for the secret `{name}`; grant it under `grants.secrets`");
            return Err(self.deny(Kind::PluginImportDenied, &text));
        };
        let missing =
            |why: &str| HostError::NotFound(format!("the secret `{name}`: {source} {why}"));
        let value = match &source {
            SecretSource::Env(variable) => {
                Zeroizing::new(std::env::var(variable).map_err(|_| missing("is not set"))?)
            }
            SecretSource::File(path) => {
                let unreadable =
                    |error: std::io::Error| missing(&format!("cannot be read: {error}"));
                let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
                let mut text = Zeroizing::new(String::new());
                file.take(MAX_SECRET_BYTES).read_to_string(&mut text).await.map_err(unreadable)?;
                text
            }
        };
        match value.trim_end_matches(['\r', '\n']) {
            "" => Err(missing("is empty")),
            value => Ok(SecretString::from(value)),
        }
    }
}

/// Whether a header asks for an answer in pieces or packed, in which a secret would not be found.
fn changes_answer(name: &str) -> bool {
    ["range", "if-range", "accept-encoding"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Text as forms spell it.
fn form(text: &str) -> Zeroizing<String> {
    Zeroizing::new(utf8_percent_encode(text, FORM).to_string())
}

/// Whether an answer holds a secret.
fn repeats(response: &http::Response, secret: &[u8]) -> bool {
    let within = |text: &[u8]| text.windows(secret.len()).any(|window| window == secret);
    secret.len() >= MIN_RECOGNISED_BYTES
        && (within(&response.body)
            || response.headers.iter().any(|(_, value)| within(value.as_bytes())))
}
