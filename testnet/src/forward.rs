//! Ways between the network and the rest of the machine, for the test itself: they pass by the
//! switch, and so nothing that is done to links reaches them.
//!
//! - *into* a host: to ask a process there over HTTP, also while it is cut off
//! - *out of* a host: a server that runs outside, such as a database, is on the network as that host

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::namespace::{Failed, failed};
use crate::network::Host;

/// Forwards TCP connections until it is dropped, which ends them.
pub struct Forward {
    address: SocketAddr,
    _running: JoinSet<()>,
}

impl Forward {
    /// Listens on this machine's loopback, and connects to `target` from within the host.
    ///
    /// # Errors
    ///
    /// That it cannot listen.
    pub async fn into_host(host: Arc<Host>, target: SocketAddr) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.map_err(failed("a loopback port"))?;
        Ok(Self::start(listener, move || {
            let socket = host.run(move || match target {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            });
            async move { socket?.connect(target).await }
        }))
    }

    /// Listens on a port of the host, at all its addresses, and connects to `target` from this
    /// machine. A peer whose machine answers nothing for 11 s is taken for gone, as servers do
    /// that are asked to find out.
    ///
    /// # Errors
    ///
    /// That it cannot listen.
    pub async fn out_of_host(host: &Host, port: u16, target: String) -> Result<Self, Failed> {
        let listener = host.run(move || {
            let listener = StdListener::bind(("::", port))?;
            listener.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(listener)
        });
        let listener = listener.and_then(TcpListener::from_std);
        let listener = listener.map_err(failed("a port of the host"))?;
        let target: Arc<str> = target.into();
        Ok(Self::start(listener, move || {
            let target = target.clone();
            async move { TcpStream::connect(&*target).await }
        }))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn start<F>(listener: TcpListener, connect: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = std::io::Result<TcpStream>> + Send + 'static,
    {
        let address = listener.local_addr().expect("it is bound");
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::<()>::new();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    Some(_) = connections.join_next() => continue,
                };
                let Ok((mut near, _)) = accepted else {
                    continue;
                };
                // A connection that is gone already ends below.
                let _ = is_missed(&near);
                let connecting = connect();
                let _: AbortHandle = connections.spawn(async move {
                    // Whoever came finds the connection closed.
                    let Ok(mut far) = connecting.await else {
                        return;
                    };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self {
            address,
            _running: running,
        }
    }
}

/// The kernel asks the other end whether it is still there.
fn is_missed(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &5)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &2)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)
}
