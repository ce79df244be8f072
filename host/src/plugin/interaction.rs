//! The person as guests see one. Every call checks the grant again.

use tokio::time::Duration;

use super::{
    bindings::v0_1::identity::syncline::host::{
        interaction::{self, DeviceCode},
        types::HostError,
    },
    context::{Guest, quoted},
};
use crate::{
    error::Kind,
    model::token::{self, PersonError},
    ports::Person,
};

/// Most random bytes in one answer.
const MAX_RANDOM: u32 = 1024;
/// Longest URL that a browser is sent to, in bytes.
const MAX_URL_BYTES: usize = 16 * 1024;

impl interaction::Host for Guest {
    fn random(&mut self, count: u32) -> Result<Vec<u8>, HostError> {
        self.granted()?;
        if count == 0 || count > MAX_RANDOM {
            return Err(HostError::Invalid(format!("random: 1 to {MAX_RANDOM} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(0)];
        rustls::crypto::aws_lc_rs::default_provider()
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| HostError::Unavailable("there is no randomness".to_owned()))?;
        Ok(bytes)
    }

    async fn listen(&mut self) -> Result<String, HostError> {
        let person = self.person()?;
        // One at a time: the former one stops before the next begins.
        self.call.way_back = None;
        let way_back = person.listen().await.map_err(refused)?;
        let address = way_back.address().to_owned();
        self.call.way_back = Some(way_back);
        Ok(address)
    }

    async fn browse(
        &mut self,
        url: String,
        state: String,
    ) -> Result<Vec<(String, String)>, HostError> {
        self.granted()?;
        if url.len() > MAX_URL_BYTES {
            return Err(HostError::Invalid(format!("the URL has more than {MAX_URL_BYTES} bytes")));
        }
        let Some(way_back) = self.call.way_back.take() else {
            return Err(HostError::Invalid("browse comes after listen".to_owned()));
        };
        way_back.browse(&url, &state).await.map_err(refused)
    }

    fn show_code(&mut self, code: DeviceCode) -> Result<(), HostError> {
        let person = self.person()?;
        let code = token::DeviceCode {
            user_code: quoted(&code.user_code),
            verification_uri: quoted(&code.verification_uri),
            verification_uri_complete: code.verification_uri_complete.as_deref().map(quoted),
            expires_in: Duration::from_millis(code.expires_in_ms),
        };
        self.call.shown = Some(person.show(&code).map_err(refused)?);
        Ok(())
    }
}

/// What a person's error is to a guest.
fn refused(error: PersonError) -> HostError {
    match error {
        PersonError::Unreached(text) => HostError::Unavailable(text),
        PersonError::Invalid(text) => HostError::Invalid(text),
    }
}

impl Guest {
    /// Refuses a plugin without the grant.
    fn granted(&mut self) -> Result<(), HostError> {
        if self.shared.access.interaction {
            return Ok(());
        }
        let text = "it asked for a person; grant it under `grants` as `interaction: true`";
        Err(self.deny(Kind::PluginImportDenied, text))
    }

    /// The person of this call.
    fn person(&mut self) -> Result<std::sync::Arc<dyn Person>, HostError> {
        self.granted()?;
        self.call.person.clone().ok_or_else(|| {
            HostError::Unavailable("there is nobody to log in: no terminal, no browser".to_owned())
        })
    }
}
