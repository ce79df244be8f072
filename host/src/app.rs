//! The composition root: builds every room and owns the order of start and stop.

use std::sync::Arc;

use crate::{
    api::{self, ApiState},
    config::Config,
    engine::{self, Clusters, DocumentFilters, Engine, Settings},
    error::Result,
    identity::{self, ClusterUri, TokenService},
    model::options::ClusterLabel,
    mongo::{self, Connection, MongoDestination, MongoSource, MongoStore},
    tasks::{Stop, TaskSet},
};

/// Runs the daemon until it is asked to stop: the API first, so that it can tell that the rest is
/// still being set up, then the connections, then the engine. Stops in the other order.
///
/// # Errors
/// `PortInUse`, and whatever ends the engine or keeps it from starting.
pub async fn run(config: Config, stop: Stop) -> Result<()> {
    let listener = api::bind(config.port).await?;
    let documents = document_filters(&config)?;
    let (inbox, handle) = engine::channel(&config.instance_id);
    let state = ApiState { engine: handle, plugins: Arc::new(Vec::new) };
    let serving = stop.cancel.child_token();
    let mut tasks = TaskSet::new();
    tasks.spawn("api", api::serve(listener, state, serving.clone()));
    let sync = async {
        let settings = settings(&config, documents).await?;
        Engine::new(settings, inbox).run(stop.drain.clone()).await
    };
    let outcome = tokio::select! {
        biased;
        () = stop.cancel.cancelled() => Ok(()),
        outcome = sync => outcome,
        Some(ended) = tasks.next() => ended,
    };
    serving.cancel();
    let served = tasks.join().await;
    outcome.and(served)
}

/// The chains of the config file.
fn document_filters(_config: &Config) -> Result<DocumentFilters> {
    Ok(DocumentFilters::default())
}

/// Connects to both clusters and makes the ports of both directions.
async fn settings(config: &Config, documents: DocumentFilters) -> Result<Settings> {
    let (cluster0, cluster1) = tokio::try_join!(
        connect(config, ClusterLabel::Cluster0),
        connect(config, ClusterLabel::Cluster1)
    )?;
    let direction = |source: &Connection, destination: &Connection| Clusters {
        source: Arc::new(MongoSource::new(source.clone())),
        destination: Arc::new(MongoDestination::new(destination.clone())),
        store: Arc::new(MongoStore::new(destination.clone(), config.metadata_database.clone())),
        names: (name(source), name(destination)),
    };
    Ok(Settings {
        directions: [direction(&cluster0, &cluster1), direction(&cluster1, &cluster0)],
        documents: Arc::new(documents),
        load_level: config.load_level,
        metadata_database: config.metadata_database.clone(),
    })
}

/// `"cluster0: host:port"`, as `/progress` shows it.
fn name(connection: &Connection) -> String {
    format!("{}: {}", connection.label(), connection.info().primary)
}

/// Connects to one cluster, with tokens when its connection string asks for them.
async fn connect(config: &Config, label: ClusterLabel) -> Result<Connection> {
    let env = |name: &str| std::env::var(name).ok();
    let uri = ClusterUri::parse(label, config.uri(label), &env)?;
    let service: Option<Arc<TokenService>> = None;
    mongo::connect(label.name(), &uri.driver_uri, |options| match &service {
        Some(service) => identity::driver::install(service, options),
        None => Ok(()),
    })
    .await
}
