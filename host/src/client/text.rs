//! API answers in words.

use serde_json::Value;

/// Width of the names on the left.
const NAME_WIDTH: usize = 16;

/// The answer of `/progress`, one fact per line.
pub(super) fn progress(answer: &Value) -> String {
    let progress = answer.get("progress").unwrap_or(&Value::Null);
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name:NAME_WIDTH$}{value}\n"));
        }
    };
    line("state", headline(progress));
    line("canCommit", plain(progress, &["canCommit"]));
    line("canWrite", plain(progress, &["canWrite"]));
    let lag = plain(progress, &["lagTimeSeconds"]);
    line("lag", if lag.is_empty() { lag } else { format!("{lag} s") });
    line("copied", copied(progress));
    let left = plain(progress, &["estimatedSecondsToCopyCompletion"]);
    line("copy left", if left.is_empty() { left } else { format!("about {left} s") });
    line("oplog left", plain(progress, &["estimatedOplogTimeRemaining"]));
    if let Some(indexes) = progress.get("indexBuilding") {
        let (built, total) =
            (plain(indexes, &["indexesBuilt"]), plain(indexes, &["totalIndexesToBuild"]));
        line(
            "indexes built",
            format!("{built} of {total}{}", time_left(progress, "IndexCompletion")),
        );
    }
    let compared = verified(progress);
    line(
        "verified",
        if compared.is_empty() {
            compared
        } else {
            compared + &time_left(progress, "Verification")
        },
    );
    line("events applied", plain(progress, &["totalEventsApplied"]));
    line("source", side(progress, "Source", "source"));
    line("destination", side(progress, "Destination", "destination"));
    for warning in texts(progress, "warnings") {
        line("warning", warning);
    }
    if let Some(failure) = progress.get("failure").filter(|failure| !failure.is_null()) {
        line(
            "failure",
            format!("[{}] {}", plain(failure, &["code"]), plain(failure, &["errorDescription"])),
        );
        line("", plain(failure, &["advice"]));
    }
    text.trim_end().to_owned()
}

/// `, about … s left`, when the daemon can tell.
fn time_left(progress: &Value, what: &str) -> String {
    let seconds = plain(progress, &[&format!("estimatedSecondsTo{what}")]);
    if seconds.is_empty() { seconds } else { format!(", about {seconds} s left") }
}

/// How far the verification is.
fn verified(progress: &Value) -> String {
    let Some(verification) = progress.get("verification").filter(|v| !v.is_null()) else {
        return String::new();
    };
    let side = |name: &str| plain(verification, &["destination", name]);
    let found = match verification.get("mismatches").and_then(Value::as_u64) {
        None | Some(0) => "no mismatch".to_owned(),
        Some(count) => format!("{count} mismatches, see `syncline mismatches`"),
    };
    format!(
        "{}: {} of {} collections, {found}",
        side("phase"),
        side("scannedCollectionCount"),
        side("totalCollectionCount"),
    )
}

/// State, phase and stage in one line.
pub(super) fn headline(progress: &Value) -> String {
    let details: Vec<String> = ["info", "ceaStage"]
        .iter()
        .map(|name| plain(progress, &[name]))
        .filter(|detail| !detail.is_empty())
        .collect();
    let state = plain(progress, &["state"]);
    if details.is_empty() { state } else { format!("{state} ({})", details.join(", ")) }
}

/// Bytes copied of bytes in all.
pub(super) fn copied(progress: &Value) -> String {
    let number = |name: &str| {
        progress.get("collectionCopy").and_then(|copy| copy.get(name)).and_then(Value::as_u64)
    };
    let (Some(total), Some(done)) = (number("estimatedTotalBytes"), number("estimatedCopiedBytes"))
    else {
        return String::new();
    };
    let percent = if total == 0 { 100 } else { u128::from(done) * 100 / u128::from(total) };
    format!("{} of {} ({percent} %)", bytes(done), bytes(total))
}

/// One collection in one line.
pub(super) fn collection(collection: &Value) -> String {
    let number = |name: &str| collection.get(name).and_then(Value::as_u64).unwrap_or_default();
    format!(
        "{}  {} of {}, {} documents, {} of {} partitions",
        plain(collection, &["namespace"]),
        bytes(number("estimatedCopiedBytes")),
        bytes(number("estimatedTotalBytes")),
        number("copiedDocuments"),
        number("partitionsCopied"),
        number("partitions"),
    )
}

/// The answer of `/plugins`, one plugin per paragraph.
pub(super) fn plugins(answer: &Value) -> String {
    let plugins = answer.get("plugins").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if plugins.is_empty() {
        return "no plugins are loaded".to_owned();
    }
    let paragraphs: Vec<String> = plugins
        .iter()
        .map(|plugin| {
            let count = |name| plain(plugin, &["counters", name]);
            format!(
                "{}{} ({}, contract {})\n  component  {}\n  digest     {}\n  grants     {}\n  \
                 instances  {}\n  calls      {} ({} failed; {} kept, {} dropped, {} replaced)\n  \
                 time       {} µs for half of the calls, {} µs for 99 of 100",
                plain(plugin, &["name"]),
                version(plugin),
                plain(plugin, &["world"]),
                plain(plugin, &["contractVersion"]),
                plain(plugin, &["component"]),
                plain(plugin, &["digest"]),
                grants(plugin),
                plain(plugin, &["instances"]),
                count("calls"),
                count("errors"),
                count("kept"),
                count("dropped"),
                count("replaced"),
                count("p50Micros"),
                count("p99Micros"),
            )
        })
        .collect();
    paragraphs.join("\n")
}

/// The answer of `/verification`, one mismatch per line.
pub(super) fn mismatches(answer: &Value) -> String {
    let Some(verification) = answer.get("verification").filter(|v| !v.is_null()) else {
        return "nothing is verified".to_owned();
    };
    let count = verification.get("mismatches").and_then(Value::as_u64).unwrap_or_default();
    let phase = plain(verification, &["phase"]);
    let mut aside = match verification.get("quarantined").and_then(Value::as_u64) {
        None | Some(0) => String::new(),
        Some(aside) => {
            format!("; {aside} documents are in quarantine, see `syncline plugin quarantine`")
        }
    };
    if let Some(cut) = verification.get("cut").and_then(Value::as_array) {
        let names: Vec<&str> = cut.iter().filter_map(Value::as_str).collect();
        aside.push_str(&format!("; not compared to the end: {}", names.join(", ")));
    }
    if count == 0 {
        return format!("no mismatch ({phase}){aside}");
    }
    let listed =
        verification.get("listed").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut lines = vec![format!("{} ({phase}){aside}", counted(verification))];
    lines.extend(listed.iter().map(mismatch));
    let left = usize::try_from(count).unwrap_or(usize::MAX).saturating_sub(listed.len());
    if left > 0 {
        lines.push(format!("and {left} more"));
    }
    lines.join("\n")
}

/// Counts by kind in words.
fn counted(verification: &Value) -> String {
    let kinds = verification.get("byKind").and_then(Value::as_object);
    let words: Vec<String> =
        kinds.into_iter().flatten().map(|(kind, count)| format!("{count} {kind}")).collect();
    words.join(", ")
}

/// One mismatch.
fn mismatch(mismatch: &Value) -> String {
    let mut line =
        format!("{:NAME_WIDTH$}{}", plain(mismatch, &["kind"]), plain(mismatch, &["namespace"]));
    for (name, value) in [("_id", plain(mismatch, &["_id"])), ("", plain(mismatch, &["detail"]))] {
        if !value.is_empty() {
            line.push_str(&format!("  {name}{}{value}", if name.is_empty() { "" } else { ": " }));
        }
    }
    line
}

/// A plugin's own version with a space before it, if it has one.
fn version(plugin: &Value) -> String {
    let version = plugin.get("version").and_then(Value::as_str);
    version.map(|version| format!(" {version}")).unwrap_or_default()
}

/// What a plugin was granted, in one line.
fn grants(plugin: &Value) -> String {
    let mut all = Vec::new();
    for (key, granted) in plugin.get("grants").and_then(Value::as_object).into_iter().flatten() {
        match granted {
            Value::Bool(true) => all.push(key.clone()),
            Value::Array(names) => {
                all.extend(names.iter().filter_map(Value::as_str).map(|n| format!("{key} {n}")));
            }
            Value::Object(names) => all.extend(names.keys().map(|name| format!("{key} {name}"))),
            _ => {}
        }
    }
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

/// One cluster with its round trip.
fn side(progress: &Value, role: &str, ping: &str) -> String {
    let name = plain(progress, &["directionMapping", role]);
    match progress.get(ping).and_then(|side| side.get("pingLatencyMs")).and_then(Value::as_i64) {
        Some(-1) => format!("{name} (does not answer)"),
        Some(ms) => format!("{name} ({ms} ms away)"),
        None => name,
    }
}

/// A value by its path as plain text; empty when absent or `null`.
pub(super) fn plain(value: &Value, path: &[&str]) -> String {
    let found = path.iter().try_fold(value, |value, name| value.get(name));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A list of texts.
fn texts(value: &Value, name: &str) -> Vec<String> {
    value
        .get(name)
        .and_then(Value::as_array)
        .map(|list| list.iter().map(|item| plain(item, &[])).collect())
        .unwrap_or_default()
}

/// A size with a unit.
pub(super) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn mismatches_are_listed() {
        let answer = json!({"success": true, "verification": {
            "phase": "stream hashing", "mismatches": 3,
            "byKind": {"missing": 2, "index": 1}, "listed": [
                {"namespace": "a.b", "kind": "missing", "_id": {"$oid": "01"}, "detail": null},
                {"namespace": "a.b", "kind": "index", "_id": null, "detail": "x_1 is missing"}]}});
        assert_eq!(
            mismatches(&answer),
            "1 index, 2 missing (stream hashing)\n\
             missing         a.b  _id: {\"$oid\":\"01\"}\n\
             index           a.b  x_1 is missing\n\
             and 1 more"
        );
        let cut = json!({"verification": {"phase": "x", "mismatches": 0, "cut": ["a.b", "a.c"]}});
        assert_eq!(mismatches(&cut), "no mismatch (x); not compared to the end: a.b, a.c");
        assert_eq!(mismatches(&json!({"verification": null})), "nothing is verified");
    }

    #[test]
    fn idle_is_short() {
        let answer = json!({"progress": {"state": "IDLE", "canCommit": false, "lag": null}});
        assert_eq!(progress(&answer), "state           IDLE\ncanCommit       false");
    }

    #[test]
    fn a_running_sync_is_told_in_full() {
        let answer = json!({"success": true, "progress": {
            "state": "RUNNING", "canCommit": true, "canWrite": false,
            "info": "change event application", "ceaStage": "steady state",
            "lagTimeSeconds": 4, "totalEventsApplied": 17,
            "collectionCopy": {"estimatedTotalBytes": 4096, "estimatedCopiedBytes": 1024},
            "indexBuilding": {"indexesBuilt": 1, "totalIndexesToBuild": 2},
            "directionMapping": {"Source": "cluster0: a:1", "Destination": "cluster1: b:2"},
            "source": {"pingLatencyMs": 3}, "destination": {"pingLatencyMs": -1},
            "warnings": ["w"], "failure": {"code": "SYNC-1401", "errorDescription": "gone",
            "advice": "start over"}}});
        let text = progress(&answer);
        for line in [
            "state           RUNNING (change event application, steady state)",
            "lag             4 s",
            "copied          1.00 KiB of 4.00 KiB (25 %)",
            "indexes built   1 of 2",
            "source          cluster0: a:1 (3 ms away)",
            "destination     cluster1: b:2 (does not answer)",
            "warning         w",
            "failure         [SYNC-1401] gone",
            "                start over",
        ] {
            assert!(text.lines().any(|l| l == line), "`{line}` not in:\n{text}");
        }
    }
}
