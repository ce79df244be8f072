//! The log: one JSON object per line, to stdout or to `syncline.log` in a directory.
//!
//! Every line has `time` (RFC 3339), `level`, `message`, `mongosyncID`, `pid` and `target`; what
//! the event and its spans carry follows. An event with the field `fatal = true` has level
//! `fatal`: the process is about to end. Text is cut at 1024 characters.

use std::{
    fmt::Debug,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::{LookupSpan, Scope},
};

use super::{redact, rotated};
use crate::error::{Error, Kind, Result};

/// Longest text of one field, in characters.
const MAX_FIELD_CHARS: usize = 1024;
/// Name of the log in its directory, without its ending.
const STEM: &str = "syncline";
/// Our own events begin with this target; everything else is a library.
const OWN_TARGET: &str = "syncline";

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Verbosity {
    /// Only what ends the process.
    Panic,
    /// Only what ends the process.
    Fatal,
    /// A person must act.
    Error,
    /// Something was wrong, and was coped with.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// What happens inside.
    Debug,
    /// Everything.
    Trace,
}

impl Verbosity {
    /// The words an operator may use.
    pub(crate) const WORDS: &'static [&'static str] =
        &["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "PANIC"];

    /// Parses a word, whatever its letter case.
    pub fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_uppercase().as_str() {
            "TRACE" => Some(Self::Trace),
            "DEBUG" => Some(Self::Debug),
            "INFO" => Some(Self::Info),
            "WARN" => Some(Self::Warn),
            "ERROR" => Some(Self::Error),
            "FATAL" => Some(Self::Fatal),
            "PANIC" => Some(Self::Panic),
            _ => None,
        }
    }
}

/// Where lines go. A lock and not a channel: a line must be out before the process can die.
type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

/// The process's log.
pub struct Log {
    /// Where lines go.
    sink: Sink,
    /// Directory of the file; none for stdout.
    directory: Option<PathBuf>,
    /// The log of an earlier process, set aside.
    pub former: Option<PathBuf>,
}

impl Log {
    /// Sets the present log aside, begins a new one, and returns where the former is; nothing
    /// happens when it goes to stdout, or when there is no place for a new one.
    pub fn rotate(&self) -> Option<PathBuf> {
        let directory = self.directory.as_deref()?;
        match rotated::open(directory, STEM, "logPath") {
            Ok((file, former)) => {
                *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(file);
                former
            }
            Err(error) => {
                tracing::warn!(error = %error.full(), "the log goes on in the old file");
                None
            }
        }
    }
}

/// Opens the log and makes it the process's. Called once, before anything is logged.
///
/// # Errors
/// `ConfigInvalid` when the directory or the file cannot be written, `Internal` when a log is
/// already open.
pub fn init(directory: Option<&Path>, verbosity: Verbosity, instance_id: &str) -> Result<Log> {
    let (sink, former): (Box<dyn Write + Send>, _) = match directory {
        None => (Box::new(io::stdout()), None),
        Some(directory) => {
            let (file, former) = rotated::open(directory, STEM, "logPath")?;
            (Box::new(file), former)
        }
    };
    let sink: Sink = Arc::new(Mutex::new(sink));
    let layer = JsonLines::new(Arc::clone(&sink), verbosity, instance_id);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(|error| Error::new(Kind::Internal, "the log is already open").caused_by(error))?;
    Ok(Log { sink, directory: directory.map(Path::to_owned), former })
}

/// Logs the error that ends the process.
pub fn fatal(error: &Error) {
    let kind = error.kind();
    tracing::error!(
        fatal = true,
        error = error.full(),
        code = kind.code(),
        advice = kind.advice(),
        "the daemon ends with an error"
    );
}

/// Writes events as JSON lines.
struct JsonLines {
    /// Where lines go.
    sink: Sink,
    /// How much is logged.
    verbosity: Verbosity,
    /// `mongosyncID` of every line.
    instance_id: String,
}

/// One line: first what every line has, then what this one is about.
struct Line {
    /// In this order, so that a person can read it.
    fixed: [(&'static str, Value); 6],
    /// Fields of the event and its spans.
    rest: Map<String, Value>,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let fixed = self.fixed.iter().map(|(name, value)| (*name, value));
        serializer.collect_map(fixed.chain(self.rest.iter().map(|(n, v)| (n.as_str(), v))))
    }
}

/// Fields of a span, kept for the events in it.
struct SpanFields(Map<String, Value>);

impl JsonLines {
    /// A layer that writes to `sink`.
    fn new(sink: Sink, verbosity: Verbosity, instance_id: &str) -> Self {
        Self { sink, verbosity, instance_id: instance_id.to_owned() }
    }

    /// Most detailed level that is logged of a target: of libraries only what is wrong.
    fn most_detailed(&self, target: &str) -> LevelFilter {
        let own = match self.verbosity {
            Verbosity::Trace => LevelFilter::TRACE,
            Verbosity::Debug => LevelFilter::DEBUG,
            Verbosity::Info => LevelFilter::INFO,
            Verbosity::Warn => LevelFilter::WARN,
            // Fatal events are ERROR to `tracing`; `on_event` tells them apart.
            Verbosity::Error | Verbosity::Fatal | Verbosity::Panic => LevelFilter::ERROR,
        };
        let ours = target == OWN_TARGET
            || target.strip_prefix(OWN_TARGET).is_some_and(|rest| rest.starts_with("::"));
        if ours { own } else { own.min(LevelFilter::WARN) }
    }

    /// Writes one line. A log that cannot be written must not stop the sync.
    fn write(&self, line: &Line) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        drop(sink.write_all(&text).and_then(|()| sink.flush()));
    }
}

impl<S> Layer<S> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.most_detailed(metadata.target())
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Collector::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanFields(fields.0));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Collector::default();
        values.record(&mut fields);
        if let Some(held) = span.extensions_mut().get_mut::<SpanFields>() {
            held.0.extend(fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Collector::default();
        event.record(&mut fields);
        let fatal = fields.0.remove("fatal") == Some(Value::Bool(true));
        if self.verbosity <= Verbosity::Fatal && !fatal {
            return;
        }
        let metadata = event.metadata();
        let message = fields.0.remove("message").unwrap_or_else(|| metadata.name().into());
        let fixed = [
            ("time", Value::String(jiff::Timestamp::now().to_string())),
            ("level", level_name(*metadata.level(), fatal).into()),
            ("message", message),
            ("mongosyncID", self.instance_id.as_str().into()),
            ("pid", std::process::id().into()),
            ("target", metadata.target().into()),
        ];
        let mut rest = Map::new();
        for span in ctx.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(SpanFields(held)) = span.extensions().get::<SpanFields>() {
                rest.extend(held.clone());
            }
        }
        rest.remove("message");
        rest.extend(fields.0);
        self.write(&Line { fixed, rest });
    }
}

/// The word of a level, in lower case.
fn level_name(level: Level, fatal: bool) -> &'static str {
    match level {
        _ if fatal => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Collects fields as JSON, cut and without secrets.
#[derive(Default)]
struct Collector(Map<String, Value>);

impl Collector {
    /// Adds a text.
    fn add_text(&mut self, field: &Field, text: &str) {
        let text = redact::text(text);
        let cut = match text.char_indices().nth(MAX_FIELD_CHARS) {
            None => text.into_owned(),
            Some(_) => text.chars().take(MAX_FIELD_CHARS - 1).chain(['…']).collect(),
        };
        self.add(field, Value::String(cut));
    }

    /// Adds a value. A field may not take the name of one that every line has.
    fn add(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            taken @ ("time" | "level" | "mongosyncID" | "pid" | "target") => {
                format!("field_{taken}")
            }
            name => name.to_owned(),
        };
        self.0.insert(name, value);
    }
}

impl Visit for Collector {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add_text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::{debug, error, info, info_span, warn};

    use super::*;

    /// A sink that a test can read.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Runs `events` and returns what was logged.
    fn logged(verbosity: Verbosity, events: impl FnOnce()) -> Vec<Value> {
        let sink = Shared::default();
        let boxed: Sink = Arc::new(Mutex::new(Box::new(sink.clone())));
        let layer = JsonLines::new(boxed, verbosity, "node-1");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_line_has_the_fixed_keys_and_the_fields_of_event_and_spans() {
        let lines = logged(Verbosity::Info, || {
            let span = info_span!("run", run_id = "r1", batches = tracing::field::Empty);
            span.record("batches", 3_u64);
            span.in_scope(|| info!(namespace = "app.users", bytes = 7_u64, "copied {}", 1));
        });
        let line = &lines[0];
        assert_eq!(line["message"], "copied 1");
        assert_eq!(line["level"], "info");
        assert_eq!(line["mongosyncID"], "node-1");
        assert_eq!(line["pid"], std::process::id());
        assert_eq!(
            (&line["run_id"], &line["batches"], &line["namespace"], &line["bytes"]),
            (&"r1".into(), &3.into(), &"app.users".into(), &7.into())
        );
        assert!(line["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }

    #[test]
    fn levels_follow_the_verbosity_and_libraries_are_quiet() {
        let events = || {
            error!(fatal = true, "ends");
            error!("acts");
            warn!("coped");
            info!("happens");
            debug!("inside");
            info!(target: "hyper::proto", "noise");
            warn!(target: "rustls", "library warning");
            info!(target: "synclinefoo", "not ours");
        };
        let messages = |verbosity| -> Vec<String> {
            logged(verbosity, events)
                .iter()
                .map(|line| format!("{} {}", line["level"], line["message"]).replace('"', ""))
                .collect()
        };
        assert_eq!(messages(Verbosity::Fatal), ["fatal ends"]);
        assert_eq!(messages(Verbosity::Panic), ["fatal ends"]);
        assert_eq!(messages(Verbosity::Error), ["fatal ends", "error acts"]);
        assert_eq!(
            messages(Verbosity::Debug),
            [
                "fatal ends",
                "error acts",
                "warn coped",
                "info happens",
                "debug inside",
                "warn library warning"
            ]
        );
        assert!(!messages(Verbosity::Info).contains(&"debug inside".to_owned()));
    }

    #[test]
    fn long_text_is_cut_and_secrets_do_not_come_through() {
        let lines = logged(Verbosity::Info, || {
            info!(
                long = "ä".repeat(3000),
                uri = "mongodb://bob:hunter2@h/",
                error = ?io::Error::other("eyJhbGciOi.eyJzdWIi.c2ln"),
                level = "mine",
                "to mongodb://bob:hunter2@h/"
            );
        });
        assert_eq!(lines[0]["long"].as_str().unwrap().chars().count(), MAX_FIELD_CHARS);
        assert_eq!(lines[0]["level"], "info");
        assert_eq!(lines[0]["field_level"], "mine");
        let text = lines[0].to_string();
        assert!(!text.contains("hunter2") && !text.contains("eyJ"), "{text}");
    }
}
