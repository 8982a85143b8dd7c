//! Nodes in one process, each with an exchange and a gateway of its own.

use std::net::SocketAddr;

use proptest::prelude::*;
use regrow_runtime::clock::Timestamp;
use tokio::task::JoinSet;

use super::*;
use crate::member::Incarnation;
use crate::secret::ClusterSecret;
use crate::transport::{Gateway, GatewayConfig, TransportConfig};

const PATIENCE: Duration = Duration::from_secs(30);

fn exchange() -> Exchange {
    Exchange::new(Clock::anchored(Timestamp(7)))
}

/// Doubles what it is asked, and says who asked.
struct Doubling;

impl Answers for Doubling {
    fn answer(&self, asked: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        let answer = match codec::decode::<u64>(&asked.payload) {
            Ok(number) => Ok((2 * number, asked.from.name.to_string())),
            Err(error) => Err(Rejection(error.to_string())),
        };
        let answer = answer.map(|it| Bytes::from(codec::encode(&it).expect("plain data")));
        std::future::ready(answer).boxed()
    }
}

/// A node whose exchange has a gateway.
struct Node {
    exchange: Exchange,
    gateway: Gateway,
    serving: JoinSet<()>,
}

impl Node {
    async fn start(name: &str, life: u64) -> Self {
        let exchange = exchange();
        let (gateway, serving) = up(&exchange, name, life).await;
        Self {
            exchange,
            gateway,
            serving,
        }
    }

    async fn meet(&self, other: &Self) {
        let name = other.gateway.member().name.clone();
        let met = self.gateway.connect(other.gateway.address(), None).await;
        met.expect("connected");
        for (here, there) in [(self, &name), (other, &self.gateway.member().name)] {
            let mut sessions = here.exchange.sessions();
            let ready = sessions.wait_for(|it| it.get(there).is_some_and(Session::is_ready));
            let ready = tokio::time::timeout(PATIENCE, ready).await;
            assert!(ready.is_ok(), "{there} is not connected");
        }
    }
}

async fn up(exchange: &Exchange, name: &str, life: u64) -> (Gateway, JoinSet<()>) {
    let config = GatewayConfig {
        member: Member::new(name, Incarnation(life)),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        secrets: secret().into(),
        credentials: None,
        transport: TransportConfig::default(),
    };
    let gateway = Gateway::start(config, Arc::new(exchange.clone())).await;
    let gateway = gateway.expect("a free port");
    let mut serving = JoinSet::new();
    let (served, through) = (exchange.clone(), gateway.clone());
    serving.spawn(async move { served.serve(Arc::new(through)).await });
    (gateway, serving)
}

fn secret() -> ClusterSecret {
    let bytes: Vec<u8> = (0..32).collect();
    ClusterSecret::from_bytes(&bytes).expect("long enough")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn casts_and_questions_reach_whoever_registered_for_their_topic_by_name() {
    let (a, b) = (Node::start("a", 1).await, Node::start("b", 1).await);
    let mut heard = b.exchange.casts(Topic::Core, 8);
    let _desk = b.exchange.answers(Topic::Desk, Arc::new(Doubling));
    a.meet(&b).await;
    assert_eq!(a.exchange.connected(), ["b".into()]);
    let session = a.exchange.sessions().borrow()[&"b".into()].clone();
    assert!(session.is_dialled_here && Timestamp(7) <= session.since);

    for number in 0..5_u8 {
        a.exchange
            .cast(&"b".into(), Topic::Core, &[number])
            .expect("room");
    }
    for number in 0..5_u8 {
        let (from, payload) = heard.next().await.expect("the exchange is there");
        assert_eq!(
            (from, &payload[..]),
            (a.gateway.member().clone(), &[number][..])
        );
    }
    let doubled: (u64, String) = a
        .exchange
        .ask(&"b".into(), Topic::Desk, &21_u64, PATIENCE, None)
        .await
        .expect("answered");
    assert_eq!(doubled, (42, "a".to_owned()));
    let unread: Result<String, AskError> = a
        .exchange
        .ask(&"b".into(), Topic::Desk, &21_u64, PATIENCE, None)
        .await;
    assert!(
        matches!(unread, Err(AskError::Unreadable { .. })),
        "{unread:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_says_why_and_the_gateway_may_come_and_go() {
    let lonely = exchange();
    let (b, payload) = (NodeName::from("b"), b"hello");
    assert_eq!(
        lonely.cast(&b, Topic::Core, payload),
        Err(SendError::NoGateway)
    );
    let (gateway, serving) = up(&lonely, "a", 1).await;
    let mut a = Node {
        exchange: lonely,
        gateway,
        serving,
    };
    while a.exchange.cast(&b, Topic::Core, payload) == Err(SendError::NoGateway) {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        a.exchange.cast(&b, Topic::Core, payload),
        Err(SendError::NotConnected(b.clone()))
    );
    let there = Node::start("b", 1).await;
    a.meet(&there).await;
    let large = vec![0; Topic::Core.bytes_max() + 1];
    let refused = a.exchange.cast(&b, Topic::Core, &large);
    assert!(
        matches!(refused, Err(SendError::TooLarge { .. })),
        "{refused:?}"
    );

    let asked = a
        .exchange
        .call(&b, Topic::Desk, payload, PATIENCE, None)
        .await;
    let error = asked.expect_err("nobody answers there");
    assert!(error.to_string().contains("nobody here answers"), "{error}");
    let desk = there.exchange.answers(Topic::Desk, Arc::new(Doubling));
    let asked: Result<(u64, String), _> = a
        .exchange
        .ask(&b, Topic::Desk, &1_u64, PATIENCE, None)
        .await;
    assert_eq!(asked.expect("answered now").0, 2);
    drop(desk);
    let asked = a
        .exchange
        .call(&b, Topic::Desk, payload, PATIENCE, None)
        .await;
    assert!(asked.is_err(), "the registration has ended");

    // The gateway ends; the next one is a later life of the same node.
    a.gateway.stop(Duration::ZERO).await;
    a.serving.shutdown().await;
    assert!(a.exchange.connected().is_empty());
    assert_eq!(
        a.exchange.cast(&b, Topic::Core, payload),
        Err(SendError::NoGateway)
    );
    (a.gateway, a.serving) = up(&a.exchange, "a", 2).await;
    let mut heard = there.exchange.casts(Topic::Core, 1);
    a.meet(&there).await;
    a.exchange
        .cast(&b, Topic::Core, payload)
        .expect("connected");
    let (from, _) = heard.next().await.expect("the exchange is there");
    assert_eq!(from.incarnation, Incarnation(2));
}

#[tokio::test]
async fn a_receiver_that_is_behind_loses_casts_and_holds_nobody_up() {
    let exchange = exchange();
    let mut heard = exchange.casts(Topic::Core, 2);
    let from = Member::new("b", Incarnation(1));
    let cast = |number: u8| {
        let payload = headed(Topic::Core.heading(), &[number]);
        Service::cast(&exchange, from.clone(), Bytes::from(payload))
    };
    for number in 0..5 {
        cast(number).await;
    }
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.push(heard.next().await.expect("there").1[0]);
    }
    cast(9).await;
    taken.push(heard.next().await.expect("there").1[0]);
    assert_eq!(taken, [0, 1, 9]);
}

#[tokio::test]
async fn the_latest_registration_counts_and_the_end_of_an_earlier_one_changes_nothing() {
    let exchange = exchange();
    let earlier = exchange.casts(Topic::Core, 1);
    let mut later = exchange.casts(Topic::Core, 1);
    drop(earlier);
    let payload = Bytes::from(headed(Topic::Core.heading(), b"x"));
    Service::cast(&exchange, Member::new("b", Incarnation(1)), payload).await;
    assert_eq!(&later.next().await.expect("there").1[..], b"x");
}

#[test]
fn topics_have_numbers_names_and_rooms_of_their_own() {
    for topic in Topic::ALL {
        let same =
            |other: &&Topic| other.heading() == topic.heading() || other.as_str() == topic.as_str();
        assert_eq!(Topic::ALL.iter().filter(same).count(), 1);
        assert_eq!(Topic::of(topic.heading()), Some(topic));
        // With its heading it still fits into a message.
        assert!(topic.bytes_max() + 64 < TransportConfig::default().payload_bytes_max);
    }
}

proptest! {
    #[test]
    fn bytes_of_a_stranger_reach_nobody(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let exchange = exchange();
        let opened = exchange.opened(&Bytes::from(bytes.clone()));
        if let Ok((topic, payload)) = opened {
            prop_assert!(Topic::ALL.contains(&topic) && bytes.ends_with(&payload));
        }
    }
}
