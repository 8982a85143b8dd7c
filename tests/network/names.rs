//! A small authoritative name server on a host of the network, whose answers change.

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket as StdUdp};
use std::sync::Arc;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::A;
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::Mutex;
use regrow_testnet::Host;
use tokio::net::UdpSocket;

/// For how many seconds answers are good.
const SECONDS: u32 = 1;

/// What is answered for a name.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These, and no others.
    Addresses(Vec<Ipv4Addr>),
    /// The server cannot tell.
    Failure,
    /// Nothing is sent back.
    Silence,
}

#[derive(Clone, Default)]
struct Zone {
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    asked: Arc<Mutex<HashMap<(String, RecordType), u64>>>,
}

/// Serves until it is dropped.
pub(crate) struct Names {
    zone: Zone,
    _server: Server<Zone>,
}

impl Names {
    pub(crate) async fn serve(host: &Host) -> Self {
        let socket = host.run(|| {
            let socket = StdUdp::bind(("0.0.0.0", 53)).expect("the port of names");
            socket.set_nonblocking(true).expect("not blocking");
            socket
        });
        let zone = Zone::default();
        let mut server = Server::new(zone.clone());
        server.register_socket(UdpSocket::from_std(socket).expect("a runtime"));
        Self {
            zone,
            _server: server,
        }
    }

    pub(crate) fn set(&self, name: &str, reply: Reply) {
        self.zone.replies.lock().insert(name.to_owned(), reply);
    }

    /// How often a name was asked for.
    pub(crate) fn asked(&self, name: &str, kind: RecordType) -> u64 {
        let asked = self.zone.asked.lock();
        asked.get(&(name.to_owned(), kind)).copied().unwrap_or(0)
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
        let of = asked.query.name().to_string();
        let of = of.trim_end_matches('.').to_owned();
        *self.asked.lock().entry((of.clone(), kind)).or_default() += 1;
        let reply = self.replies.lock().get(&of).cloned();
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let name = Name::from_ascii(&of).expect("it was asked for");
        let records = match reply {
            Some(Reply::Addresses(addresses)) if kind == RecordType::A => addresses
                .into_iter()
                .map(|address| Record::from_rdata(name.clone(), SECONDS, RData::A(A(address))))
                .collect(),
            Some(Reply::Addresses(_)) => Vec::new(),
            Some(Reply::Silence) => {
                let counts = HeaderCounts::default();
                return Header { metadata, counts }.into();
            }
            Some(Reply::Failure) | None => {
                metadata.response_code = ResponseCode::ServFail;
                Vec::new()
            }
        };
        let message = MessageResponseBuilder::from_message_request(request);
        let message = message.build(metadata, &records, &[], &[], &[]);
        // Who asked may be cut off by now.
        let sent = response.send_response(message).await;
        sent.unwrap_or_else(|_| {
            let counts = HeaderCounts::default();
            Header { metadata, counts }.into()
        })
    }
}
