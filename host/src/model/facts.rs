//! What a preflight looks at on one cluster, and what it says about it.

use super::ClusterTime;
use crate::error::{Error, Kind};

/// What a privilege is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// The cluster as a whole.
    Cluster,
    /// Everything.
    Any,
    /// Collections; an empty name stands for all of them. All databases are all but `local` and
    /// `config`, and all collections are all but `system.*`, as the server sees it.
    Collections {
        /// Database.
        database: String,
        /// Collection.
        collection: String,
    },
}

impl Resource {
    /// Every collection of every database.
    pub fn everywhere() -> Self {
        Self::of("", "")
    }

    /// Collections by name.
    pub fn of(database: &str, collection: &str) -> Self {
        Self::Collections { database: database.to_owned(), collection: collection.to_owned() }
    }

    /// Whether a privilege on this is one on `other` too.
    fn covers(&self, other: &Self) -> bool {
        let internal = |name: &str| matches!(name, "local" | "config");
        match (self, other) {
            (Self::Any, _) | (Self::Cluster, Self::Cluster) => true,
            (
                Self::Collections { database, collection },
                Self::Collections { database: in_database, collection: of_collection },
            ) => {
                let same = |own: &str, other: &str| own.is_empty() || own == other;
                same(database, in_database)
                    && same(collection, of_collection)
                    && !(database.is_empty() && internal(in_database))
                    && !(collection.is_empty() && of_collection.starts_with("system."))
            }
            (Self::Cluster | Self::Collections { .. }, _) => false,
        }
    }
}

/// What a user may do with a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privilege {
    /// With what.
    pub resource: Resource,
    /// What, by the server's names.
    pub actions: Vec<String>,
}

/// Who we are on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// The cluster has no access control.
    #[default]
    Open,
    /// A user with these privileges, those of its roles included.
    User(Vec<Privilege>),
}

impl Access {
    /// Whether an action is allowed on a resource.
    pub fn allows(&self, action: &str, resource: &Resource) -> bool {
        match self {
            Self::Open => true,
            Self::User(privileges) => privileges.iter().any(|privilege| {
                privilege.resource.covers(resource)
                    && privilege.actions.iter().any(|own| own == action || own == "anyAction")
            }),
        }
    }
}

/// From when to when an oplog reaches, and how full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OplogSpan {
    /// Its first entry.
    pub first: ClusterTime,
    /// Its last entry.
    pub last: ClusterTime,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes at which it begins to forget; 0 when unknown.
    pub max_bytes: u64,
}

impl OplogSpan {
    /// Shortest time from which a rate is taken, in seconds.
    const SHORTEST_SPAN: u64 = 3_600;

    /// Seconds that it can hold at the rate at which it has filled so far.
    pub fn window_seconds(&self) -> u64 {
        let span = u64::from(self.last.t.saturating_sub(self.first.t));
        span.saturating_add(self.unfilled_seconds(span))
    }

    /// Seconds until `time` is forgotten, at the same rate.
    pub fn remaining_seconds(&self, time: ClusterTime) -> u64 {
        let span = u64::from(self.last.t.saturating_sub(self.first.t));
        let ahead = u64::from(time.t.saturating_sub(self.first.t));
        ahead.saturating_add(self.unfilled_seconds(span))
    }

    /// Seconds until it is full. One that is young is taken to have filled in an hour: what was
    /// written into a new server at once says nothing of what comes.
    fn unfilled_seconds(&self, span: u64) -> u64 {
        let span = span.max(Self::SHORTEST_SPAN);
        let free = u128::from(self.max_bytes.saturating_sub(self.bytes));
        u64::try_from(u128::from(span) * free / u128::from(self.bytes.max(1))).unwrap_or(u64::MAX)
    }
}

/// Space of the file system that holds the data of a cluster's primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
}

/// What a cluster tells of itself; `None` where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterFacts {
    /// Feature compatibility version, for example `[6, 0]`.
    pub feature_version: Option<Vec<i64>>,
    /// Members that hold data.
    pub data_members: usize,
    /// Members that only vote.
    pub arbiters: usize,
    /// Who we are.
    pub access: Access,
    /// The primary's oplog.
    pub oplog: Option<OplogSpan>,
    /// The primary's disk.
    pub disk: Option<DiskSpace>,
    /// Whether user writes are blocked.
    pub user_writes_blocked: Option<bool>,
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// A person should look at it; a sync can begin.
    Warn,
    /// A sync cannot begin.
    Fail,
}

impl Grade {
    /// The word of the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of a preflight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was checked, in one word.
    pub check: &'static str,
    /// `source`, `destination` or `both`.
    pub cluster: &'static str,
    /// What it came to.
    pub grade: Grade,
    /// What was found, in a sentence.
    pub detail: String,
    /// Everything concerned by name: privileges, namespaces.
    pub items: Vec<String>,
    /// The error that a failure is.
    pub kind: Option<Kind>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, cluster: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, cluster, Grade::Ok, detail)
    }

    /// Something to look at.
    pub fn warn(check: &'static str, cluster: &'static str, detail: impl Into<String>) -> Self {
        Self::new(check, cluster, Grade::Warn, detail)
    }

    /// Something that keeps a sync from beginning.
    pub fn fail(
        check: &'static str,
        cluster: &'static str,
        kind: Kind,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind: Some(kind), ..Self::new(check, cluster, Grade::Fail, detail) }
    }

    /// The same with names.
    #[must_use]
    pub fn with_items(self, items: Vec<String>) -> Self {
        Self { items, ..self }
    }

    /// A line without names.
    fn new(
        check: &'static str,
        cluster: &'static str,
        grade: Grade,
        detail: impl Into<String>,
    ) -> Self {
        let detail = detail.into();
        Self { check, cluster, grade, detail, items: Vec::new(), kind: None }
    }
}

/// Everything a preflight found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Line by line.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Names in a message at most; the findings hold all.
    pub const NAMES_SHOWN: usize = 20;

    /// The findings of a grade.
    pub fn of_grade(&self, grade: Grade) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.grade == grade)
    }

    /// The error that all failures together are: of the first one's kind, with the text of each.
    /// `None` when a sync can begin.
    pub fn refusal(&self) -> Option<Error> {
        let kind = self.of_grade(Grade::Fail).find_map(|finding| finding.kind)?;
        let texts: Vec<String> = self.of_grade(Grade::Fail).map(Finding::sentence).collect();
        Some(Error::new(kind, texts.join("; ")))
    }
}

impl Finding {
    /// The detail with the first names.
    pub fn sentence(&self) -> String {
        let first: Vec<&str> =
            self.items.iter().take(Report::NAMES_SHOWN).map(String::as_str).collect();
        match (first.len(), self.items.len().saturating_sub(first.len())) {
            (0, _) => self.detail.clone(),
            (_, 0) => format!("{}: {}", self.detail, first.join(", ")),
            (_, more) => format!("{}: {} and {more} more", self.detail, first.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(resource: Resource, actions: &[&str]) -> Access {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Access::User(vec![Privilege { resource, actions }])
    }

    #[test]
    fn a_privilege_covers_what_the_server_says_it_does() {
        let everywhere = user(Resource::everywhere(), &["find"]);
        assert!(everywhere.allows("find", &Resource::everywhere()));
        assert!(everywhere.allows("find", &Resource::of("app", "users")));
        assert!(!everywhere.allows("insert", &Resource::of("app", "users")));
        assert!(!everywhere.allows("find", &Resource::of("local", "oplog.rs")));
        assert!(!everywhere.allows("find", &Resource::of("app", "system.js")));
        assert!(!everywhere.allows("find", &Resource::Cluster));
        let local = user(Resource::of("local", ""), &["find"]);
        assert!(local.allows("find", &Resource::of("local", "oplog.rs")));
        assert!(!local.allows("find", &Resource::everywhere()));
        let all = user(Resource::Any, &["anyAction"]);
        assert!(all.allows("setUserWriteBlockMode", &Resource::Cluster));
        assert!(all.allows("find", &Resource::of("local", "oplog.rs")));
        assert!(Access::Open.allows("shutdown", &Resource::Cluster));
        assert!(!Access::User(Vec::new()).allows("find", &Resource::everywhere()));
    }

    #[test]
    fn an_oplog_that_is_not_full_reaches_further() {
        let time = |t| ClusterTime { t, i: 0 };
        let full = OplogSpan { first: time(1_000), last: time(4_600), bytes: 50, max_bytes: 50 };
        assert_eq!(full.window_seconds(), 3_600);
        assert_eq!(full.remaining_seconds(time(1_900)), 900);
        let half = OplogSpan { bytes: 25, ..full };
        assert_eq!(half.window_seconds(), 7_200);
        assert_eq!(half.remaining_seconds(time(1_900)), 4_500);
        let young = OplogSpan { first: time(4_590), bytes: 25, ..full };
        assert_eq!(young.window_seconds(), 3_610, "the burst of a first load is no rate");
        let unknown = OplogSpan { max_bytes: 0, ..full };
        assert_eq!(unknown.window_seconds(), 3_600);
    }

    #[test]
    fn a_refusal_names_everything_that_fails() {
        let mut report = Report::default();
        report.findings.push(Finding::ok("version", "source", "7.0"));
        assert!(report.refusal().is_none());
        let names: Vec<String> = (0..25).map(|n| format!("app.c{n}")).collect();
        report.findings.push(
            Finding::fail("namespaces", "both", Kind::NamespaceConflict, "already there")
                .with_items(names),
        );
        report.findings.push(Finding::fail("x", "source", Kind::UnsupportedVersion, "too old"));
        let error = report.refusal().unwrap();
        assert_eq!(error.kind(), Kind::NamespaceConflict);
        assert!(error.full().contains("app.c19 and 5 more; too old"), "{}", error.full());
    }
}
