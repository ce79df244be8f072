//! Plain data that rooms share: namespaces, cluster times, batches, change events, options and the
//! published progress. No I/O, no driver, no serde.
//!
//! Invariant: this room imports only `error`; BSON is allowed because BSON is the data.

pub mod address;
pub mod author;
pub mod batch;
pub mod change;
pub mod facts;
pub mod gate;
pub mod namespace;
pub mod options;
pub mod order;
pub mod plugin;
pub mod progress;
pub mod timestamp;
pub mod token;
pub mod verification;

pub use batch::Batch;
pub use namespace::Namespace;
pub use timestamp::ClusterTime;

/// Largest document a server stores, in bytes (16 MiB).
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
/// Largest command a server takes, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 48_000_000;
/// Most operations in one write command.
pub const MAX_WRITE_BATCH: usize = 100_000;
