//! What the host tells about itself: the log and the metrics.
//!
//! Invariant: nothing that leaves this room holds a password or a token.

pub mod log;
pub mod metrics;
pub mod redact;
pub mod rotated;
