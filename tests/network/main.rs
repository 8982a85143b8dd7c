//! Real nodes on hosts of their own, in a network that loses what it is told to.
//!
//! During each disturbance customers submit tasks and tell agents something, at any node that
//! answers. In the end nothing may be lost, done twice, written by a former owner, or have run in
//! two places, and everything runs again. See `testnet/` for the network.
//!
//! `REGROW_NETWORK_ROUNDS` disturbs more often, `REGROW_NETWORK_SEED` repeats choices.

#[path = "../../src/demo/crash/ledger.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "rehearsals say more of a run than these tests ask, and test it elsewhere"
)]
mod ledger;
#[path = "../../runtime/tests/database/schema.rs"]
mod schema;

mod accounts;
mod cluster;
mod load;
mod looks;
mod losses;
mod names;
mod run;
mod versions;
mod weather;
mod witness;

use std::pin::Pin;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use regrow_testnet::{admit, enter};

macro_rules! scenarios {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$((stringify!($name), || Box::pin($module::$name()))),*]
    };
}

type Scenario = fn() -> Pin<Box<dyn Future<Output = ()>>>;

fn main() -> ExitCode {
    // Before there are threads.
    let entered: &'static _ = Box::leak(Box::new(enter()));
    let mut arguments = Arguments::from_args();
    // Each has three nodes and a database to feed.
    arguments.test_threads = Some(1);
    let scenarios: [(&'static str, Scenario); 12] = scenarios![
        losses::a_node_that_is_killed_loses_nothing,
        losses::a_node_that_is_frozen_and_goes_on_has_no_effect_any_more,
        losses::a_pause_shorter_than_the_term_costs_nothing,
        losses::a_node_that_is_cut_off_is_succeeded_and_comes_back,
        losses::a_node_that_is_not_heard_is_succeeded_and_comes_back,
        losses::a_node_that_does_not_hear_is_succeeded_and_comes_back,
        losses::nodes_that_hear_each_other_but_not_the_database_act_no_more,
        losses::all_nodes_are_restarted_in_turn,
        weather::loss_and_delay_cost_time_and_nothing_else,
        weather::a_link_that_comes_and_goes_makes_no_second_owner,
        weather::names_that_are_stale_partial_or_silent_break_nothing,
        versions::nodes_live_with_what_a_newer_version_says_and_writes,
    ];
    let mut trials: Vec<Trial> = scenarios
        .into_iter()
        .map(|(name, scenario)| {
            Trial::test(name, move || {
                if admit(entered, name)? {
                    let mut runtime = tokio::runtime::Builder::new_multi_thread();
                    let runtime = runtime.worker_threads(2).enable_all().build()?;
                    runtime.block_on(scenario());
                }
                Ok(())
            })
        })
        .collect();
    trials.push(Trial::test(
        "looks_tell_an_agent_that_runs_twice_from_one_that_moved",
        || {
            looks::looks_tell_an_agent_that_runs_twice_from_one_that_moved();
            Ok(())
        },
    ));
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[expect(
    clippy::print_stdout,
    reason = "whoever reads the results is told what each run came to"
)]
fn tell(line: &str) {
    println!("{line}");
}
