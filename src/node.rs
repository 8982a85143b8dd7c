//! The composition root: wires all crates into one supervised tree.
//!
//! ```text
//! root (rest_for_one)
//! ├─ store      commits what is decided
//! ├─ queue      keeps the queue's time
//! ├─ context    shards of shared task context
//! ├─ agents     planners, workers, critics, memories
//! ├─ placed     agents that the cluster placed here
//! ├─ edge       HTTP
//! ├─ cluster    gossip; the gateway to other nodes; carrier and courier, where there is no
//! │             database; watchdog; the director, which follows the roster
//! └─ health     probes, and regrows what hangs
//! ```
//!
//! Started first to last, stopped last to first. An orderly stop first lets every agent
//! finish within its grace, while the HTTP surface still takes outcomes.

mod agents;
mod announcement;
mod carried;
mod code;
mod edge;
mod gateway;
mod gossip;
mod incarnations;
mod peers;
mod placed;
mod storing;
mod watchdog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use regrow_actors::catalog::Crew;
use regrow_actors::worker::rehearsal::Rehearsal;
use regrow_cluster::agents::Agents;
use regrow_cluster::carrier::{Agreed, ClockUnreadable, LocalClock};
use regrow_cluster::exchange::Exchange;
use regrow_cluster::gossip::FactError;
use regrow_cluster::mail::Mail;
use regrow_cluster::nodes::Nodes;
use regrow_cluster::placing::Placer;
use regrow_cluster::roster::Roster;
use regrow_http::server::{BindError, Server};
use regrow_http::state::{ApiParts, Lifecycle, Phase};
use regrow_http::{Borrowing, Exposition};
use regrow_runtime::access::Access;
use regrow_runtime::actor::StartError;
use regrow_runtime::clock::Clock;
use regrow_runtime::concurrency::Limiter;
use regrow_runtime::concurrency::estimate::LimitSettings;
use regrow_runtime::context::Context;
use regrow_runtime::events::EventBus;
use regrow_runtime::health::{Health, Remediable};
use regrow_runtime::observe;
use regrow_runtime::queue::Queue;
use regrow_runtime::role::Role;
use regrow_runtime::store::data_dir::{DataDir, DataDirError};
use regrow_runtime::store::postgres::{self, Postgres, PostgresConfig};
use regrow_runtime::store::sqlite::{self, Sqlite};
use regrow_runtime::store::writer::Writer;
use regrow_runtime::store::{Store, StoreError};
use regrow_runtime::supervision::{Refusal, Root, RootExit, RootHandle, Strategy, SupervisorSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::agents::LiveAgents;
use self::announcement::ANNOUNCEMENT;
pub(crate) use self::announcement::Announcement;
use self::placed::Placed;
use crate::config::NodeConfig;

/// A node did not start, and nothing of it runs. The data directory is as it was, but for
/// a migration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database file.
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    /// The shared database.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
    /// The address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// What the database holds.
    #[error("the queue could not be loaded")]
    Load(#[from] StoreError),
    /// The tree.
    #[error("the node's tree did not start")]
    Start(#[from] StartError),
    /// The health monitor.
    #[error("the health monitor did not start")]
    Watch(#[source] Refusal),
    /// The metrics recorder.
    #[error("metrics cannot be recorded: {0}")]
    Metrics(String),
    /// The address for other nodes.
    #[error(
        "cannot listen for other nodes on {address}; change `cluster.listen` or `--cluster-listen`"
    )]
    Cluster {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The clock that it would count on beside others.
    #[error(transparent)]
    Clock(#[from] ClockUnreadable),
    /// What the node says of itself.
    #[error("gossip cannot say where this node is")]
    Fact(#[from] FactError),
    /// The file that says where the node listens.
    #[error("cannot write {ANNOUNCEMENT}")]
    Announce(#[source] std::io::Error),
}

impl NodeError {
    /// Another setting mends it: an address or a data directory that cannot be used.
    pub(crate) fn is_wrong_setting(&self) -> bool {
        matches!(
            self,
            Self::Bind(_)
                | Self::Cluster { .. }
                | Self::DataDir(_)
                | Self::Sqlite(sqlite::OpenError::Promoted { .. })
        )
    }
}

/// A running node.
pub(crate) struct Node {
    name: String,
    root: RootHandle,
    queue: Queue,
    http: Option<SocketAddr>,
    lifecycle: Lifecycle,
    draining: CancellationToken,
    open: watch::Sender<bool>,
    placed: Arc<Placed>,
    placer: Placer,
    /// What the node's parts say to other nodes, however often the gateway is started.
    exchange: Exchange,
    /// What it agrees upon with other nodes, where they share no database.
    agreed: Option<Agreed>,
    /// Takes messages to agents then.
    mail: Option<Mail>,
    /// A later start of this node was seen elsewhere.
    replaced: watch::Sender<bool>,
    /// How long its agents may take to stop.
    patience: Duration,
    // Released last: nobody else may open the store before it is closed.
    _data_dir: DataDir,
}

impl Node {
    /// Starts everything, in order; `http` says whether with an HTTP surface.
    ///
    /// # Errors
    ///
    /// [`NodeError`]; nothing is left running.
    pub(crate) async fn start(config: &NodeConfig, http: bool) -> Result<Self, NodeError> {
        let local = match &config.founders {
            Some(_) => Some(LocalClock::system()?),
            None => None,
        };
        let mut data_dir = DataDir::open(&config.data_dir)?;
        let early = edge::bind_early(config, http).await?;
        if let Some(cluster) = &config.cluster {
            peers::is_free(cluster.listen).await?;
        }
        // First, so that whatever is measured finds its place.
        let exposition = http.then(exposition).transpose()?;
        let store = open_store(config, &mut data_dir).await?;
        let (clock, bus) = (store.clock().await?, EventBus::default());
        let writer = Writer::new(store);
        let seed = u64::from(std::process::id());
        let (limits, instance) = (config.queue.clone(), data_dir.identity()?);
        let queue = Queue::open(writer.clone(), bus.clone(), limits, clock, seed).await?;
        let access = Access::open(&writer, clock, &config.name, &instance).await?;
        let server = match early {
            None if http => Some(edge::bind(config, &access, &writer).await?),
            bound => bound,
        };
        let http = server.as_ref().map(Server::address);

        queue.registry().name(&config.name);

        let (draining, open) = (CancellationToken::new(), watch::Sender::new(true));
        let (context, shards) = Context::supervisor(config.context, &writer, clock);
        let limiter = worker_limiter(config);
        let among = config.founders.clone().zip(local);
        let agreed = among.map(|(founders, local)| Agreed::new(founders, clock, local));
        let roster = match &agreed {
            Some(agreed) => Roster::Agreed(agreed.clone()),
            None => Roster::Stored(queue.registry().clone()),
        };
        let (placer, exchange) = (placed::placer(config, &roster)?, Exchange::new(clock));
        let nodes = Nodes::new(roster.clone(), placer.clone(), exchange.clone());
        let borrowing = Borrowing::new(&config.name, &queue, &nodes, &exchange);
        let mut crew = crew(config, &context, &draining, &open, limiter.clone());
        if config.agents.borrow && config.cluster.is_some() && !queue.is_shared() {
            crew.peers = Some(Arc::new(borrowing.clone()));
        }
        let (specs, addresses) = crew.hire(&queue);
        let (placed_here, placed) = Placed::new(crew, queue.clone(), roster.clone());
        let agents = specs.into_iter().fold(
            SupervisorSpec::new("agents", Strategy::OneForOne)
                .intensity(config.agents.restarts_max, config.agents.restart_period)
                .children_max(1_000_000),
            SupervisorSpec::child,
        );
        let remediable = vec![
            Remediable {
                path: agents::AGENTS.into(),
                supervisor: agents.handle(),
            },
            Remediable {
                path: placed::PLACED.into(),
                supervisor: placed.supervisor().clone(),
            },
        ];
        let lifecycle = Lifecycle::default();
        let own = agents.handle();
        let live = LiveAgents::new(addresses, own, placed.clone(), config.rehearsal, limiter);
        let mut root = SupervisorSpec::new("root", Strategy::RestForOne)
            .intensity(3, Duration::from_secs(30))
            .child(storing::store(&queue, config, instance).into_child())
            .child(storing::queue(&queue).into_child())
            .child(shards.into_child())
            .child(agents.into_child())
            .child(placed_here.into_child());
        let mail = agreed
            .clone()
            .map(|agreed| Mail::new(agreed, queue.clone(), exchange.clone()));
        if let Some((server, metrics)) = server.zip(exposition) {
            let parts = ApiParts {
                queue: queue.clone(),
                code: code::code(access.audit.place().clone(), clock, &config.data_dir),
                access,
                agents: live.clone(),
                node: config.name.clone(),
                cluster: Agents::new(roster),
                nodes,
                exchange: exchange.clone(),
                borrowing,
                mail: mail.clone(),
                context: context.clone(),
                metrics,
                lifecycle: lifecycle.clone(),
                settings: config.shown.clone(),
                data_dir: Some(config.data_dir.clone()),
                version: env!("CARGO_PKG_VERSION"),
            };
            root = root.child(edge::edge(server, parts, config).into_child());
        }
        let root = Root::start(root).await?;
        let node = Self {
            name: config.name.clone(),
            root,
            queue,
            http,
            lifecycle,
            draining,
            open,
            placed,
            placer,
            exchange,
            agreed,
            mail,
            replaced: watch::Sender::new(false),
            patience: config.agents.limits.grace + Duration::from_secs(4),
            _data_dir: data_dir,
        };
        if let Err(error) = node
            .open_for_business(config, live, remediable, bus, clock)
            .await
        {
            // Whoever tries again must find the store closed.
            node.stop().await;
            return Err(error);
        }
        Ok(node)
    }

    /// Watches over the tree, and says that the node is there.
    async fn open_for_business(
        &self,
        config: &NodeConfig,
        live: Arc<LiveAgents>,
        remediable: Vec<Remediable>,
        bus: EventBus,
        clock: Clock,
    ) -> Result<(), NodeError> {
        let root = &self.root;
        let (health, monitor) =
            Health::monitor(config.health, root.tree(), remediable, bus.clone(), clock);
        let for_watchdog = bus.clone();
        let watchers = SupervisorSpec::new("health", Strategy::OneForOne)
            .intensity(5, Duration::from_secs(30))
            .child(observe::observer(root.tree(), bus))
            .child(monitor);
        root.supervisor()
            .start_child(watchers.into_child())
            .await
            .map_err(NodeError::Watch)?;
        live.see(root.tree(), health);
        let watchdog = watchdog::watchdog(
            config,
            &self.queue,
            self.placed.roster(),
            &live,
            &self.placer,
            &for_watchdog,
        );
        let director = placed::director(
            &config.name,
            &self.placed,
            &self.placer,
            &self.open,
            &root.tree(),
            config.agents.limits.grace + Duration::from_secs(5),
        );
        let mut cluster = SupervisorSpec::new("cluster", Strategy::OneForOne)
            .intensity(3, Duration::from_secs(30))
            .child(watchdog);
        if let Some(settings) = &config.cluster {
            for child in self.peers(config, settings, clock)? {
                cluster = cluster.child(child);
            }
        }
        if let Some(agreed) = &self.agreed {
            let (queue, exchange) = (&self.queue, &self.exchange);
            let carrier = carried::carrier(agreed, queue, exchange, &self.placer, &self.replaced);
            cluster = cluster.child(carrier);
        }
        if let Some(mail) = &self.mail {
            cluster = cluster.child(carried::courier(mail));
        }
        // The last, so that whatever it says while it stops can still be said.
        let cluster = cluster.child(director);
        root.supervisor()
            .start_child(cluster.into_child())
            .await
            .map_err(NodeError::Watch)?;
        watchdog::introduce(&self.queue, &self.placer).await;
        self.announce(config).map_err(NodeError::Announce)?;
        self.lifecycle.enter(Phase::Ready);
        Ok(())
    }

    fn announce(&self, config: &NodeConfig) -> std::io::Result<()> {
        let Some(http) = self.http else { return Ok(()) };
        let announcement = Announcement {
            pid: std::process::id(),
            name: config.name.clone(),
            http,
        };
        announcement.write(&config.data_dir)
    }

    /// The node's queue.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Where it listens.
    pub(crate) fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Returns when the tree has ended, asked to or not.
    pub(crate) async fn exited(&self) -> RootExit {
        self.root.exited().await
    }

    /// Returns when another node has taken over this node's tasks, with who: this one has to
    /// be stopped.
    pub(crate) async fn superseded(&self) -> StoreError {
        let mut replaced = self.replaced.subscribe();
        tokio::select! {
            by = self.queue.writer().superseded() => by,
            // Its sender is this node's.
            _ = replaced.wait_for(|replaced| *replaced) => StoreError::Superseded {
                node: self.name.as_str().into(),
                by: "a later start of it, elsewhere,".into(),
            },
        }
    }

    /// Stops in order: no further claim; agents finish within their grace and hand back
    /// what they did not finish; then everything else, last to first. The store is closed
    /// when this returns.
    pub(crate) async fn stop(&self) -> RootExit {
        self.lifecycle.enter(Phase::Stopping);
        // Other nodes take its agents as soon as each has finished here.
        watchdog::take_leave(&self.queue, &self.placer).await;
        self.placer.drain();
        self.draining.cancel();
        let supervisor = self.root.supervisor();
        let _ = supervisor.terminate_child("health").await;
        if !self.placed.given_away(self.patience).await {
            warn!(
                "some agents were not given away in time; others take them when this node's life has run out"
            );
        }
        // Agents first: what they leased from peers is told there through the cluster's gateway.
        for child in ["agents", "cluster", "placed", "edge"] {
            // Refused only when the tree is ending already.
            let _ = supervisor.terminate_child(child).await;
        }
        // What is still out is with workers elsewhere, who will find their epoch stale.
        match self.queue.hand_back_all().await {
            Ok(0) => {}
            Ok(leases) => info!(leases, "leases handed back"),
            Err(reason) => warn!(%reason, "leases not handed back; the next start takes them"),
        }
        self.root.shutdown();
        self.root.exited().await
    }
}

/// Begins with as many at work as may keep the processors busy, and finds out the rest.
fn worker_limiter(config: &NodeConfig) -> Option<Limiter> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let settings = LimitSettings::new(1, config.agents.workers, 2 * cores);
    config
        .agents
        .adaptive
        .then(|| Limiter::new(Role::Worker.as_str(), settings))
}

fn crew(
    config: &NodeConfig,
    context: &Context,
    draining: &CancellationToken,
    open: &watch::Sender<bool>,
    worker_limiter: Option<Limiter>,
) -> Crew {
    let rehearsal = Rehearsal {
        trace: config.data_dir.join("rehearsal.trace"),
    };
    Crew {
        planners: config.agents.planners,
        workers: config.agents.workers,
        critics: config.agents.critics,
        memories: config.agents.memories,
        worker_limiter,
        limits: config.agents.limits.clone(),
        reports: config.data_dir.clone(),
        rehearsal: config.rehearsal.then_some(rehearsal),
        peers: None,
        context: context.clone(),
        draining: draining.clone(),
        open: open.subscribe(),
    }
}

/// The store that is configured, and no other: one that cannot be used stops the start.
async fn open_store(config: &NodeConfig, data_dir: &mut DataDir) -> Result<Store, NodeError> {
    let Some(url) = config.database_url.clone() else {
        return Ok(Store::Sqlite(Sqlite::open(data_dir).await?));
    };
    let shared = PostgresConfig {
        url,
        node: config.name.clone(),
        instance: data_dir.identity()?,
        life_term: config.life_term,
    };
    let shared = Postgres::open(shared).await?;
    let file = data_dir.path().join(sqlite::FILE);
    let mark = match file.exists() {
        true => sqlite::export::mark(&file).await,
        false => Ok(None),
    };
    match mark {
        Ok(Some(mark)) => shared.confirm(&mark).await?,
        Ok(None) if data_dir.is_new() => {}
        Ok(None) => warn!(
            data_dir = %data_dir.path().display(),
            "the data directory also holds a database file, whose tasks this node does not see; \
             `regrow store promote` moves them while no node runs on it"
        ),
        Err(reason) => warn!(%reason, "whether the file's tasks were moved is not known"),
    }
    Ok(Store::Postgres(shared))
}

fn exposition() -> Result<Exposition, NodeError> {
    Exposition::install().map_err(|error| NodeError::Metrics(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use regrow_runtime::json::Json;
    use regrow_runtime::queue::task::{NewTask, TaskState};

    use super::*;
    use crate::config::{self, Overrides};

    fn config(data_dir: &Path, http: &str) -> NodeConfig {
        let overrides = Overrides {
            file: Some("/dev/null".into()),
            data_dir: Some(data_dir.to_owned()),
            http: Some(http.to_owned()),
            ..Overrides::default()
        };
        let loaded = config::load(&overrides, std::iter::empty());
        loaded.expect("a valid configuration").config
    }

    #[tokio::test]
    async fn a_start_that_failed_early_or_late_leaves_nothing_running() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound").to_string();
        let refused = Node::start(&config(dir.path(), &address), true).await;
        assert!(matches!(refused.err(), Some(NodeError::Bind(_))));

        // Nothing can be renamed over a directory: the last step fails.
        std::fs::create_dir(dir.path().join(ANNOUNCEMENT)).expect("created");
        let refused = Node::start(&config(dir.path(), "127.0.0.1:0"), true).await;
        assert!(matches!(refused.err(), Some(NodeError::Announce(_))));

        let node = Node::start(&config(dir.path(), &address), false)
            .await
            .expect("nobody holds the data directory any more");
        let task = NewTask::new("k", Json::null());
        let id = node.queue().submit(task).await.expect("accepted").id;
        let exit = node.stop().await;
        assert!(exit.was_requested(), "{exit}");
        drop(node);

        let node = Node::start(&config(dir.path(), &address), false)
            .await
            .expect("a stopped node lets go of its data");
        let view = node.queue().task(id).await.expect("readable");
        assert_eq!(view.expect("durable").state(), TaskState::Available);
        node.stop().await;
    }
}
