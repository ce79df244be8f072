//! Driver and server errors to kinds; the only place with server error numbers.

use bson::{Document, RawDocument};
use mongodb::error::{Error as DriverError, ErrorKind};

use crate::error::{Error, Kind};

/// Codes that a retry mends: network, step-down, shutdown, time-outs, throttling, a lock that was
/// not to be had at once, another operation in the way, an index dropped under a query.
const TRANSIENT: &[i32] = &[
    6, 7, 24, 46, 50, 63, 89, 91, 107, 112, 117, 133, 134, 150, 175, 189, 202, 234, 244, 246, 262,
    314, 317, 358, 384, 9001, 10107, 11600, 11601, 11602, 12586, 12587, 13388, 13435, 13436,
];
/// The position is no longer in the oplog.
const POSITION_LOST: &[i32] = &[260, 280, 286];
/// Missing privileges.
const UNAUTHORIZED: i32 = 13;
/// Refused credentials.
const AUTHENTICATION_FAILED: i32 = 18;
/// Two documents with the same key of a unique index.
pub(super) const DUPLICATE_KEY: i32 = 11000;
/// No such collection or database.
pub(super) const NAMESPACE_NOT_FOUND: i32 = 26;
/// No such index.
pub(super) const INDEX_NOT_FOUND: i32 = 27;
/// A collection of that name exists.
pub(super) const NAMESPACE_EXISTS: i32 = 48;
/// A document, or what an answer carries, is larger than a document may be.
pub(super) const OBJECT_TOO_LARGE: i32 = 10334;
/// A scan of a capped collection was overtaken by the collection's end; of a change stream it says
/// that the oplog no longer holds the position.
pub(super) const CAPPED_POSITION_LOST: i32 = 136;
/// The name belongs to a collection with another UUID.
pub(super) const UUID_MISMATCH: i32 = 361;
/// `collMod` to unique found duplicates.
const CANNOT_CONVERT_TO_UNIQUE: i32 = 359;
/// Groups of violating documents, and documents of a group, in a message at most.
const VIOLATIONS_SHOWN: usize = 10;
/// Characters of an `_id` in a message at most.
const ID_CHARS: usize = 120;
/// A write concern could not be satisfied in time.
const WRITE_CONCERN_FAILED: i32 = 64;

/// The server's error code, if the server answered with one.
pub(super) fn code_of(error: &DriverError) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(mongodb::error::WriteFailure::WriteError(write)) => Some(write.code),
        ErrorKind::Write(mongodb::error::WriteFailure::WriteConcernError(concern)) => {
            Some(concern.code)
        }
        _ => None,
    }
}

/// Turns a driver error into ours; `what` says what was being done, in words.
pub(super) fn classify(error: &DriverError, what: impl Into<String>, default: Kind) -> Error {
    if let Some(own) = error.get_custom::<Error>() {
        return Error::new(own.kind(), format!("{}: {}", what.into(), own.full()));
    }
    let kind = kind_of(error, default);
    Error::new(kind, what).caused_by(Plain(describe(error)))
}

/// The kind of a driver error.
fn kind_of(error: &DriverError, default: Kind) -> Kind {
    if let Some(code) = code_of(error) {
        return kind_of_code(code, default);
    }
    match error.kind.as_ref() {
        // Tokens are renewed and keys rotate: the next token may be taken.
        ErrorKind::Authentication { message, .. } if message.starts_with("MONGODB-OIDC") => {
            Kind::IdentityProviderFailure
        }
        ErrorKind::Authentication { .. } => Kind::AuthenticationFailed,
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::ServerSelection { .. } => Kind::TransientNetwork,
        _ if error.contains_label("RetryableWriteError")
            || error.contains_label("ResumableChangeStreamError")
            || error.contains_label("RetryableError") =>
        {
            Kind::TransientNetwork
        }
        _ => default,
    }
}

/// The kind of a server error code.
fn kind_of_code(code: i32, default: Kind) -> Kind {
    match code {
        UNAUTHORIZED => Kind::PermissionDenied,
        AUTHENTICATION_FAILED => Kind::AuthenticationFailed,
        CANNOT_CONVERT_TO_UNIQUE => Kind::DuplicateKeyAtCommit,
        WRITE_CONCERN_FAILED => Kind::TransientNetwork,
        code if POSITION_LOST.contains(&code) => Kind::OplogPositionLost,
        code if TRANSIENT.contains(&code) => Kind::TransientNetwork,
        _ => default,
    }
}

/// An error that the body of a successful command carries (`writeErrors`, `writeConcernError`).
pub(super) fn classify_reply(body: &RawDocument, what: &str, default: Kind) -> Option<Error> {
    let concern = body.get_document("writeConcernError").ok()?;
    let code = concern.get_i32("code").unwrap_or_default();
    let text = concern.get_str("errmsg").unwrap_or("write concern error");
    Some(Error::new(kind_of_code(code, default), what).caused_by(Plain(text.to_owned())))
}

/// One `writeErrors` entry that is no duplicate `_id`.
pub(super) fn classify_write_error(entry: &Document, what: &str) -> Error {
    let code = entry.get_i32("code").unwrap_or_default();
    let text = entry.get_str("errmsg").unwrap_or("write error");
    let text = if code == DUPLICATE_KEY { without_values(text) } else { text.to_owned() };
    Error::new(kind_of_code(code, Kind::WriteFailed), what)
        .caused_by(Plain(format!("server error {code}: {text}")))
}

/// What a driver error says, without anything that could hold a credential.
fn describe(error: &DriverError) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => format!(
            "server error {} {}: {}{}",
            command.code,
            command.code_name,
            without_values(&command.message),
            error.server_response().map(|reply| violations(reply)).unwrap_or_default()
        ),
        ErrorKind::ServerSelection { message, .. } => message.clone(),
        other => other.to_string(),
    }
}

/// The `_id`s of documents that violate a unique index, which the operator needs; a few of them.
fn violations(reply: &RawDocument) -> String {
    let Ok(violations) = reply.get_array("violations") else { return String::new() };
    let mut groups = Vec::new();
    let mut more = 0_usize;
    for ids in
        violations.into_iter().flatten().filter_map(|v| v.as_document()?.get_array("ids").ok())
    {
        if groups.len() == VIOLATIONS_SHOWN {
            more += 1;
            continue;
        }
        let shown: Vec<String> = ids
            .into_iter()
            .flatten()
            .take(VIOLATIONS_SHOWN)
            .filter_map(|id| bson::Bson::try_from(id).ok())
            .map(|id| id.into_canonical_extjson().to_string().chars().take(ID_CHARS).collect())
            .collect();
        groups.push(format!("[{}]", shown.join(", ")));
    }
    if groups.is_empty() {
        return String::new();
    }
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(" Documents with the same key, by _id: {}{rest}", groups.join(", "))
}

/// Cuts values of documents off a message, so that they stay out of logs: a duplicate key's value,
/// and a quoted command behind its name and collection.
fn without_values(text: &str) -> String {
    if let Some((head, _)) = text.split_once(" dup key:") {
        return head.to_owned();
    }
    match text.split_once(" to execute command {") {
        Some((head, command)) => {
            let name = command.split(',').next().unwrap_or_default().trim();
            format!("{head} to execute command {name}")
        }
        None => text.to_owned(),
    }
}

/// A cause that is only text.
#[derive(Debug)]
struct Plain(String);

impl std::fmt::Display for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Plain {}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn a_step_down_is_transient_and_a_lost_position_is_not() {
        assert!(Error::new(kind_of_code(10107, Kind::WriteFailed), "").is_transient());
        // The server takes the lock for a note of its oplog only if it is free within a moment.
        assert!(Error::new(kind_of_code(107, Kind::ReadFailed), "").is_transient());
        // An index was dropped while a query was being planned.
        assert!(Error::new(kind_of_code(175, Kind::ReadFailed), "").is_transient());
        assert_eq!(kind_of_code(286, Kind::ReadFailed), Kind::OplogPositionLost);
        assert_eq!(kind_of_code(121, Kind::WriteFailed), Kind::WriteFailed);
    }

    #[test]
    fn duplicate_key_messages_lose_their_values() {
        let entry = doc! { "code": 11000, "errmsg": "E11000 duplicate key error collection: a.b index: x_1 dup key: { x: \"secret\" }" };
        let error = classify_write_error(&entry, "insert");
        assert!(error.full().contains("index: x_1"));
        assert!(!error.full().contains("secret"));
    }

    #[test]
    fn violations_of_a_unique_index_are_named_by_id() {
        let reply =
            bson::rawdoc! { "violations": [ { "ids": [ 1i64, "b" ] }, { "ids": [ 2, 3 ] } ] };
        let text = violations(&reply);
        assert!(text.contains(r#"[{"$numberLong":"1"}, "b"]"#), "{text}");
        assert!(text.contains(r#"[{"$numberInt":"2"}, {"$numberInt":"3"}]"#), "{text}");
        assert_eq!(violations(&bson::rawdoc! { "ok": 0 }), "");
        let many: Vec<Document> = (0..30).map(|n| doc! { "ids": [n, n + 1] }).collect();
        let reply = bson::RawDocumentBuf::try_from(&doc! { "violations": many }).unwrap();
        assert!(violations(&reply).ends_with("and 20 more"));
    }

    #[test]
    fn quoted_commands_lose_all_but_their_name() {
        let text = r#"not authorized on app to execute command { find: "users", filter: { _id: "secret" } }"#;
        assert_eq!(
            without_values(text),
            r#"not authorized on app to execute command find: "users""#
        );
    }
}
