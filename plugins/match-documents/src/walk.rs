//! Finds the values at a dotted path the way the server does.
//!
//! An array on the way is looked into: a document in it is followed with the rest of the path, and a
//! part that is a number also names a position. An array at the end gives each of its elements and
//! then itself, or itself alone where the test is about arrays. A document on the way that lacks
//! the next field gives "not there"; an element of an array that is no document gives nothing.

use syncline_sdk::bson::{Document, Malformed, Value};

/// What an array at the end of a path gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastArray {
    /// Its elements, then itself.
    Elements,
    /// Itself.
    Whole,
}

/// Asks about each value at the path until one passes; `None` is "not there".
pub(crate) fn any<F>(
    document: Document<'_>,
    path: &[String],
    last: LastArray,
    test: &mut F,
) -> Result<bool, Malformed>
where
    F: FnMut(Option<Value<'_>>) -> Result<bool, Malformed>,
{
    let Some((part, rest)) = path.split_first() else { return Ok(false) };
    match document.get(part)? {
        None => test(None),
        Some(value) => follow(value, rest, last, test),
    }
}

/// Goes on from a value with what is left of the path.
fn follow<F>(
    value: Value<'_>,
    rest: &[String],
    last: LastArray,
    test: &mut F,
) -> Result<bool, Malformed>
where
    F: FnMut(Option<Value<'_>>) -> Result<bool, Malformed>,
{
    match value {
        Value::Array(_) if rest.is_empty() && last == LastArray::Whole => test(Some(value)),
        Value::Array(array) => in_array(array, rest, last, test),
        other if rest.is_empty() => test(Some(other)),
        Value::Document(inner) => any(inner, rest, last, test),
        _ => test(None),
    }
}

/// Looks into an array.
fn in_array<F>(
    array: Document<'_>,
    rest: &[String],
    last: LastArray,
    test: &mut F,
) -> Result<bool, Malformed>
where
    F: FnMut(Option<Value<'_>>) -> Result<bool, Malformed>,
{
    for field in array.fields() {
        let field = field?;
        let element = field.value()?;
        let found = match rest.split_first() {
            None => test(Some(element))?,
            Some((part, deeper)) => {
                let inside = match element {
                    Value::Document(inner) => any(inner, rest, last, test)?,
                    _ => false,
                };
                if inside || field.key != part.as_bytes() {
                    inside
                } else if deeper.is_empty() {
                    // What a position names at the end of the path is not looked into.
                    test(Some(element))?
                } else {
                    match element {
                        Value::Document(inner) => any(inner, deeper, last, test)?,
                        Value::Array(inner) => in_array(inner, deeper, last, test)?,
                        _ => false,
                    }
                }
            }
        };
        if found {
            return Ok(true);
        }
    }
    if rest.is_empty() { test(Some(Value::Array(array))) } else { Ok(false) }
}
