//! The composition root: builds every room and owns the order of start and stop.

pub mod author;
mod login;
pub mod quarantine;
mod verify;

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
};

use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::{
    api::{self, ApiState, Exposure, Tls},
    config::Config,
    engine::{self, Clusters, DocumentFilters, Engine, GivenUp, Limits, Settings},
    error::{Error, Kind, Result},
    federation::{Access, Audit, Store},
    identity::{self, ClusterUri, Overrides, TokenService},
    model::{
        facts::{Finding, Report},
        gate::WriteGate,
        options::{ClusterLabel, Copied, StartOptions},
        plugin::PluginSpec,
    },
    mongo::{self, Connection, MongoDestination, MongoSource, MongoStore},
    person::{Browser, Reach, Redirect, Terminal},
    plugin::Registry,
    tasks::{self, Stop, TaskSet},
};

pub use login::{LoginArgs, login, logout, with_session};
pub use verify::{Verify, verify};

/// Indexes in one command at most, unless configured.
const INDEX_BATCH: usize = 2;
/// The built-in plugin whose endpoint has a setting of its own.
const AZURE_IMDS: &str = "azure-imds";

/// Runs the daemon until it is asked to stop: plugins and the API first, so that it can tell that
/// the rest is still being set up, then the connections, then the engine. Stops in the other order.
///
/// # Errors
/// `PortInUse`, the `Plugin…` kinds, and whatever ends the engine or keeps it from starting.
pub async fn run(config: Config, stop: Stop) -> Result<()> {
    let (access, tls) = gate(&config)?;
    let listener = api::bind(config.api.bind_ip, config.port).await?;
    let registry = Arc::new(plugins(&config).await?);
    let documents = document_filters(&config, &registry).await?;
    let (inbox, handle) = engine::channel(&config.instance_id);
    let listed = Arc::clone(&registry);
    let state = ApiState {
        engine: handle,
        plugins: Arc::new(move || listed.info()),
        access,
        exposure: Exposure::default(),
    };
    let serving = stop.cancel.child_token();
    let mut tasks = TaskSet::new();
    let lost = |error| Error::new(Kind::Internal, "the API's listener is lost").caused_by(error);
    let listener = listener.into_std().map_err(lost)?;
    if let Some(directory) = config.metrics_path.clone() {
        let (state, id, ends) = (state.clone(), config.instance_id.clone(), serving.clone());
        let metrics = async move { api::log_metrics(state, &directory, &id, ends).await };
        tasks.spawn("metrics", tasks::on_own_thread("metrics", metrics));
    }
    let api_stop = serving.clone();
    let api = async move {
        let access = Arc::clone(&state.access);
        let listener = TcpListener::from_std(listener).map_err(lost)?;
        tokio::select! {
            served = api::serve(listener, state, tls, api_stop) => served,
            never = access.poll_keys() => match never {},
        }
    };
    tasks.spawn("api", tasks::on_own_thread("api", api));
    let sync = async {
        let settings = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return Ok(()),
            settings = settings(&config, &registry, documents) => settings?,
        };
        Engine::new(settings, inbox).run(stop.drain.clone()).await
    };
    let outcome = tokio::select! {
        biased;
        () = stop.cancel.cancelled() => Ok(()),
        outcome = Box::pin(sync) => outcome,
        Some(ended) = tasks.next() => ended,
    };
    serving.cancel();
    let served = tasks.join().await;
    outcome.and(served)
}

/// Connects to both clusters and tells whether a sync with these options could begin. Changes
/// nothing.
///
/// # Errors
/// The `Plugin…` kinds, `FilterInvalid`, and those of connections that break; what the clusters
/// lack is in the report.
pub async fn preflight(config: &Config, options: &StartOptions) -> Result<Report> {
    let registry = plugins(config).await?;
    document_filters(config, &registry).await?;
    let tag = Uuid::new_v4().simple().to_string();
    let (source, destination) = tokio::join!(
        connect(config, &registry, options.source, &tag),
        connect(config, &registry, options.destination, &tag)
    );
    let lost = |cluster: &'static str, error: Error| {
        Finding::fail("connection", cluster, error.kind(), error.full())
    };
    let findings = match (source, destination) {
        (Ok(source), Ok(destination)) => {
            let source = MongoSource::new(source);
            let destination = MongoDestination::new(destination, WriteGate::default());
            return engine::preflight(&source, &destination, options, &config.metadata_database)
                .await;
        }
        (Err(source), Err(destination)) => {
            vec![lost("source", source), lost("destination", destination)]
        }
        (Err(source), Ok(_)) => vec![lost("source", source)],
        (Ok(_), Err(destination)) => vec![lost("destination", destination)],
    };
    Ok(Report { findings })
}

/// Gives up the sync that the metadata database holds, for a daemon that is down, and says on
/// stdout whether there was one.
///
/// # Errors
/// As [`Engine::reset`], and those of connections.
pub async fn reset(config: &Config, copied: Copied) -> Result<()> {
    let registry = plugins(config).await?;
    let settings = settings(config, &registry, DocumentFilters::default()).await?;
    let (inbox, _handle) = engine::channel(&config.instance_id);
    let text = match Engine::new(settings, inbox).reset(copied).await? {
        GivenUp::Nothing => "there is no sync".to_owned(),
        GivenUp::Sync => "the sync is forgotten".to_owned(),
        GivenUp::WayBack { left } if left.is_empty() => {
            "the sync is forgotten; its old source is as it was at the commit".to_owned()
        }
        GivenUp::WayBack { left } => {
            format!("the sync is forgotten; on its old source:\n  {}", left.join("\n  "))
        }
    };
    // A reader that went away is no failure.
    drop(writeln!(std::io::stdout(), "{text}"));
    Ok(())
}

/// Who may use the API, and its TLS.
fn gate(config: &Config) -> Result<(Arc<Access>, Option<Arc<Tls>>)> {
    let api = &config.api;
    let store = match (&api.federation, &api.federation_file) {
        (Some(federation), _) => Store::Fixed(federation.clone()),
        (None, Some(path)) => Store::File(path.clone()),
        (None, None) => Store::None,
    };
    let audit = api.audit_log.as_deref().map(Audit::to_file).transpose()?.unwrap_or_default();
    let access = Access::new(store, audit)?;
    let tls = match &api.certificate {
        Some(certificate) => Some(Arc::new(Tls::load(certificate, api.client_ca.as_deref())?)),
        None => None,
    };
    Ok((Arc::new(access), tls))
}

/// Loads the plugins of the config file.
async fn plugins(config: &Config) -> Result<Registry> {
    let registry = Registry::with(&config.plugin_settings, config.plugins.clone()).await?;
    if let Some(endpoint) = &config.identity.azure_imds_endpoint {
        let spec = Registry::builtin_spec(AZURE_IMDS, json!({ "endpoint": endpoint }))?;
        registry.load_one(spec).await?;
    }
    if let Some(reach) = reach(config)? {
        registry.introduce(Arc::new(Terminal::new(reach)));
    }
    Ok(registry)
}

/// How a person can be reached who logs in to a cluster; nobody, when this process was started
/// without a terminal and the configuration does not say how.
fn reach(config: &Config) -> Result<Option<Reach>> {
    let identity = &config.identity;
    let wrong =
        |key: &str, why: String| Error::new(Kind::ConfigInvalid, format!("identity.{key}: {why}"));
    let browser = identity.browser.as_deref().map(str::parse::<Browser>).transpose();
    let browser = browser.map_err(|why| wrong("browser", why))?;
    let redirect = identity.redirect_uri.as_deref().map(str::parse::<Redirect>).transpose();
    let redirect = redirect.map_err(|why| wrong("redirectUri", why))?;
    if browser.is_none() && redirect.is_none() && !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    Ok(Some(Reach { browser: browser.unwrap_or_default(), redirect: redirect.unwrap_or_default() }))
}

/// The chains of the config file.
async fn document_filters(config: &Config, registry: &Registry) -> Result<DocumentFilters> {
    let mut documents = DocumentFilters::default();
    for filter in &config.filters {
        let mut chain = Vec::with_capacity(filter.plugins.len());
        for plugin in &filter.plugins {
            chain.push(registry.filter(plugin).await?);
        }
        documents.push(&filter.namespaces, chain, filter.on_error)?;
    }
    Ok(documents)
}

/// Connects to both clusters and makes the ports of both directions.
async fn settings(
    config: &Config,
    registry: &Registry,
    documents: DocumentFilters,
) -> Result<Settings> {
    let tag = Uuid::new_v4().simple().to_string();
    let (cluster0, cluster1) = tokio::try_join!(
        connect(config, registry, ClusterLabel::Cluster0, &tag),
        connect(config, registry, ClusterLabel::Cluster1, &tag)
    )?;
    let direction = |source: &Connection, destination: &Connection| {
        let gate = WriteGate::default();
        let metadata = config.metadata_database.clone();
        Clusters {
            source: Arc::new(MongoSource::new(source.clone())),
            destination: Arc::new(MongoDestination::new(destination.clone(), gate.clone())),
            store: Arc::new(MongoStore::new(destination.clone(), metadata, gate.clone())),
            gate,
            names: (name(source), name(destination)),
        }
    };
    Ok(Settings {
        directions: [direction(&cluster0, &cluster1), direction(&cluster1, &cluster0)],
        documents: Arc::new(documents),
        load_level: config.load_level,
        create_indexes_batch_size: config
            .create_indexes_batch_size
            .map_or(INDEX_BATCH, usize::from),
        hot: config.hot_documents.clone(),
        metadata_database: config.metadata_database.clone(),
        is_verification_disabled: config.is_verification_disabled,
        tag,
        limits: Limits::default(),
    })
}

/// `"cluster0: host:port"`, as `/progress` shows it.
fn name(connection: &Connection) -> String {
    format!("{}: {}", connection.label(), connection.info().primary)
}

/// Connects to one cluster, with tokens when its connection string asks for them.
async fn connect(
    config: &Config,
    registry: &Registry,
    label: ClusterLabel,
    tag: &str,
) -> Result<Connection> {
    let env = |name: &str| std::env::var(name).ok();
    let own = config.identity.of(label);
    let overrides = Overrides {
        plugin: own.and_then(|own| own.plugin.as_deref()),
        audience: own.and_then(|own| own.token_resource.as_deref()),
        allowed_hosts: own.and_then(|own| own.allowed_hosts.as_deref()),
        aks: own.and_then(|own| own.config.as_ref()).or_else(|| {
            let spec = config.plugins.iter().find(|spec| spec.name == identity::AKS)?;
            Some(&spec.config)
        }),
    };
    let uri = ClusterUri::parse_with(label, config.uri(label), overrides, &env)?;
    tracing::info!(cluster = label.name(), uri = uri.redacted, "connecting");
    let service = token_service(config, registry, &uri).await?;
    let connected = mongo::connect(label.name(), &uri.driver_uri, tag, |options| match &service {
        Some(service) => identity::driver::install(service, options),
        None => Ok(()),
    })
    .await;
    // The driver reports a failed login in many ways; the provider's own reason is the best one.
    match (connected, service.and_then(|service| service.failure())) {
        (Err(_), Some(reason)) => Err(reason.at(label.name())),
        (connected, _) => connected,
    }
}

/// The token service of a cluster whose connection string asks for `MONGODB-OIDC`.
async fn token_service(
    config: &Config,
    registry: &Registry,
    uri: &ClusterUri,
) -> Result<Option<Arc<TokenService>>> {
    let Some(oidc) = &uri.oidc else { return Ok(None) };
    let name = match config.identity.of(uri.label) {
        None => oidc.plugin.clone(),
        Some(own) if own.config.is_none() && own.grants.is_none() => oidc.plugin.clone(),
        Some(own) => {
            let base = config.plugins.iter().find(|spec| spec.name == oidc.plugin).cloned();
            let base = match base {
                Some(spec) => spec,
                None => {
                    Registry::builtin_spec(&oidc.plugin, own.config.clone().unwrap_or(json!({})))?
                }
            };
            let name = format!("{}@{}", oidc.plugin, uri.label.name());
            let spec = PluginSpec {
                name: name.clone(),
                config: own.config.clone().unwrap_or_else(|| base.config.clone()),
                grants: own.grants.clone().unwrap_or_else(|| base.grants.clone()),
                ..base
            };
            registry.load_one(spec).await?;
            name
        }
    };
    let issuer = registry.issuer(&name).await?;
    TokenService::new(uri, issuer).map(Some)
}
