//! The program from outside: exit codes, and what goes to which stream.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail loudly")]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

/// Runs the program without any variable of its own in the environment.
fn syncline(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncline"));
    for (name, _) in
        std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("SYNCLINE_"))
    {
        command.env_remove(name);
    }
    command.args(args).envs(env.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_configuration_without_clusters_ends_with_64_and_names_both() {
    let output = syncline(&[], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr);
    assert!(stderr.contains("[SYNC-1001 ConfigInvalid]"), "{stderr}");
    assert!(stderr.contains("cluster0: is missing") && stderr.contains("cluster1: is missing"));
    assert!(stderr.contains("advice: "), "{stderr}");
}

#[test]
fn a_password_does_not_come_out_again() {
    let output = syncline(
        &["--cluster0", "mongodb://bob:hunter2@h/", "--port", "x", "--lodLevel"],
        &[("SYNCLINE_CLUSTER1", "bob:hunter2@h")],
    );
    assert_eq!(output.status.code(), Some(64));
    let output_of_check = syncline(
        &["--cluster0", "mongodb://bob:hunter2@h/", "--port", "x"],
        &[("SYNCLINE_CLUSTER1", "bob:hunter2@h")],
    );
    assert_eq!(output_of_check.status.code(), Some(64));
    for output in [output, output_of_check] {
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains("hunter2"), "{all}");
    }
}

#[test]
fn the_version_goes_to_stdout() {
    let output = syncline(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("syncline {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_client_without_a_daemon_ends_with_69() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let output = syncline(&["progress"], &[("SYNCLINE_PORT", &port)]);
    assert_eq!(output.status.code(), Some(69));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("[SYNC-1605 ApiUnreachable]"));
}
