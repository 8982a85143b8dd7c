//! What makes an improvement begin, and what does not.

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::TaskId;

use super::*;

/// A tick of the background loop, in milliseconds.
const TICK: u64 = 5_000;

/// An agent whose loop goes round after each ten outcomes.
struct Life {
    decider: Decider,
    now: Timestamp,
    begun: Vec<Improvement>,
}

impl Life {
    fn new(settings: Settings) -> Self {
        Self {
            decider: Decider::new(settings, State::new(1)).expect("settings"),
            // Ten in the morning of some day.
            now: Timestamp(20_000 * 86_400_000 + 36_000_000),
            begun: Vec::new(),
        }
    }

    fn tell(&mut self, event: Event) -> Vec<Command> {
        let commands = self.decider.on(event, self.now);
        for command in &commands {
            if let Command::Improve(improvement) | Command::Ask(improvement) = command {
                self.begun.push(improvement.clone());
            }
        }
        commands
    }

    fn tick(&mut self) -> Verdict {
        self.now = Timestamp(self.now.0 + TICK);
        self.tell(Event::Ticked);
        self.decider.latest().expect("it decided").verdict.clone()
    }

    fn outcome(&mut self, outcome: Outcome) {
        self.tell(Event::Observed(outcome));
    }

    fn outcomes(&mut self, successes: usize, failures: usize) {
        for at in 0..successes + failures {
            let success = at < successes;
            self.outcome(Outcome {
                success,
                ..Outcome::default()
            });
        }
    }

    fn rewards(&mut self, rewards: impl IntoIterator<Item = f64>) {
        for reward in rewards {
            let (success, reward) = (true, Some(reward));
            self.outcome(Outcome {
                success,
                reward,
                ..Outcome::default()
            });
        }
    }

    fn end(&mut self, end: End) -> Vec<Command> {
        let decision = self.begun.last().expect("one began").decision;
        self.tell(Event::Ended { decision, end })
    }

    fn dropped(&mut self) {
        self.end(End::Dropped("no better".to_owned()));
    }
}

/// No pause and no question between one improvement and the next.
fn restless() -> Settings {
    Settings {
        cool_down_ms: 0,
        ask_when_risky: false,
        ..Settings::default()
    }
}

fn reason(verdict: &Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Improve(improvement) => Some(improvement.reason.clone()),
        Verdict::Continue(_) => None,
    }
}

#[test]
fn a_score_has_to_be_confidently_low() {
    let mut life = Life::new(restless());
    life.outcomes(0, 7);
    assert_eq!(life.tick(), Verdict::Continue(Hold::TooFew { samples: 7 }));
    life.outcomes(5, 0);
    // 5 of 12, but up to 0.68 with 95 %: below 0.75.
    assert_eq!(reason(&life.tick()), Some(Reason::ScoreDrop));
    let mut life = Life::new(restless());
    life.outcomes(7, 5);
    // 7 of 12: below 0.75 too, but up to 0.81.
    assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
}

#[test]
fn the_same_failures_never_trigger_twice() {
    let mut life = Life::new(restless());
    life.outcomes(0, 50);
    life.tick();
    assert_eq!(life.begun.len(), 1);
    for _ in 0..100 {
        life.tick();
    }
    life.dropped();
    for _ in 0..100 {
        assert_eq!(life.tick(), Verdict::Continue(Hold::TooFew { samples: 0 }));
    }
    // New ones do.
    life.outcomes(0, 50);
    life.tick();
    assert_eq!(life.begun.len(), 2);
    assert_ne!(life.begun[0].fingerprint, life.begun[1].fingerprint);
}

#[test]
fn an_outcome_that_is_told_twice_counts_once_and_one_of_another_version_never() {
    let mut life = Life::new(restless());
    life.tell(Event::Swapped {
        version: "v2".to_owned(),
    });
    let task = Some(TaskId::fresh());
    for _ in 0..50 {
        life.outcome(Outcome {
            task,
            ..Outcome::default()
        });
        let version = Some("v1".to_owned());
        life.outcome(Outcome {
            version,
            ..Outcome::default()
        });
    }
    assert_eq!(life.tick(), Verdict::Continue(Hold::TooFew { samples: 1 }));
}

#[test]
fn what_an_earlier_version_did_says_nothing_of_the_one_that_serves() {
    let mut life = Life::new(restless());
    life.outcomes(0, 50);
    life.tell(Event::Swapped {
        version: "v2".to_owned(),
    });
    assert_eq!(life.tick(), Verdict::Continue(Hold::TooFew { samples: 0 }));
}

#[test]
fn rewards_that_fall_below_their_own_past_are_seen_though_all_succeeds() {
    let mut life = Life::new(restless());
    let around = |mean: f64| (0..200).map(move |at| mean + f64::from(at % 5) * 0.01);
    life.rewards(around(0.8));
    assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
    life.rewards(around(0.8));
    assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
    life.rewards(around(0.7));
    assert_eq!(reason(&life.tick()), Some(Reason::Regression));
}

#[test]
fn a_score_that_goes_on_rising_is_no_stagnation_and_one_that_stands_is() {
    let mut life = Life::new(restless());
    let mut rising = 0.0;
    for _ in 0..40 {
        rising += 0.01;
        life.rewards((0..200).map(|at| rising + f64::from(at % 5) * 0.01));
        assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
    }
    life.rewards((0..499).map(|at| rising + f64::from(at % 5) * 0.01));
    assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
    life.rewards([rising]);
    assert_eq!(reason(&life.tick()), Some(Reason::Stagnation));
}

#[test]
fn an_agent_that_always_succeeds_has_nothing_to_improve() {
    let mut life = Life::new(restless());
    for _ in 0..30 {
        life.outcomes(100, 0);
        assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
    }
    // With rewards there is, for there might be higher ones.
    life.rewards((0..900).map(|at| f64::from(at % 7)));
    life.tick();
    life.rewards((0..900).map(|at| f64::from(at % 7)));
    assert_eq!(reason(&life.tick()), Some(Reason::Stagnation));
}

#[test]
fn an_order_works_before_the_first_tick_and_passes_pause_and_limit() {
    let force = || Event::Forced {
        by: "ann".to_owned(),
        reason: "try".to_owned(),
    };
    let settings = Settings {
        per_day_max: 0,
        ..Settings::default()
    };
    let mut life = Life::new(settings);
    let commands = life.tell(force());
    assert!(
        matches!(commands[..], [Command::Record(_), Command::Improve(_)]),
        "{commands:?}"
    );
    // While one is under way the order is kept; it is followed when that ends, pause or not.
    let commands = life.tell(force());
    assert!(matches!(commands[..], [Command::Record(_)]), "{commands:?}");
    let commands = life.end(End::Dropped("no better".to_owned()));
    assert!(
        matches!(commands[..], [Command::Record(_), Command::Improve(_)]),
        "{commands:?}"
    );
    // And once only.
    life.dropped();
    life.tick();
    assert_eq!(life.begun.len(), 2);
}

#[test]
fn pauses_grow_with_failures_in_a_row_and_end_with_success() {
    let settings = Settings {
        cool_down_ms: 60_000,
        cool_down_max_ms: 200_000,
        ask_when_risky: false,
        ..Settings::default()
    };
    let mut life = Life::new(settings);
    let waits = |life: &mut Life| {
        life.outcomes(0, 50);
        (0..).take_while(|_| reason(&life.tick()).is_none()).count()
    };
    assert_eq!(waits(&mut life), 0);
    for (pause_s, kept) in [
        (60, false),
        (120, false),
        (200, false),
        (60, true),
        (60, false),
    ] {
        let end = if kept {
            End::Kept
        } else {
            End::Dropped("no better".to_owned())
        };
        life.end(end);
        // The tick at the end of the pause is the first that may begin.
        assert_eq!(waits(&mut life), pause_s / 5 - 1, "after {pause_s} s");
    }
}

#[test]
fn a_days_limit_holds_over_restarts_and_ends_with_the_day() {
    let settings = Settings {
        per_day_max: 3,
        ..restless()
    };
    let mut life = Life::new(settings.clone());
    for _ in 0..10 {
        life.outcomes(0, 50);
        life.tick();
        if life.decider.resume().is_some() {
            life.dropped();
        }
        let stored = serde_json::to_string(life.decider.state()).expect("JSON");
        let state = serde_json::from_str(&stored).expect("JSON");
        life.decider = Decider::new(settings.clone(), state).expect("readable");
    }
    assert_eq!(life.begun.len(), 3);
    let Verdict::Continue(Hold::DailyLimit { until, .. }) = life.tick() else {
        panic!("the limit is reached");
    };
    assert_eq!(until, Timestamp(20_001 * 86_400_000));
    // A clock that is set back does not give the day again.
    life.now = Timestamp(19_999 * 86_400_000);
    life.outcomes(0, 50);
    assert!(reason(&life.tick()).is_none());
    life.now = until;
    assert!(reason(&life.tick()).is_some());
}

#[test]
fn an_improvement_that_nobody_reports_back_is_given_up() {
    let mut life = Life::new(Settings {
        patience_ms: 60_000,
        ..restless()
    });
    life.outcomes(0, 50);
    life.tick();
    life.now = Timestamp(life.now.0 + 59_999 - TICK);
    assert!(matches!(
        life.tick(),
        Verdict::Continue(Hold::UnderWay { .. })
    ));
    life.now = Timestamp(life.now.0 + 1);
    let commands = life.tell(Event::Ticked);
    let decision = life.begun[0].decision;
    assert_eq!(commands[0], Command::GiveUp { decision });
    // A report that comes after all changes nothing.
    assert_eq!(life.end(End::Kept), []);
    assert_eq!(life.decider.record("expressions").kept, 0);
    assert_eq!(life.decider.past().count(), 1);
}

#[test]
fn a_risky_improvement_waits_for_a_person_for_as_long_as_he_takes() {
    let settings = Settings {
        ask_when_risky: true,
        cool_down_ms: 0,
        ..Settings::default()
    };
    let mut life = Life::new(settings);
    // 1 of 4 succeed: below 0.3.
    life.outcomes(20, 60);
    life.tick();
    let asked = life.begun[0].clone();
    assert_eq!(asked.risk, Risk::Experimental);
    assert_eq!(life.decider.resume(), Some(Command::Ask(asked.clone())));
    life.now = Timestamp(life.now.0 + 86_400_000);
    assert!(matches!(
        life.tick(),
        Verdict::Continue(Hold::UnderWay { .. })
    ));
    let decision = asked.decision;
    let commands = life.tell(Event::Answered {
        decision,
        allowed: true,
    });
    assert_eq!(commands, [Command::Improve(asked.clone())]);
    assert_eq!(life.decider.resume(), Some(Command::Improve(asked)));
    assert_eq!(
        life.tell(Event::Answered {
            decision,
            allowed: false
        }),
        []
    );
    life.dropped();
    life.outcomes(20, 60);
    life.tick();
    let decision = life.begun.last().expect("another").decision;
    life.tell(Event::Answered {
        decision,
        allowed: false,
    });
    assert_eq!(life.decider.resume(), None);
}

#[test]
fn only_decisions_that_say_something_new_are_recorded() {
    let mut life = Life::new(restless());
    let mut recorded = 0;
    for _ in 0..1_000 {
        life.outcomes(10, 0);
        let commands = life.tell(Event::Ticked);
        recorded += commands.len();
    }
    // It became steady, and stayed so.
    assert_eq!(recorded, 1);
    let said = life.decider.latest().expect("one").to_string();
    assert_eq!(
        said,
        "continue: nothing is wrong (success 1.000 [0.981, 1.000] of 200)"
    );
}

#[test]
fn candidates_that_were_tried_are_known_again() {
    let mut life = Life::new(restless());
    assert!(life.decider.try_out("a") && !life.decider.try_out("a"));
    for at in 0..600 {
        assert!(life.decider.try_out(&format!("candidate {at}")));
    }
    assert!(!life.decider.try_out("candidate 599"));
    assert!(life.decider.try_out("a"), "the oldest are forgotten");
}

#[test]
fn the_seeds_policy_improves_after_30_cycles_and_not_again_for_the_same_reason() {
    let settings = Settings {
        policy: Policy::Singularity,
        ..restless()
    };
    let mut life = Life::new(settings);
    for _ in 0..29 {
        assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
    }
    assert_eq!(reason(&life.tick()), Some(Reason::Stagnation));
    life.dropped();
    for _ in 0..9 {
        assert_eq!(life.tick(), Verdict::Continue(Hold::Backoff));
    }
    // An order is refused in the backoff, and kept.
    life.tell(Event::Forced {
        by: "ann".to_owned(),
        reason: "try".to_owned(),
    });
    assert!(matches!(reason(&life.tick()), Some(Reason::Forced { .. })));
    life.end(End::Kept);
    // Failures of before count no more.
    life.outcomes(0, 8);
    assert_eq!(reason(&life.tick()), Some(Reason::ScoreDrop));
    life.end(End::Kept);
    assert_eq!(life.tick(), Verdict::Continue(Hold::Steady));
}

#[test]
fn settings_say_all_that_is_wrong_with_them_and_unknown_formats_are_refused() {
    let settings = Settings {
        window: 4,
        confidence: 1.0,
        reward_range: Some((1.0, 1.0)),
        strategies: Vec::new(),
        ..Settings::default()
    };
    let SettingsError(wrong) = settings.check().expect_err("four things");
    assert_eq!(wrong.len(), 5, "{wrong:?}");
    assert!(Settings::default().check().is_ok());
    let mut stored = serde_json::to_value(State::new(1)).expect("JSON");
    stored["format"] = 2.into();
    let state = serde_json::from_value(stored).expect("JSON");
    let error = Decider::new(Settings::default(), state).expect_err("another format");
    assert!(error.to_string().contains("format 2"), "{error}");
}
