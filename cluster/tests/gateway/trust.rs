//! Who is let in: keys, certificates, versions, silence, oneself.

use std::time::{Duration, Instant};

use regrow_cluster::certificates::{self, Written};
use regrow_cluster::secret::Secrets;
use regrow_cluster::transport::fence::Refusal;
use regrow_cluster::transport::{
    ConnectError, CredentialFiles, Credentials, GatewayConfig, HandshakeError, Refused, Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::nodes::{Node, PATIENCE, config, name, secret, until_peer};

fn authority(names: &[&str]) -> (tempfile::TempDir, Written) {
    let dir = tempfile::tempdir().expect("writable");
    let names: Vec<_> = names.iter().map(|name| (*name).into()).collect();
    let written = certificates::write(dir.path(), &names).expect("writable");
    (dir, written)
}

/// A node that calls itself `called`, with the certificate at `index`.
fn certified(called: &str, written: &Written, index: usize) -> GatewayConfig {
    let node = &written.nodes[index];
    let files = CredentialFiles {
        authority: written.authority.clone(),
        certificate: node.certificate.clone(),
        key: node.key.clone(),
    };
    GatewayConfig {
        credentials: Some(Credentials::load(&files, &node.name).expect("they fit")),
        ..config(called, 1)
    }
}

async fn dial(from: &Node, to: &Node) -> Result<(), ConnectError> {
    let met = from.gateway.connect(to.gateway.address(), None).await;
    met.map(|_| ())
}

async fn stop(nodes: impl IntoIterator<Item = Node>) {
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_certificates_of_one_authority_talk() {
    let (_dir, written) = authority(&["a", "b"]);
    let a = Node::with(certified("a", &written, 0)).await;
    let b = Node::with(certified("b", &written, 1)).await;
    let b_is = a.meet(&b).await;
    assert_eq!(a.ask(&b_is, "from").await.expect("answered"), "a#1");
    let made = a.ask(&b_is, "make3000000").await.expect("answered");
    assert_eq!(made.len(), 3_000_000);
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_turned_away() {
    let (_dir, written) = authority(&["a"]);
    let (_other_dir, other) = authority(&["b"]);
    let a = Node::with(certified("a", &written, 0)).await;
    let b = Node::with(certified("b", &other, 0)).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        let error = dial(from, to).await.expect_err("unknown authority");
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
    }
    assert!(a.gateway.peers().borrow().is_empty());
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_cannot_take_a_name_that_its_certificate_does_not_have() {
    let (_dir, written) = authority(&["a", "b"]);
    let a = Node::with(certified("a", &written, 0)).await;
    let liar = Node::with(certified("c", &written, 1)).await;
    let error = dial(&liar, &a).await.expect_err("not c");
    assert!(
        matches!(
            &error,
            ConnectError::Handshake {
                source: HandshakeError::Refused(Refused::WrongCertificate),
                ..
            }
        ),
        "{error:?}"
    );
    let error = dial(&a, &liar).await.expect_err("not c");
    assert!(
        matches!(
            &error,
            ConnectError::Handshake {
                source: HandshakeError::WrongCertificate(_),
                ..
            }
        ),
        "{error:?}"
    );
    stop([a, liar]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_in_a_cluster_with_tls_is_turned_away_both_ways() {
    let (_dir, written) = authority(&["a"]);
    let mut secure = certified("a", &written, 0);
    secure.transport.handshake_timeout = Duration::from_secs(2);
    let mut plain = config("b", 1);
    plain.transport.handshake_timeout = Duration::from_secs(2);
    let (a, b) = (Node::with(secure).await, Node::with(plain).await);
    dial(&b, &a).await.expect_err("plaintext to TLS");
    dial(&a, &b).await.expect_err("TLS to plaintext");
    assert!(a.gateway.peers().borrow().is_empty());
    assert!(b.gateway.peers().borrow().is_empty());
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_key_is_turned_away_and_the_dialler_is_told() {
    let a = Node::start("a").await;
    let stranger = Node::with(GatewayConfig {
        secrets: secret(1).into(),
        ..config("b", 1)
    })
    .await;
    let error = dial(&stranger, &a).await.expect_err("another key");
    assert!(
        matches!(
            &error,
            ConnectError::Handshake {
                source: HandshakeError::WrongKey,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(a.gateway.peers().borrow().is_empty());
    stop([a, stranger]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_secret_is_being_changed_talks_to_those_before_and_after() {
    let with = |name, secrets| GatewayConfig {
        secrets,
        ..config(name, 1)
    };
    let changing = Secrets {
        present: secret(1),
        accepted: Some(secret(0)),
    };
    let before = Node::with(with("a", secret(0).into())).await;
    let between = Node::with(with("b", changing)).await;
    let after = Node::with(with("c", secret(1).into())).await;
    let b_is = after.meet(&between).await;
    assert_eq!(after.ask(&b_is, "echo").await.expect("answered"), "echo");
    // It proves itself under the one in use, and understands the other.
    between.meet(&before).await;
    dial(&before, &after).await.expect_err("nothing in common");
    stop([before, between, after]).await;
}

/// Defect 13: ractor_cluster takes equal host names and ports for itself; here a number that
/// the start drew says who is who.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_knows_itself_its_namesake_and_whom_it_did_not_want() {
    let (a, namesake, b) = (
        Node::start("a").await,
        Node::start("a").await,
        Node::start("b").await,
    );
    let refusal = |error| {
        let ConnectError::Handshake {
            source:
                HandshakeError::Refused(Refused::Fence(refusal)) | HandshakeError::RefusedHere(refusal),
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        refusal
    };
    let myself = dial(&a, &a).await.expect_err("itself");
    assert_eq!(refusal(myself), Refusal::Myself);
    let same = dial(&a, &namesake).await.expect_err("its namesake");
    assert_eq!(refusal(same), Refusal::SameName(name("a")));
    let address = b.gateway.address();
    let wanted = a.gateway.connect(address, Some(name("c"))).await;
    let someone_else = refusal(wanted.expect_err("b is not c"));
    assert!(matches!(someone_else, Refusal::SomeoneElse { .. }));
    a.gateway
        .connect(address, Some(name("b")))
        .await
        .expect("b is b");
    stop([a, namesake, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_chatty_strangers_are_closed_in_time_and_do_not_keep_nodes_out() {
    let (_dir, written) = authority(&["a", "b"]);
    for is_secure in [false, true] {
        let mut guarded = match is_secure {
            false => config("a", 1),
            true => certified("a", &written, 0),
        };
        guarded.transport.handshake_timeout = Duration::from_millis(500);
        guarded.transport.handshakes_max = 8;
        let a = Node::with(guarded).await;
        let started = Instant::now();
        let mut strangers = Vec::new();
        for number in 0..50_u8 {
            let mut stranger = TcpStream::connect(a.gateway.address()).await.expect("open");
            if number % 2 == 0 {
                // May be closed already.
                let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            }
            strangers.push(stranger);
        }
        for mut stranger in strangers {
            let mut heard = Vec::new();
            let closing = stranger.read_to_end(&mut heard);
            let closed = tokio::time::timeout(PATIENCE, closing).await;
            // Closed or reset, but not left open.
            let _ = closed.expect("closed in time");
        }
        assert!(
            Duration::from_millis(400) < started.elapsed(),
            "some were waited for"
        );
        let b = Node::with(match is_secure {
            false => config("b", 1),
            true => certified("b", &written, 1),
        })
        .await;
        let b_dials = async {
            // Places are free again at the latest when the last stranger is closed.
            while dial(&b, &a).await.is_err() {}
        };
        tokio::time::timeout(PATIENCE, b_dials)
            .await
            .expect("let in");
        until_peer(&a.gateway, |peer| peer.member == *b.gateway.member()).await;
        stop([a, b]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_peers_than_a_node_takes_are_told_so() {
    let mut small = config("a", 1);
    small.transport.peers_max = 1;
    let a = Node::with(small).await;
    let (b, c) = (Node::start("b").await, Node::start("c").await);
    b.meet(&a).await;
    let error = dial(&c, &a).await.expect_err("one is enough");
    assert!(
        matches!(
            &error,
            ConnectError::Handshake {
                source: HandshakeError::Refused(Refused::Fence(Refusal::TooMany(1))),
                ..
            }
        ),
        "{error:?}"
    );
    // A new life of the one that is there still gets in.
    let next = Node::with(config("b", 2)).await;
    next.meet(&a).await;
    stop([a, b, c, next]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_dial_each_other_at_once_end_with_one_session() {
    for _ in 0..20 {
        let (a, b) = (Node::start("a").await, Node::start("b").await);
        // One of the two may be told that the other one stays.
        let (_, _) = tokio::join!(dial(&a, &b), dial(&b, &a));
        let (a_is, b_is) = (a.gateway.member().clone(), b.gateway.member().clone());
        let talking = async {
            while a.ask(&b_is, "echo").await.is_err() || b.ask(&a_is, "echo").await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, talking)
            .await
            .expect("connected");
        assert_eq!(a.gateway.peers().borrow().len(), 1);
        assert_eq!(b.gateway.peers().borrow().len(), 1);
        stop([a, b]).await;
    }
}
