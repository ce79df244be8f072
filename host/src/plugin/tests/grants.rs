//! Manifest and operator must agree, and the configuration must fit the manifest's schema.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    guest::{self, FilterText},
    load,
};
use crate::{
    error::Kind,
    model::plugin::{PluginSpec, SecretSource},
};

/// Loads a provider with a manifest that ends in `rest`, and returns kind and text of the refusal.
async fn outcome(rest: &str, change: impl FnOnce(&mut PluginSpec)) -> Option<(Kind, String)> {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", &guest::identity("", ""));
    let manifest =
        format!("name = \"guest\"\nversion = \"1.0.0\"\nworld = \"identity-provider\"\n{rest}");
    std::fs::write(folder.path().join("guest.toml"), manifest).unwrap();
    change(&mut spec);
    load(spec).await.err().map(|error| (error.kind(), error.full()))
}

#[tokio::test]
async fn what_is_granted_and_not_asked_for_is_named() {
    let asks = "[asks]\norigins = [\"https://a.example\"]\nenv = [\"A\"]\nfiles = [\"/a\"]\n\
                secrets = [\"a\"]\nclock = true\n";
    let all = |spec: &mut PluginSpec| {
        spec.grants.origins = vec!["https://a.example".into()];
        spec.grants.env = vec!["A".into()];
        spec.grants.files = vec!["/a".into()];
        spec.grants.secrets.insert("a".into(), SecretSource::Env("A".into()));
        spec.grants.clock = true;
    };
    assert_eq!(outcome(asks, all).await, None);
    for (key, value, line) in [
        ("origins", "https://a.example", "origins = [\"https://a.example\"]\n"),
        ("env", "A", "env = [\"A\"]\n"),
        ("files", "/a", "files = [\"/a\"]\n"),
        ("secrets", "a", "secrets = [\"a\"]\n"),
        ("clock", "true", "clock = true\n"),
    ] {
        let (kind, text) = outcome(&asks.replace(line, ""), all).await.unwrap();
        assert_eq!(kind, Kind::PluginImportDenied);
        assert!(text.contains(&format!("`grants.{key}` has {value}")), "{text}");
        assert!(text.contains("`[asks]`"), "{text}");
    }
}

#[tokio::test]
async fn a_path_may_stand_in_the_configuration_or_in_a_variable() {
    let asks = "[asks]\nfiles = [\"config.tokenFile\", \"env.PATH\"]\n";
    let granted = |path: &str| {
        let path = path.to_owned();
        move |spec: &mut PluginSpec| {
            spec.config = json!({"tokenFile": "/run/token"});
            spec.grants.files = vec![path.into()];
        }
    };
    assert_eq!(outcome(asks, granted("/run/token")).await, None);
    assert_eq!(outcome(asks, granted(&std::env::var("PATH").unwrap())).await, None);
    assert!(outcome(asks, granted("/run/other")).await.is_some());
}

#[tokio::test]
async fn a_wish_for_more_than_the_limits_is_named() {
    for (key, asked) in [("memoryBytes", 134_217_728_u64), ("deadlineMs", 90_000)] {
        let asks = format!("[asks]\n{key} = {asked}\n");
        let (kind, text) = outcome(&asks, |_| {}).await.unwrap();
        assert_eq!(kind, Kind::ConfigInvalid);
        assert!(text.contains(&format!("set `limits.{key}`")), "{text}");
        let raised = |spec: &mut PluginSpec| {
            spec.limits.memory_bytes = Some(134_217_728);
            spec.limits.deadline = Some(std::time::Duration::from_secs(90));
        };
        assert_eq!(outcome(&asks, raised).await, None);
    }
}

#[tokio::test]
async fn the_configuration_is_checked_before_the_guest_sees_it() {
    let schema = "[config]\ntype = \"object\"\nrequired = [\"tenant\"]\n\
                  additionalProperties = false\n\
                  [config.properties.tenant]\ntype = \"string\"\nminLength = 3\n\
                  [config.properties.nested.properties.count]\ntype = \"integer\"\n";
    let with = |config: Value| outcome(schema, move |spec| spec.config = config);
    assert_eq!(with(json!({"tenant": "blue"})).await, None);
    for (config, expected) in [
        (json!({}), "config: `tenant` is missing"),
        (json!({"tenant": "hunter-2", "colour": 1}), "config: unknown key `colour`"),
        (json!({"tenant": "x1"}), "config.tenant: "),
        (json!({"tenant": "blue", "nested": {"count": "hunter-2"}}), "config.nested.count: "),
    ] {
        let (kind, text) = with(config).await.unwrap();
        assert_eq!(kind, Kind::PluginConfigInvalid);
        assert!(text.contains(expected), "{text}");
        // Values may be secrets.
        assert!(!text.contains("hunter-2") && !text.contains("x1"), "{text}");
    }
    let (kind, _) = outcome("[config]\ntype = \"nonsense\"\n", |_| {}).await.unwrap();
    assert_eq!(kind, Kind::ConfigInvalid);
}

#[tokio::test]
async fn the_schema_speaks_before_the_guest() {
    // This guest traps as soon as it is started.
    let folder = TempDir::new().unwrap();
    let text = FilterText { init: "unreachable", ..FilterText::default() };
    let spec = guest::spec(&folder, "guest", &guest::filter(&text));
    std::fs::write(
        folder.path().join("guest.toml"),
        "name = \"guest\"\nversion = \"1.0.0\"\nworld = \"document-filter\"\n\
         [config]\nrequired = [\"keep\"]\n",
    )
    .unwrap();
    assert_eq!(load(spec).await.err().unwrap().kind(), Kind::PluginConfigInvalid);
}
