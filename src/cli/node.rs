//! `regrow node`: runs a node until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use regrow_runtime::supervision::RootExit;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use super::failure::{FAILED, USAGE, failed, report};
use super::output;
use crate::config::{self, Loaded, NodeConfig, Overrides};
use crate::node::Node;
use crate::telemetry;

/// Prints; the exit code tells of success whether or not anybody reads.
fn print(text: &str) {
    let _ = output::print(text);
}

/// Flags of `regrow node`.
#[derive(Debug, Args)]
pub(crate) struct NodeArguments {
    /// Configuration file; `regrow.toml` in the present directory is read when it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the node calls itself.
    #[arg(long)]
    name: Option<String>,
    /// What it offers to agents that the cluster places, such as zone=a; may be repeated.
    #[arg(long, value_name = "LABEL=VALUE")]
    label: Vec<String>,
    /// Keep agents away that do not tolerate this, such as gpu=reserved; may be repeated.
    #[arg(long, value_name = "TAINT")]
    taint: Vec<String>,
    /// Where everything durable lies; `--print-config` shows where that is otherwise.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// PostgreSQL database to use instead of a file, such as postgres://USER@HOST/DATABASE.
    /// Others on this machine can read a command line: pass a password by
    /// REGROW_STORE__DATABASE_URL or in the configuration file.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Where to listen, such as 127.0.0.1:7400; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Where to take what other nodes send, over UDP (finding each other) and TCP (messages),
    /// such as 10.0.0.1:7410.
    #[arg(long, value_name = "ADDR")]
    cluster_listen: Option<String>,
    /// File with the secret that all nodes of a cluster share.
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
    /// Where another node takes it; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    seed: Vec<String>,
    /// Name under which DNS has the other nodes (A, AAAA, or SRV as _regrow._udp.DOMAIN); may be
    /// repeated.
    #[arg(long, value_name = "QUERY")]
    dns: Vec<String>,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
    /// Print the configuration in force, with where each value came from, and end.
    #[arg(long)]
    print_config: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// End when standard input is closed: the node does not outlive who started it.
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// Runs the verb.
pub(crate) async fn run(arguments: NodeArguments) -> ExitCode {
    let overrides = Overrides {
        file: arguments.config.clone(),
        name: arguments.name.clone(),
        labels: arguments.label.clone(),
        taints: arguments.taint.clone(),
        data_dir: arguments.data_dir.clone(),
        database_url: arguments.database_url.clone(),
        http: arguments.http.clone(),
        cluster_listen: arguments.cluster_listen.clone(),
        cluster_secret: arguments.cluster_secret_file.clone(),
        seeds: arguments.seed.clone(),
        dns: arguments.dns.clone(),
    };
    let loaded = match config::load(&overrides, std::env::vars()) {
        Ok(loaded) => loaded,
        Err(error) => {
            match arguments.json {
                true => print(&error.to_json().to_string()),
                false => report(&error, false),
            }
            return USAGE.into();
        }
    };
    if arguments.print_config {
        match arguments.json {
            true => print(&loaded.to_json().to_string()),
            false => print(loaded.to_toml().trim_end()),
        }
        return ExitCode::SUCCESS;
    }
    if arguments.check {
        match arguments.json {
            true => print("{\"ok\":true}"),
            false => print("the configuration is valid"),
        }
        return ExitCode::SUCCESS;
    }
    serve(&arguments, &loaded).await
}

async fn serve(arguments: &NodeArguments, loaded: &Loaded) -> ExitCode {
    let config = &loaded.config;
    let export = telemetry::init(&config.log, config.export.as_ref(), &config.name);
    let export = match export {
        Ok(export) => export,
        Err(error) => return failed(&error, arguments.json),
    };
    let code = run_to_its_end(arguments, config).await;
    export.finish().await;
    code
}

async fn run_to_its_end(arguments: &NodeArguments, config: &NodeConfig) -> ExitCode {
    let signals = signal(SignalKind::terminate())
        .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    let (mut term, mut interrupt) = match signals {
        Ok(signals) => signals,
        Err(error) => return failed(&error, arguments.json),
    };
    let node = match Node::start(config, true).await {
        Ok(node) => node,
        Err(error) => {
            report(&error, arguments.json);
            let wrong_setting = error.is_wrong_setting();
            return if wrong_setting { USAGE } else { FAILED }.into();
        }
    };
    if let Some(http) = node.http() {
        info!(name = %config.name, %http, data_dir = %config.data_dir.display(), "node is ready");
        match arguments.json {
            true => print(&serde_json::json!({ "http": http, "name": config.name }).to_string()),
            false => print(&format!("listening on http://{http}")),
        }
    }
    let exit = tokio::select! {
        exit = node.exited() => exit,
        () = asked(&mut term, &mut interrupt) => {
            info!("stopping; a second signal ends the node at once");
            tokio::select! {
                exit = node.stop() => exit,
                () = asked(&mut term, &mut interrupt) => {
                    info!("ended at once");
                    return FAILED.into();
                }
            }
        }
        () = orphaned(arguments.until_stdin_closes) => node.stop().await,
        superseded = node.superseded() => {
            report(&superseded, arguments.json);
            node.stop().await;
            return FAILED.into();
        }
    };
    ended(&exit, arguments.json)
}

async fn asked(term: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Returns when standard input closes, if that is asked for.
async fn orphaned(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let mut byte = [0];
    let mut input = tokio::io::stdin();
    while input.read(&mut byte).await.is_ok_and(|count| 0 < count) {}
}

fn ended(exit: &RootExit, json: bool) -> ExitCode {
    if exit.was_requested() {
        info!("stopped");
        return ExitCode::SUCCESS;
    }
    match json {
        true => print(&serde_json::to_string(exit).unwrap_or_default()),
        false => print(&exit.to_string()),
    }
    FAILED.into()
}
