//! Documents as the source sent them: one BSON array, never decoded.

use bson::{
    RawDocument,
    raw::{RawArray, RawArrayBuf},
};

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
    pub fn from_documents<D: AsRef<RawDocument>>(documents: impl IntoIterator<Item = D>) -> Self {
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

    /// Size of the documents in bytes, without what holds them together: before each a type byte and its
    /// position in digits, which a zero byte ends.
    pub fn document_bytes(&self) -> usize {
        /// Length of the array before its elements, and the zero byte behind them.
        const AROUND: usize = 5;
        // Every position has a digit, those from 10 on one more, those from 100 on another.
        let mut digits = self.count;
        let mut first = 10;
        while first < self.count {
            digits += self.count - first;
            first *= 10;
        }
        self.size_bytes().saturating_sub(AROUND + 2 * self.count + digits)
    }

    /// The array, to be put into a command as it is.
    pub fn as_array(&self) -> &RawArray {
        &self.documents
    }

    /// The documents one by one, without copying.
    ///
    /// # Errors
    /// `ReadFailed` when the array holds something else than documents.
    pub fn documents(&self) -> impl Iterator<Item = Result<&RawDocument>> {
        let bytes = self.documents.as_bytes();
        let mut rest = bytes.get(4..bytes.len().saturating_sub(1)).unwrap_or_default();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let first = split_first(rest);
            rest = first.map_or(&[], |(_, behind)| behind);
            Some(first.map(|(document, _)| document).ok_or_else(|| {
                Error::new(Kind::ReadFailed, "a batch holds something that is no document")
            }))
        })
    }
}

/// The document at the front of an array's elements, and the elements behind it.
fn split_first(elements: &[u8]) -> Option<(&RawDocument, &[u8])> {
    /// Type byte of a document.
    const DOCUMENT: u8 = 0x03;
    let (&kind, rest) = elements.split_first()?;
    let key = rest.iter().position(|byte| *byte == 0)?;
    let rest = rest.get(key + 1..)?;
    let length = usize::try_from(i32::from_le_bytes(*rest.first_chunk()?)).ok()?;
    let (document, rest) = rest.split_at_checked(length)?;
    let document = RawDocument::from_bytes(document).ok()?;
    (kind == DOCUMENT).then_some((document, rest))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn documents_come_as_they_were_put_in() {
        let documents: Vec<_> = (0..120).map(|id| rawdoc! {"_id": id, "a": {"b": [id]}}).collect();
        let batch = Batch::from_documents(&documents);
        let found: Vec<_> = batch.documents().map(|one| one.unwrap().to_owned()).collect();
        assert_eq!(found, documents);
        assert_eq!(Batch::from_documents::<&RawDocument>([]).documents().count(), 0);
    }

    #[test]
    fn the_size_of_documents_is_that_of_each() {
        for count in [0, 1, 9, 10, 11, 99, 100, 101, 1234] {
            let documents: Vec<_> = (0..count).map(|id| rawdoc! {"_id": id}).collect();
            let size: usize = documents.iter().map(|d| d.as_bytes().len()).sum();
            assert_eq!(Batch::from_documents(&documents).document_bytes(), size, "{count}");
        }
    }

    #[test]
    fn what_is_no_document_is_an_error_and_the_end() {
        let mut array = RawArrayBuf::new();
        array.push(rawdoc! {"_id": 1});
        array.push(5);
        array.push(rawdoc! {"_id": 2});
        let batch = Batch::from_array(array, 3);
        let mut documents = batch.documents();
        assert!(documents.next().unwrap().is_ok());
        let error = documents.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::ReadFailed);
        assert!(documents.next().is_none());
    }
}
