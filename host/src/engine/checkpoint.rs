//! What is saved in the metadata database, in which form, and under which version.
//!
//! Three tables: one document for the sync, one a collection, one a partition. Documents carry
//! the schema number of the sync document; another number is refused, never guessed at.
//!
//! Invariant: the stored forms appear in no other file.

use bson::{Bson, Document, RawDocumentBuf, Uuid, doc};

use super::blocking::{Block, Blocks};
use super::catalog::{Entry, Index, Partition, PartitionState};
use crate::{
    error::{Error, Kind, Result},
    model::{
        ClusterTime, Namespace,
        change::Position,
        options::{
            BuildIndexes, ClusterLabel, CollectionMatch, Copied, DatabaseMatch, HotDocument,
            NamePattern, NamespaceMatch, NamespaceRemap, RemapName, StartOptions, WriteBlocking,
        },
        progress::{Phase, State},
    },
    ports::{Bounds, CollectionStats},
};

/// Version of the stored forms.
pub(crate) const SCHEMA: i32 = 2;
/// `_id` of the one document of the sync table.
const SYNC_ID: &str = "sync";

/// How far a commit has come; each step is repeatable and the next is taken from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum CommitStep {
    /// No commit was asked for.
    #[default]
    None,
    /// Asked for: source writes are to be blocked and the fence to be set.
    Requested,
    /// The fence is set; everything before it is to be applied.
    Draining,
    /// Everything is applied; indexes and views are to be restored.
    Restoring,
    /// The application may write; unique indexes are to be converted.
    Converting,
    /// Done.
    Finished,
}

impl CommitStep {
    /// Every step.
    const ALL: [Self; 6] = [
        Self::None,
        Self::Requested,
        Self::Draining,
        Self::Restoring,
        Self::Converting,
        Self::Finished,
    ];

    /// The stored word.
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Requested => "requested",
            Self::Draining => "draining",
            Self::Restoring => "restoring",
            Self::Converting => "converting",
            Self::Finished => "finished",
        }
    }
}

/// The sync as a whole.
#[derive(Debug, Clone)]
pub(crate) struct SyncRecord {
    /// Public state to come back to.
    pub(crate) state: State,
    /// How far it is.
    pub(crate) phase: Phase,
    /// The options of `/start`.
    pub(crate) options: StartOptions,
    /// Identity of the source.
    pub(crate) source_identity: String,
    /// Identity of the destination.
    pub(crate) destination_identity: String,
    /// Fingerprints of the document filters, by configuration order.
    pub(crate) filters: Vec<String>,
    /// Where the stream goes on; `None` while planning.
    pub(crate) position: Option<Position>,
    /// How far the commit is.
    pub(crate) commit: CommitStep,
    /// Time of the commit's fence.
    pub(crate) fence: Option<ClusterTime>,
    /// What an abort does with what was copied, once one is under way.
    pub(crate) abort: Option<Copied>,
    /// Whose write blocks there are.
    pub(crate) blocks: Blocks,
    /// Since when the application may write to the destination, by its clock: where a way back
    /// begins.
    pub(crate) reverse_from: Option<ClusterTime>,
    /// Documents whose changes were skipped.
    pub(crate) hot: Vec<HotDocument>,
    /// How often the roles were swapped.
    pub(crate) generation: i32,
}

/// An error about a stored document.
fn unreadable(what: &str) -> Error {
    Error::new(Kind::MetadataMismatch, format!("the metadata database holds an unreadable {what}"))
}

impl SyncRecord {
    /// The stored form.
    ///
    /// # Errors
    /// `Internal` when a token cannot be encoded, which the server's own tokens always can.
    pub(crate) fn to_document(&self) -> Result<Document> {
        let position = match &self.position {
            None => Bson::Null,
            Some(position) => {
                let token = match &position.token {
                    None => Bson::Null,
                    Some(token) => Bson::Document(
                        Document::try_from(token.as_ref())
                            .map_err(|e| Error::new(Kind::Internal, "resume token").caused_by(e))?,
                    ),
                };
                doc! { "token": token, "time": bson::Timestamp::from(position.time) }.into()
            }
        };
        let mut hot = Vec::with_capacity(self.hot.len());
        for HotDocument { namespace, id } in &self.hot {
            let id = Document::try_from(id.as_ref())
                .map_err(|e| Error::new(Kind::Internal, "hot document").caused_by(e))?;
            hot.push(doc! { "namespace": namespace.to_string(), "document": id });
        }
        Ok(doc! {
            "_id": SYNC_ID,
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "state": self.state.name(),
            "phase": self.phase.name(),
            "options": options_to_document(&self.options),
            "sourceIdentity": self.source_identity.as_str(),
            "destinationIdentity": self.destination_identity.as_str(),
            "filters": self.filters.clone(),
            "position": position,
            "commit": self.commit.name(),
            "generation": self.generation,
            "hotDocuments": hot,
            "reverseFrom": self.reverse_from.map_or(Bson::Null, |time| Bson::Timestamp(time.into())),
            "sourceBlock": self.blocks.source.name(),
            "destinationBlock": self.blocks.destination.name(),
            "fence": self.fence.map_or(Bson::Null, |time| Bson::Timestamp(time.into())),
            "abort": self.abort.map(Copied::name),
        })
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `MetadataVersion` for another schema, `MetadataMismatch` for what cannot be read.
    pub(crate) fn from_document(document: &Document) -> Result<Self> {
        let schema = document.get_i32("schema").map_err(|_| unreadable("schema number"))?;
        if schema != SCHEMA {
            return Err(Error::new(
                Kind::MetadataVersion,
                format!("the metadata database has schema {schema}, this version writes {SCHEMA}"),
            ));
        }
        let text = |key: &'static str| document.get_str(key).map_err(|_| unreadable(key));
        let phase_word = text("phase")?;
        let phase = [
            Phase::Planning,
            Phase::CollectionCopy,
            Phase::ChangeEventApplication,
            Phase::WaitingForCommit,
            Phase::CommitCompleted,
        ]
        .into_iter()
        .find(|phase| phase.name() == phase_word)
        .ok_or_else(|| unreadable("phase"))?;
        let block = |key: &'static str| Block::parse(text(key)?).ok_or_else(|| unreadable(key));
        let commit_word = text("commit")?;
        let position = match document.get_document("position") {
            Err(_) => None,
            Ok(position) => Some(Position {
                token: match position.get_document("token") {
                    Err(_) => None,
                    Ok(token) => {
                        Some(RawDocumentBuf::try_from(token).map_err(|_| unreadable("token"))?)
                    }
                },
                time: position.get_timestamp("time").map_err(|_| unreadable("position"))?.into(),
            }),
        };
        Ok(Self {
            state: State::parse(text("state")?).ok_or_else(|| unreadable("state"))?,
            phase,
            options: options_from_document(
                document.get_document("options").map_err(|_| unreadable("options"))?,
            )?,
            source_identity: text("sourceIdentity")?.to_owned(),
            destination_identity: text("destinationIdentity")?.to_owned(),
            filters: document
                .get_array("filters")
                .map_err(|_| unreadable("filters"))?
                .iter()
                .filter_map(|f| f.as_str().map(str::to_owned))
                .collect(),
            position,
            commit: CommitStep::ALL
                .into_iter()
                .find(|step| step.name() == commit_word)
                .ok_or_else(|| unreadable("commit step"))?,
            fence: document.get_timestamp("fence").ok().map(ClusterTime::from),
            abort: document.get_str("abort").ok().and_then(Copied::parse),
            reverse_from: document.get_timestamp("reverseFrom").ok().map(ClusterTime::from),
            hot: document
                .get_array("hotDocuments")
                .map_err(|_| unreadable("hot documents"))?
                .iter()
                .map(|entry| {
                    entry.as_document().and_then(hot_from).ok_or_else(|| unreadable("hot"))
                })
                .collect::<Result<_>>()?,
            generation: document.get_i32("generation").map_err(|_| unreadable("generation"))?,
            blocks: Blocks {
                source: block("sourceBlock")?,
                destination: block("destinationBlock")?,
            },
        })
    }
}

/// Reads a hot document.
fn hot_from(document: &Document) -> Option<HotDocument> {
    Some(HotDocument {
        namespace: Namespace::parse(document.get_str("namespace").ok()?).ok()?,
        id: RawDocumentBuf::try_from(document.get_document("document").ok()?).ok()?,
    })
}

/// The options of `/start` in stored form.
fn options_to_document(options: &StartOptions) -> Document {
    let list = |entries: &[NamespaceMatch]| -> Vec<Bson> {
        entries.iter().map(|entry| Bson::Document(match_to_document(entry))).collect()
    };
    doc! {
        "source": options.source.name(),
        "destination": options.destination.name(),
        "buildIndexes": options.build_indexes.name(),
        "enableUserWriteBlocking": options.write_blocking.map(WriteBlocking::name),
        "includeNamespaces": list(&options.include_namespaces),
        "excludeNamespaces": list(&options.exclude_namespaces),
        "namespaceRemap": options.namespace_remap.iter().map(remap_to_document).collect::<Vec<_>>(),
        "preExistingDestinationData": options.pre_existing,
        "verification": options.verification,
        "reversible": options.reversible,
        "copyInNaturalOrder": list(&options.natural_order),
        "detectRandomId": options.detect_random_id,
    }
}

/// One namespace filter entry in stored form, which is the API's.
fn match_to_document(entry: &NamespaceMatch) -> Document {
    let pattern = |p: &NamePattern| doc! { "pattern": &p.pattern, "options": &p.options };
    let mut document = match &entry.database {
        DatabaseMatch::Name(name) => doc! { "database": name },
        DatabaseMatch::Pattern(p) => doc! { "databaseRegex": pattern(p) },
    };
    match &entry.collections {
        CollectionMatch::All => {}
        CollectionMatch::Names(names) => {
            document.insert("collections", names.clone());
        }
        CollectionMatch::Pattern(p) => {
            document.insert("collectionsRegex", pattern(p));
        }
    }
    document
}

/// One entry of `namespaceRemap` in stored form, which is the API's.
fn remap_to_document(entry: &NamespaceRemap) -> Document {
    let name = |name: &RemapName| match &name.collection {
        None => doc! { "database": &name.database },
        Some(collection) => doc! { "database": &name.database, "collection": collection },
    };
    doc! { "from": name(&entry.from), "to": name(&entry.to) }
}

/// Reads [`remap_to_document`].
fn remap_from(document: &Document) -> Option<NamespaceRemap> {
    let name = |key: &str| {
        let name = document.get_document(key).ok()?;
        Some(RemapName {
            database: name.get_str("database").ok()?.to_owned(),
            collection: name.get_str("collection").ok().map(str::to_owned),
        })
    };
    Some(NamespaceRemap { from: name("from")?, to: name("to")? })
}

/// Reads [`options_to_document`].
fn options_from_document(document: &Document) -> Result<StartOptions> {
    let label = |key: &str| match document.get_str(key) {
        Ok("cluster0") => Ok(ClusterLabel::Cluster0),
        Ok("cluster1") => Ok(ClusterLabel::Cluster1),
        _ => Err(unreadable("option")),
    };
    let list = |key: &str| -> Result<Vec<NamespaceMatch>> {
        document
            .get_array(key)
            .map_err(|_| unreadable("filter"))?
            .iter()
            .map(|entry| {
                entry.as_document().ok_or_else(|| unreadable("filter")).and_then(match_from)
            })
            .collect()
    };
    Ok(StartOptions {
        source: label("source")?,
        destination: label("destination")?,
        build_indexes: document
            .get_str("buildIndexes")
            .ok()
            .and_then(BuildIndexes::parse)
            .ok_or_else(|| unreadable("option"))?,
        write_blocking: match document.get_str("enableUserWriteBlocking") {
            Err(_) => None,
            Ok(word) => Some(WriteBlocking::parse(word).ok_or_else(|| unreadable("option"))?),
        },
        include_namespaces: list("includeNamespaces")?,
        exclude_namespaces: list("excludeNamespaces")?,
        namespace_remap: document
            .get_array("namespaceRemap")
            .map_err(|_| unreadable("remap"))?
            .iter()
            .map(|entry| {
                entry.as_document().and_then(remap_from).ok_or_else(|| unreadable("remap"))
            })
            .collect::<Result<_>>()?,
        pre_existing: document
            .get_bool("preExistingDestinationData")
            .map_err(|_| unreadable("option"))?,
        verification: document.get_bool("verification").ok(),
        reversible: document.get_bool("reversible").unwrap_or(false),
        natural_order: list("copyInNaturalOrder")?,
        detect_random_id: document.get_bool("detectRandomId").unwrap_or(true),
        skip_disk_space_check: false,
    })
}

/// Reads [`match_to_document`].
fn match_from(document: &Document) -> Result<NamespaceMatch> {
    let pattern = |key: &str| -> Option<NamePattern> {
        let p = document.get_document(key).ok()?;
        Some(NamePattern {
            pattern: p.get_str("pattern").ok()?.to_owned(),
            options: p.get_str("options").unwrap_or_default().to_owned(),
        })
    };
    let database = match document.get_str("database") {
        Ok(name) => DatabaseMatch::Name(name.to_owned()),
        Err(_) => {
            DatabaseMatch::Pattern(pattern("databaseRegex").ok_or_else(|| unreadable("filter"))?)
        }
    };
    let collections = match (document.get_array("collections"), pattern("collectionsRegex")) {
        (Ok(names), _) => CollectionMatch::Names(
            names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
        ),
        (Err(_), Some(p)) => CollectionMatch::Pattern(p),
        (Err(_), None) => CollectionMatch::All,
    };
    Ok(NamespaceMatch { database, collections })
}

/// The stored form of a collection.
///
/// # Errors
/// `Internal` when options of the source cannot be encoded.
pub(crate) fn collection_to_document(uuid: &Uuid, entry: &Entry) -> Result<Document> {
    let plain = |raw: &RawDocumentBuf| {
        Document::try_from(raw.as_ref())
            .map_err(|e| Error::new(Kind::Internal, format!("{}", entry.source)).caused_by(e))
    };
    let mut indexes = Vec::new();
    for index in &entry.indexes {
        indexes
            .push(Bson::Document(doc! { "wanted": plain(&index.wanted)?, "built": index.built }));
    }
    Ok(doc! {
        "_id": uuid.to_string(),
        "source": entry.source.to_string(),
        "destination": entry.destination.to_string(),
        "destinationUuid": entry.destination_uuid.map(|uuid| uuid.to_string()),
        "options": plain(&entry.options)?,
        "indexes": indexes,
        "dropped": entry.dropped,
        "planned": entry.partitions.is_some(),
        "naturalOrder": entry.natural_order,
        "bytes": i64::try_from(entry.stats.bytes).unwrap_or(i64::MAX),
        "documents": i64::try_from(entry.stats.documents).unwrap_or(i64::MAX),
    })
}

/// Reads a collection; the flag says whether its partitions were planned.
///
/// # Errors
/// `MetadataMismatch` for what cannot be read.
pub(crate) fn collection_from_document(
    document: &Document,
    read_after: ClusterTime,
) -> Result<(Uuid, Entry, bool)> {
    let wrong = || unreadable("collection");
    let text = |key: &str| document.get_str(key).map_err(|_| wrong());
    let uuid = Uuid::parse_str(text("_id")?).map_err(|_| wrong())?;
    let raw = |d: &Document| RawDocumentBuf::try_from(d).map_err(|_| wrong());
    let mut indexes = Vec::new();
    for index in document.get_array("indexes").map_err(|_| wrong())? {
        let index = index.as_document().ok_or_else(wrong)?;
        indexes.push(Index {
            wanted: raw(index.get_document("wanted").map_err(|_| wrong())?)?,
            built: index.get_bool("built").map_err(|_| wrong())?,
        });
    }
    let mut entry = Entry::to_copy(
        Namespace::parse(text("source")?)?,
        Namespace::parse(text("destination")?)?,
        raw(document.get_document("options").map_err(|_| wrong())?)?,
        indexes,
        read_after,
    );
    let size = |key: &str| document.get_i64(key).unwrap_or_default().max(0).unsigned_abs();
    entry.stats = CollectionStats { bytes: size("bytes"), documents: size("documents") };
    entry.dropped = document.get_bool("dropped").map_err(|_| wrong())?;
    entry.natural_order = document.get_bool("naturalOrder").unwrap_or(false);
    entry.destination_uuid =
        document.get_str("destinationUuid").ok().and_then(|text| Uuid::parse_str(text).ok());
    Ok((uuid, entry, document.get_bool("planned").map_err(|_| wrong())?))
}

/// The stored form of a partition.
///
/// # Errors
/// `Internal` when a bound cannot be encoded.
pub(crate) fn partition_to_document(
    uuid: &Uuid,
    index: usize,
    bounds: &Bounds,
    done: bool,
) -> Result<Document> {
    let bound = |raw: &Option<RawDocumentBuf>| match raw {
        None => Ok(Bson::Null),
        Some(raw) => Document::try_from(raw.as_ref())
            .map(Bson::Document)
            .map_err(|e| Error::new(Kind::Internal, "partition bound").caused_by(e)),
    };
    Ok(doc! {
        "_id": format!("{uuid}/{index:08}"),
        "collection": uuid.to_string(),
        "index": i64::try_from(index).unwrap_or(i64::MAX),
        "lower": bound(&bounds.lower)?,
        "upper": bound(&bounds.upper)?,
        "done": done,
    })
}

/// Reads a partition: its collection, its position and how it is to be taken up again. What was
/// not done is begun anew after everything up to `read_after`, and emptied first.
///
/// # Errors
/// `MetadataMismatch` for what cannot be read.
pub(crate) fn partition_from_document(
    document: &Document,
    read_after: ClusterTime,
) -> Result<(Uuid, i64, Partition)> {
    let wrong = || unreadable("partition");
    let uuid = document
        .get_str("collection")
        .ok()
        .and_then(|text| Uuid::parse_str(text).ok())
        .ok_or_else(wrong)?;
    let bound = |key: &str| match document.get_document(key) {
        Err(_) => Ok(None),
        Ok(bound) => RawDocumentBuf::try_from(bound).map(Some).map_err(|_| wrong()),
    };
    let state = if document.get_bool("done").map_err(|_| wrong())? {
        PartitionState::Done
    } else {
        PartitionState::Pending { read_after, not_before: ClusterTime::ZERO, attempts: 1 }
    };
    let index = document.get_i64("index").map_err(|_| wrong())?;
    let bounds = Bounds { lower: bound("lower")?, upper: bound("upper")? };
    Ok((uuid, index, Partition { bounds, state }))
}

/// The stored form of whether a partition is verified.
pub(crate) fn verified_to_document(uuid: &Uuid, index: usize, is_clean: bool) -> Document {
    doc! {
        "_id": format!("{uuid}/{index:08}"),
        "collection": uuid.to_string(),
        "index": i64::try_from(index).unwrap_or(i64::MAX),
        "verified": is_clean,
    }
}

/// Reads a verified partition; `None` for one that is not.
///
/// # Errors
/// `MetadataMismatch` for what cannot be read.
pub(crate) fn verified_from_document(document: &Document) -> Result<Option<(Uuid, usize)>> {
    let wrong = || unreadable("verified partition");
    let uuid = document.get_str("collection").ok().and_then(|text| Uuid::parse_str(text).ok());
    let index = document.get_i64("index").ok().and_then(|index| usize::try_from(index).ok());
    let is_clean = document.get_bool("verified").map_err(|_| wrong())?;
    let place = uuid.zip(index).ok_or_else(wrong)?;
    Ok(is_clean.then_some(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_read_as_it_was_written() {
        let record = SyncRecord {
            state: State::Committing,
            phase: Phase::WaitingForCommit,
            options: StartOptions {
                source: ClusterLabel::Cluster1,
                destination: ClusterLabel::Cluster0,
                build_indexes: BuildIndexes::ExcludeHashed,
                write_blocking: Some(WriteBlocking::SourceAndDestination),
                include_namespaces: vec![NamespaceMatch {
                    database: DatabaseMatch::Name("app".into()),
                    collections: CollectionMatch::Names(vec!["users".into()]),
                }],
                exclude_namespaces: vec![NamespaceMatch {
                    database: DatabaseMatch::Pattern(NamePattern {
                        pattern: "^t.*".into(),
                        options: "i".into(),
                    }),
                    collections: CollectionMatch::All,
                }],
                namespace_remap: vec![
                    NamespaceRemap {
                        from: RemapName { database: "app".into(), collection: None },
                        to: RemapName { database: "shop".into(), collection: None },
                    },
                    NamespaceRemap {
                        from: RemapName { database: "app".into(), collection: Some("a".into()) },
                        to: RemapName { database: "x".into(), collection: Some("b".into()) },
                    },
                ],
                pre_existing: true,
                verification: Some(false),
                reversible: false,
                natural_order: vec![NamespaceMatch {
                    database: DatabaseMatch::Name("app".into()),
                    collections: CollectionMatch::All,
                }],
                detect_random_id: false,
                skip_disk_space_check: false,
            },
            source_identity: "a".into(),
            destination_identity: "b".into(),
            filters: vec!["f".into()],
            position: Some(Position {
                token: Some(bson::rawdoc! { "_data": "82" }),
                time: ClusterTime { t: 5, i: 6 },
            }),
            commit: CommitStep::Restoring,
            fence: Some(ClusterTime { t: 9, i: 1 }),
            abort: Some(Copied::Drop),
            blocks: Blocks { source: Block::Foreign, destination: Block::Ours },
            reverse_from: Some(ClusterTime { t: 10, i: 2 }),
            hot: vec![HotDocument {
                namespace: Namespace::parse("app.items").unwrap(),
                id: bson::rawdoc! { "_id": 7i64 },
            }],
            generation: 3,
        };
        let read = SyncRecord::from_document(&record.to_document().unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{record:?}"));
    }

    #[test]
    fn another_schema_is_refused() {
        let error = SyncRecord::from_document(&doc! { "_id": "sync", "schema": 99 }).unwrap_err();
        assert_eq!(error.kind(), Kind::MetadataVersion);
    }

    #[test]
    fn a_partition_that_was_not_done_is_begun_anew() {
        let uuid = Uuid::from_bytes([7; 16]);
        let bounds = Bounds { lower: Some(bson::rawdoc! { "_id": 5 }), upper: None };
        let time = ClusterTime { t: 3, i: 1 };
        let stored = partition_to_document(&uuid, 2, &bounds, false).unwrap();
        let (read_uuid, index, partition) = partition_from_document(&stored, time).unwrap();
        assert_eq!((read_uuid, index, &partition.bounds), (uuid, 2, &bounds));
        let PartitionState::Pending { read_after, attempts, .. } = partition.state else {
            panic!("not pending")
        };
        assert_eq!((read_after, attempts), (time, 1));
    }
}
