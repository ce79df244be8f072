//! `cargo run -p syncline-tests --bin bench -- copy` (or `cea`, `many`, `verify`, `plugins`): how fast the daemon is against
//! what the servers can do, and how much memory it takes.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use syncline_tests::bench::{changes, copy, many, plugins, verify};

/// Measures.
#[derive(Parser)]
struct Arguments {
    /// What.
    #[command(subcommand)]
    what: What,
}

/// What to measure.
#[derive(Subcommand)]
enum What {
    /// Throughput of the collection copy.
    Copy(copy::Arguments),
    /// Throughput and lag of change event application.
    Cea(changes::Arguments),
    /// Planning and memory with very many collections.
    Many(many::Arguments),
    /// Throughput of the verifier.
    Verify(verify::Arguments),
    /// Cost of document filters.
    Plugins(plugins::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let measured = match Arguments::parse().what {
        What::Copy(arguments) => copy::run(&arguments).await,
        What::Cea(arguments) => changes::run(&arguments).await,
        What::Many(arguments) => many::run(&arguments).await,
        What::Verify(arguments) => verify::run(&arguments).await,
        What::Plugins(arguments) => plugins::run(&arguments).await,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
