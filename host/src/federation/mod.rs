//! Workforce federation of the control API: whether a request's bearer token is good, whose it is,
//! and whether that caller may do what it asks for.
//!
//! ```text
//! request ──► size, shape ──► header ──► issuer's key by kid ──► signature ──► claims
//!                                                                               │
//!             audit line ◄── decision ◄── restrictions ◄── roles and actions ◄──┘
//! ```
//!
//! It does not know HTTP's server side (`api` asks [`Access::decide`] and answers) and gets no tokens
//! of its own (`identity` does).
//!
//! Invariant: nothing of a token that is not verified is used, except to find the key; no token
//! leaves this room, neither in a log nor in an answer.

mod access;
mod audit;
mod cache;
mod claims;
mod config;
mod fetch;
mod json;
mod keys;
mod store;
mod token;

pub use access::{Access, Decision, Question};
pub use audit::Audit;
pub use config::{Action, Federation};
pub use store::Store;
