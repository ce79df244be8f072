//! The MongoDB room: the ports `Source`, `Destination` and `StateStore` over the driver.
//!
//! Commands are raw and explicit about read and write concern; transient failures are retried here,
//! once, and nowhere above. Server error numbers appear only in `classify`.
//!
//! Invariant: no other room names a type of the `mongodb` crate (but the OIDC callback).

mod blocking;
mod classify;
mod client;
mod destination;
mod facts;
mod retry;
mod source;
mod store;
mod topology;
mod underway;

pub use client::{Connection, connect};
pub(crate) use destination::MongoDestination;
pub(crate) use source::MongoSource;
pub(crate) use store::MongoStore;
