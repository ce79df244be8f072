//! The last net for secrets: takes passwords and tokens out of text that is about to be shown.
//!
//! No message is meant to hold one; this is for texts of libraries and for mistakes.

use std::borrow::Cow;

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// The text without the user part of URLs and without JSON web tokens.
pub fn text(text: &str) -> Cow<'_, str> {
    let step = hide_user_info(text);
    match step {
        Cow::Borrowed(same) => hide_tokens(same),
        Cow::Owned(changed) => Cow::Owned(hide_tokens(&changed).into_owned()),
    }
}

/// `scheme://user:password@host` → `scheme://***@host`.
///
/// The last `@` before white space, a quote or the path counts: a password may hold an `@` that
/// its owner forgot to escape, and even a `/` when what follows still has an `@`.
fn hide_user_info(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>'))
            .unwrap_or(after.len());
        let (address, tail) = after.split_at(end);
        let authority_end = address.find('?').unwrap_or(address.len());
        let (authority, query) = address.split_at(authority_end);
        if let Some((_, host)) = authority.rsplit_once('@') {
            out.push_str(HIDDEN);
            out.push('@');
            out.push_str(host);
        } else {
            out.push_str(authority);
        }
        out.push_str(query);
        rest = tail;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// `eyJ….….…` → `***`.
fn hide_tokens(text: &str) -> Cow<'_, str> {
    if !text.contains("eyJ") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, _)) = rest.split_once("eyJ") {
        let (_, from) = rest.split_at(before.len());
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '=');
        let end = from.find(|c| !part(c)).unwrap_or(from.len());
        let (word, tail) = from.split_at(end);
        out.push_str(before);
        out.push_str(if word.contains('.') { HIDDEN } else { word });
        rest = tail;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn passwords_and_tokens_are_hidden_and_the_rest_stays() {
        for (given, shown) in [
            ("plain", "plain"),
            ("at mongodb://h1:1,h2:2/?w=majority", "at mongodb://h1:1,h2:2/?w=majority"),
            ("'mongodb+srv://bob:p%40ss@h/db' no", "'mongodb+srv://***@h/db' no"),
            (
                "mongodb://bob:p@ss@h:1/?a=b mongodb://x:y@z",
                "mongodb://***@h:1/?a=b mongodb://***@z",
            ),
            ("mongodb://bob:pa/ss@h", "mongodb://***@h"),
            ("token eyJhbGciOi.eyJzdWIi.c2ln, next", "token ***, next"),
            ("eyJust a word", "eyJust a word"),
        ] {
            assert_eq!(text(given), shown);
        }
    }
}
