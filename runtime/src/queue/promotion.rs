//! Moving a running node's tasks from its file to a database, without its agents noticing.
//!
//! Most is copied while the node works on, then again what was touched meanwhile, in rounds
//! that become shorter. For the last round the writer holds still: callers wait, and nobody is
//! refused. Leases that are out stay valid; what is given afterwards has numbers of a life in
//! the database. The node's clock goes on as it was until the next start.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Queue;
use crate::store::postgres::{DatabaseUrl, Postgres, PostgresConfig};
use crate::store::promotion::copying::Copying;
use crate::store::promotion::{Copied, Handover, PromotionError};
use crate::store::writer::promotion::Tap;
use crate::store::{Changes, Store};

/// So little may be copied while callers wait.
const REST_ROWS_MAX: usize = 2_000;
/// After so many rounds it is tried with more.
const ROUNDS_MAX: u32 = 12;
const LAST_REST_ROWS_MAX: usize = 40_000;

/// Where a move stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Nobody asked for one in this life of the node.
    #[default]
    Idle,
    /// The database is looked at.
    Checking,
    /// Everything is copied once.
    Copying,
    /// What changed meanwhile is copied again.
    CatchingUp,
    /// Callers wait while the rest is copied and the file is marked.
    HandingOver,
    /// The tasks are in the database.
    Done,
    /// The tasks are in the file, as before.
    Failed,
}

impl Phase {
    /// The phase's name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::Copying => "copying",
            Self::CatchingUp => "catching_up",
            Self::HandingOver => "handing_over",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Something is going on.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        match self {
            Self::Checking | Self::Copying | Self::CatchingUp | Self::HandingOver => true,
            Self::Idle | Self::Done | Self::Failed => false,
        }
    }
}

/// How far a move is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Where the tasks go, without a password.
    pub database: Option<String>,
    /// Rows copied, of how many.
    pub copied: Copied,
    /// How often what had changed was copied again.
    pub rounds: u32,
    /// How long copying takes from here, at the speed so far.
    pub left: Option<Duration>,
    /// How long it took, or has taken so far.
    pub took: Duration,
    /// How long callers waited for the rest.
    pub waited: Option<Duration>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Changes what is told of a move.
type Tell<'a> = &'a (dyn Fn(&dyn Fn(&mut Progress)) + Sync);

/// A move that was asked for, and how far it is.
#[derive(Debug, Default)]
pub(super) struct Promotion {
    asked: Mutex<Option<DatabaseUrl>>,
    wake: Notify,
    progress: watch::Sender<Progress>,
}

impl Queue {
    /// Asks for the tasks to be moved to a database, while the node works on.
    /// [`run_promotions`](Self::run_promotions) does it.
    ///
    /// # Errors
    ///
    /// [`PromotionError::NotAFile`] or [`PromotionError::UnderWay`].
    pub fn promote_to(&self, url: DatabaseUrl) -> Result<(), PromotionError> {
        let store = self.store();
        if !matches!(store, Store::Sqlite(_)) {
            return Err(PromotionError::NotAFile(store.name()));
        }
        let promotion = &self.0.promotion;
        let began = promotion.progress.send_if_modified(|progress| {
            let free = !progress.phase.is_under_way();
            if free {
                *progress = Progress {
                    phase: Phase::Checking,
                    database: Some(url.to_string()),
                    ..Progress::default()
                };
            }
            free
        });
        if !began {
            return Err(PromotionError::UnderWay);
        }
        *promotion.asked.lock() = Some(url);
        promotion.wake.notify_one();
        Ok(())
    }

    /// How far the latest move is.
    #[must_use]
    pub fn promotion(&self) -> Progress {
        self.0.promotion.progress.borrow().clone()
    }

    /// Moves the tasks whenever that is asked for; never returns. The node is called `node` in
    /// the database, and its lives last `life_term` without renewal.
    ///
    /// Stopped before the file is marked, the tasks stay where they are; afterwards the commit
    /// loop sees to the end.
    pub async fn run_promotions(&self, node: String, instance: String, life_term: Duration) {
        let promotion = &self.0.promotion;
        if promotion.asked.lock().is_none() {
            // An earlier run was stopped or crashed.
            promotion.progress.send_if_modified(|progress| {
                let lost = progress.phase.is_under_way();
                if lost {
                    progress.phase = Phase::Failed;
                    progress.error = Some(PromotionError::Interrupted.to_string());
                }
                lost
            });
        }
        loop {
            let asked = promotion.asked.lock().take();
            let Some(url) = asked else {
                promotion.wake.notified().await;
                continue;
            };
            let target = PostgresConfig {
                url,
                node: node.clone(),
                instance: instance.clone(),
                life_term,
            };
            match self.promote(target).await {
                Ok(()) => {}
                Err(reason) => warn!(%reason, "the tasks were not moved"),
            }
        }
    }

    /// Moves the tasks from the file to a database. [`promotion`](Self::promotion) tells how
    /// far that is.
    ///
    /// # Errors
    ///
    /// [`PromotionError`]; the tasks are in the file, as before.
    ///
    /// Dropped before the file is marked, nothing was moved, and the next try removes what was
    /// copied.
    pub async fn promote(&self, to: PostgresConfig) -> Result<(), PromotionError> {
        let began = Instant::now();
        let database = to.url.to_string();
        let told = |change: &dyn Fn(&mut Progress)| {
            self.0.promotion.progress.send_modify(|progress| {
                progress.took = began.elapsed();
                change(progress);
            });
        };
        told(&|progress| {
            *progress = Progress {
                phase: Phase::Checking,
                database: Some(database.clone()),
                ..Progress::default()
            };
        });
        let moved = self.move_to(to, &told).await;
        told(&|progress| match &moved {
            Ok(()) => progress.phase = Phase::Done,
            Err(error) => {
                progress.phase = Phase::Failed;
                progress.error = Some(error.to_string());
            }
        });
        moved
    }

    async fn move_to(&self, to: PostgresConfig, told: Tell<'_>) -> Result<(), PromotionError> {
        let file = match self.store() {
            Store::Sqlite(file) => file,
            other @ (Store::Postgres(_) | Store::Volatile(_)) => {
                return Err(PromotionError::NotAFile(other.name()));
            }
        };
        // Nothing more is set aside from here on: that looks at the phase.
        let carried = self.parcels().len();
        if 0 < carried {
            return Err(PromotionError::Carried(carried));
        }
        let tap = self.writer().tap().ok_or(PromotionError::UnderWay)?;
        let target = Postgres::open(to).await?;
        let copied = async {
            let mut copying = Copying::begin(&file, &target).await?;
            match self.copy(&mut copying, &tap, told).await {
                Ok(()) => Ok(copying),
                Err(error) => {
                    copying.give_up().await;
                    Err(error)
                }
            }
        };
        let copying = match copied.await {
            Ok(copying) => copying,
            Err(error) => {
                Store::Postgres(target).close().await;
                return Err(error);
            }
        };
        told(&|progress| progress.phase = Phase::HandingOver);
        let waiting = Instant::now();
        self.hand_file_over(copying, target).await?;
        let waited = waiting.elapsed();
        info!(?waited, "callers waited for the move");
        told(&|progress| progress.waited = Some(waited));
        Ok(())
    }

    /// Copies everything once, then what was touched, until little is left.
    async fn copy(
        &self,
        copying: &mut Copying,
        tap: &Tap,
        told: Tell<'_>,
    ) -> Result<(), PromotionError> {
        // What was under way when the tap began is committed, and will be read.
        self.writer().write(Changes::default()).await?;
        let began = Instant::now();
        let tell = |copied: Copied| {
            let left = copied.of.saturating_sub(copied.rows);
            let speed = copied.rows as f64 / began.elapsed().as_secs_f64().max(0.001);
            told(&|progress| {
                progress.copied = copied;
                progress.left = Duration::try_from_secs_f64(left as f64 / speed.max(1.0)).ok();
            });
        };
        told(&|progress| progress.phase = Phase::Copying);
        copying.everything(&tell).await?;
        told(&|progress| progress.phase = Phase::CatchingUp);
        let mut rounds = 0;
        while REST_ROWS_MAX < tap.len() {
            if ROUNDS_MAX <= rounds {
                if tap.len() <= LAST_REST_ROWS_MAX {
                    break;
                }
                return Err(PromotionError::TooBusy);
            }
            rounds += 1;
            let touched = tap.take();
            // What was about to be committed is.
            self.writer().write(Changes::default()).await?;
            copying.again(touched, &tell).await?;
            told(&|progress| progress.rounds = rounds);
        }
        Ok(())
    }

    /// Lets the writer copy the rest, mark the file, and go on with the database.
    async fn hand_file_over(
        &self,
        copying: Copying,
        target: Postgres,
    ) -> Result<(), PromotionError> {
        let at = self.0.clock.now();
        let (send, own) = oneshot::channel();
        let rest = move |touched| {
            async move {
                let (mark, control) = copying.finish(touched, at).await?;
                // Who asked may have gone; the switches are then read at the next start.
                let _ = send.send(control);
                Ok(mark)
            }
            .boxed()
        };
        let queue = self.clone();
        let moved = move |boot| queue.0.machine.lock().go_on_as(boot);
        let (done, outcome) = oneshot::channel();
        self.writer().ask_to_hand_over(Handover {
            rest: Box::new(rest),
            target,
            moved: Arc::new(moved),
            done,
        });
        outcome.await.unwrap_or(Err(PromotionError::Interrupted))?;
        let Ok(Some(control)) = own.await else {
            return Ok(());
        };
        let mut machine = self.0.machine.lock();
        if *machine.control() != control {
            info!("the queue's switches and rules are those of the database from now on");
            machine.apply_control(control, self.0.clock.now());
            self.hand_over(&mut machine);
        }
        drop(machine);
        self.0.line.call_all();
        Ok(())
    }
}
