//! The address that a provider sends the browser back to.

use std::{fmt, net::SocketAddr, str::FromStr};

use url::{Host, Url};

use crate::model::token::PersonError;

/// Where MongoDB's tools listen, and what is registered with providers.
const USUAL: &str = "http://localhost:27097/redirect";

/// An address on loopback: `http://`, a name or address of this machine, a port (0 for any) and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Host as written.
    host: String,
    /// Port.
    port: u16,
    /// Path, without a slash at its end.
    path: String,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { host: "localhost".to_owned(), port: 27097, path: "/redirect".to_owned() }
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at(self.port))
    }
}

impl FromStr for Redirect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |what: &str| format!("the redirect URI {what}, as in {USUAL}");
        let url = Url::parse(text).map_err(|_| wrong("has to be a URL"))?;
        if url.scheme() != "http" {
            return Err(wrong("begins with http://"));
        }
        if !url.username().is_empty() || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has a host, a port and a path, and no more"));
        }
        let is_local = match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            // What the name means is looked at when it is bound.
            Some(Host::Domain(_)) => true,
            None => false,
        };
        if !is_local {
            return Err(wrong("is on this machine"));
        }
        Ok(Self {
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port().unwrap_or(80),
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Redirect {
    /// The port to bind; 0 for any.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The path.
    pub(super) fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// The whole address with the port that was bound.
    pub(super) fn at(&self, port: u16) -> String {
        format!("http://{}:{port}{}", self.host, self.path())
    }

    /// Every address of this machine that the host means.
    ///
    /// # Errors
    /// `Unreached` when one of them is not loopback, or there is none.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, PersonError> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((bare, self.port)).await;
        let found = found.map_err(|_| {
            PersonError::Unreached(format!("{} is no name of this machine", self.host))
        })?;
        let mut all: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !address.ip().is_loopback() {
                let text = format!("{} is not only this machine", self.host);
                return Err(PersonError::Unreached(text));
            }
            if !all.contains(&address) {
                all.push(address);
            }
        }
        Ok(all)
    }
}
