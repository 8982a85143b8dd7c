//! The socket and its connections.
//!
//! Bounded: connections above the maximum wait to be accepted, slow headers are cut off.
//! Shutdown is graceful: nothing new is accepted, waiting requests are woken, the rest may
//! finish within a grace, then they are cut.
//!
//! Without TLS: other machines are served through a proxy.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use regrow_cluster::exchange::Topic;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::auth::Peer;
use crate::config::HttpConfig;
use crate::connection;
use crate::observe::CONNECTIONS;
use crate::pages;
use crate::relay::Desk;
use crate::router::surface;
use crate::state::{ApiParts, ApiState};

/// Pause after the system refused a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Period of folding samples into histograms.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// The server could not start. Nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The configuration is not sound.
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// Others would reach the node, and no token keeps them out.
    #[error(
        "http.listen is {address}{public}, where other machines reach this node, and it has no \
         token: make one with `regrow token create admin --scope admin --local`, with the same \
         configuration, or listen on a loopback address such as 127.0.0.1:7400"
    )]
    NoToken {
        /// The address.
        address: SocketAddr,
        /// What its proxy is called, in words.
        public: String,
    },
    /// The address cannot be used.
    #[error("cannot listen on {address}: {cause}; stop whoever uses it, or set http.address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
}

/// A bound socket; clients may connect already, and wait until it is served.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    config: HttpConfig,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Connections cut because they did not finish within the grace.
    pub cut: usize,
}

impl Server {
    /// Binds the configured address; `has_tokens` says whether the node's store has any.
    ///
    /// # Errors
    ///
    /// [`BindError`]
    pub async fn bind(config: HttpConfig, has_tokens: bool) -> Result<Self, BindError> {
        let problems = config.check();
        if !problems.is_empty() {
            return Err(BindError::Config(problems));
        }
        let address = config.address;
        if config.is_reachable_by_others() && !has_tokens {
            let public = config.public_url.as_ref();
            let public = public.map_or_else(String::new, |url| format!(" behind {url}"));
            return Err(BindError::NoToken { address, public });
        }
        if !address.ip().is_loopback() && !config.is_behind_tls() {
            warn!(
                %address,
                "tokens travel unencrypted here; put a proxy that speaks TLS in front, and name it by http.public_url"
            );
        }
        let failed = |cause| BindError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        info!(%address, "listening for HTTP");
        Ok(Self {
            listener,
            address,
            config,
        })
    }

    /// Where it listens, with the port that port 0 became.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves and everything in flight has ended or was cut.
    ///
    /// On shutdown requests that wait for a task get an empty answer, and streams end; the
    /// node's own phase stays as it is, since a server may be started again. Let the node
    /// enter [`Phase::Stopping`](crate::state::Phase::Stopping) earlier to stop giving leases
    /// while workers may still complete theirs.
    ///
    /// Dropping the future cuts every connection at once; what was acknowledged is durable.
    pub async fn serve(
        mut self,
        mut parts: ApiParts,
        shutdown: impl Future<Output = ()>,
    ) -> Served {
        let metrics = parts.metrics.clone();
        let (access, retention) = (parts.access.clone(), self.config.audit_retention);
        let mut keeping = JoinSet::new();
        keeping.spawn(async move { access.keep(retention).await });
        let code = parts.code.clone();
        keeping.spawn(async move { code.store().keep().await });
        let lifecycle = parts.lifecycle.of_one_server();
        parts.lifecycle = lifecycle.clone();
        let (exchange, node) = (parts.exchange.clone(), parts.node.clone());
        // With the port that port 0 became.
        self.config.address = self.address;
        let state = ApiState::new(parts, self.config.clone());
        keeping.spawn(pages::keep(state.clone()));
        let router = surface(state.clone());
        // Other nodes ask the same routes, for as long as this serves.
        let desk = Desk::new(router.clone(), node);
        let _desk = exchange.answers(Topic::Desk, Arc::new(desk));
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        let mut upkeep = tokio::time::interval(UPKEEP_PERIOD);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accept(&self.listener, &places) => {
                    if let Some((stream, peer, place)) = accepted {
                        let service = WithPeer {
                            inner: TowerToHyperService::new(router.clone()),
                            peer: Peer(peer),
                        };
                        let connection = connection::serve(
                            stream,
                            service,
                            self.config.clone(),
                            lifecycle.clone(),
                            graceful.watcher(),
                        );
                        connections.spawn(async move {
                            connection.await;
                            drop(place);
                        });
                        metrics::gauge!(CONNECTIONS).set(connections.len() as f64);
                    }
                }
                Some(_) = connections.join_next() => {
                    metrics::gauge!(CONNECTIONS).set(connections.len() as f64);
                }
                _ = upkeep.tick() => metrics.upkeep(),
            }
        }
        drop(self.listener);
        lifecycle.close();
        let finished = async {
            graceful.shutdown().await;
            while connections.join_next().await.is_some() {}
            // What operators asked for who did not wait for its end.
            state.gate.underway.ended().await;
        };
        let in_time = tokio::time::timeout(self.config.shutdown_grace, finished).await;
        let cut = if in_time.is_ok() {
            0
        } else {
            connections.len()
        };
        if 0 < cut {
            warn!(cut, grace = ?self.config.shutdown_grace, "connections cut at shutdown");
        }
        connections.shutdown().await;
        metrics::gauge!(CONNECTIONS).set(0.0);
        Served { cut }
    }
}

/// The next connection, once there is a place for it. Cancellation safe.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and written whole; waiting to merge them only delays.
            if let Err(reason) = stream.set_nodelay(true) {
                debug!(%reason, "connection keeps its delay");
            }
            Some((stream, peer, place))
        }
        Err(reason) => {
            warn!(%reason, "connection not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Tells the routes from where a connection comes.
#[derive(Clone)]
pub(crate) struct WithPeer {
    inner: TowerToHyperService<Router>,
    peer: Peer,
}

impl Service<Request<Incoming>> for WithPeer {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.inner.call(request)
    }
}
