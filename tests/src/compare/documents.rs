//! Documents, raw bytes against raw bytes.
//!
//! Both sides are read in the order of their `_id` index, so they are merged in one pass. Where the
//! ids differ, the destination is asked for the source's `_id`: if it has it, its own current document
//! is surplus, else the source's is missing. So no order of BSON values is rebuilt here.

use anyhow::{Context, Result};
use mongodb::{
    Client, Cursor,
    bson::{Bson, RawBsonRef, RawDocument, RawDocumentBuf, doc},
    options::{Hint, ReadConcern},
};

use super::{
    Expectation, Expected,
    catalog::{Collection, show},
    report::Collector,
};

/// One side of the merge.
struct Side {
    /// Reads the collection.
    cursor: Cursor<RawDocumentBuf>,
    /// Transformation, on the source.
    expected: Option<Expectation>,
    /// Namespace for the transformation.
    namespace: String,
}

/// A document and the bytes of its `_id`, type included.
struct Current {
    /// The document as it shall be on the destination.
    document: RawDocumentBuf,
    /// `{_id: …}` alone.
    id: RawDocumentBuf,
}

impl Side {
    /// Opens a cursor in `_id` order, or in natural order for a capped collection.
    async fn open(
        (client, collection): (&Client, &Collection),
        expected: Option<&Expectation>,
    ) -> Result<Self> {
        let order = if collection.is_capped() {
            doc! { "$natural": 1 }
        } else {
            doc! { "_id": 1 }
        };
        let handle =
            client.database(collection.database()).collection::<RawDocumentBuf>(collection.name());
        let mut find = handle.find(doc! {}).read_concern(ReadConcern::majority());
        find = find.sort(order.clone());
        if !collection.is_capped() {
            find = find.hint(Hint::Keys(order));
        }
        Ok(Self {
            cursor: find.await?,
            expected: expected.cloned(),
            namespace: collection.namespace().to_owned(),
        })
    }

    /// The next document that shall be on the destination.
    async fn next(&mut self, collector: Option<&mut Collector>) -> Result<Option<Current>> {
        let mut read = 0;
        let mut withheld = 0;
        let current = loop {
            if !self.cursor.advance().await? {
                break None;
            }
            read += 1;
            let document = self.cursor.current();
            let verdict =
                self.expected.as_ref().map(|expected| expected(&self.namespace, document));
            match verdict {
                None | Some(Expected::Same) => break Some(document.to_owned()),
                Some(Expected::Instead(other)) => break Some(other),
                Some(Expected::Nothing) => withheld += 1,
            }
        };
        if let Some(collector) = collector {
            collector.report.documents += read;
            collector.report.withheld += withheld;
        }
        current.map(|document| Ok(Current { id: id_of(&document)?, document })).transpose()
    }
}

/// Compares the documents of a collection.
pub(super) async fn compare(
    source: (&Client, &Collection),
    destination: (&Client, &Collection),
    expected: Option<&Expectation>,
    collector: &mut Collector,
) -> Result<()> {
    let namespace = source.1.namespace();
    let mut ours = Side::open(source, expected).await?;
    let mut theirs = Side::open(destination, None).await?;
    let mut left = ours.next(Some(collector)).await?;
    let mut right = theirs.next(None).await?;
    while !collector.is_full() {
        match (&left, &right) {
            (None, None) => return Ok(()),
            (Some(missing), None) => {
                collector.add(namespace, format!("missing: {}", show(&missing.id)));
                left = ours.next(Some(collector)).await?;
            }
            (None, Some(surplus)) => {
                collector.add(namespace, format!("only on the destination: {}", show(&surplus.id)));
                right = theirs.next(None).await?;
            }
            (Some(one), Some(other)) if one.id.as_bytes() == other.id.as_bytes() => {
                compare_pair(namespace, one, other, collector);
                left = ours.next(Some(collector)).await?;
                right = theirs.next(None).await?;
            }
            (Some(one), Some(other)) => match locate(destination, &one.id).await? {
                None => {
                    collector.add(namespace, format!("missing: {}", show(&one.id)));
                    left = ours.next(Some(collector)).await?;
                }
                Some(found) if found.as_bytes() == other.id.as_bytes() => {
                    let what =
                        format!("_id of another type: {} | {}", show(&one.id), show(&other.id));
                    collector.add(namespace, what);
                    left = ours.next(Some(collector)).await?;
                    right = theirs.next(None).await?;
                }
                Some(_) if source.1.is_capped() => {
                    let what =
                        format!("natural order differs at {} | {}", show(&one.id), show(&other.id));
                    collector.add(namespace, what);
                    return Ok(());
                }
                Some(_) => {
                    collector
                        .add(namespace, format!("only on the destination: {}", show(&other.id)));
                    right = theirs.next(None).await?;
                }
            },
        }
    }
    Ok(())
}

/// Compares two documents of the same `_id`.
fn compare_pair(namespace: &str, one: &Current, other: &Current, collector: &mut Collector) {
    if one.document.as_bytes() == other.document.as_bytes() {
        collector.report.bytes += one.document.as_bytes().len() as u64;
        return;
    }
    let what = match first_difference(&one.document, &other.document) {
        Some(field) => format!("document {} differs at {field}", show(&one.id)),
        None => format!("document {} differs", show(&one.id)),
    };
    collector.add(namespace, what);
}

/// Describes the first element at which two documents part.
fn first_difference(one: &RawDocument, other: &RawDocument) -> Option<String> {
    let mut others = other.iter();
    for element in one {
        let (key, value) = element.ok()?;
        let Some(counterpart) = others.next() else { return Some(format!("{key}: missing")) };
        let (other_key, other_value) = counterpart.ok()?;
        if key != other_key {
            return Some(format!("field {key} | {other_key} (order or name)"));
        }
        if bytes_of(value) != bytes_of(other_value) {
            let types = (value.element_type(), other_value.element_type());
            let text = format!("field {key}: {value:?} | {other_value:?} ({types:?})");
            return Some(text.chars().take(400).collect());
        }
    }
    let (surplus, _) = others.next()?.ok()?;
    Some(format!("field {surplus}: only on the destination"))
}

/// A value with its type byte.
fn bytes_of(value: RawBsonRef<'_>) -> Vec<u8> {
    let mut single = RawDocumentBuf::new();
    single.append(bson::cstr!("v"), value);
    single.into_bytes()
}

/// The `_id` of a document.
fn id_of(document: &RawDocument) -> Result<RawDocumentBuf> {
    let id = document.get("_id")?.context("a document without _id")?;
    let mut single = RawDocumentBuf::new();
    single.append(bson::cstr!("_id"), id);
    Ok(single)
}

/// The `_id` under which the destination holds an equal `_id`, if it does; it may differ in type.
async fn locate(
    (client, collection): (&Client, &Collection),
    id: &RawDocument,
) -> Result<Option<RawDocumentBuf>> {
    let id: Bson = id.get("_id")?.context("a document without _id")?.try_into()?;
    let handle =
        client.database(collection.database()).collection::<RawDocumentBuf>(collection.name());
    let found = handle
        .find_one(doc! { "_id": { "$eq": id } })
        .read_concern(ReadConcern::majority())
        .projection(doc! { "_id": 1 })
        .await?;
    Ok(found)
}
