//! The collection copy: cut collections into `_id` ranges, read them raw, write them raw.
//!
//! Invariant: no document is decoded here.

mod order;
mod plan;
mod pool;

pub(crate) use pool::run;
