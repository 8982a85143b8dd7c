//! `GET /metrics`: Prometheus text, with help and unit for every name.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use regrow_cluster::{exchange, transport};
use regrow_runtime::metrics as names;

use super::Answer;
use crate::observe;
use crate::params::Params;
use crate::state::ApiState;

/// The process has a metrics recorder already, or this one cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ExpositionError {
    /// The buckets are not acceptable: a bug.
    #[error("metrics could not be set up")]
    Build(#[from] BuildError),
    /// Recorders are one per process; nothing changed.
    #[error("the process records metrics elsewhere already")]
    Taken,
}

/// What was measured, ready to be read. Cheap to clone.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// Records the process's metrics from now on. Once per process.
    ///
    /// # Errors
    ///
    /// [`ExpositionError`]
    pub fn install() -> Result<Self, ExpositionError> {
        let recorder = Self::builder()?.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| ExpositionError::Taken)?;
        describe();
        Ok(Self(handle))
    }

    /// An exposition that nothing records into, for a node whose process measures
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// [`ExpositionError::Build`]
    pub fn detached() -> Result<Self, ExpositionError> {
        let recorder = Self::builder()?.build_recorder();
        Ok(Self(metrics::with_local_recorder(&recorder, || {
            describe();
            recorder.handle()
        })))
    }

    fn builder() -> Result<PrometheusBuilder, BuildError> {
        let seconds = [
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
            1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        let callers = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
            .set_buckets_for_metric(Matcher::Full(names::STORE_BATCH.to_owned()), &callers)
    }

    /// What was measured, as `/metrics` tells it.
    pub(crate) fn text(&self) -> String {
        self.0.render()
    }

    /// Folds samples into their histograms; unread ones pile up otherwise.
    pub(crate) fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn describe() {
    let counters = [
        (names::TASKS_ACCEPTED, "Tasks accepted."),
        (
            names::TASKS_REFUSED,
            "Submissions refused, by reason. Rising: raise queue.max_size or add workers.",
        ),
        (
            names::TASKS_ENDED,
            "Tasks ended, by state. Discarded rising: read the dead letters.",
        ),
        (names::LEASES_GIVEN, "Leases given."),
        (
            names::LEASES_LOST,
            "Leases lost, by cause. Rising: agents crash or hang.",
        ),
        (
            names::STALE_REFUSED,
            "Effects refused for a stale epoch. Rising: leases are too short for the work.",
        ),
        (names::STEPS_RECORDED, "Steps recorded."),
        (
            names::STEPS_REPLAYED,
            "Steps answered from the journal instead of being run again.",
        ),
        (
            names::STORE_FAILURES,
            "Failed commits. Any: look at the disk.",
        ),
        (
            names::RESTARTS,
            "Children restarted, by role and reason. Rising: read the exits in the tree.",
        ),
        (names::REMEDIES, "Remedies applied, by role and remedy."),
        (
            names::EVENTS_DROPPED,
            "Events that a slow subscriber missed.",
        ),
        (
            exchange::MESSAGES,
            "Messages between nodes, by topic, kind (call or cast) and direction.",
        ),
        (
            exchange::BYTES,
            "Bytes of messages between nodes, answers not included, by topic and direction.",
        ),
        (
            exchange::NOT_SENT,
            "Messages to other nodes that were refused, by topic and reason. full rising: a peer \
             is frozen or too slow.",
        ),
        (
            exchange::DROPPED,
            "Messages of other nodes that led to nothing, by topic and reason. overflow rising: \
             a part of this node is behind.",
        ),
        (
            transport::TURNED_AWAY,
            "Connections of other nodes turned away, by reason. key or certificate rising: \
             somebody has others.",
        ),
        (
            observe::REQUESTS,
            "HTTP requests answered, by route, method and status.",
        ),
        (
            observe::WRONG_TOKENS,
            "Requests with a token that nobody was given; the log says from where.",
        ),
    ];
    for (name, help) in counters {
        describe_counter!(name, Unit::Count, help);
    }
    let gauges = [
        (names::TASKS_LIVE, Unit::Count, "Live tasks, by state."),
        (
            names::QUEUE_DEPTH,
            Unit::Count,
            "Claimable tasks, by lane. Rising: workers are too few or stuck.",
        ),
        (
            names::QUEUE_UTILIZATION,
            Unit::Count,
            "Share of queue.max_size in use, 0 to 1. Above 0.75: refusals are near.",
        ),
        (
            names::QUEUE_PARKED,
            Unit::Count,
            "Available tasks that wait at a limit, a rate or a resource. Rising: see the gates.",
        ),
        (
            names::QUEUE_SHARE,
            Unit::Count,
            "Part of the leases of late, 0 to 1, by side (class or tenant) and name.",
        ),
        (
            names::QUEUE_FAIR_SHARE,
            Unit::Count,
            "Part that the weights give, 0 to 1, by side (class or tenant) and name.",
        ),
        (names::AGENTS, Unit::Count, "Agents, by role and state."),
        (
            exchange::SESSIONS,
            Unit::Count,
            "Sessions with other nodes, by state. Fewer ready than nodes are up: see regrow \
             cluster nodes.",
        ),
        (
            transport::OUTBOX_MESSAGES,
            Unit::Count,
            "Messages that wait for other nodes. Rising: a peer is frozen or too slow.",
        ),
        (
            transport::OUTBOX_BYTES,
            Unit::Bytes,
            "Weight of the messages that wait for other nodes.",
        ),
        (observe::CONNECTIONS, Unit::Count, "Open HTTP connections."),
    ];
    for (name, unit, help) in gauges {
        describe_gauge!(name, unit, help);
    }
    let histograms = [
        (
            names::STORE_BATCH,
            Unit::Count,
            "Callers per commit. Around 1 under load: the disk is faster than the callers.",
        ),
        (
            names::STORE_COMMIT_SECONDS,
            Unit::Seconds,
            "Duration of a commit including its fsync, in seconds.",
        ),
        (
            names::RESTART_SECONDS,
            Unit::Seconds,
            "From a child's exit to its successor's start, by role, in seconds.",
        ),
        (
            names::PROBE_SECONDS,
            Unit::Seconds,
            "Duration of a probe's answer, by role, in seconds.",
        ),
        (
            observe::REQUEST_SECONDS,
            Unit::Seconds,
            "From a request's headers to its answer's, by route, in seconds.",
        ),
    ];
    for (name, unit, help) in histograms {
        describe_histogram!(name, unit, help);
    }
}

/// `GET /metrics`
pub(crate) async fn render(State(state): State<ApiState>, params: Params) -> Answer {
    params.finish()?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], state.metrics.0.render()).into_response())
}
