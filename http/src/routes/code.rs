//! `/v1/code`: versions of agents' code.

use std::collections::BTreeSet;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use regrow_runtime::code::NewCode;
use regrow_runtime::code::ledger::{Ledger, Note, Version};
use regrow_runtime::code::source::Source;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Answer, json as answer, ok};
use crate::auth::{Caller, Noted};
use crate::error::ApiError;
use crate::input::{Fields, Nothing};
use crate::page::Paging;
use crate::params::{NamePath, Params, VersionPath};
use crate::state::ApiState;

/// An agent that has code.
#[derive(Serialize, ToSchema)]
pub(crate) struct AgentCode {
    agent: String,
    /// The version that is active.
    active: Option<String>,
    /// The one that a rollback leads to.
    previous: Option<String>,
    /// How many it has.
    versions: u64,
    /// The latest that was staged.
    latest: Option<String>,
}

/// All agents that have code.
#[derive(Serialize, ToSchema)]
pub(crate) struct AllCode {
    agents: Vec<AgentCode>,
    next_cursor: Option<String>,
}

/// A version. Sources are shown by `GET /v1/code/{agent}/versions/{version}`.
#[derive(Serialize, ToSchema)]
pub(crate) struct VersionJson {
    version: String,
    /// The order of staging, from 1.
    n: u64,
    state: &'static str,
    kind: &'static str,
    /// BLAKE3 of the source: what it is made of, and nothing else, has it.
    hash: String,
    bytes: u64,
    columns: Vec<String>,
    /// What was found out about the module.
    #[schema(value_type = Object)]
    module: Value,
    notes: Option<String>,
    staged_at: String,
    staged_by: String,
    promoted_at: Option<String>,
    retired_at: Option<String>,
    pinned: bool,
}

/// Something that was done.
#[derive(Serialize, ToSchema)]
pub(crate) struct NoteJson {
    at: String,
    by: String,
    /// `staged`, `promoted`, `rolled_back`, `pinned`, `unpinned`, `removed`, `expired` or `granted`.
    #[schema(value_type = String)]
    what: Value,
    of: String,
}

/// All of an agent's versions, and what was done, the latest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct LedgerJson {
    agent: String,
    active: Option<String>,
    previous: Option<String>,
    grants: Vec<String>,
    versions: Vec<VersionJson>,
    history: Vec<NoteJson>,
}

/// A version with its source.
#[derive(Serialize, ToSchema)]
pub(crate) struct SourceJson {
    agent: String,
    version: VersionJson,
    #[schema(value_type = Object)]
    source: Value,
}

/// What a look at all sources found.
#[derive(Serialize, ToSchema)]
pub(crate) struct CheckedJson {
    agent: String,
    sound: u64,
    /// Versions, and what is wrong with their sources.
    #[schema(value_type = Object)]
    damaged: Value,
}

fn version_json(ledger: &Ledger, version: &Version) -> VersionJson {
    VersionJson {
        version: version.version.clone(),
        n: version.n,
        state: ledger.standing(version).as_str(),
        kind: version.source.kind.as_str(),
        hash: version.source.hash.clone(),
        bytes: version.source.bytes,
        columns: version.source.columns.clone(),
        module: json!(version.module),
        notes: version.notes.clone(),
        staged_at: version.staged_at.to_string(),
        staged_by: version.staged_by.clone(),
        promoted_at: version.promoted_at.map(|at| at.to_string()),
        retired_at: version.retired_at.map(|at| at.to_string()),
        pinned: version.pinned,
    }
}

fn named(version: Option<&Version>) -> Option<String> {
    version.map(|it| it.version.clone())
}

fn ledger_json(agent: String, ledger: &Ledger) -> LedgerJson {
    let note = |note: &Note| NoteJson {
        at: note.at.to_string(),
        by: note.by.clone(),
        what: json!(note.what),
        of: note.of.clone(),
    };
    LedgerJson {
        agent,
        active: named(ledger.active()),
        previous: named(ledger.previous()),
        grants: ledger.grants().map(str::to_owned).collect(),
        versions: ledger
            .versions()
            .map(|it| version_json(ledger, it))
            .collect(),
        history: ledger.history().map(note).collect(),
    }
}

/// What was changed, for the caller and for the record.
fn changed(agent: String, ledger: &Ledger) -> Answer {
    let active = named(ledger.active()).unwrap_or_else(|| "none".to_owned());
    let noted = Noted(format!("code of {agent}: {active} is active"));
    let mut response = ok(&ledger_json(agent, ledger))?;
    response.extensions_mut().insert(noted);
    Ok(response)
}

/// `GET /v1/code`: the agents that have code, by name.
#[utoipa::path(
    get,
    path = "/v1/code",
    tag = "code",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "things in a page"),
    ),
    responses(
        (status = 200, description = "all of them, or a page", body = AllCode),
    ),
)]
pub(crate) async fn list(State(state): State<ApiState>, mut params: Params) -> Answer {
    let paging = Paging::of(&mut params);
    params.finish()?;
    let all = state.code.store().agents().await?;
    let mut agents: Vec<AgentCode> = all
        .into_iter()
        .map(|(agent, ledger)| AgentCode {
            agent,
            active: named(ledger.active()),
            previous: named(ledger.previous()),
            versions: ledger.versions().count() as u64,
            latest: named(ledger.versions().next()),
        })
        .collect();
    let next_cursor = paging.cut(&mut [&mut agents], |it| &it.agent);
    ok(&AllCode {
        agents,
        next_cursor,
    })
}

/// `GET /v1/code/{agent}`: its versions, its capabilities, and what was done.
#[utoipa::path(
    get,
    path = "/v1/code/{agent}",
    tag = "code",
    params(("agent" = String, Path, description = "whose code")),
    responses((status = 200, description = "the latest first", body = LedgerJson)),
    extensions(("x-regrow-codes" = json!(["code_not_found"]))),
)]
pub(crate) async fn show(
    State(state): State<ApiState>,
    NamePath(agent): NamePath,
    params: Params,
) -> Answer {
    params.finish()?;
    let ledger = state.code.store().ledger(&agent).await?;
    ok(&ledger_json(agent, &ledger))
}

/// `POST /v1/code/{agent}`: vets a version and keeps it beside the active one.
///
/// It is parsed or inspected, compiled within limits, and asked to describe itself with everything
/// denied. The same version again, of the same source, changes nothing.
#[utoipa::path(
    post,
    path = "/v1/code/{agent}",
    tag = "code",
    params(("agent" = String, Path, description = "whose code")),
    request_body = crate::schema::bodies::CodeBody,
    responses((status = 201, description = "kept, and active if that was asked for", body = VersionJson)),
    extensions(("x-regrow-codes" = json!([
        "code_refused", "version_exists", "too_many_versions", "not_granted"
    ]))),
)]
pub(crate) async fn stage(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    NamePath(agent): NamePath,
    mut fields: Fields,
) -> Answer {
    let version = fields.text("version", false);
    if version.is_none() {
        fields.problem(
            "version",
            "is missing; it names the version, such as `1.4.0`",
        );
    }
    let source_given = fields.given("source");
    let source = fields.decoded::<Source>(
        "source",
        "{kind: \"expression\", columns, text} or {kind: \"wasm\", base64}",
    );
    if !source_given {
        fields.problem("source", "is missing; it is what the version is made of");
    }
    let notes = fields.text("notes", true);
    let promote = fields.flag("promote").unwrap_or(false);
    fields.finish()?;
    let (Some(version), Some(source)) = (version, source) else {
        let detail = "version or source is missing";
        return Err(ApiError::new(crate::error::Code::ValidationFailed, detail));
    };
    let new = NewCode {
        version,
        source,
        notes,
        promote,
    };
    let by = caller.by().name;
    let (ledger, version) = state.code.stage(&agent, new, &by).await?;
    let told = version_json(&ledger, &version);
    let noted = Noted(format!(
        "code of {agent}: version {} ({}) is {}",
        told.version, told.hash, told.state
    ));
    let mut response = answer(StatusCode::CREATED, &told)?;
    response.extensions_mut().insert(noted);
    Ok(response)
}

/// `GET /v1/code/{agent}/versions/{version}`: a version with its source.
#[utoipa::path(
    get,
    path = "/v1/code/{agent}/versions/{version}",
    tag = "code",
    params(
        ("agent" = String, Path, description = "whose code"),
        ("version" = String, Path, description = "which version"),
    ),
    responses((status = 200, description = "the source has its hash", body = SourceJson)),
    extensions(("x-regrow-codes" = json!(["code_not_found", "code_damaged"]))),
)]
pub(crate) async fn source(
    State(state): State<ApiState>,
    VersionPath(agent, version): VersionPath,
    params: Params,
) -> Answer {
    params.finish()?;
    let (ledger, version, source) = state.code.store().source(&agent, &version).await?;
    ok(&SourceJson {
        agent,
        version: version_json(&ledger, &version),
        source: json!(source),
    })
}

/// `POST /v1/code/{agent}/versions/{version}/promote`: makes it the active one.
#[utoipa::path(
    post,
    path = "/v1/code/{agent}/versions/{version}/promote",
    tag = "code",
    params(
        ("agent" = String, Path, description = "whose code"),
        ("version" = String, Path, description = "which version"),
    ),
    responses((status = 200, description = "it is active", body = LedgerJson)),
    extensions(("x-regrow-codes" = json!(["code_not_found", "code_damaged", "not_granted"]))),
)]
pub(crate) async fn promote(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    VersionPath(agent, version): VersionPath,
    _: Nothing,
) -> Answer {
    let store = state.code.store();
    let ledger = store.promote(&agent, &version, &caller.by().name).await?;
    changed(agent, &ledger)
}

/// `POST /v1/code/{agent}/rollback`: makes the version active that was active before.
#[utoipa::path(
    post,
    path = "/v1/code/{agent}/rollback",
    tag = "code",
    params(("agent" = String, Path, description = "whose code")),
    responses((status = 200, description = "it is active again", body = LedgerJson)),
    extensions(("x-regrow-codes" = json!([
        "code_not_found", "no_previous_version", "code_damaged", "not_granted"
    ]))),
)]
pub(crate) async fn roll_back(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    NamePath(agent): NamePath,
    _: Nothing,
) -> Answer {
    let store = state.code.store();
    let ledger = store.roll_back(&agent, &caller.by().name).await?;
    changed(agent, &ledger)
}

/// `PUT /v1/code/{agent}/versions/{version}/pin`: lets it stay, or no more.
#[utoipa::path(
    put,
    path = "/v1/code/{agent}/versions/{version}/pin",
    tag = "code",
    params(
        ("agent" = String, Path, description = "whose code"),
        ("version" = String, Path, description = "which version"),
    ),
    request_body = crate::schema::bodies::PinBody,
    responses((status = 200, description = "done", body = LedgerJson)),
    extensions(("x-regrow-codes" = json!(["code_not_found"]))),
)]
pub(crate) async fn pin(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    VersionPath(agent, version): VersionPath,
    mut fields: Fields,
) -> Answer {
    if !fields.given("pinned") {
        fields.problem("pinned", "is missing; true or false");
    }
    let pinned = fields.flag("pinned").unwrap_or(true);
    fields.finish()?;
    let (store, by) = (state.code.store(), caller.by().name);
    let ledger = store.pin(&agent, &version, pinned, &by).await?;
    changed(agent, &ledger)
}

/// `DELETE /v1/code/{agent}/versions/{version}`: takes it and its source away.
#[utoipa::path(
    delete,
    path = "/v1/code/{agent}/versions/{version}",
    tag = "code",
    params(
        ("agent" = String, Path, description = "whose code"),
        ("version" = String, Path, description = "which version"),
    ),
    responses((status = 200, description = "it is gone", body = LedgerJson)),
    extensions(("x-regrow-codes" = json!(["code_not_found", "version_in_use"]))),
)]
pub(crate) async fn remove(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    VersionPath(agent, version): VersionPath,
) -> Answer {
    let store = state.code.store();
    let ledger = store.remove(&agent, &version, &caller.by().name).await?;
    changed(agent, &ledger)
}

/// `PUT /v1/code/{agent}/grants`: sets what its modules may import, beside `log` and `metrics`.
#[utoipa::path(
    put,
    path = "/v1/code/{agent}/grants",
    tag = "code",
    params(("agent" = String, Path, description = "whose code")),
    request_body = crate::schema::bodies::GrantsBody,
    responses((status = 200, description = "done", body = LedgerJson)),
    extensions(("x-regrow-codes" = json!(["version_in_use"]))),
)]
pub(crate) async fn grant(
    State(state): State<ApiState>,
    Extension(caller): Extension<Caller>,
    NamePath(agent): NamePath,
    mut fields: Fields,
) -> Answer {
    let given = fields.given("capabilities");
    let capabilities = fields.texts("capabilities", "a list of capabilities");
    if !given {
        fields.problem("capabilities", "is missing; it may be empty");
    }
    let capabilities: BTreeSet<String> = capabilities.unwrap_or_default().into_iter().collect();
    if let Some(unknown) = state.code.unknown(&capabilities) {
        fields.problem("capabilities", unknown);
    }
    fields.finish()?;
    let (store, by) = (state.code.store(), caller.by().name);
    let ledger = store.grant(&agent, capabilities, &by).await?;
    changed(agent, &ledger)
}

/// `GET /v1/code/{agent}/check`: reads all sources, and says which are not what was staged.
#[utoipa::path(
    get,
    path = "/v1/code/{agent}/check",
    tag = "code",
    params(("agent" = String, Path, description = "whose code")),
    responses((status = 200, description = "what was found", body = CheckedJson)),
    extensions(("x-regrow-codes" = json!(["code_not_found"]))),
)]
pub(crate) async fn check(
    State(state): State<ApiState>,
    NamePath(agent): NamePath,
    params: Params,
) -> Answer {
    params.finish()?;
    let checked = state.code.store().check(&agent).await?;
    ok(&CheckedJson {
        agent,
        sound: checked.sound as u64,
        damaged: json!(checked.damaged),
    })
}
