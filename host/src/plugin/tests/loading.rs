//! What is no plugin, or not the right one, or asks for too much, is refused before it runs.

use serde_json::json;
use tempfile::TempDir;

use super::{
    guest::{self, FilterText},
    load, refusal,
};
use crate::{
    error::Kind,
    model::plugin::{ComponentSource, PluginSpec},
};

/// A component written as text.
fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// The kind and the text of the error that loading these bytes ends in.
async fn refused(bytes: &[u8]) -> (Kind, String) {
    refused_with(bytes, |_| {}).await
}

/// As [`refused`], with a changed entry.
async fn refused_with(bytes: &[u8], change: impl FnOnce(&mut PluginSpec)) -> (Kind, String) {
    let folder = TempDir::new().unwrap();
    let mut spec = guest::spec(&folder, "guest", bytes);
    change(&mut spec);
    let error = refusal(spec).await;
    assert!(error.detail().starts_with("plugin `guest`: "), "{error}");
    (error.kind(), error.full())
}

#[tokio::test]
async fn files_that_are_no_components_are_refused() {
    for (bytes, expected) in [
        (b"#!/bin/sh\n".to_vec(), "no WebAssembly file"),
        (Vec::new(), "no WebAssembly file"),
        (component("(module)"), "core WebAssembly module"),
    ] {
        let (kind, text) = refused(&bytes).await;
        assert_eq!(kind, Kind::PluginNotComponent);
        assert!(text.contains(expected), "{text}");
    }
    let whole = guest::filter(&FilterText::default());
    for cut in [9, 20, whole.len() / 2, whole.len() - 1] {
        assert_eq!(refused(&whole[..cut]).await.0, Kind::PluginNotComponent, "cut at {cut}");
    }
}

#[tokio::test]
async fn no_flipped_byte_brings_the_host_down() {
    let whole = guest::filter(&FilterText::default());
    let folder = TempDir::new().unwrap();
    for position in (8..whole.len()).step_by(97) {
        let mut broken = whole.clone();
        broken[position] ^= 0x55;
        // Some flips hit a name or a constant and leave a good component.
        let _either = load(guest::spec(&folder, "guest", &broken)).await;
    }
}

#[tokio::test]
async fn a_missing_file_and_a_folder_are_not_found() {
    let folder = TempDir::new().unwrap();
    for path in [folder.path().join("absent.wasm"), folder.path().to_path_buf()] {
        let mut spec = guest::spec(&folder, "guest", b"");
        spec.component = ComponentSource::File(path.clone());
        let error = refusal(spec).await;
        assert_eq!(error.kind(), Kind::PluginNotFound);
        assert!(error.detail().contains(&path.display().to_string()), "{error}");
    }
    let mut spec = guest::spec(&folder, "guest", b"");
    spec.component = ComponentSource::Builtin("nothing".to_owned());
    let error = refusal(spec).await;
    assert_eq!(error.kind(), Kind::PluginNotFound);
    assert!(error.detail().contains("match-documents"), "{error}");
}

#[tokio::test]
async fn another_digest_is_refused_before_anything_is_parsed() {
    let wrong = "0".repeat(64);
    let (kind, text) = refused_with(b"whatever", |spec| spec.digest = Some(wrong.clone())).await;
    assert_eq!(kind, Kind::PluginDigestMismatch);
    assert!(text.contains(&wrong), "{text}");

    let folder = TempDir::new().unwrap();
    let bytes = guest::filter(&FilterText::default());
    let mut spec = guest::spec(&folder, "guest", &bytes);
    let registry = load(spec.clone()).await.unwrap();
    let digest = registry.info()[0].digest.clone();
    for written in [digest.clone(), format!("sha256:{digest}"), digest.to_uppercase()] {
        spec.digest = Some(written);
        load(spec.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn components_of_other_worlds_are_refused() {
    let (kind, text) = refused(&component("(component)")).await;
    assert_eq!((kind, text.contains("exports nothing")), (Kind::PluginWrongWorld, true), "{text}");
    let other = r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let (kind, text) = refused(&component(other)).await;
    assert_eq!(
        (kind, text.contains("wasi:cli/run@0.2.0")),
        (Kind::PluginWrongWorld, true),
        "{text}"
    );
    let both = r#"(component (instance $i)
        (export "syncline:plugin/filter@0.1.0" (instance $i))
        (export "syncline:plugin/identity@0.1.0" (instance $i)))"#;
    assert_eq!(refused(&component(both)).await.0, Kind::PluginWrongWorld);
    let hollow = r#"(component (instance $i)
        (export "syncline:plugin/filter@0.1.0" (instance $i)))"#;
    let (kind, text) = refused(&component(hollow)).await;
    assert_eq!((kind, text.contains("differs")), (Kind::PluginWrongWorld, true), "{text}");
}

#[tokio::test]
async fn another_track_of_the_contract_is_named() {
    for version in ["0.2.0", "1.0.0", "0.10.0"] {
        let text = format!(
            r#"(component (instance $i) (export "syncline:plugin/filter@{version}" (instance $i)))"#
        );
        let (kind, text) = refused(&component(&text)).await;
        assert_eq!(kind, Kind::PluginVersion);
        assert!(text.contains(version) && text.contains("0.1"), "{text}");
    }
    let imports = r#"(component
        (import "syncline:host/log@0.2.0" (instance))
        (instance $i) (export "syncline:plugin/filter@0.1.0" (instance $i)))"#;
    assert_eq!(refused(&component(imports)).await.0, Kind::PluginVersion);
}

/// A component of a world that imports one interface.
fn importing(import: &str, export: &str) -> Vec<u8> {
    component(&format!(
        r#"(component (import "{import}" (instance))
             (instance $i) (export "syncline:plugin/{export}@0.1.0" (instance $i)))"#
    ))
}

#[tokio::test]
async fn ungranted_imports_are_refused_by_name() {
    for import in [
        "wasi:sockets/tcp@0.3.0",
        "wasi:keyvalue/store@0.2.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/environment@0.3.0",
        "somebody:else/thing@1.0.0",
        "syncline:host/http@0.1.0",
        "syncline:host/clock@0.1.0",
        "syncline:host/env@0.1.0",
        "syncline:host/files@0.1.0",
        "syncline:host/secrets@0.1.0",
        "syncline:host/anything@0.1.0",
    ] {
        for export in ["filter", "identity"] {
            let (kind, text) = refused(&importing(import, export)).await;
            assert_eq!(kind, Kind::PluginImportDenied, "{import} {text}");
            assert!(text.contains(import), "{text}");
        }
    }
}

#[tokio::test]
async fn the_message_says_which_grant_is_missing() {
    for (import, key) in [
        ("syncline:host/http@0.1.0", "origins:"),
        ("syncline:host/clock@0.1.0", "clock: true"),
        ("syncline:host/env@0.1.0", "env:"),
        ("syncline:host/files@0.1.0", "files:"),
        ("syncline:host/secrets@0.1.0", "secrets:"),
    ] {
        let (_, text) = refused(&importing(import, "identity")).await;
        assert!(text.contains(key), "{import}: {text}");
        // A filter cannot be granted it.
        let (_, text) = refused(&importing(import, "filter")).await;
        assert!(text.contains("may only log"), "{import}: {text}");
    }
}

#[tokio::test]
async fn a_grant_that_makes_no_sense_is_refused() {
    let bytes = guest::identity("", "");
    for origin in ["*", "https://example.com/path", "http://example.com"] {
        let (kind, text) =
            refused_with(&bytes, |spec| spec.grants.origins = vec![origin.to_owned()]).await;
        assert_eq!(kind, Kind::ConfigInvalid);
        assert!(text.contains("grants.origins"), "{text}");
    }
    let (kind, text) =
        refused_with(&bytes, |spec| spec.grants.files = vec!["relative/path".into()]).await;
    assert_eq!((kind, text.contains("relative/path")), (Kind::ConfigInvalid, true), "{text}");
    let (kind, _) = refused_with(&bytes, |spec| spec.config = json!([1])).await;
    assert_eq!(kind, Kind::PluginConfigInvalid);
}

#[tokio::test]
async fn a_manifest_beside_the_file_counts() {
    let folder = TempDir::new().unwrap();
    let spec = guest::spec(&folder, "guest", &guest::filter(&FilterText::default()));
    let manifest = folder.path().join("guest.toml");
    let good = "name = \"guest\"\nversion = \"1.2.3\"\nworld = \"document-filter\"\n";
    for (text, expected) in [
        (good.to_owned(), None),
        (good.replace("document-filter", "identity-provider"), Some(Kind::PluginWrongWorld)),
        (good.replace("1.2.3", "one"), Some(Kind::ConfigInvalid)),
        (format!("{good}colour = 1\n"), Some(Kind::ConfigInvalid)),
        ("name =".to_owned(), Some(Kind::ConfigInvalid)),
    ] {
        std::fs::write(&manifest, text).unwrap();
        assert_eq!(load(spec.clone()).await.err().map(|error| error.kind()), expected);
    }
}

#[test]
fn first_party_components_import_what_they_use_and_nothing_else() {
    for (name, export, expected) in [
        ("match-documents", "filter", vec!["log"]),
        ("azure-imds", "identity", vec!["clock", "config", "http", "log", "types"]),
    ] {
        let component = syncline_plugin_bundle::builtin(name).unwrap();
        let mut found = crate::plugin::inspect::interfaces(component).unwrap();
        found.imports.sort_unstable();
        let expected: Vec<String> =
            expected.iter().map(|name| format!("syncline:host/{name}@0.1.0")).collect();
        assert_eq!(found.imports, expected, "{name}");
        assert_eq!(found.exports, [format!("syncline:plugin/{export}@0.1.0")]);
    }
}
