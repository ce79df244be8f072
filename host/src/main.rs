//! The `syncline` program: what can fail without a runtime happens before there is one.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use syncline::{
    api,
    app::{self, LoginArgs},
    cli::{self, Invocation},
    client,
    config::{self, Config},
    engine::{self, Alone, Patience},
    error::{Error, Kind, Result},
    model::verification::VerificationProgress,
    tasks::{self, Stop},
    telemetry::{log, rotated},
};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let env = config::environment();
    match cli::parse(std::env::args_os(), &env) {
        Err(early) => early.print(),
        Ok(invocation) => {
            prepared(invocation, &env).map_or_else(|e| cli::report(&e), |()| ExitCode::SUCCESS)
        }
    }
}

/// Chooses the TLS provider, then runs the invocation.
fn prepared(invocation: Invocation, env: &BTreeMap<String, String>) -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| Error::new(Kind::Internal, "a crypto provider is already installed"))?;
    run(invocation, env)
}

/// Prepares what the invocation needs, then runs it to its end.
fn run(invocation: Invocation, env: &BTreeMap<String, String>) -> Result<()> {
    match invocation {
        Invocation::Client(command, options) => runtime(&mut Builder::new_current_thread())?
            .block_on(async {
                let options = Box::pin(app::with_session(options, env)).await?;
                client::run(command, &options, &mut std::io::stdout()).await
            }),
        Invocation::Login(options, login) => {
            let args = LoginArgs {
                reach: login.reach,
                flows: login.flows,
                principal: login.username,
                issuer: login.issuer,
            };
            let out = &mut std::io::stdout();
            runtime(&mut Builder::new_multi_thread())?
                .block_on(Box::pin(app::login(&options, args, env, out)))
        }
        Invocation::Logout(options) => app::logout(&options, env, &mut std::io::stdout()),
        Invocation::Confirmed(question, invocation) => {
            client::confirm(question)?;
            run(*invocation, env)
        }
        Invocation::Reset { flags, config, copied } => {
            let config = Config::load(flags, config.as_deref(), env)?;
            runtime(&mut Builder::new_multi_thread())?
                .block_on(Box::pin(app::reset(&config, copied)))
        }
        Invocation::PrintRoles { body, output } => {
            let options = api::start_options(&body)?;
            let roles = engine::Side::ALL.map(|side| (side.name(), engine::role(side, &options)));
            cli::show_roles(&roles, output);
            Ok(())
        }
        Invocation::Preflight { flags, config, body, output } => {
            let config = Config::load(flags, config.as_deref(), env)?;
            let options = api::start_options(&body)?;
            let report = runtime(&mut Builder::new_multi_thread())?
                .block_on(Box::pin(app::preflight(&config, &options)))?;
            cli::show(&report, output)
        }
        Invocation::Quarantine { flags, config, command, output } => {
            let config = Config::load(flags, config.as_deref(), env)?;
            runtime(&mut Builder::new_multi_thread())?
                .block_on(Box::pin(app::quarantine::run(&config, command, output)))
        }
        Invocation::Author(command, output) => runtime(&mut Builder::new_multi_thread())?
            .block_on(Box::pin(app::author::run(command, output, env))),
        Invocation::Verify { flags, config, body, during_sync, checkpoint, output } => {
            let config = Config::load(flags, config.as_deref(), env)?;
            let options = api::start_options(&body)?;
            let patience = if during_sync { Patience::Live } else { Patience::Settled };
            let how = app::Verify { patience, checkpoint };
            let report = |found: &VerificationProgress| {
                client::show_comparison([
                    found.collections_scanned,
                    found.collections_total,
                    found.source_documents,
                ]);
            };
            let found = runtime(&mut Builder::new_multi_thread())?
                .block_on(Box::pin(app::verify(&config, options, how, &report)))?;
            let answer = api::verification_answer(&found);
            client::show_mismatches(&answer, output, &mut std::io::stdout())?;
            Alone::verdict(&found)
        }
        Invocation::Daemon { flags, config } => {
            let config = Config::load(flags, config.as_deref(), env)?;
            let log = log::init(config.log_path.as_deref(), config.verbosity, &config.instance_id)?;
            let compress = |former: Option<PathBuf>| {
                if let Some(former) = former {
                    tasks::aside("log-compression", move || rotated::compress(&former));
                }
            };
            compress(log.former.clone());
            let rotate = || compress(log.rotate());
            config.log_summary();
            let runtime = runtime(&mut Builder::new_multi_thread())?;
            let stop = Stop::new();
            let app = Box::pin(app::run(config, stop.clone()));
            runtime.block_on(tasks::heed_signals(app, &stop, rotate)).inspect_err(log::fatal)
        }
    }
}

/// Builds a runtime.
fn runtime(builder: &mut Builder) -> Result<Runtime> {
    let built = builder.enable_all().build();
    built.map_err(|error| Error::new(Kind::Internal, "no runtime").caused_by(error))
}
