//! `GET /metrics`: what an operator alerts on, as Prometheus text; and the same in a file.

use std::{io::Write, path::Path, time::Duration};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use crate::{
    error::Result,
    model::{
        plugin::{PluginInfo, World},
        progress::{Progress, State},
    },
    telemetry::{
        metrics::{self, set, set_count},
        rotated,
    },
};

/// Time between two lines of the metrics file.
const PERIOD: Duration = Duration::from_secs(30);

/// Appends all metrics to `syncline-metrics.log` in a directory, a JSON line each time, until
/// cancelled: `time`, `mongosyncID`, and `metrics` as `GET /metrics` answers. A file that an
/// earlier process has left is set aside and compressed, which holds the first line up. A line that
/// cannot be written is missing, with a warning.
///
/// # Errors
/// `ConfigInvalid` when the file cannot be made.
pub async fn log_metrics(
    state: ApiState,
    directory: &Path,
    instance_id: &str,
    cancel: CancellationToken,
) -> Result<()> {
    let (mut file, former) =
        rotated::open(directory, "syncline-metrics", "metricsLoggingFilepath")?;
    if let Some(former) = former {
        rotated::compress(&former);
    }
    loop {
        observe(&state.engine.progress(), &(state.plugins)());
        let line = json!({
            "time": jiff::Timestamp::now().to_string(),
            "mongosyncID": instance_id,
            "metrics": metrics::render(),
        });
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::warn!(%error, "the metrics file cannot be written");
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

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
        if plugin.world == World::DocumentFilter {
            metrics::raise_to(metrics::PLUGIN_KEPT, tag, plugin.counters.kept);
            metrics::raise_to(metrics::PLUGIN_DROPPED, tag, plugin.counters.dropped);
            metrics::raise_to(metrics::PLUGIN_REPLACED, tag, plugin.counters.replaced);
        }
    }
}
