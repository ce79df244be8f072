//! From the generated filter interface to [`DocumentFilter`].

use std::marker::PhantomData;

use super::filter::exports::syncline::plugin::filter as wit;
use crate::{
    config,
    filter::{DocumentFilter, Namespace, judge_batch},
};

/// The component made of a filter.
pub struct Component<F>(PhantomData<F>);

/// A configured filter as the host holds it.
pub struct Session<F>(F);

impl<F: DocumentFilter> wit::Guest for Component<F> {
    type Session = Session<F>;

    fn init(options: wit::Options) -> Result<wit::Session, wit::Failure> {
        super::log_panics();
        config::parse(&options.config)
            .and_then(F::new)
            .map(|filter| wit::Session::new(Session(filter)))
            .map_err(|error| wit::Failure::Config(error.to_string()))
    }
}

impl<F: DocumentFilter> wit::GuestSession for Session<F> {
    fn plan(&self) -> wit::Plan {
        let plan = self.0.plan();
        wit::Plan { replaces: plan.replaces, reads: plan.reads }
    }

    fn apply(&self, batch: wit::Batch) -> Result<wit::Outcome, wit::Failure> {
        let namespace = Namespace {
            database: &batch.namespace.database,
            collection: &batch.namespace.collection,
        };
        judge_batch(&self.0, &namespace, batch.count, &batch.documents)
            .map(|outcome| wit::Outcome {
                verdicts: outcome.verdicts,
                replacements: outcome.replacements,
                rejects: outcome.rejects,
            })
            .map_err(wit::Failure::Malformed)
    }
}
