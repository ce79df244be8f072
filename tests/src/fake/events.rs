//! Change events in the form in which a server sends them, and their resume tokens.

use bson::{Bson, Document, RawDocumentBuf, Uuid, doc};
use syncline::model::{ClusterTime, Namespace};

/// What happened, as the oplog of the model remembers it.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub time: ClusterTime,
    /// `_data` of the resume token.
    pub token: String,
    /// The event as the change stream tells it; `None` for a note.
    pub body: Option<RawDocumentBuf>,
}

/// `_data` of the token of the `ordinal`th event of a time.
pub fn token(time: ClusterTime, ordinal: u32) -> String {
    format!("82{:08X}{:08X}{ordinal:08X}", time.t, time.i)
}

/// A token behind everything of a time.
pub fn token_behind(time: ClusterTime) -> String {
    token(time, u32::MAX)
}

/// A resume token.
pub fn resume_token(data: &str) -> RawDocumentBuf {
    raw(&doc! { "_data": data })
}

/// The raw form.
///
/// # Panics
/// When a document cannot be encoded.
pub fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

/// `{db, coll}`
pub fn names(namespace: &Namespace) -> Document {
    doc! { "db": namespace.database(), "coll": namespace.collection() }
}

/// The parts of an event that every kind has.
pub fn header(
    operation: &str,
    time: ClusterTime,
    token: &str,
    namespace: &Namespace,
    uuid: Option<Uuid>,
) -> Document {
    let mut event = doc! {
        "_id": { "_data": token },
        "operationType": operation,
        "clusterTime": Bson::Timestamp(time.into()),
    };
    if let Some(uuid) = uuid {
        event.insert("collectionUUID", uuid);
    }
    event.insert("ns", names(namespace));
    event
}
