//! Layers, checks and messages of the configuration.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use secrecy::ExposeSecret;
use serde_json::json;

use super::*;
use crate::model::{
    options::{CollectionMatch, DatabaseMatch},
    plugin::ComponentSource,
};

const URI0: &str = "mongodb://bob:hunter2@h0:1/";
const URI1: &str = "mongodb://h1:1/";

/// A config file in a directory that lives as long as the test.
struct Written {
    dir: tempfile::TempDir,
    path: PathBuf,
}

fn write(yaml: &str) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sync.yaml");
    std::fs::write(&path, yaml).unwrap();
    Written { dir, path }
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn flags(pairs: &[(&'static str, &str)]) -> Layer {
    let mut layer = Layer::new();
    for (name, text) in pairs {
        layer.set_flag(name, *text);
    }
    layer
}

fn load_file(yaml: &str) -> Result<Config> {
    let file = write(yaml);
    Config::load(flags(&[("cluster0", URI0), ("cluster1", URI1)]), Some(&file.path), &env(&[]))
}

#[test]
fn defaults_hold_when_only_the_clusters_are_given() {
    let config =
        Config::load(flags(&[("cluster0", URI0), ("cluster1", URI1)]), None, &env(&[])).unwrap();
    assert_eq!(config.uri(ClusterLabel::Cluster0).expose_secret(), URI0);
    assert_eq!(config.uri(ClusterLabel::Cluster1).expose_secret(), URI1);
    assert_eq!((config.port, config.load_level), (27182, None));
    assert_eq!(config.metadata_database, "syncline_metadata");
    assert_eq!(config.verbosity, Verbosity::Info);
    assert_eq!(config.log_path, None);
    assert_eq!(config.instance_id.len(), 36);
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let file = write("port: 1\nloadLevel: 1\nverbosity: warn\ncluster0: mongodb://f\nid: file");
    let config = Config::load(
        flags(&[("port", "3"), ("cluster1", URI1)]),
        Some(&file.path),
        &env(&[("SYNCLINE_PORT", "2"), ("SYNCLINE_LOAD_LEVEL", "2"), ("SYNCLINE_ID", "")]),
    )
    .unwrap();
    assert_eq!((config.port, config.load_level, config.verbosity), (3, Some(2), Verbosity::Warn));
    assert_eq!(config.cluster0.expose_secret(), "mongodb://f");
    assert_eq!(config.instance_id, "file", "an empty variable is as if unset");
}

#[test]
fn the_environment_can_name_the_file() {
    let file = write("cluster0: mongodb://a\ncluster1: mongodb://b\nport: 5");
    let path = file.path.to_str().unwrap();
    let config = Config::load(Layer::new(), None, &env(&[("SYNCLINE_CONFIG", path)])).unwrap();
    assert_eq!(config.port, 5);
}

#[test]
fn connection_strings_come_from_files_and_variables() {
    let file = write("");
    let secret = file.dir.path().join("uri");
    std::fs::write(&secret, format!("{URI0}\n")).unwrap();
    let config = Config::load(
        flags(&[("cluster0", &format!("file:{}", secret.display())), ("cluster1", "env:DEST")]),
        None,
        &env(&[("DEST", URI1)]),
    )
    .unwrap();
    assert_eq!(config.cluster0.expose_secret(), URI0);
    assert_eq!(config.cluster1.expose_secret(), URI1);
}

#[test]
fn all_problems_come_at_once_and_no_secret_with_them() {
    let file = write(
        "lodLevel: 2\nport: 70000\nverbosity: LOUD\nacceptDisclaimer: maybe\n\
         createIndexesBatchSize: 65\nmetadataDatabase: admin\nlogPath: [a]\nhotDocIDs: x\n\
         enableCappedCollectionHandling: maybe\n",
    );
    let error = Config::load(
        flags(&[("cluster0", "hunter2:hunter2@host"), ("loadLevel", "9")]),
        Some(&file.path),
        &env(&[("SYNCLINE_CLUSTER1", "env:hunter_two_unset")]),
    )
    .unwrap_err();
    assert_eq!(error.kind(), Kind::ConfigInvalid);
    let text = error.full();
    for expected in [
        "unknown key `lodLevel`, did you mean `loadLevel`?",
        &format!("port in {}: expected a whole number from 0 to 65535", file.path.display()),
        "unknown value `LOUD`",
        "acceptDisclaimer: expected true or false",
        "expected a whole number from 1 to 64",
        "`admin` belongs to the server",
        "logPath: expected a single value, found a list",
        "--cluster0: expected mongodb://",
        "SYNCLINE_CLUSTER1: the environment variable hunter_two_unset is not set",
        "--loadLevel: expected a whole number from 1 to 4",
        "hotDocIDs in ",
        "is no JSON",
        "enableCappedCollectionHandling: expected true or false",
        "12 problems:",
    ] {
        assert!(text.contains(expected), "`{expected}` not in: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_missing_or_broken_file_says_so_without_showing_it() {
    let error =
        Config::load(Layer::new(), Some(Path::new("/no/such/file")), &env(&[])).unwrap_err();
    assert!(error.full().contains("/no/such/file: cannot be read"), "{}", error.full());
    assert!(error.full().contains("cluster0: is missing; give --cluster0"));
    for broken in [
        "cluster0: \"mongodb://bob:hunter2@h\ncluster1: [",
        "cluster0: mongodb://bob:hunter2@h\ncluster0: mongodb://bob:hunter2@h\n",
        "cluster0: mongodb://bob:hunter2@h\n  cluster1: x: y\n",
    ] {
        let text = load_file(broken).unwrap_err().full();
        assert!(text.contains("is no valid YAML") && text.contains(" at line "), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(load_file("- a\n- b").unwrap_err().full().contains("expected an object, found a list"));
}

#[test]
fn debug_shows_no_connection_string() {
    let layer = flags(&[("cluster0", URI0), ("cluster1", URI1)]);
    assert!(!format!("{layer:?}").contains("hunter2"));
    let config = Config::load(layer, None, &env(&[])).unwrap();
    let text = format!("{config:?}");
    assert!(!text.contains("hunter2") && text.contains("27182"), "{text}");
}

#[test]
fn plugins_filters_and_identity_are_read() {
    let digest = "Ab".repeat(32);
    let file = write(&format!(
        "plugins:\n\
         - name: active-users\n  component: builtin:match-documents\n  config: {{ keep: {{ status: active }} }}\n\
         - name: mask\n  component: masks/mask.wasm\n  digest: sha256:{digest}\n\
         \x20 grants: {{ origins: ['https://Login.Example.com:443'], env: [A], files: [/etc/x], clock: true }}\n\
         \x20 limits: {{ memoryBytes: 1048576, deadlineMs: 250 }}\n\
         filters:\n- namespaces: [{{ database: app, collections: [users] }}]\n  plugins: [active-users, mask]\n\
         identity:\n  azureImdsEndpoint: http://127.0.0.1:9000\n  cluster0: {{ plugin: azure-imds, tokenResource: 'a,b', allowedHosts: [db.example, '*.x.example', '::1'] }}\n"
    ));
    let config =
        Config::load(flags(&[("cluster0", URI0), ("cluster1", URI1)]), Some(&file.path), &env(&[]))
            .unwrap();
    let [active, mask] = config.plugins.as_slice() else { panic!("{:?}", config.plugins) };
    assert_eq!(active.component, ComponentSource::Builtin("match-documents".into()));
    assert_eq!(active.config, json!({"keep": {"status": "active"}}));
    assert_eq!(mask.component, ComponentSource::File(file.dir.path().join("masks/mask.wasm")));
    assert_eq!(mask.digest, Some("ab".repeat(32)));
    assert_eq!(mask.grants.origins, ["https://login.example.com"]);
    assert_eq!(mask.grants.env, ["A"]);
    assert_eq!(mask.grants.files, [PathBuf::from("/etc/x")]);
    assert!(mask.grants.clock && !active.grants.clock);
    assert_eq!(mask.limits.memory_bytes, Some(1_048_576));
    assert_eq!(mask.limits.deadline, Some(Duration::from_millis(250)));
    let filter = &config.filters[0];
    assert_eq!(filter.plugins, ["active-users", "mask"]);
    assert_eq!(filter.namespaces[0].database, DatabaseMatch::Name("app".into()));
    assert_eq!(filter.namespaces[0].collections, CollectionMatch::Names(vec!["users".into()]));
    assert_eq!(config.identity.azure_imds_endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    let own = config.identity.of(ClusterLabel::Cluster0).unwrap();
    assert_eq!(own.plugin.as_deref(), Some("azure-imds"));
    assert_eq!(own.token_resource.as_deref(), Some("a,b"));
    assert_eq!(own.allowed_hosts.as_ref().unwrap(), &["db.example", "*.x.example", "::1"]);
    assert_eq!(config.identity.of(ClusterLabel::Cluster1), None);
}

#[test]
fn every_fault_of_the_sections_is_named() {
    let error = load_file(
        "plugins:\n- name: a b\n  component: 'builtin:'\n- name: twice\n  component: x.wasm\n\
         - name: twice\n  component: x.wasm\n  digest: md5:1\n  limit: {}\n\
         - name: p\n  component: x.wasm\n  grants: { origins: ['ftp://x', 'https://u:hunter2@h', 'https://h/p'], files: [rel], clock: yes }\n\
         \x20 limits: { memoryBytes: 1, deadlineMs: 0 }\n- component: ''\n\
         filters:\n- namespaces: []\n  plugins: [twicee]\n- namespaces: [{ database: app }]\n\
         identity: { azureImdsEndpoint: nowhere, cluster0: { plugin: a/b, allowedHosts: ['db:1'] }, cluster2: {} }\n",
    )
    .unwrap_err();
    let text = error.full();
    for expected in [
        "plugins[0].name: a name has",
        "plugins[0].component: names no plugin after `builtin:`",
        "plugins[2]: the name `twice` is taken",
        "plugins[2].digest: expected sha256:",
        "plugins[2]: unknown key `limit`, did you mean `limits`?",
        "plugins[3].grants.origins[0]: expected http",
        "plugins[3].grants.origins[1]: expected http",
        "plugins[3].grants.origins[2]: expected http",
        "plugins[3].grants.files: expected absolute",
        "plugins[3].grants.clock: expected true or false",
        "plugins[3].limits.memoryBytes: expected a whole number from 65536",
        "plugins[3].limits.deadlineMs: expected a whole number from 1",
        "plugins[4]: `name` is missing",
        "plugins[4].component: is empty",
        "filters[0]: `namespaces` is missing or empty",
        "filters[0].plugins: no plugin is named `twicee`, did you mean `twice`?",
        "filters[1]: `plugins` is missing or empty",
        "identity.azureImdsEndpoint: expected http",
        "identity.cluster0.plugin: a name has",
        "identity.cluster0.allowedHosts: expected names",
        "identity: unknown key `cluster2`, did you mean `cluster",
    ] {
        assert!(text.contains(expected), "`{expected}` not in: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn clients_take_the_port_of_the_environment() {
    assert_eq!(client_port(&env(&[])).unwrap(), 27182);
    assert_eq!(client_port(&env(&[("SYNCLINE_PORT", "7")])).unwrap(), 7);
    assert!(
        client_port(&env(&[("SYNCLINE_PORT", "x")])).unwrap_err().full().contains("SYNCLINE_PORT")
    );
}

/// Every option with a value that is right, and one that is wrong where not every text will do.
const EVERY: &[(&str, &str, Option<&str>)] = &[
    ("cluster0", "mongodb://a:1/", Some("http://a")),
    ("cluster1", "mongodb://b:1/", Some("b:1")),
    ("port", "27183", Some("65536")),
    ("logPath", "/nowhere/logs", None),
    ("verbosity", "debug", Some("LOUD")),
    ("loadLevel", "4", Some("5")),
    ("metadataDatabase", "meta", Some("admin")),
    ("id", "shard01", None),
    ("createIndexesBatchSize", "64", Some("65")),
    ("acceptDisclaimer", "true", Some("maybe")),
    ("disableTelemetry", "true", Some("maybe")),
    ("disableVerification", "false", Some("maybe")),
    ("disableMetricsLogging", "true", Some("maybe")),
    ("metricsLoggingFilepath", "/nowhere/metrics", None),
    ("enableCappedCollectionHandling", "true", Some("maybe")),
];

/// The rows as a layer each way: by flag, by variable, by file.
fn every_way(values: &[(&'static str, &str)]) -> [Result<Config>; 3] {
    let by_env: Vec<(&str, &str)> = values
        .iter()
        .map(|(name, value)| {
            let option = names::OPTIONS.iter().find(|option| option.name == *name).unwrap();
            (option.env, *value)
        })
        .collect();
    let lines: Vec<String> =
        values.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let file = write(&lines.concat());
    [
        Config::load(flags(values), None, &env(&[])),
        Config::load(Layer::new(), None, &env(&by_env)),
        Config::load(Layer::new(), Some(&file.path), &env(&[])),
    ]
}

#[test]
fn every_option_is_taken_by_every_layer() {
    let right: Vec<(&'static str, &str)> = EVERY.iter().map(|(n, right, _)| (*n, *right)).collect();
    for config in every_way(&right) {
        let config = config.unwrap();
        assert_eq!((config.port, config.metadata_database.as_str()), (27183, "meta"));
        assert_eq!((config.instance_id.as_str(), config.verbosity), ("shard01", Verbosity::Debug));
        assert_eq!(config.create_indexes_batch_size, Some(64));
    }
}

#[test]
fn metrics_are_written_where_the_operator_says_unless_switched_off() {
    let clusters = [("cluster0", "mongodb://a:1/"), ("cluster1", "mongodb://b:1/")];
    let path = |more: &[(&'static str, &str)]| {
        let values = [clusters.as_slice(), more].concat();
        Config::load(flags(&values), None, &env(&[])).unwrap().metrics_path
    };
    let given = ("metricsLoggingFilepath", "/nowhere/metrics");
    assert_eq!(path(&[]), None);
    assert_eq!(path(&[given]), Some("/nowhere/metrics".into()));
    assert_eq!(path(&[given, ("disableMetricsLogging", "false")]), Some("/nowhere/metrics".into()));
    assert_eq!(path(&[given, ("disableMetricsLogging", "true")]), None);
}

#[test]
fn every_wrong_value_is_named_at_once_by_every_layer() {
    let wrong: Vec<(&'static str, &str)> =
        EVERY.iter().filter_map(|(name, _, wrong)| Some((*name, (*wrong)?))).collect();
    for config in every_way(&wrong) {
        let text = config.unwrap_err().full();
        for (name, _) in &wrong {
            let option = names::OPTIONS.iter().find(|option| option.name == *name).unwrap();
            assert!(text.contains(name) || text.contains(option.env), "no {name} in: {text}");
        }
        assert!(text.contains(&format!("{} problems", wrong.len())), "{text}");
    }
}
