//! What the gateway does when ractor_cluster itself misbehaves, or is reached around it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream};
use tokio::io::AsyncReadExt;

use super::*;
use crate::member::{Incarnation, Member};
use crate::secret::ClusterSecret;
use crate::transport::{
    Call, CallError, Gateway, GatewayConfig, Incoming, Rejection, Service, Transport,
    TransportConfig,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Echo;

impl Service for Echo {
    fn call(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        async move {
            match &call.payload[..] {
                b"never" => futures::future::pending().await,
                _ => Ok(call.payload),
            }
        }
        .boxed()
    }

    fn cast(&self, _: Member, _: Bytes) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

async fn gateway(name: &str) -> Gateway {
    let bytes: Vec<u8> = (0..32).collect();
    let secret = ClusterSecret::from_bytes(&bytes).expect("long enough");
    let config = GatewayConfig {
        member: Member {
            name: name.into(),
            incarnation: Incarnation(1),
        },
        listen: ([127, 0, 0, 1], 0).into(),
        secrets: secret.into(),
        credentials: None,
        transport: TransportConfig::default(),
    };
    Gateway::start(config, Arc::new(Echo))
        .await
        .expect("a free port")
}

fn call(payload: &'static [u8]) -> Call {
    Call {
        payload: Bytes::from_static(payload),
        deadline: PATIENCE,
        operation: None,
    }
}

struct Stranger(tokio::io::DuplexStream);

impl ClusterBidiStream for Stranger {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        let (reader, writer) = tokio::io::split(self.0);
        (Box::new(reader), Box::new(writer))
    }

    fn peer_label(&self) -> Option<String> {
        Some("stranger".to_owned())
    }
}

/// The listener that ractor_cluster opens on loopback leads past the handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_in_by_ractor_clusters_own_listener_is_turned_away() {
    let gateway = gateway("a").await;
    let (mut outside, inside) = tokio::io::duplex(1_024);
    let opened = NodeServerMessage::ConnectionOpenedExternal {
        stream: Box::new(Stranger(inside)),
        is_server: true,
    };
    gateway
        .node_server()
        .send_message(opened)
        .expect("it lives");
    let read = tokio::time::timeout(PATIENCE, outside.read_u8()).await;
    read.expect("closed in time")
        .expect_err("the end of the stream");
    gateway.stop(Duration::ZERO).await;
}

struct Slow;

impl NodeEventSubscription for Slow {
    fn node_session_opened(&self, _: NodeServerSessionInformation) {}

    fn node_session_disconnected(&self, _: NodeServerSessionInformation) {}

    #[expect(
        clippy::disallowed_methods,
        reason = "holds the node server up, as was wanted"
    )]
    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(900)));
    }
}

/// Defect 14: a node server that does not answer within 500 ms fails the handshake. It is
/// told at once, and the next attempt is not held up by what is left of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handshake_that_a_slow_node_server_fails_can_be_repeated() {
    let (a, b) = (gateway("a").await, gateway("b").await);
    let (slow, server) = ("slow".to_owned(), b.node_server());
    let subscription = Box::new(Slow);
    let subscribed = NodeServerMessage::SubscribeToEvents {
        id: slow.clone(),
        subscription,
    };
    server.send_message(subscribed).expect("it lives");
    let started = Instant::now();
    let failed = a.connect(b.address(), None).await;
    failed.expect_err("b's node server sleeps");
    assert!(started.elapsed() < TransportConfig::default().handshake_timeout);
    server
        .send_message(NodeServerMessage::UnsubscribeToEvents(slow))
        .expect("it lives");
    let to = a.connect(b.address(), None).await.expect("connected");
    assert_eq!(a.call(&to, call(b"echo")).await.expect("answered"), "echo");
    a.stop(Duration::ZERO).await;
    b.stop(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_its_node_server_ends_and_says_why() {
    let (a, b) = (gateway("a").await, gateway("b").await);
    let to = a.connect(b.address(), None).await.expect("connected");
    let asked = a.call(&to, call(b"never"));
    a.node_server().stop(None);
    let error = asked.await.expect_err("no session is left");
    assert!(matches!(error, CallError::Interrupted), "{error}");
    let why = tokio::time::timeout(PATIENCE, a.ended())
        .await
        .expect("ended");
    assert!(!why.is_empty());
    assert!(a.peers().borrow().is_empty());
    b.stop(Duration::ZERO).await;
}
