//! The server's order of values: numbers by value whatever their type, everything else first by its
//! type and then within it.

use std::cmp::Ordering::{self, Equal, Greater, Less};

use syncline_sdk::bson::{Document, Malformed, Value};

use crate::number;

/// Where a type stands in the server's order. Types that compare with each other share a rank.
pub(crate) fn rank(value: Option<Value<'_>>) -> i32 {
    let Some(value) = value else { return MISSING };
    match value {
        Value::MinKey => -1,
        Value::Undefined => MISSING,
        Value::Null => NULL,
        Value::Int32(_) | Value::Int64(_) | Value::Double(_) | Value::Decimal128(_) => 10,
        Value::String(_) | Value::NotUtf8(_) | Value::Symbol(_) => 15,
        Value::Document(_) => 20,
        Value::Array(_) => 25,
        Value::Binary(..) => 30,
        Value::ObjectId(_) => 35,
        Value::Bool(_) => 40,
        Value::DateTime(_) => 45,
        Value::Timestamp(_) => 47,
        Value::Regex(..) => 50,
        Value::DbPointer(..) => 55,
        Value::JavaScript(_) => 60,
        Value::JavaScriptWithScope(_) => 65,
        Value::MaxKey => 127,
    }
}

/// Rank of a field that is not there, and of `undefined`.
pub(crate) const MISSING: i32 = 0;
/// Rank of null.
pub(crate) const NULL: i32 = 5;

/// How two values stand in the server's order.
pub(crate) fn order(left: Value<'_>, right: Value<'_>) -> Result<Ordering, Malformed> {
    Ok(match (left, right) {
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::JavaScript(left), Value::JavaScript(right))
        | (Value::JavaScriptWithScope(left), Value::JavaScriptWithScope(right)) => left.cmp(right),
        (Value::Document(left), Value::Document(right)) => fields(left, right, Names::Count)?,
        (Value::Array(left), Value::Array(right)) => fields(left, right, Names::Ignore)?,
        (Value::Binary(kind, left), Value::Binary(other, right)) => {
            left.len().cmp(&right.len()).then(kind.cmp(&other)).then_with(|| left.cmp(right))
        }
        (Value::ObjectId(left), Value::ObjectId(right)) => left.cmp(&right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(&right),
        (Value::DateTime(left), Value::DateTime(right)) => left.cmp(&right),
        (Value::Timestamp(left), Value::Timestamp(right)) => left.cmp(&right),
        (Value::Regex(left, flags), Value::Regex(right, others)) => {
            left.cmp(right).then(flags.cmp(others))
        }
        (Value::DbPointer(left, id), Value::DbPointer(right, other)) => {
            left.len().cmp(&right.len()).then_with(|| left.cmp(right)).then(id.cmp(&other))
        }
        _ => match (text(left), text(right)) {
            (Some(left), Some(right)) => left.cmp(right),
            _ => match rank(Some(left)).cmp(&rank(Some(right))) {
                Equal => number::order(left, right),
                other => other,
            },
        },
    })
}

/// The bytes of a text, by which the server orders it.
fn text(value: Value<'_>) -> Option<&[u8]> {
    match value {
        Value::String(text) => Some(text.as_bytes()),
        Value::NotUtf8(bytes) | Value::Symbol(bytes) => Some(bytes),
        _ => None,
    }
}

/// Whether the names of fields count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// They do, between the type and the value.
    Count,
    /// They are positions.
    Ignore,
}

/// How two documents or arrays stand: field by field, type before name before value, and what ends
/// first is less.
fn fields(left: Document<'_>, right: Document<'_>, names: Names) -> Result<Ordering, Malformed> {
    let (mut left, mut right) = (left.fields(), right.fields());
    loop {
        let (one, other) = match (left.next_field()?, right.next_field()?) {
            (None, None) => return Ok(Equal),
            (None, Some(_)) => return Ok(Less),
            (Some(_), None) => return Ok(Greater),
            (Some(one), Some(other)) => (one, other),
        };
        let (value, opposite) = (one.value()?, other.value()?);
        let mut found = rank(Some(value)).cmp(&rank(Some(opposite)));
        if names == Names::Count {
            found = found.then_with(|| one.key.cmp(other.key));
        }
        if found == Equal {
            found = order(value, opposite)?;
        }
        if found != Equal {
            return Ok(found);
        }
    }
}
