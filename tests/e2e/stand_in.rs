//! The stand-in server in front of a server with access control: whose privileges count, what its users
//! are called, and what it says on the wire.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
    options::{
        ClientOptions,
        oidc::{Callback, IdpServerResponse},
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use syncline::{identity::ClusterUri, model::options::ClusterLabel};
use syncline_tests::{
    cluster::{Options, ReplicaSet},
    eventually::eventually,
    oidc::{
        gateway::{Gateway, ServerConfig},
        idp::FakeIdp,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{identity::code, support::LONG};

const AUDIENCE: &str = "api://cluster";

/// A server with access control behind a stand-in. The role `oidc/sync` is `root`.
struct Stage {
    set: ReplicaSet,
    idp: Arc<FakeIdp>,
    gateway: Gateway,
}

impl Stage {
    async fn new() -> Result<Self> {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut ServerConfig)) -> Result<Self> {
        let set = ReplicaSet::start(Options::single().with_auth()).await?;
        let idp = Arc::new(FakeIdp::start().await?);
        let mut config =
            ServerConfig::workload(idp.issuer(), AUDIENCE, "sync").with_administrator(set.client());
        change(&mut config);
        let gateway = Gateway::start(&set.servers()[0].address(), config).await?;
        let stage = Self { set, idp, gateway };
        stage.role("oidc/sync", &["root"], &[]).await?;
        Ok(stage)
    }

    /// Makes a role that inherits others, and may be used from these addresses alone.
    async fn role(&self, name: &str, inherits: &[&str], sources: &[&str]) -> Result<()> {
        let mut command = doc! { "createRole": name, "privileges": [], "roles": inherits };
        if !sources.is_empty() {
            command.insert("authenticationRestrictions", vec![doc! { "clientSource": sources }]);
        }
        self.admin(command).await.map(drop)
    }

    /// Runs a command as the server's administrator, past the stand-in.
    async fn admin(&self, command: Document) -> Result<Document> {
        Ok(self.set.client().database("admin").run_command(command).await?)
    }

    /// A client with a token for these groups.
    async fn member(&self, groups: &[&str]) -> Result<Client> {
        let token = self.idp.mint(AUDIENCE, |claims| claims["groups"] = json!(groups))?;
        let text = SecretString::from(self.gateway.azure_uri(AUDIENCE));
        let uri = ClusterUri::parse(ClusterLabel::Cluster0, &text, &|_| None)?;
        let mut options = ClientOptions::parse(uri.driver_uri.expose_secret()).await?;
        options.server_selection_timeout = Some(Duration::from_secs(10));
        options.credential.as_mut().context("a credential")?.oidc_callback =
            Callback::machine(move |_| {
                let token = token.clone();
                async move { Ok(IdpServerResponse::builder().access_token(token).build()) }.boxed()
            });
        Ok(Client::with_options(options)?)
    }

    /// Names of the stand-in's own users on the server.
    async fn shadows(&self) -> Result<Vec<String>> {
        let reply = self.admin(doc! { "usersInfo": 1 }).await?;
        let users = reply.get_array("users")?.iter().filter_map(Bson::as_document);
        let names = users.filter_map(|user| user.get_str("user").ok());
        Ok(names.filter(|name| name.starts_with("gateway-")).map(str::to_owned).collect())
    }
}

/// The code with which a command on `admin` is refused; `None` when it is not.
async fn refused(client: &Client, command: Document) -> Option<i32> {
    let error = client.database("admin").run_command(command).await.err()?;
    Some(code(&error).unwrap_or_default())
}

/// `connectionStatus.authInfo`
async fn auth_info(client: &Client) -> Result<Document> {
    let status = client.database("admin").run_command(doc! { "connectionStatus": 1 }).await?;
    Ok(status.get_document("authInfo")?.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_and_loaded_with_the_privilege_alone() -> Result<()> {
    let stage = Stage::new().await?;
    stage.role("oidc/readers", &["readAnyDatabase", "clusterMonitor"], &[]).await?;
    let reader = stage.member(&["readers"]).await?;
    let nobody = stage.member(&[]).await?;
    for command in ["oidcListKeys", "oidcRefreshKeys"] {
        assert_eq!(refused(&reader, doc! { command: 1 }).await, Some(13));
        assert_eq!(refused(&nobody, doc! { command: 1 }).await, Some(13));
    }
    stage.role("oidc/hosts", &["hostManager"], &[]).await?;
    let port = stage.gateway.addresses().remove(0);
    let (user, password) = ("operator", "0perator");
    stage.set.create_user(user, password, &["hostManager"]).await?;
    let scram = format!("mongodb://{user}:{password}@{port}/?directConnection=true");
    let kid = stage.idp.key_id()?;
    for client in [
        stage.member(&["sync"]).await?,
        stage.member(&["hosts", "readers"]).await?,
        Client::with_uri_str(scram).await?,
    ] {
        let admin = client.database("admin");
        let listed = admin.run_command(doc! { "oidcListKeys": 1 }).await?;
        let set = listed.get_document("keySets")?.get_document(stage.idp.issuer())?;
        let keys = set.get_array("keys")?;
        assert_eq!(keys[0].as_document().context("a key")?.get_str("kid")?, kid);
        admin.run_command(doc! { "oidcRefreshKeys": 1 }).await?;
        let elsewhere = client.database("d").run_command(doc! { "oidcListKeys": 1 }).await;
        assert_eq!(code(&elsewhere.unwrap_err()), Some(13));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_with_restrictions_keeps_its_name_and_follows_its_changes() -> Result<()> {
    let stage = Stage::new().await?;
    stage.role("oidc/near", &["readWriteAnyDatabase"], &["127.0.0.0/8"]).await?;
    stage.role("oidc/far", &["root"], &["10.0.0.0/8"]).await?;
    stage.role("oidc/heir", &["oidc/far"], &[]).await?;
    let near = stage.member(&["near", "unknown"]).await?;
    near.database("d").collection::<Document>("c").insert_one(doc! { "_id": 1 }).await?;
    assert_eq!(
        auth_info(&near).await?,
        doc! {
            "authenticatedUsers": [{ "user": "oidc/workload", "db": "$external" }],
            "authenticatedUserRoles": [
                { "role": "oidc/near", "db": "admin" },
                { "role": "readWriteAnyDatabase", "db": "admin" },
            ],
        }
    );
    // One role that does not fit is enough, inherited ones too.
    for groups in [&["far"][..], &["near", "far"], &["heir"]] {
        let far = stage.member(groups).await?;
        assert_eq!(refused(&far, doc! { "listDatabases": 1 }).await, Some(18), "{groups:?}");
    }
    let update = doc! { "updateRole": "oidc/near", "roles": ["readAnyDatabase"] };
    stage.admin(update).await?;
    let near = stage.member(&["near"]).await?;
    let collection = near.database("d").collection::<Document>("c");
    assert_eq!(collection.find_one(doc! {}).await?, Some(doc! { "_id": 1 }));
    assert_eq!(code(&collection.insert_one(doc! {}).await.unwrap_err()), Some(13));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_authorization_claim_the_servers_own_users_count() -> Result<()> {
    let stage = Stage::with(|config| config.providers[0].authorization_claim = None).await?;
    let client = stage.member(&["sync"]).await?;
    assert_eq!(refused(&client, doc! { "listDatabases": 1 }).await, Some(18), "no such user");
    let external = stage.set.client().database("$external");
    let user = |sources: &[&str]| {
        doc! {
            "roles": [{ "role": "readWrite", "db": "d" }],
            "authenticationRestrictions": sources
                .iter()
                .map(|source| doc! { "clientSource": [source] })
                .collect::<Vec<_>>(),
        }
    };
    let mut create = doc! { "createUser": "oidc/workload" };
    create.extend(user(&["10.0.0.0/8", "192.0.2.1"]));
    external.run_command(create).await?;
    let client = stage.member(&[]).await?;
    assert_eq!(refused(&client, doc! { "listDatabases": 1 }).await, Some(18), "not from here");
    let mut update = doc! { "updateUser": "oidc/workload" };
    update.extend(user(&["10.0.0.0/8", "127.0.0.1"]));
    external.run_command(update).await?;
    let client = stage.member(&[]).await?;
    client.database("d").collection::<Document>("c").insert_one(doc! { "_id": 1 }).await?;
    let elsewhere = client.database("e").collection::<Document>("c");
    assert_eq!(code(&elsewhere.insert_one(doc! {}).await.unwrap_err()), Some(13));
    let shown = auth_info(&client).await?;
    let roles = shown.get_array("authenticatedUserRoles")?;
    assert_eq!(roles[0].as_document(), Some(&doc! { "role": "readWrite", "db": "d" }));
    // The mechanism is offered to that user alone.
    for (name, is_known) in [("oidc/workload", true), ("oidc/nobody", false)] {
        let hello = doc! { "hello": 1, "saslSupportedMechs": format!("$external.{name}") };
        let reply = client.database("admin").run_command(hello).await?;
        let offered = reply.get_array("saslSupportedMechs").cloned().unwrap_or_default();
        assert_eq!(offered.contains(&"MONGODB-OIDC".into()), is_known, "{reply}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_the_stand_ins_own_users() -> Result<()> {
    let stage = Stage::new().await?;
    let client = stage.member(&["sync"]).await?;
    client.database("admin").run_command(doc! { "usersInfo": 1 }).await?;
    let shadow = stage.shadows().await?.pop().context("a shadow")?;
    for command in [
        doc! { "dropUser": &shadow },
        doc! { "updateUser": &shadow, "pwd": "x" },
        doc! { "grantRolesToUser": &shadow, "roles": ["root"] },
        doc! { "createUser": "x", "pwd": "x", "roles": [{ "role": format!("{shadow}-0"), "db": "admin" }] },
        doc! { "grantRolesToRole": "oidc/sync", "roles": [format!("{shadow}-0")] },
        doc! { "dropAllUsersFromDatabase": 1 },
        doc! { "dropAllRolesFromDatabase": 1 },
    ] {
        assert_eq!(refused(&client, command.clone()).await, Some(13), "{command}");
    }
    let other = client.database("d");
    other.run_command(doc! { "createUser": "x", "pwd": "x", "roles": ["read"] }).await?;
    other.run_command(doc! { "dropAllUsersFromDatabase": 1 }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fail_point_that_the_server_refuses_has_no_effect() -> Result<()> {
    let stage = Stage::new().await?;
    let operator = stage.member(&["sync"]).await?;
    let point = doc! {
        "configureFailPoint": "failCommand", "mode": "alwaysOn",
        "data": { "failCommands": ["saslStart"], "errorCode": 18 },
    };
    let elsewhere = operator.database("d").run_command(point.clone()).await;
    assert_eq!(code(&elsewhere.unwrap_err()), Some(13));
    let early = stage.member(&["sync"]).await?;
    assert_eq!(refused(&early, doc! { "listDatabases": 1 }).await, None);
    operator.database("admin").run_command(point).await?;
    let late = stage.member(&["sync"]).await?;
    assert_eq!(refused(&late, doc! { "listDatabases": 1 }).await, Some(18));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stand_ins_share_a_server() -> Result<()> {
    let stage = Stage::new().await?;
    let config = ServerConfig::workload(stage.idp.issuer(), AUDIENCE, "sync")
        .with_administrator(stage.set.client());
    let second = Gateway::start(&stage.set.servers()[0].address(), config).await?;
    stage.role("oidc/near", &["root"], &["127.0.0.1"]).await?;
    let first = stage.member(&["near"]).await?;
    assert_eq!(refused(&first, doc! { "listDatabases": 1 }).await, None);
    let stage = Stage { gateway: second, ..stage };
    let other = stage.member(&["near"]).await?;
    assert_eq!(refused(&other, doc! { "listDatabases": 1 }).await, None);
    assert_eq!(stage.shadows().await?.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_the_stand_in_that_nobody_uses_go() -> Result<()> {
    let stage = Stage::with(|config| config.shadow_idle = Duration::ZERO).await?;
    stage.role("oidc/near", &["root"], &["127.0.0.1"]).await?;
    let used = stage.member(&["sync"]).await?;
    assert_eq!(refused(&used, doc! { "listDatabases": 1 }).await, None);
    let idle = stage.member(&["near"]).await?;
    assert_eq!(refused(&idle, doc! { "listDatabases": 1 }).await, None);
    assert_eq!(stage.shadows().await?.len(), 2);
    idle.shutdown().await;
    eventually("the idle user and its role go", LONG, || async {
        // Whoever logs in finds them.
        let next = stage.member(&["sync"]).await.map_err(|error| error.to_string())?;
        let outcome = refused(&next, doc! { "listDatabases": 1 }).await;
        let left = stage.shadows().await.map_err(|error| error.to_string())?;
        let roles =
            stage.admin(doc! { "rolesInfo": 1 }).await.map_err(|error| error.to_string())?;
        match (outcome, left.len(), roles.to_string().contains("gateway-")) {
            (None, 1, false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    assert_eq!(refused(&used, doc! { "listDatabases": 1 }).await, None, "its user is still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_came_with_which_claims() -> Result<()> {
    let stage = Stage::with(|config| {
        config.providers[0].log_claims =
            vec!["sub".to_owned(), "groups".to_owned(), "none".to_owned()];
    })
    .await?;
    let client = stage.member(&["sync"]).await?;
    assert_eq!(refused(&client, doc! { "listDatabases": 1 }).await, None);
    let log = stage.gateway.stats().admissions.lock().unwrap().clone();
    let claims = json!({ "sub": "workload", "groups": ["sync"] });
    assert_eq!(log[0], json!({ "user": "oidc/workload", "claims": claims }));
    Ok(())
}

/// Asks in the legacy form and reads the legacy reply.
async fn legacy(address: &str, command: &Document) -> Result<Document> {
    let mut body = vec![0; 4];
    body.extend_from_slice(b"admin.$cmd\0");
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(&(-1_i32).to_le_bytes());
    body.extend_from_slice(&command.to_vec()?);
    let mut message = Vec::new();
    for field in [i32::try_from(16 + body.len())?, 7, 0, 2004] {
        message.extend_from_slice(&field.to_le_bytes());
    }
    message.extend_from_slice(&body);
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&message).await?;
    let (length, _, answers, kind) = (
        stream.read_i32_le().await?,
        stream.read_i32_le().await?,
        stream.read_i32_le().await?,
        stream.read_i32_le().await?,
    );
    ensure!((answers, kind) == (7, 1), "opcode {kind}, to {answers}");
    let mut reply = vec![0; usize::try_from(length)? - 16];
    stream.read_exact(&mut reply).await?;
    Ok(Document::from_reader(&reply[20..])?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_in_the_legacy_form_is_answered_in_it() -> Result<()> {
    let stage = Stage::new().await?;
    let address = stage.gateway.addresses().remove(0);
    let reply = legacy(&address, &doc! { "isMaster": 1, "helloOk": true }).await?;
    let hosts: Vec<&str> = reply.get_array("hosts")?.iter().filter_map(Bson::as_str).collect();
    assert_eq!(hosts, [address.as_str()]);
    assert_eq!(reply.get_str("me")?, address);
    let reply = legacy(&address, &doc! { "find": "c" }).await?;
    assert_eq!(reply.get_i32("code")?, 352);
    Ok(())
}
