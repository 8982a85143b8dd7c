//! Discovery: at which addresses there may be peers.
//!
//! Names are asked for A and AAAA records, or for SRV records, which bring ports along;
//! addresses may be given, too. What comes of all of them is one bounded list of candidates that
//! changes as names do. A candidate is a guess: whether a node is there, and which, shows when it
//! is spoken to. So discovery adds members to a cluster and never removes one; who is gone is
//! for [`gossip`](crate::gossip) to say.
//!
//! - `candidates`: when to ask, and what counts (pure)
//! - `dns`: asking
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use regrow_cluster::discovery::{Discovery, Options, Query};
//! use regrow_cluster::gossip::{self, Gossip};
//! # use regrow_cluster::member::{Incarnation, Member};
//! # use regrow_cluster::secret::ClusterSecret;
//! # let member = Member { name: "anna".into(), incarnation: Incarnation(1) };
//! # let secret = ClusterSecret::from_file("secret".as_ref())?;
//!
//! let discovery = Discovery::start(Options {
//!     queries: vec![
//!         Query::parse("_regrow._udp.example.org", 7100)?,
//!         Query::parse("nodes.example.org", 7100)?,
//!         Query::parse("[2001:db8::1]:7100", 7100)?,
//!     ],
//!     ..Options::default()
//! })?;
//! let options = gossip::Options::new(member, ([10, 0, 0, 1], 7100).into());
//! let gossip = Gossip::start(options, secret, discovery.candidates()).await?;
//! # Ok(())
//! # }
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use candidates::{Answer, Candidates};
use dns::Dns;

mod candidates;
mod dns;

/// Names asked for, by `outcome`: `answered`, `partial` or `failed` (count). `failed` rising: the
/// name servers do not answer; candidates stay as they were.
pub const NAMES_ASKED: &str = "regrow_discovery_names_asked_total";

/// Most names; each is asked by itself.
const QUERIES_MAX: usize = 64;

/// Where to look for peers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// There.
    Fixed(SocketAddr),
    /// At all addresses of a name (A and AAAA).
    Addresses {
        /// The name; one that ends in a dot is not completed by the system's search list.
        name: String,
        /// The port, which addresses do not bring along.
        port: u16,
    },
    /// At all targets of a service (SRV), with their ports.
    Services {
        /// The service's name, as `_regrow._udp.example.org`.
        name: String,
    },
}

/// A text that says nowhere to look.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no place to look for peers: give `host`, `host:port`, `address:port` or `_service._udp.domain`"
)]
pub struct QueryError(String);

impl Query {
    /// Reads `10.0.0.1:7100`, `[2001:db8::1]:7100`, an address without port, `host`,
    /// `host:port`, or the name of a service, which begins with `_`.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if it is none of these.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, QueryError> {
        let error = || QueryError(text.to_owned());
        if let Ok(address) = text.parse() {
            return Ok(Self::Fixed(address));
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Fixed(SocketAddr::new(ip, default_port)));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| error())?)),
            None => (text, None),
        };
        let sound = |label: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            (1..=63).contains(&label.len()) && label.bytes().all(allowed)
        };
        let labels = name.strip_suffix('.').unwrap_or(name);
        if 253 < labels.len() || !labels.split('.').all(sound) {
            return Err(error());
        }
        let name = name.to_owned();
        match port {
            None if name.starts_with('_') => Ok(Self::Services { name }),
            // Its port comes with the answer.
            Some(_) if name.starts_with('_') => Err(error()),
            port => Ok(Self::Addresses {
                name,
                port: port.unwrap_or(default_port),
            }),
        }
    }
}

/// How to look for peers.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to look.
    pub queries: Vec<Query>,
    /// Whom to ask; nobody: the name servers of the system.
    pub name_servers: Vec<SocketAddr>,
    /// Addresses of this node, which are no candidates. One that is not known here does no harm.
    pub own: Vec<SocketAddr>,
    /// Shortest pause before a name is asked again, whatever its time to live.
    pub ttl_floor: Duration,
    /// Longest pause, also after failures.
    pub ttl_ceiling: Duration,
    /// How long an address stays a candidate after its name stopped answering with it.
    pub grace: Duration,
    /// Most candidates, and most addresses of a name.
    pub candidates_max: usize,
    /// How long to wait for a name server before asking again.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queries: Vec::new(),
            name_servers: Vec::new(),
            own: Vec::new(),
            ttl_floor: Duration::from_secs(1),
            ttl_ceiling: Duration::from_secs(60),
            grace: Duration::from_secs(60),
            candidates_max: 256,
            timeout: Duration::from_secs(2),
        }
    }
}

/// Discovery did not start. Nothing was asked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Names are to be asked for, but not whom to ask.
    #[error("the system's name servers are not known ({0}); name some, or give addresses")]
    NameServers(String),
    /// Too many places to look.
    #[error("{count} places to look for peers, at most {QUERIES_MAX} are allowed")]
    Queries {
        /// How many.
        count: usize,
    },
    /// A period or count that must be above zero, or a ceiling below its floor.
    #[error("`{what}` must be above zero, and the ceiling not below the floor")]
    Zero {
        /// Which option.
        what: &'static str,
    },
}

/// Looks for peers until it is dropped. Nothing is kept: a restart asks all names anew.
pub struct Discovery {
    candidates: watch::Receiver<Arc<[SocketAddr]>>,
    anew: Arc<Notify>,
    tasks: JoinSet<()>,
}

impl Discovery {
    /// Asks all names now, and then whenever it is time. Must be called within tokio.
    ///
    /// # Errors
    ///
    /// [`StartError`]; a name that cannot be answered is none.
    pub fn start(options: Options) -> Result<Self, StartError> {
        options.check()?;
        let names = |query: &Query| !matches!(query, Query::Fixed(_));
        // Without names nobody has to be asked, so it does not matter whether anybody could be.
        let dns = match options.queries.iter().any(names) {
            true => Some(Dns::new(&options).map_err(StartError::NameServers)?),
            false => None,
        };
        let mut core = Candidates::new(options);
        let (publish, candidates) = watch::channel(core.at(Duration::ZERO).into());
        let anew = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        if let Some(dns) = dns {
            tasks.spawn(look(core, dns, publish, anew.clone()));
        }
        Ok(Self {
            candidates,
            anew,
            tasks,
        })
    }

    /// The candidates, whenever they change: fixed addresses first, then those that names are
    /// answered with, then those that they were until lately.
    #[must_use]
    pub fn candidates(&self) -> watch::Receiver<Arc<[SocketAddr]>> {
        self.candidates.clone()
    }

    /// Asks all names now, as after the network came back.
    pub fn ask_now(&self) {
        self.anew.notify_one();
    }

    /// Resolves when it has ended, which it does not do by itself while there are names to ask.
    pub async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Options {
    fn check(&self) -> Result<(), StartError> {
        let count = self.queries.len();
        if QUERIES_MAX < count {
            return Err(StartError::Queries { count });
        }
        let wrong = [
            ("ttl_floor", self.ttl_floor.is_zero()),
            ("ttl_ceiling", self.ttl_ceiling < self.ttl_floor),
            ("candidates_max", self.candidates_max == 0),
            ("timeout", self.timeout.is_zero()),
        ];
        match wrong.into_iter().find(|(_, wrong)| *wrong) {
            Some((what, _)) => Err(StartError::Zero { what }),
            None => Ok(()),
        }
    }
}

async fn look(
    mut core: Candidates,
    dns: Dns,
    publish: watch::Sender<Arc<[SocketAddr]>>,
    anew: Arc<Notify>,
) {
    let began = Instant::now();
    let mut rng = SmallRng::from_rng(&mut rand::rng());
    let mut asking: JoinSet<(usize, Query, Answer)> = JoinSet::new();
    loop {
        for (number, query) in core.due(began.elapsed()) {
            let dns = dns.clone();
            asking.spawn(async move {
                let answer = dns.ask(query.clone()).await;
                (number, query, answer)
            });
        }
        let next = core.next().map(|next| began + next);
        tokio::select! {
            () = tokio::time::sleep_until(next.unwrap_or(began)), if next.is_some() => {}
            Some(done) = asking.join_next() => {
                // It panics only by a bug of the resolver's, and is not to be lost then.
                let (number, query, answer) = done.expect("asking does not panic");
                count(&query, &answer);
                core.answered(number, answer, began.elapsed(), &mut rng);
            }
            () = anew.notified() => core.ask_now(began.elapsed()),
        }
        let now: Arc<[SocketAddr]> = core.at(began.elapsed()).into();
        publish.send_if_modified(|shown| {
            let news = *shown != now;
            if news {
                info!(candidates = now.len(), "peers may be elsewhere");
                *shown = now;
            }
            news
        });
    }
}

fn count(query: &Query, answer: &Answer) {
    let outcome = match answer {
        Answer::Addresses { complete: true, .. } => "answered",
        Answer::Addresses { .. } => "partial",
        Answer::Failed => "failed",
    };
    if outcome != "answered" {
        warn!(
            ?query,
            outcome, "a name was not answered; what it stood for stays"
        );
    }
    metrics::counter!(NAMES_ASKED, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        let fixed = |text: &str| Query::Fixed(text.parse().unwrap());
        let addresses = |name: &str, port| Query::Addresses {
            name: name.into(),
            port,
        };
        let service = Query::Services {
            name: "_regrow._udp.example.org".into(),
        };
        let read = [
            ("10.0.0.1:7200", fixed("10.0.0.1:7200")),
            ("[2001:db8::1]:7200", fixed("[2001:db8::1]:7200")),
            ("10.0.0.1", fixed("10.0.0.1:7100")),
            ("2001:db8::1", fixed("[2001:db8::1]:7100")),
            ("nodes.example.org", addresses("nodes.example.org", 7100)),
            ("nodes.example.org.", addresses("nodes.example.org.", 7100)),
            ("nodes:7200", addresses("nodes", 7200)),
            ("_regrow._udp.example.org", service),
        ];
        for (text, expected) in read {
            assert_eq!(Query::parse(text, 7100), Ok(expected), "{text}");
        }
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "a:",
            "a:70000",
            "_s._udp.org:1",
            "a:1:2",
            "é.org",
        ] {
            assert!(Query::parse(text, 7100).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn given_addresses_need_no_name_server_and_wrong_options_are_refused() {
        let fixed = Options {
            queries: vec![Query::parse("10.0.0.1:7100", 0).unwrap()],
            ..Options::default()
        };
        let mut discovery = Discovery::start(fixed.clone()).unwrap();
        let address: SocketAddr = ([10, 0, 0, 1], 7100).into();
        assert_eq!(**discovery.candidates().borrow(), [address]);
        discovery.ask_now();
        discovery.ended().await;

        let refused = |change: fn(&mut Options)| {
            let mut options = fixed.clone();
            change(&mut options);
            Discovery::start(options)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(refused(|options| options.ttl_ceiling = Duration::ZERO).contains("ttl_ceiling"));
        assert!(refused(|options| options.timeout = Duration::ZERO).contains("timeout"));
        let many = refused(|options| options.queries = vec![options.queries[0].clone(); 65]);
        assert!(many.contains("65"), "{many}");
    }
}
