//! A host made of scripted answers and a clock that moves only when told, for native unit tests.

pub mod golden;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    host::{DeviceCode, Host, HostError},
    http::{Request, Response},
    identity::{Flow, Reason, TokenRequest},
    log::Level,
    secrets::Placement,
};

thread_local! {
    /// Lines logged on this thread.
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a line.
pub(crate) fn record(level: Level, message: &str, fields: &[(&str, &str)]) {
    let mut line = message.to_owned();
    for (key, value) in fields {
        line.push_str(&format!(" {key}={value}"));
    }
    LINES.with_borrow_mut(|lines| lines.push((level, line)));
}

/// Takes the lines that this thread logged so far.
pub fn logged() -> Vec<(Level, String)> {
    LINES.take()
}

/// What a workload's connection string asks for: a first token, a minute of time, nothing else set.
pub fn token_request() -> TokenRequest {
    TokenRequest {
        flow: Flow::Machine,
        cluster: "cluster0".to_owned(),
        reason: Reason::Initial,
        audience: None,
        principal: None,
        hosts: Vec::new(),
        idp: None,
        refresh_token: None,
        timeout: Duration::from_secs(60),
        attempt: 0,
        extra: Vec::new(),
    }
}

/// The scripted host. Requests are answered in order; one more than scripted is `Unavailable`.
#[derive(Debug, Default)]
pub struct FakeHost {
    /// Answers to come.
    answers: RefCell<VecDeque<Result<Response, HostError>>>,
    /// Requests seen.
    requests: RefCell<Vec<Request>>,
    /// Time since the start of the fake.
    elapsed: Cell<Duration>,
    /// Sleeps asked for.
    sleeps: RefCell<Vec<Duration>>,
    /// Time each request takes.
    latency: Cell<Duration>,
    /// Environment.
    env: BTreeMap<String, Option<String>>,
    /// Files.
    files: BTreeMap<String, Vec<u8>>,
    /// Names of granted secrets.
    secrets: BTreeSet<String>,
    /// Where secrets were put, by request.
    placements: RefCell<Vec<Vec<Placement>>>,
    /// What was signed.
    signed: RefCell<Vec<Signed>>,
    /// What the person does.
    person: Person,
}

/// What a plugin let the host sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Name of the key.
    pub key: String,
    /// The header, a JSON object.
    pub header: String,
    /// The claims, a JSON object.
    pub claims: String,
}

/// What the browser comes back with.
type WayBack = Result<Vec<(String, String)>, HostError>;

/// What a person in front of the fake does.
#[derive(Debug, Default)]
struct Person {
    /// What listening comes to; `None` is denied.
    listen: Option<Result<String, HostError>>,
    /// Ways back from the browser. The state is put in the place of `STATE`.
    ways_back: RefCell<VecDeque<WayBack>>,
    /// URLs that the browser was sent to.
    urls: RefCell<Vec<String>>,
    /// What showing a code comes to; `None` is denied.
    show: Option<Result<(), HostError>>,
    /// Codes shown.
    codes: RefCell<Vec<DeviceCode>>,
    /// Random bytes asked for; each lot differs.
    lots: Cell<u8>,
}

impl FakeHost {
    /// Milliseconds since the Unix epoch at which the fake clock starts.
    pub const START_MS: u64 = 1_700_000_000_000;

    /// A host that answers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Scripts the next answer.
    #[must_use]
    pub fn answer(self, status: u16, body: impl AsRef<[u8]>) -> Self {
        self.outcome(Ok(Response { status, headers: Vec::new(), body: body.as_ref().to_vec() }))
    }

    /// Scripts the next answer, headers and failures included.
    #[must_use]
    pub fn outcome(self, outcome: Result<Response, HostError>) -> Self {
        self.answers.borrow_mut().push_back(outcome);
        self
    }

    /// Lets every request take this long.
    #[must_use]
    pub fn latency(self, latency: Duration) -> Self {
        self.latency.set(latency);
        self
    }

    /// Sets an environment variable; all others are denied.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), Some(value.to_owned()));
        self
    }

    /// Grants an environment variable that is not set.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.insert(name.to_owned(), None);
        self
    }

    /// Adds a file; all others are denied.
    #[must_use]
    pub fn with_file(mut self, path: &str, content: &[u8]) -> Self {
        self.files.insert(path.to_owned(), content.to_vec());
        self
    }

    /// Grants a secret; all others are denied. There is no value: a plugin never sees one.
    #[must_use]
    pub fn with_secret(mut self, name: &str) -> Self {
        self.secrets.insert(name.to_owned());
        self
    }

    /// Where secrets were put so far, request by request; nothing for a request without any.
    pub fn placements(&self) -> Vec<Vec<Placement>> {
        self.placements.borrow().clone()
    }

    /// What was signed so far. The signed text is `fake.signature.` and its number from 0.
    pub fn signed(&self) -> Vec<Signed> {
        self.signed.borrow().clone()
    }

    /// Whether a secret is granted.
    fn check_secret(&self, name: &str) -> Result<(), HostError> {
        if self.secrets.contains(name) {
            return Ok(());
        }
        Err(HostError::Denied(format!("secrets: [{name}]")))
    }

    /// Lets somebody listen at this address, or not.
    #[must_use]
    pub fn with_listener(mut self, outcome: Result<&str, HostError>) -> Self {
        self.person.listen = Some(outcome.map(str::to_owned));
        self
    }

    /// Scripts what the browser comes back with; the value `STATE` becomes the state that is waited
    /// for.
    #[must_use]
    pub fn way_back(self, outcome: Result<&[(&str, &str)], HostError>) -> Self {
        let outcome = outcome.map(|pairs| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        });
        self.person.ways_back.borrow_mut().push_back(outcome);
        self
    }

    /// Lets codes be shown, or not.
    #[must_use]
    pub fn with_terminal(mut self, outcome: Result<(), HostError>) -> Self {
        self.person.show = Some(outcome);
        self
    }

    /// The URLs that the browser was sent to.
    pub fn urls(&self) -> Vec<String> {
        self.person.urls.borrow().clone()
    }

    /// The codes that were shown.
    pub fn codes(&self) -> Vec<DeviceCode> {
        self.person.codes.borrow().clone()
    }

    /// The requests seen so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.borrow().clone()
    }

    /// The sleeps asked for so far.
    pub fn sleeps(&self) -> Vec<Duration> {
        self.sleeps.borrow().clone()
    }

    /// Moves the clock.
    fn pass(&self, duration: Duration) {
        self.elapsed.set(self.elapsed.get() + duration);
    }
}

impl Host for FakeHost {
    fn send(&self, request: Request) -> Result<Response, HostError> {
        self.send_with(request, &[])
    }

    fn send_with(&self, request: Request, secrets: &[Placement]) -> Result<Response, HostError> {
        for placement in secrets {
            self.check_secret(&placement.secret)?;
        }
        self.placements.borrow_mut().push(secrets.to_vec());
        self.requests.borrow_mut().push(request);
        self.pass(self.latency.get());
        self.answers
            .borrow_mut()
            .pop_front()
            .unwrap_or_else(|| Err(HostError::Unavailable("nothing scripted".to_owned())))
    }

    fn sign_jwt(&self, key: &str, header: &str, claims: &str) -> Result<String, HostError> {
        self.check_secret(key)?;
        let mut signed = self.signed.borrow_mut();
        let number = signed.len();
        signed.push(Signed {
            key: key.to_owned(),
            header: header.to_owned(),
            claims: claims.to_owned(),
        });
        Ok(format!("fake.signature.{number}"))
    }

    fn now_ms(&self) -> u64 {
        Self::START_MS + u64::try_from(self.elapsed.get().as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.elapsed.get()
    }

    fn sleep(&self, duration: Duration) {
        self.sleeps.borrow_mut().push(duration);
        self.pass(duration);
    }

    fn env(&self, name: &str) -> Result<Option<String>, HostError> {
        match self.env.get(name) {
            Some(value) => Ok(value.clone()),
            None => Err(HostError::Denied(format!("env: [{name}]"))),
        }
    }

    fn read_file(&self, path: &str, max_bytes: u32) -> Result<Vec<u8>, HostError> {
        match self.files.get(path) {
            Some(content) if content.len() > max_bytes as usize => {
                Err(HostError::Limit(format!("{path} is longer than {max_bytes} bytes")))
            }
            Some(content) => Ok(content.clone()),
            None => Err(HostError::Denied(format!("files: [{path}]"))),
        }
    }

    fn random(&self, count: u32) -> Result<Vec<u8>, HostError> {
        let lot = self.person.lots.get();
        self.person.lots.set(lot.wrapping_add(1));
        Ok(vec![lot; count as usize])
    }

    fn listen(&self) -> Result<String, HostError> {
        self.person.listen.clone().unwrap_or_else(|| Err(HostError::Denied("interaction".into())))
    }

    fn browse(&self, url: &str, state: &str) -> Result<Vec<(String, String)>, HostError> {
        self.person.urls.borrow_mut().push(url.to_owned());
        let back = self.person.ways_back.borrow_mut().pop_front();
        let mut pairs = back.unwrap_or(Err(HostError::TimedOut))?;
        for (_, value) in &mut pairs {
            if value == "STATE" {
                state.clone_into(value);
            }
        }
        Ok(pairs)
    }

    fn show_code(&self, code: &DeviceCode) -> Result<(), HostError> {
        self.person.codes.borrow_mut().push(code.clone());
        self.person.show.clone().unwrap_or_else(|| Err(HostError::Denied("interaction".into())))
    }
}
