//! The one table that says what the host does about a kind and what the operator should do.

use std::time::Duration;

use super::{Error, Kind};

/// How long and how often a transient failure is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First pause.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// Give up after this much time in all.
    pub give_up_after: Duration,
}

impl Backoff {
    /// Thirty minutes in all, as long as a failover or a network outage may last.
    pub const NETWORK: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(10),
        give_up_after: Duration::from_secs(30 * 60),
    };
}

/// What the host does when it meets an error of some kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Try again with growing pauses.
    Retry(Backoff),
    /// Stop the sync and say why; a restart resumes it.
    StopRun,
    /// Refuse to start; nothing was changed.
    Exit,
}

impl Kind {
    /// What the host does about it.
    pub fn recovery(self) -> Recovery {
        match self {
            Self::ConfigInvalid
            | Self::UriInvalid
            | Self::SameCluster
            | Self::FilterInvalid
            | Self::StartOptionsInvalid
            | Self::ClusterUnreachable
            | Self::AuthenticationFailed
            | Self::NotReplicaSet
            | Self::UnsupportedVersion
            | Self::InsufficientDestinationDiskSpace
            | Self::PluginNotFound
            | Self::PluginNotComponent
            | Self::PluginWrongWorld
            | Self::PluginImportDenied
            | Self::PluginDigestMismatch
            | Self::PluginConfigInvalid
            | Self::PluginVersion
            | Self::PluginUnsigned
            | Self::PortInUse
            | Self::ApiUnreachable => Recovery::Exit,
            Self::PermissionDenied
            | Self::NamespaceConflict
            | Self::InvalidState
            | Self::CannotCommitYet
            | Self::AlreadyStarted
            | Self::OplogPositionLost
            | Self::UnsupportedOperation
            | Self::IndexBuildFailed
            | Self::DuplicateKeyAtCommit
            | Self::WriteFailed
            | Self::MetadataMismatch
            | Self::MetadataVersion
            | Self::ReadFailed
            | Self::DestinationChanged
            | Self::IndexesCollide
            | Self::LeaseLost
            | Self::VerificationFailed
            | Self::PluginTrap
            | Self::PluginDeadline
            | Self::PluginMemory
            | Self::PluginOutputInvalid
            | Self::PluginRejected
            | Self::PluginChangedId
            | Self::PluginNonconforming
            | Self::QuarantineFull
            | Self::PluginFaulty
            | Self::PluginEgressDenied
            | Self::NamespaceOutsideFilter
            | Self::NamespaceRemapConflict
            | Self::BadRequest
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::RequestForbidden
            | Self::Unauthenticated
            | Self::AccessDenied
            | Self::FederationInvalid
            | Self::LoginFailed
            | Self::Internal => Recovery::StopRun,
            Self::TransientNetwork | Self::IdentityProviderFailure => {
                Recovery::Retry(Backoff::NETWORK)
            }
        }
    }

    /// What the operator should do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::ConfigInvalid => {
                "Correct every entry that the message lists; `syncline --help` shows names and defaults."
            }
            Self::UriInvalid => {
                "Correct the connection string; read and write concern must be majority, the read preference primary, and socketTimeoutMS absent."
            }
            Self::SameCluster => "Point cluster0 and cluster1 at two different clusters.",
            Self::FilterInvalid => {
                "Correct the filter; every entry needs a database or a databaseRegex."
            }
            Self::StartOptionsInvalid => {
                "Correct the request body and call start again; nothing was changed."
            }
            Self::ClusterUnreachable => {
                "Check host names, ports, TLS settings, firewalls and that the replica set has a primary."
            }
            Self::AuthenticationFailed => {
                "Check user, password, authSource and authMechanism of the connection string."
            }
            Self::NotReplicaSet => {
                "Start the server with --replSet and initiate it, or connect to the replica set."
            }
            Self::UnsupportedVersion => {
                "Upgrade the server; the source and the destination must be 6.0 or newer, the destination not older than the source."
            }
            Self::PermissionDenied => {
                "Grant the privilege that the message names; docs/operations.md lists the roles."
            }
            Self::TransientNetwork => {
                "Nothing to do unless it persists: the operation is retried for up to 30 minutes."
            }
            Self::IdentityProviderFailure => {
                "Read the provider's reason in the message; check the connection string's OIDC properties and the identity's rights."
            }
            Self::Unauthenticated => {
                "Log in again, or have a token issued for the API's audience; the audit log says why it was refused."
            }
            Self::LoginFailed => {
                "Read the provider's reason in the message; without a browser allow the device flow (--flows device-auth)."
            }
            Self::AccessDenied => {
                "Ask for a role that grants the action, from an address it allows; the audit log says what is missing."
            }
            Self::FederationInvalid => {
                "Correct what the message lists; docs/identity.md has every field."
            }
            Self::NamespaceConflict => {
                "Drop the namespaces that the message lists on the destination, leave them out with a namespace filter, or set `preExistingDestinationData` for those that the source does not have."
            }
            Self::InvalidState => {
                "Look at `syncline progress` and call the command when the state allows it."
            }
            Self::CannotCommitYet => {
                "Wait until `syncline progress` shows canCommit: true, then commit again."
            }
            Self::AlreadyStarted => "Nothing to do; follow it with `syncline progress --watch`.",
            Self::OplogPositionLost => {
                "The sync has to start over: drop the metadata database and what was copied, enlarge the source's oplog, start again."
            }
            Self::UnsupportedOperation => {
                "Leave the namespace out with a filter, or undo the operation on the source, and start over."
            }
            Self::IndexBuildFailed => {
                "Read the server's reason in the message, mend it and resume."
            }
            Self::DuplicateKeyAtCommit => {
                "Remove the duplicates that the message lists on the destination and commit again."
            }
            Self::WriteFailed => {
                "Read the server's reason in the message; mend it on the destination and resume."
            }
            Self::MetadataMismatch => {
                "Start with the same clusters, options and plugins as before, or name another metadata database."
            }
            Self::MetadataVersion => {
                "Finish the sync with the version that began it, or start over."
            }
            Self::ReadFailed => {
                "Read the server's reason in the message; mend it on the source and resume."
            }
            Self::DestinationChanged => {
                "Keep other writers off the destination and start over: `syncline reset`, remove what was copied, `start`. A way back ends with the reset."
            }
            Self::InsufficientDestinationDiskSpace => {
                "Make room on the destination, leave collections out with a filter, or start with skipDiskSpaceCheck if you know that it will do."
            }
            Self::LeaseLost => {
                "Run one daemon per sync; stop the other one or wait until its lease lapses."
            }
            Self::IndexesCollide => {
                "Drop one of the two indexes on the source, or leave the collection out with a namespace filter, and start (over)."
            }
            Self::VerificationFailed => {
                "Look at `syncline mismatches`, mend the destination, and commit again once canCommit is true; if the source was written to after the commit began, stop its writers first."
            }
            Self::PluginNotFound => {
                "Check the plugin's name and path in the config file; `GET /api/v1/plugins` lists what is loaded."
            }
            Self::PluginNotComponent => {
                "Build the plugin as a component (target wasm32-wasip2); a core module or another file cannot be loaded."
            }
            Self::PluginWrongWorld => {
                "Use a document filter where a filter is asked for and an identity provider where a token is."
            }
            Self::PluginImportDenied => {
                "Grant what the message names in the config file if you trust the plugin with it, or do not use the plugin."
            }
            Self::PluginDigestMismatch => {
                "Use the file with the expected digest, or correct the digest in the config file."
            }
            Self::PluginConfigInvalid => {
                "Correct the key that the message names under the plugin's `config`."
            }
            Self::PluginTrap => {
                "Report it to the plugin's author with the message; the sync can be resumed with a mended plugin after a new start."
            }
            Self::PluginDeadline => {
                "Raise limits.deadlineMs of the plugin, or report it to its author."
            }
            Self::PluginMemory => {
                "Raise limits.memoryBytes of the plugin, or report it to its author."
            }
            Self::PluginOutputInvalid => "Report it to the plugin's author with the message.",
            Self::PluginRejected => {
                "Read the filter's reason in the message; change the document or the filter's configuration."
            }
            Self::PluginChangedId => "A filter may not change _id; correct the plugin.",
            Self::PluginEgressDenied => {
                "Grant the origin in the config file if you trust the plugin with it."
            }
            Self::PluginVersion => {
                "Rebuild the plugin with the SDK of this release, or upgrade syncline."
            }
            Self::PluginUnsigned => {
                "Get the `.minisig` file from the plugin's author, or add the author's key to `trustedKeys` if you trust it."
            }
            Self::PluginNonconforming => {
                "Mend what the failed checks name; docs/plugins.md says what each of them means."
            }
            Self::QuarantineFull => {
                "Look at the reasons with `syncline plugin quarantine`; mend the plugin or its configuration and start over."
            }
            Self::PluginFaulty => {
                "Mend the plugin, or raise its limits if the message names one; the sync can then be resumed after a new start."
            }
            Self::NamespaceOutsideFilter => {
                "Start over, with a filter that includes both names or the whole database."
            }
            Self::NamespaceRemapConflict => {
                "Correct namespaceRemap so that every namespace has a destination of its own, and start over."
            }
            Self::BadRequest => "Send a JSON object; docs/api.md shows every request.",
            Self::NotFound => "Paths begin with /api/v1; docs/api.md lists them.",
            Self::MethodNotAllowed => "Use GET for progress and plugins, POST for commands.",
            Self::RequestForbidden => {
                "Call the API by the name localhost or a loopback address, and not from a page of another origin."
            }
            Self::PortInUse => "Stop the other process or choose another --port.",
            Self::ApiUnreachable => "Start the daemon, or name its port with --port.",
            Self::Internal => "Report it with the log; restarting the process resumes the sync.",
        }
    }

    /// Exit code of the process when this kind ends it: 1 runtime, 64 usage or config,
    /// 69 unreachable, 77 not permitted.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::ConfigInvalid
            | Self::UriInvalid
            | Self::SameCluster
            | Self::FilterInvalid
            | Self::StartOptionsInvalid
            | Self::NotReplicaSet
            | Self::FederationInvalid
            | Self::UnsupportedVersion
            | Self::NamespaceConflict
            | Self::NamespaceRemapConflict
            | Self::MetadataMismatch
            | Self::MetadataVersion
            | Self::PluginNotFound
            | Self::PluginNotComponent
            | Self::PluginWrongWorld
            | Self::PluginImportDenied
            | Self::PluginDigestMismatch
            | Self::PluginConfigInvalid
            | Self::PluginVersion
            | Self::PluginUnsigned
            | Self::BadRequest
            | Self::NotFound
            | Self::MethodNotAllowed => 64,
            Self::ClusterUnreachable
            | Self::TransientNetwork
            | Self::PortInUse
            | Self::ApiUnreachable => 69,
            Self::AuthenticationFailed
            | Self::PermissionDenied
            | Self::IdentityProviderFailure
            | Self::RequestForbidden
            | Self::Unauthenticated
            | Self::AccessDenied
            | Self::LoginFailed
            | Self::PluginEgressDenied => 77,
            Self::InvalidState
            | Self::CannotCommitYet
            | Self::AlreadyStarted
            | Self::OplogPositionLost
            | Self::UnsupportedOperation
            | Self::IndexBuildFailed
            | Self::DuplicateKeyAtCommit
            | Self::WriteFailed
            | Self::ReadFailed
            | Self::DestinationChanged
            | Self::LeaseLost
            | Self::InsufficientDestinationDiskSpace
            | Self::IndexesCollide
            | Self::VerificationFailed
            | Self::PluginTrap
            | Self::PluginDeadline
            | Self::PluginMemory
            | Self::PluginOutputInvalid
            | Self::PluginRejected
            | Self::PluginChangedId
            | Self::PluginNonconforming
            | Self::QuarantineFull
            | Self::PluginFaulty
            | Self::NamespaceOutsideFilter
            | Self::Internal => 1,
        }
    }
}

impl Error {
    /// What the host does about this error.
    pub fn recovery(&self) -> Recovery {
        self.kind().recovery()
    }

    /// Whether trying again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self.recovery(), Recovery::Retry(_))
    }

    /// What the operator should do.
    pub fn advice(&self) -> &'static str {
        self.kind().advice()
    }
}
