//! Mailboxes with real actors: refusal, waiting, control, calls and ends.

use std::time::Duration;

use crate::actor::host;
use crate::actor::{Actor, Crash, StartError};
use crate::mailbox::{CallError, Capacity, Mailbox, Observation, ProbeError, Reply, TrySendError};
use crate::supervision::StartedChild;

const SOON: Duration = Duration::from_secs(5);

/// Handles a message when told to.
struct Gated;

enum Msg {
    /// Says that its handling began, then waits to be let through.
    Wait(Reply<()>, tokio::sync::oneshot::Receiver<()>),
    Ask(Reply<u32>),
    Ignore(Reply<u32>),
    Panic(Reply<u32>),
    Nothing,
}

impl Actor for Gated {
    type Msg = Msg;
    type Args = ();
    type State = u32;

    async fn start(&self, _: &Mailbox<Msg>, (): ()) -> Result<u32, StartError> {
        Ok(0)
    }

    async fn handle(&self, _: &Mailbox<Msg>, msg: Msg, handled: &mut u32) -> Result<(), Crash> {
        *handled += 1;
        match msg {
            Msg::Wait(began, through) => {
                began.send(());
                through.await?;
            }
            Msg::Ask(reply) => reply.send(*handled),
            Msg::Ignore(reply) => drop(reply),
            Msg::Panic(_reply) => panic!("asked to"),
            Msg::Nothing => {}
        }
        Ok(())
    }

    fn observe(&self, handled: &u32) -> Observation {
        Observation {
            progress: u64::from(*handled),
            ..Observation::default()
        }
    }
}

async fn gated(messages: usize, reserved: usize) -> (Mailbox<Msg>, StartedChild) {
    let capacity = Capacity { messages, reserved };
    host::spawn(Gated, (), capacity)
        .await
        .expect("Gated always starts")
}

/// Occupies the actor until the returned sender speaks.
async fn occupy(mailbox: &Mailbox<Msg>) -> tokio::sync::oneshot::Sender<()> {
    let (began, beginning) = Reply::channel();
    let (let_through, through) = tokio::sync::oneshot::channel();
    mailbox
        .try_send(Msg::Wait(began, through))
        .expect("there is room");
    beginning.await.expect("handling began");
    let_through
}

#[tokio::test]
async fn a_full_mailbox_refuses_and_gives_the_message_back() {
    let (mailbox, _child) = gated(2, 1).await;
    let _busy = occupy(&mailbox).await;
    assert_eq!(mailbox.depth(), 1, "a message being handled keeps its slot");
    mailbox.try_send(Msg::Nothing).expect("one slot is free");
    let refused = mailbox.try_send(Msg::Nothing).expect_err("no slot is free");
    assert!(matches!(refused, TrySendError::Full(Msg::Nothing)));
    assert_eq!(mailbox.depth(), 2);
}

#[tokio::test]
async fn control_gets_through_a_full_mailbox_up_to_its_reserve() {
    let (mailbox, _child) = gated(1, 1).await;
    let busy = occupy(&mailbox).await;
    assert!(mailbox.try_send(Msg::Nothing).is_err());
    let (reply, answer) = Reply::channel();
    mailbox
        .try_send_control(Msg::Ask(reply))
        .expect("the reserve is free");
    assert!(matches!(
        mailbox.try_send_control(Msg::Nothing),
        Err(TrySendError::Full(_))
    ));
    busy.send(()).expect("still waiting");
    assert_eq!(answer.await, Ok(2));
}

#[tokio::test]
async fn a_waiting_sender_gets_the_slot_that_is_freed() {
    let (mailbox, _child) = gated(1, 0).await;
    let busy = occupy(&mailbox).await;
    let (reply, answer) = Reply::channel();
    let mut send = std::pin::pin!(mailbox.send(Msg::Ask(reply)));
    assert!(futures::poll!(&mut send).is_pending());
    busy.send(()).expect("still waiting");
    send.await.expect("the actor runs");
    assert_eq!(answer.await, Ok(2));
}

#[tokio::test]
async fn a_cancelled_wait_sends_nothing_and_leaks_no_slot() {
    let (mailbox, _child) = gated(1, 0).await;
    let busy = occupy(&mailbox).await;
    for _ in 0..3 {
        let mut send = Box::pin(mailbox.send(Msg::Nothing));
        assert!(futures::poll!(&mut send).is_pending());
    }
    busy.send(()).expect("still waiting");
    mailbox
        .send(Msg::Nothing)
        .await
        .expect("the slot is free again");
    let handled = mailbox.call(Msg::Ask, SOON).await;
    assert_eq!(
        handled,
        Ok(3),
        "the three cancelled messages were never handled"
    );
}

#[tokio::test]
async fn when_the_actor_ends_waiting_senders_get_their_message_back() {
    let (mailbox, child) = gated(1, 0).await;
    let _busy = occupy(&mailbox).await;
    let mut send = Box::pin(mailbox.send(Msg::Nothing));
    assert!(futures::poll!(&mut send).is_pending());
    drop(child);
    let refused = send.await.expect_err("the actor is gone");
    assert!(matches!(refused.0, Msg::Nothing));
    assert_eq!(mailbox.depth(), 0);
    assert!(matches!(
        mailbox.try_send(Msg::Nothing),
        Err(TrySendError::NotRunning(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_not_a_timeout() {
    let (mailbox, _child) = gated(4, 0).await;
    assert_eq!(
        mailbox.call(Msg::Ignore, SOON).await,
        Err(CallError::NoReply)
    );
    let busy = occupy(&mailbox).await;
    assert_eq!(
        mailbox.call(Msg::Ask, SOON).await,
        Err(CallError::TimedOut(SOON))
    );
    drop(busy);
    assert_eq!(
        mailbox.call(Msg::Ask, SOON).await,
        Err(CallError::NoReply),
        "it crashed"
    );
    assert_eq!(
        mailbox.call(Msg::Ask, SOON).await,
        Err(CallError::NotRunning)
    );
}

#[tokio::test]
async fn a_callee_that_panics_closes_the_reply() {
    let (mailbox, _child) = gated(4, 0).await;
    assert_eq!(
        mailbox.call(Msg::Panic, SOON).await,
        Err(CallError::NoReply)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_full_mailbox_says_that_it_was_not_sent() {
    let (mailbox, _child) = gated(1, 0).await;
    let _busy = occupy(&mailbox).await;
    assert_eq!(mailbox.call(Msg::Ask, SOON).await, Err(CallError::Full));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_in_turn_or_times_out() {
    let (mailbox, _child) = gated(1, 1).await;
    assert_eq!(mailbox.probe(SOON).await.map(|seen| seen.progress), Ok(0));
    let busy = occupy(&mailbox).await;
    assert_eq!(mailbox.probe(SOON).await, Err(ProbeError::TimedOut(SOON)));
    assert_eq!(
        mailbox.probe(SOON).await,
        Err(ProbeError::Full),
        "the first one still queues"
    );
    busy.send(()).expect("still waiting");
    assert_eq!(mailbox.call(Msg::Ask, SOON).await, Ok(2));
    assert_eq!(mailbox.probe(SOON).await.map(|seen| seen.progress), Ok(2));
}

#[tokio::test]
async fn eight_senders_lose_and_exceed_nothing() {
    let (mailbox, _child) = gated(4, 0).await;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mailbox = mailbox.clone();
        senders.spawn(async move {
            for _ in 0..200 {
                mailbox.send(Msg::Nothing).await.expect("the actor runs");
                assert!(mailbox.depth() <= 4);
            }
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent.expect("no sender panics");
    }
    assert_eq!(mailbox.call(Msg::Ask, SOON).await, Ok(1601));
}
