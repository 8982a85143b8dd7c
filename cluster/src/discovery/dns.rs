//! Asking name servers: the only file that names the resolver.
//!
//! The resolver's own cache is off: when to ask again is decided in `candidates`. Answers that
//! do not fit a datagram are asked for again over TCP, which the resolver does by itself.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::timeout;
use tracing::debug;

use super::candidates::Answer;
use super::{Options, Query};

/// Targets of a service that are followed.
const TARGETS_MAX: usize = 64;
/// Time to live of an answer without one.
const TTL_UNSAID: Duration = Duration::from_secs(30);

/// Asks the name servers of the options, or of the system.
#[derive(Clone)]
pub(super) struct Dns {
    resolver: TokioResolver,
    patience: Duration,
}

/// Records of one kind for one name.
enum Records {
    /// What was found, perhaps nothing, and for how long that is good.
    Found(Vec<Record>, Duration),
    /// It is not known whether there are any.
    Unknown,
}

/// Addresses of one name.
struct Hosts {
    addresses: Vec<IpAddr>,
    ttl: Duration,
    /// How many of the two kinds of addresses were answered.
    answered: usize,
}

impl Dns {
    /// # Errors
    ///
    /// What is wrong with the system's configuration.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let mut builder = if options.name_servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|error| error.to_string())?
        } else {
            let servers = options.name_servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let settings = builder.options_mut();
        settings.cache_size = 0;
        settings.timeout = options.timeout;
        settings.attempts = 2;
        if !options.name_servers.is_empty() {
            settings.use_hosts_file = ResolveHosts::Never;
        }
        Ok(Self {
            resolver: builder.build().map_err(|error| error.to_string())?,
            // Twice over each server, and some more for TCP.
            patience: options.timeout * 6,
        })
    }

    /// Asks for one name. Takes a few times [`Options::timeout`] at most.
    pub(super) async fn ask(&self, query: Query) -> Answer {
        match query {
            Query::Fixed(address) => Answer::Addresses {
                addresses: vec![address],
                ttl: Duration::MAX,
                complete: true,
            },
            Query::Addresses { name, port } => self.addresses(&name, port).await,
            Query::Services { name } => self.services(&name).await,
        }
    }

    async fn addresses(&self, name: &str, port: u16) -> Answer {
        let hosts = self.hosts(name).await;
        if hosts.answered == 0 {
            return Answer::Failed;
        }
        Answer::Addresses {
            addresses: with_port(&hosts, port).collect(),
            ttl: hosts.ttl,
            complete: hosts.answered == 2,
        }
    }

    async fn services(&self, name: &str) -> Answer {
        let (records, mut ttl) = match self.records(name, RecordType::SRV).await {
            Records::Found(records, ttl) => (records, ttl),
            Records::Unknown => return Answer::Failed,
        };
        // All targets are peers alike: priorities and weights, which choose one, do not count.
        // A target "." says that there is no such service (RFC 2782).
        let target = |record: &Record| {
            let RData::SRV(service) = &record.data else {
                return None;
            };
            let target = &service.target;
            (!target.is_root()).then(|| (target.to_utf8(), service.port))
        };
        let targets: Vec<(String, u16)> = records
            .iter()
            .filter_map(target)
            .take(TARGETS_MAX)
            .collect();
        let hosts = join_all(targets.iter().map(|(target, _)| self.hosts(target))).await;
        let mut addresses = Vec::new();
        let mut complete = true;
        for ((_, port), hosts) in targets.iter().zip(hosts) {
            addresses.extend(with_port(&hosts, *port));
            complete &= hosts.answered == 2;
            ttl = ttl.min(hosts.ttl);
        }
        Answer::Addresses {
            addresses,
            ttl,
            complete,
        }
    }

    /// Both kinds of addresses, asked for at the same time.
    async fn hosts(&self, name: &str) -> Hosts {
        let (four, six) = tokio::join!(
            self.records(name, RecordType::A),
            self.records(name, RecordType::AAAA)
        );
        let mut hosts = Hosts {
            addresses: Vec::new(),
            ttl: Duration::MAX,
            answered: 0,
        };
        for found in [four, six] {
            if let Records::Found(records, ttl) = found {
                let addresses = records.iter().filter_map(address);
                hosts.addresses.extend(addresses);
                hosts.ttl = hosts.ttl.min(ttl);
                hosts.answered += 1;
            }
        }
        hosts
    }

    async fn records(&self, name: &str, kind: RecordType) -> Records {
        let asked = timeout(self.patience, self.resolver.lookup(name, kind)).await;
        match asked {
            Ok(Ok(lookup)) => {
                // Aliases on the way count for the time, too.
                let ttl = lookup.answers().iter().map(|record| record.ttl).min();
                let ttl = ttl.map_or(TTL_UNSAID, |seconds| Duration::from_secs(seconds.into()));
                Records::Found(lookup.answers().to_vec(), ttl)
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
                if matches!(
                    none.response_code,
                    ResponseCode::NoError | ResponseCode::NXDomain
                ) =>
            {
                let ttl = none.negative_ttl;
                let ttl = ttl.map_or(TTL_UNSAID, |seconds| Duration::from_secs(seconds.into()));
                Records::Found(Vec::new(), ttl)
            }
            Ok(Err(error)) => {
                debug!(name, %kind, %error, "a name was not answered");
                Records::Unknown
            }
            Err(_elapsed) => {
                debug!(name, %kind, "a name was not answered in time");
                Records::Unknown
            }
        }
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    if let RData::A(four) = &record.data {
        Some(IpAddr::V4(four.0))
    } else if let RData::AAAA(six) = &record.data {
        Some(IpAddr::V6(six.0))
    } else {
        None
    }
}

fn with_port(hosts: &Hosts, port: u16) -> impl Iterator<Item = SocketAddr> + '_ {
    hosts
        .addresses
        .iter()
        .map(move |address| SocketAddr::new(*address, port))
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
