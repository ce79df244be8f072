//! The wasmtime engines and the clock that interrupts their guests.
//!
//! Filters and identity providers never share an engine, so not even recycled memory: one kind sees
//! documents, the other tokens. Both run on fibers that yield to the executor at every tick, so
//! a guest that computes for long holds up no other task, and a deadline is an ordinary time-out.

use std::{thread, time::Duration};

use wasmtime::{Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::limits::MAX_TABLE_ELEMENTS;
use crate::error::{Error, Kind, Result};

/// Time between two ticks. A guest is interrupted at the tick after its time is up.
const TICK: Duration = Duration::from_millis(5);
/// Instances of all filters together that can be alive at once.
const POOLED: u32 = 512;
/// Memory of a filter instance that stays resident while it waits for its next use, in bytes.
const KEEP_RESIDENT: usize = 2 * 1024 * 1024;
/// Largest memory the pool can give; a plugin's own limit is below.
const POOLED_MEMORY: usize = 4 * 1024 * 1024 * 1024;
/// Settings that verdicts depend on, part of every fingerprint.
pub(crate) const SETTINGS: &str = "nan-canonical";

/// An engine for each world.
#[derive(Clone)]
pub(crate) struct Engines {
    /// Document filters: pooled instances.
    pub(crate) filter: Engine,
    /// Identity providers: a fresh instance per call.
    pub(crate) identity: Engine,
}

impl Engines {
    /// Builds the engines and starts the ticker, which ends with the last of them.
    ///
    /// # Errors
    /// `Internal` when this machine can run no engine.
    pub(crate) fn new() -> Result<Self> {
        let engine = |config: &Config| {
            Engine::new(config).map_err(|error| {
                Error::new(Kind::Internal, "no WebAssembly engine").caused_by(error)
            })
        };
        let mut pooled = base();
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        // The pool reserves address space up front; where that is limited, filters are slower.
        let filter = Engine::new(&pooled).or_else(|error| {
            tracing::warn!(%error, "no pooled plugin instances, address space is limited");
            engine(&base())
        })?;
        let engines = Self { filter, identity: engine(&base())? };
        start_ticker(vec![engines.filter.weak(), engines.identity.weak()])?;
        Ok(engines)
    }
}

/// What both engines have in common.
fn base() -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(1024 * 1024)
        .async_stack_size(2 * 1024 * 1024)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false);
    config
}

/// The pool of filter instances.
fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(POOLED)
        .total_core_instances(POOLED * 8)
        .total_memories(POOLED)
        .total_tables(POOLED * 4)
        .total_stacks(POOLED)
        .total_gc_heaps(1)
        .max_memory_size(POOLED_MEMORY)
        .max_unused_warm_slots(16)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_elements(MAX_TABLE_ELEMENTS);
    pool
}

/// Starts the thread that moves the epochs.
fn start_ticker(engines: Vec<EngineWeak>) -> Result<()> {
    thread::Builder::new()
        .name("plugin-ticker".to_owned())
        .spawn(move || {
            loop {
                thread::sleep(TICK);
                let mut alive = false;
                for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                    engine.increment_epoch();
                    alive = true;
                }
                if !alive {
                    return;
                }
            }
        })
        .map(drop)
        .map_err(|error| Error::new(Kind::Internal, "no thread for plugins").caused_by(error))
}
