//! `regrow queue`: look at the queue and turn its switches.

mod rules;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use self::rules::RulesVerb;
use super::Failure;
use super::dead_letters::{self, Which};
use super::output::facts;
use super::tasks::show;
use crate::client::{Client, NodeArgs};

#[derive(Args, Debug)]
pub(crate) struct QueueArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: QueueVerb,
}

#[derive(Debug, Subcommand)]
enum QueueVerb {
    /// Show how the queue stands, as the node that is asked sees it
    Stats,
    /// Show how many workers may be at work, where that adapts, and why
    Concurrency,
    /// Give no more leases; submissions are still accepted
    Pause,
    /// Give leases and accept submissions again
    Resume,
    /// Accept no more submissions; what is there is finished
    Drain,
    /// Cancel every task that nobody executes
    Clear {
        /// Really do it
        #[arg(long)]
        yes: bool,
    },
    /// Show what was given up, grouped by kind and error
    DeadLetters {
        #[command(flatten)]
        which: Which,
    },
    /// Give what was given up all its attempts again
    Replay {
        #[command(flatten)]
        which: Which,
        /// Really do it
        #[arg(long)]
        yes: bool,
    },
    /// Set how many tasks may wait
    SetMax {
        /// A number of tasks, or `default` for the configured one
        #[arg(value_parser = max_size)]
        n: MaxSize,
    },
    #[command(flatten)]
    Rules(RulesVerb),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MaxSize(Option<u64>);

fn max_size(text: &str) -> Result<MaxSize, String> {
    if text == "default" {
        return Ok(MaxSize(None));
    }
    text.parse()
        .map(|n| MaxSize(Some(n)))
        .map_err(|_| "must be a whole number, or `default`".to_owned())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    size: u64,
    max_size: u64,
    utilization: f64,
    bytes: u64,
    paused: bool,
    draining: bool,
    states: BTreeMap<String, u64>,
    lanes: BTreeMap<String, u64>,
    kinds: BTreeMap<String, u64>,
    counters: BTreeMap<String, u64>,
    parked: u64,
    fairness: Fairness,
}

/// Served shares against weights.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fairness {
    window_ms: u64,
    classes: BTreeMap<String, Share>,
    tenants: BTreeMap<String, Share>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Share {
    served: u64,
    waiting: u64,
    weight: f64,
    share: f64,
    fair_share: f64,
}

impl Share {
    fn text(&self, name: &str) -> String {
        format!(
            "{name} {:.0} % of {:.0} % due ({} served, {} waiting, weight {})",
            self.share * 100.0,
            self.fair_share * 100.0,
            self.served,
            self.waiting,
            self.weight
        )
    }
}

impl Stats {
    fn shares(&self, shares: &BTreeMap<String, Share>) -> String {
        if shares.is_empty() {
            return "none served or waiting of late".to_owned();
        }
        let seconds = self.fairness.window_ms / 1_000;
        let texts: Vec<String> = shares
            .iter()
            .map(|(name, share)| share.text(name))
            .collect();
        format!("{} (last {seconds} s)", texts.join("; "))
    }

    fn facts(&self) -> String {
        let counted = |counts: &BTreeMap<String, u64>| {
            let known = counts.iter().filter(|(_, count)| 0 < **count);
            let text: Vec<String> = known.map(|(name, n)| format!("{n} {name}")).collect();
            if text.is_empty() {
                "none".to_owned()
            } else {
                text.join(", ")
            }
        };
        let switch = match (self.paused, self.draining) {
            (false, false) => "open",
            (true, false) => "paused: gives no leases",
            (false, true) => "draining: accepts no tasks",
            (true, true) => "paused and draining: neither gives leases nor accepts tasks",
        };
        facts(&[
            ("queue", switch.to_owned()),
            (
                "waiting",
                format!(
                    "{} of {} ({:.0} %)",
                    self.size,
                    self.max_size,
                    self.utilization * 100.0
                ),
            ),
            ("payloads", format!("{} KiB", self.bytes.div_ceil(1_024))),
            ("states", counted(&self.states)),
            ("lanes", counted(&self.lanes)),
            ("kinds", counted(&self.kinds)),
            ("at gates", format!("{} waiting", self.parked)),
            ("since start", counted(&self.counters)),
            ("classes", self.shares(&self.fairness.classes)),
            ("tenants", self.shares(&self.fairness.tenants)),
        ])
    }
}

#[derive(Debug, Deserialize)]
struct Concurrency {
    role: String,
    limit: u64,
    max: u64,
    action: String,
    reason: String,
    in_flight: u64,
    stretch: f64,
    service_ms: f64,
    failure_ratio: f64,
    est_latency_ms: f64,
}

impl Concurrency {
    fn text(all: &[Self]) -> String {
        if all.is_empty() {
            return "as many work at once as there are workers; \
                    start the node with agents.adaptive = true to let that adapt"
                .to_owned();
        }
        let each = all.iter().map(|one| {
            facts(&[
                ("role", one.role.clone()),
                ("at once", format!("{} of {} workers", one.limit, one.max)),
                (
                    "last change",
                    format!(
                        "{}, because of {}",
                        one.action,
                        one.reason.replace('_', " ")
                    ),
                ),
                ("at work", one.in_flight.to_string()),
                (
                    "a task takes",
                    format!(
                        "{:.1} ms, {:.2} times as long as at best",
                        one.service_ms, one.stretch
                    ),
                ),
                ("failing", format!("{:.0} %", one.failure_ratio * 100.0)),
                ("a new task waits", format!("{:.0} ms", one.est_latency_ms)),
            ])
        });
        each.collect::<Vec<_>>().join("\n")
    }
}

#[derive(Debug, Deserialize)]
struct Cleared {
    cleared: u64,
}

pub(crate) async fn run(args: QueueArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let turn = async |verb: &str| {
        let path = format!("/v1/queue/{verb}");
        client.post(&path, "{}".to_owned()).await
    };
    let reply = match args.verb {
        QueueVerb::Rules(verb) => return rules::run(&client, args.node.json, verb).await,
        QueueVerb::Concurrency => {
            let reply = client.get("/v1/queue/concurrency").await?;
            return show(&reply, args.node.json, || {
                Ok(Concurrency::text(&reply.decode::<Vec<Concurrency>>()?))
            });
        }
        QueueVerb::DeadLetters { which } => {
            return dead_letters::browse(&client, &which, args.node.json).await;
        }
        QueueVerb::Replay { which, yes } => {
            return dead_letters::replay(&client, &which, yes, args.node.json).await;
        }
        QueueVerb::Stats => client.get("/v1/queue").await?,
        QueueVerb::Pause => turn("pause").await?,
        QueueVerb::Resume => turn("resume").await?,
        QueueVerb::Drain => turn("drain").await?,
        QueueVerb::SetMax { n: MaxSize(n) } => {
            let body = json!({ "max_size": n }).to_string();
            client.put("/v1/queue/max_size", body).await?
        }
        QueueVerb::Clear { yes: false } => {
            let stats: Stats = client.get("/v1/queue").await?.decode()?;
            return Err(Failure::Usage(format!(
                "this would cancel up to {} waiting tasks; repeat with --yes to do it",
                stats.size
            )));
        }
        QueueVerb::Clear { yes: true } => {
            let reply = turn("clear").await?;
            return show(&reply, args.node.json, || {
                let Cleared { cleared } = reply.decode()?;
                Ok(format!("{cleared} tasks cancelled"))
            });
        }
    };
    show(&reply, args.node.json, || {
        Ok(reply.decode::<Stats>()?.facts())
    })
}
