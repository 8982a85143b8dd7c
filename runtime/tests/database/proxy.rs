//! A TCP proxy before the server that cuts connections around a commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Where in a commit the connection is cut. The client always loses it without an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// The server never sees the commit.
    Before,
    /// The server commits.
    After,
    /// The server sees the commit a while after the client lost the connection.
    Late,
}

const NONE: u8 = u8::MAX;

struct Shared {
    armed: AtomicU8,
    counts: [AtomicU64; 3],
    cut: Notify,
    blocked: AtomicBool,
    blocking: Notify,
}

/// Cuts what it is told to; everything else it forwards.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    url: String,
    _running: JoinSet<()>,
}

impl Proxy {
    /// A proxy before the server at `url`, which has to be reached by TCP.
    pub(crate) async fn start(url: &str) -> Self {
        let (before, rest) = url.rsplit_once('@').expect("USER@HOST in the address");
        let (server, database) = rest.split_once('/').expect("a database in the address");
        let server = match server.contains(':') {
            true => server.to_owned(),
            false => format!("{server}:5432"),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            armed: AtomicU8::new(NONE),
            counts: Default::default(),
            cut: Notify::new(),
            blocked: AtomicBool::new(false),
            blocking: Notify::new(),
        });
        let mut running = JoinSet::new();
        let accepting = shared.clone();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("open");
                let (shared, server) = (accepting.clone(), server.clone());
                connections.spawn(async move {
                    if shared.blocked.load(Ordering::SeqCst) {
                        return;
                    }
                    // A server that is away is an answer, too.
                    if let Ok(server) = TcpStream::connect(server).await {
                        forward(&shared, client, server).await;
                    }
                });
            }
        });
        Self {
            shared,
            url: format!("{before}@{address}/{database}"),
            _running: running,
        }
    }

    /// The server's address through this proxy.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Returns when a commit was cut.
    pub(crate) async fn cut_next_commit(&self, cut: Cut) {
        let mut done = std::pin::pin!(self.shared.cut.notified());
        done.as_mut().enable();
        self.shared.armed.store(cut as u8, Ordering::SeqCst);
        done.await;
    }

    /// Cuts everything, and lets nothing through.
    pub(crate) fn block(&self) {
        self.shared.blocked.store(true, Ordering::SeqCst);
        self.shared.blocking.notify_waiters();
    }

    /// Lets everything through again.
    pub(crate) fn unblock(&self) {
        self.shared.blocked.store(false, Ordering::SeqCst);
    }

    /// Commits cut before, after and late.
    pub(crate) fn counts(&self) -> [u64; 3] {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        [0, 1, 2].map(|kind| read(&self.shared.counts[kind]))
    }
}

async fn forward(shared: &Shared, client: TcpStream, server: TcpStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match from_client.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => count,
            };
            let bytes = &buffer[..count];
            // A simple query of its own, so it comes in one piece.
            let commits = bytes.starts_with(b"Q") && bytes.ends_with(b"COMMIT\0");
            if commits {
                let cut = shared.armed.swap(NONE, Ordering::SeqCst);
                if cut != NONE {
                    return Some((cut, bytes.to_vec()));
                }
            }
            if to_server.write_all(bytes).await.is_err() {
                return None;
            }
        }
    };
    let down = tokio::io::copy(&mut from_server, &mut to_client);
    let cut = tokio::select! {
        cut = up => cut,
        _ = down => None,
        () = shared.blocking.notified() => None,
    };
    let Some((kind, commit)) = cut else { return };
    shared.counts[usize::from(kind)].fetch_add(1, Ordering::SeqCst);
    let patience = Duration::from_millis(300);
    if kind == Cut::After as u8 {
        // The node may be gone; the commit's fate is what matters.
        let _ = to_server.write_all(&commit).await;
        let mut answer = [0; 64];
        let _ = tokio::time::timeout(patience, from_server.read(&mut answer)).await;
    }
    drop((from_client, to_client));
    shared.cut.notify_waiters();
    if kind == Cut::Late as u8 {
        tokio::time::sleep(patience).await;
        let _ = to_server.write_all(&commit).await;
        let mut answer = [0; 64];
        let _ = tokio::time::timeout(patience, from_server.read(&mut answer)).await;
    }
}
