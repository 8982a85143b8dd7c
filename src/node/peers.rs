//! What finds the other nodes, and what is connected to them.

use std::net::SocketAddr;

use regrow_cluster::gossip::{GossipPort, facts};
use regrow_runtime::clock::Clock;
use regrow_runtime::supervision::ChildSpec;
use tokio::net::{TcpListener, UdpSocket};

use super::incarnations::Incarnations;
use super::{Node, NodeError, gateway, gossip};
use crate::config::{ClusterSettings, NodeConfig};

impl Node {
    /// Gossip and the gateway, in the order in which they start.
    pub(super) fn peers(
        &self,
        config: &NodeConfig,
        settings: &ClusterSettings,
        clock: Clock,
    ) -> Result<[ChildSpec; 2], NodeError> {
        let incarnations = Incarnations::new(&config.data_dir, clock);
        let port = GossipPort::default();
        port.say(facts::VERSION, env!("CARGO_PKG_VERSION"))?;
        if let Some(http) = self.http {
            port.say(facts::HTTP, &http.to_string())?;
        }
        let (name, queue) = (&config.name, &self.queue);
        Ok([
            gossip::gossip(name, settings, &incarnations, &port, queue, &self.placer),
            gateway::gateway(name, settings, &incarnations, &port, &self.exchange),
        ])
    }
}

/// Whether gossip and the gateway will be able to listen there: a taken port is a clear error
/// before anything runs, as with HTTP.
pub(super) async fn is_free(address: SocketAddr) -> Result<(), NodeError> {
    let failed = |source| NodeError::Cluster { address, source };
    UdpSocket::bind(address).await.map_err(failed)?;
    TcpListener::bind(address).await.map_err(failed)?;
    Ok(())
}
