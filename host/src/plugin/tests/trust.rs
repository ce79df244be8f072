//! Signatures and compiled components.

use serde_json::json;
use tempfile::TempDir;

use super::{
    contract::{fixture, fixture_spec},
    guest::{self, FilterText},
};
use crate::{
    error::{Error, Kind},
    model::plugin::{ComponentSource, PluginSettings, PluginSpec},
    plugin::Registry,
};

/// The key whose other half signed the fixture.
const TRUSTED: &str = "RWQLM1FqOZGESX4R47PnHYA7vS2dV7IX4aMgBTuFxOGOUpirEAom0fim";
/// Another key, and one that pretends to be the trusted one.
const OTHERS: [&str; 2] = [
    "RWTqPUhR3R/NPzhGZbz9F9CEsN3/L2Ma38ZOATl9/ynZuSUtyDi0m/Vg",
    "RWQLM1FqOZGESThGZbz9F9CEsN3/L2Ma38ZOATl9/ynZuSUtyDi0m/Vg",
];

/// Loads an entry under trusted keys.
async fn load_trusting(keys: &[&str], spec: PluginSpec) -> Result<Registry, Error> {
    let trusted_keys = keys.iter().map(|key| (*key).to_owned()).collect();
    let settings = PluginSettings { trusted_keys, cache: None };
    Registry::with(&settings, vec![spec]).await
}

/// The signed fixture as a file of its own, with its signature.
fn signed(folder: &TempDir) -> PluginSpec {
    let path = folder.path().join("guest.wasm");
    std::fs::copy(fixture("filter-0.1.wasm"), &path).unwrap();
    std::fs::copy(fixture("filter-0.1.wasm.minisig"), folder.path().join("guest.wasm.minisig"))
        .unwrap();
    let mut spec = fixture_spec("filter-0.1.wasm", json!({"keep": {"a": 1}}));
    spec.component = ComponentSource::File(path);
    spec
}

#[tokio::test]
async fn a_signature_by_a_trusted_key_is_needed_once_there_are_trusted_keys() {
    let folder = TempDir::new().unwrap();
    let spec = signed(&folder);
    load_trusting(&[], spec.clone()).await.unwrap();
    load_trusting(&[OTHERS[0], TRUSTED], spec.clone()).await.unwrap();
    for other in OTHERS {
        let error = load_trusting(&[other], spec.clone()).await.err().unwrap();
        assert_eq!(error.kind(), Kind::PluginUnsigned);
    }
    let error = load_trusting(&["nonsense"], spec.clone()).await.err().unwrap();
    assert_eq!(error.kind(), Kind::ConfigInvalid);
    // What is built in is part of this binary.
    let builtin = Registry::builtin_spec("azure-imds", json!({})).unwrap();
    load_trusting(&[TRUSTED], builtin).await.unwrap();
}

#[tokio::test]
async fn a_file_that_was_changed_or_has_no_signature_is_not_even_parsed() {
    let folder = TempDir::new().unwrap();
    let spec = signed(&folder);
    let ComponentSource::File(path) = &spec.component else { unreachable!() };
    let signature = folder.path().join("guest.wasm.minisig");
    let (whole, text) = (std::fs::read(path).unwrap(), std::fs::read(&signature).unwrap());
    // No component at all: had it been parsed, the error would be another.
    for broken in [b"nonsense".as_slice(), &whole[..whole.len() - 1]] {
        std::fs::write(path, broken).unwrap();
        let error = load_trusting(&[TRUSTED], spec.clone()).await.err().unwrap();
        assert_eq!(error.kind(), Kind::PluginUnsigned);
    }
    std::fs::write(path, &whole).unwrap();
    load_trusting(&[TRUSTED], spec.clone()).await.unwrap();
    for broken in [b"".as_slice(), b"\xFF", &text[..text.len() / 2]] {
        std::fs::write(&signature, broken).unwrap();
        let error = load_trusting(&[TRUSTED], spec.clone()).await.err().unwrap();
        assert_eq!(error.kind(), Kind::PluginUnsigned);
    }
    std::fs::remove_file(&signature).unwrap();
    let error = load_trusting(&[TRUSTED], spec).await.err().unwrap();
    assert_eq!(error.kind(), Kind::PluginUnsigned);
    assert!(error.detail().contains("guest.wasm.minisig"), "{error}");
}

#[tokio::test]
async fn compiled_components_are_kept_and_a_damaged_one_is_compiled_anew() {
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("cache");
    let settings = PluginSettings { trusted_keys: Vec::new(), cache: Some(cache.clone()) };
    let spec = guest::spec(&folder, "guest", &guest::filter(&FilterText::default()));
    let judged = async || {
        let registry = Registry::with(&settings, vec![spec.clone()]).await.unwrap();
        let filter = registry.filter("guest").await.unwrap();
        let batch = crate::model::Batch::from_documents([bson::rawdoc! {"_id": 1}]);
        assert_eq!(filter.apply(&super::users(), &batch).await.unwrap(), None);
    };
    let kept = || {
        let mut files: Vec<_> =
            std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files.pop().unwrap()
    };
    judged().await;
    let file = kept();
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    // Used, not written again.
    judged().await;
    assert_eq!(std::fs::metadata(kept()).unwrap().modified().unwrap(), written);
    // Damaged: written again, as it was.
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    judged().await;
    assert_eq!(std::fs::read(kept()).unwrap().len(), whole.len());
}
