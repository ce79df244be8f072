//! Write blocks: nobody but the sync writes to the destination until the hand-over, and nobody
//! writes to the source from the commit on.
//!
//! A block is recorded before it is set, so that the next process knows whose it is. What was
//! blocked before the sync came is left as it is.
//!
//! | Sync | Source, from the commit on | Destination, from the start to `canWrite` |
//! |---|---|---|
//! | whole cluster | blocked | blocked |
//! | with a namespace filter | free | blocked |
//! | beside data that was there | free | free |

use tokio::sync::watch;

use super::{checkpoint::SyncRecord, record::Record};
use crate::{
    error::{Error, Kind, Result},
    model::{
        options::{StartOptions, WriteBlocking},
        progress::Progress,
    },
    ports::{BlockingRights, Destination, Source, StateStore},
};

/// How all warnings about write blocks begin.
const WARNING: &str = "user writes";

/// How a cluster stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Block {
    /// It is not to be blocked.
    #[default]
    Never,
    /// It should be, but without users a block would stop the sync itself.
    NoUsers,
    /// It is to be blocked when its time comes.
    Wanted,
    /// It is blocked, or about to be, by us.
    Ours,
    /// It was blocked before and stays so.
    Foreign,
}

impl Block {
    /// Every standing.
    const ALL: [Self; 5] = [Self::Never, Self::NoUsers, Self::Wanted, Self::Ours, Self::Foreign];

    /// The stored word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::NoUsers => "noUsers",
            Self::Wanted => "wanted",
            Self::Ours => "ours",
            Self::Foreign => "foreign",
        }
    }

    /// Reads the stored word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|block| block.name() == word)
    }
}

/// How both clusters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Blocks {
    /// The source.
    pub(crate) source: Block,
    /// The destination.
    pub(crate) destination: Block,
}

/// What the table above says for these options.
fn automatic(options: &StartOptions) -> WriteBlocking {
    let is_filtered =
        !(options.include_namespaces.is_empty() && options.exclude_namespaces.is_empty());
    match (options.pre_existing, is_filtered) {
        (true, _) => WriteBlocking::None,
        (false, true) => WriteBlocking::DestinationOnly,
        (false, false) => WriteBlocking::SourceAndDestination,
    }
}

/// What is asked for, or what the table above says.
pub(crate) fn mode(options: &StartOptions) -> WriteBlocking {
    options.write_blocking.unwrap_or_else(|| automatic(options))
}

/// What is to be blocked, and whether we may.
///
/// # Errors
/// `PermissionDenied` with the missing privileges; `StartOptionsInvalid` when a block is asked for
/// by name on a cluster without users.
pub(crate) async fn resolve(
    source: &dyn Source,
    destination: &dyn Destination,
    options: &StartOptions,
) -> Result<Blocks> {
    let mode = mode(options);
    let is_asked = options.write_blocking.is_some();
    let mut blocks = Blocks::default();
    if mode != WriteBlocking::None {
        blocks.destination = judge("destination", destination.blocking_rights().await?, is_asked)?;
    }
    if mode == WriteBlocking::SourceAndDestination {
        blocks.source = judge("source", source.blocking_rights().await?, is_asked)?;
    }
    Ok(blocks)
}

/// What becomes of a cluster that is to be blocked.
fn judge(side: &str, rights: BlockingRights, is_asked: bool) -> Result<Block> {
    match rights {
        BlockingRights::Full => Ok(Block::Wanted),
        BlockingRights::NoUsers if is_asked => Err(Error::new(
            Kind::StartOptionsInvalid,
            format!(
                "enableUserWriteBlocking: the connection to the {side} has no user, and a block \
                 would stop the sync itself"
            ),
        )),
        BlockingRights::NoUsers => Ok(Block::NoUsers),
        BlockingRights::Lacks(actions) => Err(Error::new(
            Kind::PermissionDenied,
            format!(
                "to block user writes on the {side}, its user needs the cluster privileges {}; \
                 without them, start with enableUserWriteBlocking: none",
                actions.join(", ")
            ),
        )),
    }
}

/// Blocks the destination, if that is to be. Repeatable.
///
/// # Errors
/// Those of the server and of the store.
pub(crate) async fn block_destination(
    destination: &dyn Destination,
    record: &Record,
    store: &dyn StateStore,
) -> Result<()> {
    match record.get().await.blocks.destination {
        Block::Never | Block::NoUsers | Block::Foreign => return Ok(()),
        Block::Ours => {}
        Block::Wanted => {
            let block = taken(destination.is_blocked().await?);
            record.change(store, |record| record.blocks.destination = block).await?;
            if block == Block::Foreign {
                return Ok(());
            }
        }
    }
    destination.block_user_writes(true).await
}

/// Blocks the source, if that is to be. Repeatable.
///
/// # Errors
/// Those of the server and of the store.
pub(crate) async fn block_source(
    source: &dyn Source,
    record: &Record,
    store: &dyn StateStore,
) -> Result<()> {
    match record.get().await.blocks.source {
        Block::Never | Block::NoUsers | Block::Foreign => return Ok(()),
        Block::Ours => {}
        Block::Wanted => {
            let block = taken(source.is_blocked().await?);
            record.change(store, |record| record.blocks.source = block).await?;
            if block == Block::Foreign {
                return Ok(());
            }
        }
    }
    source.block_user_writes(true).await
}

/// Whose a block is that we are about to set.
fn taken(is_blocked: bool) -> Block {
    if is_blocked { Block::Foreign } else { Block::Ours }
}

/// Lifts our block of the destination; `then` is how it stands afterwards.
///
/// # Errors
/// Those of the server and of the store.
pub(crate) async fn release_destination(
    destination: &dyn Destination,
    record: &Record,
    store: &dyn StateStore,
    then: Block,
) -> Result<()> {
    if record.get().await.blocks.destination == Block::Ours {
        destination.block_user_writes(false).await?;
        record.change(store, |record| record.blocks.destination = then).await?;
    }
    Ok(())
}

/// Lifts our block of the source; `then` is how it stands afterwards.
///
/// # Errors
/// Those of the server and of the store.
pub(crate) async fn release_source(
    source: &dyn Source,
    record: &Record,
    store: &dyn StateStore,
    then: Block,
) -> Result<()> {
    if record.get().await.blocks.source == Block::Ours {
        source.block_user_writes(false).await?;
        record.change(store, |record| record.blocks.source = then).await?;
    }
    Ok(())
}

/// Whether a warning is about a write block.
pub(crate) fn is_about(warning: &str) -> bool {
    warning.starts_with(WARNING)
}

/// Whether a warning is about a write block of the source.
pub(crate) fn is_about_source(warning: &str) -> bool {
    is_about(warning) && warning.contains("on the source")
}

/// Shows what a person should know about the blocks of a sync.
pub(crate) fn publish(record: &SyncRecord, progress: &watch::Sender<Progress>) {
    let warnings = warnings(record.blocks);
    progress.send_modify(|progress| {
        progress.warnings.retain(|warning| !is_about(warning));
        progress.warnings.extend(warnings);
    });
}

/// The warnings.
fn warnings(blocks: Blocks) -> Vec<String> {
    let mut warnings = Vec::new();
    match blocks.source {
        Block::NoUsers => warnings.push(format!(
            "{WARNING} on the source cannot be blocked, because it has no users: stop the \
             application before the commit, what it writes afterwards is not synced"
        )),
        Block::Ours => warnings.push(format!("{WARNING} on the source are blocked")),
        Block::Foreign => {
            warnings.push(format!("{WARNING} on the source were blocked before the sync"));
        }
        Block::Never | Block::Wanted => {}
    }
    match blocks.destination {
        Block::NoUsers => warnings.push(format!(
            "{WARNING} on the destination cannot be blocked, because it has no users: nothing \
             keeps others from changing what is synced"
        )),
        Block::Foreign => warnings.push(format!(
            "{WARNING} on the destination were blocked before the sync and stay so after it"
        )),
        Block::Never | Block::Wanted | Block::Ours => {}
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::options::{ClusterLabel, CollectionMatch, DatabaseMatch, NamespaceMatch};

    #[test]
    fn the_table_of_blocks_holds() {
        let mut options = StartOptions::new(ClusterLabel::Cluster0, ClusterLabel::Cluster1);
        assert_eq!(automatic(&options), WriteBlocking::SourceAndDestination);
        options.exclude_namespaces.push(NamespaceMatch {
            database: DatabaseMatch::Name("a".into()),
            collections: CollectionMatch::All,
        });
        assert_eq!(automatic(&options), WriteBlocking::DestinationOnly);
        options.pre_existing = true;
        assert_eq!(automatic(&options), WriteBlocking::None);
    }

    #[test]
    fn what_cannot_be_blocked_is_warned_of_or_refused() {
        assert_eq!(judge("source", BlockingRights::Full, true).unwrap(), Block::Wanted);
        assert_eq!(judge("source", BlockingRights::NoUsers, false).unwrap(), Block::NoUsers);
        let asked = judge("source", BlockingRights::NoUsers, true).unwrap_err();
        assert_eq!(asked.kind(), Kind::StartOptionsInvalid);
        let lacks = BlockingRights::Lacks(vec!["bypassWriteBlockingMode"]);
        let error = judge("destination", lacks, false).unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied);
        assert!(error.full().contains("bypassWriteBlockingMode"), "{}", error.full());
        let blocks = Blocks { source: Block::NoUsers, destination: Block::NoUsers };
        assert_eq!(warnings(blocks).len(), 2);
        assert!(Block::ALL.iter().all(|block| Block::parse(block.name()) == Some(*block)));
    }
}
