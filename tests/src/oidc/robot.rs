//! A person's browser: a program that notes the address it is opened at, and a task that goes there
//! and follows every redirect, as a browser does.

use std::{
    collections::BTreeMap,
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
        let mut http =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
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

/// Goes to an address and on from there, with the cookies that it gets on the way.
async fn follow(http: &reqwest::Client, address: String) -> Result<(u16, String)> {
    let mut place = url::Url::parse(&address)?;
    let mut cookies: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..20 {
        let line: Vec<String> =
            cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = http.get(place.clone()).header("cookie", line.join("; "));
        let answer = request.send().await?;
        for cookie in answer.headers().get_all("set-cookie") {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        match answer.headers().get("location") {
            Some(next) if answer.status().is_redirection() => place = place.join(next.to_str()?)?,
            _ => return Ok((answer.status().as_u16(), answer.text().await?)),
        }
    }
    anyhow::bail!("it goes round in circles")
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
            let page = follow(&http, address).await.unwrap_or_else(|error| (0, error.to_string()));
            pages.lock().unwrap_or_else(PoisonError::into_inner).push(page);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
