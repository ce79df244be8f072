//! The composition root: builds every room and owns the order of start and stop.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    api::{self, ApiState},
    config::Config,
    engine::EngineHandle,
    error::Result,
    model::progress::Progress,
    tasks::Stop,
};

/// Runs the daemon until it is asked to stop.
///
/// # Errors
/// `PortInUse` and whatever ends a room.
pub async fn run(config: Config, stop: Stop) -> Result<()> {
    let listener = api::bind(config.port).await?;
    let (requests, _inbox) = mpsc::channel(1);
    let progress = Progress { instance_id: config.instance_id.clone(), ..Progress::default() };
    let (_publish, progress) = watch::channel(progress);
    let state =
        ApiState { engine: EngineHandle::new(requests, progress), plugins: Arc::new(Vec::new) };
    api::serve(listener, state, stop.drain).await
}
