//! What a filter makes of an author's documents.

use bson::RawDocumentBuf;

use super::subject;
use crate::{
    error::{Error, Kind, Result},
    model::{
        Batch, Namespace,
        author::{Fate, Subject},
        plugin::{PluginSettings, World},
    },
    plugin::filter::Filter,
    ports::{DocumentFilter, Verdict},
};

/// Documents that are judged at once.
const BATCH: usize = 1000;

/// Judges documents as the daemon would.
///
/// # Errors
/// Those of loading; `PluginWrongWorld` for a provider; what is wrong with the filter, whatever the
/// document.
pub async fn judge(
    subject: &Subject,
    namespace: &Namespace,
    documents: &[RawDocumentBuf],
    settings: &PluginSettings,
) -> Result<Vec<Fate>> {
    let candidate = subject::load(subject, settings).await?;
    if candidate.loaded.world != World::DocumentFilter {
        return Err(subject::only_filters());
    }
    let filter = Filter::new(candidate.loaded).await?;
    let mut fates = Vec::with_capacity(documents.len());
    for some in documents.chunks(BATCH) {
        let sorted = filter.judge_each(namespace, &Batch::from_documents(some)).await?;
        let begin = fates.len();
        fates.extend(some.iter().zip(sorted.verdicts).map(|(document, verdict)| match verdict {
            Verdict::Keep => Fate::Kept(document.clone()),
            Verdict::Drop => Fate::Dropped,
            Verdict::Replace(other) => Fate::Replaced(other),
        }));
        for refused in sorted.refused {
            let place = fates.get_mut(begin + refused.position);
            *place.ok_or_else(|| Error::new(Kind::Internal, "a position beyond the batch"))? =
                Fate::Refused(refused.error.full());
        }
    }
    Ok(fates)
}
