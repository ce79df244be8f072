//! What the author of a Syncline plugin depends on: a trait per world, typed configuration, a
//! read-only view of BSON, the host's functions, and a macro that makes a component of it.
//!
//! A filter that keeps active users:
//!
//! ```
//! use syncline_sdk::{DocumentFilter, Namespace, Verdict, bson, config::ConfigError};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     /// Status a document must have.
//!     status: String,
//! }
//!
//! struct ByStatus(Config);
//!
//! impl DocumentFilter for ByStatus {
//!     type Config = Config;
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         Ok(Self(config))
//!     }
//!
//!     fn judge(
//!         &self,
//!         _: &Namespace<'_>,
//!         document: bson::Document<'_>,
//!     ) -> Result<Verdict, bson::Malformed> {
//!         let kept = match document.get("status")? {
//!             Some(bson::Value::String(status)) => status == self.0.status,
//!             _ => false,
//!         };
//!         Ok(if kept { Verdict::Keep } else { Verdict::Drop })
//!     }
//! }
//!
//! syncline_sdk::export_document_filter!(ByStatus);
//! # fn main() {}
//! ```
//!
//! Make it a `cdylib`, build it with `cargo build --release --target wasm32-wasip2`, and the file is
//! the plugin. The export macro emits nothing for other targets, so `cargo test` runs the logic
//! natively; the feature `testing` brings a fake host for it.
//!
//! A panic is the end of the instance; its text is logged before.

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
pub mod bson;
pub mod config;
mod export;
pub mod filter;
pub mod host;
pub mod http;
pub mod identity;
pub mod log;
pub mod oauth;
pub mod path;
pub mod secrets;
#[cfg(feature = "testing")]
pub mod testing;

pub use filter::{DocumentFilter, Namespace, Plan, Verdict};
pub use host::{DeviceCode, Host, HostError};
pub use identity::IdentityProvider;
