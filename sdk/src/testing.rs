//! A host made of scripted answers and a clock that moves only when told, for native unit tests.

pub mod golden;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    host::{Host, HostError},
    http::{Request, Response},
    log::Level,
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
        self.requests.borrow_mut().push(request);
        self.pass(self.latency.get());
        self.answers
            .borrow_mut()
            .pop_front()
            .unwrap_or_else(|| Err(HostError::Unavailable("nothing scripted".to_owned())))
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
}
