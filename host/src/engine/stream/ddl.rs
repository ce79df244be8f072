//! Events about collections: applied alone, while every applier is idle.
//!
//! Collections are known by UUID, so that drop-and-create and chains of renames come out right.
//! Each application can be repeated: a crash before the position is saved brings the event again.

use std::sync::Arc;

use bson::{Document, RawDocumentBuf, Uuid};

use crate::{
    engine::{
        capped,
        catalog::{Entry, Index, Partition, PartitionState},
        checkpoint, collisions,
        context::Context,
        hot, indexes,
    },
    error::{Error, Kind, Result},
    model::{
        Namespace,
        change::{Change, ChangeKind},
    },
    ports::{self, Bounds, CollectionStats},
};

/// Whether an event about a collection may change anything of the sync.
///
/// # Errors
/// `FilterInvalid` when a pattern backtracks without end.
pub(super) fn concerns(context: &Context, change: &Change) -> Result<bool> {
    let included = |namespace: &Namespace| context.namespaces.includes(namespace);
    let known = change.uuid.is_some_and(|uuid| context.table().get(&uuid).is_some());
    match &change.kind {
        ChangeKind::Create(_) => change.namespace.as_ref().map_or(Ok(false), included),
        ChangeKind::Rename { to, .. } => Ok(known || included(to)?),
        _ => Ok(known),
    }
}

/// Collections whose index builds an event ends.
fn in_the_way(change: &Change) -> Vec<Uuid> {
    match &change.kind {
        ChangeKind::CreateIndexes(_) | ChangeKind::Create(_) => Vec::new(),
        ChangeKind::Rename { dropped, .. } => change.uuid.into_iter().chain(*dropped).collect(),
        _ => change.uuid.into_iter().collect(),
    }
}

/// Applies an event about a collection. Returns whether the sync is concerned at all.
///
/// # Errors
/// `UnsupportedOperation` for what cannot be replicated; otherwise those of the destination.
pub(super) async fn apply(context: &Context, change: &Change) -> Result<bool> {
    indexes::stop_builds(context, &in_the_way(change)).await?;
    let known = change.uuid.filter(|uuid| context.table().get(uuid).is_some_and(|e| !e.dropped));
    match (&change.kind, known) {
        (ChangeKind::Create(options), _) => create(context, change, options).await,
        (ChangeKind::Drop, Some(uuid)) => {
            drop_collection(context, uuid).await?;
            Ok(true)
        }
        (ChangeKind::Rename { to, dropped }, known) => {
            rename(context, change, known, to, *dropped).await
        }
        (ChangeKind::CreateIndexes(specs), Some(uuid)) => {
            create_indexes(context, uuid, specs).await?;
            Ok(true)
        }
        (ChangeKind::DropIndexes(specs), Some(uuid)) => {
            drop_indexes(context, uuid, specs).await?;
            Ok(true)
        }
        (ChangeKind::Modify(description), Some(uuid)) => {
            modify(context, uuid, description).await?;
            Ok(true)
        }
        (ChangeKind::Other(name), known) => {
            let included = match &change.namespace {
                Some(namespace) => known.is_some() && context.namespaces.includes(namespace)?,
                None => false,
            };
            if included {
                let place = change.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Error::new(
                    Kind::UnsupportedOperation,
                    format!("{place}: the source did `{name}`, which cannot be replicated"),
                ));
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// A collection was created on the source.
async fn create(context: &Context, change: &Change, options: &RawDocumentBuf) -> Result<bool> {
    let Some(namespace) = change.namespace.as_ref() else { return Ok(false) };
    if !context.namespaces.includes(namespace)? {
        return Ok(false);
    }
    for (option, sort) in [
        ("timeseries", "a time-series collection"),
        ("encryptedFields", "a collection with queryable encryption"),
    ] {
        if options.get(option).ok().flatten().is_some() {
            let text = format!("{namespace}: {sort} was created, which cannot be synced");
            return Err(Error::new(Kind::UnsupportedOperation, text));
        }
    }
    if options.get("viewOn").ok().flatten().is_some() {
        // Views are brought in line at commit. One that cannot be is better refused now.
        context.remap.view(namespace, options)?;
        return Ok(false);
    }
    let Some(uuid) = change.uuid else { return Ok(false) };
    // A known one was created before a crash, or dropped meanwhile.
    let known = context.table().get(&uuid).map(|entry| entry.dropped);
    if let Some(dropped) = known {
        return Ok(!dropped);
    }
    let destination = context.remap.destination(namespace)?;
    check_free(context, namespace, &destination)?;
    let conflict = || {
        let text =
            format!("{namespace} was created, and the destination already holds {destination}");
        Error::new(Kind::NamespaceConflict, text)
    };
    // An empty one hides nothing, unless others use the destination too; one of ours may be left
    // from before a crash.
    if context.destination.find(&destination).await?.is_some()
        && (!context.destination.is_empty(&destination).await?
            || (context.options.pre_existing && !is_begun(context, uuid).await?))
    {
        return Err(conflict());
    }
    // Everything in it will come through the stream. Stored before the collection exists, so that
    // it can be told from somebody else's.
    let whole = Bounds::default();
    let stored = checkpoint::partition_to_document(&uuid, 0, &whole, true)?;
    context.store.put(ports::Table::Partitions, vec![stored]).await?;
    let options = creation_options(options);
    let relaxed = capped::relaxed(&options);
    context.destination.create(&destination, &relaxed).await?;
    let mut destination_uuid = context.destination.find(&destination).await?;
    if destination_uuid.is_none() {
        // A view has its name, which the source has no more.
        if context.options.pre_existing {
            return Err(conflict());
        }
        context.destination.drop_collection(&destination).await?;
        context.destination.create(&destination, &relaxed).await?;
        destination_uuid = context.destination.find(&destination).await?;
    }
    let mut entry =
        Entry::to_copy(namespace.clone(), destination, options, Vec::new(), change.time);
    entry.destination_uuid = destination_uuid;
    entry.stats = CollectionStats::default();
    entry.partitions = Some(vec![Partition { bounds: whole, state: PartitionState::Done }]);
    context.table().insert(uuid, entry);
    context.save_collection(&uuid).await?;
    Ok(true)
}

/// Whether a creation was begun before a crash.
async fn is_begun(context: &Context, uuid: Uuid) -> Result<bool> {
    let stored = context.store.load(ports::Table::Partitions).await?;
    let name = uuid.to_string();
    Ok(stored.iter().any(|one| one.get_str("collection").is_ok_and(|own| own == name)))
}

/// Refuses a name on the destination that another collection of the sync has.
fn check_free(context: &Context, source: &Namespace, destination: &Namespace) -> Result<()> {
    let table = context.table();
    let other = table
        .iter()
        .find(|(_, entry)| !entry.dropped && entry.destination == *destination)
        .map(|(_, entry)| entry.source.clone());
    match other {
        Some(other) if other != *source => Err(Error::new(
            Kind::NamespaceRemapConflict,
            format!("{other} and {source} would both become {destination}"),
        )),
        _ => Ok(()),
    }
}

/// The options of a `create` event as `create` takes them.
fn creation_options(description: &RawDocumentBuf) -> RawDocumentBuf {
    let mut options = RawDocumentBuf::new();
    for (name, value) in description.iter().flatten() {
        if !matches!(name.as_str(), "idIndex" | "uuid" | "temp") {
            options.append(name, value);
        }
    }
    options
}

/// Keeps the copy off a collection while its shape changes.
async fn with_blocked<T>(
    context: &Context,
    uuid: Uuid,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    context.table().block(&uuid);
    loop {
        let changed = context.changed.notified();
        let busy = context.table().get(&uuid).is_some_and(|entry| entry.in_flight > 0);
        if !busy {
            break;
        }
        changed.await;
    }
    let result = work.await;
    context.table().unblock(&uuid);
    context.changed.notify_waiters();
    result
}

/// Drops a collection on the destination and remembers that it is gone.
async fn drop_collection(context: &Context, uuid: Uuid) -> Result<()> {
    let named = context.table().get(&uuid).map(|entry| entry.destination.clone());
    let Some(namespace) = named else { return Ok(()) };
    with_blocked(context, uuid, async {
        context.destination.drop_collection(&namespace).await?;
        context.table().mark_dropped(&uuid);
        context.save_collection(&uuid).await?;
        let everything = Bounds::default();
        context.quarantine.release_range(&*context.store, uuid, &everything).await?;
        let partitions = bson::doc! { "collection": uuid.to_string() };
        context.store.remove(ports::Table::Partitions, partitions).await
    })
    .await
}

/// A collection was renamed, perhaps over another one.
async fn rename(
    context: &Context,
    change: &Change,
    known: Option<Uuid>,
    to: &Namespace,
    dropped: Option<Uuid>,
) -> Result<bool> {
    let refuse = |kind: Kind, why: &str| {
        let from = change.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
        Err(Error::new(kind, format!("{from} was renamed to {to}: {why}")))
    };
    let included = context.namespaces.includes(to)?;
    if included && change.namespace.as_ref().is_some_and(is_being_capped) {
        let why = "convertToCapped moves documents without telling the change stream of them";
        return refuse(Kind::UnsupportedOperation, why);
    }
    let Some(uuid) = known else {
        let tombstone =
            change.uuid.is_some_and(|uuid| context.table().get(&uuid).is_some_and(|e| e.dropped));
        if included && !tombstone {
            let why = "the namespace filter leaves out the old name but not the new one";
            return refuse(Kind::NamespaceOutsideFilter, why);
        }
        return Ok(false);
    };
    if !included {
        let why = "the namespace filter leaves out the new name but not the old one";
        return refuse(Kind::NamespaceOutsideFilter, why);
    }
    let named = context
        .table()
        .get(&uuid)
        .map(|entry| (entry.source.clone(), entry.destination.clone(), entry.destination_uuid));
    let Some((source, destination, destination_uuid)) = named else { return Ok(false) };
    let (old, new) = (context.chain(&source)?, context.chain(to)?);
    let same = match (&old, &new) {
        (None, None) => true,
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        _ => false,
    };
    if !same {
        let why = "the two names have different document filters";
        return refuse(Kind::UnsupportedOperation, why);
    }
    hot::fetch(context, uuid, change.time).await?;
    let target = context.remap.destination(to)?;
    if target.database() != destination.database() {
        let why = format!("on the destination that leads from {destination} to {target}");
        return refuse(Kind::NamespaceRemapConflict, &why);
    }
    with_blocked(context, uuid, async {
        if let Some(dropped) =
            dropped.filter(|d| context.table().get(d).is_some_and(|e| !e.dropped))
        {
            Box::pin(drop_collection(context, dropped)).await?;
        }
        check_free(context, to, &target)?;
        // Seen a second time after a crash, the collection has the new name already; so it has
        // when the reply was lost and a second attempt found the old name gone.
        let is_renamed = async || -> Result<bool> {
            let present = context.destination.find(&target).await?;
            Ok(present.is_some() && present == destination_uuid)
        };
        if !is_renamed().await?
            && let Err(error) = context.destination.rename(&destination, &target).await
            && !is_renamed().await?
        {
            if context.options.pre_existing || context.destination.find(&target).await?.is_some() {
                return Err(error);
            }
            // A view may have the name, which the source has no more.
            context.destination.drop_collection(&target).await?;
            if let Err(error) = context.destination.rename(&destination, &target).await
                && !is_renamed().await?
            {
                return Err(error);
            }
        }
        if let Some(entry) = context.table().get_mut(&uuid) {
            entry.source = to.clone();
            entry.destination = target.clone();
        }
        context.save_collection(&uuid).await
    })
    .await?;
    Ok(true)
}

/// Whether the server itself made a collection of this name, for `convertToCapped`.
fn is_being_capped(namespace: &Namespace) -> bool {
    let name = namespace.collection();
    name.starts_with("tmp") && name.contains(".convertToCapped")
}

/// Name of an index specification.
fn name_of(spec: &RawDocumentBuf) -> &str {
    spec.get_str("name").unwrap_or_default()
}

/// Indexes were created. They are built while the stream goes on.
async fn create_indexes(context: &Context, uuid: Uuid, specs: &[RawDocumentBuf]) -> Result<()> {
    let mode = context.options.build_indexes;
    if let Some(entry) = context.table().get_mut(&uuid) {
        let known = entry.indexes.iter().map(|index| &index.wanted);
        let is_new = |spec: &&RawDocumentBuf| known.clone().all(|k| name_of(k) != name_of(spec));
        let new = specs.iter().filter(|s| indexes::is_wanted(s, mode)).filter(is_new);
        collisions::refuse(&entry.source, known.clone().chain(new))?;
        for spec in specs.iter().filter(|spec| indexes::is_wanted(spec, mode)) {
            // Seen a second time after a crash.
            if !entry.indexes.iter().any(|index| name_of(&index.wanted) == name_of(spec)) {
                entry.indexes.push(Index { wanted: spec.clone(), built: false });
            }
        }
    }
    context.save_collection(&uuid).await?;
    context.unbuilt.notify_one();
    Ok(())
}

/// Indexes were dropped.
async fn drop_indexes(context: &Context, uuid: Uuid, specs: &[RawDocumentBuf]) -> Result<()> {
    let Some(namespace) = context.table().get(&uuid).map(|entry| entry.destination.clone()) else {
        return Ok(());
    };
    for spec in specs {
        context.destination.drop_indexes(&namespace, &[name_of(spec)]).await?;
    }
    if let Some(entry) = context.table().get_mut(&uuid) {
        entry
            .indexes
            .retain(|index| !specs.iter().any(|spec| name_of(spec) == name_of(&index.wanted)));
    }
    context.save_collection(&uuid).await
}

/// `collMod`: options at once, index properties in what the commit restores.
async fn modify(context: &Context, uuid: Uuid, description: &RawDocumentBuf) -> Result<()> {
    let Some(namespace) = context.table().get(&uuid).map(|entry| entry.destination.clone()) else {
        return Ok(());
    };
    if let Ok(change) = description.get_document("index") {
        let relaxed = context.table().get_mut(&uuid).and_then(|entry| {
            indexes::modify_wanted(&mut entry.indexes, change);
            indexes::modify_relaxed(&entry.indexes, change)
        });
        if let Some(relaxed) = relaxed {
            context.destination.modify(&namespace, bson::doc! { "index": relaxed }).await?;
        }
    }
    let mut fields = Document::new();
    let mut options = RawDocumentBuf::new();
    for (name, value) in description.iter().flatten() {
        if name.as_str() == "index" || capped::is_bound(name.as_str()) {
            continue;
        }
        let value = bson::Bson::try_from(value).map_err(|e| {
            Error::new(Kind::UnsupportedOperation, format!("{namespace}: collMod")).caused_by(e)
        })?;
        fields.insert(name.as_str(), value);
    }
    if !fields.is_empty() {
        context.destination.modify(&namespace, fields.clone()).await?;
        let mut table = context.table();
        if let Some(entry) = table.get_mut(&uuid) {
            for (name, value) in entry.options.iter().flatten() {
                if !fields.contains_key(name.as_str()) {
                    options.append(name, value);
                }
            }
            let changed = RawDocumentBuf::try_from(&fields)
                .map_err(|e| Error::new(Kind::Internal, "collMod fields").caused_by(e))?;
            for (name, value) in changed.iter().flatten() {
                options.append(name, value);
            }
            entry.options = options;
        }
    }
    if let Some(entry) = context.table().get_mut(&uuid) {
        entry.options = capped::modified(&entry.options, description);
    }
    context.save_collection(&uuid).await
}
