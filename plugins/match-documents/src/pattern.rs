//! Regular expressions: the part of the server's language that means the same to an engine whose
//! time is linear in the text. Everything else is refused when the configuration is read.

use regex_lite::{Regex, RegexBuilder};
use syncline_sdk::{bson::Value, config::ConfigError};

/// Longest pattern, in bytes.
const MAX_BYTES: usize = 4096;

/// A regular expression.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// Compiled.
    regex: Regex,
    /// As it was written.
    source: String,
    /// As they were written.
    options: String,
}

impl Pattern {
    /// Parses pattern and options.
    pub(crate) fn parse(key: &str, source: &str, options: &str) -> Result<Self, ConfigError> {
        let refused = |problem: String| ConfigError::new(key, problem);
        if let Some(option) = options.chars().find(|option| !"imsx".contains(*option)) {
            return Err(refused(format!("no such option `{option}`; there are i, m, s and x")));
        }
        if source.len() > MAX_BYTES {
            return Err(refused(format!("the pattern is longer than {MAX_BYTES} bytes")));
        }
        let has = |option| options.contains(option);
        if has('i') && !source.is_ascii() {
            return Err(refused(
                "option `i` folds ASCII letters only; spell the others out".to_owned(),
            ));
        }
        let translated = Translator::new(source, has('m'), has('x'))
            .run()
            .map_err(|problem| refused(format!("this pattern cannot be used: {problem}")))?;
        let regex = RegexBuilder::new(&translated)
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .build()
            .map_err(|error| refused(format!("this pattern cannot be used: {error}")))?;
        Ok(Self { regex, source: source.to_owned(), options: options.to_owned() })
    }

    /// Whether a value matches: text, or the same regular expression.
    pub(crate) fn matches(&self, value: Value<'_>) -> bool {
        match value {
            Value::String(text) => self.regex.is_match(text),
            Value::Symbol(bytes) => {
                std::str::from_utf8(bytes).is_ok_and(|text| self.regex.is_match(text))
            }
            Value::Regex(pattern, options) => {
                pattern == self.source.as_bytes() && options == self.options.as_bytes()
            }
            _ => false,
        }
    }
}

/// Goes through a pattern of the server's language, refuses what the engine would read in another
/// way, and writes what it reads in the same way.
struct Translator<'p> {
    /// What is left.
    rest: std::iter::Peekable<std::str::Chars<'p>>,
    /// Whether `^` and `$` are about lines.
    lines: bool,
    /// Whether blanks and comments count for nothing.
    extended: bool,
    /// Whether a repetition may follow, and none did.
    repeatable: bool,
    /// The pattern for the engine.
    out: String,
}

impl<'p> Translator<'p> {
    /// Begins.
    fn new(source: &'p str, lines: bool, extended: bool) -> Self {
        let rest = source.chars().peekable();
        Self { rest, lines, extended, repeatable: false, out: String::new() }
    }

    /// Goes through all of it.
    fn run(mut self) -> Result<String, String> {
        while let Some(character) = self.rest.next() {
            match character {
                '\\' => self.escape(Place::Outside)?,
                '[' => self.class()?,
                '(' => self.group()?,
                '$' if !self.lines => self.end()?,
                '*' | '+' | '?' => {
                    self.out.push(character);
                    self.repetition()?;
                }
                '{' => {
                    let bounds: String = self.take_until('}')?;
                    let (least, most) = bounds.split_once(',').unwrap_or((&bounds, "0"));
                    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
                    if least.is_empty() || !digits(least) || !digits(most) {
                        return Err("`{` that begins no repetition is written `\\{`".to_owned());
                    }
                    self.out.push_str(&format!("{{{bounds}}}"));
                    self.repetition()?;
                }
                _ if self.extended && character.is_ascii_whitespace() => {}
                '#' if self.extended => while self.rest.next().is_some_and(|next| next != '\n') {},
                '|' | '^' | '$' => {
                    self.out.push(character);
                    self.repeatable = false;
                }
                _ => {
                    self.out.push(character);
                    self.repeatable = true;
                }
            }
        }
        Ok(self.out)
    }

    /// What follows a repetition: `?` for as little as possible, and nothing that repeats it.
    fn repetition(&mut self) -> Result<(), String> {
        if !self.repeatable {
            return Err("a repetition has nothing to repeat, or repeats a repetition".to_owned());
        }
        self.repeatable = false;
        match self.rest.peek() {
            Some('?') => {
                self.rest.next();
                self.out.push('?');
                Ok(())
            }
            Some('+') => Err("possessive repetitions are not there".to_owned()),
            _ => Ok(()),
        }
    }

    /// `$` without option `m`: the end, or before the line break that is the end.
    fn end(&mut self) -> Result<(), String> {
        match self.rest.peek() {
            None | Some(')' | '|') => {
                self.out.push_str(r"(?:\n?\z)");
                self.repeatable = false;
                Ok(())
            }
            Some(_) => Err("`$` stands at the end of a branch; a dollar sign is `\\$`".to_owned()),
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, place: Place) -> Result<(), String> {
        let Some(character) = self.rest.next() else {
            return Err("a backslash at the end".to_owned());
        };
        match (character, place) {
            ('d' | 'D' | 's' | 'S' | 'w' | 'W' | 'n' | 'r' | 't' | 'f', _) => {
                self.out.push('\\');
                self.out.push(character);
                self.repeatable = true;
            }
            ('b' | 'B' | 'A' | 'z', Place::Outside) => {
                self.out.push('\\');
                self.out.push(character);
                self.repeatable = false;
            }
            ('x', _) => {
                let mut digits = String::new();
                if self.rest.next_if_eq(&'{').is_some() {
                    digits = self.take_until('}')?;
                } else {
                    while digits.len() < 2
                        && let Some(digit) = self.rest.next_if(char::is_ascii_hexdigit)
                    {
                        digits.push(digit);
                    }
                }
                self.out.push_str(&format!("\\x{{{digits}}}"));
                self.repeatable = true;
            }
            (other, _) if other.is_ascii_punctuation() => {
                self.out.push_str(&format!("\\x{{{:x}}}", u32::from(other)));
                self.repeatable = true;
            }
            (other, _) => return Err(format!("`\\{other}` is not there")),
        }
        Ok(())
    }

    /// A class, after its `[`.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let Some(character) = self.rest.next() else {
                return Err("a class without its `]`".to_owned());
            };
            match character {
                ']' if !first => break,
                '\\' => self.escape(Place::Class)?,
                '[' if self.rest.peek() == Some(&':') => {
                    self.out.push('[');
                    let name = self.take_until(']')?;
                    self.out.push_str(&name);
                    self.out.push(']');
                }
                ']' | '[' | '&' | '~' => {
                    self.out.push_str(&format!("\\x{{{:x}}}", u32::from(character)));
                }
                '-' if self.rest.peek() == Some(&'-') => {
                    return Err("a hyphen as an end of a range is written `\\-`".to_owned());
                }
                _ => self.out.push(character),
            }
            first = false;
        }
        self.out.push(']');
        self.repeatable = true;
        Ok(())
    }

    /// What follows a `(`.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        self.repeatable = false;
        if self.rest.next_if_eq(&'?').is_none() {
            return match self.rest.peek() {
                Some('*') => Err("verbs such as `(*UCP)` are not there".to_owned()),
                _ => Ok(()),
            };
        }
        match self.rest.next() {
            Some(':') => {
                self.out.push_str("?:");
                Ok(())
            }
            Some(other) => Err(format!(
                "groups that begin with `(?{other}` are not there; options go under $options"
            )),
            None => Err("a group without its `)`".to_owned()),
        }
    }

    /// Everything before an end mark, which is taken too.
    fn take_until(&mut self, end: char) -> Result<String, String> {
        let mut taken = String::new();
        for character in self.rest.by_ref() {
            if character == end {
                return Ok(taken);
            }
            taken.push(character);
        }
        Err(format!("no `{end}`"))
    }
}

/// Where an escape stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the pattern.
    Outside,
    /// In a class.
    Class,
}
