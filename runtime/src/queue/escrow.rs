//! What nodes on one database share: asked for where tasks wait, given back where none do.
//!
//! Stopping it loses nothing: what this node was allotted is free, or counts as used, when
//! its life ends.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Queue;
use super::allotment::{Answer, Wish};
use crate::store::StoreError;
use crate::store::postgres::Signal;

/// Longest time between two looks at what became idle, and at who stands in line.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// The same while this node has nothing that it could give back.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// Pauses after asking in vain: from the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(16);

impl Queue {
    /// Exchanges units with the pools that nodes share; never returns. On a store of one node
    /// there is nothing to do.
    pub(super) async fn share_units(&self) {
        let mut pause = PAUSE_MIN;
        let mut looked_at = None;
        let mut failing = false;
        let mut hearing = self.store().hearing(Signal::Units);
        loop {
            match self.share_once(&mut looked_at).await {
                Ok(round) => {
                    failing = false;
                    pause = if round.progress {
                        PAUSE_MIN
                    } else {
                        (pause * 2).min(PAUSE_MAX)
                    };
                    let wait = round.next(pause);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.0.wishes.notified() => {}
                        true = hearing.next() => looked_at = None,
                    }
                }
                Err(StoreError::Closed | StoreError::Superseded { .. }) => {
                    return std::future::pending().await;
                }
                Err(reason) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%reason, "units that nodes share cannot be exchanged");
                    }
                    tokio::time::sleep(LOOK_PERIOD).await;
                }
            }
        }
    }

    async fn share_once(&self, looked_at: &mut Option<Instant>) -> Result<Round, StoreError> {
        let now = Instant::now();
        if looked_at.is_none_or(|at| LOOK_PERIOD <= now.duration_since(at)) {
            *looked_at = Some(now);
            let pools = self.0.machine.lock().pools();
            let contended = if pools.is_empty() {
                BTreeSet::new()
            } else {
                self.store().contended(&pools).await?
            };
            self.0.machine.lock().look_around(&contended);
        }
        let wishes = {
            let mut machine = self.0.machine.lock();
            match self.0.writer.refusal() {
                // Nothing is decided while the store recovers.
                Some(_) => Vec::new(),
                None => machine.wishes(self.0.clock.now()),
            }
        };
        let mut round = Round::default();
        if !wishes.is_empty() {
            let exchanged = self.exchange(&wishes).await;
            let mut machine = self.0.machine.lock();
            let now = self.0.clock.now();
            match exchanged {
                Ok(answers) => {
                    let granted = |(_, answer): &(Wish, Answer)| 0 < answer.granted;
                    let waits =
                        |(wish, answer): &&(Wish, Answer)| 0 < wish.least && answer.granted == 0;
                    round.progress = answers.iter().any(granted);
                    round.waits = answers.iter().any(|one| waits(&one));
                    let opens = answers.iter().filter_map(|(_, answer)| answer.opens_in);
                    round.opens_in = opens.min();
                    machine.answered(&answers, now);
                    self.hand_over(&mut machine);
                }
                Err(reason) => {
                    machine.unanswered(&wishes, now);
                    return Err(reason);
                }
            }
        }
        let machine = self.0.machine.lock();
        round.contended = machine.is_contended();
        round.idle = machine.pools().is_empty();
        Ok(round)
    }

    async fn exchange(&self, wishes: &[Wish]) -> Result<Vec<(Wish, Answer)>, StoreError> {
        // What goes back was held by tasks whose end may not be durable yet: were it lost,
        // they would hold again what others have by then.
        if wishes.iter().any(|wish| 0 < wish.back) {
            self.settle().await?;
        }
        let answers = self.store().exchange(wishes).await?;
        let mut told = wishes.iter().zip(&answers);
        if told.any(|(wish, answer)| {
            let waits = 0 < wish.least && answer.granted == 0 && !wish.again;
            waits || (0 < wish.back && answer.contended)
        }) {
            self.store().signal(Signal::Units, &[]);
        }
        Ok(wishes.iter().cloned().zip(answers).collect())
    }
}

/// What came of one exchange.
#[derive(Debug, Default)]
struct Round {
    /// Something was granted.
    progress: bool,
    /// Something was asked for in vain.
    waits: bool,
    /// When it may be granted by the passing of time.
    opens_in: Option<Duration>,
    /// Others wait for what this node has.
    contended: bool,
    /// This node has nothing.
    idle: bool,
}

impl Round {
    /// How long nothing has to be done unless something happens.
    fn next(&self, pause: Duration) -> Duration {
        if self.waits {
            let opens_in = self.opens_in.unwrap_or(pause);
            return opens_in.clamp(Duration::from_millis(1), LOOK_PERIOD);
        }
        match (self.contended, self.idle) {
            (true, _) => LOOK_PERIOD / 4,
            (false, true) => IDLE_PERIOD,
            (false, false) => LOOK_PERIOD,
        }
    }
}
