//! `regrow sim`: whole clusters in one thread each, from seeds, looking for what must never be.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use clap::{Args, ValueEnum};
use parking_lot::Mutex;
use regrow_cluster::node::AuthorityKind;
use regrow_cluster::simulation::{Options, Report, Sabotage, run as simulate};
use serde::Serialize;

use super::failure::FAILED;
use super::output::{facts, print, print_error};

/// Flags of `regrow sim`.
#[derive(Args, Debug)]
pub(crate) struct SimArguments {
    /// The world to run, or the first of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many worlds to run, from the seed on
    #[arg(long, value_name = "COUNT", default_value = "1")]
    seeds: NonZeroU64,
    /// Nodes in a world, 1 to 9; 3 to 5, by the seed, if not given
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// Events while faults happen; afterwards the world has to come to rest
    #[arg(long, value_name = "K", default_value_t = 3_000)]
    steps: u64,
    /// Who says who may act; by the seed if not given
    #[arg(long, value_name = "WHO")]
    authority: Option<Authority>,
    /// Make a mistake on purpose, to see it found
    #[arg(long = "break", value_name = "WHAT")]
    sabotage: Option<Mistake>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Authority {
    Database,
    Quorum,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mistake {
    /// Effects are let through whatever their epoch
    NoFencing,
    /// Being heard again ends a quarantine
    QuarantineClearedByUp,
    /// The target of a hand-off runs the agent before the commit
    HandOffWithoutCommit,
    /// Survivors start agents at once
    NoMargin,
    /// Changes are acknowledged as soon as they are written
    AcknowledgedUnheard,
    /// A holder goes on after its lease ran out
    LongTrust,
    /// What a node offered in its first life counts for all later ones
    StaleOffers,
}

/// What all worlds came to.
#[derive(Default, Serialize)]
struct Totals {
    worlds: u64,
    events: u64,
    simulated_ms: u64,
    effects: u64,
    refused: u64,
    starts: u64,
    acknowledged: u64,
    faults: BTreeMap<&'static str, u64>,
    recovered_ms_max: u64,
    /// Of the one world, or of the one with the lowest seed in which something was broken.
    report: Option<Report>,
}

/// Runs the worlds on all cores. Exits with 1 if an invariant is broken in one of them, and
/// names the one with the lowest seed.
pub(crate) fn run(arguments: &SimArguments) -> ExitCode {
    let totals = worlds(arguments);
    let told = match arguments.json {
        // Totals are plain data; they cannot fail to be JSON.
        true => serde_json::to_string(&totals).unwrap_or_default(),
        false => text(&totals),
    };
    if print(&told).is_err() {
        return FAILED.into();
    }
    let broken = totals
        .report
        .and_then(|report| Some((report.seed, report.violation?)));
    let Some((seed, violation)) = broken else {
        return ExitCode::SUCCESS;
    };
    print_error(&format!(
        "seed {seed}, step {}, {} ms: {} is broken: {}; `{}` shows it again",
        violation.step,
        violation.at_ms,
        violation.invariant,
        violation.detail,
        command(arguments, seed),
    ));
    FAILED.into()
}

/// Runs them until all have run or one is broken.
fn worlds(arguments: &SimArguments) -> Totals {
    let next = AtomicU64::new(0);
    let broken = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !broken.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if arguments.seeds.get() <= n {
                        break;
                    }
                    let report = simulate(&options(arguments, arguments.seed.wrapping_add(n)));
                    broken.fetch_or(report.violation.is_some(), Ordering::Relaxed);
                    totals.lock().add(report, arguments.seeds.get() == 1);
                }
            });
        }
    });
    totals.into_inner()
}

impl Totals {
    fn add(&mut self, report: Report, alone: bool) {
        self.worlds += 1;
        self.events += report.events;
        self.simulated_ms += report.simulated_ms;
        self.effects += report.effects;
        self.refused += report.refused;
        self.starts += report.starts;
        self.acknowledged += report.acknowledged;
        self.recovered_ms_max = self.recovered_ms_max.max(report.recovered_ms.unwrap_or(0));
        for (fault, count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        let lowest = self
            .report
            .as_ref()
            .is_none_or(|known| report.seed < known.seed);
        if alone || (report.violation.is_some() && lowest) {
            self.report = Some(report);
        }
    }
}

/// The command that runs one of these worlds again.
fn command(arguments: &SimArguments, seed: u64) -> String {
    let mut command = format!("regrow sim --seed {seed} --steps {}", arguments.steps);
    if let Some(nodes) = arguments.nodes {
        command += &format!(" --nodes {nodes}");
    }
    let authority = arguments
        .authority
        .and_then(|authority| authority.to_possible_value());
    if let Some(authority) = authority {
        command += &format!(" --authority {}", authority.get_name());
    }
    let mistake = arguments
        .sabotage
        .and_then(|mistake| mistake.to_possible_value());
    if let Some(mistake) = mistake {
        command += &format!(" --break {}", mistake.get_name());
    }
    command
}

fn options(arguments: &SimArguments, seed: u64) -> Options {
    Options {
        nodes: arguments.nodes.map(usize::from),
        steps: arguments.steps,
        authority: arguments.authority.map(|authority| match authority {
            Authority::Database => AuthorityKind::Database,
            Authority::Quorum => AuthorityKind::Quorum,
        }),
        sabotage: match arguments.sabotage {
            None => Sabotage::Nothing,
            Some(Mistake::NoFencing) => Sabotage::NoFencing,
            Some(Mistake::QuarantineClearedByUp) => Sabotage::QuarantineClearedByUp,
            Some(Mistake::HandOffWithoutCommit) => Sabotage::HandOffWithoutCommit,
            Some(Mistake::NoMargin) => Sabotage::NoMargin,
            Some(Mistake::AcknowledgedUnheard) => Sabotage::AcknowledgedUnheard,
            Some(Mistake::LongTrust) => Sabotage::LongTrust,
            Some(Mistake::StaleOffers) => Sabotage::StaleOffers,
        },
        ..Options::of(seed)
    }
}

fn text(totals: &Totals) -> String {
    let faults: Vec<String> = totals
        .faults
        .iter()
        .map(|(fault, count)| format!("{count} {fault}"))
        .collect();
    let effects = format!(
        "{} let through, {} refused as stale",
        totals.effects, totals.refused
    );
    let mut rows = vec![
        ("worlds", totals.worlds.to_string()),
        ("events", totals.events.to_string()),
        ("simulated", format!("{} s", totals.simulated_ms / 1_000)),
        ("faults", faults.join(", ")),
        ("effects", effects),
        ("agents started", totals.starts.to_string()),
        ("tasks", format!("{} acknowledged", totals.acknowledged)),
        (
            "at rest after",
            format!("{} ms at most", totals.recovered_ms_max),
        ),
    ];
    if let Some(report) = &totals.report {
        let authority = if report.database {
            "a database"
        } else {
            "a quorum"
        };
        rows.push(("nodes", format!("{} under {authority}", report.nodes)));
        rows.push(("trace", report.trace.clone()));
    }
    facts(&rows)
}
