//! The router: one task that sees every event in order and decides what becomes of it.
//!
//! ```text
//! reader ──answers──▶ router ──chunks by hash of (uuid, _id)──▶ appliers ──▶ destination
//!                       │  DDL: all appliers idle, applied here, saved, on
//!                       └─ position: the floor over the appliers, saved every half second
//! ```

use std::{sync::Arc, time::Duration};

use bson::{RawDocumentBuf, Uuid};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    applier::{self, Chunk},
    bulk::Operation,
    ddl,
    floor::Floor,
};
use crate::{
    engine::{
        catalog::{Entry, Route},
        checkpoint::{self, SyncRecord},
        context::Context,
        record::Record,
    },
    error::{Error, Kind, Result},
    model::{
        ClusterTime,
        change::{Change, ChangeKind, Position},
        order::canonical_id,
    },
    ports::{self, EventReader, StreamBatch},
    tasks::TaskSet,
};

/// Answers of the stream that may wait for the router.
const READ_AHEAD: usize = 2;
/// Chunks that may wait for an applier.
const QUEUE: usize = 8;
/// How often the position is saved.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// How far the stream is, for whoever watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamStatus {
    /// Everything up to here has been seen.
    pub(crate) observed: ClusterTime,
    /// Everything up to here is on the destination (or covered by the copy).
    pub(crate) applied: ClusterTime,
    /// Every partition is done and saved as done.
    pub(crate) copy_done: bool,
}

/// The router's own state.
pub(crate) struct Router {
    /// What a run shares.
    context: Arc<Context>,
    /// The sync record, to save the position in.
    record: Arc<Record>,
    /// Queues of the appliers.
    queues: Vec<mpsc::Sender<Chunk>>,
    /// The applier tasks.
    appliers: TaskSet,
    /// How far they are.
    floor: Floor,
    /// Memory budget of events.
    budget: Arc<Semaphore>,
    /// What is collected for each applier from the present answer.
    buffers: Vec<Buffer>,
    /// Partitions whose refetches have this sequence number.
    finishing: Vec<(u64, Uuid, usize)>,
    /// What is published.
    status: watch::Sender<StreamStatus>,
}

/// Operations for one applier.
#[derive(Default)]
struct Buffer {
    /// In order.
    operations: Vec<(Uuid, Operation)>,
    /// Their size in bytes.
    bytes: usize,
    /// How many of them are events (the others are refetches of the copy).
    events: usize,
}

impl Router {
    /// A router with its appliers running.
    pub(crate) fn new(
        context: Arc<Context>,
        record: Arc<Record>,
        status: watch::Sender<StreamStatus>,
    ) -> Self {
        let count = context.load.appliers;
        let budget_bytes = context.limits.event_bytes;
        let floor = Floor::new(count);
        let mut appliers = TaskSet::new();
        let mut queues = Vec::with_capacity(count);
        for applier in 0..count {
            let (sender, receiver) = mpsc::channel(QUEUE);
            queues.push(sender);
            if let Some(done) = floor.done(applier) {
                appliers.spawn("applier", applier::run(Arc::clone(&context), receiver, done));
            }
        }
        Self {
            context,
            record,
            queues,
            appliers,
            floor,
            budget: Arc::new(Semaphore::new(budget_bytes)),
            buffers: (0..count).map(|_| Buffer::default()).collect(),
            finishing: Vec::new(),
            status,
        }
    }

    /// Routes until `drain` is set, then waits until everything is written and saves the position.
    ///
    /// # Errors
    /// Whatever a retry does not mend, here or in an applier. Dropping the future abandons what is
    /// queued; the saved position is before it.
    pub(crate) async fn run(
        mut self,
        reader: Box<dyn EventReader>,
        drain: CancellationToken,
    ) -> Result<()> {
        let (sender, mut answers) = mpsc::channel(READ_AHEAD);
        let mut reading = TaskSet::new();
        reading.spawn("stream-reader", read(reader, sender));
        let mut saved = Instant::now();
        let moved = self.floor.moved();
        loop {
            let answer = tokio::select! {
                biased;
                () = drain.cancelled() => break,
                ended = reading.next() => return ended_early(ended),
                ended = self.appliers.next() => return ended_early(ended),
                answer = answers.recv() => answer,
                // While the source is silent, the end of the copy does not wait for its answers.
                () = self.context.scanned.notified() => None,
                () = moved.notified(), if !self.finishing.is_empty() => None,
            };
            match answer {
                Some(answer) => self.route(answer).await?,
                None => self.take_scanned().await?,
            }
            if saved.elapsed() >= SAVE_EVERY || self.is_copy_over() {
                self.save().await?;
                saved = Instant::now();
            }
            self.publish();
        }
        reading.shutdown().await;
        self.wait_until_idle().await?;
        self.save().await?;
        self.publish();
        Ok(())
    }

    /// Routes one answer of the stream.
    async fn route(&mut self, answer: StreamBatch) -> Result<()> {
        self.take_scanned().await?;
        let mut newest = ClusterTime::ZERO;
        let mut before = None;
        for event in answer.events.documents() {
            let mut change = Change::parse(event?)?;
            newest = newest.max(change.time);
            if change.kind.is_crud() {
                let token = Some(std::mem::take(&mut change.token));
                before = Some(Position { token, time: change.time });
                self.route_document(change)?;
            } else {
                self.hand_over(newest, before.take()).await?;
                self.apply_ddl(change).await?;
            }
        }
        self.hand_over(newest, Some(answer.position.clone())).await?;
        self.context.table().set_stream_time(answer.position.time);
        self.status.send_if_modified(|status| {
            status.observed = answer.position.time;
            true
        });
        // Workers may wait for the stream to come this far.
        self.context.changed.notify_waiters();
        Ok(())
    }

    /// Routes an event about a document into a buffer.
    fn route_document(&mut self, change: Change) -> Result<()> {
        let Some(uuid) = change.uuid else {
            return self.unknown(&change);
        };
        let (id, size) = match &change.kind {
            ChangeKind::Insert(id, document) | ChangeKind::Replace(id, document) => {
                (id, id.as_bytes().len() + document.as_bytes().len())
            }
            ChangeKind::Update(id) | ChangeKind::Delete(id) => (id, id.as_bytes().len()),
            _ => return Ok(()),
        };
        let route = self.context.table().route(&uuid, id, change.time);
        let serial = match route {
            Route::Covered | Route::Dropped => return Ok(()),
            Route::Unknown => return self.unknown(&change),
            Route::Apply { serial } => serial,
        };
        if self.context.hot.contains(change.namespace.as_ref(), id) {
            return Ok(());
        }
        self.context.verification.touch(&uuid, id, change.time);
        if serial {
            self.context.verification.touch_serial(uuid, change.time);
        }
        let applier = self.applier_of(&uuid, id, serial);
        let operation = match change.kind {
            ChangeKind::Insert(id, document) => Operation::Insert(id, document),
            ChangeKind::Replace(id, document) => Operation::Replace(id, document),
            ChangeKind::Update(id) => Operation::Refetch(id),
            ChangeKind::Delete(id) => Operation::Delete(id),
            _ => return Ok(()),
        };
        if let Some(buffer) = self.buffers.get_mut(applier) {
            buffer.operations.push((uuid, operation));
            buffer.bytes += size;
            buffer.events += 1;
        }
        Ok(())
    }

    /// An event of a collection that is not in the table: fine when the filter leaves it out.
    fn unknown(&self, change: &Change) -> Result<()> {
        let Some(namespace) = &change.namespace else { return Ok(()) };
        if self.context.namespaces.includes(namespace)? {
            return Err(Error::new(
                Kind::Internal,
                format!("{namespace}: a change of a collection that was never announced"),
            ));
        }
        Ok(())
    }

    /// The applier that owns a document, or the collection when it keeps its order.
    fn applier_of(&self, uuid: &Uuid, id: &RawDocumentBuf, serial: bool) -> usize {
        let mut key = uuid.bytes().to_vec();
        if !serial {
            key.extend(canonical_id(id));
        }
        let count = u64::try_from(self.queues.len().max(1)).unwrap_or(1);
        usize::try_from(xxh3_64(&key) % count).unwrap_or(0)
    }

    /// Hands the buffers over. With a position, that position is reached once they are written.
    async fn hand_over(&mut self, after: ClusterTime, position: Option<Position>) -> Result<u64> {
        let sequence = self.floor.begin();
        for applier in 0..self.queues.len() {
            let (Some(buffer), Some(queue)) =
                (self.buffers.get_mut(applier), self.queues.get(applier))
            else {
                continue;
            };
            if buffer.operations.is_empty() {
                continue;
            }
            let buffer = std::mem::take(buffer);
            let share =
                u32::try_from(buffer.bytes.clamp(1, self.context.limits.event_bytes.max(1)))
                    .unwrap_or(u32::MAX);
            let budget = Arc::clone(&self.budget);
            let chunk = Chunk {
                sequence,
                operations: buffer.operations,
                after,
                events: buffer.events,
                permit: None,
            };
            let queue = queue.clone();
            let sending = async move {
                let permit = budget.acquire_many_owned(share).await.ok();
                queue.send(Chunk { permit, ..chunk }).await
            };
            // An applier that failed never takes the chunk: its error is the answer then.
            self.floor.sent(applier, sequence);
            tokio::select! {
                biased;
                ended = self.appliers.next() => { ended_early(ended)?; }
                sent = sending => if sent.is_err() {
                    let ended = self.appliers.next().await;
                    ended_early(ended)?;
                },
            }
        }
        if let Some(position) = position {
            self.floor.reached_by(sequence, position);
        }
        Ok(sequence)
    }

    /// Marks scanned partitions done and queues their dirty ids, ahead of any later event.
    async fn take_scanned(&mut self) -> Result<()> {
        let scanned = self.context.table().take_scanned();
        if scanned.is_empty() {
            return Ok(());
        }
        let after = self.status.borrow().observed;
        let mut partitions = Vec::with_capacity(scanned.len());
        for (uuid, index, dirty) in scanned {
            let serial = self.context.table().get(&uuid).is_some_and(Entry::is_serial);
            for id in dirty {
                let applier = self.applier_of(&uuid, &id, serial);
                if let Some(buffer) = self.buffers.get_mut(applier) {
                    buffer.bytes += id.as_bytes().len();
                    buffer.events += 1;
                    buffer.operations.push((uuid, Operation::Refetch(id)));
                }
            }
            partitions.push((uuid, index));
        }
        let sequence = self.hand_over(after, None).await?;
        self.finishing.extend(partitions.into_iter().map(|(uuid, index)| (sequence, uuid, index)));
        Ok(())
    }

    /// Applies an event about a collection alone. The position is saved right before it and right
    /// after it: after a crash this event may be seen again, but nothing before it, which would
    /// meet names that it has changed.
    async fn apply_ddl(&mut self, change: Change) -> Result<()> {
        if !ddl::concerns(&self.context, &change)? {
            return Ok(());
        }
        self.wait_until_idle().await?;
        self.save().await?;
        let position = Position { token: Some(change.token.clone()), time: change.time };
        let shape = self.context.shape.write().await;
        self.context.verification.shape_changes(&change);
        let applied = ddl::apply(&self.context, &change).await?;
        self.context.verification.shape_changed(&change, applied, &self.context.table());
        drop(shape);
        if applied {
            self.context.counters.add_ddl();
            self.save_finished().await?;
            // Everything before is written, so the older positions are out of date: saving one of
            // them later would bring this event again.
            self.floor.take_reached();
            self.save_position(position).await?;
        }
        Ok(())
    }

    /// Waits until every applier has written what it was handed.
    async fn wait_until_idle(&mut self) -> Result<()> {
        let moved = self.floor.moved();
        while !self.floor.is_idle() {
            tokio::select! {
                biased;
                ended = self.appliers.next() => ended_early(ended)?,
                () = moved.notified() => {}
            }
        }
        Ok(())
    }

    /// Saves what is finished, then how far the stream is.
    async fn save(&mut self) -> Result<()> {
        self.save_finished().await?;
        if let Some(position) = self.floor.take_reached() {
            self.save_position(position).await?;
        }
        Ok(())
    }

    /// Saves the partitions whose refetches are written.
    async fn save_finished(&mut self) -> Result<()> {
        let floor = self.floor.sequence();
        let (finished, waiting): (Vec<_>, Vec<_>) =
            self.finishing.drain(..).partition(|(sequence, ..)| *sequence <= floor);
        self.finishing = waiting;
        let mut documents = Vec::with_capacity(finished.len());
        for (_, uuid, index) in finished {
            let bounds = self
                .context
                .table()
                .get(&uuid)
                .and_then(|entry| entry.partitions.as_ref())
                .and_then(|partitions| partitions.get(index))
                .map(|partition| partition.bounds.clone());
            if let Some(bounds) = bounds {
                documents.push(checkpoint::partition_to_document(&uuid, index, &bounds, true)?);
            }
        }
        if !documents.is_empty() {
            self.context.store.put(ports::Table::Partitions, documents).await?;
        }
        Ok(())
    }

    /// Saves the position and makes it known.
    async fn save_position(&self, position: Position) -> Result<()> {
        let time = position.time;
        // What events up to here have touched must not count as verified after a restart.
        self.context.verification.save(&*self.context.store, true).await?;
        self.record
            .change(&*self.context.store, |record: &mut SyncRecord| {
                record.position = Some(position);
            })
            .await?;
        self.status.send_if_modified(|status| {
            let newer = time > status.applied;
            status.applied = status.applied.max(time);
            newer
        });
        Ok(())
    }

    /// Whether the last partitions are done and only have to be saved.
    fn is_copy_over(&self) -> bool {
        let floor = self.floor.sequence();
        !self.finishing.is_empty()
            && self.finishing.iter().all(|(sequence, ..)| *sequence <= floor)
            && self.context.table().is_done()
    }

    /// Makes known whether the copy is done.
    fn publish(&self) {
        let done = self.finishing.is_empty() && self.context.table().is_done();
        self.status.send_if_modified(|status| {
            let changed = status.copy_done != done;
            status.copy_done = done;
            changed
        });
    }
}

/// Reads answers until nobody wants them.
async fn read(mut reader: Box<dyn EventReader>, answers: mpsc::Sender<StreamBatch>) -> Result<()> {
    loop {
        let answer = reader.next().await?;
        if answers.send(answer).await.is_err() {
            return Ok(());
        }
    }
}

/// A task that should run as long as the router has ended: its error, or that it ended at all.
fn ended_early(ended: Option<Result<()>>) -> Result<()> {
    match ended {
        Some(Err(error)) => Err(error),
        Some(Ok(())) | None => {
            Err(Error::new(Kind::Internal, "a task of the stream ended before its time"))
        }
    }
}
