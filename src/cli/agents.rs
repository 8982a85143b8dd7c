//! `regrow agents`: look at the agents, place them, and order things of them.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Failure;
use super::output::{facts, line, relative, table};
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
    /// List the agents of the node that is asked, and those that the cluster places
    List {
        /// Only agents of this role, such as worker
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        /// Also those of all other nodes
        #[arg(long)]
        cluster: bool,
    },
    /// Show one agent: where it is and why, how it ended last
    Show {
        /// Its name
        id: String,
    },
    /// Place a new agent in the cluster, or let one run again that is stopped or parked
    Start(StartArgs),
    /// Let an agent run no more; what it works on is handed back
    Stop {
        /// Its name
        id: String,
    },
    /// Stop an agent in order and start it anew
    Restart {
        /// Its name
        id: String,
    },
    /// Kill an agent as if it had crashed: it counts as a restart
    Kill {
        /// Its name
        id: String,
    },
    /// Move an agent to another node
    Handoff {
        /// Its name
        id: String,
        /// The node to go to
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// Forget an agent that is stopped or parked
    Remove {
        /// Its name
        id: String,
    },
    /// Give an agent a task of its own, wherever it runs
    Tell {
        /// Its name
        id: String,
        /// Kind of the work, one that its role knows
        #[arg(long, value_name = "KIND")]
        kind: String,
        /// Payload of the work, as JSON
        #[arg(long, value_name = "JSON")]
        payload: Option<String>,
        /// Told twice under one key, it is done once
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

#[derive(Args, Debug)]
struct StartArgs {
    /// Its name: unique in the cluster
    id: String,
    /// What it does, such as worker; needed for a new agent
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Only on this node
    #[arg(long, value_name = "NODE", requires = "role")]
    on: Option<String>,
    /// Only on nodes with this label; may be repeated
    #[arg(long, value_name = "LABEL=VALUE", value_parser = label, requires = "role")]
    require: Vec<(String, String)>,
    /// Rather on nodes with this label; may be repeated
    #[arg(long, value_name = "LABEL=VALUE", value_parser = label, requires = "role")]
    prefer: Vec<(String, String)>,
    /// Also on nodes with this taint; may be repeated
    #[arg(long, value_name = "TAINT", requires = "role")]
    tolerate: Vec<String>,
    /// Keep it apart from the other agents of this group: few of them on each node
    #[arg(long, value_name = "GROUP", requires = "role")]
    spread: Option<String>,
    /// Take nodes that agree in this label for one place when spreading, such as zone
    #[arg(long, value_name = "LABEL", requires = "role")]
    spread_by: Option<String>,
    /// How its node is chosen: balanced or scr; otherwise as the nodes are set
    #[arg(long, value_name = "POLICY", requires = "role")]
    policy: Option<String>,
    /// Its class of work, such as cpu, for the policy scr
    #[arg(long, value_name = "CLASS", requires = "role")]
    class: Option<String>,
    /// When it is started again: permanent (always), transient (after a crash), temporary (never)
    #[arg(long, value_name = "WHEN", requires = "role")]
    restart: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((label, value)) if !label.is_empty() && !value.is_empty() => {
            Ok((label.to_owned(), value.to_owned()))
        }
        _ => Err("write it as LABEL=VALUE".to_owned()),
    }
}

impl StartArgs {
    fn body(&self, role: &str) -> Value {
        let pairs = |pairs: &[(String, String)]| -> BTreeMap<String, String> {
            pairs.iter().cloned().collect()
        };
        let mut placement = Map::new();
        if let Some(node) = &self.on {
            placement.insert("node".to_owned(), json!(node));
        }
        for (name, labels) in [("required", &self.require), ("preferred", &self.prefer)] {
            if !labels.is_empty() {
                placement.insert(name.to_owned(), json!(pairs(labels)));
            }
        }
        if !self.tolerate.is_empty() {
            placement.insert("tolerates".to_owned(), json!(self.tolerate));
        }
        let words = [
            ("spread", &self.spread),
            ("spread_by", &self.spread_by),
            ("policy", &self.policy),
            ("class", &self.class),
        ];
        for (name, word) in words {
            if let Some(word) = word {
                placement.insert(name.to_owned(), json!(word));
            }
        }
        let mut body = json!({ "id": self.id, "role": role, "placement": placement });
        if let Some(restart) = &self.restart {
            body["restart"] = json!(restart);
        }
        body
    }
}

#[derive(Debug, Deserialize)]
struct Agents {
    agents: Vec<Agent>,
    /// Nothing where the node cannot tell.
    placed: Option<Vec<Placed>>,
    /// Why nothing is known of some nodes.
    #[serde(default)]
    unknown: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Agent {
    id: String,
    node: Option<String>,
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

/// An agent as the cluster knows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Placed {
    id: String,
    state: String,
    node: Option<String>,
    epoch: u64,
    spec: Spec,
    parked: Option<String>,
    restarts: Vec<Value>,
    last_exit: Option<Exit>,
    move_to: Option<Move>,
    placed: Option<Why>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    role: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exit {
    reason: String,
    node: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Move {
    to: String,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Why {
    node: String,
    reason: String,
    because: String,
}

impl Placed {
    fn about(&self) -> String {
        let moving = self.move_to.as_ref();
        let exit = self.last_exit.as_ref();
        self.parked
            .clone()
            .or_else(|| moving.map(|it| format!("goes to {} ({})", it.to, it.reason)))
            .or_else(|| exit.map(|it| format!("last exit: {}", it.reason)))
            .unwrap_or_default()
    }

    fn row(&self) -> Vec<String> {
        vec![
            line(&self.id, 40),
            line(&self.spec.role, 20),
            line(&self.state, 16),
            self.node.clone().unwrap_or_else(|| "-".to_owned()),
            self.epoch.to_string(),
            self.restarts.len().to_string(),
            line(&self.about(), 80),
        ]
    }

    /// How it stands, as one word.
    pub(super) fn state(&self) -> &str {
        &self.state
    }

    /// A row that says where it is and why.
    pub(super) fn why(&self) -> Vec<String> {
        let why = self.placed.as_ref();
        let why = why.map(|why| format!("{}: {}", why.reason, why.because));
        vec![
            line(&self.id, 40),
            line(&self.state, 16),
            self.node.clone().unwrap_or_else(|| "-".to_owned()),
            self.epoch.to_string(),
            line(&self.parked.clone().or(why).unwrap_or_default(), 100),
        ]
    }

    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let mut known = vec![
            ("id", self.id.clone()),
            ("role", self.spec.role.clone()),
            ("state", self.state.clone()),
            ("node", self.node.clone().unwrap_or_else(|| "-".to_owned())),
            ("epoch", self.epoch.to_string()),
            ("restarts", self.restarts.len().to_string()),
        ];
        if let Some(why) = &self.placed {
            let text = format!("{} ({}): {}", why.node, why.reason, why.because);
            known.push(("placed on", text));
        }
        if let Some(asked) = &self.move_to {
            known.push(("goes to", format!("{} ({})", asked.to, asked.reason)));
        }
        if let Some(exit) = &self.last_exit {
            known.push(("last exit", format!("{} on {}", exit.reason, exit.node)));
        }
        if let Some(why) = &self.parked {
            known.push(("parked", why.clone()));
        }
        known
    }
}

#[derive(Debug, Deserialize)]
struct One {
    placed: Option<Placed>,
    here: Option<Agent>,
}

pub(crate) async fn run(args: AgentsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let json = args.node.json;
    let path = |id: &str, verb: &str| format!("/v1/agents/{}{verb}", encoded(id));
    match args.verb {
        AgentsVerb::List { role, cluster } => list(&client, json, role, cluster).await,
        AgentsVerb::Show { id } => {
            let reply = client.get(&path(&id, "")).await?;
            show(&reply, json, || Ok(one(reply.decode()?)))
        }
        AgentsVerb::Start(start) => {
            let reply = match &start.role {
                Some(role) => {
                    client
                        .post("/v1/agents", start.body(role).to_string())
                        .await?
                }
                None => client.post(&path(&start.id, "/start"), nothing()).await?,
            };
            show(&reply, json, || asked(&reply, &start.id, "is to run"))
        }
        AgentsVerb::Stop { id } => {
            let reply = client.post(&path(&id, "/stop"), nothing()).await?;
            show(&reply, json, || asked(&reply, &id, "is to stop"))
        }
        AgentsVerb::Restart { id } => {
            let reply = client.post(&path(&id, "/restart"), nothing()).await?;
            show(&reply, json, || asked(&reply, &id, "is to start anew"))
        }
        AgentsVerb::Kill { id } => {
            let reply = client.post(&path(&id, "/kill"), nothing()).await?;
            show(&reply, json, || asked(&reply, &id, "is killed"))
        }
        AgentsVerb::Handoff { id, to } => {
            let body = json!({ "to": to });
            let reply = client
                .post(&path(&id, "/handoff"), body.to_string())
                .await?;
            show(&reply, json, || {
                asked(&reply, &id, &format!("goes to {to}"))
            })
        }
        AgentsVerb::Remove { id } => {
            let reply = client.delete(&path(&id, "")).await?;
            show(&reply, json, || {
                Ok(format!("{} is forgotten", line(&id, 60)))
            })
        }
        AgentsVerb::Tell {
            id,
            kind,
            payload,
            idempotency_key,
        } => {
            let payload = match payload.as_deref().map(serde_json::from_str::<Value>) {
                Some(Ok(payload)) => payload,
                Some(Err(error)) => {
                    return Err(Failure::Usage(format!("--payload is not JSON: {error}")));
                }
                None => Value::Null,
            };
            let body = json!({
                "kind": kind, "payload": payload, "idempotency_key": idempotency_key,
            });
            let reply = client
                .post(&path(&id, "/messages"), body.to_string())
                .await?;
            show(&reply, json, || {
                let task: Value = reply.decode()?;
                let task = task["id"].as_str().unwrap_or("?").to_owned();
                Ok(format!(
                    "task {task} is for {}; follow it with: regrow tasks events {task}",
                    line(&id, 60)
                ))
            })
        }
    }
}

fn nothing() -> String {
    "{}".to_owned()
}

/// An order was taken: how the agent stands now, or, for one of this node, what was done.
fn asked(reply: &crate::client::Reply, id: &str, what: &str) -> Result<String, Failure> {
    let placed: Placed = reply.decode()?;
    let id = line(id, 60);
    Ok(match placed.state.as_str() {
        "" | "stopped" => format!("{id} {what}"),
        state => format!(
            "{id} {what}; it is {state} now{}",
            placed
                .node
                .map_or_else(String::new, |node| format!(", on {node}"))
        ),
    })
}

fn one(One { placed, here }: One) -> String {
    let mut known = placed.as_ref().map(Placed::facts).unwrap_or_default();
    if let Some(here) = here {
        if placed.is_none() {
            known.push(("id", here.id.clone()));
            known.push(("role", here.role.clone()));
        }
        let healthy = if here.healthy {
            "healthy"
        } else {
            "not healthy"
        };
        known.push(("on this node", format!("{}, {healthy}", here.state)));
        if let Some(started) = &here.started_at {
            known.push(("started", relative(started)));
        }
        if let Some(doing) = here.detail {
            known.push(("doing", line(&doing, 200)));
        }
    }
    facts(&known)
}

async fn list(
    client: &Client,
    json: bool,
    role: Option<String>,
    cluster: bool,
) -> Result<(), Failure> {
    let mut path = format!("/v1/agents?cluster={cluster}");
    if let Some(role) = &role {
        path.push_str(&format!("&role={}", encoded(role)));
    }
    let reply = client.get(&path).await?;
    show(&reply, json, || {
        let Agents {
            agents,
            placed,
            unknown,
        } = reply.decode()?;
        let mut parts = Vec::new();
        if placed.is_none() {
            parts
                .push("which agents the cluster places is not known: the store is away".to_owned());
        }
        let placed = placed.unwrap_or_default();
        if !placed.is_empty() {
            let rows: Vec<Vec<String>> = placed.iter().map(Placed::row).collect();
            let head = [
                "PLACED", "ROLE", "STATE", "NODE", "EPOCH", "RESTARTS", "ABOUT",
            ];
            parts.push(table(&head, &rows));
        }
        if !agents.is_empty() {
            let mut rows: Vec<Vec<String>> = agents.iter().map(Agent::row).collect();
            let mut head = vec![
                "ID", "ROLE", "STATE", "HEALTHY", "RESTARTS", "MAILBOX", "STARTED", "ABOUT",
            ];
            if cluster {
                head.insert(0, "NODE");
                for (row, agent) in rows.iter_mut().zip(&agents) {
                    row.insert(0, line(agent.node.as_deref().unwrap_or("-"), 40));
                }
            }
            parts.push(table(&head, &rows));
        }
        let away = unknown.iter();
        parts.extend(away.map(|(node, why)| {
            format!("of {} nothing is known: {}", line(node, 40), line(why, 120))
        }));
        Ok(match (parts.is_empty(), role) {
            (false, _) => parts.join("\n"),
            (true, Some(role)) => format!("no agent plays the role {}", line(&role, 40)),
            (true, None) => "this node runs no agents".to_owned(),
        })
    })
}
