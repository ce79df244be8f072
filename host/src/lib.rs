//! Syncline: an open MongoDB sync platform, extensible with WASM plugins.
//!
//! Rooms, from the edge inwards: `app` builds everything and owns start and stop; `api` is the
//! HTTP control API and `client` its command-line client; `engine` is the sync; `mongo`,
//! `plugin` and `identity` implement the `ports` over the driver, wasmtime and the token
//! service; `person` is the browser and the terminal of whoever logs in; `federation` judges the callers of the API; `model` is the data they share; `config`, `error`, `telemetry` and `tasks`
//! serve everyone. `ARCHITECTURE.md` is the map.
#![deny(unsafe_code)]

pub mod api;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod error;
pub mod federation;
pub mod identity;
pub mod model;
pub mod mongo;
pub mod person;
pub mod plugin;
pub mod ports;
pub mod tasks;
pub mod telemetry;
