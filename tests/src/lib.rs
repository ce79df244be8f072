//! Test harness of Syncline: real servers, real daemons, faults, workloads and an independent
//! comparison of two clusters. Nothing here is part of the product.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests own their tasks through the runtime of the test and measure real time"
)]

pub mod bench;
pub mod binary;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod compare;
pub mod daemon;
pub mod eventually;
pub mod fake;
pub mod faults;
pub mod guests;
pub mod mongod;
pub mod oidc;
pub mod ports;
pub mod process;
pub mod public_data;
pub mod random;
pub mod server;
pub mod toolchains;
pub mod workload;

/// Installs the process-wide TLS provider. Every harness entry point calls it; calling it again does
/// nothing. With two providers compiled in, rustls would otherwise refuse to choose.
pub fn install_crypto() {
    // An error only says that some provider is installed already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
