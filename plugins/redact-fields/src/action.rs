//! What is done to one value.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use syncline_sdk::bson::{Field, Malformed, Value, Writer};

/// What is done to a field.
pub(crate) enum Action {
    /// It is left out.
    Remove,
    /// It is blanked, its type kept.
    Mask {
        /// Characters at the start of a text that stay.
        first: usize,
        /// Characters at the end of a text that stay.
        last: usize,
    },
    /// It is replaced by its keyed hash: the state of the hash after the key.
    Hash(Hmac<Sha256>),
    /// It is cut.
    Truncate {
        /// Characters that stay.
        length: usize,
    },
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remove => "Remove",
            Self::Mask { .. } => "Mask",
            Self::Hash(_) => "Hash",
            Self::Truncate { .. } => "Truncate",
        })
    }
}

impl Action {
    /// A hash with this key.
    pub(crate) fn hash(key: &[u8]) -> Self {
        // A key of any length will do, so there is no error to report.
        Hmac::new_from_slice(key).map_or(Self::Remove, Self::Hash)
    }

    /// Writes what becomes of a field. Null stays null; arrays are gone through.
    pub(crate) fn apply(
        &self,
        key: &[u8],
        field: &Field<'_>,
        writer: &mut Writer,
    ) -> Result<(), Malformed> {
        if matches!(self, Self::Remove) {
            return Ok(());
        }
        match (self, field.value()?) {
            (Self::Remove, _) => {}
            (_, Value::Null | Value::Undefined) => writer.field_as(key, field),
            (_, Value::Array(array)) => {
                writer.begin_array(key);
                for (position, element) in array.fields().enumerate() {
                    let element = element?;
                    // An element that cannot be cut is blanked: positions stay what they are.
                    if matches!(self, Self::Truncate { .. }) && !can_be_cut(element.value()?) {
                        writer.value(position.to_string(), Value::Null);
                    } else {
                        self.apply(position.to_string().as_bytes(), &element, writer)?;
                    }
                }
                writer.end();
            }
            (Self::Mask { first, last }, value) => mask(key, value, *first, *last, writer)?,
            (Self::Hash(state), value) => {
                let mut state = state.clone();
                match value {
                    Value::String(text) => state.update(text.as_bytes()),
                    // No text begins with this byte.
                    _ => {
                        state.update(&[0xFF, field.type_byte()]);
                        state.update(field.raw());
                    }
                }
                let mut hex = String::with_capacity(64);
                for byte in state.finalize().into_bytes() {
                    for digit in [byte >> 4, byte & 15] {
                        hex.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
                    }
                }
                writer.value(key, Value::String(&hex));
            }
            (Self::Truncate { length }, Value::String(text)) => {
                let end = text.char_indices().nth(*length).map_or(text.len(), |(end, _)| end);
                writer.value(key, Value::String(text.get(..end).unwrap_or_default()));
            }
            (Self::Truncate { length }, Value::NotUtf8(bytes)) => {
                writer.value(key, Value::NotUtf8(bytes.get(..*length).unwrap_or(bytes)));
            }
            (Self::Truncate { length }, Value::Binary(subtype, bytes)) => {
                let bytes = bytes.get(..*length).unwrap_or(bytes);
                writer.value(key, Value::Binary(subtype, bytes));
            }
            // What cannot be cut does not slip through whole.
            (Self::Truncate { .. }, _) => {}
        }
        Ok(())
    }
}

/// Whether `truncate` knows what to do with a value.
fn can_be_cut(value: Value<'_>) -> bool {
    matches!(
        value,
        Value::String(_)
            | Value::NotUtf8(_)
            | Value::Binary(..)
            | Value::Array(_)
            | Value::Null
            | Value::Undefined
    )
}

/// Writes a blank of the same type.
fn mask(
    key: &[u8],
    value: Value<'_>,
    first: usize,
    last: usize,
    writer: &mut Writer,
) -> Result<(), Malformed> {
    match value {
        Value::String(text) => {
            let count = text.chars().count();
            // A text that is kept whole would not be masked.
            let (first, last) =
                if first.saturating_add(last) < count { (first, last) } else { (0, 0) };
            let masked: String = text
                .chars()
                .enumerate()
                .map(|(at, shown)| if at < first || at >= count - last { shown } else { '*' })
                .collect();
            writer.value(key, Value::String(&masked));
        }
        // Nobody can tell its characters.
        Value::NotUtf8(bytes) => writer.value(key, Value::String(&"*".repeat(bytes.len()))),
        Value::Document(inner) => {
            writer.begin_document(key);
            for field in inner.fields() {
                let field = field?;
                Action::Mask { first, last }.apply(field.key, &field, writer)?;
            }
            writer.end();
        }
        other => writer.value(key, blank(other)),
    }
    Ok(())
}

/// The empty value of a type.
fn blank(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Double(_) => Value::Double(0.0),
        Value::Int32(_) => Value::Int32(0),
        Value::Int64(_) => Value::Int64(0),
        // Zero with the exponent 0.
        Value::Decimal128(_) => Value::Decimal128((6176_u128 << 113).to_le_bytes()),
        Value::Bool(_) => Value::Bool(false),
        Value::DateTime(_) => Value::DateTime(0),
        Value::Timestamp(_) => Value::Timestamp(0),
        Value::ObjectId(_) | Value::DbPointer(..) => Value::ObjectId([0; 12]),
        Value::Binary(subtype, _) => Value::Binary(subtype, &[]),
        Value::Regex(..) => Value::Regex(b"", b""),
        Value::JavaScript(_) | Value::JavaScriptWithScope(_) => Value::JavaScript(b""),
        Value::Symbol(_) => Value::Symbol(b""),
        Value::MinKey => Value::MinKey,
        Value::MaxKey => Value::MaxKey,
        Value::String(_)
        | Value::NotUtf8(_)
        | Value::Document(_)
        | Value::Array(_)
        | Value::Null
        | Value::Undefined => Value::Null,
    }
}
