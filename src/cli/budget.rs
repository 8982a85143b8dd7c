//! `regrow budget`: what may be spent, and what was.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::amount::{amount, count};
use super::output::{facts, line, table};
use super::tasks::{encoded, show};
use crate::client::{Client, NodeArgs};

#[derive(Args, Debug)]
pub(crate) struct BudgetArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: BudgetVerb,
}

#[derive(Debug, Subcommand)]
enum BudgetVerb {
    /// List the budgets of the node, of tenants, and of trees with live tasks
    List,
    /// Show how a budget stands
    Show {
        /// node, tenant:NAME or task:ID
        scope: String,
    },
    /// Set what may be spent; what is not named has no limit
    Set {
        /// node, tenant:NAME or task:ID
        scope: String,
        /// Tokens, read and written together
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
        tokens: Option<u64>,
        /// Money
        #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true, value_parser = amount)]
        usd: Option<f64>,
        /// Calls of models and tools
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
        calls: Option<u64>,
        /// Seconds of work
        #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = amount)]
        seconds: Option<f64>,
        /// Count from zero again each day or month, in UTC
        #[arg(long, value_name = "PERIOD", value_parser = ["day", "month"])]
        period: Option<String>,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Amounts {
    tokens: u64,
    usd: f64,
    calls: u64,
    seconds: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    tokens: Option<u64>,
    usd: Option<f64>,
    calls: Option<u64>,
    seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Budget {
    scope: String,
    limits: Limits,
    period: Option<String>,
    since: String,
    spent: Amounts,
    reserved: Amounts,
    granted: Amounts,
}

impl Budget {
    /// Each unit that is limited or was spent, as `spent + reserved of limit`.
    fn figures(&self) -> Vec<(&'static str, String)> {
        let (limits, spent) = (&self.limits, &self.spent);
        let (reserved, granted) = (&self.reserved, &self.granted);
        let whole = |unit, limit: Option<u64>, spent: u64, reserved: u64, granted: u64| {
            let limit = limit.map(|limit| (limit + granted).to_string());
            (unit, limit, spent.to_string(), reserved.to_string())
        };
        let part = |unit, limit: Option<f64>, spent: f64, reserved: f64, granted: f64| {
            let limit = limit.map(|limit| format!("{:.6}", limit + granted));
            let trimmed = |text: String| {
                let text = text.trim_end_matches('0');
                text.trim_end_matches('.').to_owned()
            };
            (
                unit,
                limit.map(trimmed),
                trimmed(format!("{spent:.6}")),
                trimmed(format!("{reserved:.6}")),
            )
        };
        let all = [
            whole(
                "tokens",
                limits.tokens,
                spent.tokens,
                reserved.tokens,
                granted.tokens,
            ),
            part("usd", limits.usd, spent.usd, reserved.usd, granted.usd),
            whole(
                "calls",
                limits.calls,
                spent.calls,
                reserved.calls,
                granted.calls,
            ),
            part(
                "seconds",
                limits.seconds,
                spent.seconds,
                reserved.seconds,
                granted.seconds,
            ),
        ];
        let told = all.into_iter().filter(|(_, limit, spent, reserved)| {
            limit.is_some() || spent != "0" || reserved != "0"
        });
        told.map(|(unit, limit, spent, reserved)| {
            let limit = limit.map_or("no limit".to_owned(), |limit| format!("of {limit}"));
            let under_way = if reserved == "0" {
                String::new()
            } else {
                format!(", {reserved} under way")
            };
            (unit, format!("{spent} spent {limit}{under_way}"))
        })
        .collect()
    }

    fn row(&self) -> Vec<String> {
        let figures = self.figures();
        let figures: Vec<String> = figures
            .iter()
            .map(|(unit, text)| format!("{unit}: {text}"))
            .collect();
        vec![
            line(&self.scope, 80),
            line(self.period.as_deref().unwrap_or("-"), 8),
            line(&figures.join("; "), 160),
        ]
    }

    fn facts(&self) -> String {
        let mut all = vec![("budget", self.scope.clone())];
        if let Some(period) = &self.period {
            all.push(("per", period.clone()));
        }
        all.push(("since", self.since.clone()));
        all.extend(self.figures());
        facts(&all)
    }
}

#[derive(Debug, Deserialize)]
struct Budgets {
    budgets: Vec<Budget>,
}

pub(crate) async fn run(args: BudgetArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let path = |scope: &str| format!("/v1/budgets/{}", encoded(scope));
    let reply = match args.verb {
        BudgetVerb::List => {
            let reply = client.get("/v1/budgets").await?;
            return show(&reply, args.node.json, || {
                let Budgets { budgets } = reply.decode()?;
                if budgets.is_empty() {
                    let hint = "no budgets yet; set one with: regrow budget set node --usd 10 --period day";
                    return Ok(hint.to_owned());
                }
                let rows: Vec<Vec<String>> = budgets.iter().map(Budget::row).collect();
                Ok(table(&["SCOPE", "PER", "FIGURES"], &rows))
            });
        }
        BudgetVerb::Show { scope } => client.get(&path(&scope)).await?,
        BudgetVerb::Set {
            scope,
            tokens,
            usd,
            calls,
            seconds,
            period,
        } => {
            let body = json!({
                "tokens": tokens,
                "usd": usd,
                "calls": calls,
                "seconds": seconds,
                "period": period,
            });
            client.put(&path(&scope), body.to_string()).await?
        }
    };
    show(&reply, args.node.json, || {
        Ok(reply.decode::<Budget>()?.facts())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_told_by_what_is_limited_or_spent() {
        let budget: Budget = serde_json::from_str(
            r#"{"scope":"node","limits":{"usd":1.5},"spent":{"usd":0.25,"calls":3},
                "reserved":{"usd":0.5},"granted":{"usd":1}}"#,
        )
        .expect("a budget");
        let expected = [
            ("usd", "0.25 spent of 2.5, 0.5 under way".to_owned()),
            ("calls", "3 spent no limit".to_owned()),
        ];
        assert_eq!(budget.figures(), expected);
    }
}
