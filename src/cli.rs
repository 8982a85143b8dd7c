//! The verbs of the command line, a file each: those that talk to a node, and `node` itself.
//!
//! Every verb takes `--json`, which prints what the node answered and nothing else on
//! standard output. Exit codes: 0 only on success, 1 when the node refused, failed or
//! cannot be reached, 2 when the command line or the configuration is wrong.

mod access;
mod agents;
mod amount;
mod approvals;
mod audit;
mod budget;
mod cluster;
mod code;
mod dead_letters;
mod diagnostics;
pub(crate) mod failure;
mod health;
mod improve;
pub(crate) mod node;
pub(crate) mod openapi;
pub(crate) mod output;
mod pages;
mod queue;
mod run;
pub(crate) mod sim;
pub(crate) mod store;
mod tasks;
mod token;
mod top;

use std::process::ExitCode;

use clap::Subcommand;

use self::output::{print, print_error};
use crate::client::ClientError;

/// Verbs that talk to a node over HTTP; two of them also do without one.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientVerb {
    /// Submit a goal or a task, and wait for its result if asked to
    Run(run::RunArgs),
    /// Look at tasks, cancel and retry them
    Tasks(tasks::TasksArgs),
    /// Look at the queue and turn its switches
    Queue(queue::QueueArgs),
    /// Look at what people are asked, and decide
    Approvals(approvals::ApprovalsArgs),
    /// Look at what was spent, and set what may be
    Budget(budget::BudgetArgs),
    /// Look at the agents
    Agents(agents::AgentsArgs),
    /// Stage, promote and take back versions of agents' code
    Code(code::CodeArgs),
    /// Look at the nodes together, and ask things of them
    Cluster(cluster::ClusterArgs),
    /// Make, list and revoke the tokens that callers of a node need
    Token(token::TokenArgs),
    /// Look at the record of what operators did, export it, and check that nobody changed it
    Audit(audit::AuditArgs),
    /// Search for better strategies
    Improve(improve::ImproveArgs),
    /// Ask a node how it is
    Health(health::HealthArgs),
    /// Watch a node and its cluster on the terminal, and act on them
    Top(top::TopArgs),
    /// Write how a node stands into one archive, to hand on
    Diagnostics(diagnostics::DiagnosticsArgs),
}

/// Why a verb did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The node did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What was asked for cannot be meant. Nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// It was done and did not end well.
    #[error("{0}")]
    Outcome(String),
    /// Standard output cannot be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Client(ClientError::Address { .. }) => 2,
            Self::Client(
                ClientError::Unreachable { .. }
                | ClientError::NoAnswer { .. }
                | ClientError::Refused(_)
                | ClientError::Unreadable { .. },
            )
            | Self::Outcome(_)
            | Self::Output(_) => 1,
        }
    }
}

/// Runs a verb to its end and says with which code the process exits. Failures are
/// explained on standard error; with `--json`, a refusal's JSON is on standard output.
pub(crate) async fn execute(verb: ClientVerb) -> ExitCode {
    let (json, outcome) = match verb {
        ClientVerb::Run(args) => (args.node.json, run::run(args).await),
        ClientVerb::Tasks(args) => (args.node.json, tasks::run(args).await),
        ClientVerb::Queue(args) => (args.node.json, queue::run(args).await),
        ClientVerb::Approvals(args) => (args.node.json, approvals::run(args).await),
        ClientVerb::Budget(args) => (args.node.json, budget::run(args).await),
        ClientVerb::Agents(args) => (args.node.json, agents::run(args).await),
        ClientVerb::Code(args) => (args.node.json, code::run(args).await),
        ClientVerb::Cluster(args) => (args.node.json, cluster::run(args).await),
        ClientVerb::Token(args) => (args.node.json, token::run(args).await),
        ClientVerb::Audit(args) => (args.node.json, audit::run(args).await),
        ClientVerb::Improve(args) => (args.node.json, improve::run(args).await),
        ClientVerb::Health(args) => (args.node.json, health::run(args).await),
        ClientVerb::Top(args) => (args.node.json, top::run(args).await),
        ClientVerb::Diagnostics(args) => (args.node.json, diagnostics::run(args).await),
    };
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    if json && let Failure::Client(ClientError::Refused(refusal)) = &failure {
        // The exit code tells of the failure whether or not this can be written.
        let _ = print(&refusal.text);
    }
    print_error(&failure.to_string());
    ExitCode::from(failure.exit_code())
}
