//! The conformance suite, run over every plugin that is built in and over guests that break the
//! contract in ways that no single batch shows.

use std::path::Path;

use bson::rawdoc;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::guest::{self, FilterText};
use crate::{
    error::Kind,
    model::{
        Namespace,
        author::{Conformance, Fate, Outcome, Subject},
        plugin::{ComponentSource, PluginSettings, World},
    },
    plugin::author,
};

/// A subject of a component.
fn subject(component: ComponentSource, config: Value) -> Subject {
    Subject { component, manifest: None, config }
}

/// What the suite finds.
async fn conform(subject: &Subject, name: &str) -> Conformance {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../plugins/{name}/tests/golden"));
    let goldens: Vec<_> = golden.is_dir().then_some(golden).into_iter().collect();
    author::conform(subject, &goldens, &PluginSettings::default()).await.unwrap()
}

/// The checks that failed, with why.
fn failures(found: &Conformance) -> Vec<String> {
    let failed = found.checks.iter().filter_map(|check| match &check.outcome {
        Outcome::Failed(why) => Some(format!("{}: {why}", check.name)),
        Outcome::Passed | Outcome::Skipped(_) => None,
    });
    failed.collect()
}

#[tokio::test]
async fn every_built_in_plugin_keeps_the_contract() {
    let _crypto = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut seen = 0;
    for (name, config) in [
        ("match-documents", json!({"keep": {"status": "active"}})),
        (
            "redact-fields",
            json!({"remove": ["value", "inner.value"], "mask": [{"field": "plain"}]}),
        ),
        ("rename-fields", json!({"rename": {"value": "inner.other"}})),
        ("azure-aks", json!({"federatedTokenFile": "/does/not/exist"})),
        ("azure-imds", json!({})),
        ("gcp", json!({})),
        ("workforce-oidc", json!({})),
        ("token-file", json!({"path": "/does/not/exist"})),
    ] {
        let subject = subject(ComponentSource::Builtin(name.to_owned()), config);
        let found = conform(&subject, name).await;
        assert_eq!(failures(&found), Vec::<String>::new(), "{name}");
        assert!(found.checks.len() >= 9, "{name}: {}", found.checks.len());
        seen += 1;
    }
    assert_eq!(seen, syncline_plugin_bundle::names().count());
}

/// What the suite finds wrong with a text guest.
async fn wrong(text: FilterText) -> String {
    let folder = TempDir::new().unwrap();
    let spec = guest::spec(&folder, "guest", &guest::filter(&text));
    let found = conform(&subject(spec.component, json!({})), "none").await;
    failures(&found).join("\n")
}

#[tokio::test]
async fn a_text_guest_that_behaves_passes() {
    assert_eq!(wrong(FilterText::default()).await, "");
}

#[tokio::test]
async fn verdicts_that_depend_on_something_else_are_found() {
    // Drops the last document of every batch.
    let by_position = "(i32.store (i32.const 1028)
          (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
        (i32.store (i32.const 1032) (local.get $count))
        (if (local.get $count) (then (i32.store8
          (i32.add (i32.load (i32.const 1028)) (i32.sub (local.get $count) (i32.const 1)))
          (i32.const 1))))";
    let found = wrong(FilterText { apply: by_position, ..FilterText::default() }).await;
    assert!(found.contains("a document alone gets the same verdict"), "{found}");
    assert!(found.contains("first kept, then dropped"), "{found}");
    // Drops everything from its second call on.
    let by_call = FilterText {
        imports: "(global $calls (mut i32) (i32.const 0))",
        apply: "(i32.store (i32.const 1028)
              (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
            (i32.store (i32.const 1032) (local.get $count))
            (memory.fill (i32.load (i32.const 1028))
              (i32.ne (global.get $calls) (i32.const 0)) (local.get $count))
            (global.set $calls (i32.const 1))",
        ..FilterText::default()
    };
    let found = wrong(by_call).await;
    assert!(found.contains("earlier calls do not matter"), "{found}");
}

#[tokio::test]
async fn guests_that_end_badly_are_told_with_their_error() {
    for (text, expected) in [
        (FilterText { apply: "unreachable", ..FilterText::default() }, "SYNC-1507"),
        (FilterText { init: "unreachable", ..FilterText::default() }, "SYNC-1507"),
        (FilterText { apply: "(loop $l (br $l))", ..FilterText::default() }, "SYNC-1508"),
        (
            FilterText {
                apply: "(drop (memory.grow (i32.const 900)))
                    (loop $m (br_if $m (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
                    unreachable",
                ..FilterText::default()
            },
            "SYNC-1509",
        ),
        (FilterText { apply: "", ..FilterText::default() }, "SYNC-1510"),
    ] {
        let found = wrong(text).await;
        assert!(found.contains(expected), "{expected}: {found}");
    }
    // It keeps what it was given and never gives it back.
    let leaking = FilterText {
        apply: "(drop (memory.grow (i32.const 16)))
            (memory.fill (i32.const 65536) (i32.const 0) (i32.const 16))
            (i32.store (i32.const 1028)
              (call $allocate (i32.const 0) (i32.const 0) (i32.const 1) (local.get $count)))
            (i32.store (i32.const 1032) (local.get $count))
            (if (i32.gt_u (memory.size) (i32.const 1000)) (then unreachable))",
        ..FilterText::default()
    };
    let found = wrong(leaking).await;
    assert!(found.contains("nor do many of them"), "{found}");
}

#[tokio::test]
async fn a_file_that_cannot_be_loaded_is_a_failed_check() {
    let folder = TempDir::new().unwrap();
    let spec = guest::spec(&folder, "guest", b"no component");
    let found = conform(&subject(spec.component, json!({})), "none").await;
    assert!(failures(&found)[0].contains("SYNC-1502"), "{found:?}");
}

#[tokio::test]
async fn an_identity_provider_that_breaks_its_word_is_found() {
    let folder = TempDir::new().unwrap();
    // Traps when it is asked for a token; its descriptor is empty.
    let spec = guest::spec(&folder, "guest", &guest::identity("", "unreachable"));
    let found = conform(&subject(spec.component, json!({})), "none").await;
    let text = failures(&found).join("\n");
    for expected in ["SYNC-1507", "`flows` is empty", "needs a plugin.toml"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[tokio::test]
async fn documents_are_judged_as_the_daemon_judges_them() {
    let config = json!({"keep": {"status": "active"}});
    let builtin = ComponentSource::Builtin("match-documents".to_owned());
    let (namespace, settings) = (Namespace::parse("a.b").unwrap(), PluginSettings::default());
    let documents = [rawdoc! {"_id": 1, "status": "active"}, rawdoc! {"_id": 2}];
    let subject = subject(builtin, config);
    let fates = author::judge(&subject, &namespace, &documents, &settings).await.unwrap();
    assert_eq!(fates, [Fate::Kept(documents[0].clone()), Fate::Dropped]);
    let other = Subject {
        component: ComponentSource::Builtin("azure-imds".to_owned()),
        config: json!({}),
        manifest: None,
    };
    let error = author::judge(&other, &namespace, &documents, &settings).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PluginWrongWorld);
}

#[test]
fn a_file_says_what_it_is() {
    let builtin = ComponentSource::Builtin("azure-imds".to_owned());
    let found = author::inspect(&subject(builtin, json!({}))).unwrap();
    assert_eq!((found.world, found.contract.as_str()), (World::IdentityProvider, "0.1.0"));
    assert!(found.imports.contains(&"syncline:host/http@0.1.0".to_owned()));
    let manifest = found.manifest.unwrap();
    assert_eq!(manifest.name, "azure-imds");
    assert!(manifest.asks.iter().any(|(key, entries)| *key == "clock" && entries == &["true"]));
}
