//! `regrow cluster`: the nodes together, and what is asked of them.

mod cert;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::agents::Placed;
use super::output::{facts, line, relative, table};
use super::tasks::{encoded, show};
use crate::client::{Client, NodeArgs, Reply};

#[derive(Args, Debug)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: ClusterVerb,
}

#[derive(Debug, Subcommand)]
enum ClusterVerb {
    /// Say in a few lines how the cluster stands
    Status,
    /// List the nodes that live, or of which something is noted
    Nodes,
    /// Show which agent is where and why; of one agent also what if its node died
    Placement {
        /// Only this agent
        #[arg(conflicts_with = "if_lost")]
        agent: Option<String>,
        /// Where the agents of this node would go if it died
        #[arg(long, value_name = "NODE")]
        if_lost: Option<String>,
    },
    /// Let a node keep its agents and take no more
    Cordon(Asked),
    /// Let a node give all its agents away and take none
    Drain(Asked),
    /// Keep a node that is not trusted out of everything, until it is released
    Quarantine(Asked),
    /// Let a node take agents again
    Release(Asked),
    /// Move agents that may not be where they are, and even the rest out over the nodes
    Rebalance {
        /// Only say what would be moved
        #[arg(long)]
        dry_run: bool,
    },
    /// Make certificates for nodes, and the cluster's own authority at the first call
    Cert(cert::CertArgs),
}

#[derive(Args, Debug)]
struct Asked {
    /// The node's name
    name: String,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    name: String,
    life: Option<u64>,
    lease_left_ms: Option<u64>,
    here: bool,
    agents: u64,
    note: Option<Note>,
    watched: Watched,
    heard: Option<Heard>,
    session: Option<Session>,
    health: Option<Health>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Health {
    status: String,
    error: Option<String>,
    checks: BTreeMap<String, Check>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Check {
    status: String,
    detail: String,
}

/// How it stands with the watchdogs.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Watched {
    state: String,
    pinned: bool,
    left_ms: Option<u64>,
    share_permille: u64,
    score: Option<u64>,
    threshold: u64,
    reason: Option<String>,
}

impl Watched {
    /// Its score against the one at which it is kept out.
    fn score(&self) -> String {
        let whole = |thousandths: u64| thousandths as f64 / 1_000.0;
        self.score.map_or_else(
            || "-".to_owned(),
            |score| format!("{:.1} of {:.1}", whole(score), whole(self.threshold)),
        )
    }

    /// How it stands, for how long, and why; nothing of a node like others.
    fn about(&self) -> Option<String> {
        let left = self
            .left_ms
            .map(|left| format!("{} s left", left.div_ceil(1_000)));
        let how = match self.state.as_str() {
            "quarantined" if self.pinned => "until released".to_owned(),
            "quarantined" => left.unwrap_or_default(),
            "probation" => {
                let share = self.share_permille / 10;
                format!("{}, share {share} %", left.unwrap_or_default())
            }
            _ => return None,
        };
        let reason = self.reason.as_deref().unwrap_or_default();
        Some(format!("{}, {how}: {reason}", self.state))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Session {
    state: String,
    since: Option<String>,
    dialled_here: Option<bool>,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Heard {
    status: String,
    phi: Option<f64>,
    load: Option<f64>,
    http: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Note {
    stance: String,
    reason: Option<String>,
    at: Option<String>,
}

impl Node {
    fn state(&self) -> &str {
        if self.life.is_some() && self.watched.state == "quarantined" {
            return "quarantined";
        }
        match (&self.note, self.life, &self.heard) {
            (None, Some(_), _) if self.watched.state == "probation" => "probation",
            (Some(note), Some(_), _) => &note.stance,
            // Without a shared store gossip is all that is known.
            (None, None, Some(heard)) => &heard.status,
            (None, Some(_), _) => "up",
            (_, None, _) => "away",
        }
    }

    /// What gossip says, in a few words.
    fn heard(&self) -> String {
        let Some(heard) = &self.heard else {
            return "-".to_owned();
        };
        let mut words = vec![heard.status.clone()];
        words.extend(heard.phi.map(|phi| format!("phi {phi:.1}")));
        words.extend(heard.load.map(|load| format!("load {:.0} %", 100.0 * load)));
        words.extend(heard.http.clone());
        line(&words.join(", "), 60)
    }

    /// How it is, as it says itself, in a few words.
    fn health(&self) -> String {
        let Some(health) = &self.health else {
            return "-".to_owned();
        };
        let mut words = vec![health.status.clone()];
        let bad = health.checks.iter().filter(|(_, it)| it.status != "ok");
        words.extend(bad.map(|(name, it)| format!("{name}: {}", it.detail)));
        words.extend(health.error.clone());
        line(&words.join(", "), 80)
    }

    /// How it is connected, in a few words.
    fn session(&self) -> String {
        let Some(session) = &self.session else {
            return "-".to_owned();
        };
        let mut words = vec![session.state.clone()];
        words.extend(session.since.as_deref().map(relative));
        words.extend(session.dialled_here.map(|here| match here {
            true => "dialled here".to_owned(),
            false => "dialled there".to_owned(),
        }));
        words.extend(session.error.clone());
        line(&words.join(", "), 120)
    }

    fn row(&self) -> Vec<String> {
        let note = self.note.as_ref();
        let about = note.map(|note| {
            let since = note.at.as_deref().map(relative).unwrap_or_default();
            let reason = note.reason.as_deref().unwrap_or_default();
            format!("{} {since} {reason}", note.stance)
        });
        vec![
            line(&self.name, 40),
            self.state().to_owned(),
            self.life
                .map_or_else(|| "-".to_owned(), |life| life.to_string()),
            self.lease_left_ms
                .map_or_else(|| "-".to_owned(), |left| format!("{left} ms")),
            self.agents.to_string(),
            self.watched.score(),
            if self.here {
                "here".to_owned()
            } else {
                self.heard()
            },
            self.session(),
            self.health(),
            line(
                about
                    .or_else(|| self.watched.about())
                    .unwrap_or_default()
                    .trim_end(),
                100,
            ),
        ]
    }
}

#[derive(Debug, Deserialize)]
struct Placement {
    placed: Vec<Placed>,
}

#[derive(Debug, Deserialize)]
struct Explanation {
    agent: Placed,
    why: String,
    if_its_node_died: String,
    decision: Option<Decision>,
}

/// A decision as it was kept; of a move that was simply asked for there are no candidates.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Decision {
    policy: String,
    seed: u64,
    drawn: Vec<String>,
    candidates: Vec<Candidate>,
    left_out: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Candidate {
    node: String,
    score: f64,
    terms: Vec<Term>,
    age_ms: Option<u64>,
    excluded: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Term {
    name: String,
    value: f64,
}

#[derive(Debug, Deserialize)]
struct Loss {
    node: String,
    agents: Vec<Lost>,
}

#[derive(Debug, Deserialize)]
struct Lost {
    agent: String,
    goes_to: Option<String>,
    because: String,
}

#[derive(Debug, Deserialize)]
struct Moves {
    moves: Vec<Planned>,
}

#[derive(Debug, Deserialize)]
struct Planned {
    agent: String,
    from: String,
    to: String,
}

pub(crate) async fn run(args: ClusterArgs) -> Result<(), Failure> {
    let json = args.node.json;
    if let ClusterVerb::Cert(args) = &args.verb {
        return cert::run(args, json);
    }
    let client = Client::new(&args.node)?;
    match args.verb {
        // Done above, without a node.
        ClusterVerb::Cert(_) => Ok(()),
        ClusterVerb::Status => status(&client, json).await,
        ClusterVerb::Nodes => {
            let reply = client.get("/v1/cluster/nodes?health=true").await?;
            show(&reply, json, || Ok(nodes(&reply.decode::<Nodes>()?.nodes)))
        }
        ClusterVerb::Placement {
            if_lost: Some(node),
            ..
        } => {
            let path = format!("/v1/cluster/placement?if_lost={}", encoded(&node));
            let reply = client.get(&path).await?;
            show(&reply, json, || Ok(loss(&reply.decode()?)))
        }
        ClusterVerb::Placement { agent: None, .. } => {
            let reply = client.get("/v1/cluster/placement").await?;
            show(&reply, json, || {
                Ok(placement(&reply.decode::<Placement>()?.placed))
            })
        }
        ClusterVerb::Placement {
            agent: Some(agent), ..
        } => {
            let path = format!("/v1/cluster/explain/{}", encoded(&agent));
            let reply = client.get(&path).await?;
            show(&reply, json, || {
                let explained: Explanation = reply.decode()?;
                let mut known = explained.agent.facts();
                known.push(("why", explained.why));
                known.push(("if its node died", explained.if_its_node_died));
                let mut text = facts(&known);
                if let Some(decision) = &explained.decision {
                    text.push_str("\n\n");
                    text.push_str(&decided(decision));
                }
                Ok(text)
            })
        }
        ClusterVerb::Cordon(asked) => ask(&client, json, &asked, "cordon").await,
        ClusterVerb::Drain(asked) => ask(&client, json, &asked, "drain").await,
        ClusterVerb::Quarantine(asked) => ask(&client, json, &asked, "quarantine").await,
        ClusterVerb::Release(asked) => ask(&client, json, &asked, "release").await,
        ClusterVerb::Rebalance { dry_run } => {
            let body = json!({ "dry_run": dry_run }).to_string();
            let reply = client.post("/v1/cluster/rebalance", body).await?;
            show(&reply, json, || rebalanced(&reply, dry_run))
        }
    }
}

fn loss(loss: &Loss) -> String {
    if loss.agents.is_empty() {
        return format!("no agent is on {}", line(&loss.node, 60));
    }
    let row = |lost: &Lost| {
        vec![
            line(&lost.agent, 40),
            lost.goes_to.clone().unwrap_or_else(|| "-".to_owned()),
            line(&lost.because, 100),
        ]
    };
    let rows: Vec<Vec<String>> = loss.agents.iter().map(row).collect();
    table(&["AGENT", "WOULD GO TO", "WHY"], &rows)
}

/// The candidates of a decision, a row each.
fn decided(decision: &Decision) -> String {
    let row = |candidate: &Candidate| {
        let terms = candidate.terms.iter().filter(|term| term.value != 0.0);
        let terms: Vec<String> = terms
            .map(|term| format!("{} {:+.2}", term.name, term.value))
            .collect();
        let about = match &candidate.excluded {
            Some(why) => format!("out: {why}"),
            None if decision.drawn.contains(&candidate.node) => "drawn".to_owned(),
            None => String::new(),
        };
        vec![
            line(&candidate.node, 40),
            format!("{:.2}", candidate.score),
            line(&about, 60),
            candidate
                .age_ms
                .map_or_else(|| "-".to_owned(), |age| format!("{age} ms")),
            line(&terms.join(", "), 100),
        ]
    };
    if decision.candidates.is_empty() {
        return "nothing was weighed: it was asked for".to_owned();
    }
    let rows: Vec<Vec<String>> = decision.candidates.iter().map(row).collect();
    let more = match decision.left_out {
        0 => String::new(),
        count => format!(", {count} more nodes were weighed"),
    };
    format!(
        "{}\nby policy {}, seed {}{more}",
        table(&["CANDIDATE", "SCORE", "", "FACTS' AGE", "TERMS"], &rows),
        decision.policy,
        decision.seed,
    )
}

async fn ask(client: &Client, json: bool, asked: &Asked, verb: &str) -> Result<(), Failure> {
    let path = format!("/v1/cluster/nodes/{}/{verb}", encoded(&asked.name));
    let body = json!({ "reason": asked.reason }).to_string();
    let reply = client.post(&path, body).await?;
    let name = line(&asked.name, 60);
    show(&reply, json, || {
        Ok(match verb {
            "cordon" => format!("{name} takes no more agents"),
            "drain" => format!("{name} gives its agents away and takes none"),
            "quarantine" => format!("{name} is kept out until it is released"),
            _ => format!("{name} takes agents again, after a quarantine little by little"),
        })
    })
}

fn rebalanced(reply: &Reply, dry_run: bool) -> Result<String, Failure> {
    let Moves { moves } = reply.decode()?;
    if moves.is_empty() {
        return Ok("the agents are even already".to_owned());
    }
    let verb = if dry_run { "would go" } else { "goes" };
    let lines = moves
        .iter()
        .map(|it| format!("{} {verb} from {} to {}", it.agent, it.from, it.to));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn nodes(nodes: &[Node]) -> String {
    let rows: Vec<Vec<String>> = nodes.iter().map(Node::row).collect();
    let head = [
        "NODE",
        "STATE",
        "LIFE",
        "LEASE LEFT",
        "AGENTS",
        "SCORE",
        "GOSSIP",
        "SESSION",
        "HEALTH",
        "ABOUT",
    ];
    table(&head, &rows)
}

fn placement(placed: &[Placed]) -> String {
    if placed.is_empty() {
        return "no agent is placed; place one with: regrow agents start NAME --role worker"
            .to_owned();
    }
    let rows: Vec<Vec<String>> = placed.iter().map(Placed::why).collect();
    table(&["AGENT", "STATE", "NODE", "EPOCH", "WHY"], &rows)
}

async fn status(client: &Client, json: bool) -> Result<(), Failure> {
    let known = client.get("/v1/cluster/nodes?health=true").await?;
    let agents = client.get("/v1/cluster/placement").await?;
    if json {
        let nodes: serde_json::Value = known.decode()?;
        let placed: serde_json::Value = agents.decode()?;
        let both = json!({ "nodes": nodes["nodes"], "placed": placed["placed"] });
        super::output::print(&both.to_string())?;
        return Ok(());
    }
    let Nodes { nodes: all } = known.decode()?;
    let Placement { placed } = agents.decode()?;
    let alive = all
        .iter()
        .filter(|node| node.life.is_some() || node.state() == "up")
        .count();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for agent in &placed {
        *states.entry(agent.state()).or_default() += 1;
    }
    let states: Vec<String> = states
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    let summary = match placed.len() {
        0 => "no agent is placed".to_owned(),
        count => format!("{count} agents placed: {}", states.join(", ")),
    };
    let lives = if alive == 1 {
        "node lives"
    } else {
        "nodes live"
    };
    let text = format!("{alive} {lives}; {summary}\n\n{}", nodes(&all));
    super::output::print(&text)?;
    Ok(())
}
