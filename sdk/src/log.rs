//! Lines for the host's log. No secrets, no documents.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every step.
    Trace,
    /// For the author.
    Debug,
    /// For the operator.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// Writes a line at `info`.
pub fn info(message: &str) {
    emit(Level::Info, message, &[]);
}

/// Writes a line at `warn`.
pub fn warn(message: &str) {
    emit(Level::Warn, message, &[]);
}

/// Writes a line at `debug`.
pub fn debug(message: &str) {
    emit(Level::Debug, message, &[]);
}

/// Writes a line with fields. Off wasm it goes to `testing::logged`, or nowhere.
#[cfg(target_family = "wasm")]
pub fn emit(level: Level, message: &str, fields: &[(&str, &str)]) {
    use crate::bindings::filter::syncline::host::log as import;
    let fields: Vec<(String, String)> =
        fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let level = match level {
        Level::Trace => import::Level::Trace,
        Level::Debug => import::Level::Debug,
        Level::Info => import::Level::Info,
        Level::Warn => import::Level::Warn,
        Level::Error => import::Level::Error,
    };
    import::emit(level, message, &fields);
}

/// Writes a line with fields. Off wasm it goes to `testing::logged`, or nowhere.
#[cfg(not(target_family = "wasm"))]
pub fn emit(level: Level, message: &str, fields: &[(&str, &str)]) {
    #[cfg(feature = "testing")]
    crate::testing::record(level, message, fields);
    #[cfg(not(feature = "testing"))]
    let _nowhere = (level, message, fields);
}
