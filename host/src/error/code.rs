//! The kinds of failure with their stable codes. A code is never reused.

/// Class of a failure. Adding one forces a decision in every exhaustive match below and in `recovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The options, the environment or the config file hold something that cannot be used.
    ConfigInvalid,
    /// A connection string cannot be parsed or asks for something a sync does not allow.
    UriInvalid,
    /// cluster0 and cluster1 are the same replica set.
    SameCluster,
    /// A namespace filter or a document filter is malformed or contradicts another option.
    FilterInvalid,
    /// The body of /start is malformed or combines options that exclude each other.
    StartOptionsInvalid,
    /// No primary of a cluster answers.
    ClusterUnreachable,
    /// A cluster refuses the credentials.
    AuthenticationFailed,
    /// A cluster is no replica set: a standalone server has no change stream, and sharded clusters are not supported yet.
    NotReplicaSet,
    /// A server's version or feature compatibility version is outside what a sync supports.
    UnsupportedVersion,
    /// The user lacks a privilege on a cluster.
    PermissionDenied,
    /// A connection broke, a primary stepped down or an operation timed out.
    TransientNetwork,
    /// An identity provider did not yield a token.
    IdentityProviderFailure,
    /// A request to the API carries no token, or one that is not accepted.
    Unauthenticated,
    /// The caller of the API is known and may not do this.
    AccessDenied,
    /// The federation of the API's users cannot be used, or not be changed in this way.
    FederationInvalid,
    /// Nobody logged in.
    LoginFailed,
    /// The destination already holds namespaces that are the sync's to write.
    NamespaceConflict,
    /// The command does not fit the state of the sync.
    InvalidState,
    /// canCommit is false.
    CannotCommitYet,
    /// A sync is already running between these clusters.
    AlreadyStarted,
    /// The source's oplog no longer reaches back to the persisted position.
    OplogPositionLost,
    /// The source holds or does something that cannot be replicated.
    UnsupportedOperation,
    /// An index could not be built or restored on the destination.
    IndexBuildFailed,
    /// Documents on the destination violate a unique index at commit.
    DuplicateKeyAtCommit,
    /// The destination refused a write for a reason that a retry does not mend.
    WriteFailed,
    /// The metadata database belongs to other clusters, other options or other plugins.
    MetadataMismatch,
    /// The metadata database was written by another version with another schema.
    MetadataVersion,
    /// The source refused a read for a reason that a retry does not mend.
    ReadFailed,
    /// Something else than the sync changed the destination.
    DestinationChanged,
    /// Another process holds the lease of this sync.
    LeaseLost,
    /// The destination's disk cannot hold what is to be copied.
    InsufficientDestinationDiskSpace,
    /// Two indexes would become one while they are relaxed.
    IndexesCollide,
    /// The destination is not what the filters make of the source.
    VerificationFailed,
    /// A plugin is named that is neither built in nor configured, or its file cannot be read.
    PluginNotFound,
    /// A plugin file is not a WebAssembly component.
    PluginNotComponent,
    /// A plugin exports neither world, or not the one it is used for.
    PluginWrongWorld,
    /// A plugin imports something that it was not granted.
    PluginImportDenied,
    /// A plugin's SHA-256 is not the one that the config file or the sync recorded.
    PluginDigestMismatch,
    /// A plugin refuses its configuration.
    PluginConfigInvalid,
    /// A plugin crashed.
    PluginTrap,
    /// A plugin did not answer within its deadline.
    PluginDeadline,
    /// A plugin asked for more memory, tables or instances than its limit.
    PluginMemory,
    /// A plugin answered something that breaks the contract.
    PluginOutputInvalid,
    /// A document filter rejected a document.
    PluginRejected,
    /// A document filter changed an _id.
    PluginChangedId,
    /// A plugin asked for a network address that it was not granted.
    PluginEgressDenied,
    /// A plugin was built for a version of the contract that this host does not speak.
    PluginVersion,
    /// A plugin file has no signature by a key that the operator trusts.
    PluginUnsigned,
    /// A plugin does not do what the contract or its golden files say.
    PluginNonconforming,
    /// More documents than agreed cannot pass a filter.
    QuarantineFull,
    /// A filter fails for so many documents of a batch that it is at fault.
    PluginFaulty,
    /// The source renamed a collection into or out of what the namespace filter includes.
    NamespaceOutsideFilter,
    /// Two namespaces would become one on the destination, or a name cannot be given there.
    NamespaceRemapConflict,
    /// An API request cannot be understood.
    BadRequest,
    /// The API has no such path.
    NotFound,
    /// The API path exists, but not for this method.
    MethodNotAllowed,
    /// The API refuses requests that a web page could have made.
    RequestForbidden,
    /// The API's port is taken.
    PortInUse,
    /// No daemon answers at the API address.
    ApiUnreachable,
    /// Something happened that the host holds to be impossible.
    Internal,
}

impl Kind {
    /// Every kind, for documentation tests.
    pub const ALL: &[Self] = &[
        Self::ConfigInvalid,
        Self::UriInvalid,
        Self::SameCluster,
        Self::FilterInvalid,
        Self::StartOptionsInvalid,
        Self::ClusterUnreachable,
        Self::AuthenticationFailed,
        Self::NotReplicaSet,
        Self::UnsupportedVersion,
        Self::PermissionDenied,
        Self::TransientNetwork,
        Self::IdentityProviderFailure,
        Self::Unauthenticated,
        Self::AccessDenied,
        Self::FederationInvalid,
        Self::LoginFailed,
        Self::NamespaceConflict,
        Self::InvalidState,
        Self::CannotCommitYet,
        Self::AlreadyStarted,
        Self::OplogPositionLost,
        Self::UnsupportedOperation,
        Self::IndexBuildFailed,
        Self::DuplicateKeyAtCommit,
        Self::WriteFailed,
        Self::MetadataMismatch,
        Self::MetadataVersion,
        Self::ReadFailed,
        Self::DestinationChanged,
        Self::LeaseLost,
        Self::InsufficientDestinationDiskSpace,
        Self::IndexesCollide,
        Self::VerificationFailed,
        Self::PluginNotFound,
        Self::PluginNotComponent,
        Self::PluginWrongWorld,
        Self::PluginImportDenied,
        Self::PluginDigestMismatch,
        Self::PluginConfigInvalid,
        Self::PluginTrap,
        Self::PluginDeadline,
        Self::PluginMemory,
        Self::PluginOutputInvalid,
        Self::PluginRejected,
        Self::PluginChangedId,
        Self::PluginEgressDenied,
        Self::PluginVersion,
        Self::PluginUnsigned,
        Self::PluginNonconforming,
        Self::QuarantineFull,
        Self::PluginFaulty,
        Self::NamespaceOutsideFilter,
        Self::NamespaceRemapConflict,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestForbidden,
        Self::PortInUse,
        Self::ApiUnreachable,
        Self::Internal,
    ];

    /// Stable public identifier, `SYNC-nnnn`.
    pub fn code(self) -> &'static str {
        match self {
            Self::ConfigInvalid => "SYNC-1001",
            Self::UriInvalid => "SYNC-1002",
            Self::SameCluster => "SYNC-1003",
            Self::FilterInvalid => "SYNC-1004",
            Self::StartOptionsInvalid => "SYNC-1005",
            Self::ClusterUnreachable => "SYNC-1101",
            Self::AuthenticationFailed => "SYNC-1102",
            Self::NotReplicaSet => "SYNC-1103",
            Self::UnsupportedVersion => "SYNC-1104",
            Self::PermissionDenied => "SYNC-1105",
            Self::TransientNetwork => "SYNC-1106",
            Self::IdentityProviderFailure => "SYNC-1107",
            Self::Unauthenticated => "SYNC-1111",
            Self::AccessDenied => "SYNC-1112",
            Self::FederationInvalid => "SYNC-1113",
            Self::LoginFailed => "SYNC-1114",
            Self::NamespaceConflict => "SYNC-1201",
            Self::InvalidState => "SYNC-1301",
            Self::CannotCommitYet => "SYNC-1302",
            Self::AlreadyStarted => "SYNC-1303",
            Self::OplogPositionLost => "SYNC-1401",
            Self::UnsupportedOperation => "SYNC-1402",
            Self::IndexBuildFailed => "SYNC-1403",
            Self::DuplicateKeyAtCommit => "SYNC-1404",
            Self::WriteFailed => "SYNC-1405",
            Self::MetadataMismatch => "SYNC-1406",
            Self::MetadataVersion => "SYNC-1407",
            Self::ReadFailed => "SYNC-1408",
            Self::DestinationChanged => "SYNC-1409",
            Self::LeaseLost => "SYNC-1410",
            Self::InsufficientDestinationDiskSpace => "SYNC-1411",
            Self::IndexesCollide => "SYNC-1412",
            Self::VerificationFailed => "SYNC-1610",
            Self::PluginNotFound => "SYNC-1501",
            Self::PluginNotComponent => "SYNC-1502",
            Self::PluginWrongWorld => "SYNC-1503",
            Self::PluginImportDenied => "SYNC-1504",
            Self::PluginDigestMismatch => "SYNC-1505",
            Self::PluginConfigInvalid => "SYNC-1506",
            Self::PluginTrap => "SYNC-1507",
            Self::PluginDeadline => "SYNC-1508",
            Self::PluginMemory => "SYNC-1509",
            Self::PluginOutputInvalid => "SYNC-1510",
            Self::PluginRejected => "SYNC-1511",
            Self::PluginChangedId => "SYNC-1512",
            Self::PluginEgressDenied => "SYNC-1513",
            Self::PluginVersion => "SYNC-1514",
            Self::PluginUnsigned => "SYNC-1515",
            Self::PluginNonconforming => "SYNC-1516",
            Self::QuarantineFull => "SYNC-1517",
            Self::PluginFaulty => "SYNC-1518",
            Self::NamespaceOutsideFilter => "SYNC-1801",
            Self::NamespaceRemapConflict => "SYNC-1802",
            Self::BadRequest => "SYNC-1601",
            Self::NotFound => "SYNC-1602",
            Self::MethodNotAllowed => "SYNC-1603",
            Self::RequestForbidden => "SYNC-1606",
            Self::PortInUse => "SYNC-1604",
            Self::ApiUnreachable => "SYNC-1605",
            Self::Internal => "SYNC-1901",
        }
    }

    /// Short error name, the `error` field of the API's envelope.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigInvalid => "ConfigInvalid",
            Self::UriInvalid => "UriInvalid",
            Self::SameCluster => "SameCluster",
            Self::FilterInvalid => "FilterInvalid",
            Self::StartOptionsInvalid => "StartOptionsInvalid",
            Self::ClusterUnreachable => "ClusterUnreachable",
            Self::AuthenticationFailed => "AuthenticationFailed",
            Self::NotReplicaSet => "NotReplicaSet",
            Self::UnsupportedVersion => "UnsupportedVersion",
            Self::PermissionDenied => "PermissionDenied",
            Self::TransientNetwork => "TransientNetwork",
            Self::IdentityProviderFailure => "IdentityProviderFailure",
            Self::Unauthenticated => "Unauthenticated",
            Self::AccessDenied => "AccessDenied",
            Self::FederationInvalid => "FederationInvalid",
            Self::LoginFailed => "LoginFailed",
            Self::NamespaceConflict => "NamespaceConflict",
            Self::InvalidState => "InvalidState",
            Self::CannotCommitYet => "CannotCommitYet",
            Self::AlreadyStarted => "AlreadyStarted",
            Self::OplogPositionLost => "OplogPositionLost",
            Self::UnsupportedOperation => "UnsupportedOperation",
            Self::IndexBuildFailed => "IndexBuildFailed",
            Self::DuplicateKeyAtCommit => "DuplicateKeyAtCommit",
            Self::WriteFailed => "WriteFailed",
            Self::MetadataMismatch => "MetadataMismatch",
            Self::MetadataVersion => "MetadataVersion",
            Self::ReadFailed => "ReadFailed",
            Self::DestinationChanged => "DestinationChanged",
            Self::LeaseLost => "LeaseLost",
            Self::InsufficientDestinationDiskSpace => "InsufficientDestinationDiskSpace",
            Self::IndexesCollide => "IndexesCollide",
            Self::VerificationFailed => "VerificationFailed",
            Self::PluginNotFound => "PluginNotFound",
            Self::PluginNotComponent => "PluginNotComponent",
            Self::PluginWrongWorld => "PluginWrongWorld",
            Self::PluginImportDenied => "PluginImportDenied",
            Self::PluginDigestMismatch => "PluginDigestMismatch",
            Self::PluginConfigInvalid => "PluginConfigInvalid",
            Self::PluginTrap => "PluginTrap",
            Self::PluginDeadline => "PluginDeadline",
            Self::PluginMemory => "PluginMemory",
            Self::PluginOutputInvalid => "PluginOutputInvalid",
            Self::PluginRejected => "PluginRejected",
            Self::PluginChangedId => "PluginChangedId",
            Self::PluginEgressDenied => "PluginEgressDenied",
            Self::PluginVersion => "PluginVersion",
            Self::PluginUnsigned => "PluginUnsigned",
            Self::PluginNonconforming => "PluginNonconforming",
            Self::QuarantineFull => "QuarantineFull",
            Self::PluginFaulty => "PluginFaulty",
            Self::NamespaceOutsideFilter => "NamespaceOutsideFilter",
            Self::NamespaceRemapConflict => "NamespaceRemapConflict",
            Self::BadRequest => "BadRequest",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::RequestForbidden => "RequestForbidden",
            Self::PortInUse => "PortInUse",
            Self::ApiUnreachable => "ApiUnreachable",
            Self::Internal => "Internal",
        }
    }

    /// One sentence on what this kind means, for the error pages.
    pub fn title(self) -> &'static str {
        match self {
            Self::ConfigInvalid => {
                "The options, the environment or the config file hold something that cannot be used."
            }
            Self::UriInvalid => {
                "A connection string cannot be parsed or asks for something a sync does not allow."
            }
            Self::SameCluster => "cluster0 and cluster1 are the same replica set.",
            Self::FilterInvalid => {
                "A namespace filter or a document filter is malformed or contradicts another option."
            }
            Self::StartOptionsInvalid => {
                "The body of /start is malformed or combines options that exclude each other."
            }
            Self::ClusterUnreachable => "No primary of a cluster answers.",
            Self::AuthenticationFailed => "A cluster refuses the credentials.",
            Self::NotReplicaSet => {
                "A cluster is no replica set: a standalone server has no change stream, and sharded clusters are not supported yet."
            }
            Self::UnsupportedVersion => {
                "A server's version or feature compatibility version is outside what a sync supports."
            }
            Self::PermissionDenied => "The user lacks a privilege on a cluster.",
            Self::TransientNetwork => {
                "A connection broke, a primary stepped down or an operation timed out."
            }
            Self::IdentityProviderFailure => "An identity provider did not yield a token.",
            Self::Unauthenticated => {
                "A request to the API carries no token, or one that is not accepted."
            }
            Self::AccessDenied => "The caller of the API is known and may not do this.",
            Self::LoginFailed => "Nobody logged in at the identity provider of the API's users.",
            Self::FederationInvalid => {
                "The federation of the API's users cannot be used, or not be changed in this way."
            }
            Self::NamespaceConflict => {
                "The destination already holds namespaces that are the sync's to write."
            }
            Self::InvalidState => "The command does not fit the state of the sync.",
            Self::CannotCommitYet => "canCommit is false.",
            Self::AlreadyStarted => "A sync is already running between these clusters.",
            Self::OplogPositionLost => {
                "The source's oplog no longer reaches back to the persisted position."
            }
            Self::UnsupportedOperation => {
                "The source holds or does something that cannot be replicated."
            }
            Self::IndexBuildFailed => "An index could not be built or restored on the destination.",
            Self::DuplicateKeyAtCommit => {
                "Documents on the destination violate a unique index at commit."
            }
            Self::WriteFailed => {
                "The destination refused a write for a reason that a retry does not mend."
            }
            Self::MetadataMismatch => {
                "The metadata database belongs to other clusters, other options or other plugins."
            }
            Self::MetadataVersion => {
                "The metadata database was written by another version with another schema."
            }
            Self::ReadFailed => {
                "The source refused a read for a reason that a retry does not mend."
            }
            Self::DestinationChanged => "Something else than the sync changed the destination.",
            Self::LeaseLost => "Another process holds the lease of this sync.",
            Self::InsufficientDestinationDiskSpace => {
                "The destination's disk cannot hold what is to be copied."
            }
            Self::IndexesCollide => "Two indexes of a collection differ only in being unique.",
            Self::VerificationFailed => {
                "The destination is not what the filters make of the source."
            }
            Self::PluginNotFound => {
                "A plugin is named that is neither built in nor configured, or its file cannot be read."
            }
            Self::PluginNotComponent => "A plugin file is not a WebAssembly component.",
            Self::PluginWrongWorld => {
                "A plugin exports neither world, or not the one it is used for."
            }
            Self::PluginImportDenied => "A plugin imports something that it was not granted.",
            Self::PluginDigestMismatch => {
                "A plugin's SHA-256 is not the one that the config file says."
            }
            Self::PluginConfigInvalid => "A plugin refuses its configuration.",
            Self::PluginTrap => "A plugin crashed.",
            Self::PluginDeadline => "A plugin did not answer within its deadline.",
            Self::PluginMemory => {
                "A plugin asked for more memory, tables or instances than its limit."
            }
            Self::PluginOutputInvalid => "A plugin answered something that breaks the contract.",
            Self::PluginRejected => "A document filter rejected a document.",
            Self::PluginChangedId => "A document filter changed an _id.",
            Self::PluginEgressDenied => {
                "A plugin asked for a network address that it was not granted."
            }
            Self::PluginVersion => {
                "A plugin was built for a version of the contract that this host does not speak."
            }
            Self::PluginUnsigned => {
                "A plugin file has no signature by a key that the operator trusts."
            }
            Self::PluginNonconforming => {
                "A plugin does not do what the contract or its golden files say."
            }
            Self::QuarantineFull => "More documents than agreed cannot pass a filter.",
            Self::PluginFaulty => {
                "A filter fails for so many documents of a batch that it is at fault, and not they."
            }
            Self::NamespaceOutsideFilter => {
                "The source renamed a collection into or out of what the namespace filter includes."
            }
            Self::NamespaceRemapConflict => {
                "Two namespaces would become one on the destination, or a name cannot be given there."
            }
            Self::BadRequest => "An API request cannot be understood.",
            Self::NotFound => "The API has no such path.",
            Self::MethodNotAllowed => "The API path exists, but not for this method.",
            Self::RequestForbidden => "The API refuses requests that a web page could have made.",
            Self::PortInUse => "The API's port is taken.",
            Self::ApiUnreachable => "No daemon answers at the API address.",
            Self::Internal => "Something happened that the host holds to be impossible.",
        }
    }
}
