//! The network itself: what hosts send to each other arrives, or does not, as the rules say.

use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdp};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use regrow_testnet::{Flapping, Forward, Host, Network, Rules, admit, enter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

/// Nothing waits longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for what is not cut to arrive.
const MOMENT: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let entered: &'static _ = Box::leak(Box::new(enter()));
    let trial = |name: &'static str, test: fn() -> Pin<Box<dyn Future<Output = ()>>>| {
        Trial::test(name, move || {
            if admit(entered, name)? {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().build()?.block_on(test());
            }
            Ok(())
        })
    };
    let trials = vec![
        trial(
            "hosts_reach_each_other_by_both_protocols_and_large_amounts_pass",
            || Box::pin(reach()),
        ),
        trial("a_link_can_be_cut_in_one_direction", || Box::pin(cut())),
        trial("a_flapping_link_carries_some", || Box::pin(flap())),
        trial(
            "a_server_outside_is_on_the_network_and_the_test_reaches_hosts_beside_it",
            || Box::pin(forward()),
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

async fn listener(host: &Host, ip: IpAddr) -> TcpListener {
    let made = host.run(move || {
        let listener = std::net::TcpListener::bind((ip, 0)).expect("a port");
        listener.set_nonblocking(true).expect("not blocking");
        listener
    });
    TcpListener::from_std(made).expect("a runtime")
}

async fn connect(host: &Host, to: SocketAddr) -> TcpStream {
    let socket = host.run(move || match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    });
    let connecting = socket.expect("a socket").connect(to);
    timeout(PATIENCE, connecting)
        .await
        .expect("in time")
        .expect("connected")
}

fn udp(host: &Host) -> UdpSocket {
    let ip = host.four();
    let made = host.run(move || {
        let socket = StdUdp::bind((ip, 0)).expect("a port");
        socket.set_nonblocking(true).expect("not blocking");
        socket
    });
    UdpSocket::from_std(made).expect("a runtime")
}

/// How many of so many datagrams arrive, sent 2 ms apart.
async fn arrive(from: &UdpSocket, to: &UdpSocket, count: u32) -> u32 {
    let address = to.local_addr().expect("bound");
    let sending = async {
        for _ in 0..count {
            from.send_to(b"hello", address).await.expect("sent");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(MOMENT).await;
    };
    let mut arrived = 0;
    let counting = async {
        let mut buffer = [0; 16];
        loop {
            to.recv_from(&mut buffer).await.expect("received");
            arrived += 1;
        }
    };
    tokio::select! {
        () = sending => {}
        () = counting => {}
    }
    arrived
}

async fn reach() {
    let network = Network::new(1).expect("a network");
    let (a, b) = (
        network.host("a").expect("a host"),
        network.host("b").expect("a host"),
    );
    for ip in [IpAddr::from(b.four()), IpAddr::from(b.six())] {
        let listener = listener(&b, ip).await;
        let mut near = connect(&a, listener.local_addr().expect("bound")).await;
        let (mut far, _) = listener.accept().await.expect("accepted");
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 251) as u8).collect();
        let writing = async {
            near.write_all(&sent).await.expect("written");
            near.shutdown().await.expect("shut");
        };
        let mut got = Vec::new();
        let reading = async {
            far.read_to_end(&mut got).await.expect("read");
        };
        let both = async { tokio::join!(writing, reading) };
        timeout(PATIENCE, both).await.expect("in time");
        assert!(sent == got, "{ip}: {} of {} bytes", got.len(), sent.len());
    }
}

async fn cut() {
    let network = Network::new(2).expect("a network");
    let (a, b) = (
        network.host("a").expect("a host"),
        network.host("b").expect("a host"),
    );
    let (one, other) = (udp(&a), udp(&b));
    assert_eq!(arrive(&one, &other, 20).await, 20);
    network.set("a", "b", Rules::CUT);
    assert_eq!(arrive(&one, &other, 20).await, 0);
    assert_eq!(arrive(&other, &one, 20).await, 20);
    assert_eq!(network.counts("a", "b").lost, 20);
    network.set_all(Rules::default());
    assert_eq!(arrive(&one, &other, 20).await, 20);
    network.set_between(
        "a",
        "b",
        Rules {
            loss: 0.5,
            duplicated: 1.0,
            ..Rules::default()
        },
    );
    let some = arrive(&one, &other, 100).await;
    assert!(
        some.is_multiple_of(2) && (50..150).contains(&some),
        "{some}"
    );
}

async fn flap() {
    let network = Network::new(3).expect("a network");
    let (a, b) = (
        network.host("a").expect("a host"),
        network.host("b").expect("a host"),
    );
    let (one, other) = (udp(&a), udp(&b));
    let often = Duration::from_millis(20);
    let flapping = Some(Flapping {
        up: often,
        down: often,
    });
    network.set_around(
        "a",
        Rules {
            flapping,
            ..Rules::default()
        },
    );
    let some = arrive(&one, &other, 200).await;
    assert!((20..180).contains(&some), "{some}");
}

async fn forward() {
    let network = Network::new(4).expect("a network");
    let (db, node) = (
        network.host("db").expect("a host"),
        network.host("node").expect("a host"),
    );
    // Outside: answers with what it got.
    let outside = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target = outside.local_addr().expect("bound").to_string();
    let mut echo = tokio::task::JoinSet::new();
    echo.spawn(async move {
        loop {
            let (mut stream, _) = outside.accept().await.expect("accepted");
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let _server = Forward::out_of_host(&db, 5432, target)
        .await
        .expect("forwarded");
    let mut stream = connect(&node, (db.four(), 5432).into()).await;
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.expect("written");
    timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(&answer, b"ping");

    // Cut off, it does not reach the server; the test reaches it.
    network.set_around("node", Rules::CUT);
    stream
        .write_all(b"lost")
        .await
        .expect("the kernel takes it");
    assert!(
        timeout(MOMENT, stream.read_exact(&mut answer))
            .await
            .is_err()
    );
    let inside = listener(&node, [127, 0, 0, 1].into()).await;
    let target = inside.local_addr().expect("bound");
    let way = Forward::into_host(node.clone(), target)
        .await
        .expect("forwarded");
    let mut near = TcpStream::connect(way.address()).await.expect("connected");
    let (mut far, _) = inside.accept().await.expect("accepted");
    near.write_all(b"test").await.expect("written");
    far.read_exact(&mut answer).await.expect("read");
    assert_eq!(&answer, b"test");

    // When the link is back, so is what was sent.
    network.set_all(Rules::default());
    timeout(PATIENCE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("read");
    assert_eq!(&answer, b"lost");
}
