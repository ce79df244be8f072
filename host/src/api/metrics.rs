//! `GET /metrics`: what an operator alerts on, as Prometheus text.

use crate::{
    model::{
        plugin::PluginInfo,
        progress::{Progress, State},
    },
    telemetry::metrics::{self, set, set_count},
};

/// Sets what is read from the published progress and from the plugins, right before it is shown.
pub(super) fn observe(progress: &Progress, plugins: &[PluginInfo]) {
    let switch = |on: bool| if on { 1.0 } else { 0.0 };
    for state in State::ALL {
        let tag = Some(("state", state.name()));
        set(metrics::STATE, tag, switch(state == progress.state));
    }
    set(metrics::FAILED, None, switch(progress.failure.is_some()));
    set(metrics::CAN_COMMIT, None, switch(progress.can_commit));
    set(metrics::CAN_WRITE, None, switch(progress.can_write));
    // What is unknown is no number; 0 would look well.
    set(metrics::LAG, None, progress.lag_seconds.map_or(f64::NAN, f64::from));
    match progress.oplog_seconds {
        Some(seconds) => set_count(metrics::OPLOG_REMAINING, None, seconds),
        None => set(metrics::OPLOG_REMAINING, None, f64::NAN),
    }
    set_count(metrics::TOTAL_BYTES, None, progress.total_bytes);
    set_count(metrics::COPIED_BYTES, None, progress.copied_bytes);
    let documents = progress.collections.iter().map(|one| one.copied_documents).sum();
    set_count(metrics::COPIED_DOCUMENTS, None, documents);
    metrics::raise_to(metrics::EVENTS_APPLIED, None, progress.events_applied);
    for plugin in plugins {
        let tag = Some(("plugin", plugin.name.as_str()));
        metrics::raise_to(metrics::PLUGIN_CALLS, tag, plugin.counters.calls);
        metrics::raise_to(metrics::PLUGIN_ERRORS, tag, plugin.counters.errors);
    }
}
