//! Builds the first-party plugins as components.
#[path = "guest_build.rs"]
mod guest_build;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    write(&out_dir.join("table.rs"), &table)?;
    let manifest = out_dir.join("sdk.toml");
    write(&manifest, &sdk_manifest(&root)?)?;
    let mut table = format!("&[\n    (\"sdk/Cargo.toml\", include_str!({manifest:?})),\n");
    for folder in ["sdk/src", "wit"] {
        for path in files(&root.join(folder))? {
            let name = path.strip_prefix(&root).map_err(|error| error.to_string())?;
            table.push_str(&format!("    ({name:?}, include_str!({path:?})),\n"));
        }
    }
    table.push_str("]\n");
    write(&out_dir.join("sdk.rs"), &table)
}

/// Writes a generated file.
fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Every file below a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The SDK's manifest without its workspace: what it inherits is written out.
fn sdk_manifest(root: &Path) -> Result<String, String> {
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).map_err(|error| format!("cannot read {path}: {error}"))
    };
    let (workspace, sdk) = (read("Cargo.toml")?, read("sdk/Cargo.toml")?);
    let inherited = |key: &str| {
        let line = workspace.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.ok_or_else(|| format!("Cargo.toml has no line for {key}"))
    };
    let mut text = String::new();
    for line in sdk.lines() {
        if line == "[lints]" {
            break;
        }
        let line = match line.split_once(['.', ' ']) {
            Some((key, "workspace = true" | "workspace.workspace = true")) => {
                format!("{key} = {}", inherited(key)?)
            }
            Some((key, "= { workspace = true, optional = true }")) => {
                let table = inherited(key)?;
                let table = table.strip_suffix(" }").ok_or(format!("{key} is no table"))?;
                format!("{key} = {table}, optional = true }}")
            }
            _ => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text.trim_end().to_owned() + "\n")
}
