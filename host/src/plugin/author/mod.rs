//! What the author of a plugin asks of the host, without a daemon and without clusters: what is in a
//! file, whether it keeps the contract, what it makes of documents, how fast it is, and the beginning
//! of a new one.
//!
//! A plugin is loaded as the daemon loads it and judged by the same calls; only its grants are what
//! its manifest asks for, and no identity provider reaches the network.

mod conformance;
mod corpus;
mod golden;
mod project;
mod provider;
mod run;
mod speed;
mod subject;

pub use conformance::conform;
pub use project::create;
pub use run::judge;
pub use speed::measure;
pub use subject::inspect;
