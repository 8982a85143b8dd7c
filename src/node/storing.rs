//! What keeps the queue: the writer, the node's life, moves to a database, and time.

use std::time::Duration;

use regrow_runtime::actor::Crash;
use regrow_runtime::queue::Queue;
use regrow_runtime::supervision::{ChildSpec, Shutdown, Strategy, SupervisorSpec};

use crate::config::NodeConfig;

/// Commits what is decided; on an orderly stop, everything that is pending first.
pub(super) fn store(queue: &Queue, config: &NodeConfig, instance: String) -> SupervisorSpec {
    let written = queue.clone();
    let writer = ChildSpec::task("writer", move |stop| {
        let queue = written.clone();
        async move {
            let closed = async {
                stop.cancelled().await;
                queue.writer().close().await;
            };
            tokio::join!(queue.clone().run_writer(), closed);
            Ok::<(), Crash>(())
        }
    });
    SupervisorSpec::new("store", Strategy::OneForOne)
        .intensity(3, Duration::from_secs(30))
        .child(
            writer
                .role("writer")
                .shutdown(Shutdown::Timeout(Duration::from_secs(30))),
        )
        .child(life(queue))
        .child(promotion(queue, config, instance))
}

/// Moves the tasks from the file to a database when that is asked for.
fn promotion(queue: &Queue, config: &NodeConfig, instance: String) -> ChildSpec {
    let (queue, name, term) = (queue.clone(), config.name.clone(), config.life_term);
    let promotion = ChildSpec::task("promotion", move |stop| {
        let (queue, name, instance) = (queue.clone(), name.clone(), instance.clone());
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = queue.run_promotions(name, instance, term) => {}
            }
            Ok::<(), Crash>(())
        }
    });
    promotion.role("promotion")
}

/// Renews this node's life on a shared database, and takes over from nodes that are gone; on
/// a file it waits for a move.
fn life(queue: &Queue) -> ChildSpec {
    let queue = queue.clone();
    let life = ChildSpec::task("life", move |stop| {
        let queue = queue.clone();
        async move {
            let kept = async {
                queue.keep_life().await;
                // Another node has taken over: whoever runs this node stops it.
                stop.cancelled().await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = kept => {}
            }
            Ok::<(), Crash>(())
        }
    });
    life.role("life")
}

pub(super) fn queue(queue: &Queue) -> SupervisorSpec {
    let queue = queue.clone();
    let keeper = ChildSpec::task("keeper", move |stop| {
        let queue = queue.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = queue.keep_time() => {}
            }
            Ok::<(), Crash>(())
        }
    });
    SupervisorSpec::new("queue", Strategy::OneForOne)
        .intensity(3, Duration::from_secs(30))
        .child(keeper.role("keeper"))
}
