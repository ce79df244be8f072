//! Compares a value of a document with one of the configuration, as the server does: numbers by
//! value whatever their type, everything else only within its type.

use std::cmp::Ordering;

use syncline_sdk::bson::{Document, Malformed, Value};

use crate::literal::Literal;

/// Whether a value equals a literal. A field that is not there equals null.
pub(crate) fn equal(value: Option<Value<'_>>, literal: &Literal) -> Result<bool, Malformed> {
    if let (Some(Value::Array(array)), Literal::List(items)) = (value, literal) {
        return equal_list(array, items);
    }
    Ok(order(value, literal)? == Some(Ordering::Equal))
}

/// Whether an array equals a list element by element.
fn equal_list(array: Document<'_>, items: &[Literal]) -> Result<bool, Malformed> {
    let mut items = items.iter();
    for field in array.fields() {
        let Some(item) = items.next() else { return Ok(false) };
        if !equal(Some(field?.value()?), item)? {
            return Ok(false);
        }
    }
    Ok(items.next().is_none())
}

/// How a value stands to a literal; `None` when they do not compare.
pub(crate) fn order(
    value: Option<Value<'_>>,
    literal: &Literal,
) -> Result<Option<Ordering>, Malformed> {
    let Some(value) = value else {
        return Ok((*literal == Literal::Null).then_some(Ordering::Equal));
    };
    Ok(match (value, literal) {
        (Value::Null | Value::Undefined, Literal::Null) => Some(Ordering::Equal),
        (Value::Bool(value), Literal::Bool(literal)) => Some(value.cmp(literal)),
        (Value::String(value), Literal::Text(literal)) => Some(value.cmp(literal.as_str())),
        (Value::Symbol(value), Literal::Text(literal)) => Some(value.cmp(literal.as_bytes())),
        (Value::ObjectId(value), Literal::ObjectId(literal)) => Some(value.cmp(literal)),
        (Value::DateTime(value), Literal::Date(literal)) => Some(value.cmp(literal)),
        (value, Literal::Integer(literal)) => match value {
            Value::Int32(value) => Some(i64::from(value).cmp(literal)),
            Value::Int64(value) => Some(value.cmp(literal)),
            Value::Double(value) => integer_to_double(*literal, value).map(Ordering::reverse),
            Value::Decimal128(value) => decimal_to_integer(value, *literal),
            _ => None,
        },
        (value, Literal::Double(literal)) => match value {
            Value::Int32(value) => f64::from(value).partial_cmp(literal),
            Value::Int64(value) => integer_to_double(value, *literal),
            Value::Double(value) => value.partial_cmp(literal),
            Value::Decimal128(value) => decimal_to_double(value).partial_cmp(literal),
            _ => None,
        },
        _ => None,
    })
}

/// How an integer stands to a double, exactly.
fn integer_to_double(integer: i64, double: f64) -> Option<Ordering> {
    /// 2^63, the first double above every 64-bit integer.
    const ABOVE: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        None
    } else if double >= ABOVE {
        Some(Ordering::Less)
    } else if double < -ABOVE {
        Some(Ordering::Greater)
    } else {
        #[allow(clippy::cast_possible_truncation, reason = "within range, fraction compared below")]
        let whole = double.trunc() as i64;
        let fraction = double - double.trunc();
        Some(
            integer
                .cmp(&whole)
                .then_with(|| 0.0_f64.partial_cmp(&fraction).unwrap_or(Ordering::Equal)),
        )
    }
}

/// A decimal taken apart.
enum Decimal {
    /// `±coefficient × 10^exponent`
    Finite {
        /// Sign.
        negative: bool,
        /// At most 34 digits.
        coefficient: u128,
        /// Power of ten.
        exponent: i32,
    },
    /// Infinity with its sign.
    Infinite {
        /// Sign.
        negative: bool,
    },
    /// Not a number.
    Nan,
}

/// Takes a decimal apart (IEEE 754-2008, binary integer significand).
fn take_apart(bytes: [u8; 16]) -> Decimal {
    /// Largest coefficient; a larger one stands for zero.
    const LARGEST: u128 = 9_999_999_999_999_999_999_999_999_999_999_999;
    let bits = u128::from_le_bytes(bytes);
    let negative = bits >> 127 == 1;
    match (bits >> 122) & 0x1F {
        0x1F => Decimal::Nan,
        0x1E => Decimal::Infinite { negative },
        top => {
            // The form with an implied leading `100` only holds coefficients above the largest.
            let (exponent, coefficient) = if top >> 3 == 0b11 {
                ((bits >> 111) & 0x3FFF, 0)
            } else {
                ((bits >> 113) & 0x3FFF, bits & ((1 << 113) - 1))
            };
            let coefficient = if coefficient > LARGEST { 0 } else { coefficient };
            let exponent = i32::try_from(exponent).unwrap_or(0) - 6176;
            Decimal::Finite { negative, coefficient, exponent }
        }
    }
}

/// How a decimal stands to an integer, exactly.
fn decimal_to_integer(bytes: [u8; 16], integer: i64) -> Option<Ordering> {
    match take_apart(bytes) {
        Decimal::Nan => None,
        Decimal::Infinite { negative } => {
            Some(if negative { Ordering::Less } else { Ordering::Greater })
        }
        Decimal::Finite { coefficient: 0, .. } => Some(0.cmp(&integer)),
        Decimal::Finite { negative, coefficient, exponent } => {
            if negative != (integer < 0) {
                return Some(if negative { Ordering::Less } else { Ordering::Greater });
            }
            let (left, right) = (coefficient, u128::from(integer.unsigned_abs()));
            let shift = |value: u128| {
                10_u128.checked_pow(exponent.unsigned_abs()).and_then(|p| value.checked_mul(p))
            };
            // A product beyond 128 bits is larger than any coefficient and any integer.
            let magnitude = if exponent >= 0 {
                shift(left).map_or(Ordering::Greater, |left| left.cmp(&right))
            } else if right == 0 {
                Ordering::Greater
            } else {
                shift(right).map_or(Ordering::Less, |right| left.cmp(&right))
            };
            Some(if negative { magnitude.reverse() } else { magnitude })
        }
    }
}

/// The double nearest to a decimal.
fn decimal_to_double(bytes: [u8; 16]) -> f64 {
    match take_apart(bytes) {
        Decimal::Nan => f64::NAN,
        Decimal::Infinite { negative: false } => f64::INFINITY,
        Decimal::Infinite { negative: true } => f64::NEG_INFINITY,
        Decimal::Finite { negative, coefficient, exponent } => {
            let sign = if negative { "-" } else { "" };
            format!("{sign}{coefficient}e{exponent}").parse().unwrap_or(f64::NAN)
        }
    }
}
