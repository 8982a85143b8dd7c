//! `/v1/tasks`: looking at tasks, cancelling and retrying them.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Extension, RawQuery, State};
use axum::http::StatusCode;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::approval::{ApprovalFilter, ApprovalState};
use regrow_runtime::queue::task::{TaskState, TaskView};
use regrow_runtime::store::TaskFilter;
use serde::Serialize;
use serde_json::json;

use super::approvals::ApprovalJson;
use super::{Answer, WAIT_MS_MAX, ok};
use crate::auth::Caller;
use crate::elsewhere::listing;
use crate::error::{ApiError, Code};
use crate::follow::Watch;
use crate::input::Nothing;
use crate::params::{Params, TaskPath};
use crate::state::{ApiState, Phase};
use crate::view::TaskJson;

/// Tasks in a page unless asked otherwise.
const PAGE: u64 = 50;
/// Most tasks in a page.
const PAGE_MAX: u64 = 500;
/// A page ends early behind this many bytes: payloads and results are in it.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Tasks read at once. Times the largest payload and result it is the memory that a page
/// of the largest tasks takes for a moment.
const READ_AT_ONCE: u32 = 10;
/// Most tasks in a tree.
const TREE_MAX: usize = 1_000;
/// Deepest tree.
const TREE_DEPTH_MAX: usize = 32;

#[derive(Serialize)]
struct Page<'a> {
    tasks: Vec<TaskJson<'a>>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<TaskId>,
}

/// `GET /v1/tasks`: newest first. With `cluster=true` those of all nodes, each with its node; nodes
/// that do not answer are named with the reason.
#[utoipa::path(
    get,
    path = "/v1/tasks",
    tag = "tasks",
    params(
        ("state" = Option<crate::schema::answers::StateAnswer>, Query, description = "only these"),
        ("kind" = Option<String>, Query, description = "only these"),
        ("parent" = Option<String>, Query, format = "uuid", description = "only its children"),
        ("cursor" = Option<String>, Query, format = "uuid", description = "`next_cursor` of the page before"),
        ("cluster" = Option<bool>, Query, description = "of all nodes"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 500, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "a page of tasks", body = crate::schema::answers::TaskPage),
    ),
)]
pub(crate) async fn list(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    mut params: Params,
) -> Answer {
    let whole = params.parsed::<bool>("cluster").unwrap_or(false);
    let mut filter = TaskFilter {
        state: params.parsed::<TaskState>("state"),
        kind: params.text("kind"),
        parent: params.parsed("parent"),
        before: None,
        limit: 0,
    };
    // Nodes that share a database have one list.
    let whole = whole && !state.queue.is_shared();
    let mut cursor = None;
    if whole {
        cursor = params.text("cursor");
    } else {
        filter.before = params.parsed("cursor");
    }
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE);
    params.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if !whole {
        return page(&state, filter, limit).await;
    }
    let cursor = cursor.as_deref().map(listing::Cursor::parse).transpose()?;
    let is_passed_on = |pair: &&str| {
        let name = pair.split('=').next();
        !matches!(name, Some("cluster" | "cursor" | "limit" | ""))
    };
    let query = query.unwrap_or_default();
    let passed_on = query.split('&').filter(is_passed_on);
    let passed_on: String = passed_on.map(|pair| format!("&{pair}")).collect();
    let here = async |before: Option<TaskId>| {
        let filter = TaskFilter { before, ..filter };
        let (views, next) = read_page(&state, filter, limit).await?;
        let page = Page {
            tasks: views.iter().map(TaskJson::from).collect(),
            next_cursor: next,
        };
        serde_json::to_string(&page).map_err(|error| {
            let detail = format!("an answer could not be written: {error}");
            ApiError::new(Code::Internal, detail)
        })
    };
    listing::listed(
        &state,
        &caller,
        &passed_on,
        cursor.unwrap_or_default(),
        limit,
        here,
    )
    .await
}

async fn page(state: &ApiState, filter: TaskFilter, limit: usize) -> Answer {
    let (views, next_cursor) = read_page(state, filter, limit).await?;
    ok(&Page {
        next_cursor,
        tasks: views.iter().map(TaskJson::from).collect(),
    })
}

/// One page of this node's list, and where the next one begins.
async fn read_page(
    state: &ApiState,
    mut filter: TaskFilter,
    limit: usize,
) -> Result<(Vec<TaskView>, Option<TaskId>), ApiError> {
    let cursor = filter.before;
    let mut views: Vec<TaskView> = Vec::new();
    let mut bytes = 0;
    let mut more = true;
    while more && views.len() <= limit && bytes < PAGE_BYTES_MAX {
        // One more than asked for tells whether another page follows.
        let wanted = u32::try_from(limit + 1 - views.len()).unwrap_or(u32::MAX);
        filter.limit = wanted.min(READ_AT_ONCE);
        let read = state.queue.tasks(&filter).await?;
        more = read.len() == filter.limit as usize;
        filter.before = read.last().map(|view| view.body.id).or(filter.before);
        bytes += read
            .iter()
            .map(|view| TaskJson::from(view).bytes())
            .sum::<usize>();
        views.extend(read);
    }
    if views.is_empty()
        && let Some(cursor) = cursor
        && state.queue.task(cursor).await?.is_none()
    {
        let detail = format!("cursor {cursor} is a task that is not known any more; list again");
        return Err(ApiError::new(Code::InvalidParameter, detail));
    }
    let next = more || limit < views.len();
    views.truncate(limit);
    let next = views.last().map(|view| view.body.id).filter(|_| next);
    Ok((views, next))
}

/// One task, with the question that a person has to answer before it goes on.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = TaskShown)]
pub(crate) struct Shown<'a> {
    #[serde(flatten)]
    task: TaskJson<'a>,
    /// `POST /v1/approvals/{id}` answers it; null when nobody is asked.
    approval: Option<ApprovalJson<'a>>,
}

/// From the store, since another node may have asked.
pub(super) async fn shown(state: &ApiState, view: &TaskView, status: StatusCode) -> Answer {
    let filter = ApprovalFilter {
        state: Some(ApprovalState::Open),
        task: Some(view.body.id),
        before: None,
        limit: 1,
    };
    let open = match view.state() {
        TaskState::AwaitingApproval => state.queue.approvals(&filter).await?,
        TaskState::Scheduled
        | TaskState::Retryable
        | TaskState::Executing
        | TaskState::Waiting
        | TaskState::Available
        | TaskState::Completed
        | TaskState::Discarded
        | TaskState::Cancelled => Vec::new(),
    };
    let shown = Shown {
        task: TaskJson::from(view),
        approval: open.first().map(ApprovalJson::from),
    };
    super::json(status, &shown)
}

/// `GET /v1/tasks/{id}`: one task; with `wait_ms` after it ended, or as it stands then.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
        ("wait_ms" = Option<u64>, Query, minimum = 0, maximum = 60000, description = "wait so long for its end"),
    ),
    responses(
        (status = 200, description = "how it stands", body = Shown<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away"
    ]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut params: Params,
) -> Answer {
    let wait = params.number("wait_ms", 0..=WAIT_MS_MAX).unwrap_or(0);
    params.finish()?;
    if wait == 0 {
        return shown(&state, &found(&state, id).await?, StatusCode::OK).await;
    }
    let _place = state.wait_permit()?;
    let deadline = tokio::time::sleep(Duration::from_millis(wait));
    tokio::pin!(deadline);
    let mut watch = Watch::new(&state, id);
    loop {
        let view = found(&state, id).await?;
        let stopping = Phase::Stopping <= state.lifecycle.phase();
        if view.state().is_terminal() || stopping || deadline.is_elapsed() {
            return shown(&state, &view, StatusCode::OK).await;
        }
        tokio::select! {
            () = watch.changed() => {}
            () = &mut deadline => {}
            () = state.lifecycle.reached(Phase::Stopping) => {}
        }
    }
}

/// `GET /v1/tasks/{id}/explain`: why it is not running yet.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/explain",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    responses(
        (status = 200, description = "why it does not run yet", body = crate::schema::answers::Why),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away"
    ]))),
)]
pub(crate) async fn explain(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    params: Params,
) -> Answer {
    params.finish()?;
    let explanation = state.queue.why(id).await?;
    ok(&explanation.ok_or_else(|| ApiError::no_task(id))?)
}

pub(super) async fn found(state: &ApiState, id: TaskId) -> Result<TaskView, ApiError> {
    let view = state.queue.task(id).await?;
    view.ok_or_else(|| ApiError::no_task(id))
}

/// A task among its family, without payload and result.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Branch {
    #[schema(value_type = String, format = "uuid")]
    id: TaskId,
    kind: String,
    #[schema(value_type = crate::schema::answers::StateAnswer)]
    state: TaskState,
    goal: Option<String>,
    attempt: u32,
    #[schema(value_type = Vec<String>)]
    depends_on: Vec<TaskId>,
    error: Option<String>,
    #[schema(no_recursion)]
    children: Vec<Branch>,
}

impl Branch {
    fn new(view: TaskView) -> Self {
        let flat = TaskJson::from(&view);
        let (attempt, error) = flat.attempt_and_error();
        Self {
            id: view.body.id,
            kind: view.body.kind.to_string(),
            state: view.state(),
            goal: view.body.goal.clone(),
            attempt,
            depends_on: view.body.depends_on.clone(),
            error: error.map(str::to_owned),
            children: Vec::new(),
        }
    }

    fn grow(&mut self, families: &mut HashMap<TaskId, Vec<Branch>>) {
        self.children = families.remove(&self.id).unwrap_or_default();
        for child in &mut self.children {
            child.grow(families);
        }
    }
}

/// `GET /v1/tasks/{id}/tree`: the task and its children, and theirs, oldest first.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/tree",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    responses(
        (status = 200, description = "it and its children", body = crate::schema::answers::TreeOfTask),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away"
    ]))),
)]
pub(crate) async fn tree(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    params: Params,
) -> Answer {
    params.finish()?;
    let mut root = Branch::new(found(&state, id).await?);
    let mut families: HashMap<TaskId, Vec<Branch>> = HashMap::new();
    let mut count = 1;
    let mut truncated = false;
    let mut level = vec![id];
    for depth in 0.. {
        let mut next = Vec::new();
        for parent in level {
            let room = TREE_MAX - count;
            let (children, cut) = children(&state, parent, room).await?;
            truncated |= cut;
            count += children.len();
            next.extend(children.iter().map(|child| child.id));
            families.insert(parent, children);
        }
        if next.is_empty() {
            break;
        }
        if TREE_DEPTH_MAX <= depth {
            truncated = true;
            break;
        }
        level = next;
    }
    root.grow(&mut families);
    ok(&json!({ "tree": root, "truncated": truncated }))
}

/// The children of a task, oldest first, and whether some were left out.
async fn children(
    state: &ApiState,
    parent: TaskId,
    room: usize,
) -> Result<(Vec<Branch>, bool), ApiError> {
    let mut filter = TaskFilter {
        parent: Some(parent),
        limit: READ_AT_ONCE,
        ..TaskFilter::default()
    };
    let mut children = Vec::new();
    loop {
        let read = state.queue.tasks(&filter).await?;
        let more = read.len() == filter.limit as usize;
        filter.before = read.last().map(|view| view.body.id).or(filter.before);
        children.extend(read.into_iter().map(Branch::new));
        if room < children.len() {
            // The newest are left out.
            children.drain(..children.len() - room);
            children.reverse();
            return Ok((children, true));
        }
        if !more {
            children.reverse();
            return Ok((children, false));
        }
    }
}

/// `POST /v1/tasks/{id}/cancel`: at once, or by asking whoever executes it.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/cancel",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    responses(
        (status = 200, description = "cancelled, or asked to stop", body = crate::schema::answers::CancelAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away", "wrong_state", "ordered"
    ]))),
)]
pub(crate) async fn cancel(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    _: Nothing,
) -> Answer {
    let now = state.queue.cancel(id).await?;
    ok(&json!({ "id": id, "state": now, "cancel_requested": true }))
}

/// `POST /v1/tasks/{id}/retry`: all attempts again for a task that was given up; with
/// `?part=true` for it and every task below it that did not complete, or for those below it
/// if it waits.
#[utoipa::path(
    post,
    path = "/v1/tasks/{id}/retry",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
        ("part" = Option<bool>, Query, description = "with all below it that did not complete"),
    ),
    responses(
        (status = 200, description = "how it stands now", body = crate::view::TaskJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away", "wrong_state", "ordered", "queue_full", "draining", "dependency_failed", "validation_failed"
    ]))),
)]
pub(crate) async fn retry(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut params: Params,
    _: Nothing,
) -> Answer {
    let part = params.parsed::<bool>("part").unwrap_or(false);
    params.finish()?;
    if part {
        state.queue.retry_part(id).await?;
    } else {
        state.queue.retry(id).await?;
    }
    let view = found(&state, id).await?;
    ok(&TaskJson::from(&view))
}

/// `GET /v1/tasks/{id}/context`: what the agents note about a task while they work on it;
/// `null` when nobody has.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/context",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    responses(
        (status = 200, description = "what agents noted", body = crate::schema::answers::ContextAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away"
    ]))),
)]
pub(crate) async fn context(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    params: Params,
) -> Answer {
    params.finish()?;
    if state.queue.task(id).await?.is_none() {
        return Err(ApiError::no_task(id));
    }
    ok(&json!({ "context": state.context.get(id).as_deref() }))
}
