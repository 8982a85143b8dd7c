//! What holds in whatever order things happen, and wherever the node crashes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};

use super::trial::{Arm, Call, Judged};
use super::*;

/// Something that happens to one of three agents.
#[derive(Clone, Debug)]
enum Happening {
    Submit {
        version: u8,
        direct: bool,
        first: bool,
    },
    Answer(Reply),
    Approve(bool),
    Shadowed {
        failed: bool,
    },
    Served {
        good: bool,
        to_candidate: bool,
        failed: bool,
    },
    Cancel,
    Move,
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Done,
    Adds,
    Swapped,
    Refused,
    Broke,
    Stale,
}

fn happenings() -> impl Strategy<Value = Vec<(u8, Happening, bool)>> {
    let reply = prop_oneof![
        12 => Just(Reply::Done),
        4 => Just(Reply::Swapped),
        1 => Just(Reply::Adds),
        1 => Just(Reply::Refused),
        2 => Just(Reply::Broke),
        1 => Just(Reply::Stale),
    ];
    let served = any::<(bool, bool)>();
    let happening = prop_oneof![
        3 => (0_u8..6, any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(version, direct, first)| {
            Happening::Submit { version, direct, first }
        }),
        20 => reply.prop_map(Happening::Answer),
        2 => any::<bool>().prop_map(Happening::Approve),
        4 => prop::bool::weighted(0.1).prop_map(|failed| Happening::Shadowed { failed }),
        20 => (served, prop::bool::weighted(0.02)).prop_map(|((good, to_candidate), failed)| {
            Happening::Served { good, to_candidate, failed }
        }),
        1 => Just(Happening::Cancel),
        1 => Just(Happening::Move),
        3 => (0_u64..200_000).prop_map(Happening::Wait),
    ];
    prop::collection::vec((0_u8..3, happening, prop::bool::weighted(0.2)), 1..200)
}

fn settings() -> Settings {
    Settings {
        at_once_max: 2,
        waiting_max: 3,
        shadow_calls: 2,
        promotion_error: 0.2,
        canary_max: 12,
        watch_min: 2,
        watch_max: 8,
        keeping_error: 0.2,
        ..Settings::default()
    }
}

/// A node, and what it has been asked to do and not done yet.
struct World {
    settings: Settings,
    pipelines: Pipelines,
    now: Timestamp,
    /// The latest command of each agent's pipeline.
    open: BTreeMap<AgentId, Command>,
    /// Steps that each pipeline has asked for, in order.
    steps: BTreeMap<u64, Vec<Ticket>>,
    started: Vec<u64>,
    ended: BTreeMap<u64, String>,
}

fn ticket(command: &Command) -> Option<&Ticket> {
    match command {
        Command::Do { ticket, .. }
        | Command::Ask { ticket, .. }
        | Command::Shadow { ticket, .. }
        | Command::Route { ticket, .. }
        | Command::Watch { ticket } => Some(ticket),
        Command::Tell(_) => None,
    }
}

impl World {
    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            if let Some(ticket) = ticket(&command) {
                self.steps
                    .entry(ticket.pipeline)
                    .or_default()
                    .push(ticket.clone());
                self.open.insert(ticket.agent.clone(), command);
            } else if let Command::Tell(notice) = command {
                self.hear(notice);
            }
        }
    }

    fn hear(&mut self, notice: Notice) {
        match notice {
            Notice::Started { pipeline, .. } => self.started.push(pipeline),
            Notice::Ended {
                pipeline,
                how,
                agent,
                ..
            } => {
                let again = self.ended.insert(pipeline, how);
                assert!(again.is_none(), "pipeline {pipeline} ended twice");
                let stale = self.open.get(&agent).and_then(ticket);
                if stale.is_some_and(|ticket| ticket.pipeline == pipeline) {
                    self.open.remove(&agent);
                }
                self.pipelines.confirm(pipeline);
            }
        }
    }

    fn tell(&mut self, agent: &AgentId, event: Event) {
        let commands = self.pipelines.on(agent, event, &self.settings, self.now);
        self.take(commands);
    }

    fn happen(&mut self, agent: &AgentId, happening: &Happening) {
        let of = self.pipelines.of(agent);
        let (pipeline, stage) = of.map_or((0, "none"), |one| (one.id(), one.stage().name()));
        match happening {
            Happening::Submit {
                version,
                direct,
                first,
            } => {
                let incumbent = (!first).then_some("v0");
                let candidate = format!("v{version}");
                let request = Request::new(agent.clone(), Epoch(1), &candidate, incumbent);
                let request = Request {
                    direct: *direct,
                    ..request
                };
                if let Ok(commands) = self.pipelines.submit(request, &self.settings, self.now) {
                    self.take(commands);
                }
            }
            Happening::Answer(reply) => {
                let Some(Command::Do { ticket, .. }) = self.open.get(agent) else {
                    return;
                };
                let mut ticket = ticket.clone();
                let text = "so".to_owned();
                let answer = match reply {
                    Reply::Done => Answer::Done,
                    Reply::Adds => Answer::Adds(vec![text]),
                    Reply::Swapped => Answer::Swapped { snapshot: text },
                    Reply::Refused => Answer::Refused(text),
                    Reply::Broke => Answer::Broke(text),
                    Reply::Stale => {
                        ticket.attempt += 1;
                        let before = self.pipelines.clone();
                        self.tell(
                            agent,
                            Event::Answered {
                                ticket,
                                answer: Answer::Done,
                            },
                        );
                        assert_eq!(self.pipelines, before);
                        return;
                    }
                };
                self.tell(agent, Event::Answered { ticket, answer });
            }
            Happening::Approve(allowed) => {
                let (allowed, by) = (*allowed, "ann".to_owned());
                self.tell(
                    agent,
                    Event::Approved {
                        pipeline,
                        allowed,
                        by,
                    },
                );
            }
            Happening::Shadowed { failed } => {
                let failed = u64::from(*failed);
                let event = Event::Shadowed {
                    pipeline,
                    calls: 1,
                    differing: 0,
                    failed,
                };
                self.tell(agent, event);
            }
            Happening::Served {
                good,
                to_candidate,
                failed,
            } => {
                let arm = if *to_candidate {
                    Arm::Candidate
                } else {
                    Arm::Incumbent
                };
                // Good ones are the candidate's as long as it is tried: some are promoted.
                let good = if stage == "canary" {
                    *to_candidate
                } else {
                    *good
                };
                let (reward, share) = (f64::from(u8::from(good)), 500);
                let call = Call {
                    arm,
                    share,
                    reward,
                    failed: *failed,
                    latency_us: 1,
                    fuel: 0,
                };
                self.tell(agent, Event::Called { pipeline, call });
                let judged = Judged {
                    arm,
                    share,
                    value: reward,
                };
                self.tell(agent, Event::Judged { pipeline, judged });
            }
            Happening::Cancel => self.tell(
                agent,
                Event::Cancelled {
                    pipeline,
                    by: "ann".to_owned(),
                },
            ),
            Happening::Move => {
                let epoch = of.map_or(Epoch(1), |one| one.request().epoch);
                self.tell(
                    agent,
                    Event::Moved {
                        epoch: Epoch(epoch.0 + 1),
                    },
                );
            }
            Happening::Wait(ms) => {
                self.now = Timestamp(self.now.0 + ms);
                let commands = self.pipelines.tick(&self.settings, self.now);
                self.take(commands);
            }
        }
    }

    /// The node is killed, and started on what it had stored.
    fn crash(&mut self) {
        let stored = serde_json::to_string(&self.pipelines).expect("JSON");
        let mut read: Pipelines = serde_json::from_str(&stored).expect("JSON");
        assert_eq!(read, self.pipelines);
        let again = read.resume(&self.settings, self.now);
        let again: BTreeMap<AgentId, Command> = again
            .into_iter()
            .filter_map(|command| Some((ticket(&command)?.agent.clone(), command)))
            .collect();
        // All that was asked for and is not done is asked for again, and nothing else; but what
        // waits for its pause goes on waiting.
        for (agent, command) in &again {
            assert_eq!(Some(command), self.open.get(agent));
        }
        for (agent, command) in &self.open {
            let of = self.pipelines.of(agent).expect("it has something to do");
            let pausing = matches!(of.stage(), Stage::Doing { asked_at: None, .. });
            assert!(
                pausing || again.get(agent) == Some(command),
                "{command:?} is forgotten"
            );
        }
        self.pipelines = read;
    }

    fn check(&self) {
        assert!(self.pipelines.running().count() <= self.settings.at_once_max);
        assert!(self.pipelines.waiting() <= self.settings.waiting_max);
        let unended = self.started.len() - self.ended.len();
        assert_eq!(unended, self.pipelines.running().count());
        for (pipeline, tickets) in &self.steps {
            for two in tickets.windows(2) {
                // A person is asked within a step, however many attempts that took.
                let asked = two[1].step == Step::Compare && two[1].attempt == 1;
                let forward = (two[0].step, two[0].attempt) <= (two[1].step, two[1].attempt)
                    || asked && two[0].step == Step::Compare;
                assert!(
                    forward,
                    "pipeline {pipeline} went from {:?} to {:?}",
                    two[0], two[1]
                );
                assert!(two[0].epoch <= two[1].epoch);
            }
            let promoting = tickets.iter().any(|ticket| ticket.step == Step::Promote);
            let end = self.ended.get(pipeline).map(String::as_str);
            let fitting = if promoting {
                ["kept", "rolled_back"]
            } else {
                ["rejected"; 2]
            };
            assert!(
                end.is_none_or(|end| fitting.contains(&end)),
                "{pipeline} ended {end:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_candidate_goes_forward_to_one_end(happenings in happenings()) {
        let settings = settings();
        prop_assert!(settings.check().is_ok());
        let mut world = World {
            settings,
            pipelines: Pipelines::default(),
            now: Timestamp(1),
            open: BTreeMap::new(),
            steps: BTreeMap::new(),
            started: Vec::new(),
            ended: BTreeMap::new(),
        };
        let agents = ["a", "b", "c"].map(AgentId::new);
        for (agent, happening, crashes) in &happenings {
            world.happen(&agents[usize::from(*agent)], happening);
            if *crashes {
                world.crash();
            }
            world.check();
        }
        // In the end all that is under way, and all that waits, comes to an end.
        for _ in 0..400 {
            for agent in &agents {
                world.happen(agent, &Happening::Answer(Reply::Done));
                world.happen(agent, &Happening::Approve(true));
            }
            world.happen(&agents[0], &Happening::Wait(86_400_000));
            world.check();
        }
        prop_assert_eq!(world.started.len(), world.ended.len());
        prop_assert_eq!(world.pipelines.waiting(), 0);
        prop_assert!(world.open.is_empty());
    }
}
