//! Documents as the source sent them: one BSON array, never decoded.

use bson::raw::{RawArray, RawArrayBuf, RawBsonRef};

use crate::error::{Error, Kind, Result};

/// Some documents of one collection, in the order they were read.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The documents as a raw BSON array.
    documents: RawArrayBuf,
    /// How many documents the array holds.
    count: usize,
}

impl Batch {
    /// Takes over an array of documents whose length the caller knows.
    pub fn from_array(documents: RawArrayBuf, count: usize) -> Self {
        Self { documents, count }
    }

    /// Builds an array from single documents.
    pub fn from_documents<D: AsRef<bson::RawDocument>>(
        documents: impl IntoIterator<Item = D>,
    ) -> Self {
        let mut array = RawArrayBuf::new();
        let mut count = 0;
        for document in documents {
            array.push(document.as_ref());
            count += 1;
        }
        Self { documents: array, count }
    }

    /// How many documents there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the array in bytes.
    pub fn size_bytes(&self) -> usize {
        self.documents.as_bytes().len()
    }

    /// The array, to be put into a command as it is.
    pub fn as_array(&self) -> &RawArray {
        &self.documents
    }

    /// The documents one by one, without copying.
    ///
    /// # Errors
    /// `ReadFailed` when the array holds something else than documents.
    pub fn documents(&self) -> impl Iterator<Item = Result<&bson::RawDocument>> {
        self.documents.into_iter().map(|element| {
            element.ok().and_then(RawBsonRef::as_document).ok_or_else(|| {
                Error::new(Kind::ReadFailed, "a batch holds something that is no document")
            })
        })
    }

    /// The documents end to end, as filters take them.
    ///
    /// # Errors
    /// As [`Self::documents`].
    pub fn to_flat(&self) -> Result<Vec<u8>> {
        let mut flat = Vec::with_capacity(self.size_bytes());
        for document in self.documents() {
            flat.extend_from_slice(document?.as_bytes());
        }
        Ok(flat)
    }
}
