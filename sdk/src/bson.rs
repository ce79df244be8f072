//! A read-only view of raw BSON that copies nothing.
//!
//! A filter looks at a few fields of many documents, so skipping matters most: keys are skipped
//! eight bytes a step, values by their length. What is skipped is checked for its bounds, not for
//! its content. Text is looked at where it is handed out: servers keep what drivers send them, so that
//! some of it is no UTF-8.

mod writer;

use std::fmt;

pub use writer::{DocumentBuf, Writer};

/// Bytes that are no BSON document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed BSON")
    }
}

impl std::error::Error for Malformed {}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// 64-bit float.
    Double(f64),
    /// Text.
    String(&'a str),
    /// Text that is no UTF-8, as it stands.
    NotUtf8(&'a [u8]),
    /// Embedded document.
    Document(Document<'a>),
    /// Array: a document whose keys are positions.
    Array(Document<'a>),
    /// Bytes with their subtype.
    Binary(u8, &'a [u8]),
    /// Deprecated.
    Undefined,
    /// Object id.
    ObjectId([u8; 12]),
    /// Truth value.
    Bool(bool),
    /// Milliseconds since the Unix epoch.
    DateTime(i64),
    /// Null.
    Null,
    /// Pattern and options.
    Regex(&'a [u8], &'a [u8]),
    /// Deprecated: namespace and id.
    DbPointer(&'a [u8], [u8; 12]),
    /// Code.
    JavaScript(&'a [u8]),
    /// Deprecated.
    Symbol(&'a [u8]),
    /// Deprecated: code with its scope, as it stands.
    JavaScriptWithScope(&'a [u8]),
    /// 32-bit integer.
    Int32(i32),
    /// Seconds in the upper half, ordinal in the lower.
    Timestamp(u64),
    /// 64-bit integer.
    Int64(i64),
    /// 128-bit decimal as it stands.
    Decimal128([u8; 16]),
    /// Below everything.
    MinKey,
    /// Above everything.
    MaxKey,
}

impl Value<'_> {
    /// The type byte of the BSON specification.
    pub fn type_byte(&self) -> u8 {
        match self {
            Self::Double(_) => 0x01,
            Self::String(_) | Self::NotUtf8(_) => 0x02,
            Self::Document(_) => 0x03,
            Self::Array(_) => 0x04,
            Self::Binary(..) => 0x05,
            Self::Undefined => 0x06,
            Self::ObjectId(_) => 0x07,
            Self::Bool(_) => 0x08,
            Self::DateTime(_) => 0x09,
            Self::Null => 0x0A,
            Self::Regex(..) => 0x0B,
            Self::DbPointer(..) => 0x0C,
            Self::JavaScript(_) => 0x0D,
            Self::Symbol(_) => 0x0E,
            Self::JavaScriptWithScope(_) => 0x0F,
            Self::Int32(_) => 0x10,
            Self::Timestamp(_) => 0x11,
            Self::Int64(_) => 0x12,
            Self::Decimal128(_) => 0x13,
            Self::MinKey => 0xFF,
            Self::MaxKey => 0x7F,
        }
    }
}

/// One document, its length checked against its first and last bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    /// All of it, length prefix and end mark included.
    bytes: &'a [u8],
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.bytes.len())
    }
}

impl<'a> Document<'a> {
    /// A document that fills the bytes.
    ///
    /// # Errors
    /// When the length says otherwise or the end mark is missing.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match Self::split_first(bytes)? {
            (document, []) => Ok(document),
            _ => Err(Malformed),
        }
    }

    /// The document at the start of the bytes and what follows it.
    ///
    /// # Errors
    /// When the length points outside or the end mark is missing.
    pub fn split_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (head, _) = bytes.split_first_chunk::<4>().ok_or(Malformed)?;
        let length = usize::try_from(i32::from_le_bytes(*head)).map_err(|_| Malformed)?;
        if length < 5 {
            return Err(Malformed);
        }
        let (bytes, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
        if bytes.last() == Some(&0) { Ok((Self { bytes }, rest)) } else { Err(Malformed) }
    }

    /// All of it.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The first value under a key.
    ///
    /// # Errors
    /// When a field on the way there cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<Value<'a>>, Malformed> {
        let mut rest = self.fields().rest;
        while let Some(step) = Step::of(rest)? {
            if step.key == key.as_bytes() {
                return decode(step.kind, step.raw).map(Some);
            }
            rest = step.rest;
        }
        Ok(None)
    }

    /// The fields in order.
    pub fn fields(&self) -> Fields<'a> {
        let end = self.bytes.len().saturating_sub(1);
        Fields { rest: self.bytes.get(4..end).unwrap_or_default() }
    }
}

/// A field that was found but not decoded.
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    /// Its name.
    pub key: &'a [u8],
    /// Type byte.
    kind: u8,
    /// The value's bytes.
    raw: &'a [u8],
    /// Type, key and value.
    element: &'a [u8],
}

/// Walks the fields of a document. After an error there is nothing more.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    /// What is left.
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The next field, or `None` at the end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        let all = self.rest;
        let Some(Step { kind, key, raw, rest }) = Step::of(all)? else { return Ok(None) };
        let element = all.get(..all.len() - rest.len()).ok_or(Malformed)?;
        self.rest = rest;
        Ok(Some(Field { key, kind, raw, element }))
    }
}

/// One step over the fields of a document.
struct Step<'a> {
    /// Type byte.
    kind: u8,
    /// Key.
    key: &'a [u8],
    /// Bytes of the value.
    raw: &'a [u8],
    /// The fields behind it.
    rest: &'a [u8],
}

impl<'a> Step<'a> {
    /// The step over the first field.
    #[inline]
    fn of(fields: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some((&kind, rest)) = fields.split_first() else { return Ok(None) };
        let end = c_string_length(rest).ok_or(Malformed)?;
        let (key, rest) = rest.split_at_checked(end).ok_or(Malformed)?;
        let rest = rest.get(1..).ok_or(Malformed)?;
        let length = value_length(kind, rest).ok_or(Malformed)?;
        let (raw, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        Ok(Some(Self { kind, key, raw, rest }))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.next_field();
        if field.is_err() {
            self.rest = &[];
        }
        field.transpose()
    }
}

impl<'a> Field<'a> {
    /// The type byte of the BSON specification.
    pub fn type_byte(&self) -> u8 {
        self.kind
    }

    /// The value's bytes as they stand, without type and key.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// All of the field as it stands, type and key included.
    pub fn element(&self) -> &'a [u8] {
        self.element
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// When it is not what its type says.
    pub fn value(&self) -> Result<Value<'a>, Malformed> {
        decode(self.kind, self.raw)
    }
}

/// The value of a type in its bytes.
#[inline]
fn decode(kind: u8, raw: &[u8]) -> Result<Value<'_>, Malformed> {
    Ok(match kind {
        0x01 => Value::Double(f64::from_le_bytes(exact(raw)?)),
        0x02 => {
            let bytes = text(raw)?;
            std::str::from_utf8(bytes).map_or(Value::NotUtf8(bytes), Value::String)
        }
        0x03 => Value::Document(Document::new(raw)?),
        0x04 => Value::Array(Document::new(raw)?),
        0x05 => {
            let (&subtype, bytes) = raw.get(4..).and_then(<[u8]>::split_first).ok_or(Malformed)?;
            Value::Binary(subtype, bytes)
        }
        0x06 => Value::Undefined,
        0x07 => Value::ObjectId(exact(raw)?),
        0x08 => match raw {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            _ => return Err(Malformed),
        },
        0x09 => Value::DateTime(i64::from_le_bytes(exact(raw)?)),
        0x0A => Value::Null,
        0x0B => {
            let end = c_string_length(raw).ok_or(Malformed)?;
            let (pattern, options) = raw.split_at_checked(end).ok_or(Malformed)?;
            match options {
                [0, options @ .., 0] => Value::Regex(pattern, options),
                _ => return Err(Malformed),
            }
        }
        0x0C => {
            let (name, id) = raw.split_last_chunk::<12>().ok_or(Malformed)?;
            Value::DbPointer(text(name)?, *id)
        }
        0x0D => Value::JavaScript(text(raw)?),
        0x0E => Value::Symbol(text(raw)?),
        0x0F => Value::JavaScriptWithScope(raw),
        0x10 => Value::Int32(i32::from_le_bytes(exact(raw)?)),
        0x11 => Value::Timestamp(u64::from_le_bytes(exact(raw)?)),
        0x12 => Value::Int64(i64::from_le_bytes(exact(raw)?)),
        0x13 => Value::Decimal128(exact(raw)?),
        0xFF => Value::MinKey,
        0x7F => Value::MaxKey,
        _ => return Err(Malformed),
    })
}

/// Bytes of a known number.
fn exact<const N: usize>(raw: &[u8]) -> Result<[u8; N], Malformed> {
    raw.try_into().map_err(|_| Malformed)
}

/// The text of a length-prefixed string, without prefix and end mark.
fn text(raw: &[u8]) -> Result<&[u8], Malformed> {
    match raw.get(4..) {
        Some([text @ .., 0]) => Ok(text),
        _ => Err(Malformed),
    }
}

/// Length of a value that starts at the front of the bytes; `None` for an unknown type.
fn value_length(kind: u8, bytes: &[u8]) -> Option<usize> {
    let prefix = || {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        usize::try_from(i32::from_le_bytes(*head)).ok()
    };
    match kind {
        0x06 | 0x0A | 0x7F | 0xFF => Some(0),
        0x08 => Some(1),
        0x10 => Some(4),
        0x01 | 0x09 | 0x11 | 0x12 => Some(8),
        0x07 => Some(12),
        0x13 => Some(16),
        0x02 | 0x0D | 0x0E => prefix().filter(|length| *length > 0)?.checked_add(4),
        0x03 | 0x04 | 0x0F => prefix().filter(|length| *length >= 5),
        0x05 => prefix()?.checked_add(5),
        0x0B => {
            let pattern = c_string_length(bytes)?.checked_add(1)?;
            c_string_length(bytes.get(pattern..)?)?.checked_add(1)?.checked_add(pattern)
        }
        0x0C => prefix().filter(|length| *length > 0)?.checked_add(16),
        _ => None,
    }
}

/// Bytes before the next zero, found eight bytes a step: interruption checks stand on loop
/// back-edges, so fewer steps are worth more in a guest than they are natively.
fn c_string_length(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(LOW) & !word & HIGH;
        if zeros != 0 {
            return Some(index * 8 + (zeros.trailing_zeros() / 8) as usize);
        }
    }
    tail.iter().position(|byte| *byte == 0).map(|position| words.len() * 8 + position)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of fields given as type, key and value bytes.
    fn document(fields: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, key, value) in fields {
            body.push(*kind);
            body.extend_from_slice(key.as_bytes());
            body.push(0);
            body.extend_from_slice(value);
        }
        let length = i32::try_from(body.len() + 5).unwrap();
        [length.to_le_bytes().as_slice(), &body, &[0]].concat()
    }

    #[test]
    fn every_type_is_read_and_skipped() {
        let inner = document(&[(0x10, "a", &7_i32.to_le_bytes())]);
        let scope = [
            &(i32::try_from(inner.len()).unwrap() + 4 + 6).to_le_bytes()[..],
            b"\x02\0\0\0x\0",
            &inner,
        ]
        .concat();
        let bytes = document(&[
            (0x01, "double", &1.5_f64.to_le_bytes()),
            (0x02, "a key longer than eight bytes", b"\x03\0\0\0ab\0"),
            (0x03, "document", &inner),
            (0x04, "array", &inner),
            (0x05, "binary", b"\x02\0\0\0\x04xy"),
            (0x06, "undefined", b""),
            (0x07, "id", &[9; 12]),
            (0x08, "bool", &[1]),
            (0x09, "date", &5_i64.to_le_bytes()),
            (0x0A, "null", b""),
            (0x0B, "regex", b"^a\0im\0"),
            (0x0C, "pointer", b"\x02\0\0\0n\0............"),
            (0x0D, "code", b"\x02\0\0\0c\0"),
            (0x0E, "symbol", b"\x02\0\0\0s\0"),
            (0x0F, "scoped", &scope),
            (0x10, "int32", &(-3_i32).to_le_bytes()),
            (0x11, "timestamp", &6_u64.to_le_bytes()),
            (0x12, "int64", &i64::MAX.to_le_bytes()),
            (0x13, "decimal", &[1; 16]),
            (0xFF, "min", b""),
            (0x7F, "max", b""),
        ]);
        let document = Document::new(&bytes).unwrap();
        assert_eq!(document.fields().count(), 21);
        for field in document.fields() {
            field.unwrap().value().unwrap();
        }
        let get = |key| document.get(key).unwrap().unwrap();
        assert_eq!(get("double"), Value::Double(1.5));
        assert_eq!(get("a key longer than eight bytes"), Value::String("ab"));
        assert_eq!(get("binary"), Value::Binary(4, b"xy"));
        assert_eq!(get("regex"), Value::Regex(b"^a", b"im"));
        assert_eq!(get("pointer"), Value::DbPointer(b"n", *b"............"));
        assert_eq!(get("int64"), Value::Int64(i64::MAX));
        assert_eq!(get("max"), Value::MaxKey);
        assert_eq!(document.get("absent"), Ok(None));

        let (mut decoded, mut raw) = (Writer::new(), Writer::with_capacity(bytes.len()));
        for field in document.fields() {
            let field = field.unwrap();
            decoded.value(field.key, field.value().unwrap());
            raw.field(&field);
            assert_eq!(field.type_byte(), field.value().unwrap().type_byte());
        }
        assert_eq!(decoded.finish().as_bytes(), bytes);
        assert_eq!(raw.finish().into_bytes(), bytes);
    }

    #[test]
    fn what_is_written_nested_is_read_again() {
        let source = document(&[(0x08, "truth", &[1])]);
        let field = Document::new(&source).unwrap().fields().next().unwrap().unwrap();
        let mut writer = Writer::new();
        writer.begin_document("d");
        writer.field_as("renamed", &field);
        writer.begin_array("list");
        writer.value("0", Value::Int32(1));
        let written = writer.finish();
        assert_eq!(DocumentBuf::new(written.as_bytes().to_vec()).as_ref(), Ok(&written));
        let Some(Value::Document(inner)) = written.as_document().get("d").unwrap() else {
            panic!()
        };
        assert_eq!(inner.get("renamed"), Ok(Some(Value::Bool(true))));
        let Some(Value::Array(list)) = inner.get("list").unwrap() else { panic!() };
        assert_eq!(list.get("0"), Ok(Some(Value::Int32(1))));
    }

    #[test]
    fn documents_end_to_end_are_split() {
        let (first, second) = (document(&[(0x08, "a", &[0])]), document(&[(0x08, "b", &[1])]));
        let flat = [first.clone(), second.clone()].concat();
        let (head, rest) = Document::split_first(&flat).unwrap();
        assert_eq!(head.as_bytes(), first);
        assert_eq!(Document::new(rest).unwrap().as_bytes(), second);
        assert_eq!(Document::new(&flat), Err(Malformed));
    }

    #[test]
    fn no_cut_and_no_flipped_byte_panics_or_reads_outside() {
        let inner = document(&[(0x02, "s", b"\x03\0\0\0ab\0"), (0x0B, "r", b"a\0b\0")]);
        let bytes = document(&[(0x03, "d", &inner), (0x05, "b", b"\x01\0\0\0\0z")]);
        let walk = |bytes: &[u8]| {
            if let Ok(document) = Document::new(bytes) {
                for field in document.fields().flatten() {
                    if let Ok(Value::Document(inner)) = field.value() {
                        for field in inner.fields().flatten() {
                            let _checked = field.value();
                        }
                    }
                }
            }
        };
        for end in 0..bytes.len() {
            walk(&bytes[..end]);
        }
        for position in 0..bytes.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut broken = bytes.clone();
                broken[position] = value;
                walk(&broken);
            }
        }
    }

    #[test]
    fn a_zero_is_found_at_every_offset() {
        for length in 0..40 {
            let bytes = [vec![0x80_u8; length], vec![0], vec![1; 9]].concat();
            assert_eq!(c_string_length(&bytes), Some(length));
        }
        assert_eq!(c_string_length(&[1; 17]), None);
    }
}
