//! The change stream: read, route, apply, remember how far.
//!
//! Invariant: what is not yet on the destination holds the saved position back.

mod applier;
mod bulk;
mod ddl;
mod floor;
mod router;

pub(crate) use applier::bring;
pub(crate) use router::{Router, StreamStatus};
