//! Change events: the header decoded, documents raw.

use bson::Uuid;
use bson::{RawDocument, RawDocumentBuf, raw::RawBsonRef};

use super::{ClusterTime, Namespace};
use crate::error::{Error, Kind, Result};

/// Where in the stream to go on: an opaque token of the server and the cluster time it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// Resume token; `None` before the first answer of the stream, when only the time is known.
    pub token: Option<RawDocumentBuf>,
    /// Cluster time of the token.
    pub time: ClusterTime,
}

/// One change event.
#[derive(Debug, Clone)]
pub struct Change {
    /// When it happened on the source.
    pub time: ClusterTime,
    /// Its resume token.
    pub token: RawDocumentBuf,
    /// The collection's UUID; absent for events that are not about a collection.
    pub uuid: Option<Uuid>,
    /// The namespace at that time.
    pub namespace: Option<Namespace>,
    /// What happened.
    pub kind: ChangeKind,
}

/// What a change event says.
#[derive(Debug, Clone)]
pub enum ChangeKind {
    /// A document was inserted: `_id` as `{_id: …}` and the document.
    Insert(RawDocumentBuf, RawDocumentBuf),
    /// A document was replaced: `_id` and the new document.
    Replace(RawDocumentBuf, RawDocumentBuf),
    /// A document was updated; the present state is fetched.
    Update(RawDocumentBuf),
    /// A document was deleted.
    Delete(RawDocumentBuf),
    /// A collection was created, with these options.
    Create(RawDocumentBuf),
    /// The collection was dropped.
    Drop,
    /// The collection was renamed; a collection that had the new name was dropped.
    Rename {
        /// New name.
        to: Namespace,
        /// UUID of the collection that was dropped in favour.
        dropped: Option<Uuid>,
    },
    /// Indexes were created, with these specifications.
    CreateIndexes(Vec<RawDocumentBuf>),
    /// Indexes were dropped, with these specifications.
    DropIndexes(Vec<RawDocumentBuf>),
    /// Options of the collection or of an index were changed (`collMod`).
    Modify(RawDocumentBuf),
    /// The database was dropped; its collections were told of one by one before.
    DropDatabase,
    /// Something else, by its `operationType`.
    Other(String),
}

impl ChangeKind {
    /// Whether it is about documents, not about collections.
    pub fn is_crud(&self) -> bool {
        matches!(self, Self::Insert(..) | Self::Replace(..) | Self::Update(_) | Self::Delete(_))
    }
}

impl Change {
    /// Reads the header of a raw event and copies out what is needed.
    ///
    /// Source of the format: the server's change event reference for expanded events.
    ///
    /// # Errors
    /// `ReadFailed` when a required part is missing.
    pub fn parse(event: &RawDocument) -> Result<Self> {
        let missing = |what: &str| {
            Error::new(Kind::ReadFailed, format!("a change event lacks a usable `{what}`"))
        };
        let mut token = None;
        let mut operation = None;
        let mut time = None;
        let mut uuid = None;
        let mut namespace = None;
        let mut key = None;
        let mut document = None;
        let mut to = None;
        let mut description = None;
        for element in event {
            let (name, value) = element.map_err(|e| missing("body").caused_by(e))?;
            match name.as_str() {
                "_id" => token = value.as_document().map(RawDocument::to_owned),
                "operationType" => operation = value.as_str(),
                "clusterTime" => time = value.as_timestamp().map(ClusterTime::from),
                "collectionUUID" => uuid = uuid_of(value),
                "ns" => namespace = value.as_document().and_then(namespace_of),
                "to" => to = value.as_document().and_then(namespace_of),
                "documentKey" => key = value.as_document(),
                "fullDocument" => document = value.as_document(),
                "operationDescription" => description = value.as_document(),
                _ => {}
            }
        }
        let id = || id_document(key.ok_or_else(|| missing("documentKey"))?);
        // Without its document an event is as good as an update: the document is fetched.
        let whole = |event: fn(RawDocumentBuf, RawDocumentBuf) -> ChangeKind| {
            let id = id()?;
            Ok::<_, Error>(match document {
                Some(document) => event(id, document.to_owned()),
                None => ChangeKind::Update(id),
            })
        };
        let operation = operation.ok_or_else(|| missing("operationType"))?;
        let kind = match operation {
            "insert" => whole(ChangeKind::Insert)?,
            "replace" => whole(ChangeKind::Replace)?,
            "update" => ChangeKind::Update(id()?),
            "delete" => ChangeKind::Delete(id()?),
            "create" => {
                ChangeKind::Create(description.map(RawDocument::to_owned).unwrap_or_default())
            }
            "drop" => ChangeKind::Drop,
            "rename" => ChangeKind::Rename {
                to: to.ok_or_else(|| missing("to"))?,
                dropped: description
                    .and_then(|d| d.get("dropTarget").ok().flatten())
                    .and_then(uuid_of),
            },
            "createIndexes" => ChangeKind::CreateIndexes(index_specs(description)?),
            "dropIndexes" => ChangeKind::DropIndexes(index_specs(description)?),
            "modify" => {
                ChangeKind::Modify(description.map(RawDocument::to_owned).unwrap_or_default())
            }
            "dropDatabase" => ChangeKind::DropDatabase,
            other => ChangeKind::Other(other.to_owned()),
        };
        Ok(Self {
            time: time.ok_or_else(|| missing("clusterTime"))?,
            token: token.ok_or_else(|| missing("_id"))?,
            uuid,
            namespace,
            kind,
        })
    }
}

/// The cluster time that a resume token stands for.
///
/// `_data` is a hex string whose first element is a timestamp: type byte `82`, then seconds and
/// ordinal as four big-endian bytes each (the server's KeyString encoding).
///
/// # Errors
/// `ReadFailed` when the token has another form.
pub fn token_time(token: &RawDocument) -> Result<ClusterTime> {
    let unusable = || Error::new(Kind::ReadFailed, "a resume token has an unknown form");
    let data = token.get_str("_data").map_err(|e| unusable().caused_by(e))?;
    let number = |range: std::ops::Range<usize>| {
        data.get(range).and_then(|hex| u32::from_str_radix(hex, 16).ok()).ok_or_else(unusable)
    };
    if data.get(0..2) != Some("82") {
        return Err(unusable());
    }
    Ok(ClusterTime { t: number(2..10)?, i: number(10..18)? })
}

/// `{_id: …}` of a document key, without the shard key's fields.
fn id_document(key: &RawDocument) -> Result<RawDocumentBuf> {
    let id = key.get("_id").ok().flatten().ok_or_else(|| {
        Error::new(Kind::ReadFailed, "a change event has a documentKey without _id")
    })?;
    let mut document = RawDocumentBuf::new();
    document.append(bson::cstr!("_id"), id);
    Ok(document)
}

/// A UUID from a binary value of subtype 4.
pub(crate) fn uuid_of(value: RawBsonRef<'_>) -> Option<Uuid> {
    let binary = value.as_binary()?;
    binary.bytes.try_into().ok().map(Uuid::from_bytes)
}

/// A namespace from `{db, coll}`; `None` when the event is about a whole database.
fn namespace_of(document: &RawDocument) -> Option<Namespace> {
    Namespace::new(document.get_str("db").ok()?, document.get_str("coll").ok()?).ok()
}

/// The index specifications of an `operationDescription`.
fn index_specs(description: Option<&RawDocument>) -> Result<Vec<RawDocumentBuf>> {
    let missing =
        || Error::new(Kind::ReadFailed, "an index event lacks `operationDescription.indexes`");
    let indexes = description.and_then(|d| d.get_array("indexes").ok()).ok_or_else(missing)?;
    indexes
        .into_iter()
        .map(|spec| {
            spec.ok()
                .and_then(|value| value.as_document().map(RawDocument::to_owned))
                .ok_or_else(missing)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    #[test]
    fn the_time_of_a_token_is_read() {
        let token = rawdoc! { "_data": "826375F5D40000000329295A1004" };
        assert_eq!(token_time(&token).unwrap(), ClusterTime { t: 0x6375_F5D4, i: 3 });
        assert!(token_time(&rawdoc! { "_data": "8" }).is_err());
        assert!(token_time(&rawdoc! { "_data": "716375F5D400000003" }).is_err());
        assert!(token_time(&rawdoc! { "other": 1 }).is_err());
    }

    #[test]
    fn an_insert_keeps_the_bytes_of_its_document() {
        let document = rawdoc! { "_id": 7, "b": 1i64, "a": { "x": [1, 2] } };
        let event = rawdoc! {
            "_id": { "_data": "82000000010000000100" },
            "operationType": "insert",
            "clusterTime": bson::Timestamp { time: 1, increment: 1 },
            "ns": { "db": "app", "coll": "a.b" },
            "documentKey": { "shard": 5, "_id": 7 },
            "fullDocument": document.clone(),
        };
        let change = Change::parse(&event).unwrap();
        assert_eq!(change.namespace.unwrap().to_string(), "app.a.b");
        let ChangeKind::Insert(id, body) = change.kind else { panic!("not an insert") };
        assert_eq!(id, rawdoc! { "_id": 7 });
        assert_eq!(body.as_bytes(), document.as_bytes());
    }

    #[test]
    fn an_insert_without_its_document_is_fetched() {
        let event = rawdoc! {
            "_id": { "_data": "82000000010000000100" },
            "operationType": "insert",
            "clusterTime": bson::Timestamp { time: 1, increment: 1 },
            "documentKey": { "_id": 7 },
        };
        let ChangeKind::Update(id) = Change::parse(&event).unwrap().kind else {
            panic!("not an update")
        };
        assert_eq!(id, rawdoc! { "_id": 7 });
    }

    #[test]
    fn an_event_without_a_key_is_an_error() {
        let event = RawDocumentBuf::try_from(&doc! {
            "_id": { "_data": "82000000010000000100" },
            "operationType": "delete",
            "clusterTime": bson::Timestamp { time: 1, increment: 1 },
        })
        .unwrap();
        assert_eq!(Change::parse(&event).unwrap_err().kind(), Kind::ReadFailed);
    }
}
