//! Outbound credentials: which identity provider a connection string asks for, and the token
//! service that stands between the MongoDB driver and that provider.
//!
//! It does not know how a provider gets its token (that is a plugin behind
//! [`crate::ports::TokenIssuer`]) and it does not open connections.
//!
//! Invariant: tokens and passwords leave this room only inside `SecretString` or inside the
//! driver's own callback answer; only `driver` names types of the `mongodb` crate.

pub mod driver;
mod hosts;
mod renewal;
pub mod source;
mod token;
pub mod uri;

pub use source::{MAX_LOST_REFRESHES, TokenService, reason_of};
pub use token::life_of;
pub use uri::{AKS, ClusterUri, OidcSpec, Overrides, WORKFORCE};
