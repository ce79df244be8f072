//! What the users of the source do.

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc, oid::ObjectId};
use syncline::model::Namespace;
use syncline_tests::{
    fake::{
        cluster::{State, Write},
        events::raw,
    },
    random::Random,
};

/// Collections with a document filter live here.
pub const FILTERED: &str = "filtered";
/// Capped collections have these names, and no others have.
const CAPPED: [&str; 2] = ["log", "tail"];
/// Names of ordinary collections; few, so that they are used again.
const PLAIN: [&str; 5] = ["a", "b", "c", "d", "e.f"];

/// One of few ids, of many types; the same number comes as several types.
pub fn id(random: &mut Random) -> Bson {
    let number = random.below(8) as i32;
    match random.below(15) {
        0..=3 => Bson::Int32(number),
        4 | 5 => Bson::Int64(i64::from(number)),
        6 | 7 => Bson::Double(f64::from(number)),
        8 => Bson::String(format!("key-{number}")),
        9 => Bson::ObjectId(ObjectId::from_bytes([number as u8; 12])),
        10 => Bson::Document(doc! { "n": number }),
        11 => Bson::DateTime(DateTime::from_millis(i64::from(number))),
        12 => Bson::Boolean(number % 2 == 0),
        13 => Bson::Double(f64::from(number) + 0.5),
        _ => [Bson::MinKey, Bson::MaxKey, Bson::Null, Bson::Double(f64::NAN)][random.index(4)]
            .clone(),
    }
}

/// A document that was never there before.
pub fn document(random: &mut Random, serial: u64, id: &Bson) -> RawDocumentBuf {
    let mut document = doc! { "_id": id.clone(), "serial": serial as i64 };
    if random.chance(50) {
        document.insert("secret", random.word(3));
    }
    document.insert("k", random.below(20) as i32);
    if random.chance(60) {
        document.insert("u", random.below(60) as i32);
    }
    raw(&document)
}

/// The specification of an index.
fn index(random: &mut Random) -> Document {
    let name = *random.pick(&["one", "two", "three"]);
    let mut spec = doc! { "v": 2, "key": { *random.pick(&["k", "u", "serial"]): 1 }, "name": name };
    match random.below(5) {
        0 => drop(spec.insert("hidden", true)),
        1 => drop(spec.insert("expireAfterSeconds", 3_600)),
        2 | 3 => {
            spec.insert("key", doc! { "u": 1 });
            spec.insert("unique", true);
            spec.insert("sparse", true);
        }
        _ => {}
    }
    spec
}

/// A random user of the source.
#[derive(Debug)]
pub struct Writer {
    /// Numbers.
    random: Random,
    /// Documents written.
    serial: u64,
    /// Percent of operations that are about collections.
    ddl: u64,
}

impl Writer {
    /// A writer that does DDL in so many percent of its operations.
    pub fn new(seed: u64, ddl: u64) -> Self {
        Self { random: Random::new(seed), serial: 0, ddl }
    }

    /// A namespace.
    fn namespace(&mut self) -> Namespace {
        let random = &mut self.random;
        let database = *random.pick(&["app", "app", "other", FILTERED]);
        let name = if random.chance(12) { *random.pick(&CAPPED) } else { *random.pick(&PLAIN) };
        Namespace::new(database, name).unwrap()
    }

    /// A document with an `_id`.
    fn document(&mut self, id: &Bson) -> RawDocumentBuf {
        self.serial += 1;
        document(&mut self.random, self.serial, id)
    }

    /// Fills a collection.
    pub fn fill(&mut self, state: &mut State, documents: u64) {
        let namespace = self.namespace();
        self.create(state, &namespace);
        for _ in 0..documents {
            let id = id(&mut self.random);
            let document = self.document(&id);
            state.write(&namespace, vec![Write::Insert(document)]);
        }
    }

    /// Creates a collection.
    fn create(&mut self, state: &mut State, namespace: &Namespace) {
        let mut options = doc! {};
        if CAPPED.contains(&namespace.collection()) {
            options = doc! { "capped": true, "size": 1_048_576 };
        } else if self.random.chance(20) {
            options.insert("validator", doc! { "k": { "$gte": 0 } });
        }
        state.create(namespace, &raw(&options));
    }

    /// One operation.
    pub fn step(&mut self, state: &mut State) {
        let namespace = self.namespace();
        if self.random.chance(self.ddl) {
            self.ddl(state, &namespace);
        } else {
            self.crud(state, &namespace);
        }
    }

    /// Writes documents.
    fn crud(&mut self, state: &mut State, namespace: &Namespace) {
        self.create(state, namespace);
        let is_capped = CAPPED.contains(&namespace.collection());
        let count = if self.random.chance(15) { 2 + self.random.below(3) } else { 1 };
        let writes = (0..count)
            .map(|_| {
                let id = id(&mut self.random);
                let present = state
                    .named(namespace)
                    .and_then(|c| c.documents.get(&raw(&doc! { "_id": id.clone() })).cloned());
                let document = self.document(&id);
                // An update never changes an `_id`, not even its type.
                let same_id = |mut document: Document| {
                    if let Some(id) = present.as_ref().and_then(|p| p.get("_id").ok().flatten()) {
                        document.insert("_id", Bson::try_from(id).unwrap());
                    }
                    raw(&document)
                };
                let plain = Document::try_from(document.as_ref()).unwrap();
                match self.random.below(10) {
                    0..=3 => Write::Insert(document),
                    4 | 5 => Write::Replace(same_id(plain)),
                    6..=8 => Write::Update(same_id(plain)),
                    _ if is_capped => Write::Insert(document),
                    _ => Write::Delete(raw(&doc! { "_id": id })),
                }
            })
            .collect();
        state.write(namespace, writes);
    }

    /// Changes collections.
    fn ddl(&mut self, state: &mut State, namespace: &Namespace) {
        match self.random.below(16) {
            0 | 1 => self.create(state, namespace),
            2 | 3 => drop(state.drop_collection(namespace)),
            4..=7 => {
                let names: &[&str] =
                    if CAPPED.contains(&namespace.collection()) { &CAPPED } else { &PLAIN };
                let to = Namespace::new(namespace.database(), *self.random.pick(names)).unwrap();
                let drop_target = self.random.chance(60);
                state.rename(namespace, &to, drop_target);
            }
            8..=10 => {
                let spec = index(&mut self.random);
                self.create(state, namespace);
                state.create_index(namespace, &spec);
            }
            11 | 12 => {
                let name = *self.random.pick(&["one", "two", "three"]);
                state.drop_index(namespace, name);
            }
            13 => {
                let name = *self.random.pick(&["one", "two", "three"]);
                let hidden = self.random.chance(50);
                state.modify_index(namespace, &doc! { "name": name, "hidden": hidden });
            }
            14 => {
                let bound = self.random.below(9) as i32;
                let validator = doc! { "k": { "$gte": bound } };
                state.modify_options(namespace, &doc! { "validator": validator });
            }
            _ if self.random.chance(30) => state.drop_database(namespace.database()),
            _ => self.view(state),
        }
    }

    /// Creates or drops a view.
    fn view(&mut self, state: &mut State) {
        let view = Namespace::new("app", *self.random.pick(&["v", "w"])).unwrap();
        if self.random.chance(50) {
            let on = *self.random.pick(&PLAIN);
            state.create(&view, &raw(&doc! { "viewOn": on, "pipeline": [] }));
        } else {
            state.drop_collection(&view);
        }
    }
}
