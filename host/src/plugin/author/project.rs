//! The beginning of a plugin: a folder with everything that is needed to build and to test it.
//!
//! The contract and the Rust SDK come out of this program, so that what is begun fits the host it is
//! begun with, and no checkout or registry is needed for them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Kind, Result},
    model::{
        author::{Language, Project},
        plugin::World,
    },
};

/// A file of a template: where it goes, and its text. `@name@` and `@crate@` are replaced in both.
type Template = (&'static str, &'static str);

/// A filter in Rust.
const RUST_FILTER: &[Template] = &[
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.in")),
    ("plugin.toml", include_str!("templates/filter-plugin.toml")),
    ("src/lib.rs", include_str!("templates/rust/filter.rs.in")),
    ("tests/golden/example.json", include_str!("templates/filter-example.json")),
    ("README.md", include_str!("templates/rust/filter-readme.md")),
    (".gitignore", "/target\n"),
];
/// A provider in Rust.
const RUST_PROVIDER: &[Template] = &[
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.in")),
    ("plugin.toml", include_str!("templates/provider-plugin.toml")),
    ("src/lib.rs", include_str!("templates/rust/provider.rs.in")),
    ("README.md", include_str!("templates/rust/provider-readme.md")),
    (".gitignore", "/target\n"),
];
/// A filter in JavaScript.
const JS_FILTER: &[Template] = &[
    ("package.json", include_str!("templates/js/package.json")),
    ("plugin.toml", include_str!("templates/filter-plugin.toml")),
    ("filter.js", include_str!("templates/js/filter.js")),
    ("bson.js", include_str!("templates/js/bson.js")),
    ("test.js", include_str!("templates/js/filter-test.js")),
    ("tests/golden/example.json", include_str!("templates/filter-example.json")),
    ("README.md", include_str!("templates/js/readme.md")),
    (".gitignore", "/node_modules\n/*.wasm\n"),
];
/// A provider in JavaScript.
const JS_PROVIDER: &[Template] = &[
    ("package.json", include_str!("templates/js/provider-package.json")),
    ("plugin.toml", include_str!("templates/provider-plugin.toml")),
    ("provider.js", include_str!("templates/js/provider.js")),
    ("README.md", include_str!("templates/js/provider-readme.md")),
    (".gitignore", "/node_modules\n/*.wasm\n"),
];
/// A filter in Python.
const PYTHON_FILTER: &[Template] = &[
    ("requirements.txt", include_str!("templates/python/requirements.txt")),
    ("plugin.toml", include_str!("templates/filter-plugin.toml")),
    ("app.py", include_str!("templates/python/app.py")),
    ("filter.py", include_str!("templates/python/filter.py")),
    ("judge.py", include_str!("templates/python/judge.py")),
    ("syncline_bson.py", include_str!("templates/python/syncline_bson.py")),
    ("test_filter.py", include_str!("templates/python/test_filter.py")),
    ("tests/golden/example.json", include_str!("templates/filter-example.json")),
    ("README.md", include_str!("templates/python/readme.md")),
    (".gitignore", "/.venv\n/*.wasm\n__pycache__/\n"),
];
/// A provider in Python.
const PYTHON_PROVIDER: &[Template] = &[
    ("requirements.txt", include_str!("templates/python/requirements.txt")),
    ("plugin.toml", include_str!("templates/provider-plugin.toml")),
    ("app.py", include_str!("templates/python/provider.py")),
    ("README.md", include_str!("templates/python/provider-readme.md")),
    (".gitignore", "/.venv\n/*.wasm\n__pycache__/\n"),
];

/// Makes the folder and says what to type next.
///
/// # Errors
/// `ConfigInvalid` when the name is none, the folder exists or cannot be written.
pub fn create(project: &Project) -> Result<String> {
    let name = &project.name;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !starts || name.len() > 64 || name.ends_with('-') || !name.bytes().all(fits) {
        return Err(invalid(
            "a name has up to 64 small letters, digits and dashes, a letter first",
        ));
    }
    if project.sdk.is_some() && project.language != Language::Rust {
        return Err(invalid("--sdk-path is for Rust alone; the others need no SDK"));
    }
    let folder = project.parent.join(name);
    if folder.exists() {
        return Err(invalid(&format!("{} exists already", folder.display())));
    }
    let sdk = match &project.sdk {
        Some(checkout) => sdk_of(checkout)?,
        None => "sdk".to_owned(),
    };
    for (path, text) in files(project) {
        let text = text
            .replace("@name@", name)
            .replace("@crate@", &name.replace('-', "_"))
            .replace("@sdk@", &sdk);
        write(&folder, path, &text)?;
    }
    for (path, text) in syncline_plugin_bundle::SDK {
        // Only Rust needs more than the contract, and only without a checkout.
        let wanted = match project.language {
            Language::Rust => project.sdk.is_none(),
            Language::JavaScript | Language::Python => path.starts_with("wit/"),
        };
        if wanted {
            write(&folder, path, text)?;
        }
    }
    Ok(steps(project, &folder))
}

/// The files of a project.
fn files(project: &Project) -> impl Iterator<Item = &'static Template> {
    use {Language as L, World as W};
    let files = match (project.language, project.world) {
        (L::Rust, W::DocumentFilter) => RUST_FILTER,
        (L::Rust, W::IdentityProvider) => RUST_PROVIDER,
        (L::JavaScript, W::DocumentFilter) => JS_FILTER,
        (L::JavaScript, W::IdentityProvider) => JS_PROVIDER,
        (L::Python, W::DocumentFilter) => PYTHON_FILTER,
        (L::Python, W::IdentityProvider) => PYTHON_PROVIDER,
    };
    files.iter()
}

/// The SDK's folder in a checkout.
fn sdk_of(checkout: &Path) -> Result<String> {
    let candidates = [checkout.join("sdk"), checkout.to_owned()];
    let is_sdk = |path: &&PathBuf| path.join("src/filter.rs").is_file();
    let found = candidates.iter().find(is_sdk).and_then(|path| path.canonicalize().ok());
    let found = found.ok_or_else(|| {
        invalid(&format!("--sdk-path: {} is no checkout of Syncline", checkout.display()))
    })?;
    Ok(found.display().to_string())
}

/// Writes one file, and the folders it is in.
fn write(folder: &Path, path: &str, text: &str) -> Result<()> {
    let path = folder.join(path);
    let cannot = |error: std::io::Error| {
        invalid(&format!("{} cannot be written", path.display())).caused_by(error)
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(cannot)?;
    }
    fs::write(&path, text).map_err(cannot)
}

/// An error about what was asked for.
fn invalid(what: &str) -> Error {
    Error::new(Kind::ConfigInvalid, what)
}

/// What to type next.
fn steps(project: &Project, folder: &Path) -> String {
    let name = &project.name;
    let (build, file) = match project.language {
        Language::Rust => (
            "rustup target add wasm32-wasip2\ncargo test\n\
             cargo build --release --target wasm32-wasip2"
                .to_owned(),
            format!("target/wasm32-wasip2/release/{}.wasm", name.replace('-', "_")),
        ),
        Language::JavaScript => {
            ("npm install\nnpm test\nnpm run build".to_owned(), format!("{name}.wasm"))
        }
        Language::Python => (
            format!(
                "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt\n\
                 {}.venv/bin/componentize-py -d wit -w {} componentize app -o {name}.wasm",
                if project.world == World::DocumentFilter { "python3 -m unittest\n" } else { "" },
                project.world.name(),
            ),
            format!("{name}.wasm"),
        ),
    };
    let config = match project.world {
        World::DocumentFilter => r#"{"status": "active"}"#,
        World::IdentityProvider => r#"{"tokenUrl": "https://login.example.com/token"}"#,
    };
    format!(
        "{} is made. Next:\n\ncd {}\n{build}\nsyncline plugin test {file} --config '{config}'",
        folder.display(),
        folder.display()
    )
}
