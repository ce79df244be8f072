//! The server's order of BSON values, and a form in which equal values have equal bytes.
//!
//! Source of the rules: the server manual's comparison order; numbers of different types compare by
//! value, NaN before every other number, objects field by field (type, name, value).

use std::cmp::Ordering;

use bson::{RawDocument, RawDocumentBuf, cstr, raw::RawBsonRef};

/// The `_id` of a document `{_id: …}`, or `Null` when it has none.
pub fn id_of(document: &RawDocument) -> RawBsonRef<'_> {
    document.get("_id").ok().flatten().unwrap_or(RawBsonRef::Null)
}

/// Compares the `_id`s of two documents in the order of the `_id` index.
pub fn compare_ids(left: &RawDocument, right: &RawDocument) -> Ordering {
    compare(id_of(left), id_of(right))
}

/// Compares two values as the server does under the simple collation.
pub fn compare(left: RawBsonRef<'_>, right: RawBsonRef<'_>) -> Ordering {
    rank(left).cmp(&rank(right)).then_with(|| compare_same_rank(left, right))
}

/// The bracket of a type; brackets sort before values.
fn rank(value: RawBsonRef<'_>) -> u8 {
    match value {
        RawBsonRef::MinKey => 0,
        RawBsonRef::Undefined => 1,
        RawBsonRef::Null => 2,
        RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Double(_)
        | RawBsonRef::Decimal128(_) => 3,
        RawBsonRef::String(_) | RawBsonRef::Symbol(_) => 4,
        RawBsonRef::Document(_) => 5,
        RawBsonRef::Array(_) => 6,
        RawBsonRef::Binary(_) => 7,
        RawBsonRef::ObjectId(_) => 8,
        RawBsonRef::Boolean(_) => 9,
        RawBsonRef::DateTime(_) => 10,
        RawBsonRef::Timestamp(_) => 11,
        RawBsonRef::RegularExpression(_) => 12,
        RawBsonRef::DbPointer(_) => 13,
        RawBsonRef::JavaScriptCode(_) => 14,
        RawBsonRef::JavaScriptCodeWithScope(_) => 15,
        RawBsonRef::MaxKey => 16,
    }
}

/// Compares two values of one bracket.
fn compare_same_rank(left: RawBsonRef<'_>, right: RawBsonRef<'_>) -> Ordering {
    use RawBsonRef as R;
    match (left, right) {
        (R::String(a) | R::Symbol(a), R::String(b) | R::Symbol(b)) => {
            a.as_bytes().cmp(b.as_bytes())
        }
        (R::Document(a), R::Document(b)) => compare_documents(a, b),
        (R::Array(a), R::Array(b)) => {
            let (mut a, mut b) = (a.into_iter(), b.into_iter());
            loop {
                match (a.next(), b.next()) {
                    (None, Some(_)) => return Ordering::Less,
                    (Some(_), None) => return Ordering::Greater,
                    (Some(Ok(x)), Some(Ok(y))) => match compare(x, y) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    },
                    // Both at their end, or something that is no BSON.
                    _ => return Ordering::Equal,
                }
            }
        }
        (R::Binary(a), R::Binary(b)) => a
            .bytes
            .len()
            .cmp(&b.bytes.len())
            .then_with(|| u8::from(a.subtype).cmp(&u8::from(b.subtype)))
            .then_with(|| a.bytes.cmp(b.bytes)),
        (R::ObjectId(a), R::ObjectId(b)) => a.bytes().cmp(&b.bytes()),
        (R::Boolean(a), R::Boolean(b)) => a.cmp(&b),
        (R::DateTime(a), R::DateTime(b)) => a.timestamp_millis().cmp(&b.timestamp_millis()),
        (R::Timestamp(a), R::Timestamp(b)) => (a.time, a.increment).cmp(&(b.time, b.increment)),
        (R::RegularExpression(a), R::RegularExpression(b)) => a
            .pattern
            .as_str()
            .cmp(b.pattern.as_str())
            .then_with(|| a.options.as_str().cmp(b.options.as_str())),
        (R::JavaScriptCode(a), R::JavaScriptCode(b)) => a.cmp(b),
        (R::JavaScriptCodeWithScope(a), R::JavaScriptCodeWithScope(b)) => {
            a.code.cmp(b.code).then_with(|| compare_documents(a.scope, b.scope))
        }
        (R::DbPointer(_), R::DbPointer(_)) => {
            let (a, b) = (encoded(left), encoded(right));
            a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
        }
        _ => match (Number::of(left), Number::of(right)) {
            (Some(a), Some(b)) => a.compare(&b),
            _ => Ordering::Equal,
        },
    }
}

/// A value's bytes in a document, for types whose parts the library does not show.
fn encoded(value: RawBsonRef<'_>) -> Vec<u8> {
    let mut document = RawDocumentBuf::new();
    document.append(cstr!(""), value);
    document.into_bytes()
}

/// Field by field: type bracket, name, value; a prefix sorts first.
fn compare_documents(left: &RawDocument, right: &RawDocument) -> Ordering {
    let (mut a, mut b) = (left.iter(), right.iter());
    loop {
        match (a.next(), b.next()) {
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(Ok((a_name, a_value))), Some(Ok((b_name, b_value)))) => {
                let order = rank(a_value)
                    .cmp(&rank(b_value))
                    .then_with(|| a_name.as_str().cmp(b_name.as_str()))
                    .then_with(|| compare_same_rank(a_value, b_value));
                if order != Ordering::Equal {
                    return order;
                }
            }
            // Both at their end, or something that is no BSON.
            _ => return Ordering::Equal,
        }
    }
}

/// Bytes that are the same for two `_id`s exactly when the server holds them for equal under the
/// simple collation: equal numbers of different types have the same bytes.
pub fn canonical_id(document: &RawDocument) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    canonical(id_of(document), &mut bytes);
    bytes
}

/// Appends the canonical form of a value.
fn canonical(value: RawBsonRef<'_>, out: &mut Vec<u8>) {
    out.push(rank(value));
    match value {
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => sized(text.as_bytes(), out),
        RawBsonRef::Document(document) => {
            for (name, value) in document.iter().flatten() {
                out.push(1);
                sized(name.as_str().as_bytes(), out);
                canonical(value, out);
            }
            out.push(0);
        }
        RawBsonRef::Array(array) => {
            for value in array.into_iter().flatten() {
                out.push(1);
                canonical(value, out);
            }
            out.push(0);
        }
        RawBsonRef::Binary(binary) => {
            out.push(binary.subtype.into());
            sized(binary.bytes, out);
        }
        RawBsonRef::ObjectId(id) => out.extend_from_slice(&id.bytes()),
        RawBsonRef::Boolean(value) => out.push(u8::from(value)),
        RawBsonRef::DateTime(date) => {
            out.extend_from_slice(&date.timestamp_millis().to_le_bytes());
        }
        RawBsonRef::Timestamp(time) => {
            out.extend_from_slice(&time.time.to_le_bytes());
            out.extend_from_slice(&time.increment.to_le_bytes());
        }
        RawBsonRef::RegularExpression(regex) => {
            sized(regex.pattern.as_str().as_bytes(), out);
            sized(regex.options.as_str().as_bytes(), out);
        }
        RawBsonRef::JavaScriptCode(code) => sized(code.as_bytes(), out),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            sized(code.code.as_bytes(), out);
            canonical(RawBsonRef::Document(code.scope), out);
        }
        RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Double(_)
        | RawBsonRef::Decimal128(_) => {
            if let Some(number) = Number::of(value) {
                number.canonical(out);
            }
        }
        RawBsonRef::MinKey | RawBsonRef::MaxKey | RawBsonRef::Null | RawBsonRef::Undefined => {}
        RawBsonRef::DbPointer(_) => sized(&encoded(value), out),
    }
}

/// Appends a length and bytes.
fn sized(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&bytes.len().to_le_bytes());
    out.extend_from_slice(bytes);
}

/// A BSON number.
enum Number {
    /// int32 and int64.
    Integer(i64),
    /// double.
    Double(f64),
    /// decimal128, exactly.
    Decimal(Decimal),
}

impl Number {
    /// The number in a value, if it is one.
    fn of(value: RawBsonRef<'_>) -> Option<Self> {
        match value {
            RawBsonRef::Int32(n) => Some(Self::Integer(n.into())),
            RawBsonRef::Int64(n) => Some(Self::Integer(n)),
            RawBsonRef::Double(n) => Some(Self::Double(n)),
            RawBsonRef::Decimal128(n) => Some(Self::Decimal(Decimal::parse(&n.to_string()))),
            _ => None,
        }
    }

    /// By value; NaN before everything and equal to itself.
    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(b),
            (Self::Double(a), Self::Double(b)) => match (a.is_nan(), b.is_nan()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            },
            _ => self.exact().compare(&other.exact()),
        }
    }

    /// The exact decimal expansion.
    fn exact(&self) -> Decimal {
        match self {
            Self::Integer(n) => Decimal::parse(&n.to_string()),
            Self::Double(n) => Decimal::of_double(*n),
            Self::Decimal(n) => n.clone(),
        }
    }

    /// Appends bytes that equal numbers share.
    fn canonical(&self, out: &mut Vec<u8>) {
        /// Every double of at least this size is outside int64.
        const LIMIT: f64 = 9_223_372_036_854_775_808.0;
        match self {
            Self::Integer(n) => {
                out.push(b'i');
                out.extend_from_slice(&n.to_le_bytes());
            }
            Self::Double(n) if n.is_nan() => out.push(b'n'),
            Self::Double(n) if n.fract() == 0.0 && (-LIMIT..LIMIT).contains(n) => {
                #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
                Self::Integer(*n as i64).canonical(out);
            }
            Self::Double(n) => {
                out.push(b'd');
                out.extend_from_slice(&n.to_bits().to_le_bytes());
            }
            Self::Decimal(n) => {
                if let Some(whole) = n.as_i64() {
                    return Self::Integer(whole).canonical(out);
                }
                let nearest = n.nearest_double();
                if nearest.is_nan() || Decimal::of_double(nearest) == *n {
                    return Self::Double(nearest).canonical(out);
                }
                out.push(b'D');
                out.push(u8::from(n.negative));
                out.extend_from_slice(&n.exponent.to_le_bytes());
                sized(&n.digits, out);
            }
        }
    }
}

/// An exact decimal number `±0.d₁d₂… × 10^exponent`, without leading or trailing zero digits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal {
    /// NaN or infinite.
    special: Special,
    /// Sign; zero is never negative.
    negative: bool,
    /// ASCII digits.
    digits: Vec<u8>,
    /// Power of ten.
    exponent: i64,
}

/// What is no finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    /// A finite number.
    Finite,
    /// Positive or negative infinity.
    Infinite,
    /// Not a number.
    NaN,
}

impl Decimal {
    /// Parses `-12.5E+3`, `Infinity`, `NaN` and the like.
    fn parse(text: &str) -> Self {
        let lower = text.to_ascii_lowercase();
        let (negative, body) = match lower.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, lower.trim_start_matches('+')),
        };
        let special = match body.get(..3) {
            Some("nan") => Special::NaN,
            Some("inf") => Special::Infinite,
            _ => Special::Finite,
        };
        if special != Special::Finite {
            return Self {
                special,
                negative: negative && special == Special::Infinite,
                digits: Vec::new(),
                exponent: 0,
            };
        }
        let (mantissa, exponent) = body.split_once('e').unwrap_or((body, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let point = i64::try_from(whole.len()).unwrap_or(0);
        let leading = all.iter().take_while(|d| **d == b'0').count();
        let mut digits: Vec<u8> = all.into_iter().skip(leading).collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        if digits.is_empty() {
            return Self { special, negative: false, digits, exponent: 0 };
        }
        let exponent =
            exponent.parse::<i64>().unwrap_or(0) + point - i64::try_from(leading).unwrap_or(0);
        Self { special, negative, digits, exponent }
    }

    /// The exact value of a double. No double has more than 767 significant decimal digits.
    fn of_double(value: f64) -> Self {
        if value.is_finite() {
            Self::parse(&format!("{value:.766e}"))
        } else {
            Self::parse(&value.to_string())
        }
    }

    /// The number as int64, when it is one.
    fn as_i64(&self) -> Option<i64> {
        if self.special != Special::Finite {
            return None;
        }
        if self.digits.is_empty() {
            return Some(0);
        }
        let zeros = self.exponent - i64::try_from(self.digits.len()).ok()?;
        if !(0..=19).contains(&zeros) || self.exponent > 19 {
            return None;
        }
        let mut text = String::from(if self.negative { "-" } else { "" });
        text.push_str(std::str::from_utf8(&self.digits).ok()?);
        text.extend(std::iter::repeat_n('0', usize::try_from(zeros).ok()?));
        text.parse().ok()
    }

    /// The nearest double.
    fn nearest_double(&self) -> f64 {
        let magnitude = match self.special {
            Special::NaN => return f64::NAN,
            Special::Infinite => f64::INFINITY,
            Special::Finite => {
                format!("0.{}e{}", std::str::from_utf8(&self.digits).unwrap_or("0"), self.exponent)
                    .parse()
                    .unwrap_or(0.0)
            }
        };
        if self.negative { -magnitude } else { magnitude }
    }

    /// By value; NaN first.
    fn compare(&self, other: &Self) -> Ordering {
        match (self.special == Special::NaN, other.special == Special::NaN) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        self.sign().cmp(&other.sign()).then_with(|| {
            let magnitude = self.compare_magnitude(other);
            if self.negative { magnitude.reverse() } else { magnitude }
        })
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.special, self.digits.is_empty(), self.negative) {
            (Special::Finite, true, _) => 0,
            (_, _, true) => -1,
            (_, _, false) => 1,
        }
    }

    /// By absolute value, both not NaN.
    fn compare_magnitude(&self, other: &Self) -> Ordering {
        let infinite = |d: &Self| d.special == Special::Infinite;
        infinite(self)
            .cmp(&infinite(other))
            .then_with(|| self.exponent.cmp(&other.exponent))
            .then_with(|| self.digits.cmp(&other.digits))
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::*;

    fn id(value: impl Into<Bson>) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc! { "_id": value.into() }).unwrap()
    }

    fn decimal(text: &str) -> Bson {
        Bson::Decimal128(text.parse().unwrap())
    }

    #[test]
    fn types_sort_in_brackets() {
        let sorted = [
            id(Bson::MinKey),
            id(Bson::Null),
            id(f64::NAN),
            id(f64::NEG_INFINITY),
            id(-5i64),
            id(decimal("-4.5")),
            id(0),
            id(0.5),
            id(decimal("0.50000000000000000001")),
            id(i64::MAX),
            id(9_223_372_036_854_775_808.0),
            id(decimal("1E+400")),
            id(f64::INFINITY),
            id(""),
            id("a"),
            id("a\u{0}"),
            id("ab"),
            id(doc! {}),
            id(doc! { "b": 1 }),
            id(doc! { "a": "x" }),
            id(bson::oid::ObjectId::from_bytes([0; 12])),
            id(false),
            id(true),
            id(bson::DateTime::from_millis(-1)),
            id(bson::Timestamp { time: 0, increment: 1 }),
            id(Bson::MaxKey),
        ];
        for (i, left) in sorted.iter().enumerate() {
            for (j, right) in sorted.iter().enumerate() {
                assert_eq!(compare_ids(left, right), i.cmp(&j), "{i} {j}");
            }
        }
    }

    #[test]
    fn equal_numbers_have_equal_bytes() {
        for group in [
            vec![
                id(1),
                id(1i64),
                id(1.0),
                id(decimal("1")),
                id(decimal("1.00")),
                id(decimal("10E-1")),
            ],
            vec![id(0), id(-0.0), id(decimal("-0")), id(decimal("0E+3"))],
            vec![id(0.5), id(decimal("0.5"))],
            vec![id(f64::NAN), id(decimal("NaN"))],
            vec![id(f64::INFINITY), id(decimal("Infinity"))],
            vec![id(doc! { "a": 2 }), id(doc! { "a": 2.0 })],
        ] {
            for other in &group {
                assert_eq!(canonical_id(&group[0]), canonical_id(other));
                assert_eq!(compare_ids(&group[0], other), Ordering::Equal);
            }
        }
        assert_ne!(canonical_id(&id(0.1)), canonical_id(&id(decimal("0.1"))));
        assert_ne!(canonical_id(&id("1")), canonical_id(&id(1)));
        assert_ne!(canonical_id(&id(i64::MAX)), canonical_id(&id(9_223_372_036_854_775_807.0)));
    }
}
