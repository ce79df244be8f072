//! Conditions: parsed once from the configuration, then asked per document.

use serde_json::{Map, Value as Json};
use syncline_sdk::{
    bson::{Document, Malformed, Value},
    config::ConfigError,
};

use crate::{compare, literal::Literal, walk};

/// A condition on a document.
#[derive(Debug)]
pub(crate) enum Condition {
    /// Every one holds.
    All(Vec<Condition>),
    /// At least one holds.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// Some value at the path passes the test.
    Field(Path, Test),
}

/// A dotted path.
#[derive(Debug)]
pub(crate) struct Path(Vec<String>);

/// A test of one value.
#[derive(Debug)]
pub(crate) enum Test {
    /// `$eq`
    Equal(Literal),
    /// `$in`
    In(Vec<Literal>),
    /// `$gt`
    Greater(Literal),
    /// `$gte`
    GreaterOrEqual(Literal),
    /// `$lt`
    Less(Literal),
    /// `$lte`
    LessOrEqual(Literal),
    /// `$exists: true`
    Exists,
}

impl Condition {
    /// Parses a query document. `key` is its place in the configuration.
    pub(crate) fn parse(key: &str, query: &Map<String, Json>) -> Result<Self, ConfigError> {
        let mut parts = Vec::new();
        for (name, value) in query {
            let key = format!("{key}.{name}");
            parts.push(match name.as_str() {
                "$and" => Self::All(list(&key, value)?),
                "$or" => Self::Any(list(&key, value)?),
                "$nor" => Self::Not(Box::new(Self::Any(list(&key, value)?))),
                _ if name.starts_with('$') => {
                    return Err(ConfigError::new(
                        key,
                        "no such operator here; there are $and, $or and $nor",
                    ));
                }
                _ => field(&key, name, value)?,
            });
        }
        Ok(Self::all(parts))
    }

    /// The conjunction, without a layer around a single condition.
    fn all(mut parts: Vec<Self>) -> Self {
        match (parts.pop(), parts.is_empty()) {
            (Some(only), true) => only,
            (last, _) => {
                parts.extend(last);
                Self::All(parts)
            }
        }
    }

    /// Whether a document fulfils it.
    pub(crate) fn holds(&self, document: Document<'_>) -> Result<bool, Malformed> {
        match self {
            Self::All(parts) => {
                for part in parts {
                    if !part.holds(document)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(parts) => {
                for part in parts {
                    if part.holds(document)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(inner) => Ok(!inner.holds(document)?),
            Self::Field(path, test) => {
                walk::any(document, &path.0, &mut |value| test.passes(value))
            }
        }
    }

    /// The top-level fields it looks at, each once.
    pub(crate) fn top_level_fields(&self) -> Vec<String> {
        let mut fields = Vec::new();
        self.collect_fields(&mut fields);
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    /// Adds the top-level fields it looks at.
    fn collect_fields(&self, fields: &mut Vec<String>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.collect_fields(fields);
                }
            }
            Self::Not(inner) => inner.collect_fields(fields),
            Self::Field(path, _) => fields.extend(path.0.first().cloned()),
        }
    }
}

impl Test {
    /// Whether a value passes; `None` is a field that is not there.
    fn passes(&self, value: Option<Value<'_>>) -> Result<bool, Malformed> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let within = |literal: &Literal, orders: &[std::cmp::Ordering]| {
            Ok(compare::order(value, literal)?.is_some_and(|order| orders.contains(&order)))
        };
        match self {
            Self::Exists => Ok(value.is_some()),
            Self::Equal(literal) => compare::equal(value, literal),
            Self::In(literals) => {
                for literal in literals {
                    if compare::equal(value, literal)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Greater(literal) => within(literal, &[Greater]),
            Self::GreaterOrEqual(literal) => within(literal, &[Greater, Equal]),
            Self::Less(literal) => within(literal, &[Less]),
            Self::LessOrEqual(literal) => within(literal, &[Less, Equal]),
        }
    }
}

/// Parses the operand of `$and`, `$or`, `$nor`.
fn list(key: &str, value: &Json) -> Result<Vec<Condition>, ConfigError> {
    let problem = || ConfigError::new(key, "expected a list with at least one condition");
    let items = value.as_array().filter(|items| !items.is_empty()).ok_or_else(problem)?;
    items
        .iter()
        .enumerate()
        .map(|(index, item)| {
            let key = format!("{key}[{index}]");
            match item.as_object() {
                Some(query) if !query.is_empty() => Condition::parse(&key, query),
                _ => Err(ConfigError::new(key, "expected a condition, such as {field: value}")),
            }
        })
        .collect()
}

/// Parses `path: value` or `path: {operators}`.
fn field(key: &str, name: &str, value: &Json) -> Result<Condition, ConfigError> {
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(ConfigError::new(key, "a path has no empty parts"));
    }
    match operators(value) {
        Some(operators) => tests(key, &path, operators),
        None => Ok(Condition::Field(Path(path), Test::Equal(Literal::parse(key, value)?))),
    }
}

/// The operators of a value, unless it is a plain value or one of the typed ones (`$oid`, `$date`).
fn operators(value: &Json) -> Option<&Map<String, Json>> {
    value.as_object().filter(|object| {
        object.keys().next().is_some_and(|key| key.starts_with('$'))
            && !object.keys().any(|key| Literal::is_typed(key))
    })
}

/// Parses the operators on a path.
fn tests(
    key: &str,
    path: &[String],
    operators: &Map<String, Json>,
) -> Result<Condition, ConfigError> {
    let mut parts = Vec::new();
    for (operator, operand) in operators {
        let key = format!("{key}.{operator}");
        let on = |test| Condition::Field(Path(path.to_vec()), test);
        let not = |condition| Condition::Not(Box::new(condition));
        let one = || Literal::parse(&key, operand);
        let ordered = || Literal::parse_ordered(&key, operand);
        let many = || Literal::parse_list(&key, operand);
        parts.push(match operator.as_str() {
            "$eq" => on(Test::Equal(one()?)),
            "$ne" => not(on(Test::Equal(one()?))),
            "$gt" => on(Test::Greater(ordered()?)),
            "$gte" => on(Test::GreaterOrEqual(ordered()?)),
            "$lt" => on(Test::Less(ordered()?)),
            "$lte" => on(Test::LessOrEqual(ordered()?)),
            "$in" => on(Test::In(many()?)),
            "$nin" => not(on(Test::In(many()?))),
            "$exists" => match operand.as_bool() {
                Some(true) => on(Test::Exists),
                Some(false) => not(on(Test::Exists)),
                None => return Err(ConfigError::new(key, "expected true or false")),
            },
            "$not" => match self::operators(operand) {
                Some(operators) => not(tests(&key, path, operators)?),
                None => {
                    return Err(ConfigError::new(key, "expected operators, such as {$gt: 5}"));
                }
            },
            _ => {
                return Err(ConfigError::new(
                    key,
                    "no such operator; there are $eq $ne $gt $gte $lt $lte $in $nin $exists $not",
                ));
            }
        });
    }
    Ok(Condition::all(parts))
}
