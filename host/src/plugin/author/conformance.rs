//! The conformance suite: what the contract says of a plugin, tried on the component itself, in
//! whatever language it was written.
//!
//! The heart of it for filters: a verdict depends on the configuration, the namespace and the document
//! alone. The host copies a document in one batch, meets it in another when it changes, and verifies it
//! in a third; whatever else a verdict depends on would be a difference between the clusters.

use std::path::PathBuf;

use bson::{RawDocument, RawDocumentBuf};
use serde_json::{Value as Json, json};

use super::{
    corpus, golden, provider,
    subject::{self, Candidate},
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, Namespace,
        author::{Check, Conformance, Outcome, Subject},
        plugin::{PluginSettings, World},
    },
    plugin::{
        filter::{Filter, Judged, Warm},
        flat::Sent,
    },
    ports::Verdict,
};

/// Calls on one instance, to see whether it keeps what it should give back.
const CALLS: usize = 200;
/// Documents of the large batch, of about a kibibyte each: 4 MiB is the largest batch of a copy.
const LARGE_BATCH: usize = 4096;
/// How often a batch may take too long before the filter is called too slow.
const ATTEMPTS: u32 = 3;

/// Tries everything the contract says of a plugin's world, and its golden files: those named, else
/// those in `tests/golden` beside its manifest.
///
/// # Errors
/// `ConfigInvalid` when the manifest or a golden file cannot be read. What the plugin does wrong is in
/// the result.
pub async fn conform(
    subject: &Subject,
    goldens: &[PathBuf],
    settings: &PluginSettings,
) -> Result<Conformance> {
    let mut checks = Checks::default();
    let places = match goldens {
        [] => subject::golden_folder(subject).into_iter().collect(),
        named => named.to_vec(),
    };
    let files = golden::files(&places).map_err(|text| Error::new(Kind::ConfigInvalid, text))?;
    let candidate = match subject::load(subject, settings).await {
        Ok(candidate) => candidate,
        Err(error) => {
            checks.failed("it can be loaded with what it asks for", coded(&error));
            return Ok(checks.0);
        }
    };
    match candidate.loaded.world {
        World::DocumentFilter => filter(&candidate, &files, &mut checks).await,
        World::IdentityProvider => provider::check(&candidate, &mut checks).await,
    }
    Ok(checks.0)
}

/// Collects checks.
#[derive(Default)]
pub(super) struct Checks(Conformance);

impl Checks {
    /// Notes what became of a check.
    fn note(&mut self, name: impl Into<String>, outcome: Outcome) {
        self.0.checks.push(Check { name: name.into(), outcome });
    }

    /// Notes a failure.
    pub(super) fn failed(&mut self, name: &str, why: impl Into<String>) {
        self.note(name, Outcome::Failed(why.into()));
    }

    /// Notes why a check says nothing.
    pub(super) fn skipped(&mut self, name: &str, why: &str) {
        self.note(name, Outcome::Skipped(why.to_owned()));
    }

    /// Notes a check and returns whether it passed.
    pub(super) fn is_ok(&mut self, name: impl Into<String>, result: Result<(), String>) -> bool {
        let passed = result.is_ok();
        self.note(name, result.map_or_else(Outcome::Failed, |()| Outcome::Passed));
        passed
    }
}

/// An error with its code, as a check shows it.
pub(super) fn coded(error: &Error) -> String {
    format!("[{}] {}", error.kind().code(), error.full())
}

/// What was said of one document, fit to be compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// It goes on as it is.
    Kept,
    /// It does not go on.
    Dropped,
    /// Another takes its place.
    Replaced(RawDocumentBuf),
    /// It cannot pass.
    Refused(Kind, String),
}

impl Said {
    /// The same without a position, which depends on the batch.
    fn refused(error: &Error) -> Self {
        let text = error.detail();
        let text = text.split_once(": ").map_or(text, |(_, reason)| reason);
        Self::Refused(error.kind(), text.to_owned())
    }
}

/// What a fresh instance says of documents in one batch.
///
/// # Errors
/// What the call ends in.
pub(super) async fn judged<D: AsRef<RawDocument> + Sync>(
    filter: &Filter,
    namespace: &Namespace,
    documents: &[D],
) -> Result<Vec<Said>> {
    let fresh = filter.start().await?;
    said(filter, filter.sent(), fresh, namespace, documents).await.map(|(said, _)| said)
}

/// What an instance says of documents in one batch, and the instance again.
async fn said<D: AsRef<RawDocument> + Sync>(
    filter: &Filter,
    sent: &Sent,
    warm: Warm,
    namespace: &Namespace,
    documents: &[D],
) -> Result<(Vec<Said>, Warm)> {
    let batch = Batch::from_documents(documents);
    let Judged { said: judgement, warm } =
        filter.call_sending(sent, warm, namespace, &batch).await?;
    let mut list: Vec<Said> = match judgement.verdicts {
        None => vec![Said::Kept; documents.len()],
        Some(verdicts) => verdicts
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Keep => Said::Kept,
                Verdict::Drop => Said::Dropped,
                Verdict::Replace(document) => Said::Replaced(document),
            })
            .collect(),
    };
    for (position, error) in &judgement.refused {
        if let Some(place) = list.get_mut(*position) {
            *place = Said::refused(error);
        }
    }
    Ok((list, warm))
}

/// The documents that a suite of checks is about, and what was said of them first.
struct Trial<'a> {
    /// The filter.
    filter: &'a Filter,
    /// The collection.
    namespace: Namespace,
    /// The documents.
    documents: Vec<RawDocumentBuf>,
    /// What a fresh instance said of all of them in one batch.
    first: Vec<Said>,
}

/// Checks a document filter.
async fn filter(candidate: &Candidate, files: &[PathBuf], checks: &mut Checks) {
    let loading = "it can be loaded with what it asks for";
    let made = Filter::new(candidate.loaded.with_config(&candidate.config)).await;
    let filter = match made {
        Ok(filter) => filter,
        Err(error) => return checks.failed(loading, coded(&error)),
    };
    checks.is_ok(loading, Ok(()));
    manifest(candidate, checks);
    checks.is_ok("its plan is always the same", same_plan(&filter).await);
    let Ok(namespace) = Namespace::parse("app.documents") else { return };
    let mut documents = corpus::documents();
    documents.extend(golden::documents(files));
    let judging = "documents of every kind are judged";
    match judged(&filter, &namespace, &documents).await {
        Ok(first) => {
            checks.is_ok(judging, Ok(()));
            Trial { filter: &filter, namespace, documents, first }.run(checks).await;
        }
        Err(error) => checks.failed(judging, coded(&error)),
    }
    checks.is_ok("a configuration is refused in words, not by a crash", odd(candidate).await);
    if files.is_empty() {
        checks.skipped("its golden files", "there are none; put them into tests/golden");
    }
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        checks.is_ok(format!("golden file {name}"), golden::check(candidate, file).await);
    }
}

/// Checks what a manifest says against what it is the manifest of.
pub(super) fn manifest(candidate: &Candidate, checks: &mut Checks) {
    let name = "its manifest says who made what";
    let Some(found) = &candidate.manifest else {
        return checks.skipped(name, "there is no plugin.toml; it gets nothing but the log");
    };
    let missing: Vec<&str> =
        [("description", found.description.is_empty()), ("licence", found.licence.is_empty())]
            .into_iter()
            .filter_map(|(key, is_missing)| is_missing.then_some(key))
            .collect();
    checks.is_ok(
        name,
        if missing.is_empty() { Ok(()) } else { Err(format!("it lacks {}", missing.join(", "))) },
    );
}

/// Whether two instances announce the same, and one of them twice.
async fn same_plan(filter: &Filter) -> Result<(), String> {
    let text = |error: Error| coded(&error);
    let plan = |plan: &crate::plugin::filter::Plan| (plan.replaces, plan.reads.clone());
    let mut warm = filter.start().await.map_err(text)?;
    for _ in 0..2 {
        let again = filter.ask_plan(&mut warm).await.map_err(text)?;
        if plan(&again) != plan(filter.plan()) {
            return Err(format!("first {:?}, then {:?}", plan(filter.plan()), plan(&again)));
        }
    }
    Ok(())
}

/// Whether configurations that make no sense are refused in words.
async fn odd(candidate: &Candidate) -> Result<(), String> {
    let mut unknown = candidate.config.clone();
    if let Json::Object(fields) = &mut unknown {
        fields.insert("a key that nothing knows".to_owned(), json!([1, null, {"a": true}]));
    }
    for config in [unknown, json!({}), json!({"": {"": [[]]}})] {
        match Filter::new(candidate.loaded.with_config(&config)).await {
            Err(error) if error.kind() != Kind::PluginConfigInvalid => {
                return Err(format!("configured with {config}: {}", coded(&error)));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Trial<'_> {
    /// Runs every check about verdicts.
    async fn run(&self, checks: &mut Checks) {
        checks.is_ok("an _id is never changed", self.ids());
        checks.is_ok("an empty batch has no verdicts", self.nothing().await);
        checks.is_ok("a document alone gets the same verdict", self.cut(1).await);
        checks.is_ok("in batches of seven too", self.cut(7).await);
        checks.is_ok("in another order too", self.reversed().await);
        checks.is_ok("from another instance too", self.other_instance(Vec::new()).await);
        let later = vec![("a-later-addition".to_owned(), "something".to_owned())];
        checks.is_ok(
            "what a later contract adds to `extra` is ignored",
            self.other_instance(later).await,
        );
        checks.is_ok("earlier calls do not matter, nor do many of them", self.many().await);
        checks.is_ok("a batch of 4 MiB is judged in time", self.large().await);
        let reads = "only the fields in `plan.reads` count";
        let plan = self.filter.plan();
        if plan.replaces || plan.reads.is_empty() {
            checks.skipped(reads, "its plan says that any field may count");
        } else {
            checks.is_ok(reads, self.whole().await);
        }
    }

    /// The difference between what was said of a document at first and now.
    fn compare<'a>(
        &self,
        now: impl IntoIterator<Item = &'a Said>,
        positions: impl IntoIterator<Item = usize>,
    ) -> Result<(), String> {
        for (said, position) in now.into_iter().zip(positions) {
            let first = self.first.get(position);
            if first != Some(said) {
                let document = self.documents.get(position);
                let id = document.and_then(|document| document.get("_id").ok().flatten());
                return Err(format!(
                    "the document with _id {id:?}: first {}, then {}",
                    first.map_or_else(String::new, shown),
                    shown(said)
                ));
            }
        }
        Ok(())
    }

    /// Whether a replacement has another `_id`.
    fn ids(&self) -> Result<(), String> {
        match self.first.iter().find(|said| matches!(said, Said::Refused(Kind::PluginChangedId, _)))
        {
            Some(said) => Err(shown(said)),
            None => Ok(()),
        }
    }

    /// A batch of nothing.
    async fn nothing(&self) -> Result<(), String> {
        let none: [RawDocumentBuf; 0] = [];
        judged(self.filter, &self.namespace, &none).await.map(drop).map_err(|error| coded(&error))
    }

    /// All documents in batches of another size, on one instance.
    async fn cut(&self, size: usize) -> Result<(), String> {
        let mut warm = self.filter.start().await.map_err(|error| coded(&error))?;
        for (number, chunk) in self.documents.chunks(size).enumerate() {
            let (list, again) = said(self.filter, self.filter.sent(), warm, &self.namespace, chunk)
                .await
                .map_err(|error| coded(&error))?;
            warm = again;
            self.compare(&list, number * size..)?;
        }
        Ok(())
    }

    /// The last document first.
    async fn reversed(&self) -> Result<(), String> {
        let documents: Vec<&RawDocumentBuf> = self.documents.iter().rev().collect();
        let list = judged(self.filter, &self.namespace, &documents)
            .await
            .map_err(|error| coded(&error))?;
        self.compare(&list, (0..documents.len()).rev())
    }

    /// The same from an instance that was made in another way.
    async fn other_instance(&self, extra: Vec<(String, String)>) -> Result<(), String> {
        let warm = self.filter.start_with(extra).await.map_err(|error| coded(&error))?;
        let (list, _) =
            said(self.filter, self.filter.sent(), warm, &self.namespace, &self.documents)
                .await
                .map_err(|error| coded(&error))?;
        self.compare(&list, 0..)
    }

    /// Many calls on one instance, and what it says after them.
    async fn many(&self) -> Result<(), String> {
        let mut warm = self.filter.start().await.map_err(|error| coded(&error))?;
        let few = self.documents.get(..8).unwrap_or(&self.documents);
        for call in 0..CALLS {
            let (list, again) = said(self.filter, self.filter.sent(), warm, &self.namespace, few)
                .await
                .map_err(|error| format!("at call {call}: {}", coded(&error)))?;
            warm = again;
            self.compare(&list, 0..)?;
        }
        let (list, _) =
            said(self.filter, self.filter.sent(), warm, &self.namespace, &self.documents)
                .await
                .map_err(|error| coded(&error))?;
        self.compare(&list, 0..)
    }

    /// As large a batch as a copy makes.
    async fn large(&self) -> Result<(), String> {
        let filler = "x".repeat(900);
        let documents: Vec<RawDocumentBuf> = (0..LARGE_BATCH)
            .map(|number| {
                let number = i64::try_from(number).unwrap_or_default();
                bson::rawdoc! {"_id": number, "text": filler.as_str(), "number": number}
            })
            .collect();
        let mut attempt = 1;
        loop {
            match judged(self.filter, &self.namespace, &documents).await {
                // A busy machine holds a batch up now and then; a slow filter is slow every time.
                Err(error) if error.kind() == Kind::PluginDeadline && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                judged => return judged.map(drop).map_err(|error| coded(&error)),
            }
        }
    }

    /// Whole documents, where it otherwise gets the fields alone that its plan names.
    async fn whole(&self) -> Result<(), String> {
        let warm = self.filter.start().await.map_err(|error| coded(&error))?;
        let (list, _) = said(self.filter, &Sent::Whole, warm, &self.namespace, &self.documents)
            .await
            .map_err(|error| coded(&error))?;
        self.compare(&list, 0..)
    }
}

/// A verdict in words.
fn shown(said: &Said) -> String {
    match said {
        Said::Kept => "kept".to_owned(),
        Said::Dropped => "dropped".to_owned(),
        Said::Replaced(document) => {
            format!("replaced by {:.200}", golden::relaxed(document).to_string())
        }
        Said::Refused(_, reason) => format!("rejected ({reason})"),
    }
}
