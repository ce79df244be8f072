//! The options of a sync as `/start` gives them, parsed and free of contradictions.

use super::Namespace;

/// One of the two connection strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterLabel {
    /// `--cluster0`
    Cluster0,
    /// `--cluster1`
    Cluster1,
}

impl ClusterLabel {
    /// `cluster0` or `cluster1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster0 => "cluster0",
            Self::Cluster1 => "cluster1",
        }
    }
}

/// When and which indexes are built on the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BuildIndexes {
    /// After the collection copy (default).
    #[default]
    AfterDataCopy,
    /// Before the collection copy.
    BeforeDataCopy,
    /// After the copy, without hashed indexes.
    ExcludeHashedAfterCopy,
    /// Before the copy, without hashed indexes.
    ExcludeHashed,
    /// Only `_id`.
    Never,
}

impl BuildIndexes {
    /// The word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterDataCopy => "afterDataCopy",
            Self::BeforeDataCopy => "beforeDataCopy",
            Self::ExcludeHashedAfterCopy => "excludeHashedAfterCopy",
            Self::ExcludeHashed => "excludeHashed",
            Self::Never => "never",
        }
    }

    /// Parses the word of the API.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::AfterDataCopy,
            Self::BeforeDataCopy,
            Self::ExcludeHashedAfterCopy,
            Self::ExcludeHashed,
            Self::Never,
        ]
        .into_iter()
        .find(|mode| mode.name() == word)
    }
}

/// Whether user writes are blocked while the sync is the owner of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteBlocking {
    /// Nowhere.
    None,
    /// On the destination from start to `canWrite`.
    DestinationOnly,
    /// Also on the source, from commit on.
    SourceAndDestination,
}

impl WriteBlocking {
    /// The word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::DestinationOnly => "destinationOnly",
            Self::SourceAndDestination => "sourceAndDestination",
        }
    }

    /// Parses the word of the API.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::None, Self::DestinationOnly, Self::SourceAndDestination]
            .into_iter()
            .find(|mode| mode.name() == word)
    }
}

/// A regular expression of a namespace filter, in the server's syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    /// PCRE pattern.
    pub pattern: String,
    /// Option letters as `$regex` takes them (`imxs`).
    pub options: String,
}

/// Databases one filter entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseMatch {
    /// By name.
    Name(String),
    /// By pattern.
    Pattern(NamePattern),
}

/// Collections one filter entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectionMatch {
    /// Every collection of the database.
    All,
    /// These.
    Names(Vec<String>),
    /// By pattern.
    Pattern(NamePattern),
}

/// One entry of `includeNamespaces`, `excludeNamespaces` or a document filter's `namespaces`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceMatch {
    /// Which databases.
    pub database: DatabaseMatch,
    /// Which of their collections.
    pub collections: CollectionMatch,
}

/// One entry of `filters:` in the config file: which namespaces go through which plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterSpec {
    /// Where it applies; the first entry that matches a namespace wins.
    pub namespaces: Vec<NamespaceMatch>,
    /// Names of plugins, in order.
    pub plugins: Vec<String>,
    /// What becomes of a document that cannot pass one of them.
    pub on_error: OnError,
}

/// What becomes of a document that cannot pass a filter: that a filter rejects, crashes on, takes too
/// long for, or answers nonsense about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// The sync stops.
    #[default]
    Stop,
    /// It goes into quarantine, and the sync goes on.
    Quarantine,
}

/// A database, or one collection of it, in `namespaceRemap`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemapName {
    /// The database.
    pub database: String,
    /// The collection; `None` means the whole database.
    pub collection: Option<String>,
}

/// One entry of `namespaceRemap`: what has another name on the destination. Either both sides
/// name a collection or none does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRemap {
    /// Name on the source.
    pub from: RemapName,
    /// Name on the destination.
    pub to: RemapName,
}

/// A document whose changes are skipped until the commit (`hotDocIDs`).
#[derive(Debug, Clone, PartialEq)]
pub struct HotDocument {
    /// Its collection on the source.
    pub namespace: Namespace,
    /// Its `_id`, as `{_id: …}`.
    pub id: bson::RawDocumentBuf,
}

/// What `/start` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the switches of /start are independent")]
pub struct StartOptions {
    /// Which connection string is the source.
    pub source: ClusterLabel,
    /// Which connection string is the destination.
    pub destination: ClusterLabel,
    /// Index mode.
    pub build_indexes: BuildIndexes,
    /// Write blocking; `None` lets the sync choose.
    pub write_blocking: Option<WriteBlocking>,
    /// Include filter; empty means everything.
    pub include_namespaces: Vec<NamespaceMatch>,
    /// Exclude filter, applied after the include filter.
    pub exclude_namespaces: Vec<NamespaceMatch>,
    /// What has another name on the destination.
    pub namespace_remap: Vec<NamespaceRemap>,
    /// Whether the destination may hold other data in the databases that are synced.
    pub pre_existing: bool,
    /// `verification.enabled` as given; `None` when the request does not say.
    pub verification: Option<bool>,
    /// Whether `reverse` shall be possible after the commit.
    pub reversible: bool,
    /// Collections that are copied in the order in which they are stored.
    pub natural_order: Vec<NamespaceMatch>,
    /// Whether large collections are looked at for ids that do not follow that order.
    pub detect_random_id: bool,
    /// Whether to begin without comparing disk space; means nothing once the sync has begun.
    pub skip_disk_space_check: bool,
}

impl StartOptions {
    /// The defaults, between these clusters.
    pub fn new(source: ClusterLabel, destination: ClusterLabel) -> Self {
        Self {
            source,
            destination,
            build_indexes: BuildIndexes::default(),
            write_blocking: None,
            include_namespaces: Vec::new(),
            exclude_namespaces: Vec::new(),
            namespace_remap: Vec::new(),
            pre_existing: false,
            verification: None,
            reversible: false,
            natural_order: Vec::new(),
            detect_random_id: true,
            skip_disk_space_check: false,
        }
    }
}

/// What becomes of the collections that were copied when a sync is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// They stay as they are.
    Keep,
    /// They are removed.
    Drop,
}

impl Copied {
    /// The stored word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
        }
    }

    /// Parses the stored word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Keep, Self::Drop].into_iter().find(|copied| copied.name() == word)
    }
}

/// A copied namespace pair for messages: what it is on the source and what on the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespacePair {
    /// On the source.
    pub source: Namespace,
    /// On the destination.
    pub destination: Namespace,
}
