//! What the surface costs: a node as a process of its own, asked over loopback.
//!
//! `cargo bench --bench surface [submit|idle|looks|telemetry|token]`, all of them unless named.
//! `REGROW_SURFACE_PART` is a part from 0 to 1 of everything that is counted or waited for (1).
//!
//! - *submit*: durable submissions over HTTP beside the same queue without HTTP in between, as many
//!   in flight, same payload, both on SQLite with `synchronous=FULL`, in alternating rounds.
//! - *idle*: memory of a node per idle subscriber of events, what they cost while nothing happens,
//!   and one event to all.
//! - *looks*: server time of pages and routes on three nodes with 10,000 agents and 100,000 tasks, at
//!   rest and while tasks run at full rate, and what an open page takes of that rate.
//! - *telemetry*: the rate of the queue with metrics and without; of a node with traces and without.
//! - *token*: processor time of a request with a token to check and without.
//!
//! Callers and nodes share the machine. Compare ratios within one run.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]
#![expect(clippy::expect_used, reason = "a bench may stop at the first surprise")]

#[path = "surface/caller.rs"]
mod caller;
#[path = "surface/idle.rs"]
mod idle;
#[path = "surface/load.rs"]
mod load;
#[path = "surface/looks.rs"]
mod looks;
#[path = "../runtime/benches/node/mod.rs"]
mod node;
#[path = "surface/process.rs"]
mod process;
#[path = "surface/submit.rs"]
mod submit;
#[path = "surface/telemetry.rs"]
mod telemetry;
#[path = "surface/token.rs"]
mod token;

use std::time::Duration;

/// How much of everything is done.
#[derive(Clone, Copy, Debug)]
struct Part(f64);

impl Part {
    fn of_all() -> Self {
        let set = std::env::var("REGROW_SURFACE_PART").ok();
        let part = set.map_or(1.0, |text| text.parse().expect("a part from 0 to 1"));
        Self(part)
    }

    /// So many, and one at least.
    fn of(self, count: usize) -> usize {
        ((count as f64 * self.0) as usize).max(1)
    }

    fn time(self, span: Duration) -> Duration {
        span.mul_f64(self.0).max(Duration::from_millis(100))
    }
}

fn median(mut sample: Vec<f64>) -> f64 {
    sample.sort_by(f64::total_cmp);
    sample[sample.len() / 2]
}

fn main() {
    let part = Part::of_all();
    if telemetry::ran_as_child(part) {
        return;
    }
    process::open_files_wanted();
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let known = ["submit", "idle", "looks", "telemetry", "token"];
    let named = |name: &str| asked.iter().any(|asked| asked == name);
    let wants = |name: &str| named(name) || !known.into_iter().any(named);
    let build = match cfg!(debug_assertions) {
        true => "debug",
        false => "release",
    };
    println!("{build} build, part {}", part.0);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if wants("submit") {
        runtime.block_on(submit::measure(part));
    }
    if wants("idle") {
        runtime.block_on(idle::measure(part));
    }
    if wants("looks") {
        runtime.block_on(looks::measure(part));
    }
    if wants("telemetry") {
        runtime.block_on(telemetry::measure(part));
    }
    if wants("token") {
        runtime.block_on(token::measure(part));
    }
}
