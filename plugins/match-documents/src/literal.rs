//! Values in the configuration: plain JSON, and the typed forms of MongoDB's extended JSON.

use serde_json::{Map, Value as Json};
use syncline_sdk::{
    bson::{DocumentBuf, Value, Writer},
    config::ConfigError,
};

/// A value to compare with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    /// Null; equals a field that is not there.
    Null,
    /// Truth value.
    Bool(bool),
    /// Whole number.
    Integer(i64),
    /// Number with a fraction, or too large for [`Self::Integer`].
    Double(f64),
    /// `{"$numberDecimal": …}`
    Decimal([u8; 16]),
    /// Text.
    Text(String),
    /// `{"$oid": …}`
    ObjectId([u8; 12]),
    /// `{"$date": …}`, milliseconds since the Unix epoch.
    Date(i64),
    /// `{"$timestamp": …}`
    Timestamp(u64),
    /// `{"$binary": …}` or `{"$uuid": …}`: subtype and bytes.
    Binary(u8, Vec<u8>),
    /// `{"$regularExpression": …}`: pattern and options. A match everywhere but below `$eq`.
    Regex(String, String),
    /// `{"$minKey": 1}`
    MinKey,
    /// `{"$maxKey": 1}`
    MaxKey,
    /// A document as a whole.
    Document(DocumentBuf),
    /// A list; equals an array as a whole.
    List(DocumentBuf),
}

impl Literal {
    /// Whether an object with this key is a value and not a set of operators.
    pub(crate) fn is_typed(key: &str) -> bool {
        TYPED.contains(&key)
    }

    /// The value.
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Integer(number) => Value::Int64(*number),
            Self::Double(number) => Value::Double(*number),
            Self::Decimal(bytes) => Value::Decimal128(*bytes),
            Self::Text(text) => Value::String(text),
            Self::ObjectId(id) => Value::ObjectId(*id),
            Self::Date(millis) => Value::DateTime(*millis),
            Self::Timestamp(number) => Value::Timestamp(*number),
            Self::Binary(subtype, bytes) => Value::Binary(*subtype, bytes),
            Self::Regex(pattern, options) => Value::Regex(pattern.as_bytes(), options.as_bytes()),
            Self::MinKey => Value::MinKey,
            Self::MaxKey => Value::MaxKey,
            Self::Document(document) => Value::Document(document.as_document()),
            Self::List(items) => Value::Array(items.as_document()),
        }
    }

    /// Parses any value.
    pub(crate) fn parse(key: &str, value: &Json) -> Result<Self, ConfigError> {
        Ok(match value {
            Json::Null => Self::Null,
            Json::Bool(truth) => Self::Bool(*truth),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Self::Integer(integer),
                (None, Some(double)) => Self::Double(double),
                (None, None) => return Err(ConfigError::new(key, "this number is out of range")),
            },
            Json::String(text) => Self::Text(text.clone()),
            Json::Array(_) => {
                let mut writer = Writer::new();
                for (index, item) in Self::parse_list(key, value)?.iter().enumerate() {
                    writer.value(index.to_string(), item.value());
                }
                Self::List(writer.finish())
            }
            Json::Object(object) => match object.keys().next() {
                Some(name) if name.starts_with('$') => typed(key, object)?,
                _ => Self::document(key, object)?,
            },
        })
    }

    /// Parses a document. The configuration does not keep the order of fields, which the server
    /// compares; with one field there is none.
    fn document(key: &str, object: &Map<String, Json>) -> Result<Self, ConfigError> {
        if object.len() > 1 {
            return Err(ConfigError::new(
                key,
                "a document of several fields cannot be compared, for their order is not known; \
                 name the fields by dotted paths",
            ));
        }
        let mut writer = Writer::new();
        for (name, value) in object {
            if name.contains('\0') {
                return Err(ConfigError::new(key, "a name holds no zero byte"));
            }
            writer.value(name, Self::parse(&format!("{key}.{name}"), value)?.value());
        }
        Ok(Self::Document(writer.finish()))
    }

    /// Parses the items of a list.
    pub(crate) fn parse_list(key: &str, value: &Json) -> Result<Vec<Self>, ConfigError> {
        let items = value.as_array().ok_or_else(|| ConfigError::new(key, "expected a list"))?;
        items
            .iter()
            .enumerate()
            .map(|(index, item)| Self::parse(&format!("{key}[{index}]"), item))
            .collect()
    }
}

/// The typed forms.
const TYPED: [&str; 12] = [
    "$oid",
    "$date",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$uuid",
    "$timestamp",
    "$regularExpression",
    "$minKey",
    "$maxKey",
];

/// Parses a typed form.
fn typed(key: &str, object: &Map<String, Json>) -> Result<Literal, ConfigError> {
    let (Some((name, value)), 1) = (object.iter().next(), object.len()) else {
        return Err(ConfigError::new(key, "a typed value has one key, such as {$oid: …}"));
    };
    let key = format!("{key}.{name}");
    let expected = |what: &str| ConfigError::new(key.as_str(), format!("expected {what}"));
    let text = || value.as_str();
    match name.as_str() {
        "$oid" => {
            text().and_then(hex).map(Literal::ObjectId).ok_or_else(|| expected("24 hex digits"))
        }
        "$date" => date(value)
            .map(Literal::Date)
            .ok_or_else(|| expected("milliseconds since 1970 or `2024-01-31T12:00:00Z`")),
        "$numberInt" | "$numberLong" => text()
            .and_then(|text| text.parse().ok())
            .map(Literal::Integer)
            .ok_or_else(|| expected("a whole number as text")),
        "$numberDouble" => {
            text().and_then(double).map(Literal::Double).ok_or_else(|| expected("a number as text"))
        }
        "$numberDecimal" => text()
            .and_then(decimal)
            .map(Literal::Decimal)
            .ok_or_else(|| expected("a number of at most 34 digits as text")),
        "$uuid" => text()
            .and_then(|text| hex::<16>(&text.replace('-', "")))
            .map(|bytes| Literal::Binary(4, bytes.to_vec()))
            .ok_or_else(|| expected("a UUID")),
        "$binary" => binary(value).ok_or_else(|| expected("{base64: …, subType: …}")),
        "$timestamp" => timestamp(value).ok_or_else(|| expected("{t: seconds, i: ordinal}")),
        "$regularExpression" => {
            let part = |name| value.get(name).and_then(Json::as_str).map(str::to_owned);
            match (part("pattern"), part("options")) {
                (Some(pattern), Some(options)) => Ok(Literal::Regex(pattern, options)),
                _ => Err(expected("{pattern: …, options: …}")),
            }
        }
        "$minKey" => Ok(Literal::MinKey),
        "$maxKey" => Ok(Literal::MaxKey),
        _ => Err(ConfigError::new(key.as_str(), "no such operator or typed value here")),
    }
}

/// Milliseconds of a date.
fn date(value: &Json) -> Option<i64> {
    let long = || value.get("$numberLong")?.as_str()?.parse().ok();
    value.as_i64().or_else(|| value.as_str().and_then(date_millis)).or_else(long)
}

/// A double as extended JSON spells it.
fn double(text: &str) -> Option<f64> {
    match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

/// A decimal (IEEE 754-2008, binary integer significand) from its text.
fn decimal(text: &str) -> Option<[u8; 16]> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (1_u128 << 127, rest),
        None => (0, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.eq_ignore_ascii_case("nan") {
        return Some((0x1F_u128 << 122).to_le_bytes());
    }
    if ["inf", "infinity"].iter().any(|word| digits.eq_ignore_ascii_case(word)) {
        return Some((negative | 0x1E << 122).to_le_bytes());
    }
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut coefficient = format!("{whole}{fraction}");
    if coefficient.is_empty() || !coefficient.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    while exponent > 6111 && coefficient.len() < 34 {
        coefficient.push('0');
        exponent -= 1;
    }
    let coefficient = coefficient.trim_start_matches('0');
    if coefficient.len() > 34 || !(-6176..=6111).contains(&exponent) {
        return None;
    }
    let coefficient: u128 = if coefficient.is_empty() { 0 } else { coefficient.parse().ok()? };
    let biased = u128::try_from(exponent + 6176).ok()?;
    Some((negative | biased << 113 | coefficient).to_le_bytes())
}

/// Binary data from `{base64, subType}`.
fn binary(value: &Json) -> Option<Literal> {
    let subtype = u8::from_str_radix(value.get("subType")?.as_str()?, 16).ok()?;
    base64(value.get("base64")?.as_str()?).map(|bytes| Literal::Binary(subtype, bytes))
}

/// Bytes from base64.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() * 3 / 4), 0_u32, 0_u32);
    for character in text.bytes() {
        let six = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0xFFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xFF).ok()?);
        }
    }
    (held < 6).then_some(bytes)
}

/// A timestamp from `{t, i}`.
fn timestamp(value: &Json) -> Option<Literal> {
    let part = |name| u32::try_from(value.get(name)?.as_u64()?).ok();
    Some(Literal::Timestamp(u64::from(part("t")?) << 32 | u64::from(part("i")?)))
}

/// Bytes from twice as many hex digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut id = [0; N];
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (pair.first()?, pair.get(1)?);
        let value = char::from(*high).to_digit(16)? * 16 + char::from(*low).to_digit(16)?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(id)
}

/// Milliseconds from `YYYY-MM-DDTHH:MM:SS[.mmm]Z`.
fn date_millis(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |part: &str, digits: usize| {
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| part.parse::<i64>().ok())
            .flatten()
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = number(parts.next()?, 2)?;
    let mut clock = time.split(':');
    let hour = number(clock.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = number(clock.next()?, 2).filter(|minute| *minute < 60)?;
    let seconds = clock.next()?;
    if parts.next().is_some() || clock.next().is_some() {
        return None;
    }
    let (second, millis) = match seconds.split_once('.') {
        Some((second, millis)) => (number(second, 2)?, number(millis, 3)?),
        None => (number(seconds, 2)?, 0),
    };
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    if second >= 60 || !(1..=longest).contains(&day) {
        return None;
    }
    // Days since 1970 in the proleptic Gregorian calendar, counted in years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_as_the_calendar_says() {
        assert_eq!(date_millis("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(date_millis("2024-02-29T12:30:15.250Z"), Some(1_709_209_815_250));
        assert_eq!(date_millis("1969-12-31T23:59:59Z"), Some(-1000));
        for wrong in ["2023-02-29T00:00:00Z", "2024-01-01", "2024-13-01T00:00:00Z", "x", "Z"] {
            assert_eq!(date_millis(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn object_ids_need_24_hex_digits() {
        assert_eq!(hex("0102030405060708090a0B0c"), Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]));
        assert_eq!(hex::<12>("0102"), None);
        assert_eq!(hex::<12>("zz02030405060708090a0b0c"), None);
    }

    #[test]
    fn base64_is_read_to_the_byte() {
        assert_eq!(base64("AP+/"), Some(vec![0, 255, 191]));
        assert_eq!(base64("AP8="), Some(vec![0, 255]));
        assert_eq!(base64("AA=="), Some(vec![0]));
        assert_eq!(base64(""), Some(vec![]));
        assert_eq!(base64("A"), None);
        assert_eq!(base64("A-_="), None);
    }

    #[test]
    fn decimals_are_read_as_the_server_reads_them() {
        for text in
            ["0", "1.50", "-12E-3", "9.999E+6144", "1E-6176", "Infinity", "-Infinity", "1E+6140"]
        {
            let expected: bson::Decimal128 = text.parse().unwrap();
            assert_eq!(decimal(text), Some(expected.bytes()), "{text}");
        }
        for wrong in ["", ".", "1e", "x", "1E+9999", "12345678901234567890123456789012345"] {
            assert_eq!(decimal(wrong), None, "{wrong}");
        }
    }
}
