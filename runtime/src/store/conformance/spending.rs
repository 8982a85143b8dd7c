//! Budgets, questions and failing families, over kills and on every store.

use std::time::Duration;

use futures::future::join_all;

use super::{LEASE, SOON, Subject, conforms, json, task};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::journal::remote::{OfferedStep, Recorded};
use crate::journal::{Journal, StepError};
use crate::queue::approval::{
    Answer, ApprovalError, ApprovalFilter, ApprovalState, Question, Reason,
};
use crate::queue::asking::Asking;
use crate::queue::budget::{Amounts, Cost, Limits, Period, Scope};
use crate::queue::error::{BudgetError, LeaseError};
use crate::queue::task::{NewChild, NewTask, OnChildFailure, TaskState, TaskTerms};
use crate::store::{Changes, Store};

conforms! {
    a_priced_step_is_paid_for_once_whatever_is_killed,
    a_step_that_fails_or_is_abandoned_is_charged_for_what_may_have_happened,
    many_at_once_never_overspend,
    an_operators_budget_survives_with_its_period,
    a_question_survives_and_is_answered_once,
    a_budget_question_wakes_the_task_when_answered,
    a_parent_that_fails_with_its_child_has_ended_after_a_kill,
    children_and_the_step_they_came_from_are_inserted_together,
    budgets_and_questions_go_with_their_task,
    a_budget_stays_as_long_as_anything_below_it_lives,
}

fn tokens(tokens: u64) -> Amounts {
    Amounts {
        tokens,
        ..Amounts::ZERO
    }
}

fn with(terms: TaskTerms) -> NewTask {
    NewTask {
        terms: Some(Box::new(terms)),
        ..task()
    }
}

fn budgeted(limit: u64) -> NewTask {
    with(TaskTerms {
        budget: Some(Limits {
            tokens: Some(limit),
            ..Limits::default()
        }),
        ..TaskTerms::default()
    })
}

fn answer(approved: bool) -> Answer {
    Answer {
        approved,
        by: "ada".to_owned(),
        ..Answer::default()
    }
}

fn question(text: &str) -> Question {
    Question {
        question: text.to_owned(),
        scope: Some("deploy".to_owned()),
        options: Vec::new(),
    }
}

/// Work that costs `cost` tokens.
async fn priced(
    journal: &Journal,
    key: &str,
    estimate: u64,
    cost: u64,
) -> Result<u64, StepError<std::io::Error>> {
    let work = |meter: crate::journal::meter::Meter| async move {
        meter.add(Cost::from(tokens(cost)));
        Ok(cost)
    };
    journal.priced_step(key, "in", tokens(estimate), work).await
}

async fn spent(subject: &Subject, scope: &Scope) -> (u64, u64) {
    let view = subject.queue.budget(scope).await.expect("a budget");
    (view.spent.tokens, view.reserved.tokens)
}

async fn a_priced_step_is_paid_for_once_whatever_is_killed(subject: Subject) {
    let id = subject.submit(budgeted(100)).await;
    let scope = Scope::Task(id);
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    assert_eq!(priced(&journal, "a", 60, 30).await.expect("room"), 30);
    assert_eq!(priced(&journal, "a", 60, 31).await.expect("replayed"), 30);
    let subject = subject.kill().await;
    assert_eq!(spent(&subject, &scope).await, (30, 0));
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    assert_eq!(
        priced(&journal, "a", 1_000, 99).await.expect("replayed"),
        30
    );
    let over = priced(&journal, "b", 71, 1).await;
    assert!(
        matches!(over, Err(StepError::OverBudget { .. })),
        "{over:?}"
    );
    assert_eq!(priced(&journal, "b", 70, 70).await.expect("room"), 70);
    let epoch = lease.epoch;
    let done = subject.queue.complete(id, epoch, json("1")).await;
    done.expect("held");
    let subject = subject.kill().await;
    assert_eq!(spent(&subject, &scope).await, (100, 0), "also afterwards");
}

async fn a_step_that_fails_or_is_abandoned_is_charged_for_what_may_have_happened(subject: Subject) {
    let id = subject.submit(budgeted(100)).await;
    let scope = Scope::Task(id);
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    let failing = |meter: crate::journal::meter::Meter| async move {
        meter.add(Cost::from(tokens(7)));
        Err::<u64, _>(std::io::Error::other("no"))
    };
    let failed = journal.priced_step("a", "in", tokens(50), failing).await;
    assert!(matches!(failed, Err(StepError::Work { .. })));
    assert_eq!(
        spent(&subject, &scope).await,
        (7, 0),
        "the rest is given back"
    );
    // Nobody knows how far this one got.
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let endless = |_| async move {
        begun.send(()).expect("awaited");
        std::future::pending::<Result<u64, std::io::Error>>().await
    };
    tokio::select! {
        _ = journal.priced_step("b", "in", tokens(20), endless) => panic!("it is endless"),
        _ = has_begun => {}
    }
    assert_eq!(spent(&subject, &scope).await, (7, 20));
    let again = priced(&journal, "b", 20, 5).await;
    assert_eq!(again.expect("room"), 5);
    assert_eq!(spent(&subject, &scope).await, (32, 0));
    subject
        .queue
        .reserve(id, lease.epoch, "c", tokens(40), false)
        .await
        .expect("room");
    let subject = subject.kill().await;
    assert_eq!(
        spent(&subject, &scope).await,
        (72, 0),
        "charged, not forgotten"
    );
    let stale = subject
        .queue
        .reserve(id, lease.epoch, "d", tokens(1), false)
        .await;
    assert!(matches!(stale, Err(LeaseError::Stale { .. })));
}

async fn many_at_once_never_overspend(subject: Subject) {
    let limits = Limits {
        tokens: Some(100),
        ..Limits::default()
    };
    let set = subject.queue.set_budget(Scope::Node, limits, None).await;
    set.expect("may be set");
    let mut journals = Vec::new();
    for _ in 0..64 {
        subject.submit(task()).await;
        let lease = subject.claim("w", LEASE).await;
        journals.push(Journal::new(subject.queue.clone(), &lease));
    }
    let paid = join_all(journals.iter().map(|journal| priced(journal, "a", 3, 3))).await;
    let bought = paid.iter().filter(|one| one.is_ok()).count();
    assert_eq!(bought, 33, "as many as fit");
    let subject = subject.kill().await;
    assert_eq!(spent(&subject, &Scope::Node).await, (99, 0));
}

async fn an_operators_budget_survives_with_its_period(subject: Subject) {
    let acme = Scope::Tenant("acme".into());
    let limits = Limits {
        micros: Some(1_500_000),
        ..Limits::default()
    };
    let set = subject
        .queue
        .set_budget(acme.clone(), limits, Some(Period::Month));
    set.await.expect("may be set");
    let subject = subject.kill().await;
    let view = subject.queue.budget(&acme).await.expect("kept");
    assert_eq!((view.limits, view.period), (limits, Some(Period::Month)));
    assert_eq!(subject.queue.budgets().await.expect("readable").len(), 1);
    let nobody = Scope::Task(TaskId::fresh());
    let unknown = subject.queue.set_budget(nobody, limits, None).await;
    assert!(matches!(unknown, Err(BudgetError::Unknown(_))));
}

async fn a_question_survives_and_is_answered_once(subject: Subject) {
    let id = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let (ask, epoch) = (question("deploy?"), lease.epoch);
    let asked = subject.queue.ask(id, epoch, "q", ask.clone(), None).await;
    let Ok(Asking::Waits { approval, token }) = asked else {
        panic!("{asked:?}");
    };
    assert_eq!(subject.state(id).await, TaskState::AwaitingApproval);
    let subject = subject.kill().await;
    assert!(subject.is_idle());
    let open = ApprovalFilter {
        state: Some(ApprovalState::Open),
        task: Some(id),
        limit: 9,
        ..ApprovalFilter::default()
    };
    let listed = subject.queue.approvals(&open).await.expect("readable");
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].id, &listed[0].request.question),
        (approval, &ask)
    );
    assert!(
        listed[0]
            .token_hash
            .as_ref()
            .is_some_and(|hash| *hash != token)
    );
    let guessed = Answer {
        token: Some("guessed".to_owned()),
        ..answer(true)
    };
    let guessed = subject.queue.answer(approval, guessed).await;
    assert!(matches!(guessed, Err(ApprovalError::WrongToken(_))));
    let known = Answer {
        token: Some(token),
        ..answer(true)
    };
    let answers = join_all((0..4).map(|_| subject.queue.answer(approval, known.clone()))).await;
    assert_eq!(answers.iter().filter(|one| one.is_ok()).count(), 1, "once");
    let subject = subject.kill().await;
    let late = subject.queue.answer(approval, answer(false)).await;
    assert!(
        matches!(late, Err(ApprovalError::Closed { .. })),
        "{late:?}"
    );
    let lease = subject.claim("w", LEASE).await;
    assert!(subject.is_idle(), "woken once");
    let journal = Journal::new(subject.queue.clone(), &lease);
    let decision = journal.decision("q", &ask).await.expect("readable");
    let decision = decision.expect("answered");
    assert_eq!((decision.approved, decision.by.as_str()), (true, "ada"));
    let again = subject.queue.ask(id, lease.epoch, "q", ask, None).await;
    assert!(matches!(again, Ok(Asking::Decided(_))), "{again:?}");
    let gone = question("another?");
    assert!(
        subject
            .queue
            .ask(id, lease.epoch, "q", gone, None)
            .await
            .is_err()
    );
    let short = Some(Duration::from_millis(5));
    let asked = subject
        .queue
        .ask(id, lease.epoch, "r", question("quick?"), short);
    assert!(matches!(asked.await, Ok(Asking::Waits { .. })));
    let lease = subject.claim("w", SOON).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    let decision = journal.decision("r", &question("quick?")).await;
    assert!(!decision.expect("readable").expect("expired").approved);
}

async fn a_budget_question_wakes_the_task_when_answered(subject: Subject) {
    let id = subject.submit(budgeted(10)).await;
    let lease = subject.claim("w", LEASE).await;
    let waits = subject
        .queue
        .wait_for_budget(id, lease.epoch, "a", tokens(25))
        .await;
    let approval = waits.expect("held").expect("it waits");
    let subject = subject.kill().await;
    let holdup = subject.queue.holdup(id).expect("it waits");
    let Reason::Budget { shortfall } = holdup.request.reason else {
        panic!("{holdup:?}");
    };
    assert_eq!(shortfall.short[0].missing, 15);
    subject
        .queue
        .answer(approval, answer(true))
        .await
        .expect("open");
    let subject = subject.kill().await;
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    assert_eq!(priced(&journal, "a", 25, 25).await.expect("granted"), 25);
    assert_eq!(spent(&subject, &Scope::Task(id)).await, (25, 0));
}

fn child() -> NewChild {
    NewChild {
        task: NewTask {
            max_attempts: Some(1),
            ..task()
        },
        after: vec![],
    }
}

async fn a_parent_that_fails_with_its_child_has_ended_after_a_kill(subject: Subject) {
    let parent = with(TaskTerms {
        on_child_failure: OnChildFailure {
            retries: 1,
            fail: true,
        },
        ..TaskTerms::default()
    });
    let parent = subject.submit(parent).await;
    let lease = subject.claim("w", LEASE).await;
    let follower = NewChild {
        after: vec![0],
        ..child()
    };
    let family = vec![child(), follower];
    let waits = subject.queue.suspend(parent, lease.epoch, family).await;
    waits.expect("held");
    let mut subject = subject;
    let first = subject.claim("w", LEASE).await;
    let id = first.task.id;
    let failed = subject
        .queue
        .fail(id, first.epoch, "no".into(), false)
        .await;
    assert_eq!(failed.expect("held"), TaskState::Retryable, "once more");
    subject = subject.kill().await;
    let again = subject.claim("w", LEASE).await;
    assert_eq!(again.task.id, id, "what depends on it waits meanwhile");
    let failed = subject
        .queue
        .fail(id, again.epoch, "no".into(), false)
        .await;
    assert_eq!(failed.expect("held"), TaskState::Discarded);
    subject = subject.kill().await;
    assert_eq!(subject.state(parent).await, TaskState::Discarded);
    assert_eq!(subject.queue.retry_part(parent).await.expect("failed"), 3);
    subject = subject.kill().await;
    assert_eq!(subject.state(parent).await, TaskState::Waiting);
    for _ in 0..2 {
        let lease = subject.claim("w", LEASE).await;
        assert_eq!(lease.task.parent, Some(parent));
        let done = subject
            .queue
            .complete(lease.task.id, lease.epoch, json("1"));
        done.await.expect("held");
    }
    assert_eq!(subject.claim("w", LEASE).await.task.id, parent);
}

async fn children_and_the_step_they_came_from_are_inserted_together(subject: Subject) {
    let parent = subject.submit(task()).await;
    let lease = subject.claim("w", LEASE).await;
    let plan = || OfferedStep {
        key: "plan".to_owned(),
        input: json("1"),
        output: json("[2]"),
        cost: None,
        started_at: None,
    };
    let refused = NewChild {
        after: vec![7],
        ..child()
    };
    let wrong = subject
        .queue
        .suspend_after(parent, lease.epoch, vec![refused], plan());
    assert!(wrong.await.is_err());
    let step = subject.queue.step_of(parent, "plan").await;
    assert!(step.expect("readable").is_none(), "all of it or nothing");
    let family = vec![child()];
    let waits = subject
        .queue
        .suspend_after(parent, lease.epoch, family.clone(), plan());
    assert!(matches!(waits.await, Ok(Recorded::Now)));
    let subject = subject.kill().await;
    assert_eq!(subject.state(parent).await, TaskState::Waiting);
    let lease = subject.claim("w", LEASE).await;
    let done = subject
        .queue
        .complete(lease.task.id, lease.epoch, json("1"));
    done.await.expect("held");
    let lease = subject.claim("w", LEASE).await;
    let again = subject
        .queue
        .suspend_after(parent, lease.epoch, family, plan());
    assert!(matches!(again.await, Ok(Recorded::Before(_))), "not twice");
    let done = subject.queue.complete(parent, lease.epoch, json("1")).await;
    done.expect("the lease still holds");
}

async fn budgets_and_questions_go_with_their_task(subject: Subject) {
    let id = subject.submit(budgeted(10)).await;
    let lease = subject.claim("w", LEASE).await;
    let asked = subject
        .queue
        .ask(id, lease.epoch, "q", question("really?"), None)
        .await;
    let Ok(Asking::Waits { approval, .. }) = asked else {
        panic!("{asked:?}");
    };
    subject.queue.cancel(id).await.expect("live");
    let late = subject.queue.answer(approval, answer(true)).await;
    let Err(ApprovalError::Closed { state, .. }) = late else {
        panic!("{late:?}");
    };
    assert_eq!(state, ApprovalState::Withdrawn);
    subject.submit(task()).await;
    let changes = Changes {
        prune_before: Some(Timestamp(u64::MAX >> 1)),
        ..Changes::default()
    };
    let written = subject.queue.writer().write(changes).await;
    written.expect("written");
    let subject = subject.kill().await;
    assert!(subject.queue.budget(&Scope::Task(id)).await.is_err());
    let row = subject.queue.approval(approval).await.expect("readable");
    assert!(row.is_none());
}

/// A task leased, and waiting for one child from then on.
async fn with_child(subject: &Subject) -> TaskId {
    let lease = subject.claim("w", LEASE).await;
    let child = NewChild {
        task: NewTask {
            max_attempts: Some(1),
            ..task()
        },
        after: Vec::new(),
    };
    let (id, epoch) = (lease.task.id, lease.epoch);
    let waits = subject.queue.suspend(id, epoch, vec![child]).await;
    waits.expect("held");
    id
}

async fn forget_all_that_is_old(subject: &Subject) {
    // One generation goes at a time.
    for _ in 0..4 {
        let changes = Changes {
            prune_before: Some(Timestamp(u64::MAX >> 1)),
            ..Changes::default()
        };
        let written = subject.queue.writer().write(changes).await;
        written.expect("written");
    }
}

async fn a_budget_stays_as_long_as_anything_below_it_lives(subject: Subject) {
    subject.submit(budgeted(50)).await;
    let root = with_child(&subject).await;
    let middle = with_child(&subject).await;
    let last = subject.claim("w", LEASE).await;
    let failed = subject
        .queue
        .fail(last.task.id, last.epoch, "broke".to_owned(), false);
    assert_eq!(failed.await.expect("held"), TaskState::Discarded);
    for id in [middle, root] {
        let lease = subject.claim("w", LEASE).await;
        assert_eq!(lease.task.id, id);
        let done = subject.queue.complete(id, lease.epoch, json("1")).await;
        done.expect("held");
    }
    let again = subject.queue.retry(last.task.id).await;
    again.expect("its budget is there");
    // The newest task is always kept.
    subject.submit(task()).await;
    forget_all_that_is_old(&subject).await;
    let subject = subject.kill().await;
    let lease = subject.claim("w", LEASE).await;
    assert_eq!(lease.task.id, last.task.id);
    let (id, epoch) = (lease.task.id, lease.epoch);
    let reserved = subject.queue.reserve(id, epoch, "s", tokens(30), false);
    reserved.await.expect("room");
    let over = subject.queue.reserve(id, epoch, "t", tokens(21), false);
    let Err(LeaseError::OverBudget(shortfall)) = over.await else {
        panic!("the budget was forgotten");
    };
    assert_eq!(shortfall.short[0].scope, Scope::Task(root));
    let done = subject.queue.complete(id, epoch, json("1")).await;
    done.expect("held");
    forget_all_that_is_old(&subject).await;
    assert!(subject.queue.budget(&Scope::Task(root)).await.is_err());
    for id in [root, middle, id] {
        let view = subject.queue.task(id).await.expect("readable");
        assert!(view.is_none(), "nothing of it is left");
    }
}

#[tokio::test]
async fn a_step_whose_commit_was_kept_without_an_answer_is_paid_for_once() {
    let subject = Subject::memory().await;
    let id = subject.submit(budgeted(100)).await;
    let lease = subject.claim("w", LEASE).await;
    let journal = Journal::new(subject.queue.clone(), &lease);
    let Store::Volatile(disk) = subject.queue.writer().store().clone() else {
        unreachable!("made above")
    };
    let work = |meter: crate::journal::meter::Meter| async move {
        meter.add(Cost::from(tokens(30)));
        disk.lose_next_answer();
        Ok::<u64, std::io::Error>(30)
    };
    let paid = journal.priced_step("a", "in", tokens(60), work).await;
    assert_eq!(paid.expect("recorded"), 30);
    assert_eq!(spent(&subject, &Scope::Task(id)).await, (30, 0));
}
