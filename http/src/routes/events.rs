//! Logs and events, as lists and as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use regrow_runtime::events::Event;
use regrow_runtime::ids::TaskId;
use serde::Serialize;
use serde_json::json;

use super::tasks::found;
use super::{Answer, ok};
use crate::error::{ApiError, Code};
use crate::follow::{BusFilter, BusLog, READ_AT_ONCE, Seen, TaskLog};
use crate::params::{Params, TaskPath};
use crate::state::ApiState;
use crate::view::{EventJson, Instant};

/// Silence after which a comment is sent, so that dead connections are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Lines in a list.
const LINES_MAX: u64 = 1_000;

/// `GET /v1/tasks/{id}/events`: the task's log. As a list behind line `after`; or, for
/// whoever accepts `text/event-stream`, as a stream that can be resumed with
/// `Last-Event-ID` and ends when the task has ended. 204 tells that nothing will follow.
pub(crate) async fn of_task(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    headers: HeaderMap,
    mut params: Params,
) -> Answer {
    let after = params.number("after", 0..=u64::from(u32::MAX)).unwrap_or(0);
    let limit = params.number("limit", 1..=LINES_MAX).unwrap_or(LINES_MAX);
    params.finish()?;
    if !wants_stream(&headers) {
        found(&state, id).await?;
        return list(&state, id, after, limit).await;
    }
    let resumed = last_event_id(&headers)?;
    let after = resumed.unwrap_or(after);
    let place = state.stream_permit()?;
    let ended = found(&state, id).await?.state().is_terminal();
    if ended && resumed.is_some() && state.queue.events(id, after, 1).await?.is_empty() {
        // Browsers reconnect for ever unless they are told to stop.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let log = TaskLog::new(state, id, after, place);
    let frames = stream::unfold(log, async |mut log: TaskLog| {
        let event = log.next().await?;
        let frame = frame(event.kind.as_str(), &EventJson::from(&event));
        Some((Ok(frame.id(event.n.to_string())), log))
    });
    Ok(streamed(frames))
}

async fn list(state: &ApiState, id: TaskId, after: u64, limit: u64) -> Answer {
    let mut lines = Vec::new();
    let mut after = after;
    loop {
        let left = limit.saturating_sub(lines.len() as u64);
        let wanted = u32::try_from(left).unwrap_or(u32::MAX).min(READ_AT_ONCE);
        let read = state.queue.events(id, after, wanted).await?;
        let whole = read.len() < wanted as usize || wanted == 0;
        after = read.last().map_or(after, |line| line.n);
        lines.extend(read);
        if whole {
            break;
        }
    }
    let events: Vec<EventJson<'_>> = lines.iter().map(EventJson::from).collect();
    ok(&json!({ "events": events }))
}

/// `GET /v1/events`: what happens from now on, as a stream. Not resumable: what is durable
/// stands in the tasks' logs.
pub(crate) async fn all(State(state): State<ApiState>, mut params: Params) -> Answer {
    let filter = BusFilter {
        task: params.parsed("task"),
        kind: params.parsed("kind"),
    };
    params.finish()?;
    let place = state.stream_permit()?;
    let log = BusLog::new(state, filter, place);
    let frames = stream::unfold(log, async |mut log: BusLog| {
        let frame = match log.next().await? {
            Seen::Happened(event) => bus_frame(&event),
            Seen::Missed(count) => frame("dropped", &json!({ "dropped": count })),
        };
        Some((Ok(frame), log))
    });
    Ok(streamed(frames))
}

fn bus_frame(event: &Event) -> Frame {
    #[derive(Serialize)]
    struct OfTask<'a> {
        r#type: &'static str,
        task: TaskId,
        #[serde(flatten)]
        event: EventJson<'a>,
    }
    match event {
        Event::Task { id, event } => {
            let of_task = OfTask {
                r#type: "task",
                task: *id,
                event: EventJson::from(event),
            };
            frame("task", &of_task)
        }
        Event::Runtime {
            at,
            subject,
            what,
            detail,
        } => {
            let runtime = json!({
                "type": "runtime",
                "at": Instant(*at),
                "subject": subject,
                "what": what,
                "detail": detail,
            });
            frame("runtime", &runtime)
        }
    }
}

fn frame<T: Serialize>(name: &str, data: &T) -> Frame {
    let frame = Frame::default().event(name);
    // Plain structs of text and numbers: they can always be written.
    match serde_json::to_string(data) {
        Ok(text) => frame.data(text),
        Err(error) => frame.comment(error.to_string()),
    }
}

fn streamed(frames: impl Stream<Item = Result<Frame, Infallible>> + Send + 'static) -> Response {
    Sse::new(frames)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|accept| accept.to_str().ok())
        .any(|accept| accept.contains("text/event-stream"))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(header) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = header.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let detail = "Last-Event-ID must be the number of a line that this stream sent";
        ApiError::new(Code::InvalidParameter, detail)
    })
}
