//! Stand-ins for what OIDC tests need and no machine of ours has: an identity provider with Azure's
//! metadata endpoint ([`idp`]), and a server that speaks `MONGODB-OIDC` ([`gateway`]), which only
//! MongoDB Enterprise and Atlas do.
//!
//! The gateway is a stand-in, built after the documented behaviour. Passing against it is strong
//! evidence and not proof; it must never accept what the real server refuses.

pub mod clients;
pub mod clouds;
mod failing;
pub mod gateway;
mod hello;
pub mod idp;
mod imds;
pub mod keys;
pub mod people;
pub mod robot;
mod session;
mod shadow;
mod tls;
pub mod trust;
mod wire;

#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;
