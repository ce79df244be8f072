//! Compiles guest crates of this workspace to components, from a build script.
//!
//! The build is a cargo of its own inside `OUT_DIR`: the outer one holds the lock of its target
//! directory while this runs. Guests are built for `wasm32-unknown-unknown`, whose code imports
//! nothing, and made into components here; so a component imports what its code uses of the
//! contract and no more.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use wit_component::ComponentEncoder;

/// What guests are compiled for.
const TARGET: &str = "wasm32-unknown-unknown";

/// One guest crate.
pub(crate) struct Guest {
    /// Package name.
    pub(crate) package: String,
    /// Folder from the root of the workspace.
    pub(crate) folder: String,
}

/// The folder that holds the workspace's `Cargo.lock`.
pub(crate) fn workspace_root() -> Result<PathBuf, String> {
    let here = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    Path::new(&here)
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").is_file() && folder.join("wit").is_dir())
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("no folder above {here} holds Cargo.lock and wit/"))
}

/// Builds the guests and returns the paths of their components, in order.
pub(crate) fn build(root: &Path, guests: &[Guest], out_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let shared =
        ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "wit", "sdk/src", "sdk/Cargo.toml"];
    for path in shared {
        watch(root, path)?;
    }
    for guest in guests {
        for part in ["src", "Cargo.toml"] {
            watch(root, &format!("{}/{part}", guest.folder))?;
        }
    }
    ensure_target(root)?;
    let target_dir = out_dir.join("guests");
    compile(root, guests, &target_dir)?;
    let modules = target_dir.join(TARGET).join("plugin");
    guests
        .iter()
        .map(|guest| {
            let module = modules.join(format!("{}.wasm", guest.package.replace('-', "_")));
            let component = out_dir.join(format!("{}.component.wasm", guest.package));
            encode(&module, &component).map(|()| component)
        })
        .collect()
}

/// Runs the build script again when something below the root changes. The path is written from
/// the package's folder: an absolute one would tie a shared target directory to one checkout.
pub(crate) fn watch(root: &Path, path: &str) -> Result<(), String> {
    let here = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
    let depth = Path::new(&here).strip_prefix(root).map_err(|error| error.to_string())?;
    let up = "../".repeat(depth.components().count());
    println!("cargo::rerun-if-changed={up}{path}");
    Ok(())
}

/// Makes a component of a core module.
fn encode(module: &Path, component: &Path) -> Result<(), String> {
    let bytes = fs::read(module).map_err(|error| format!("{}: {error}", module.display()))?;
    let encoded = ComponentEncoder::default()
        .module(&bytes)
        .and_then(|encoder| encoder.validate(true).encode())
        .map_err(|error| format!("{} makes no component: {error:#}", module.display()))?;
    fs::write(component, encoded).map_err(|error| format!("{}: {error}", component.display()))
}

/// Compiles the guests in one go.
fn compile(root: &Path, guests: &[Guest], target_dir: &Path) -> Result<(), String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--locked", "--profile", "plugin", "--target", TARGET, "--target-dir"])
        .arg(target_dir);
    for guest in guests {
        command.args(["--package", &guest.package]);
    }
    clean_environment(&mut command);
    let output = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "the plugins do not compile for {TARGET}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Takes away what the outer cargo set for its own compilation: it would change the guests or hand
/// them to clippy. `CARGO_HOME`, proxies and the offline switch stay.
fn clean_environment(command: &mut Command) {
    let own = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "CLIPPY_ARGS",
        "CLIPPY_CONF_DIR",
        "__CARGO_DEFAULT_LIB_METADATA",
    ];
    let prefixes = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "DEP_",
    ];
    let exact = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_MANIFEST_LINKS",
        "CARGO_MAKEFLAGS",
        "MAKEFLAGS",
        "MFLAGS",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if text == "CARGO_BUILD_JOBS" {
            continue;
        }
        if own.contains(&text)
            || exact.contains(&text)
            || prefixes.iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

/// Adds the target to the toolchain when it is missing.
fn ensure_target(root: &Path) -> Result<(), String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .current_dir(root)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("cannot start rustc: {error}"))?;
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && Path::new(&folder).is_dir() {
        return Ok(());
    }
    println!("cargo::warning=adding the Rust target {TARGET} by rustup; plugins are built for it");
    let added = Command::new("rustup").current_dir(root).args(["target", "add", TARGET]).output();
    match added {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "`rustup target add {TARGET}` failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!(
            "the Rust target {TARGET} is missing and rustup cannot be started ({error}); \
             install the target with your toolchain's own means"
        )),
    }
}
