//! The side-by-side table: our queue and those of others, same machine, same run.
//!
//! `cargo xtask bench peers` installs what takes part, starts the servers, runs every program
//! under every workload and prints one table. What each program is told and has to answer is
//! in `benches/peers/README.md`.

mod install;
mod roster;
mod servers;
mod table;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use self::install::Installer;
use self::roster::{PEERS, Peer, Store};
use self::servers::{Postgres, Redis, path_for, quiet, sweep, tail};
use self::table::{Row, Run, Size, Table, Workload};
use crate::{Failed, pause, report, say};

/// Where the sheet has the table.
const SHEET: &str = "docs/spec-sheet.md";
const BEGIN: &str = "<!-- peers: begin -->";
const END: &str = "<!-- peers: end -->";

/// Loading, connecting and comparing, beside what is measured.
const AROUND_MAX: Duration = Duration::from_secs(180);

const FULL: Size = Size {
    tasks: 40_000,
    callers: 16,
    seconds: 4.0,
    batch: 500,
    payload_bytes: 200,
    limit_seconds: 60.0,
    rounds: 3,
};

const QUICK: Size = Size {
    tasks: 5_000,
    seconds: 1.0,
    limit_seconds: 15.0,
    rounds: 1,
    ..FULL
};

/// Compares with other job queues, which it installs itself.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A small run that shows that everything works; its figures say little.
    #[arg(long)]
    quick: bool,
    /// Only these queues beside ours, such as `pg-boss,riverqueue`.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Put the table into docs/spec-sheet.md; not with --quick or --only.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds of everything; the median counts.
    #[arg(long)]
    rounds: Option<usize>,
    /// Where programs are installed [default: regrow-peers in the user's cache directory].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Where databases lie while they are measured: has to be a disk, not memory
    /// [default: the directory for temporary files].
    #[arg(long, value_name = "DIR")]
    place: Option<PathBuf>,
    /// Compilers at the same time [default: as many as there are cores].
    #[arg(long)]
    jobs: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let peers = chosen(&arguments.only)?;
    let mut size = if arguments.quick { QUICK } else { FULL };
    size.rounds = arguments.rounds.unwrap_or(size.rounds).max(1);
    let place = arguments.place.clone().unwrap_or_else(std::env::temp_dir);
    on_disk(&place)?;
    let cache = match &arguments.cache {
        Some(cache) => cache.clone(),
        None => default_cache()?,
    };
    let mut installer = Installer::new(absolute(&cache)?, arguments.jobs);
    let commands: Vec<_> = peers
        .iter()
        .map(|peer| (*peer, installer.command(peer)))
        .collect();
    let mut bench = Bench::prepare(&peers, &place, size)?;
    let mut rows = Vec::new();
    for workload in Workload::ALL {
        for (peer, command) in &commands {
            if peer.variant.is_some() && workload != Workload::Drain {
                continue;
            }
            rows.push(Row {
                peer,
                workload,
                runs: Vec::new(),
                failure: command.as_ref().err().cloned(),
            });
        }
    }
    for round in 1..=size.rounds {
        for row in &mut rows {
            let command = commands.iter().find(|(peer, _)| *peer == row.peer);
            // What failed once will not do again, and what was cut off takes its time.
            let cut_off = row.runs.iter().any(|run| 0 < run.unfinished);
            let (Some((_, Ok(command))), None, false) = (command, &row.failure, cut_off) else {
                continue;
            };
            match bench.measure(row.peer, row.workload, command) {
                Ok(run) => row.runs.push(run),
                Err(failed) => row.failure = Some(failed),
            }
            progress(round, row);
        }
    }
    let setting = bench.setting(&place)?;
    drop(bench);
    finish(
        &Table {
            size,
            setting,
            rows,
        },
        arguments,
    )
}

fn finish(table: &Table, arguments: &Arguments) -> Result<(), Failed> {
    let text = table.markdown();
    if arguments.json {
        say(&format!("{:#}", table.json()));
    } else {
        say(&text);
    }
    if arguments.write {
        let old = std::fs::read_to_string(SHEET).unwrap_or_default();
        std::fs::write(SHEET, with_section(&old, &text))
            .map_err(|error| format!("{SHEET} cannot be written: {error}"))?;
        report(&format!("{SHEET} has the table"));
    }
    let (lost, doubled) = table.harm(|_| true);
    report(&format!("lost {lost}, doubled {doubled}"));
    ours_stood(table)
}

/// A peer that fails is a line in the table; ours is a failure.
fn ours_stood(table: &Table) -> Result<(), Failed> {
    for row in table.rows.iter().filter(|row| row.peer.is_ours()) {
        if let Some(failure) = &row.failure {
            let store = row.peer.store.name();
            return Err(format!("ours does not run on {store}: {failure}"));
        }
    }
    match table.harm(Peer::is_ours) {
        (0, 0) => Ok(()),
        (lost, doubled) => Err(format!("ours lost {lost} and did {doubled} twice")),
    }
}

/// The section of an earlier run.
fn section_of(sheet: &str) -> Option<&str> {
    let begin = sheet.find(BEGIN)?;
    let end = begin + sheet[begin..].find(END)? + END.len();
    Some(&sheet[begin..end])
}

fn with_section(sheet: &str, text: &str) -> String {
    let section = format!(
        "{BEGIN}\n\n## Other job queues\n\nWritten by `cargo xtask bench peers --write`.\n\n{}\n\n{END}",
        text.trim_end()
    );
    match section_of(sheet) {
        Some(old) => sheet.replace(old, &section),
        None => format!("{}\n\n{section}\n", sheet.trim_end()),
    }
}

fn chosen(only: &[String]) -> Result<Vec<&'static Peer>, Failed> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !PEERS.iter().any(|peer| peer.name == name.as_str()))
    {
        let mut known: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        known.dedup();
        return Err(format!(
            "there is no queue `{unknown}`; there are {}",
            known.join(", ")
        ));
    }
    let named = |peer: &&Peer| only.is_empty() || only.iter().any(|name| name == peer.name);
    let stores: Vec<Store> = PEERS.iter().filter(named).map(|peer| peer.store).collect();
    let taken = |peer: &&Peer| named(peer) || peer.is_ours() && stores.contains(&peer.store);
    Ok(PEERS.iter().filter(taken).collect())
}

/// Servers and a place for files.
struct Bench {
    postgres: Option<Result<Postgres, Failed>>,
    redis: bool,
    place: PathBuf,
    size: Size,
    runs: u64,
}

impl Bench {
    fn prepare(peers: &[&Peer], place: &Path, size: Size) -> Result<Self, Failed> {
        sweep(place);
        let needs = |store| peers.iter().any(|peer| peer.store == store);
        let mut postgres = None;
        if needs(Store::Postgres) {
            report("starting PostgreSQL …");
            postgres = Some(Postgres::start(place));
        }
        Ok(Self {
            postgres,
            redis: needs(Store::Redis),
            place: absolute(place)?,
            size,
            runs: 0,
        })
    }

    fn setting(&self, place: &Path) -> Result<Vec<String>, Failed> {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let mut setting = vec![format!(
            "{cores} cores; appending 4 KiB and flushing it, one at a time: {:.0}/s",
            raw_flushes(place)?
        )];
        if let Some(Ok(postgres)) = &self.postgres {
            setting.push(postgres.setting()?);
        }
        if self.redis {
            setting.push(Redis::setting().unwrap_or_else(|failed| failed));
        }
        Ok(setting)
    }

    /// One run over an empty store.
    fn measure(
        &mut self,
        peer: &Peer,
        workload: Workload,
        command: &[PathBuf],
    ) -> Result<Run, Failed> {
        self.runs += 1;
        let name = format!("peer_{}", self.runs);
        match peer.store {
            Store::Postgres => {
                let postgres = match &self.postgres {
                    Some(Ok(postgres)) => postgres,
                    Some(Err(failed)) => return Err(failed.clone()),
                    None => return Err("PostgreSQL was not started".to_owned()),
                };
                let url = postgres.database(&name)?;
                let run = self.program(peer, workload, command, &url);
                postgres.remove(&name)?;
                run
            }
            Store::Redis => {
                let redis = Redis::start(&self.place)?;
                self.program(peer, workload, command, &redis.url())
            }
            Store::Sqlite => {
                let folder = path_for(&self.place, &name);
                std::fs::create_dir_all(&folder)
                    .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
                let file = folder.join("queue").display().to_string();
                let run = self.program(peer, workload, command, &file);
                std::fs::remove_dir_all(&folder)
                    .map_err(|error| format!("{} cannot be removed: {error}", folder.display()))?;
                run
            }
        }
    }

    fn program(
        &self,
        peer: &Peer,
        workload: Workload,
        command: &[PathBuf],
        url: &str,
    ) -> Result<Run, Failed> {
        let Some((program, first)) = command.split_first() else {
            return Err("there is nothing to run".to_owned());
        };
        let orders = json!({
            "workload": workload.name(),
            "tasks": self.size.tasks,
            "callers": self.size.callers,
            "seconds": self.size.seconds,
            "batch": self.size.batch,
            "payload_bytes": self.size.payload_bytes,
            "limit_seconds": self.size.limit_seconds,
            "url": url,
            "variant": peer.variant.unwrap_or_default(),
        });
        let mut command = Command::new(program);
        command
            .args(first)
            .env("PEER_ORDERS", orders.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let limit = Duration::from_secs_f64(self.size.limit_seconds) + AROUND_MAX;
        let said = bounded(command, limit)?;
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last)
            .map_err(|error| format!("its report cannot be read ({error}): {}", tail(&said)))
    }
}

/// Runs a command that may hang; what it printed.
fn bounded(mut command: Command, limit: Duration) -> Result<String, Failed> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                // A pipe that breaks ends the text.
                let _ = pipe.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let said = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let complained = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let until = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if until < Instant::now() => {
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("did not end within {} s", limit.as_secs()));
            }
            Ok(None) => pause(Duration::from_millis(10)),
            Err(error) => break Err(format!("cannot be waited for: {error}")),
        }
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (said, complained) = (text(said), text(complained));
    match status {
        Ok(status) if status.success() => Ok(said),
        Ok(status) => Err(format!(
            "{status}: {}",
            tail(&format!("{said}{complained}"))
        )),
        Err(failed) => Err(format!("{failed}: {}", tail(&complained))),
    }
}

fn progress(round: usize, row: &Row) {
    let (name, store) = (row.peer.name, row.peer.store.name());
    let outcome = match (&row.failure, row.runs.last()) {
        (Some(failure), _) => format!("FAILED: {failure}"),
        (None, Some(run)) => format!("{} tasks in {:.2} s", run.tasks, run.seconds),
        (None, None) => "nothing".to_owned(),
    };
    let workload = row.workload.name();
    report(&format!(
        "round {round}, {workload}, {name} on {store}: {outcome}"
    ));
}

/// What the disk does by itself; every figure is to be read against it.
fn raw_flushes(place: &Path) -> Result<f64, Failed> {
    let path = path_for(place, "raw");
    let failed = |error: std::io::Error| format!("{} cannot be written: {error}", path.display());
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < Duration::from_secs(1) {
        file.write_all(&[7; 4_096]).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(rate)
}

/// Flushing memory costs nothing and proves nothing.
fn on_disk(place: &Path) -> Result<(), Failed> {
    let mut stat = Command::new("stat");
    stat.args(["--file-system", "--format=%T"]).arg(place);
    // Where there is no such `stat` there is no such default either.
    match quiet("stat", stat) {
        Ok(kind) if kind.trim() == "tmpfs" => Err(format!(
            "{} lies in memory; name a directory on a disk with --place",
            place.display()
        )),
        _ => Ok(()),
    }
}

fn default_cache() -> Result<PathBuf, Failed> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .map(|cache| cache.join("regrow-peers"))
        .ok_or_else(|| {
            "neither XDG_CACHE_HOME nor HOME is set; name a directory with --cache".to_owned()
        })
}

fn absolute(path: &Path) -> Result<PathBuf, Failed> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_table_takes_the_old_one_s_place_and_leaves_the_rest() {
        let sheet = "# Figures\n\n## queue\n\nfast\n";
        let once = with_section(sheet, "first\n");
        assert!(
            once.starts_with(sheet.trim_end()) && once.contains("first"),
            "{once}"
        );
        let twice = with_section(&format!("{once}\n## demo\n"), "second\n");
        assert!(
            !twice.contains("first") && twice.contains("second"),
            "{twice}"
        );
        assert!(
            twice.contains("fast") && twice.ends_with("## demo\n"),
            "{twice}"
        );
        assert_eq!(twice.matches(BEGIN).count(), 1, "{twice}");
    }

    #[test]
    fn ours_may_not_fail_nor_lose_where_others_may() {
        let run = Run {
            tasks: 10,
            unfinished: 0,
            seconds: 1.0,
            lost: 0,
            doubled: 0,
            batch: 1,
            tuning: String::new(),
            durability: String::new(),
            version: String::new(),
        };
        let table = |ours: Run, theirs: Run| {
            let row = |peer, run| Row {
                peer,
                workload: Workload::Drain,
                runs: vec![run],
                failure: None,
            };
            Table {
                size: QUICK,
                setting: Vec::new(),
                rows: vec![row(&PEERS[0], ours), row(&PEERS[2], theirs)],
            }
        };
        let lossy = Run {
            lost: 1,
            ..run.clone()
        };
        assert_eq!(ours_stood(&table(run.clone(), lossy.clone())), Ok(()));
        let failed = ours_stood(&table(lossy, run.clone())).expect_err("ours lost one");
        assert!(failed.contains("lost 1"), "{failed}");
        let mut absent = table(run.clone(), run);
        absent.rows[0].failure = Some("no server".to_owned());
        let failed = ours_stood(&absent).expect_err("ours did not run");
        assert!(failed.contains("no server"), "{failed}");
    }

    #[test]
    fn ours_runs_on_the_stores_of_those_it_is_compared_with() {
        let names = |only: &[&str]| -> Vec<(&str, Store)> {
            let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
            let peers = chosen(&only).expect("known");
            peers.iter().map(|peer| (peer.name, peer.store)).collect()
        };
        assert_eq!(
            names(&["pg-boss"]),
            [("regrow", Store::Postgres), ("pg-boss", Store::Postgres)]
        );
        assert_eq!(names(&[]).len(), PEERS.len());
        assert_eq!(names(&["riverqueue"]).len(), 4);
        let refused = chosen(&["sidekiq".to_owned()]).expect_err("not on the roster");
        assert!(
            refused.contains("sidekiq") && refused.contains("pg-boss"),
            "{refused}"
        );
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_its_complaint_is_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo stuck >&2; exec sleep 60"]);
        let started = Instant::now();
        let failed = bounded(command, Duration::from_millis(200)).expect_err("too slow");
        assert!(failed.contains("stuck"), "{failed}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
