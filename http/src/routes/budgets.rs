//! `/v1/budgets`: what may be spent and what was; and how a worker reserves.

use axum::extract::State;
use regrow_runtime::queue::budget::{Amounts, BudgetView, Limits, Period, Scope};
use regrow_runtime::queue::task::TaskState;
use serde::Serialize;
use serde_json::json;

use super::leases::epoch;
use super::steps::key;
use super::{Answer, ok};
use crate::amounts::{AmountsJson, LimitsJson, amounts, cost, limits};
use crate::error::ApiError;
use crate::input::Fields;
use crate::page::Paging;
use crate::params::{Params, ScopePath, TaskPath};
use crate::state::ApiState;
use crate::view::Instant;

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Budget)]
pub(crate) struct BudgetJson<'a> {
    #[schema(value_type = String)]
    scope: &'a Scope,
    limits: LimitsJson,
    #[schema(value_type = Option<String>)]
    period: Option<Period>,
    since: Instant,
    spent: AmountsJson,
    reserved: AmountsJson,
    granted: AmountsJson,
}

impl<'a> From<&'a BudgetView> for BudgetJson<'a> {
    fn from(view: &'a BudgetView) -> Self {
        Self {
            scope: &view.scope,
            limits: view.limits.into(),
            period: view.period,
            since: Instant(view.since),
            spent: view.spent.into(),
            reserved: view.reserved.into(),
            granted: view.granted.into(),
        }
    }
}

/// `GET /v1/budgets`: those of the node, of tenants, and of trees with live tasks.
#[utoipa::path(
    get,
    path = "/v1/budgets",
    tag = "budgets",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "by scope", body = crate::schema::answers::BudgetPage),
    ),
)]
pub(crate) async fn list(State(state): State<ApiState>, mut params: Params) -> Answer {
    let paging = Paging::of(&mut params);
    params.finish()?;
    let views = state.queue.budgets().await?;
    let mut named: Vec<(String, &BudgetView)> = views
        .iter()
        .map(|view| (view.scope.to_string(), view))
        .collect();
    let next = paging.cut(&mut [&mut named], |(scope, _)| scope);
    let listed: Vec<BudgetJson<'_>> = named.iter().map(|(_, it)| BudgetJson::from(*it)).collect();
    ok(&json!({ "budgets": listed, "next_cursor": next }))
}

/// `GET /v1/budgets/{scope}`.
#[utoipa::path(
    get,
    path = "/v1/budgets/{scope}",
    tag = "budgets",
    params(
        ("scope" = String, Path, pattern = "^(node|tenant:[^/]{1,64}|task:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$", description = "`node`, `tenant:NAME` or `task:ID`"),
    ),
    responses(
        (status = 200, description = "the budget", body = BudgetJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "budget_not_found", "task_not_found"
    ]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    ScopePath(scope): ScopePath,
    params: Params,
) -> Answer {
    params.finish()?;
    let view = state.queue.budget(&scope).await?;
    ok(&BudgetJson::from(&view))
}

/// `PUT /v1/budgets/{scope}`: sets the limits; those that are not named are lifted.
#[utoipa::path(
    put,
    path = "/v1/budgets/{scope}",
    tag = "budgets",
    params(
        ("scope" = String, Path, pattern = "^(node|tenant:[^/]{1,64}|task:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$", description = "`node`, `tenant:NAME` or `task:ID`"),
    ),
    request_body = crate::schema::bodies::BudgetBody,
    responses(
        (status = 200, description = "in force", body = BudgetJson<'static>),
    ),
    extensions(("x-regrow-codes" = json!([
        "budget_not_found", "task_not_found"
    ]))),
)]
pub(crate) async fn set(
    State(state): State<ApiState>,
    ScopePath(scope): ScopePath,
    mut fields: Fields,
) -> Answer {
    let set: Limits = limits(&mut fields);
    let period = fields.named::<Period>("period");
    fields.finish()?;
    let view = state.queue.set_budget(scope, set, period).await?;
    ok(&BudgetJson::from(&view))
}

fn estimate(fields: &mut Fields) -> Amounts {
    if !fields.given("estimate") {
        fields.problem("estimate", "is missing; say what the step costs at most");
    }
    amounts(fields, "estimate").unwrap_or_default()
}

/// `POST /v1/leases/{id}/reserve`: sets aside what a step may cost, before it begins. The
/// step's record settles it, or `give_back`. What an earlier try of the same step may have cost
/// is charged first if it is taken `afresh`.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/reserve",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::ReserveBody,
    responses(
        (status = 200, description = "set aside", body = crate::schema::answers::ReservedAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "over_budget"
    ]))),
)]
pub(crate) async fn reserve(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let (epoch, key, estimate) = (epoch(&mut fields), key(&mut fields), estimate(&mut fields));
    let afresh = fields.flag("afresh").unwrap_or(false);
    fields.finish()?;
    let reserved = state.queue.reserve(id, epoch, &key, estimate, afresh);
    reserved.await?;
    ok(&json!({ "id": id, "key": key, "reserved": AmountsJson::from(estimate) }))
}

/// `POST /v1/leases/{id}/give_back`: a step came to nothing; what it cost all the same is
/// charged, and the rest is free again.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/give_back",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::GiveBackBody,
    responses(
        (status = 200, description = "free again", body = crate::schema::answers::GivenBackAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away"
    ]))),
)]
pub(crate) async fn give_back(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let (epoch, key) = (epoch(&mut fields), key(&mut fields));
    let cost = cost(&mut fields, "cost").unwrap_or_default();
    fields.finish()?;
    let given = state.queue.give_back(id, epoch, &key, cost.amounts());
    ok(&json!({ "id": id, "key": key, "given_back": given.await? }))
}

/// `POST /v1/leases/{id}/wait_for_budget`: lets the task wait, without the lease, until a
/// person lets the budget grow or it has room again.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/wait_for_budget",
    tag = "leases",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
    ),
    request_body = crate::schema::bodies::WaitForBudgetBody,
    responses(
        (status = 200, description = "it waits", body = crate::schema::answers::WaitAnswer),
    ),
    extensions(("x-regrow-codes" = json!([
        "stale_epoch", "task_not_found", "wrong_node", "node_away", "over_budget", "log_full"
    ]))),
)]
pub(crate) async fn wait(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let (epoch, key, estimate) = (epoch(&mut fields), key(&mut fields), estimate(&mut fields));
    fields.finish()?;
    let waits = state.queue.wait_for_budget(id, epoch, &key, estimate);
    let approval = waits.await?;
    let now = match approval {
        Some(_) => TaskState::AwaitingApproval,
        None => {
            let view = state.queue.task(id).await?;
            view.ok_or_else(|| ApiError::no_task(id))?.state()
        }
    };
    ok(&json!({ "id": id, "state": now, "approval": approval }))
}
