//! The body of `/start`, read into [`StartOptions`]; everything wrong with it is reported at once.

use serde_json::{Map, Value};

use crate::{
    config::{
        namespaces,
        problems::{Case, Fields, Layout, Problems, unknown},
    },
    error::{Kind, Result},
    model::options::{
        BuildIndexes, ClusterLabel, CollectionMatch, DatabaseMatch, NamePattern, NamespaceMatch,
        StartOptions, WriteBlocking,
    },
};

/// Keys of the body.
const KEYS: &[&str] = &[
    "source",
    "destination",
    "buildIndexes",
    "detectRandomId",
    "copyInNaturalOrder",
    "includeNamespaces",
    "excludeNamespaces",
    "preExistingDestinationData",
    "reversible",
    "sharding",
    "skipDiskSpaceCheck",
    "verification",
    "enableUserWriteBlocking",
    "documentFilter",
    "namespaceRemap",
    "destinationDataHandling",
];
/// Words of `buildIndexes`.
const BUILD_INDEXES: &[&str] =
    &["afterDataCopy", "beforeDataCopy", "excludeHashedAfterCopy", "excludeHashed", "never"];
/// Words of `enableUserWriteBlocking`.
const WRITE_BLOCKING: &[&str] = &["none", "destinationOnly", "sourceAndDestination"];

/// Reads the body.
///
/// # Errors
/// `StartOptionsInvalid` with every problem found.
pub(super) fn parse(body: &Map<String, Value>) -> Result<StartOptions> {
    let mut problems = Problems::new();
    let fields = Fields::of_map(body, "", KEYS, Case::Ignore, &mut problems);
    let (source, destination) = roles(&fields, &mut problems);
    let build_indexes = fields
        .word("buildIndexes", BUILD_INDEXES, BuildIndexes::parse, &mut problems)
        .unwrap_or_default();
    let write_blocking = write_blocking(&fields, &mut problems);
    let include_namespaces = filter(&fields, "includeNamespaces", &mut problems);
    let exclude_namespaces = filter(&fields, "excludeNamespaces", &mut problems);
    let namespace_remap = namespaces::parse_remap(
        fields.list("namespaceRemap", &mut problems),
        "namespaceRemap",
        Case::Ignore,
        &mut problems,
    );
    let pre_existing = fields.switch("preExistingDestinationData", &mut problems).unwrap_or(false);
    let is_filtered = !(include_namespaces.is_empty() && exclude_namespaces.is_empty());
    if pre_existing {
        if !is_filtered {
            problems.add("preExistingDestinationData", "needs a namespace filter");
        }
        if write_blocking.is_some_and(|mode| mode != WriteBlocking::None) {
            problems.add(
                "preExistingDestinationData",
                "blocks nobody's writes; leave out enableUserWriteBlocking",
            );
        }
    }
    let verification = verification(&fields, &mut problems);
    let reversible = fields.switch("reversible", &mut problems).unwrap_or(false);
    if reversible && build_indexes == BuildIndexes::Never {
        problems.add("reversible", "cannot be combined with buildIndexes: never");
    }
    for (given, with) in [
        (is_filtered, "a namespace filter"),
        (pre_existing, "preExistingDestinationData"),
        (!namespace_remap.is_empty(), "namespaceRemap"),
    ] {
        if reversible && given {
            problems.add("reversible", format!("cannot be combined with {with}"));
        }
    }
    let natural_order = natural_order(&fields, &mut problems);
    let detect_random_id = fields.switch("detectRandomId", &mut problems).unwrap_or(true);
    let skip_disk_space_check = fields.switch("skipDiskSpaceCheck", &mut problems).unwrap_or(false);
    refuse_what_is_missing(&fields, &mut problems);
    problems.finish(Kind::StartOptionsInvalid, "the start options are invalid", Layout::Inline)?;
    Ok(StartOptions {
        source,
        destination,
        build_indexes,
        write_blocking,
        include_namespaces,
        exclude_namespaces,
        namespace_remap,
        pre_existing,
        verification,
        reversible,
        natural_order,
        detect_random_id,
        skip_disk_space_check,
    })
}

/// `source` and `destination`.
fn roles(fields: &Fields<'_>, problems: &mut Problems) -> (ClusterLabel, ClusterLabel) {
    const LABELS: &[&str] = &["cluster0", "cluster1"];
    let mut role = |name: &'static str| {
        if fields.get(name).is_none() {
            problems.add("", format!("`{name}` is missing: cluster0 or cluster1"));
        }
        fields.word(name, LABELS, cluster, problems)
    };
    let (source, destination) = (role("source"), role("destination"));
    if let (Some(source), Some(destination)) = (source, destination)
        && source == destination
    {
        problems.add("", format!("source and destination are both {}", source.name()));
    }
    (source.unwrap_or(ClusterLabel::Cluster0), destination.unwrap_or(ClusterLabel::Cluster1))
}

/// Parses `cluster0` or `cluster1`.
fn cluster(word: &str) -> Option<ClusterLabel> {
    [ClusterLabel::Cluster0, ClusterLabel::Cluster1].into_iter().find(|label| label.name() == word)
}

/// `enableUserWriteBlocking`: a boolean as in old versions, or a word; absent, the sync chooses.
fn write_blocking(fields: &Fields<'_>, problems: &mut Problems) -> Option<WriteBlocking> {
    const NAME: &str = "enableUserWriteBlocking";
    match fields.get(NAME) {
        None => None,
        Some(Value::Bool(false)) => Some(WriteBlocking::None),
        Some(Value::Bool(true)) => Some(WriteBlocking::SourceAndDestination),
        Some(Value::String(word)) => WriteBlocking::parse(word).or_else(|| {
            problems.add(NAME, unknown("value", word, WRITE_BLOCKING));
            None
        }),
        Some(_) => {
            problems
                .add(NAME, format!("expected true, false or one of {}", WRITE_BLOCKING.join(", ")));
            None
        }
    }
}

/// `includeNamespaces` or `excludeNamespaces`.
fn filter(fields: &Fields<'_>, name: &str, problems: &mut Problems) -> Vec<NamespaceMatch> {
    namespaces::parse(fields.list(name, problems), name, Case::Ignore, problems)
}

/// `copyInNaturalOrder`: databases by name, `.` for all, each with its collections or whole.
fn natural_order(fields: &Fields<'_>, problems: &mut Problems) -> Vec<NamespaceMatch> {
    const NAME: &str = "copyInNaturalOrder";
    const KEYS: &[&str] = &["database", "collections"];
    let mut entries = Vec::new();
    for (index, item) in fields.list(NAME, problems).iter().enumerate() {
        let place = format!("{NAME}[{index}]");
        let Some(entry) = Fields::open(item, &place, KEYS, Case::Ignore, problems) else {
            continue;
        };
        if entry.text("database", problems) != Some(".") {
            entries.extend(namespaces::parse_entry(item, &place, Case::Ignore, problems));
        } else if entry.get("collections").is_some() {
            problems.add(&place, "`.` means all databases and takes no `collections`");
        } else {
            entries.push(NamespaceMatch {
                database: DatabaseMatch::Pattern(NamePattern {
                    pattern: "^".into(),
                    options: String::new(),
                }),
                collections: CollectionMatch::All,
            });
        }
    }
    entries
}

/// `verification: {enabled}`.
fn verification(fields: &Fields<'_>, problems: &mut Problems) -> Option<bool> {
    let value = fields.get("verification")?;
    Fields::open(value, "verification", &["enabled"], Case::Ignore, problems)?
        .switch("enabled", problems)
}

/// Options that this release knows but cannot honour: never ignored, always named.
fn refuse_what_is_missing(fields: &Fields<'_>, problems: &mut Problems) {
    if fields.get("sharding").is_some() {
        problems.add("sharding", "sharded clusters are not supported yet; leave it out");
    }
    if fields.get("documentFilter").is_some() {
        problems.add("documentFilter", "is not supported; use a plugin under `filters`");
    }
    match fields.text("destinationDataHandling", problems) {
        None | Some("requireEmptyDestination") => {}
        Some(_) => problems.add(
            "destinationDataHandling",
            "only requireEmptyDestination is supported; leave it out",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Result<StartOptions> {
        parse(body.as_object().unwrap())
    }

    #[test]
    fn the_smallest_body_has_the_defaults() {
        let options = read(&json!({"source": "cluster0", "destination": "cluster1"})).unwrap();
        assert_eq!(options, StartOptions::new(ClusterLabel::Cluster0, ClusterLabel::Cluster1));
    }

    #[test]
    fn a_full_body_is_read_whatever_the_case_of_its_keys() {
        let options = read(&json!({
            "Source": "cluster1", "DESTINATION": "cluster0", "BuildIndexes": "never",
            "detectRandomId": true, "skipDiskSpaceCheck": true, "reversible": false,
            "Verification": {"Enabled": false}, "enableUserWriteBlocking": "destinationOnly",
            "includeNamespaces": [{"Database": "a"}], "sharding": null,
            "excludeNamespaces": [{"database": "a", "collections": ["x"]}],
            "copyInNaturalOrder": [], "preExistingDestinationData": false}))
        .unwrap();
        assert_eq!(options.source, ClusterLabel::Cluster1);
        assert_eq!(options.build_indexes, BuildIndexes::Never);
        assert_eq!(options.verification, Some(false));
        assert!(options.skip_disk_space_check);
        assert_eq!(options.write_blocking, Some(WriteBlocking::DestinationOnly));
        assert_eq!(options.include_namespaces[0].database, DatabaseMatch::Name("a".into()));
        assert_eq!(
            options.exclude_namespaces[0].collections,
            CollectionMatch::Names(vec!["x".into()])
        );
    }

    #[test]
    fn natural_order_takes_names_or_everything() {
        let body = |list: Value| {
            read(
                &json!({"source": "cluster0", "destination": "cluster1", "copyInNaturalOrder": list}),
            )
        };
        let named = body(json!([{"database": "a"}, {"database": "b", "collections": ["c"]}]));
        let named = named.unwrap().natural_order;
        assert_eq!(named[0].collections, CollectionMatch::All);
        assert_eq!(named[1].collections, CollectionMatch::Names(vec!["c".into()]));
        let all = body(json!([{"database": "."}])).unwrap().natural_order;
        assert!(matches!(&all[0].database, DatabaseMatch::Pattern(p) if p.pattern == "^"));
        let refused = body(json!([{"database": ".", "collections": ["c"]}])).unwrap_err().full();
        assert!(refused.contains("takes no `collections`"), "{refused}");
    }

    #[test]
    fn write_blocking_may_be_a_boolean() {
        for (given, read_as) in [
            (json!(true), WriteBlocking::SourceAndDestination),
            (json!(false), WriteBlocking::None),
            (json!("sourceAndDestination"), WriteBlocking::SourceAndDestination),
            (json!("none"), WriteBlocking::None),
        ] {
            let options = read(&json!({"source": "cluster0", "destination": "cluster1",
                "enableUserWriteBlocking": given}));
            assert_eq!(options.unwrap().write_blocking, Some(read_as));
        }
    }

    #[test]
    fn every_word_of_the_two_lists_parses() {
        assert!(BUILD_INDEXES.iter().all(|word| BuildIndexes::parse(word).is_some()));
        assert!(WRITE_BLOCKING.iter().all(|word| WriteBlocking::parse(word).is_some()));
    }

    #[test]
    fn all_problems_come_at_once() {
        let error = read(&json!({
            "source": "cluster0", "destination": "cluster0", "buildIndex": "never",
            "buildIndexes": "later", "reversible": true, "sharding": {"shardingEntries": []},
            "copyInNaturalOrder": [{"databaseRegex": "."}], "preExistingDestinationData": true,
            "verification": {"enable": true}, "enableUserWriteBlocking": 7,
            "includeNamespaces": [{}], "detectRandomId": "yes",
            "documentFilter": {}, "namespaceRemap": [{}], "destinationDataHandling": "other"}))
        .unwrap_err();
        assert_eq!(error.kind(), Kind::StartOptionsInvalid);
        let text = error.full();
        for expected in [
            "source and destination are both cluster0",
            "unknown key `buildIndex`, did you mean `buildIndexes`?",
            "buildIndexes: unknown value `later`; known: afterDataCopy",
            "sharding: sharded clusters are not supported yet",
            "copyInNaturalOrder[0]: unknown key `databaseRegex`",
            "reversible: cannot be combined with preExistingDestinationData",
            "preExistingDestinationData: needs a namespace filter",
            "verification: unknown key `enable`, did you mean `enabled`?",
            "enableUserWriteBlocking: expected true, false or one of",
            "includeNamespaces[0]: needs a `database`",
            "detectRandomId: expected true or false, found a string",
            "documentFilter: is not supported",
            "namespaceRemap[0]: needs `from`",
            "destinationDataHandling: only requireEmptyDestination",
        ] {
            assert!(text.contains(expected), "`{expected}` not in: {text}");
        }
        assert!(!text.contains('\n'));
    }

    #[test]
    fn every_field_has_a_type_and_a_wrong_one_is_named() {
        let mut body = Map::new();
        for key in KEYS {
            body.insert((*key).to_owned(), json!(7));
        }
        let text = parse(&body).unwrap_err().full();
        for key in KEYS {
            assert!(text.contains(key), "no {key} in: {text}");
        }
    }

    #[test]
    fn both_roles_are_needed() {
        let text = read(&json!({})).unwrap_err().full();
        assert!(text.contains("`source` is missing") && text.contains("`destination` is missing"));
    }
}
