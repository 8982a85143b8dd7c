//! `regrow store`: check the database, copy it while a node runs, put a copy back, move it.

mod promote;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use regrow_runtime::store::sqlite;
use regrow_runtime::store::sqlite::upkeep::{self, Findings, UpkeepError};

use super::failure::{FAILED, USAGE, complain, failed, report};
use super::output::{note, print};
use crate::config::{self, ConfigError, NodeConfig, Overrides};

/// Flags of `regrow store`.
#[derive(Args, Debug)]
pub(crate) struct StoreArguments {
    /// Where everything durable lies; `regrow node --print-config` shows where that is otherwise.
    #[arg(long, value_name = "DIR", global = true)]
    data_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: StoreVerb,
}

#[derive(Debug, Subcommand)]
enum StoreVerb {
    /// Check the database and what must hold between its rows; a node may run on it
    Verify {
        /// A database file, such as a backup, instead of the one in the data directory
        file: Option<PathBuf>,
    },
    /// Copy the database to FILE and check the copy; a node may run on it
    Backup {
        /// The copy; must not exist yet
        file: PathBuf,
    },
    /// Move a node's tasks from its file to a PostgreSQL database, while it works on; with
    /// --data-dir those of a directory that no node runs on
    Promote(promote::Arguments),
    /// Make a fresh data directory out of a backup; no node may run on it
    Restore {
        /// The backup
        file: PathBuf,
    },
}

/// Runs the verb.
pub(crate) async fn run(arguments: StoreArguments) -> ExitCode {
    let json = arguments.json;
    let alone = arguments.data_dir.is_some();
    if let StoreVerb::Promote(promote) = arguments.verb {
        return match alone {
            false => promote::running(promote, json).await,
            true => match settings(arguments.data_dir) {
                Ok(config) => promote::alone(promote, &config, json).await,
                Err(error) => {
                    report(&error, json);
                    USAGE.into()
                }
            },
        };
    }
    let config = match settings(arguments.data_dir) {
        Ok(config) => config,
        Err(error) => {
            report(&error, json);
            return USAGE.into();
        }
    };
    let is_elsewhere = !matches!(arguments.verb, StoreVerb::Verify { file: Some(_) });
    if let Some(url) = config.database_url.filter(|_| is_elsewhere) {
        complain(
            &format!(
                "the tasks are in {url}, not in a file: copy that with `pg_dump`, put a copy back \
                 with `pg_restore`, or unset store.database_url to work on the file"
            ),
            json,
        );
        return USAGE.into();
    }
    let data_dir = config.data_dir;
    let database = data_dir.join(sqlite::FILE);
    let outcome = match arguments.verb {
        StoreVerb::Verify { file } => upkeep::verify(&file.unwrap_or(database)).await,
        StoreVerb::Backup { file } => {
            if !json {
                note(&format!("copying {} …", database.display()));
            }
            upkeep::back_up(&database, &file).await
        }
        // Done above.
        StoreVerb::Promote(_) => return ExitCode::SUCCESS,
        StoreVerb::Restore { file } => {
            let restored = upkeep::restore(&file, &data_dir).await;
            if restored.is_ok() && !json {
                note(&format!(
                    "{} holds {} from now on: what was submitted after the copy was made is not \
                     in it, and what was finished after it runs again",
                    data_dir.display(),
                    file.display()
                ));
            }
            restored
        }
    };
    told(outcome, json)
}

fn settings(flag: Option<PathBuf>) -> Result<NodeConfig, ConfigError> {
    let overrides = Overrides {
        data_dir: flag,
        ..Overrides::default()
    };
    let loaded = config::load(&overrides, std::env::vars())?;
    Ok(loaded.config)
}

fn told(outcome: Result<Findings, UpkeepError>, json: bool) -> ExitCode {
    let findings = match outcome {
        Ok(findings) => findings,
        Err(error) => return failed(&error, json),
    };
    let text = match json {
        // Findings are plain data; they cannot fail to be JSON.
        true => serde_json::to_string(&findings).unwrap_or_default(),
        false => summary(&findings),
    };
    if print(&text).is_err() {
        return FAILED.into();
    }
    if findings.problems.is_empty() {
        return ExitCode::SUCCESS;
    }
    if !json {
        complain(
            "the database is not sound; restore a backup, or report this",
            json,
        );
    }
    FAILED.into()
}

fn summary(findings: &Findings) -> String {
    let rows = |table: &str| findings.rows.get(table).copied().unwrap_or(0);
    let path: &Path = &findings.path;
    let mut lines = vec![format!(
        "{}: {} tasks ({} live, {} ended), {} steps, {} log lines",
        path.display(),
        rows("task"),
        rows("task_run"),
        rows("task_end"),
        rows("step"),
        rows("line"),
    )];
    match findings.problems.as_slice() {
        [] => lines.push(format!(
            "sound: its pages and {} rules hold",
            findings.rules
        )),
        problems => lines.extend(problems.iter().map(|problem| format!("  {problem}"))),
    }
    lines.join("\n")
}
