//! Which namespaces are synced, and which documents of them.
//!
//! Namespace filters: include first, then exclude removes; no include filter means everything.
//! Document filters: the first configured entry that matches a namespace names the chain its
//! documents go through. The rule for changed documents stands with the applier: every event is a
//! fetch followed by the chain.
//!
//! Invariant: no namespace is compared as a bare string outside this file.

use std::{collections::HashSet, sync::Arc};

use bson::RawDocumentBuf;
use fancy_regex::Regex;

use super::pattern;
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, Namespace,
        options::{CollectionMatch, DatabaseMatch, NamePattern, NamespaceMatch, OnError},
    },
    ports::{DocumentFilter, Refused, Sorted, Verdict},
};

/// Databases that are never synced.
const INTERNAL_DATABASES: [&str; 3] = ["admin", "config", "local"];
/// Prefix of databases that belong to sync tools and managed services.
const INTERNAL_PREFIX: &str = "__mdb_internal";

/// One compiled entry.
struct Matcher {
    /// Databases.
    database: NameMatcher,
    /// Collections; `None` means all.
    collections: Option<NameMatcher>,
}

/// Names or a pattern.
enum NameMatcher {
    /// Exactly these.
    Names(HashSet<String>),
    /// What the pattern finds.
    Pattern(Box<Regex>),
}

impl NameMatcher {
    /// Whether a name matches.
    ///
    /// # Errors
    /// `FilterInvalid` when the pattern backtracks without end.
    fn matches(&self, name: &str) -> Result<bool> {
        match self {
            Self::Names(names) => Ok(names.contains(name)),
            Self::Pattern(regex) => regex.is_match(name).map_err(|e| {
                Error::new(Kind::FilterInvalid, format!("the pattern `{}` fails", regex.as_str()))
                    .caused_by(e)
            }),
        }
    }
}

/// Compiles a pattern.
fn compile(pattern: &NamePattern) -> Result<NameMatcher> {
    pattern::compile(pattern).map(|regex| NameMatcher::Pattern(Box::new(regex)))
}

impl Matcher {
    /// Compiles an entry.
    fn new(entry: &NamespaceMatch) -> Result<Self> {
        Ok(Self {
            database: match &entry.database {
                DatabaseMatch::Name(name) => NameMatcher::Names(HashSet::from([name.clone()])),
                DatabaseMatch::Pattern(pattern) => compile(pattern)?,
            },
            collections: match &entry.collections {
                CollectionMatch::All => None,
                CollectionMatch::Names(names) => {
                    Some(NameMatcher::Names(names.iter().cloned().collect()))
                }
                CollectionMatch::Pattern(pattern) => Some(compile(pattern)?),
            },
        })
    }

    /// Whether a namespace matches.
    fn matches(&self, namespace: &Namespace) -> Result<bool> {
        Ok(self.database.matches(namespace.database())?
            && match &self.collections {
                None => true,
                Some(collections) => collections.matches(namespace.collection())?,
            })
    }
}

/// Which namespaces are synced.
pub(crate) struct NamespaceFilter {
    /// Included; empty means everything.
    include: Vec<Matcher>,
    /// Excluded from what is included.
    exclude: Vec<Matcher>,
    /// Our own metadata database.
    metadata_database: String,
    /// What is copied in the order in which it is stored.
    natural_order: Vec<Matcher>,
}

impl NamespaceFilter {
    /// Compiles the filters of a sync.
    ///
    /// # Errors
    /// `FilterInvalid` with the pattern that is none.
    pub(crate) fn new(
        include: &[NamespaceMatch],
        exclude: &[NamespaceMatch],
        metadata_database: &str,
    ) -> Result<Self> {
        Ok(Self {
            include: include.iter().map(Matcher::new).collect::<Result<_>>()?,
            exclude: exclude.iter().map(Matcher::new).collect::<Result<_>>()?,
            metadata_database: metadata_database.to_owned(),
            natural_order: Vec::new(),
        })
    }

    /// The same with what is copied in the order in which it is stored.
    ///
    /// # Errors
    /// `FilterInvalid` with the pattern that is none.
    pub(crate) fn with_natural_order(mut self, entries: &[NamespaceMatch]) -> Result<Self> {
        self.natural_order = entries.iter().map(Matcher::new).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Whether a namespace is copied in the order in which it is stored.
    ///
    /// # Errors
    /// `FilterInvalid` when a pattern backtracks without end.
    pub(crate) fn is_natural_order(&self, namespace: &Namespace) -> Result<bool> {
        for matcher in &self.natural_order {
            if matcher.matches(namespace)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Our own metadata database.
    pub(crate) fn metadata_database(&self) -> &str {
        &self.metadata_database
    }

    /// Whether a namespace is synced.
    ///
    /// # Errors
    /// `FilterInvalid` when a pattern backtracks without end.
    pub(crate) fn includes(&self, namespace: &Namespace) -> Result<bool> {
        let database = namespace.database();
        if INTERNAL_DATABASES.contains(&database)
            || database.starts_with(INTERNAL_PREFIX)
            || database == self.metadata_database
            || namespace.collection().starts_with("system.")
        {
            return Ok(false);
        }
        let any = |matchers: &[Matcher]| -> Result<bool> {
            for matcher in matchers {
                if matcher.matches(namespace)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok((self.include.is_empty() || any(&self.include)?) && !any(&self.exclude)?)
    }
}

/// A document that a chain cannot let pass, as it was before the chain.
#[derive(Debug)]
pub(crate) struct Withheld {
    /// The document.
    pub(crate) document: RawDocumentBuf,
    /// The filter that refused it.
    pub(crate) plugin: String,
    /// Why.
    pub(crate) error: Error,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Filtered {
    /// What goes on.
    pub(crate) kept: Batch,
    /// What cannot; always empty where that stops the sync.
    pub(crate) withheld: Vec<Withheld>,
}

/// Document filters in order; what one keeps goes to the next.
pub(crate) struct Chain {
    /// The filters.
    filters: Vec<Arc<dyn DocumentFilter>>,
    /// What becomes of a document that cannot pass one of them.
    on_error: OnError,
}

impl Chain {
    /// A chain of filters.
    fn new(filters: Vec<Arc<dyn DocumentFilter>>, on_error: OnError) -> Self {
        Self { filters, on_error }
    }

    /// What the chain makes of a batch, in order. A batch that is kept whole comes back as it was.
    ///
    /// # Errors
    /// Those of the filters.
    pub(crate) async fn apply(&self, namespace: &Namespace, batch: Batch) -> Result<Filtered> {
        match self.on_error {
            OnError::Stop => {
                let kept = self.apply_all(namespace, batch).await?;
                Ok(Filtered { kept, withheld: Vec::new() })
            }
            OnError::Quarantine => self.apply_each(namespace, batch).await,
        }
    }

    /// What the chain keeps of a batch, where a document that cannot pass is withheld.
    ///
    /// # Errors
    /// What is wrong with a filter, whatever the document.
    pub(crate) async fn apply_each(&self, namespace: &Namespace, batch: Batch) -> Result<Filtered> {
        let originals = batch.documents().collect::<Result<Vec<_>>>()?;
        // Each document with its position in the batch as it came.
        let mut present: Vec<(usize, RawDocumentBuf)> =
            originals.iter().map(|document| (*document).to_owned()).enumerate().collect();
        let mut withheld = Vec::new();
        for filter in &self.filters {
            if present.is_empty() {
                break;
            }
            let part = Batch::from_documents(present.iter().map(|(_, document)| document));
            let Sorted { verdicts, refused } = filter.judge_each(namespace, &part).await?;
            check_count(filter.name(), verdicts.len(), part.count())?;
            for Refused { position, error } in refused {
                let original = present.get(position).and_then(|(at, _)| originals.get(*at));
                let Some(original) = original else {
                    let text = format!("plugin {}: a position beyond the batch", filter.name());
                    return Err(Error::new(Kind::PluginOutputInvalid, text));
                };
                let plugin = filter.name().to_owned();
                withheld.push(Withheld { document: (*original).to_owned(), plugin, error });
            }
            present = present
                .into_iter()
                .zip(verdicts)
                .filter_map(|((at, document), verdict)| match verdict {
                    Verdict::Keep => Some((at, document)),
                    Verdict::Drop => None,
                    Verdict::Replace(other) => Some((at, other)),
                })
                .collect();
        }
        let kept = Batch::from_documents(present.iter().map(|(_, document)| document));
        Ok(Filtered { kept, withheld })
    }

    /// What the chain keeps of a batch, where a document that cannot pass is an error.
    async fn apply_all(&self, namespace: &Namespace, mut batch: Batch) -> Result<Batch> {
        for filter in &self.filters {
            if batch.is_empty() {
                break;
            }
            let Some(verdicts) = filter.apply(namespace, &batch).await? else { continue };
            check_count(filter.name(), verdicts.len(), batch.count())?;
            let mut kept = bson::RawArrayBuf::new();
            let mut count = 0;
            for (document, verdict) in batch.documents().zip(&verdicts) {
                match verdict {
                    Verdict::Drop => continue,
                    Verdict::Keep => kept.push(document?),
                    Verdict::Replace(replacement) => kept.push(replacement.as_ref()),
                }
                count += 1;
            }
            batch = Batch::from_array(kept, count);
        }
        Ok(batch)
    }
}

/// Checks that every document has its verdict.
fn check_count(plugin: &str, verdicts: usize, documents: usize) -> Result<()> {
    if verdicts == documents {
        return Ok(());
    }
    Err(Error::new(
        Kind::PluginOutputInvalid,
        format!("plugin {plugin}: {verdicts} verdicts for {documents} documents"),
    ))
}

/// Which chain the documents of a namespace go through.
#[derive(Default)]
pub struct DocumentFilters {
    /// In the order of the config file; the first match wins.
    entries: Vec<(Vec<Matcher>, Arc<Chain>)>,
    /// What is recorded with the sync.
    fingerprints: Vec<String>,
}

impl DocumentFilters {
    /// Adds an entry of the config file.
    ///
    /// # Errors
    /// `FilterInvalid` with the pattern that is none.
    pub fn push(
        &mut self,
        namespaces: &[NamespaceMatch],
        filters: Vec<Arc<dyn DocumentFilter>>,
        on_error: OnError,
    ) -> Result<()> {
        let matchers = namespaces.iter().map(Matcher::new).collect::<Result<_>>()?;
        let plugins: Vec<&str> = filters.iter().map(|f| f.fingerprint()).collect();
        self.fingerprints.push(format!("{namespaces:?} -> {}", plugins.join(" | ")));
        // How errors are met is no part of the fingerprint: a sync that stopped may go on with a
        // quarantine.
        self.entries.push((matchers, Arc::new(Chain::new(filters, on_error))));
        Ok(())
    }

    /// The chain of a namespace; `None` means that its documents go on raw.
    ///
    /// # Errors
    /// `FilterInvalid` when a pattern backtracks without end.
    pub(crate) fn chain(&self, namespace: &Namespace) -> Result<Option<Arc<Chain>>> {
        for (matchers, chain) in &self.entries {
            for matcher in matchers {
                if matcher.matches(namespace)? {
                    return Ok(Some(Arc::clone(chain)));
                }
            }
        }
        Ok(None)
    }

    /// What the verdicts of the whole sync depend on.
    pub(crate) fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(database: &str, collections: &[&str]) -> NamespaceMatch {
        NamespaceMatch {
            database: DatabaseMatch::Name(database.into()),
            collections: if collections.is_empty() {
                CollectionMatch::All
            } else {
                CollectionMatch::Names(collections.iter().map(|c| (*c).to_owned()).collect())
            },
        }
    }

    /// A filter that says something of every `_id`.
    struct Says(&'static str, fn(i32) -> Option<Verdict>);

    #[async_trait::async_trait]
    impl DocumentFilter for Says {
        fn name(&self) -> &str {
            self.0
        }

        fn fingerprint(&self) -> &str {
            self.0
        }

        async fn apply(&self, _: &Namespace, batch: &Batch) -> Result<Option<Vec<Verdict>>> {
            let said: Vec<_> = ids(batch).into_iter().map(self.1).collect();
            match said.iter().position(Option::is_none) {
                Some(at) => Err(Error::new(Kind::PluginRejected, format!("document {at}"))),
                None if said.iter().all(|one| *one == Some(Verdict::Keep)) => Ok(None),
                None => Ok(Some(said.into_iter().flatten().collect())),
            }
        }

        async fn judge_each(&self, _: &Namespace, batch: &Batch) -> Result<Sorted> {
            let said: Vec<_> = ids(batch).into_iter().map(self.1).collect();
            let refused = said.iter().enumerate().filter(|(_, one)| one.is_none());
            let refused = refused.map(|(position, _)| Refused {
                position,
                error: Error::new(Kind::PluginRejected, "it is odd"),
            });
            Ok(Sorted {
                refused: refused.collect(),
                verdicts: said.into_iter().map(|one| one.unwrap_or(Verdict::Drop)).collect(),
            })
        }
    }

    /// The `_id`s of a batch.
    fn ids(batch: &Batch) -> Vec<i32> {
        batch.documents().map(|document| document.unwrap().get_i32("_id").unwrap()).collect()
    }

    /// A document.
    fn made(id: i32, by: &str) -> RawDocumentBuf {
        bson::rawdoc! {"_id": id, "by": by}
    }

    /// Two filters: the first drops every third document and replaces every fifth, the second drops
    /// 1 and 10, and replaces even ones; it fails for 7 and for 20, which the first one replaced.
    fn chain(on_error: OnError) -> Chain {
        let first = Says("first", |id| {
            Some(match id {
                id if id % 3 == 0 => Verdict::Drop,
                id if id % 5 == 0 => Verdict::Replace(made(id, "first")),
                _ => Verdict::Keep,
            })
        });
        let second = Says("second", |id| match id {
            1 | 10 => Some(Verdict::Drop),
            7 | 20 => None,
            id if id % 2 == 0 => Some(Verdict::Replace(made(id, "second"))),
            _ => Some(Verdict::Keep),
        });
        Chain::new(vec![Arc::new(first), Arc::new(second)], on_error)
    }

    #[tokio::test]
    async fn what_a_filter_keeps_goes_to_the_next_as_it_left_it() {
        let namespace = Namespace::parse("app.users").unwrap();
        let batch = |ids: &[i32]| Batch::from_documents(ids.iter().map(|id| made(*id, "source")));
        let documents = |batch: &Batch| {
            batch.documents().map(|one| one.unwrap().to_owned()).collect::<Vec<_>>()
        };
        let expected =
            [made(2, "second"), made(4, "second"), made(5, "first"), made(8, "second")].to_vec();
        let whole = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10];
        for on_error in [OnError::Stop, OnError::Quarantine] {
            let found = chain(on_error).apply(&namespace, batch(&whole)).await.unwrap();
            assert_eq!(documents(&found.kept), expected);
            assert_eq!((found.kept.count(), found.withheld.len()), (4, 0));
            let untouched = chain(on_error).apply(&namespace, batch(&[11, 13])).await.unwrap();
            assert_eq!(documents(&untouched.kept), [made(11, "source"), made(13, "source")]);
            let none = chain(on_error).apply(&namespace, batch(&[3, 6])).await.unwrap();
            assert!(none.kept.is_empty());
        }
        // Positions are those of what is left: it is the document as it came that is withheld.
        let failing = batch(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 20]);
        let found = chain(OnError::Quarantine).apply(&namespace, failing.clone()).await.unwrap();
        assert_eq!(
            documents(&found.kept),
            [made(2, "second"), made(5, "first"), made(8, "second")]
        );
        let withheld: Vec<_> =
            found.withheld.iter().map(|one| (one.document.clone(), one.plugin.as_str())).collect();
        assert_eq!(withheld, [(made(7, "source"), "second"), (made(20, "source"), "second")]);
        let error = chain(OnError::Stop).apply(&namespace, failing).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PluginRejected);
    }

    fn included(filter: &NamespaceFilter, text: &str) -> bool {
        filter.includes(&Namespace::parse(text).unwrap()).unwrap()
    }

    #[test]
    fn exclude_removes_from_what_is_included() {
        let filter =
            NamespaceFilter::new(&[names("sales", &[])], &[names("sales", &["old"])], "meta")
                .unwrap();
        assert!(included(&filter, "sales.new"));
        assert!(!included(&filter, "sales.old"));
        assert!(!included(&filter, "other.x"));
    }

    #[test]
    fn an_exclude_filter_alone_keeps_the_rest_and_internals_never_pass() {
        let filter = NamespaceFilter::new(&[], &[names("a", &["b"])], "meta").unwrap();
        assert!(included(&filter, "a.c") && included(&filter, "x.y"));
        for internal in
            ["admin.x", "config.x", "local.x", "meta.sync", "a.system.views", "__mdb_internal_x.y"]
        {
            assert!(!included(&filter, internal), "{internal}");
        }
    }

    #[test]
    fn patterns_take_the_servers_options_and_look_around() {
        let pattern = |pattern: &str, options: &str| NamePattern {
            pattern: pattern.into(),
            options: options.into(),
        };
        let entry = NamespaceMatch {
            database: DatabaseMatch::Pattern(pattern("^APP_(?!test)", "i")),
            collections: CollectionMatch::Pattern(pattern("^accounts_.+?$", "ms")),
        };
        let filter = NamespaceFilter::new(&[entry], &[], "meta").unwrap();
        assert!(included(&filter, "app_one.accounts_eu"));
        assert!(!included(&filter, "app_test.accounts_eu"));
        assert!(!included(&filter, "app_one.users"));
        let broken = NamespaceMatch {
            database: DatabaseMatch::Pattern(pattern("(", "")),
            collections: CollectionMatch::All,
        };
        let refused = NamespaceFilter::new(&[broken], &[], "meta").map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), Kind::FilterInvalid);
    }
}
