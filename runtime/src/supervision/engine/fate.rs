//! What follows when a life ends or a start fails: restart, stay down, or give up.

use std::sync::Arc;

use tokio::time::Instant;

use super::cycle::{Mode, Stage};
use super::request::Refusal;
use super::{ChildKey, Command, Engine, Goal, Life, Phase, Purpose};
use crate::actor::StartError;
use crate::supervision::exit::{ExitReason, IntensityReached, ShutdownCause};
use crate::supervision::lifecycle::Change;
use crate::supervision::strategy::AutoShutdown;

impl Engine {
    pub(super) fn exited(&mut self, life: Life, reason: ExitReason, now: Instant) {
        let Some(child) = self.children.get_mut(&life.key) else {
            return;
        };
        if child.generation != life.generation {
            return;
        }
        match child.phase.clone() {
            Phase::Running => {
                child.down_since = Some(now);
                child.last_reason = Some(reason.clone());
                self.set(life.key, Phase::Idle, None);
                self.tell_end(life, &reason, false);
                self.answer_waiting(life.key);
                self.ended_by_itself(life.key, reason, now);
            }
            Phase::Ending {
                goal,
                started: true,
                ..
            } => {
                self.ended(life, goal, true, reason, now);
            }
            // An abandoned life ended after all, or a start was reported twice.
            Phase::Idle
            | Phase::Held(_)
            | Phase::BackingOff
            | Phase::Starting(_)
            | Phase::Ending { started: false, .. } => {}
        }
    }

    fn tell_end(&mut self, life: Life, reason: &ExitReason, ordered: bool) {
        self.commands.push(Command::Ended(life, reason.clone()));
        let change = Change::Exited {
            generation: life.generation,
            reason: reason.clone(),
            ordered,
        };
        self.announce(life.key, change);
    }

    /// Those who asked for this child's end have it.
    fn answer_waiting(&mut self, key: ChildKey) {
        for ticket in self.waiting.remove(&key).unwrap_or_default() {
            self.commands.push(Command::Reply(ticket, Ok(())));
        }
    }

    /// A child ended that nobody had asked to. It is `Idle` by now.
    pub(super) fn ended_by_itself(&mut self, key: ChildKey, reason: ExitReason, now: Instant) {
        if self.is_ending() {
            return;
        }
        if let Mode::Booting { .. } = self.mode {
            self.deferred.push((key, reason));
            return;
        }
        let Some(child) = self.children.get(&key) else {
            return;
        };
        let stopping = self
            .cycle_of(key)
            .is_some_and(|cycle| cycle.stage == Stage::Stopping);
        if stopping {
            // It fell while its group was being stopped anyway: still one restart, not two.
            self.after_group_stop(key, Purpose::Recover);
        } else if child.spec.restart.applies_to(reason.is_abnormal()) {
            self.fail(key, reason, now);
        } else {
            self.ended_for_good(key);
        }
    }

    /// An end that was asked for has come, or was given up waiting for.
    pub(super) fn ended(
        &mut self,
        life: Life,
        goal: Goal,
        started: bool,
        reason: ExitReason,
        now: Instant,
    ) {
        let key = life.key;
        self.set(key, Phase::Idle, None);
        if let Some(child) = self.children.get_mut(&key) {
            child.down_since = Some(now);
            child.last_reason = Some(reason.clone());
        }
        if started {
            self.tell_end(life, &reason, !matches!(goal, Goal::Revive));
        }
        self.answer_waiting(key);
        if let Goal::FailStart(purpose, error) = goal {
            return self.start_failed(key, purpose, error, now);
        }
        if self.is_ending() {
            return self.give_up(&goal);
        }
        match goal {
            Goal::Remain => self.stay_down(key),
            Goal::Cycle(purpose) => self.after_group_stop(key, purpose),
            Goal::Renew => self.start(key, Purpose::Recover, now),
            // A start called off by a kill has failed; a life that was killed has crashed.
            Goal::Revive => self.ended_by_itself(key, reason, now),
            Goal::Shutdown | Goal::FailStart(..) => {}
        }
    }

    pub(super) fn start_reported_failed(&mut self, life: Life, error: StartError, now: Instant) {
        let Some(child) = self.children.get(&life.key) else {
            return;
        };
        if child.generation != life.generation {
            return;
        }
        match child.phase.clone() {
            Phase::Starting(purpose) => {
                self.set(life.key, Phase::Idle, None);
                self.answer_waiting(life.key);
                self.start_failed(life.key, purpose, error, now);
            }
            Phase::Ending {
                goal,
                started: false,
                ..
            } => {
                self.ended(life, goal, false, ExitReason::Killed, now);
            }
            Phase::Idle
            | Phase::Held(_)
            | Phase::BackingOff
            | Phase::Running
            | Phase::Ending { started: true, .. } => {}
        }
    }

    /// A start came to nothing. The child is `Idle` by now.
    fn start_failed(&mut self, key: ChildKey, purpose: Purpose, error: StartError, now: Instant) {
        let ignored = error == StartError::Ignored;
        let reason = ExitReason::Error(error.to_string().into());
        if !ignored {
            let counts = usize::from(purpose == Purpose::Recover);
            let restarts_left = self.intensity.left(now).saturating_sub(counts);
            self.announce(
                key,
                Change::StartFailed {
                    error: error.to_string(),
                    restarts_left,
                },
            );
        }
        match purpose {
            Purpose::Request { ticket, .. } if ignored => {
                self.stay_down(key);
                self.commands.push(Command::Reply(ticket, Ok(())));
            }
            Purpose::Boot | Purpose::Recover if ignored => self.stay_down(key),
            Purpose::Request { ticket, fresh } => {
                if fresh {
                    self.forget(key);
                }
                self.commands
                    .push(Command::Reply(ticket, Err(Refusal::StartFailed(error))));
            }
            Purpose::Boot => {
                if let Some(child) = self.children.get(&key) {
                    let text = format!("child `{}` failed to start: {error}", child.spec.id);
                    self.begin_stopping(ExitReason::Error(text.into()));
                }
            }
            Purpose::Recover if self.is_ending() => {}
            Purpose::Recover => self.fail(key, reason, now),
        }
    }

    /// Counts a failure, and restarts the child or its group, or gives up.
    fn fail(&mut self, key: ChildKey, reason: ExitReason, now: Instant) {
        let Some(child) = self.children.get_mut(&key) else {
            return;
        };
        // A start that failed has no run to its credit.
        let uptime = child.up_since.take().map(|since| now.duration_since(since));
        if uptime.is_some_and(|uptime| self.policy.backoff.stable_after <= uptime) {
            child.streak = 0;
        }
        child.streak = child.streak.saturating_add(1);
        child.down_since.get_or_insert(now);
        if self.intensity.record(now).is_err() {
            let report = Arc::new(IntensityReached {
                supervisor: Arc::clone(&self.path),
                child: child.spec.id.clone(),
                reason,
                restarts_max: self.policy.restarts_max,
                period: self.policy.period,
            });
            self.announce(key, Change::IntensityReached(Arc::clone(&report)));
            let cause = ShutdownCause::IntensityReached(report);
            return self.begin_stopping(ExitReason::Shutdown(cause));
        }
        child.restarts += 1;
        child.last_reason = Some(reason);
        let delay = self.policy.backoff.delay(child.streak, &mut self.rng);
        match self.policy.strategy.group_from(key) {
            Some(from) => self.begin_cycle(from, key, delay),
            None if delay.is_zero() => self.start(key, Purpose::Recover, now),
            None => self.set(key, Phase::BackingOff, now.checked_add(delay)),
        }
    }

    fn after_group_stop(&mut self, key: ChildKey, purpose: Purpose) {
        let Some(child) = self.children.get(&key) else {
            return;
        };
        if child.leaves_nothing(false) && purpose == Purpose::Recover {
            self.forget(key);
        } else {
            self.set(key, Phase::Held(purpose), None);
        }
    }

    /// Not to be restarted: keeps the spec, unless the child leaves nothing.
    pub(super) fn stay_down(&mut self, key: ChildKey) {
        let Some(child) = self.children.get(&key) else {
            return;
        };
        if child.leaves_nothing(self.policy.dynamic) {
            self.forget(key);
        } else {
            self.set(key, Phase::Idle, None);
        }
    }

    /// Ended by itself and not to be restarted: a significant child may take its supervisor
    /// along.
    fn ended_for_good(&mut self, key: ChildKey) {
        let Some(child) = self.children.get(&key) else {
            return;
        };
        let (id, significant) = (child.spec.id.clone(), child.spec.significant);
        self.stay_down(key);
        if significant && self.follows_significant(key) {
            let cause = ShutdownCause::SignificantEnded(id);
            self.begin_stopping(ExitReason::Shutdown(cause));
        }
    }

    fn follows_significant(&self, ended: ChildKey) -> bool {
        match self.policy.auto_shutdown {
            AutoShutdown::Never => false,
            AutoShutdown::AnySignificant => true,
            AutoShutdown::AllSignificant => !self.children.iter().any(|(key, child)| {
                *key != ended && child.spec.significant && child.phase != Phase::Idle
            }),
        }
    }
}
