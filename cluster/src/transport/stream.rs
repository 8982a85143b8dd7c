//! The stream under a session, between ractor_cluster and the socket.
//!
//! ractor_cluster reads without end, writes without a deadline, and leaves its writer behind
//! when a session is stopped by force. So the stream itself keeps the bounds: frames above the
//! cap end it, reading pauses while the gateway is behind, a write that makes no progress in
//! time ends it, and [`Valve::cut`] closes it whatever else goes on.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::wire::FRAME_BYTES_MAX;

/// What ractor_cluster wraps around a frame of ours, in bytes, at most.
const WRAPPING: u64 = 256;

/// The largest frame taken from a peer, in bytes.
pub(super) const MESSAGE_BYTES_MAX: u64 = FRAME_BYTES_MAX as u64 + WRAPPING;

/// The largest frame of ractor_cluster's own that is taken, in bytes: an announcement of a
/// few hundred actors, where honest peers announce one.
const CONTROL_BYTES_MAX: u64 = 4 * 1024;

/// How a frame with a message for an actor begins: field 2 of `meta.proto`, a message.
const NODE_MESSAGE: u8 = 0x12;

const READ_BUFFER_BYTES: usize = 64 * 1024;

/// What the halves of a stream and its owner share.
#[derive(Debug)]
pub(super) struct Valve {
    cut: CancellationToken,
    taken: Mutex<Taken>,
    reader: AtomicWaker,
    frames_max: usize,
    bytes_max: u64,
}

/// Frames that were read and have not reached the gateway, in order.
#[derive(Debug, Default)]
struct Taken {
    frames: VecDeque<u64>,
    bytes: u64,
}

impl Valve {
    /// Reading pauses while more than this is on its way to the gateway.
    pub(super) fn new(frames_max: usize, bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            cut: CancellationToken::new(),
            taken: Mutex::default(),
            reader: AtomicWaker::new(),
            frames_max,
            bytes_max,
        })
    }

    /// Ends the stream: reads find its end, writes fail, and both halves let go of it.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// The gateway has the next frame.
    pub(super) fn reached(&self) {
        let mut taken = self.taken.lock();
        let bytes = taken.frames.pop_front().unwrap_or(0);
        taken.bytes -= bytes;
        drop(taken);
        self.reader.wake();
    }

    fn took(&self, bytes: u64) {
        let mut taken = self.taken.lock();
        taken.frames.push_back(bytes);
        taken.bytes += bytes;
    }

    fn is_behind(&self) -> bool {
        let taken = self.taken.lock();
        self.frames_max <= taken.frames.len() || self.bytes_max <= taken.bytes
    }
}

/// A connection, with or without TLS.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Ready to be handed to ractor_cluster, under the name by which its events tell of it.
    pub(super) fn guarded(
        self,
        label: String,
        valve: Arc<Valve>,
        write_timeout: Duration,
    ) -> std::io::Result<Box<Guarded>> {
        // When this socket is closed, what it still holds for a dead peer goes at once. Answers
        // are safe: whoever stops in order waits until they are acknowledged.
        self.tcp().set_zero_linger()?;
        self.tcp().set_nodelay(true)?;
        let (reader, writer): (BoxRead, BoxWrite) = match self {
            Self::Plain(tcp) => {
                let (reader, writer) = tcp.into_split();
                (
                    Box::new(Reading::new(reader, &valve)),
                    Box::new(Writing::new(writer, valve, write_timeout)),
                )
            }
            Self::Tls(tls) => {
                let (reader, writer) = tokio::io::split(tls);
                (
                    Box::new(Reading::new(reader, &valve)),
                    Box::new(Writing::new(writer, valve, write_timeout)),
                )
            }
        };
        Ok(Box::new(Guarded {
            label,
            reader,
            writer,
        }))
    }
}

/// A stream as ractor_cluster takes it.
pub(super) struct Guarded {
    label: String,
    reader: BoxRead,
    writer: BoxWrite,
}

impl ClusterBidiStream for Guarded {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (self.reader, self.writer)
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

/// Where in the sequence of frames a reader is.
enum Place {
    /// Within the length, with this many of its bytes.
    Length([u8; 8], usize),
    /// At the first byte of a frame of this length.
    First(u64),
    /// Within a frame, with this much to come.
    Body(u64),
}

struct Reading<R> {
    inner: BufReader<R>,
    place: Place,
    valve: Arc<Valve>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<R: AsyncRead + Unpin> Reading<R> {
    fn new(inner: R, valve: &Arc<Valve>) -> Self {
        Self {
            inner: BufReader::with_capacity(READ_BUFFER_BYTES, inner),
            place: Place::Length([0; 8], 0),
            cut: Box::pin(valve.cut.clone().cancelled_owned()),
            valve: valve.clone(),
        }
    }

    /// Follows the frames through `bytes`, which end with a length or within a body.
    fn follow(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.place {
            Place::Length(length, filled) => {
                length[*filled..*filled + bytes.len()].copy_from_slice(bytes);
                *filled += bytes.len();
                if *filled == 8 {
                    let length = u64::from_be_bytes(*length);
                    self.place = match length {
                        0 => Place::Length([0; 8], 0),
                        length if length <= MESSAGE_BYTES_MAX => Place::First(length),
                        length => return Err(too_large(length)),
                    };
                }
            }
            Place::First(length) => {
                let length = *length;
                match bytes.first() {
                    Some(&NODE_MESSAGE) => self.valve.took(length),
                    _ if CONTROL_BYTES_MAX < length => return Err(too_large(length)),
                    _ => {}
                }
                self.leave(length, bytes.len());
            }
            Place::Body(rest) => {
                let rest = *rest;
                self.leave(rest, bytes.len());
            }
        }
        Ok(())
    }

    fn leave(&mut self, rest: u64, read: usize) {
        self.place = match rest - read as u64 {
            0 => Place::Length([0; 8], 0),
            rest => Place::Body(rest),
        };
    }
}

fn too_large(length: u64) -> Error {
    let text = format!("a frame of {length} bytes is above the cap");
    Error::new(ErrorKind::InvalidData, text)
}

impl<R: AsyncRead + Unpin> AsyncRead for Reading<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.valve.is_cut() {
            return Poll::Ready(Ok(()));
        }
        if matches!(this.place, Place::Length(_, 0)) && this.valve.is_behind() {
            this.valve.reader.register(cx.waker());
            // The gateway may have caught up before it could know whom to wake.
            if this.valve.is_behind() {
                return match this.cut.as_mut().poll_cut(cx) {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                };
            }
        }
        let available = match Pin::new(&mut this.inner).poll_fill_buf(cx)? {
            Poll::Ready(available) => available,
            Poll::Pending if this.cut.as_mut().poll_cut(cx) => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
        };
        let within = match this.place {
            Place::Length(_, filled) => 8 - filled,
            Place::First(rest) | Place::Body(rest) => rest as usize,
        };
        let take = available.len().min(within).min(buffer.remaining());
        buffer.put_slice(&available[..take]);
        if 0 < take {
            let start = buffer.filled().len() - take;
            this.follow(&buffer.filled()[start..])?;
        }
        Pin::new(&mut this.inner).consume(take);
        Poll::Ready(Ok(()))
    }
}

trait PollCut {
    /// Whether it is cut; if not, the task is woken when it is.
    fn poll_cut(self, cx: &mut Context<'_>) -> bool;
}

impl PollCut for Pin<&mut WaitForCancellationFutureOwned> {
    fn poll_cut(self, cx: &mut Context<'_>) -> bool {
        Future::poll(self, cx).is_ready()
    }
}

struct Writing<W> {
    inner: W,
    valve: Arc<Valve>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    timeout: Duration,
    /// Runs while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<W: AsyncWrite + Unpin> Writing<W> {
    fn new(inner: W, valve: Arc<Valve>, timeout: Duration) -> Self {
        Self {
            inner,
            cut: Box::pin(valve.cut.clone().cancelled_owned()),
            valve,
            timeout,
            stalled: None,
        }
    }

    fn guard<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: impl FnOnce(Pin<&mut W>, &mut Context<'_>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if self.valve.is_cut() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        match attempt(Pin::new(&mut self.inner), cx) {
            Poll::Ready(outcome) => {
                self.stalled = None;
                Poll::Ready(outcome)
            }
            Poll::Pending => {
                if self.cut.as_mut().poll_cut(cx) {
                    return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
                }
                let timeout = self.timeout;
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
                ready!(stalled.as_mut().poll(cx));
                self.valve.cut();
                let text = format!("nothing could be written for {timeout:?}");
                Poll::Ready(Err(Error::new(ErrorKind::TimedOut, text)))
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Writing<W> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.get_mut()
            .guard(cx, |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut().guard(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_mut()
            .guard(cx, |inner, cx| inner.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = (length as u64).to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.resize(8 + length, 0);
        bytes
    }

    async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<usize> {
        let length = reader.read_u64().await? as usize;
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await
    }

    #[tokio::test]
    async fn reading_pauses_while_the_gateway_is_behind() {
        let (mut far, near) = duplex(1024 * 1024);
        let valve = Valve::new(2, 1_000);
        let mut reader = Reading::new(near, &valve);
        for _ in 0..4 {
            far.write_all(&frame(NODE_MESSAGE, 300))
                .await
                .expect("open");
        }
        for _ in 0..2 {
            assert_eq!(read_frame(&mut reader).await.expect("whole"), 300);
        }
        let mut third = std::pin::pin!(read_frame(&mut reader));
        assert!(
            futures::poll!(third.as_mut()).is_pending(),
            "two are under way"
        );
        valve.reached();
        assert_eq!(third.await.expect("whole"), 300);
    }

    #[tokio::test]
    async fn frames_above_the_cap_end_the_stream_before_they_are_read() {
        for (kind, length) in [
            (NODE_MESSAGE, MESSAGE_BYTES_MAX as usize + 1),
            (0x1a, CONTROL_BYTES_MAX as usize + 1),
        ] {
            let (mut far, near) = duplex(1024 * 1024);
            let mut reader = Reading::new(near, &Valve::new(2, 1_000));
            far.write_all(&frame(kind, length)).await.expect("open");
            let error = read_frame(&mut reader).await.expect_err("too large");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_without_progress_ends_the_stream_in_time() {
        let (_far, near) = duplex(1_000);
        let (valve, timeout) = (Valve::new(2, 1_000), Duration::from_secs(7));
        let mut writer = Writing::new(near, valve.clone(), timeout);
        let started = tokio::time::Instant::now();
        let error = writer.write_all(&[0; 5_000]).await.expect_err("stalled");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 7);
        assert!(valve.is_cut(), "both halves let go");
    }

    #[tokio::test]
    async fn a_cut_ends_reads_and_writes_that_are_waiting() {
        let (far, near) = duplex(1_000);
        let (mut reader, mut writer) = (far, near);
        let valve = Valve::new(2, 1_000);
        let (mut guarded_reader, mut guarded_writer) = (
            Reading::new(&mut reader, &valve),
            Writing::new(&mut writer, valve.clone(), Duration::from_secs(60)),
        );
        let (block, mut byte) = ([0; 5_000], [0; 1]);
        let cutting = async {
            tokio::task::yield_now().await;
            valve.cut();
        };
        let filling = guarded_writer.write_all(&block);
        let waiting = async {
            // The peer's end is full of an unfinished frame; this end waits for more.
            while 0 < guarded_reader.read(&mut byte).await? {}
            Ok::<(), Error>(())
        };
        let (filled, waited, ()) = tokio::join!(filling, waiting, cutting);
        assert_eq!(filled.expect_err("cut").kind(), ErrorKind::BrokenPipe);
        waited.expect("the end of the stream");
    }
}
