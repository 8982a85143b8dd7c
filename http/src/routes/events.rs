//! Logs and events, as lists and as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use regrow_runtime::events::Event;
use regrow_runtime::ids::TaskId;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use super::tasks::found;
use super::{Answer, WAIT_MS_MAX, ok};
use crate::error::{ApiError, Code};
use crate::follow::{BusFilter, BusLog, READ_AT_ONCE, TaskLog, Watch};
use crate::history::Read;
use crate::params::{Params, TaskPath};
use crate::state::{ApiState, Phase};
use crate::view::{EventJson, Instant};

/// Silence after which a comment is sent, so that dead connections are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Lines in a list.
const LINES_MAX: u64 = 1_000;
/// The last line behind which may be looked.
const AFTER_MAX: u64 = u32::MAX as u64;

/// `GET /v1/tasks/{id}/events`: the task's log. As a list behind line `after`; or, for
/// whoever accepts `text/event-stream`, as a stream that can be resumed with
/// `Last-Event-ID` and ends when the task has ended. 204 tells that nothing will follow.
#[utoipa::path(
    get,
    path = "/v1/tasks/{id}/events",
    tag = "tasks",
    params(
        ("id" = String, Path, format = "uuid", description = "the task's id"),
        ("after" = Option<u64>, Query, minimum = 0, maximum = 4294967295i64, description = "only lines behind this one"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "things in a page"),
        ("last-event-id" = Option<String>, Header, description = "the same, of a stream"),
    ),
    responses(
        (status = 200, description = "its log, as a list or as a stream", content(
            (crate::schema::answers::EventsAnswer = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 204, description = "nothing will follow on this stream"),
    ),
    extensions(("x-regrow-codes" = json!([
        "task_not_found", "node_away", "wrong_node"
    ]))),
)]
pub(crate) async fn of_task(
    State(state): State<ApiState>,
    TaskPath(id): TaskPath,
    headers: HeaderMap,
    mut params: Params,
) -> Answer {
    let after = params.number("after", 0..=AFTER_MAX).unwrap_or(0);
    let limit = params.number("limit", 1..=LINES_MAX).unwrap_or(LINES_MAX);
    let wait = params.number("wait_ms", 0..=WAIT_MS_MAX).unwrap_or(0);
    params.finish()?;
    let Some(Followed { after, resumed }) = Followed::from(&headers, after)? else {
        found(&state, id).await?;
        if 0 < wait {
            wait_for_line(&state, id, after, Duration::from_millis(wait)).await?;
        }
        return list(&state, id, after, limit).await;
    };
    let place = state.stream_permit()?;
    let ended = found(&state, id).await?.state().is_terminal();
    if ended && resumed && state.queue.events(id, after, 1).await?.is_empty() {
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

/// From where on a client wants to follow a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed {
    /// Behind which line.
    pub(crate) after: u64,
    /// It has followed it before.
    pub(crate) resumed: bool,
}

impl Followed {
    /// Nothing for whoever wants no stream; `after` is what the query says.
    fn from(headers: &HeaderMap, after: u64) -> Result<Option<Self>, ApiError> {
        if !wants_stream(headers) {
            return Ok(None);
        }
        let before = last_event_id(headers)?;
        Ok(Some(Self {
            after: before.unwrap_or(after),
            resumed: before.is_some(),
        }))
    }

    /// The same for a request that is not answered here. What is wrong with its query is said by
    /// the route.
    pub(crate) fn of(headers: &HeaderMap, query: Option<&str>) -> Result<Option<Self>, ApiError> {
        let mut pairs = query.unwrap_or_default().split('&');
        let after = pairs.find_map(|pair| pair.strip_prefix("after="));
        let after = after.and_then(|after| after.parse().ok());
        Self::from(headers, after.unwrap_or(0))
    }
}

/// Waits for a line behind `after`, or the end of the task.
async fn wait_for_line(
    state: &ApiState,
    id: TaskId,
    after: u64,
    wait: Duration,
) -> Result<(), ApiError> {
    let _place = state.wait_permit()?;
    let mut watch = Watch::new(state, id);
    let waited = async {
        loop {
            let ended = found(state, id).await?.state().is_terminal();
            if ended || !state.queue.events(id, after, 1).await?.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = watch.changed() => {}
                () = state.lifecycle.reached(Phase::Stopping) => return Ok(()),
            }
        }
    };
    // Whoever waited long enough is told that there is nothing.
    tokio::time::timeout(wait, waited).await.unwrap_or(Ok(()))
}

async fn list(state: &ApiState, id: TaskId, after: u64, limit: u64) -> Answer {
    // The state first: if the task had ended by then, the log read next is whole.
    let ended = found(state, id).await?.state().is_terminal();
    let mut lines = Vec::new();
    let mut after = after;
    let is_whole = loop {
        let left = limit.saturating_sub(lines.len() as u64);
        let wanted = u32::try_from(left).unwrap_or(u32::MAX).min(READ_AT_ONCE);
        let read = state.queue.events(id, after, wanted).await?;
        let whole = read.len() < wanted as usize || wanted == 0;
        after = read.last().map_or(after, |line| line.n);
        lines.extend(read);
        if whole {
            break 0 < wanted;
        }
    };
    let events: Vec<EventJson<'_>> = lines.iter().map(EventJson::from).collect();
    ok(&json!({ "events": events, "ended": ended && is_whole }))
}

/// `GET /v1/events`: what happens on this node from now on, as a stream; with `Last-Event-ID` behind
/// that event. A `gap` says that events before the next one are not known any more, or were of
/// another life or node: what is durable stands in the tasks' logs.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    params(
        ("task" = Option<String>, Query, format = "uuid", description = "only of this task"),
        ("kind" = Option<String>, Query, description = "only this kind of event of a task"),
        ("last-event-id" = Option<String>, Header, description = "go on behind this event"),
    ),
    responses(
        (status = 200, description = "what happens from now on", body = String, content_type = "text/event-stream"),
    ),
    extensions(("x-regrow-codes" = json!([
        "wrong_node"
    ]))),
)]
pub(crate) async fn all(
    State(state): State<ApiState>,
    headers: HeaderMap,
    mut params: Params,
) -> Answer {
    let filter = BusFilter {
        task: params.parsed("task"),
        kind: params.parsed("kind"),
    };
    params.finish()?;
    let place = state.stream_permit()?;
    let after = headers.get("last-event-id");
    // What cannot be read is no id that was given here.
    let after = after.map(|id| id.to_str().unwrap_or_default());
    let log = BusLog::new(state.clone(), filter, after, place);
    let frames = stream::unfold(log, async |mut log: BusLog| {
        let frame = match timeout(KEEP_ALIVE, log.next()).await {
            Ok(Some(Read::Event(happened))) => happened.frame(bus_frame),
            Ok(Some(Read::Missed(id, missed))) => text("gap", &json!({ "missed": missed }), &id),
            Ok(None) => return None,
            Err(_silence) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok::<_, Infallible>(frame), log))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::from_stream(frames)).into_response())
}

fn bus_frame(event: &Event, id: &str) -> Bytes {
    #[derive(Serialize)]
    struct OfTask<'a> {
        r#type: &'static str,
        task: TaskId,
        #[serde(flatten)]
        event: EventJson<'a>,
    }
    match event {
        Event::Task { id: task, event } => {
            let of_task = OfTask {
                r#type: "task",
                task: *task,
                event: EventJson::from(event),
            };
            text("task", &of_task, id)
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
            text("runtime", &runtime, id)
        }
    }
}

/// An event as it is sent. JSON that is written without spaces has no line breaks.
fn text<T: Serialize>(name: &str, data: &T, id: &str) -> Bytes {
    // Plain structs of text and numbers: they can always be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\nid: {id}\n\n"))
}

fn frame<T: Serialize>(name: &str, data: &T) -> Frame {
    let frame = Frame::default().event(name);
    // Plain structs of text and numbers: they can always be written.
    match serde_json::to_string(data) {
        Ok(text) => frame.data(text),
        Err(error) => frame.comment(error.to_string()),
    }
}

/// A frame of what is JSON already.
pub(crate) fn raw_frame(name: &str, data: &str) -> Frame {
    Frame::default().event(name).data(data)
}

pub(crate) fn streamed(
    frames: impl Stream<Item = Result<Frame, Infallible>> + Send + 'static,
) -> Response {
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

pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(header) = headers.get("last-event-id") else {
        return Ok(None);
    };
    let number = header.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let detail = "Last-Event-ID must be the number of a line that this stream sent";
        ApiError::new(Code::InvalidParameter, detail)
    })
}
