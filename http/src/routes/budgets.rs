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
use crate::params::{Params, ScopePath, TaskPath};
use crate::state::ApiState;
use crate::view::Instant;

#[derive(Serialize)]
struct BudgetJson<'a> {
    scope: &'a Scope,
    limits: LimitsJson,
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
pub(crate) async fn list(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    let views = state.queue.budgets().await?;
    let listed: Vec<BudgetJson<'_>> = views.iter().map(BudgetJson::from).collect();
    ok(&json!({ "budgets": listed }))
}

/// `GET /v1/budgets/{scope}`.
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
/// step's record settles it, or `give_back`.
pub(crate) async fn reserve(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    mut fields: Fields,
) -> Answer {
    let (epoch, key, estimate) = (epoch(&mut fields), key(&mut fields), estimate(&mut fields));
    fields.finish()?;
    let reserved = state.queue.reserve(id, epoch, &key, estimate, false);
    reserved.await?;
    ok(&json!({ "id": id, "key": key, "reserved": AmountsJson::from(estimate) }))
}

/// `POST /v1/leases/{id}/give_back`: a step came to nothing; what it cost all the same is
/// charged, and the rest is free again.
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
