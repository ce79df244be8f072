//! Indexes of the destination: relaxed during the sync, as the source has them after the commit.
//!
//! Relaxed means: not unique, visible, and with a TTL that never comes. A unique index could meet
//! two documents that were never there at the same time on the source; a TTL would delete what the
//! source's own TTL will delete anyway, at another time.

use std::{future::Future, sync::Arc, time::Duration};

use bson::{Document, RawDocument, RawDocumentBuf, Uuid, cstr, doc, raw::RawBsonRef};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    catalog::{Entry, Index},
    context::Context,
    stream::StreamStatus,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Namespace, options::BuildIndexes},
};

/// The `expireAfterSeconds` that never comes.
const NEVER_EXPIRES: i32 = i32::MAX;
/// How often the builds of a collection may fail before the sync does.
const ATTEMPTS: u32 = 5;
/// How often a write is tried again without the indexes that refuse it; they may have been built again
/// in between.
const SET_ASIDE_ATTEMPTS: u32 = 3;
/// How long after a failure a build is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the server is told to end a build whose command it has not answered.
const ENDING: Duration = Duration::from_millis(50);

/// Whether indexes are built after the copy.
pub(crate) fn is_after_copy(mode: BuildIndexes) -> bool {
    matches!(mode, BuildIndexes::AfterDataCopy | BuildIndexes::ExcludeHashedAfterCopy)
}

/// Whether an index is to exist on the destination. The one on `_id` comes with the collection.
pub(crate) fn is_wanted(spec: &RawDocument, mode: BuildIndexes) -> bool {
    let is_id = spec.get_str("name").is_ok_and(|name| name == "_id_")
        || spec.get_bool("clustered").unwrap_or(false);
    let is_hashed = || {
        spec.get_document("key").is_ok_and(|key| {
            key.iter().flatten().any(|(_, value)| value.as_str() == Some("hashed"))
        })
    };
    if is_id {
        return false;
    }
    match mode {
        BuildIndexes::Never => false,
        BuildIndexes::ExcludeHashed | BuildIndexes::ExcludeHashedAfterCopy => !is_hashed(),
        BuildIndexes::AfterDataCopy | BuildIndexes::BeforeDataCopy => true,
    }
}

/// The form in which an index exists during the sync. A collection with a collation of its own
/// needs the simple one to be named, because an index inherits otherwise.
pub(crate) fn relaxed(wanted: &RawDocument, collection_has_collation: bool) -> RawDocumentBuf {
    let mut spec = RawDocumentBuf::new();
    let mut has_collation = false;
    for (name, value) in wanted.iter().flatten() {
        match name.as_str() {
            "unique" | "prepareUnique" | "hidden" | "ns" | "background" => {}
            "expireAfterSeconds" => spec.append(name, NEVER_EXPIRES),
            "key" => match value.as_document() {
                Some(key) => spec.append(name, modern_key(key)),
                None => spec.append(name, value),
            },
            other => {
                has_collation |= other == "collation";
                spec.append(name, value);
            }
        }
    }
    if collection_has_collation && !has_collation {
        spec.append(cstr!("collation"), bson::rawdoc! { "locale": "simple" });
    }
    spec
}

/// The key of an index in values that a server takes today. Old servers took anything for
/// "ascending", and such an index lives on until somebody builds it anew.
pub(crate) fn modern_key(key: &RawDocument) -> RawDocumentBuf {
    let mut modern = RawDocumentBuf::new();
    for (field, value) in key.iter().flatten() {
        let is_legacy = match value {
            RawBsonRef::Double(value) => value == 0.0 || value.is_nan(),
            RawBsonRef::Int32(value) => value == 0,
            RawBsonRef::Int64(value) => value == 0,
            RawBsonRef::Decimal128(value) => {
                matches!(value.to_string().as_str(), "0" | "-0" | "NaN")
            }
            RawBsonRef::String(kind) => kind.is_empty(),
            _ => true,
        };
        if is_legacy {
            modern.append(field, 1);
        } else {
            modern.append(field, value);
        }
    }
    modern
}

/// Indexes of a collection to be built with one command.
struct Missing {
    /// The collection's name on the destination.
    namespace: Namespace,
    /// Its UUID there.
    uuid: Option<Uuid>,
    /// The indexes as they are wanted.
    wanted: Vec<RawDocumentBuf>,
}

impl Missing {
    /// Drops them, built or being built.
    async fn drop(&self, context: &Context) -> Result<()> {
        let names: Vec<&str> =
            self.wanted.iter().filter_map(|spec| spec.get_str("name").ok()).collect();
        context.destination.drop_indexes(&self.namespace, &names).await
    }
}

/// The next indexes of a collection to be built.
fn next_batch(context: &Context, uuid: &Uuid) -> Option<Missing> {
    let table = context.table();
    let entry = table.get(uuid).filter(|entry| !entry.dropped)?;
    let wanted: Vec<RawDocumentBuf> = entry
        .indexes
        .iter()
        .filter(|index| !index.built)
        .take(context.load.index_batch.max(1))
        .map(|index| index.wanted.clone())
        .collect();
    let namespace = entry.destination.clone();
    (!wanted.is_empty()).then_some(Missing { namespace, uuid: entry.destination_uuid, wanted })
}

/// Builds as many indexes as go into one command, in relaxed form, and remembers them, unless it is
/// told to end; whether there were any. Repeatable: identical indexes are left alone by the server.
async fn build_some(context: &Context, uuid: Uuid, stop: &CancellationToken) -> Result<bool> {
    let Some(missing) = next_batch(context, &uuid) else { return Ok(false) };
    let collation = context.table().get(&uuid).is_some_and(Entry::has_collation);
    let specs: Vec<RawDocumentBuf> =
        missing.wanted.iter().map(|wanted| relaxed(wanted, collation)).collect();
    let destination = &context.destination;
    let mut build = destination.create_indexes(&missing.namespace, missing.uuid, &specs);
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            // A command that is only on its way would be carried out after the event for whose sake
            // the build ends.
            loop {
                missing.drop(context).await?;
                // How it ends says nothing: what it has built may have been dropped since.
                if tokio::time::timeout(ENDING, &mut build).await.is_ok() {
                    return Ok(true);
                }
            }
        }
        built = &mut build => built?,
    }
    if let Some(entry) = context.table().get_mut(&uuid) {
        let is_new = |index: &&mut Index| missing.wanted.contains(&index.wanted);
        for index in entry.indexes.iter_mut().filter(is_new) {
            index.built = true;
        }
    }
    context.save_collection(&uuid).await?;
    Ok(true)
}

/// Builds whatever index is missing on the destination as long as the run lasts: once the copy is done,
/// or from the beginning where indexes are wanted before it.
///
/// # Errors
/// `IndexBuildFailed` with the server's reason.
pub(crate) async fn keep_built(
    context: Arc<Context>,
    mut status: watch::Receiver<StreamStatus>,
) -> Result<()> {
    if is_after_copy(context.options.build_indexes)
        && status.wait_for(|status| status.copy_done).await.is_err()
    {
        return Ok(());
    }
    loop {
        build_all(&context, Some(&status)).await?;
        context.unbuilt.notified().await;
    }
}

/// Waits until every wanted index exists in its relaxed form and the store knows that: a commit that is
/// taken up again goes by what is stored.
pub(crate) async fn wait_until_built(context: &Context) {
    loop {
        let changed = context.changed.notified();
        if all_built(context) && !context.is_building() {
            return;
        }
        changed.await;
    }
}

/// Ends the builds of a collection, which an event is about to change. They begin anew afterwards.
///
/// # Errors
/// `IndexBuildFailed` with the server's reason.
pub(crate) async fn stop_builds(context: &Context, uuids: &[Uuid]) -> Result<()> {
    context.stop_builds(uuids).await;
    for uuid in uuids {
        // The server goes on building when its client has gone, be it that of an earlier process.
        let Some(missing) = next_batch(context, uuid) else { continue };
        missing.drop(context).await?;
    }
    Ok(())
}

/// Runs a write. When the destination refuses it, indexes that not every document can go into may be
/// the reason: a document can be newer than the event that drops such an index, which the source
/// did before it took the document. They are dropped then and built again later, when that event
/// has come or the document has changed again.
///
/// # Errors
/// Those of the write.
pub(crate) async fn set_aside_for<T, F, Fut>(context: &Context, uuid: &Uuid, write: F) -> Result<T>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let mut result = write().await;
    for refuses in [is_special, is_compound] {
        for _ in 0..SET_ASIDE_ATTEMPTS {
            match &result {
                Err(error) if error.kind() == Kind::WriteFailed => {
                    if !set_aside(context, uuid, refuses, error).await? {
                        break;
                    }
                    result = write().await;
                }
                _ => return result,
            }
        }
    }
    result
}

/// Drops the built indexes of a kind; whether the collection has any of the kind, built or not.
async fn set_aside(
    context: &Context,
    uuid: &Uuid,
    refuses: fn(&RawDocument) -> bool,
    error: &Error,
) -> Result<bool> {
    // Somebody else may be dropping them already.
    let _setting_aside = context.setting_aside.lock().await;
    let described = context.table().get(uuid).map(|entry| {
        let concerned = entry.indexes.iter().filter(|index| refuses(&index.wanted));
        let built: Vec<RawDocumentBuf> = concerned
            .clone()
            .filter(|index| index.built)
            .map(|index| index.wanted.clone())
            .collect();
        (entry.destination.clone(), concerned.count() > 0, built)
    });
    let Some((namespace, has_some, built)) = described else { return Ok(false) };
    if built.is_empty() {
        return Ok(has_some);
    }
    tracing::warn!(%namespace, error = %error.full(), indexes = built.len(), "set aside: indexes that may refuse a document");
    context.verification.index_changes(uuid);
    if let Some(entry) = context.table().get_mut(uuid) {
        for index in entry.indexes.iter_mut().filter(|index| built.contains(&index.wanted)) {
            index.built = false;
        }
    }
    context.save_collection(uuid).await?;
    for spec in &built {
        let name = spec.get_str("name").unwrap_or_default();
        context.destination.drop_indexes(&namespace, &[name]).await?;
    }
    context.verification.index_changed(uuid);
    context.unbuilt.notify_one();
    Ok(true)
}

/// Whether an index takes documents of a certain form only: geometry, text, hashes.
fn is_special(spec: &RawDocument) -> bool {
    spec.get_document("key")
        .is_ok_and(|key| key.iter().flatten().any(|(_, value)| value.as_str().is_some()))
}

/// Whether an index can meet two arrays in one document, which the server refuses.
fn is_compound(spec: &RawDocument) -> bool {
    spec.get_document("key").is_ok_and(|key| key.iter().count() > 1)
}

/// Builds the indexes of every collection, largest first, as many at the same time as the
/// destination runs. Between two commands, events about collections get their turn. With a `status`, a
/// build that fails is given up only when it fails though everything up to an earlier failure is applied.
///
/// # Errors
/// `IndexBuildFailed` with the server's reason.
pub(crate) async fn build_all(
    context: &Context,
    status: Option<&watch::Receiver<StreamStatus>>,
) -> Result<()> {
    let uuids: Vec<Uuid> = context
        .table()
        .iter()
        .filter(|(_, entry)| entry.indexes.iter().any(|index| !index.built))
        .map(|(uuid, _)| *uuid)
        .collect();
    if uuids.is_empty() {
        return Ok(());
    }
    // Others use the destination, too.
    let builds =
        if context.options.pre_existing { 1 } else { context.destination.index_builds().await? };
    stream::iter(uuids.into_iter().map(|uuid| build_patiently(context, uuid, status).boxed()))
        .buffer_unordered(builds)
        .try_collect::<()>()
        .await
}

/// Builds the indexes of one collection. A build that fails is tried again: what it stumbled over
/// may be gone when the stream has come further.
async fn build_patiently(
    context: &Context,
    uuid: Uuid,
    status: Option<&watch::Receiver<StreamStatus>>,
) -> Result<()> {
    let mut failures = 0;
    loop {
        let outcome = {
            let building = context.begin_build(uuid).await;
            build_some(context, uuid, &building.stop).await
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) if error.kind() == Kind::IndexBuildFailed && failures + 1 < ATTEMPTS => {
                failures += 1;
                tracing::warn!(failures, error = %error.full(), "an index build failed");
                tokio::time::sleep(PAUSE).await;
                let Some(mut status) = status.cloned() else { continue };
                // A document may be newer than the event that drops the index.
                let now = context.source.append_note("index build").await?;
                if status.wait_for(|status| status.applied >= now).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether every wanted index exists in its relaxed form.
pub(crate) fn all_built(context: &Context) -> bool {
    context
        .table()
        .iter()
        .all(|(_, entry)| entry.dropped || entry.indexes.iter().all(|index| index.built))
}

/// Whether a `collMod` is about this index.
fn is_meant(spec: &RawDocument, change: &RawDocument) -> bool {
    let same_name =
        change.get_str("name").is_ok_and(|name| spec.get_str("name").is_ok_and(|own| own == name));
    let same_key = change.get_document("keyPattern").is_ok_and(|key| {
        spec.get_document("key").is_ok_and(|own| own.as_bytes() == key.as_bytes())
    });
    same_name || same_key
}

/// What a `collMod` that gives an index a TTL means for the built one: a TTL that never comes.
pub(crate) fn modify_relaxed(indexes: &[Index], change: &RawDocument) -> Option<Document> {
    change.get("expireAfterSeconds").ok().flatten()?;
    let index = indexes.iter().find(|index| index.built && is_meant(&index.wanted, change))?;
    let name = index.wanted.get_str("name").ok()?;
    Some(doc! { "name": name, "expireAfterSeconds": NEVER_EXPIRES })
}

/// Takes a `collMod` of an index into what the commit restores.
pub(crate) fn modify_wanted(indexes: &mut [Index], change: &RawDocument) {
    let is_converted = change.get_bool("unique").unwrap_or(false);
    for index in indexes.iter_mut().filter(|index| is_meant(&index.wanted, change)) {
        let mut spec = RawDocumentBuf::new();
        for (name, value) in index.wanted.iter().flatten() {
            let is_undone =
                name.as_str() == "unique" && change.get_bool("forceNonUnique").unwrap_or(false);
            let is_changed = matches!(change.get(name.as_str()), Ok(Some(_))) || is_undone;
            // A change to unique ends the preparation for it.
            let is_over = name.as_str() == "prepareUnique" && is_converted;
            if (!is_changed && !is_over) || name.as_str() == "name" {
                spec.append(name, value);
            }
        }
        for name in
            [cstr!("expireAfterSeconds"), cstr!("hidden"), cstr!("unique"), cstr!("prepareUnique")]
        {
            if let Ok(Some(value)) = change.get(name.as_str())
                && value.as_bool() != Some(false)
            {
                spec.append(name, value);
            }
        }
        index.wanted = spec;
    }
}

/// What `collMod` has to say about an index to give it back what was relaxed, but for uniqueness.
/// The server takes `prepareUnique` only alone, so that may be two changes.
fn restoration(wanted: &RawDocument) -> Vec<Document> {
    let Ok(name) = wanted.get_str("name") else { return Vec::new() };
    let mut change = doc! {};
    if let Ok(Some(seconds)) = wanted.get("expireAfterSeconds")
        && let Ok(seconds) = bson::Bson::try_from(seconds)
    {
        change.insert("expireAfterSeconds", seconds);
    }
    if wanted.get_bool("hidden").unwrap_or(false) {
        change.insert("hidden", true);
    }
    let mut changes = Vec::new();
    if !change.is_empty() {
        change.insert("name", name);
        changes.push(change);
    }
    if wanted.get_bool("unique").unwrap_or(false)
        || wanted.get_bool("prepareUnique").unwrap_or(false)
    {
        changes.push(doc! { "prepareUnique": true, "name": name });
    }
    changes
}

/// What `collMod` has to say about an index of a former source to relax it.
pub(crate) fn relaxation(spec: &RawDocument) -> Vec<Document> {
    let Ok(name) = spec.get_str("name") else { return Vec::new() };
    if name == "_id_" || spec.get_bool("clustered").unwrap_or(false) {
        return Vec::new();
    }
    let mut changes = Vec::new();
    if spec.get_bool("unique").unwrap_or(false) {
        changes.push(doc! { "name": name, "forceNonUnique": true });
    } else if spec.get_bool("prepareUnique").unwrap_or(false) {
        changes.push(doc! { "name": name, "prepareUnique": false });
    }
    if matches!(spec.get("expireAfterSeconds"), Ok(Some(_))) {
        changes.push(doc! { "name": name, "expireAfterSeconds": NEVER_EXPIRES });
    }
    if spec.get_bool("hidden").unwrap_or(false) {
        changes.push(doc! { "name": name, "hidden": false });
    }
    changes
}

/// Every built index with the destination's name of its collection.
fn built(context: &Context) -> Vec<(Namespace, RawDocumentBuf)> {
    let table = context.table();
    table
        .iter()
        .filter(|(_, entry)| !entry.dropped)
        .flat_map(|(_, entry)| {
            entry
                .indexes
                .iter()
                .filter(|index| index.built)
                .map(|index| (entry.destination.clone(), index.wanted.clone()))
        })
        .collect()
}

/// Gives every index back its TTL and visibility, and lets no new duplicate into the unique ones.
///
/// # Errors
/// `IndexBuildFailed` with the server's reason. Repeatable.
pub(crate) async fn restore(context: &Context) -> Result<()> {
    for (namespace, wanted) in built(context) {
        for change in restoration(&wanted) {
            context.destination.modify(&namespace, doc! { "index": change }).await?;
        }
    }
    Ok(())
}

/// Turns prepared indexes into unique ones.
///
/// # Errors
/// `DuplicateKeyAtCommit` with the documents that violate them. Repeatable.
pub(crate) async fn convert_unique(context: &Context) -> Result<()> {
    let mut violated = Vec::new();
    for (namespace, wanted) in built(context) {
        if !wanted.get_bool("unique").unwrap_or(false) {
            continue;
        }
        let name = wanted.get_str("name").unwrap_or_default();
        let change = doc! { "index": { "name": name, "unique": true } };
        match context.destination.modify(&namespace, change).await {
            Ok(()) => {}
            // The others are converted all the same, so that everything is told at once.
            Err(error) if error.kind() == Kind::DuplicateKeyAtCommit => {
                violated.push(error.at(format!("index {name}")).full());
            }
            Err(error) => return Err(error.at(format!("index {name}"))),
        }
    }
    if violated.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::DuplicateKeyAtCommit, violated.join("; ")))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn an_index_is_relaxed_and_restored() {
        let wanted = rawdoc! {
            "v": 2, "key": { "at": 1 }, "name": "at_1", "unique": true, "hidden": true,
            "expireAfterSeconds": 60i64, "sparse": true,
        };
        assert_eq!(
            relaxed(&wanted, false),
            rawdoc! { "v": 2, "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": i32::MAX, "sparse": true }
        );
        assert_eq!(
            restoration(&wanted),
            [
                doc! { "expireAfterSeconds": 60i64, "hidden": true, "name": "at_1" },
                doc! { "prepareUnique": true, "name": "at_1" },
            ]
        );
        assert!(restoration(&rawdoc! { "key": { "a": 1 }, "name": "a_1" }).is_empty());
    }

    #[test]
    fn a_simple_index_of_a_collated_collection_says_so() {
        let spec = relaxed(&rawdoc! { "key": { "a": 1 }, "name": "a_1" }, true);
        assert_eq!(spec.get_document("collation").unwrap().get_str("locale").unwrap(), "simple");
    }

    #[test]
    fn the_indexes_of_a_former_source_are_relaxed() {
        let spec = rawdoc! {
            "key": { "at": 1 }, "name": "at_1", "unique": true, "expireAfterSeconds": 60, "hidden": true,
        };
        assert_eq!(
            relaxation(&spec),
            [
                doc! { "name": "at_1", "forceNonUnique": true },
                doc! { "name": "at_1", "expireAfterSeconds": i32::MAX },
                doc! { "name": "at_1", "hidden": false },
            ]
        );
        assert!(relaxation(&rawdoc! { "key": { "_id": 1 }, "name": "_id_" }).is_empty());
        let clustered =
            rawdoc! { "key": { "_id": 1 }, "name": "c", "unique": true, "clustered": true };
        assert!(relaxation(&clustered).is_empty());
    }

    #[test]
    fn keys_of_old_servers_become_what_a_server_takes() {
        let old = rawdoc! {
            "a": 0, "b": "", "c": 0.0, "d": true, "e": -1e-10, "f": -1, "g": "2dsphere", "h": 1.5,
        };
        assert_eq!(
            modern_key(&old),
            rawdoc! {
                "a": 1, "b": 1, "c": 1, "d": 1, "e": -1e-10, "f": -1, "g": "2dsphere", "h": 1.5,
            }
        );
    }

    #[test]
    fn modes_choose_indexes() {
        let hashed = rawdoc! { "key": { "a": "hashed" }, "name": "a_hashed" };
        let plain = rawdoc! { "key": { "a": 1 }, "name": "a_1" };
        let id = rawdoc! { "key": { "_id": 1 }, "name": "_id_" };
        assert!(is_wanted(&hashed, BuildIndexes::AfterDataCopy));
        assert!(!is_wanted(&hashed, BuildIndexes::ExcludeHashed));
        assert!(is_wanted(&plain, BuildIndexes::ExcludeHashedAfterCopy));
        assert!(!is_wanted(&plain, BuildIndexes::Never));
        assert!(!is_wanted(&id, BuildIndexes::AfterDataCopy));
    }

    #[test]
    fn coll_mod_changes_what_is_restored() {
        let wanted = rawdoc! { "key": { "at": 1 }, "name": "at_1", "expireAfterSeconds": 60, "hidden": true };
        let mut indexes = [Index { wanted, built: true }];
        modify_wanted(
            &mut indexes,
            &rawdoc! { "name": "at_1", "expireAfterSeconds": 90, "hidden": false },
        );
        let wanted = &indexes.first().unwrap().wanted;
        assert_eq!(wanted.get_i32("expireAfterSeconds").unwrap(), 90);
        assert!(wanted.get("hidden").unwrap().is_none());
        assert_eq!(wanted.get_str("name").unwrap(), "at_1");
    }

    #[test]
    fn an_index_that_becomes_a_ttl_index_does_not_delete_before_the_commit() {
        let wanted = rawdoc! { "key": { "at": 1 }, "name": "at_1" };
        let change = rawdoc! { "keyPattern": { "at": 1 }, "expireAfterSeconds": 60 };
        let never = doc! { "name": "at_1", "expireAfterSeconds": NEVER_EXPIRES };
        assert_eq!(
            modify_relaxed(&[Index { wanted: wanted.clone(), built: true }], &change),
            Some(never)
        );
        assert_eq!(modify_relaxed(&[Index { wanted, built: false }], &change), None);
    }

    #[test]
    fn an_index_is_prepared_and_then_converted() {
        let wanted = rawdoc! { "key": { "n": 1 }, "name": "n" };
        let mut indexes = [Index { wanted, built: true }];
        modify_wanted(&mut indexes, &rawdoc! { "name": "n", "prepareUnique": true });
        assert!(indexes[0].wanted.get_bool("prepareUnique").unwrap());
        modify_wanted(&mut indexes, &rawdoc! { "name": "n", "unique": true });
        assert!(indexes[0].wanted.get_bool("unique").unwrap());
        assert!(indexes[0].wanted.get("prepareUnique").unwrap().is_none());
    }
}
