//! What takes several steps: booting, restarting a group, shutting down.
//!
//! `advance` runs after each event and takes the next step once the last one has been
//! reported: starts go in start order, ends in reverse, one at a time. Only a dynamic
//! supervisor, whose children are peers, and a killed one end all at once.

use std::time::Duration;

use tokio::time::Instant;

use super::request::Refusal;
use super::{ChildKey, Command, Engine, Goal, Phase, Purpose};
use crate::supervision::exit::ExitReason;

/// What the supervisor as a whole is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Before `Boot`.
    New,
    /// Starting the first children in order.
    Booting { current: Option<ChildKey> },
    /// Each child by itself.
    Running,
    /// Restarting a group.
    Cycling(Cycle),
    /// Ending; `all_asked` when all children were told at once.
    Stopping {
        reason: ExitReason,
        all_asked: bool,
        killed: bool,
    },
    /// Ended.
    Exited,
}

/// A group restart: all children from `from` on stop, then start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cycle {
    pub(super) from: ChildKey,
    /// The child whose failure began it; its backoff is the group's.
    pub(super) trigger: ChildKey,
    pub(super) delay: Duration,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Stopping,
    BackingOff,
    Starting { current: Option<ChildKey> },
}

impl Engine {
    pub(super) fn boot(&mut self) {
        if self.mode == Mode::New {
            self.mode = Mode::Booting { current: None };
        }
    }

    pub(super) fn is_booting(&self) -> bool {
        matches!(self.mode, Mode::New | Mode::Booting { .. })
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.mode, Mode::Stopping { .. } | Mode::Exited)
    }

    pub(super) fn is_killed(&self) -> bool {
        matches!(self.mode, Mode::Stopping { killed: true, .. })
    }

    /// The running group restart, if `key` belongs to it.
    pub(super) fn cycle_of(&self, key: ChildKey) -> Option<&Cycle> {
        match &self.mode {
            Mode::Cycling(cycle) if cycle.from <= key => Some(cycle),
            Mode::New
            | Mode::Booting { .. }
            | Mode::Running
            | Mode::Cycling(_)
            | Mode::Stopping { .. }
            | Mode::Exited => None,
        }
    }

    /// Begins a group restart, or widens the one under way.
    pub(super) fn begin_cycle(&mut self, from: ChildKey, trigger: ChildKey, delay: Duration) {
        // Children below `from` that the previous cycle has not started yet still need it.
        let from = self.held.first().map_or(from, |held| from.min(*held));
        let members: Vec<ChildKey> = self.children.range(from..).map(|(key, _)| *key).collect();
        for key in members {
            match self.phase(key) {
                Some(Phase::Idle | Phase::BackingOff) => {
                    self.set(key, Phase::Held(Purpose::Recover), None);
                }
                Some(
                    Phase::Held(_) | Phase::Starting(_) | Phase::Running | Phase::Ending { .. },
                )
                | None => {}
            }
        }
        self.mode = Mode::Cycling(Cycle {
            from,
            trigger,
            delay,
            stage: Stage::Stopping,
        });
    }

    pub(super) fn backoff_over(&mut self, key: ChildKey, now: Instant) {
        match &mut self.mode {
            Mode::Cycling(cycle) if cycle.trigger == key => {
                cycle.stage = Stage::Starting { current: None };
                self.set(key, Phase::Held(Purpose::Recover), None);
            }
            Mode::New
            | Mode::Booting { .. }
            | Mode::Running
            | Mode::Cycling(_)
            | Mode::Stopping { .. }
            | Mode::Exited => self.start(key, Purpose::Recover, now),
        }
    }

    /// Begins to end in order. The first reason stands.
    pub(super) fn begin_stopping(&mut self, reason: ExitReason) {
        if self.is_ending() {
            return;
        }
        self.mode = Mode::Stopping {
            reason,
            all_asked: false,
            killed: false,
        };
        self.deferred.clear();
        let waiting_to_start: Vec<ChildKey> = self
            .held
            .iter()
            .copied()
            .chain(self.deadlines.iter().map(|(_, key)| *key))
            .collect();
        for key in waiting_to_start {
            match self.phase(key) {
                Some(Phase::Held(Purpose::Request { ticket, .. })) => {
                    self.commands
                        .push(Command::Reply(*ticket, Err(Refusal::ShuttingDown)));
                    self.set(key, Phase::Idle, None);
                }
                Some(Phase::Held(_) | Phase::BackingOff) => self.set(key, Phase::Idle, None),
                Some(Phase::Idle | Phase::Starting(_) | Phase::Running | Phase::Ending { .. })
                | None => {}
            }
        }
    }

    pub(super) fn kill_everything(&mut self, now: Instant) {
        if self.mode == Mode::Exited {
            return;
        }
        self.begin_stopping(ExitReason::Killed);
        self.mode = Mode::Stopping {
            reason: ExitReason::Killed,
            all_asked: true,
            killed: true,
        };
        self.end_all(true, now);
    }

    fn end_all(&mut self, brutal: bool, now: Instant) {
        let all: Vec<ChildKey> = self.alive.iter().rev().copied().collect();
        for key in all {
            self.end_any(key, Goal::Shutdown, brutal, now);
        }
    }

    /// Takes every step that can be taken now.
    pub(super) fn advance(&mut self, now: Instant) {
        loop {
            let moved = match self.mode.clone() {
                Mode::New | Mode::Running | Mode::Exited => false,
                Mode::Booting { current } => self.advance_boot(current, now),
                Mode::Cycling(cycle) => self.advance_cycle(&cycle, now),
                Mode::Stopping {
                    reason,
                    all_asked,
                    killed: _,
                } => self.advance_stop(reason, all_asked, now),
            };
            if !moved {
                return;
            }
        }
    }

    fn advance_boot(&mut self, current: Option<ChildKey>, now: Instant) -> bool {
        if current.is_some_and(|key| self.is_changing(key)) {
            return false;
        }
        if let Some(key) = self.start_next_held(ChildKey::default(), now) {
            self.mode = Mode::Booting { current: Some(key) };
            return false;
        }
        self.mode = Mode::Running;
        self.commands.push(Command::Booted);
        for (key, reason) in std::mem::take(&mut self.deferred) {
            self.ended_by_itself(key, reason, now);
        }
        true
    }

    fn advance_cycle(&mut self, cycle: &Cycle, now: Instant) -> bool {
        let stage = match cycle.stage {
            Stage::Stopping => {
                if let Some(last) = self.alive.range(cycle.from..).next_back().copied() {
                    self.join_cycle(last, now);
                    return false;
                }
                let waits = matches!(self.phase(cycle.trigger), Some(Phase::Held(_)));
                if waits && !cycle.delay.is_zero() {
                    let until = now.checked_add(cycle.delay);
                    self.set(cycle.trigger, Phase::BackingOff, until);
                    Stage::BackingOff
                } else {
                    Stage::Starting { current: None }
                }
            }
            Stage::BackingOff => match self.phase(cycle.trigger) {
                Some(Phase::BackingOff) => return false,
                // Stopped by hand meanwhile: the others need not wait for it.
                Some(_) | None => Stage::Starting { current: None },
            },
            Stage::Starting { current } => {
                if current.is_some_and(|key| self.is_changing(key)) {
                    return false;
                }
                let Some(key) = self.start_next_held(cycle.from, now) else {
                    self.mode = Mode::Running;
                    return true;
                };
                let stage = Stage::Starting { current: Some(key) };
                self.mode = Mode::Cycling(Cycle {
                    stage,
                    ..cycle.clone()
                });
                return false;
            }
        };
        self.mode = Mode::Cycling(Cycle {
            stage,
            ..cycle.clone()
        });
        true
    }

    /// Ends the last member of a group, unless its end is already under way.
    fn join_cycle(&mut self, key: ChildKey, now: Instant) {
        match self.phase(key) {
            Some(Phase::Ending {
                goal: Goal::Cycle(_) | Goal::Remain,
                ..
            }) => {}
            Some(
                Phase::Idle
                | Phase::Held(_)
                | Phase::BackingOff
                | Phase::Starting(_)
                | Phase::Running
                | Phase::Ending { .. },
            )
            | None => {
                self.end_any(key, Goal::Cycle(Purpose::Recover), false, now);
            }
        }
    }

    fn advance_stop(&mut self, reason: ExitReason, all_asked: bool, now: Instant) -> bool {
        if self.alive.is_empty() {
            self.mode = Mode::Exited;
            self.commands.push(Command::Exit(reason));
        } else if all_asked {
        } else if self.policy.dynamic {
            self.mode = Mode::Stopping {
                reason,
                all_asked: true,
                killed: false,
            };
            self.end_all(false, now);
        } else if let Some(last) = self.alive.last().copied()
            && !self.is_ending_for_good(last)
        {
            self.end_any(last, Goal::Shutdown, false, now);
        }
        false
    }

    fn is_ending_for_good(&self, key: ChildKey) -> bool {
        matches!(
            self.phase(key),
            Some(Phase::Ending {
                goal: Goal::Shutdown,
                ..
            })
        )
    }

    fn is_changing(&self, key: ChildKey) -> bool {
        matches!(
            self.phase(key),
            Some(Phase::Starting(_) | Phase::Ending { .. })
        )
    }

    fn start_next_held(&mut self, from: ChildKey, now: Instant) -> Option<ChildKey> {
        let key = self.held.range(from..).next().copied()?;
        if let Some(Phase::Held(purpose)) = self.phase(key).cloned() {
            self.start(key, purpose, now);
        }
        Some(key)
    }
}
