//! `/v1/approvals`: what people are asked, and what they decide; and how a worker asks.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::approval::{
    Answer as Decided, ApprovalFilter, ApprovalId, ApprovalRow, ApprovalState, Question, Reason,
};
use regrow_runtime::queue::asking::Asking;
use regrow_runtime::queue::budget::{Short, Unit};
use regrow_runtime::queue::task::TaskState;
use serde::Serialize;
use serde_json::{Value, json};

use super::leases::epoch;
use super::steps::key;
use super::{Answer, ok};
use crate::amounts::{amount, amounts};
use crate::auth::Caller;
use crate::error::{ApiError, Code};
use crate::input::Fields;
use crate::params::{ApprovalPath, Params, TaskPath};
use crate::state::ApiState;
use crate::view::Instant;

/// Questions in a page unless asked otherwise.
const PAGE: u64 = 50;
/// Most questions in a page.
const PAGE_MAX: u64 = 500;
/// Longest that a question may wait: ten years.
const EXPIRES_MS_MAX: u64 = 315_360_000_000;

/// A question, and what was decided.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Approval)]
pub(crate) struct ApprovalJson<'a> {
    #[schema(value_type = String, format = "uuid")]
    id: ApprovalId,
    #[schema(value_type = String, format = "uuid")]
    task: TaskId,
    #[schema(value_type = String)]
    state: ApprovalState,
    kind: &'static str,
    key: Option<&'a str>,
    question: &'a str,
    scope: Option<&'a str>,
    options: &'a [String],
    /// For a budget: which limits are in the way.
    #[schema(value_type = Vec<Object>)]
    short: Vec<Value>,
    asked_at: Instant,
    expires_at: Option<Instant>,
    approved: Option<bool>,
    choice: Option<&'a str>,
    note: Option<&'a str>,
    by: Option<&'a str>,
    decided_at: Option<Instant>,
}

impl<'a> From<&'a ApprovalRow> for ApprovalJson<'a> {
    fn from(row: &'a ApprovalRow) -> Self {
        let question = &row.request.question;
        let (key, short) = match &row.request.reason {
            Reason::Start => (None, Vec::new()),
            Reason::Ask { key } => (Some(key.as_str()), Vec::new()),
            Reason::Budget { shortfall } => (
                Some(shortfall.key.as_str()),
                shortfall.short.iter().map(short_json).collect(),
            ),
        };
        let decision = row.decision.as_ref();
        Self {
            id: row.id,
            task: row.request.task,
            state: row.state,
            kind: row.request.reason.as_str(),
            key,
            question: &question.question,
            scope: question.scope.as_deref(),
            options: &question.options,
            short,
            asked_at: Instant(row.asked_at),
            expires_at: row.expires_at.map(Instant),
            approved: decision.map(|decision| decision.approved),
            choice: decision.and_then(|decision| decision.choice.as_deref()),
            note: decision.and_then(|decision| decision.note.as_deref()),
            by: decision.map(|decision| decision.by.as_str()),
            decided_at: decision.map(|decision| Instant(decision.at)),
        }
    }
}

/// One limit in the way, in the units of the interface.
pub(crate) fn short_json(short: &Short) -> Value {
    let unit = match short.unit {
        Unit::Tokens => "tokens",
        Unit::Micros => "usd",
        Unit::Calls => "calls",
        Unit::Millis => "seconds",
    };
    json!({
        "scope": short.scope,
        "unit": unit,
        "limit": amount(short.unit, short.limit),
        "spent": amount(short.unit, short.spent),
        "reserved": amount(short.unit, short.reserved),
        "missing": amount(short.unit, short.missing),
    })
}

/// `GET /v1/approvals`: newest first.
#[utoipa::path(
    get,
    path = "/v1/approvals",
    tag = "approvals",
    params(
        ("state" = Option<crate::schema::answers::QuestionState>, Query, description = "only these"),
        ("task" = Option<String>, Query, format = "uuid", description = "only of this task"),
        ("cursor" = Option<String>, Query, format = "uuid", description = "`next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 500, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "a page, newest first", body = crate::schema::answers::ApprovalPage),
    ),
)]
pub(crate) async fn list(State(state): State<ApiState>, mut params: Params) -> Answer {
    let mut filter = ApprovalFilter {
        state: params.parsed("state"),
        task: params.parsed("task"),
        before: params.parsed("cursor"),
        limit: 0,
    };
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    params.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more than asked for tells whether another page follows.
    filter.limit = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = state.queue.approvals(&filter).await?;
    let more = limit < rows.len();
    rows.truncate(limit);
    let next = rows.last().map(|row| row.id).filter(|_| more);
    let listed: Vec<ApprovalJson<'_>> = rows.iter().map(ApprovalJson::from).collect();
    ok(&json!({ "approvals": listed, "next_cursor": next }))
}

/// `GET /v1/approvals/{id}`.
#[utoipa::path(
    get,
    path = "/v1/approvals/{id}",
    tag = "approvals",
    params(
        ("id" = String, Path, format = "uuid", description = "the question's id"),
    ),
    responses(
        (status = 200, description = "the question", body = ApprovalJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "approval_not_found", "node_away"
    ]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    ApprovalPath(id): ApprovalPath,
    params: Params,
) -> Answer {
    params.finish()?;
    match state.queue.approval(id).await? {
        Some(row) => ok(&ApprovalJson::from(&row)),
        None => Err(ApiError::no_approval(id)),
    }
}

/// `POST /v1/approvals/{id}`: a person decides. Deciding twice is refused.
#[utoipa::path(
    post,
    path = "/v1/approvals/{id}",
    tag = "approvals",
    params(
        ("id" = String, Path, format = "uuid", description = "the question's id"),
    ),
    request_body = crate::schema::bodies::DecisionBody,
    responses(
        (status = 200, description = "decided", body = ApprovalJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "approval_not_found", "approval_closed", "wrong_token", "ordered", "node_away"
    ]))),
)]
pub(crate) async fn decide(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    ApprovalPath(id): ApprovalPath,
    mut fields: Fields,
) -> Answer {
    let decision = fields.text("decision", false);
    let approved = match decision.as_deref() {
        Some("approve") => true,
        Some("deny") => false,
        Some(_) | None => {
            fields.problem("decision", "must be \"approve\" or \"deny\"");
            false
        }
    };
    let decided = Decided {
        approved,
        choice: fields.text("choice", true),
        note: fields.text("note", true),
        by: fields.text("by", false).unwrap_or_default(),
        token: fields.text("token", false),
        grant: amounts(&mut fields, "grant"),
    };
    fields.finish()?;
    let decided = signed(decided, caller.name());
    let row = state.queue.answer(id, decided).await?;
    ok(&ApprovalJson::from(&row))
}

/// Who decides is whose token it is; in whose name he says that he does is a note of his. Where
/// there are no tokens his word is all that is known.
fn signed(mut decided: Decided, token: Option<&str>) -> Decided {
    let said = std::mem::take(&mut decided.by);
    let said = Some(said).filter(|said| !said.is_empty());
    decided.by = match (token, &said) {
        (Some(name), _) => name.to_owned(),
        (None, Some(said)) => said.clone(),
        (None, None) => "operator".to_owned(),
    };
    if let (Some(token), Some(said)) = (token, said)
        && token != said
    {
        let note = decided.note.take();
        let before = note.map(|note| format!("{note} ")).unwrap_or_default();
        decided.note = Some(format!("{before}(in the name of {said})"));
    }
    decided
}

/// `POST /v1/leases/{id}/ask`: lets the task wait for a person, without the lease. If the
/// question was answered before, `decision` is the answer and the lease still holds.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/ask",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::QuestionBody,
    responses(
        (status = 200, description = "it waits, or was answered before", body = crate::schema::answers::AskAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "step_diverged", "log_full", "result_too_large"
    ]))),
)]
pub(crate) async fn ask(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let (epoch, key) = (epoch(&mut fields), key(&mut fields));
    let missing = !fields.given("question");
    let question = Question {
        question: fields.text("question", true).unwrap_or_default(),
        scope: fields.text("scope", false),
        options: fields
            .texts("options", "a list of answers to choose from")
            .unwrap_or_default(),
    };
    if missing {
        fields.problem("question", "is missing; say what a person is to decide");
    }
    let patience = fields.number("expires_ms", 1..=EXPIRES_MS_MAX, " ms");
    fields.finish()?;
    let patience = patience.map(Duration::from_millis);
    let asking = state.queue.ask(id, epoch, &key, question, patience).await?;
    match asking {
        Asking::Waits { approval, token } => ok(&json!({
            "id": id,
            "state": TaskState::AwaitingApproval,
            "approval": approval,
            "token": token,
        })),
        Asking::Decided(decision) => ok(&json!({
            "id": id,
            "state": TaskState::Executing,
            "decision": {
                "approved": decision.approved,
                "choice": decision.choice,
                "note": decision.note,
                "by": decision.by,
                "at": Instant(decision.at),
            },
        })),
        Asking::Ended => match state.queue.task(id).await? {
            Some(view) => ok(&json!({ "id": id, "state": view.state() })),
            None => Err(ApiError::new(
                Code::TaskNotFound,
                format!("task {id} ended and is forgotten"),
            )),
        },
    }
}
