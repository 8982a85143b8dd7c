//! `regrow store promote`: move the tasks to a PostgreSQL database.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::{DatabaseUrl, PostgresConfig};
use regrow_runtime::store::promotion::{Copied, promote_file};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::super::Failure;
use super::super::failure::{FAILED, USAGE, complain, failed};
use super::super::output::{note, print, print_error};
use crate::client::{Client, ClientError, NodeArgs, read_input};
use crate::config::NodeConfig;

/// Pause between two looks at how far the node is.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// A person hears at least so often how far it is.
const NEWS_PERIOD: Duration = Duration::from_secs(2);

/// Flags of the verb.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The database, such as postgres://USER:PASSWORD@HOST:5432/DATABASE; `-` reads it from
    /// standard input, where other users of the machine do not see it
    #[arg(long, value_name = "DATABASE_URL")]
    to: String,
    /// The node's address
    #[arg(
        long,
        value_name = "URL",
        env = "REGROW_URL",
        default_value = "http://127.0.0.1:7400"
    )]
    url: String,
    /// Bearer token; use the variable, a flag is visible to every user of the machine
    #[arg(
        long,
        value_name = "TOKEN",
        env = "REGROW_TOKEN",
        hide_env_values = true,
        hide = true
    )]
    token: Option<String>,
}

impl Arguments {
    fn target(&self) -> Result<DatabaseUrl, String> {
        let text = match self.to.as_str() {
            "-" => read_input("-").map_err(|error| format!("standard input: {error}"))?,
            to => to.to_owned(),
        };
        let url = text.trim().parse::<DatabaseUrl>();
        url.map_err(|error| format!("--to {error}"))
    }
}

/// How far the node is, as it says so.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Progress {
    phase: String,
    database: Option<String>,
    rows_copied: u64,
    rows_total: u64,
    left_ms: Option<u64>,
    took_ms: u64,
    waited_ms: Option<u64>,
    error: Option<String>,
}

/// Asks a running node, and watches until it is done.
pub(super) async fn running(arguments: Arguments, json: bool) -> ExitCode {
    let target = match arguments.target() {
        Ok(target) => target,
        Err(problem) => {
            complain(&problem, json);
            return USAGE.into();
        }
    };
    let node = NodeArgs::new(arguments.url, arguments.token, json);
    let Err(failure) = watch(&node, &target).await else {
        return ExitCode::SUCCESS;
    };
    if let Failure::Client(ClientError::Refused(refusal)) = &failure
        && json
    {
        // The exit code tells of the failure whether or not this can be written.
        let _ = print(&refusal.text);
    }
    let away = matches!(&failure, Failure::Client(ClientError::Unreachable { .. }));
    let hint = if away {
        "; when no node runs, name its --data-dir"
    } else {
        ""
    };
    print_error(&format!("{failure}{hint}"));
    ExitCode::from(failure.exit_code())
}

async fn watch(node: &NodeArgs, target: &DatabaseUrl) -> Result<(), Failure> {
    const PATH: &str = "/v1/store/promote";
    let client = Client::new(node)?;
    let asked = json!({ "to": target.with_password() }).to_string();
    client.post(PATH, asked).await?;
    let (mut said, mut said_at) = (String::new(), Instant::now());
    loop {
        let reply = client.get(PATH).await?;
        let now: Progress = reply.decode()?;
        let news = now.phase != said || NEWS_PERIOD <= said_at.elapsed();
        if !node.json && news {
            note(&in_words(&now));
            said_at = Instant::now();
        }
        said.clone_from(&now.phase);
        match now.phase.as_str() {
            "done" => {
                match node.json {
                    true => print(&reply.text)?,
                    false => print(&moved(&now))?,
                }
                return Ok(());
            }
            "failed" | "idle" => {
                if node.json {
                    print(&reply.text)?;
                }
                let why = now.error.unwrap_or("the node was started again".to_owned());
                return Err(Failure::Outcome(format!(
                    "the tasks were not moved, they are in the file as before: {why}"
                )));
            }
            _ => tokio::time::sleep(LOOK_PERIOD).await,
        }
    }
}

fn in_words(now: &Progress) -> String {
    let rows = format!("{} of {} rows", now.rows_copied, now.rows_total);
    let left = match now.left_ms {
        Some(left) if 1_000 <= left => format!(", about {} s left", left.div_ceil(1_000)),
        _ => String::new(),
    };
    match now.phase.as_str() {
        "checking" => "looking at the database …".to_owned(),
        "copying" => format!("copying: {rows}{left}"),
        "catching_up" => format!("copying what changed meanwhile: {rows}{left}"),
        "handing_over" => "handing over; whoever calls the node waits a moment …".to_owned(),
        other => format!("{other}: {rows}"),
    }
}

fn moved(now: &Progress) -> String {
    let database = now.database.as_deref().unwrap_or("the database");
    let waited = match now.waited_ms {
        Some(waited) => format!("; callers waited for {waited} ms"),
        None => String::new(),
    };
    format!(
        "the node works on {database} from now on: {} rows in {} ms{waited}\n\
         set store.database_url before the node is started again; on the file alone it refuses",
        now.rows_copied, now.took_ms
    )
}

/// Moves the file of a directory that no node runs on.
pub(super) async fn alone(arguments: Arguments, config: &NodeConfig, json: bool) -> ExitCode {
    let target = match arguments.target() {
        Ok(target) => target,
        Err(problem) => {
            complain(&problem, json);
            return USAGE.into();
        }
    };
    let database = target.to_string();
    let mut dir = match DataDir::open(&config.data_dir) {
        Ok(dir) => dir,
        Err(error) => {
            complain(
                &format!("{error}; a running node moves its tasks itself: leave out --data-dir"),
                json,
            );
            return USAGE.into();
        }
    };
    if dir.is_new() {
        complain(
            &format!("there is nothing in {} to move", config.data_dir.display()),
            json,
        );
        return USAGE.into();
    }
    let instance = match dir.identity() {
        Ok(instance) => instance,
        Err(error) => {
            complain(&error.to_string(), json);
            return USAGE.into();
        }
    };
    let to = PostgresConfig {
        url: target,
        node: config.name.clone(),
        instance,
        life_term: config.life_term,
    };
    let said_at = Mutex::new(Instant::now());
    let tell = |copied: Copied| {
        let mut said_at = said_at.lock();
        if !json && NEWS_PERIOD <= said_at.elapsed() {
            *said_at = Instant::now();
            note(&format!("copying: {} of {} rows", copied.rows, copied.of));
        }
    };
    let began = Instant::now();
    let copied = match promote_file(&mut dir, to, tell).await {
        Ok(copied) => copied,
        Err(error) => return failed(&error, json),
    };
    let took = began.elapsed().as_millis();
    let text = match json {
        true => json!({
            "phase": "done",
            "database": database,
            "rows_copied": copied.rows,
            "rows_total": copied.of,
            "took_ms": took,
        })
        .to_string(),
        false => format!(
            "the tasks are in {database} from now on: {} rows in {took} ms\n\
             set store.database_url before a node is started; on the file alone it refuses",
            copied.rows
        ),
    };
    match print(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => FAILED.into(),
    }
}
