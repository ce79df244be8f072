//! Generated bindings and the glue between them and the traits. Only on wasm; no part of the API.

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from the WIT text"
)]
pub mod filter {
    wit_bindgen::generate!({
        path: "../wit",
        world: "document-filter",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_filter",
        default_bindings_module: "syncline_sdk::bindings::filter",
    });
}
#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from the WIT text"
)]
pub mod identity {
    wit_bindgen::generate!({
        path: "../wit",
        world: "identity-provider",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_identity",
        default_bindings_module: "syncline_sdk::bindings::identity",
    });
}
pub mod filter_glue;
pub mod identity_glue;

use std::sync::Once;

/// Sends the text of a panic to the log before the instance ends.
fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            crate::log::emit(crate::log::Level::Error, &info.to_string(), &[("panic", "true")]);
        }));
    });
}
