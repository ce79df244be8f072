//! The host's functions as guests call them. Every call checks its grant again.

use tokio::{
    io::AsyncReadExt,
    time::{Duration, Instant},
};

use super::{
    bindings::v0_1::{
        filter::syncline::host::log,
        identity::syncline::host::{
            clock, config, env, files,
            http::{self, Method},
            types::{self, HostError},
        },
    },
    context::{Guest, quoted},
    egress::{Outgoing, Refusal},
};
use crate::error::{Error, Kind};

impl log::Host for Guest {
    fn emit(&mut self, level: log::Level, message: String, fields: Vec<(String, String)>) {
        let level = match level {
            log::Level::Trace => tracing::Level::TRACE,
            log::Level::Debug => tracing::Level::DEBUG,
            log::Level::Info => tracing::Level::INFO,
            log::Level::Warn => tracing::Level::WARN,
            log::Level::Error => tracing::Level::ERROR,
        };
        if fields.iter().any(|(key, _)| key == "panic") {
            self.panic = Some(message.clone());
        }
        self.shared.log(level, &message, &fields);
    }

    fn enabled(&mut self, level: log::Level) -> bool {
        match level {
            log::Level::Trace => tracing::enabled!(target: "plugin", tracing::Level::TRACE),
            log::Level::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
            log::Level::Info => tracing::enabled!(target: "plugin", tracing::Level::INFO),
            log::Level::Warn | log::Level::Error => true,
        }
    }
}

impl types::Host for Guest {}

impl config::Host for Guest {
    fn all(&mut self) -> String {
        self.shared.config.clone()
    }
}

/// Further requests of a call that shows a device code: five minutes at one a second.
const DEVICE_REQUESTS: u32 = 300;

/// Moment from which a guest's monotonic clock counts: the first use in this process.
static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl clock::Host for Guest {
    fn now_ms(&mut self) -> u64 {
        if !self.shared.access.clock {
            return 0;
        }
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, millis)
    }

    fn monotonic_ms(&mut self) -> u64 {
        if self.shared.access.clock { millis(START.elapsed()) } else { 0 }
    }

    async fn sleep_ms(&mut self, duration: u64) {
        if self.may_pause() {
            // The call's time-out ends a sleep that is too long.
            tokio::time::sleep(Duration::from_millis(duration)).await;
        }
    }
}

impl env::Host for Guest {
    fn get(&mut self, name: String) -> Result<Option<String>, HostError> {
        if self.shared.access.env.contains(&name) {
            return Ok(std::env::var(&name).ok());
        }
        let text = format!("it asked for the variable `{name}`; grant it under `grants.env`");
        Err(self.deny(Kind::PluginImportDenied, &text))
    }
}

impl files::Host for Guest {
    async fn read(&mut self, path: String, max_bytes: u32) -> Result<Vec<u8>, HostError> {
        if !self.shared.access.files.contains(std::path::Path::new(&path)) {
            let text = format!("it asked for the file `{path}`; grant it under `grants.files`");
            return Err(self.deny(Kind::PluginImportDenied, &text));
        }
        let limit = self.shared.limits.file_bytes.min(usize::try_from(max_bytes).unwrap_or(0));
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => HostError::NotFound(format!("{path} does not exist")),
            _ => HostError::Unavailable(format!("cannot read {path}: {error}")),
        };
        let file = tokio::fs::File::open(&path).await.map_err(failed)?;
        if !file.metadata().await.map_err(failed)?.is_file() {
            return Err(HostError::Invalid(format!("{path} is no file")));
        }
        let mut content = Vec::new();
        let longest = u64::try_from(limit).unwrap_or(u64::MAX);
        file.take(longest.saturating_add(1)).read_to_end(&mut content).await.map_err(failed)?;
        if content.len() > limit {
            return Err(HostError::Limit(format!("{path} is longer than {limit} bytes")));
        }
        Ok(content)
    }
}

impl http::Host for Guest {
    async fn send(&mut self, request: http::Request) -> Result<http::Response, HostError> {
        let outgoing = self.outgoing(request)?;
        self.go_out(outgoing).await
    }
}

impl Guest {
    /// Takes a request out of the budget of the call and gives it its limits.
    pub(super) fn outgoing(&mut self, request: http::Request) -> Result<Outgoing, HostError> {
        if !self.call.online {
            return Err(HostError::Denied("this call needs no network".to_owned()));
        }
        let limits = &self.shared.limits;
        // A device asks again and again while its person types.
        let patience = if self.call.shown.is_some() { DEVICE_REQUESTS } else { 0 };
        let most = limits.http_requests.saturating_add(patience);
        if self.call.requests >= most {
            return Err(HostError::Limit(format!(
                "{most} requests in one call are the limit (limits.httpRequests)"
            )));
        }
        self.call.requests += 1;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let timeout = request
            .timeout_ms
            .map_or(limits.http_timeout, Duration::from_millis)
            .min(limits.http_timeout)
            .min(left);
        let max_response_bytes = request
            .max_response_bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map_or(limits.http_body_bytes, |bytes| bytes.min(limits.http_body_bytes));
        Ok(Outgoing {
            method: match request.method {
                Method::Get => reqwest::Method::GET,
                Method::Head => reqwest::Method::HEAD,
                Method::Post => reqwest::Method::POST,
                Method::Put => reqwest::Method::PUT,
                Method::Delete => reqwest::Method::DELETE,
                Method::Patch => reqwest::Method::PATCH,
            },
            url: request.url,
            headers: request.headers,
            secret_headers: Vec::new(),
            body: request.body,
            timeout,
            max_response_bytes,
            also: self.call.issuer.clone(),
        })
    }

    /// Sends a request and sorts what came of it.
    pub(super) async fn go_out(&mut self, outgoing: Outgoing) -> Result<http::Response, HostError> {
        let Some(egress) = self.egress.clone() else {
            return Err(self.deny(Kind::PluginEgressDenied, "it has no way out"));
        };
        match egress.send(outgoing).await {
            Ok(answer) => Ok(http::Response {
                status: answer.status,
                headers: answer.headers,
                body: answer.body,
            }),
            Err(Refusal::Denied(text)) => Err(self.deny(Kind::PluginEgressDenied, &text)),
            Err(Refusal::Invalid(text)) => Err(HostError::Invalid(text)),
            Err(Refusal::Limit(text)) => Err(HostError::Limit(text)),
            Err(Refusal::TimedOut) => Err(HostError::TimedOut),
            Err(Refusal::Unavailable(text)) => Err(HostError::Unavailable(text)),
        }
    }

    /// Refuses something, and remembers the first time for the error of a call that fails for it.
    pub(super) fn deny(&mut self, kind: Kind, text: &str) -> HostError {
        let text = quoted(text);
        let plugin = self.shared.name.as_str();
        tracing::warn!(plugin, denied = text, "plugin asked for something it was not granted");
        self.call.denied.get_or_insert_with(|| Error::new(kind, text.clone()));
        HostError::Denied(text)
    }
}
