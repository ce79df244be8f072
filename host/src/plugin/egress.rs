//! The way out for identity providers: HTTP to granted origins, checked twice.
//!
//! The origin (scheme, host, port) is checked before anything is resolved; the address is checked
//! when a connection is made, because a name that was granted may resolve to anything. Loopback,
//! private, link-local and metadata addresses are reached only when the grant names them: as an
//! address, as `localhost`, or as a cloud's metadata host. Only there may the scheme be `http`.
//! Redirects are answers, proxies and cookies do not exist.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use reqwest::{
    Client, Method,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::Semaphore,
    time::{Duration, timeout},
};
use url::{Host, Url};

use super::limits::Limits;
use crate::{
    error::{Error, Kind, Result},
    model::address::{embedded_v4, is_public},
};

/// Headers that belong to the connection, or that would make an answer be about somebody else.
const RESERVED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Names of metadata services, which resolve to link-local addresses.
const METADATA_NAMES: &[&str] = &["metadata.google.internal", "metadata"];

/// A place that requests may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// `true` for `https`.
    secure: bool,
    /// Name or address, normalised.
    host: Host<String>,
    /// Port, the scheme's own when none is written.
    port: u16,
}

impl Origin {
    /// Parses an origin: scheme, host and maybe a port, nothing behind it.
    ///
    /// # Errors
    /// `ConfigInvalid`, also for plain `http` to a public place.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = |what: &str| {
            Error::new(Kind::ConfigInvalid, format!("grants.origins: `{text}` {what}"))
        };
        let url = Url::parse(text).map_err(|error| invalid("is no origin").caused_by(error))?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("has something behind the host; write scheme://host:port"));
        }
        Self::of(&url).map_err(invalid)
    }

    /// The origin of a URL, whatever its path.
    ///
    /// # Errors
    /// `ConfigInvalid`, also for plain `http` to a public place.
    pub(crate) fn parse_url(text: &str) -> Result<Self> {
        let invalid = |what: &str| Error::new(Kind::ConfigInvalid, format!("`{text}` {what}"));
        let url = Url::parse(text).map_err(|error| invalid("is no URL").caused_by(error))?;
        Self::of(&url).map_err(invalid)
    }

    /// The origin of a URL that a server named, if it is one that may be reached without a grant:
    /// `https`, and no place near this machine.
    pub(crate) fn of_stranger(text: &str) -> Option<Self> {
        Self::parse_url(text).ok().filter(|origin| origin.secure && !origin.is_near())
    }

    /// The origin of a parsed URL, or what is wrong with it.
    fn of(url: &Url) -> std::result::Result<Self, &'static str> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a user name or a password");
        }
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("is neither https nor http"),
        };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err("names no host");
        };
        if host.to_string().contains('*') {
            return Err("holds a `*`; every host is granted by its name");
        }
        let origin = Self { secure, host: host.to_owned(), port };
        if !origin.secure && !origin.is_near() {
            return Err(
                "is plain http, which is only for loopback, private and metadata addresses",
            );
        }
        Ok(origin)
    }

    /// Whether the origin itself names a place that is not public.
    fn is_near(&self) -> bool {
        match &self.host {
            Host::Ipv4(address) => !is_public(IpAddr::V4(*address)),
            Host::Ipv6(address) => !is_public(IpAddr::V6(*address)),
            Host::Domain(name) => is_loopback_name(name) || is_metadata_name(name),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.secure { ("https", 443) } else { ("http", 80) };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Whether a name means this machine.
fn is_loopback_name(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether a name means a metadata service.
fn is_metadata_name(name: &str) -> bool {
    METADATA_NAMES.contains(&name)
}

/// Whether a granted name may be reached at an address it resolves to.
fn may_connect(name: &str, address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V6(v6) => embedded_v4(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    is_public(address)
        || (is_loopback_name(name) && address.is_loopback())
        || (is_metadata_name(name)
            && matches!(address, IpAddr::V4(address) if address.is_link_local()))
}

/// A name that resolves to nothing but forbidden addresses.
#[derive(Debug)]
struct ForbiddenAddress {
    /// The name.
    name: String,
    /// One of its addresses.
    address: IpAddr,
}

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` resolves to {}, an address that only a grant that names it opens",
            self.name, self.address
        )
    }
}

impl std::error::Error for ForbiddenAddress {}

/// Finds the addresses of a name.
type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// The system's resolver.
fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) })
    })
}

/// Resolves names and leaves out forbidden addresses.
struct CheckedResolver(Lookup);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        let lookup = (self.0)(name.clone());
        Box::pin(async move {
            let found = lookup.await?;
            let first = found.first().copied();
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|found| may_connect(&name, found.ip())).collect();
            match first {
                Some(address) if allowed.is_empty() => {
                    let refusal = ForbiddenAddress { name, address: address.ip() };
                    Err(Box::new(refusal) as Box<dyn std::error::Error + Send + Sync>)
                }
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// A request of a guest.
pub(crate) struct Outgoing {
    /// Method.
    pub(crate) method: Method,
    /// URL as the guest wrote it.
    pub(crate) url: String,
    /// Headers.
    pub(crate) headers: Vec<(String, String)>,
    /// Headers with secrets in them.
    pub(crate) secret_headers: Vec<(String, SecretString)>,
    /// Body.
    pub(crate) body: Vec<u8>,
    /// Time for it.
    pub(crate) timeout: Duration,
    /// Longest body accepted.
    pub(crate) max_response_bytes: usize,
    /// An origin that is granted for this call alone.
    pub(crate) also: Option<Origin>,
}

/// An answer for a guest.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Status.
    pub(crate) status: u16,
    /// Headers without cookies.
    pub(crate) headers: Vec<(String, String)>,
    /// Body.
    pub(crate) body: Vec<u8>,
}

/// Why a request was not answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not granted.
    Denied(String),
    /// Makes no sense.
    Invalid(String),
    /// Too large.
    Limit(String),
    /// Too slow.
    TimedOut,
    /// May work later.
    Unavailable(String),
}

/// One plugin's way out.
pub(crate) struct Egress {
    /// Where it may go.
    origins: Vec<Origin>,
    /// The client, which follows nothing and uses no proxy.
    client: Client,
    /// Longest request body, in bytes.
    body_bytes: usize,
    /// Requests that may be under way at once.
    at_once: Semaphore,
}

impl Egress {
    /// A way out to these origins.
    ///
    /// # Errors
    /// `Internal` when there is no TLS.
    pub(crate) fn new(origins: Vec<Origin>, limits: &Limits) -> Result<Self> {
        Self::resolving_by(origins, limits, system_lookup())
    }

    /// As [`Self::new`], with another resolver.
    fn resolving_by(origins: Vec<Origin>, limits: &Limits, lookup: Lookup) -> Result<Self> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .dns_resolver(Arc::new(CheckedResolver(lookup)))
            .connect_timeout(limits.http_timeout)
            .timeout(limits.http_timeout)
            // Every request meets the address check.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("syncline/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::new(Kind::Internal, "no HTTP client").caused_by(error))?;
        let at_once = usize::try_from(limits.http_at_once).unwrap_or(1);
        Ok(Self {
            origins,
            client,
            body_bytes: limits.http_body_bytes,
            at_once: Semaphore::new(at_once),
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`Refusal`]. Cancel safe: dropping the future closes the connection.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> std::result::Result<Incoming, Refusal> {
        let url = self.check_url(&outgoing.url, outgoing.also.as_ref())?;
        if outgoing.body.len() > self.body_bytes {
            let text = format!("a request body is at most {} bytes", self.body_bytes);
            return Err(Refusal::Limit(text));
        }
        let mut all = headers(&outgoing.headers)?;
        for (name, value) in &outgoing.secret_headers {
            let (name, mut value) = header(name, value.expose_secret())?;
            value.set_sensitive(true);
            all.insert(name, value);
        }
        let request = self
            .client
            .request(outgoing.method, url)
            .headers(all)
            .timeout(outgoing.timeout)
            .body(outgoing.body);
        let Ok(turn) = timeout(outgoing.timeout, self.at_once.acquire()).await else {
            return Err(Refusal::TimedOut);
        };
        let _turn = turn.map_err(|error| Refusal::Unavailable(error.to_string()))?;
        let mut response = request.send().await.map_err(refusal)?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .filter(|(name, _)| *name != reqwest::header::SET_COOKIE)
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(refusal)? {
            if body.len() + chunk.len() > outgoing.max_response_bytes {
                let limit = outgoing.max_response_bytes;
                return Err(Refusal::Limit(format!("the answer is longer than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Incoming { status, headers, body })
    }

    /// Parses a URL and looks its origin up among the granted ones.
    fn check_url(&self, text: &str, also: Option<&Origin>) -> std::result::Result<Url, Refusal> {
        let url =
            Url::parse(text).map_err(|error| Refusal::Invalid(format!("the URL: {error}")))?;
        let origin = Origin::of(&url).map_err(|what| Refusal::Denied(format!("the URL {what}")))?;
        if self.origins.contains(&origin) || also == Some(&origin) {
            return Ok(url);
        }
        Err(Refusal::Denied(format!(
            "it asked for {origin}; grant it in the config file under `grants.origins`"
        )))
    }
}

/// Headers of a guest, none of them reserved.
fn headers(pairs: &[(String, String)]) -> std::result::Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let (name, value) = header(name, value)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// One header that is not reserved.
fn header(name: &str, value: &str) -> std::result::Result<(HeaderName, HeaderValue), Refusal> {
    let key = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Refusal::Invalid("a header's name is malformed".to_owned()))?;
    if RESERVED_HEADERS.contains(&key.as_str()) || key.as_str().starts_with("proxy-") {
        return Err(Refusal::Invalid(format!("the header `{key}` belongs to the host")));
    }
    let value = HeaderValue::from_str(value)
        .map_err(|_| Refusal::Invalid(format!("the value of header `{key}` is malformed")))?;
    Ok((key, value))
}

/// Sorts an error of the client. Its URL is left out: it may hold a secret.
fn refusal(error: reqwest::Error) -> Refusal {
    let error = error.without_url();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut last = String::new();
    while let Some(inner) = cause {
        if let Some(forbidden) = inner.downcast_ref::<ForbiddenAddress>() {
            return Refusal::Denied(forbidden.to_string());
        }
        last = inner.to_string();
        cause = inner.source();
    }
    if error.is_timeout() { Refusal::TimedOut } else { Refusal::Unavailable(last) }
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
