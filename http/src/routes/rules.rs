//! `/v1/queue/rules` and what sets them: weights, limits, rates and resources. All of it
//! is durable and in force as soon as it is answered.

use std::collections::BTreeMap;

use axum::extract::State;
use regrow_runtime::queue::gate::GateStanding;
use regrow_runtime::queue::rules::{PERIOD_MAX, Rate, Resource, Rules, UNITS_MAX, Weight};
use serde::Serialize;

use super::{Answer, ok};
use crate::input::{Fields, Nothing};
use crate::params::{NamePath, Params};
use crate::state::ApiState;

/// Gates shown at once.
const GATES_MAX: usize = 1_000;

#[derive(Serialize)]
struct InForce {
    #[serde(flatten)]
    rules: Rules,
    /// By name, such as `resource/gpu`.
    gates: BTreeMap<String, GateStanding>,
}

fn in_force(state: &ApiState) -> Answer {
    let (rules, gates) = state.queue.rules(GATES_MAX);
    ok(&InForce { rules, gates })
}

/// `GET /v1/queue/rules`
#[utoipa::path(
    get,
    path = "/v1/queue/rules",
    tag = "queue",
    responses(
        (status = 200, description = "the rules", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn show(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    in_force(&state)
}

/// `PUT /v1/queue/weights`: `{"class": {"NAME": 3}, "tenant": {"NAME": null}}`. Names that
/// are left out keep their weight; null returns to 1.
#[utoipa::path(
    put,
    path = "/v1/queue/weights",
    tag = "queue",
    request_body = crate::schema::bodies::WeightsBody,
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn set_weights(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    let mut weights = |side: &str| -> BTreeMap<String, Option<Weight>> {
        let given = fields.decoded(side, "an object of names and weights from 0.01 to 100");
        given.unwrap_or_default()
    };
    let (classes, tenants) = (weights("class"), weights("tenant"));
    fields.finish()?;
    let set = |table: &mut BTreeMap<String, Weight>, given: BTreeMap<String, Option<Weight>>| {
        for (name, weight) in given {
            match weight {
                Some(weight) => table.insert(name, weight),
                None => table.remove(&name),
            };
        }
    };
    let change = |rules: &mut Rules| {
        set(&mut rules.class_weights, classes);
        set(&mut rules.tenant_weights, tenants);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `PUT /v1/queue/limits`: `{"default": 4}` for keys without a limit of their own; null
/// does not limit them.
#[utoipa::path(
    put,
    path = "/v1/queue/limits",
    tag = "queue",
    request_body = crate::schema::bodies::DefaultLimitBody,
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn set_default_limit(State(state): State<ApiState>, mut fields: Fields) -> Answer {
    if !fields.has("default") {
        fields.problem("default", "is missing, must be a whole number or null");
    }
    let limit = fields.number("default", 1..=UNITS_MAX, " tasks");
    fields.finish()?;
    let change = |rules: &mut Rules| rules.default_limit = limit;
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `PUT /v1/queue/limits/{key}`: `{"limit": 2}`.
#[utoipa::path(
    put,
    path = "/v1/queue/limits/{key}",
    tag = "queue",
    params(
        ("key" = String, Path, min_length = 1, max_length = 64, description = "its name"),
    ),
    request_body = crate::schema::bodies::LimitBody,
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn set_limit(
    State(state): State<ApiState>,
    NamePath(key): NamePath,
    mut fields: Fields,
) -> Answer {
    let limit = required(&mut fields, "limit", " tasks");
    fields.finish()?;
    let change = |rules: &mut Rules| {
        rules.limits.insert(key, limit);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `DELETE /v1/queue/limits/{key}`: back to the default.
#[utoipa::path(
    delete,
    path = "/v1/queue/limits/{key}",
    tag = "queue",
    params(
        ("key" = String, Path, description = "its name"),
    ),
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn remove_limit(
    State(state): State<ApiState>,
    NamePath(key): NamePath,
    _: Nothing,
) -> Answer {
    let change = |rules: &mut Rules| {
        rules.limits.remove(&key);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `PUT /v1/queue/rates/{key}`: `{"units": 60, "period_ms": 60000, "burst": 5}`.
#[utoipa::path(
    put,
    path = "/v1/queue/rates/{key}",
    tag = "queue",
    params(
        ("key" = String, Path, min_length = 1, max_length = 64, description = "its name"),
    ),
    request_body = crate::schema::bodies::RateBody,
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn set_rate(
    State(state): State<ApiState>,
    NamePath(key): NamePath,
    mut fields: Fields,
) -> Answer {
    let rate = rate(&mut fields);
    fields.finish()?;
    let change = |rules: &mut Rules| {
        rules.rates.insert(key, rate);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `DELETE /v1/queue/rates/{key}`: no rate.
#[utoipa::path(
    delete,
    path = "/v1/queue/rates/{key}",
    tag = "queue",
    params(
        ("key" = String, Path, description = "its name"),
    ),
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn remove_rate(
    State(state): State<ApiState>,
    NamePath(key): NamePath,
    _: Nothing,
) -> Answer {
    let change = |rules: &mut Rules| {
        rules.rates.remove(&key);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `PUT /v1/queue/resources/{name}`: `{"slots": 4}`, held while a task executes, or
/// `{"units": 100000, "period_ms": 60000, "burst": 100000}`, which come back with time.
#[utoipa::path(
    put,
    path = "/v1/queue/resources/{name}",
    tag = "queue",
    params(
        ("name" = String, Path, min_length = 1, max_length = 64, description = "its name"),
    ),
    request_body = crate::schema::bodies::ResourceBody,
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn set_resource(
    State(state): State<ApiState>,
    NamePath(name): NamePath,
    mut fields: Fields,
) -> Answer {
    let resource = if fields.has("slots") {
        Resource::Slots(required(&mut fields, "slots", ""))
    } else {
        Resource::Refill(rate(&mut fields))
    };
    fields.finish()?;
    let change = |rules: &mut Rules| {
        rules.resources.insert(name, resource);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

/// `DELETE /v1/queue/resources/{name}`: tasks that need it wait until there is one again.
#[utoipa::path(
    delete,
    path = "/v1/queue/resources/{name}",
    tag = "queue",
    params(
        ("name" = String, Path, description = "its name"),
    ),
    responses(
        (status = 200, description = "the rules now", body = crate::schema::answers::RulesAnswer),
    ),
)]
pub(crate) async fn remove_resource(
    State(state): State<ApiState>,
    NamePath(name): NamePath,
    _: Nothing,
) -> Answer {
    let change = |rules: &mut Rules| {
        rules.resources.remove(&name);
    };
    state.queue.change_rules(change).await?;
    in_force(&state)
}

fn rate(fields: &mut Fields) -> Rate {
    let units = required(fields, "units", "");
    if !fields.given("period_ms") {
        fields.problem("period_ms", "is missing; units come back within a period");
    }
    let period_max = u64::try_from(PERIOD_MAX.as_millis()).unwrap_or(u64::MAX);
    let period = fields.number("period_ms", 1..=period_max, " ms");
    let burst = fields.number("burst", 1..=UNITS_MAX, "");
    Rate {
        units,
        period_ms: period.unwrap_or(1),
        burst: burst.unwrap_or(units),
    }
}

/// A number of units. Only sound if the fields turn out to be.
fn required(fields: &mut Fields, field: &str, unit: &str) -> u64 {
    if !fields.given(field) {
        fields.problem(field, "is missing, must be a whole number");
    }
    fields.number(field, 1..=UNITS_MAX, unit).unwrap_or(1)
}
