//! Real nodes on hosts of their own, in a network that loses what it is told to.
//!
//! During each disturbance customers submit tasks and tell agents something, at any node that
//! answers. In the end nothing may be lost, done twice, written by a former owner, or have run in
//! two places, and everything runs again. See `testnet/` for the network.
//!
//! They share a database (`Database::`), or have none and agree (`Quorum::`).
//!
//! `REGROW_TEST_VERSION_BEFORE` is the program of the version before this one; `cargo xtask test` builds
//! it. Without it nothing is upgraded. `REGROW_NETWORK_ROUNDS` disturbs so often, and in some more ways; `REGROW_NETWORK_SEED` repeats
//! choices.

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
mod quorum;
mod run;
mod versions;
mod weather;
mod witness;

use std::pin::Pin;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use regrow_testnet::{admit, enter};

type Running = Pin<Box<dyn Future<Output = ()>>>;

type Scenario = fn() -> Running;

/// Names of scenarios, and how each runs under an authority.
macro_rules! under {
    ($authority:ident, $($module:ident::$name:ident),* $(,)?) => {
        [$((
            concat!(stringify!($authority), "::", stringify!($name)),
            (|| -> Running { Box::pin($module::$name(cluster::Authority::$authority)) }) as Scenario,
        )),*]
    };
}

fn main() -> ExitCode {
    // Before there are threads.
    let entered: &'static _ = Box::leak(Box::new(enter()));
    let mut arguments = Arguments::from_args();
    // Each has three nodes and a database to feed.
    arguments.test_threads = Some(1);
    let mut scenarios: Vec<(&'static str, Scenario)> = Vec::new();
    scenarios.extend(under![
        Database,
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
    ]);
    scenarios.extend(under![
        Quorum,
        losses::a_node_that_is_killed_loses_nothing,
        losses::a_node_that_is_frozen_and_goes_on_has_no_effect_any_more,
        losses::a_node_that_is_not_heard_is_succeeded_and_comes_back,
        losses::all_nodes_are_restarted_in_turn,
        weather::a_link_that_comes_and_goes_makes_no_second_owner,
    ]);
    if std::env::var_os("REGROW_NETWORK_ROUNDS").is_some() {
        scenarios.extend(under![
            Quorum,
            losses::a_node_that_is_cut_off_is_succeeded_and_comes_back,
            losses::a_node_that_does_not_hear_is_succeeded_and_comes_back,
            weather::loss_and_delay_cost_time_and_nothing_else,
        ]);
    }
    if versions::before().is_some() {
        scenarios.extend(under![
            Database,
            versions::nodes_of_the_version_before_are_replaced_in_turn
        ]);
        scenarios.extend(under![
            Quorum,
            versions::nodes_of_the_version_before_are_replaced_in_turn
        ]);
    }
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
    let judging: [(&str, fn()); 2] = [
        (
            "looks_tell_an_agent_that_runs_twice_from_one_that_moved",
            looks::looks_tell_an_agent_that_runs_twice_from_one_that_moved,
        ),
        (
            "an_act_under_an_epoch_after_a_later_one_is_stale",
            quorum::an_act_under_an_epoch_after_a_later_one_is_stale,
        ),
    ];
    trials.extend(judging.map(|(name, judge)| {
        Trial::test(name, move || {
            judge();
            Ok(())
        })
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[expect(
    clippy::print_stdout,
    reason = "whoever reads the results is told what each run came to"
)]
fn tell(line: &str) {
    println!("{line}");
}
