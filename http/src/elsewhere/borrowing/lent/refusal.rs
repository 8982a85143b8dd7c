//! What a peer's refusals say, as its queue said them.

use std::time::Duration;

use regrow_cluster::member::NodeName;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::queue::budget::{Amounts, Scope, Short, Shortfall, Unit};
use regrow_runtime::queue::error::{AdmitError, LeaseError};
use regrow_runtime::queue::task::TaskState;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::amounts::read_amount;
use crate::relay::Told;

/// When to try again unless it is said.
const RETRY: Duration = Duration::from_secs(1);

/// What a peer says that does not do what it was asked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    pub(super) code: String,
    status: u16,
    pub(super) detail: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Problem {
    /// The problem that was told, if it was one.
    pub(super) fn of(told: &Told) -> Option<Self> {
        if told.is_success() {
            return None;
        }
        let read = serde_json::from_slice(&told.body);
        let mut problem: Self = read.unwrap_or_else(|_| Self {
            detail: format!("it answered with status {}", told.status),
            ..Self::default()
        });
        problem.status = told.status;
        Some(problem)
    }

    /// Asking again may help: the peer is busy, its store recovers, or it does not listen to this
    /// node for now.
    pub(super) fn passes(&self) -> bool {
        // A queue that is being drained takes no children before a person resumes it.
        self.code != "draining"
            && (500 <= self.status
                || matches!(self.status, 401 | 403 | 408)
                || self.code == "overloaded")
    }

    /// Another step or question of that name is on record.
    pub(super) fn is_diverged(&self) -> bool {
        self.code == "step_diverged"
    }

    /// Fields of what was asked are unknown or not valid.
    pub(super) fn is_invalid(&self) -> bool {
        self.code == "validation_failed"
    }

    fn number(&self, name: &str) -> u64 {
        self.more.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    fn decoded<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.more.get(name)?.clone()).ok()
    }

    /// The same as the peer's queue said it. What a shortfall needs is known to whoever asked.
    pub(super) fn into_lease_error(self, task: TaskId, node: &NodeName) -> LeaseError {
        match self.code.as_str() {
            "stale_epoch" => LeaseError::Stale {
                task,
                offered: Epoch(self.number("offered_epoch")),
                current: Epoch(self.number("current_epoch")),
                state: self.decoded("state").unwrap_or(TaskState::Available),
            },
            "task_not_found" => LeaseError::Unknown(task),
            "result_too_large" | "body_too_large" => LeaseError::TooLarge {
                bytes: usize::try_from(self.number("bytes")).unwrap_or(usize::MAX),
                max: usize::try_from(self.number("max_bytes")).unwrap_or(usize::MAX),
            },
            "log_full" => LeaseError::LogFull {
                task,
                max: self.number("max_lines"),
            },
            "over_budget" => LeaseError::OverBudget(Box::new(Shortfall {
                key: self.decoded("key").unwrap_or_default(),
                needs: Amounts::ZERO,
                short: self.short(),
            })),
            "queue_full" if self.more.contains_key("max_bytes") => {
                LeaseError::Children(AdmitError::FullOfBytes {
                    bytes: self.number("bytes"),
                    max_bytes: self.number("max_bytes"),
                    retry_after: RETRY,
                })
            }
            "queue_full" => LeaseError::Children(AdmitError::Full {
                size: self.number("size"),
                max_size: self.number("max_size"),
                retry_after: RETRY,
            }),
            "draining" => LeaseError::Children(AdmitError::Draining),
            "dependency_failed" if let Some(dependency) = self.decoded("dependency") => {
                LeaseError::Children(AdmitError::Dependency {
                    dependency,
                    problem: format!("cannot be waited for: {}", self.detail),
                })
            }
            _ => LeaseError::Refused {
                node: node.to_string(),
                problem: self.detail,
            },
        }
    }

    /// Which limits are in the way.
    fn short(&self) -> Vec<Short> {
        #[derive(Deserialize)]
        struct Told {
            scope: Scope,
            unit: String,
            limit: f64,
            spent: f64,
            reserved: f64,
            missing: f64,
        }
        let told: Vec<Told> = self.decoded("short").unwrap_or_default();
        let read = told.into_iter().filter_map(|told| {
            let unit = match told.unit.as_str() {
                "tokens" => Unit::Tokens,
                "usd" => Unit::Micros,
                "calls" => Unit::Calls,
                "seconds" => Unit::Millis,
                _ => return None,
            };
            Some(Short {
                scope: told.scope,
                unit,
                limit: read_amount(unit, told.limit),
                spent: read_amount(unit, told.spent),
                reserved: read_amount(unit, told.reserved),
                missing: read_amount(unit, told.missing),
            })
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ApiError;

    fn told(error: LeaseError) -> Problem {
        let problem = ApiError::from(error).into_problem();
        let status = problem["status"].as_u64().and_then(|it| it.try_into().ok());
        let mut read: Problem = serde_json::from_value(problem).expect("read");
        read.status = status.expect("a status");
        read
    }

    #[test]
    fn what_the_queue_refuses_is_the_same_at_a_peer() {
        let (task, node) = (TaskId::fresh(), NodeName::from("a"));
        let short = Short {
            scope: Scope::Task(task),
            unit: Unit::Micros,
            limit: 1_250_000,
            spent: 3,
            reserved: 0,
            missing: 999_999,
        };
        let refusals = [
            LeaseError::Unknown(task),
            LeaseError::Stale {
                task,
                offered: Epoch(3),
                current: Epoch(9),
                state: TaskState::Executing,
            },
            LeaseError::TooLarge { bytes: 7, max: 5 },
            LeaseError::LogFull { task, max: 12 },
            LeaseError::OverBudget(Box::new(Shortfall {
                key: "s".to_owned(),
                needs: Amounts::ZERO,
                short: vec![short],
            })),
            LeaseError::Children(AdmitError::Full {
                size: 5,
                max_size: 4,
                retry_after: RETRY,
            }),
            LeaseError::Children(AdmitError::FullOfBytes {
                bytes: 5,
                max_bytes: 4,
                retry_after: RETRY,
            }),
            LeaseError::Children(AdmitError::Draining),
        ];
        for refusal in refusals {
            let meant = format!("{refusal:?}");
            let problem = told(refusal);
            assert!(!problem.passes(), "{meant}");
            assert_eq!(
                format!("{:?}", problem.into_lease_error(task, &node)),
                meant
            );
        }
        let invalid = LeaseError::Children(AdmitError::Invalid(vec!["kind is odd".to_owned()]));
        let problem = told(invalid).into_lease_error(task, &node);
        assert!(matches!(&problem, LeaseError::Refused { problem, .. } if problem.contains("odd")));
    }

    #[test]
    fn a_busy_peer_is_asked_again() {
        let busy = LeaseError::TooManyReservations {
            task: TaskId::fresh(),
            max: 3,
        };
        assert!(told(busy).passes());
        let recovers = regrow_runtime::store::StoreError::Recovering;
        assert!(told(recovers.into()).passes());
    }
}
