//! `regrow improve`: a search for a better strategy, followed on the terminal.
//!
//! The search is a task of the node, and goes on whether or not anybody follows it. What it finds is
//! held against what is known on instances that nothing was bred on or chosen by.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use regrow_actors::packing::{Family, Held, Split, hold_out};
use regrow_actors::synthesis::tasks::{Champion, SEARCH, SearchGoal};
use regrow_runtime::clock::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Failure;
use super::output::{facts, line, note, print, table};
use super::tasks::Task;
use crate::client::{Client, NodeArgs};

/// How long a node is asked to wait for the end before the progress is looked at again.
const LOOK: Duration = Duration::from_secs(1);
/// The longest strategy that is shown while it is sought.
const SHOWN_MAX: usize = 100;

#[derive(Args, Debug)]
pub(crate) struct ImproveArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: ImproveVerb,
}

#[derive(Debug, Subcommand)]
enum ImproveVerb {
    /// Search for a strategy for online bin packing, beginning with best fit, without a model
    Search(SearchArgs),
}

#[derive(Args, Debug)]
struct SearchArgs {
    /// Where the items come from
    #[arg(long, value_enum, default_value_t = FamilyName::Weibull)]
    family: FamilyName,
    /// Items of an instance; 5000 for weibull and 500 for uniform, as published
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    items: Option<u32>,
    /// Decides what is drawn by lot; the same seed and generations give the same champion
    #[arg(long, value_name = "N")]
    seed: u64,
    /// Begin no generation after this many minutes
    #[arg(long, value_name = "M", required_unless_present = "generations", value_parser = super::amount::amount)]
    minutes: Option<f64>,
    /// Stop after this many generations
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    generations: Option<u64>,
    /// Candidates of a generation
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Tasks that a generation is tried in: how many workers it can keep busy
    #[arg(long, value_name = "N", default_value_t = 4)]
    parts: usize,
    /// Instances to breed on
    #[arg(long, value_name = "N", default_value_t = 6)]
    training: u64,
    /// Instances to choose the champion by
    #[arg(long, value_name = "N", default_value_t = 10)]
    validation: u64,
    /// Instances that it is held against what is known on, which the search does not see
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    test: u64,
    /// Strategies may look at all bins at once; slower
    #[arg(long)]
    whole_row: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyName {
    /// Bins of 100; Weibull of shape 3 and scale 45
    Weibull,
    /// Bins of 150; uniform from 20 to 100
    Uniform,
}

impl SearchArgs {
    fn goal(&self) -> SearchGoal {
        let family = match (self.family, self.items) {
            (FamilyName::Weibull, items) => Family::Weibull {
                items: items.unwrap_or(5_000),
            },
            (FamilyName::Uniform, items) => Family::Uniform {
                items: items.unwrap_or(500),
            },
        };
        let generations = self.generations.unwrap_or(1_000_000);
        SearchGoal {
            until: self.minutes.map(|minutes| {
                let patience = Duration::try_from_secs_f64(minutes * 60.0);
                Clock::system()
                    .now()
                    .after(patience.unwrap_or(Duration::MAX))
            }),
            batch: self.batch,
            parts: self.parts,
            training: self.training,
            validation: self.validation,
            whole_row: self.whole_row,
            ..SearchGoal::new(family, self.seed, generations)
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Found {
    task: String,
    champion: Champion,
    test: Test,
}

/// How strategies did on instances that nothing was bred on or chosen by.
#[derive(Serialize)]
struct Test {
    family: Family,
    first_seed: u64,
    instances: u64,
    strategies: Vec<Held>,
}

pub(crate) async fn run(args: ImproveArgs) -> Result<(), Failure> {
    let ImproveVerb::Search(search) = &args.verb;
    let goal = search.goal();
    goal.check().map_err(Failure::Usage)?;
    let client = Client::new(&args.node)?;
    let payload = serde_json::to_value(&goal);
    let payload = payload.map_err(|error| Failure::Usage(error.to_string()))?;
    let task = json!({
        "kind": SEARCH,
        "payload": payload,
        "goal": "find a better strategy for online bin packing",
    });
    let accepted: Task = client.post("/v1/tasks", task.to_string()).await?.decode()?;
    if !args.node.json {
        note(&format!(
            "search {} accepted; it goes on if you stop following it",
            accepted.id
        ));
    }
    let ended = follow(&client, accepted, args.node.json).await?;
    if ended.state.as_deref() != Some("completed") {
        let reason = ended.error.as_deref().unwrap_or("no reason was given");
        let state = ended.state.as_deref().unwrap_or("lost");
        let reason = line(reason, 2_000);
        return Err(Failure::Outcome(format!(
            "search {} was {state}: {reason}",
            ended.id
        )));
    }
    let champion: Champion = serde_json::from_value(ended.result)
        .map_err(|error| Failure::Outcome(format!("the result cannot be read: {error}")))?;
    let test = test(&champion, goal.family, search.test).await?;
    if args.node.json {
        let found = Found {
            task: ended.id,
            champion,
            test,
        };
        let text = serde_json::to_string_pretty(&found);
        print(&text.map_err(|error| Failure::Outcome(error.to_string()))?)?;
        return Ok(());
    }
    show(&champion, &test)
}

/// What agents noted about the search.
#[derive(Deserialize)]
struct Noted {
    context: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    attrs: Map<String, Value>,
}

/// Follows a search to its end, and tells of its progress unless only JSON is wanted.
async fn follow(client: &Client, mut task: Task, quiet: bool) -> Result<Task, Failure> {
    let (began, mut told) = (Instant::now(), None);
    while !task.has_ended() {
        let path = format!("/v1/tasks/{}?wait_ms={}", task.id, LOOK.as_millis());
        let asked = Instant::now();
        task = client.wait(&path, LOOK).await?.decode()?;
        if asked.elapsed() < LOOK / 2 && !task.has_ended() {
            // The node answers early while it stops; do not hammer it.
            tokio::time::sleep(LOOK / 2).await;
        }
        if quiet {
            continue;
        }
        let noted = client
            .get(&format!("/v1/tasks/{}/context", task.id))
            .await?;
        let noted: Noted = noted.decode()?;
        let Some(Context { attrs }) = noted.context else {
            continue;
        };
        let generations = attrs.get("generations").and_then(Value::as_u64);
        if generations.is_none() || generations == told {
            continue;
        }
        told = generations;
        let number = |name: &str| attrs.get(name).and_then(Value::as_u64).unwrap_or(0);
        let cost = attrs
            .get("cost")
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN);
        let best = attrs.get("best").and_then(Value::as_str).unwrap_or("?");
        note(&format!(
            "{:>7.1} s  generation {:>5}  {:>8} tried  {:>6.2} % above the bound  {}",
            began.elapsed().as_secs_f64(),
            number("generations"),
            number("tried"),
            100.0 * cost,
            line(best, SHOWN_MAX)
        ));
    }
    Ok(task)
}

/// Holds the champion against what is known.
async fn test(champion: &Champion, family: Family, instances: u64) -> Result<Test, Failure> {
    let strategy = champion.strategy.clone();
    let held = tokio::task::spawn_blocking(move || hold_out(&strategy, family, instances)).await;
    let strategies = held
        .map_err(|error| Failure::Outcome(error.to_string()))?
        .map_err(|error| Failure::Outcome(format!("the champion cannot be read: {error}")))?;
    Ok(Test {
        family,
        first_seed: Split::Test.first_seed(),
        instances,
        strategies,
    })
}

fn show(champion: &Champion, test: &Test) -> Result<(), Failure> {
    print(&facts(&[
        ("champion", champion.strategy.clone()),
        ("generations", champion.generations.to_string()),
        ("tried", champion.tried.to_string()),
        ("seed", champion.seed.to_string()),
        ("training", percent(champion.training)),
        ("validation", percent(champion.validation)),
    ]))?;
    let Test {
        first_seed,
        instances,
        ..
    } = test;
    print(&format!(
        "\non {instances} instances that the search has not seen (seeds from {first_seed}):\n"
    ))?;
    let rows: Vec<Vec<String>> = test
        .strategies
        .iter()
        .map(|held| {
            vec![
                held.strategy.to_owned(),
                held.bins.to_string(),
                held.bound.to_string(),
                percent(held.share),
            ]
        })
        .collect();
    print(&table(
        &["strategy", "bins", "bound", "above the bound"],
        &rows,
    ))?;
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}
