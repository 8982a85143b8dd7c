//! The engine against OTP's rules, one case per test. No actor runs: a [`Stage`] plays the
//! children, so that every order of events can be arranged.
//!
//! - `restarts`: who comes back after which end, and when the supervisor gives up
//! - `orders`: requests, ends that take their time, shutdown

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::supervision::exit::ShutdownCause;
use crate::supervision::strategy::{AutoShutdown, Strategy};
use crate::supervision::{Backoff, Shutdown, SpecError, SupervisorSpec};

mod orders;
mod restarts;

pub(super) fn child(id: &str) -> ChildSpec {
    ChildSpec::task(id, |_stop| std::future::pending())
}

fn spec(strategy: Strategy) -> SupervisorSpec {
    SupervisorSpec::new("sup", strategy)
        .intensity(3, Duration::from_secs(5))
        .backoff(Backoff::OFF)
}

fn error() -> ExitReason {
    ExitReason::Error("bad".into())
}

const SHUTDOWN: ExitReason = ExitReason::Shutdown(ShutdownCause::Requested);

/// Plays the children: by default they start and stop at once, as asked.
struct Stage {
    engine: Engine,
    now: Instant,
    /// `+a` started, `!a` failed to start, `-a` asked to stop and gone, `x a` killed and gone.
    log: Vec<String>,
    names: BTreeMap<ChildKey, String>,
    lives: BTreeMap<String, Life>,
    /// Names whose start fails, once per entry.
    failing: Vec<&'static str>,
    /// Names that ignore being asked to stop.
    stubborn: Vec<&'static str>,
    /// Names that ignore even a kill.
    stuck: Vec<&'static str>,
    /// Names whose start does not report until told.
    slow: Vec<&'static str>,
    replies: BTreeMap<u64, Outcome>,
    notices: Vec<Notice>,
    exit: Option<ExitReason>,
    tickets: u64,
}

impl Stage {
    /// A booted supervisor with these children.
    fn open(spec: SupervisorSpec, children: &[ChildSpec]) -> Self {
        let mut stage = Self::closed(spec, children);
        stage.on(Event::Boot);
        stage
    }

    fn closed(mut spec: SupervisorSpec, children: &[ChildSpec]) -> Self {
        spec.children.extend_from_slice(children);
        spec.validate().expect("a valid spec");
        Self {
            engine: Engine::new("sup".into(), spec.policy, &spec.children, 1),
            now: Instant::now(),
            log: Vec::new(),
            names: BTreeMap::new(),
            lives: BTreeMap::new(),
            failing: Vec::new(),
            stubborn: Vec::new(),
            stuck: Vec::new(),
            slow: Vec::new(),
            replies: BTreeMap::new(),
            notices: Vec::new(),
            exit: None,
            tickets: 0,
        }
    }

    fn on(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for command in self.engine.on(event, self.now) {
                events.extend(self.perform(command));
            }
        }
    }

    fn perform(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Start(life) => {
                let name = self
                    .engine
                    .spec(life.key)
                    .expect("it has a spec")
                    .id
                    .to_string();
                self.names.insert(life.key, name.clone());
                self.lives.insert(name.clone(), life);
                if self.slow.contains(&name.as_str()) {
                    return None;
                }
                if let Some(at) = self.failing.iter().position(|failing| *failing == name) {
                    self.failing.remove(at);
                    self.log.push(format!("!{name}"));
                    return Some(Event::StartFailed(life, StartError::new("no")));
                }
                self.log.push(format!("+{name}"));
                Some(Event::Started(life))
            }
            Command::CancelStart(life) => {
                let name = &self.names[&life.key];
                (!self.stuck.contains(&name.as_str())).then(|| {
                    self.log.push(format!("x {name}"));
                    Event::StartFailed(life, StartError::Cancelled)
                })
            }
            Command::Stop(life) => {
                let name = &self.names[&life.key];
                (!self.stubborn.contains(&name.as_str())).then(|| {
                    self.log.push(format!("-{name}"));
                    Event::Exited(life, SHUTDOWN)
                })
            }
            Command::Kill(life) => {
                let name = &self.names[&life.key];
                (!self.stuck.contains(&name.as_str())).then(|| {
                    self.log.push(format!("x {name}"));
                    Event::Exited(life, ExitReason::Killed)
                })
            }
            Command::Reply(ticket, outcome) => {
                let answered = self.replies.insert(ticket.0, outcome);
                assert_eq!(answered, None, "a request is answered once");
                None
            }
            Command::Announce(notice) => {
                self.notices.push(notice);
                None
            }
            Command::Exit(reason) => {
                self.exit = Some(reason);
                None
            }
            Command::Ended(..) | Command::Show(_) | Command::Forget(_) | Command::Booted => None,
        }
    }

    fn exits(&mut self, name: &str, reason: ExitReason) {
        self.on(Event::Exited(self.lives[name], reason));
    }

    fn ask(&mut self, request: Request) -> Option<Outcome> {
        let ticket = self.tickets;
        self.tickets += 1;
        self.on(Event::Request(Ticket(ticket), request));
        self.replies.get(&ticket).cloned()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.on(Event::DeadlinePassed);
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }

    fn state(&self, name: &str) -> Option<NodeState> {
        let key = self.engine.keys.get(&ChildId::from(name))?;
        self.engine.view(*key).map(|(state, ..)| state)
    }
}

fn abc() -> [ChildSpec; 3] {
    ["a", "b", "c"].map(child)
}
