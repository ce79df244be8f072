//! Plugins that are no part of the workspace: built as their authors build them.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};

/// What plugins are compiled for.
const TARGET: &str = "wasm32-wasip2";

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Folder for builds of other workspaces, beside this program's own.
fn target(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell which program this is")?;
    let target = own.ancestors().find(|folder| folder.ends_with("target"));
    Ok(target.context("this program was not built by cargo")?.join(name))
}

/// A cargo of its own in a folder.
fn cargo(folder: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    command.current_dir(folder).stdin(Stdio::null());
    // What cargo told this program about its own package is not for the next build.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Errors
/// When it cannot be started or fails, with what it wrote.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Builds the component of a plugin that is a package by itself, once in this process, and returns its
/// path. What it lists as locked is what it gets.
///
/// # Errors
/// When it does not compile.
pub fn component(folder: &Path, package: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(package) {
        return Ok(path.clone());
    }
    let path = component_into(folder, package, package)?;
    built.insert(package.to_owned(), path.clone());
    Ok(path)
}

/// Builds the component of a package into a target folder of this name and returns its path.
///
/// # Errors
/// When it does not compile.
pub fn component_into(folder: &Path, package: &str, name: &str) -> Result<PathBuf> {
    let target = target(name)?;
    let mut command = cargo(folder);
    command
        .args(["build", "--quiet", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target);
    if package == name {
        command.arg("--locked");
    }
    succeed(&mut command)?;
    let name = format!("{}.wasm", package.replace('-', "_"));
    let path = target.join(TARGET).join("release").join(name);
    ensure!(path.is_file(), "cargo built nothing at {}", path.display());
    Ok(path)
}

/// Runs the native tests of a package by itself.
///
/// # Errors
/// When one fails.
pub fn native_tests(folder: &Path, package: &str) -> Result<String> {
    succeed(cargo(folder).args(["test", "--target-dir"]).arg(target(package)?))
}

/// The component and the manifest of `plugins/client-credentials`, side by side in a folder.
///
/// # Errors
/// When it does not compile.
pub fn client_credentials(folder: &Path) -> Result<PathBuf> {
    let plugin = repository().join("plugins/client-credentials");
    let built = component(&plugin, "client-credentials")?;
    let placed = folder.join("client-credentials.wasm");
    std::fs::copy(built, &placed)?;
    std::fs::copy(plugin.join("plugin.toml"), placed.with_extension("toml"))?;
    Ok(placed)
}
