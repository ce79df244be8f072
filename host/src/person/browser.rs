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
    /// A program with its arguments; the address stands where `%s` is, or at the end.
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
        let commands = match self {
            Self::Print => return Ok(None),
            Self::None => return Err(PersonError::Unreached("no browser".to_owned())),
            Self::Command(words) => vec![words.clone()],
            Self::System => system(&|name| std::env::var(name).ok())?,
        };
        first(&commands, address).map(Some)
    }
}

/// Starts the first program that can be started.
fn first(commands: &[Vec<String>], address: &str) -> Result<Child, PersonError> {
    let mut why = "no browser".to_owned();
    for words in commands {
        match start(words, address) {
            Ok(child) => return Ok(child),
            Err(text) => why = text,
        }
    }
    Err(PersonError::Unreached(why))
}

/// Starts a program, without a shell.
fn start(words: &[String], address: &str) -> Result<Child, String> {
    let words = with_address(words, address);
    let Some((program, arguments)) = words.split_first() else {
        return Err("no browser".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Connection strings and tokens are none of its business.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SYNCLINE_") {
            command.env_remove(name);
        }
    }
    command.spawn().map_err(|_| format!("cannot run {program}"))
}

/// The words of a command with the address where `%s` stands, or at the end.
fn with_address(words: &[String], address: &str) -> Vec<String> {
    let mut is_placed = false;
    let mut whole = Vec::with_capacity(words.len() + 1);
    for word in words {
        // `%%` is a percent sign, also in front of an s.
        let parts: Vec<String> = word
            .split("%%")
            .map(|part| {
                is_placed |= part.contains("%s");
                part.replace("%s", address)
            })
            .collect();
        whole.push(parts.join("%"));
    }
    if !is_placed {
        whole.push(address.to_owned());
    }
    whole
}

/// The system's ways to open a browser, the best one first.
fn system(env: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Vec<String>>, PersonError> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if cfg!(target_os = "macos") {
        return Ok(vec![words("open")]);
    }
    if cfg!(windows) {
        return Ok(vec![words("rundll32 url.dll,FileProtocolHandler")]);
    }
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let named = set("BROWSER").unwrap_or_default();
    let named: Vec<_> = named.split(':').map(words).filter(|command| !command.is_empty()).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    if set("DISPLAY").is_some() || set("WAYLAND_DISPLAY").is_some() {
        return Ok(vec![words("xdg-open")]);
    }
    Err(PersonError::Unreached("there is no screen for a browser".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_stands_where_the_command_says() {
        const PAGE: &str = "http://localhost:1/a%20b";
        for (line, words) in [
            ("firefox", vec!["firefox", PAGE]),
            ("firefox --new-tab %s --x", vec!["firefox", "--new-tab", PAGE, "--x"]),
            ("b --app=%s", vec!["b", "--app=http://localhost:1/a%20b"]),
            ("b 100%% %%s", vec!["b", "100%", "%s", PAGE]),
            ("b %s%%", vec!["b", "http://localhost:1/a%20b%"]),
        ] {
            let Browser::Command(given) = line.parse().unwrap() else { panic!("{line}") };
            assert_eq!(with_address(&given, PAGE), words, "{line}");
        }
    }

    #[cfg(all(unix, not(target_os = "macos")))]
    #[test]
    fn the_environment_names_browsers_one_after_the_other() {
        let ways = |all: &'static [(&str, &str)]| {
            system(&move |name| {
                let found = all.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let found = ways(&[("BROWSER", "firefox --new-tab %s::lynx"), ("DISPLAY", ":0")]).unwrap();
        assert_eq!(found, [vec!["firefox", "--new-tab", "%s"], vec!["lynx"]]);
        for screen in ["DISPLAY", "WAYLAND_DISPLAY"] {
            let all: &[(&str, &str)] = match screen {
                "DISPLAY" => &[("DISPLAY", ":0"), ("BROWSER", ":")],
                _ => &[("WAYLAND_DISPLAY", "w"), ("DISPLAY", "")],
            };
            assert_eq!(ways(all).unwrap(), [vec!["xdg-open"]]);
        }
        assert!(matches!(ways(&[("BROWSER", "")]), Err(PersonError::Unreached(_))));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn the_next_browser_is_tried_when_one_cannot_be_run() {
        let given = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let nowhere = given("/nonexistent/browser %s");
        assert!(first(std::slice::from_ref(&nowhere), "x").is_err() && first(&[], "x").is_err());
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("a b;c");
        // A shell would take the name apart.
        let child = first(&[nowhere, given("touch %s")], &note.display().to_string());
        assert!(child.unwrap().wait().await.unwrap().success() && note.exists());
    }
}
