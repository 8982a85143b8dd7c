//! What holds whatever a decider is told, and in whatever order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use regrow_runtime::clock::Timestamp;

use super::*;

/// Something that happens; ends and answers are of the improvement under way, or of an old one.
#[derive(Clone, Debug)]
enum Happening {
    Outcomes {
        successes: u8,
        failures: u8,
        reward: Option<i8>,
    },
    Tick {
        later_ms: u64,
    },
    Force,
    Swap(u8),
    Answer(bool),
    End {
        kept: bool,
        stale: bool,
    },
    Measure(u8),
    Restart,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let outcomes = (0_u8..30, 0_u8..30, prop::option::of(any::<i8>()));
    let happening = prop_oneof![
        6 => outcomes.prop_map(|(successes, failures, reward)| Happening::Outcomes {
            successes,
            failures,
            reward,
        }),
        8 => (0_u64..3_600_000 * 3).prop_map(|later_ms| Happening::Tick { later_ms }),
        1 => Just(Happening::Force),
        1 => (0_u8..3).prop_map(Happening::Swap),
        2 => any::<bool>().prop_map(Happening::Answer),
        4 => any::<(bool, bool)>().prop_map(|(kept, stale)| Happening::End { kept, stale }),
        1 => any::<u8>().prop_map(Happening::Measure),
        2 => Just(Happening::Restart),
    ];
    prop::collection::vec(happening, 1..150)
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        any::<bool>(),
        8_usize..40,
        0_u32..6,
        0_u64..600_000,
        any::<bool>(),
    )
        .prop_map(
            |(singular, window, per_day_max, cool_down_ms, ask_when_risky)| Settings {
                policy: if singular {
                    Policy::Singularity
                } else {
                    Policy::Windowed
                },
                window,
                per_day_max,
                cool_down_ms,
                ask_when_risky,
                stagnation_outcomes: 60,
                strategies: vec!["bred".to_owned(), "written".to_owned()],
                ..Settings::default()
            },
        )
}

/// What came of a life.
#[derive(Debug, PartialEq)]
struct Lived {
    begun: Vec<(Improvement, Timestamp, Evidence)>,
    recorded: Vec<Decision>,
    state: State,
}

fn live(settings: &Settings, happenings: &[Happening], restarts: bool) -> Lived {
    let mut decider = Decider::new(settings.clone(), State::new(9)).expect("settings");
    let mut now = Timestamp(20_000 * 86_400_000);
    let (mut begun, mut recorded) = (Vec::new(), Vec::new());
    for happening in happenings {
        let of = decider.resume().map_or(0, |command| match command {
            Command::Improve(improvement) | Command::Ask(improvement) => improvement.decision,
            other @ (Command::Record(_) | Command::GiveUp { .. }) => {
                panic!("{other:?} is not to be resumed")
            }
        });
        let events = match happening {
            Happening::Outcomes {
                successes,
                failures,
                reward,
            } => {
                let outcome = |success| Outcome {
                    success,
                    reward: reward.map(f64::from),
                    ..Outcome::default()
                };
                let all = (0..*successes)
                    .map(|_| true)
                    .chain((0..*failures).map(|_| false));
                all.map(|success| Event::Observed(outcome(success)))
                    .collect()
            }
            Happening::Tick { later_ms } => {
                now = Timestamp(now.0 + later_ms);
                vec![Event::Ticked]
            }
            Happening::Force => {
                vec![Event::Forced {
                    by: "ann".to_owned(),
                    reason: "try".to_owned(),
                }]
            }
            Happening::Swap(to) => vec![Event::Swapped {
                version: to.to_string(),
            }],
            Happening::Answer(allowed) => {
                vec![Event::Answered {
                    decision: of,
                    allowed: *allowed,
                }]
            }
            Happening::End { kept, stale } => {
                let end = if *kept {
                    End::Kept
                } else {
                    End::Dropped("worse".to_owned())
                };
                let decision = if *stale { of + 1 } else { of };
                vec![Event::Ended { decision, end }]
            }
            Happening::Measure(name) => {
                vec![Event::Measured(BTreeMap::from([(name.to_string(), 1.0)]))]
            }
            Happening::Restart if restarts => {
                let stored = serde_json::to_string(decider.state()).expect("JSON");
                let state = serde_json::from_str(&stored).expect("JSON");
                decider = Decider::new(settings.clone(), state).expect("readable");
                Vec::new()
            }
            Happening::Restart => Vec::new(),
        };
        for event in events {
            let answered = matches!(event, Event::Answered { .. });
            for command in decider.on(event, now) {
                match command {
                    Command::Record(decision) => recorded.push(decision),
                    Command::Improve(improvement) | Command::Ask(improvement) if !answered => {
                        let evidence = decider.latest().expect("a decision").evidence.clone();
                        begun.push((improvement, now, evidence));
                    }
                    Command::Improve(_) | Command::Ask(_) | Command::GiveUp { .. } => {}
                }
            }
        }
    }
    let mut state = decider.state().clone();
    // For people; nothing is decided by it but what is worth recording.
    state.latest = None;
    Lived {
        begun,
        recorded,
        state,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_events_give_the_same_decisions_restarted_or_not(
        settings in settings(),
        happenings in happenings(),
    ) {
        let whole = live(&settings, &happenings, false);
        prop_assert_eq!(&live(&settings, &happenings, false), &whole);
        prop_assert_eq!(&live(&settings, &happenings, true), &whole);
    }

    #[test]
    fn no_outcome_is_evidence_of_two_improvements(
        settings in settings(),
        happenings in happenings(),
    ) {
        let lived = live(&settings, &happenings, true);
        let mut fingerprints = BTreeSet::new();
        let mut spent = 0;
        for (improvement, _, evidence) in &lived.begun {
            prop_assert!(fingerprints.insert(improvement.fingerprint.clone()));
            prop_assert!(spent <= evidence.outcomes.0, "{} after {spent}", evidence.outcomes.0);
            spent = evidence.outcomes.1;
            let is_order = matches!(improvement.reason, Reason::Forced { .. });
            let by_outcomes = settings.policy == Policy::Windowed && !is_order;
            prop_assert!(!by_outcomes || settings.samples_min <= evidence.samples);
        }
    }

    #[test]
    fn no_day_has_more_improvements_than_it_may_but_those_that_were_ordered(
        settings in settings(),
        happenings in happenings(),
    ) {
        let lived = live(&settings, &happenings, true);
        let mut days: BTreeMap<u64, u32> = BTreeMap::new();
        for (improvement, at, _) in &lived.begun {
            let begun = days.entry(at.0 / 86_400_000).or_default();
            let is_order = matches!(improvement.reason, Reason::Forced { .. });
            prop_assert!(is_order || *begun < settings.per_day_max);
            *begun += 1;
        }
    }

    #[test]
    fn a_state_is_bounded(settings in settings(), happenings in happenings()) {
        let mut many = Vec::new();
        for _ in 0..8 {
            many.extend(happenings.iter().cloned());
        }
        let lived = live(&settings, &many, true);
        let stored = serde_json::to_string(&lived.state).expect("JSON").len();
        prop_assert!(stored < 64 << 10, "{stored} bytes");
    }
}
