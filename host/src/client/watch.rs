//! `progress --watch`: live bars on a terminal, a line per change elsewhere.

use std::io::Write;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use tokio::time::Instant;

use super::{Client, Failure, PATIENCE, POLL, sync_failure, text, try_write_line, write_line};
use crate::error::Result;

/// Most collections with a bar of their own; more do not fit on a screen.
const MAX_BARS: usize = 8;
/// Template of a bar with bytes.
const BAR: &str =
    "{prefix:32!} [{bar:40}] {percent:>3}% {binary_bytes:>11} of {binary_total_bytes}";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Bars that are redrawn.
    Bars,
    /// A line whenever something changed.
    Lines,
    /// A JSON object per line whenever something changed.
    Json,
}

/// Follows the sync until it is committed, fails, or the person has seen enough.
///
/// # Errors
/// The failure of the sync; `ApiUnreachable` when the daemon stays away.
pub(super) async fn watch(
    client: &Client,
    mode: Mode,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut bars = (mode == Mode::Bars).then(Bars::new);
    let outcome = tokio::select! {
        outcome = follow(client, mode, &mut bars, out) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    if bars.take().is_some() {
        // What is printed next must not continue the last bar.
        write_line(out, "")?;
    }
    outcome
}

/// Shows the progress again and again until the end of the sync.
async fn follow(
    client: &Client,
    mode: Mode,
    bars: &mut Option<Bars>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut shown = String::new();
    let mut last_seen = Instant::now();
    loop {
        match client.progress().await {
            Ok(progress) => {
                last_seen = Instant::now();
                match bars {
                    Some(bars) => bars.show(&progress),
                    None => {
                        let line =
                            if mode == Mode::Json { progress.to_string() } else { line(&progress) };
                        if line != shown {
                            if !try_write_line(out, &line)? {
                                return Ok(());
                            }
                            shown = line;
                        }
                    }
                }
                if let Some(error) = sync_failure(&progress) {
                    return Err(error.into());
                }
                if text::plain(&progress, &["state"]) == "COMMITTED" {
                    return Ok(());
                }
            }
            Err(failure) if failure.is_unreachable() && last_seen.elapsed() < PATIENCE => {
                if let Some(bars) = bars {
                    bars.status.set_message("the daemon does not answer, trying again");
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The whole progress in one line.
fn line(progress: &Value) -> String {
    let mut parts = vec![text::headline(progress), text::copied(progress)];
    for (before, name, after) in [
        ("lag ", "lagTimeSeconds", " s"),
        ("", "totalEventsApplied", " events"),
        ("canCommit ", "canCommit", ""),
    ] {
        let value = text::plain(progress, &[name]);
        if !value.is_empty() {
            parts.push(format!("{before}{value}{after}"));
        }
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" · ")
}

/// The bars on a terminal.
struct Bars {
    /// Draws them together.
    all: MultiProgress,
    /// State, lag, events.
    status: ProgressBar,
    /// The whole copy.
    total: ProgressBar,
    /// Collections being copied.
    collections: Vec<(String, ProgressBar)>,
}

impl Bars {
    /// Empty bars.
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let status = all.add(ProgressBar::new_spinner().with_style(style("{msg}")));
        let total =
            all.add(ProgressBar::new(1).with_style(style(BAR)).with_prefix("all collections"));
        Self { all, status, total, collections: Vec::new() }
    }

    /// Draws a new state of affairs.
    fn show(&mut self, progress: &Value) {
        self.status.set_message(line(progress));
        let copy = progress.get("collectionCopy").unwrap_or(&Value::Null);
        set(&self.total, copy);
        let empty = Vec::new();
        let active: Vec<(&str, &Value)> = progress
            .get("collections")
            .and_then(Value::as_array)
            .unwrap_or(&empty)
            .iter()
            .filter(|collection| is_active(collection))
            .filter_map(|collection| Some((collection.get("namespace")?.as_str()?, collection)))
            .take(MAX_BARS)
            .collect();
        let all = &self.all;
        self.collections.retain(|(name, bar)| {
            let keep = active.iter().any(|(namespace, _)| namespace == name);
            if !keep {
                bar.finish_and_clear();
                all.remove(bar);
            }
            keep
        });
        for (namespace, collection) in active {
            let known = self.collections.iter().find(|(name, _)| name == namespace);
            let bar = match known {
                Some((_, bar)) => bar.clone(),
                None => {
                    let bar = ProgressBar::new(1)
                        .with_style(style(BAR))
                        .with_prefix(format!("  {namespace}"));
                    let bar = self.all.add(bar);
                    self.collections.push((namespace.to_owned(), bar.clone()));
                    bar
                }
            };
            set(&bar, collection);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for (_, bar) in &self.collections {
            bar.finish_and_clear();
        }
        self.total.abandon();
        self.status.abandon();
    }
}

/// Whether a collection is being copied right now.
fn is_active(collection: &Value) -> bool {
    let number = |name: &str| collection.get(name).and_then(Value::as_u64).unwrap_or(0);
    number("estimatedCopiedBytes") > 0 && number("partitionsCopied") < number("partitions")
}

/// Sets a bar to the bytes of an object.
fn set(bar: &ProgressBar, object: &Value) {
    let number = |name: &str| object.get(name).and_then(Value::as_u64).unwrap_or(0);
    bar.set_length(number("estimatedTotalBytes").max(1));
    bar.set_position(number("estimatedCopiedBytes"));
}

/// A style; a template that does not parse is as good as none.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_templates_parse() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
        assert!(ProgressStyle::with_template("{msg}").is_ok());
    }

    #[test]
    fn bars_come_and_go_with_their_collections() {
        let mut bars = Bars::new();
        bars.all.set_draw_target(ProgressDrawTarget::hidden());
        let collection = |name: &str, done: u64, partitions: u64| {
            json!({"namespace": name, "estimatedTotalBytes": 10, "estimatedCopiedBytes": done,
                "partitions": 2, "partitionsCopied": partitions})
        };
        bars.show(&json!({"state": "RUNNING", "collections":
            [collection("a.a", 5, 1), collection("a.b", 0, 0), collection("a.c", 1, 0)]}));
        let names = |bars: &Bars| -> Vec<String> {
            bars.collections.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&bars), ["a.a", "a.c"]);
        assert_eq!(bars.collections[0].1.position(), 5);
        bars.show(&json!({"state": "RUNNING", "collections":
            [collection("a.a", 10, 2), collection("a.c", 6, 1)],
            "collectionCopy": {"estimatedTotalBytes": 20, "estimatedCopiedBytes": 16}}));
        assert_eq!(names(&bars), ["a.c"]);
        assert_eq!((bars.total.position(), bars.total.length()), (16, Some(20)));
        bars.show(&json!({"state": "IDLE", "collections": null, "collectionCopy": null}));
        assert!(bars.collections.is_empty());
    }

    #[test]
    fn a_line_tells_what_is_known() {
        assert_eq!(
            line(&json!({"state": "RUNNING", "info": "collection copy", "canCommit": false,
                "lagTimeSeconds": null,
                "collectionCopy": {"estimatedTotalBytes": 2048, "estimatedCopiedBytes": 1024}})),
            "RUNNING (collection copy) · 1.00 KiB of 2.00 KiB (50 %) · canCommit false"
        );
    }
}
