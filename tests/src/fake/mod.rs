//! Clusters in memory behind the engine's ports, with a seeded adversary between: delays, lost
//! replies, broken scans, stale (but majority-committed) reads, and the end of the process at any
//! call.

pub mod chaos;
pub mod cluster;
pub mod destination;
pub mod documents;
pub mod events;
pub mod filter;
pub mod source;
pub mod store;

pub use chaos::{Chaos, Faults, Life};
pub use cluster::Cluster;
pub use destination::FakeDestination;
pub use filter::KeepSmall;
pub use source::FakeSource;
pub use store::{FakeStore, Tables};
