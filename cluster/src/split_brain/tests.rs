//! Who goes on, told as pictures.

use super::*;
use crate::member::Incarnation;

fn member(name: &str) -> Member {
    Member::new(name, Incarnation(1))
}

fn set(names: &str) -> BTreeSet<Member> {
    names.split_whitespace().map(member).collect()
}

/// `"a: d e; b: d"` says that a suspects d and e, and b suspects d.
fn opinions(text: &str) -> Opinions {
    let lines = text.split(';').filter_map(|line| line.split_once(':'));
    lines
        .map(|(who, whom)| (member(who.trim()), set(whom)))
        .collect()
}

/// What `me` decides once the picture has stood still.
fn verdict(strategy: Strategy, me: &str, members: &str, text: &str) -> Verdict {
    let config = SplitBrainConfig {
        strategy,
        ..SplitBrainConfig::default()
    };
    let mut resolver = SplitBrain::new(config, LocalTime(0));
    let (me, members, opinions) = (member(me), set(members), opinions(text));
    let first = resolver.look(&me, &members, &opinions, LocalTime(0));
    assert_eq!(
        first,
        Verdict::Wait,
        "nothing is decided before the picture stands still"
    );
    assert_eq!(
        resolver.look(&me, &members, &opinions, LocalTime(999)),
        Verdict::Wait
    );
    resolver.look(&me, &members, &opinions, LocalTime(1_000))
}

#[test]
fn the_larger_side_goes_on_and_the_smaller_steps_down() {
    let five = "a b c d e";
    let three = verdict(Strategy::KeepMajority, "a", five, "a: d e; b: d e; c: d e");
    assert_eq!(three, Verdict::Down(set("d e")));
    let two = verdict(Strategy::KeepMajority, "d", five, "d: a b c; e: a b c");
    assert_eq!(two, Verdict::StepDown(Reason::Minority));
}

#[test]
fn of_two_halves_the_one_with_the_lowest_name_goes_on() {
    let low = verdict(Strategy::KeepMajority, "d", "a b c d", "a: b c; d: b c");
    assert_eq!(low, Verdict::Down(set("b c")));
    let high = verdict(Strategy::KeepMajority, "b", "a b c d", "b: a d; c: a d");
    assert_eq!(high, Verdict::StepDown(Reason::Minority));
}

#[test]
fn a_static_quorum_keeps_no_side_below_its_size() {
    let strategy = Strategy::StaticQuorum { size: 4 };
    let three = verdict(strategy, "a", "a b c d e", "a: d e; b: d e; c: d e");
    assert_eq!(three, Verdict::StepDown(Reason::Minority));
    let four = verdict(strategy, "a", "a b c d e", "a: e; b: e; c: e; d: e");
    assert_eq!(four, Verdict::Down(set("e")));
}

#[test]
fn down_all_leaves_nobody() {
    let all = verdict(Strategy::DownAll, "a", "a b c", "a: c; b: c");
    assert_eq!(all, Verdict::StepDown(Reason::DownAll));
}

#[test]
fn the_lease_decides_and_the_smaller_side_asks_later() {
    let minority_delay = Duration::from_secs(2);
    let strategy = Strategy::Lease { minority_delay };
    let config = SplitBrainConfig {
        strategy,
        ..SplitBrainConfig::default()
    };
    let members = set("a b c");
    let look = |resolver: &mut SplitBrain, me: &str, text: &str, at: u64| {
        resolver.look(&member(me), &members, &opinions(text), LocalTime(at))
    };
    let mut large = SplitBrain::new(config, LocalTime(0));
    look(&mut large, "a", "a: c; b: c", 0);
    assert_eq!(
        look(&mut large, "a", "a: c; b: c", 1_000),
        Verdict::AskForLease
    );
    large.lease_answered(true);
    assert_eq!(
        look(&mut large, "a", "a: c; b: c", 1_250),
        Verdict::Down(set("c"))
    );
    let mut small = SplitBrain::new(config, LocalTime(0));
    look(&mut small, "c", "c: a b", 0);
    assert_eq!(look(&mut small, "c", "c: a b", 1_000), Verdict::Wait);
    assert_eq!(look(&mut small, "c", "c: a b", 3_000), Verdict::AskForLease);
    small.lease_answered(false);
    assert_eq!(
        look(&mut small, "c", "c: a b", 3_250),
        Verdict::StepDown(Reason::LeaseDenied)
    );
}

#[test]
fn nodes_that_see_each_other_only_through_others_go_and_as_few_as_possible() {
    let five = "a b c d e";
    // One link is cut: one end of it goes, the one with the higher name.
    let text = "b: d; d: b";
    assert_eq!(
        verdict(Strategy::KeepMajority, "a", five, text),
        Verdict::Down(set("d"))
    );
    // Suspicion in one direction is a cut link, too.
    assert_eq!(
        verdict(Strategy::KeepMajority, "a", five, "d: b"),
        Verdict::Down(set("d"))
    );
    // The node at which all cut links meet goes, whatever its name.
    let text = "b: d e; d: b; e: b";
    assert_eq!(
        verdict(Strategy::KeepMajority, "a", five, text),
        Verdict::Down(set("b"))
    );
    let own = verdict(Strategy::KeepMajority, "b", five, "b: d e");
    assert_eq!(
        own,
        Verdict::Down(set("d e")),
        "it cannot tell this from a split"
    );
    let own = verdict(Strategy::KeepMajority, "d", five, "c: d");
    assert_eq!(own, Verdict::StepDown(Reason::IndirectlyConnected));
}

#[test]
fn a_picture_that_does_not_stand_still_ends_in_stepping_down() {
    let mut resolver = SplitBrain::new(SplitBrainConfig::default(), LocalTime(0));
    let members = set("a b c d e");
    let mut last = Verdict::Wait;
    for n in 0..=8 {
        let text = if n % 2 == 0 { "a: e" } else { "a: d e" };
        last = resolver.look(&member("a"), &members, &opinions(text), LocalTime(n * 250));
    }
    assert_eq!(last, Verdict::StepDown(Reason::Unstable));
}

#[test]
fn what_heals_in_time_is_forgotten() {
    let mut resolver = SplitBrain::new(SplitBrainConfig::default(), LocalTime(0));
    let members = set("a b c");
    let me = member("a");
    for at in [0, 900] {
        assert_eq!(
            resolver.look(&me, &members, &opinions("a: c"), LocalTime(at)),
            Verdict::Wait
        );
    }
    assert_eq!(
        resolver.look(&me, &members, &opinions(""), LocalTime(950)),
        Verdict::Wait
    );
    for at in [1_000, 1_999] {
        assert_eq!(
            resolver.look(&me, &members, &opinions("a: c"), LocalTime(at)),
            Verdict::Wait
        );
    }
    assert!(resolver.outside().contains(&member("c")));
}
