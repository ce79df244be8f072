//! The commands for authors of plugins: the room `plugin` does the work, the command line shows it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    path::Path,
};

use bson::{Bson, RawDocumentBuf};
use serde_json::{Deserializer, Value};

use crate::{
    cli::{self, AuthorCommand},
    client::Output,
    config,
    error::{Error, Kind, Result},
    model::plugin::{ComponentSource, PluginSpec},
    plugin::{Registry, author},
};

/// Longest input of documents, in bytes.
const MAX_INPUT: u64 = 1024 * 1024 * 1024;

/// Runs a command.
///
/// # Errors
/// Those of loading a plugin, `ConfigInvalid` for input that makes no sense, `PluginNonconforming` and
/// `PluginRejected` for what a plugin does.
pub async fn run(
    command: AuthorCommand,
    output: Output,
    env: &BTreeMap<String, String>,
) -> Result<()> {
    let settings = config::plugin_settings(env);
    match command {
        AuthorCommand::New(project) => {
            let steps = author::create(&project)?;
            // A reader that went away is no failure.
            drop(writeln!(std::io::stdout(), "{steps}"));
            Ok(())
        }
        AuthorCommand::Inspect(subject) => {
            cli::show_inspection(&author::inspect(&subject)?, output);
            Ok(())
        }
        AuthorCommand::Check(component, file) => {
            let (specs, settings) = config::plugins_of(&file, env)?;
            let spec = entry_of(&component, specs, &file)?;
            let registry = Registry::with(&settings, vec![spec]).await?;
            for info in registry.info() {
                cli::show_loaded(&info, output);
            }
            Ok(())
        }
        AuthorCommand::Test(subject, golden) => {
            let found = author::conform(&subject, &golden, &settings).await?;
            cli::show_conformance(&found, output)
        }
        AuthorCommand::Run(subject, namespace, how) => {
            let documents = documents()?;
            let fates = author::judge(&subject, &namespace, &documents, &settings).await?;
            cli::show_fates(&fates, how)
        }
        AuthorCommand::Bench { subject, from_stdin, shape, time } => {
            let documents = if from_stdin { documents()? } else { Vec::new() };
            let speed = author::measure(&subject, documents, shape, time, &settings).await?;
            cli::show_speed(&speed, output);
            Ok(())
        }
    }
}

/// The entry of a config file that is about a component.
fn entry_of(
    component: &ComponentSource,
    specs: Vec<PluginSpec>,
    file: &Path,
) -> Result<PluginSpec> {
    let place = |source: &ComponentSource| match source {
        ComponentSource::Builtin(name) => ComponentSource::Builtin(name.clone()),
        ComponentSource::File(path) => {
            ComponentSource::File(path.canonicalize().unwrap_or_else(|_| path.clone()))
        }
    };
    let wanted = place(component);
    specs.into_iter().find(|spec| place(&spec.component) == wanted).ok_or_else(|| {
        let file = file.display();
        Error::new(
            Kind::ConfigInvalid,
            format!("no entry under `plugins:` of {file} names this file"),
        )
    })
}

/// The documents of standard input: extended JSON, one after the other or in lists.
fn documents() -> Result<Vec<RawDocumentBuf>> {
    let invalid = |position: usize, what: String| {
        Error::new(Kind::ConfigInvalid, format!("document {position} of the input {what}"))
    };
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text).map_err(|error| {
        Error::new(Kind::ConfigInvalid, "the input cannot be read").caused_by(error)
    })?;
    let mut documents = Vec::new();
    for value in Deserializer::from_str(&text).into_iter::<Value>() {
        let value =
            value.map_err(|error| invalid(documents.len(), format!("is no JSON: {error}")))?;
        let some = match value {
            Value::Array(list) => list,
            one => vec![one],
        };
        for json in some {
            let position = documents.len();
            let Ok(Bson::Document(document)) = Bson::try_from(json) else {
                return Err(invalid(position, "is no document in extended JSON".to_owned()));
            };
            let raw = RawDocumentBuf::try_from(&document)
                .map_err(|error| invalid(position, format!("is no document: {error}")))?;
            documents.push(raw);
        }
    }
    Ok(documents)
}
