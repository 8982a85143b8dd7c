//! Nodes as real processes, each on a host of its own, with the database on another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use regrow_testnet::{Forward, Host, Network};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::schema::Schema;
use super::tell;
use super::witness::{Seen, Witness};

/// Nothing that has to happen takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The host on which the database is.
pub(crate) const DATABASE: &str = "database";
/// Where each node takes its HTTP calls, on its own host.
const HTTP_PORT: u16 = 7400;
/// Where each node takes gossip.
pub(crate) const GOSSIP_PORT: u16 = 7410;
const DATABASE_PORT: u16 = 5432;

/// Who says whose an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authority {
    /// One PostgreSQL, which has the tasks, too.
    Database,
    /// A quorum of the nodes, each of which has a file for its own tasks.
    Quorum,
}

/// How a cluster is made.
pub(crate) struct Plan {
    /// Decides what the network does to packets.
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) authority: Authority,
    /// How long a life lasts without renewal, if not as long as by default.
    pub(crate) life_term: Option<&'static str>,
    /// What nodes ask to find each other; otherwise each knows all addresses.
    pub(crate) dns: Option<(&'static str, Ipv4Addr)>,
    /// The program that they begin with, if not the one of this version.
    pub(crate) program: Option<PathBuf>,
}

/// Nodes, their network and their database.
pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) database: Option<Database>,
    http: reqwest::Client,
    dir: TempDir,
}

/// The database of a cluster.
pub(crate) struct Database {
    pub(crate) schema: Schema,
    pub(crate) witness: Witness,
    /// Where it is for the nodes.
    url: String,
    _forward: Forward,
}

/// A node: a place for a process, which comes and goes.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) host: Arc<Host>,
    pub(crate) dir: PathBuf,
    settings: Vec<(&'static str, String)>,
    way: Forward,
    http: reqwest::Client,
    /// What it runs when it is started next.
    program: Mutex<PathBuf>,
    process: Mutex<Option<Child>>,
}

impl Cluster {
    /// A network, and nodes on it that do not run yet.
    pub(crate) async fn plan(plan: &Plan) -> Self {
        Self::plan_on(Network::new(plan.seed).expect("a network"), plan).await
    }

    /// The same on a network that has other hosts already.
    pub(crate) async fn plan_on(network: Network, plan: &Plan) -> Self {
        let database = match plan.authority {
            Authority::Database => Some(Database::on(&network).await),
            Authority::Quorum => None,
        };
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(3))
            .connect_timeout(Duration::from_secs(1))
            .build()
            .expect("a client");
        let dir = tempfile::tempdir().expect("a directory");
        let secret = "of this cluster, made for one test alone";
        std::fs::write(dir.path().join("secret"), secret).expect("written");
        let mut cluster = Self {
            network,
            nodes: Vec::new(),
            database,
            http,
            dir,
        };
        let names: Vec<String> = (1..=plan.nodes)
            .map(|number| format!("n{number}"))
            .collect();
        let hosts: Vec<Arc<Host>> = names
            .iter()
            .map(|name| cluster.network.host(name).expect("a host"))
            .collect();
        let seeds: Vec<String> = hosts
            .iter()
            .map(|host| format!("{}:{GOSSIP_PORT}", host.four()))
            .collect();
        for (name, host) in names.iter().zip(hosts) {
            let places = match plan.dns {
                Some((query, server)) => {
                    let file = cluster.dir.path().join(format!("{name}.resolv.conf"));
                    host.ask_name_server(server, &file).expect("its own names");
                    ("REGROW_CLUSTER__DNS", format!("{query}:{GOSSIP_PORT}"))
                }
                None => ("REGROW_CLUSTER__SEEDS", seeds.join(",")),
            };
            let authority = match &cluster.database {
                Some(database) => ("REGROW_STORE__DATABASE_URL", database.url.clone()),
                None => ("REGROW_CLUSTER__FOUNDERS", names.join(",")),
            };
            let node = cluster.node(name, host, plan, [places, authority]).await;
            cluster.nodes.push(Arc::new(node));
        }
        cluster
    }

    /// The same, and all nodes run and know of each other.
    pub(crate) async fn start(plan: &Plan) -> Self {
        let cluster = Self::plan(plan).await;
        cluster.start_all().await;
        cluster
    }

    /// Who says whose an agent is.
    pub(crate) fn authority(&self) -> Authority {
        match self.database {
            Some(_) => Authority::Database,
            None => Authority::Quorum,
        }
    }

    /// Starts all nodes, and waits until each hears all others.
    pub(crate) async fn start_all(&self) {
        for node in &self.nodes {
            node.start();
        }
        for node in &self.nodes {
            node.until_ready().await;
        }
        self.until_all_heard().await;
    }

    /// Waits until each node hears all others: the cluster has formed.
    pub(crate) async fn until_all_heard(&self) {
        let began = Instant::now();
        for node in &self.nodes {
            loop {
                let heard = node.heard_up().await;
                if self.nodes.iter().all(|other| heard.contains(&other.name)) {
                    break;
                }
                let name = &node.name;
                assert!(
                    began.elapsed() < PATIENCE,
                    "{name} hears of no more than {heard:?}"
                );
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// The file with the cluster's secret.
    pub(crate) fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    async fn node(
        &self,
        name: &str,
        host: Arc<Host>,
        plan: &Plan,
        own: [(&'static str, String); 2],
    ) -> Node {
        let listen = SocketAddr::from((host.four(), GOSSIP_PORT));
        let way = Forward::into_host(host.clone(), ([127, 0, 0, 1], HTTP_PORT).into()).await;
        let secret = self.secret().display().to_string();
        let settings = [
            ("REGROW_REHEARSAL__ENABLED", "true".to_owned()),
            ("REGROW_LOG__FORMAT", "json".to_owned()),
            ("REGROW_AGENTS__LEASE", "3s".to_owned()),
            ("REGROW_AGENTS__GRACE", "2s".to_owned()),
            ("REGROW_AGENTS__WORKERS", "2".to_owned()),
            ("REGROW_QUEUE__RETRY_FIRST", "50ms".to_owned()),
            ("REGROW_QUEUE__RETRY_MAX", "1s".to_owned()),
            ("REGROW_QUEUE__LOSSES_MAX", "1000".to_owned()),
            // Nodes are lost on purpose here, again and again; that is not held against them.
            ("REGROW_CLUSTER__WATCHDOG__THRESHOLD", "1000000".to_owned()),
            ("REGROW_NODE__NAME", name.to_owned()),
            ("REGROW_HTTP__LISTEN", format!("127.0.0.1:{HTTP_PORT}")),
            ("REGROW_CLUSTER__LISTEN", listen.to_string()),
            ("REGROW_CLUSTER__SECRET_FILE", secret),
        ];
        let term = plan
            .life_term
            .map(|term| ("REGROW_STORE__LIFE_TERM", term.to_owned()));
        Node {
            name: name.to_owned(),
            dir: self.dir.path().join(name),
            host,
            settings: settings.into_iter().chain(own).chain(term).collect(),
            way: way.expect("a way to its HTTP"),
            http: self.http.clone(),
            program: Mutex::new(plan.program.clone().unwrap_or_else(this_version)),
            process: Mutex::default(),
        }
    }

    /// Starts those again that have ended, as a service manager does; says how they ended.
    pub(crate) fn start_ended(&self) -> Vec<(String, Option<i32>)> {
        let mut ended = Vec::new();
        for node in &self.nodes {
            if let Some(status) = node.has_ended() {
                ended.push((node.name.clone(), status.code()));
                node.start();
            }
        }
        ended
    }

    /// Places agents that may crash as often as they like.
    pub(crate) async fn place(&self, agents: &BTreeSet<String>) {
        for id in agents {
            let intensity = json!({ "restarts_max": 100, "within_ms": 10_000 });
            let spec = json!({ "id": id, "role": "worker", "intensity": intensity });
            let began = Instant::now();
            loop {
                let answer = self.nodes[0].post("/v1/agents", &spec).await;
                // A quorum may have to meet first, and an answer may be lost.
                match &answer {
                    Some((201, _)) => break,
                    Some((409, said)) if said["code"] == "agent_exists" => break,
                    Some((503, _)) | None => {}
                    Some(refused) => unreachable!("{id} is refused: {refused:?}"),
                }
                assert!(began.elapsed() < PATIENCE, "{id} is not taken: {answer:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Waits until each of these agents runs on one of these nodes, and says for how long.
    pub(crate) async fn until_running<'a>(
        &self,
        agents: &BTreeSet<String>,
        nodes: impl Iterator<Item = &'a Arc<Node>> + Clone,
    ) -> Duration {
        let began = Instant::now();
        loop {
            let looks = nodes.clone().map(|node| node.running());
            let looks = futures::future::join_all(looks).await;
            let running: BTreeSet<String> = looks
                .into_iter()
                .flatten()
                .flat_map(BTreeMap::into_keys)
                .collect();
            if agents.is_subset(&running) {
                return began.elapsed();
            }
            let missing: Vec<_> = agents.difference(&running).collect();
            assert!(
                began.elapsed() < PATIENCE,
                "not running after {PATIENCE:?}: {missing:?}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Database {
    async fn on(network: &Network) -> Self {
        let schema = Schema::create().await;
        let host = network.host(DATABASE).expect("a host");
        let (before, rest) = schema.server().rsplit_once('@').expect("USER@HOST");
        let (server, name) = rest.split_once('/').expect("a database in the address");
        let target = match server.contains(':') {
            true => server.to_owned(),
            false => format!("{server}:5432"),
        };
        let forward = Forward::out_of_host(&host, DATABASE_PORT, target).await;
        let through = format!("{before}@{}:{DATABASE_PORT}/{name}", host.four());
        Self {
            url: schema.url_through(&through),
            witness: Witness::of(&schema).await,
            schema,
            _forward: forward.expect("the database is on the network"),
        }
    }

    /// What it saw so far.
    pub(crate) async fn seen(&self) -> Seen {
        self.witness.seen(&self.schema).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            tell(&format!(
                "the nodes' logs are in {}",
                self.dir.path().display()
            ));
        }
    }
}

fn this_version() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_regrow"))
}

impl Node {
    /// Starts its process; returns at once.
    pub(crate) fn start(&self) {
        std::fs::create_dir_all(&self.dir).expect("a directory");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a log");
        let mut command = Command::new(&*self.program.lock());
        let inherited = std::env::vars().map(|(name, _)| name);
        for name in inherited.filter(|name| name.starts_with("REGROW_")) {
            command.env_remove(name);
        }
        command
            // It ends with us, however we end.
            .args(["node", "--until-stdin-closes", "--data-dir"])
            .arg(&self.dir)
            .envs(
                self.settings
                    .iter()
                    .map(|(name, value)| (*name, value.as_str())),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        let child = self
            .host
            .run(move || command.spawn())
            .expect("the node starts");
        *self.process.lock() = Some(child);
    }

    /// Lets it run this version when it is started next.
    pub(crate) fn upgrade(&self) {
        *self.program.lock() = this_version();
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn until_ready(&self) {
        let began = Instant::now();
        while self
            .get("/health/ready")
            .await
            .is_none_or(|(status, _)| status != 200)
        {
            let (name, log) = (&self.name, self.log());
            if PATIENCE < began.elapsed() {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let tail = log.len().saturating_sub(4_000);
                let tail = log.get(tail..).unwrap_or_default();
                unreachable!("{name} is not ready after {PATIENCE:?}; its log ends with\n{tail}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// How its process ended, if it did.
    pub(crate) fn has_ended(&self) -> Option<ExitStatus> {
        let mut process = self.process.lock();
        let ended = process.as_mut()?.try_wait().expect("a process of ours");
        if ended.is_some() {
            *process = None;
        }
        ended
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.lock();
        let pid = process
            .as_ref()
            .map(Child::id)
            .and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            kill(Pid::from_raw(pid), signal).expect("signalled");
        }
    }

    /// Waits for the end of its process.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.has_ended() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{} does not end", self.name);
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The placed agents that run on it, with the life of each; `None` if it does not answer. It
    /// asks nobody for that, so it answers also while it is cut off.
    pub(crate) async fn running(&self) -> Option<BTreeMap<String, Value>> {
        let (_, tree) = self.get("/v1/tree").await?;
        let children = tree["children"].as_array()?;
        let placed = children.iter().find(|child| child["id"] == "placed")?;
        let running = placed["children"].as_array()?.iter();
        let running = running.filter(|child| child["state"] == "running");
        let known = running.map(|child| {
            let id = child["id"].as_str().unwrap_or_default().to_owned();
            (id, json!([child["generation"], child["started_at"]]))
        });
        Some(known.collect())
    }

    /// Nodes that it takes for up and alive, itself among them.
    pub(crate) async fn heard_up(&self) -> BTreeSet<String> {
        let up = |node: &Value| node["here"] == true || node["heard"]["status"] == "up";
        self.known(|node| up(node) && node["life"].is_u64()).await
    }

    /// Names of nodes of which it knows what is wanted.
    pub(crate) async fn known(&self, wanted: impl Fn(&Value) -> bool) -> BTreeSet<String> {
        let answer = self.get("/v1/cluster/nodes").await;
        let (_, answer) = answer.unwrap_or_default();
        let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
        let names = nodes.iter().filter(|node| wanted(node));
        names
            .filter_map(|node| node["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Asks; `None` if it does not answer in time, or with something else than JSON.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, Value)> {
        let asked = self
            .http
            .get(format!("http://{}{path}", self.way.address()));
        let answer = asked.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    /// Posts; `None` if it does not answer in time.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let asked = self
            .http
            .post(format!("http://{}{path}", self.way.address()));
        let answer = asked.json(body).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.lock().take() {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
