//! Documents as a filter is sent them: end to end, whole or with the fields alone that count.

use syncline_sdk::bson::Document;

use super::filter::Plan;
use crate::{
    error::{Error, Kind, Result},
    model::Batch,
};

/// Fields that are looked for one by one; a filter that names more is sent whole documents.
const MAX_FIELDS: usize = 64;

/// What of a document is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All of it.
    Whole,
    /// Its top-level fields of these names.
    Fields(Vec<String>),
}

impl Sent {
    /// What a filter with this plan has to see.
    pub(crate) fn of(plan: &Plan) -> Self {
        if plan.replaces || plan.reads.is_empty() || plan.reads.len() > MAX_FIELDS {
            return Self::Whole;
        }
        Self::Fields(plan.reads.clone())
    }

    /// Writes the documents of a batch behind what is there.
    ///
    /// # Errors
    /// `ReadFailed` when the batch holds something that is no document.
    pub(crate) fn write(&self, batch: &Batch, flat: &mut Vec<u8>) -> Result<()> {
        for document in batch.documents() {
            let bytes = document?.as_bytes();
            match self {
                Self::Whole => flat.extend_from_slice(bytes),
                Self::Fields(names) => project(bytes, names, flat).ok_or_else(|| {
                    Error::new(Kind::ReadFailed, "a document of a batch cannot be read")
                })?,
            }
        }
        Ok(())
    }
}

/// Writes a document with the fields of these names, all of them where a name is there twice.
fn project(document: &[u8], names: &[String], flat: &mut Vec<u8>) -> Option<()> {
    let mut fields = Document::new(document).ok()?.fields();
    let start = flat.len();
    flat.extend_from_slice(&[0; 4]);
    while let Some(field) = fields.next_field().ok()? {
        if names.iter().any(|name| name.as_bytes() == field.key) {
            flat.extend_from_slice(field.element());
        }
    }
    flat.push(0);
    let length = i32::try_from(flat.len() - start).ok()?;
    flat.get_mut(start..start + 4)?.copy_from_slice(&length.to_le_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;

    /// What is sent of some documents.
    fn sent(sent: &Sent, documents: &[RawDocumentBuf]) -> Vec<u8> {
        let mut flat = Vec::new();
        sent.write(&Batch::from_documents(documents), &mut flat).unwrap();
        flat
    }

    #[test]
    fn the_fields_that_count_are_sent_and_no_other() {
        let mut doubled = rawdoc! {"_id": 1, "a": 1, "b": "x".repeat(500)};
        doubled.append(bson::cstr!("a"), "two");
        let documents = [doubled, rawdoc! {"_id": 2}, rawdoc! {"c": {"a": 1}, "a": [1, {"b": 2}]}];
        assert_eq!(
            sent(&Sent::Whole, &documents),
            documents.iter().flat_map(|one| one.as_bytes().to_vec()).collect::<Vec<_>>()
        );
        let mut first = rawdoc! {"a": 1};
        first.append(bson::cstr!("a"), "two");
        let expected = [first, rawdoc! {}, rawdoc! {"a": [1, {"b": 2}]}];
        assert_eq!(
            sent(&Sent::Fields(vec!["a".to_owned(), "absent".to_owned()]), &documents),
            expected.iter().flat_map(|one| one.as_bytes().to_vec()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_plan_that_names_no_fields_or_replaces_gets_whole_documents() {
        let plan = |replaces, reads: usize| Plan {
            replaces,
            reads: (0..reads).map(|n| format!("f{n}")).collect(),
        };
        for whole in [plan(false, 0), plan(true, 1), plan(false, MAX_FIELDS + 1)] {
            assert_eq!(Sent::of(&whole), Sent::Whole);
        }
        assert!(matches!(Sent::of(&plan(false, MAX_FIELDS)), Sent::Fields(_)));
    }
}
