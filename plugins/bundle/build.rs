//! Builds the first-party plugins as components.
#[path = "guest_build.rs"]
mod guest_build;

use std::{env, fs, path::Path, process::ExitCode};

/// Folder names under `plugins/`, which are also the names of the plugins.
const PLUGINS: &[&str] = &[
    "azure-aks",
    "azure-imds",
    "gcp",
    "match-documents",
    "redact-fields",
    "rename-fields",
    "token-file",
    "workforce-oidc",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={}", message.replace('\n', "\ncargo::error="));
            ExitCode::FAILURE
        }
    }
}

/// Compiles every plugin and writes the table that `lib.rs` includes.
fn run() -> Result<(), String> {
    let out_dir = env::var("OUT_DIR").map_err(|error| format!("OUT_DIR: {error}"))?;
    let out_dir = Path::new(&out_dir);
    let root = guest_build::workspace_root()?;
    let guests: Vec<guest_build::Guest> = PLUGINS
        .iter()
        .map(|name| guest_build::Guest {
            package: format!("syncline-plugin-{name}"),
            folder: format!("plugins/{name}"),
        })
        .collect();
    let components = guest_build::build(&root, &guests, out_dir)?;
    let mut table = String::from("&[\n");
    for (name, component) in PLUGINS.iter().zip(&components) {
        let manifest = root.join("plugins").join(name).join("plugin.toml");
        guest_build::watch(&root, &format!("plugins/{name}/plugin.toml"))?;
        table.push_str(&format!(
            "    Builtin {{ name: {name:?}, component: include_bytes!({component:?}), \
             manifest: include_str!({manifest:?}) }},\n"
        ));
    }
    table.push_str("]\n");
    let path = out_dir.join("table.rs");
    fs::write(&path, table).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
