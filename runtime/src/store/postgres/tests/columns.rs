//! Batches of rows that say much the same, or all something else.
//!
//! `REGROW_SEED` replays a run's batches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::ids::Epoch;
use crate::queue::task::{Lane, TaskBody, TaskEnd, TaskRun, TaskTerms, TaskView};

const BATCHES: usize = 200;
/// Tasks accepted by one batch at most.
const TASKS_MAX: usize = 12;

/// How varied the rows of a batch are: one in so many says something else than the others.
struct Varied<'a, R> {
    rng: &'a mut R,
    one_in: u32,
}

impl<R: Rng> Varied<'_, R> {
    fn other(&mut self) -> bool {
        self.rng.random_ratio(1, self.one_in)
    }

    fn maybe<T>(&mut self, value: impl FnOnce(&mut R) -> T) -> Option<T> {
        let other = self.other();
        other.then(|| value(self.rng))
    }

    fn text(&mut self) -> Option<String> {
        self.maybe(|rng| ["", "a", "\0b\u{1a}", "x y"][rng.random_range(0..4)].to_owned())
    }

    fn number(&mut self) -> u32 {
        self.maybe(|rng| rng.random_range(0..4)).unwrap_or(1)
    }

    fn time(&mut self) -> Timestamp {
        Timestamp(self.maybe(|rng| rng.random_range(0..1 << 50)).unwrap_or(7))
    }

    fn body(&mut self, seq: u64, others: &[TaskId]) -> TaskBody {
        let id = TaskId::from(uuid::Uuid::now_v7());
        let name = |text: Option<String>| Arc::from(text.as_deref().unwrap_or("usual"));
        let depends_on = match others {
            [] => Vec::new(),
            [first, ..] => self.maybe(|_| vec![*first, id]).unwrap_or_default(),
        };
        TaskBody {
            id,
            seq,
            kind: name(self.text()),
            payload: Json::of(&self.number()).expect("JSON"),
            goal: self.text(),
            priority: Lane::ALL[self.number() as usize],
            class: name(self.text()),
            tenant: name(self.text()),
            idempotency_key: self.maybe(|_| format!("{seq}\0")),
            parent: self.maybe(|_| id),
            depends_on,
            max_attempts: self.number(),
            submitted_at: self.time(),
            deadline: self.maybe(|_| Timestamp(9)),
            terms: self.maybe(|_| {
                Box::new(TaskTerms {
                    expires_at: Some(Timestamp(seq)),
                    ..TaskTerms::default()
                })
            }),
        }
    }

    fn run(&mut self) -> TaskRun {
        let state = self.maybe(|_| TaskState::Waiting);
        let count = |varied: &mut Self| varied.maybe(|rng| rng.random_range(0..3)).unwrap_or(0);
        TaskRun {
            state: state.unwrap_or(TaskState::Available),
            attempt: count(self),
            losses: count(self),
            epoch: Epoch(u64::from(count(self))),
            run_at: self.time(),
            lease_until: self.maybe(|_| Timestamp(5)),
            worker: self.text().map(Into::into),
            cancel_requested: self.other(),
            last_error: self.text(),
            events: u64::from(self.number()),
            retries: count(self),
        }
    }

    fn end(&mut self) -> TaskEnd {
        let state = self.maybe(|_| TaskState::Discarded);
        TaskEnd {
            state: state.unwrap_or(TaskState::Completed),
            finished_at: self.time(),
            attempt: self.number(),
            losses: self.number(),
            epoch: Epoch(u64::from(self.number())),
            result: self.maybe(|_| Json::null()),
            error: self.text(),
            events: u64::from(self.number()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_rows_a_batch_holds_are_read_back_as_they_were() {
    let seed = std::env::var("REGROW_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().expect("a number"));
    println!("REGROW_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let schema = Schema::create().await;
    let store = Postgres::open(shared(&schema, "node"))
        .await
        .expect("sound");
    let boot = u64::from(store.next_boot().await.expect("a life"));
    let mut kept: HashMap<TaskId, TaskView> = HashMap::new();
    let mut seq = boot << 32;
    for batch in 0..BATCHES {
        let one_in = [1, 3, 10, 1_000][batch % 4];
        let accepted = rng.random_range(0..=TASKS_MAX);
        let mut varied = Varied {
            rng: &mut rng,
            one_in,
        };
        let mut changes = Changes::default();
        let before: Vec<TaskId> = kept.keys().copied().collect();
        for _ in 0..accepted {
            seq += 1;
            let body = Arc::new(varied.body(seq, &before));
            changes.bodies.push(body.clone());
            let view = TaskView {
                body,
                run: None,
                end: None,
            };
            kept.insert(view.body.id, view);
        }
        // In one order, so that the seed says it all.
        let mut live: Vec<&mut TaskView> = kept
            .values_mut()
            .filter(|view| view.end.is_none())
            .collect();
        live.sort_unstable_by_key(|view| view.body.seq);
        for view in live {
            let seq = view.body.seq;
            // Some stand so for a moment of this batch only.
            if view.run.is_none() || varied.rng.random_ratio(1, 4) {
                let run = varied.run();
                changes.runs.push((seq, run.clone()));
                view.run = Some(run);
            }
            if varied.rng.random_ratio(1, 3) {
                let end = varied.end();
                changes.ends.push((seq, end.clone()));
                (view.run, view.end) = (None, Some(end));
            }
        }
        store.commit(&changes).await.expect("committed");
        let touched = changes.runs.iter().map(|(seq, _)| seq);
        let touched: HashSet<&u64> = touched
            .chain(changes.ends.iter().map(|(seq, _)| seq))
            .collect();
        let is_last = batch + 1 == BATCHES;
        for (id, view) in &kept {
            if is_last || touched.contains(&view.body.seq) {
                let read = store.task(*id).await.expect("readable").expect("kept");
                assert_eq!(format!("{read:?}"), format!("{view:?}"), "batch {batch}");
            }
        }
    }
    let ended = kept.values().filter(|view| view.end.is_some()).count();
    assert!(BATCHES < ended && ended < kept.len(), "{ended} ended");
    store.close().await;
}
