//! Beginning and ending single lives: what is commanded, for how long it is waited for, and
//! what happens when the wait is over.
//!
//! A started life that is asked to end is killed when its grace is over, and given up for
//! gone when it survives the kill. A start is called off instead; it may still come through.

use std::time::Duration;

use tokio::time::Instant;

use super::{Child, ChildKey, Command, Engine, Goal, Life, Phase, Purpose, request};
use crate::actor::StartError;
use crate::supervision::child_spec::{ChildKind, Shutdown};
use crate::supervision::exit::ExitReason;
use crate::supervision::lifecycle::Change;

impl Engine {
    pub(super) fn start(&mut self, key: ChildKey, purpose: Purpose, now: Instant) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        child.generation += 1;
        let life = Life {
            key,
            generation: child.generation,
        };
        let deadline = now.checked_add(child.spec.start_timeout);
        self.set(key, Phase::Starting(purpose), deadline);
        self.commands.push(Command::Start(life));
    }

    pub(super) fn started(&mut self, life: Life, now: Instant) {
        let Some(child) = self.children.get_mut(&life.key) else {
            return;
        };
        if child.generation != life.generation {
            return;
        }
        match child.phase.clone() {
            Phase::Starting(purpose) => {
                child.up_since = Some(now);
                let change = match (purpose, child.down_since.take()) {
                    (Purpose::Recover, Some(down_since)) => {
                        let recovery = now.duration_since(down_since).as_micros();
                        Change::Restarted {
                            generation: life.generation,
                            reason: child.last_reason.take(),
                            restarts: child.restarts,
                            restarts_left: self.intensity.left(now),
                            recovery_us: u64::try_from(recovery).unwrap_or(u64::MAX),
                        }
                    }
                    (Purpose::Boot | Purpose::Request { .. } | Purpose::Recover, _) => {
                        Change::Started {
                            generation: life.generation,
                        }
                    }
                };
                self.set(life.key, Phase::Running, None);
                self.announce(life.key, change);
                if let Purpose::Request { ticket, .. } = purpose {
                    self.commands.push(Command::Reply(ticket, Ok(())));
                }
            }
            // The start won the race against its being called off: end it properly.
            Phase::Ending {
                goal,
                started: false,
                ..
            } => {
                let brutal = matches!(goal, Goal::Revive | Goal::FailStart(..));
                self.end(life.key, goal, brutal || self.is_killed(), now);
            }
            Phase::Idle
            | Phase::Held(_)
            | Phase::BackingOff
            | Phase::Running
            | Phase::Ending { started: true, .. } => {}
        }
    }

    /// Ends a child that has started: kills it if `brutal` or if its spec says so.
    pub(super) fn end(&mut self, key: ChildKey, goal: Goal, brutal: bool, now: Instant) {
        let Some(child) = self.children.get(&key) else {
            return;
        };
        let life = Life {
            key,
            generation: child.generation,
        };
        let (killed, deadline) = match child.spec.shutdown {
            _ if brutal => (true, now.checked_add(self.kill_wait(child))),
            Shutdown::Brutal => (true, now.checked_add(self.kill_wait(child))),
            Shutdown::Timeout(grace) => (false, now.checked_add(grace)),
            Shutdown::Infinity => (false, None),
        };
        self.set(
            key,
            Phase::Ending {
                goal,
                started: true,
                killed,
            },
            deadline,
        );
        self.commands.push(if killed {
            Command::Kill(life)
        } else {
            Command::Stop(life)
        });
    }

    /// Calls off a child's start.
    pub(super) fn cancel_start(&mut self, key: ChildKey, goal: Goal, now: Instant) {
        let Some(child) = self.children.get(&key) else {
            return;
        };
        let life = Life {
            key,
            generation: child.generation,
        };
        let deadline = now.checked_add(self.kill_wait(child));
        self.set(
            key,
            Phase::Ending {
                goal,
                started: false,
                killed: true,
            },
            deadline,
        );
        self.commands.push(Command::CancelStart(life));
    }

    /// Ends whatever runs of a child, whichever phase it is in. False if nothing does.
    pub(super) fn end_any(
        &mut self,
        key: ChildKey,
        goal: Goal,
        brutal: bool,
        now: Instant,
    ) -> bool {
        match self.phase(key) {
            Some(Phase::Running) => self.end(key, goal, brutal, now),
            Some(Phase::Starting(purpose)) => {
                let purpose = *purpose;
                let goal = match goal {
                    Goal::Cycle(_) => Goal::Cycle(purpose),
                    other @ (Goal::Remain
                    | Goal::Revive
                    | Goal::Renew
                    | Goal::Shutdown
                    | Goal::FailStart(..)) => {
                        self.give_up_start(purpose);
                        other
                    }
                };
                self.cancel_start(key, goal, now);
            }
            Some(Phase::Ending {
                goal: standing,
                started,
                killed,
            }) => {
                let (standing, started, killed) = (standing.clone(), *started, *killed);
                if standing != goal {
                    self.give_up(&standing);
                }
                if started && brutal && !killed {
                    self.end(key, goal, true, now);
                } else if let Some(child) = self.children.get_mut(&key) {
                    child.phase = Phase::Ending {
                        goal,
                        started,
                        killed,
                    };
                }
            }
            Some(Phase::Idle | Phase::Held(_) | Phase::BackingOff) | None => return false,
        }
        true
    }

    /// Whoever asked for a start that will not be learns it now.
    pub(super) fn give_up_start(&mut self, purpose: Purpose) {
        if let Purpose::Request { ticket, .. } = purpose {
            let cancelled = request::Refusal::StartFailed(StartError::Cancelled);
            self.commands.push(Command::Reply(ticket, Err(cancelled)));
        }
    }

    pub(super) fn give_up(&mut self, goal: &Goal) {
        match goal {
            Goal::Cycle(purpose) | Goal::FailStart(purpose, _) => self.give_up_start(*purpose),
            Goal::Remain | Goal::Revive | Goal::Renew | Goal::Shutdown => {}
        }
    }

    /// A killed supervisor first waits for its own killed children.
    pub(super) fn kill_wait(&self, child: &Child) -> Duration {
        match child.spec.kind {
            ChildKind::Worker => self.policy.kill_wait,
            ChildKind::Supervisor => self.policy.kill_wait * 2,
        }
    }

    pub(super) fn deadlines_passed(&mut self, now: Instant) {
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.remove(&(at, key));
            let Some(child) = self.children.get_mut(&key) else {
                continue;
            };
            child.deadline = None;
            let life = Life {
                key,
                generation: child.generation,
            };
            let start_timeout = child.spec.start_timeout;
            match child.phase.clone() {
                Phase::BackingOff => self.backoff_over(key, now),
                Phase::Starting(purpose) => {
                    let error = StartError::TimedOut(start_timeout);
                    self.cancel_start(key, Goal::FailStart(purpose, error), now);
                }
                Phase::Ending {
                    goal,
                    started: true,
                    killed: false,
                } => {
                    self.end(key, goal, true, now);
                }
                Phase::Ending {
                    goal,
                    started,
                    killed: _,
                } => {
                    self.announce(
                        key,
                        Change::Abandoned {
                            generation: life.generation,
                        },
                    );
                    self.ended(life, goal, started, ExitReason::Killed, now);
                }
                Phase::Idle | Phase::Held(_) | Phase::Running => {}
            }
        }
    }
}
