//! One look at one child.
//!
//! Bounded by the deadline on every path, so that no child can hold up a round. Whether the
//! silence is the child's own is decided here: a prober that woke up late, or a life that
//! ended meanwhile, makes it inconclusive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::remedy::Sign;
use crate::clock::{Clock, Timestamp};
use crate::mailbox::ProbeError;
use crate::supervision::{NodeState, ProbeHandle};

/// What was seen, and of whom.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) path: Arc<str>,
    pub(super) generation: u64,
    pub(super) sign: Sign,
    pub(super) sent_at: Timestamp,
}

/// Probes `child` once. Cancellation safe.
pub(super) async fn look(
    child: ProbeHandle,
    path: Arc<str>,
    deadline: Duration,
    clock: Clock,
) -> Seen {
    let (began, sent_at) = (Instant::now(), clock.now());
    let (generation, handled) = (child.generation(), child.handled());
    let answer = child.probe(deadline).await;
    let sign = match answer {
        Ok(observation) => Sign::Answered {
            observation,
            latency: began.elapsed(),
        },
        Err(error) => {
            // A full mailbox refuses at once: it has until the deadline to move.
            tokio::time::sleep_until(began + deadline).await;
            silence(&child, error, generation, handled, began, deadline)
        }
    };
    Seen {
        path,
        generation,
        sign,
        sent_at,
    }
}

fn silence(
    child: &ProbeHandle,
    error: ProbeError,
    generation: u64,
    handled: Option<u64>,
    began: Instant,
    deadline: Duration,
) -> Sign {
    let same_life = child.generation() == generation && child.state() == NodeState::Running;
    let on_time = began.elapsed() <= deadline + deadline / 2;
    if !same_life || !on_time {
        return Sign::Inconclusive;
    }
    Sign::Silent {
        error,
        moved: handled < child.handled(),
    }
}
