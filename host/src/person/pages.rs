//! What the person sees when the browser comes back.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};

/// Longest text of a provider on a page, in characters.
const MAX_TEXT: usize = 300;
/// Headers of every answer.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CONNECTION, "close"),
];

/// A page with a title and a sentence.
pub(super) fn page(status: StatusCode, title: &str, text: &str) -> Response<Body> {
    let (title, text) = (escaped(title), escaped(text));
    let body = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font-family:sans-serif;margin:4em auto;max-width:40em}}</style></head>\
         <body><h1>{title}</h1><p>{text}</p></body></html>"
    );
    answer(status, Body::from(body))
}

/// An answer that sends the browser on.
pub(super) fn onward(status: StatusCode, place: &str) -> Response<Body> {
    let mut response = answer(status, Body::empty());
    match HeaderValue::from_str(place) {
        Ok(place) => {
            response.headers_mut().insert(header::LOCATION, place);
            response
        }
        Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR, "Login failed", "The address is bad."),
    }
}

/// An answer with the usual headers.
fn answer(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Text of a provider in the characters that OAuth allows for errors, cut.
pub(super) fn plain(text: &str) -> String {
    let allowed = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
    text.chars().filter(allowed).take(MAX_TEXT).collect()
}

/// Text as it may stand in HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
