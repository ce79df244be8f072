//! Connections: the policy for connection strings, pool sizes, and the OIDC callback.

use std::{sync::Arc, time::Duration};

use mongodb::{
    Client,
    options::{AuthMechanism, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, Tls},
};
use secrecy::{ExposeSecret, SecretString};

use super::{classify::classify, topology};
use crate::{
    error::{Error, Kind, Result},
    ports::ClusterInfo,
};

/// How long the first contact may take before a cluster counts as unreachable.
const FIRST_CONTACT: Duration = Duration::from_secs(10);
/// How long an operation waits for a primary before it is retried.
const SERVER_SELECTION: Duration = Duration::from_secs(15);
/// Connections a cluster gets at most; every worker needs one, the change stream another.
const MAX_POOL_SIZE: u32 = 64;

/// A cluster that answered.
#[derive(Clone)]
pub struct Connection {
    /// `cluster0` or `cluster1`.
    pub(super) label: &'static str,
    /// What this process's operations carry on the server; no other process has it.
    pub(super) tag: Arc<str>,
    /// The driver's client.
    pub(super) client: Client,
    /// What the cluster said of itself at first contact.
    info: ClusterInfo,
}

impl Connection {
    /// `cluster0` or `cluster1`.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// What the cluster said of itself at first contact.
    pub fn info(&self) -> &ClusterInfo {
        &self.info
    }
}

/// Connects and makes sure that there is a replica set with a primary that lets us in. `prepare`
/// puts into the parsed options what comes from elsewhere, the OIDC callback above all.
///
/// # Errors
/// `UriInvalid`, `ClusterUnreachable`, `AuthenticationFailed`, `IdentityProviderFailure`,
/// `NotReplicaSet`; each names the label, never the string.
pub async fn connect(
    label: &'static str,
    uri: &SecretString,
    tag: &str,
    prepare: impl FnOnce(&mut ClientOptions) -> Result<()> + Send,
) -> Result<Connection> {
    let mut options = parse(label, uri).await?;
    prepare(&mut options)?;
    options.app_name = Some(app_name(tag));
    options.max_pool_size = Some(options.max_pool_size.unwrap_or(MAX_POOL_SIZE).max(MAX_POOL_SIZE));
    options.server_selection_timeout = Some(FIRST_CONTACT);
    let first = Client::with_options(options.clone()).map_err(|e| {
        classify(&e, format!("{label}: cannot set up the connection"), Kind::UriInvalid)
    })?;
    let info = topology::inspect(&first).await.map_err(|e| first_contact(label, e))?;
    first.shutdown().immediate(true).await;
    options.server_selection_timeout = Some(SERVER_SELECTION);
    let client = Client::with_options(options).map_err(|e| {
        classify(&e, format!("{label}: cannot set up the connection"), Kind::UriInvalid)
    })?;
    Ok(Connection { label, tag: Arc::from(tag), client, info })
}

/// The name under which a process's connections show on the server.
pub(super) fn app_name(tag: &str) -> String {
    format!("syncline {tag}")
}

/// A failure of the first contact, as the operator should see it.
fn first_contact(label: &str, error: Error) -> Error {
    if error.kind() == Kind::TransientNetwork {
        Error::new(
            Kind::ClusterUnreachable,
            format!("{label}: no primary answered within {} s", FIRST_CONTACT.as_secs()),
        )
        .caused_by(error)
    } else {
        error.at(label)
    }
}

/// Parses a connection string and applies what a sync demands of it.
async fn parse(label: &str, uri: &SecretString) -> Result<ClientOptions> {
    let refuse = |why: String| Err(Error::new(Kind::UriInvalid, format!("{label}: {why}")));
    // The driver's parse errors may quote the string, so only their kind is passed on.
    let text = uri.expose_secret();
    if !text.starts_with("mongodb://") && !text.starts_with("mongodb+srv://") {
        return refuse("a connection string begins with mongodb:// or mongodb+srv://".into());
    }
    let lower = text.to_ascii_lowercase();
    if lower.contains("sockettimeoutms=") {
        return refuse("socketTimeoutMS is not allowed, it would end long scans".into());
    }
    let options = match ClientOptions::parse(text).await {
        Ok(options) => options,
        Err(error) => {
            let why = error.to_string();
            return refuse(match password_of(text) {
                Some(password) if why.contains(password) => {
                    "the connection string cannot be parsed".to_owned()
                }
                _ => format!("the connection string cannot be parsed: {why}"),
            });
        }
    };
    if options.read_concern.as_ref().is_some_and(|c| *c != ReadConcern::majority()) {
        return refuse("invalid URI option, read concern must be majority".into());
    }
    if let Some(concern) = &options.write_concern
        && concern.w.as_ref().is_some_and(|w| *w != mongodb::options::Acknowledgment::Majority)
    {
        return refuse("invalid URI option, write concern must be majority".into());
    }
    if let Some(criteria) = &options.selection_criteria
        && !matches!(criteria, SelectionCriteria::ReadPreference(ReadPreference::Primary))
    {
        return refuse("invalid URI option, read preference must be primary".into());
    }
    if let Some(credential) = &options.credential
        && credential.mechanism == Some(AuthMechanism::Plain)
        && !matches!(options.tls, Some(Tls::Enabled(_)))
    {
        return refuse("authMechanism=PLAIN sends the password in clear and needs TLS".into());
    }
    Ok(options)
}

/// The password inside a connection string, to make sure that no message repeats it.
fn password_of(text: &str) -> Option<&str> {
    let authority = text.split_once("://")?.1;
    let (userinfo, _) = authority.rsplit_once('@')?;
    userinfo.split_once(':').map(|(_, password)| password).filter(|p| !p.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(uri: &str) -> String {
        let error = parse("cluster0", &SecretString::from(uri)).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::UriInvalid);
        format!("{error:?}")
    }

    #[tokio::test]
    async fn strings_that_a_sync_cannot_use_are_refused() {
        for (uri, word) in [
            ("http://localhost", "begins with"),
            ("mongodb://localhost/?readConcernLevel=local", "read concern"),
            ("mongodb://localhost/?w=1", "write concern"),
            ("mongodb://localhost/?readPreference=secondary", "read preference"),
            ("mongodb://localhost/?socketTimeoutMS=5", "socketTimeoutMS"),
            ("mongodb://localhost/?authMechanism=NONSENSE", "parsed"),
        ] {
            let text = refusal(uri).await;
            assert!(text.contains(word), "{uri}: {text}");
        }
        assert!(parse("cluster0", &"mongodb://localhost/?w=majority".into()).await.is_ok());
    }

    #[tokio::test]
    async fn no_refusal_repeats_the_password() {
        for uri in [
            "mongodb://user:pl4nted@host:99999/?w=1",
            "mongodb://user:pl4nted/x@host/",
            "mongodb://user:pl4nted@host/?w=1",
        ] {
            assert!(!refusal(uri).await.contains("pl4nted"), "{uri}");
        }
    }
}
