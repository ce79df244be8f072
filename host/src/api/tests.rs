//! The router against an engine that records what it is asked.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    response::Response,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::{
    engine::{Envelope, Request as EngineRequest},
    error::{Error, Kind},
    federation::{Audit, Store},
    model::{
        ClusterTime,
        options::Copied,
        plugin::{Grants, NamespaceCounters, PluginCounters, World},
        progress::{CollectionProgress, Failure, IndexProgress, Phase, Progress, State},
    },
    tasks::TaskSet,
};

/// Where listeners of tests are.
const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A router over an engine that answers every request with `answer`.
struct Fixture {
    router: Router,
    asked: Arc<Mutex<Vec<EngineRequest>>>,
    progress: watch::Sender<Progress>,
    state: ApiState,
    _engine: TaskSet,
}

fn fixture(answer: fn() -> Result<()>) -> Fixture {
    let (requests, mut inbox) = mpsc::channel::<Envelope>(4);
    let (progress, watched) = watch::channel(running());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let mut engine = TaskSet::new();
    engine.spawn("fake-engine", async move {
        while let Some(envelope) = inbox.recv().await {
            log.lock().unwrap().push(envelope.request);
            envelope.reply.send(answer()).unwrap();
        }
        Ok(())
    });
    let state = ApiState {
        engine: EngineHandle::new(requests, watched),
        plugins: Arc::new(|| vec![plugin()]),
        access: open(),
        exposure: Exposure::default(),
    };
    Fixture { router: routes::router(state.clone()), asked, progress, state, _engine: engine }
}

/// No federation.
fn open() -> Arc<Access> {
    Arc::new(Access::new(Store::None, Audit::default()).unwrap())
}

fn running() -> Progress {
    Progress { state: State::Running, ..Progress::default() }
}

fn plugin() -> PluginInfo {
    PluginInfo {
        name: "active-users".into(),
        world: World::DocumentFilter,
        version: Some("1.0.0".into()),
        contract_version: "0.1.0".into(),
        component: "builtin:match-documents".into(),
        digest: "ab".repeat(32),
        grants: Grants { origins: vec!["https://h".into()], ..Grants::default() },
        instances: 2,
        counters: PluginCounters {
            calls: 3,
            kept: 5,
            dropped: 7,
            p50_micros: 90,
            p99_micros: 400,
            ..PluginCounters::default()
        },
        namespaces: vec![NamespaceCounters {
            namespace: "app.users".into(),
            kept: 5,
            dropped: 7,
            ..NamespaceCounters::default()
        }],
    }
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost:27182")
        .body(body.into())
        .unwrap()
}

async fn parts(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

impl Fixture {
    async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        parts(self.router.clone().oneshot(request(method, path, body)).await.unwrap()).await
    }

    fn show(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }

    async fn progress(&self, progress: Progress) -> Value {
        self.show(progress);
        let (status, body) = self.call("GET", "/api/v1/progress", "").await;
        assert_eq!(status, StatusCode::OK);
        body
    }
}

#[tokio::test]
async fn commands_answer_exactly_success() {
    let api = fixture(|| Ok(()));
    for (path, body) in [
        ("start", r#"{"source":"cluster0","destination":"cluster1"}"#),
        ("pause", "{ }"),
        ("resume", ""),
        ("commit", "\n"),
        ("reverse", "{}"),
    ] {
        let (status, answer) = api.call("POST", &format!("/api/v1/{path}"), body).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({"success": true})), "{path}");
    }
    let asked = api.asked.lock().unwrap();
    assert!(
        matches!(
            asked.as_slice(),
            [
                EngineRequest::Start(_),
                EngineRequest::Pause,
                EngineRequest::Resume,
                EngineRequest::Commit,
                EngineRequest::Reverse
            ]
        ),
        "{asked:?}"
    );
}

#[tokio::test]
async fn json_is_taken_whatever_the_content_type_says() {
    let api = fixture(|| Ok(()));
    let mut form =
        request("POST", "/api/v1/start", r#"{"Source":"cluster1","Destination":"cluster0"}"#);
    form.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    let response = api.router.clone().oneshot(form).await.unwrap();
    assert_eq!(parts(response).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refusal_of_the_engine_becomes_the_envelope() {
    for (answer, status, name, code) in [
        (
            (|| Err(Error::new(Kind::InvalidState, "the sync is IDLE"))) as fn() -> _,
            StatusCode::CONFLICT,
            "InvalidState",
            "SYNC-1301",
        ),
        (
            || Err(Error::new(Kind::CannotCommitYet, "still copying")),
            StatusCode::CONFLICT,
            "CannotCommitYet",
            "SYNC-1302",
        ),
        (
            || Err(Error::new(Kind::WriteFailed, "refused")),
            StatusCode::INTERNAL_SERVER_ERROR,
            "WriteFailed",
            "SYNC-1405",
        ),
    ] {
        let api = fixture(answer);
        let response =
            api.router.clone().oneshot(request("POST", "/api/v1/commit", "{}")).await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let (got, body) = parts(response).await;
        assert_eq!(got, status);
        let mut keys: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, ["advice", "code", "error", "errorDescription", "requestId", "success"]);
        assert_eq!(body["success"], false);
        assert_eq!((&body["error"], &body["code"]), (&name.into(), &code.into()));
        assert_eq!(body["requestId"], id);
    }
}

#[tokio::test]
async fn a_description_holds_no_secret() {
    let api = fixture(|| {
        Err(Error::new(Kind::ClusterUnreachable, "no answer from mongodb://bob:hunter2@h/"))
    });
    let (status, body) = api.call("POST", "/api/v1/pause", "{}").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!body.to_string().contains("hunter2"), "{body}");
}

#[tokio::test]
async fn bad_bodies_are_refused_before_the_engine_is_asked() {
    let api = fixture(|| Ok(()));
    for (path, body, status, error) in [
        ("start", "{", StatusCode::BAD_REQUEST, "BadRequest"),
        ("start", "[]", StatusCode::BAD_REQUEST, "BadRequest"),
        ("start", "{}", StatusCode::BAD_REQUEST, "StartOptionsInvalid"),
        ("pause", r#"{"now":true}"#, StatusCode::BAD_REQUEST, "BadRequest"),
        ("commit", "nonsense", StatusCode::BAD_REQUEST, "BadRequest"),
    ] {
        let (got, answer) = api.call("POST", &format!("/api/v1/{path}"), body).await;
        assert_eq!((got, &answer["error"]), (status, &error.into()), "{path} {body}: {answer}");
    }
    let large = format!("{{\"x\":\"{}\"}}", "a".repeat(1024 * 1024));
    let (got, answer) = api.call("POST", "/api/v1/start", large).await;
    assert_eq!((got, &answer["error"]), (StatusCode::PAYLOAD_TOO_LARGE, &"BadRequest".into()));
    assert!(api.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_envelope_too() {
    let api = fixture(|| Ok(()));
    for (method, path, status, error) in [
        ("GET", "/", StatusCode::NOT_FOUND, "NotFound"),
        ("POST", "/api/v1/stop", StatusCode::NOT_FOUND, "NotFound"),
        ("GET", "/api/v1/start", StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        ("POST", "/api/v1/progress", StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        ("DELETE", "/api/v1/plugins", StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    ] {
        let (got, body) = api.call(method, path, "").await;
        assert_eq!((got, &body["error"]), (status, &error.into()), "{method} {path}");
        assert_eq!(body["success"], false);
    }
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let api = fixture(|| Ok(()));
    for (host, origin) in [("evil.example", None), ("localhost:27182", Some("http://evil.example"))]
    {
        let mut foreign = request("POST", "/api/v1/pause", "{}");
        foreign.headers_mut().insert("host", host.parse().unwrap());
        if let Some(origin) = origin {
            foreign.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let response = api.router.clone().oneshot(foreign).await.unwrap();
        let (status, body) = parts(response).await;
        assert_eq!((status, &body["code"]), (StatusCode::FORBIDDEN, &"SYNC-1606".into()));
    }
    assert!(api.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn commands_wait_for_the_end_of_initializing() {
    let api = fixture(|| Ok(()));
    api.show(Progress::default());
    for (path, body) in
        [("start", r#"{"source":"cluster0","destination":"cluster1"}"#), ("pause", "")]
    {
        let (status, answer) = api.call("POST", &format!("/api/v1/{path}"), body).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer["error"], "InvalidState");
    }
    assert!(api.asked.lock().unwrap().is_empty());
    let (status, _) = api.call("GET", "/api/v1/progress", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn an_engine_that_is_gone_is_an_internal_error() {
    let (requests, inbox) = mpsc::channel::<Envelope>(1);
    drop(inbox);
    let (_progress, watched) = watch::channel(running());
    let state = ApiState {
        engine: EngineHandle::new(requests, watched),
        plugins: Arc::new(Vec::new),
        access: open(),
        exposure: Exposure::default(),
    };
    let response =
        routes::router(state).oneshot(request("POST", "/api/v1/pause", "{}")).await.unwrap();
    let (status, body) = parts(response).await;
    assert_eq!((status, &body["error"]), (StatusCode::INTERNAL_SERVER_ERROR, &"Internal".into()));
}

#[tokio::test]
async fn a_handler_that_crashes_answers_and_the_server_lives() {
    let mut api = fixture(|| Ok(()));
    api.state.plugins = Arc::new(|| panic!("the list is broken"));
    api.router = routes::router(api.state.clone());
    let (status, body) = api.call("GET", "/api/v1/plugins", "").await;
    assert_eq!((status, &body["error"]), (StatusCode::INTERNAL_SERVER_ERROR, &"Internal".into()));
    assert_eq!(api.call("GET", "/healthz", "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn idle_has_nulls_but_for_state_and_can_commit() {
    let api = fixture(|| Ok(()));
    let body = api
        .progress(Progress {
            state: State::Idle,
            instance_id: "node-1".into(),
            warnings: vec!["w".into()],
            lag_seconds: Some(1),
            ..Progress::default()
        })
        .await;
    assert_eq!(
        body,
        json!({"success": true, "progress": {
            "state": "IDLE", "canCommit": false, "canWrite": null, "info": null, "lag": null,
            "lagTimeSeconds": null, "totalEventsApplied": null, "collectionCopy": null,
            "directionMapping": null, "source": null, "destination": null, "mongosyncID": null,
            "coordinatorID": null, "verification": null, "appliedClusterTime": null,
            "collections": null, "failure": null}})
    );
}

#[tokio::test]
async fn the_copy_shows_bytes_and_collections() {
    let api = fixture(|| Ok(()));
    let body = api
        .progress(Progress {
            state: State::Running,
            phase: Some(Phase::CollectionCopy),
            draining: true,
            total_bytes: 10,
            copied_bytes: 12,
            indexes: Some(IndexProgress::default()),
            direction: Some(("cluster0: a:1".into(), "cluster1: b:2".into())),
            source_ping_ms: Some(0),
            destination_ping_ms: Some(-1),
            catchup_seconds: Some(9),
            instance_id: "node-1".into(),
            collections: Arc::new(vec![CollectionProgress {
                namespace: "app.users".into(),
                total_bytes: 10,
                copied_bytes: 12,
                copied_documents: 3,
                partitions: 2,
                partitions_done: 1,
            }]),
            ..Progress::default()
        })
        .await;
    assert_eq!(
        body,
        json!({"success": true, "progress": {
            "state": "RUNNING", "canCommit": false, "canWrite": false, "info": "collection copy",
            "lag": null, "lagTimeSeconds": null, "totalEventsApplied": 0,
            "collectionCopy": {"estimatedTotalBytes": 12, "estimatedCopiedBytes": 12},
            "directionMapping": {"Source": "cluster0: a:1", "Destination": "cluster1: b:2"},
            "source": {}, "destination": {"pingLatencyMs": -1},
            "estimatedOplogTimeRemaining": "not checked yet",
            "estimatedSecondsToCopyCompletion": null, "mongosyncID": "node-1",
            "coordinatorID": null, "verification": null, "appliedClusterTime": null,
            "collections": [{"namespace": "app.users", "estimatedTotalBytes": 12,
                "estimatedCopiedBytes": 12, "copiedDocuments": 3, "partitions": 2,
                "partitionsCopied": 1}],
            "failure": null}})
    );
    let planning = Progress {
        state: State::Running,
        phase: Some(Phase::Planning),
        total_bytes: 7,
        ..Progress::default()
    };
    assert_eq!(
        api.progress(planning).await["progress"]["collectionCopy"],
        json!({"estimatedTotalBytes": 1, "estimatedCopiedBytes": 0})
    );
}

fn applying() -> Progress {
    Progress {
        state: State::Running,
        can_commit: true,
        phase: Some(Phase::ChangeEventApplication),
        lag_seconds: Some(4),
        events_applied: 17,
        oplog_seconds: Some(45_000),
        total_bytes: 10,
        copied_bytes: 10,
        indexes: Some(IndexProgress {
            indexes_built: 1,
            indexes_total: 2,
            collections_finished: 3,
            collections_total: 4,
            bytes_built: 50,
            bytes_total: 70,
        }),
        index_seconds: Some(8),
        source_ping_ms: Some(2),
        catchup_seconds: Some(9),
        instance_id: "node-1".into(),
        coordinator_id: Some("node-1".into()),
        applied_cluster_time: Some(ClusterTime { t: 5, i: 6 }),
        warnings: vec!["the oplog is small".into()],
        ..Progress::default()
    }
}

#[tokio::test]
async fn change_event_application_shows_everything() {
    let api = fixture(|| Ok(()));
    assert_eq!(
        api.progress(applying()).await,
        json!({"success": true, "progress": {
            "state": "RUNNING", "canCommit": true, "canWrite": false,
            "info": "change event application", "ceaStage": "steady state",
            "lag": {"overallLagSeconds": 4, "crudLagSeconds": 4, "ddlLagSeconds": null},
            "lagTimeSeconds": 4, "totalEventsApplied": 17,
            "collectionCopy": {"estimatedTotalBytes": 10, "estimatedCopiedBytes": 10},
            "indexBuilding": {"indexesBuilt": 1, "totalIndexesToBuild": 2,
                "collectionsFinished": 3, "collectionsTotal": 4},
            "directionMapping": null, "source": {"pingLatencyMs": 2}, "destination": {},
            "estimatedSecondsToCEACatchup": 9, "estimatedSecondsToIndexCompletion": 8,
            "mongosyncID": "node-1",
            "estimatedOplogTimeRemaining": "12 hours",
            "coordinatorID": "node-1", "verification": null,
            "warnings": ["the oplog is small"], "appliedClusterTime": {"t": 5, "i": 6},
            "collections": [], "failure": null}})
    );
    let body = api.progress(Progress { draining: true, events_applied: 0, ..applying() }).await;
    assert_eq!(body["progress"]["ceaStage"], "collection copy drain");
    assert_eq!(body["progress"]["lag"]["crudLagSeconds"], Value::Null);
}

#[tokio::test]
async fn schema_changes_and_writes_lag_alike_once_there_were_some() {
    let api = fixture(|| Ok(()));
    for (events_applied, ddl_applied, crud, ddl) in [
        (0, 0, Value::Null, Value::Null),
        (3, 0, json!(4), Value::Null),
        (3, 3, Value::Null, json!(4)),
        (3, 1, json!(4), json!(4)),
    ] {
        let body = api.progress(Progress { events_applied, ddl_applied, ..applying() }).await;
        let lag = &body["progress"]["lag"];
        assert_eq!((&lag["crudLagSeconds"], &lag["ddlLagSeconds"]), (&crud, &ddl));
    }
}

#[tokio::test]
async fn the_time_that_the_oplog_lasts_is_told_in_words_while_running() {
    let api = fixture(|| Ok(()));
    for (oplog_seconds, text) in [
        (None, "not checked yet"),
        (Some(0), "less than 15 minutes"),
        (Some(899), "less than 15 minutes"),
        (Some(2_700), "45 minutes"),
        (Some(3_600), "1 hour"),
        (Some(43_200), "12 hours"),
        (Some(259_200), "72 hours"),
        (Some(259_201), "more than 72 hours"),
    ] {
        let body = api.progress(Progress { oplog_seconds, ..applying() }).await;
        assert_eq!(body["progress"]["estimatedOplogTimeRemaining"], text);
    }
    for quiet in [
        Progress { state: State::Committing, ..applying() },
        Progress { can_write: true, ..applying() },
        Progress { state: State::Idle, ..applying() },
    ] {
        let body = api.progress(quiet).await;
        assert!(body["progress"].get("estimatedOplogTimeRemaining").is_none(), "{body}");
    }
}

#[tokio::test]
async fn collections_come_in_pages_and_progress_holds_the_first_thousand() {
    let api = fixture(|| Ok(()));
    let collections = (0..2_500)
        .map(|n| CollectionProgress {
            namespace: format!("app.c{n}"),
            total_bytes: 1,
            copied_bytes: 0,
            copied_documents: 0,
            partitions: 1,
            partitions_done: 0,
        })
        .collect();
    let progress = Progress { collections: Arc::new(collections), ..applying() };
    let body = api.progress(progress).await;
    assert_eq!(body["progress"]["collections"].as_array().unwrap().len(), 1_000);
    let page = async |query: &str| {
        api.call("GET", &format!("/api/v1/progress/collections{query}"), "").await
    };
    let (status, first) = page("").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(first["total"], 2_500);
    assert_eq!(first["collections"].as_array().unwrap().len(), 100);
    let (_, last) = page("?offset=2400&limit=1000").await;
    assert_eq!(last["collections"].as_array().unwrap().len(), 100);
    assert_eq!(last["collections"][99]["namespace"], "app.c2499");
    let (_, behind) = page("?offset=9999").await;
    assert_eq!(behind["collections"], json!([]));
    for wrong in ["?limit=0", "?limit=1001", "?offset=x", "?offset=-1", "?page=2"] {
        let (status, body) = page(wrong).await;
        assert_eq!((status, &body["error"]), (StatusCode::BAD_REQUEST, &"BadRequest".into()));
    }
}

#[tokio::test]
async fn an_abort_takes_one_switch() {
    let api = fixture(|| Ok(()));
    for (body, copied) in [
        ("", Copied::Keep),
        (r#"{"dropDestinationData": false}"#, Copied::Keep),
        (r#"{"DropDestinationData": true}"#, Copied::Drop),
    ] {
        assert_eq!(api.call("POST", "/api/v1/abort", body).await.0, StatusCode::OK);
        let asked = api.asked.lock().unwrap().pop().unwrap();
        assert!(matches!(asked, EngineRequest::Abort(found) if found == copied), "{asked:?}");
    }
    for body in [r#"{"dropDestinationData": "yes"}"#, r#"{"drop": true}"#] {
        let (status, answer) = api.call("POST", "/api/v1/abort", body).await;
        assert_eq!((status, &answer["error"]), (StatusCode::BAD_REQUEST, &"BadRequest".into()));
    }
    assert!(api.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_paused_sync_has_no_lag() {
    let api = fixture(|| Ok(()));
    let body = api.progress(Progress { state: State::Paused, ..applying() }).await;
    assert_eq!(body["progress"]["lag"], Value::Null);
    assert_eq!(body["progress"]["lagTimeSeconds"], Value::Null);
    assert_eq!(body["progress"]["totalEventsApplied"], 17);
}

#[tokio::test]
async fn a_failure_is_shown_with_code_and_advice_and_makes_the_daemon_unhealthy() {
    let api = fixture(|| Ok(()));
    assert_eq!(
        api.call("GET", "/healthz", "").await,
        (StatusCode::OK, json!({"status": "ok", "state": "RUNNING"}))
    );
    let failure =
        Failure { kind: Kind::OplogPositionLost, detail: "the oplog begins at 9.1".into() };
    let body = api.progress(Progress { failure: Some(failure), ..applying() }).await;
    assert_eq!(
        body["progress"]["failure"],
        json!({"error": "OplogPositionLost", "errorDescription": "the oplog begins at 9.1",
            "code": "SYNC-1401", "advice": Kind::OplogPositionLost.advice()})
    );
    assert_eq!(
        api.call("GET", "/healthz", "").await,
        (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "failed", "state": "RUNNING"}))
    );
}

#[tokio::test]
async fn readiness_begins_with_the_known_state() {
    let api = fixture(|| Ok(()));
    assert_eq!(
        api.call("GET", "/readyz", "").await,
        (StatusCode::OK, json!({"status": "ready", "state": "RUNNING"}))
    );
    api.show(Progress::default());
    assert_eq!(api.call("GET", "/readyz", "").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn plugins_are_listed() {
    let api = fixture(|| Ok(()));
    assert_eq!(
        api.call("GET", "/api/v1/plugins", "").await.1,
        json!({"success": true, "plugins": [{
            "name": "active-users", "world": "document-filter", "version": "1.0.0",
            "contractVersion": "0.1.0",
            "component": "builtin:match-documents", "digest": format!("sha256:{}", "ab".repeat(32)),
            "grants": {"origins": ["https://h"], "env": [], "files": [], "secrets": {}, "clock": false,
                "interaction": false},
            "instances": 2,
            "counters": {"calls": 3, "errors": 0, "kept": 5, "dropped": 7, "replaced": 0,
                "p50Micros": 90, "p99Micros": 400},
            "namespaces": [{"namespace": "app.users", "kept": 5, "dropped": 7, "replaced": 0,
                "errors": 0}]}]})
    );
}

#[tokio::test]
async fn the_server_answers_over_tcp_and_stops_with_idle_connections_open() {
    let api = fixture(|| Ok(()));
    let listener = bind(LOOPBACK, 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = TaskSet::new();
    tasks.spawn("api", serve(listener, api.state.clone(), None, shutdown.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"}") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
    }
    assert!(seen.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&seen));
    shutdown.cancel();
    tasks.next().await.unwrap().unwrap();
    assert_eq!(stream.read_buf(&mut seen).await.unwrap(), 0, "the idle connection is closed");
}

#[tokio::test]
async fn a_taken_port_and_a_foreign_address_are_refused() {
    let held = bind(LOOPBACK, 0).await.unwrap();
    let error = bind(LOOPBACK, held.local_addr().unwrap().port()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PortInUse);
    let wide = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let api = fixture(|| Ok(()));
    let error = serve(wide, api.state.clone(), None, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::ConfigInvalid);
}
