//! A cluster in memory: collections by UUID, views, indexes, and an oplog.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Uuid, doc};
use syncline::{
    error::Kind,
    model::{
        ClusterTime, Namespace,
        facts::{Access, ClusterFacts, Privilege, Resource},
    },
    ports::{ClusterInfo, CollectionInfo, CollectionKind},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    documents::{Documents, id_of},
    events::{Event, header, names, raw, token},
};
use crate::random::Random;

/// Seconds since the epoch at which every model begins.
const EPOCH: u32 = 1_700_000_000;

/// A collection.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub namespace: Namespace,
    /// Its options.
    pub options: RawDocumentBuf,
    /// Its indexes, the one on `_id` first.
    pub indexes: Vec<Document>,
    /// Its documents.
    pub documents: Documents,
}

impl Collection {
    /// Whether it keeps the order of insertion.
    pub fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }

    /// Whether another document than that with its `_id` has its key in a unique index.
    pub fn violates(&self, document: &RawDocument) -> bool {
        let enforced = |spec: &&Document| {
            spec.get_bool("unique").unwrap_or(false)
                || spec.get_bool("prepareUnique").unwrap_or(false)
        };
        let own = id_of(document);
        self.indexes.iter().filter(enforced).any(|spec| {
            let Some(key) = key_of(spec, document) else { return false };
            self.documents.iter().any(|other| {
                syncline::model::order::compare_ids(other, &own).is_ne()
                    && key_of(spec, other) == Some(key.clone())
            })
        })
    }

    /// Whether two documents share a key of an index.
    pub fn has_duplicates(&self, spec: &Document) -> bool {
        let mut keys: Vec<Vec<Bson>> =
            self.documents.iter().filter_map(|document| key_of(spec, document)).collect();
        let all = keys.len();
        keys.sort_by_key(|key| format!("{key:?}"));
        keys.dedup();
        keys.len() < all
    }
}

/// The key of a document in an index; `None` when a sparse index leaves it out.
fn key_of(spec: &Document, document: &RawDocument) -> Option<Vec<Bson>> {
    let fields = spec.get_document("key").ok()?;
    let values: Vec<Option<Bson>> = fields
        .keys()
        .map(|field| document.get(field).ok().flatten().and_then(|v| Bson::try_from(v).ok()))
        .collect();
    if spec.get_bool("sparse").unwrap_or(false) && values.iter().all(Option::is_none) {
        return None;
    }
    Some(values.into_iter().map(|value| value.unwrap_or(Bson::Null)).collect())
}

/// The index on `_id`.
fn id_index() -> Document {
    doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }
}

/// Something that was asked of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// A change stream was opened, telling what happened from this time on.
    Stream(ClusterTime),
    /// A scan was begun while the newest entry of the oplog was that.
    Scan(ClusterTime),
}

/// One write of a transaction.
#[derive(Debug, Clone)]
pub enum Write {
    /// Inserts a document.
    Insert(RawDocumentBuf),
    /// Replaces the document with its `_id`.
    Replace(RawDocumentBuf),
    /// The same, told as an update.
    Update(RawDocumentBuf),
    /// Deletes by `{_id: …}`.
    Delete(RawDocumentBuf),
}

/// Everything a cluster holds.
#[derive(Debug)]
pub struct State {
    /// Whether the past of documents is kept.
    has_history: bool,
    /// When the model began.
    begin: Instant,
    /// Time of the newest entry of the oplog.
    pub clock: ClusterTime,
    /// Events of the present time.
    ordinal: u32,
    /// Collections.
    pub collections: HashMap<Uuid, Collection>,
    /// Their names.
    pub names: BTreeMap<Namespace, Uuid>,
    /// Views with their options.
    pub views: BTreeMap<Namespace, RawDocumentBuf>,
    /// The oplog.
    pub oplog: Vec<Event>,
    /// Entries of the oplog that can still be read; `None` means all.
    pub oplog_window: Option<usize>,
    /// Notes appended to the oplog.
    pub notes: Vec<String>,
    /// What was asked of it: streams opened and scans begun.
    pub calls: Vec<Call>,
    /// Entries of the oplog told by change streams.
    pub told: usize,
    /// Writes of the document with this `_id` are answered and not done.
    pub loses: Option<RawDocumentBuf>,
    /// What every write is refused with.
    pub refuses: Option<Kind>,
    /// Calls of `block_user_writes`.
    pub blocks: Vec<bool>,
    /// For UUIDs.
    random: Random,
}

impl State {
    /// The time of a new entry of the oplog.
    pub fn tick(&mut self) -> ClusterTime {
        let seconds = u32::try_from(self.begin.elapsed().as_secs()).unwrap_or_default() + EPOCH;
        self.clock = if seconds > self.clock.t {
            ClusterTime { t: seconds, i: 1 }
        } else {
            ClusterTime { t: self.clock.t, i: self.clock.i + 1 }
        };
        self.ordinal = 0;
        self.clock
    }

    /// Appends an event of the present time.
    fn log(&mut self, operation: &str, namespace: &Namespace, uuid: Option<Uuid>, rest: Document) {
        let time = self.clock;
        let token = token(time, self.ordinal);
        self.ordinal += 1;
        let mut event = header(operation, time, &token, namespace, uuid);
        event.extend(rest);
        self.oplog.push(Event { time, token, body: Some(raw(&event)) });
    }

    /// Appends a note.
    pub fn note(&mut self, message: &str) -> ClusterTime {
        let time = self.tick();
        self.notes.push(message.to_owned());
        self.oplog.push(Event { time, token: token(time, 0), body: None });
        time
    }

    /// Tells of an operation that leaves no trace in the model.
    pub fn tell(&mut self, namespace: &Namespace, operation: &str) {
        let uuid = self.names.get(namespace).copied();
        self.tick();
        self.log(operation, namespace, uuid, doc! {});
    }

    /// The first entry that can still be read.
    pub fn oldest(&self) -> usize {
        self.oplog_window.map_or(0, |window| self.oplog.len().saturating_sub(window))
    }

    /// A new UUID.
    fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.random.next().to_be_bytes());
        bytes[8..].copy_from_slice(&self.random.next().to_be_bytes());
        Uuid::from_bytes(bytes)
    }

    /// A collection by name.
    pub fn named(&self, namespace: &Namespace) -> Option<&Collection> {
        self.collections.get(self.names.get(namespace)?)
    }

    /// A collection by name, to be changed.
    pub fn named_mut(&mut self, namespace: &Namespace) -> Option<&mut Collection> {
        self.collections.get_mut(self.names.get(namespace)?)
    }

    /// Whether something has that name.
    pub fn is_taken(&self, namespace: &Namespace) -> bool {
        self.names.contains_key(namespace) || self.views.contains_key(namespace)
    }

    /// Creates a collection or view; false when the name is taken.
    pub fn create(&mut self, namespace: &Namespace, options: &RawDocumentBuf) -> bool {
        if self.is_taken(namespace) {
            return false;
        }
        self.tick();
        let mut description = Document::try_from(options.as_ref()).unwrap_or_default();
        if matches!(options.get("viewOn"), Ok(Some(_))) {
            self.views.insert(namespace.clone(), options.clone());
            self.log("create", namespace, None, doc! { "operationDescription": description });
            return true;
        }
        let uuid = self.uuid();
        let collection = Collection {
            uuid,
            namespace: namespace.clone(),
            options: options.clone(),
            indexes: vec![id_index()],
            documents: Documents::default(),
        };
        self.collections.insert(uuid, collection);
        self.names.insert(namespace.clone(), uuid);
        description.insert("idIndex", id_index());
        self.log("create", namespace, Some(uuid), doc! { "operationDescription": description });
        true
    }

    /// Drops a collection or view; false when there is none.
    pub fn drop_collection(&mut self, namespace: &Namespace) -> bool {
        if self.views.remove(namespace).is_some() {
            self.tick();
            self.log("drop", namespace, None, doc! {});
            return true;
        }
        let Some(uuid) = self.names.remove(namespace) else { return false };
        self.collections.remove(&uuid);
        self.tick();
        self.log("drop", namespace, Some(uuid), doc! {});
        true
    }

    /// Drops everything of a database.
    pub fn drop_database(&mut self, database: &str) {
        let names: Vec<Namespace> = self
            .names
            .keys()
            .chain(self.views.keys())
            .filter(|namespace| namespace.database() == database)
            .cloned()
            .collect();
        for namespace in names {
            self.drop_collection(&namespace);
        }
        let time = self.tick();
        let token = token(time, 0);
        let event = doc! {
            "_id": { "_data": &token }, "operationType": "dropDatabase",
            "clusterTime": Bson::Timestamp(time.into()), "ns": { "db": database },
        };
        self.oplog.push(Event { time, token, body: Some(raw(&event)) });
    }

    /// Renames a collection; false when that cannot be.
    pub fn rename(&mut self, from: &Namespace, to: &Namespace, drop_target: bool) -> bool {
        let (Some(uuid), false) = (self.names.get(from).copied(), from == to) else { return false };
        if self.views.contains_key(to) || (self.names.contains_key(to) && !drop_target) {
            return false;
        }
        let dropped = self.names.get(to).copied();
        if let Some(dropped) = dropped {
            self.collections.remove(&dropped);
        }
        self.names.remove(from);
        self.names.insert(to.clone(), uuid);
        if let Some(collection) = self.collections.get_mut(&uuid) {
            collection.namespace = to.clone();
        }
        self.tick();
        let mut description = doc! { "to": names(to) };
        if let Some(dropped) = dropped {
            description.insert("dropTarget", dropped);
        }
        self.log(
            "rename",
            from,
            Some(uuid),
            doc! { "to": names(to), "operationDescription": description },
        );
        true
    }

    /// Creates an index; false when one of its name exists, or one that a server takes for the same, or
    /// a unique one cannot be.
    pub fn create_index(&mut self, namespace: &Namespace, spec: &Document) -> bool {
        let Some(collection) = self.named_mut(namespace) else { return false };
        let is_one = |other: &Document| {
            let has = |spec: &Document, what| spec.get_bool(what).unwrap_or(false);
            other.get("key") == spec.get("key")
                && ["unique", "sparse"].iter().all(|what| has(other, what) == has(spec, what))
        };
        let taken = collection
            .indexes
            .iter()
            .any(|other| other.get("name") == spec.get("name") || is_one(other));
        let is_unique = spec.get_bool("unique").unwrap_or(false);
        if taken || (is_unique && collection.has_duplicates(spec)) {
            return false;
        }
        collection.indexes.push(spec.clone());
        let uuid = collection.uuid;
        self.tick();
        let rest = doc! { "operationDescription": { "indexes": [spec.clone()] } };
        self.log("createIndexes", namespace, Some(uuid), rest);
        true
    }

    /// Drops an index; false when there is none.
    pub fn drop_index(&mut self, namespace: &Namespace, name: &str) -> bool {
        let Some(collection) = self.named_mut(namespace) else { return false };
        let place = collection
            .indexes
            .iter()
            .position(|spec| spec.get_str("name").is_ok_and(|own| own == name));
        let Some(place) = place.filter(|place| *place > 0) else { return false };
        let spec = collection.indexes.remove(place);
        let uuid = collection.uuid;
        self.tick();
        let rest = doc! { "operationDescription": { "indexes": [spec] } };
        self.log("dropIndexes", namespace, Some(uuid), rest);
        true
    }

    /// `collMod` of an index; false when there is none.
    pub fn modify_index(&mut self, namespace: &Namespace, change: &Document) -> bool {
        let Some(collection) = self.named_mut(namespace) else { return false };
        let Some(spec) =
            collection.indexes.iter_mut().find(|spec| spec.get("name") == change.get("name"))
        else {
            return false;
        };
        apply_to_index(spec, change);
        let uuid = collection.uuid;
        self.tick();
        let rest = doc! { "operationDescription": { "index": change.clone() } };
        self.log("modify", namespace, Some(uuid), rest);
        true
    }

    /// `collMod` of a collection's options; false when there is none.
    pub fn modify_options(&mut self, namespace: &Namespace, fields: &Document) -> bool {
        let Some(collection) = self.named_mut(namespace) else { return false };
        set_options(collection, fields);
        let uuid = collection.uuid;
        self.tick();
        self.log("modify", namespace, Some(uuid), doc! { "operationDescription": fields.clone() });
        true
    }

    /// Writes documents at one time, as a transaction does; creates the collection if need be.
    /// What cannot be (a duplicate, a missing document) is left out.
    pub fn write(&mut self, namespace: &Namespace, writes: Vec<Write>) {
        if self.views.contains_key(namespace) {
            return;
        }
        self.create(namespace, &RawDocumentBuf::new());
        let time = self.tick();
        for write in writes {
            let Some(collection) = self.named_mut(namespace) else { return };
            let uuid = collection.uuid;
            let (operation, id, document) = match write {
                Write::Insert(document) => ("insert", id_of(&document), Some(document)),
                Write::Replace(document) => ("replace", id_of(&document), Some(document)),
                Write::Update(document) => ("update", id_of(&document), Some(document)),
                Write::Delete(id) => ("delete", id, None),
            };
            let exists = collection.documents.get(&id).is_some();
            if exists == (operation == "insert")
                || document.as_ref().is_some_and(|document| collection.violates(document))
            {
                continue;
            }
            collection.documents.put(&id, document.clone(), time);
            let mut rest =
                doc! { "documentKey": Document::try_from(id.as_ref()).unwrap_or_default() };
            if let Some(document) = document.filter(|_| operation != "update") {
                let plain = Document::try_from(document.as_ref()).unwrap_or_default();
                rest.insert("fullDocument", plain);
            }
            self.log(operation, namespace, Some(uuid), rest);
        }
    }

    /// Forgets the past of documents if this cluster does so.
    pub fn tidy(&mut self, uuid: &Uuid) {
        if !self.has_history
            && let Some(collection) = self.collections.get_mut(uuid)
        {
            collection.documents.forget();
        }
    }

    /// What a listing shows of a name, without its indexes.
    pub fn describe(&self, namespace: &Namespace) -> Option<CollectionInfo> {
        if let Some(options) = self.views.get(namespace) {
            return Some(CollectionInfo {
                namespace: namespace.clone(),
                kind: CollectionKind::View,
                uuid: None,
                options: options.clone(),
                indexes: Vec::new(),
            });
        }
        let collection = self.named(namespace)?;
        Some(CollectionInfo {
            namespace: namespace.clone(),
            kind: CollectionKind::Collection,
            uuid: Some(collection.uuid),
            options: collection.options.clone(),
            indexes: Vec::new(),
        })
    }
}

/// Applies what `collMod` says of an index.
pub fn apply_to_index(spec: &mut Document, change: &Document) {
    for (name, value) in change {
        match (name.as_str(), value) {
            ("name" | "keyPattern", _) => {}
            ("unique", _) => {
                spec.remove("prepareUnique");
                spec.insert("unique", value.clone());
            }
            (_, Bson::Boolean(false)) => {
                spec.remove(name);
            }
            _ => {
                spec.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Sets options of a collection.
pub fn set_options(collection: &mut Collection, fields: &Document) {
    let mut options = Document::try_from(collection.options.as_ref()).unwrap_or_default();
    for (name, value) in fields {
        let option = match name.as_str() {
            "cappedSize" => "size",
            "cappedMax" => "max",
            other => other,
        };
        options.insert(option, value.clone());
    }
    collection.options = raw(&options);
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// What it is called.
    name: &'static str,
    /// What it holds.
    state: Mutex<State>,
    /// Notified when its oplog grows.
    pub changed: Notify,
    /// The sync's writes, and its fetches of changed documents, wait while it is closed.
    gate: watch::Sender<bool>,
}

impl Cluster {
    /// An empty cluster whose documents keep their past, to be read from.
    pub fn source(seed: u64) -> Arc<Self> {
        Self::new("source", true, seed)
    }

    /// An empty cluster to be written to.
    pub fn destination(seed: u64) -> Arc<Self> {
        Self::new("destination", false, seed ^ 0xD57)
    }

    /// An empty cluster.
    fn new(name: &'static str, has_history: bool, seed: u64) -> Arc<Self> {
        let mut state = State {
            has_history,
            begin: Instant::now(),
            clock: ClusterTime::ZERO,
            ordinal: 0,
            collections: HashMap::new(),
            names: BTreeMap::new(),
            views: BTreeMap::new(),
            oplog: Vec::new(),
            oplog_window: None,
            notes: Vec::new(),
            calls: Vec::new(),
            told: 0,
            loses: None,
            refuses: None,
            blocks: Vec::new(),
            random: Random::new(seed),
        };
        state.note("initiating set");
        state.notes.clear();
        Arc::new(Self {
            name,
            state: Mutex::new(state),
            changed: Notify::new(),
            gate: watch::Sender::new(true),
        })
    }

    /// An empty cluster to be written to that keeps the past of its documents.
    pub fn remembering_destination(seed: u64) -> Arc<Self> {
        Self::new("destination", true, seed ^ 0xD57)
    }

    /// Lets the sync's writes and fetches wait, or go on.
    pub fn set_open(&self, is_open: bool) {
        self.gate.send_replace(is_open);
    }

    /// Waits until the sync may go on.
    pub(super) async fn pass_gate(&self) {
        // An error would mean that the cluster is gone.
        drop(self.gate.subscribe().wait_for(|is_open| *is_open).await);
    }

    /// What it holds, locked for a moment.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it as its users do, and tells whoever waits for its oplog.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_waiters();
        result
    }

    /// What it tells a preflight: one member with data, and a user that may do everything.
    pub fn facts(&self) -> ClusterFacts {
        let everything =
            Privilege { resource: Resource::Any, actions: vec!["anyAction".to_owned()] };
        ClusterFacts {
            feature_version: Some(vec![6, 0]),
            data_members: 1,
            access: Access::User(vec![everything]),
            ..ClusterFacts::default()
        }
    }

    /// What it says of itself.
    pub fn info(&self) -> ClusterInfo {
        ClusterInfo {
            set_name: Some(self.name.to_owned()),
            identity: self.name.to_owned(),
            hosts: vec![format!("{}:27017", self.name)],
            version: vec![6, 0, 5],
            primary: format!("{}:27017", self.name),
        }
    }
}
