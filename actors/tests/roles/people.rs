//! Agents that wait for people: questions and budgets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use regrow_actors::agent::AgentLimits;
use regrow_actors::agent::behaviour::Outcome;
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval::{Answer, ApprovalId, Question};
use regrow_runtime::queue::budget::{Amounts, Cost, Limits};
use regrow_runtime::queue::task::{NewTask, TaskState, TaskTerms};

use crate::stage::{JOB, Stage, scripted};

/// Waits until the task waits for a person; answers with the question's id.
async fn asked(stage: &Stage, id: TaskId) -> ApprovalId {
    let mut events = stage.queue.events_bus().subscribe();
    loop {
        let view = stage.queue.task(id).await.expect("readable").expect("kept");
        if view.state() == TaskState::AwaitingApproval
            && let Some(holdup) = stage.queue.holdup(id)
        {
            return holdup.approval;
        }
        events.next().await.expect("the bus lives");
    }
}

fn yes() -> Answer {
    Answer {
        approved: true,
        by: "ada".to_owned(),
        ..Answer::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_asks_a_person_and_goes_on_with_the_answer_and_its_steps() {
    let drafts = Arc::new(AtomicU32::new(0));
    let counted = drafts.clone();
    let behaviour = scripted(move |context| {
        let drafts = counted.clone();
        async move {
            let work = async { Ok(drafts.fetch_add(1, Ordering::SeqCst)) };
            context.step("draft", &(), work).await?;
            let question = Question {
                question: "publish the draft?".to_owned(),
                scope: None,
                options: Vec::new(),
            };
            let decision = context.ask("publish", question, None).await?;
            Outcome::completed(&decision.approved)
        }
    });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let id = stage.submit(JOB, &()).await;
    let question = asked(&stage, id).await;
    stage.queue.answer(question, yes()).await.expect("open");
    let view = stage.ended(id).await;
    let end = view.end.expect("it ended");
    assert_eq!(
        end.result.map(|json| json.as_str().to_owned()).as_deref(),
        Some("true")
    );
    assert_eq!((end.attempt, end.losses), (1, 0), "waiting is no failure");
    assert_eq!(
        drafts.load(Ordering::SeqCst),
        1,
        "a finished step is not run again"
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_over_its_budget_waits_before_the_call_is_made() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let behaviour = scripted(move |context| {
        let calls = counted.clone();
        async move {
            let mut total = 0;
            for turn in 0..3 {
                let calls = calls.clone();
                let key = format!("call {turn}");
                let estimate = Amounts {
                    calls: 1,
                    ..Amounts::ZERO
                };
                let step = context.priced_step(&key, &turn, estimate, |meter| async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    meter.add(Cost {
                        calls: 1,
                        ..Cost::default()
                    });
                    Ok(1_u32)
                });
                total += step.await?;
            }
            Outcome::completed(&total)
        }
    });
    let stage = Stage::with(behaviour, 1, AgentLimits::default()).await;
    let task = NewTask {
        terms: Some(Box::new(TaskTerms {
            budget: Some(Limits {
                calls: Some(2),
                ..Limits::default()
            }),
            ..TaskTerms::default()
        })),
        ..NewTask::new(JOB, Json::null())
    };
    let id = stage.queue.submit(task).await.expect("accepted").id;
    let question = asked(&stage, id).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the third was not begun");
    stage.queue.answer(question, yes()).await.expect("open");
    let view = stage.ended(id).await;
    assert_eq!(view.state(), TaskState::Completed);
    assert_eq!(calls.load(Ordering::SeqCst), 3, "each was paid for once");
    stage.strike().await;
}
