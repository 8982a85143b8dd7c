//! The ways a candidate can go.

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};

use super::trial::{Arm, Call, Judged};
use super::*;

/// The pipelines of a node, and the answers they get.
pub(super) struct Node {
    pub(super) pipelines: Pipelines,
    pub(super) settings: Settings,
    pub(super) now: Timestamp,
    /// Tickets of steps that were asked for, in order.
    pub(super) asked: Vec<Ticket>,
    pub(super) notices: Vec<Notice>,
}

pub(super) fn agent(name: &str) -> AgentId {
    AgentId::new(name)
}

/// A candidate `v2` beside `v1`.
pub(super) fn request(name: &str) -> Request {
    Request::new(agent(name), Epoch(1), "v2", Some("v1"))
}

impl Node {
    pub(super) fn new(settings: Settings) -> Self {
        settings.check().expect("settings");
        Self {
            pipelines: Pipelines::default(),
            settings,
            now: Timestamp(1_000_000),
            asked: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn take(&mut self, commands: Vec<Command>) -> Vec<Command> {
        for command in &commands {
            match command {
                Command::Do { ticket, .. } => self.asked.push(ticket.clone()),
                Command::Tell(notice) => self.notices.push(notice.clone()),
                Command::Ask { .. }
                | Command::Shadow { .. }
                | Command::Route { .. }
                | Command::Watch { .. } => {}
            }
        }
        commands
    }

    pub(super) fn submit(&mut self, request: Request) -> Result<Vec<Command>, SubmitError> {
        let commands = self.pipelines.submit(request, &self.settings, self.now)?;
        Ok(self.take(commands))
    }

    pub(super) fn tell(&mut self, name: &str, event: Event) -> Vec<Command> {
        let commands = self
            .pipelines
            .on(&agent(name), event, &self.settings, self.now);
        self.take(commands)
    }

    pub(super) fn wait(&mut self, ms: u64) -> Vec<Command> {
        self.now = Timestamp(self.now.0 + ms);
        let commands = self.pipelines.tick(&self.settings, self.now);
        self.take(commands)
    }

    /// Answers the latest step that was asked for.
    pub(super) fn answer(&mut self, name: &str, answer: Answer) -> Vec<Command> {
        let ticket = self.asked.last().expect("a step").clone();
        self.tell(name, Event::Answered { ticket, answer })
    }

    /// Answers steps with success up to `step`, which is left unanswered.
    pub(super) fn up_to(&mut self, name: &str, step: Step) {
        while self.stage(name) != "canary" && self.asked.last().expect("a step").step != step {
            if self.stage(name) == "shadowing" {
                self.shadowed(name, 0);
                continue;
            }
            self.answer(name, Answer::Done);
        }
    }

    pub(super) fn shadowed(&mut self, name: &str, failed: u64) {
        let (pipeline, calls) = (self.pipeline(name), self.settings.shadow_calls);
        let event = Event::Shadowed {
            pipeline,
            calls,
            differing: 3,
            failed,
        };
        self.tell(name, event);
    }

    pub(super) fn pipeline(&self, name: &str) -> u64 {
        self.pipelines
            .of(&agent(name))
            .expect("one is under way")
            .id()
    }

    pub(super) fn stage(&self, name: &str) -> &'static str {
        self.pipelines
            .of(&agent(name))
            .map_or("none", |one| one.stage().name())
    }

    /// How the latest ended, and why.
    pub(super) fn end(&self) -> (String, String) {
        let ended = self.notices.iter().rev().find_map(|notice| match notice {
            Notice::Ended { how, reason, .. } => {
                Some((how.clone(), reason.clone().unwrap_or_default()))
            }
            Notice::Started { .. } => None,
        });
        ended.expect("one has ended")
    }
}

pub(super) fn swapped() -> Answer {
    Answer::Swapped {
        snapshot: "before".to_owned(),
    }
}

#[test]
fn a_candidate_passes_every_step_in_order() {
    let mut node = Node::new(Settings::default());
    node.submit(request("a")).expect("room");
    node.up_to("a", Step::Promote);
    assert_eq!(node.stage("a"), "canary");
    let steps: Vec<Step> = node.asked.iter().map(|ticket| ticket.step).collect();
    let order = [
        Step::Validate,
        Step::Compare,
        Step::Compile,
        Step::Describe,
        Step::Test,
        Step::Replay,
        Step::Rehearse,
    ];
    assert_eq!(steps, order);
}

#[test]
fn each_step_can_refuse_and_says_so() {
    for step in [Step::Validate, Step::Describe, Step::Test, Step::Rehearse] {
        let mut node = Node::new(Settings::default());
        node.submit(request("a")).expect("room");
        node.up_to("a", step);
        node.answer("a", Answer::Refused("no".to_owned()));
        assert_eq!(node.end(), ("rejected".to_owned(), format!("{step}: no")));
        assert_eq!(node.stage("a"), "none");
    }
}

#[test]
fn new_capabilities_wait_for_a_person() {
    for allowed in [true, false] {
        let mut node = Node::new(Settings::default());
        node.submit(request("a")).expect("room");
        node.up_to("a", Step::Compare);
        let commands = node.answer("a", Answer::Adds(vec!["net".to_owned()]));
        assert!(matches!(&commands[..], [Command::Ask { added, .. }] if added == &["net"]));
        // For as long as he takes.
        node.wait(365 * 86_400_000);
        assert_eq!(node.stage("a"), "awaiting_approval");
        let pipeline = node.pipeline("a");
        node.tell(
            "a",
            Event::Approved {
                pipeline,
                allowed,
                by: "ann".to_owned(),
            },
        );
        if allowed {
            assert_eq!(node.stage("a"), "compared");
        } else {
            let reason = "compare: ann denied its new capabilities".to_owned();
            assert_eq!(node.end(), ("rejected".to_owned(), reason));
        }
    }
}

#[test]
fn a_step_that_breaks_is_tried_again_after_a_pause_and_not_for_ever() {
    let mut node = Node::new(Settings::default());
    node.submit(request("a")).expect("room");
    node.up_to("a", Step::Compile);
    let first = node.asked.last().expect("a step").clone();
    assert!(
        node.answer("a", Answer::Broke("killed".to_owned()))
            .is_empty()
    );
    assert!(node.wait(999).is_empty());
    assert_eq!(node.wait(1).len(), 1);
    assert_eq!(node.asked.last().expect("a step").attempt, 2);
    // The answer to the first attempt comes late.
    node.tell(
        "a",
        Event::Answered {
            ticket: first,
            answer: Answer::Done,
        },
    );
    assert_eq!(node.stage("a"), "compared");
    // The second gives none; the third breaks.
    node.wait(120_000);
    node.wait(2_000);
    assert_eq!(node.asked.last().expect("a step").attempt, 3);
    node.answer("a", Answer::Broke("killed".to_owned()));
    let reason = "compile: killed (after 3 attempts)".to_owned();
    assert_eq!(node.end(), ("rejected".to_owned(), reason));
}

#[test]
fn the_first_version_of_an_agent_is_promoted_without_anything_to_be_held_against() {
    let mut node = Node::new(Settings::default());
    let first = Request::new(agent("a"), Epoch(1), "v1", None);
    node.submit(first).expect("room");
    node.up_to("a", Step::Promote);
    assert_eq!(
        node.asked.iter().map(|ticket| ticket.step).max(),
        Some(Step::Promote)
    );
    node.answer("a", swapped());
    let pipeline = node.pipeline("a");
    let call = Call {
        arm: Arm::Candidate,
        share: 1_000,
        reward: 0.1,
        failed: false,
        latency_us: 10,
        fuel: 0,
    };
    (0..100).for_each(|_| drop(node.tell("a", Event::Called { pipeline, call })));
    assert_eq!(node.end().0, "kept");
}

#[test]
fn a_person_can_promote_directly_and_cancel_at_any_stage() {
    let direct = || Request {
        direct: true,
        ..request("a")
    };
    let mut node = Node::new(Settings::default());
    node.submit(direct()).expect("room");
    node.up_to("a", Step::Promote);
    let pipeline = node.pipeline("a");
    let cancel = |pipeline| Event::Cancelled {
        pipeline,
        by: "ann".to_owned(),
    };
    // Nobody knows whether the swap is half done: it is undone.
    let commands = node.tell("a", cancel(pipeline));
    assert!(matches!(&commands[..], [Command::Do { ticket, .. }] if ticket.step == Step::RollBack));
    assert!(node.tell("a", cancel(pipeline)).is_empty());
    node.answer("a", Answer::Done);
    assert_eq!(
        node.end(),
        ("rolled_back".to_owned(), "cancelled by ann".to_owned())
    );
    node.submit(direct()).expect("room");
    assert!(
        node.tell("a", cancel(pipeline)).is_empty(),
        "that was another one"
    );
    let pipeline = node.pipeline("a");
    node.tell("a", cancel(pipeline));
    assert_eq!(
        node.end(),
        (
            "rejected".to_owned(),
            "validate: cancelled by ann".to_owned()
        )
    );
}

#[test]
fn going_back_names_the_snapshot_and_is_tried_until_it_is_done() {
    let mut node = Node::new(Settings::default());
    node.submit(Request {
        direct: true,
        ..request("a")
    })
    .expect("room");
    node.up_to("a", Step::Promote);
    node.answer("a", swapped());
    let pipeline = node.pipeline("a");
    let commands = node.tell(
        "a",
        Event::Cancelled {
            pipeline,
            by: "ann".to_owned(),
        },
    );
    let [
        Command::Do {
            incumbent,
            snapshot,
            ..
        },
    ] = &commands[..]
    else {
        panic!("{commands:?}");
    };
    assert_eq!(
        (incumbent.as_deref(), snapshot.as_deref()),
        (Some("v1"), Some("before"))
    );
    for attempt in 1..30 {
        assert_eq!(node.asked.last().expect("a step").attempt, attempt);
        node.answer("a", Answer::Broke("the disk is full".to_owned()));
        node.wait(60_000);
    }
    node.answer("a", Answer::Done);
    assert_eq!(node.end().0, "rolled_back");
}

#[test]
fn a_new_right_takes_the_pipeline_over_and_the_old_one_is_of_no_effect() {
    let mut node = Node::new(Settings::default());
    node.submit(request("a")).expect("room");
    let old = node.asked.last().expect("a step").clone();
    let commands = node.tell("a", Event::Moved { epoch: Epoch(2) });
    assert!(matches!(&commands[..], [Command::Do { ticket, .. }] if ticket.epoch == Epoch(2)));
    let refused = Answer::Refused("no".to_owned());
    assert!(
        node.tell(
            "a",
            Event::Answered {
                ticket: old,
                answer: refused
            }
        )
        .is_empty()
    );
    assert!(node.tell("a", Event::Moved { epoch: Epoch(1) }).is_empty());
    assert_eq!(node.stage("a"), "staged");
    node.answer("a", Answer::Done);
    assert_eq!(node.stage("a"), "validated");
}

#[test]
fn an_agent_has_one_at_a_time_and_a_full_queue_refuses() {
    let mut node = Node::new(Settings {
        waiting_max: 2,
        ..Settings::default()
    });
    let version = |name: &str, version: &str| Request {
        candidate: version.to_owned(),
        ..request(name)
    };
    node.submit(version("a", "v2")).expect("room");
    assert!(node.submit(version("a", "v3")).expect("room").is_empty());
    assert_eq!(
        node.submit(version("b", "v2"))
            .expect("another agent")
            .len(),
        2
    );
    for duplicate in ["v1", "v2", "v3"] {
        let refused = node.submit(version("a", duplicate));
        assert!(
            matches!(refused, Err(SubmitError::Duplicate { .. })),
            "{refused:?}"
        );
    }
    node.submit(version("a", "v4")).expect("room");
    let refused = node.submit(version("a", "v5"));
    assert!(
        matches!(refused, Err(SubmitError::Full { waiting: 2, .. })),
        "{refused:?}"
    );
    let pipeline = node.pipeline("a");
    node.tell(
        "a",
        Event::Cancelled {
            pipeline,
            by: "ann".to_owned(),
        },
    );
    assert_eq!(
        node.pipelines
            .of(&agent("a"))
            .expect("the next")
            .request()
            .candidate,
        "v3"
    );
    node.submit(version("a", "v5")).expect("room again");
}

#[test]
fn what_waits_is_tried_beside_what_serves_by_then() {
    let mut node = Node::new(Settings {
        watch_min: 1,
        ..Settings::default()
    });
    node.submit(Request {
        direct: true,
        ..request("a")
    })
    .expect("room");
    node.submit(Request {
        candidate: "v3".to_owned(),
        ..request("a")
    })
    .expect("room");
    node.up_to("a", Step::Promote);
    node.answer("a", swapped());
    let pipeline = node.pipeline("a");
    let call = Call {
        arm: Arm::Candidate,
        share: 1_000,
        reward: 1.0,
        failed: false,
        latency_us: 10,
        fuel: 0,
    };
    node.tell("a", Event::Called { pipeline, call });
    let next = node.pipelines.of(&agent("a")).expect("the next").request();
    assert_eq!(
        (next.candidate.as_str(), next.incumbent.as_deref()),
        ("v3", Some("v2"))
    );
}

#[test]
fn an_end_is_told_again_until_it_is_confirmed() {
    let mut node = Node::new(Settings::default());
    node.submit(request("a")).expect("room");
    node.answer("a", Answer::Refused("no".to_owned()));
    let again = node.pipelines.resume(&node.settings, node.now);
    assert_eq!(
        again,
        [Command::Tell(node.notices.last().expect("an end").clone())]
    );
    node.pipelines.confirm(1);
    assert!(node.pipelines.resume(&node.settings, node.now).is_empty());
}

#[test]
fn a_trial_without_anything_to_see_ends() {
    let mut node = Node::new(Settings::default());
    node.submit(request("a")).expect("room");
    node.up_to("a", Step::Promote);
    node.wait(86_400_000);
    assert_eq!(node.end().0, "rejected");
    // After a promotion it goes back: what is unknown is not good.
    node.submit(Request {
        direct: true,
        ..request("a")
    })
    .expect("room");
    node.up_to("a", Step::Promote);
    node.answer("a", swapped());
    node.wait(86_400_000);
    node.answer("a", Answer::Done);
    assert_eq!(
        node.end(),
        (
            "rolled_back".to_owned(),
            "nothing was shown within 86400000 ms".to_owned(),
        )
    );
}

#[test]
fn calls_that_fail_are_slow_or_burn_too_much_stop_a_candidate_at_once() {
    let settings = Settings {
        fuel_max: 1_000,
        ..Settings::default()
    };
    for (failed, latency_us, fuel, what) in [
        (true, 0, 0, "failed"),
        (false, 100_001, 0, "were too slow"),
        (false, 0, 1_001, "burned too much"),
    ] {
        let mut node = Node::new(settings.clone());
        node.submit(request("a")).expect("room");
        node.up_to("a", Step::Promote);
        let pipeline = node.pipeline("a");
        let (mut calls, share) = (0, 50);
        while node.stage("a") == "canary" {
            calls += 1;
            let call = Call {
                arm: Arm::Candidate,
                share,
                reward: 1.0,
                failed,
                latency_us,
                fuel,
            };
            node.tell("a", Event::Called { pipeline, call });
        }
        assert_eq!(
            node.end().1,
            format!("canary: {calls} of {calls} calls {what}")
        );
        assert_eq!(calls, 4, "one more than may go wrong");
    }
}

#[test]
fn what_arrives_late_of_another_candidate_counts_for_none() {
    let mut node = Node::new(Settings::default());
    node.submit(request("a")).expect("room");
    node.up_to("a", Step::Promote);
    let before = node.pipelines.clone();
    let judged = Judged {
        arm: Arm::Candidate,
        share: 50,
        value: 0.0,
    };
    node.tell(
        "a",
        Event::Judged {
            pipeline: 7,
            judged,
        },
    );
    node.tell(
        "a",
        Event::Shadowed {
            pipeline: 1,
            calls: 9,
            differing: 0,
            failed: 9,
        },
    );
    assert_eq!(node.pipelines, before);
}
