//! `regrow demo`: the main job on real input, and a rehearsal of recovery.

mod agreed;
mod audit;
mod cluster;
mod crash;
mod process;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use regrow_local_postgres::Server;
use regrow_runtime::store::postgres::DatabaseUrl;
use regrow_runtime::{causes, telemetry};
use serde::Serialize;
use tempfile::TempDir;

use crate::cli::failure::{FAILED, USAGE, complain, failed, report};
use crate::cli::output;
use crate::config::{self, Overrides};
use crate::node::Node;

/// Fewer nodes that agree among themselves can lose none.
const AGREE_MIN: u32 = 3;

/// Prints; the exit code tells of success whether or not anybody reads.
fn print(text: &str) {
    let _ = output::print(text);
}

/// Flags of `regrow demo`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 success; 1 the work failed, or the ledger is not clean; \
    2 wrong usage, nothing was done."
)]
pub(crate) struct DemoArguments {
    /// Directory whose documentation is audited.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Kill things while the work goes on, and account for everything in the end.
    #[arg(long)]
    crash: bool,
    /// Start this many nodes, and kill, freeze and drain them while their agents work. They share
    /// the database of --database-url, or a PostgreSQL that is installed here, started for it and
    /// removed afterwards; without either, or with --no-database, at least three agree among
    /// themselves.
    #[arg(long, value_name = "NODES", conflicts_with = "crash", value_parser = clap::value_parser!(u32).range(2..=10))]
    cluster: Option<u32>,
    /// The PostgreSQL database that the nodes of `--cluster` share; better in the variable,
    /// which other users cannot see. A schema of its own is made in it.
    #[arg(
        long,
        value_name = "URL",
        requires = "cluster",
        env = "REGROW_STORE__DATABASE_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Let the nodes of `--cluster` agree among themselves, each with a file of its own.
    #[arg(long, requires = "cluster")]
    no_database: bool,
    /// Repeats a rehearsal: decides every moment and choice.
    #[arg(long)]
    seed: Option<u64>,
    /// How often the rehearsal kills the node.
    #[arg(long, requires = "crash", default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=100))]
    kills: u32,
    /// Where the demo keeps its data, `demo` in the platform's data directory unless named;
    /// a rehearsal uses a new directory below it.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(crate) async fn run(arguments: DemoArguments) -> ExitCode {
    let path = match directory(&arguments.path) {
        Ok(path) => path,
        Err(problem) => {
            complain(&problem, arguments.json);
            return USAGE.into();
        }
    };
    let base = arguments
        .data_dir
        .clone()
        .unwrap_or_else(|| config::default_data_dir().join("demo"));
    if arguments.crash {
        return rehearse(&arguments, &path, &base).await;
    }
    if let Some(nodes) = arguments.cluster {
        return rehearse_cluster(&arguments, nodes, &base).await;
    }
    if arguments.seed.is_some() {
        let problem = "--seed repeats a rehearsal: pass --crash or --cluster with it";
        complain(problem, arguments.json);
        return USAGE.into();
    }
    audit(&arguments, &path, base).await
}

/// The directory in full, if it is one.
fn directory(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    let found = std::fs::canonicalize(path)
        .map_err(|error| format!("cannot audit {shown}: {error}; pass a directory"))?;
    if !found.is_dir() {
        return Err(format!(
            "cannot audit {shown}: it is not a directory; pass the directory it is in"
        ));
    }
    Ok(found)
}

async fn audit(arguments: &DemoArguments, path: &Path, base: PathBuf) -> ExitCode {
    let overrides = Overrides {
        data_dir: Some(base),
        file: Some("/dev/null".into()),
        ..Overrides::default()
    };
    let mut config = match config::load(&overrides, std::iter::empty()) {
        Ok(loaded) => loaded.config,
        Err(error) => return failed(&error, arguments.json),
    };
    "warn".clone_into(&mut config.log.filter);
    if let Err(error) = telemetry::init(&config.log, None) {
        return failed(&error, arguments.json);
    }
    let node = match Node::start(&config, false).await {
        Ok(node) => node,
        Err(error) => {
            report(&error, arguments.json);
            let wrong_setting = error.is_wrong_setting();
            return if wrong_setting { USAGE } else { FAILED }.into();
        }
    };
    let outcome = tokio::select! {
        outcome = audit::run(node.queue(), path, !arguments.json) => outcome,
        exit = node.exited() => {
            complain(&exit.to_string(), arguments.json);
            return FAILED.into();
        }
        _ = tokio::signal::ctrl_c() => {
            tokio::select! {
                _ = node.stop() => {}
                // Whoever asks twice does not want to wait; nothing durable is lost.
                _ = tokio::signal::ctrl_c() => {}
            }
            complain("interrupted; run the same command to go on with it", arguments.json);
            return FAILED.into();
        }
    };
    node.stop().await;
    match outcome {
        Ok(outcome) => {
            match arguments.json {
                true => print(&serde_json::to_string_pretty(&outcome).unwrap_or_default()),
                false => print(&summary::audit(&outcome, &config.data_dir)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            report(&error, arguments.json);
            FAILED.into()
        }
    }
}

async fn rehearse(arguments: &DemoArguments, path: &Path, base: &Path) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let fresh = std::fs::create_dir_all(base)
        .and_then(|()| tempfile::Builder::new().prefix("crash-").tempdir_in(base));
    let fresh = match fresh {
        Ok(fresh) => fresh,
        Err(error) => return failed(&error, arguments.json),
    };
    let script = crash::Script {
        seed,
        kills: arguments.kills,
        path: path.to_owned(),
        data_dir: fresh.path().to_owned(),
    };
    let (tell, started) = teller(arguments.json);
    tell(format!(
        "seed {seed}; a node starts in {}",
        fresh.path().display()
    ));
    let outcome = crash::run(&script, tell).await;
    conclude(arguments.json, seed, fresh, outcome, |ledger| Conclusion {
        is_clean: ledger.is_clean(),
        shown: summary::ledger(ledger, started.elapsed()),
    })
}

/// What a rehearsal came to.
struct Conclusion {
    is_clean: bool,
    shown: String,
}

/// Prints how a rehearsal ended; its data is kept unless all went well.
fn conclude<A: Serialize, E: std::error::Error + 'static>(
    json: bool,
    seed: u64,
    fresh: TempDir,
    outcome: Result<A, E>,
    read: impl FnOnce(&A) -> Conclusion,
) -> ExitCode {
    match outcome {
        Ok(accounts) => {
            let Conclusion { is_clean, shown } = read(&accounts);
            match json {
                true => print(&serde_json::to_string_pretty(&accounts).unwrap_or_default()),
                false => print(&shown),
            }
            if is_clean {
                return ExitCode::SUCCESS;
            }
        }
        Err(error) => report(&error, json),
    }
    let kept = fresh.keep();
    let hint = format!("seed {seed}; the data is kept in {}", kept.display());
    complain(&hint, json);
    FAILED.into()
}

/// Says what happens and when, unless only JSON is wanted; and when it began.
fn teller(quiet: bool) -> (crash::Tell, tokio::time::Instant) {
    let started = tokio::time::Instant::now();
    let tell: crash::Tell = Arc::new(move |line| {
        if !quiet {
            print(&format!(
                "{:>7.2} s  {line}",
                started.elapsed().as_secs_f64()
            ));
        }
    });
    (tell, started)
}

/// The database that the nodes of `--cluster` are to use: the one that was named, or one that is
/// started for as long as the second value lives. Without any they agree among themselves.
async fn database(
    arguments: &DemoArguments,
    nodes: u32,
    tell: &crash::Tell,
) -> Result<(Option<DatabaseUrl>, Option<Server>), String> {
    if !arguments.no_database
        && let Some(url) = &arguments.database_url
    {
        let url = url.parse();
        return match url {
            Ok(url) => Ok((Some(url), None)),
            Err(error) => Err(format!("--database-url {error}")),
        };
    }
    let installed = regrow_local_postgres::installed().filter(|_| !arguments.no_database);
    let Some(programs) = installed else {
        if AGREE_MIN <= nodes {
            return Ok((None, None));
        }
        return Err(format!(
            "{nodes} nodes without a database cannot lose one; start at least {AGREE_MIN}, or let \
             them share one: name it with --database-url postgres://USER@HOST/DATABASE, in which a \
             schema may be made, or install PostgreSQL here (Debian: `apt-get install postgresql`)"
        ));
    };
    tell(format!(
        "starting a PostgreSQL for the rehearsal, from {}; --database-url names one that runs",
        programs.display()
    ));
    let place = std::env::temp_dir();
    let started = tokio::task::spawn_blocking(move || Server::start(&programs, &place, "")).await;
    let advice = "name a database with --database-url instead";
    let server = match started {
        Ok(Ok(server)) => server,
        Ok(Err(failed)) => return Err(format!("{}; {advice}", causes::chain(&failed))),
        Err(error) => return Err(format!("PostgreSQL was not started: {error}; {advice}")),
    };
    let url = server.url().parse();
    let url = url.map_err(|error| format!("PostgreSQL was started, but {error}"))?;
    Ok((Some(url), Some(server)))
}

async fn rehearse_cluster(arguments: &DemoArguments, nodes: u32, base: &Path) -> ExitCode {
    let (tell, started) = teller(arguments.json);
    let (database, _server) = match database(arguments, nodes, &tell).await {
        Ok(found) => found,
        Err(problem) => {
            complain(&problem, arguments.json);
            return USAGE.into();
        }
    };
    let fresh = std::fs::create_dir_all(base)
        .and_then(|()| tempfile::Builder::new().prefix("cluster-").tempdir_in(base));
    let fresh = match fresh {
        Ok(fresh) => fresh,
        Err(error) => return failed(&error, arguments.json),
    };
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let script = cluster::Script {
        seed,
        nodes,
        database,
        data_dir: fresh.path().to_owned(),
    };
    tell(format!(
        "seed {seed}; {nodes} nodes start in {}",
        fresh.path().display()
    ));
    let outcome = cluster::run(&script, tell).await;
    conclude(arguments.json, seed, fresh, outcome, |accounts| {
        Conclusion {
            is_clean: accounts.is_clean(),
            shown: summary::accounts(accounts, started.elapsed()),
        }
    })
}
