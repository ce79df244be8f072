//! Tests of one value.

use std::cmp::Ordering;

use serde_json::Value as Json;
use syncline_sdk::{
    bson::{Document, Malformed, Value},
    config::ConfigError,
};

use crate::{
    compare::{self, MISSING, NULL},
    condition::Condition,
    literal::Literal,
    number,
    pattern::Pattern,
    walk::LastArray,
};

/// A test of one value.
#[derive(Debug)]
pub(crate) enum Test {
    /// It compares with a literal in this way.
    Compare(Comparison, Literal),
    /// `$in`
    In(Vec<Literal>, Vec<Pattern>),
    /// `$exists: true`
    Exists,
    /// `$type`, as type bytes.
    Type(Vec<u8>),
    /// `$regex`
    Matches(Pattern),
    /// `$size`
    Size(usize),
    /// `$elemMatch` with operators.
    Element(Box<Condition>),
    /// `$elemMatch` with a condition on documents.
    ElementDocument(Box<Condition>),
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// `$eq`
    Equal,
    /// `$gt`
    Greater,
    /// `$gte`
    GreaterOrEqual,
    /// `$lt`
    Less,
    /// `$lte`
    LessOrEqual,
}

impl Comparison {
    /// Whether an order fulfils it.
    fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order == Ordering::Equal,
            Self::Greater => order == Ordering::Greater,
            Self::GreaterOrEqual => order != Ordering::Less,
            Self::Less => order == Ordering::Less,
            Self::LessOrEqual => order != Ordering::Greater,
        }
    }

    /// Whether a value compares with a literal in this way: within a type only, but that a missing
    /// field equals null, and everything is above `MinKey` and below `MaxKey`.
    fn holds(self, value: Option<Value<'_>>, literal: Value<'_>) -> Result<bool, Malformed> {
        let (here, there) = (compare::rank(value), compare::rank(Some(literal)));
        if here != there {
            return Ok(match literal {
                Value::Null => here == MISSING && self.allows(Ordering::Equal),
                Value::MaxKey => matches!(self, Self::Less | Self::LessOrEqual),
                Value::MinKey => matches!(self, Self::Greater | Self::GreaterOrEqual),
                _ => false,
            });
        }
        let Some(value) = value else { return Ok(false) };
        if number::is_nan(value) || number::is_nan(literal) {
            return Ok(number::is_nan(value)
                && number::is_nan(literal)
                && self.allows(Ordering::Equal));
        }
        Ok(self.allows(compare::order(value, literal)?))
    }
}

impl Test {
    /// Equality, or a match where the literal is a regular expression.
    pub(crate) fn equal(key: &str, literal: Literal) -> Result<Self, ConfigError> {
        match literal {
            Literal::Regex(pattern, options) => {
                Pattern::parse(key, &pattern, &options).map(Self::Matches)
            }
            literal => Ok(Self::Compare(Comparison::Equal, literal)),
        }
    }

    /// Parses the operand of `$in` and `$nin`.
    pub(crate) fn one_of(key: &str, operand: &Json) -> Result<Self, ConfigError> {
        let (mut literals, mut patterns) = (Vec::new(), Vec::new());
        for (index, literal) in Literal::parse_list(key, operand)?.into_iter().enumerate() {
            match literal {
                Literal::Regex(pattern, options) => {
                    patterns.push(Pattern::parse(&format!("{key}[{index}]"), &pattern, &options)?);
                }
                literal => literals.push(literal),
            }
        }
        Ok(Self::In(literals, patterns))
    }

    /// Parses the operand of `$type`.
    pub(crate) fn types(key: &str, operand: &Json) -> Result<Self, ConfigError> {
        let one = std::slice::from_ref(operand);
        let items = operand.as_array().map_or(one, Vec::as_slice);
        let mut bytes = Vec::new();
        for item in items {
            match item.as_str() {
                Some("number") => bytes.extend([0x01, 0x10, 0x12, 0x13]),
                Some(name) => {
                    bytes.extend(TYPES.iter().find(|(known, _)| *known == name).map(|t| t.1));
                }
                None => bytes.extend(match item.as_i64() {
                    Some(-1) => Some(0xFF),
                    number => {
                        TYPES.iter().map(|t| t.1).find(|byte| number == Some(i64::from(*byte)))
                    }
                }),
            }
        }
        if bytes.len() < items.len() || items.is_empty() {
            return Err(ConfigError::new(
                key,
                "expected the name or number of a type, such as `string`, `int`, `number`, or a list",
            ));
        }
        Ok(Self::Type(bytes))
    }

    /// What an array at the end of the path gives to this test.
    pub(crate) fn last_array(&self) -> LastArray {
        match self {
            Self::Size(_) | Self::Element(_) | Self::ElementDocument(_) => LastArray::Whole,
            _ => LastArray::Elements,
        }
    }

    /// Whether a value passes; `None` is a field that is not there.
    pub(crate) fn passes(&self, value: Option<Value<'_>>) -> Result<bool, Malformed> {
        match self {
            Self::Compare(comparison, literal) => comparison.holds(value, literal.value()),
            Self::In(literals, patterns) => is_one_of(value, literals, patterns),
            Self::Exists => Ok(value.is_some()),
            Self::Type(bytes) => Ok(value.is_some_and(|value| bytes.contains(&value.type_byte()))),
            Self::Matches(pattern) => Ok(value.is_some_and(|value| pattern.matches(value))),
            Self::Size(size) => match value {
                Some(Value::Array(array)) => {
                    let mut fields = array.fields();
                    let mut count = 0;
                    while fields.next_field()?.is_some() {
                        count += 1;
                    }
                    Ok(count == *size)
                }
                _ => Ok(false),
            },
            Self::Element(condition) => any_element(value, |element| condition.holds_for(element)),
            Self::ElementDocument(condition) => any_element(value, |element| match element {
                Value::Document(inner) | Value::Array(inner) => condition.holds(inner),
                _ => Ok(false),
            }),
        }
    }
}

/// Whether a value is one of these or matches one of these. Other than with equality, `undefined`
/// is not null here.
fn is_one_of(
    value: Option<Value<'_>>,
    literals: &[Literal],
    patterns: &[Pattern],
) -> Result<bool, Malformed> {
    let rank = compare::rank(value);
    for literal in literals {
        let literal = literal.value();
        let found = match value {
            None => compare::rank(Some(literal)) == NULL,
            Some(value) => {
                rank == compare::rank(Some(literal))
                    && compare::order(value, literal)? == Ordering::Equal
            }
        };
        if found {
            return Ok(true);
        }
    }
    Ok(value.is_some_and(|value| patterns.iter().any(|pattern| pattern.matches(value))))
}

/// Whether some element of an array passes.
fn any_element(
    value: Option<Value<'_>>,
    mut passes: impl FnMut(Value<'_>) -> Result<bool, Malformed>,
) -> Result<bool, Malformed> {
    let Some(Value::Array(array)) = value else { return Ok(false) };
    let elements: Document<'_> = array;
    for field in elements.fields() {
        if passes(field?.value()?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names of types.
const TYPES: [(&str, u8); 21] = [
    ("double", 0x01),
    ("string", 0x02),
    ("object", 0x03),
    ("array", 0x04),
    ("binData", 0x05),
    ("undefined", 0x06),
    ("objectId", 0x07),
    ("bool", 0x08),
    ("date", 0x09),
    ("null", 0x0A),
    ("regex", 0x0B),
    ("dbPointer", 0x0C),
    ("javascript", 0x0D),
    ("symbol", 0x0E),
    ("javascriptWithScope", 0x0F),
    ("int", 0x10),
    ("timestamp", 0x11),
    ("long", 0x12),
    ("decimal", 0x13),
    ("minKey", 0xFF),
    ("maxKey", 0x7F),
];
