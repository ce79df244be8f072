//! The grammar of the command line.

use std::{io::Read, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::author::PluginArgs;
use crate::{
    client::Output,
    config::Layer,
    error::{Error, Kind, Result},
    person::{Browser, Redirect},
};

/// Largest body that `--body` reads, in bytes.
const MAX_BODY_BYTES: u64 = 1024 * 1024;

/// Syncs one MongoDB cluster to another.
///
/// Without a command the daemon runs; the commands talk to a daemon that runs.
#[derive(Parser)]
#[command(
    name = "syncline",
    version,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    after_help = "Every option can also be set in the config file and as SYNCLINE_<NAME> in the \
                  environment; see docs/configuration.md."
)]
pub(super) struct Cli {
    /// Options of the daemon.
    #[command(flatten)]
    pub(super) daemon: DaemonArgs,
    /// A client command.
    #[command(subcommand)]
    pub(super) command: Option<ClientArgs>,
    /// Print the version.
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Options of the daemon, by mongosync's names.
#[derive(Args)]
#[command(rename_all = "camelCase")]
pub(super) struct DaemonArgs {
    /// Connection string of the first cluster; or file:PATH or env:NAME that holds it
    #[arg(long, value_name = "URI", value_parser = secret)]
    cluster0: Option<SecretString>,
    /// Connection string of the second cluster; or file:PATH or env:NAME that holds it
    #[arg(long, value_name = "URI", value_parser = secret)]
    cluster1: Option<SecretString>,
    /// YAML file with the same options, plugins and filters
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Port of the API [default: 27182]
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Address of the API [default: 127.0.0.1]; off loopback it needs TLS and a federation
    #[arg(long, value_name = "IP")]
    bind_ip: Option<String>,
    /// PEM file with certificate and key of the API; without one it speaks plain HTTP
    #[arg(long, value_name = "FILE")]
    tls_certificate_key_file: Option<String>,
    /// PEM file with the authorities whose clients alone are let in
    #[arg(long = "tlsCAFile", value_name = "FILE")]
    tls_ca_file: Option<String>,
    /// File in which the API keeps the federation of its users
    #[arg(long, value_name = "FILE")]
    federation_file: Option<String>,
    /// File for decisions about the requests of federated users [default: the log]
    #[arg(long, value_name = "FILE")]
    audit_log: Option<String>,
    /// Directory of the log [default: log to stdout]
    #[arg(long, value_name = "DIR")]
    log_path: Option<String>,
    /// TRACE, DEBUG, INFO, WARN, ERROR, FATAL or PANIC [default: INFO]
    #[arg(long, value_name = "LEVEL")]
    verbosity: Option<String>,
    /// How hard the sync works, 1 to 4 [default: 3]
    #[arg(long, value_name = "1-4")]
    load_level: Option<String>,
    /// Database on the destination that holds what is needed to resume [default: syncline_metadata]
    #[arg(long, value_name = "NAME")]
    metadata_database: Option<String>,
    /// Id of this process in logs and progress [default: random]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Most indexes in one createIndexes command, 1 to 64
    #[arg(long, value_name = "1-64")]
    create_indexes_batch_size: Option<String>,
    /// Without effect: there is no disclaimer to accept
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    accept_disclaimer: Option<String>,
    /// Without effect: nothing is ever sent
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    disable_telemetry: Option<String>,
    /// Take a sync up without verification, from now on; it stays so
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    disable_verification: Option<String>,
    /// Without effect: no metrics files are written
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    disable_metrics_logging: Option<String>,
    /// Without effect: no metrics files are written
    #[arg(long, value_name = "DIR")]
    metrics_logging_filepath: Option<String>,
    /// Not supported; only false is accepted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    enable_capped_collection_handling: Option<String>,
    /// Documents to be skipped until the commit: {"db": …, "collection": …, "ids": [{"_id": …}]}
    #[arg(long = "hotDocIDs", value_name = "JSON")]
    hot_doc_ids: Vec<String>,
}

impl DaemonArgs {
    /// The options as a layer of the configuration.
    pub(super) fn layer(self) -> Layer {
        let mut layer = Layer::new();
        let hot =
            (!self.hot_doc_ids.is_empty()).then(|| format!("[{}]", self.hot_doc_ids.join(",")));
        for (name, value) in [("cluster0", self.cluster0), ("cluster1", self.cluster1)] {
            if let Some(value) = value {
                layer.set_flag(name, value);
            }
        }
        for (name, value) in [
            ("port", self.port),
            ("bindIp", self.bind_ip),
            ("tlsCertificateKeyFile", self.tls_certificate_key_file),
            ("tlsCAFile", self.tls_ca_file),
            ("federationFile", self.federation_file),
            ("auditLog", self.audit_log),
            ("logPath", self.log_path),
            ("verbosity", self.verbosity),
            ("loadLevel", self.load_level),
            ("metadataDatabase", self.metadata_database),
            ("id", self.id),
            ("createIndexesBatchSize", self.create_indexes_batch_size),
            ("acceptDisclaimer", self.accept_disclaimer),
            ("disableTelemetry", self.disable_telemetry),
            ("disableVerification", self.disable_verification),
            ("disableMetricsLogging", self.disable_metrics_logging),
            ("metricsLoggingFilepath", self.metrics_logging_filepath),
            ("enableCappedCollectionHandling", self.enable_capped_collection_handling),
            ("hotDocIDs", hot),
        ] {
            if let Some(value) = value {
                layer.set_flag(name, value);
            }
        }
        layer
    }
}

/// The client commands.
#[derive(Subcommand)]
pub(super) enum ClientArgs {
    /// Start the sync
    Start(Box<StartArgs>),
    /// Check whether a sync could begin; needs no daemon and changes nothing
    Preflight(Box<PreflightArgs>),
    /// Show the progress
    Progress {
        /// Follow it until the sync is committed
        #[arg(long)]
        watch: bool,
        /// List every collection, largest first
        #[arg(long, conflicts_with = "watch")]
        collections: bool,
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Pause the sync
    Pause(WaitArgs),
    /// Let a paused sync go on
    Resume(WaitArgs),
    /// Hand over to the destination
    Commit(WaitArgs),
    /// Swap the roles after a commit
    Reverse(WaitArgs),
    /// Give the sync up and forget it
    Abort {
        /// Remove from the destination what was copied
        #[arg(long = "drop-destination-data")]
        drop_destination_data: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Waiting and reaching.
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Forget the sync of a daemon that is down
    Reset(Box<ResetArgs>),
    /// List what the verification has found
    Mismatches {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Compare two clusters document by document, without a daemon
    Verify(Box<VerifyArgs>),
    /// List the loaded plugins
    Plugins {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Write, check and try plugins; list those of a daemon
    #[command(subcommand)]
    Plugin(Box<PluginArgs>),
    /// Log in to the API of a daemon, in a browser or with a code on another device
    Login(LoginCommand),
    /// Forget the session at a daemon
    Logout {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Show or change who may use the API
    Federation {
        /// What to do.
        #[command(subcommand)]
        command: FederationArgs,
    },
}

/// `syncline login`.
#[derive(Args)]
pub(super) struct LoginCommand {
    /// What opens the browser: a program, `print` to open the address yourself, or `none`
    #[arg(long, value_name = "PROGRAM")]
    pub(super) browser: Option<Browser>,
    /// Where the browser comes back to [default: http://localhost:27097/redirect]
    #[arg(long, value_name = "URI")]
    pub(super) redirect_uri: Option<Redirect>,
    /// auth-code, device-auth or both, in order of preference [default: as the daemon says]
    #[arg(long, value_name = "FLOWS", value_delimiter = ',', value_parser = ["auth-code", "device-auth"])]
    pub(super) flows: Vec<String>,
    /// Name of your account, for the provider's page
    #[arg(long, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// The issuer that the daemon names, when it is at a private address: it is not gone to otherwise
    #[arg(long, value_name = "URL")]
    pub(super) issuer: Option<String>,
    /// Where the daemon is.
    #[command(flatten)]
    pub(super) reach: ReachArgs,
}

/// `syncline federation`.
#[derive(Subcommand)]
pub(super) enum FederationArgs {
    /// Put the first federation in force
    Create(FederationBody),
    /// Show the federation
    Show {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Replace the federation; its name stays
    Edit(FederationBody),
    /// Remove the federation; then everybody on this machine may use the API
    Delete {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
    /// Drop the cached keys of the issuer at once
    RevokeJwks {
        /// Where the daemon is.
        #[command(flatten)]
        reach: ReachArgs,
    },
}

/// A federation to send.
#[derive(Args)]
pub(super) struct FederationBody {
    /// JSON file with the federation, `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub(super) body: PathBuf,
    /// Where the daemon is.
    #[command(flatten)]
    pub(super) reach: ReachArgs,
}

/// Where the daemon is, and how to show its answer.
#[derive(Args)]
pub(super) struct ReachArgs {
    /// Port of the daemon's API [default: $SYNCLINE_PORT or 27182]
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// Host of the daemon's API
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: String,
    /// How to show the answer
    #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
    pub(super) output: OutputArg,
    /// Speak TLS
    #[arg(long)]
    pub(super) tls: bool,
    /// PEM file with authorities to trust besides the system's
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(super) tls_ca_file: Option<PathBuf>,
    /// PEM file with a certificate and its key, for a daemon that demands one
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub(super) tls_certificate_key_file: Option<PathBuf>,
    /// File with the bearer token [default: $SYNCLINE_TOKEN, or none]
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// The word of `--output`.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum OutputArg {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

impl From<OutputArg> for Output {
    fn from(word: OutputArg) -> Self {
        match word {
            OutputArg::Text => Self::Text,
            OutputArg::Json => Self::Json,
        }
    }
}

/// A command that can wait for its effect.
#[derive(Args)]
pub(super) struct WaitArgs {
    /// Return when the effect is there, not when the request is accepted
    #[arg(long)]
    pub(super) wait: bool,
    /// With --wait: give up after this many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(super) timeout: Option<u64>,
    /// Where the daemon is.
    #[command(flatten)]
    pub(super) reach: ReachArgs,
}

/// Fields of the body of `/start`.
#[derive(Args)]
#[command(rename_all = "camelCase")]
pub(super) struct StartFields {
    /// cluster0 or cluster1
    #[arg(long)]
    source: Option<String>,
    /// cluster1 or cluster0
    #[arg(long)]
    destination: Option<String>,
    /// afterDataCopy, beforeDataCopy, excludeHashedAfterCopy, excludeHashed or never
    #[arg(long)]
    build_indexes: Option<String>,
    /// Namespaces to sync, as a JSON list
    #[arg(long, value_name = "JSON", value_parser = json)]
    include_namespaces: Option<Value>,
    /// Namespaces not to sync, as a JSON list
    #[arg(long, value_name = "JSON", value_parser = json)]
    exclude_namespaces: Option<Value>,
    /// What gets another name on the destination, as a JSON list of {"from": …, "to": …}
    #[arg(long, value_name = "JSON", value_parser = json)]
    namespace_remap: Option<Value>,
    /// none, destinationOnly, sourceAndDestination, true or false
    #[arg(long, value_name = "MODE")]
    enable_user_write_blocking: Option<String>,
    /// Whether to verify: verification.enabled
    #[arg(long, value_name = "BOOL")]
    verification: Option<bool>,
    /// Whether `reverse` shall be possible
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    reversible: Option<bool>,
    /// Whether to look for random _id values
    #[arg(long, value_name = "BOOL")]
    detect_random_id: Option<bool>,
    /// Whether to start without comparing disk space
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    skip_disk_space_check: Option<bool>,
    /// Whether the destination may hold other data
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pre_existing_destination_data: Option<bool>,
    /// Collections to copy in natural order, as a JSON list
    #[arg(long, value_name = "JSON", value_parser = json)]
    copy_in_natural_order: Option<Value>,
    /// How to shard, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json)]
    sharding: Option<Value>,
    /// The whole body from a file, or from stdin with `-`; flags win over it
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
}

/// `syncline start`.
#[derive(Args)]
pub(super) struct StartArgs {
    /// The body.
    #[command(flatten)]
    pub(super) fields: StartFields,
    /// Waiting and reaching.
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// `syncline preflight`.
#[derive(Args)]
pub(super) struct PreflightArgs {
    /// The clusters, as for the daemon.
    #[command(flatten)]
    pub(super) daemon: DaemonArgs,
    /// What `start` would be told; from cluster0 to cluster1 unless it says otherwise.
    #[command(flatten)]
    pub(super) fields: StartFields,
    /// How to show what was found
    #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
    pub(super) output: OutputArg,
    /// Print the roles that a sync with these options needs, without connecting
    #[arg(long)]
    pub(super) print_roles: bool,
}

/// `syncline reset`.
#[derive(Args)]
pub(super) struct ResetArgs {
    /// The clusters, as for the daemon.
    #[command(flatten)]
    pub(super) daemon: DaemonArgs,
    /// Remove from the destination what was copied
    #[arg(long = "drop-destination-data")]
    pub(super) drop_destination_data: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
}

/// `syncline verify`.
#[derive(Args)]
#[command(rename_all = "camelCase")]
pub(super) struct VerifyArgs {
    /// The clusters, as for the daemon.
    #[command(flatten)]
    pub(super) daemon: DaemonArgs,
    /// The cluster that is right: cluster0 or cluster1
    #[arg(long, default_value = "cluster0")]
    pub(super) source: String,
    /// Namespaces to compare, as a JSON list
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(super) include_namespaces: Option<Value>,
    /// Namespaces not to compare, as a JSON list
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(super) exclude_namespaces: Option<Value>,
    /// A sync runs between them: have patience with what is late, relaxed or not there yet
    #[arg(long)]
    pub(super) during_sync: bool,
    /// Names on the destination that are not those of the source, as a JSON list
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(super) namespace_remap: Option<Value>,
    /// Note in this file what is equal; run again after a break, go on from there
    #[arg(long, value_name = "FILE")]
    pub(super) checkpoint_file: Option<PathBuf>,
    /// How to show what was found
    #[arg(long, short, value_enum, default_value_t = OutputArg::Text)]
    pub(super) output: OutputArg,
}

impl VerifyArgs {
    /// The part of a `start` body that says what is compared.
    pub(super) fn request(&self) -> Map<String, Value> {
        let other = if self.source == "cluster1" { "cluster0" } else { "cluster1" };
        let mut body = Map::new();
        body.insert("source".to_owned(), self.source.clone().into());
        body.insert("destination".to_owned(), other.into());
        for (name, value) in [
            ("includeNamespaces", &self.include_namespaces),
            ("excludeNamespaces", &self.exclude_namespaces),
            ("namespaceRemap", &self.namespace_remap),
        ] {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.clone());
            }
        }
        body
    }
}

impl StartFields {
    /// The body: what `--body` holds, with the flags over it.
    pub(super) fn request(self) -> Result<Map<String, Value>> {
        let mut body = match &self.body {
            None => Map::new(),
            Some(path) => read_body(path)?,
        };
        let blocking = self.enable_user_write_blocking.map(|mode| match mode.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => Value::String(mode),
        });
        for (name, value) in [
            ("source", self.source.map(Value::String)),
            ("destination", self.destination.map(Value::String)),
            ("buildIndexes", self.build_indexes.map(Value::String)),
            ("includeNamespaces", self.include_namespaces),
            ("excludeNamespaces", self.exclude_namespaces),
            ("namespaceRemap", self.namespace_remap),
            ("enableUserWriteBlocking", blocking),
            ("verification", self.verification.map(|on| serde_json::json!({"enabled": on}))),
            ("reversible", self.reversible.map(Value::Bool)),
            ("detectRandomId", self.detect_random_id.map(Value::Bool)),
            ("skipDiskSpaceCheck", self.skip_disk_space_check.map(Value::Bool)),
            ("preExistingDestinationData", self.pre_existing_destination_data.map(Value::Bool)),
            ("copyInNaturalOrder", self.copy_in_natural_order),
            ("sharding", self.sharding),
        ] {
            if let Some(value) = value {
                body.retain(|key, _| !key.eq_ignore_ascii_case(name));
                body.insert(name.to_owned(), value);
            }
        }
        Ok(body)
    }
}

/// Reads `--body`.
pub(super) fn read_body(path: &std::path::Path) -> Result<Map<String, Value>> {
    let place =
        if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
    let cannot = |error: std::io::Error| {
        Error::new(Kind::ConfigInvalid, format!("--body: {place} cannot be read")).caused_by(error)
    };
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_BODY_BYTES).read_to_string(&mut text).map_err(cannot)?;
    } else {
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(MAX_BODY_BYTES).read_to_string(&mut text).map_err(cannot)?;
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => {
            Err(Error::new(Kind::ConfigInvalid, format!("--body: {place} holds no JSON object")))
        }
        Err(error) => {
            Err(Error::new(Kind::ConfigInvalid, format!("--body: {place} holds no JSON"))
                .caused_by(error))
        }
    }
}

/// Parses a JSON value of the command line.
fn json(text: &str) -> std::result::Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))
}

/// Takes any text as a secret.
#[allow(clippy::unnecessary_wraps, reason = "the shape that clap asks for")]
fn secret(text: &str) -> std::result::Result<SecretString, String> {
    Ok(SecretString::from(text))
}
