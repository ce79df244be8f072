//! The `syncline` program: what can fail without a runtime happens before there is one.

use std::{collections::BTreeMap, process::ExitCode};

use syncline::{
    app,
    cli::{self, Invocation},
    client,
    config::{self, Config},
    error::{Error, Kind, Result},
    tasks::Stop,
    telemetry::log,
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

fn main() -> ExitCode {
    let env = config::environment();
    match cli::parse(std::env::args_os(), &env) {
        Err(early) => early.print(),
        Ok(invocation) => {
            run(invocation, &env).map_or_else(|e| cli::report(&e), |()| ExitCode::SUCCESS)
        }
    }
}

/// Prepares what the invocation needs, then runs it to its end.
fn run(invocation: Invocation, env: &BTreeMap<String, String>) -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Error::new(Kind::Internal, "a crypto provider is already installed"))?;
    match invocation {
        Invocation::Client(command, options) => runtime(&mut Builder::new_current_thread())?
            .block_on(client::run(command, &options, &mut std::io::stdout())),
        Invocation::Daemon { flags, config } => {
            let config = Config::load(flags, config.as_deref(), env)?;
            log::init(config.log_path.as_deref(), config.verbosity, &config.instance_id)?;
            config.log_summary();
            let runtime = runtime(&mut Builder::new_multi_thread())?;
            runtime.block_on(daemon(config)).inspect_err(log::fatal)
        }
    }
}

/// Runs the daemon until it ends; the first signal drains it, a second one hurries it.
async fn daemon(config: Config) -> Result<()> {
    let listen =
        |kind| signal(kind).map_err(|e| Error::new(Kind::Internal, "signals").caused_by(e));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = Stop::new();
    let mut app = Box::pin(app::run(config, stop.clone()));
    loop {
        tokio::select! {
            outcome = &mut app => return outcome,
            _ = terminate.recv() => stop.escalate(),
            _ = interrupt.recv() => stop.escalate(),
        }
    }
}

/// Builds a runtime.
fn runtime(builder: &mut Builder) -> Result<Runtime> {
    let built = builder.enable_all().build();
    built.map_err(|error| Error::new(Kind::Internal, "no runtime").caused_by(error))
}
