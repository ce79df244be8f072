//! Every metric: name, unit and what it says, in one table. Rooms count through the functions
//! here; `/metrics` renders what they counted.
//!
//! No label holds a name of a collection, an address or a value: labels are states, codes, the
//! two clusters, and names of plugins.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What was counted, by metric and label. One for the process, as its log is; locked for a moment.
static RECORDED: Mutex<BTreeMap<(&'static str, String), f64>> = Mutex::new(BTreeMap::new());

/// Whether a metric only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Whether it only grows.
    sort: Sort,
    /// What it says.
    help: &'static str,
}

/// Shorthand for a metric that only grows.
const fn total(name: &'static str, help: &'static str) -> Metric {
    Metric { name, sort: Sort::Counter, help }
}

/// Shorthand for a metric that goes up and down.
const fn level(name: &'static str, help: &'static str) -> Metric {
    Metric { name, sort: Sort::Gauge, help }
}

/// 1 for the present state, by label `state`.
pub const STATE: Metric = level("sync_state", "1 for the present state, 0 for the others");
/// Whether the sync has failed.
pub const FAILED: Metric = level("sync_failed", "1 once the sync has failed");
/// Whether a commit would be accepted.
pub const CAN_COMMIT: Metric = level("sync_can_commit", "1 while commit would be accepted");
/// Whether the application may write.
pub const CAN_WRITE: Metric =
    level("sync_can_write", "1 once the application may write to the destination");
/// Lag in seconds.
pub const LAG: Metric = level(
    "sync_lag_seconds",
    "seconds between the newest change on the source and the applied one",
);
/// Bytes to copy.
pub const TOTAL_BYTES: Metric = level("sync_total_bytes", "bytes to copy in all");
/// Bytes copied.
pub const COPIED_BYTES: Metric = level("sync_copied_bytes", "bytes copied");
/// Documents copied.
pub const COPIED_DOCUMENTS: Metric = level("sync_copied_documents", "documents copied");
/// Change events applied.
pub const EVENTS_APPLIED: Metric =
    total("sync_events_applied_total", "change events applied by this process");
/// How long the oplog lasts.
pub const OPLOG_REMAINING: Metric = level(
    "sync_oplog_remaining_seconds",
    "seconds until the source's oplog forgets what is not applied",
);
/// Operations tried again.
pub const RETRIES: Metric = total("sync_retries_total", "operations tried again after a failure");
/// Errors by label `code`.
pub const ERRORS: Metric =
    total("sync_errors_total", "errors that ended the sync or answered a request, by code");
/// Calls of an identity provider, by label `cluster`.
pub const TOKEN_CALLS: Metric =
    total("sync_token_calls_total", "tokens asked for from the identity provider");
/// Calls of an identity provider that failed, by label `cluster`.
pub const TOKEN_FAILURES: Metric =
    total("sync_token_failures_total", "tokens that the identity provider did not yield");
/// When the token ends, by label `cluster`.
pub const TOKEN_EXPIRY: Metric =
    level("sync_token_expiry_timestamp_seconds", "Unix time at which the present token ends");
/// Calls of a plugin, by label `plugin`.
pub const PLUGIN_CALLS: Metric = total("sync_plugin_calls_total", "calls of a plugin");
/// Calls of a plugin that failed, by label `plugin`.
pub const PLUGIN_ERRORS: Metric =
    total("sync_plugin_errors_total", "calls of a plugin that failed");
/// Documents that a filter kept as they are, by label `plugin`.
pub const PLUGIN_KEPT: Metric =
    total("sync_plugin_kept_documents_total", "documents a filter kept as they are");
/// Documents that a filter dropped, by label `plugin`.
pub const PLUGIN_DROPPED: Metric =
    total("sync_plugin_dropped_documents_total", "documents a filter dropped");
/// Documents that a filter replaced, by label `plugin`.
pub const PLUGIN_REPLACED: Metric =
    total("sync_plugin_replaced_documents_total", "documents a filter replaced");

/// Every metric.
pub const ALL: &[Metric] = &[
    STATE,
    FAILED,
    CAN_COMMIT,
    CAN_WRITE,
    LAG,
    TOTAL_BYTES,
    COPIED_BYTES,
    COPIED_DOCUMENTS,
    EVENTS_APPLIED,
    OPLOG_REMAINING,
    RETRIES,
    ERRORS,
    TOKEN_CALLS,
    TOKEN_FAILURES,
    TOKEN_EXPIRY,
    PLUGIN_CALLS,
    PLUGIN_ERRORS,
    PLUGIN_KEPT,
    PLUGIN_DROPPED,
    PLUGIN_REPLACED,
];

/// A label with its value.
type Tag<'a> = Option<(&'static str, &'a str)>;

/// The record, locked.
fn recorded() -> MutexGuard<'static, BTreeMap<(&'static str, String), f64>> {
    RECORDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The labels of a tag as they are rendered.
fn labels(tag: Tag<'_>) -> String {
    tag.map_or_else(String::new, |(name, value)| {
        let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("{{{name}=\"{value}\"}}")
    })
}

/// Sets a gauge.
pub fn set(metric: Metric, tag: Tag<'_>, value: f64) {
    recorded().insert((metric.name, labels(tag)), value);
}

/// Sets a gauge to a count. Counts above 2^53 lose their last digits.
pub fn set_count(metric: Metric, tag: Tag<'_>, value: u64) {
    #[allow(clippy::cast_precision_loss, reason = "Prometheus knows only floats")]
    set(metric, tag, value as f64);
}

/// Raises a counter by one.
pub fn add(metric: Metric, tag: Tag<'_>) {
    *recorded().entry((metric.name, labels(tag))).or_default() += 1.0;
}

/// Sets a counter to what was counted elsewhere.
pub fn raise_to(metric: Metric, tag: Tag<'_>, value: u64) {
    set_count(metric, tag, value);
}

/// All metrics as Prometheus text.
pub fn render() -> String {
    let recorded = recorded().clone();
    let mut text = String::new();
    for metric in ALL {
        let sort = match metric.sort {
            Sort::Counter => "counter",
            Sort::Gauge => "gauge",
        };
        let Metric { name, help, .. } = metric;
        let of_metric = recorded.iter().filter(|((other, _), _)| other == name);
        let values: Vec<(&String, f64)> =
            of_metric.map(|((_, labels), value)| (labels, *value)).collect();
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {sort}\n"));
        for (labels, value) in values {
            text.push_str(&format!("{name}{labels} {value}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_with_its_help() {
        // A code that nothing else counts.
        add(ERRORS, Some(("code", "a\"b")));
        add(ERRORS, Some(("code", "a\"b")));
        set(LAG, None, f64::NAN);
        set_count(COPIED_BYTES, None, 10);
        raise_to(EVENTS_APPLIED, None, 7);
        let text = render();
        for line in [
            "# HELP sync_lag_seconds seconds between",
            "# TYPE sync_errors_total counter",
            "sync_errors_total{code=\"a\\\"b\"} 2",
            "sync_lag_seconds NaN",
            "sync_copied_bytes 10",
            "sync_events_applied_total 7",
            "# TYPE sync_retries_total counter",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn every_metric_is_in_the_table_and_in_the_document() {
        let document = include_str!("../../../docs/operations.md");
        for metric in ALL {
            assert!(document.contains(&format!("`{}`", metric.name)), "{}", metric.name);
            assert!(metric.name.starts_with("sync_") && !metric.help.is_empty());
            assert_eq!(metric.sort == Sort::Counter, metric.name.ends_with("_total"));
        }
        let documented = document.split('`').filter(|word| {
            word.starts_with("sync_") && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        for name in documented {
            assert!(ALL.iter().any(|metric| metric.name == name), "{name} is no metric");
        }
    }
}
