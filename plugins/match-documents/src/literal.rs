//! Values in the configuration.

use serde_json::Value as Json;
use syncline_sdk::config::ConfigError;

/// A value to compare with.
#[derive(Debug, PartialEq)]
pub(crate) enum Literal {
    /// Null; equals a field that is not there.
    Null,
    /// Truth value.
    Bool(bool),
    /// Whole number.
    Integer(i64),
    /// Number with a fraction, or too large for [`Self::Integer`].
    Double(f64),
    /// Text.
    Text(String),
    /// `{"$oid": …}`
    ObjectId([u8; 12]),
    /// `{"$date": …}`, milliseconds since the Unix epoch.
    Date(i64),
    /// List; equals an array as a whole.
    List(Vec<Literal>),
}

impl Literal {
    /// Whether an object with this key is a value and not a set of operators.
    pub(crate) fn is_typed(key: &str) -> bool {
        matches!(key, "$oid" | "$date")
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
            Json::Array(_) => Self::List(Self::parse_list(key, value)?),
            Json::Object(object) => {
                let mut fields = object.iter();
                match (fields.next(), fields.next()) {
                    (Some((name, value)), None) if name == "$oid" => {
                        value.as_str().and_then(object_id).map(Self::ObjectId).ok_or_else(|| {
                            ConfigError::new(format!("{key}.$oid"), "expected 24 hex digits")
                        })?
                    }
                    (Some((name, value)), None) if name == "$date" => {
                        let millis =
                            value.as_i64().or_else(|| value.as_str().and_then(date_millis));
                        millis.map(Self::Date).ok_or_else(|| {
                            ConfigError::new(
                                format!("{key}.$date"),
                                "expected milliseconds since 1970 or `2024-01-31T12:00:00Z`",
                            )
                        })?
                    }
                    _ => {
                        return Err(ConfigError::new(
                            key,
                            "a whole document cannot be compared; name its fields by dotted paths",
                        ));
                    }
                }
            }
        })
    }

    /// Parses a value that has an order among its kind.
    pub(crate) fn parse_ordered(key: &str, value: &Json) -> Result<Self, ConfigError> {
        match Self::parse(key, value)? {
            Self::List(_) => Err(ConfigError::new(key, "a list has no order here")),
            literal => Ok(literal),
        }
    }

    /// Parses the list of `$in` and `$nin`.
    pub(crate) fn parse_list(key: &str, value: &Json) -> Result<Vec<Self>, ConfigError> {
        let items = value.as_array().ok_or_else(|| ConfigError::new(key, "expected a list"))?;
        items
            .iter()
            .enumerate()
            .map(|(index, item)| Self::parse(&format!("{key}[{index}]"), item))
            .collect()
    }
}

/// Twelve bytes from 24 hex digits.
fn object_id(text: &str) -> Option<[u8; 12]> {
    let mut id = [0; 12];
    let digits = text.as_bytes();
    if digits.len() != 24 {
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
        assert_eq!(
            object_id("0102030405060708090a0B0c"),
            Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
        );
        assert_eq!(object_id("0102"), None);
        assert_eq!(object_id("zz02030405060708090a0b0c"), None);
    }
}
