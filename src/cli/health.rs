//! `regrow health`: ask a node how it is.

use std::collections::BTreeMap;

use clap::Args;
use serde::Deserialize;

use super::Failure;
use super::output::{facts, line, print};
use crate::client::{Client, ClientError, NodeArgs};

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Health {
    status: String,
    version: String,
    checks: BTreeMap<String, Check>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Check {
    status: String,
    detail: String,
}

/// Exits with 0 unless some part failed; warnings are shown.
pub(crate) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let (text, failed) = match client.get("/health/deep").await {
        Ok(reply) => (reply.text, None),
        // A node in trouble answers 503 with the same document.
        Err(ClientError::Refused(refusal)) => {
            (refusal.text.clone(), Some(ClientError::Refused(refusal)))
        }
        Err(error) => return Err(error.into()),
    };
    let health: Health = match (serde_json::from_str(&text), failed) {
        (Ok(health), _) => health,
        (Err(_), Some(refused)) => return Err(refused.into()),
        (Err(error), None) => {
            return Err(Failure::Outcome(format!(
                "the node's health cannot be read: {error}"
            )));
        }
    };
    if health.checks.is_empty() {
        return Err(Failure::Outcome("the node did not tell its health".into()));
    }
    if args.node.json {
        print(&text)?;
    } else {
        let head = [(
            "node",
            format!("{} (version {})", health.status, health.version),
        )];
        let checks = health.checks.iter().map(|(name, check)| {
            let text = format!("{}: {}", check.status, line(&check.detail, 200));
            (name.as_str(), text)
        });
        let all: Vec<(&str, String)> = head.into_iter().chain(checks).collect();
        print(&facts(&all))?;
    }
    if health.status == "failed" {
        return Err(Failure::Outcome("some part of the node failed".into()));
    }
    Ok(())
}
