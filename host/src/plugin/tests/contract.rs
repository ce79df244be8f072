//! What was released of the contract stays as it is, and what was built for it loads.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::users;
use crate::{
    model::{
        Batch,
        plugin::{ComponentSource, Grants, LimitOverrides, PluginSpec},
    },
    plugin::Registry,
    ports::Verdict,
};

/// A file beside these tests.
pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plugin/tests/fixtures").join(name)
}

/// An entry for a fixture.
pub(super) fn fixture_spec(name: &str, config: serde_json::Value) -> PluginSpec {
    PluginSpec {
        name: "fixture".to_owned(),
        component: ComponentSource::File(fixture(name)),
        digest: None,
        config,
        grants: Grants::default(),
        limits: LimitOverrides::default(),
    }
}

/// The statements of every interface and every world in a WIT text, without comments and line breaks.
fn blocks(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
    let words: Vec<String> = code
        .join(" ")
        .replace('{', " { ")
        .replace('}', " } ")
        .replace(';', " ; ")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let mut found = BTreeMap::new();
    let mut rest = words.as_slice();
    let begins = |word: &String| word == "interface" || word == "world";
    while let Some(start) = rest.iter().position(begins) {
        let name = format!("{} {}", rest[start], rest[start + 1]);
        let mut statements = BTreeSet::new();
        let (mut depth, mut statement, mut end) = (0, Vec::new(), start + 2);
        for word in &rest[start + 2..] {
            end += 1;
            depth += i32::from(word == "{") - i32::from(word == "}");
            if depth == 0 {
                break;
            }
            if depth > 1 || word != "{" || !statement.is_empty() {
                statement.push(word.clone());
            }
            if depth == 1 && (word == ";" || word == "}") {
                statements.insert(statement.join(" "));
                statement.clear();
            }
        }
        found.insert(name, statements);
        rest = &rest[end..];
    }
    found
}

/// Every interface and world of the contract as it stands.
fn present() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let mut all = BTreeMap::new();
    for folder in [root.clone(), root.join("deps/syncline-host")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "wit") {
                all.extend(blocks(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    all
}

#[test]
fn the_released_contract_does_not_change() {
    let golden = fs::read_to_string(fixture("contract-0.1.wit")).unwrap();
    let (golden, present) = (blocks(&golden), present());
    assert!(golden.len() >= 12, "{:?}", golden.keys());
    for (name, released) in golden {
        let now = present.get(&name).unwrap_or_else(|| panic!("{name} is gone"));
        for statement in &released {
            assert!(
                now.contains(statement),
                "{name} of contract 0.1 lost or changed `{statement}`: plugins that are \
                 out there are built for it. Put it back, and add a new interface beside it, or \
                 begin track 0.2 as wit/README.md says."
            );
        }
        // What plugins export is asked for whole, so it cannot grow either.
        if matches!(name.as_str(), "interface filter" | "interface identity") {
            assert_eq!(now, &released, "{name} grew; a new ability is a new interface");
        }
        // A world may offer more, and ask for no more.
        let exports = |statements: &BTreeSet<String>| {
            statements.iter().filter(|one| one.starts_with("export")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(exports(now), exports(&released), "{name} asks for more");
    }
}

#[test]
fn a_change_of_the_contract_is_seen() {
    let text = "interface a { f: func() -> u8; record r { x: u8, y: u8, } }";
    let whole = blocks(text);
    assert_eq!(whole["interface a"].len(), 2, "{whole:?}");
    for changed in [text.replace("u8;", "u16;"), text.replace("y: u8,", "y: u8, z: u8,")] {
        assert_ne!(blocks(&changed), whole, "{changed}");
    }
    assert_eq!(blocks(&text.replace("record", "// a comment\n record")), whole);
    let world = "world w { import a:b/c@0.1.0; export d; }";
    let whole = blocks(world);
    assert_eq!(whole["world w"].len(), 2, "{whole:?}");
    assert_ne!(blocks(&world.replace("import a:b/c@0.1.0;", "")), whole);
}

#[tokio::test]
async fn a_filter_built_for_0_1_still_works() {
    let spec = fixture_spec("filter-0.1.wasm", json!({"keep": {"a": {"$gt": 1}}}));
    let registry = Registry::load(vec![spec]).await.unwrap();
    let filter = registry.filter("fixture").await.unwrap();
    let documents = [bson::rawdoc! {"_id": 1, "a": 1}, bson::rawdoc! {"_id": 2, "a": 2}];
    let batch = Batch::from_documents(&documents);
    let verdicts = filter.apply(&users(), &batch).await.unwrap();
    assert_eq!(verdicts, Some(vec![Verdict::Drop, Verdict::Keep]));
    let info = registry.info();
    assert_eq!((info[0].contract_version.as_str(), info[0].counters.calls), ("0.1.0", 1));
    assert!(info[0].counters.p50_micros > 0, "{:?}", info[0].counters);
}

#[tokio::test]
async fn a_provider_built_for_0_1_still_loads() {
    let mut spec = fixture_spec("identity-0.1.wasm", json!({}));
    spec.grants.origins = vec!["http://169.254.169.254".to_owned()];
    spec.grants.clock = true;
    let registry = Registry::load(vec![spec]).await.unwrap();
    registry.issuer("fixture").await.unwrap();
}
