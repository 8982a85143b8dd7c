//! `regrow`: OTP for AI agents, in one binary.

mod cli;
mod client;
mod config;
mod demo;
mod node;
mod telemetry;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// OTP for AI agents: supervised agents, a durable queue and a journal in one binary
#[derive(Debug, Parser)]
#[command(
    name = "regrow",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success; 1 it failed, was refused, or no node answers; \
                  2 the command line or the configuration is wrong."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Audit a directory's documentation, or rehearse recovery from crashes
    Demo(demo::DemoArguments),
    /// Run a node
    Node(cli::node::NodeArguments),
    /// Check, copy and restore a node's database
    Store(cli::store::StoreArguments),
    /// Run whole clusters from seeds, with faults, and look for what must never be
    Sim(cli::sim::SimArguments),
    /// Compile a module that a node hands over, and end; nodes start this themselves
    #[command(hide = true)]
    CompileModule,
    /// Print the document of the HTTP surface (OpenAPI 3.1)
    Openapi(cli::openapi::OpenapiArguments),
    #[command(flatten)]
    Client(cli::ClientVerb),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Verb::CompileModule = arguments.verb {
        // Before there are threads: it limits what this process may use.
        return regrow_modules::compiling::process::main();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return cli::failure::failed(&error, false),
    };
    let exit = runtime.block_on(async {
        match arguments.verb {
            Verb::Demo(arguments) => demo::run(arguments).await,
            Verb::Node(arguments) => cli::node::run(arguments).await,
            Verb::Store(arguments) => cli::store::run(arguments).await,
            Verb::Sim(arguments) => cli::sim::run(&arguments),
            Verb::Openapi(arguments) => cli::openapi::run(&arguments),
            Verb::CompileModule => ExitCode::SUCCESS,
            Verb::Client(verb) => cli::execute(verb).await,
        }
    });
    // A thread that waits for standard input must not hold the process up.
    runtime.shutdown_background();
    exit
}
