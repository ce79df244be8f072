//! Files that grow line by line: each process begins its own, the former one is set aside and made
//! small.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

use crate::error::{Error, Kind, Result};

/// Opens `<stem>.log` in a directory that is made when it is missing. A file that is there is
/// renamed to `<stem>-<timestamp>.log` first; its new name is returned. `option` is named in errors.
///
/// # Errors
/// `ConfigInvalid` when the directory or the file cannot be written.
pub fn open(directory: &Path, stem: &str, option: &str) -> Result<(File, Option<PathBuf>)> {
    let cannot = |error: io::Error| {
        let text = format!("{option}: cannot write to {}", directory.display());
        Error::new(Kind::ConfigInvalid, text).caused_by(error)
    };
    std::fs::create_dir_all(directory).map_err(cannot)?;
    let path = directory.join(format!("{stem}.log"));
    let mut former = None;
    if path.exists() {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ");
        let aside = directory.join(format!("{stem}-{now}.log"));
        std::fs::rename(&path, &aside).map_err(cannot)?;
        former = Some(aside);
    }
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(cannot)?;
    Ok((file, former))
}

/// Makes a file that was set aside small: `….log` becomes `….log.gz`. Blocks as long as that
/// takes. The name `….log.gz` appears when it is complete, and only then is the original removed;
/// one that cannot be compressed stays as it is.
pub fn compress(path: &Path) {
    let named = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (part, whole) = (named(".gz.part"), named(".gz"));
    let written = || -> io::Result<()> {
        let mut encoder = GzEncoder::new(File::create(&part)?, Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.sync_all()?;
        std::fs::rename(&part, &whole)?;
        std::fs::remove_file(path)
    };
    if let Err(error) = written() {
        drop(std::fs::remove_file(&part));
        tracing::warn!(%error, file = %path.display(), "a former log stays uncompressed");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_former_file_is_set_aside_and_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("new");
        let (mut first, former) = open(&directory, "a", "logPath").unwrap();
        assert_eq!(former, None);
        first.write_all(b"one\n").unwrap();
        let (mut second, former) = open(&directory, "a", "logPath").unwrap();
        let former = former.unwrap();
        // Lines that were under way when the file was changed are not lost.
        first.write_all(b"two\n").unwrap();
        second.write_all(b"three\n").unwrap();
        compress(&former);
        assert!(!former.exists());
        let mut names: Vec<String> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names[0].ends_with(".log.gz") && names[1] == "a.log", "{names:?}");
        let mut text = String::new();
        let file = File::open(directory.join(&names[0])).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(directory.join("a.log")).unwrap(), "three\n");
    }

    #[test]
    fn what_cannot_be_compressed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-1.log");
        std::fs::write(&path, "one").unwrap();
        std::fs::create_dir(folder.path().join("a-1.log.gz")).unwrap();
        compress(&path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert!(!folder.path().join("a-1.log.gz.part").exists());
    }

    #[test]
    fn a_place_that_is_none_is_named_with_its_option() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = open(&file.join("logs"), "a", "logPath").unwrap_err();
        assert!(error.full().contains("logPath: cannot write to"), "{}", error.full());
        assert_eq!(error.kind(), Kind::ConfigInvalid);
    }
}
