//! The log of a task that another node has, as a stream.
//!
//! Streams do not travel between nodes. This node asks the other one for the lines behind the
//! latest, which waits a while for the next one, and streams what it is told. When that node does
//! not answer any more, the stream ends: it can be resumed at any node, which then says what is
//! known.

use std::collections::VecDeque;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::stream;
use regrow_cluster::member::NodeName;
use regrow_runtime::ids::TaskId;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::{LOOK, heard, search};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::relay::{Asked, ask};
use crate::routes::events::{Followed, raw_frame, streamed};
use crate::state::{ApiState, Phase};

/// How long the other node waits for the next line.
const WAIT: Duration = Duration::from_secs(10);

/// Lines of a log, as its node lists them.
#[derive(Deserialize)]
struct Lines {
    events: Vec<Box<RawValue>>,
    /// Nothing follows.
    ended: bool,
}

#[derive(Deserialize)]
struct Line {
    n: u64,
    kind: String,
}

/// The log behind line `after`, at the node that has the task.
struct Remote {
    state: ApiState,
    node: NodeName,
    id: TaskId,
    caller: Caller,
    after: u64,
    read: VecDeque<Box<RawValue>>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

fn asked(id: TaskId, caller: &Caller, after: u64, wait: Duration) -> Asked {
    let wait = wait.as_millis();
    let target = format!("/v1/tasks/{id}/events?after={after}&wait_ms={wait}");
    Asked::get(target, caller)
}

/// A stream of what the node that has the task says; `unknown` is what this node would say.
pub(super) async fn followed(
    state: &ApiState,
    id: TaskId,
    from: Followed,
    caller: Caller,
    unknown: Response,
) -> Result<Response, ApiError> {
    let place = state.stream_permit()?;
    let first = asked(id, &caller, from.after, Duration::ZERO);
    let search = search(state, &first, state.exchange.connected()).await;
    let first = search.found.as_ref();
    let first = first.and_then(|(node, told)| Some((node.clone(), heard(told).ok()?)));
    let Some((node, Lines { events, ended })) = first else {
        return search.answer(unknown);
    };
    if ended && from.resumed && events.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let log = Remote {
        state: state.clone(),
        node,
        id,
        caller,
        after: from.after,
        read: events.into(),
        ended,
        _place: place,
    };
    let frames = stream::unfold(log, async |mut log: Remote| {
        let (line, data) = log.next().await?;
        let frame = raw_frame(&line.kind, data.get()).id(line.n.to_string());
        Some((Ok(frame), log))
    });
    Ok(streamed(frames))
}

impl Remote {
    /// The next line; `None` when the task has ended, its node is silent, or the server closes.
    async fn next(&mut self) -> Option<(Line, Box<RawValue>)> {
        loop {
            if let Some(data) = self.read.pop_front() {
                let line: Line = serde_json::from_str(data.get()).ok()?;
                self.after = line.n;
                return Some((line, data));
            }
            if self.ended {
                return None;
            }
            let asked = asked(self.id, &self.caller, self.after, WAIT);
            let told = tokio::select! {
                told = ask(&self.state, &self.node, &asked, LOOK + WAIT, None) => told.ok()?,
                () = self.state.lifecycle.reached(Phase::Closing) => return None,
            };
            let Lines { events, ended } = heard(&told).ok()?;
            (self.read, self.ended) = (events.into(), ended);
        }
    }
}
