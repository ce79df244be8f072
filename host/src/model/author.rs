//! What the author of a plugin asks about, and what the host answers.

use std::{path::PathBuf, time::Duration};

use super::plugin::{ComponentSource, World};

/// The plugin in question.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The component.
    pub component: ComponentSource,
    /// Its manifest, when it is neither beside the component nor in a folder above it.
    pub manifest: Option<PathBuf>,
    /// Its configuration.
    pub config: serde_json::Value,
}

/// A language that plugins can be begun in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust.
    Rust,
    /// JavaScript.
    JavaScript,
    /// Python.
    Python,
}

/// A project to begin.
#[derive(Debug, Clone)]
pub struct Project {
    /// What the plugin is to do.
    pub world: World,
    /// The language.
    pub language: Language,
    /// Its name, which the folder gets too.
    pub name: String,
    /// Folder in which it is made.
    pub parent: PathBuf,
    /// The SDK of a checkout, in the place of the copy that comes with the program.
    pub sdk: Option<PathBuf>,
}

/// What a file says of itself.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Path or `builtin:…`.
    pub component: String,
    /// What it does.
    pub world: World,
    /// Version of the contract it was built for.
    pub contract: String,
    /// SHA-256 in lowercase hex.
    pub digest: String,
    /// Size of the component in bytes.
    pub bytes: u64,
    /// What it imports.
    pub imports: Vec<String>,
    /// What its manifest says, if it has one.
    pub manifest: Option<ManifestFacts>,
}

/// What a manifest says.
#[derive(Debug, Clone)]
pub struct ManifestFacts {
    /// Name of the plugin.
    pub name: String,
    /// Version of the plugin.
    pub version: String,
    /// What it does, for people.
    pub description: String,
    /// SPDX expression.
    pub licence: String,
    /// What it asks for: the key of `asks`, and each entry.
    pub asks: Vec<(&'static str, Vec<String>)>,
}

/// What became of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The plugin does what it must.
    Passed,
    /// It does not: what it does instead.
    Failed(String),
    /// The check says nothing about this plugin: why.
    Skipped(String),
}

/// One check of the conformance suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What must hold, in a few words.
    pub name: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What the conformance suite found.
#[derive(Debug, Clone, Default)]
pub struct Conformance {
    /// Every check, in order.
    pub checks: Vec<Check>,
}

impl Conformance {
    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Failed(_))).count()
    }
}

/// How fast a plugin is on this machine. What is not known of a world is zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct Speed {
    /// Compiling the component.
    pub compile: Duration,
    /// Loading it compiled.
    pub load: Duration,
    /// Making an instance that is configured.
    pub instantiate: Duration,
    /// A call about nothing.
    pub empty_call: Duration,
    /// Documents in a batch.
    pub batch_documents: u32,
    /// Size of a document in bytes.
    pub document_bytes: u32,
    /// Documents judged in a second by one instance.
    pub documents_per_second: f64,
    /// Bytes judged in a second by one instance.
    pub bytes_per_second: f64,
    /// Half of the batches took no longer.
    pub p50: Duration,
    /// All but one of a hundred batches took no longer.
    pub p99: Duration,
}

/// What became of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It goes on as it is.
    Kept(bson::RawDocumentBuf),
    /// It is not on the destination.
    Dropped,
    /// This one goes on in its place.
    Replaced(bson::RawDocumentBuf),
    /// It cannot pass: why.
    Refused(String),
}
