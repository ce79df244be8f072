//! The query language of `match-documents` against the server's: generated documents and queries, asked
//! of both. The seed is printed; `SYNCLINE_QUERY_SEED` and `SYNCLINE_QUERIES` choose another run.

use std::env;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, Regex, Timestamp, cstr, doc,
    oid::ObjectId, spec::BinarySubtype,
};
use serde_json::{Value, json};
use syncline::{
    model::{
        Batch, Namespace,
        plugin::{ComponentSource, Grants, LimitOverrides, PluginSpec},
    },
    plugin::Registry,
    ports::Verdict,
};
use syncline_plugin_match_documents::MatchDocuments;
use syncline_sdk::{
    self as sdk, DocumentFilter, bson::Document as Raw, config, filter::Verdict as Judged,
};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    random::Random,
};

/// Documents per run.
const DOCUMENTS: i32 = 400;
/// Queries per run that also go through the component.
const THROUGH_COMPONENT: usize = 8;
/// Names of fields; the numbers are also positions.
const NAMES: [&str; 4] = ["a", "b", "0", "1"];
/// Patterns without a difference that README.md names.
const PATTERNS: [&str; 9] = ["^a", "a$", "b", "^$", "A|b", "a.b?", "[ab]+$", r"^\w", r"(a|\.)$"];

/// Makes documents and queries.
struct Generator {
    /// Where choices come from.
    random: Random,
}

impl Generator {
    /// Whether something with this chance happens.
    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    /// A value that holds no other.
    fn scalar(&mut self) -> Bson {
        let decimals = ["5.00", "0.1", "0.5", "NaN", "Infinity", "-1E+300", "0E+10"];
        let doubles = [5.0, 0.5, 0.1, -0.0, f64::NAN, f64::INFINITY, 9_007_199_254_740_992.0];
        let longs = [0, 5, -1, 9_007_199_254_740_993, i64::MIN, i64::MAX];
        match self.random.below(16) {
            0 => Bson::Null,
            1 => self.chance(50).into(),
            2 => (*self.random.pick(&[-1_i32, 0, 1, 2, 5])).into(),
            3 => (*self.random.pick(&longs)).into(),
            4 => (*self.random.pick(&doubles)).into(),
            5 => Bson::Decimal128(
                self.random.pick(&decimals).parse::<Decimal128>().expect("a decimal"),
            ),
            6..=8 => (*self.random.pick(&["", "a", "b", "ab", "A", "a\n", "ä", "."])).into(),
            9 => ObjectId::from_bytes([*self.random.pick(&[0, 7, 255]); 12]).into(),
            10 => DateTime::from_millis(*self.random.pick(&[-1, 0, 1_704_067_200_000])).into(),
            11 => Bson::Timestamp(Timestamp {
                time: *self.random.pick(&[0, 5, u32::MAX]),
                increment: *self.random.pick(&[1, 5]),
            }),
            12 => {
                let subtype = *self.random.pick(&[BinarySubtype::Generic, BinarySubtype::Md5]);
                let bytes = self.random.pick(&[&b"ab"[..], b"b", b"a", b""]).to_vec();
                Bson::Binary(Binary { subtype, bytes })
            }
            13 => Bson::MinKey,
            14 => Bson::MaxKey,
            _ => self.regex(),
        }
    }

    /// A regular expression as a value.
    fn regex(&mut self) -> Bson {
        let options = if self.chance(50) { cstr!("i") } else { cstr!("") };
        Bson::RegularExpression(Regex { pattern: cstr!("^a").into(), options: options.into() })
    }

    /// Any value.
    fn value(&mut self, depth: u32) -> Bson {
        match self.random.below(10) {
            0..=2 if depth > 0 => {
                let length = self.random.below(4);
                Bson::Array((0..length).map(|_| self.value(depth - 1)).collect())
            }
            3..=5 if depth > 0 => self.document(depth - 1, 3).into(),
            _ => self.scalar(),
        }
    }

    /// Fields in any order.
    fn document(&mut self, depth: u32, most: u64) -> Document {
        let mut document = Document::new();
        for _ in 0..self.random.below(most + 1) {
            let name = *self.random.pick(&NAMES);
            document.insert(name, self.value(depth));
        }
        document
    }

    /// A value as the configuration can say it: documents in it have one field.
    fn literal(&mut self) -> Bson {
        let value = self.value(2);
        Self::with_one_field(value)
    }

    /// Takes all but the first field out of documents.
    fn with_one_field(value: Bson) -> Bson {
        match value {
            Bson::Document(document) => Bson::Document(
                document
                    .into_iter()
                    .take(1)
                    .map(|(name, value)| (name, Self::with_one_field(value)))
                    .collect(),
            ),
            Bson::Array(items) => items.into_iter().map(Self::with_one_field).collect(),
            other => other,
        }
    }

    /// A literal that has an order.
    fn ordered(&mut self) -> Bson {
        loop {
            let literal = self.literal();
            if !matches!(literal, Bson::RegularExpression(_)) {
                return literal;
            }
        }
    }

    /// A dotted path.
    fn path(&mut self) -> String {
        let mut path = (*self.random.pick(&["a", "b"])).to_owned();
        for _ in 0..self.random.below(3) {
            path.push('.');
            path.push_str(self.random.pick::<&str>(&NAMES));
        }
        path
    }

    /// Operators on a path.
    fn operators(&mut self, depth: u32) -> Document {
        let mut operators = Document::new();
        for _ in 0..=self.random.below(2) {
            let comparison = *self.random.pick(&["$ne", "$gt", "$gte", "$lt", "$lte"]);
            let among = *self.random.pick(&["$in", "$nin"]);
            match self.random.below(12) {
                0..=3 => drop(operators.insert(comparison, self.ordered())),
                4 => drop(operators.insert("$eq", self.literal())),
                5 => {
                    let length = self.random.below(4);
                    let items: Vec<Bson> = (0..length).map(|_| self.literal()).collect();
                    operators.insert(among, items);
                }
                6 => drop(operators.insert("$exists", self.chance(50))),
                7 => {
                    let names = ["number", "string", "array", "object", "null", "double", "int"];
                    let one: Bson = (*self.random.pick(&names)).into();
                    let more: Bson = vec!["long", "decimal", "regex", "minKey", "date"].into();
                    operators.insert("$type", if self.chance(70) { one } else { more });
                }
                8 => drop(operators.insert("$size", *self.random.pick(&[0_i32, 1, 2, 3]))),
                9 => {
                    operators.insert("$regex", *self.random.pick(&PATTERNS));
                    if self.chance(30) {
                        operators.insert("$options", *self.random.pick(&["i", "s", "is"]));
                    }
                }
                10 if depth > 0 => {
                    let inner = if self.chance(50) {
                        self.operators(depth - 1)
                    } else {
                        self.query(depth - 1)
                    };
                    if self.chance(30) {
                        operators.insert("$all", vec![doc! { "$elemMatch": inner }]);
                    } else {
                        operators.insert("$elemMatch", inner);
                    }
                }
                11 if depth > 0 => drop(operators.insert("$not", self.operators(depth - 1))),
                _ => drop(operators.insert("$all", vec![self.literal()])),
            }
        }
        operators
    }

    /// A query.
    fn query(&mut self, depth: u32) -> Document {
        let mut query = Document::new();
        for _ in 0..=self.random.below(2) {
            if depth > 0 && self.chance(25) {
                let operator = *self.random.pick(&["$and", "$or", "$nor"]);
                let parts: Vec<Document> =
                    (0..=self.random.below(2)).map(|_| self.query(depth - 1)).collect();
                query.insert(operator, parts);
            } else if self.chance(40) {
                query.insert(self.path(), self.literal());
            } else {
                let operators = self.operators(2);
                query.insert(self.path(), operators);
            }
        }
        query
    }
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// The filter with this condition, native.
fn native(keep: &Value) -> Result<MatchDocuments> {
    config::parse(&json!({ "keep": keep }).to_string())
        .and_then(MatchDocuments::new)
        .with_context(|| format!("the filter refuses {keep}"))
}

/// The positions of the documents that the component keeps.
async fn kept_by_component(keep: &Value, batch: &Batch) -> Result<Vec<i32>> {
    let registry = Registry::load(vec![PluginSpec {
        name: "chosen".to_owned(),
        component: ComponentSource::Builtin("match-documents".to_owned()),
        digest: None,
        config: json!({ "keep": keep }),
        grants: Grants::default(),
        limits: LimitOverrides::default(),
    }])
    .await?;
    let filter = registry.filter("chosen").await?;
    let verdicts = filter.apply(&Namespace::parse("app.generated")?, batch).await?;
    Ok((0..DOCUMENTS)
        .filter(|position| match (&verdicts, usize::try_from(*position)) {
            (Some(verdicts), Ok(position)) => verdicts[position] == Verdict::Keep,
            _ => true,
        })
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_queries_mean_what_they_mean_to_the_server() -> Result<()> {
    let seed = setting("SYNCLINE_QUERY_SEED").unwrap_or_else(|| Random::from_entropy().next());
    let queries = setting("SYNCLINE_QUERIES").unwrap_or(1500);
    println!("SYNCLINE_QUERY_SEED={seed}");
    let mut generator = Generator { random: Random::new(seed) };
    let documents: Vec<Document> = (0..DOCUMENTS)
        .map(|id| {
            let mut document = doc! { "_id": id };
            document.extend(generator.document(3, 4));
            document
        })
        .collect();
    let server = ReplicaSet::start(Options::single()).await?;
    let collection = server.client().database("app").collection::<Document>("generated");
    collection.insert_many(&documents).await?;
    let raw: Vec<RawDocumentBuf> =
        documents.iter().map(RawDocumentBuf::try_from).collect::<Result<_, _>>()?;
    let batch = Batch::from_documents(raw.iter());
    let namespace = sdk::Namespace { database: "app", collection: "generated" };

    let (mut found, mut through_component) = (0, 0);
    for number in 0..queries {
        let query = generator.query(2);
        let mut answer: Vec<i32> = collection
            .find(query.clone())
            .projection(doc! { "_id": 1 })
            .await
            .with_context(|| format!("the server refuses {query}"))?
            .map_ok(|document| document.get_i32("_id").unwrap_or(-1))
            .try_collect()
            .await?;
        answer.sort_unstable();
        found += answer.len();
        let keep = Bson::Document(query).into_relaxed_extjson();
        let filter = native(&keep)?;
        let mut kept = Vec::new();
        for (id, document) in (0..DOCUMENTS).zip(&raw) {
            if filter.judge(&namespace, Raw::new(document.as_bytes())?)? == Judged::Keep {
                kept.push(id);
            }
        }
        if kept != answer {
            let odd = (0..DOCUMENTS).find(|id| kept.contains(id) != answer.contains(id));
            let odd = odd.and_then(|id| documents.get(usize::try_from(id).ok()?));
            bail!("query {number} of seed {seed}: {keep} differs for {odd:?}");
        }
        if through_component < THROUGH_COMPONENT && !kept.is_empty() {
            through_component += 1;
            let kept = kept_by_component(&keep, &batch).await?;
            assert_eq!(kept, answer, "the component, query {number} of seed {seed}: {keep}");
        }
    }
    assert!(through_component > 0 && found > 0, "no query of seed {seed} found anything");
    println!("{queries} queries over {DOCUMENTS} documents, {found} hits");
    Ok(())
}
