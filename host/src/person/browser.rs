//! What opens a browser.

use std::{process::Stdio, str::FromStr};

use tokio::process::{Child, Command};

use crate::model::token::PersonError;

/// What opens a browser.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Browser {
    /// The system's own way.
    #[default]
    System,
    /// A program with its first arguments; the address is the last one.
    Command(Vec<String>),
    /// Nothing: the person gets the address and opens it.
    Print,
    /// Nothing at all.
    None,
}

impl FromStr for Browser {
    type Err = String;

    /// `print`, `none`, or a program with arguments divided by spaces.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "" => Err("names no program".to_owned()),
            "print" => Ok(Self::Print),
            "none" => Ok(Self::None),
            line => Ok(Self::Command(line.split_whitespace().map(str::to_owned).collect())),
        }
    }
}

impl Browser {
    /// Opens an address of this machine. `None` when nothing was started.
    ///
    /// # Errors
    /// `Unreached` when there is no program, or no screen for it.
    pub(super) fn open(&self, address: &str) -> Result<Option<Child>, PersonError> {
        let words = match self {
            Self::Print => return Ok(None),
            Self::None => return Err(PersonError::Unreached("no browser".to_owned())),
            Self::Command(words) => words.clone(),
            Self::System => system()?,
        };
        let Some((program, arguments)) = words.split_first() else {
            return Err(PersonError::Unreached("no browser".to_owned()));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Connection strings and tokens are none of its business.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SYNCLINE_") {
                command.env_remove(name);
            }
        }
        let child = command.spawn();
        child.map(Some).map_err(|_| PersonError::Unreached(format!("cannot run {program}")))
    }
}

/// The system's way to open a browser.
fn system() -> Result<Vec<String>, PersonError> {
    let words = |words: &[&str]| Ok(words.iter().map(|word| (*word).to_owned()).collect());
    if cfg!(target_os = "macos") {
        return words(&["open"]);
    }
    if cfg!(windows) {
        return words(&["rundll32", "url.dll,FileProtocolHandler"]);
    }
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(named) = set("BROWSER").and_then(|list| list.split(':').next().map(str::to_owned)) {
        return words(&[&named]);
    }
    if set("DISPLAY").is_some() || set("WAYLAND_DISPLAY").is_some() {
        return words(&["xdg-open"]);
    }
    Err(PersonError::Unreached("there is no screen for a browser".to_owned()))
}
