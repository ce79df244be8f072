//! Finds the `syncline` binary, building it when it is missing or stale.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};

/// Path of the daemon's binary, up to date with the sources. Built once per process, with the profile
/// and into the target folder of the program that asks. `SYNCLINE_BIN` names another one.
///
/// # Errors
/// When cargo cannot build it.
pub fn locate() -> Result<PathBuf> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| search().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|text| anyhow::anyhow!(text))
}

/// Takes the named one or builds.
fn search() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SYNCLINE_BIN").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let own = env::current_exe().context("cannot tell which program this is")?;
    let folder = profile_folder(&own).context("this program was not built by cargo")?;
    let target = folder.parent().context("the profile folder has no parent")?;
    let release = folder.file_name().is_some_and(|name| name == "release");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut build = Command::new(cargo);
    // Both packages are named, so that cargo settles on the same features as for this program and
    // nothing but the binary itself is left to build.
    build
        .args(["build", "--quiet", "--package", "syncline", "--package", "syncline-tests"])
        .args(["--bin", "syncline", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null());
    if release {
        build.arg("--release");
    }
    // What cargo told this program about its own package is not for the next build.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&key);
        }
    }
    let output = build.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo cannot build syncline:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let binary = folder.join("syncline");
    if !binary.is_file() {
        bail!("cargo built syncline, but not at {}", binary.display());
    }
    Ok(binary)
}

/// `…/target/debug` for `…/target/debug/deps/e2e-…` and `…/target/debug/demo`.
fn profile_folder(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    if folder.ends_with("deps") {
        folder.parent().map(Path::to_path_buf)
    } else {
        Some(folder.into())
    }
}
