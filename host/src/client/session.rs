//! What a login leaves behind: tokens for daemons, in a file that its owner alone can read.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;
/// Life that a token needs to be used without renewal.
const LEAST_LIFE: Duration = Duration::from_secs(30);

/// A login at one daemon.
#[derive(Clone)]
pub struct Session {
    /// The token.
    pub token: SecretString,
    /// To get the next token without the person.
    pub refresh: Option<SecretString>,
    /// When the token ends, in seconds since 1970.
    pub expires_at: u64,
    /// Issuer.
    pub issuer: String,
    /// OAuth client.
    pub client_id: String,
    /// How often the refresh token was shown and no answer came.
    pub lost_refreshes: u32,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Session {
    /// Whether the token is good for a command.
    pub fn is_good(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now + LEAST_LIFE < Duration::from_secs(self.expires_at)
    }
}

/// A session as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    /// The token.
    token: String,
    /// To get the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh: Option<String>,
    /// When the token ends, in seconds since 1970.
    expires_at: u64,
    /// Issuer.
    issuer: String,
    /// OAuth client.
    client_id: String,
    /// How often the refresh token was shown and no answer came.
    #[serde(default)]
    lost_refreshes: u32,
}

/// The sessions of this user.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// The folder that holds their file.
    folder: PathBuf,
}

impl Sessions {
    /// Those in the place where this system keeps the state of programs.
    ///
    /// # Errors
    /// `ConfigInvalid` when the environment names no such place.
    pub fn of(env: &BTreeMap<String, String>) -> Result<Self> {
        let place = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || place("HOME");
        let folder = if cfg!(windows) {
            place("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            home().map(|home| home.join("Library/Application Support"))
        } else {
            place("XDG_STATE_HOME").or_else(|| home().map(|home| home.join(".local/state")))
        };
        match folder {
            Some(folder) => Ok(Self { folder: folder.join("syncline") }),
            None => {
                Err(Error::new(Kind::ConfigInvalid, "HOME is not set; where are sessions kept?"))
            }
        }
    }

    /// The session at a daemon, if there is one.
    ///
    /// # Errors
    /// `ConfigInvalid` when the file cannot be read, or others can read it.
    pub fn get(&self, place: &str) -> Result<Option<Session>> {
        Ok(self.read()?.remove(place).map(|stored| Session {
            token: stored.token.into(),
            refresh: stored.refresh.map(SecretString::from),
            expires_at: stored.expires_at,
            issuer: stored.issuer,
            client_id: stored.client_id,
            lost_refreshes: stored.lost_refreshes,
        }))
    }

    /// Keeps a session, or forgets it. Whether there was one before.
    ///
    /// # Errors
    /// `ConfigInvalid` when the file cannot be read or written.
    pub fn put(&self, place: &str, session: Option<&Session>) -> Result<bool> {
        self.put_in_turn(&self.turn()?, place, session)
    }

    /// The same for who has the turn already.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_in_turn(
        &self,
        _turn: &File,
        place: &str,
        session: Option<&Session>,
    ) -> Result<bool> {
        let mut all = self.read()?;
        let before = match session {
            None => all.remove(place),
            Some(session) => all.insert(
                place.to_owned(),
                Stored {
                    token: session.token.expose_secret().to_owned(),
                    refresh: session.refresh.as_ref().map(|text| text.expose_secret().to_owned()),
                    expires_at: session.expires_at,
                    issuer: session.issuer.clone(),
                    client_id: session.client_id.clone(),
                    lost_refreshes: session.lost_refreshes,
                },
            ),
        };
        self.write(&all)?;
        Ok(before.is_some())
    }

    /// Keeps other processes out until it is dropped: a refresh token may be shown once.
    ///
    /// # Errors
    /// `ConfigInvalid` when the folder cannot be written.
    pub fn turn(&self) -> Result<File> {
        let path = self.folder.join("sessions.lock");
        let failed = |error| cannot("lock", &path, error);
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut folder, 0o700);
        folder.create(&self.folder).map_err(failed)?;
        let lock = private().create(true).truncate(false).open(&path).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(lock)
    }

    /// The file.
    fn path(&self) -> PathBuf {
        self.folder.join("sessions.json")
    }

    /// Reads the file; without one there are no sessions.
    fn read(&self) -> Result<BTreeMap<String, Stored>> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(cannot("read", &path, error)),
        };
        #[cfg(unix)]
        {
            let metadata = file.metadata().map_err(|error| cannot("read", &path, error))?;
            let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
            if mode & 0o077 != 0 {
                let text = format!(
                    "{} can be read by others; log in again after chmod 600",
                    path.display()
                );
                return Err(Error::new(Kind::ConfigInvalid, text));
            }
        }
        let mut text = String::new();
        file.take(MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| cannot("read", &path, error))?;
        // The cause would quote the file.
        serde_json::from_str(&text).map_err(|_| {
            Error::new(Kind::ConfigInvalid, format!("{} holds no sessions", path.display()))
        })
    }

    /// Writes the file: the old one or the new one is there at any time, and only the owner reads it.
    fn write(&self, all: &BTreeMap<String, Stored>) -> Result<()> {
        let (path, next) = (self.path(), self.folder.join("sessions.next"));
        let failed = |error| cannot("write", &next, error);
        let text = serde_json::to_string_pretty(all)
            .map_err(|error| cannot("write", &path, std::io::Error::other(error)))?;
        match fs::remove_file(&next) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let mut file = private().create_new(true).open(&next).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&next, &path).map_err(failed)
    }
}

/// Options for a file that its owner alone reads.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The error for a file that does not do what it should.
fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::ConfigInvalid, format!("cannot {what} {}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(token: &str) -> Session {
        Session {
            token: token.to_owned().into(),
            refresh: Some("r3fresh".to_owned().into()),
            expires_at: u64::MAX,
            issuer: "https://idp.example".to_owned(),
            client_id: "cli".to_owned(),
            lost_refreshes: 0,
        }
    }

    fn sessions(folder: &Path) -> Sessions {
        let env = [("XDG_STATE_HOME", folder), ("HOME", folder), ("LOCALAPPDATA", folder)];
        let env = env.map(|(name, path)| (name.to_owned(), path.display().to_string()));
        Sessions::of(&env.into_iter().collect()).unwrap()
    }

    #[test]
    fn sessions_are_kept_by_daemon_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = sessions(folder.path());
        assert!(sessions.get("a").unwrap().is_none());
        assert!(!sessions.put("a", Some(&session("one"))).unwrap());
        assert!(!sessions.put("b", Some(&session("two"))).unwrap());
        assert!(sessions.put("a", Some(&session("three"))).unwrap());
        let read = sessions.get("a").unwrap().unwrap();
        assert_eq!(read.token.expose_secret(), "three");
        assert!(read.is_good() && !format!("{read:?}").contains("three"));
        assert!(sessions.put("a", None).unwrap() && !sessions.put("a", None).unwrap());
        assert_eq!(sessions.get("b").unwrap().unwrap().token.expose_secret(), "two");
        assert!(Sessions::of(&BTreeMap::new()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_reads_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let sessions = sessions(folder.path());
        sessions.put("a", Some(&session("s3cret"))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&sessions.path()), mode(&sessions.folder)), (0o600, 0o700));
        fs::set_permissions(sessions.path(), PermissionsExt::from_mode(0o640)).unwrap();
        let error = sessions.get("a").unwrap_err();
        assert!(error.detail().contains("others"), "{error}");
        fs::set_permissions(sessions.path(), PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(sessions.path(), "s3cret nonsense").unwrap();
        let error = sessions.get("a").unwrap_err();
        assert!(!error.full().contains("s3cret"), "{}", error.full());
    }
}
