//! The engine over clusters in memory: random schedules of users, faults, crashes and pauses, and
//! one test for each invariant of its design.
//!
//! `SYNCLINE_MODEL_SCHEDULES` says how many schedules run, `SYNCLINE_MODEL_FIRST` with which seed they
//! begin, `SYNCLINE_MODEL_SEED` runs one alone, `SYNCLINE_MODEL_MINUTES` as many as there is time for.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test may fail loudly, and its numbers are small"
)]

mod compare;
mod invariants;
mod oracle;
mod schedule;
mod verify;
mod workload;

use std::{
    env,
    num::NonZero,
    panic,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// Schedules by default.
const SCHEDULES: u64 = 1_000;
/// Seed of the first schedule by default.
const FIRST_SEED: u64 = 1;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs a schedule in a runtime of its own.
fn run(seed: u64) -> Result<schedule::Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let attempt = panic::AssertUnwindSafe(|| runtime.block_on(schedule::run(seed)));
    panic::catch_unwind(attempt).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

#[test]
fn the_destination_converges_under_every_schedule() {
    let (first, count) = match number("SYNCLINE_MODEL_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("SYNCLINE_MODEL_FIRST").unwrap_or(FIRST_SEED),
            number("SYNCLINE_MODEL_SCHEDULES").unwrap_or(SCHEDULES),
        ),
    };
    assert!(count > 0, "SYNCLINE_MODEL_SCHEDULES=0: no schedule would run");
    let begin = Instant::now();
    let minutes = number("SYNCLINE_MODEL_MINUTES");
    let count = if minutes.is_some() { u64::MAX - first } else { count };
    let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let work = || {
        let mut total = schedule::Report::default();
        let mut failures = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || limit.is_some_and(|limit| begin.elapsed() >= limit) {
                return (total, failures);
            }
            match run(seed) {
                Ok(report) => total.add(&report),
                Err(why) => {
                    println!(
                        "schedule {seed} fails, repeat it with SYNCLINE_MODEL_SEED={seed} \
                         cargo test -p syncline-tests --test model the_destination_converges: {why}"
                    );
                    failures.push(seed);
                }
            }
        }
    };
    let mut total = schedule::Report::default();
    let mut failures = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (report, failed) = worker.join().unwrap();
            total.add(&report);
            failures.extend(failed);
        }
    });
    failures.sort_unstable();
    // Each worker has taken one that it did not run.
    let count = count.min(next.into_inner() - first - threads as u64);
    println!(
        "{count} schedules in {:.1} s: {} crashes, {} pauses, {} calls, {} changes, {} checks",
        begin.elapsed().as_secs_f64(),
        total.crashes,
        total.pauses,
        total.steps,
        total.changes,
        total.checks
    );
    assert!(total.checks > 0 || count == 1, "no saved position was checked");
    assert!(failures.is_empty(), "{} of {count} schedules fail: {failures:?}", failures.len());
}
