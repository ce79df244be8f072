//! The options by name: what the command line, the environment and the config file share.

use std::{collections::BTreeMap, fmt};

use secrecy::SecretString;

/// What an option holds, for the config file and for the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Text, or a number written as text.
    Value,
    /// `true` or `false`.
    Switch,
    /// JSON; in the file also as YAML.
    Json,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OptionName {
    /// Name on the command line (after `--`) and in the file.
    pub(crate) name: &'static str,
    /// Name in the environment.
    pub(crate) env: &'static str,
    /// What it holds.
    pub(crate) shape: Shape,
}

/// Shorthand for a row of the table.
const fn row(name: &'static str, env: &'static str, shape: Shape) -> OptionName {
    OptionName { name, env, shape }
}

/// Every option but `--config`, which names the file.
pub(crate) const OPTIONS: &[OptionName] = &[
    row("cluster0", "SYNCLINE_CLUSTER0", Shape::Value),
    row("cluster1", "SYNCLINE_CLUSTER1", Shape::Value),
    row("port", "SYNCLINE_PORT", Shape::Value),
    row("bindIp", "SYNCLINE_BIND_IP", Shape::Value),
    row("tlsCertificateKeyFile", "SYNCLINE_TLS_CERTIFICATE_KEY_FILE", Shape::Value),
    row("tlsCAFile", "SYNCLINE_TLS_CA_FILE", Shape::Value),
    row("federationFile", "SYNCLINE_FEDERATION_FILE", Shape::Value),
    row("auditLog", "SYNCLINE_AUDIT_LOG", Shape::Value),
    row("logPath", "SYNCLINE_LOG_PATH", Shape::Value),
    row("verbosity", "SYNCLINE_VERBOSITY", Shape::Value),
    row("loadLevel", "SYNCLINE_LOAD_LEVEL", Shape::Value),
    row("metadataDatabase", "SYNCLINE_METADATA_DATABASE", Shape::Value),
    row("id", "SYNCLINE_ID", Shape::Value),
    row("createIndexesBatchSize", "SYNCLINE_CREATE_INDEXES_BATCH_SIZE", Shape::Value),
    row("acceptDisclaimer", "SYNCLINE_ACCEPT_DISCLAIMER", Shape::Switch),
    row("disableTelemetry", "SYNCLINE_DISABLE_TELEMETRY", Shape::Switch),
    row("disableVerification", "SYNCLINE_DISABLE_VERIFICATION", Shape::Switch),
    row("disableMetricsLogging", "SYNCLINE_DISABLE_METRICS_LOGGING", Shape::Switch),
    row("metricsLoggingFilepath", "SYNCLINE_METRICS_LOGGING_FILEPATH", Shape::Value),
    row(
        "enableCappedCollectionHandling",
        "SYNCLINE_ENABLE_CAPPED_COLLECTION_HANDLING",
        Shape::Switch,
    ),
    row("hotDocIDs", "SYNCLINE_HOT_DOC_IDS", Shape::Json),
];

/// The environment variable that names the config file.
pub(crate) const CONFIG_ENV: &str = "SYNCLINE_CONFIG";

/// A value as given, with where it was given. All are treated as secret: some are.
#[derive(Clone)]
pub(crate) struct Given {
    /// The text.
    pub(crate) text: SecretString,
    /// `--port`, `SYNCLINE_PORT` or `port in sync.yaml`.
    pub(crate) origin: String,
}

/// The values of one origin: the command line, the environment or the file.
#[derive(Clone, Default)]
pub struct Layer {
    /// By option name.
    values: BTreeMap<&'static str, Given>,
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an option; a later value replaces an earlier one.
    pub(crate) fn set(&mut self, name: &'static str, text: SecretString, origin: String) {
        self.values.insert(name, Given { text, origin });
    }

    /// Sets an option that was given on the command line.
    pub fn set_flag(&mut self, name: &'static str, text: impl Into<SecretString>) {
        self.set(name, text.into(), format!("--{name}"));
    }

    /// The layer of the environment.
    pub(crate) fn of_environment(env: &BTreeMap<String, String>) -> Self {
        let mut layer = Self::new();
        for option in OPTIONS {
            if let Some(text) = env.get(option.env).filter(|text| !text.is_empty()) {
                layer.set(option.name, SecretString::from(text.as_str()), option.env.to_owned());
            }
        }
        layer
    }

    /// Takes what is set in `stronger` over what is set here.
    pub(crate) fn overlay(&mut self, stronger: Self) {
        self.values.extend(stronger.values);
    }

    /// The value of an option.
    pub(crate) fn get(&self, name: &str) -> Option<&Given> {
        self.values.get(name)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}
