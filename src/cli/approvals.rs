//! `regrow approvals`: what people are asked, and what they decide.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::amount::{amount, count};
use super::output::{line, print, relative, table};
use super::tasks::{encoded, show};
use crate::client::{Client, NodeArgs};

#[derive(Args, Debug)]
pub(crate) struct ApprovalsArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: ApprovalsVerb,
}

#[derive(Debug, Subcommand)]
enum ApprovalsVerb {
    /// List questions, newest first
    List {
        /// open, approved, denied, expired, withdrawn or all
        #[arg(long, value_name = "STATE", default_value = "open")]
        state: String,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Say yes: the task goes on
    Approve {
        #[command(flatten)]
        answer: AnswerArgs,
        /// The answer to choose, if there are some to choose from
        #[arg(long, value_name = "ANSWER")]
        choice: Option<String>,
        /// For a budget: let it grow by this many tokens, instead of what is missing
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
        tokens: Option<u64>,
        /// For a budget: let it grow by this much money
        #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true, value_parser = amount)]
        usd: Option<f64>,
        /// For a budget: let it grow by this many calls
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
        calls: Option<u64>,
        /// For a budget: let it grow by this many seconds of work
        #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = amount)]
        seconds: Option<f64>,
    },
    /// Say no: a worker that asked goes on without; a start or a budget denied cancels the task
    Deny {
        #[command(flatten)]
        answer: AnswerArgs,
    },
}

#[derive(Args, Debug)]
struct AnswerArgs {
    /// The question's id
    id: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Who decides
    #[arg(long, value_name = "NAME", default_value = "operator")]
    by: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Approval {
    id: String,
    task: String,
    state: String,
    kind: String,
    question: String,
    options: Vec<String>,
    asked_at: String,
    by: Option<String>,
}

impl Approval {
    fn row(&self) -> Vec<String> {
        let mut question = self.question.clone();
        if !self.options.is_empty() {
            question.push_str(&format!(" [{}]", self.options.join(" | ")));
        }
        vec![
            line(&self.id, 40),
            line(&self.kind, 10),
            line(&self.state, 10),
            line(&self.task, 40),
            relative(&self.asked_at),
            line(&question, 100),
        ]
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    approvals: Vec<Approval>,
    next_cursor: Option<String>,
}

pub(crate) async fn run(args: ApprovalsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let json = args.node.json;
    let (answer, decision, more) = match args.verb {
        ApprovalsVerb::List { state, limit } => {
            return list(&client, json, &state, limit).await;
        }
        ApprovalsVerb::Deny { answer } => (answer, "deny", json!({})),
        ApprovalsVerb::Approve {
            answer,
            choice,
            tokens,
            usd,
            calls,
            seconds,
        } => {
            let grants = tokens.is_some() || usd.is_some() || calls.is_some() || seconds.is_some();
            let grant = json!({ "tokens": tokens, "usd": usd, "calls": calls, "seconds": seconds });
            let grant = if grants { grant } else { json!(null) };
            (
                answer,
                "approve",
                json!({ "choice": choice, "grant": grant }),
            )
        }
    };
    let mut body = more;
    body["decision"] = json!(decision);
    body["note"] = json!(answer.note);
    body["by"] = json!(answer.by);
    let path = format!("/v1/approvals/{}", encoded(&answer.id));
    let reply = client.post(&path, body.to_string()).await?;
    show(&reply, json, || {
        let approval: Approval = reply.decode()?;
        Ok(format!(
            "approval {} is {} by {}; follow its task with: regrow tasks events {} --follow",
            approval.id,
            approval.state,
            approval.by.as_deref().unwrap_or("somebody"),
            approval.task
        ))
    })
}

async fn list(client: &Client, json: bool, state: &str, limit: u32) -> Result<(), Failure> {
    let mut path = format!("/v1/approvals?limit={limit}");
    if state != "all" {
        path.push_str(&format!("&state={}", encoded(state)));
    }
    let reply = client.get(&path).await?;
    if json {
        print(&reply.text)?;
        return Ok(());
    }
    let page: Page = reply.decode()?;
    if page.approvals.is_empty() {
        print(
            "nobody waits for an answer; see earlier ones with: regrow approvals list --state all",
        )?;
        return Ok(());
    }
    let rows: Vec<Vec<String>> = page.approvals.iter().map(Approval::row).collect();
    let head = ["ID", "KIND", "STATE", "TASK", "ASKED", "QUESTION"];
    print(&table(&head, &rows))?;
    if page.next_cursor.is_some() {
        print(&format!("and more; show them with --limit {}", limit * 2))?;
    }
    Ok(())
}
