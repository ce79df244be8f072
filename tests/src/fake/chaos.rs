//! The adversary: what happens between the engine and a cluster.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::random::Random;

/// How often what goes wrong, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// A call waits a moment.
    pub delay: u64,
    /// A call waits long.
    pub long_delay: u64,
    /// A write is done, its reply is lost, and it is done again.
    pub lost_reply: u64,
    /// A scan breaks.
    pub broken_scan: u64,
    /// A read sees an older majority snapshot than the newest.
    pub stale_read: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self =
        Self { delay: 0, long_delay: 0, lost_reply: 0, broken_scan: 0, stale_read: 0 };
}

/// The life of one engine: it ends at a certain call, and whatever it asks after that is never
/// answered.
#[derive(Debug)]
pub struct Life {
    /// Whether it has ended.
    dead: AtomicBool,
    /// Steps left.
    left: AtomicI64,
    /// Notified at its end.
    ended: Notify,
}

impl Life {
    /// A life of so many steps.
    pub fn of_steps(steps: u64) -> Arc<Self> {
        Arc::new(Self {
            dead: AtomicBool::new(false),
            left: AtomicI64::new(i64::try_from(steps).unwrap_or(i64::MAX)),
            ended: Notify::new(),
        })
    }

    /// A life without end.
    pub fn endless() -> Arc<Self> {
        Self::of_steps(u64::MAX)
    }

    /// Ends it now.
    pub fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.ended.notify_one();
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }
}

/// What decides the fate of a call; clones share the generator.
#[derive(Debug, Clone)]
pub struct Chaos {
    /// Numbers.
    random: Arc<Mutex<Random>>,
    /// What goes wrong.
    faults: Faults,
    /// Whose calls.
    life: Arc<Life>,
    /// Steps taken by every life.
    steps: Arc<AtomicU64>,
}

impl Chaos {
    /// An adversary with a seed.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: Arc::new(Mutex::new(Random::new(seed))),
            faults,
            life: Life::endless(),
            steps: Arc::default(),
        }
    }

    /// The same adversary for another life.
    #[must_use]
    pub fn with_life(&self, life: Arc<Life>) -> Self {
        Self { life, ..self.clone() }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// A number below a bound.
    pub fn below(&self, bound: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(bound)
    }

    /// Whether something of this chance happens.
    fn happens(&self, percent: u64) -> bool {
        percent > 0 && self.below(100) < percent
    }

    /// Whether a reply is lost.
    pub fn loses_reply(&self) -> bool {
        self.happens(self.faults.lost_reply)
    }

    /// Whether a scan breaks.
    pub fn breaks_scan(&self) -> bool {
        self.happens(self.faults.broken_scan)
    }

    /// Whether a read is stale.
    pub fn reads_stale(&self) -> bool {
        self.happens(self.faults.stale_read)
    }

    /// A point in a call at which time passes and the caller may die.
    ///
    /// # Panics
    /// When a test goes on for ever.
    pub async fn step(&self) {
        assert!(self.steps.fetch_add(1, Ordering::SeqCst) < 3_000_000, "no end in sight");
        if !self.life.dead.load(Ordering::SeqCst)
            && self.life.left.fetch_sub(1, Ordering::SeqCst) <= 1
        {
            self.life.end();
        }
        self.survive().await;
        if self.happens(self.faults.long_delay) {
            tokio::time::sleep(Duration::from_millis(self.below(1_500))).await;
        } else if self.happens(self.faults.delay) {
            tokio::time::sleep(Duration::from_millis(self.below(15))).await;
        } else if self.happens(30) {
            tokio::task::yield_now().await;
        }
        self.survive().await;
    }

    /// Never returns to the dead.
    async fn survive(&self) {
        if self.life.dead.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
    }
}
