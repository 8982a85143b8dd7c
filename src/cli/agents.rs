//! `regrow agents`: look at the agents.

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::Failure;
use super::output::{line, relative, table};
use super::tasks::{encoded, show};
use crate::client::{Client, NodeArgs};

#[derive(Args, Debug)]
pub(crate) struct AgentsArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: AgentsVerb,
}

#[derive(Debug, Subcommand)]
enum AgentsVerb {
    /// List the agents
    List {
        /// Only agents of this role, such as worker
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
    },
}

#[derive(Debug, Deserialize)]
struct Agents {
    agents: Vec<Agent>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Agent {
    id: String,
    role: String,
    state: String,
    healthy: bool,
    restarts: u64,
    last_exit: Option<String>,
    mailbox_depth: u64,
    started_at: Option<String>,
    detail: Option<String>,
}

impl Agent {
    fn row(&self) -> Vec<String> {
        let exit = self.last_exit.as_ref();
        let about = self
            .detail
            .clone()
            .or_else(|| exit.map(|it| format!("last exit: {it}")));
        vec![
            line(&self.id, 40),
            line(&self.role, 20),
            line(&self.state, 16),
            if self.healthy { "yes" } else { "no" }.to_owned(),
            self.restarts.to_string(),
            self.mailbox_depth.to_string(),
            self.started_at
                .as_deref()
                .map_or_else(|| "-".to_owned(), relative),
            line(about.as_deref().unwrap_or_default(), 60),
        ]
    }
}

pub(crate) async fn run(args: AgentsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let AgentsVerb::List { role } = args.verb;
    let path = match &role {
        Some(role) => format!("/v1/agents?role={}", encoded(role)),
        None => "/v1/agents".to_owned(),
    };
    let reply = client.get(&path).await?;
    show(&reply, args.node.json, || {
        let Agents { agents } = reply.decode()?;
        if agents.is_empty() {
            return Ok(match role {
                Some(role) => format!("no agent plays the role {}", line(&role, 40)),
                None => "this node runs no agents".to_owned(),
            });
        }
        let rows: Vec<Vec<String>> = agents.iter().map(Agent::row).collect();
        let head = [
            "ID", "ROLE", "STATE", "HEALTHY", "RESTARTS", "MAILBOX", "STARTED", "ABOUT",
        ];
        Ok(table(&head, &rows))
    })
}
