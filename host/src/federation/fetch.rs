//! Loading an issuer's keys: discovery, then the key set, under limits, and never from a place that
//! only this machine's network reaches.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap},
};
use serde_json::Value;
use url::{Host, Url};

use super::{
    config::{Federation, is_safe_url, names_loopback},
    json,
    keys::KeySet,
};
use crate::{
    error::{Error, Kind, Result},
    model::address::is_public,
};

/// Time for one request.
const TIME: Duration = Duration::from_secs(5);
/// Longest answer, in bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// Shortest and longest life of a loaded set.
const LIFE: [Duration; 2] = [Duration::from_secs(5 * 60), Duration::from_secs(24 * 3600)];

/// What was loaded.
pub(super) struct Loaded {
    /// The keys.
    pub(super) keys: KeySet,
    /// How long they are good, as far as the issuer says.
    pub(super) life: Duration,
}

/// Loads keys of one issuer.
pub(super) struct Fetcher {
    /// Follows nothing, uses no proxy.
    client: Client,
    /// Whether private addresses may be asked.
    allow_private: bool,
}

/// Resolves names and leaves out addresses that are not public.
struct PublicOnly {
    /// A name that may be loopback, since the issuer says so.
    loopback: bool,
    /// Whether private addresses are let through.
    allow_private: bool,
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let (allow_private, near) = (self.allow_private, self.loopback && name == "localhost");
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found
                .filter(|found| {
                    let address = found.ip();
                    is_public(address)
                        || (near && address.is_loopback())
                        || (allow_private && !address.is_loopback())
                })
                .collect();
            if allowed.is_empty() {
                return Err("the name resolves to no public address".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl Fetcher {
    /// A fetcher for a federation's issuer.
    ///
    /// # Errors
    /// `Internal` when there is no TLS.
    pub(super) fn new(federation: &Federation) -> Result<Self> {
        let loopback = Url::parse(&federation.issuer).is_ok_and(|url| names_loopback(&url));
        let allow_private = federation.allow_private_issuer;
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(TIME)
            .connect_timeout(TIME)
            .dns_resolver(Arc::new(PublicOnly { loopback, allow_private }))
            .build()
            .map_err(|error| {
                Error::new(Kind::Internal, "cannot set up the client for keys").caused_by(error)
            })?;
        Ok(Self { client, allow_private })
    }

    /// Loads the keys.
    ///
    /// # Errors
    /// What went wrong, in words for the log.
    pub(super) async fn load(&self, issuer: &str) -> std::result::Result<Loaded, String> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let (metadata, _) = self.get(&format!("{base}/.well-known/openid-configuration")).await?;
        let metadata = json::parse(&metadata).map_err(|why| format!("discovery: {why}"))?;
        let place = key_place(&metadata, issuer).map_err(|why| format!("discovery: {why}"))?;
        let (body, life) = self.get(place).await?;
        let keys = KeySet::parse(&body).map_err(|why| format!("keys: {why}"))?;
        if keys.len() == 0 {
            return Err("keys: none of them can be used".to_owned());
        }
        Ok(Loaded { keys, life })
    }

    /// Gets a document and how long it is good.
    async fn get(&self, place: &str) -> std::result::Result<(Vec<u8>, Duration), String> {
        let url = Url::parse(place).map_err(|_| "no URL")?;
        if !is_safe_url(&url) {
            return Err(format!("{}: neither https nor this machine", shown(&url)));
        }
        let near = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(std::net::IpAddr::V6(address)),
            _ => None,
        };
        if let Some(address) = near
            && !is_public(address)
            && !names_loopback(&url)
            && !self.allow_private
        {
            return Err(format!("{}: a private address", shown(&url)));
        }
        let failed = |error: reqwest::Error| {
            let kind = if error.is_timeout() { "did not answer in time" } else { "cannot be had" };
            format!("{}: {kind}", shown(&url))
        };
        let work = async {
            let mut response = self.client.get(url.clone()).send().await.map_err(failed)?;
            let status = response.status();
            if status.is_redirection() {
                return Err(format!("{}: redirects, which is refused", shown(&url)));
            }
            if !status.is_success() {
                return Err(format!("{}: status {}", shown(&url), status.as_u16()));
            }
            let life = life(response.headers());
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > MAX_BYTES {
                    return Err(format!("{}: longer than {MAX_BYTES} bytes", shown(&url)));
                }
                body.extend_from_slice(&chunk);
            }
            Ok((body, life))
        };
        match tokio::time::timeout(TIME, work).await {
            Ok(done) => done,
            Err(_) => Err(format!("{}: did not answer in time", shown(&url))),
        }
    }
}

/// Where the keys are, by an issuer's discovery document.
fn key_place<'m>(metadata: &'m Value, issuer: &str) -> std::result::Result<&'m str, &'static str> {
    let named = metadata.get("issuer").and_then(Value::as_str).unwrap_or_default();
    if named.strip_suffix('/').unwrap_or(named) != issuer.strip_suffix('/').unwrap_or(issuer) {
        return Err("it is about another issuer");
    }
    let place = metadata.get("jwks_uri").and_then(Value::as_str).ok_or("it names no jwks_uri")?;
    let parsed = Url::parse(place).map_err(|_| "jwks_uri is no URL")?;
    if names_loopback(&parsed) && !Url::parse(issuer).is_ok_and(|url| names_loopback(&url)) {
        return Err("jwks_uri is on this machine");
    }
    Ok(place)
}

/// A URL as it may stand in a log.
fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// How long an answer is good: its `max-age`, within bounds.
fn life(headers: &HeaderMap) -> Duration {
    let [shortest, longest] = LIFE;
    let said =
        headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).and_then(|text| {
            text.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.parse().ok())
        });
    said.map_or(Duration::from_secs(3600), Duration::from_secs).clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn what_an_issuer_says_about_age_is_kept_within_bounds() {
        let [shortest, longest] = LIFE;
        for (said, expected) in [
            (None, Duration::from_secs(3600)),
            (Some("no-store"), Duration::from_secs(3600)),
            (Some("public, max-age=7200"), Duration::from_secs(7200)),
            (Some("max-age=0"), shortest),
            (Some("max-age=99999999999"), longest),
            (Some("max-age=-1"), Duration::from_secs(3600)),
            (Some("max-age=99999999999999999999999999"), Duration::from_secs(3600)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(said));
            }
            assert_eq!(life(&headers), expected, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_means_this_machine_is_asked_only_where_the_issuer_is_that() {
        let resolve = async |loopback, allow_private| {
            let resolver = PublicOnly { loopback, allow_private };
            resolver.resolve("localhost".parse().unwrap()).await.is_ok()
        };
        assert!(resolve(true, false).await);
        assert!(!resolve(false, false).await);
        assert!(!resolve(false, true).await);
    }

    #[test]
    fn discovery_sends_nobody_to_this_machine_from_elsewhere() {
        let far = "https://login.example/t";
        let near = "http://127.0.0.1:9";
        for (issuer, named, place, why) in [
            (far, far, "https://keys.example/k", None),
            (far, "https://login.example/t/", "https://keys.example/k", None),
            (near, near, "http://localhost:8/k", None),
            (far, "https://login.example", "https://keys.example/k", Some("another issuer")),
            (far, far, "keys", Some("no URL")),
            (far, far, "https://localhost/k", Some("on this machine")),
            (far, far, "http://127.0.0.1:9/k", Some("on this machine")),
            (far, far, "https://[::1]/k", Some("on this machine")),
        ] {
            let metadata = serde_json::json!({ "issuer": named, "jwks_uri": place });
            let found = key_place(&metadata, issuer);
            match why {
                None => assert_eq!(found, Ok(place)),
                Some(why) => assert!(found.unwrap_err().contains(why), "{place}"),
            }
        }
        let without = serde_json::json!({ "issuer": far });
        assert_eq!(key_place(&without, far), Err("it names no jwks_uri"));
    }

    #[tokio::test]
    async fn near_places_are_not_asked_however_they_are_written() {
        let federation = serde_json::json!({
            "name": "acme", "issuer": "https://login.example", "audience": "api",
        });
        let fetcher = Fetcher::new(&Federation::parse(federation).unwrap()).unwrap();
        for place in [
            "https://10.0.0.1/jwks",
            "https://192.168.1.1/jwks",
            "https://172.16.0.1/jwks",
            "https://100.64.0.1/jwks",
            "https://169.254.169.254/jwks",
            "https://0.0.0.0/jwks",
            "https://2852039166/jwks",
            "https://0xa9fea9fe/jwks",
            "https://[fe80::1]/jwks",
            "https://[fd00::1]/jwks",
            "https://[::ffff:10.0.0.1]/jwks",
            "https://[::ffff:169.254.169.254]/jwks",
        ] {
            let why = fetcher.get(place).await.unwrap_err();
            assert!(why.contains("a private address"), "{place}: {why}");
        }
        for place in ["http://keys.example/jwks", "file:///etc/passwd", "ftp://localhost/x", "x"] {
            assert!(fetcher.get(place).await.is_err(), "{place}");
        }
    }
}
