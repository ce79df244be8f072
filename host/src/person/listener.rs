//! The listener for the browser's way back.
//!
//! It binds every loopback address that the host of the redirect URI means, all or none, so that
//! nobody else can take the code on one of them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, Response, StatusCode, Uri, header},
};
use tokio::{
    net::TcpListener,
    process::Child,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use url::{Url, form_urlencoded};

use super::{browser::Browser, pages, redirect::Redirect, say};
use crate::{
    error::{Error, Kind},
    model::token::PersonError,
    tasks::TaskSet,
};

/// How long a browser may take to come at all.
const OPENING: Duration = Duration::from_secs(20);
/// How long answers under way have to finish.
const FLUSH: Duration = Duration::from_secs(2);
/// Tries to find one port on every address.
const TRIES: usize = 8;

/// Bound, and not answering yet.
pub(super) struct Listener {
    /// One for each address.
    sockets: Vec<TcpListener>,
    /// What was bound.
    redirect: Redirect,
    /// The address with the port that was bound.
    address: String,
}

/// How far the browser is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// It has not come.
    Expected,
    /// It was sent on to the provider.
    Away,
    /// It is back, and the person has seen so.
    Back(Vec<(String, String)>),
}

/// What the handler knows.
struct Desk {
    /// Path of the way back.
    path: String,
    /// Path at which the browser begins.
    start: String,
    /// Path of the page at the end.
    end: String,
    /// Where the browser is sent to.
    target: String,
    /// What it has to bring.
    state: String,
    /// What it brought, until the page at the end was fetched.
    brought: Mutex<Option<Vec<(String, String)>>>,
    /// How far it is.
    stage: watch::Sender<Stage>,
}

impl Listener {
    /// Binds every address of the redirect URI.
    ///
    /// # Errors
    /// `Unreached` when one of them cannot be bound.
    pub(super) async fn bind(redirect: &Redirect) -> Result<Self, PersonError> {
        let addresses = redirect.addresses().await?;
        let mut last = String::new();
        for _ in 0..TRIES {
            match bind_all(&addresses).await {
                Ok((sockets, port)) => {
                    let address = redirect.at(port);
                    return Ok(Self { sockets, redirect: redirect.clone(), address });
                }
                Err(error) => last = error.to_string(),
            }
            if redirect.port() != 0 {
                break;
            }
        }
        Err(PersonError::Unreached(format!("cannot listen at {redirect}: {last}")))
    }

    /// The address to name to the provider.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Opens the browser and waits for it. Cancel safe: dropping the future closes everything.
    ///
    /// # Errors
    /// `Invalid` for a URL that is neither `https` nor on this machine, `Unreached` when no browser
    /// came.
    pub(super) async fn wait(
        self,
        url: &str,
        state: &str,
        browser: &Browser,
    ) -> Result<Vec<(String, String)>, PersonError> {
        check(url)?;
        let secret = || uuid::Uuid::new_v4().simple().to_string();
        let base = self.redirect.path().trim_end_matches('/').to_owned();
        let (stage, mut watched) = watch::channel(Stage::Expected);
        let (start, end) = (format!("{base}/{}", secret()), format!("/success/{}", secret()));
        let opened = format!("{}/{}", self.address.trim_end_matches('/'), start_of(&start));
        let desk = Arc::new(Desk {
            path: self.redirect.path().to_owned(),
            start,
            end,
            target: url.to_owned(),
            state: state.to_owned(),
            brought: Mutex::default(),
            stage,
        });
        let stop = CancellationToken::new();
        let mut tasks = TaskSet::new();
        for socket in self.sockets {
            let app = Router::new().fallback(answer).with_state(Arc::clone(&desk));
            let stopped = stop.clone().cancelled_owned();
            tasks.spawn("redirect-listener", async move {
                let served = axum::serve(socket, app).with_graceful_shutdown(stopped).await;
                served.map_err(|error| {
                    Error::new(Kind::Internal, "the redirect listener is lost").caused_by(error)
                })
            });
        }
        let child = browser.open(&opened)?;
        say(&format!("Log in with your browser. If it does not open, go to {opened}"));
        let back = follow(child, &mut watched).await;
        stop.cancel();
        // The page at the end is on its way; sockets that linger are cut.
        drop(timeout(FLUSH, tasks.join()).await);
        tasks.shutdown().await;
        back
    }
}

/// The last part of a path.
fn start_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, last)| last)
}

/// Binds one port on all addresses.
async fn bind_all(addresses: &[SocketAddr]) -> std::io::Result<(Vec<TcpListener>, u16)> {
    let mut sockets: Vec<TcpListener> = Vec::new();
    let mut port = None;
    for address in addresses {
        let mut address = *address;
        if let Some(port) = port {
            address.set_port(port);
        }
        match TcpListener::bind(address).await {
            Ok(socket) => {
                port = Some(socket.local_addr()?.port());
                sockets.push(socket);
            }
            // A machine without IPv6 names ::1 all the same; nobody else can listen there either.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error),
        }
    }
    match port {
        Some(port) => Ok((sockets, port)),
        None => Err(std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "no address")),
    }
}

/// Refuses what no browser is sent to.
fn check(url: &str) -> Result<(), PersonError> {
    let parsed = Url::parse(url).map_err(|_| PersonError::Invalid("it is no URL".to_owned()))?;
    let is_local = match parsed.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match parsed.scheme() {
        "https" => Ok(()),
        "http" if is_local => Ok(()),
        _ => Err(PersonError::Invalid("the URL is neither https nor this machine".to_owned())),
    }
}

/// Waits until the browser is back, or it is clear that none comes.
async fn follow(
    mut child: Option<Child>,
    stage: &mut watch::Receiver<Stage>,
) -> Result<Vec<(String, String)>, PersonError> {
    let lost = || PersonError::Unreached("the redirect listener is lost".to_owned());
    if let Some(child) = &mut child {
        let failed = async {
            match child.wait().await {
                Ok(status) if status.success() => std::future::pending().await,
                _ => PersonError::Unreached("the browser cannot be opened".to_owned()),
            }
        };
        tokio::select! {
            came = stage.wait_for(|stage| *stage != Stage::Expected) => {
                drop(came.map_err(|_| lost())?);
            }
            failed = failed => return Err(failed),
            () = sleep(OPENING) => {
                return Err(PersonError::Unreached("no browser came within 20 s".to_owned()));
            }
        }
    }
    let back = stage.wait_for(|stage| matches!(stage, Stage::Back(_))).await.map_err(|_| lost())?;
    match &*back {
        Stage::Back(parameters) => Ok(parameters.clone()),
        Stage::Expected | Stage::Away => Err(lost()),
    }
}

/// Answers the browser.
async fn answer(
    State(desk): State<Arc<Desk>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    std::future::ready(desk.answer(&method, &uri, &headers, &body)).await
}

impl Desk {
    /// Answers the browser.
    fn answer(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response<Body> {
        let path = uri.path();
        let is_get = method == Method::GET;
        if path == self.start && is_get {
            self.stage.send_if_modified(|stage| {
                let is_first = *stage == Stage::Expected;
                if is_first {
                    *stage = Stage::Away;
                }
                is_first
            });
            return pages::onward(StatusCode::TEMPORARY_REDIRECT, &self.target);
        }
        if path == self.end && is_get {
            return self.finish();
        }
        if path != self.path {
            return pages::page(StatusCode::NOT_FOUND, "Not found", "There is nothing here.");
        }
        let is_form = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        let text = match *method {
            Method::GET => uri.query().unwrap_or_default().as_bytes(),
            Method::POST if is_form => body,
            _ => {
                let text = "This address takes GET, and POST of a form.";
                return pages::page(StatusCode::METHOD_NOT_ALLOWED, "Not allowed", text);
            }
        };
        self.take(form_urlencoded::parse(text).into_owned().collect())
    }

    /// Takes what the browser brought.
    fn take(&self, parameters: Vec<(String, String)>) -> Response<Body> {
        let value = |name: &str| {
            parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        // A stranger's request does not end the login.
        if !value("state").is_some_and(|state| same(state, &self.state)) {
            let text = "This is not the login that is waited for.";
            return pages::page(StatusCode::FORBIDDEN, "Not this login", text);
        }
        if let Some(error) = value("error") {
            let words = value("error_description").unwrap_or(error);
            let page = pages::page(StatusCode::OK, "Login failed", &pages::plain(words));
            self.stage.send_replace(Stage::Back(parameters));
            return page;
        }
        let mut brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        let code = value("code");
        let known = brought.as_ref().map(|before| {
            before.iter().find(|(key, _)| key == "code").map(|(_, value)| value.as_str()) == code
        });
        if known == Some(false) {
            let text = "Another code has been taken already.";
            return pages::page(StatusCode::CONFLICT, "Login failed", text);
        }
        *brought = Some(parameters);
        // The code leaves the address bar before it is used.
        pages::onward(StatusCode::SEE_OTHER, &self.end)
    }

    /// Shows the page at the end and lets the login go on.
    fn finish(&self) -> Response<Body> {
        let brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match brought {
            Some(parameters) => {
                self.stage.send_replace(Stage::Back(parameters));
                let text = "You can close this page and go back to the terminal.";
                pages::page(StatusCode::OK, "Logged in", text)
            }
            None => pages::page(StatusCode::NOT_FOUND, "Not found", "There is nothing here."),
        }
    }
}

/// Compares in a time that does not depend on where two texts differ.
fn same(one: &str, other: &str) -> bool {
    let differences = one.bytes().zip(other.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && differences == 0
}
