//! The first-party filter as a real component.

use bson::{doc, rawdoc};
use serde_json::json;

use super::{load, refusal, users};
use crate::{
    error::Kind,
    model::{
        Batch,
        plugin::{ComponentSource, Grants, LimitOverrides, PluginSpec, World},
    },
    plugin::Registry,
    ports::Verdict,
};

/// The built-in filter with this condition.
#[allow(clippy::needless_pass_by_value, reason = "called with json! literals")]
fn spec(keep: serde_json::Value) -> PluginSpec {
    PluginSpec {
        name: "chosen".to_owned(),
        component: ComponentSource::Builtin("match-documents".to_owned()),
        digest: None,
        config: json!({ "keep": keep }),
        grants: Grants::default(),
        limits: LimitOverrides::default(),
    }
}

#[tokio::test]
async fn it_keeps_what_fulfils_the_condition_and_drops_the_rest() {
    let registry = load(spec(json!({
        "status": "active",
        "address.country": {"$in": ["DE", "FR"]},
        "population": {"$gte": 1000},
    })))
    .await
    .unwrap();
    let filter = registry.filter("chosen").await.unwrap();
    let good =
        doc! {"_id": 1, "status": "active", "address": {"country": "DE"}, "population": 5000};
    let small =
        doc! {"_id": 2, "status": "active", "address": {"country": "FR"}, "population": 9.5};
    let batch = Batch::from_documents(
        [&good, &small, &good].map(|document| bson::RawDocumentBuf::try_from(document).unwrap()),
    );
    let verdicts = filter.apply(&users(), &batch).await.unwrap();
    assert_eq!(verdicts, Some(vec![Verdict::Keep, Verdict::Drop, Verdict::Keep]));
    let all_good = Batch::from_documents([bson::RawDocumentBuf::try_from(&good).unwrap()]);
    assert_eq!(filter.apply(&users(), &all_good).await.unwrap(), None);
    let empty = Batch::from_documents(Vec::<bson::RawDocumentBuf>::new());
    assert_eq!(filter.apply(&users(), &empty).await.unwrap(), None);

    let info = registry.info();
    let counters = info[0].counters;
    assert_eq!((counters.calls, counters.kept, counters.dropped), (2, 3, 1));
    assert_eq!((info[0].world, info[0].instances), (World::DocumentFilter, 1));
    assert_eq!(info[0].component, "builtin:match-documents");
    assert_eq!(info[0].contract_version, "0.1.0");
    assert_eq!(info[0].digest.len(), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_batches_at_once_get_their_own_answers() {
    let registry = load(spec(json!({"n": {"$lt": 500}}))).await.unwrap();
    let filter = registry.filter("chosen").await.unwrap();
    let namespace = users();
    let calls = (0..64_i32).map(|call| {
        let (filter, namespace) = (&filter, &namespace);
        async move {
            let numbers: Vec<i32> = (0..1000).map(|n| (n * 7 + call) % 1000).collect();
            let batch = Batch::from_documents(numbers.iter().map(|n| rawdoc! {"_id": *n, "n": *n}));
            let verdicts = filter.apply(namespace, &batch).await.unwrap().unwrap();
            let expected: Vec<Verdict> = numbers
                .iter()
                .map(|n| if *n < 500 { Verdict::Keep } else { Verdict::Drop })
                .collect();
            assert_eq!(verdicts, expected);
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(registry.info()[0].counters.kept, 32_000);
}

#[tokio::test]
async fn the_fingerprint_follows_the_configuration_and_not_its_order() {
    let fingerprint = async |keep: &str| {
        let registry = load(spec(serde_json::from_str(keep).unwrap())).await.unwrap();
        registry.filter("chosen").await.unwrap().fingerprint().to_owned()
    };
    let one = fingerprint(r#"{"a": 1, "b": 2}"#).await;
    assert_eq!(one, fingerprint(r#"{"b": 2, "a": 1}"#).await);
    assert_ne!(one, fingerprint(r#"{"a": 1, "b": 3}"#).await);
    assert!(one.contains("contract:0.1.0"), "{one}");
}

#[tokio::test]
async fn a_wrong_configuration_names_plugin_and_key() {
    let error = refusal(spec(json!({"a": {"$near": "x"}}))).await;
    assert_eq!(error.kind(), Kind::PluginConfigInvalid);
    assert!(error.detail().contains("plugin `chosen`: `keep.a.$near`"), "{error}");

    let mut unknown = spec(json!({"a": 1}));
    unknown.config = json!({"keep": {"a": 1}, "kepe": 1});
    let error = refusal(unknown).await;
    assert!(error.detail().contains("`kepe`: no such key"), "{error}");
}

#[tokio::test]
async fn a_builtin_needs_no_entry_but_says_what_it_misses() {
    let registry = Registry::load(Vec::new()).await.unwrap();
    let error = registry.filter("match-documents").await.err().unwrap();
    assert_eq!(error.kind(), Kind::PluginConfigInvalid);
    assert!(error.detail().contains("`keep`"), "{error}");
    assert!(registry.info().is_empty());
}

#[tokio::test]
async fn a_name_that_means_nothing_is_refused_with_a_suggestion() {
    let registry = load(spec(json!({"a": 1}))).await.unwrap();
    let error = registry.filter("chosne").await.err().unwrap();
    assert_eq!(error.kind(), Kind::PluginNotFound);
    assert!(error.detail().contains("did you mean `chosen`"), "{error}");
    let error = registry.load_one(spec(json!({"a": 2}))).await.err().unwrap();
    assert_eq!(error.kind(), Kind::ConfigInvalid);
    let error = registry.issuer("chosen").await.err().unwrap();
    assert_eq!(error.kind(), Kind::PluginWrongWorld);
}
