//! Tests of the room against real components.

mod conformance;
mod contract;
mod faults;
mod fuzz;
mod grants;
mod guest;
mod hostile;
mod identity;
mod inert;
mod limits;
mod loading;
mod match_documents;
mod secrets;
mod trust;

use crate::{
    error::Error,
    model::{Namespace, plugin::PluginSpec},
    plugin::Registry,
};

/// A registry with one plugin.
async fn load(spec: PluginSpec) -> Result<Registry, Error> {
    Registry::load(vec![spec]).await
}

/// The error of loading one plugin.
async fn refusal(spec: PluginSpec) -> Error {
    match load(spec).await {
        Ok(_) => panic!("the plugin was loaded"),
        Err(error) => error,
    }
}

/// Where test documents live.
fn users() -> Namespace {
    Namespace::parse("app.users").unwrap()
}
