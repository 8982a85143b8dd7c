//! One connection: HTTP/1.1, or HTTP/2 for a client that begins with its preface (RFC 9113,
//! section 3.3: prior knowledge, without TLS).
//!
//! Bounded: headers in size and time, streams in number, and the time that a connection may be
//! idle. Dropping the future cuts the connection and, of HTTP/2, every stream on it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use crate::config::HttpConfig;
use crate::server::WithPeer;
use crate::state::{Lifecycle, Phase};

/// What a client of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between two looks at a beginning that may become that.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Bytes of headers that a connection may buffer.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 64;

/// Serves the connection until either side ends it.
pub(crate) async fn serve(
    stream: TcpStream,
    service: WithPeer,
    config: HttpConfig,
    lifecycle: Lifecycle,
    watcher: Watcher,
) {
    let patience = config.header_timeout;
    let begun = tokio::select! {
        begun = tokio::time::timeout(patience, speaks_http2(&stream)) => begun,
        // Nothing was asked on it yet.
        () = lifecycle.reached(Phase::Closing) => return,
    };
    let ended = match begun {
        Ok(Ok(true)) => second(stream, service, patience, watcher).await,
        Ok(Ok(false)) => first(stream, service, patience, watcher).await,
        Ok(Err(reason)) => Err(reason.to_string()),
        Err(_elapsed) => Err(format!("nothing was asked within {patience:?}")),
    };
    if let Err(reason) = ended {
        debug!(%reason, "connection ended early");
    }
}

/// Whether what comes begins with the preface of HTTP/2. Takes nothing away.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        if let Some(known) = is_http2(&seen[..count]) {
            return Ok(known);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// `None` while it may still become either.
fn is_http2(seen: &[u8]) -> Option<bool> {
    match PREFACE.strip_prefix(seen) {
        // It ended before it said anything.
        Some(_) if seen.is_empty() => Some(false),
        Some([]) => Some(true),
        Some(_) => None,
        None => Some(false),
    }
}

async fn first(
    stream: TcpStream,
    service: WithPeer,
    patience: Duration,
    watcher: Watcher,
) -> Result<(), String> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEADER_BYTES_MAX as usize)
        .serve_connection(TokioIo::new(stream), service);
    let ended = watcher.watch(connection).await;
    ended.map_err(|reason| reason.to_string())
}

async fn second(
    stream: TcpStream,
    service: WithPeer,
    patience: Duration,
    watcher: Watcher,
) -> Result<(), String> {
    let streams = Streams::default();
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        // Whoever is gone without a word is noticed.
        .keep_alive_interval(Some(patience))
        .keep_alive_timeout(patience)
        .serve_connection(TokioIo::new(stream), service);
    let connection = watcher.watch(connection);
    tokio::select! {
        ended = connection => ended.map_err(|reason| reason.to_string()),
        () = streams.idle(patience) => Err(format!("idle for {patience:?}")),
    }
}

/// The requests of one connection; dropping all handles ends them.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl Streams {
    fn is_empty(&self) -> bool {
        let mut streams = self.0.lock();
        while streams.try_join_next().is_some() {}
        streams.is_empty()
    }

    /// Waits until there was none for so long. Cancellation safe.
    async fn idle(&self, limit: Duration) {
        let mut since = Instant::now();
        while since.elapsed() < limit {
            tokio::time::sleep(limit / 4).await;
            if !self.is_empty() {
                since = Instant::now();
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock();
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_http2_only_when_it_is_the_whole_preface() {
        assert_eq!(is_http2(PREFACE), Some(true));
        assert_eq!(is_http2(b""), Some(false));
        for count in 1..PREFACE.len() {
            assert_eq!(is_http2(&PREFACE[..count]), None, "{count}");
            let mut other = PREFACE[..count].to_vec();
            other[count - 1] ^= 1;
            assert_eq!(is_http2(&other), Some(false), "{count}");
        }
        assert_eq!(is_http2(b"POST /v1/tasks HTTP/1.1"), Some(false));
    }
}
