//! The architecture, checked: which room may name which other room and which crate, how long a
//! file may be, which words are not ours, and that the map in `ARCHITECTURE.md` is true.
//!
//! The scanner blanks comments and literals, then reads paths from the tokens that are left:
//! `crate::room`, groups, `super` chains that climb to the crate's root, and crate names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Longest file that is accepted, in lines.
const MAX_LINES: usize = 800;

/// Every room of `host/src` with the rooms that it may import. `app`, `lib` and `main` see all.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("model", &["error"]),
    ("ports", &["model", "error"]),
    ("tasks", &["error"]),
    ("telemetry", &["error"]),
    ("config", &["model", "error", "telemetry"]),
    ("engine", &["ports", "model", "error", "tasks", "telemetry"]),
    ("mongo", &["ports", "model", "error", "tasks", "telemetry"]),
    ("plugin", &["ports", "model", "error", "tasks", "telemetry"]),
    ("identity", &["ports", "model", "error", "tasks", "telemetry"]),
    ("person", &["ports", "model", "error", "tasks", "telemetry"]),
    ("federation", &["model", "error", "tasks", "telemetry"]),
    ("api", &["engine", "federation", "config", "model", "error", "tasks", "telemetry"]),
    ("client", &["error", "telemetry", "tasks"]),
    ("cli", &["client", "config", "person", "model", "error", "telemetry"]),
];

/// Rooms without a list: the composition root and the two crate roots.
const ROOTS: &[&str] = &["app", "lib", "main"];

/// Crates that only some files may name. A name that ends in `*` is a prefix.
const CRATES: &[(&str, &[&str])] = &[
    ("mongodb", &["mongo/", "identity/driver.rs"]),
    ("wasmtime*", &["plugin/"]),
    ("wasmparser", &["plugin/"]),
    ("syncline_plugin_bundle", &["plugin/"]),
    // The way back from a browser; the tests of the identity world answer as an issuer.
    ("axum*", &["api/", "person/", "plugin/tests/"]),
    ("utoipa*", &["api/"]),
    ("hyper*", &["api/"]),
    ("tower*", &["api/"]),
    ("clap*", &["cli.rs", "cli/"]),
    ("reqwest", &["client.rs", "client/", "plugin/", "federation/", "person/tests.rs"]),
    ("indicatif", &["client.rs", "client/"]),
    ("serde_saphyr", &["config/"]),
];

/// Words that the glossary gives another name, as parts of identifiers.
const FOREIGN_WORDS: &[&str] = &[
    "addon",
    "backfill",
    "cdc",
    "cutover",
    "failback",
    "heartbeat",
    "manager",
    "migrate",
    "migration",
    "optime",
    "watermark",
];

/// The top of the repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below a folder that ends in `extension`, with its path relative to the folder.
fn files(root: &Path, extension: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|other| other == extension) {
                let key = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                found.insert(key, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(!found.is_empty(), "{} holds no .{extension} file", root.display());
    found
}

/// The text with comments, strings and characters replaced by blanks; line breaks stay.
fn code_of(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let at = |i: usize| source.get(i).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut i = 0;
    while i < source.len() {
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => (i..source.len()).find(|i| at(*i) == '\n').unwrap_or(source.len()),
            ('/', '*') => end_of_block_comment(&source, i),
            ('"', _) => end_of_string(&source, i),
            ('r', '"' | '#') if !is_word(at(i.wrapping_sub(1))) || at(i.wrapping_sub(1)) == 'b' => {
                end_of_raw_string(&source, i)
            }
            // A character, but not a lifetime.
            ('\'', '\\') => 1 + (i + 3..source.len()).find(|i| at(*i) == '\'').unwrap_or(i),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end > i {
            code.extend((i..end).map(|i| if at(i) == '\n' { '\n' } else { ' ' }));
            i = end;
        } else {
            code.push(at(i));
            i += 1;
        }
    }
    code
}

/// The place after a block comment, which may hold others.
fn end_of_block_comment(source: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0_usize, start);
    while i + 1 < source.len() {
        match (source[i], source[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    source.len()
}

/// The place after a string with escapes.
fn end_of_string(source: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < source.len() {
        match source[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    source.len()
}

/// The place after `r"…"` or `r#"…"#`; the start itself for a raw identifier.
fn end_of_raw_string(source: &[char], start: usize) -> usize {
    let hashes = source[start + 1..].iter().take_while(|c| **c == '#').count();
    if source.get(start + 1 + hashes) != Some(&'"') {
        return start;
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + 2 + hashes;
    let length = source[body..].windows(closing.len()).position(|w| w == closing);
    length.map_or(source.len(), |length| body + length + closing.len())
}

/// Whether a character belongs to an identifier.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Identifiers, `::` and single characters, each with its line.
fn tokens_of(text: &str) -> Vec<(String, usize)> {
    let mut tokens: Vec<(String, usize)> = Vec::new();
    for (number, line) in code_of(text).lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (token, after) = rest.split_at(length);
            tokens.push((token.to_owned(), number + 1));
            rest = after.trim_start();
        }
    }
    tokens
}

/// What a file names: rooms of its crate and other crates, each with its line.
#[derive(Default)]
struct Mentions {
    /// First parts of paths from the crate's root.
    rooms: Vec<(String, usize)>,
    /// First parts of every other path.
    crates: Vec<(String, usize)>,
}

/// Reads the mentions of a file whose path below `src` is given.
fn mentions(path: &str, text: &str) -> Mentions {
    let tokens = tokens_of(text);
    let token = |i: usize| tokens.get(i).map_or("", |(token, _)| token.as_str());
    let depth_of_file = path.split('/').count() - usize::from(path.ends_with("/mod.rs"));
    let mut found = Mentions::default();
    let mut modules: Vec<usize> = Vec::new();
    let mut braces = 0_usize;
    let mut importing = false;
    let mut i = 0;
    while i < tokens.len() {
        let before = if i == 0 { "" } else { token(i - 1) };
        match token(i) {
            "{" => {
                braces += 1;
                if i >= 2 && token(i - 2) == "mod" {
                    modules.push(braces);
                }
            }
            "}" => {
                if modules.last() == Some(&braces) {
                    modules.pop();
                }
                braces = braces.saturating_sub(1);
            }
            "crate" | "super" if before != "::" => {
                let mut climbed = 0;
                let mut next = i;
                while token(next) == "super" && token(next + 1) == "::" {
                    climbed += 1;
                    next += 2;
                }
                let at_root = if token(i) == "crate" {
                    next = i + 2;
                    // `pub(crate)` is no path; an alias would hide what follows.
                    assert!(token(i + 1) != "as", "{path}: `crate` under another name");
                    token(i + 1) == "::"
                } else {
                    climbed >= depth_of_file + modules.len()
                };
                if at_root {
                    found.rooms.extend(heads(&tokens, next));
                }
            }
            "use" => importing = true,
            ";" => importing = false,
            name if name.starts_with(is_word) && before != "::" => {
                let head = importing && matches!(before, "use" | "{" | ",");
                if head || before == "crate" || token(i + 1) == "::" {
                    found.crates.push(tokens[i].clone());
                }
            }
            // `::name` from the root of all crates.
            "::" if !before.ends_with(|c| is_word(c) || c == '>') => {
                found.crates.extend(tokens.get(i + 1).cloned());
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The names directly after `crate::`: one, or each member of a group.
fn heads(tokens: &[(String, usize)], start: usize) -> Vec<(String, usize)> {
    let Some(first) = tokens.get(start) else { return Vec::new() };
    if first.0 != "{" {
        return vec![first.clone()];
    }
    let mut depth = 0_usize;
    let mut found = Vec::new();
    for (i, (token, line)) in tokens.iter().enumerate().skip(start) {
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return found,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(tokens[i - 1].0.as_str(), "{" | ",") => {
                found.push((token.clone(), *line));
            }
            _ => {}
        }
    }
    found
}

/// The room of a file below `src`.
fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// What of a file breaks the rules, one line each.
fn violations(path: &str, text: &str) -> Vec<String> {
    let room = room_of(path);
    let mut broken = Vec::new();
    let allowed = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
    if allowed.is_none() && !ROOTS.contains(&room) {
        broken.push(format!("{path}: the room `{room}` has no rule; add it to ROOMS"));
    }
    let found = mentions(path, text);
    for (other, line) in found.rooms {
        let is_room = ROOMS.iter().any(|(name, _)| *name == other) || ROOTS.contains(&&*other);
        let fine = allowed.is_none_or(|allowed| allowed.contains(&&*other)) || other == room;
        if other == "*" || (is_room && !fine) {
            broken.push(format!("{path}:{line}: `{room}` must not import `{other}`"));
        }
    }
    for (name, line) in found.crates {
        for (rule, places) in CRATES {
            let hit = match rule.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == *rule,
            };
            if hit && !places.iter().any(|place| path.starts_with(place)) {
                broken.push(format!("{path}:{line}: `{name}` may be named only in {places:?}"));
            }
        }
    }
    broken
}

#[test]
fn no_room_imports_what_it_must_not_know() {
    let host = repository().join("host/src");
    let broken: Vec<String> =
        files(&host, "rs").iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(broken.is_empty(), "forbidden edges:\n{}", broken.join("\n"));
}

#[test]
fn every_rule_about_a_room_or_crate_is_in_use() {
    let host = files(&repository().join("host/src"), "rs");
    let rooms: BTreeSet<&str> = host.keys().map(|path| room_of(path)).collect();
    let known: BTreeSet<&str> =
        ROOMS.iter().map(|(name, _)| *name).chain(ROOTS.iter().copied()).collect();
    assert_eq!(rooms, known);
    let named: BTreeSet<String> = host
        .iter()
        .flat_map(|(path, text)| mentions(path, text).crates)
        .map(|(name, _)| name)
        .collect();
    for name in ["mongodb", "wasmtime", "axum", "clap", "reqwest"] {
        assert!(named.contains(name), "the scanner no longer sees `{name}`");
    }
}

#[test]
fn the_scanner_finds_planted_violations() {
    let planted = [
        ("engine/run.rs", "use mongodb::Client;"),
        ("engine/run.rs", "fn f() { let x = ::reqwest::get(); }"),
        ("engine/run.rs", "use {std::fmt, axum::Router};"),
        ("engine/copy/pool.rs", "use super::super::super::mongo::Connection;"),
        ("engine/copy/mod.rs", "use super::super::plugin::Registry;"),
        ("mongo/source.rs", "use crate::{error::Result, plugin::Registry};"),
        ("mongo/source.rs", "mod tests { use super::super::super::identity::X; }"),
        ("plugin/filter.rs", "type T = crate::api::ApiState;"),
        ("identity/source.rs", "use mongodb as driver;"),
        ("identity/source.rs", "use {std::fmt, mongodb};"),
        ("identity/source.rs", "extern crate mongodb;"),
        (
            "identity/uri.rs",
            "use crate::{\n    error::{Error, Kind},\n    mongo::{self, Connection},\n};",
        ),
        ("api/routes.rs", "use crate::mongo;"),
        ("api/routes.rs", "use wasmtime_wasi::WasiCtx;"),
        ("model/batch.rs", "use crate::ports::Source;"),
        ("error/mod.rs", "use crate::model::Namespace;"),
        ("tasks.rs", "use crate::engine;"),
        ("config/mod.rs", "const S: &str = r#\"\"#; use clap::Parser;"),
        ("engine/run.rs", "const C: char = '\"'; use mongodb::Client; const D: char = '\"';"),
        ("engine/run.rs", "use crate::*;"),
        ("attic.rs", ""),
    ];
    for (path, text) in planted {
        assert_eq!(violations(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn the_scanner_leaves_alone_what_is_allowed() {
    let fine = [
        (
            "engine/run.rs",
            "// use mongodb::Client;\n/* use axum::Router; /* deep */ wasmtime::X */",
        ),
        ("engine/run.rs", "const A: &str = \"use crate::mongo \\\" mongodb::\";"),
        ("engine/run.rs", "const A: &str = r#\"\"mongodb::Client\"\"#;"),
        ("engine/stream/ddl.rs", "use super::super::catalog::Entry; use super::super::run;"),
        ("engine/run.rs", "mod tests { use super::plugin; } fn f<'a>(x: &'a str) {}"),
        ("engine/run.rs", "pub(crate) fn mongo() {} use crate::{ports::{self, Source}, error};"),
        ("engine/run.rs", "let x = self.mongodb; let y = kind::mongodb::z;"),
        ("identity/driver.rs", "use mongodb::options::ClientOptions;"),
        ("mongo/store.rs", "use mongodb::Client; use crate::{error::Result, ports::StateStore};"),
        ("app.rs", "use crate::{api, engine, mongo, plugin, identity};"),
    ];
    for (path, text) in fine {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn no_file_is_too_long() {
    for folder in ["host", "sdk", "plugins", "tests"] {
        for (path, text) in files(&repository().join(folder), "rs") {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{folder}/{path}: {lines} lines, at most {MAX_LINES}");
        }
    }
}

#[test]
fn identifiers_use_the_words_of_the_glossary() {
    for folder in ["host/src", "sdk/src", "plugins"] {
        for (path, text) in files(&repository().join(folder), "rs") {
            for (token, line) in tokens_of(&text) {
                let foreign = words_of(&token).into_iter().find(|w| FOREIGN_WORDS.contains(&&**w));
                assert!(foreign.is_none(), "{folder}/{path}:{line}: `{token}`: {foreign:?}");
            }
        }
    }
    assert_eq!(words_of("BackfillManager_of"), ["backfill", "manager", "of"]);
}

/// The words of an identifier in snake or camel case, in small letters.
fn words_of(identifier: &str) -> Vec<String> {
    let mut spaced = String::new();
    for c in identifier.chars() {
        if c.is_uppercase() || c == '_' {
            spaced.push(' ');
        }
        spaced.extend(c.to_lowercase().filter(|c| *c != '_'));
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// What stands between backticks in a text, line by line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn the_map_of_the_rooms_is_true() {
    let map = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let host = repository().join("host/src");
    let files: Vec<&str> = quoted(&map).filter(|name| name.ends_with(".rs")).collect();
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        assert!(
            host.join(file).exists() || repository().join(file).exists(),
            "ARCHITECTURE.md names `{file}`, which is not there"
        );
    }
    for entry in fs::read_dir(&host).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(quoted(&map).any(|other| other == name), "ARCHITECTURE.md does not name `{name}`");
    }
}

#[test]
fn every_test_that_guards_an_invariant_exists() {
    let map = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = map.split_once("## What must always hold").unwrap();
    let (table, _) = section.split_once("\n## ").unwrap();
    let security = fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let (_, cannot) = security.split_once("## What it cannot do").unwrap();
    let (cannot, _) = cannot.split_once("\n## ").unwrap();
    let names: Vec<&str> = quoted(table)
        .chain(quoted(cannot))
        .filter(|name| name.contains('_') && !name.contains(['.', '/']))
        .collect();
    assert!(names.len() > 60, "{names:?}");
    let mut code = String::new();
    for folder in ["host", "sdk", "plugins", "tests"] {
        code.extend(files(&repository().join(folder), "rs").into_values());
    }
    for name in names {
        assert!(code.contains(&format!("fn {name}(")), "there is no test `{name}`");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut checked = 0;
    for (path, text) in files(&repository(), "md") {
        let folder = repository().join(&path).parent().unwrap().to_path_buf();
        for rest in text.split("](").skip(1) {
            let link = rest.split([')', '#']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            assert!(folder.join(link).exists(), "{path}: the link to {link} leads nowhere");
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} links were found");
}
