//! Discovery against a real name server on loopback, whose records change while it runs.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::Mutex;
use regrow_cluster::discovery::{Discovery, Options, Query};
use regrow_cluster::gossip::{self, Gossip, Status};
use regrow_cluster::member::{Incarnation, Member};
use regrow_cluster::secret::ClusterSecret;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::{Instant, timeout};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is answered for a name and a kind.
#[derive(Clone)]
enum Reply {
    Records(Vec<Record>),
    /// No such name, good for so many seconds.
    Nothing(u32),
    Code(ResponseCode),
    /// Nothing is sent back.
    Silence,
}

/// Questions that were asked: what, how, and when.
type Asked = Vec<(RecordType, Protocol, Instant)>;

#[derive(Clone, Default)]
struct Zone {
    replies: Arc<Mutex<HashMap<(String, RecordType), Reply>>>,
    asked: Arc<Mutex<HashMap<String, Asked>>>,
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn record(of: &str, seconds: u32, data: RData) -> Record {
    Record::from_rdata(name(of), seconds, data)
}

fn host(of: &str, seconds: u32, addresses: &[&str]) -> Reply {
    let data = |text: &&str| match text.parse().expect("an address") {
        IpAddr::V4(four) => RData::A(A(four)),
        IpAddr::V6(six) => RData::AAAA(AAAA(six)),
    };
    let records = addresses.iter().map(data);
    Reply::Records(records.map(|data| record(of, seconds, data)).collect())
}

fn service(of: &str, seconds: u32, targets: &[(&str, u16)]) -> Reply {
    let records = targets.iter().map(|(target, port)| {
        let data = RData::SRV(SRV::new(10, 5, *port, name(target)));
        record(of, seconds, data)
    });
    Reply::Records(records.collect())
}

impl Zone {
    fn set(&self, of: &str, kind: RecordType, reply: Reply) {
        self.replies.lock().insert((of.to_owned(), kind), reply);
    }

    /// IPv4 addresses, and no others.
    fn set_host(&self, of: &str, seconds: u32, addresses: &[&str]) {
        self.set(of, RecordType::A, host(of, seconds, addresses));
        self.set(of, RecordType::AAAA, Reply::Records(Vec::new()));
    }

    fn asked(&self, of: &str, kind: RecordType) -> Vec<(Protocol, Instant)> {
        let asked = self.asked.lock();
        let asked = asked.get(of).into_iter().flatten();
        let same = asked.filter(|asked| asked.0 == kind);
        same.map(|asked| (asked.1, asked.2)).collect()
    }

    /// Serves on both UDP and TCP, at the same port.
    async fn serve(&self) -> (Server<Zone>, SocketAddr) {
        loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            let address = tcp.local_addr().expect("bound");
            // Somebody else may have it for UDP.
            let Ok(udp) = UdpSocket::bind(address).await else {
                continue;
            };
            let mut server = Server::new(self.clone());
            server.register_socket(udp);
            server.register_listener(tcp, Duration::from_secs(5), 16);
            return (server, address);
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response: R,
    ) -> ResponseInfo {
        let asked = request.request_info().expect("one question");
        let kind = asked.query.query_type();
        let of = asked
            .query
            .name()
            .to_string()
            .trim_end_matches('.')
            .to_owned();
        let entry = (kind, request.protocol(), Instant::now());
        self.asked.lock().entry(of.clone()).or_default().push(entry);
        let reply = self.replies.lock().get(&(of, kind)).cloned();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let (records, authority) = match reply.unwrap_or(Reply::Code(ResponseCode::Refused)) {
            Reply::Records(records) => (records, None),
            Reply::Nothing(seconds) => {
                metadata.response_code = ResponseCode::NXDomain;
                let origin = name("example.org");
                let soa = SOA::new(origin.clone(), origin, 1, 60, 60, 600, seconds);
                (
                    Vec::new(),
                    Some(record("example.org", seconds, RData::SOA(soa))),
                )
            }
            Reply::Code(code) => {
                metadata.response_code = code;
                (Vec::new(), None)
            }
            Reply::Silence => {
                let counts = HeaderCounts::default();
                return Header { metadata, counts }.into();
            }
        };
        // As its answers are cut to what the asker takes, so is what fits a datagram.
        let message = MessageResponseBuilder::from_message_request(request);
        let message = message.build(metadata, &records, &[], authority.iter(), &[]);
        response.send_response(message).await.expect("it is sent")
    }
}

fn options(server: SocketAddr, queries: &[&str]) -> Options {
    let query = |text: &&str| Query::parse(text, 7100).expect("a place");
    Options {
        queries: queries.iter().map(query).collect(),
        name_servers: vec![server],
        ttl_floor: Duration::from_millis(100),
        ttl_ceiling: Duration::from_secs(2),
        grace: Duration::from_millis(500),
        timeout: Duration::from_millis(300),
        ..Options::default()
    }
}

async fn until(discovery: &Discovery, expected: &[&str]) {
    let mut expected: Vec<SocketAddr> = expected
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    expected.sort();
    let mut candidates = discovery.candidates();
    let same = |now: &Arc<[SocketAddr]>| {
        let mut now = now.to_vec();
        now.sort();
        now == expected
    };
    let seen = timeout(PATIENCE, candidates.wait_for(same)).await.is_ok();
    let now = discovery.candidates().borrow().clone();
    assert!(seen, "waited for {expected:?}, has {now:?}");
}

/// Waits until this was asked so many times more.
async fn until_asked(zone: &Zone, of: &str, kind: RecordType, more: usize) {
    let before = zone.asked(of, kind).len();
    let began = Instant::now();
    while zone.asked(of, kind).len() < before + more {
        assert!(began.elapsed() < PATIENCE, "{of} is not asked any more");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn names_services_and_addresses_of_both_families_become_candidates() {
    let zone = Zone::default();
    let (_server, address) = zone.serve().await;
    let both = "both.example.org";
    zone.set(
        both,
        RecordType::A,
        host(both, 60, &["10.0.0.1", "10.0.0.2"]),
    );
    zone.set(both, RecordType::AAAA, host(both, 60, &["2001:db8::1"]));
    let srv = "_regrow._udp.example.org";
    let targets = [("x.example.org", 7201), ("y.example.org", 7202)];
    zone.set(srv, RecordType::SRV, service(srv, 60, &targets));
    zone.set_host("x.example.org", 60, &["10.0.1.1"]);
    // An alias on the way.
    let alias = record(
        "y.example.org",
        60,
        RData::CNAME(CNAME(name("z.example.org"))),
    );
    let Reply::Records(mut records) = host("z.example.org", 60, &["10.0.1.2"]) else {
        unreachable!("records");
    };
    records.insert(0, alias.clone());
    zone.set("y.example.org", RecordType::A, Reply::Records(records));
    zone.set(
        "y.example.org",
        RecordType::AAAA,
        Reply::Records(vec![alias]),
    );
    zone.set(
        "z.example.org",
        RecordType::AAAA,
        Reply::Records(Vec::new()),
    );
    // There is no such service.
    let none = "_none._udp.example.org";
    zone.set(none, RecordType::SRV, service(none, 60, &[(".", 0)]));

    let queries = [
        &format!("{both}:7000"),
        srv,
        none,
        "[2001:db8::9]:7009",
        "10.0.9.9",
    ];
    let discovery = Discovery::start(options(address, &queries)).unwrap();
    let expected = [
        "10.0.0.1:7000",
        "10.0.0.2:7000",
        "[2001:db8::1]:7000",
        "10.0.1.1:7201",
        "10.0.1.2:7202",
        "[2001:db8::9]:7009",
        "10.0.9.9:7100",
    ];
    until(&discovery, &expected).await;
    // Given addresses come first.
    let first = discovery.candidates().borrow()[0];
    assert_eq!(first, "[2001:db8::9]:7009".parse().unwrap());
}

#[tokio::test]
async fn names_are_followed_as_they_change_and_vanish() {
    let zone = Zone::default();
    let (_server, address) = zone.serve().await;
    let of = "nodes.example.org";
    zone.set_host(of, 0, &["10.0.0.1"]);
    let discovery = Discovery::start(options(address, &[of])).unwrap();
    until(&discovery, &["10.0.0.1:7100"]).await;
    // One comes; the other stays for the grace, then goes.
    zone.set_host(of, 0, &["10.0.0.2"]);
    until(&discovery, &["10.0.0.1:7100", "10.0.0.2:7100"]).await;
    until(&discovery, &["10.0.0.2:7100"]).await;
    // The name is gone.
    zone.set(of, RecordType::A, Reply::Nothing(0));
    zone.set(of, RecordType::AAAA, Reply::Nothing(0));
    until(&discovery, &[]).await;
    // It comes back: it was asked all the while.
    zone.set_host(of, 0, &["10.0.0.3"]);
    until(&discovery, &["10.0.0.3:7100"]).await;
}

#[tokio::test]
async fn a_name_is_asked_when_its_time_runs_out_and_not_before() {
    let zone = Zone::default();
    let (_server, address) = zone.serve().await;
    zone.set_host("second.example.org", 1, &["10.0.0.1"]);
    zone.set_host("never.example.org", 86_400, &["10.0.0.2"]);
    zone.set_host("always.example.org", 0, &["10.0.0.3"]);
    let queries = [
        "second.example.org",
        "never.example.org",
        "always.example.org",
    ];
    let mut short = options(address, &queries);
    short.ttl_ceiling = Duration::from_secs(3600);
    let discovery = Discovery::start(short).unwrap();
    until_asked(&zone, "second.example.org", RecordType::A, 4).await;
    let pauses = |of: &str| {
        let asked = zone.asked(of, RecordType::A);
        let pairs = asked.windows(2).map(|pair| pair[1].1 - pair[0].1);
        pairs.collect::<Vec<Duration>>()
    };
    let second = pauses("second.example.org");
    assert!(
        second
            .iter()
            .all(|pause| Duration::from_millis(990) < *pause),
        "{second:?}"
    );
    // Not more often than the floor allows, whatever the time to live.
    let always = pauses("always.example.org");
    assert!(second.len() < always.len(), "{always:?}");
    assert!(
        always
            .iter()
            .all(|pause| Duration::from_millis(95) < *pause),
        "{always:?}"
    );
    assert!(pauses("never.example.org").is_empty());
    // Unless somebody wants to know now.
    discovery.ask_now();
    until_asked(&zone, "never.example.org", RecordType::A, 1).await;
}

#[tokio::test]
async fn failing_and_silent_name_servers_cost_no_candidate() {
    let zone = Zone::default();
    let (_server, address) = zone.serve().await;
    let of = "nodes.example.org";
    zone.set_host(of, 0, &["10.0.0.1", "10.0.0.2"]);
    let discovery = Discovery::start(options(address, &[of])).unwrap();
    until(&discovery, &["10.0.0.1:7100", "10.0.0.2:7100"]).await;
    let mut candidates = discovery.candidates();
    candidates.mark_unchanged();
    let bad = [
        Reply::Code(ResponseCode::ServFail),
        Reply::Code(ResponseCode::Refused),
        Reply::Silence,
    ];
    for reply in bad {
        zone.set(of, RecordType::A, reply.clone());
        zone.set(of, RecordType::AAAA, reply);
        // Longer than the grace.
        tokio::time::sleep(Duration::from_millis(700)).await;
        until_asked(&zone, of, RecordType::A, 1).await;
        assert!(!candidates.has_changed().unwrap());
    }
    // Only one family is answered, and with less: that is no evidence either.
    zone.set(of, RecordType::A, Reply::Code(ResponseCode::ServFail));
    zone.set(of, RecordType::AAAA, host(of, 0, &["2001:db8::1"]));
    let all = ["10.0.0.1:7100", "10.0.0.2:7100", "[2001:db8::1]:7100"];
    until(&discovery, &all).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    until(&discovery, &all).await;
    // All is well again.
    zone.set(of, RecordType::A, host(of, 0, &["10.0.0.2"]));
    until(&discovery, &["10.0.0.2:7100", "[2001:db8::1]:7100"]).await;
}

#[tokio::test]
async fn a_service_with_a_target_that_is_not_answered_keeps_what_was_known_of_it() {
    let zone = Zone::default();
    let (_server, address) = zone.serve().await;
    let srv = "_regrow._udp.example.org";
    let targets = [("x.example.org", 7201), ("y.example.org", 7202)];
    zone.set(srv, RecordType::SRV, service(srv, 0, &targets));
    zone.set_host("x.example.org", 0, &["10.0.1.1"]);
    zone.set_host("y.example.org", 0, &["10.0.1.2"]);
    let discovery = Discovery::start(options(address, &[srv])).unwrap();
    until(&discovery, &["10.0.1.1:7201", "10.0.1.2:7202"]).await;
    zone.set(
        "y.example.org",
        RecordType::A,
        Reply::Code(ResponseCode::ServFail),
    );
    zone.set_host("x.example.org", 0, &["10.0.1.3"]);
    let all = ["10.0.1.1:7201", "10.0.1.2:7202", "10.0.1.3:7201"];
    until(&discovery, &all).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    until(&discovery, &all).await;
    // The target is taken out of the service.
    zone.set(srv, RecordType::SRV, service(srv, 0, &targets[..1]));
    until(&discovery, &["10.0.1.3:7201"]).await;
}

#[tokio::test]
async fn an_answer_too_large_for_a_datagram_is_fetched_over_tcp() {
    let zone = Zone::default();
    let (_server, address) = zone.serve().await;
    let of = "many.example.org";
    let addresses: Vec<String> = (0..200).map(|last| format!("10.0.7.{last}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    zone.set_host(of, 60, &addresses);
    let discovery = Discovery::start(options(address, &[of])).unwrap();
    let expected: Vec<String> = addresses
        .iter()
        .map(|text| format!("{text}:7100"))
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    until(&discovery, &expected).await;
    let asked = zone.asked(of, RecordType::A);
    let how: Vec<Protocol> = asked.iter().map(|(protocol, _)| *protocol).collect();
    assert_eq!(how, [Protocol::Udp, Protocol::Tcp]);
}

#[tokio::test]
async fn nodes_find_each_other_by_a_name_alone() {
    let zone = Zone::default();
    let (_server, server) = zone.serve().await;
    let srv = "_regrow._udp.example.org";
    zone.set(srv, RecordType::SRV, Reply::Nothing(0));
    zone.set_host("here.example.org", 0, &["127.0.0.1"]);
    let secret = ClusterSecret::from_bytes(&(0..32).collect::<Vec<u8>>()).unwrap();
    let mut nodes = Vec::new();
    for node in ["a", "b", "c"] {
        let discovery = Discovery::start(options(server, &[srv])).unwrap();
        let member = Member {
            name: node.into(),
            incarnation: Incarnation(1),
        };
        let options = gossip::Options::new(member, ([127, 0, 0, 1], 0).into());
        let gossip = Gossip::start(options, secret.clone(), discovery.candidates()).await;
        nodes.push((discovery, gossip.unwrap()));
    }
    // The service appears once the nodes run; each finds itself among its targets, too.
    let ports: Vec<(&str, u16)> = nodes
        .iter()
        .map(|(_, gossip)| ("here.example.org", gossip.address().port()))
        .collect();
    zone.set(srv, RecordType::SRV, service(srv, 0, &ports));
    for (_, gossip) in &nodes {
        let mut views = gossip.views();
        let both = views.wait_for(|view| view.up().count() == 2);
        timeout(PATIENCE, both).await.expect("in time").unwrap();
    }
    // The names vanish, and the members stay.
    zone.set(srv, RecordType::SRV, Reply::Nothing(0));
    for (discovery, gossip) in &nodes {
        until(discovery, &[]).await;
        let view = gossip.view();
        assert!(
            view.peers.values().all(|peer| peer.status == Status::Up),
            "{view:?}"
        );
    }
}
