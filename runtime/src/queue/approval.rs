//! Questions to people: what is asked, until when, and what was decided.
//!
//! A task that waits for a person holds no lease and no slot. Whoever decides is recorded
//! with the decision, and the worker finds it as a recorded step of the question's name, so
//! a replay sees the same decision. A question nobody answers in time counts as denied.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::budget::{Amounts, Shortfall};
use super::task::TaskState;
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::store::StoreError;

/// One question to a person. UUID version 7, so that ids sort by the time of asking.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ApprovalId(Uuid);

impl ApprovalId {
    /// A fresh id; unique across nodes.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ApprovalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The text is not the id of an approval.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an approval's id; it is a UUID, as `GET /v1/approvals` lists it")]
pub struct InvalidApprovalId(String);

impl FromStr for ApprovalId {
    type Err = InvalidApprovalId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| InvalidApprovalId(text.to_owned()))
    }
}

/// What a worker asks a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The question, in words.
    pub question: String,
    /// What a yes would allow, such as `deploy production`; for whoever decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Answers to choose from; plain yes or no when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// Why a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// The task may not start without a person's consent. Denied, it is cancelled.
    Start,
    /// A worker wants to know. Approved or denied, the task goes on and finds the decision
    /// as step `key`.
    Ask {
        /// The question's name within the task.
        key: String,
    },
    /// A step needs more than a budget has. Approved, the budget grows by what is missing,
    /// or by what the decision grants; denied, the task is cancelled.
    Budget {
        /// What is missing, as it stood when it was asked.
        shortfall: Shortfall,
    },
}

impl Reason {
    /// The reason's name in JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Ask { .. } => "ask",
            Self::Budget { .. } => "budget",
        }
    }
}

/// Where a question stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has decided yet.
    Open,
    /// A person said yes.
    Approved,
    /// A person said no.
    Denied,
    /// Nobody decided in time, which counts as no.
    Expired,
    /// There is nothing left to decide: the task ended, or the budget has room again.
    Withdrawn,
}

impl ApprovalState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Approved,
        Self::Denied,
        Self::Expired,
        Self::Withdrawn,
    ];

    /// The state's name in JSON and storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for ApprovalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ApprovalState {
    type Err = UnknownApprovalState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|state| state.as_str() == text);
        named.ok_or_else(|| UnknownApprovalState(text.to_owned()))
    }
}

/// The text names no state of an approval.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not one of open, approved, denied, expired, withdrawn")]
pub struct UnknownApprovalState(String);

/// What was decided, by whom and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it may be done.
    pub approved: bool,
    /// The answer that was chosen, if there were some to choose from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<String>,
    /// Why, in the decider's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who decided, as they named themselves; `nobody` when the question expired.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// A person's answer to a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it may be done.
    pub approved: bool,
    /// The answer that was chosen.
    pub choice: Option<String>,
    /// Why.
    pub note: Option<String>,
    /// Who answers.
    pub by: String,
    /// The question's token, if the answer is given on the strength of it.
    pub token: Option<String>,
    /// For a budget: how much more it may spend, instead of what is missing.
    pub grant: Option<Amounts>,
}

/// A question as it is stored.
#[derive(Clone, Debug)]
pub struct ApprovalRow {
    /// The question.
    pub id: ApprovalId,
    /// The task that waits, by its order of acceptance.
    pub seq: u64,
    /// Where it stands.
    pub state: ApprovalState,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// When it counts as denied.
    pub expires_at: Option<Timestamp>,
    /// BLAKE3 of the token, in hexadecimal digits.
    pub token_hash: Option<String>,
    /// Who asks what.
    pub request: ApprovalRequest,
    /// What was decided.
    pub decision: Option<Decision>,
}

/// Who asks what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// The task that waits.
    pub task: TaskId,
    /// Why.
    pub reason: Reason,
    /// What is asked.
    #[serde(flatten)]
    pub question: Question,
}

/// Which questions to list. Newest first.
#[derive(Clone, Debug, Default)]
pub struct ApprovalFilter {
    /// Only questions that stand so.
    pub state: Option<ApprovalState>,
    /// Only questions of this task.
    pub task: Option<TaskId>,
    /// Only questions older than this one (cursor).
    pub before: Option<ApprovalId>,
    /// At most this many.
    pub limit: u32,
}

/// A question cannot be decided like this. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalError {
    /// There is no such question.
    #[error("there is no approval {0}")]
    Unknown(ApprovalId),
    /// It was decided before, or there is nothing left to decide.
    #[error("approval {id} is {state} already{}", .task_state.map(|state| format!(" and its task is {state}")).unwrap_or_default())]
    Closed {
        /// The question.
        id: ApprovalId,
        /// Where it stands.
        state: ApprovalState,
        /// Where its task stands, if that is why.
        task_state: Option<TaskState>,
    },
    /// The node that has the task was asked to decide and has not answered yet. The order
    /// stands: it is carried out as soon as that node, or who takes over from it, gets to it.
    #[error(
        "node `{node}` has the task of approval {id} and has not answered yet; the decision stands"
    )]
    Ordered {
        /// The question.
        id: ApprovalId,
        /// The task that waits.
        task: TaskId,
        /// The node that has it.
        node: String,
    },
    /// The token is another question's, or nobody's.
    #[error(
        "the token does not belong to approval {0}; leave it out, or use the one that was returned when it was asked"
    )]
    WrongToken(ApprovalId),
    /// The answer is none of those offered.
    #[error("the answer {problem}")]
    Invalid {
        /// What is wrong with it.
        problem: String,
    },
    /// The store failed. Repeat the call.
    #[error("the decision could not be stored")]
    Store(#[from] StoreError),
}

/// Why a task waits for a person, for whoever asks.
#[derive(Clone, Debug, Serialize)]
pub struct Holdup {
    /// The question to answer.
    pub approval: ApprovalId,
    /// Who asks what; for a budget with its scope and figures.
    #[serde(flatten)]
    pub request: ApprovalRequest,
    /// Since when.
    pub asked_at: Timestamp,
    /// When it counts as denied.
    pub expires_at: Option<Timestamp>,
}

/// The hash under which a token is kept.
#[must_use]
pub fn token_hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}
