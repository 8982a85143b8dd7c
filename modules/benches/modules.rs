//! What modules cost by the language that they are written in: from source to a live instance, an
//! instance more, a decision, and how late a loop ends.
//!
//! One strategy in four languages (`examples/strategies`, and an expression), asked the same
//! question: which of four offers. All on one core; figures are medians unless they say otherwise.
//! Promises: source to live at most 8 ms for an expression and 1 ms for a script, an instance
//! 10 us (scripts: with their source loaded, so the first figure), 1,000,000 decisions a second
//! (scripts: 100,000), a loop ended at most 2 ms late.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a bench reports and may abort"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use regrow_modules::capability::Grants;
use regrow_modules::expression::{Columns, Expression};
use regrow_modules::host::{
    CallError, Host, HostLimits, Level, Metering, Observation, Prepared, Running, Start,
    Surroundings,
};
use regrow_modules::inspection::SizeLimits;
use regrow_modules::policy::{self, Manifest};

const SCRIPT: &str = include_str!("../../examples/strategies/javascript/cheapest.js");
const C: &[u8] = include_bytes!("../../examples/strategies/c/cheapest.wasm");
const RUST: &[u8] = include_bytes!("../../examples/strategies/rust/cheapest.wasm");

/// Ticks of a millisecond that honest calls may run.
const TICKS: u64 = 10_000;
/// Ticks after which a loop is to end.
const DEADLINE: u64 = 10;
/// How long decisions are counted for.
const COUNTED: Duration = Duration::from_secs(1);

/// Nobody.
struct Void;

impl Surroundings for Void {
    fn log_enabled(&self, _: Level) -> bool {
        false
    }
    fn log(&self, _: Level, _: &str, _: &[(String, String)]) {}
    fn count(&self, _: &str, _: u64) {}
    fn gauge(&self, _: &str, _: f64) {}
    fn observe(&self, _: &str, _: f64) {}
    fn now(&self) -> u64 {
        0
    }
    fn monotonic(&self) -> u64 {
        0
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let host = Host::new(HostLimits::default(), Metering::Time).expect("an engine");
    let begun = Instant::now();
    let shell = host.shell().expect("a shell");
    println!(
        "the shell for scripts is compiled once, in {}\n",
        shown(begun.elapsed())
    );
    println!(
        "{:<11} {:>12} {:>9} {:>9} {:>9} {:>12} {:>12}",
        "", "source->live", "worst", "instance", "first", "decisions/s", "in batches"
    );
    let (live, prepared) = lives(50, || async {
        let script = shell.script(SCRIPT, Grants::telemetry(), TICKS).await;
        script.expect("loaded")
    })
    .await;
    line("JavaScript", live, &prepared).await;
    for (language, component) in [("expression", None), ("C", Some(C)), ("Rust", Some(RUST))] {
        let (live, prepared) = lives(20, || async {
            let bytes = component.map_or_else(expression, <[u8]>::to_vec);
            let prepared = host.prepare(&bytes, &SizeLimits::UNTRUSTED, Grants::telemetry());
            prepared.expect("prepared")
        })
        .await;
        line(language, live, &prepared).await;
    }
    println!(
        "\nsource->live: from text (JavaScript, expression) or component (C, Rust) to an instance \
         that has begun\ninstance: one more of what was prepared; first: its first decision; in \
         batches: decisions/s, 50 at once"
    );
    let spins = "export function decide() { for (;;) {} }";
    let script = shell.script(spins, Grants::NONE, TICKS).await;
    let late = late(&script.expect("loaded")).await;
    println!(
        "\na loop in a script that may run {DEADLINE} ms ends {} late, the worst of {} {}",
        shown(late[late.len() / 2]),
        late.len(),
        shown(late[late.len() - 1]),
    );
}

fn expression() -> Vec<u8> {
    let columns = Columns::new(["price", "delay"]).expect("names");
    let parsed = Expression::parse("-(price + delay)", &columns).expect("an expression");
    let manifest = Manifest {
        name: "cheapest".to_owned(),
        version: "1.0.0".to_owned(),
        kinds: Vec::new(),
    };
    policy::component(&parsed, &manifest).expect("a component")
}

/// How long it takes to prepare one and have a first instance of it, in order.
async fn lives<F: Future<Output = Prepared>>(
    rounds: usize,
    prepare: impl Fn() -> F,
) -> (Vec<Duration>, Prepared) {
    let mut took = Vec::new();
    let mut last = None;
    for _ in 0..rounds {
        let begun = Instant::now();
        let prepared = prepare().await;
        let running = begin(&prepared).await;
        took.push(begun.elapsed());
        drop(running);
        last = Some(prepared);
    }
    took.sort_unstable();
    (took, last.expect("at least one"))
}

async fn begin(prepared: &Prepared) -> Running {
    let instance = prepared.instance(TICKS, Arc::new(Void)).await;
    let mut running = instance.expect("an instance");
    running.init(&Start::default()).await.expect("begun");
    running
}

fn observation() -> Observation {
    Observation {
        seq: 1,
        at: 0,
        kind: "offers".to_owned(),
        features: vec![5.0, 1.0, 3.0, 4.0, 4.0, 1.0, 7.0, 0.5],
        attrs: Vec::new(),
        payload: Vec::new(),
    }
}

async fn line(language: &str, live: Vec<Duration>, prepared: &Prepared) {
    let (mut instances, mut first) = (Vec::new(), Vec::new());
    let seen = observation();
    for _ in 0..500 {
        let begun = Instant::now();
        let instance = prepared.instance(TICKS, Arc::new(Void)).await;
        let mut running = instance.expect("an instance");
        instances.push(begun.elapsed());
        running.init(&Start::default()).await.expect("begun");
        let begun = Instant::now();
        running.decide(&seen).await.expect("decided");
        first.push(begun.elapsed());
    }
    instances.sort_unstable();
    first.sort_unstable();
    let mut running = begin(prepared).await;
    let singly = rate(1, async || {
        running.decide(&seen).await.expect("decided");
    })
    .await;
    let many = vec![seen.clone(); 50];
    let together = rate(50, async || {
        running.decide_batch(&many).await.expect("decided");
    })
    .await;
    println!(
        "{language:<11} {:>12} {:>9} {:>9} {:>9} {singly:>12.0} {together:>12.0}",
        shown(live[live.len() / 2]),
        shown(live[live.len() - 1]),
        shown(instances[instances.len() / 2]),
        shown(first[first.len() / 2]),
    );
}

/// How many a second, at so many with each call.
async fn rate(each: u32, mut call: impl AsyncFnMut()) -> f64 {
    let begun = Instant::now();
    let mut calls = 0_u32;
    while begun.elapsed() < COUNTED {
        for _ in 0..100 {
            call().await;
        }
        calls += 100;
    }
    f64::from(calls) * f64::from(each) / begun.elapsed().as_secs_f64()
}

/// How much later than allowed loops end, in order.
async fn late(script: &Prepared) -> Vec<Duration> {
    let mut late = Vec::new();
    for _ in 0..50 {
        let instance = script.instance(DEADLINE, Arc::new(Void)).await;
        let mut spinner = instance.expect("an instance");
        let begun = Instant::now();
        let ended = spinner.decide(&observation()).await;
        let took = begun.elapsed();
        assert_eq!(ended, Err(CallError::OutOfTime));
        late.push(took.saturating_sub(Duration::from_millis(DEADLINE)));
    }
    late.sort_unstable();
    late
}

fn shown(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..1_000.0 => format!("{micros:.1} us"),
        ..1_000_000.0 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}
