//! Every branch of the decision, and the laws that hold over all of them.

use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp(1_000_000);

/// A patient that is looked at once a second.
struct Case {
    policy: RemedyPolicy,
    patient: Patient,
    generation: u64,
    now: Timestamp,
}

impl Case {
    fn new() -> Self {
        Self::with(RemedyPolicy::default())
    }

    fn with(policy: RemedyPolicy) -> Self {
        Self {
            policy,
            patient: Patient::new(START),
            generation: 1,
            now: START,
        }
    }

    fn see(&mut self, sign: Sign) -> Decision {
        self.now = self.now.after(Duration::from_secs(1));
        let answered_at = match sign {
            Sign::Silent { .. } => self.now.after(Duration::from_millis(500)),
            Sign::Answered { .. } | Sign::Down | Sign::Inconclusive => self.now,
        };
        self.patient
            .observe(&self.policy, self.generation, sign, self.now, answered_at)
    }

    fn answer(&mut self) -> Decision {
        self.see(answered(0, 0))
    }

    fn silence(&mut self) -> Decision {
        self.see(silent(false))
    }

    /// Silent until something is to be done.
    fn until_remedy(&mut self) -> (Remedy, Duration) {
        let began = self.now;
        for _ in 0..1_000 {
            if let Some(remedy) = self.silence().remedy {
                return (remedy, self.now.since(began));
            }
        }
        panic!("no remedy in 1000 s of silence");
    }

    /// The remedy is applied, and a kill leads to the next life.
    fn apply(&mut self, remedy: Remedy) {
        self.patient.remedied(&self.policy, remedy, true, self.now);
        self.generation += u64::from(remedy == Remedy::Kill);
    }
}

fn answered(in_flight: usize, progress: u64) -> Sign {
    Sign::Answered {
        observation: Observation {
            in_flight,
            progress,
            detail: None,
        },
        latency: Duration::from_micros(50),
    }
}

fn silent(moved: bool) -> Sign {
    Sign::Silent {
        error: ProbeError::TimedOut(Duration::from_millis(500)),
        moved,
    }
}

#[test]
fn a_silent_child_is_suspected_then_convicted_then_killed() {
    let mut case = Case::new();
    assert_eq!(case.answer(), Decision::default());
    assert_eq!(case.silence().verdict, Some(Verdict::Suspected));
    assert_eq!(case.silence(), Decision::default());
    let convicted = Decision {
        verdict: Some(Verdict::Convicted),
        remedy: Some(Remedy::Kill),
    };
    assert_eq!(case.silence(), convicted);
    let cause = case.patient.cause().expect("a cause").to_owned();
    assert!(cause.contains("silent for 2.5s, 3 probes"), "{cause}");
}

#[test]
fn a_suspect_that_answers_is_cleared_and_starts_from_zero() {
    let mut case = Case::new();
    for _ in 0..50 {
        case.answer();
        case.silence();
        assert_eq!(case.silence().remedy, None);
        let healed = Some(Verdict::Healed(Duration::from_secs(2)));
        assert_eq!(case.answer().verdict, healed);
        assert_eq!(case.patient.condition(), Condition::Healthy);
        assert_eq!(case.patient.cause(), None);
    }
}

#[test]
fn enough_misses_in_too_short_a_time_convict_nobody() {
    let mut case = Case::with(RemedyPolicy {
        silence_min: Duration::from_secs(9),
        ..RemedyPolicy::default()
    });
    let (_, after) = case.until_remedy();
    assert_eq!(after, Duration::from_secs(10));
}

#[test]
fn a_child_that_handles_messages_is_busy_for_ever_and_never_convicted() {
    let mut case = Case::new();
    for _ in 0..1_000 {
        assert_eq!(case.see(silent(true)), Decision::default());
        assert_eq!(case.patient.condition(), Condition::Busy);
    }
}

#[test]
fn a_late_prober_blames_nobody() {
    let mut case = Case::new();
    case.silence();
    case.silence();
    for _ in 0..100 {
        assert_eq!(case.see(Sign::Inconclusive), Decision::default());
    }
    assert_eq!(case.patient.condition(), Condition::Suspect);
}

#[test]
fn a_child_that_its_supervisor_restarts_is_not_healths_business() {
    let mut case = Case::new();
    case.silence();
    case.silence();
    case.see(Sign::Down);
    assert_eq!(case.patient.condition(), Condition::Down);
    assert_eq!(case.silence().remedy, None);
}

#[test]
fn a_new_life_is_innocent_until_it_is_silent_itself() {
    let mut case = Case::new();
    case.silence();
    case.silence();
    case.generation += 1;
    assert_eq!(case.silence().remedy, None);
    assert_eq!(case.silence().remedy, None);
    assert_eq!(case.silence().remedy, Some(Remedy::Kill));
}

#[test]
fn repeated_convictions_wait_longer_and_end_in_parking() {
    let mut case = Case::new();
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (remedy, after) = case.until_remedy();
        seen.push((remedy, after.as_secs()));
        case.apply(remedy);
        case.answer();
    }
    let expected = [
        (Remedy::Kill, 3),
        (Remedy::Kill, 3 + 5),
        (Remedy::Kill, 3 + 10),
        (Remedy::Park, 3),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_parked_child_stays_parked_until_somebody_starts_it() {
    let mut case = Case::with(RemedyPolicy {
        kills_before_park: 0,
        ..RemedyPolicy::default()
    });
    let (remedy, _) = case.until_remedy();
    assert_eq!(remedy, Remedy::Park);
    case.apply(remedy);
    case.see(Sign::Down);
    assert_eq!(case.patient.condition(), Condition::Parked);
    assert!(case.patient.cause().is_some(), "the cause is shown");
    case.generation += 1;
    case.answer();
    assert_eq!(case.patient.condition(), Condition::Healthy);
    assert_eq!(case.patient.convictions(), 0);
}

#[test]
fn convictions_older_than_the_window_do_not_count() {
    let mut case = Case::new();
    for _ in 0..20 {
        let (remedy, after) = case.until_remedy();
        assert_eq!((remedy, after.as_secs()), (Remedy::Kill, 3));
        case.apply(remedy);
        case.answer();
        case.now = case.now.after(case.policy.window);
    }
}

#[test]
fn a_convict_that_answers_while_its_remedy_waits_is_spared() {
    let mut case = Case::new();
    let (remedy, _) = case.until_remedy();
    case.apply(remedy);
    case.answer();
    for _ in 0..4 {
        assert_eq!(case.silence().remedy, None);
    }
    assert_eq!(case.patient.condition(), Condition::Convicted);
    assert!(matches!(case.answer().verdict, Some(Verdict::Healed(_))));
    assert_eq!(case.patient.condition(), Condition::Healthy);
}

#[test]
fn a_refused_remedy_is_asked_for_again_after_a_pause() {
    let mut case = Case::new();
    let (remedy, _) = case.until_remedy();
    case.patient.remedied(&case.policy, remedy, false, case.now);
    let (again, after) = case.until_remedy();
    assert_eq!((again, after), (Remedy::Kill, Duration::from_secs(5)));
}

#[test]
fn work_that_stands_still_is_reported_and_killed_only_if_configured() {
    for kill_stalled in [false, true] {
        let mut case = Case::with(RemedyPolicy {
            kill_stalled,
            ..RemedyPolicy::default()
        });
        for _ in 0..121 {
            assert_eq!(case.see(answered(2, 7)), Decision::default());
        }
        let decision = case.see(answered(2, 7));
        if kill_stalled {
            assert_eq!(decision.remedy, Some(Remedy::Kill));
            continue;
        }
        assert_eq!(decision.verdict, Some(Verdict::Stalled));
        assert_eq!(case.patient.condition(), Condition::Stalled);
        for _ in 0..1_000 {
            assert_eq!(case.see(answered(2, 7)), Decision::default());
        }
        let healed = case.see(answered(2, 8)).verdict;
        assert!(matches!(healed, Some(Verdict::Healed(_))));
    }
}

#[test]
fn an_idle_child_makes_no_progress_and_is_well() {
    let mut case = Case::new();
    for _ in 0..1_000 {
        case.see(answered(0, 7));
        assert_eq!(case.patient.condition(), Condition::Healthy);
    }
    case.see(answered(1, 7));
    assert_eq!(case.patient.condition(), Condition::Healthy);
}

fn any_sign() -> impl Strategy<Value = Sign> {
    prop_oneof![
        3 => (0..3_usize, 0..3_u64).prop_map(|(in_flight, progress)| answered(in_flight, progress)),
        6 => any::<bool>().prop_map(silent),
        1 => Just(Sign::Down),
        1 => Just(Sign::Inconclusive),
    ]
}

proptest! {
    #[test]
    fn nobody_is_touched_without_an_unbroken_silence(
        signs in prop::collection::vec((any_sign(), prop::bool::weighted(0.1)), 1..200),
    ) {
        let mut case = Case::new();
        let mut silences = 0;
        for (sign, restarted) in signs {
            if restarted {
                case.generation += 1;
                silences = 0;
            }
            match &sign {
                Sign::Silent { moved: false, .. } => silences += 1,
                Sign::Silent { .. } | Sign::Answered { .. } | Sign::Down => silences = 0,
                Sign::Inconclusive => {}
            }
            if let Some(remedy) = case.see(sign).remedy {
                prop_assert!(case.policy.misses_max <= silences);
                case.apply(remedy);
                silences = if remedy == Remedy::Kill { 0 } else { silences };
            }
        }
    }

    #[test]
    fn silence_without_end_always_leads_to_a_remedy(
        signs in prop::collection::vec(any_sign(), 0..50),
    ) {
        let mut case = Case::new();
        for sign in signs {
            case.see(sign);
        }
        let (_, after) = case.until_remedy();
        prop_assert!(after <= Duration::from_secs(60), "{after:?}");
    }
}
