//! Saying why a task is not running yet. Looks at the task and its surroundings within
//! fixed bounds, however long the queue is.

use super::{ASKED_WITHIN, Entry, Machine};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::explain::{Awaited, Cause, Explanation, Reason};
use crate::queue::gate::{GateKey, Need};
use crate::queue::task::{Lane, TaskState};

/// Tasks before this one that are counted.
const AHEAD_MAX: usize = 1_000;
/// Tasks waited for that are named.
const NAMED_MAX: usize = 20;

impl Machine {
    /// Why a live task is not running; `None` if it is not live.
    pub(crate) fn explain(&self, id: TaskId, now: Timestamp) -> Option<Explanation> {
        let entry = self.tasks.get(&id)?;
        let mut causes = Vec::new();
        let run = &entry.run;
        if let Some(end) = &entry.end {
            causes.push(Cause::Ended {
                outcome: end.state,
                error: end.error.as_deref().map(str::to_owned),
            });
        } else if entry.staged {
            causes.push(Cause::Storing);
        } else {
            match run.state {
                TaskState::Scheduled => causes.push(Cause::Scheduled { run_at: run.run_at }),
                TaskState::Retryable => causes.push(Cause::Backoff {
                    run_at: run.run_at,
                    attempt: run.attempt,
                    max_attempts: entry.body.max_attempts,
                    losses: run.losses,
                    last_error: run.last_error.clone(),
                }),
                TaskState::Executing => causes.push(Cause::Leased {
                    worker: run.worker.as_deref().unwrap_or_default().to_owned(),
                    until: run.lease_until,
                    epoch: run.epoch,
                    cancel_requested: run.cancel_requested,
                }),
                TaskState::Waiting => self.explain_waiting(entry, &mut causes),
                TaskState::AwaitingApproval => causes.extend(self.holdup(id).map(Cause::from)),
                TaskState::Available => self.explain_available(entry, now, &mut causes),
                TaskState::Completed | TaskState::Discarded | TaskState::Cancelled => {}
            }
            if let Some(at) = entry.expiry() {
                causes.push(Cause::Expires { at });
            }
        }
        Some(Explanation {
            id,
            state: run.state,
            reasons: causes.into_iter().map(Reason::from).collect(),
        })
    }

    fn explain_waiting(&self, entry: &Entry, causes: &mut Vec<Cause>) {
        let awaited = |ids: &[TaskId]| {
            let live: Vec<Awaited> = ids
                .iter()
                .filter_map(|id| {
                    let here = self.tasks.get(id).map(|other| other.run.state);
                    let state = here.or_else(|| self.distant.state(*id))?;
                    Some(Awaited { id: *id, state })
                })
                .collect();
            let count = live.len();
            (live.into_iter().take(NAMED_MAX).collect(), count)
        };
        if let Some(away) = self.carried.away(entry.body.id) {
            causes.push(Cause::Carried {
                node: away.node.clone(),
                task: away.task,
            });
        }
        let (waits_for, count) = awaited(&entry.body.depends_on);
        if 0 < count {
            causes.push(Cause::Dependency { waits_for, count });
        }
        let (waits_for, count) = awaited(&entry.children);
        if 0 < count {
            causes.push(Cause::Children { waits_for, count });
        }
    }

    fn explain_available(&self, entry: &Entry, now: Timestamp, causes: &mut Vec<Cause>) {
        if self.control.paused {
            causes.push(Cause::Paused);
        }
        let max = self.limits.leased_max;
        if max <= self.states[TaskState::Executing as usize] {
            causes.push(Cause::LeasesFull { max });
        }
        for need in &entry.needs {
            let here = entry.parked.as_ref() == Some(&need.gate);
            if !self.is_open(need, entry.body.id, now) {
                causes.push(self.explain_gate(need, now));
            } else if here {
                let standing = self.gates.standing(&need.gate, now, &self.control.rules);
                causes.push(Cause::Turn {
                    gate: need.gate.name(),
                    waiting: standing.parked,
                });
            }
        }
        let kind = &entry.body.kind;
        let asked_at = self.asked.get(kind).copied();
        if asked_at.is_none_or(|at| ASKED_WITHIN < now.since(at)) {
            causes.push(Cause::NoWorker {
                kind: kind.to_string(),
                asked_at,
            });
        }
        if entry.parked.is_none()
            && let Some(cause) = self.explain_position(entry)
        {
            causes.push(cause);
        }
    }

    fn explain_gate(&self, need: &Need, now: Timestamp) -> Cause {
        let rules = &self.control.rules;
        let gate = self.gates.standing(&need.gate, now, rules);
        let opens_at = self.gates.opens_at(&need.gate, need.units, now, rules);
        let opens_at = opens_at.filter(|at| now < *at);
        match &need.gate {
            GateKey::Concurrency(key) => Cause::ConcurrencyLimit {
                key: key.to_string(),
                gate,
            },
            GateKey::Rate(key) => Cause::RateLimit {
                key: key.to_string(),
                gate,
                opens_at,
            },
            GateKey::Resource(name) => Cause::Resource {
                resource: name.to_string(),
                needs: need.units,
                gate,
                opens_at,
            },
        }
    }

    fn explain_position(&self, entry: &Entry) -> Option<Cause> {
        let body = &entry.body;
        let rules = &self.control.rules;
        let at = self
            .backlog
            .position(body, entry.place?, AHEAD_MAX, rules)?;
        Some(Cause::Position {
            lane: body.priority,
            ahead: at.ahead,
            more: at.more,
            in_lane: at.in_lane,
            classes: at.classes,
            tenants: at.tenants,
            class_share: at.class_share,
            tenant_share: at.tenant_share,
            lanes_before: Lane::ALL
                .into_iter()
                .filter(|lane| at.lanes_before[lane.index()])
                .collect(),
        })
    }
}
