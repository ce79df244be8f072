//! Tools that make components of other languages: fetched by name from their registries into the cache
//! folder, in the versions that the templates pin. They are used where npm and Python are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    guests::{repository, succeed},
    mongod::cache_dir,
};

/// Where the templates stand, which pin the versions.
const TEMPLATES: &str = "host/src/plugin/author/templates";

/// Whether a program can be run at all.
fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Fetches a tool with the commands given, which leave `program`; `false`, after a note, where that
/// fails, as it does without a network.
fn fetch(program: &Path, commands: &mut [&mut Command]) -> bool {
    if program.exists() {
        return true;
    }
    let failed = commands.iter_mut().find_map(|command| succeed(command).err());
    if let Some(error) = &failed {
        eprintln!("{} cannot be fetched, nothing is built with it: {error:#}", program.display());
    }
    failed.is_none() && program.exists()
}

/// The folder of `jco`, for the `PATH`; `None`, after a note, where npm is not there or has no network.
///
/// # Errors
/// When the version that the template pins cannot be read.
pub fn jco() -> Result<Option<PathBuf>> {
    if !is_there("npm") {
        eprintln!("there is no npm: nothing is built from JavaScript");
        return Ok(None);
    }
    let text = fs::read_to_string(repository().join(TEMPLATES).join("js/package.json"))?;
    let package: serde_json::Value = serde_json::from_str(&text)?;
    let version = package["devDependencies"]["@bytecodealliance/jco"].as_str();
    let version = version.context("the template pins no jco")?;
    let folder = cache_dir().join(format!("jco-{version}"));
    let programs = folder.join("node_modules/.bin");
    fs::create_dir_all(&folder)?;
    let package = format!("@bytecodealliance/jco@{version}");
    let mut install = Command::new("npm");
    install.args(["install", "--prefix"]).arg(&folder).arg(package);
    Ok(fetch(&programs.join("jco"), &mut [&mut install]).then_some(programs))
}

/// `componentize-py`; `None`, after a note, where Python is not there or has no network.
///
/// # Errors
/// When the version that the template pins cannot be read.
pub fn componentize_py() -> Result<Option<PathBuf>> {
    if !is_there("python3") {
        eprintln!("there is no python3: nothing is built from Python");
        return Ok(None);
    }
    let path = repository().join(TEMPLATES).join("python/requirements.txt");
    let requirement = fs::read_to_string(path)?.trim().to_owned();
    let (name, version) = requirement.split_once("==").context("the template pins no version")?;
    let folder = cache_dir().join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv"]).arg(&folder);
    let mut install = Command::new(folder.join("bin/pip"));
    install.args(["install", "--quiet", &requirement]);
    Ok(fetch(&program, &mut [&mut environment, &mut install]).then_some(program))
}

/// The present `PATH` with a folder in front of it.
///
/// # Errors
/// When it cannot be put together.
pub fn path_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(all)?)
}
