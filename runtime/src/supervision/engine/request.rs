//! What operators may ask of a supervisor, with OTP's refusals.
//!
//! OTP makes callers wait while it restarts a group. Here `start` and `restart` join the
//! group's start, in order; everything else is answered at once.

use std::sync::Arc;

use tokio::time::Instant;

use super::{ChildKey, Command, Engine, Goal, Phase, Purpose};
use crate::actor::StartError;
use crate::supervision::child_spec::{ChildId, ChildSpec};
use crate::supervision::supervisor_spec::SpecError;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::supervision) struct Ticket(pub(in crate::supervision) u64);

/// The answer.
pub(in crate::supervision) type Outcome = Result<(), Refusal>;

/// A question about one child.
#[derive(Clone, Debug)]
pub(in crate::supervision) enum Request {
    /// Add a child and start it.
    Start(Arc<ChildSpec>),
    /// Stop a child in order and leave it down.
    Terminate(ChildId),
    /// Start a child that is down.
    Restart(ChildId),
    /// Forget a child that is down.
    Delete(ChildId),
    /// Kill a child as if it had crashed.
    Kill(ChildId),
    /// Stop a child in order and start it again, without counting.
    Renew(ChildId),
}

/// Why a supervisor did not do what it was asked. Nothing was changed, unless said so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A child of this id runs, starts or stops.
    #[error("a child of this id is already running")]
    AlreadyStarted,
    /// A child of this id is down, its spec is kept; restart or delete it.
    #[error("a child of this id is already present; restart or delete it")]
    AlreadyPresent,
    /// The child did not start. The spec of a new child was discarded.
    #[error("child did not start: {0}")]
    StartFailed(StartError),
    /// No child has this id.
    #[error("no child of this id")]
    NotFound,
    /// The child runs, starts or stops; terminate it first.
    #[error("child is running; terminate it first")]
    Running,
    /// The supervisor is about to restart the child.
    #[error("child is being restarted")]
    Restarting,
    /// The child is down.
    #[error("child is not running")]
    NotRunning,
    /// The supervisor holds all the children it may.
    #[error("supervisor already has {0} children; raise `children_max`")]
    AtCapacity(usize),
    /// The spec contradicts itself or the supervisor's policy.
    #[error("child spec is invalid")]
    Invalid(#[from] SpecError),
    /// The supervisor is ending.
    #[error("supervisor is shutting down")]
    ShuttingDown,
    /// The supervisor is not running, or ended before it answered; the request may have been
    /// carried out.
    #[error("supervisor is not running")]
    SupervisorDown,
}

impl Engine {
    pub(super) fn request(&mut self, ticket: Ticket, request: Request, now: Instant) {
        let outcome = match request {
            // Nobody has the handle of a supervisor that has not booted.
            _ if self.is_booting() => Some(Err(Refusal::SupervisorDown)),
            Request::Start(spec) => self.request_start(ticket, spec, now),
            Request::Terminate(id) => self.with(&id, |engine, key| {
                engine.request_terminate(ticket, key, now)
            }),
            Request::Restart(id) => {
                self.with(&id, |engine, key| engine.request_restart(ticket, key, now))
            }
            Request::Delete(id) => self.with(&id, |engine, key| engine.request_delete(key)),
            Request::Kill(id) => self.with(&id, |engine, key| {
                engine.request_end(ticket, key, Goal::Revive, now)
            }),
            Request::Renew(id) => self.with(&id, |engine, key| {
                engine.request_end(ticket, key, Goal::Renew, now)
            }),
        };
        if let Some(outcome) = outcome {
            self.commands.push(Command::Reply(ticket, outcome));
        }
    }

    /// `None` means that the answer comes later.
    fn with(
        &mut self,
        id: &ChildId,
        act: impl FnOnce(&mut Self, ChildKey) -> Option<Outcome>,
    ) -> Option<Outcome> {
        match self.keys.get(id).copied() {
            Some(key) => act(self, key),
            None => Some(Err(Refusal::NotFound)),
        }
    }

    fn request_start(
        &mut self,
        ticket: Ticket,
        spec: Arc<ChildSpec>,
        now: Instant,
    ) -> Option<Outcome> {
        if self.is_ending() {
            return Some(Err(Refusal::ShuttingDown));
        }
        if let Err(invalid) = spec.validate(self.policy.auto_shutdown) {
            return Some(Err(invalid.into()));
        }
        if let Some(key) = self.keys.get(&spec.id) {
            return Some(Err(match self.phase(*key) {
                Some(Phase::Starting(_) | Phase::Running | Phase::Ending { .. }) => {
                    Refusal::AlreadyStarted
                }
                Some(Phase::Idle | Phase::Held(_) | Phase::BackingOff) | None => {
                    Refusal::AlreadyPresent
                }
            }));
        }
        if self.policy.children_max <= self.children.len() {
            return Some(Err(Refusal::AtCapacity(self.policy.children_max)));
        }
        let purpose = Purpose::Request {
            ticket,
            fresh: true,
        };
        let key = self.adopt(spec, purpose);
        self.start_or_hold(key, purpose, now);
        None
    }

    fn request_restart(&mut self, ticket: Ticket, key: ChildKey, now: Instant) -> Option<Outcome> {
        if self.is_ending() {
            return Some(Err(Refusal::ShuttingDown));
        }
        match self.phase(key)? {
            Phase::Idle => {
                self.start_or_hold(
                    key,
                    Purpose::Request {
                        ticket,
                        fresh: false,
                    },
                    now,
                );
                None
            }
            Phase::Held(_) | Phase::BackingOff | Phase::Starting(Purpose::Recover) => {
                Some(Err(Refusal::Restarting))
            }
            Phase::Starting(Purpose::Boot | Purpose::Request { .. })
            | Phase::Running
            | Phase::Ending { .. } => Some(Err(Refusal::Running)),
        }
    }

    /// Starts at once, or in its turn when a group restart is under way.
    fn start_or_hold(&mut self, key: ChildKey, purpose: Purpose, now: Instant) {
        if self.cycle_of(key).is_some() {
            self.set(key, Phase::Held(purpose), None);
        } else {
            self.start(key, purpose, now);
        }
    }

    fn request_terminate(
        &mut self,
        ticket: Ticket,
        key: ChildKey,
        now: Instant,
    ) -> Option<Outcome> {
        match self.phase(key)? {
            Phase::Idle | Phase::BackingOff | Phase::Held(Purpose::Boot | Purpose::Recover) => {
                self.stay_down(key);
                Some(Ok(()))
            }
            Phase::Held(Purpose::Request {
                ticket: starter, ..
            }) => {
                let cancelled = Refusal::StartFailed(StartError::Cancelled);
                self.commands.push(Command::Reply(*starter, Err(cancelled)));
                self.stay_down(key);
                Some(Ok(()))
            }
            Phase::Starting(_) | Phase::Running | Phase::Ending { .. } => {
                // A shutdown comes to it in its turn.
                if !self.is_ending() {
                    self.end_any(key, Goal::Remain, false, now);
                }
                self.waiting.entry(key).or_default().push(ticket);
                None
            }
        }
    }

    fn request_delete(&mut self, key: ChildKey) -> Option<Outcome> {
        Some(match self.phase(key)? {
            Phase::Idle => {
                self.forget(key);
                Ok(())
            }
            Phase::Held(_) | Phase::BackingOff | Phase::Starting(Purpose::Recover) => {
                Err(Refusal::Restarting)
            }
            Phase::Starting(Purpose::Boot | Purpose::Request { .. })
            | Phase::Running
            | Phase::Ending { .. } => Err(Refusal::Running),
        })
    }

    /// Ends a running child so that it comes back: by a kill that counts, or in order.
    fn request_end(
        &mut self,
        ticket: Ticket,
        key: ChildKey,
        goal: Goal,
        now: Instant,
    ) -> Option<Outcome> {
        let brutal = goal == Goal::Revive;
        match self.phase(key)? {
            Phase::Idle | Phase::Held(_) | Phase::BackingOff => {
                return Some(Err(Refusal::NotRunning));
            }
            // Already on its way out: a kill hastens it, its purpose stands.
            Phase::Ending { goal: standing, .. } => {
                let standing = standing.clone();
                self.end_any(key, standing, brutal, now);
            }
            Phase::Starting(_) | Phase::Running if self.is_ending() => {
                return Some(Err(Refusal::ShuttingDown));
            }
            Phase::Starting(_) | Phase::Running => {
                self.end_any(key, goal, brutal, now);
            }
        }
        self.waiting.entry(key).or_default().push(ticket);
        None
    }
}
