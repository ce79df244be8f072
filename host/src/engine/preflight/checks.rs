//! The single checks, each from what was asked of the clusters to one finding or a few; no I/O.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    roles::{self, Need, Side, Weight},
    unsupported,
};
use crate::{
    engine::{collisions, indexes},
    error::Kind,
    model::{
        Namespace,
        facts::{Access, ClusterFacts, Finding},
        options::{BuildIndexes, StartOptions},
    },
    ports::{ClusterInfo, CollectionInfo},
};

/// Oldest version of either server.
const OLDEST: i64 = 6;
/// Formats of unique indexes that hold no keys of servers before 4.2 (`formatVersion` of `collStats`).
const UNIQUE_FORMATS: [i64; 2] = [13, 14];
/// What a copy is assumed to move per second when its length is estimated, in bytes.
const ASSUMED_RATE: u64 = 20 * 1024 * 1024;
/// An oplog that reaches less far is small, in seconds.
const SMALL_OPLOG: u64 = 3_600;
/// Room that the destination's data takes, in percent of the source's on disk: it is written in
/// another order, and indexes are built beside it.
const GROWTH_PERCENT: u64 = 120;

/// How large something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sizes {
    /// Documents, uncompressed, in bytes.
    pub(super) data_bytes: u64,
    /// Data and indexes on the source's disk, in bytes.
    pub(super) stored_bytes: u64,
}

impl Sizes {
    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            data_bytes: self.data_bytes.saturating_add(other.data_bytes),
            stored_bytes: self.stored_bytes.saturating_add(other.stored_bytes),
        }
    }
}

/// `6.0.5`
fn dotted(version: &[i64]) -> String {
    version.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// Versions of the servers.
pub(super) fn versions(source: &ClusterInfo, destination: &ClusterInfo) -> Vec<Finding> {
    let major = |info: &ClusterInfo| info.version.first().copied().unwrap_or(0);
    let mut findings = Vec::new();
    for (side, info) in [(Side::Source, source), (Side::Destination, destination)] {
        let (side, version) = (side.name(), dotted(&info.version));
        findings.push(if major(info) < OLDEST {
            let text = format!("the {side} runs {version}, at least {OLDEST}.0 is needed");
            Finding::fail("version", side, Kind::UnsupportedVersion, text)
        } else {
            Finding::ok("version", side, version)
        });
    }
    if major(destination) < major(source) {
        let text = format!(
            "the destination runs {}, older than the source's {}",
            dotted(&destination.version),
            dotted(&source.version)
        );
        findings.push(Finding::fail("version", "both", Kind::UnsupportedVersion, text));
    }
    findings
}

/// Feature compatibility versions.
pub(super) fn feature_versions(
    source: Option<&[i64]>,
    destination: Option<&[i64]>,
) -> Vec<Finding> {
    const CHECK: &str = "featureCompatibility";
    let mut findings = Vec::new();
    for (side, version) in [(Side::Source, source), (Side::Destination, destination)] {
        let side = side.name();
        findings.push(match version {
            None => Finding::warn(CHECK, side, "unknown; it takes the action getParameter"),
            Some(version) if version.first().is_none_or(|major| *major < OLDEST) => {
                let version = dotted(version);
                let text = format!(
                    "the {side}'s feature compatibility version is {version}, at least {OLDEST}.0 \
                     is needed"
                );
                Finding::fail(CHECK, side, Kind::UnsupportedVersion, text)
            }
            Some(version) => Finding::ok(CHECK, side, dotted(version)),
        });
    }
    if let (Some(source), Some(destination)) = (source, destination)
        && destination < source
    {
        let text = format!(
            "the destination's feature compatibility version {} is lower than the source's {}",
            dotted(destination),
            dotted(source)
        );
        findings.push(Finding::fail(CHECK, "both", Kind::UnsupportedVersion, text));
    }
    findings
}

/// Members of a replica set.
pub(super) fn topology(side: Side, info: &ClusterInfo, facts: &ClusterFacts) -> Finding {
    let set = info.set_name.as_deref().unwrap_or_default();
    let text = format!(
        "replica set {set}, primary {}, {} with data, {} arbiter(s)",
        info.primary, facts.data_members, facts.arbiters
    );
    let voters = facts.data_members + facts.arbiters;
    // A majority of the votes must hold data, and one may fail.
    if facts.arbiters > 0 && facts.data_members <= voters / 2 + 1 {
        let text = format!(
            "{text}: when one member with data fails, nothing is acknowledged by a majority any \
             more and the sync stands still"
        );
        return Finding::warn("topology", side.name(), text);
    }
    Finding::ok("topology", side.name(), text)
}

/// What the user may do, and whether a write block would stop the sync itself.
pub(super) fn privileges(
    side: Side,
    facts: &ClusterFacts,
    options: &StartOptions,
    databases: &BTreeSet<String>,
) -> Vec<Finding> {
    let name = side.name();
    if facts.access == Access::Open {
        let mut findings =
            vec![Finding::ok("privileges", name, "access control is off, everything is allowed")];
        if roles::blocks_writes(side, options) {
            findings.push(if options.write_blocking.is_some() {
                let text = format!(
                    "enableUserWriteBlocking: the {name}'s user lacks the action \
                     bypassWriteBlockingMode (a cluster without users cannot be blocked)"
                );
                Finding::fail("writeBlocking", name, Kind::StartOptionsInvalid, text)
            } else {
                let text = "without users its writes cannot be blocked: keep others away yourself";
                Finding::warn("writeBlocking", name, text)
            });
        }
        return findings;
    }
    let missing = roles::missing(&facts.access, &roles::needs(side, options), side, databases);
    let mut findings = Vec::new();
    for weight in [Weight::Required, Weight::Reverse, Weight::Advised] {
        let named = |need: &&Need| need.weight == weight;
        let items: Vec<String> = missing.iter().filter(named).map(roles::in_words).collect();
        if items.is_empty() {
            continue;
        }
        let finding = match weight {
            Weight::Required => Finding::fail(
                "privileges",
                name,
                Kind::PermissionDenied,
                format!("the user on the {name} lacks privileges"),
            ),
            Weight::Reverse => Finding::warn(
                "privileges",
                name,
                "for `reverse` the user will need further privileges",
            ),
            Weight::Advised => Finding::warn(
                "privileges",
                name,
                "the sync goes without these, some checks and warnings do not",
            ),
        };
        findings.push(finding.with_items(items));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("privileges", name, "the user may do all that is needed"));
    }
    findings
}

/// Collections that cannot be synced.
pub(super) fn supported(wanted: &[CollectionInfo]) -> Finding {
    let items: Vec<String> = wanted
        .iter()
        .filter_map(|info| unsupported(info).map(|why| format!("{} ({why})", info.namespace)))
        .collect();
    if items.is_empty() {
        let text = format!("{} collections and views to sync", wanted.len());
        return Finding::ok("collections", "source", text);
    }
    let text = "the source holds collections that cannot be synced";
    Finding::fail("collections", "source", Kind::UnsupportedOperation, text).with_items(items)
}

/// Indexes that would become one on the destination until the commit.
pub(super) fn colliding_indexes(wanted: &[CollectionInfo], mode: BuildIndexes) -> Option<Finding> {
    let mut items = Vec::new();
    for info in wanted {
        let built = info.indexes.iter().filter(|spec| indexes::is_wanted(spec, mode));
        for (one, other) in collisions::pairs(built) {
            items.push(format!("{}: {one} and {other}", info.namespace));
        }
    }
    let text = "the source holds indexes that differ only in being unique";
    (!items.is_empty())
        .then(|| Finding::fail("indexes", "source", Kind::IndexesCollide, text).with_items(items))
}

/// The unique indexes of a collection that are kept apart from its documents, by name.
pub(super) fn unique_indexes(info: &CollectionInfo) -> impl Iterator<Item = &str> {
    info.indexes.iter().filter_map(|spec| {
        let is = |option| spec.get_bool(option).unwrap_or(false);
        spec.get_str("name").ok().filter(|name| *name != "_id_" && is("unique") && !is("clustered"))
    })
}

/// Unique indexes that may hold keys as servers before 4.2 wrote them: without this one learns of it
/// when the way back is wanted.
pub(super) fn index_formats(
    wanted: &[CollectionInfo],
    formats: &HashMap<Namespace, HashMap<String, i64>>,
) -> Finding {
    const CHECK: &str = "indexFormats";
    let (mut sound, mut unknown, mut old) = (0_usize, 0_usize, Vec::new());
    for info in wanted {
        for index in unique_indexes(info) {
            match formats.get(&info.namespace).and_then(|known| known.get(index)) {
                Some(format) if UNIQUE_FORMATS.contains(format) => sound += 1,
                Some(format) => {
                    old.push(format!("{}: {index} (formatVersion {format})", info.namespace));
                }
                None => unknown += 1,
            }
        }
    }
    if !old.is_empty() {
        let text = "`reverse` may be impossible with these unique indexes, which servers before 6.0 \
                    have built: run `validate` on their collections";
        return Finding::warn(CHECK, "source", text).with_items(old);
    }
    if unknown > 0 {
        let text = format!("unknown of {unknown} unique indexes; it takes the action collStats");
        return Finding::warn(CHECK, "source", text);
    }
    Finding::ok(CHECK, "source", format!("{sound} unique indexes that `reverse` can relax"))
}

/// Names that the destination cannot give.
pub(super) fn impossible_names(problems: Vec<String>) -> Option<Finding> {
    let text = "the destination cannot give these names";
    (!problems.is_empty()).then(|| {
        Finding::fail("namespaces", "destination", Kind::NamespaceRemapConflict, text)
            .with_items(problems)
    })
}

/// What the destination holds already: names that the sync would write, and others that it would
/// have to answer for, because its filter takes them in.
pub(super) fn conflicts(
    wanted: &HashSet<Namespace>,
    left_over: &HashSet<Namespace>,
    existing: &[CollectionInfo],
) -> Finding {
    let items: Vec<String> = existing
        .iter()
        .map(|info| &info.namespace)
        .filter_map(|name| {
            if wanted.contains(name) {
                Some(name.to_string())
            } else {
                left_over.contains(name).then(|| format!("{name} (not on the source)"))
            }
        })
        .collect();
    if items.is_empty() {
        return Finding::ok("namespaces", "destination", "nothing is in the way");
    }
    let text = "the destination already holds namespaces that are the sync's to write";
    Finding::fail("namespaces", "destination", Kind::NamespaceConflict, text).with_items(items)
}

/// How far the source's oplog reaches.
pub(super) fn oplog(facts: &ClusterFacts, sizes: &Sizes) -> Finding {
    let Some(oplog) = facts.oplog else {
        let text = "how far it reaches is unknown; it takes the action find on local.oplog.rs";
        return Finding::warn("oplog", "source", text);
    };
    let window = oplog.window_seconds();
    let copy = sizes.data_bytes / ASSUMED_RATE;
    let text = format!("it holds about {}", hours(window));
    if window < SMALL_OPLOG.max(copy) {
        let text = format!(
            "the source's oplog is small: {text}; the copy will take about {}, and a daemon that \
             is down or paused for longer than the oplog reaches has to start over",
            hours(copy)
        );
        return Finding::warn("oplog", "source", text);
    }
    Finding::ok("oplog", "source", text)
}

/// A time in words.
fn hours(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} seconds"),
        120..=7_199 => format!("{} minutes", seconds / 60),
        _ => format!("{} hours", seconds / 3_600),
    }
}

/// Bytes that a sync will take on the destination: the source's data and indexes with a margin,
/// and what the destination's oplog can still grow by.
fn needed_bytes(destination: &ClusterFacts, sizes: &Sizes) -> u64 {
    let data = u128::from(sizes.stored_bytes) * u128::from(GROWTH_PERCENT) / 100;
    let data = u64::try_from(data).unwrap_or(u64::MAX);
    let oplog = destination.oplog.map_or(0, |oplog| oplog.max_bytes.saturating_sub(oplog.bytes));
    // What is copied goes through the oplog once; more of it stays only while there is room.
    data.saturating_add(oplog.min(sizes.data_bytes))
}

/// Whether the destination's disk will do.
pub(super) fn disk(destination: &ClusterFacts, sizes: &Sizes, options: &StartOptions) -> Finding {
    const CHECK: &str = "diskSpace";
    const SIDE: &str = "destination";
    if options.skip_disk_space_check {
        return Finding::warn(CHECK, SIDE, "not checked: skipDiskSpaceCheck");
    }
    let Some(disk) = destination.disk else {
        return Finding::warn(CHECK, SIDE, "unknown; it takes the action dbStats on admin");
    };
    let free = disk.total_bytes.saturating_sub(disk.used_bytes);
    let needed = needed_bytes(destination, sizes);
    let mebibytes = |bytes: u64| bytes.div_ceil(1024 * 1024);
    let text = format!("{} MiB free, about {} MiB needed", mebibytes(free), mebibytes(needed));
    if free < needed {
        let text = format!("the destination's disk is too small: {text}");
        return Finding::fail(CHECK, SIDE, Kind::InsufficientDestinationDiskSpace, text);
    }
    Finding::ok(CHECK, SIDE, text)
}

/// A source whose applications cannot write.
pub(super) fn write_block_of_source(facts: &ClusterFacts) -> Option<Finding> {
    (facts.user_writes_blocked == Some(true))
        .then(|| Finding::warn("writeBlocking", "source", "user writes are blocked on the source"))
}
