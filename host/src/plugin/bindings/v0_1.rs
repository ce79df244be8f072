//! `syncline:plugin@0.1` and `syncline:host@0.1`.

/// World `document-filter`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from the WIT text"
)]
pub(crate) mod filter {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "syncline:plugin/document-filter",
        exports: { default: async },
    });
}

/// World `identity-provider`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated from the WIT text"
)]
pub(crate) mod identity {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "syncline:plugin/identity-provider",
        imports: {
            "syncline:host/http.send": async,
            "syncline:host/clock.sleep-ms": async,
            "syncline:host/files.read": async,
            "syncline:host/secrets.send-with": async,
            "syncline:host/secrets.sign-jwt": async,
            "syncline:host/interaction.listen": async,
            "syncline:host/interaction.browse": async,
        },
        exports: { default: async },
        with: { "syncline:host/log": super::filter::syncline::host::log },
    });
}
