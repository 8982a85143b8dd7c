//! `regrow tasks steps`: the journal of a task.

use serde::Deserialize;
use serde_json::Value;

use super::super::output::{facts, line, pretty, relative};
use super::super::{Failure, pages};
use super::{encoded, figures, show};
use crate::client::Client;

/// A finished step, as the node says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    key: String,
    input: Value,
    output: Value,
    output_hash: Option<String>,
    epoch: u64,
    cost: Value,
    finished_at: String,
}

impl Step {
    fn row(&self) -> Vec<String> {
        let output = match &self.output_hash {
            Some(_) => "large; show it with --key".to_owned(),
            None => self.output.to_string(),
        };
        vec![
            line(&self.key, 40),
            relative(&self.finished_at),
            self.epoch.to_string(),
            line(&self.cost().unwrap_or_default(), 60),
            line(&output, 60),
        ]
    }

    /// Without the figures that are nothing.
    fn cost(&self) -> Option<String> {
        let mut cost = self.cost.clone();
        if let Some(figures) = cost.as_object_mut() {
            figures.retain(|_, figure| figure.as_f64() != Some(0.0));
        }
        figures(&cost)
    }

    fn facts(&self) -> String {
        let at = format!("{} ({})", self.finished_at, relative(&self.finished_at));
        let mut known = vec![
            ("key", self.key.clone()),
            ("finished", at),
            ("epoch", self.epoch.to_string()),
        ];
        known.extend(self.cost().map(|cost| ("cost", cost)));
        known.push(("input", pretty(&self.input)));
        known.push(("output", pretty(&self.output)));
        facts(&known)
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    steps: Vec<Step>,
    next_cursor: Option<String>,
}

impl pages::Page for Page {
    fn rows(self) -> (Vec<Vec<String>>, Option<String>) {
        (self.steps.iter().map(Step::row).collect(), self.next_cursor)
    }
}

pub(super) async fn show_one(
    client: &Client,
    json: bool,
    id: &str,
    key: &str,
) -> Result<(), Failure> {
    let path = format!("/v1/tasks/{}/steps/{}", encoded(id), encoded(key));
    let reply = client.get(&path).await?;
    show(&reply, json, || Ok(reply.decode::<Step>()?.facts()))
}

/// Lists up to `limit` steps of a task.
pub(super) async fn list(
    client: &Client,
    json: bool,
    id: &str,
    limit: usize,
) -> Result<(), Failure> {
    let path = format!("/v1/tasks/{}/steps?", encoded(id));
    let head = ["KEY", "FINISHED", "EPOCH", "COST", "OUTPUT"];
    pages::list::<Page>(
        client,
        json,
        &path,
        limit,
        &head,
        "no step of it is finished",
    )
    .await
}
