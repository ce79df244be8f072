//! Syncs whose clusters are both behind federation, each with another provider. The short form is for
//! the suite; `SYNCLINE_FEDERATED_MINUTES=10` lets each run so long, with a minute of outage.

use std::{
    env, fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mongodb::bson::doc;
use serde_json::json;
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    daemon::{Config, Daemon},
    eventually::eventually,
    oidc::{
        clouds::{CLIENT_ID, TENANT},
        gateway::{Gateway, ServerConfig, Stats},
        idp::FakeIdp,
        people::CLIENT,
        robot::Robot,
    },
    workload::{self, Plan, Workload},
};

use super::support::{LONG, Pair, Phase};

/// For whom the tokens of cluster0 are.
const AUDIENCE0: &str = "api://source";
/// For whom the tokens of cluster1 are.
const AUDIENCE1: &str = "api://destination";

/// Two clusters behind stand-ins, and the provider that both know.
struct Stage {
    pair: Pair,
    idp: FakeIdp,
    gateways: [Gateway; 2],
}

impl Stage {
    async fn new() -> Result<Self> {
        let idp = FakeIdp::start().await?;
        let destination = ServerConfig::workload(idp.issuer(), AUDIENCE1, "sync");
        Self::with(idp, destination).await
    }

    /// A destination that people log in to.
    async fn with_people() -> Result<Self> {
        let idp = FakeIdp::start().await?;
        idp.person(|person| person.audience = AUDIENCE1.to_owned());
        let destination = ServerConfig::people(idp.issuer(), AUDIENCE1, CLIENT, "sync");
        Self::with(idp, destination).await
    }

    async fn with(idp: FakeIdp, destination: ServerConfig) -> Result<Self> {
        let auth = || Options::single().with_auth();
        let pair = Pair::start_with(auth(), auth()).await?;
        idp.change(|workload| workload.lifetime = Duration::from_secs(5));
        let source = ServerConfig::workload(idp.issuer(), AUDIENCE0, "sync");
        let gateways =
            [gateway(&pair.source, source).await?, gateway(&pair.destination, destination).await?];
        Ok(Self { pair, idp, gateways })
    }

    /// Runs a sync with live writes through both phases; in the middle the provider is out of order
    /// for longer than a token lives, and its keys are replaced.
    async fn sync(&self, config: Config, calls: impl Fn() -> u64) -> Result<()> {
        let client = self.pair.source.client();
        workload::seed(&client, "live", "alpha", 3000, 1).await?;
        let live = Workload::start(&client, &Plan::new(4, "live"));
        let daemon = Daemon::start(config).await?;
        let slow = self.pair.begin(&daemon, Phase::Copy).await?;
        drop(slow);
        daemon.wait_can_commit(LONG).await?;
        eventually("tokens renewed on both sides", LONG, || async {
            let renewed = self
                .gateways
                .each_ref()
                .map(|gateway| gateway.stats().reauthenticated.load(Ordering::SeqCst));
            if renewed.iter().all(|count| *count >= 3) { Ok(()) } else { Err(renewed) }
        })
        .await?;
        let begun = Instant::now();
        let minutes = minutes();
        writes_for(&live, minutes.mul_f64(0.5)).await?;
        self.idp.set_down(true);
        let before = calls();
        let outage = Instant::now();
        eventually("calls that find the provider out of order", LONG, || async {
            let failed = calls() - before;
            let is_long = outage.elapsed() >= minutes.min(Duration::from_secs(60));
            if failed >= 4 && is_long { Ok(()) } else { Err(failed) }
        })
        .await?;
        self.idp.set_down(false);
        writes_for(&live, minutes.saturating_sub(begun.elapsed())).await?;
        live.writes(50).await?;
        self.idp.rotate()?;
        // What a mounted token was signed with goes only after another one has been mounted.
        calls();
        self.idp.retire_old_keys();
        for gateway in &self.gateways {
            assert_eq!(gateway.refresh_keys().await, []);
        }
        live.writes(50).await?;
        let load = live.stop().await?;
        daemon.commit(LONG).await?;
        let count = |pick: fn(&Stats) -> &AtomicU64| {
            self.gateways.each_ref().map(|gateway| pick(gateway.stats()).load(Ordering::SeqCst))
        };
        eprintln!(
            "load {load:?}; source, destination: {:?} times 391, {:?} reauthentications, {:?} logins \
             by speculation",
            count(|stats| &stats.reauthentication_required),
            count(|stats| &stats.reauthenticated),
            count(|stats| &stats.speculative_succeeded),
        );
        let output = daemon.output();
        for level in ["\"level\":\"error\"", "\"level\":\"fatal\""] {
            assert!(!output.contains(level), "{}", daemon.output_tail());
        }
        let secrets = self.idp.secrets();
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        daemon.check_secrets(&secrets).await?;
        let metrics = daemon.request("GET", "/metrics", None).await?.body.to_string();
        assert!(metrics.contains("sync_token_calls_total"));
        self.pair.check_identical().await?;
        Ok(())
    }
}

/// How long a sync runs besides what it has to do.
fn minutes() -> Duration {
    let given = env::var("SYNCLINE_FEDERATED_MINUTES").ok().and_then(|text| text.parse().ok());
    Duration::from_secs_f64(given.map_or(0.0, |minutes: f64| minutes * 60.0))
}

/// Lets the load run so long, and looks that it does.
async fn writes_for(live: &Workload, time: Duration) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        live.writes(50).await?;
    }
    Ok(())
}

/// A stand-in in front of a cluster with access control, where the role `oidc/sync` may do everything.
async fn gateway(set: &ReplicaSet, config: ServerConfig) -> Result<Gateway> {
    let address = set.servers().first().context("an empty set")?.address();
    let role = doc! { "createRole": "oidc/sync", "privileges": [], "roles": ["root"] };
    set.client().database("admin").run_command(role).await?;
    Gateway::start(&address, config.with_administrator(set.client())).await
}

#[tokio::test]
async fn a_sync_from_an_azure_machine_to_a_cluster_of_gcp() -> Result<()> {
    let stage = Stage::new().await?;
    let config = Config::new(
        &stage.gateways[0].azure_uri(AUDIENCE0),
        &stage.gateways[1].uri(&format!("ENVIRONMENT:gcp,TOKEN_RESOURCE:{AUDIENCE1}")),
    )
    .with("identity", json!({ "azureImdsEndpoint": stage.idp.imds_origin() }))
    .with_environment("GCE_METADATA_HOST", stage.idp.authority());
    let idp = &stage.idp;
    stage.sync(config, || idp.counts().imds.min(idp.counts().gcp)).await?;
    let counts = stage.idp.counts();
    eprintln!("providers: {counts:?}");
    assert!(counts.imds > 0 && counts.gcp > 0, "{counts:?}");
    assert_eq!(counts.entra, 0);
    Ok(())
}

#[tokio::test]
async fn a_sync_of_a_workload_on_aks() -> Result<()> {
    let stage = Stage::new().await?;
    let folder = tempfile::tempdir()?;
    let federated = folder.path().join("federated");
    mount(&federated, &stage.idp.federated_token()?)?;
    // cluster1's plugin has settings of its own, so that both scopes are seen.
    let config = Config::new(
        &stage.gateways[0].uri("ENVIRONMENT:azure"),
        &stage.gateways[1].uri("ENVIRONMENT:plugin:azure-aks"),
    )
    .with(
        "identity",
        json!({ "cluster1": { "config": { "scope": format!("{AUDIENCE1}/.default"),
            "authorityHost": stage.idp.issuer(),
            "federatedTokenFile": federated.display().to_string() } } }),
    )
    .with_environment("AZURE_TENANT_ID", TENANT)
    .with_environment("AZURE_APP_CLIENT_ID", AUDIENCE0)
    .with_environment("AZURE_CLIENT_ID", CLIENT_ID)
    .with_environment("AZURE_FEDERATED_TOKEN_FILE", &federated.display().to_string())
    .with_environment("AZURE_AUTHORITY_HOST", stage.idp.issuer());
    let idp = &stage.idp;
    stage
        .sync(config, || {
            // The kubelet rotates the token while the sync runs.
            let token = idp.federated_token().expect("a key");
            mount(&federated, &token).expect("the folder is there");
            idp.counts().entra
        })
        .await?;
    let counts = stage.idp.counts();
    eprintln!("providers: {counts:?}");
    assert!(counts.entra > 0, "{counts:?}");
    assert_eq!((counts.imds, counts.gcp), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_of_a_workload_on_aks_to_a_cluster_of_a_person() -> Result<()> {
    let stage = Stage::with_people().await?;
    let folder = tempfile::tempdir()?;
    let robot = Robot::start(folder.path(), None)?;
    let federated = folder.path().join("federated");
    mount(&federated, &stage.idp.federated_token()?)?;
    let config = Config::new(
        &stage.gateways[0].uri("ENVIRONMENT:azure"),
        &stage.gateways[1].person_uri(None),
    )
    .with(
        "identity",
        json!({ "browser": robot.command(),
                    "redirectUri": "http://localhost:0/redirect" }),
    )
    .with_environment("AZURE_TENANT_ID", TENANT)
    .with_environment("AZURE_APP_CLIENT_ID", AUDIENCE0)
    .with_environment("AZURE_CLIENT_ID", CLIENT_ID)
    .with_environment("AZURE_FEDERATED_TOKEN_FILE", &federated.display().to_string())
    .with_environment("AZURE_AUTHORITY_HOST", stage.idp.issuer());
    let idp = &stage.idp;
    stage
        .sync(config, || {
            let token = idp.federated_token().expect("a key");
            mount(&federated, &token).expect("the folder is there");
            idp.counts().entra.min(idp.counts().token)
        })
        .await?;
    let counts = stage.idp.counts();
    eprintln!("providers: {counts:?}");
    assert!(counts.entra > 0 && counts.refreshed > 0, "{counts:?}");
    assert_eq!(robot.pages().len(), 1, "the person was asked once");
    Ok(())
}

/// Puts a token where a rotation puts it: another file under the same name.
fn mount(path: &Path, token: &str) -> Result<()> {
    let next = path.with_extension("next");
    fs::write(&next, format!("{token}\n"))?;
    fs::rename(&next, path)?;
    Ok(())
}

#[tokio::test]
async fn a_mounted_token_and_a_plugin_of_the_config_file() -> Result<()> {
    let stage = Stage::new().await?;
    stage.idp.change(|workload| workload.lifetime = Duration::from_secs(600));
    let folder = tempfile::tempdir()?;
    let files = ["zero", "one"].map(|name| folder.path().join(name));
    let tokens = [stage.idp.mint(AUDIENCE0, |_| ())?, stage.idp.mint(AUDIENCE1, |_| ())?];
    for (file, token) in files.iter().zip(&tokens) {
        mount(file, token)?;
    }
    let path = files[1].display().to_string();
    let config = Config::new(
        &stage.gateways[0].uri("ENVIRONMENT:k8s"),
        &stage.gateways[1].uri("ENVIRONMENT:plugin:mounted"),
    )
    .with(
        "plugins",
        json!([{ "name": "mounted", "component": "builtin:token-file", "config": { "path": path },
            "grants": { "files": [path],
                "env": ["AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"] } }]),
    )
    .with_environment("AWS_WEB_IDENTITY_TOKEN_FILE", &files[0].display().to_string());
    workload::seed(&stage.pair.source.client(), "app", "orders", 300, 1).await?;
    let daemon = Daemon::start(config).await?;
    stage.pair.begin(&daemon, Phase::Stream).await?;
    daemon.commit(LONG).await?;
    let parts: Vec<&str> = tokens.iter().map(String::as_str).collect();
    daemon.check_secrets(&parts).await?;
    stage.pair.check_identical().await?;
    Ok(())
}

#[tokio::test]
async fn a_workload_on_aks_needs_no_variables_where_the_configuration_has_them() -> Result<()> {
    let stage = Stage::new().await?;
    let folder = tempfile::tempdir()?;
    let federated = folder.path().join("federated");
    mount(&federated, &stage.idp.federated_token()?)?;
    let config = Config::new(
        &stage.gateways[0].uri("ENVIRONMENT:azure"),
        &stage.gateways[1].azure_uri(AUDIENCE1),
    )
    .with(
        "identity",
        json!({ "azureImdsEndpoint": stage.idp.imds_origin(), "cluster0": { "config": {
            "tenantId": TENANT, "appClientId": AUDIENCE0, "clientId": CLIENT_ID,
            "federatedTokenFile": federated.display().to_string(),
            "authorityHost": stage.idp.issuer() } } }),
    );
    let _daemon = Daemon::start(config).await?;
    let counts = stage.idp.counts();
    assert!(counts.entra > 0 && counts.imds > 0, "{counts:?}");
    Ok(())
}

#[tokio::test]
async fn a_workload_on_aks_without_its_variables_is_told_which() -> Result<()> {
    let stage = Stage::new().await?;
    let config = Config::new(
        &stage.gateways[0].uri("ENVIRONMENT:azure"),
        &stage.gateways[1].azure_uri(AUDIENCE1),
    )
    .with_environment("AZURE_TENANT_ID", TENANT);
    let ended = Daemon::run_to_end(config).await?;
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    for word in ["SYNC-1002", "AZURE_APP_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"] {
        assert!(ended.output.contains(word), "{word}: {}", ended.output);
    }
    Ok(())
}
