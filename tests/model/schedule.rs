//! One schedule: a seed decides what users, network and operator do, and when the process dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use syncline::{
    engine::{self, Clusters, DocumentFilters, Engine, EngineHandle, Limits, Settings},
    error::Kind,
    model::{
        gate::WriteGate,
        options::{
            BuildIndexes, ClusterLabel, CollectionMatch, DatabaseMatch, NamePattern,
            NamespaceMatch, OnError, StartOptions,
        },
        progress::{Progress, State},
    },
    ports::DocumentFilter,
};
use syncline_tests::{
    fake::{
        Chaos, Cluster, FakeDestination, FakeSource, FakeStore, Faults, KeepSmall, Life, Tables,
    },
    random::Random,
};
use tokio_util::sync::CancellationToken;

use crate::{
    compare::{self, Names},
    oracle::Oracle,
    workload::{FILTERED, Writer},
};

/// Virtual time after which a schedule hangs.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What a schedule went through.
#[derive(Debug, Default, Clone, Copy)]
pub struct Report {
    /// Engines that died.
    pub crashes: u64,
    /// Pauses.
    pub pauses: u64,
    /// Calls that the engines made.
    pub steps: u64,
    /// Entries of the source's oplog.
    pub changes: u64,
    /// Documents that were looked at when a position was saved.
    pub checks: u64,
}

impl Report {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.steps += other.steps;
        self.changes += other.changes;
        self.checks += other.checks;
    }
}

/// Both clusters, the metadata, and what goes wrong.
pub struct World {
    /// What is read.
    pub source: Arc<Cluster>,
    /// What is written to.
    pub destination: Arc<Cluster>,
    /// The metadata database.
    pub tables: Arc<Tables>,
    /// The metadata database of the other direction, on the source.
    pub backward_tables: Arc<Tables>,
    /// The adversary.
    pub chaos: Chaos,
    /// The document filter of one database.
    pub filter: Arc<KeepSmall>,
    /// What is synced, and under which names.
    pub names: Names,
    /// Sizes at which work is cut.
    pub limits: Limits,
    /// Workers.
    pub load_level: u8,
}

impl World {
    /// Two empty clusters.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            source: Cluster::source(seed),
            destination: Cluster::destination(seed),
            tables: Arc::default(),
            backward_tables: Arc::default(),
            chaos: Chaos::new(seed, faults),
            // Every other schedule has documents that cannot pass.
            filter: Arc::new(KeepSmall {
                below: 10,
                fails: false,
                refuses: (seed % 2 == 1).then_some(4),
            }),
            names: Names::default(),
            limits: Limits {
                partition_bytes: 400,
                partition_documents: 6,
                small_documents: 4,
                // Every other schedule begins partitions anew whose documents change too much.
                dirty_ids: if seed.is_multiple_of(2) { 3 } else { 100 },
                ..Limits::default()
            },
            load_level: 3,
        }
    }

    /// An engine over these clusters that lives as long as `life`.
    pub fn engine(&self, life: &Arc<Life>) -> (Engine, EngineHandle) {
        let chaos = self.chaos.with_life(Arc::clone(life));
        let direction =
            |source: &Arc<Cluster>, destination: &Arc<Cluster>, tables: &Arc<Tables>| Clusters {
                source: Arc::new(FakeSource::new(Arc::clone(source), chaos.clone())),
                destination: Arc::new(FakeDestination::new(Arc::clone(destination), chaos.clone())),
                store: Arc::new(FakeStore::new(Arc::clone(tables), chaos.clone())),
                gate: WriteGate::default(),
                names: ("cluster0".to_owned(), "cluster1".to_owned()),
            };
        let mut documents = DocumentFilters::default();
        let filtered = NamespaceMatch {
            database: DatabaseMatch::Name(FILTERED.to_owned()),
            collections: CollectionMatch::All,
        };
        let filter: Arc<dyn DocumentFilter> = self.filter.clone();
        let on_error =
            if self.filter.refuses.is_some() { OnError::Quarantine } else { OnError::Stop };
        documents.push(&[filtered], vec![filter], on_error).unwrap();
        let settings = Settings {
            directions: [
                direction(&self.source, &self.destination, &self.tables),
                direction(&self.destination, &self.source, &self.backward_tables),
            ],
            documents: Arc::new(documents),
            load_level: Some(self.load_level),
            create_indexes_batch_size: 2,
            hot: Vec::new(),
            metadata_database: "meta".to_owned(),
            is_verification_disabled: false,
            tag: "model".to_owned(),
            limits: self.limits,
        };
        let (inbox, handle) = engine::channel("model");
        (Engine::new(settings, inbox), handle)
    }

    /// The first difference between source and destination.
    pub fn difference(&self) -> Option<String> {
        compare::difference(&self.source, &self.destination, &self.filter, self.names)
            .or_else(|| compare::quarantine(&self.source, &self.tables, &self.filter, self.names))
    }
}

/// What `/start` asks for.
pub fn options(build_indexes: BuildIndexes) -> StartOptions {
    StartOptions {
        build_indexes,
        verification: Some(false),
        ..StartOptions::new(ClusterLabel::Cluster0, ClusterLabel::Cluster1)
    }
}

/// Every namespace.
fn everything() -> NamespaceMatch {
    NamespaceMatch {
        database: DatabaseMatch::Pattern(NamePattern {
            pattern: "^".into(),
            options: String::new(),
        }),
        collections: CollectionMatch::All,
    }
}

/// What the operator does: starts, pauses now and then, commits when the users have stopped.
struct Operator {
    /// Numbers.
    random: Random,
    /// What `/start` asks for.
    options: StartOptions,
    /// Pauses so far.
    pauses: u64,
    /// What the engine showed last.
    seen: Option<Progress>,
}

impl Operator {
    /// Works until the sync is committed.
    async fn conduct(
        &mut self,
        handle: &EngineHandle,
        writers_done: &AtomicBool,
    ) -> Result<(), String> {
        loop {
            let progress = handle.progress();
            self.seen = Some(progress.clone());
            if let Some(failure) = progress.failure {
                return Err(format!("{}: {}", failure.kind.name(), failure.detail));
            }
            if let Some(found) = progress.verification.filter(|found| found.total() > 0) {
                return Err(format!("a false mismatch: {:?}", found.mismatches));
            }
            let asked = match progress.state {
                State::Idle => handle.start(self.options.clone()).await,
                State::Paused => handle.resume().await,
                State::Running if progress.can_commit && writers_done.load(Ordering::SeqCst) => {
                    handle.commit().await
                }
                State::Running if self.pauses < 3 && self.random.chance(4) => {
                    self.pauses += 1;
                    handle.pause().await
                }
                State::Committed => return Ok(()),
                _ => Ok(()),
            };
            match asked {
                Ok(()) => {}
                // The state has moved on, or the engine has died meanwhile.
                Err(e) if matches!(e.kind(), Kind::CannotCommitYet | Kind::InvalidState) => {}
                Err(e) => return Err(e.full()),
            }
            tokio::time::sleep(Duration::from_millis(20 + self.random.below(400))).await;
        }
    }
}

/// How one engine ended.
enum End {
    /// It died.
    Crashed,
    /// It was asked to stop, as by a signal.
    Stopped,
    /// The sync is committed.
    Committed,
}

/// Lets one engine live.
async fn live(
    world: &World,
    life: &Arc<Life>,
    operator: &mut Operator,
    writers_done: &AtomicBool,
    stop_after: Option<Duration>,
) -> Result<End, String> {
    let (engine, handle) = world.engine(life);
    let stop = CancellationToken::new();
    let run = engine.run(stop.clone());
    tokio::pin!(run);
    let stopped = async {
        match stop_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = life.ended() => return Ok(End::Crashed),
        ended = &mut run => return Err(match ended {
            Ok(()) => "the engine ended by itself".to_owned(),
            Err(e) => format!("{}: {}", e.kind().name(), e.full()),
        }),
        conducted = operator.conduct(&handle, writers_done) => {
            conducted?;
            return Ok(End::Committed);
        }
        () = stopped => stop.cancel(),
    }
    tokio::select! {
        biased;
        () = life.ended() => Ok(End::Crashed),
        ended = run => match ended {
            Ok(()) => Ok(End::Stopped),
            Err(e) => Err(format!("while stopping: {}: {}", e.kind().name(), e.full())),
        },
    }
}

/// Runs a schedule.
pub async fn run(seed: u64) -> Result<Report, String> {
    run_with(seed, None).await
}

/// Runs a schedule in which the first engine dies at a certain call, and no other does.
pub async fn with_crash_at(seed: u64, steps: u64) -> Result<Report, String> {
    run_with(seed, Some(steps)).await
}

/// Runs a schedule.
async fn run_with(seed: u64, crash_at: Option<u64>) -> Result<Report, String> {
    let mut random = Random::new(seed);
    let faults = Faults {
        delay: random.below(60),
        long_delay: random.below(4),
        lost_reply: [0, 2, 10][random.index(3)],
        broken_scan: [0, 3, 15][random.index(3)],
        stale_read: [0, 30, 80][random.index(3)],
    };
    let mut world = World::new(seed, faults);
    world.load_level = 1 + random.below(4) as u8;
    if random.chance(20) {
        world.limits.dirty_ids = 1 + random.index(3);
    }
    if random.chance(20) {
        world.limits.event_bytes = 64 + random.index(600);
    }
    let ddl = [0, 3, 12, 35][random.index(4)];
    let mut writer = Writer::new(random.next(), ddl);
    let oracle = Oracle::watch(&world);
    for _ in 0..random.below(8) {
        let documents = random.below(40);
        world.source.change(|state| writer.fill(state, documents));
    }
    let operations = 30 + random.below(250);
    let pace = 1 + random.below(60);
    let writers_done = Arc::new(AtomicBool::new(false));
    let mut users = tokio::task::JoinSet::new();
    let (source, done) = (Arc::clone(&world.source), Arc::clone(&writers_done));
    let mut pauses = Random::new(random.next());
    users.spawn(async move {
        for _ in 0..operations {
            source.change(|state| writer.step(state));
            tokio::time::sleep(Duration::from_millis(pauses.below(pace))).await;
        }
        done.store(true, Ordering::SeqCst);
    });
    let modes =
        [BuildIndexes::AfterDataCopy, BuildIndexes::AfterDataCopy, BuildIndexes::BeforeDataCopy];
    let mut asked = options(*random.pick(&modes));
    if seed.is_multiple_of(3) {
        asked.natural_order.push(everything());
    }
    if crash_at.is_none() {
        world.names = Names { remapped: random.chance(25), excluded: random.chance(25) };
        world.names.ask(&mut asked);
    }
    asked.verification = Some(!seed.is_multiple_of(3));
    let mut operator =
        Operator { random: Random::new(random.next()), options: asked, pauses: 0, seen: None };
    let mut report = Report::default();
    let mut crashes_left = if crash_at.is_some() { 1 } else { random.below(6) };
    let sync = async {
        loop {
            let life = if let (Some(steps), true) = (crash_at, crashes_left > 0) {
                Life::of_steps(steps)
            } else if crashes_left > 0 {
                let magnitude = random.below(11);
                Life::of_steps(1 + random.below(2 << magnitude))
            } else {
                Life::endless()
            };
            let stop_after = random.chance(20).then(|| Duration::from_millis(random.below(5_000)));
            match live(&world, &life, &mut operator, &writers_done, stop_after).await? {
                End::Committed => return Ok::<(), String>(()),
                End::Stopped => {}
                End::Crashed => {
                    crashes_left -= 1;
                    report.crashes += 1;
                }
            }
            // Whatever the dead engine asks from now on is not answered.
            life.end();
        }
    };
    match tokio::time::timeout(PATIENCE, sync).await {
        Ok(result) => result?,
        Err(_) => return Err(format!("it does not get anywhere: {:#?}", operator.seen)),
    }
    report.pauses = operator.pauses;
    report.steps = world.chaos.steps();
    report.changes = world.source.state().oplog.len() as u64;
    report.checks = oracle.checks();
    match oracle.verdict().or_else(|| world.difference()) {
        Some(difference) => Err(difference),
        None => Ok(report),
    }
}
