//! WASM plugins: loading, limiting and calling components of the two worlds.
//!
//! A plugin is bytes until `load` has checked its digest, what it exports and what it imports;
//! only then is it compiled. What it may do is what its manifest asks for **and** the operator
//! grants (`grant`); what it may use up stands in `limits`. The rest of the host sees the ports
//! `DocumentFilter` and `TokenIssuer` and a [`Registry`].
//!
//! Invariant: the only room that names `wasmtime`; it imports `ports`, `model` and `error` alone.

pub mod author;
mod bindings;
mod cache;
mod context;
mod egress;
mod engine;
mod filter;
mod flat;
mod grant;
mod identity;
mod imports;
mod inspect;
mod interaction;
mod limits;
mod load;
mod manifest;
mod output;
mod registry;
mod schema;
mod secrets;
mod signature;
#[cfg(test)]
mod tests;
mod times;

pub use registry::Registry;
