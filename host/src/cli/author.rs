//! `syncline plugin …`: the grammar of the commands for authors of plugins, and how their results are
//! shown.

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{
    Invocation,
    args::{DaemonArgs, OutputArg, ReachArgs},
};
use crate::{
    client::Output,
    config,
    error::{Error, Kind, Result},
    model::{
        Namespace,
        author::{Conformance, Fate, Inspection, Language, Outcome, Project, Speed, Subject},
        plugin::{ComponentSource, PluginInfo, Quarantined, Replayed, World},
    },
};

/// The commands of `syncline plugin`.
#[derive(Subcommand)]
pub(super) enum PluginArgs {
    /// List the plugins that the daemon has loaded
    List {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Begin a plugin: a folder that builds and passes its test at once
    New {
        /// What it is to do
        #[arg(long, value_enum)]
        kind: KindArg,
        /// What it is written in
        #[arg(long, value_enum, default_value_t = LanguageArg::Rust)]
        lang: LanguageArg,
        /// Use the SDK of this checkout of Syncline instead of a copy; Rust alone
        #[arg(long, value_name = "DIR")]
        sdk_path: Option<PathBuf>,
        /// Folder in which to make it
        #[arg(long, value_name = "DIR", default_value = ".")]
        folder: PathBuf,
        /// Name of the plugin and of its folder
        name: String,
    },
    /// Show what a file is: world, version, imports, digest, what it asks for
    Inspect {
        /// The plugin.
        #[command(flatten)]
        file: FileArgs,
        /// How to show it
        #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
        output: OutputArg,
    },
    /// Load a plugin as the daemon with this config file would, and do nothing with it
    Check {
        /// Component, or builtin:NAME
        file: String,
        /// The daemon's config file, which has an entry for the plugin
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How to show it
        #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
        output: OutputArg,
    },
    /// Try whether a plugin keeps the contract and its golden files
    Test {
        /// The plugin.
        #[command(flatten)]
        file: ConfiguredArgs,
        /// Golden file or folder of them [default: tests/golden beside the manifest]
        #[arg(long, value_name = "PATH")]
        golden: Vec<PathBuf>,
        /// How to show what was found
        #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
        output: OutputArg,
    },
    /// Judge documents of standard input and print those that go on
    Run {
        /// The plugin.
        #[command(flatten)]
        file: ConfiguredArgs,
        /// Where the documents are said to come from
        #[arg(long, value_name = "DB.COLLECTION", default_value = "app.documents")]
        namespace: String,
        /// Print a verdict for every document instead
        #[arg(long)]
        verdicts: bool,
    },
    /// List the documents that cannot pass their filters
    Quarantine {
        /// The clusters, as for the daemon.
        #[command(flatten)]
        daemon: Box<DaemonArgs>,
        /// How to show them; JSON has the documents too
        #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
        output: OutputArg,
    },
    /// Let them through the filters again and bring in those that pass; the daemon must be down
    Replay {
        /// The clusters, as for the daemon.
        #[command(flatten)]
        daemon: Box<DaemonArgs>,
        /// How to show what became of them
        #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
        output: OutputArg,
    },
    /// Measure a plugin: loading, instances, calls, documents
    Bench {
        /// The plugin.
        #[command(flatten)]
        file: ConfiguredArgs,
        /// Judge the documents of standard input instead of made ones
        #[arg(long)]
        stdin: bool,
        /// Documents in a batch
        #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        batch: u32,
        /// Size of made documents, in bytes
        #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
        size: u32,
        /// How long to judge documents
        #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// How to show it
        #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
        output: OutputArg,
    },
}

/// A plugin file.
#[derive(Args)]
pub(super) struct FileArgs {
    /// Component, or builtin:NAME
    file: String,
    /// Its manifest [default: beside it, or plugin.toml in a folder above]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// A plugin file with a configuration.
#[derive(Args)]
pub(super) struct ConfiguredArgs {
    /// The file.
    #[command(flatten)]
    file: FileArgs,
    /// Its configuration: a JSON object, or a YAML or JSON file [default: {}]
    #[arg(long, value_name = "JSON|FILE")]
    config: Option<String>,
}

/// The word of `--kind`.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum KindArg {
    /// Keeps, drops or replaces documents.
    DocumentFilter,
    /// Gets tokens.
    IdentityProvider,
}

/// The word of `--lang`.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum LanguageArg {
    /// Rust.
    Rust,
    /// JavaScript.
    Js,
    /// Python.
    Python,
}

/// What to do for the author of a plugin.
#[derive(Debug)]
pub enum AuthorCommand {
    /// Begin a project.
    New(Project),
    /// Show what a file is.
    Inspect(Subject),
    /// Load it as the daemon would.
    Check(ComponentSource, PathBuf),
    /// Try whether it keeps the contract.
    Test(Subject, Vec<PathBuf>),
    /// Judge documents of standard input.
    Run(Subject, Namespace, Documents),
    /// Measure it.
    Bench {
        /// The plugin.
        subject: Subject,
        /// Whether the documents come from standard input.
        from_stdin: bool,
        /// Documents in a batch, and bytes in a made document.
        shape: (u32, u32),
        /// How long.
        time: Duration,
    },
}

/// How judged documents are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    /// Those that go on.
    Passing,
    /// A verdict each.
    Verdicts,
}

impl PluginArgs {
    /// The invocation.
    pub(super) fn invocation(self) -> Result<Invocation> {
        let text = Output::Text;
        let (command, output) = match self {
            Self::List { .. } => {
                return Err(Error::new(Kind::Internal, "`list` is a client command"));
            }
            Self::Quarantine { daemon, output } => {
                return Ok(quarantine(*daemon, QuarantineCommand::List, output));
            }
            Self::Replay { daemon, output } => {
                return Ok(quarantine(*daemon, QuarantineCommand::Replay, output));
            }
            Self::New { kind, lang, sdk_path, folder, name } => {
                let world = match kind {
                    KindArg::DocumentFilter => World::DocumentFilter,
                    KindArg::IdentityProvider => World::IdentityProvider,
                };
                let language = match lang {
                    LanguageArg::Rust => Language::Rust,
                    LanguageArg::Js => Language::JavaScript,
                    LanguageArg::Python => Language::Python,
                };
                let project = Project { world, language, name, parent: folder, sdk: sdk_path };
                (AuthorCommand::New(project), text)
            }
            Self::Inspect { file, output } => {
                (AuthorCommand::Inspect(file.subject(Value::Null)), output.into())
            }
            Self::Check { file, config, output } => {
                (AuthorCommand::Check(component(&file), config), output.into())
            }
            Self::Test { file, golden, output } => {
                (AuthorCommand::Test(file.subject()?, golden), output.into())
            }
            Self::Run { file, namespace, verdicts } => {
                let namespace = Namespace::parse(&namespace).map_err(|error| {
                    Error::new(Kind::ConfigInvalid, "--namespace").caused_by(error)
                })?;
                let how = if verdicts { Documents::Verdicts } else { Documents::Passing };
                (AuthorCommand::Run(file.subject()?, namespace, how), text)
            }
            Self::Bench { file, stdin, batch, size, seconds, output } => {
                let (shape, time) = ((batch, size), Duration::from_secs(seconds));
                let subject = file.subject()?;
                (AuthorCommand::Bench { subject, from_stdin: stdin, shape, time }, output.into())
            }
        };
        Ok(Invocation::Author(command, output))
    }
}

/// What to do about documents in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineCommand {
    /// List them.
    List,
    /// Let them through the filters again.
    Replay,
}

/// A command about documents in quarantine.
fn quarantine(daemon: DaemonArgs, command: QuarantineCommand, output: OutputArg) -> Invocation {
    let config = daemon.config.clone();
    Invocation::Quarantine { flags: daemon.layer(), config, command, output: output.into() }
}

/// `builtin:NAME` or a path.
fn component(text: &str) -> ComponentSource {
    match text.strip_prefix("builtin:") {
        Some(name) => ComponentSource::Builtin(name.to_owned()),
        None => ComponentSource::File(text.into()),
    }
}

impl FileArgs {
    /// The plugin with a configuration.
    fn subject(self, config: Value) -> Subject {
        Subject { component: component(&self.file), manifest: self.manifest, config }
    }
}

impl ConfiguredArgs {
    /// The plugin.
    fn subject(self) -> Result<Subject> {
        let config = self.config.as_deref().map_or_else(|| Ok(json!({})), config::plugin_block)?;
        Ok(self.file.subject(config))
    }
}

/// Writes a line to stdout; a reader that went away is no failure.
fn print(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

/// Prints what a file is.
pub fn show_inspection(found: &Inspection, output: Output) {
    print(&match output {
        Output::Json => format!("{:#}", inspection_object(found)),
        Output::Text => inspection_lines(found).join("\n"),
    });
}

/// An inspection as an object.
fn inspection_object(found: &Inspection) -> Value {
    let manifest = found.manifest.as_ref().map(|manifest| {
        let asks: serde_json::Map<String, Value> =
            manifest.asks.iter().map(|(key, list)| ((*key).to_owned(), json!(list))).collect();
        json!({
            "name": manifest.name, "version": manifest.version,
            "description": manifest.description, "licence": manifest.licence, "asks": asks,
        })
    });
    json!({
        "component": found.component, "world": found.world.name(), "contract": found.contract,
        "digest": format!("sha256:{}", found.digest), "bytes": found.bytes,
        "imports": found.imports, "manifest": manifest,
    })
}

/// An inspection as lines.
fn inspection_lines(found: &Inspection) -> Vec<String> {
    let line = |name: &str, value: &str| format!("{name:12}{value}");
    let mut lines = vec![
        line("component", &found.component),
        line("world", found.world.name()),
        line("contract", &found.contract),
        line("digest", &format!("sha256:{}", found.digest)),
        line("bytes", &found.bytes.to_string()),
    ];
    match &found.manifest {
        None => lines.push(line("manifest", "none; it gets nothing but the log")),
        Some(manifest) => {
            lines.push(line("manifest", &format!("{} {}", manifest.name, manifest.version)));
            lines.push(line("", &manifest.description));
            lines.push(line("licence", &manifest.licence));
            if manifest.asks.is_empty() {
                lines.push(line("asks for", "nothing"));
            }
            for (key, entries) in &manifest.asks {
                lines.push(line("asks for", &format!("{key}: {}", entries.join(", "))));
            }
        }
    }
    lines.extend(found.imports.iter().map(|import| line("imports", import)));
    lines
}

/// Prints a plugin that was loaded.
pub fn show_loaded(info: &PluginInfo, output: Output) {
    let grants = &info.grants;
    let secrets: Vec<String> = grants.secrets.keys().cloned().collect();
    let files: Vec<String> = grants.files.iter().map(|path| path.display().to_string()).collect();
    print(&match output {
        Output::Json => format!(
            "{:#}",
            json!({
                "success": true, "name": info.name, "world": info.world.name(),
                "version": info.version, "digest": format!("sha256:{}", info.digest),
                "grants": { "origins": grants.origins, "env": grants.env, "files": files,
                    "secrets": secrets, "clock": grants.clock,
                    "interaction": grants.interaction },
            })
        ),
        Output::Text => {
            let mut lines = vec![format!(
                "ok: `{}` is a {} and accepts its configuration",
                info.name,
                info.world.name()
            )];
            for (key, entries) in [
                ("origins", &grants.origins),
                ("env", &grants.env),
                ("files", &files),
                ("secrets", &secrets),
            ] {
                if !entries.is_empty() {
                    lines.push(format!("  granted {key}: {}", entries.join(", ")));
                }
            }
            for (key, is_granted) in [("clock", grants.clock), ("interaction", grants.interaction)]
            {
                if is_granted {
                    lines.push(format!("  granted {key}"));
                }
            }
            lines.join("\n")
        }
    });
}

/// Prints what the conformance suite found.
///
/// # Errors
/// `PluginNonconforming` when a check failed.
pub fn show_conformance(found: &Conformance, output: Output) -> Result<()> {
    let (passed, failed) = (found.checks.iter(), found.failures());
    let word = |outcome: &Outcome| match outcome {
        Outcome::Passed => ("ok", None),
        Outcome::Failed(why) => ("failed", Some(why.clone())),
        Outcome::Skipped(why) => ("skipped", Some(why.clone())),
    };
    print(&match output {
        Output::Json => {
            let checks: Vec<Value> = passed
                .map(|check| {
                    let (result, detail) = word(&check.outcome);
                    json!({ "check": check.name, "result": result, "detail": detail })
                })
                .collect();
            format!("{:#}", json!({ "success": failed == 0, "failed": failed, "checks": checks }))
        }
        Output::Text => passed
            .map(|check| match word(&check.outcome) {
                (result, None) => format!("{result:9}{}", check.name),
                (result, Some(why)) => format!("{result:9}{}\n{:9}{why}", check.name, ""),
            })
            .collect::<Vec<_>>()
            .join("\n"),
    });
    if failed == 0 {
        return Ok(());
    }
    let all = found.checks.len();
    Err(Error::new(Kind::PluginNonconforming, format!("{failed} of {all} checks failed")))
}

/// Prints documents that were judged, a line each, and how many there were of each sort to stderr.
///
/// # Errors
/// `PluginRejected` when a document cannot pass.
pub fn show_fates(fates: &[Fate], how: Documents) -> Result<()> {
    let document = |document: &bson::RawDocumentBuf| {
        bson::Document::try_from(document.as_ref())
            .map_or(Value::Null, |document| bson::Bson::Document(document).into_relaxed_extjson())
    };
    let (mut counts, mut first) = ([0_u64; 4], None);
    for (position, fate) in fates.iter().enumerate() {
        let (sort, name) = match fate {
            Fate::Kept(_) => (0, "keep"),
            Fate::Dropped => (1, "drop"),
            Fate::Replaced(_) => (2, "replace"),
            Fate::Refused(_) => (3, "reject"),
        };
        if let Some(count) = counts.get_mut(sort) {
            *count += 1;
        }
        match (how, fate) {
            (Documents::Passing, Fate::Kept(kept)) => print(&document(kept).to_string()),
            (Documents::Passing, Fate::Replaced(other)) => print(&document(other).to_string()),
            (Documents::Verdicts, Fate::Replaced(other)) => {
                print(&json!({ "verdict": name, "document": document(other) }).to_string());
            }
            (Documents::Verdicts, Fate::Refused(reason)) => {
                print(&json!({ "verdict": name, "reason": reason }).to_string());
            }
            (Documents::Verdicts, _) => print(&json!({ "verdict": name }).to_string()),
            (Documents::Passing, Fate::Dropped | Fate::Refused(_)) => {}
        }
        if let Fate::Refused(reason) = fate {
            first.get_or_insert_with(|| format!("document {position} of the input: {reason}"));
        }
    }
    let [kept, dropped, replaced, rejected] = counts;
    let summary =
        format!("kept {kept}, dropped {dropped}, replaced {replaced}, rejected {rejected}");
    drop(writeln!(std::io::stderr(), "{summary}"));
    first.map_or(Ok(()), |reason| Err(Error::new(Kind::PluginRejected, reason)))
}

/// Prints documents in quarantine.
pub fn show_quarantined(all: &[Quarantined], output: Output) {
    let json = |document: &bson::RawDocumentBuf| {
        bson::Document::try_from(document.as_ref())
            .map_or(Value::Null, |document| bson::Bson::Document(document).into_canonical_extjson())
    };
    let id = |one: &Quarantined| json(&one.id).get("_id").cloned().unwrap_or(Value::Null);
    print(&match output {
        Output::Json => {
            let entries: Vec<Value> = all
                .iter()
                .map(|one| {
                    json!({
                        "namespace": one.namespace, "_id": id(one), "plugin": one.plugin,
                        "code": one.code, "reason": one.reason,
                        "document": one.document.as_ref().map(json),
                    })
                })
                .collect();
            format!("{:#}", json!({ "success": true, "count": all.len(), "documents": entries }))
        }
        Output::Text if all.is_empty() => "no document is in quarantine".to_owned(),
        Output::Text => all
            .iter()
            .map(|one| {
                let (namespace, plugin) = (&one.namespace, &one.plugin);
                format!("{namespace}  _id: {}  {plugin}  [{}] {}", id(one), one.code, one.reason)
            })
            .collect::<Vec<_>>()
            .join("\n"),
    });
}

/// Prints what a replay came to.
pub fn show_replayed(replayed: &Replayed, output: Output) {
    let Replayed { written, dropped, refused, present } = replayed;
    print(&match output {
        Output::Json => json!({ "success": true, "written": written, "dropped": dropped,
            "refused": refused, "present": present })
        .to_string(),
        Output::Text => {
            let mut text = format!("{written} written, {dropped} dropped by the filters");
            if *refused > 0 {
                text.push_str(&format!("; {refused} still cannot pass"));
            }
            if *present > 0 {
                text.push_str(&format!(
                    "; {present} stay, because the destination holds another document of their _id"
                ));
            }
            text
        }
    });
}

/// Prints how fast a plugin is.
pub fn show_speed(speed: &Speed, output: Output) {
    let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
    print(&match output {
        Output::Json => format!(
            "{:#}",
            json!({
                "compileMs": micros(speed.compile) / 1e3, "loadMs": micros(speed.load) / 1e3,
                "instantiateMicros": micros(speed.instantiate),
                "emptyCallMicros": micros(speed.empty_call),
                "batchDocuments": speed.batch_documents, "documentBytes": speed.document_bytes,
                "documentsPerSecond": speed.documents_per_second,
                "bytesPerSecond": speed.bytes_per_second,
                "batchP50Micros": micros(speed.p50), "batchP99Micros": micros(speed.p99),
            })
        ),
        Output::Text => {
            let mut lines = vec![
                format!("compile       {:10.1} ms", micros(speed.compile) / 1e3),
                format!("load again    {:10.1} ms", micros(speed.load) / 1e3),
                format!("instance      {:10.1} µs", micros(speed.instantiate)),
            ];
            if speed.batch_documents > 0 {
                lines.extend([
                    format!("empty call    {:10.2} µs", micros(speed.empty_call)),
                    format!(
                        "documents     {:10.0} a second, {:.1} MB/s ({} of {} bytes a batch)",
                        speed.documents_per_second,
                        speed.bytes_per_second / 1e6,
                        speed.batch_documents,
                        speed.document_bytes
                    ),
                    format!(
                        "batch         {:10.0} µs p50, {:.0} µs p99",
                        micros(speed.p50),
                        micros(speed.p99)
                    ),
                ]);
            }
            lines.join("\n")
        }
    });
}
