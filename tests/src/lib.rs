//! Test harness of Syncline.

pub mod oidc;
