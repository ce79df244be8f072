//! Under which names the collections of the source are on the destination.
//!
//! An entry for a collection wins over one for its database; what no entry is about keeps its
//! name. Two namespaces never become one: what would is refused, at the start or when it appears.
//!
//! Invariant: nobody else makes a name of the destination out of one of the source.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::{Bson, Document, RawDocumentBuf};

use crate::{
    error::{Error, Kind, Result},
    model::{Namespace, options::NamespaceRemap},
    ports::{CollectionInfo, CollectionKind},
};

/// Longest `database.collection` that a server takes, in bytes.
const MAX_NAMESPACE_BYTES: usize = 255;

/// Names of the source to names of the destination.
#[derive(Debug, Default)]
pub(crate) struct Remap {
    /// Whole databases.
    databases: HashMap<String, String>,
    /// Single collections.
    collections: HashMap<Namespace, Namespace>,
}

impl Remap {
    /// Takes the entries of `namespaceRemap`.
    ///
    /// # Errors
    /// `NamespaceRemapConflict` when only one side of an entry names a collection.
    pub(crate) fn new(entries: &[NamespaceRemap]) -> Result<Self> {
        let mut remap = Self::default();
        for NamespaceRemap { from, to } in entries {
            match (&from.collection, &to.collection) {
                (None, None) => {
                    remap.databases.insert(from.database.clone(), to.database.clone());
                }
                (Some(old), Some(new)) => {
                    remap.collections.insert(
                        Namespace::new(from.database.as_str(), old.as_str())?,
                        Namespace::new(to.database.as_str(), new.as_str())?,
                    );
                }
                _ => {
                    return Err(Error::new(
                        Kind::NamespaceRemapConflict,
                        format!("{}: one side names a collection, the other none", from.database),
                    ));
                }
            }
        }
        Ok(remap)
    }

    /// Whether every name stays.
    pub(crate) fn is_empty(&self) -> bool {
        self.databases.is_empty() && self.collections.is_empty()
    }

    /// The name on the destination.
    ///
    /// # Errors
    /// `FilterInvalid` never for a namespace of a server.
    pub(crate) fn destination(&self, source: &Namespace) -> Result<Namespace> {
        if let Some(name) = self.collections.get(source) {
            return Ok(name.clone());
        }
        match self.databases.get(source.database()) {
            Some(database) => Namespace::new(database.as_str(), source.collection()),
            None => Ok(source.clone()),
        }
    }

    /// The name on the source of what has this name on the destination; `None` when nothing can.
    ///
    /// # Errors
    /// As [`Self::destination`].
    pub(crate) fn source(&self, destination: &Namespace) -> Result<Option<Namespace>> {
        let named = self.collections.iter().find(|(_, to)| *to == destination);
        if let Some((from, _)) = named {
            return Ok(Some(from.clone()));
        }
        let renamed = self
            .databases
            .iter()
            .filter(|(_, to)| *to == destination.database())
            .map(|(from, _)| from);
        for database in renamed.map(String::as_str).chain([destination.database()]) {
            let candidate = Namespace::new(database, destination.collection())?;
            if self.destination(&candidate)? == *destination {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    /// Everything that keeps these collections of the source from getting their names, in words.
    /// `taken` are the databases of the destination.
    ///
    /// # Errors
    /// As [`Self::destination`].
    pub(crate) fn conflicts(
        &self,
        sources: &[Namespace],
        taken: &BTreeSet<String>,
        metadata_database: &str,
    ) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let mut by_destination: BTreeMap<Namespace, Vec<&Namespace>> = BTreeMap::new();
        for source in sources {
            by_destination.entry(self.destination(source)?).or_default().push(source);
        }
        let mut spellings: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (destination, from) in &by_destination {
            if let [first, second, ..] = from.as_slice() {
                problems.push(format!("{first} and {second} would both become {destination}"));
            }
            if destination.to_string().len() > MAX_NAMESPACE_BYTES {
                problems.push(format!("{destination} is longer than {MAX_NAMESPACE_BYTES} bytes"));
            }
            if destination.database() == metadata_database {
                problems.push(format!("{destination} lies in the metadata database"));
            }
            spellings
                .entry(destination.database().to_lowercase())
                .or_default()
                .insert(destination.database());
        }
        for (lower, names) in &mut spellings {
            names.extend(taken.iter().filter(|t| t.to_lowercase() == *lower).map(String::as_str));
            if names.len() > 1 {
                let names: Vec<&str> = names.iter().copied().collect();
                problems.push(format!(
                    "the databases {} differ only in letter case",
                    names.join(" and ")
                ));
            }
        }
        Ok(problems)
    }

    /// Everything that keeps these collections and views of the source from getting their names
    /// beside what exists on the destination, in words.
    ///
    /// # Errors
    /// As [`Self::destination`].
    pub(crate) fn problems(
        &self,
        wanted: &[CollectionInfo],
        existing: &[CollectionInfo],
        metadata_database: &str,
    ) -> Result<Vec<String>> {
        let sources: Vec<Namespace> = wanted.iter().map(|info| info.namespace.clone()).collect();
        let taken = existing.iter().map(|info| info.namespace.database().to_owned()).collect();
        let mut problems = self.conflicts(&sources, &taken, metadata_database)?;
        for info in wanted.iter().filter(|info| info.kind == CollectionKind::View) {
            if let Err(error) = self.view(&info.namespace, &info.options) {
                problems.push(error.full());
            }
        }
        Ok(problems)
    }

    /// The options of a view as the destination gets them: the collections that it reads under
    /// their names there.
    ///
    /// # Errors
    /// `UnsupportedOperation` for a view that reads what goes to another database than itself.
    pub(crate) fn view(
        &self,
        view: &Namespace,
        options: &RawDocumentBuf,
    ) -> Result<RawDocumentBuf> {
        if self.is_empty() {
            return Ok(options.clone());
        }
        let unreadable = |e: bson::error::Error| {
            Error::new(Kind::UnsupportedOperation, format!("{view}: unreadable view")).caused_by(e)
        };
        let home = self.destination(view)?;
        let name = |collection: &str| -> Result<String> {
            let target = self.destination(&view.sibling(collection)?)?;
            if target.database() != home.database() {
                return Err(Error::new(
                    Kind::UnsupportedOperation,
                    format!(
                        "the view {view} becomes {home} and reads {collection}, which becomes \
                         {target} in another database"
                    ),
                ));
            }
            Ok(target.collection().to_owned())
        };
        let mut options = Document::try_from(options.as_ref()).map_err(unreadable)?;
        if let Some(Bson::String(base)) = options.get_mut("viewOn") {
            *base = name(base)?;
        }
        if let Some(Bson::Array(pipeline)) = options.get_mut("pipeline") {
            rename_stages(pipeline, view, &name)?;
        }
        RawDocumentBuf::try_from(&options).map_err(unreadable)
    }
}

/// Renames the collections that the stages of a pipeline read.
fn rename_stages(
    pipeline: &mut [Bson],
    view: &Namespace,
    name: &impl Fn(&str) -> Result<String>,
) -> Result<()> {
    let foreign = |stage: &str| {
        Error::new(
            Kind::UnsupportedOperation,
            format!("the view {view} reads another database in {stage}, which cannot be renamed"),
        )
    };
    for stage in pipeline.iter_mut().filter_map(Bson::as_document_mut) {
        for (operator, body) in stage.iter_mut() {
            let key = match operator.as_str() {
                "$lookup" | "$graphLookup" => "from",
                "$unionWith" => "coll",
                "$facet" => {
                    let Some(branches) = body.as_document_mut() else { continue };
                    for (_, branch) in branches.iter_mut() {
                        if let Bson::Array(stages) = branch {
                            rename_stages(stages, view, name)?;
                        }
                    }
                    continue;
                }
                _ => continue,
            };
            match body {
                Bson::String(collection) => *collection = name(collection)?,
                Bson::Document(fields) => {
                    match fields.get_mut(key) {
                        Some(Bson::String(collection)) => *collection = name(collection)?,
                        Some(_) => return Err(foreign(operator)),
                        None => {}
                    }
                    if fields.contains_key("db") {
                        return Err(foreign(operator));
                    }
                    if let Some(Bson::Array(stages)) = fields.get_mut("pipeline") {
                        rename_stages(stages, view, name)?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;
    use crate::model::options::RemapName;

    fn namespace(text: &str) -> Namespace {
        Namespace::parse(text).unwrap()
    }

    fn remap(entries: &[(&str, &str)]) -> Remap {
        let name = |text: &str| match text.split_once('.') {
            None => RemapName { database: text.into(), collection: None },
            Some((d, c)) => RemapName { database: d.into(), collection: Some(c.into()) },
        };
        let entries: Vec<NamespaceRemap> = entries
            .iter()
            .map(|(from, to)| NamespaceRemap { from: name(from), to: name(to) })
            .collect();
        Remap::new(&entries).unwrap()
    }

    #[test]
    fn a_collection_wins_over_its_database_and_both_are_found_back() {
        let remap = remap(&[("app", "shop"), ("app.log", "audit.app"), ("shop", "app")]);
        for (source, destination) in [
            ("app.users", "shop.users"),
            ("app.log", "audit.app"),
            ("shop.users", "app.users"),
            ("other.x", "other.x"),
        ] {
            assert_eq!(remap.destination(&namespace(source)).unwrap(), namespace(destination));
            assert_eq!(remap.source(&namespace(destination)).unwrap(), Some(namespace(source)));
        }
        // What would be there keeps another name.
        assert_eq!(remap.source(&namespace("shop.log")).unwrap(), None);
    }

    #[test]
    fn every_conflict_is_named() {
        let remap = remap(&[("a.c", "b.c"), ("x", "Y"), ("m", "meta")]);
        let sources = ["a.c", "b.c", "x.t", "y.t", "m.t"].map(namespace);
        let taken = BTreeSet::from(["B".to_owned()]);
        let text = remap.conflicts(&sources, &taken, "meta").unwrap().join("\n");
        for expected in [
            "a.c and b.c would both become b.c",
            "databases Y and y differ",
            "databases B and b differ",
            "meta.t lies in the metadata database",
        ] {
            assert!(text.contains(expected), "{expected} not in {text}");
        }
        let none = Remap::default().conflicts(&sources, &BTreeSet::new(), "meta").unwrap();
        assert_eq!(none, Vec::<String>::new());
    }

    #[test]
    fn a_view_reads_the_new_names() {
        let remap =
            remap(&[("app", "shop"), ("app.users", "shop.people"), ("app.far", "away.far")]);
        let options = rawdoc! {
            "viewOn": "users",
            "pipeline": [
                { "$lookup": { "from": "users", "as": "x", "pipeline": [ { "$unionWith": "users" } ] } },
                { "$facet": { "a": [ { "$graphLookup": { "from": "users", "as": "y" } } ] } },
                { "$unionWith": { "coll": "orders" } },
                { "$match": { "from": "users" } },
            ],
        };
        let mapped = remap.view(&namespace("app.v"), &options).unwrap();
        assert_eq!(
            Document::try_from(mapped.as_ref()).unwrap(),
            doc! {
                "viewOn": "people",
                "pipeline": [
                    { "$lookup": { "from": "people", "as": "x", "pipeline": [ { "$unionWith": "people" } ] } },
                    { "$facet": { "a": [ { "$graphLookup": { "from": "people", "as": "y" } } ] } },
                    { "$unionWith": { "coll": "orders" } },
                    { "$match": { "from": "users" } },
                ],
            }
        );
        let error = remap.view(&namespace("app.v"), &rawdoc! { "viewOn": "far" }).unwrap_err();
        assert_eq!(error.kind(), Kind::UnsupportedOperation);
        assert!(error.full().contains("away.far"), "{}", error.full());
        assert!(Remap::default().view(&namespace("app.v"), &options).unwrap() == options);
    }
}
