//! Candidates of known worth, by the thousand, served by lot beside an incumbent.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use super::tests::{Node, request, swapped};
use super::trial::{Arm, Call, Judged};
use super::*;

/// How values lie around their mean.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// All or nothing.
    Bernoulli,
    /// Anything, within 0.3.
    Continuous,
}

/// What a version is worth.
#[derive(Clone, Copy, Debug)]
struct Worth {
    reward: f64,
    outcome: f64,
}

/// An incumbent and a candidate, which may change when it is promoted.
#[derive(Clone, Copy, Debug)]
struct World {
    spread: Spread,
    incumbent: Worth,
    candidate: Worth,
    promoted: Worth,
}

fn alike(mean: f64) -> Worth {
    Worth {
        reward: mean,
        outcome: mean,
    }
}

impl World {
    fn new(spread: Spread, lead: f64) -> Self {
        let candidate = alike(0.6 + lead);
        Self {
            spread,
            incumbent: alike(0.6),
            candidate,
            promoted: candidate,
        }
    }

    /// Lets one candidate go its way; how it ended, why, and how much was seen of it.
    fn run(&self, settings: &Settings, seed: u64) -> (String, String, u64) {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut node = Node::new(settings.clone());
        node.submit(request("a")).expect("room");
        let mut calls = 0;
        loop {
            let share = match node
                .pipelines
                .of(&super::tests::agent("a"))
                .map(Pipeline::stage)
            {
                None => break,
                Some(Stage::Canary { canary, .. }) => canary.share(),
                Some(Stage::Watching { .. }) => 1_000,
                Some(Stage::Shadowing { .. }) => {
                    node.shadowed("a", 0);
                    continue;
                }
                Some(_) => {
                    let step = node.asked.last().expect("a step").step;
                    let answer = if step == Step::Promote {
                        swapped()
                    } else {
                        Answer::Done
                    };
                    node.answer("a", answer);
                    continue;
                }
            };
            calls += 1;
            let to_candidate = random.random_bool(f64::from(share) / 1_000.0);
            let (arm, worth) = match (to_candidate, share) {
                (false, _) => (Arm::Incumbent, self.incumbent),
                (true, 1_000) => (Arm::Candidate, self.promoted),
                (true, _) => (Arm::Candidate, self.candidate),
            };
            let mut draw = |mean: f64| match self.spread {
                Spread::Bernoulli => f64::from(u8::from(random.random_bool(mean))),
                Spread::Continuous => mean + random.random_range(-0.3..0.3),
            };
            let (reward, value) = (draw(worth.reward), draw(worth.outcome));
            let pipeline = node.pipeline("a");
            let call = Call {
                arm,
                share,
                reward,
                failed: false,
                latency_us: 10,
                fuel: 0,
            };
            node.tell("a", Event::Called { pipeline, call });
            if node.stage("a") == "canary" || node.stage("a") == "watching" {
                node.tell(
                    "a",
                    Event::Judged {
                        pipeline,
                        judged: Judged { arm, share, value },
                    },
                );
            }
        }
        let (how, why) = node.end();
        (how, why, calls)
    }
}

/// How candidates ended.
#[derive(Debug, Default)]
struct Ends {
    kept: u32,
    rolled_back: u32,
    rejected: u32,
}

fn ends(world: World, settings: &Settings, seeds: std::ops::Range<u64>) -> Ends {
    let mut ends = Ends::default();
    for seed in seeds {
        match world.run(settings, seed).0.as_str() {
            "kept" => ends.kept += 1,
            "rolled_back" => ends.rolled_back += 1,
            _ => ends.rejected += 1,
        }
    }
    ends
}

/// Short enough for thousands; long enough for differences of a tenth.
fn settings() -> Settings {
    Settings {
        canary_max: 1_000,
        watch_max: 1_000,
        ..Settings::default()
    }
}

#[test]
fn of_a_thousand_identical_candidates_no_more_are_promoted_than_stated() {
    for spread in [Spread::Bernoulli, Spread::Continuous] {
        let ends = ends(World::new(spread, 0.0), &settings(), 0..1_000);
        println!("1,000 identical, {spread:?}, seeds 0 to 999: {ends:?}");
        assert!(
            ends.kept + ends.rolled_back <= 10,
            "1 % is stated: {ends:?}"
        );
    }
}

#[test]
fn of_a_thousand_worse_candidates_none_stays() {
    for spread in [Spread::Bernoulli, Spread::Continuous] {
        let ends = ends(World::new(spread, -0.1), &settings(), 0..1_000);
        println!("1,000 worse by 0.1, {spread:?}, seeds 0 to 999: {ends:?}");
        assert_eq!(ends.kept, 0, "{ends:?}");
    }
}

#[test]
fn better_candidates_are_kept() {
    for (spread, lead) in [(Spread::Bernoulli, 0.25), (Spread::Continuous, 0.1)] {
        let ends = ends(World::new(spread, lead), &settings(), 0..200);
        println!("200 better by {lead}, {spread:?}, seeds 0 to 199: {ends:?}");
        assert!(170 <= ends.kept, "{ends:?}");
    }
}

#[test]
fn what_is_good_in_the_shadow_and_bad_live_is_stopped_in_the_canary() {
    for seed in 0..50 {
        let (how, why, calls) = World::new(Spread::Continuous, -0.3).run(&settings(), seed);
        assert_eq!(
            (how.as_str(), calls < 1_000),
            ("rejected", true),
            "seed {seed}: {why}"
        );
        assert_eq!(why, "canary: tasks turn out worse with it", "seed {seed}");
    }
}

#[test]
fn what_turns_bad_once_it_is_promoted_is_rolled_back() {
    for seed in 0..50 {
        let mut world = World::new(Spread::Continuous, 0.2);
        world.promoted = alike(0.4);
        let (how, why, _) = world.run(&settings(), seed);
        assert_eq!(how, "rolled_back", "seed {seed}: {why}");
        assert_eq!(why, "it does worse than what served before", "seed {seed}");
    }
}

#[test]
fn what_plays_for_its_score_is_rejected_or_rolled_back_by_how_tasks_turn_out() {
    for (measure, expected) in [
        // Where tasks decide, the score buys it nothing,
        (Measure::Outcome, "rejected"),
        // and where the score decides, tasks decide whether it stays.
        (Measure::Reward, "rolled_back"),
    ] {
        let settings = Settings {
            promote_by: measure,
            ..settings()
        };
        for seed in 0..50 {
            let mut world = World::new(Spread::Continuous, 0.2);
            world.candidate.outcome = 0.5;
            // As long as it is one of two it is careful, if that is what it takes.
            if measure == Measure::Reward {
                world.candidate.outcome = 0.6;
            }
            world.promoted.outcome = 0.4;
            let (how, why, _) = world.run(&settings, seed);
            assert_eq!(how, expected, "{measure:?}, seed {seed}: {why}");
        }
    }
}

#[test]
fn the_share_follows_what_is_seen_within_its_limits() {
    let settings = settings();
    let mut canary = super::trial::Canary::new(&settings);
    assert_eq!(canary.share(), settings.share_min);
    let call = |arm, reward, share| Call {
        arm,
        share,
        reward,
        failed: false,
        latency_us: 1,
        fuel: 0,
    };
    let mut shares = Vec::new();
    for at in 0..400 {
        let reward = if at < 200 { 0.9 } else { 0.0 };
        canary.called(&call(Arm::Candidate, reward, canary.share()), &settings);
        canary.called(&call(Arm::Incumbent, 0.5, canary.share()), &settings);
        shares.push(canary.share());
    }
    assert!(shares[0] <= 60, "it begins small: {}", shares[0]);
    assert_eq!(
        shares[199], settings.share_max,
        "the better one gets as much as it may"
    );
    assert_eq!(shares[399], settings.share_min, "the worse one as little");
}
