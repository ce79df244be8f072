//! What a plugin may use up. Every limit has a default and a named error.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::model::plugin::{LimitOverrides, World};

/// One mebibyte.
const MIB: usize = 1024 * 1024;

/// Largest component that is read, in bytes.
pub(crate) const MAX_COMPONENT_BYTES: u64 = 64 * 1024 * 1024;

/// Things of the host that an instance can hold at once: streams, places to wait at and so on.
pub(crate) const MAX_RESOURCES: usize = 1000;

/// Elements a table can have at most: what the pool of instances has room for.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 10_000;

/// The limits of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Linear memory of an instance, in bytes.
    pub(crate) memory_bytes: usize,
    /// Elements of an instance's tables.
    pub(crate) table_elements: usize,
    /// Time for one call. An identity provider's call also ends with the caller's own budget.
    pub(crate) deadline: Duration,
    /// Time for one call in which a person logs in.
    pub(crate) person_deadline: Duration,
    /// Lines in the log per second.
    pub(crate) log_lines: u32,
    /// Length of a line in the log, in bytes.
    pub(crate) log_line_bytes: usize,
    /// HTTP requests in one call.
    pub(crate) http_requests: u32,
    /// HTTP requests of all calls under way at once.
    pub(crate) http_at_once: u32,
    /// Time for one HTTP request.
    pub(crate) http_timeout: Duration,
    /// Longest HTTP body, either way, in bytes.
    pub(crate) http_body_bytes: usize,
    /// Longest file that is read, in bytes.
    pub(crate) file_bytes: usize,
}

impl Limits {
    /// The defaults of a world with what the operator changed.
    pub(crate) fn new(world: World, overrides: &LimitOverrides) -> Self {
        let (memory_bytes, deadline) = match world {
            World::DocumentFilter => (64 * MIB, Duration::from_secs(2)),
            World::IdentityProvider => (32 * MIB, Duration::from_secs(60)),
        };
        let size = |changed: Option<u64>, default: usize| {
            changed.map_or(default, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
        };
        Self {
            memory_bytes: size(overrides.memory_bytes, memory_bytes),
            table_elements: size(overrides.table_elements, MAX_TABLE_ELEMENTS),
            deadline: overrides.deadline.unwrap_or(deadline),
            person_deadline: overrides.deadline.unwrap_or(Duration::from_secs(300)),
            log_lines: overrides.log_lines.unwrap_or(100),
            log_line_bytes: 4096,
            http_requests: overrides.http_requests.unwrap_or(8),
            http_at_once: overrides.http_at_once.unwrap_or(2),
            http_timeout: overrides.http_timeout.unwrap_or(Duration::from_secs(10)),
            http_body_bytes: size(overrides.http_body_bytes, MIB),
            file_bytes: size(overrides.file_bytes, MIB),
        }
    }

    /// Bytes a filter may answer to a batch of this size: replacements may grow, not without bound.
    pub(crate) fn output_bytes(input: usize) -> usize {
        input.saturating_mul(4).saturating_add(MIB)
    }
}

/// Refuses growth beyond the limits and remembers that it did: a guest whose memory is refused
/// mostly just crashes, and the operator should learn why.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Memory still to be had, in bytes.
    memory_left: usize,
    /// Limit on tables.
    table_elements: usize,
    /// What was refused, if anything.
    refused: Option<String>,
}

impl Limiter {
    /// A limiter of one instance.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory_left: limits.memory_bytes,
            table_elements: limits.table_elements,
            refused: None,
        }
    }

    /// What was refused since the last call of this.
    pub(crate) fn take_refused(&mut self) -> Option<String> {
        self.refused.take()
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        match self.memory_left.checked_sub(more) {
            Some(left) => {
                self.memory_left = left;
                Ok(true)
            }
            None => {
                self.refused = Some(format!(
                    "{more} more bytes of memory were asked for, {} of limits.memoryBytes are left",
                    self.memory_left
                ));
                Ok(false)
            }
        }
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired <= self.table_elements {
            return Ok(true);
        }
        self.refused = Some(format!(
            "a table of {desired} elements was asked for, {} is limits.tableElements",
            self.table_elements
        ));
        Ok(false)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        16
    }

    fn memories(&self) -> usize {
        8
    }
}
