//! Regular expressions of namespace filters, read as the server reads them.
//!
//! The server's `$regex` is PCRE; ours is another library with almost the same syntax. Where the
//! two differ, a pattern is rewritten so that it means the same, or refused by name: `\d`, `\w` and
//! `\s` mean ASCII to the server, `[` and `&&` are nothing special within a class, an escaped mark is
//! the mark, and within a class the option `x` is without effect.

use fancy_regex::Regex;

use crate::{
    error::{Error, Kind, Result},
    model::options::NamePattern,
};

/// Escapes that mean something to the server and something else, or nothing, here.
const REFUSED: &str = "CEGHKNQRUVXhvgku";
/// What stands for itself only when escaped.
const MARKS: &str = r"\.+*?()|[]{}^$#&-~ ";

/// Where a word of ASCII begins.
const WORD_BEGIN: &str = "(?<![A-Za-z0-9_])(?=[A-Za-z0-9_])";
/// Where a word of ASCII ends.
const WORD_END: &str = "(?<=[A-Za-z0-9_])(?![A-Za-z0-9_])";

/// Compiles a pattern with the option letters of `$regex`.
///
/// # Errors
/// `FilterInvalid` for an unknown letter, a pattern that is none, and one whose meaning to the
/// server cannot be kept.
pub(super) fn compile(pattern: &NamePattern) -> Result<Regex> {
    let refuse = |why: String| {
        Error::new(Kind::FilterInvalid, format!("the pattern `{}` {why}", pattern.pattern))
    };
    if let Some(unknown) = pattern.options.chars().find(|c| !"imxs".contains(*c)) {
        return Err(refuse(format!("has the option `{unknown}`; known are i m x s")));
    }
    let mut text = String::new();
    if !pattern.options.is_empty() {
        text = format!("(?{})", pattern.options);
    }
    text.push_str(&translate(&pattern.pattern).map_err(refuse)?);
    Regex::new(&text)
        .map_err(|e| refuse("is none, or uses what only the server can".to_owned()).caused_by(e))
}

/// Rewrites a pattern; the error says what cannot be kept.
fn translate(pattern: &str) -> std::result::Result<String, String> {
    let mut text = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    // Where the class begins that we are in, behind `[` or `[^`.
    let mut class: Option<usize> = None;
    if pattern.starts_with("(*") {
        return Err("begins with an option of the server's library".to_owned());
    }
    while let Some(letter) = rest.next() {
        match (letter, class) {
            ('\\', _) => {
                let Some(escaped) = rest.next() else {
                    return Err("ends with a backslash".to_owned());
                };
                text.push_str(&escape(escaped, class.is_some())?);
            }
            ('[', None) => {
                text.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    text.push('^');
                }
                class = Some(text.len());
            }
            ('[', Some(_)) => match rest.peek() {
                Some(':') => text.push('['),
                Some('.' | '=') => return Err("names a collating element".to_owned()),
                _ => text.push_str("\\["),
            },
            (']', Some(begin)) if text.len() == begin => text.push_str("\\]"),
            (']', Some(begin)) if ends_a_posix_class(&text, begin) => text.push(']'),
            (']', Some(_)) => {
                class = None;
                text.push(']');
            }
            ('&' | '~' | '#' | ' ' | '\t' | '\n', Some(_)) => {
                text.push('\\');
                text.push(letter);
            }
            ('-', Some(begin)) if text.len() == begin || rest.peek() == Some(&'-') => {
                text.push_str("\\-");
            }
            ('(', None) if rest.peek() == Some(&'?') => {
                let ahead: String = rest.clone().skip(1).take(1).collect();
                if "RC&|0123456789+".contains(&ahead) && !ahead.is_empty() {
                    return Err(format!("uses (?{ahead}, which only the server can"));
                }
                text.push('(');
            }
            ('(', None) if rest.peek() == Some(&'*') => {
                return Err("uses a verb of the server's library".to_owned());
            }
            _ => text.push(letter),
        }
    }
    Ok(text)
}

/// Whether a class `[:name:` within a class waits for its end.
fn ends_a_posix_class(text: &str, class: usize) -> bool {
    let Some(inside) = text.get(class..) else { return false };
    let Some((_, name)) = inside.rsplit_once("[:") else { return false };
    name.len() > 1 && name.ends_with(':') && !name.contains(']')
}

/// An escape, outside or within a class.
fn escape(letter: char, in_class: bool) -> std::result::Result<String, String> {
    let (inside, negated) = match letter.to_ascii_lowercase() {
        'd' => ("0-9", letter.is_ascii_uppercase()),
        'w' => ("A-Za-z0-9_", letter.is_ascii_uppercase()),
        's' => (r"\t\n\x0B\x0C\r\x20", letter.is_ascii_uppercase()),
        _ => {
            if REFUSED.contains(letter) {
                return Err(format!(
                    "uses \\{letter}, which cannot be kept as the server means it"
                ));
            }
            return Ok(match letter {
                'b' if in_class => r"\x08".to_owned(),
                'b' => format!("(?:{WORD_BEGIN}|{WORD_END})"),
                'B' if !in_class => format!("(?!{WORD_BEGIN}|{WORD_END})"),
                _ if letter.is_ascii_alphanumeric() || MARKS.contains(letter) => {
                    format!("\\{letter}")
                }
                _ => letter.to_string(),
            });
        }
    };
    Ok(match (in_class, negated) {
        (true, false) => inside.to_owned(),
        (false, false) => format!("[{inside}]"),
        (_, true) => format!("[^{inside}]"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(pattern: &str, options: &str) -> Result<Regex> {
        compile(&NamePattern { pattern: pattern.into(), options: options.into() })
    }

    #[test]
    fn patterns_mean_what_they_mean_to_the_server() {
        for (pattern, options, yes, no) in [
            (r"^\w+$", "", "ab_1", "äb"),
            (r"^[\w-]+$", "", "a-b", "a b"),
            (r"^\W$", "", "ä", "a"),
            (r"^[\Wx]$", "", "ä", "a"),
            (r"^\d+\.\s$", "", "12. ", "١٢. "),
            (r"^[[a&&b]+$", "", "[&a", "c"),
            (r"^[]x]+$", "", "]x", "y"),
            (r"^[[:alpha:]_]+$", "", "ab_", "a1"),
            (r"^[ a]b # c", "x", " b", "b"),
            (r"^[a-z]+$", "i", "Ab", "1"),
            (r"\<a\>", "", "<a>", "a"),
            (r"\bcat\b", "", "a cat", "concat"),
            (r"^app_(?!test)", "", "app_x", "app_test"),
            (r"^(?<w>a)\1$", "", "aa", "ab"),
            (r"^(a|b)++$", "", "abab", "abc"),
        ] {
            let regex = compiled(pattern, options).unwrap();
            assert!(regex.is_match(yes).unwrap(), "{pattern} finds {yes}");
            assert!(!regex.is_match(no).unwrap(), "{pattern} does not find {no}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        for (pattern, expected) in [
            (r"(a(?R)?b)", "(?R"),
            (r"(?1)(a)", "(?1"),
            (r"(*UCP)\w", "option of the server's library"),
            (r"a(*SKIP)b", "verb"),
            (r"\Qa.b\E", r"\Q"),
            (r"a\Kb", r"\K"),
            (r"a\h", r"\h"),
            (r"(", "is none"),
            (r"a\", "backslash"),
        ] {
            let error = compiled(pattern, "").map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), Kind::FilterInvalid);
            assert!(error.full().contains(expected), "{expected} not in {}", error.full());
        }
        assert!(compiled("a", "g").is_err());
    }
}
