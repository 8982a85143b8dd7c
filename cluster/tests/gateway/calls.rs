//! Calls and casts between two nodes: answers, refusals, order, sizes, what is held.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use regrow_cluster::member::Incarnation;
use regrow_cluster::transport::dialler::Pace;
use regrow_cluster::transport::{
    Call, CallError, CastError, OperationId, Peer, PeerState, Rejection, Transport, TransportConfig,
};

use super::nodes::{Node, PATIENCE, config, member, question, until};

async fn pair() -> (Node, Node) {
    let (a, b) = (Node::start("a").await, Node::start("b").await);
    a.meet(&b).await;
    (a, b)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_answered_whatever_the_service_does() {
    let (a, b) = pair().await;
    let b_is = b.gateway.member().clone();
    let transport: Arc<dyn Transport> = Arc::new(a.gateway.clone());
    let answer = transport.call(&b_is, question("echo")).await;
    assert_eq!(answer.expect("answered"), "echo");
    assert_eq!(
        b.ask(a.gateway.member(), "back").await.expect("answered"),
        "back",
        "one session serves both ways"
    );
    let denied = a.ask(&b_is, "deny no").await.expect_err("denied");
    assert!(
        matches!(&denied, CallError::Rejected(Rejection(why)) if why == " no"),
        "{denied}"
    );
    let crashed = a.ask(&b_is, "fail").await.expect_err("crashed");
    assert!(matches!(crashed, CallError::Crashed), "{crashed}");
    assert!(crashed.may_have_happened());
    assert_eq!(a.ask(&b_is, "echo").await.expect("it lives on"), "echo");
    a.stop().await;
    b.stop().await;
}

/// Defect 6: ractor_cluster sends nothing back if there is no reply, and keeps the call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_an_answer_ends_at_its_deadline_and_leaves_nothing() {
    let (a, b) = pair().await;
    let call = Call {
        deadline: Duration::from_millis(50),
        ..question("hold")
    };
    let error = a
        .gateway
        .call(b.gateway.member(), call)
        .await
        .expect_err("nobody answers");
    assert!(matches!(error, CallError::DeadlineExceeded(_)), "{error}");
    // 500 callers that give up at once.
    for _ in 0..500 {
        drop(a.gateway.call(b.gateway.member(), question("hold")));
    }
    assert_eq!(a.gateway.waiting_answers(), 0, "nothing waits any more");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn casts_arrive_once_and_in_order_and_calls_do_not_overtake_them() {
    let (a, b) = pair().await;
    for number in 0..5_000_u32 {
        let mut payload = Bytes::copy_from_slice(&number.to_be_bytes());
        while let Err(error) = a.gateway.cast(b.gateway.member(), payload) {
            payload = error.into_payload();
            tokio::task::yield_now().await;
        }
    }
    a.ask(b.gateway.member(), "echo").await.expect("answered");
    let arrived = b.told.0.casts.lock().clone();
    let numbers: Vec<u32> = arrived
        .iter()
        .map(|cast| u32::from_be_bytes(cast[..].try_into().expect("a number")))
        .collect();
    assert_eq!(numbers, (0..5_000).collect::<Vec<_>>());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_travel_in_parts_and_larger_ones_are_given_back() {
    let (a, b) = pair().await;
    let b_is = b.gateway.member();
    let max = TransportConfig::default().payload_bytes_max;
    let large = Call {
        payload: Bytes::from(vec![7; max]),
        ..question("")
    };
    let echoed = a.gateway.call(b_is, large).await.expect("both ways");
    assert_eq!(echoed.len(), max);
    let larger = a.gateway.cast(b_is, Bytes::from(vec![7; max + 1]));
    let Err(CastError::TooLarge { payload, .. }) = larger else {
        panic!("taken: {larger:?}");
    };
    assert_eq!(payload.len(), max + 1);
    let made = a.ask(b_is, &format!("make{}", max + 1)).await;
    assert!(matches!(made, Err(CallError::AnswerLost)), "{made:?}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_another_life_is_refused() {
    let (a, b) = pair().await;
    let older = member("b", 0);
    let refused = a.gateway.cast(&older, Bytes::from_static(b"late"));
    let Err(CastError::OtherLife { current, payload }) = refused else {
        panic!("taken: {refused:?}");
    };
    assert_eq!(
        (current, payload),
        (Incarnation(1), Bytes::from_static(b"late"))
    );
    let refused = a.ask(&member("b", 2), "echo").await.expect_err("not yet");
    assert!(!refused.may_have_happened(), "{refused}");
    let refused = a.ask(&member("c", 1), "echo").await.expect_err("unknown");
    assert!(matches!(
        refused,
        CallError::NotSent(CastError::NotConnected { .. })
    ));
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_takes_effect_once_however_often_it_is_asked_for() {
    let (a, b) = pair().await;
    let b_is = b.gateway.member();
    let operation = Some(OperationId::random());
    let ask = || {
        let call = Call {
            operation,
            ..question("hold")
        };
        a.gateway.call(b_is, call)
    };
    // The first asker gives up; the second waits for the same work.
    let first = tokio::time::timeout(Duration::from_millis(1), ask()).await;
    assert!(first.is_err(), "held");
    let (second, ()) = tokio::join!(ask(), async {
        a.ask(b_is, "echo").await.expect("the second has arrived");
        b.told.0.gate.permits.add_permits(1);
    });
    assert_eq!(second.expect("answered"), "hold");
    assert_eq!(ask().await.expect("from the record"), "hold");
    a.gateway.disconnect(b_is);
    until(&a.gateway, <[_]>::is_empty).await;
    let lost = ask().await.expect_err("not connected");
    assert!(!lost.may_have_happened(), "{lost}");
    a.meet(&b).await;
    assert_eq!(ask().await.expect("over another session"), "hold");
    let begun = b.told.0.begun.load(Ordering::SeqCst);
    assert_eq!(begun, 2, "the operation once, and the echo");
    a.stop().await;
    b.stop().await;
}

/// Defect 11: ractor_cluster takes everything, at both ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_peer_pushes_back_until_it_has_room_and_nothing_is_lost() {
    let mut small = config("a", 1);
    small.transport.window_messages = 64;
    small.transport.outbox_messages = 100;
    let a = Node::with(small).await;
    let mut slow = config("b", 1);
    slow.transport.window_messages = 64;
    let b = Node::with(slow).await;
    let b_is = a.meet(&b).await;
    let mut taken = 0;
    let refused = loop {
        match a.gateway.cast(&b_is, Bytes::from_static(b"hold")) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken <= 164, "no more than the window and the outbox");
    };
    assert!(100 <= taken, "{taken}");
    let CastError::Full {
        retry_after,
        payload,
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(payload, "hold", "the message is given back");
    assert!(Duration::ZERO < retry_after && retry_after <= Duration::from_secs(5));
    b.told.0.gate.permits.add_permits(taken);
    let mut total = b.told.0.casts_total.subscribe();
    let arriving = total.wait_for(|total| *total == taken as u64);
    let arrived = tokio::time::timeout(PATIENCE, arriving).await;
    arrived.expect("all of them").expect("open");
    a.gateway.cast(&b_is, payload).expect("room again");
    b.told.0.gate.permits.add_permits(1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_a_node_works_on_are_told_that_it_is_busy() {
    let a = Node::start("a").await;
    let mut few = config("b", 1);
    few.transport.calls_max = 2;
    let b = Node::with(few).await;
    let b_is = a.meet(&b).await;
    let held = || a.ask(&b_is, "hold");
    let (one, two, ()) = tokio::join!(held(), held(), async {
        let refused = a.ask(&b_is, "echo").await.expect_err("two are at work");
        assert!(matches!(refused, CallError::Busy), "{refused}");
        b.told.0.gate.permits.add_permits(2);
    });
    one.expect("answered");
    two.expect("answered");
    assert_eq!(a.ask(&b_is, "echo").await.expect("room again"), "echo");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnecting_interrupts_callers_and_the_next_connection_is_fresh() {
    let (a, b) = pair().await;
    let b_is = b.gateway.member().clone();
    let (asked, ()) = tokio::join!(a.ask(&b_is, "hold"), async {
        b.told.0.gate.waiting.notified().await;
        a.gateway.disconnect(&member("b", 7));
        a.ask(&b_is, "echo").await.expect("another life was meant");
        a.gateway.disconnect(&b_is);
    });
    assert!(matches!(asked, Err(CallError::Interrupted)), "{asked:?}");
    until(&a.gateway, <[_]>::is_empty).await;
    until(&b.gateway, <[_]>::is_empty).await;
    a.meet(&b).await;
    assert_eq!(a.ask(&b_is, "echo").await.expect("answered"), "echo");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_stay_connected_to_whom_they_want_whatever_happens_to_sessions() {
    let (a, b, c) = (
        Node::start("a").await,
        Node::start("b").await,
        Node::start("c").await,
    );
    let all: Vec<_> = [&a, &b, &c]
        .iter()
        .map(|node| {
            let name = node.gateway.member().name.clone();
            (name, node.gateway.address())
        })
        .collect();
    let mut staying = tokio::task::JoinSet::new();
    let routes = tokio::sync::watch::Sender::new(all.clone());
    for (seed, node) in (0..).zip([&a, &b, &c]) {
        let (gateway, routes) = (node.gateway.clone(), routes.subscribe());
        staying.spawn(async move {
            gateway.stay_connected(routes, Pace::default(), seed).await;
        });
    }
    let are_two = |peers: &[Peer]| {
        let ready = |peer: &&Peer| peer.state == PeerState::Ready;
        peers.iter().filter(ready).count() == 2
    };
    for node in [&a, &b, &c] {
        until(&node.gateway, are_two).await;
    }
    let b_is = b.gateway.member();
    let (asked, ()) = tokio::join!(a.ask(b_is, "hold"), async {
        b.told.0.gate.waiting.notified().await;
        a.gateway.disconnect(b_is);
    });
    assert!(matches!(asked, Err(CallError::Interrupted)), "{asked:?}");
    for node in [&a, &b] {
        until(&node.gateway, are_two).await;
    }
    c.stop().await;
    until(&a.gateway, |peers| peers.len() == 1).await;
    // The next life of c listens elsewhere.
    let next = Node::with(config("c", 2)).await;
    routes.send_modify(|routes| routes[2].1 = next.gateway.address());
    until(&a.gateway, are_two).await;
    until(&next.gateway, are_two).await;
    staying.shutdown().await;
    for node in [a, b, next] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_different_windows_and_limits_keep_to_the_smaller_ones() {
    let mut small = config("a", 1);
    small.transport.window_messages = 16;
    small.transport.window_bytes = 300_000;
    small.transport.payload_bytes_max = 1_000_000;
    let (a, b) = (Node::with(small).await, Node::start("b").await);
    a.meet(&b).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let to_is = to.gateway.member();
        let casting = async {
            for number in 0..2_000_u32 {
                let mut payload = Bytes::copy_from_slice(&number.to_be_bytes());
                while let Err(error) = from.gateway.cast(to_is, payload) {
                    payload = error.into_payload();
                    tokio::task::yield_now().await;
                }
            }
        };
        let cast = tokio::time::timeout(PATIENCE, casting).await;
        cast.expect("credit comes back in time");
        let large = Call {
            payload: Bytes::from(vec![7; 1_000_000]),
            ..question("")
        };
        let echoed = from.gateway.call(to_is, large).await.expect("answered");
        assert_eq!(echoed.len(), 1_000_000);
        assert_eq!(to.told.0.casts.lock().len(), 2_000);
        let larger = from.gateway.cast(to_is, Bytes::from(vec![7; 1_000_001]));
        assert!(
            matches!(larger, Err(CastError::TooLarge { .. })),
            "{larger:?}"
        );
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_finishes_its_calls_and_takes_no_more() {
    let (a, b) = pair().await;
    let b_is = b.gateway.member().clone();
    let held = async { a.ask(&b_is, "hold").await };
    let stopping = async {
        b.told.0.gate.waiting.notified().await;
        b.gateway.stop(PATIENCE).await;
    };
    let refused = async {
        until(&a.gateway, |peers| {
            peers.iter().any(|peer| peer.state == PeerState::Leaving)
        })
        .await;
        let refused = a.ask(&b_is, "echo").await.expect_err("it stops");
        assert!(matches!(refused, CallError::Leaving), "{refused}");
        b.told.0.gate.permits.add_permits(1);
    };
    let (held, (), ()) = tokio::join!(held, stopping, refused);
    assert_eq!(held.expect("answered"), "hold");
    until(&a.gateway, <[_]>::is_empty).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialling_again_replaces_the_session_that_the_other_end_still_has() {
    let (a, b) = pair().await;
    let address = b.gateway.address();
    for _ in 0..10 {
        let again = a.gateway.connect(address, None).await;
        let b_is = again.expect("never locked out");
        assert_eq!(a.ask(&b_is, "echo").await.expect("answered"), "echo");
    }
    until(&b.gateway, |peers| peers.len() == 1).await;
    a.stop().await;
    b.stop().await;
}
