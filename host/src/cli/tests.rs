//! The grammar, and that the documents keep up with it.

use std::path::Path;

use clap::CommandFactory;
use serde_json::{Value, json};

use super::*;
use crate::{
    client::{Command, Options, Output},
    config::{Config, names::OPTIONS},
    error::Kind,
};

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn parse_line(line: &[&str]) -> std::result::Result<Invocation, Early> {
    let words = std::iter::once("syncline").chain(line.iter().copied()).map(OsString::from);
    parse(words, &env(&[]))
}

fn daemon(line: &[&str]) -> Layer {
    match parse_line(line).unwrap() {
        Invocation::Daemon { flags, .. } => flags,
        other => panic!("{other:?}"),
    }
}

fn client_call(line: &[&str]) -> (Command, Options) {
    match parse_line(line).unwrap() {
        Invocation::Client(command, options) => (command, options),
        other => panic!("{other:?}"),
    }
}

fn refused(line: &[&str]) -> Early {
    parse_line(line).unwrap_err()
}

#[test]
fn a_preflight_takes_the_options_of_the_daemon_and_of_start() {
    let line = [
        "preflight",
        "--cluster0",
        "mongodb://a/",
        "--config",
        "x.yaml",
        "--reversible",
        "--includeNamespaces",
        r#"[{"database":"app"}]"#,
        "-o",
        "json",
    ];
    let Invocation::Preflight { flags, config, body, output } = parse_line(&line).unwrap() else {
        panic!("no preflight")
    };
    assert!(flags.get("cluster0").is_some());
    assert_eq!(config.as_deref(), Some(Path::new("x.yaml")));
    assert_eq!(output, Output::Json);
    assert_eq!(
        serde_json::Value::Object(body),
        json!({"source": "cluster0", "destination": "cluster1", "reversible": true,
            "includeNamespaces": [{"database": "app"}]})
    );
    let line = ["preflight", "--print-roles", "--source", "cluster1", "--destination", "cluster0"];
    let Invocation::PrintRoles { body, output } = parse_line(&line).unwrap() else {
        panic!("no roles")
    };
    assert_eq!((output, &body["source"]), (Output::Text, &json!("cluster1")));
}

#[test]
fn an_abort_and_a_reset_ask_unless_told_not_to() {
    let Invocation::Confirmed(question, inner) =
        parse_line(&["abort", "--drop-destination-data"]).unwrap()
    else {
        panic!("nothing is asked")
    };
    assert!(question.contains("removed from the destination"), "{question}");
    let Invocation::Client(Command::Abort(body, _), _) = *inner else { panic!("no abort") };
    assert_eq!(serde_json::Value::Object(body), json!({"dropDestinationData": true}));
    let (command, _) = client_call(&["abort", "--yes"]);
    assert!(matches!(command, Command::Abort(body, _) if body["dropDestinationData"] == false));
    let line = ["reset", "--config", "x.yaml", "--yes", "--drop-destination-data"];
    assert!(matches!(
        parse_line(&line).unwrap(),
        Invocation::Reset { copied: Copied::Drop, config: Some(_), .. }
    ));
    assert!(matches!(parse_line(&["reset"]).unwrap(), Invocation::Confirmed(..)));
    let (command, _) = client_call(&["progress", "--collections"]);
    assert!(matches!(command, Command::Collections));
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_option_is_a_flag_and_reaches_the_configuration() {
    for option in OPTIONS {
        let flag = format!("--{}={}", option.name, "false");
        let layer = daemon(&[&flag]);
        let given = layer.get(option.name).unwrap_or_else(|| panic!("{} is no flag", option.name));
        assert_eq!(given.origin, format!("--{}", option.name));
    }
}

#[test]
fn the_daemon_takes_the_names_of_mongosync() {
    let line = [
        "--cluster0",
        "mongodb://a",
        "--cluster1",
        "mongodb://b",
        "--port",
        "27601",
        "--logPath",
        "/tmp",
        "--verbosity",
        "DEBUG",
        "--loadLevel",
        "4",
        "--id",
        "shard01",
        "--metadataDatabase",
        "meta",
        "--acceptDisclaimer",
        "--disableTelemetry",
        "--disableVerification=true",
        "--createIndexesBatchSize",
        "8",
    ];
    let config = Config::load(daemon(&line), None, &env(&[])).unwrap();
    assert_eq!((config.port, config.load_level), (27601, Some(4)));
    assert_eq!(
        (config.instance_id.as_str(), config.metadata_database.as_str()),
        ("shard01", "meta")
    );
    assert_eq!(config.create_indexes_batch_size, Some(8));
}

#[test]
fn the_config_file_is_named_apart() {
    let Invocation::Daemon { config, .. } = parse_line(&["--config", "sync.yaml"]).unwrap() else {
        panic!("a client command")
    };
    assert_eq!(config, Some(PathBuf::from("sync.yaml")));
}

#[test]
fn help_and_version_go_to_stdout_and_faults_exit_with_64() {
    assert_eq!(refused(&["--version"]).text, format!("syncline {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(refused(&["-v"]).code, 0);
    let help = refused(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.text.contains("--loadLevel") && help.text.contains("progress"));
    let wrong = refused(&["--lodLevel", "3"]);
    assert_eq!(wrong.code, 64);
    assert!(wrong.text.contains("'--loadLevel'"), "{}", wrong.text);
    for line in [&["destroy"][..], &["--port", "1", "progress"], &["commit", "--timeout", "3"]] {
        assert_eq!(refused(line).code, 64, "{line:?}");
    }
}

#[test]
fn a_connection_string_in_the_wrong_place_is_not_repeated() {
    for line in [
        &["mongodb://bob:hunter2@h"][..],
        &["--cluster2", "mongodb://bob:hunter2@h"],
        &["--port=mongodb://bob:hunter2@h", "extra"],
        &["start", "--includeNamespaces", "mongodb://bob:hunter2@h"],
    ] {
        let early = refused(line);
        assert_eq!(early.code, 64);
        assert!(!early.text.contains("hunter2"), "{}", early.text);
    }
}

#[test]
fn verify_takes_two_clusters_and_what_to_compare() {
    let line = [
        "verify",
        "--cluster0",
        "mongodb://a",
        "--cluster1",
        "mongodb://b",
        "--source",
        "cluster1",
        "--includeNamespaces",
        r#"[{"database": "a"}]"#,
        "--duringSync",
        "-o",
        "json",
    ];
    let Ok(Invocation::Verify { flags, body, during_sync, output, .. }) = parse_line(&line) else {
        panic!("no verification")
    };
    assert!(flags.get("cluster0").is_some() && flags.get("cluster1").is_some());
    assert_eq!(
        Value::Object(body),
        json!({"source": "cluster1", "destination": "cluster0",
            "includeNamespaces": [{"database": "a"}]})
    );
    assert!(during_sync);
    assert_eq!(output, Output::Json);
}

#[test]
fn start_takes_every_field_of_the_body() {
    let (command, options) = client_call(&[
        "start",
        "--source",
        "cluster0",
        "--destination",
        "cluster1",
        "--buildIndexes",
        "never",
        "--includeNamespaces",
        r#"[{"database":"a"}]"#,
        "--excludeNamespaces",
        "[]",
        "--enableUserWriteBlocking",
        "true",
        "--verification",
        "false",
        "--reversible",
        "--detectRandomId",
        "false",
        "--skipDiskSpaceCheck",
        "--preExistingDestinationData=false",
        "--copyInNaturalOrder",
        "[]",
        "--sharding",
        "{}",
        "--wait",
        "--timeout",
        "9",
        "--port",
        "5",
        "-o",
        "json",
    ]);
    let Command::Start(body, Wait::Yes) = command else { panic!("{command:?}") };
    assert_eq!(
        Value::Object(body),
        json!({"source": "cluster0", "destination": "cluster1", "buildIndexes": "never",
            "includeNamespaces": [{"database": "a"}], "excludeNamespaces": [],
            "enableUserWriteBlocking": true, "verification": {"enabled": false},
            "reversible": true, "detectRandomId": false, "skipDiskSpaceCheck": true,
            "preExistingDestinationData": false, "copyInNaturalOrder": [], "sharding": {}})
    );
    assert_eq!((options.port, options.output), (5, Output::Json));
    assert_eq!(options.timeout, Some(Duration::from_secs(9)));
}

#[test]
fn flags_win_over_the_body_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("start.json");
    std::fs::write(&path, r#"{"Source":"cluster1","destination":"cluster1","x":1}"#).unwrap();
    let file = path.to_str().unwrap();
    let (command, _) = client_call(&["start", "--body", file, "--source", "cluster0"]);
    let Command::Start(body, Wait::No) = command else { panic!("{command:?}") };
    assert_eq!(
        Value::Object(body),
        json!({"source": "cluster0", "destination": "cluster1", "x": 1})
    );
    std::fs::write(&path, "[]").unwrap();
    assert!(refused(&["start", "--body", file]).text.contains("holds no JSON object"));
    assert_eq!(refused(&["start", "--body", "/no/such/file"]).code, 64);
}

#[test]
fn commands_wait_when_asked_to() {
    for (line, waits) in [(&["commit"][..], Wait::No), (&["commit", "--wait"], Wait::Yes)] {
        let (command, options) = client_call(line);
        assert!(matches!(command, Command::Commit(wait) if wait == waits), "{line:?}");
        assert_eq!((options.host.as_str(), options.port), ("127.0.0.1", 27182));
    }
    assert!(matches!(client_call(&["pause", "--wait"]).0, Command::Pause(Wait::Yes)));
    assert!(matches!(client_call(&["resume"]).0, Command::Resume(Wait::No)));
    assert!(matches!(client_call(&["reverse"]).0, Command::Reverse(Wait::No)));
    assert!(matches!(client_call(&["progress", "--watch"]).0, Command::Watch));
    assert!(matches!(client_call(&["plugins"]).0, Command::Plugins));
    assert!(matches!(client_call(&["plugin", "list"]).0, Command::Plugins));
}

#[test]
fn clients_find_the_port_in_the_environment() {
    let words = || ["syncline", "progress"].into_iter().map(OsString::from);
    let Ok(Invocation::Client(_, options)) = parse(words(), &env(&[("SYNCLINE_PORT", "7")])) else {
        panic!("refused")
    };
    assert_eq!(options.port, 7);
    assert_eq!(parse(words(), &env(&[("SYNCLINE_PORT", "x")])).unwrap_err().code, 64);
}

/// The text of a document of the repository.
fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_option_is_in_the_document_on_configuration() {
    let text = document("configuration.md");
    let command = Cli::command();
    let flags = command.get_arguments().filter_map(|arg| arg.get_long());
    let names: Vec<&str> = flags.filter(|name| !["help", "version"].contains(name)).collect();
    assert!(names.len() > OPTIONS.len(), "the options and --config");
    for name in names {
        assert!(text.contains(&format!("`--{name}`")), "--{name} is not documented");
    }
    for option in OPTIONS {
        assert!(text.contains(&format!("`{}`", option.env)), "{} is not documented", option.env);
    }
    for key in [
        "component",
        "digest",
        "origins",
        "env",
        "files",
        "clock",
        "memoryBytes",
        "deadlineMs",
        "namespaces",
        "azureImdsEndpoint",
    ] {
        assert!(text.contains(&format!("`{key}`")), "{key} is not documented");
    }
}

#[test]
fn every_command_and_its_flags_are_in_the_document_on_the_api() {
    let text = document("api.md");
    for command in Cli::command().get_subcommands() {
        assert!(
            text.contains(&format!("`syncline {}`", command.get_name())),
            "{}",
            command.get_name()
        );
        for name in command.get_arguments().filter_map(|arg| arg.get_long()) {
            assert!(
                // The daemon's own options are in the document on the configuration.
                matches!(name, "help" | "config")
                    || OPTIONS.iter().any(|option| option.name == name)
                    || text.contains(&format!("`--{name}`"))
                    || text.contains(&format!("`{name}`")),
                "{name} of {} is not documented",
                command.get_name()
            );
        }
    }
}

#[test]
fn every_kind_of_error_has_a_page() {
    for kind in Kind::ALL {
        let page = document(&format!("errors/{}.md", kind.code()));
        assert!(page.starts_with(&format!("# {} {}\n", kind.code(), kind.name())), "{page}");
        assert!(page.contains(kind.title()) && page.contains(kind.advice()), "{page}");
        assert!(page.contains(&format!(": {}.", kind.exit_code())), "{page}");
    }
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    assert_eq!(std::fs::read_dir(pages).unwrap().count(), Kind::ALL.len());
}
