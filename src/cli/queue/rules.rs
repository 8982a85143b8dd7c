//! `regrow queue rules` and the verbs that set them: weights, limits, rates, resources.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Failure;
use super::super::output::{facts, table};
use super::super::tasks::{encoded, show};
use crate::client::{Client, Reply};

#[derive(Debug, Subcommand)]
pub(super) enum RulesVerb {
    /// Show weights, limits, rates and resources, and how their gates stand
    Rules,
    /// Set the share of a class or of a tenant within its class
    SetWeight {
        /// Whose
        #[arg(value_enum)]
        side: Side,
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// 0.01 to 100, or `default` for 1
        #[arg(value_parser = number::<f64>)]
        weight: Setting<f64>,
    },
    /// Set how many tasks of a concurrency key may execute at once
    SetLimit {
        /// The key
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        key: String,
        /// A number of tasks, or `default` for the default limit
        #[arg(value_parser = number::<u64>)]
        limit: Setting<u64>,
    },
    /// Set the limit of concurrency keys that have none of their own
    SetDefaultLimit {
        /// A number of tasks, or `none`
        #[arg(value_parser = number::<u64>)]
        limit: Setting<u64>,
    },
    /// Set how often tasks of a rate key may start
    SetRate {
        /// The key
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        key: String,
        #[command(flatten)]
        rate: RateArgs,
        /// No rate any more
        #[arg(long, conflicts_with_all = ["units", "per", "burst"])]
        remove: bool,
    },
    /// Define a resource that tasks may need: slots, or units that come back with time
    SetResource {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Slots, held while a task executes
        #[arg(long, conflicts_with_all = ["units", "per", "burst"])]
        slots: Option<u64>,
        #[command(flatten)]
        rate: RateArgs,
        /// Remove it; tasks that need it wait until there is one again
        #[arg(long, conflicts_with_all = ["slots", "units", "per", "burst"])]
        remove: bool,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Side {
    /// A class, among the classes
    Class,
    /// A tenant, among the tenants of a class
    Tenant,
}

#[derive(Args, Debug)]
pub(super) struct RateArgs {
    /// Units that come back within a period
    #[arg(long, requires = "per")]
    units: Option<u64>,
    /// The period, such as 1s or 1m
    #[arg(long, value_parser = humantime::parse_duration, requires = "units")]
    per: Option<Duration>,
    /// Units that may go at once; `units` unless given
    #[arg(long, requires = "units")]
    burst: Option<u64>,
}

impl RateArgs {
    fn body(&self) -> Result<String, Failure> {
        let (Some(units), Some(per)) = (self.units, self.per) else {
            return Err(Failure::Usage(
                "say how much with --units N --per DURATION, or --remove it".to_owned(),
            ));
        };
        let body = json!({
            "units": units,
            "period_ms": u64::try_from(per.as_millis()).unwrap_or(u64::MAX),
            "burst": self.burst,
        });
        Ok(body.to_string())
    }
}

/// A value, or none to return to the default.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<T>(Option<T>);

fn number<T: std::str::FromStr>(text: &str) -> Result<Setting<T>, String> {
    if text == "default" || text == "none" {
        return Ok(Setting(None));
    }
    let number = text.parse().map(|number| Setting(Some(number)));
    number.map_err(|_| "must be a number, `default` or `none`".to_owned())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InForce {
    class_weights: BTreeMap<String, f64>,
    tenant_weights: BTreeMap<String, f64>,
    default_limit: Option<u64>,
    rates: BTreeMap<String, Value>,
    gates: BTreeMap<String, Gate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Gate {
    total: Option<u64>,
    free: Option<u64>,
    held: u64,
    parked: u64,
}

impl InForce {
    fn text(&self) -> String {
        let weights = |weights: &BTreeMap<String, f64>| {
            let texts: Vec<String> = weights
                .iter()
                .map(|(name, w)| format!("{name} {w}"))
                .collect();
            if texts.is_empty() {
                "all 1".to_owned()
            } else {
                format!("{}; others 1", texts.join(", "))
            }
        };
        let limit = self.default_limit;
        let limit = limit.map_or_else(
            || "none".to_owned(),
            |limit| format!("{limit} tasks per key"),
        );
        let mut text = facts(&[
            ("class weights", weights(&self.class_weights)),
            ("tenant weights", weights(&self.tenant_weights)),
            ("default limit", limit),
        ]);
        if !self.gates.is_empty() {
            let mut rows = Vec::new();
            for (name, gate) in &self.gates {
                let count = |n: Option<u64>| n.map_or_else(|| "any".to_owned(), |n| n.to_string());
                rows.push(vec![
                    name.clone(),
                    count(gate.total),
                    count(gate.free),
                    gate.held.to_string(),
                    gate.parked.to_string(),
                ]);
            }
            text.push('\n');
            text.push_str(&table(&["gate", "total", "free", "held", "waiting"], &rows));
        }
        text
    }
}

pub(super) async fn run(client: &Client, json: bool, verb: RulesVerb) -> Result<(), Failure> {
    let reply = ask(client, verb).await?;
    show(&reply, json, || Ok(reply.decode::<InForce>()?.text()))
}

async fn ask(client: &Client, verb: RulesVerb) -> Result<Reply, Failure> {
    let limit = |key: &str| format!("/v1/queue/limits/{}", encoded(key));
    let rate_of = |key: &str| format!("/v1/queue/rates/{}", encoded(key));
    let resource = |name: &str| format!("/v1/queue/resources/{}", encoded(name));
    let reply = match verb {
        RulesVerb::Rules => client.get("/v1/queue/rules").await?,
        RulesVerb::SetWeight {
            side,
            name,
            weight: Setting(weight),
        } => {
            let side = match side {
                Side::Class => "class",
                Side::Tenant => "tenant",
            };
            let body = json!({ side: { name: weight } }).to_string();
            client.put("/v1/queue/weights", body).await?
        }
        RulesVerb::SetLimit {
            key,
            limit: Setting(None),
        } => client.delete(&limit(&key)).await?,
        RulesVerb::SetLimit {
            key,
            limit: Setting(Some(n)),
        } => {
            let body = json!({ "limit": n }).to_string();
            client.put(&limit(&key), body).await?
        }
        RulesVerb::SetDefaultLimit { limit: Setting(n) } => {
            let body = json!({ "default": n }).to_string();
            client.put("/v1/queue/limits", body).await?
        }
        RulesVerb::SetRate {
            key, remove: true, ..
        } => client.delete(&rate_of(&key)).await?,
        RulesVerb::SetRate {
            key,
            rate,
            remove: false,
        } => client.put(&rate_of(&key), rate.body()?).await?,
        RulesVerb::SetResource {
            name, remove: true, ..
        } => client.delete(&resource(&name)).await?,
        RulesVerb::SetResource {
            name,
            slots: Some(slots),
            remove: false,
            ..
        } => {
            let body = json!({ "slots": slots }).to_string();
            client.put(&resource(&name), body).await?
        }
        RulesVerb::SetResource {
            name,
            slots: None,
            rate,
            remove: false,
        } => client.put(&resource(&name), rate.body()?).await?,
    };
    Ok(reply)
}
