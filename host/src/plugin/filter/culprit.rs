//! Which document a batch fails for, and whether it is for a document at all.

use super::{Filter, Judged, output::Tally};
use crate::{
    error::{Error, Kind, Result},
    model::{Batch, Namespace},
    ports::{Refused, Sorted, Verdict},
};

/// Documents of one batch that may crash a filter, take its time or get nonsense for an answer before
/// it is the filter that is at fault. Finding one costs its deadline several times over.
pub(super) const MAX_FAILING: usize = 20;

/// Why a batch was not judged.
#[derive(Debug)]
pub(super) enum Fault {
    /// Whatever documents are in it.
    Plugin(Error),
    /// Perhaps for one of its documents.
    Batch(Error),
}

impl Fault {
    /// Sorts the error of a call.
    fn of(error: Error) -> Self {
        match error.kind() {
            Kind::PluginTrap
            | Kind::PluginDeadline
            | Kind::PluginMemory
            | Kind::PluginOutputInvalid => Self::Batch(error),
            _ => Self::Plugin(error),
        }
    }
}

impl Filter {
    /// One call.
    async fn call_once(&self, namespace: &Namespace, batch: &Batch) -> Result<Judged, Fault> {
        let warm = self.take().await.map_err(Fault::Plugin)?;
        self.call(warm, namespace, batch).await.map_err(Fault::of)
    }

    /// One call on a warm instance, and after a failure that may be the instance's one more on a fresh
    /// one.
    async fn call_twice(&self, namespace: &Namespace, batch: &Batch) -> Result<Judged, Fault> {
        let error = match self.call_once(namespace, batch).await {
            Err(Fault::Batch(error)) => error,
            other => return other,
        };
        let plugin = self.loaded.shared.name.as_str();
        tracing::warn!(plugin, %error, %namespace, "filter failed, trying a fresh instance");
        let warm = self.fresh().await.map_err(Fault::Plugin)?;
        self.call(warm, namespace, batch).await.map_err(Fault::of)
    }

    /// Judges documents that stop the sync when they cannot pass.
    ///
    /// # Errors
    /// What is wrong with the filter, or with a document, whose position is then named.
    pub(super) async fn judge_all(&self, namespace: &Namespace, batch: &Batch) -> Result<Judged> {
        match self.call_twice(namespace, batch).await {
            Ok(judged) => Ok(judged),
            Err(Fault::Plugin(error)) => Err(error),
            Err(Fault::Batch(error)) => Err(self.find_culprit(namespace, batch, error).await),
        }
    }

    /// Finds the document that a failing batch fails for, by halves on fresh instances. Gives up,
    /// with the first error, when a half that should fail does not.
    async fn find_culprit(&self, namespace: &Namespace, batch: &Batch, first: Error) -> Error {
        let mut suspects = Vec::with_capacity(batch.count());
        for (position, document) in batch.documents().enumerate() {
            match document {
                Ok(document) => suspects.push((position, document)),
                Err(error) => return error,
            }
        }
        let mut error = first;
        while suspects.len() > 1 {
            let right = suspects.split_off(suspects.len() / 2);
            match self.try_some(namespace, &suspects).await {
                Err(broken) => return broken,
                Ok(Some(found)) => error = found,
                Ok(None) => match self.try_some(namespace, &right).await {
                    Err(broken) => return broken,
                    Ok(Some(found)) => (error, suspects) = (found, right),
                    Ok(None) => {
                        let place = format!("{} documents together", batch.count());
                        return error.at(place);
                    }
                },
            }
        }
        match suspects.first() {
            Some((position, _)) => {
                error.at(format!("document {position} of a batch of {}", batch.count()))
            }
            None => error,
        }
    }

    /// Judges some documents on a fresh instance and returns their error, if there is one.
    ///
    /// # Errors
    /// When no instance can be made.
    async fn try_some(
        &self,
        namespace: &Namespace,
        documents: &[(usize, &bson::RawDocument)],
    ) -> Result<Option<Error>> {
        let batch = Batch::from_documents(documents.iter().map(|(_, document)| *document));
        let warm = self.fresh().await?;
        Ok(self.call(warm, namespace, &batch).await.err())
    }

    /// Judges documents that may each fail by itself: a batch that fails is cut in halves until the
    /// document is found that fails alone, on a second instance too.
    ///
    /// # Errors
    /// What is wrong with the filter whatever the document; `PluginFaulty` when too many fail for it
    /// to be theirs.
    pub(super) async fn sort_out(&self, namespace: &Namespace, batch: &Batch) -> Result<Sorted> {
        let mut verdicts = vec![Verdict::Keep; batch.count()];
        let (mut refused, mut failing) = (Vec::new(), 0);
        let documents = batch.documents().collect::<Result<Vec<_>>>()?;
        let mut open = Vec::from([(0, batch.count())]);
        while let Some((start, end)) = open.pop() {
            let range = start..end;
            let some = documents.get(range.clone()).unwrap_or_default();
            let part = Batch::from_documents(some);
            let judged = match some {
                [] | [_] => self.call_twice(namespace, &part).await,
                _ => self.call_once(namespace, &part).await,
            };
            match judged {
                Ok(Judged { said, warm }) => {
                    self.park(warm);
                    self.counters.count(namespace, said.tally, said.refused.len());
                    refused.extend(said.refused.into_iter().map(|(position, error)| Refused {
                        position: range.start + position,
                        error: self.named(error.at(namespace)),
                    }));
                    let places = verdicts.get_mut(range).unwrap_or_default();
                    for (place, verdict) in places.iter_mut().zip(said.verdicts.unwrap_or_default())
                    {
                        *place = verdict;
                    }
                }
                Err(Fault::Plugin(error)) => return Err(error),
                Err(Fault::Batch(error)) if range.len() <= 1 => {
                    failing += 1;
                    if failing > MAX_FAILING {
                        return Err(too_many(failing, batch.count(), &error));
                    }
                    self.counters.count(namespace, Tally::default(), 1);
                    let position = range.start;
                    refused.push(Refused { position, error: self.named(error.at(namespace)) });
                    if let Some(place) = verdicts.get_mut(position) {
                        *place = Verdict::Drop;
                    }
                }
                Err(Fault::Batch(_)) => {
                    let middle = range.start + range.len() / 2;
                    // The left half is judged first.
                    open.push((middle, end));
                    open.push((start, middle));
                }
            }
        }
        refused.sort_by_key(|refused| refused.position);
        Ok(Sorted { verdicts, refused })
    }
}

/// The error of a filter that fails for too many documents.
fn too_many(failing: usize, documents: usize, last: &Error) -> Error {
    Error::new(
        Kind::PluginFaulty,
        format!(
            "{failing} documents of a batch of {documents} fail, the last one with {}: {}",
            last.kind().code(),
            last.detail()
        ),
    )
}
