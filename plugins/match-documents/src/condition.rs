//! Conditions: parsed once from the configuration, then asked per document.

use serde_json::{Map, Value as Json};
use syncline_sdk::{
    bson::{Document, Malformed, Value},
    config::ConfigError,
};

use crate::{
    literal::Literal,
    pattern::Pattern,
    test::{Comparison, Test},
    walk,
};

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
    Field(Vec<String>, Test),
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

    /// The opposite.
    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// Whether a document fulfils it.
    pub(crate) fn holds(&self, document: Document<'_>) -> Result<bool, Malformed> {
        self.evaluate(&mut |path, test| {
            walk::any(document, path, test.last_array(), &mut |value| test.passes(value))
        })
    }

    /// Whether one value fulfils it, whatever its path says: below `$elemMatch`.
    pub(crate) fn holds_for(&self, value: Value<'_>) -> Result<bool, Malformed> {
        self.evaluate(&mut |_, test| test.passes(Some(value)))
    }

    /// Combines the answers about fields: what a test says of the values at a path.
    fn evaluate<F>(&self, ask: &mut F) -> Result<bool, Malformed>
    where
        F: FnMut(&[String], &Test) -> Result<bool, Malformed>,
    {
        match self {
            Self::All(parts) => {
                for part in parts {
                    if !part.evaluate(ask)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(parts) => {
                for part in parts {
                    if part.evaluate(ask)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(inner) => Ok(!inner.evaluate(ask)?),
            Self::Field(path, test) => ask(path, test),
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
            Self::Field(path, _) => fields.extend(path.first().cloned()),
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
        None => Ok(Condition::Field(path, Test::equal(key, Literal::parse(key, value)?)?)),
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
        let whole = key;
        let key = format!("{key}.{operator}");
        let wrong = |problem: &str| Err(ConfigError::new(key.as_str(), problem));
        let on = |test| Condition::Field(path.to_vec(), test);
        let one = || Literal::parse(&key, operand);
        let ordered = |comparison| match Literal::parse(&key, operand)? {
            Literal::Regex(..) => {
                Err(ConfigError::new(key.as_str(), "a regular expression has no order"))
            }
            literal => Ok(Condition::Field(path.to_vec(), Test::Compare(comparison, literal))),
        };
        parts.push(match operator.as_str() {
            "$eq" => on(Test::Compare(Comparison::Equal, one()?)),
            "$ne" => ordered(Comparison::Equal)?.not(),
            "$gt" => ordered(Comparison::Greater)?,
            "$gte" => ordered(Comparison::GreaterOrEqual)?,
            "$lt" => ordered(Comparison::Less)?,
            "$lte" => ordered(Comparison::LessOrEqual)?,
            "$in" => on(Test::one_of(&key, operand)?),
            "$nin" => on(Test::one_of(&key, operand)?).not(),
            "$exists" => match operand.as_bool() {
                Some(true) => on(Test::Exists),
                Some(false) => on(Test::Exists).not(),
                None => return wrong("expected true or false"),
            },
            "$type" => on(Test::types(&key, operand)?),
            "$size" => match operand.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(size) => on(Test::Size(size)),
                None => return wrong("expected a number of elements"),
            },
            "$regex" => {
                let options = operators.get("$options");
                let (Some(pattern), Some(options)) =
                    (operand.as_str(), options.map_or(Some(""), Json::as_str))
                else {
                    return Err(ConfigError::new(
                        if operand.is_string() { format!("{whole}.$options") } else { key },
                        "expected text",
                    ));
                };
                on(Test::Matches(Pattern::parse(&key, pattern, options)?))
            }
            "$options" if operators.contains_key("$regex") => continue,
            "$options" => return wrong("it belongs to a $regex, and there is none"),
            "$all" => all_of(&key, path, operand)?,
            "$elemMatch" => on(element(&key, operand)?),
            "$not" => match (self::operators(operand), operand) {
                (Some(operators), _) => tests(&key, path, operators)?.not(),
                (None, Json::Object(object)) if object.contains_key("$regularExpression") => {
                    on(Test::equal(&key, one()?)?).not()
                }
                _ => return wrong("expected operators, such as {$gt: 5}"),
            },
            _ => {
                return wrong(
                    "no such operator; there are $eq $ne $gt $gte $lt $lte $in $nin $exists $type \
                     $regex $size $all $elemMatch $not",
                );
            }
        });
    }
    Ok(Condition::all(parts))
}

/// Parses the operand of `$all`.
fn all_of(key: &str, path: &[String], operand: &Json) -> Result<Condition, ConfigError> {
    let items = operand.as_array().filter(|items| !items.is_empty());
    let items =
        items.ok_or_else(|| ConfigError::new(key, "expected a list with at least one item"))?;
    let mut parts = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let key = format!("{key}[{index}]");
        let test = match item.as_object().and_then(|object| object.get("$elemMatch")) {
            Some(operand) => element(&format!("{key}.$elemMatch"), operand)?,
            None => Test::equal(&key, Literal::parse(&key, item)?)?,
        };
        parts.push(Condition::Field(path.to_vec(), test));
    }
    Ok(Condition::all(parts))
}

/// Parses the operand of `$elemMatch`: operators on the element itself, or a condition on documents.
fn element(key: &str, operand: &Json) -> Result<Test, ConfigError> {
    let Some(query) = operand.as_object() else {
        return Err(ConfigError::new(key, "expected a condition or operators"));
    };
    let logical = |name: &String| ["$and", "$or", "$nor"].contains(&name.as_str());
    match operators(operand) {
        Some(operators) if !operators.keys().any(logical) => {
            Ok(Test::Element(Box::new(tests(key, &[], operators)?)))
        }
        _ => Ok(Test::ElementDocument(Box::new(Condition::parse(key, query)?))),
    }
}
