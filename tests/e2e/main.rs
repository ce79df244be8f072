//! End-to-end tests on real servers, one module per area.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests own their tasks through the runtime of the test and measure real time"
)]

mod abort;
mod api;
mod author;
mod blocking;
mod builds;
mod commit;
mod copy;
mod dataset;
mod ddl;
mod faults;
mod federation;
mod gatekeeping;
mod harness;
mod identity;
mod indexes;
mod matrix;
mod names;
mod oidc_spec;
mod order;
mod people;
mod plugins;
mod preflight;
mod progress;
mod provider_answers;
mod providers;
mod quarantine;
mod queries;
mod resume;
mod reverse;
mod rooms;
mod shapes;
mod stand_in;
mod stream;
mod support;
mod traps;
mod verify;
