//! The client against a server that plays back scripted answers.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::tasks::TaskSet;

/// Answers request after request from a script; the last answer repeats.
struct FakeDaemon {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: TaskSet,
}

async fn fake(script: Vec<(u16, Value)>) -> FakeDaemon {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let mut tasks = TaskSet::new();
    tasks.spawn("fake-daemon", async move {
        let mut script = script.into_iter().peekable();
        let mut last = (500, json!(null));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Some(next) = script.next() {
                last = next;
            }
            let request = answer(stream, last.0, &last.1).await;
            log.lock().unwrap().push(request);
        }
    });
    FakeDaemon { port, seen, _tasks: tasks }
}

/// Reads one request, answers it and closes; returns the request line and the body.
async fn answer(mut stream: TcpStream, status: u16, body: &Value) -> String {
    let mut bytes = Vec::new();
    loop {
        stream.read_buf(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned)
            })
            .map_or(0, |length| length.parse::<usize>().unwrap());
        if rest.len() < length {
            continue;
        }
        let body = body.to_string();
        let response = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(response.as_bytes()).await.unwrap();
        let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
        return format!("{line} {rest}").trim_end().to_owned();
    }
}

fn options(port: u16, output: Output) -> Options {
    Options {
        host: "127.0.0.1".into(),
        port,
        output,
        timeout: Some(Duration::from_secs(20)),
        entry: Entry::default(),
    }
}

async fn run_text(command: Command, options: &Options) -> (Result<()>, String) {
    let mut out = Vec::new();
    let result = run(command, options, &mut out).await;
    (result, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn each_command_is_one_request() {
    let daemon =
        fake(vec![(200, json!({"success": true, "plugins": [], "progress": {"state": "IDLE"}}))])
            .await;
    let options = options(daemon.port, Output::Text);
    let body = json!({"source": "cluster0"}).as_object().unwrap().clone();
    for (command, said) in [
        (Command::Start(body, Wait::No), "started\n"),
        (Command::Pause(Wait::No), "pausing\n"),
        (Command::Resume(Wait::No), "resuming\n"),
        (Command::Commit(Wait::No), "committing\n"),
        (Command::Reverse(Wait::No), "reversing\n"),
        (Command::Progress, "state           IDLE\n"),
        (Command::Plugins, "no plugins are loaded\n"),
    ] {
        let (result, out) = run_text(command, &options).await;
        result.unwrap();
        assert_eq!(out, said);
    }
    assert_eq!(
        *daemon.seen.lock().unwrap(),
        [
            r#"POST /api/v1/start {"source":"cluster0"}"#,
            "POST /api/v1/pause {}",
            "POST /api/v1/resume {}",
            "POST /api/v1/commit {}",
            "POST /api/v1/reverse {}",
            "GET /api/v1/progress",
            "GET /api/v1/plugins",
        ]
    );
}

#[tokio::test]
async fn an_envelope_of_failure_keeps_its_kind() {
    let envelope = json!({"success": false, "error": "CannotCommitYet", "code": "SYNC-1302",
        "errorDescription": "still copying", "advice": "wait", "requestId": "r"});
    let daemon = fake(vec![(409, envelope.clone())]).await;
    let (result, out) =
        run_text(Command::Commit(Wait::Yes), &options(daemon.port, Output::Json)).await;
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.detail()), (Kind::CannotCommitYet, "still copying"));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), envelope);
}

#[tokio::test]
async fn an_error_name_that_is_not_ours_is_kept_in_the_text() {
    let daemon =
        fake(vec![(200, json!({"success": false, "error": "OddName", "errorDescription": "d"}))])
            .await;
    let (result, out) =
        run_text(Command::Pause(Wait::No), &options(daemon.port, Output::Text)).await;
    assert_eq!(result.unwrap_err().detail(), "OddName: d");
    assert_eq!(out, "");
}

#[tokio::test]
async fn waiting_ends_with_the_goal() {
    let state = |name: &str| (200, json!({"success": true, "progress": {"state": name}}));
    let daemon =
        fake(vec![(200, json!({"success": true})), state("COMMITTING"), state("COMMITTED")]).await;
    let (result, out) =
        run_text(Command::Commit(Wait::Yes), &options(daemon.port, Output::Text)).await;
    result.unwrap();
    assert_eq!(out, "committed\n");
    assert_eq!(daemon.seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn waiting_ends_with_a_failure_of_the_sync_or_the_time() {
    let failed = json!({"success": true, "progress": {"state": "RUNNING", "failure":
        {"error": "WriteFailed", "code": "SYNC-1405", "errorDescription": "disk full", "advice": "x"}}});
    let daemon = fake(vec![(200, json!({"success": true})), (200, failed.clone())]).await;
    let (result, _) =
        run_text(Command::Commit(Wait::Yes), &options(daemon.port, Output::Text)).await;
    assert_eq!(result.unwrap_err().kind(), Kind::WriteFailed);
    let daemon =
        fake(vec![(200, json!({"success": true, "progress": {"canCommit": false}}))]).await;
    let hurried = Options { timeout: Some(Duration::ZERO), ..options(daemon.port, Output::Text) };
    let (result, out) = run_text(Command::Start(Map::new(), Wait::Yes), &hurried).await;
    assert!(result.unwrap_err().detail().contains("for canCommit: true in vain"));
    assert_eq!(out, "");
}

#[tokio::test]
async fn watching_writes_each_change_and_ends_when_committed() {
    let state = |name: &str| (200, json!({"success": true, "progress": {"state": name}}));
    let script = || vec![state("RUNNING"), state("RUNNING"), state("COMMITTED")];
    for (mode, lines) in [
        (watch::Mode::Lines, "RUNNING\nCOMMITTED\n"),
        (watch::Mode::Json, "{\"state\":\"RUNNING\"}\n{\"state\":\"COMMITTED\"}\n"),
    ] {
        let daemon = fake(script()).await;
        let client = Client::new(&options(daemon.port, Output::Text)).unwrap();
        let mut out: Vec<u8> = Vec::new();
        watch::watch(&client, mode, &mut out).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), lines);
        assert_eq!(daemon.seen.lock().unwrap().len(), 3);
    }
}

#[tokio::test]
async fn nobody_and_somebody_else_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap().port();
    drop(listener);
    let (result, _) = run_text(Command::Progress, &options(free, Output::Text)).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::ApiUnreachable);
    assert!(
        error.full().contains(&format!("no answer from http://127.0.0.1:{free}")),
        "{}",
        error.full()
    );
    let daemon = fake(vec![(200, json!("hello"))]).await;
    let (result, _) = run_text(Command::Progress, &options(daemon.port, Output::Text)).await;
    assert!(result.unwrap_err().detail().contains("something else than syncline"));
}
