//! The checks on what clusters may tell.

use std::collections::{BTreeSet, HashMap, HashSet};

use bson::{RawDocumentBuf, rawdoc};

use super::{
    checks::{self, Sizes},
    roles,
    roles::Side,
};
use crate::{
    error::Kind,
    model::{
        ClusterTime, Namespace,
        facts::{Access, ClusterFacts, DiskSpace, Finding, Grade, OplogSpan, Privilege, Resource},
        options::{ClusterLabel, StartOptions, WriteBlocking},
    },
    ports::{ClusterInfo, CollectionInfo, CollectionKind},
};

fn options() -> StartOptions {
    StartOptions::new(ClusterLabel::Cluster0, ClusterLabel::Cluster1)
}

fn info(version: [i64; 3]) -> ClusterInfo {
    ClusterInfo {
        set_name: Some("rs".into()),
        identity: "x".into(),
        hosts: vec!["a:1".into()],
        version: version.to_vec(),
        primary: "a:1".into(),
    }
}

fn collection(name: &str, kind: CollectionKind, options: RawDocumentBuf) -> CollectionInfo {
    let namespace = Namespace::new("app", name).unwrap();
    CollectionInfo { namespace, kind, uuid: None, options, indexes: Vec::new() }
}

/// A user that holds exactly the printed role.
fn user_of_role(side: Side, options: &StartOptions) -> Access {
    let role = roles::role(side, options);
    let privileges = role.get_array("privileges").unwrap().iter().map(|privilege| {
        let privilege = privilege.as_document().unwrap();
        let resource = privilege.get_document("resource").unwrap();
        let resource = match resource.get_bool("cluster") {
            Ok(true) => Resource::Cluster,
            _ => Resource::of(
                resource.get_str("db").unwrap(),
                resource.get_str("collection").unwrap(),
            ),
        };
        let actions = privilege.get_array("actions").unwrap();
        let actions = actions.iter().map(|a| a.as_str().unwrap().to_owned()).collect();
        Privilege { resource, actions }
    });
    Access::User(privileges.collect())
}

fn grades(findings: &[Finding]) -> Vec<Grade> {
    findings.iter().map(|finding| finding.grade).collect()
}

#[test]
fn versions_are_compared_in_every_direction() {
    let fails = |source, destination| {
        let findings = checks::versions(&info(source), &info(destination));
        findings.iter().filter(|finding| finding.kind == Some(Kind::UnsupportedVersion)).count()
    };
    assert_eq!(fails([6, 0, 5], [8, 0, 0]), 0);
    assert_eq!(fails([5, 0, 1], [6, 0, 0]), 1);
    assert_eq!(fails([7, 0, 0], [6, 0, 0]), 1);
    assert_eq!(fails([5, 0, 0], [4, 4, 0]), 3, "everything is told");
    let lower = checks::feature_versions(Some(&[7, 0]), Some(&[6, 0]));
    assert_eq!(grades(&lower), [Grade::Ok, Grade::Ok, Grade::Fail]);
    let unknown = checks::feature_versions(None, Some(&[5, 0]));
    assert_eq!(grades(&unknown), [Grade::Warn, Grade::Fail]);
}

#[test]
fn an_arbiter_without_a_spare_member_is_a_warning() {
    let grade = |data_members, arbiters| {
        let facts = ClusterFacts { data_members, arbiters, ..ClusterFacts::default() };
        checks::topology(Side::Source, &info([6, 0, 5]), &facts).grade
    };
    assert_eq!(grade(1, 0), Grade::Ok);
    assert_eq!(grade(3, 0), Grade::Ok);
    assert_eq!(grade(2, 1), Grade::Warn);
    assert_eq!(grade(4, 1), Grade::Ok);
}

#[test]
fn the_printed_roles_meet_the_check_and_every_action_counts() {
    for blocking in [
        None,
        Some(WriteBlocking::None),
        Some(WriteBlocking::DestinationOnly),
        Some(WriteBlocking::SourceAndDestination),
    ] {
        for reversible in [false, true] {
            let options = StartOptions { write_blocking: blocking, reversible, ..options() };
            for side in Side::ALL {
                let access = user_of_role(side, &options);
                let facts = ClusterFacts { access: access.clone(), ..ClusterFacts::default() };
                let findings = checks::privileges(side, &facts, &options, &BTreeSet::new());
                assert_eq!(grades(&findings), [Grade::Ok], "{side:?} {blocking:?}: {findings:?}");
                let needs = roles::needs(side, &options);
                let Access::User(privileges) = access else { panic!("a user") };
                let actions: usize = privileges.iter().map(|p| p.actions.len()).sum();
                assert_eq!(actions, needs.len(), "nothing is granted that is not needed");
            }
        }
    }
}

#[test]
fn missing_privileges_are_named_with_their_resource() {
    let facts = ClusterFacts {
        access: Access::User(vec![Privilege {
            resource: Resource::everywhere(),
            actions: ["find", "changeStream", "collStats", "listCollections"]
                .map(str::to_owned)
                .into(),
        }]),
        ..ClusterFacts::default()
    };
    let findings = checks::privileges(Side::Source, &facts, &options(), &BTreeSet::new());
    assert_eq!(grades(&findings), [Grade::Fail, Grade::Warn]);
    assert_eq!(findings[0].kind, Some(Kind::PermissionDenied));
    assert_eq!(
        findings[0].items,
        [
            "appendOplogNote on the cluster",
            "listDatabases on the cluster",
            "listIndexes on every database",
            "bypassWriteBlockingMode on the cluster",
            "serverStatus on the cluster",
            "setUserWriteBlockMode on the cluster"
        ]
    );
    assert!(findings[1].items.contains(&"find on local.oplog.rs".to_owned()), "{findings:?}");
}

#[test]
fn privileges_by_database_will_do_but_not_for_the_change_stream() {
    let side_needs = roles::needs(Side::Destination, &options());
    let mut actions: Vec<String> = side_needs.iter().map(|need| need.action.to_owned()).collect();
    actions.sort();
    let on = |name: &str| Privilege { resource: Resource::of(name, ""), actions: actions.clone() };
    let cluster = Privilege { resource: Resource::Cluster, actions: actions.clone() };
    let databases: BTreeSet<String> = ["app".to_owned(), "meta".to_owned()].into();
    let missing = |privileges: Vec<Privilege>| {
        let missing =
            roles::missing(&Access::User(privileges), &side_needs, Side::Destination, &databases);
        missing.iter().any(|need| need.weight == roles::Weight::Required)
    };
    assert!(!missing(vec![cluster.clone(), on("app"), on("meta")]));
    assert!(missing(vec![cluster, on("app")]));
    let source = roles::needs(Side::Source, &options());
    let access = Access::User(vec![on("app"), on("meta")]);
    let missing = roles::missing(&access, &source, Side::Source, &databases);
    assert!(missing.iter().any(|need| need.action == "changeStream"), "{missing:?}");
}

#[test]
fn a_cluster_without_users_is_fine_but_cannot_be_blocked() {
    let facts = ClusterFacts::default();
    let by_table = checks::privileges(Side::Destination, &facts, &options(), &BTreeSet::new());
    assert_eq!(grades(&by_table), [Grade::Ok, Grade::Warn]);
    let options_none = StartOptions { write_blocking: Some(WriteBlocking::None), ..options() };
    let none = checks::privileges(Side::Destination, &facts, &options_none, &BTreeSet::new());
    assert_eq!(grades(&none), [Grade::Ok]);
    assert!(none[0].detail.contains("access control is off"), "{none:?}");
    let write_blocking = Some(WriteBlocking::DestinationOnly);
    let options = StartOptions { write_blocking, ..options() };
    let blocked = checks::privileges(Side::Destination, &facts, &options, &BTreeSet::new());
    assert_eq!(blocked[1].kind, Some(Kind::StartOptionsInvalid));
    let source = checks::privileges(Side::Source, &facts, &options, &BTreeSet::new());
    assert_eq!(grades(&source), [Grade::Ok], "only the destination is to be blocked");
}

#[test]
fn collections_are_refused_all_at_once_with_the_reason() {
    let all = [
        collection("plain", CollectionKind::Collection, RawDocumentBuf::new()),
        collection("ts", CollectionKind::TimeSeries, RawDocumentBuf::new()),
        collection("qe", CollectionKind::Collection, rawdoc! { "encryptedFields": {} }),
    ];
    let finding = checks::supported(&all);
    assert_eq!(finding.items, ["app.ts (time-series)", "app.qe (queryable encryption)"]);
    assert_eq!(finding.kind, Some(Kind::UnsupportedOperation));
    assert_eq!(checks::supported(&all[..1]).grade, Grade::Ok);
    let names = |range: &[CollectionInfo]| -> HashSet<Namespace> {
        range.iter().map(|info| info.namespace.clone()).collect()
    };
    let conflict = checks::conflicts(&names(&all[..2]), &names(&all[2..]), &all[1..]);
    assert_eq!(conflict.items, ["app.ts", "app.qe (not on the source)"]);
    assert_eq!(checks::conflicts(&names(&all), &HashSet::new(), &[]).grade, Grade::Ok);
}

#[test]
fn unique_indexes_of_old_servers_are_named() {
    let mut info = collection("users", CollectionKind::Collection, RawDocumentBuf::new());
    info.indexes = vec![
        rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
        rawdoc! { "v": 2, "key": { "a": 1 }, "name": "a" },
        rawdoc! { "v": 2, "key": { "b": 1 }, "name": "b", "unique": true },
        rawdoc! { "v": 2, "key": { "c": 1 }, "name": "c", "unique": true },
        rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "d", "unique": true, "clustered": true },
    ];
    let namespace = info.namespace.clone();
    let wanted = [info];
    let check = |formats: &[(&str, i64)]| {
        let formats = formats.iter().map(|(name, format)| ((*name).to_owned(), *format)).collect();
        checks::index_formats(&wanted, &HashMap::from([(namespace.clone(), formats)]))
    };
    let sound = check(&[("_id_", 8), ("a", 8), ("b", 14), ("c", 13)]);
    assert_eq!(sound.grade, Grade::Ok);
    assert!(sound.detail.starts_with("2 unique indexes"), "{}", sound.detail);
    let old = check(&[("b", 14), ("c", 12)]);
    assert_eq!(
        (old.grade, &*old.items),
        (Grade::Warn, &["app.users: c (formatVersion 12)".into()][..])
    );
    assert_eq!(check(&[("b", 14)]).grade, Grade::Warn, "unknown");
}

#[test]
fn an_oplog_shorter_than_the_copy_is_a_warning() {
    let time = |t| ClusterTime { t, i: 0 };
    let span = |seconds: u32| ClusterFacts {
        oplog: Some(OplogSpan {
            first: time(1),
            last: time(1 + seconds),
            bytes: 10,
            max_bytes: 10,
        }),
        ..ClusterFacts::default()
    };
    let sizes = |data_bytes| Sizes { data_bytes, stored_bytes: 0 };
    assert_eq!(checks::oplog(&span(1_800), &sizes(0)).grade, Grade::Warn);
    assert_eq!(checks::oplog(&span(7_200), &sizes(0)).grade, Grade::Ok);
    let tebibyte = checks::oplog(&span(7_200), &sizes(1 << 40));
    assert_eq!(tebibyte.grade, Grade::Warn);
    assert!(tebibyte.detail.contains("2 hours") && tebibyte.detail.contains("14 hours"));
    assert_eq!(checks::oplog(&ClusterFacts::default(), &sizes(0)).grade, Grade::Warn);
}

#[test]
fn a_disk_that_is_too_small_is_refused_unless_told_otherwise() {
    const GIB: u64 = 1 << 30;
    let facts = |free, oplog_free: u64| ClusterFacts {
        disk: Some(DiskSpace { total_bytes: 100 * GIB, used_bytes: 100 * GIB - free }),
        oplog: Some(OplogSpan {
            first: ClusterTime::ZERO,
            last: ClusterTime::ZERO,
            bytes: 0,
            max_bytes: oplog_free,
        }),
        ..ClusterFacts::default()
    };
    let sizes = Sizes { data_bytes: 20 * GIB, stored_bytes: 10 * GIB };
    let grade = |facts: &ClusterFacts| checks::disk(facts, &sizes, &options()).grade;
    assert_eq!(grade(&facts(12 * GIB, 0)), Grade::Ok);
    assert_eq!(grade(&facts(12 * GIB - 1, 0)), Grade::Fail);
    assert_eq!(grade(&facts(12 * GIB, 1)), Grade::Fail, "the oplog grows, too");
    assert_eq!(grade(&facts(32 * GIB, 50 * GIB)), Grade::Ok, "but not beyond what is copied");
    let kind = checks::disk(&facts(0, 0), &sizes, &options()).kind;
    assert_eq!(kind, Some(Kind::InsufficientDestinationDiskSpace));
    let skip = StartOptions { skip_disk_space_check: true, ..options() };
    assert_eq!(checks::disk(&facts(0, 0), &sizes, &skip).grade, Grade::Warn);
    assert_eq!(checks::disk(&ClusterFacts::default(), &sizes, &options()).grade, Grade::Warn);
}
