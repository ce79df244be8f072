//! `syncline verify`: two clusters compared without a sync of this process between them, and the file in
//! which it notes what is equal, so that one that was ended can go on.
//!
//! The file is a sequence of BSON documents, which `bsondump` shows: the first says what is compared, each
//! further one how far two collections are equal; the last about a pair counts. What differs is not
//! noted: it is compared again.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bson::{Document, RawDocument, RawDocumentBuf, Uuid as BsonUuid, doc, spec::BinarySubtype};
use uuid::Uuid;

use super::{connect, document_filters, plugins};
use crate::{
    config::Config,
    engine::{self, Alone, Patience},
    error::{Error, Kind, Result},
    model::{
        gate::WriteGate,
        options::StartOptions,
        verification::{CollectionPair, KnownEqual, VerificationProgress},
    },
    mongo::{MongoDestination, MongoSource},
};

/// How hard two clusters are compared when nobody says.
const DEFAULT_LEVEL: u8 = 3;
/// How often it is noted how far a collection is.
const NOTE_EVERY: Duration = Duration::from_secs(20);
/// First field of the first document of the file.
const FORMAT: &str = "syncline verify 1";

/// How two clusters are to be compared, beside which and what of them.
#[derive(Debug)]
pub struct Verify {
    /// What a difference may be explained with.
    pub patience: Patience,
    /// Where to note what is equal.
    pub checkpoint: Option<PathBuf>,
}

/// Compares two clusters, without a sync of this process between them.
///
/// # Errors
/// The `Plugin…` kinds, `FilterInvalid`, `NamespaceRemapConflict`, `ConfigInvalid` for a checkpoint file
/// that is not of this comparison, and those of the clusters. What differs is in the result.
pub async fn verify(
    config: &Config,
    options: StartOptions,
    how: Verify,
    report: &(dyn Fn(&VerificationProgress) + Sync),
) -> Result<VerificationProgress> {
    let registry = plugins(config).await?;
    let documents = document_filters(config, &registry).await?;
    let of = doc! {
        "source": format!("{:?}", options.source),
        "include": format!("{:?}", options.include_namespaces),
        "exclude": format!("{:?}", options.exclude_namespaces),
        "remap": format!("{:?}", options.namespace_remap),
        "filters": documents.fingerprints(),
        "duringSync": how.patience == Patience::Live,
    };
    let opened = how.checkpoint.as_deref().map(|path| Checkpoint::open(path, &of)).transpose()?;
    let (checkpoint, known) = opened.unzip();
    let tag = Uuid::new_v4().simple().to_string();
    let (source, destination) = tokio::try_join!(
        connect(config, &registry, options.source, &tag),
        connect(config, &registry, options.destination, &tag)
    )?;
    let alone = Alone {
        source: Arc::new(MongoSource::new(source)),
        destination: Arc::new(MongoDestination::new(destination, WriteGate::default())),
        include: options.include_namespaces,
        exclude: options.exclude_namespaces,
        remap: options.namespace_remap,
        documents: Arc::new(documents),
        metadata_database: config.metadata_database.clone(),
        load_level: config.load_level.unwrap_or(DEFAULT_LEVEL),
        patience: how.patience,
        note_every: NOTE_EVERY,
        known: known.unwrap_or_default(),
    };
    let note = |pair: CollectionPair, known: &KnownEqual| {
        checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.note(pair, known))
    };
    let found = engine::verify(&alone, report, &note).await?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.remove()?;
    }
    Ok(found)
}

/// The file in which a comparison notes what is equal. One process has it at a time.
struct Checkpoint {
    /// Where it is.
    path: PathBuf,
    /// Open for appending. A short std lock for one write.
    file: Mutex<File>,
}

impl Checkpoint {
    /// Opens the file, makes it if need be, and reads what an earlier comparison has noted.
    ///
    /// # Errors
    /// `ConfigInvalid` when another comparison noted it, another process uses it, or it cannot be used.
    fn open(path: &Path, of: &Document) -> Result<(Self, HashMap<CollectionPair, KnownEqual>)> {
        let failed = |why: std::io::Error| unusable(path, why.to_string());
        let mut file =
            File::options().create(true).append(true).read(true).open(path).map_err(failed)?;
        file.try_lock().map_err(|_| unusable(path, "another process uses it"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let header = doc! { "format": FORMAT, "of": of };
        let header = RawDocumentBuf::try_from(&header)
            .map_err(|e| Error::new(Kind::Internal, "no header").caused_by(e))?;
        let mut known = HashMap::new();
        let mut rest = bytes.as_slice();
        match split_first(&mut rest) {
            // Empty, or ended while its first document was written.
            None if header.as_bytes().starts_with(&bytes) => {
                file.set_len(0).map_err(failed)?;
                file.write_all(header.as_bytes()).map_err(failed)?;
            }
            Some(first) if first.as_bytes() == header.as_bytes() => {
                while let Some(document) = split_first(&mut rest) {
                    let (pair, equal) = from_document(document)
                        .ok_or_else(|| unusable(path, "it holds something else"))?;
                    known.insert(pair, equal);
                }
                // What a process that was ended has not written to its end.
                let length = u64::try_from(bytes.len() - rest.len()).unwrap_or(u64::MAX);
                file.set_len(length).map_err(failed)?;
            }
            _ => {
                return Err(unusable(
                    path,
                    "it is of another comparison: take the same options and plugins as before, name \
                     another file, or remove this one",
                ));
            }
        }
        Ok((Self { path: path.to_owned(), file: Mutex::new(file) }, known))
    }

    /// Notes how far two collections are equal.
    ///
    /// # Errors
    /// `ConfigInvalid` when the file cannot be written.
    fn note(&self, pair: CollectionPair, known: &KnownEqual) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let document = to_document(pair, known)
            .map_err(|e| Error::new(Kind::Internal, "nothing to note").caused_by(e))?;
        file.write_all(document.as_bytes()).map_err(|why| unusable(&self.path, why.to_string()))
    }

    /// Removes the file: the comparison has come to its end, and the next one begins anew.
    ///
    /// # Errors
    /// `ConfigInvalid` when it cannot be removed.
    fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|why| unusable(&self.path, why.to_string()))
    }
}

/// The error of a file that cannot be used.
fn unusable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::ConfigInvalid, format!("--checkpointFile {}: {why}", path.display()))
}

/// The document at the front, which is taken off; `None` when there is no whole one.
fn split_first<'a>(rest: &mut &'a [u8]) -> Option<&'a RawDocument> {
    let length = usize::try_from(i32::from_le_bytes(*rest.first_chunk()?)).ok()?;
    let (document, behind) = rest.split_at_checked(length)?;
    let document = RawDocument::from_bytes(document).ok()?;
    *rest = behind;
    Some(document)
}

/// What is noted about two collections.
fn to_document(
    (source, destination): CollectionPair,
    known: &KnownEqual,
) -> bson::error::Result<RawDocumentBuf> {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let mut document = RawDocumentBuf::try_from(&doc! {
        "source": source,
        "destination": destination,
        "documents": [count(known.documents.0), count(known.documents.1)],
        "quarantined": count(known.quarantined),
    })?;
    if let Some(next) = &known.next {
        document.append(bson::cstr!("next"), next.as_ref());
    }
    Ok(document)
}

/// The reverse of [`to_document`].
fn from_document(document: &RawDocument) -> Option<(CollectionPair, KnownEqual)> {
    let uuid = |name: &str| {
        let binary = document.get_binary(name).ok()?;
        let bytes = binary.bytes.try_into().ok()?;
        (binary.subtype == BinarySubtype::Uuid).then(|| BsonUuid::from_bytes(bytes))
    };
    let count = |number: i64| u64::try_from(number).ok();
    let mut documents = document.get_array("documents").ok()?.into_iter();
    let mut side = || count(documents.next()?.ok()?.as_i64()?);
    let documents = (side()?, side()?);
    let next = match document.get("next").ok()? {
        None => None,
        Some(next) => Some(next.as_document()?.to_owned()),
    };
    let quarantined = count(document.get_i64("quarantined").ok()?)?;
    Some(((uuid("source")?, uuid("destination")?), KnownEqual { next, documents, quarantined }))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    /// What is known of a pair so far.
    fn known(next: Option<RawDocumentBuf>, documents: u64) -> KnownEqual {
        KnownEqual { next, documents: (documents, documents + 1), quarantined: 2 }
    }

    #[test]
    fn what_was_noted_is_known_to_the_next_one_even_if_a_write_was_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint");
        let of = doc! { "include": "x" };
        let (a, b) = ((BsonUuid::new(), BsonUuid::new()), (BsonUuid::new(), BsonUuid::new()));
        let (file, nothing) = Checkpoint::open(&path, &of).unwrap();
        assert!(nothing.is_empty());
        let here = known(Some(rawdoc! { "_id": { "k": [1, null] } }), 7);
        file.note(a, &here).unwrap();
        file.note(b, &here).unwrap();
        file.note(b, &known(None, 9)).unwrap();
        drop(file);
        let expected = HashMap::from([(a, here), (b, known(None, 9))]);
        let whole = std::fs::read(&path).unwrap();
        let last = to_document(b, &known(None, 9)).unwrap().as_bytes().len();
        // Ended in the middle of another write, or of the last.
        for (bytes, is_known) in [
            ([whole.as_slice(), &whole[..9]].concat(), true),
            (whole[..whole.len() - 1].to_vec(), false),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let (file, found) = Checkpoint::open(&path, &of).unwrap();
            assert_eq!(found == expected, is_known, "{found:?}");
            assert_eq!(found[&a], expected[&a]);
            let length = whole.len() - if is_known { 0 } else { last };
            assert_eq!(std::fs::metadata(&path).unwrap().len(), u64::try_from(length).unwrap());
            file.note(b, &known(None, 9)).unwrap();
            drop(file);
            assert_eq!(Checkpoint::open(&path, &of).unwrap().1, expected);
        }
        Checkpoint::open(&path, &of).unwrap().0.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint");
        let of = doc! { "include": "x" };
        let (held, _) = Checkpoint::open(&path, &of).unwrap();
        let refusal = |of: &Document| Checkpoint::open(&path, of).err().unwrap();
        assert!(refusal(&of).full().contains("another process"), "{}", refusal(&of).full());
        drop(held);
        let error = refusal(&doc! { "include": "y" });
        assert_eq!(error.kind(), Kind::ConfigInvalid);
        assert!(error.full().contains("of another comparison"), "{}", error.full());
        std::fs::write(&path, "notes of mine, which are dear to me").unwrap();
        assert!(refusal(&of).full().contains("of another comparison"));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("notes of mine"));
    }
}
