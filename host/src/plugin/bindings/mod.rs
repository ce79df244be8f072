//! Generated bindings, one file per track of the contract that this host speaks.

pub(crate) mod v0_1;
