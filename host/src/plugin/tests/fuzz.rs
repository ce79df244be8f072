//! Whatever a guest, a file or a manifest says, the host answers with a value or an error.
//! `PROPTEST_CASES` says how often; every case is one execution of the code under test.

use proptest::prelude::*;
use serde_json::Value;

use super::guest::{self, FilterText};
use crate::{
    error::Kind,
    model::{
        Batch,
        plugin::{LimitOverrides, World},
    },
    plugin::{
        bindings::v0_1::filter::exports::syncline::plugin::filter::Outcome,
        context::clean,
        egress::{Egress, Origin, Outgoing, Refusal},
        inspect::interfaces,
        limits::Limits,
        manifest::Manifest,
        output::{Judgement, judgement},
        schema,
    },
    ports::Verdict,
};

/// Bytes that look like documents more often than chance would have it.
fn replacements() -> impl Strategy<Value = Vec<u8>> {
    let good = (0..3_i32, ".{0,8}")
        .prop_map(|(id, text)| bson::rawdoc! {"_id": id, "x": {"y": [text]}}.into_bytes());
    let document = prop_oneof![good, prop::collection::vec(any::<u8>(), 0..24)];
    let cut = (prop::collection::vec(document, 0..4), any::<prop::sample::Index>(), 0..4_u8);
    cut.prop_map(|(parts, position, way)| {
        let mut bytes = parts.concat();
        let length = bytes.len();
        match way {
            0 if length > 0 => bytes[position.index(length)] ^= 0x11,
            1 if length > 0 => bytes.truncate(position.index(length)),
            _ => {}
        }
        bytes
    })
}

/// Whether a document can be read to its last value and has the `_id` of the original. Text may be
/// anything.
fn readable(document: &[u8], original: &[u8]) -> bool {
    use syncline_sdk::bson::{Document, Value};
    fn whole(document: Document<'_>) -> bool {
        document.fields().all(|field| match field.and_then(|field| field.value()) {
            Ok(Value::Document(inner) | Value::Array(inner)) => whole(inner),
            Ok(_) => true,
            Err(_) => false,
        })
    }
    let (document, original) = (Document::new(document).unwrap(), Document::new(original).unwrap());
    let id = document.get("_id");
    whole(document) && id == original.get("_id") && matches!(id, Ok(Some(_)))
}

/// Any JSON.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
        prop::sample::select(vec!["object", "string", "integer", "(", "^a"]).prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "type",
            "properties",
            "required",
            "items",
            "enum",
            "minimum",
            "maxLength",
            "pattern",
            "anyOf",
            "additionalProperties",
            "const",
        ])
        .prop_map(str::to_owned),
        "[a-c]",
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn an_answer_is_either_right_or_refused(
        judged in prop::collection::vec(prop_oneof![8 => 0..3_u8, 1 => any::<u8>()], 0..4),
        replacements in replacements(),
        rejects in prop::collection::vec(".{0,8}", 0..3),
        may_replace in any::<bool>(),
    ) {
        let originals: Vec<_> = (0..3_i32).map(|id| bson::rawdoc! {"_id": id}).collect();
        let batch = Batch::from_documents(&originals);
        let outcome = Outcome { verdicts: judged.clone(), replacements, rejects };
        match judgement(&batch, &outcome, may_replace) {
            Ok(Judgement { verdicts: None, refused, tally }) => {
                prop_assert_eq!((judged, tally.kept, refused.len()), (vec![0, 0, 0], 3, 0));
            }
            Ok(Judgement { verdicts: Some(found), refused, .. }) => {
                prop_assert_eq!(found.len(), 3);
                for (position, error) in &refused {
                    let expected = match judged[*position] {
                        2 => Kind::PluginChangedId,
                        5 => Kind::PluginRejected,
                        other => panic!("{other} is refused"),
                    };
                    prop_assert_eq!(error.kind(), expected);
                    prop_assert_eq!(&found[*position], &Verdict::Drop);
                }
                for (position, ((verdict, byte), original)) in
                    found.iter().zip(&judged).zip(&originals).enumerate()
                {
                    if refused.iter().any(|(other, _)| *other == position) {
                        continue;
                    }
                    match verdict {
                        Verdict::Keep => prop_assert_eq!(*byte, 0),
                        Verdict::Drop => prop_assert_eq!(*byte, 1),
                        Verdict::Replace(document) => {
                            prop_assert!(may_replace && *byte == 2);
                            prop_assert!(readable(document.as_bytes(), original.as_bytes()));
                        }
                    }
                }
            }
            Err(error) => prop_assert_eq!(error.kind(), Kind::PluginOutputInvalid),
        }
    }

    #[test]
    fn a_manifest_is_read_or_refused(text in prop_oneof![
        ".{0,200}",
        "(name|version|world|asks|config|\\[asks\\]|\\[config\\]|=|\"|\\.|1|\\[|\\]|\n| ){0,40}",
    ]) {
        if let Err(error) = Manifest::parse(&text, "here") {
            prop_assert_eq!(error.kind(), Kind::ConfigInvalid);
        }
    }

    #[test]
    fn a_schema_is_followed_or_refused(schema in json(), value in json()) {
        if let Ok(problems) = schema::check(&schema, &value) {
            prop_assert!(problems.iter().all(|problem| problem.starts_with("config")));
        }
    }

    #[test]
    fn a_damaged_component_is_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        static WHOLE: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| guest::filter(&FilterText::default()));
        let mut bytes = WHOLE.clone();
        for (position, byte) in flips {
            let position = position.index(bytes.len());
            bytes[position] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Err(error) = interfaces(&bytes) {
            prop_assert_eq!(error.kind(), Kind::PluginNotComponent);
        }
    }

    #[test]
    fn text_of_a_guest_is_short_and_on_one_line(text in ".{0,300}", length in 0..200_usize) {
        let text = clean(&text, length);
        prop_assert!(text.len() <= length && !text.contains(char::is_control));
    }

    #[test]
    fn a_request_of_a_guest_is_refused_where_nothing_is_granted(
        url in prop_oneof![".{0,40}", "(http|https)://[a-z0-9.:@/%\\[\\]-]{0,24}"],
        headers in prop::collection::vec((".{0,12}", ".{0,12}"), 0..3),
        body in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        static EGRESS: std::sync::LazyLock<Egress> = std::sync::LazyLock::new(|| {
            let limits = Limits::new(World::IdentityProvider, &LimitOverrides::default());
            Egress::new(Vec::new(), &limits).unwrap()
        });
        let outgoing = Outgoing {
            method: reqwest::Method::POST,
            url,
            headers,
            secret_headers: Vec::new(),
            body,
            timeout: std::time::Duration::from_secs(1),
            max_response_bytes: 100,
            also: None,
        };
        // It waits for nothing.
        let answer = futures_util::FutureExt::now_or_never(EGRESS.send(outgoing)).unwrap();
        prop_assert!(matches!(answer, Err(Refusal::Denied(_) | Refusal::Invalid(_))));
    }

    #[test]
    fn an_origin_is_what_it_says_or_refused(text in prop_oneof![
        ".{0,40}",
        "(http|https|ftp)://[a-z0-9.:@/%\\[\\]-]{0,24}",
    ]) {
        if let Ok(origin) = Origin::parse(&text) {
            prop_assert_eq!(Origin::parse(&origin.to_string()).unwrap(), origin);
        }
    }
}
