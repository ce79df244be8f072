//! A person's browser: a program that notes the address it is opened at, and a task that goes there
//! and follows every redirect, as a browser does.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::task::JoinSet;

/// The browser. Dropping it closes it.
pub struct Robot {
    /// The program.
    script: PathBuf,
    /// Where it notes addresses.
    folder: PathBuf,
    /// Pages it ended at: status and text.
    pages: Arc<Mutex<Vec<(u16, String)>>>,
    /// Goes to the addresses.
    _tasks: JoinSet<()>,
}

impl Robot {
    /// Starts it; its files are in `folder`. `authority` is a PEM to trust.
    ///
    /// # Errors
    /// When its program cannot be written.
    pub fn start(folder: &Path, authority: Option<&str>) -> Result<Self> {
        let folder = folder.join("browser");
        fs::create_dir_all(&folder)?;
        let script = folder.join("open");
        // The note appears whole: it is renamed when it is written.
        let text = format!(
            "#!/bin/sh\nnote={}/note-$$\nprintf %s \"$1\" > \"$note.part\"\nmv \"$note.part\" \"$note\"\n",
            folder.display()
        );
        fs::write(&script, text)?;
        let pages = Arc::default();
        let mut tasks = JoinSet::new();
        let mut http = reqwest::Client::builder().no_proxy();
        if let Some(pem) = authority {
            http = http.tls_certs_merge([reqwest::Certificate::from_pem(pem.as_bytes())?]);
        }
        tasks.spawn(visit(folder.clone(), http.build()?, Arc::clone(&pages)));
        Ok(Self { script, folder, pages, _tasks: tasks })
    }

    /// The command that opens it.
    pub fn command(&self) -> String {
        format!("sh {}", self.script.display())
    }

    /// The pages it ended at so far: status and text.
    pub fn pages(&self) -> Vec<(u16, String)> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Goes to every address that is noted.
async fn visit(folder: PathBuf, http: reqwest::Client, pages: Arc<Mutex<Vec<(u16, String)>>>) {
    loop {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("note-") || name.ends_with(".part") {
                continue;
            }
            let address = fs::read_to_string(&path).unwrap_or_default();
            drop(fs::remove_file(&path));
            let page = match http.get(address).send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    (status, answer.text().await.unwrap_or_default())
                }
                Err(error) => (0, error.to_string()),
            };
            pages.lock().unwrap_or_else(PoisonError::into_inner).push(page);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
