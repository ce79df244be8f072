//! One test for each invariant of the engine's design, named after it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bson::{Bson, RawDocumentBuf, doc};
use syncline::{
    engine::EngineHandle,
    error::{Kind, Result},
    model::{
        ClusterTime, Namespace,
        options::{BuildIndexes, WriteBlocking},
        progress::{Phase, State},
    },
    ports::Table,
};
use syncline_tests::fake::{
    Cluster, Faults, KeepSmall, Life,
    cluster::{Call, Write},
    events::raw,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    oracle::Oracle,
    schedule::{self, World, options},
    workload::FILTERED,
};

/// Calls that take a moment, nothing else.
const SLOW: Faults = Faults { delay: 100, ..Faults::NONE };

/// An engine that runs.
pub struct Running {
    /// To talk to it.
    pub handle: EngineHandle,
    /// Its end.
    ended: JoinHandle<Result<()>>,
}

/// Lets an engine run and starts a sync.
async fn start(world: &World) -> Running {
    let running = live(world, &Life::endless());
    running.wait(|handle| handle.progress().state == State::Idle).await;
    running.handle.start(options(BuildIndexes::AfterDataCopy)).await.unwrap();
    running
}

/// Lets an engine run.
pub fn live(world: &World, life: &Arc<Life>) -> Running {
    let (engine, handle) = world.engine(life);
    let ended = tokio::spawn(engine.run(CancellationToken::new()));
    Running { handle, ended }
}

impl Running {
    /// Waits until something is so.
    pub async fn wait(&self, what: impl Fn(&EngineHandle) -> bool) {
        for _ in 0..100_000 {
            if what(&self.handle) {
                return;
            }
            assert!(
                !self.ended.is_finished(),
                "the engine has ended: {:?}",
                self.handle.progress()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it never comes to that: {:?}", self.handle.progress());
    }

    /// Waits until a commit is possible, commits, and waits for its end.
    pub async fn commit(&self) {
        self.wait(|handle| handle.progress().can_commit).await;
        self.handle.commit().await.unwrap();
        self.wait(|handle| handle.progress().state == State::Committed).await;
    }

    /// Waits until the copy is done.
    pub async fn copied(&self) {
        self.wait(|handle| handle.progress().phase == Some(Phase::ChangeEventApplication)).await;
    }

    /// How it ended.
    async fn end(self) -> Kind {
        let end = tokio::time::timeout(Duration::from_secs(600), self.ended).await;
        let error = end.expect("it goes on").unwrap().expect_err("it ended well");
        let shown = self.handle.progress().failure.map(|failure| failure.kind);
        assert_eq!(shown, Some(error.kind()), "what is shown is not what happened");
        error.kind()
    }
}

/// `app.a`
pub fn namespace() -> Namespace {
    Namespace::new("app", "a").unwrap()
}

/// A document of a number with a version.
pub fn body(id: i32, serial: i32) -> RawDocumentBuf {
    raw(&doc! { "_id": id, "serial": serial })
}

/// A world with so many documents in `app.a`.
pub fn filled(documents: i32, faults: Faults) -> World {
    let world = World::new(1, faults);
    world.source.change(|state| {
        for id in 0..documents {
            state.write(&namespace(), vec![Write::Insert(body(id, 0))]);
        }
    });
    world
}

/// Whether a scan was begun.
fn is_scanned(world: &World) -> bool {
    world.source.state().calls.iter().any(|call| matches!(call, Call::Scan(_)))
}

/// The time of the saved position.
fn saved_time(world: &World) -> ClusterTime {
    let record = world.tables.all(Table::Sync).pop().unwrap_or_default();
    record
        .get_document("position")
        .and_then(|position| position.get_timestamp("time"))
        .map_or(ClusterTime::ZERO, ClusterTime::from)
}

#[tokio::test(start_paused = true)]
async fn invariant_1_the_stream_opens_before_the_first_read_and_is_read_during_the_copy() {
    let world = filled(600, SLOW);
    const WINDOW: usize = 200;
    world.source.change(|state| state.oplog_window = Some(WINDOW));
    let begin = world.source.state().oplog.len();
    let running = start(&world).await;
    let source = Arc::clone(&world.source);
    let users = tokio::spawn(async move {
        for serial in 1.. {
            source.change(|state| {
                state.write(&namespace(), vec![Write::Replace(body(serial % 600, serial))]);
            });
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    });
    running.copied().await;
    users.abort();
    let grown = world.source.state().oplog.len() - begin;
    assert!(grown > 2 * WINDOW, "the copy was over after {grown} entries of the oplog");
    let calls = world.source.state().calls.clone();
    let Some(Call::Stream(from)) = calls.first().cloned() else {
        panic!("the stream is not the first: {calls:?}")
    };
    for call in &calls {
        if let Call::Scan(at) = call {
            assert!(from <= *at, "scanned at {at}, before the stream that opens at {from}");
        }
    }
    assert_eq!(calls.iter().filter(|call| matches!(call, Call::Stream(_))).count(), 1);
    running.commit().await;
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_2_every_event_up_to_the_saved_position_is_accounted_for() {
    let world = filled(200, SLOW);
    let oracle = Oracle::watch(&world);
    let running = start(&world).await;
    for serial in 1..1_500 {
        world.source.change(|state| {
            let id = serial * 7 % 220;
            let write = match serial % 4 {
                0 => Write::Delete(raw(&doc! { "_id": id })),
                1 => Write::Replace(body(id, serial)),
                2 => Write::Update(body(id, serial)),
                _ => Write::Insert(body(id, serial)),
            };
            state.write(&namespace(), vec![write]);
        });
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    running.commit().await;
    assert_eq!(oracle.verdict(), None);
    assert!(oracle.checks() > 1_000, "only {} documents were looked at", oracle.checks());
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_2_a_partition_is_done_only_after_its_dirty_ids_are_fetched() {
    let mut world = filled(600, SLOW);
    world.limits.small_documents = 10_000;
    world.limits.partition_bytes = 1 << 30;
    world.load_level = 1;
    let oracle = Oracle::watch(&world);
    world.source.set_open(false);
    let running = start(&world).await;
    running.wait(|_| is_scanned(&world)).await;
    world.source.change(|state| {
        for id in 0..20 {
            state.write(&namespace(), vec![Write::Replace(body(id, 1))]);
        }
    });
    let dirty = world.source.state().clock;
    // The scan comes to its end, the events are behind the saved position, and nothing is fetched.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(saved_time(&world) >= dirty, "the position does not move while a partition is copied");
    let done = |world: &World| {
        let partitions = world.tables.all(Table::Partitions);
        partitions.iter().filter(|p| p.get_bool("done").unwrap()).count()
    };
    assert_eq!(done(&world), 0, "done before its dirty ids are fetched");
    assert_eq!(oracle.verdict(), None);
    world.source.set_open(true);
    running.commit().await;
    assert_eq!(done(&world), 1);
    assert_eq!(oracle.verdict(), None);
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_3_events_of_one_document_are_applied_in_order() {
    let mut world = filled(6, Faults { delay: 60, ..Faults::NONE });
    world.destination = Cluster::remembering_destination(1);
    world.load_level = 4;
    let running = start(&world).await;
    running.copied().await;
    for serial in 1..2_000 {
        let write = Write::Replace(body(serial % 6, serial));
        world.source.change(|state| state.write(&namespace(), vec![write]));
        tokio::time::sleep(Duration::from_micros(700)).await;
    }
    running.commit().await;
    let state = world.destination.state();
    let collection = state.named(&namespace()).unwrap();
    let mut changes = 0;
    for id in 0..6 {
        let states = collection.documents.history(&body(id, 0));
        changes += states.len();
        let serials: Vec<i32> =
            states.iter().flatten().map(|state| state.get_i32("serial").unwrap()).collect();
        assert!(serials.is_sorted(), "{id}: {serials:?}");
    }
    assert!(changes > 60, "only {changes} writes: nothing could have overtaken another");
}

#[tokio::test(start_paused = true)]
async fn invariant_4_a_crash_at_any_call_is_repaired_by_the_next_run() {
    // Every ending of the same schedule: the first engine dies at its n-th call.
    let mut died = 0;
    for steps in (1..1_400).step_by(9) {
        let report = schedule::with_crash_at(7, steps).await;
        died += report.unwrap_or_else(|why| panic!("dying at call {steps}: {why}")).crashes;
    }
    assert!(died > 100, "only {died} engines died");
}

#[tokio::test(start_paused = true)]
async fn invariant_4_a_commit_goes_on_only_when_every_index_is_stored_as_built() {
    for seed in 0..20 {
        let world = World::new(seed, Faults { long_delay: 30, ..SLOW });
        world.source.change(|state| state.write(&namespace(), vec![Write::Insert(body(1, 0))]));
        let early = Arc::new(AtomicBool::new(false));
        let (tables, seen) = (Arc::downgrade(&world.tables), Arc::clone(&early));
        world.tables.watch(move |_| {
            let Some(tables) = tables.upgrade() else { return };
            let record = tables.all(Table::Sync).pop().unwrap_or_default();
            let is_restoring = record.get_str("commit").is_ok_and(|step| step == "restoring");
            let collections = tables.all(Table::Collections);
            let mut indexes =
                collections.iter().filter_map(|c| c.get_array("indexes").ok()).flatten();
            let is_unbuilt = |index: &Bson| {
                index.as_document().is_none_or(|index| !index.get_bool("built").unwrap_or(false))
            };
            if is_restoring && indexes.any(is_unbuilt) {
                seen.store(true, Ordering::SeqCst);
            }
        });
        let running = start(&world).await;
        running.wait(|handle| handle.progress().can_commit).await;
        let spec = doc! { "v": 2, "key": { "u": 1 }, "name": "u", "unique": true, "sparse": true };
        world.source.change(|state| state.create_index(&namespace(), &spec));
        running.handle.commit().await.unwrap();
        running.wait(|handle| handle.progress().state == State::Committed).await;
        assert!(!early.load(Ordering::SeqCst), "seed {seed}: a crash now would forget an index");
        assert_eq!(world.difference(), None, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn invariant_5_a_position_is_saved_only_after_its_writes() {
    let world = filled(20, SLOW);
    let running = start(&world).await;
    running.copied().await;
    world.destination.set_open(false);
    let first = world.source.change(|state| {
        state.write(&namespace(), vec![Write::Insert(body(1_000, 1))]);
        state.clock
    });
    for serial in 2..40 {
        let write = Write::Insert(body(1_000 + serial, serial));
        world.source.change(|state| state.write(&namespace(), vec![write]));
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(saved_time(&world) < first, "saved while the first write is not acknowledged");
    }
    world.destination.set_open(true);
    let newest = world.source.state().clock;
    running.wait(|_| saved_time(&world) >= newest).await;
    running.commit().await;
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_6_memory_is_bounded_by_settings_not_by_the_number_of_changes() {
    let mut world = filled(60, SLOW);
    world.limits.event_bytes = 2_000;
    world.load_level = 4;
    let running = start(&world).await;
    running.copied().await;
    world.destination.set_open(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = world.source.state().told;
    world.source.change(|state| {
        for id in 0..20_000 {
            let document = raw(&doc! { "_id": 1_000 + id, "text": "x".repeat(1_000) });
            state.write(&namespace(), vec![Write::Insert(document)]);
        }
    });
    tokio::time::sleep(Duration::from_secs(300)).await;
    let told = world.source.state().told - before;
    // What fits, and four answers of at most 12 events on their way to where they are counted: one
    // being read, two waiting, one being routed.
    let bound = 2 + 4 * 12;
    assert!(told > 0 && told <= bound, "{told} events were taken, {bound} fit");
    world.destination.set_open(true);
    running.commit().await;
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_6_dirty_ids_are_bounded_by_settings() {
    let mut world = filled(30, SLOW);
    world.limits.small_documents = 1_000;
    world.limits.partition_bytes = 1 << 30;
    world.limits.dirty_ids = 10;
    let running = start(&world).await;
    let scans = |world: &World| {
        let state = world.source.state();
        state.calls.iter().filter(|call| matches!(call, Call::Scan(_))).count()
    };
    running.wait(|_| scans(&world) > 0).await;
    // The only partition is being copied while all its documents change.
    world.destination.set_open(false);
    world.source.change(|state| {
        for id in 0..30 {
            state.write(&namespace(), vec![Write::Replace(body(id, 1))]);
        }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.destination.set_open(true);
    running.copied().await;
    assert!(scans(&world) > 1, "the partition was not begun anew");
    running.commit().await;
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_7_the_source_is_only_noted_on() {
    let world = filled(50, Faults { delay: 20, ..Faults::NONE });
    let events = |world: &World| -> Vec<RawDocumentBuf> {
        world.source.state().oplog.iter().filter_map(|event| event.body.clone()).collect()
    };
    let before = events(&world);
    let mut wanted = options(BuildIndexes::AfterDataCopy);
    wanted.write_blocking = Some(WriteBlocking::SourceAndDestination);
    let (engine, handle) = world.engine(&Life::endless());
    let ended = tokio::spawn(engine.run(CancellationToken::new()));
    let running = Running { handle, ended };
    running.wait(|handle| handle.progress().state == State::Idle).await;
    running.handle.start(wanted).await.unwrap();
    running.copied().await;
    // Idle ticks.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.source.state().blocks, [] as [bool; 0], "blocked before the commit");
    running.commit().await;
    assert_eq!(events(&world), before, "the source was written to");
    assert_eq!(world.source.state().blocks, [true]);
    assert_eq!(world.destination.state().blocks, [true, false]);
    let known = ["planning", "idle", "commit", "waiting for a moved collection"];
    let notes = world.source.state().notes.clone();
    assert!(notes.iter().all(|note| known.contains(&note.as_str())), "{notes:?}");
    assert!(notes.iter().any(|note| note == "idle") && notes.iter().any(|note| note == "commit"));
    for table in Table::ALL {
        assert_eq!(world.backward_tables.all(table), [], "metadata on the source");
    }
    assert_eq!(world.difference(), None);
}

#[tokio::test(start_paused = true)]
async fn invariant_8_a_refused_write_of_the_copy_stops_with_its_name() {
    let world = filled(30, SLOW);
    let running = start(&world).await;
    running.wait(|handle| handle.progress().phase == Some(Phase::CollectionCopy)).await;
    world.destination.state().refuses = Some(Kind::WriteFailed);
    assert_eq!(running.end().await, Kind::WriteFailed);
}

#[tokio::test(start_paused = true)]
async fn invariant_8_a_refused_write_of_an_event_stops_with_its_name() {
    let world = filled(30, SLOW);
    let running = start(&world).await;
    running.copied().await;
    world.destination.state().refuses = Some(Kind::WriteFailed);
    world.source.change(|state| state.write(&namespace(), vec![Write::Replace(body(1, 1))]));
    assert_eq!(running.end().await, Kind::WriteFailed);
}

#[tokio::test(start_paused = true)]
async fn invariant_8_a_lost_place_in_the_oplog_stops_with_its_name() {
    let world = filled(30, SLOW);
    let running = start(&world).await;
    running.copied().await;
    world.source.state().oplog_window = Some(5);
    world.source.change(|state| {
        for serial in 1..100 {
            state.write(&namespace(), vec![Write::Replace(body(1, serial))]);
        }
    });
    assert_eq!(running.end().await, Kind::OplogPositionLost);
}

#[tokio::test(start_paused = true)]
async fn invariant_8_a_filter_that_crashes_stops_with_its_name() {
    let mut world = filled(3, SLOW);
    world.filter = Arc::new(KeepSmall { below: 10, fails: true, refuses: None });
    let filtered = Namespace::new(FILTERED, "a").unwrap();
    world.source.change(|state| state.write(&filtered, vec![Write::Insert(body(1, 1))]));
    let running = start(&world).await;
    assert_eq!(running.end().await, Kind::PluginTrap);
}

#[tokio::test(start_paused = true)]
async fn invariant_8_an_operation_that_cannot_be_replicated_stops_with_its_name() {
    let world = filled(3, SLOW);
    let running = start(&world).await;
    running.copied().await;
    world.source.change(|state| state.tell(&namespace(), "reshardCollection"));
    assert_eq!(running.end().await, Kind::UnsupportedOperation);
}

#[tokio::test(start_paused = true)]
async fn invariant_8_duplicates_at_the_commit_stop_it_with_their_name() {
    let world = filled(3, SLOW);
    let spec = doc! { "v": 2, "key": { "u": 1 }, "name": "u", "unique": true, "sparse": true };
    world.source.change(|state| state.create_index(&namespace(), &spec));
    let running = start(&world).await;
    running.copied().await;
    // Somebody else writes to the destination.
    world.destination.change(|state| {
        for id in 100..102 {
            let document = raw(&doc! { "_id": id, "u": 1 });
            state.write(&namespace(), vec![Write::Insert(document)]);
        }
    });
    running.wait(|handle| handle.progress().can_commit).await;
    running.handle.commit().await.unwrap();
    running.wait(|handle| handle.progress().failure.is_some()).await;
    let progress = running.handle.progress();
    assert_eq!(progress.failure.unwrap().kind, Kind::DuplicateKeyAtCommit);
    assert_eq!(progress.state, State::Committing);
    // With the duplicate gone, the commit can be repeated.
    world.destination.change(|state| {
        let ids = [100, 101].map(|id| Write::Delete(raw(&doc! { "_id": id })));
        state.write(&namespace(), ids.to_vec());
    });
    running.handle.commit().await.unwrap();
    running.wait(|handle| handle.progress().state == State::Committed).await;
    assert_eq!(world.difference(), None);
}
