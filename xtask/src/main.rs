//! The one front door: `cargo xtask <command>`.
//!
//! `check` is exactly what continuous integration runs; it changes no files. `fix` does.

mod before;
mod contract;
mod guests;
mod needs;
mod pages;
mod peers;
mod postgres;
mod sheet;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::{Parser, Subcommand};
use serde_json::Value;

use self::postgres::Database;

/// Formatting, lints, tests and benches of Regrow.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Everything continuous integration runs: format, lints, docs, dependencies, tests.
    Check,
    /// Format, lints, docs and dependencies, without the tests.
    Lint,
    /// Formats the code and applies what the linter can mend.
    Fix,
    /// Checks what the tests need, then runs all of them.
    Test {
        /// Passed on to `cargo test`, such as a test's name.
        #[arg(last = true)]
        rest: Vec<String>,
    },
    /// Calls every operation of a running node, as its document says and otherwise.
    Contract {
        /// Other calls than those that are made every time, and which.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Drives the live pages in Chromium, which `test` does as well.
    Pages {
        /// Take the kept pictures anew, in `tests/pages/kept`: look at them before you commit.
        #[arg(long)]
        keep: bool,
        /// Only what has this in its name.
        #[arg(long)]
        only: Option<String>,
    },
    /// Builds the modules that are kept as components from their sources, and compares.
    Guests {
        /// Replace those in the repository, and their hashes.
        #[arg(long)]
        write: bool,
    },
    /// Runs the benches, which print ratios: all of them, or those named.
    #[command(args_conflicts_with_subcommands = true)]
    Bench {
        #[command(subcommand)]
        other: Option<Compare>,
        /// Names, such as `queue` or `mailbox`.
        names: Vec<String>,
        /// Write the figures to docs/spec-sheet.md, in place of those that are there.
        #[arg(long)]
        write: bool,
    },
    /// Longer runs of the tests that kill processes and cut the power.
    Soak {
        /// How often each test kills.
        #[arg(long, default_value_t = 200)]
        kills: u32,
        /// How often the power is cut.
        #[arg(long, default_value_t = 500)]
        cuts: u32,
        /// Nothing but the tests on networks that fail.
        #[arg(long)]
        network: bool,
        /// How often each of those disturbs.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
}

#[derive(Subcommand)]
enum Compare {
    Peers(peers::Arguments),
}

/// A step failed; the message says how and what to do.
type Failed = String;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Check => lint().and_then(|()| test(&[])),
        Verb::Lint => lint(),
        Verb::Fix => fix(),
        Verb::Test { rest } => test(&rest),
        Verb::Contract { seed } => contract::check(seed),
        Verb::Pages { keep, only } => pages::check(keep, only.as_deref()),
        Verb::Guests { write: false } => guests::check(guests::Mode::Compare).map(drop),
        Verb::Guests { write: true } => guests::check(guests::Mode::Write).map(drop),
        Verb::Bench {
            other: Some(Compare::Peers(arguments)),
            ..
        } => peers::run(&arguments),
        Verb::Bench {
            other: None,
            names,
            write,
        } => bench(&names, write),
        Verb::Soak {
            network: true,
            rounds,
            ..
        } => soak_network(rounds),
        Verb::Soak { kills, cuts, .. } => soak(kills, cuts),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            report(&format!("FAILED: {failed}"));
            ExitCode::FAILURE
        }
    }
}

fn lint() -> Result<(), Failed> {
    run("format", cargo(&["fmt", "--all", "--check"]))?;
    run(
        "lints",
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    let mut doc = cargo(&[
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run("docs", doc)?;
    dependencies()
}

fn fix() -> Result<(), Failed> {
    let mend = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ];
    run("lints", cargo(&mend))?;
    run("format", cargo(&["fmt", "--all"]))
}

/// Licences, bans and sources. Advisories need a database from the network, so they are
/// checked only where it can be had.
fn dependencies() -> Result<(), Failed> {
    let installed = Command::new("cargo-deny").arg("--version").output().is_ok();
    if !installed {
        report(
            "dependencies: NOT CHECKED, cargo-deny is not installed (`cargo install cargo-deny`)",
        );
        return Ok(());
    }
    run(
        "dependencies",
        cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]),
    )
}

fn test(rest: &[String]) -> Result<(), Failed> {
    needs::check()?;
    let mut totals = Totals::default();
    if rest.is_empty() {
        totals.not_run.extend(guests::check(guests::Mode::Test)?);
    }
    let server = Database::start()?;
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    server.tell(&mut command);
    totals.not_run.extend(before::tell(&mut command)?);
    totals.not_run.extend(pages::tell(&mut command)?);
    if !rest.is_empty() {
        command.arg("--").args(rest);
    }
    report("tests …");
    let started = Instant::now();
    let mut tests = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("tests cannot run: {error}"))?;
    if let Some(output) = tests.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            totals.count(&line);
            say(&line);
        }
    }
    let status = tests
        .wait()
        .map_err(|error| format!("tests cannot be waited for: {error}"))?;
    let Totals {
        passed,
        failed,
        not_run,
    } = totals;
    for line in not_run {
        report(&line);
    }
    say(&format!("tests: {passed} passed, {failed} failed"));
    if !status.success() || 0 < failed {
        return Err(format!("tests ({status})"));
    }
    if passed == 0 {
        return Err("tests: none was found".to_owned());
    }
    let took = started.elapsed().as_secs_f64();
    report(&format!("tests: ok in {took:.1} s"));
    match rest.is_empty() {
        true => contract::check(None),
        false => Ok(()),
    }
}

/// What all test programs together report.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    /// What this machine forbids, with the reason. With `CI=true` such a test fails instead.
    not_run: Vec<String>,
}

impl Totals {
    /// Reads lines such as `test result: ok. 12 passed; 0 failed; 0 ignored; …`.
    fn count(&mut self, line: &str) {
        if line.starts_with("NOT RUN: ") {
            self.not_run.push(line.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let words: Vec<&str> = result.split([' ', ';', '.']).collect();
        for pair in words.windows(2) {
            let number = pair[0].parse::<u64>();
            match (number, pair[1]) {
                (Ok(number), "passed") => self.passed += number,
                (Ok(number), "failed") => self.failed += number,
                _ => {}
            }
        }
    }
}

/// Where figures are kept.
const SHEET: &str = "docs/spec-sheet.md";

/// Every bench with the package it belongs to.
const BENCHES: [(&str, &str); 14] = [
    ("regrow-runtime", "mailbox"),
    ("regrow-runtime", "restart"),
    ("regrow-runtime", "idle_agents"),
    ("regrow-runtime", "queue"),
    ("regrow-runtime", "memory"),
    ("regrow-runtime", "journal"),
    ("regrow-runtime", "pool"),
    ("regrow-runtime", "probes"),
    ("regrow-cluster", "gateway"),
    ("regrow-modules", "modules"),
    ("regrow-actors", "audit"),
    ("regrow", "demo"),
    ("regrow", "node_loss"),
    ("regrow", "surface"),
];

fn bench(names: &[String], write: bool) -> Result<(), Failed> {
    let unknown = names
        .iter()
        .find(|name| !BENCHES.iter().any(|(_, bench)| bench == name));
    if let Some(name) = unknown {
        let known: Vec<&str> = BENCHES.iter().map(|(_, bench)| *bench).collect();
        return Err(format!(
            "there is no bench `{name}`; there are {}",
            known.join(", ")
        ));
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    for (package, bench) in BENCHES {
        if !names.is_empty() && !names.iter().any(|name| name == bench) {
            continue;
        }
        report(&format!("{bench} …"));
        let mut command = cargo(&["bench", "--package", package, "--bench", bench]);
        let on_database = ["pool", "node_loss"].contains(&bench);
        let server = on_database.then(Database::start).transpose()?;
        if let Some(server) = &server {
            server.tell(&mut command);
        }
        if bench == "surface"
            && let Some(not_run) = pages::tell(&mut command)?
        {
            report(&not_run);
        }
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("{bench} cannot run: {error}"))?;
        let figures = String::from_utf8_lossy(&output.stdout);
        say(figures.trim_end());
        if !output.status.success() {
            return Err(format!("{bench} ({})", output.status));
        }
        if write {
            let old = std::fs::read_to_string(SHEET).unwrap_or_default();
            std::fs::write(SHEET, sheet::with_figures(&old, bench, cores, &figures))
                .map_err(|error| format!("{SHEET} cannot be written: {error}"))?;
            report(&format!("{SHEET} has the figures of {bench}"));
        }
    }
    Ok(())
}

fn soak(kills: u32, cuts: u32) -> Result<(), Failed> {
    let server = Database::start()?;
    for (step, tests) in [
        ("kill -9", "kill_nine"),
        ("kill -9 while tasks move", "promotion"),
        ("PostgreSQL faults", "postgres_faults"),
        ("power cuts", "disk"),
    ] {
        let mut command = cargo(&["test", "--release", "--package", "regrow-runtime"]);
        command.args(["--test", tests, "--", "--nocapture"]);
        command.env("REGROW_KILLS", kills.to_string());
        command.env("REGROW_CUTS", cuts.to_string());
        server.tell(&mut command);
        run(step, command)?;
    }
    Ok(())
}

fn soak_network(rounds: u32) -> Result<(), Failed> {
    let server = Database::start()?;
    let mut command = cargo(&["test", "--package", "regrow", "--test", "network"]);
    command.env("REGROW_NETWORK_ROUNDS", rounds.to_string());
    server.tell(&mut command);
    if let Some(not_run) = before::tell(&mut command)? {
        report(&not_run);
    }
    run("networks that fail", command)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.args(arguments);
    command
}

/// Where cargo puts what it builds.
fn target() -> Result<PathBuf, Failed> {
    let told = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ])
    .output()
    .map_err(|error| format!("cargo metadata cannot run: {error}"))?;
    let told: Value = serde_json::from_slice(&told.stdout)
        .map_err(|error| format!("cargo metadata cannot be read: {error}"))?;
    let target = told["target_directory"].as_str();
    target
        .map(PathBuf::from)
        .ok_or_else(|| "cargo metadata names no target directory".to_owned())
}

fn run(step: &str, mut command: Command) -> Result<(), Failed> {
    report(&format!("{step} …"));
    let started = Instant::now();
    let status = command
        .status()
        .map_err(|error| format!("{step} cannot run: {error}"))?;
    if !status.success() {
        return Err(format!("{step} ({status})"));
    }
    report(&format!(
        "{step}: ok in {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "this program has no runtime whose thread it could block"
)]
fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

#[expect(clippy::print_stdout, reason = "results are this program's output")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "this program talks to a person")]
fn report(line: &str) {
    eprintln!("xtask: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_programs_are_added_up() {
        let mut totals = Totals::default();
        totals.count("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured");
        totals.count("test result: FAILED. 3 passed; 2 failed; 0 ignored");
        totals.count("test something ... ok");
        assert_eq!((totals.passed, totals.failed), (15, 2));
        let not_run = "NOT RUN: a_test: this machine lets users make no namespaces";
        totals.count(not_run);
        assert_eq!(totals.not_run, [not_run]);
    }
}
