//! `/v1/audit`: the record of what operators did.

use axum::extract::State;
use regrow_runtime::access::audit::chain::{Head, Line};
use regrow_runtime::access::audit::{PAGE_MAX, chains, page};
use serde::Serialize;

use super::{Answer, ok};
use crate::error::{ApiError, Code};
use crate::params::{NamePath, Params};
use crate::state::ApiState;

#[derive(Serialize)]
struct ChainJson {
    chain: String,
    #[serde(flatten)]
    head: Head,
}

/// `GET /v1/audit`: every chain, and where it begins and ends.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "audit",
    responses(
        (status = 200, description = "every chain", body = Vec<crate::schema::answers::ChainAnswer>),
    ),
)]
pub(crate) async fn list(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    let known = chains(state.access.audit.place()).await?;
    let chains: Vec<ChainJson> = known
        .into_iter()
        .map(|(chain, head)| ChainJson { chain, head })
        .collect();
    ok(&chains)
}

#[derive(Serialize)]
struct PageJson {
    entries: Vec<Line>,
}

/// `GET /v1/audit/{chain}?after=N&limit=N`: entries, oldest first; an empty page is the last.
#[utoipa::path(
    get,
    path = "/v1/audit/{chain}",
    tag = "audit",
    params(
        ("chain" = String, Path, description = "its name"),
        ("after" = Option<u64>, Query, minimum = 0, description = "only entries behind this one"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "an empty page is the last", body = crate::schema::answers::AuditPage),
    ),
    extensions(("x-regrow-codes" = json!([
        "chain_not_found"
    ]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    NamePath(chain): NamePath,
    mut params: Params,
) -> Answer {
    let after = params.number("after", 0..=u64::MAX / 2).unwrap_or(0);
    let limit = params.number("limit", 1..=PAGE_MAX).unwrap_or(PAGE_MAX);
    params.finish()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let place = state.access.audit.place();
    let entries = page(place, &chain, after, limit).await?;
    let entries = entries.ok_or_else(|| {
        let chain: String = chain.chars().take(80).collect();
        let detail = format!("there is no chain `{chain}`; GET /v1/audit lists them");
        ApiError::new(Code::ChainNotFound, detail)
    })?;
    ok(&PageJson { entries })
}
