//! The node's part in a cluster without a database: its core, carried over the gateway.
//!
//! Crash: the gate closes, the agents are stopped by the director, and the node comes back as a
//! new life.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use regrow_cluster::carrier::{Agreed, Carriage, Ended, StoreDisk};
use regrow_cluster::exchange::{Casts, Exchange, Topic};
use regrow_cluster::mail::{self, Mail};
use regrow_cluster::member::NodeName;
use regrow_cluster::placing::Placer;
use regrow_runtime::actor::Crash;
use regrow_runtime::queue::Queue;
use regrow_runtime::supervision::{ChildSpec, Shutdown};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error};

/// Messages of other nodes that may wait; what does not fit is lost, and said again.
const INBOX_MAX: usize = 1_024;

/// Sends over the gateway.
struct OverGateway(Exchange);

impl Carriage for OverGateway {
    fn cast(&self, to: &NodeName, bytes: Bytes) {
        // It is said again with the next tick, whether or not this was heard.
        if let Err(reason) = self.0.cast(to, Topic::Core, &bytes) {
            debug!(%to, %reason, "not sent");
        }
    }
}

/// The child that carries; `replaced` hears if a later life of this node is elsewhere.
pub(crate) fn carrier(
    agreed: &Agreed,
    queue: &Queue,
    exchange: &Exchange,
    placer: &Placer,
    replaced: &watch::Sender<bool>,
) -> ChildSpec {
    let (agreed, queue, placer) = (agreed.clone(), queue.clone(), placer.clone());
    let (exchange, replaced) = (exchange.clone(), replaced.clone());
    let child = ChildSpec::task("carrier", move |stop| {
        let (agreed, exchange, placer) = (agreed.clone(), exchange.clone(), placer.clone());
        let disk = Arc::new(StoreDisk::new(queue.writer().clone(), agreed.clock()));
        let replaced = replaced.clone();
        async move {
            let (inbox, incoming) = mpsc::channel(INBOX_MAX);
            let carriage = Arc::new(OverGateway(exchange.clone()));
            let casts = exchange.casts(Topic::Core, INBOX_MAX);
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok::<(), Crash>(()),
                () = pass_on(casts, inbox) => Ended::Deaf,
                ended = agreed.run(disk, carriage, incoming, placer) => ended?,
            };
            match ended {
                Ended::Replaced => {
                    error!(
                        "a later start of this node runs elsewhere; this one stops. \
                         Give one of them another name"
                    );
                    replaced.send_replace(true);
                    stop.cancelled().await;
                    Ok(())
                }
                Ended::Timeless => Err(Crash::new("this machine's clock cannot be read any more")),
                Ended::Deaf => Err(Crash::new("nothing arrives from other nodes any more")),
            }
        }
    });
    child
        .role("carrier")
        .shutdown(Shutdown::Timeout(Duration::from_secs(1)))
}

/// The child that answers for this node's mail, and takes what waits here to its agents.
pub(crate) fn courier(mail: &Mail) -> ChildSpec {
    let mail = mail.clone();
    let child = ChildSpec::task("courier", move |stop| {
        let mail = mail.clone();
        async move {
            let _answers = mail::serve(&mail);
            tokio::select! {
                () = stop.cancelled() => {}
                () = mail::courier::run(&mail) => {}
            }
            Ok::<(), Crash>(())
        }
    });
    child.role("courier")
}

/// Hands what arrives to the carrier, with the name that its session proved.
async fn pass_on(mut casts: Casts, inbox: mpsc::Sender<(NodeName, Bytes)>) {
    while let Some((from, bytes)) = casts.next().await {
        if inbox.send((from.name, bytes)).await.is_err() {
            return;
        }
    }
}
