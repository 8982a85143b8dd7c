//! The stream of a page: its content again whenever that is another one.
//!
//! Each message is the page's whole content, and its id is the hash of it. So whoever comes back
//! with the id of what he has (`Last-Event-ID`) gets what he lacks and nothing else, from this
//! life of the node or the next, and nothing has to be remembered for anybody. What happened
//! in between and left no trace on the page is not told.
//!
//! A page is drawn at most once per [`PERIOD`], and so seldom that drawing it takes no more than
//! a hundredth of the time: an open page costs the node little, whatever it shows.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse as _, Response};
use futures::stream;
use maud::Markup;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::visit::Visit;
use crate::error::ApiError;
use crate::routes::Answer;
use crate::state::Phase;

/// A page is drawn no more often.
const PERIOD: Duration = Duration::from_millis(500);
/// The pause after drawing is this many times as long as drawing took.
const EASE: u32 = 100;
/// The longest pause.
const PERIOD_MAX: Duration = Duration::from_secs(10);
/// Silence after which a beat is sent, so that the browser knows that the page is up to date.
const BEAT: Duration = Duration::from_secs(5);
/// Failures to draw in a row, after which the stream ends and the browser asks anew.
const FAILURES_MAX: u32 = 3;

/// A page, ready to be drawn as often as it is wanted.
pub(crate) trait Page: Send + Sync + 'static {
    /// The entry of the navigation that it belongs to.
    const PLACE: super::frame::Place;

    /// What stands on the tab.
    fn title(&self) -> String;

    /// The content, as it is now.
    fn draw(&self, visit: &Visit) -> impl Future<Output = Result<Markup, ApiError>> + Send;
}

/// What tells one content from another.
pub(crate) fn stamp(content: &str) -> String {
    blake3::hash(content.as_bytes()).to_hex()[..16].to_owned()
}

/// The page, or its stream; for another node the content alone.
pub(crate) async fn answer<P: Page>(page: P, visit: Visit) -> Answer {
    if visit.wants_stream {
        let place = visit.state.stream_permit()?;
        return Ok(follow(page, visit, place));
    }
    let content = page.draw(&visit).await?.into_string();
    if visit.relayed {
        return Ok(Html(content).into_response());
    }
    let title = page.title();
    Ok(super::frame::document(&visit, Some(P::PLACE), &title, &content).into_response())
}

struct Following<P> {
    page: P,
    visit: Visit,
    seen: Option<String>,
    failures: u32,
    /// `None` until something was: the first beat follows at once, so that the browser knows
    /// that it is connected.
    said_at: Option<Instant>,
    look_at: Instant,
    _place: OwnedSemaphorePermit,
}

fn follow<P: Page>(page: P, visit: Visit, place: OwnedSemaphorePermit) -> Response {
    let now = Instant::now();
    let following = Following {
        page,
        seen: visit.seen.clone(),
        visit,
        failures: 0,
        said_at: None,
        look_at: now,
        _place: place,
    };
    let events = stream::unfold(following, async |mut following: Following<P>| {
        let event = following.next().await?;
        Some((Ok::<Event, Infallible>(event), following))
    });
    // Proxies must not gather what is to be seen at once.
    let headers = [("x-accel-buffering", "no"), ("cache-control", "no-store")];
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(BEAT * 2));
    (headers, stream).into_response()
}

impl<P: Page> Following<P> {
    /// What to say next; `None` when the server closes or the page cannot be drawn any more.
    async fn next(&mut self) -> Option<Event> {
        let lifecycle = self.visit.state.lifecycle.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.look_at) => {}
                () = lifecycle.reached(Phase::Closing) => return None,
            }
            let began = Instant::now();
            let drawn = self.page.draw(&self.visit).await;
            let took = began.elapsed();
            self.look_at = Instant::now() + (took * EASE).clamp(PERIOD, PERIOD_MAX);
            match drawn {
                Ok(content) => {
                    self.failures = 0;
                    let content = content.into_string();
                    let stamp = stamp(&content);
                    if self.seen.as_deref() != Some(&stamp) {
                        self.seen = Some(stamp.clone());
                        self.said_at = Some(Instant::now());
                        return Some(message(&content).id(stamp));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, page = self.page.title(), "page could not be drawn");
                    self.failures += 1;
                    if FAILURES_MAX <= self.failures {
                        return None;
                    }
                }
            }
            if self.failures == 0 && self.said_at.is_none_or(|at| BEAT <= at.elapsed()) {
                self.said_at = Some(Instant::now());
                return Some(Event::default().event("beat").data("."));
            }
        }
    }
}

/// The content, without what would end a line of the stream.
fn message(content: &str) -> Event {
    match content.contains('\r') {
        true => Event::default().data(content.replace('\r', "&#13;")),
        false => Event::default().data(content),
    }
}

/// A page's content behind a shared reference, so that a memo can give it to many.
#[derive(Debug)]
pub(crate) struct Memo<T> {
    last: tokio::sync::Mutex<Option<(Instant, Arc<T>)>>,
    term: Duration,
}

impl<T> Memo<T> {
    /// Remembers what it is told for `term`.
    pub(crate) fn new(term: Duration) -> Self {
        Self {
            last: tokio::sync::Mutex::new(None),
            term,
        }
    }

    /// What is remembered, or what `ask` says now: asked once, for however many want it.
    /// Cancellation safe: who asks and gives up leaves the memo as it was.
    pub(crate) async fn get(&self, ask: impl Future<Output = T>) -> Arc<T> {
        let mut last = self.last.lock().await;
        if let Some((at, known)) = &*last
            && at.elapsed() < self.term
        {
            return known.clone();
        }
        let told = Arc::new(ask.await);
        *last = Some((Instant::now(), told.clone()));
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_memo_asks_once_per_term_however_many_want_it() {
        let memo = Memo::new(Duration::from_secs(1));
        assert_eq!(*memo.get(async { 1 }).await, 1);
        assert_eq!(*memo.get(async { 2 }).await, 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(*memo.get(async { 3 }).await, 3);
    }

    #[test]
    fn another_content_has_another_stamp() {
        assert_eq!(stamp("a"), stamp("a"));
        assert_ne!(stamp("a"), stamp("b"));
        assert_eq!(stamp("a").len(), 16);
    }
}
