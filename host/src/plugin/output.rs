//! Checks what a filter answered before anything of it is used.

use bson::{RawDocument, RawDocumentBuf};
use syncline_sdk::bson::{Document, Malformed, Value};

use super::{bindings::v0_1::filter::exports::syncline::plugin::filter::Outcome, context::quoted};
use crate::{
    error::{Error, Kind, Result},
    model::{Batch, MAX_DOCUMENT_BYTES},
    ports::Verdict,
};

/// Deepest nesting of a replacement; servers allow less than 200.
const MAX_DEPTH: u32 = 200;

/// How many verdicts of each sort there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Kept.
    pub(crate) kept: u64,
    /// Dropped.
    pub(crate) dropped: u64,
    /// Replaced.
    pub(crate) replaced: u64,
}

/// What was said of a batch.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// The verdicts; `None` when every document is kept. A document that is refused counts as dropped
    /// here.
    pub(crate) verdicts: Option<Vec<Verdict>>,
    /// Documents that cannot pass, by position, each with its error.
    pub(crate) refused: Vec<(usize, Error)>,
    /// How many verdicts of each sort there were.
    pub(crate) tally: Tally,
}

/// Turns an answer into verdicts. A document that is rejected, or whose replacement has another
/// `_id`, is refused by itself.
///
/// # Errors
/// `PluginOutputInvalid` when the answer as a whole makes no sense.
pub(crate) fn judgement(batch: &Batch, outcome: &Outcome, may_replace: bool) -> Result<Judgement> {
    if outcome.verdicts.len() != batch.count() {
        return Err(invalid(format!(
            "{} verdicts for {} documents",
            outcome.verdicts.len(),
            batch.count()
        )));
    }
    let kept = u64::try_from(batch.count()).unwrap_or(u64::MAX);
    if outcome.verdicts.iter().all(|verdict| *verdict == 0) {
        check_used_up(&outcome.replacements, outcome.rejects.len())?;
        return Ok(Judgement { tally: Tally { kept, ..Tally::default() }, ..Judgement::default() });
    }
    let mut verdicts = Vec::with_capacity(batch.count());
    let (mut tally, mut refused) = (Tally::default(), Vec::new());
    let mut replacements = outcome.replacements.as_slice();
    let mut reasons = outcome.rejects.iter();
    // Replacements alone are compared with what they replace.
    let mut originals = may_replace.then(|| batch.documents());
    for (position, byte) in outcome.verdicts.iter().enumerate() {
        let original = originals.as_mut().and_then(Iterator::next).transpose()?;
        verdicts.push(match byte {
            0 => {
                tally.kept += 1;
                Verdict::Keep
            }
            1 => {
                tally.dropped += 1;
                Verdict::Drop
            }
            2 => {
                let Some(original) = original else {
                    return Err(invalid(format!(
                        "document {position} is replaced, though the plan announces no replacements"
                    )));
                };
                let (replacement, rest) = take_document(replacements).map_err(|problem| {
                    invalid(format!("the replacement of document {position} {problem}"))
                })?;
                replacements = rest;
                if same_id(original, &replacement) {
                    tally.replaced += 1;
                    Verdict::Replace(replacement)
                } else {
                    let text = format!("the replacement of document {position} has another _id");
                    refused.push((position, Error::new(Kind::PluginChangedId, text)));
                    Verdict::Drop
                }
            }
            5 => {
                let reason = reasons.next().map_or("no reason given", String::as_str);
                let text = format!("document {position} of the batch: {}", quoted(reason));
                refused.push((position, Error::new(Kind::PluginRejected, text)));
                Verdict::Drop
            }
            other => {
                return Err(invalid(format!("verdict {other} for document {position}")));
            }
        });
    }
    check_used_up(replacements, reasons.len())?;
    Ok(Judgement { verdicts: Some(verdicts), refused, tally })
}

/// Checks that nothing is left over.
fn check_used_up(replacements: &[u8], reasons: usize) -> Result<()> {
    if !replacements.is_empty() {
        let message = format!("{} bytes of replacements belong to no verdict", replacements.len());
        return Err(invalid(message));
    }
    if reasons > 0 {
        return Err(invalid(format!("{reasons} reasons belong to no verdict")));
    }
    Ok(())
}

/// An error about the answer.
fn invalid(what: String) -> Error {
    Error::new(Kind::PluginOutputInvalid, what)
}

/// Cuts one well-formed document off the front.
fn take_document(bytes: &[u8]) -> Result<(RawDocumentBuf, &[u8]), &'static str> {
    let (head, _) = bytes.split_first_chunk::<4>().ok_or("is missing")?;
    let length = usize::try_from(i32::from_le_bytes(*head)).map_err(|_| "has a negative length")?;
    if length > MAX_DOCUMENT_BYTES {
        return Err("is larger than 16 MiB");
    }
    let (document, rest) = bytes.split_at_checked(length).ok_or("is cut short")?;
    let no_document = "is no BSON document";
    check(Document::new(document).map_err(|_| no_document)?, 0).map_err(|_| no_document)?;
    let document = RawDocumentBuf::from_bytes(document.to_vec()).map_err(|_| no_document)?;
    Ok((document, rest))
}

/// Checks the structure of a document at any depth: types and lengths. Text may be anything, since a
/// server keeps what drivers send it, and a filter passes on what it does not touch.
fn check(document: Document<'_>, depth: u32) -> Result<(), Malformed> {
    if depth >= MAX_DEPTH {
        return Err(Malformed);
    }
    let mut fields = document.fields();
    while let Some(field) = fields.next_field()? {
        match field.value()? {
            // An array is a document whose keys are positions.
            Value::Document(inner) | Value::Array(inner) => check(inner, depth + 1)?,
            Value::JavaScriptWithScope(raw) => check(scope(raw).ok_or(Malformed)?, depth + 1)?,
            _ => {}
        }
    }
    Ok(())
}

/// The scope of a piece of code: behind the length of all and the code as a text.
fn scope(raw: &[u8]) -> Option<Document<'_>> {
    let behind = raw.get(4..)?;
    let length = usize::try_from(i32::from_le_bytes(*behind.first_chunk()?)).ok()?;
    let (code, scope) = behind.get(4..)?.split_at_checked(length)?;
    (code.last() == Some(&0)).then_some(())?;
    Document::new(scope).ok()
}

/// Whether two documents have the same `_id`, byte for byte.
fn same_id(left: &RawDocument, right: &RawDocument) -> bool {
    id(left) == id(right)
}

/// The `_id` of a document with its type, `None` when there is none.
fn id(document: &RawDocument) -> Option<&[u8]> {
    let mut fields = Document::new(document.as_bytes()).ok()?.fields();
    while let Some(field) = fields.next_field().ok()? {
        if field.key == b"_id" {
            return Some(field.element());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    /// The verdicts, unless a document is refused.
    fn verdicts(
        batch: &Batch,
        outcome: &Outcome,
        may_replace: bool,
    ) -> Result<(Option<Vec<Verdict>>, Tally)> {
        let mut judged = judgement(batch, outcome, may_replace)?;
        match judged.refused.pop() {
            Some((_, error)) => Err(error),
            None => Ok((judged.verdicts, judged.tally)),
        }
    }

    /// Two documents.
    fn batch() -> Batch {
        Batch::from_documents([rawdoc! {"_id": 1, "a": 1}, rawdoc! {"_id": 2, "a": 2}])
    }

    /// An answer.
    fn outcome(verdicts: &[u8], replacements: &[u8], rejects: &[&str]) -> Outcome {
        Outcome {
            verdicts: verdicts.to_vec(),
            replacements: replacements.to_vec(),
            rejects: rejects.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    /// The kind of error an answer leads to.
    fn refusal(outcome: &Outcome) -> Kind {
        verdicts(&batch(), outcome, true).unwrap_err().kind()
    }

    #[test]
    fn all_kept_costs_no_list() {
        let (list, tally) = verdicts(&batch(), &outcome(&[0, 0], &[], &[]), true).unwrap();
        assert_eq!((list, tally.kept), (None, 2));
    }

    #[test]
    fn verdicts_keep_their_order() {
        let new = rawdoc! {"_id": 2, "a": 3};
        let answer = outcome(&[1, 2], new.as_bytes(), &[]);
        let (list, tally) = verdicts(&batch(), &answer, true).unwrap();
        assert_eq!(list.unwrap(), [Verdict::Drop, Verdict::Replace(new)]);
        assert_eq!(tally, Tally { kept: 0, dropped: 1, replaced: 1 });
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        let spare = rawdoc! {"_id": 1};
        for answer in [
            outcome(&[0], &[], &[]),
            outcome(&[0, 0, 0], &[], &[]),
            outcome(&[], &[], &[]),
            outcome(&[0, 0], spare.as_bytes(), &[]),
            outcome(&[0, 1], spare.as_bytes(), &[]),
            outcome(&[0, 2], &[], &[]),
            outcome(&[0, 1], &[], &["why"]),
        ] {
            assert_eq!(refusal(&answer), Kind::PluginOutputInvalid, "{answer:?}");
        }
    }

    #[test]
    fn unknown_and_reserved_verdicts_are_refused() {
        for byte in [3, 4, 6, 255] {
            assert_eq!(refusal(&outcome(&[byte, 0], &[], &[])), Kind::PluginOutputInvalid);
        }
    }

    #[test]
    fn a_replacement_nobody_announced_is_refused() {
        let new = rawdoc! {"_id": 1};
        let error = verdicts(&batch(), &outcome(&[2, 0], new.as_bytes(), &[]), false).unwrap_err();
        assert_eq!(error.kind(), Kind::PluginOutputInvalid);
    }

    #[test]
    fn a_changed_id_is_refused_even_when_it_is_equal_by_value() {
        for other in [rawdoc! {"_id": 3}, rawdoc! {"_id": 1_i64}, rawdoc! {"a": 1}] {
            assert_eq!(refusal(&outcome(&[2, 0], other.as_bytes(), &[])), Kind::PluginChangedId);
        }
    }

    #[test]
    fn a_reason_is_shown_without_control_characters() {
        let error = verdicts(&batch(), &outcome(&[0, 5], &[], &["no\x1b[31m"]), true).unwrap_err();
        assert_eq!(error.kind(), Kind::PluginRejected);
        assert_eq!(error.detail(), "document 1 of the batch: no [31m");
    }

    #[test]
    fn text_that_is_no_utf_8_is_passed_on() {
        let text = |id: &str| {
            let mut bytes = rawdoc! {"a": "?", "_id": id, "b": {"c": ["?"]}}.into_bytes();
            bytes.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xFF);
            RawDocumentBuf::from_bytes(bytes).unwrap()
        };
        let batch = Batch::from_documents([text("?1"), text("?2")]);
        let both = [text("?1").into_bytes(), text("?2").into_bytes()].concat();
        let (list, _) = verdicts(&batch, &outcome(&[2, 2], &both, &[]), true).unwrap();
        assert_eq!(list.unwrap(), [Verdict::Replace(text("?1")), Verdict::Replace(text("?2"))]);
        // An `_id` that is no UTF-8 is compared all the same.
        let first = text("?1").into_bytes();
        let swapped = [first.clone(), first].concat();
        let error = verdicts(&batch, &outcome(&[2, 2], &swapped, &[]), true).unwrap_err();
        assert_eq!(error.kind(), Kind::PluginChangedId);
    }

    #[test]
    fn code_has_its_scope() {
        let code =
            bson::JavaScriptCodeWithScope { code: "f()".into(), scope: doc! {"x": {"y": 1}} };
        let good = doc! {"_id": 1, "code": code}.to_vec().unwrap();
        assert!(verdicts(&batch(), &outcome(&[2, 0], &good, &[]), true).is_ok());
        let position = good.windows(3).position(|window| window == b"f()").unwrap();
        for (place, byte) in [(position - 4, 9), (position + 3, 1), (position + 4, 1)] {
            let mut broken = good.clone();
            broken[place] = byte;
            assert_eq!(refusal(&outcome(&[2, 0], &broken, &[])), Kind::PluginOutputInvalid);
        }
    }

    #[test]
    fn replacements_must_be_well_formed_at_any_depth() {
        let good = doc! {"_id": 1, "x": {"y": [{"z": "text"}]}}.to_vec().unwrap();
        assert!(verdicts(&batch(), &outcome(&[2, 0], &good, &[]), true).is_ok());
        let position = good.windows(4).position(|window| window == b"text").unwrap();
        // The end mark of the text, and its length.
        for (place, byte) in [(position + 4, b'x'), (position - 4, 4), (position - 1, 0x80)] {
            let mut broken = good.clone();
            broken[place] = byte;
            assert_eq!(refusal(&outcome(&[2, 0], &broken, &[])), Kind::PluginOutputInvalid);
        }
        for end in 0..good.len() {
            let cut = outcome(&[2, 0], &good[..end], &[]);
            assert_eq!(refusal(&cut), Kind::PluginOutputInvalid);
        }
        let huge = doc! {"_id": 1, "x": "x".repeat(MAX_DOCUMENT_BYTES)}.to_vec().unwrap();
        assert_eq!(refusal(&outcome(&[2, 0], &huge, &[])), Kind::PluginOutputInvalid);
    }
}
