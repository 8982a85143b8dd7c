//! The node's sessions with the others: whom gossip finds is dialled, whom it convicts is
//! disconnected, and what travels goes through the exchange.
//!
//! Crash: what was under way is lost, and callers learn of it; the next gateway is a later life
//! to its peers, who let go of the earlier one at once.

use std::sync::Arc;
use std::time::Duration;

use regrow_cluster::exchange::Exchange;
use regrow_cluster::gossip::{GossipPort, facts};
use regrow_cluster::member::{Member, NodeName};
use regrow_cluster::routes::{self, Convictions, Reach};
use regrow_cluster::transport::dialler::Pace;
use regrow_cluster::transport::{Gateway, GatewayConfig, Transport as _, TransportConfig};
use regrow_runtime::actor::Crash;
use regrow_runtime::supervision::{ChildSpec, Shutdown};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::incarnations::Incarnations;
use crate::config::ClusterSettings;

/// How long an orderly stop waits for calls that are at work and their answers.
const GRACE: Duration = Duration::from_secs(2);
/// How often is measured what waits for other nodes.
const PERIOD: Duration = Duration::from_secs(1);

/// The child that keeps sessions.
pub(crate) fn gateway(
    name: &str,
    settings: &ClusterSettings,
    incarnations: &Incarnations,
    port: &GossipPort,
    exchange: &Exchange,
) -> ChildSpec {
    let (name, settings) = (NodeName::from(name), settings.clone());
    let (incarnations, port, exchange) = (incarnations.clone(), port.clone(), exchange.clone());
    let child = ChildSpec::task("gateway", move |stop| {
        let (name, settings) = (name.clone(), settings.clone());
        let (incarnations, port) = (incarnations.clone(), port.clone());
        let exchange = exchange.clone();
        async move {
            let member = Member::new(name, incarnations.next()?);
            let life = member.incarnation;
            let config = GatewayConfig {
                member,
                listen: settings.listen,
                secrets: settings.secret.clone().into(),
                credentials: settings.credentials.clone(),
                transport: TransportConfig::default(),
            };
            let gateway = Gateway::start(config, Arc::new(exchange.clone())).await?;
            let address = settings.advertise.unwrap_or(gateway.address());
            info!(%address, encrypted = settings.credentials.is_some(), "gateway listens");
            let reach = serde_json::to_string(&Reach { address, life })?;
            port.say(facts::GATEWAY, &reach)?;
            let ended = run(&gateway, &port, &exchange, &stop).await;
            port.unsay(facts::GATEWAY);
            // Lets go of the address, which the next one needs.
            gateway.stop(Duration::ZERO).await;
            ended
        }
    });
    child
        .role("gateway")
        .shutdown(Shutdown::Timeout(GRACE + Duration::from_secs(2)))
}

/// Keeps sessions until it is told to stop.
async fn run(
    gateway: &Gateway,
    port: &GossipPort,
    exchange: &Exchange,
    stop: &CancellationToken,
) -> Result<(), Crash> {
    let (routes, wanted) = watch::channel(Vec::new());
    let stopped = async {
        stop.cancelled().await;
        // Calls that are at work are answered, through the exchange, which goes on below.
        gateway.stop(GRACE).await;
    };
    let ended = async {
        let why = gateway.ended().await;
        if stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
        why
    };
    let dialled = async {
        let seed = gateway.member().incarnation.0;
        gateway.stay_connected(wanted, Pace::default(), seed).await;
        // The gateway has ended, which the others see.
        std::future::pending::<()>().await;
    };
    let carried = async {
        exchange.serve(Arc::new(gateway.clone())).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stopped => Ok(()),
        why = ended => Err(Crash::new(why)),
        () = carried => Ok(()),
        () = dialled => Ok(()),
        () = follow(gateway, port, exchange, &routes) => Ok(()),
        () = measure(gateway) => Ok(()),
    }
}

/// Has those dialled that gossip finds, and those disconnected that it convicts.
async fn follow(
    gateway: &Gateway,
    port: &GossipPort,
    exchange: &Exchange,
    routes: &watch::Sender<Vec<(NodeName, std::net::SocketAddr)>>,
) {
    let (mut views, mut sessions) = (port.views(), exchange.sessions());
    let mut convictions = Convictions::default();
    loop {
        let view = views.borrow_and_update().clone();
        let connected = sessions.borrow_and_update().clone();
        for member in convictions.follow(&view, &connected) {
            warn!(%member, "disconnected: gossip says that it is gone");
            gateway.disconnect(&member);
        }
        let wanted = routes::wanted(&view);
        routes.send_if_modified(|before| {
            let is_news = *before != wanted;
            *before = wanted;
            is_news
        });
        // Their senders are the port's and the exchange's, which outlive this.
        tokio::select! {
            _ = views.changed() => {}
            _ = sessions.changed() => {}
        }
    }
}

async fn measure(gateway: &Gateway) {
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        gateway.measure();
    }
}
