//! What the host reads of a token: that it has the shape of a JWT, and when it ends.
//!
//! The server verifies tokens; nothing here is trusted for more than a cache's life time.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::model::token::Credential;

/// Longest token taken from a provider, in bytes; Entra's with many groups reach 7 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Life assumed of a token that says nothing about it, when the provider says nothing either.
const UNKNOWN_LIFE: Duration = Duration::from_secs(5 * 60);
/// Longest life believed; keeps arithmetic on instants far from overflow.
const MAX_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// A token with more life than twice this is renewed this long before its end.
const RENEW_BEFORE_END: Duration = Duration::from_secs(5 * 60);
/// A token handed out less than this ago is not asked for again, whoever wants one: connections whose token
/// expires together ask one after the other, each after the server's word that the old one is over.
const SETTLE: Duration = Duration::from_secs(5);

/// A token that can be handed out, with its times. Debug shows no secret.
#[derive(Clone)]
pub struct Token {
    /// The JWT.
    secret: SecretString,
    /// Counts the tokens of a service; a rejection names the one it is about.
    generation: u64,
    /// When the provider yielded it.
    issued_at: Instant,
    /// When it ends.
    expires_at: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("generation", &self.generation)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Takes a provider's answer. `wall` is the time of day, to read the token's own `exp`.
    ///
    /// # Errors
    /// What is wrong with the answer, in words, without any of it.
    pub(super) fn accept(
        credential: &Credential,
        generation: u64,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Self, String> {
        let text = credential.access_token.expose_secret().trim_ascii();
        if text.is_empty() {
            return Err("the answer holds no token".to_owned());
        }
        if text.len() > MAX_TOKEN_BYTES {
            return Err(format!("the token is longer than {MAX_TOKEN_BYTES} bytes"));
        }
        let segments: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = segments.as_slice() else {
            return Err("the token is not a JWT (three parts with dots between)".to_owned());
        };
        if [header, payload, signature].iter().any(|part| !is_base64url(part)) {
            return Err("the token is not a JWT (a part is empty or not base64url)".to_owned());
        }
        let life = match (own_life(payload, wall)?, credential.expires_in) {
            (Some(own), Some(said)) => own.min(said),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => UNKNOWN_LIFE,
        };
        if life.is_zero() {
            return Err("the token has already expired; check this machine's clock".to_owned());
        }
        Ok(Self {
            secret: SecretString::from(text.to_owned()),
            generation,
            issued_at: now,
            expires_at: now + life.min(MAX_LIFE),
        })
    }

    /// The JWT.
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// Which of its service's tokens this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When the provider yielded it.
    pub(super) fn issued_at(&self) -> Instant {
        self.issued_at
    }

    /// Whether the server would still take it, by its own account.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        now < self.expires_at
    }

    /// Life left.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
        self.expires_at.saturating_duration_since(now)
    }

    /// How long it is handed out again, whoever wants one.
    pub(super) fn settling_time(&self) -> Duration {
        SETTLE.min(self.life() / 2)
    }

    /// Whether its end is near.
    pub(super) fn is_ending(&self, now: Instant) -> bool {
        now >= self.renew_at()
    }

    /// When its end is near: five minutes before it, or at half of a short life.
    pub(super) fn renew_at(&self) -> Instant {
        let early = RENEW_BEFORE_END.min(self.life() / 2);
        self.expires_at.checked_sub(early).unwrap_or(self.expires_at)
    }

    /// Its whole life.
    fn life(&self) -> Duration {
        self.expires_at.saturating_duration_since(self.issued_at)
    }
}

/// How long the token of a provider's answer lives.
///
/// # Errors
/// What is wrong with the answer, in words, without any of it.
pub fn life_of(credential: &Credential) -> Result<Duration, String> {
    let now = Instant::now();
    Token::accept(credential, 0, now, SystemTime::now()).map(|token| token.remaining(now))
}

/// Whether the text is one or more characters of the base64url alphabet.
fn is_base64url(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Life left by the token's own `exp`; `None` when it has none or cannot be read.
fn own_life(payload: &str, wall: SystemTime) -> Result<Option<Duration>, String> {
    let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(payload) else { return Ok(None) };
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(None) };
    let Some(exp) = claims.get("exp") else { return Ok(None) };
    let Some(exp) = exp.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0) else {
        return Err("the token's exp is not a time".to_owned());
    };
    let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let left = (exp - now).clamp(0.0, MAX_LIFE.as_secs_f64());
    Ok(Some(Duration::from_secs_f64(left)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A credential around a payload; the signature is for show.
    fn credential(payload: &str, expires_in: Option<u64>) -> Credential {
        let text = format!(" {}.{}.c2ln\n", "e30", BASE64_URL_SAFE_NO_PAD.encode(payload));
        Credential {
            access_token: SecretString::from(text),
            expires_in: expires_in.map(Duration::from_secs),
            refresh_token: None,
            audit: Vec::new(),
        }
    }

    fn wall() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn life(payload: &str, expires_in: Option<u64>) -> Result<u64, String> {
        let now = Instant::now();
        Token::accept(&credential(payload, expires_in), 1, now, wall())
            .map(|token| token.remaining(now).as_secs())
    }

    #[test]
    fn the_shorter_of_exp_and_the_providers_word_counts() {
        assert_eq!(life(r#"{"exp":1000100}"#, None), Ok(100));
        assert_eq!(life(r#"{"exp":1000100}"#, Some(50)), Ok(50));
        assert_eq!(life(r#"{"exp":1000100.5}"#, Some(500)), Ok(100));
        assert_eq!(life("{}", Some(50)), Ok(50));
        assert_eq!(life("not json", None), Ok(300));
        assert_eq!(life(r#"{"exp":1e300}"#, None), Ok(MAX_LIFE.as_secs()));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        assert!(life(r#"{"exp":999999}"#, Some(50)).unwrap_err().contains("expired"));
        assert!(life(r#"{"exp":"soon"}"#, None).unwrap_err().contains("not a time"));
        for text in ["", " \n", "a.b", "a.b.c.d", "a..c", "a.b.c=", "<html>oops</html>"] {
            let credential = Credential {
                access_token: SecretString::from(text.to_owned()),
                expires_in: None,
                refresh_token: None,
                audit: Vec::new(),
            };
            let error = Token::accept(&credential, 1, Instant::now(), wall()).unwrap_err();
            assert!(error.contains("token") && !error.contains("oops"), "{text}: {error}");
        }
        let long = credential(&"x".repeat(MAX_TOKEN_BYTES), None);
        assert!(Token::accept(&long, 1, Instant::now(), wall()).unwrap_err().contains("longer"));
    }

    #[test]
    fn renewal_is_five_minutes_before_the_end_or_at_half_a_short_life() {
        let now = Instant::now();
        let token = |seconds| Token::accept(&credential("{}", Some(seconds)), 1, now, wall());
        let hour = token(3600).unwrap();
        assert!(!hour.is_ending(now + Duration::from_secs(3299)));
        assert!(hour.is_ending(now + Duration::from_secs(3300)));
        let short = token(4).unwrap();
        assert!(!short.is_ending(now + Duration::from_millis(1999)));
        assert!(short.is_ending(now + Duration::from_millis(2000)));
        assert!(short.is_alive(now + Duration::from_millis(3999)));
        assert!(!short.is_alive(now + Duration::from_secs(4)));
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = Token::accept(&credential("{}", None), 1, Instant::now(), wall()).unwrap();
        let shown = format!("{token:?}");
        assert!(!shown.contains(token.secret().expose_secret()), "{shown}");
        assert!(!shown.contains("c2ln"), "{shown}");
    }
}
