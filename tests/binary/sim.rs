//! Simulated clusters, as an operator runs them.

use serde_json::Value;

use crate::node::{regrow, say};

#[test]
fn a_world_is_told_the_same_twice_and_a_broken_one_ends_with_the_command_that_shows_it() {
    let once = say(regrow().args(["sim", "--seed", "7", "--json"]));
    assert_eq!(once.code, Some(0), "{}", once.err);
    let again = say(regrow().args(["sim", "--seed", "7", "--json"]));
    assert_eq!(once.out, again.out);
    let told: Value = serde_json::from_str(&once.out).expect("JSON");
    assert_eq!(told["report"]["seed"], 7);
    assert!(told["report"]["trace"].is_string() && told["report"]["violation"].is_null());

    let broken = ["--authority", "database", "--break", "no-fencing"];
    let found = say(regrow().args(["sim", "--seeds", "60"]).args(broken));
    assert_eq!(found.code, Some(1), "{}", found.out);
    assert!(
        found.err.contains("stale_epochs is broken"),
        "{}",
        found.err
    );
    let (_, shown) = found.err.split_once("`regrow ").expect("a command");
    let (shown, _) = shown.split_once('`').expect("a command");
    let shown_again = say(regrow().args(shown.split(' ')));
    assert_eq!(shown_again.code, Some(1), "{shown}");
    assert_eq!(shown_again.err, found.err);
}
