//! One agent and its leased task: panics, kills, stops, cancels, probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use regrow_actors::agent::AgentLimits;
use regrow_actors::agent::behaviour::{Failure, Outcome};
use regrow_runtime::concurrency::Limiter;
use regrow_runtime::concurrency::estimate::LimitSettings;
use regrow_runtime::ids::Epoch;
use regrow_runtime::queue::task::{TaskEventKind, TaskState, TaskView};
use regrow_runtime::supervision::ExitReason;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::stage::{JOB, Stage, scripted};

fn limits(lease: u64, grace: u64) -> AgentLimits {
    AgentLimits {
        lease: Duration::from_secs(lease),
        grace: Duration::from_secs(grace),
    }
}

fn error_of(view: &TaskView) -> &str {
    let end = view.end.as_ref().expect("it ended");
    end.error.as_deref().unwrap_or_default()
}

fn attempt_of(view: &TaskView) -> (u32, u32) {
    let end = view.end.as_ref().expect("it ended");
    (end.attempt, end.losses)
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_the_attempt_with_its_message_and_crashes_the_agent() {
    let tries = Arc::new(AtomicU32::new(0));
    let behaviour = scripted(move |context| {
        let tries = tries.clone();
        async move {
            let attempt = context.lease().attempt;
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("the third planet is missing"),
                _ => Outcome::completed(&attempt),
            }
        }
    });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let mut exits = stage.exits("a-1");
    let id = stage.submit(JOB, &()).await;
    let reason = exits().await;
    assert_eq!(
        reason,
        ExitReason::Panic("the third planet is missing".into())
    );
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Completed);
    assert_eq!(attempt_of(&view), (2, 0));
    let events = stage.queue.events(id, 0, u32::MAX).await.expect("readable");
    let failed = events
        .iter()
        .find(|event| event.kind == TaskEventKind::Failed)
        .and_then(|event| event.detail.clone());
    assert!(
        failed.is_some_and(|why| why.contains("panicked: the third planet is missing")),
        "{events:?}"
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_agents_task_goes_on_at_once_elsewhere_without_its_finished_steps() {
    let (runs, hung) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (counted, signal) = (runs.clone(), hung.clone());
    let behaviour = scripted(move |context| {
        let (runs, hung) = (counted.clone(), signal.clone());
        async move {
            let work = async {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(context.agent().to_string())
            };
            let first: String = context.step("who", &(), work).await?;
            if context.lease().losses == 0 {
                hung.notify_one();
                std::future::pending::<()>().await;
            }
            Outcome::completed(&first)
        }
    });
    let stage = Stage::with(behaviour, 2, limits(3_600, 10)).await;
    let id = stage.submit(JOB, &()).await;
    hung.notified().await;
    let holder = stage
        .queue
        .task(id)
        .await
        .expect("readable")
        .and_then(|view| view.run)
        .and_then(|run| run.worker)
        .expect("somebody has it");
    let holder = if holder.starts_with("a-1") {
        "a-1"
    } else {
        "a-2"
    };
    let asked = Instant::now();
    stage.crew.kill_child(holder).await.expect("it runs");
    let view = stage.ended(id).await;
    let first: String = view
        .end
        .and_then(|end| end.result)
        .expect("a result")
        .decode()
        .expect("a name");
    assert_eq!(first, holder);
    assert_eq!(runs.load(Ordering::SeqCst), 1, "a finished step ran again");
    assert!(
        asked.elapsed() < Duration::from_secs(60),
        "it waited for the lease to run out"
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn work_is_stopped_when_its_lease_was_taken_over() {
    let (begun, ended) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (begin, end) = (begun.clone(), ended.clone());
    let behaviour = scripted(move |_| {
        let (begun, dropped) = (begin.clone(), SetOnDrop(end.clone()));
        async move {
            let _dropped = dropped;
            begun.notify_one();
            std::future::pending().await
        }
    });
    let stage = Stage::with(behaviour, 1, limits(30, 10)).await;
    let id = stage.submit(JOB, &()).await;
    begun.notified().await;
    // As if its node had been thought dead: the lease goes to somebody outside.
    stage.queue.pause().await.expect("stored");
    let view = stage
        .queue
        .task(id)
        .await
        .expect("readable")
        .expect("there");
    let worker = view.run.and_then(|run| run.worker).expect("held");
    assert_eq!(stage.queue.reclaim(&worker), 1);
    while !ended.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = stage.log(id).await;
    assert_eq!(log.last(), Some(&TaskEventKind::LeaseLost), "{log:?}");
    stage.strike().await;
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_willing_work_within_two_seconds() {
    let begun = Arc::new(Notify::new());
    let begin = begun.clone();
    let behaviour = scripted(move |context| {
        let begun = begin.clone();
        async move {
            begun.notify_one();
            context.cancelled().cancelled().await;
            Err(Failure::Stopped)
        }
    });
    let stage = Stage::with(behaviour, 1, limits(600, 600)).await;
    let id = stage.submit(JOB, &()).await;
    begun.notified().await;
    let asked = Instant::now();
    stage.queue.cancel(id).await.expect("it lives");
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Cancelled);
    assert!(
        asked.elapsed() <= Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_aborts_unwilling_work_when_the_grace_is_over() {
    let begun = Arc::new(Notify::new());
    let begin = begun.clone();
    let behaviour = scripted(move |_| {
        let begun = begin.clone();
        async move {
            begun.notify_one();
            std::future::pending().await
        }
    });
    let stage = Stage::with(behaviour, 1, limits(600, 5)).await;
    let id = stage.submit(JOB, &()).await;
    begun.notified().await;
    let asked = Instant::now();
    stage.queue.cancel(id).await.expect("it lives");
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Cancelled);
    let took = asked.elapsed();
    let grace = Duration::from_secs(5);
    assert!(grace <= took && took <= 2 * grace, "{took:?}");
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn work_that_says_stopped_without_being_asked_has_failed() {
    let behaviour = scripted(|_| async { Err(Failure::Stopped) });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let id = stage.submit(JOB, &()).await;
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Discarded);
    assert_eq!(error_of(&view), "stopped before it was done");
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_within_the_grace_lets_work_complete() {
    let begun = Arc::new(Notify::new());
    let begin = begun.clone();
    let behaviour = scripted(move |_| {
        let begun = begin.clone();
        async move {
            begun.notify_one();
            tokio::time::sleep(Duration::from_secs(9)).await;
            Outcome::completed("in time")
        }
    });
    let stage = Stage::with(behaviour, 1, limits(30, 10)).await;
    let id = stage.submit(JOB, &()).await;
    begun.notified().await;
    stage.crew.terminate_child("a-1").await.expect("it runs");
    let view = stage
        .queue
        .task(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(view.state(), TaskState::Completed);
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_beyond_the_grace_hands_work_back_without_counting_the_attempt() {
    for willing in [false, true] {
        let begun = Arc::new(Notify::new());
        let begin = begun.clone();
        let behaviour = scripted(move |context| {
            let begun = begin.clone();
            async move {
                begun.notify_one();
                if willing {
                    context.cancelled().cancelled().await;
                    return Err(Failure::Stopped);
                }
                std::future::pending().await
            }
        });
        let stage = Stage::with(behaviour, 1, limits(30, 10)).await;
        let id = stage.submit(JOB, &()).await;
        begun.notified().await;
        stage.crew.terminate_child("a-1").await.expect("it runs");
        let view = stage
            .queue
            .task(id)
            .await
            .expect("readable")
            .expect("there");
        let run = view.run.expect("it lives");
        assert_eq!(
            (run.state, run.attempt, run.losses),
            (TaskState::Available, 0, 0),
            "willing: {willing}"
        );
        stage.strike().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_agent_finishes_what_it_has_and_takes_nothing_more() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, go) = (begun.clone(), go_on.clone());
    let behaviour = scripted(move |_| {
        let (begun, go_on) = (begin.clone(), go.clone());
        async move {
            begun.notify_one();
            go_on.notified().await;
            Outcome::completed(&())
        }
    });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let mut exits = stage.exits("a-1");
    let first = stage.submit(JOB, &1).await;
    begun.notified().await;
    let second = stage.submit(JOB, &2).await;
    stage.draining.cancel();
    go_on.notify_one();
    assert_eq!(stage.ended(first).await.state(), TaskState::Completed);
    // Long enough for a claim, if there were one.
    tokio::time::sleep(Duration::from_secs(120)).await;
    let view = stage
        .queue
        .task(second)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(view.state(), TaskState::Available);
    stage.crew.terminate_child("a-1").await.expect("it runs");
    assert!(
        matches!(exits().await, ExitReason::Shutdown(_)),
        "draining is no reason to crash"
    );
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_while_work_blocks_or_computes() {
    let release = Arc::new(AtomicBool::new(false));
    let released = release.clone();
    let begun = Arc::new(Notify::new());
    let begin = begun.clone();
    let behaviour = scripted(move |context| {
        let (released, begun) = (released.clone(), begin.clone());
        async move {
            let blocks: bool = context.payload()?;
            let busy = move || {
                begun.notify_one();
                while !released.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            if blocks {
                context
                    .blocking(move || {
                        busy();
                        Ok(())
                    })
                    .await?;
            } else {
                busy();
            }
            Outcome::completed(&())
        }
    });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let agent = stage.agents.values().next().expect("one agent").clone();
    for blocks in [true, false] {
        release.store(false, Ordering::Relaxed);
        let id = stage.submit(JOB, &blocks).await;
        begun.notified().await;
        let seen = agent
            .probe(Duration::from_secs(5))
            .await
            .expect("an answer");
        assert_eq!(seen.in_flight, 1);
        assert_eq!(seen.detail, Some(format!("{JOB} {id}")));
        release.store(true, Ordering::Relaxed);
        stage.ended(id).await;
    }
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_agents_work_at_once_than_what_they_share_can_bear() {
    const CAPACITY: usize = 4;
    let shared = Arc::new(Semaphore::new(CAPACITY));
    let behaviour = scripted(move |_| {
        let shared = shared.clone();
        async move {
            let _place = shared.acquire().await.map_err(Failure::permanent)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            Outcome::completed(&())
        }
    });
    let settings = LimitSettings {
        window: Duration::from_millis(100),
        ..LimitSettings::new(1, 64, 2)
    };
    let limiter = Limiter::new("test", settings);
    let agents = AgentLimits::default();
    let stage = Stage::limited(behaviour, 64, agents, Some(limiter.clone())).await;
    let mut tasks = Vec::new();
    for _ in 0..6_000 {
        tasks.push(stage.submit(JOB, &()).await);
    }
    for id in tasks {
        assert_eq!(stage.ended(id).await.state(), TaskState::Completed);
    }
    let report = limiter.report();
    assert!(
        (CAPACITY..=3 * CAPACITY).contains(&report.limit),
        "{report:?}"
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_not_act_begins_no_step_and_no_task() {
    let open = Arc::new(AtomicBool::new(true));
    let steps = Arc::new(AtomicU32::new(0));
    let (gate, made) = (open.clone(), steps.clone());
    let behaviour = scripted(move |context| {
        let (gate, made) = (gate.clone(), made.clone());
        async move {
            for step in 0..3 {
                let work = async {
                    let before = made.fetch_add(1, Ordering::SeqCst);
                    // The right to act runs out while the second step is under way.
                    gate.store(before != 1, Ordering::SeqCst);
                    Ok(step)
                };
                let _: u32 = context.step(&format!("step {step}"), &step, work).await?;
            }
            Outcome::completed(&())
        }
    });
    let asked = open.clone();
    let may_act = Arc::new(move || asked.load(Ordering::SeqCst).then_some(Epoch(1)));
    let limits = AgentLimits::default();
    let stage = Stage::gated(behaviour, 1, limits, None, Some(may_act)).await;
    let id = stage.submit(JOB, &()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(steps.load(Ordering::SeqCst), 2, "a step was begun");
    let view = stage.queue.task(id).await.expect("readable").expect("kept");
    assert_eq!(view.state(), TaskState::Available, "it was handed back");
    open.store(true, Ordering::SeqCst);
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Completed);
    assert_eq!(
        attempt_of(&view),
        (1, 0),
        "what was handed back counts as nothing"
    );
    assert_eq!(steps.load(Ordering::SeqCst), 3, "a step was made again");
}
