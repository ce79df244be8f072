//! Numbers of every type, compared exactly by value.

use std::cmp::Ordering::{self, Equal, Greater, Less};

use syncline_sdk::bson::Value;

/// Digits that any double needs at most.
const DOUBLE_DIGITS: usize = 767;

/// Whether a value is not a number.
pub(crate) fn is_nan(value: Value<'_>) -> bool {
    match value {
        Value::Double(value) => value.is_nan(),
        Value::Decimal128(bytes) => matches!(take_apart(bytes), Decimal::Nan),
        _ => false,
    }
}

/// How two numbers stand. Not a number equals itself and is below everything, as in the server's
/// order; anything that is no number counts as that.
pub(crate) fn order(left: Value<'_>, right: Value<'_>) -> Ordering {
    let known = match (left, right) {
        (Value::Int32(left), Value::Int32(right)) => Some(left.cmp(&right)),
        (Value::Decimal128(left), Value::Decimal128(right)) => exact(left, &take_apart(right)),
        (Value::Decimal128(left), right) => match integer(right) {
            Some(right) => decimal_to_integer(left, right),
            None => exact(left, &from_double(double(right))),
        },
        (left, Value::Decimal128(right)) => match integer(left) {
            Some(left) => decimal_to_integer(right, left).map(Ordering::reverse),
            None => exact(right, &from_double(double(left))).map(Ordering::reverse),
        },
        (left, right) => match (integer(left), integer(right)) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            (Some(left), None) => integer_to_double(left, double(right)),
            (None, Some(right)) => integer_to_double(right, double(left)).map(Ordering::reverse),
            (None, None) => double(left).partial_cmp(&double(right)),
        },
    };
    known.unwrap_or_else(|| match (is_nan(left), is_nan(right)) {
        (true, false) => Less,
        (false, true) => Greater,
        _ => Equal,
    })
}

/// The value of an integer.
fn integer(value: Value<'_>) -> Option<i64> {
    match value {
        Value::Int32(value) => Some(i64::from(value)),
        Value::Int64(value) => Some(value),
        _ => None,
    }
}

/// The value of a double.
fn double(value: Value<'_>) -> f64 {
    if let Value::Double(value) = value { value } else { f64::NAN }
}

/// How an integer stands to a double, exactly.
fn integer_to_double(integer: i64, double: f64) -> Option<Ordering> {
    /// 2^63, the first double above every 64-bit integer.
    const ABOVE: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        None
    } else if double >= ABOVE {
        Some(Less)
    } else if double < -ABOVE {
        Some(Greater)
    } else {
        #[allow(clippy::cast_possible_truncation, reason = "within range, fraction compared below")]
        let whole = double.trunc() as i64;
        let fraction = double - double.trunc();
        Some(integer.cmp(&whole).then_with(|| 0.0_f64.partial_cmp(&fraction).unwrap_or(Equal)))
    }
}

/// A number taken apart.
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
    /// `±0.digits × 10^magnitude`: a double, whose digits may be many.
    Digits {
        /// Sign.
        negative: bool,
        /// Digits, the first and the last not 0; none for zero.
        digits: String,
        /// Power of ten.
        magnitude: i32,
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

/// The exact value of a double.
fn from_double(value: f64) -> Decimal {
    let negative = value.is_sign_negative();
    if value.is_nan() {
        return Decimal::Nan;
    }
    if value.is_infinite() {
        return Decimal::Infinite { negative };
    }
    let text = format!("{:.*e}", DOUBLE_DIGITS, value.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0').trim_start_matches('0').to_owned();
    let magnitude = exponent.parse().unwrap_or(0) + 1;
    Decimal::Digits { negative, digits, magnitude }
}

impl Decimal {
    /// Sign, digits without zeros at the ends, and power of ten of `0.digits`; `None` when it is
    /// not finite.
    fn digits(&self) -> Option<(bool, String, i32)> {
        match self {
            Self::Finite { negative, coefficient, exponent } => {
                let digits =
                    if *coefficient == 0 { String::new() } else { coefficient.to_string() };
                let magnitude = exponent + i32::try_from(digits.len()).unwrap_or(0);
                Some((*negative, digits.trim_end_matches('0').to_owned(), magnitude))
            }
            Self::Digits { negative, digits, magnitude } => {
                Some((*negative, digits.clone(), *magnitude))
            }
            Self::Infinite { .. } | Self::Nan => None,
        }
    }

    /// -1, 0 or 1 for what is not finite, by its place in the order.
    fn infinity(&self) -> i32 {
        match self {
            Self::Infinite { negative: true } => -1,
            Self::Infinite { negative: false } => 1,
            _ => 0,
        }
    }
}

/// How a decimal stands to a number, exactly; `None` when one of them is no number.
fn exact(left: [u8; 16], right: &Decimal) -> Option<Ordering> {
    let left = take_apart(left);
    if matches!(left, Decimal::Nan) || matches!(right, Decimal::Nan) {
        return None;
    }
    let (Some((minus, digits, magnitude)), Some((other_minus, others, other_magnitude))) =
        (left.digits(), right.digits())
    else {
        return Some(left.infinity().cmp(&right.infinity()));
    };
    let side = |negative: bool, digits: &str| match (digits.is_empty(), negative) {
        (true, _) => 0,
        (false, true) => -1,
        (false, false) => 1,
    };
    let (here, there) = (side(minus, &digits), side(other_minus, &others));
    if here != there || here == 0 {
        return Some(here.cmp(&there));
    }
    let size = magnitude.cmp(&other_magnitude).then_with(|| digits.cmp(&others));
    Some(if minus { size.reverse() } else { size })
}

/// How a decimal stands to an integer, exactly.
fn decimal_to_integer(bytes: [u8; 16], integer: i64) -> Option<Ordering> {
    match take_apart(bytes) {
        Decimal::Nan | Decimal::Digits { .. } => None,
        Decimal::Infinite { negative } => Some(if negative { Less } else { Greater }),
        Decimal::Finite { coefficient: 0, .. } => Some(0.cmp(&integer)),
        Decimal::Finite { negative, coefficient, exponent } => {
            if negative != (integer < 0) {
                return Some(if negative { Less } else { Greater });
            }
            let (left, right) = (coefficient, u128::from(integer.unsigned_abs()));
            let shift = |value: u128| {
                10_u128.checked_pow(exponent.unsigned_abs()).and_then(|p| value.checked_mul(p))
            };
            // A product beyond 128 bits is larger than any coefficient and any integer.
            let magnitude = if exponent >= 0 {
                shift(left).map_or(Greater, |left| left.cmp(&right))
            } else if right == 0 {
                Greater
            } else {
                shift(right).map_or(Less, |right| left.cmp(&right))
            };
            Some(if negative { magnitude.reverse() } else { magnitude })
        }
    }
}
