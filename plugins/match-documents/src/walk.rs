//! Finds the values at a dotted path the way the server does.
//!
//! An array on the way is looked into: a document in it is followed with the rest of the path, and a
//! part that is a number also names a position. An array at the end gives each of its elements and
//! then itself. A document on the way that lacks the next field gives "not there"; an element of an
//! array that is no document gives nothing.

use syncline_sdk::bson::{Document, Malformed, Value};

/// Asks about each value at the path until one passes. `None` is "not there".
pub(crate) fn any(
    document: Document<'_>,
    path: &[String],
    test: &mut dyn FnMut(Option<Value<'_>>) -> Result<bool, Malformed>,
) -> Result<bool, Malformed> {
    let Some((part, rest)) = path.split_first() else { return Ok(false) };
    match document.get(part)? {
        None => test(None),
        Some(value) => follow(value, rest, test),
    }
}

/// Goes on from a value with what is left of the path.
fn follow(
    value: Value<'_>,
    rest: &[String],
    test: &mut dyn FnMut(Option<Value<'_>>) -> Result<bool, Malformed>,
) -> Result<bool, Malformed> {
    match value {
        Value::Array(array) => in_array(array, rest, test),
        other if rest.is_empty() => test(Some(other)),
        Value::Document(inner) => any(inner, rest, test),
        _ => test(None),
    }
}

/// Looks into an array.
fn in_array(
    array: Document<'_>,
    rest: &[String],
    test: &mut dyn FnMut(Option<Value<'_>>) -> Result<bool, Malformed>,
) -> Result<bool, Malformed> {
    for field in array.fields() {
        let field = field?;
        let element = field.value()?;
        let found = match rest.split_first() {
            None => test(Some(element))?,
            Some((part, deeper)) => {
                let inside = match element {
                    Value::Document(inner) => any(inner, rest, test)?,
                    _ => false,
                };
                inside || (field.key == part.as_bytes() && follow(element, deeper, test)?)
            }
        };
        if found {
            return Ok(true);
        }
    }
    if rest.is_empty() { test(Some(Value::Array(array))) } else { Ok(false) }
}
