//! Asking people, and answering for them.

use std::time::Duration;

use super::Queue;
use super::approval::{
    Answer, ApprovalError, ApprovalFilter, ApprovalId, ApprovalRow, ApprovalState, Decision,
    Holdup, Question, Reason, token_hash,
};
use super::error::LeaseError;
use super::machine;
use super::order::Verb;
use super::ties::{Ordered, Reply};
use crate::ids::{Epoch, TaskId};
use crate::store::StoreError;

/// Longest question, in bytes.
const QUESTION_BYTES_MAX: usize = 4 << 10;
/// Most answers to choose from.
const OPTIONS_MAX: usize = 20;
/// Longest scope, option, note or name of a decider, in bytes.
const WORD_BYTES_MAX: usize = 512;

/// What became of a question.
#[derive(Clone, Debug)]
pub enum Asking {
    /// The task waits. Whoever presents the token may answer; it is kept as a hash only.
    Waits {
        /// The question.
        approval: ApprovalId,
        /// Proof that its bearer was shown the question.
        token: String,
    },
    /// It was asked and decided before; the lease still holds.
    Decided(Decision),
    /// The task ended instead, since it was asked to stop.
    Ended,
}

/// A question cannot be asked like this.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not valid; repeating it is useless.
    #[error("the question is not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
    /// A step or question of this name is on record with other words.
    #[error("`{key}` is on record as another step or question; give this one another key")]
    Diverged {
        /// The name.
        key: String,
    },
    /// The lease does not allow it.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The journal could not be read.
    #[error("the question could not be looked up")]
    Store(#[from] StoreError),
}

impl Queue {
    /// Lets the holder's task wait for a person's answer to question `key`, without a lease.
    /// A question that was answered before is not asked again.
    ///
    /// It counts as denied when nobody has answered within `patience`.
    ///
    /// # Errors
    ///
    /// [`AskError`]; the lease still holds, unless it is stale.
    pub async fn ask(
        &self,
        id: TaskId,
        epoch: Epoch,
        key: &str,
        question: Question,
        patience: Option<Duration>,
    ) -> Result<Asking, AskError> {
        check(key, &question)?;
        if let Some(step) = self.step_of(id, key).await? {
            let same = step.input.json.decode::<Question>();
            let decided = step.output.json.decode::<Decision>();
            return match (same, decided) {
                (Ok(same), Ok(decision)) if same == question => {
                    self.holds(id, epoch).await?;
                    Ok(Asking::Decided(decision))
                }
                _ => Err(AskError::Diverged {
                    key: key.to_owned(),
                }),
            };
        }
        // From the thread's cryptographic generator, not the machine's seeded one.
        let token = format!("{:032x}", rand::random::<u128>());
        let hash = token_hash(&token);
        let outcome = self
            .decide(|machine, now| {
                let asked = machine::Asked {
                    reason: Reason::Ask {
                        key: key.to_owned(),
                    },
                    question,
                    expires_at: patience.map(|patience| now.after(patience)),
                    token_hash: Some(hash),
                };
                machine.ask(id, epoch, asked, now)
            })
            .await;
        match self.settled(outcome, epoch).await? {
            Some(approval) => Ok(Asking::Waits { approval, token }),
            None => Ok(Asking::Ended),
        }
    }

    /// A person decides. Durable when it returns; the task goes on once, or ends.
    ///
    /// # Errors
    ///
    /// [`ApprovalError`]: deciding twice is refused, and so is deciding for a task that has
    /// ended.
    pub async fn answer(
        &self,
        id: ApprovalId,
        answer: Answer,
    ) -> Result<ApprovalRow, ApprovalError> {
        for (name, text) in [
            ("by", Some(&answer.by)),
            ("note", answer.note.as_ref()),
            ("choice", answer.choice.as_ref()),
        ] {
            if text.is_some_and(|text| WORD_BYTES_MAX < text.len()) {
                let problem = format!("has a `{name}` of more than {WORD_BYTES_MAX} bytes");
                return Err(ApprovalError::Invalid { problem });
            }
        }
        let spare = answer.clone();
        let decided = self
            .decide(|machine, now| machine.answer(id, answer, now))
            .await;
        match decided {
            Err(ApprovalError::Unknown(_)) => {
                let row = self.store().approval(id).await?;
                let row = row.ok_or(ApprovalError::Unknown(id))?;
                let task = self.store().task(row.request.task).await?;
                let here = {
                    let machine = self.0.machine.lock();
                    let now = self.0.clock.now();
                    machine.explain(row.request.task, now).is_some()
                };
                let lives = task.as_ref().is_some_and(|view| view.end.is_none());
                if row.state == ApprovalState::Open && lives && !here {
                    return self.answer_elsewhere(row, spare).await;
                }
                // Open in the store but not here: it is being withdrawn.
                let (state, ended) = match row.state {
                    ApprovalState::Open | ApprovalState::Withdrawn => {
                        (ApprovalState::Withdrawn, task.map(|view| view.state()))
                    }
                    decided @ (ApprovalState::Approved
                    | ApprovalState::Denied
                    | ApprovalState::Expired) => (decided, None),
                };
                Err(ApprovalError::Closed {
                    id,
                    state,
                    task_state: ended,
                })
            }
            decided => decided,
        }
    }

    /// Lets the node that has the task decide its question.
    async fn answer_elsewhere(
        &self,
        row: ApprovalRow,
        mut answer: Answer,
    ) -> Result<ApprovalRow, ApprovalError> {
        let (id, task) = (row.id, row.request.task);
        // Tokens are kept as hashes only, and so not written into an order.
        if let Some(token) = answer.token.take()
            && row.token_hash.as_ref() != Some(&token_hash(&token))
        {
            return Err(ApprovalError::WrongToken(id));
        }
        let verb = Verb::Answer {
            approval: id,
            answer,
        };
        let reply = match self.order(task, verb).await? {
            Ordered::Stands { node } => return Err(ApprovalError::Ordered { id, task, node }),
            Ordered::Answered(reply) => reply,
        };
        let row = self.store().approval(id).await?;
        let row = row.ok_or(ApprovalError::Unknown(id))?;
        match reply {
            Reply::Decided => Ok(row),
            Reply::Refused { problem } if row.state == ApprovalState::Open => {
                let problem = format!("was refused by the node that has the task: {problem}");
                Err(ApprovalError::Invalid { problem })
            }
            // It has ended, or was decided before.
            Reply::Ended
            | Reply::Refused { .. }
            | Reply::Cancelled { .. }
            | Reply::Retried { .. }
            | Reply::Explained { .. } => Err(ApprovalError::Closed {
                id,
                state: row.state,
                task_state: None,
            }),
        }
    }

    /// One question, or `None` if there is none of that id.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        self.store().approval(id).await
    }

    /// Questions, newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn approvals(&self, filter: &ApprovalFilter) -> Result<Vec<ApprovalRow>, StoreError> {
        self.store().approvals(filter).await
    }

    /// Why a task waits for a person, if it does: the question, and for a budget its scope
    /// and figures. Does not touch the disk.
    #[must_use]
    pub fn holdup(&self, id: TaskId) -> Option<Holdup> {
        self.0.machine.lock().holdup(id)
    }
}

fn check(key: &str, question: &Question) -> Result<(), AskError> {
    let mut problems = Vec::new();
    let mut bounded = |name: &str, text: &str, max: usize| {
        if text.is_empty() || max < text.len() {
            let found = text.len();
            problems.push(format!("{name} has {found} bytes, must have 1 to {max}"));
        }
    };
    bounded("key", key, WORD_BYTES_MAX);
    bounded("question", &question.question, QUESTION_BYTES_MAX);
    if let Some(scope) = &question.scope {
        bounded("scope", scope, WORD_BYTES_MAX);
    }
    for option in &question.options {
        bounded("options", option, WORD_BYTES_MAX);
    }
    if OPTIONS_MAX < question.options.len() {
        let found = question.options.len();
        problems.push(format!("options has {found}, at most {OPTIONS_MAX}"));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(AskError::Invalid(problems))
    }
}
