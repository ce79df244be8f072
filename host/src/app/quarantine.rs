//! The commands about documents in quarantine.

use super::{document_filters, plugins, settings};
use crate::{
    cli::{self, QuarantineCommand},
    client::Output,
    config::Config,
    engine::{self, DocumentFilters, Engine},
    error::Result,
};

/// Lists them, or lets them through the filters again.
///
/// # Errors
/// Those of [`Engine::quarantined`] and [`Engine::replay`], of plugins and of connections.
pub async fn run(config: &Config, command: QuarantineCommand, output: Output) -> Result<()> {
    let registry = plugins(config).await?;
    let documents = match command {
        QuarantineCommand::List => DocumentFilters::default(),
        QuarantineCommand::Replay => document_filters(config, &registry).await?,
    };
    let settings = settings(config, &registry, documents).await?;
    let (inbox, _handle) = engine::channel(&config.instance_id);
    let engine = Engine::new(settings, inbox);
    match command {
        QuarantineCommand::List => cli::show_quarantined(&engine.quarantined().await?, output),
        QuarantineCommand::Replay => {
            let replayed = Box::pin(engine.replay()).await?;
            cli::show_replayed(&replayed, output);
        }
    }
    Ok(())
}
