//! The verifier inside a running sync: workers that take from the ledger, and what the commit asks.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bson::{RawDocumentBuf, Uuid};
use tokio::{sync::watch, time::Instant};

use super::{
    MOST_SUSPECTS,
    ledger::{Check, Scan, Shaped, Work},
    merge::Budget,
    pair::{Pair, Target, Walk},
    shape,
};
use crate::{
    engine::{
        capped,
        catalog::{Entry, Index},
        checkpoint,
        context::Context,
        indexes,
        stream::StreamStatus,
    },
    error::{Error, Kind, Result},
    model::{
        ClusterTime, Namespace,
        options::BuildIndexes,
        verification::{Mismatch, MismatchKind, VerificationProgress},
    },
    ports::{CollectionInfo, Table},
    tasks::TaskSet,
};

/// How long an idle worker waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Of the time, every collection of both sides is listed one part in so many at most.
const LISTING_SHARE: u32 = 4;
/// Capped collections up to this size are verified while the application waits for the commit.
const MOST_CAPPED_BYTES: u64 = 4 << 30;
/// How often the comparison of a capped collection is tried that is written to meanwhile.
const CAPPED_ATTEMPTS: u32 = 10;
/// A scan ends after so long and goes on where it was, so that a broken connection costs no more.
const MOST_OF_A_SCAN: Duration = Duration::from_secs(60);
/// How often it is saved which partitions are compared.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Mismatches that a message names.
const NAMED: usize = 3;

/// Takes up what an earlier run has compared. Called before the stream is routed.
///
/// # Errors
/// Those of the store; `MetadataMismatch` for what cannot be read.
pub(crate) async fn load(context: &Context) -> Result<()> {
    if !context.verification.is_enabled {
        return Ok(());
    }
    let mut saved: HashMap<Uuid, HashSet<usize>> = HashMap::new();
    for document in context.store.load(Table::Verification).await? {
        if let Some((uuid, index)) = checkpoint::verified_from_document(&document)? {
            saved.entry(uuid).or_default().insert(index);
        }
    }
    if !saved.is_empty() {
        let saved: Vec<_> = saved.into_iter().collect();
        context.verification.take_up(&context.table(), &saved);
    }
    Ok(())
}

/// Compares until the stream ends.
///
/// # Errors
/// Whatever a retry does not mend.
pub(crate) async fn run(
    context: Arc<Context>,
    mut status: watch::Receiver<StreamStatus>,
) -> Result<()> {
    if status.wait_for(|status| status.copy_done).await.is_err() {
        return Ok(());
    }
    context.verification.begin(&context.table());
    // What was routed before events were told of is applied when this is.
    let begin = context.source.append_note("verification begins").await?;
    if status.wait_for(|status| status.applied >= begin).await.is_err() {
        return Ok(());
    }
    tracing::info!("verification begins");
    let mut workers = TaskSet::new();
    for _ in 0..context.load.copy_workers.div_ceil(2).max(2) {
        workers.spawn("verifier", work(Arc::clone(&context), status.clone()));
    }
    let mut save = tokio::time::interval(SAVE_EVERY);
    loop {
        tokio::select! {
            ended = workers.next() => match ended {
                Some(ended) => ended?,
                None => return Ok(()),
            },
            _ = save.tick() => context.verification.save(&*context.store, false).await?,
        }
    }
}

/// One worker.
async fn work(context: Arc<Context>, mut status: watch::Receiver<StreamStatus>) -> Result<()> {
    let verification = &context.verification;
    loop {
        // Registered before looking, so that no change in between is missed.
        let changed = verification.changed.notified();
        let applied = status.borrow_and_update().applied;
        let work = verification.ledger().claim(applied, Instant::now());
        match work {
            Work::Wait => {
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    moved = status.changed() => if moved.is_err() { return Ok(()) },
                }
                // Nothing is changed: whoever waits may go on waiting.
                continue;
            }
            Work::Note => {
                let time = context.source.append_note("verification").await?;
                verification.ledger().noted(time);
            }
            Work::Check(check) => check_ids(&context, check, applied).await?,
            Work::Scan(scan) => {
                if status.wait_for(|status| status.applied >= scan.after).await.is_err() {
                    return Ok(());
                }
                let applied = status.borrow().applied;
                scan_partition(&context, &scan, applied).await?;
            }
            Work::Shape => {
                if !check_shapes(&context, &mut status).await? {
                    return Ok(());
                }
            }
        }
        verification.changed.notify_waiters();
    }
}

/// The two sides of the sync.
fn pair(context: &Context) -> Pair<'_> {
    Pair { source: &*context.source, destination: &*context.destination }
}

/// Where a collection is now; `None` when it is gone.
fn target(context: &Context, uuid: &Uuid) -> Result<Option<Target>> {
    let described = context.table().get(uuid).filter(|entry| !entry.dropped).map(|entry| {
        let walk = if entry.has_collation() {
            Walk::Lookup
        } else if entry.is_clustered() {
            Walk::Storage
        } else {
            Walk::Index
        };
        Target {
            source: entry.source.clone(),
            uuid: *uuid,
            destination: entry.destination.clone(),
            walk,
            is_capped: entry.is_capped(),
            chain: None,
            average: entry.stats.bytes / entry.stats.documents.max(1),
        }
    });
    let Some(mut target) = described else { return Ok(None) };
    target.chain = context.chain(&target.source)?;
    Ok(Some(target))
}

/// Compares a partition.
async fn scan_partition(context: &Context, scan: &Scan, applied: ClusterTime) -> Result<()> {
    let found = match target(context, &scan.uuid)? {
        None => None,
        Some(target) => {
            let budget =
                Budget { suspects: MOST_SUSPECTS, until: Some(Instant::now() + MOST_OF_A_SCAN) };
            match pair(context).scan(&target, &scan.bounds, applied, budget).await {
                Ok(found) => found,
                Err(error) if error.is_transient() => {
                    tracing::debug!(error = %error.full(), "a scan broke and begins anew");
                    None
                }
                Err(error) => return Err(error),
            }
        }
    };
    context.verification.ledger().scanned(scan, found, Instant::now());
    Ok(())
}

/// Compares ids.
async fn check_ids(context: &Context, check: Check, applied: ClusterTime) -> Result<()> {
    let differing = match target(context, &check.uuid)? {
        None => None,
        Some(target) => {
            let mut differing = pair(context).check(&target, &check.ids(), applied).await?;
            // Changes of a hot document are not followed; the commit fetches it.
            if let Some(differing) = &mut differing {
                differing.retain(|(id, _)| !context.hot.contains(Some(&target.source), id));
            }
            differing
        }
    };
    let named = differing.as_ref().is_some_and(|differing| !differing.is_empty());
    let mut ledger = context.verification.ledger();
    let had_mismatch = ledger.has_mismatch();
    ledger.checked(check, differing, Instant::now());
    if named && !had_mismatch && ledger.has_mismatch() {
        tracing::warn!("the destination differs from the source; see the list of mismatches");
    }
    Ok(())
}

/// Compares options and indexes in their relaxed form; false when the stream has ended.
async fn check_shapes(
    context: &Context,
    status: &mut watch::Receiver<StreamStatus>,
) -> Result<bool> {
    let begin = Instant::now();
    let verification = &context.verification;
    let mut quiet = verification.ledger().quiet_shapes();
    // What is being built is compared when it is.
    let is_built = |entry: &Entry| entry.indexes.iter().all(|index| index.built);
    quiet.retain(|uuid, _| context.table().get(uuid).is_some_and(is_built));
    let wanted = context.source.list().await?;
    let shaped = {
        // The destination and what is known of it say the same while no event changes a shape.
        let _shape = context.shape.read().await;
        let present = context.destination.list().await?;
        differences(context, &quiet, &wanted, &present)?
    };
    if shaped.found.values().any(|found| !found.is_empty()) {
        // The source may be ahead: then an event changes the shape up to here.
        let end = context.source.append_note("verification of options").await?;
        if status.wait_for(|status| status.applied >= end).await.is_err() {
            return Ok(false);
        }
    }
    let now = Instant::now();
    let pause = LOOK_AGAIN.max(now.duration_since(begin)) * LISTING_SHARE;
    verification.ledger().shaped(&quiet, shaped, now + pause);
    Ok(true)
}

/// What of the destination's collections is not as the source's are, while indexes are relaxed, of
/// those in `quiet`.
fn differences(
    context: &Context,
    quiet: &HashMap<Uuid, u64>,
    wanted: &[CollectionInfo],
    present: &[CollectionInfo],
) -> Result<Shaped> {
    let sources: HashMap<Uuid, &CollectionInfo> =
        wanted.iter().filter_map(|info| info.uuid.map(|uuid| (uuid, info))).collect();
    let destinations: HashMap<String, &CollectionInfo> =
        present.iter().map(|info| (info.namespace.to_string(), info)).collect();
    let mut shaped = Shaped::default();
    let table = context.table();
    let entries = table.iter().filter(|(uuid, e)| !e.dropped && quiet.contains_key(*uuid));
    for (uuid, entry) in entries {
        let found = shaped.found.entry(*uuid).or_default();
        let namespace = entry.destination.to_string();
        let mismatch =
            |kind, detail| Mismatch { namespace: namespace.clone(), kind, id: None, detail };
        let Some(other) = destinations.get(&namespace) else {
            found.push(mismatch(MismatchKind::Missing, None));
            continue;
        };
        let options = sources.get(uuid).map_or(&entry.options, |info| &info.options);
        for name in shape::options(&capped::relaxed(options), &other.options) {
            found.push(mismatch(MismatchKind::Options, Some(name)));
        }
        let relaxed = built(entry, |index| indexes::relaxed(&index.wanted, entry.has_collation()));
        // A TTL that came by collMod is given by the commit, which compares it.
        let present = compared(&other.indexes, context.options.build_indexes);
        for wrong in shape::indexes(&relaxed, &present, &["expireAfterSeconds"]) {
            found.push(mismatch(MismatchKind::Index, Some(wrong)));
        }
    }
    let known: HashSet<String> = table
        .iter()
        .filter(|(_, entry)| !entry.dropped)
        .map(|(_, entry)| entry.destination.to_string())
        .collect();
    for info in present.iter().filter(|info| info.uuid.is_some()) {
        let namespace = info.namespace.to_string();
        let is_ours = !context.options.pre_existing
            && match context.remap.source(&info.namespace)? {
                Some(source) => context.namespaces.includes(&source)?,
                None => false,
            };
        if is_ours && !known.contains(&namespace) {
            let (kind, id, detail) = (MismatchKind::Extra, None, None);
            shaped.extra.push(Mismatch { namespace, kind, id, detail });
        }
    }
    Ok(shaped)
}

/// The built indexes of a collection in some form.
fn built(entry: &Entry, form: impl Fn(&Index) -> RawDocumentBuf) -> Vec<RawDocumentBuf> {
    entry.indexes.iter().filter(|index| index.built).map(form).collect()
}

/// The indexes of the destination that count: on the way back there may be some that the mode leaves
/// out, of the time when it was the source.
fn compared(present: &[RawDocumentBuf], mode: BuildIndexes) -> Vec<RawDocumentBuf> {
    let counts =
        |spec: &&RawDocumentBuf| mode == BuildIndexes::Never || indexes::is_wanted(spec, mode);
    present.iter().filter(counts).cloned().collect()
}

/// Waits until everything up to the fence is compared. Called while the stream still runs: what
/// comes after the fence is applied and told of, and explains what it changes.
///
/// # Errors
/// `VerificationFailed` when something differs; it can be called again.
pub(crate) async fn finish(
    context: &Context,
    status: &mut watch::Receiver<StreamStatus>,
    fence: ClusterTime,
    publish: impl Fn(VerificationProgress),
) -> Result<()> {
    let verification = &context.verification;
    if !verification.is_enabled {
        return Ok(());
    }
    let ended = || Error::new(Kind::Internal, "the change stream ended before the fence");
    while !verification.has_begun.load(Ordering::Acquire) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    verification.ledger().compare_anew();
    loop {
        verification.changed.notify_waiters();
        let changed = verification.changed.notified();
        let (is_open, has_mismatch) = {
            let ledger = verification.ledger();
            (ledger.is_open(fence), ledger.has_mismatch())
        };
        if !is_open && !has_mismatch {
            break;
        }
        if !is_open {
            let progress = verification.progress(&context.table(), fence, fence);
            let progress = progress.unwrap_or_default();
            let error = failed(&progress);
            publish(progress);
            return Err(error);
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            moved = status.changed() => moved.map_err(|_| ended())?,
        }
    }
    let found = capped_documents(context, status).await?;
    if !found.is_empty() {
        let progress = verification.progress(&context.table(), fence, fence);
        let mut progress = progress.unwrap_or_default();
        found.iter().for_each(|mismatch| progress.add(mismatch));
        let error = failed(&progress);
        publish(progress);
        return Err(error);
    }
    tracing::info!("everything up to the fence is verified");
    Ok(())
}

/// Compares the documents of capped collections. They wait for the commit: one that is written to all the
/// time cannot be compared, and what is found in between two notes in the oplog counts only if no event
/// tells of a change there.
async fn capped_documents(
    context: &Context,
    status: &mut watch::Receiver<StreamStatus>,
) -> Result<Vec<Mismatch>> {
    let capped: Vec<Uuid> = context
        .table()
        .iter()
        .filter(|(_, entry)| !entry.dropped && entry.is_capped())
        .map(|(uuid, _)| *uuid)
        .collect();
    let mut found = Vec::new();
    for uuid in capped {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Some(target) = target(context, &uuid)? else { break };
            let stats = context.source.stats(&target.source).await?;
            if stats.bytes > MOST_CAPPED_BYTES || attempts > CAPPED_ATTEMPTS {
                tracing::warn!(
                    namespace = %target.source,
                    "a capped collection that is large or written to is not verified in the commit; \
                     use `syncline verify`"
                );
                break;
            }
            let begin = applied_note(context, status).await?;
            let pair = pair(context);
            let mut compared = match pair.compare(&target, None, begin, &[0], None).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(error = %error.full(), "a scan broke and begins anew");
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                compared => compared?,
            };
            compared.differing.retain(|(id, _)| !context.hot.contains(Some(&target.source), id));
            let differs = !compared.differing.is_empty();
            if !differs && compared.next.is_none() {
                break;
            }
            applied_note(context, status).await?;
            if differs && !context.verification.is_serial_touched(&uuid, begin) {
                found.extend(compared.mismatches(&target));
                break;
            }
        }
    }
    Ok(found)
}

/// Writes a note into the oplog of the source and waits until everything up to it is applied.
async fn applied_note(
    context: &Context,
    status: &mut watch::Receiver<StreamStatus>,
) -> Result<ClusterTime> {
    let time = context.source.append_note("verification").await?;
    let ended = |_| Error::new(Kind::Internal, "the change stream ended before the fence");
    status.wait_for(|status| status.applied >= time).await.map_err(ended)?;
    Ok(time)
}

/// The error that counts what differs and names the first.
pub(super) fn failed(progress: &VerificationProgress) -> Error {
    let mut places: Vec<String> = progress
        .mismatches
        .iter()
        .map(|m| match &m.detail {
            Some(detail) => format!("{} ({})", m.namespace, detail),
            None => m.namespace.clone(),
        })
        .collect();
    places.dedup();
    let more = places.len().saturating_sub(NAMED);
    places.truncate(NAMED);
    let mut text = progress.in_words();
    if !places.is_empty() {
        text.push_str(&format!(": in {}", places.join(", ")));
    }
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if !progress.cut.is_empty() {
        text.push_str(&format!("; not compared to the end: {}", progress.cut.join(", ")));
    }
    Error::new(Kind::VerificationFailed, text)
}

/// Compares indexes, the bounds of capped collections, and views after the commit has restored
/// them, before the application may write. Uniqueness comes after that: until then `prepareUnique`
/// stands for it.
///
/// # Errors
/// `VerificationFailed` when something differs; those of the destination.
pub(crate) async fn check_restored(
    context: &Context,
    views: &[CollectionInfo],
    publish: impl Fn(VerificationProgress),
) -> Result<()> {
    if !context.verification.is_enabled {
        return Ok(());
    }
    let present = context.destination.list().await?;
    let by_name: HashMap<&Namespace, &CollectionInfo> =
        present.iter().map(|info| (&info.namespace, info)).collect();
    let mut progress = VerificationProgress::default();
    {
        let table = context.table();
        for (_, entry) in table.iter().filter(|(_, entry)| !entry.dropped) {
            let Some(other) = by_name.get(&entry.destination) else { continue };
            let wanted = built(entry, |index| index.wanted.clone());
            let present = compared(&other.indexes, context.options.build_indexes);
            for wrong in shape::indexes(&wanted, &present, &["unique", "prepareUnique"]) {
                progress.add(&Mismatch {
                    namespace: entry.destination.to_string(),
                    kind: MismatchKind::Index,
                    id: None,
                    detail: Some(wrong),
                });
            }
        }
    }
    for view in views {
        let wrong = match by_name.get(&view.namespace) {
            None => vec!["it is missing".to_owned()],
            Some(other) => shape::options(&view.options, &other.options),
        };
        for detail in wrong {
            progress.add(&Mismatch {
                namespace: view.namespace.to_string(),
                kind: MismatchKind::View,
                id: None,
                detail: Some(detail),
            });
        }
    }
    if progress.total() == 0 {
        return Ok(());
    }
    let error = failed(&progress);
    publish(progress);
    Err(error)
}
