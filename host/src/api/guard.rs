//! What stands before every handler: no request that a web page could have made, an id and a log
//! line for each, and no crash that takes the connection with it.
//!
//! Without a federation the API has no login, so a browser on the same machine is the one stranger
//! that can reach it. A page that resolves its own name to 127.0.0.1 sends a foreign `Host`, a page
//! that posts across origins sends a foreign `Origin`; both are refused. Off loopback any `Host` will
//! do: there every request carries a token, which no page has.

use std::{
    net::{IpAddr, Ipv6Addr},
    panic::AssertUnwindSafe,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Exposure, error::ApiError, request::RequestId};
use crate::error::{Error, Kind};

/// The response header that carries the request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Checks the head, logs the request and its outcome, names the response.
pub(super) async fn guard(
    State(exposure): State<Exposure>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = RequestId::new();
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let verdict = check(exposure, request.uri().host(), request.headers());
    let mut response = match verdict {
        Ok(()) => {
            request.extensions_mut().insert(id.clone());
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            answer.unwrap_or_else(|_panic| {
                let error = Error::new(Kind::Internal, "the handler of the request crashed");
                ApiError::from(error).respond(&id)
            })
        }
        Err(error) => ApiError::from(error).respond(&id),
    };
    let status = response.status().as_u16();
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if method == Method::GET && response.status().is_success() {
        debug!(%method, path, status, elapsed_ms, request_id = id.as_str(), "request answered");
    } else {
        info!(%method, path, status, elapsed_ms, request_id = id.as_str(), "request answered");
    }
    if let Some(value) = id.header() {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether the head names this machine only, where it has to, and no foreign page.
fn check(exposure: Exposure, uri_host: Option<&str>, headers: &HeaderMap) -> Result<(), Error> {
    let refuse = |detail: &str| Err(Error::new(Kind::RequestForbidden, detail));
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return refuse("the request has no Host header, or more than one");
    };
    let Ok(host) = host.to_str() else { return refuse("the Host header is no text") };
    let names_us = is_loopback(without_port(host)) && uri_host.is_none_or(is_loopback);
    if exposure.is_local && !names_us {
        return refuse("the Host header names another machine than this one");
    }
    let scheme = if exposure.is_encrypted { "https" } else { "http" };
    match headers.get(header::ORIGIN).map(|origin| origin.to_str()) {
        None => Ok(()),
        Some(Ok(origin)) if origin.eq_ignore_ascii_case(&format!("{scheme}://{host}")) => Ok(()),
        Some(_) => refuse("the request comes from a web page of another origin"),
    }
}

/// The host of `host:port` or `[host]:port`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && !is_bare_v6(authority) =>
        {
            host
        }
        _ => authority,
    }
}

/// Whether the text is an IPv6 address without brackets, which has no port.
fn is_bare_v6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// Whether a host name can only mean this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(host: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        check(Exposure::default(), None, &headers).is_ok()
    }

    #[test]
    fn only_names_of_this_machine_pass() {
        for host in [
            "localhost",
            "LOCALHOST:27182",
            "127.0.0.1:27182",
            "127.9.9.9",
            "[::1]:27182",
            "[::1]",
            "::1",
        ] {
            assert!(verdict(Some(host), None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:27182",
            "127.0.0.1.nip.io",
            "10.0.0.1:27182",
            "0.0.0.0",
            "[::]:1",
            "",
            "localhost:27182:1",
        ] {
            assert!(!verdict(Some(host), None), "{host}");
        }
        assert!(!verdict(None, None));
    }

    #[test]
    fn only_the_own_origin_passes() {
        let host = Some("127.0.0.1:27182");
        assert!(verdict(host, Some("http://127.0.0.1:27182")));
        for origin in
            ["http://127.0.0.1:3000", "https://127.0.0.1:27182", "null", "http://evil.example"]
        {
            assert!(!verdict(host, Some(origin)), "{origin}");
        }
    }

    #[test]
    fn an_absolute_request_target_counts_too() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        let local = Exposure::default();
        assert!(check(local, Some("evil.example"), &headers).is_err());
        assert!(check(local, Some("localhost"), &headers).is_ok());
    }

    #[test]
    fn off_loopback_names_are_free_and_origins_are_not() {
        let public = Exposure { is_local: false, is_encrypted: true };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("sync.example:27182"));
        assert!(check(public, None, &headers).is_ok());
        for (origin, passes) in [
            ("https://sync.example:27182", true),
            ("http://sync.example:27182", false),
            ("https://evil.example", false),
            ("null", false),
        ] {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(check(public, None, &headers).is_ok(), passes, "{origin}");
        }
    }
}
