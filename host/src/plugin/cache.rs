//! Compiled components on disk, so that a start need not compile. What is in a file here is run as
//! machine code: the folder and its files must belong to this user and be writable to nobody else,
//! or they are not looked at. A file that is damaged is as good as none.

use std::{
    fs::{self, File, OpenOptions},
    hash::{Hash, Hasher},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use wasmtime::Engine;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// How a file begins.
const MAGIC: &[u8; 8] = b"SYNCWASM";
/// Ending of the files.
const ENDING: &str = "compiled";
/// Files that are kept; beyond that the oldest go.
const MAX_FILES: usize = 64;

/// A folder of compiled components.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Where it is.
    folder: PathBuf,
    /// The user this process runs as.
    owner: u32,
}

impl Cache {
    /// Opens a folder, which is made when it is missing. `None`, after a warning, when it cannot be
    /// used: every start then compiles.
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        match Self::try_open(folder) {
            Ok(cache) => Some(cache),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%error, %folder, "compiled plugins are not kept");
                None
            }
        }
    }

    /// Opens a folder.
    fn try_open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // Whoever owns what we create is who we are.
        let probe = temporary(folder);
        let owner = create(&probe).and_then(|file| file.metadata()).map(|found| found.uid());
        fs::remove_file(&probe)?;
        let owner = owner?;
        let found = fs::metadata(folder)?;
        if found.uid() != owner || found.mode() & 0o022 != 0 {
            return Err(io::Error::other("others can write there"));
        }
        Ok(Self { folder: folder.to_owned(), owner })
    }

    /// The code under a key.
    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut file = File::open(self.path(key)).ok()?;
        let found = file.metadata().ok()?;
        if !found.is_file() || found.uid() != self.owner || found.mode() & 0o022 != 0 {
            tracing::warn!(key, "a compiled plugin that others can write is not used");
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let sum = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<16>());
        match sum {
            Some((sum, code)) if xxh3_128(code).to_le_bytes() == *sum => Some(code.to_vec()),
            _ => {
                tracing::warn!(key, "a compiled plugin is damaged and compiled anew");
                None
            }
        }
    }

    /// Keeps code under a key. That it cannot be kept is no error.
    pub(crate) fn put(&self, key: &str, code: &[u8]) {
        if let Err(error) = self.try_put(key, code) {
            tracing::warn!(%error, key, "a compiled plugin was not kept");
        }
    }

    /// Writes a file under another name first, so that nobody sees half of it.
    fn try_put(&self, key: &str, code: &[u8]) -> io::Result<()> {
        let partial = temporary(&self.folder);
        let written = create(&partial).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&xxh3_128(code).to_le_bytes())?;
            file.write_all(code)?;
            file.sync_all()?;
            fs::rename(&partial, self.path(key))
        });
        if written.is_err() {
            // The first error is the one to tell.
            drop(fs::remove_file(&partial));
        }
        written?;
        self.prune()
    }

    /// Removes the oldest files when there are too many.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                files.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        files.sort_unstable();
        for (_, path) in files.iter().take(files.len().saturating_sub(MAX_FILES)) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Where the code of a key is.
    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.{ENDING}"))
    }
}

/// What compiled code depends on: the component, and the engine's version, settings and processor.
pub(crate) fn key(engine: &Engine, digest: &str) -> String {
    let mut hasher = Xxh3::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    format!("{digest}-{:016x}", hasher.finish())
}

/// A name nobody else uses.
fn temporary(folder: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
    folder.join(format!(".{process}-{number}.partial"))
}

/// Creates a file that only this user can read.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_was_kept_comes_back_and_what_is_damaged_does_not() {
        let folder = TempDir::new().unwrap();
        let cache = Cache::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(cache.get("k"), None);
        cache.put("k", b"code");
        assert_eq!(cache.get("k").as_deref(), Some(b"code".as_slice()));
        let path = cache.path("k");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.get("k"), None, "cut at {length}");
        }
        for position in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[position] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert_eq!(cache.get("k"), None, "flipped at {position}");
        }
        cache.put("k", b"anew");
        assert_eq!(cache.get("k").as_deref(), Some(b"anew".as_slice()));
        // Nothing but the file itself is left.
        assert_eq!(fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn what_others_can_write_is_not_run() {
        let folder = TempDir::new().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.put("k", b"code");
        mode(&cache.path("k"), 0o620);
        assert_eq!(cache.get("k"), None);
        mode(folder.path(), 0o770);
        assert!(Cache::open(folder.path()).is_none());
    }

    #[test]
    fn the_oldest_files_go() {
        let folder = TempDir::new().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        for number in 0..MAX_FILES + 3 {
            cache.put(&number.to_string(), b"code");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), MAX_FILES);
        assert!(cache.get(&(MAX_FILES + 2).to_string()).is_some());
    }
}
