//! The node's configuration: `regrow.toml`, overridden by the environment, overridden by
//! flags. Read once, checked as a whole, and all problems are reported together.
//!
//! Nothing else reads the environment.

mod cluster;
mod founders;
mod offer;
mod reader;
mod telemetry;
mod watchdog;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regrow_actors::agent::AgentLimits;
use regrow_cluster::carrier::Settings;
use regrow_cluster::report::Offer;
use regrow_http::config::{HttpConfig, PublicUrl};
use regrow_runtime::agent_spec::PolicyName;
use regrow_runtime::context::ContextConfig;
use regrow_runtime::health::HealthConfig;
use regrow_runtime::health::remedy::RemedyPolicy;
use regrow_runtime::queue::backlog::Slack;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::retry::RetryBackoff;
use regrow_runtime::store::postgres::DatabaseUrl;
use regrow_runtime::telemetry::{LogFormat, TelemetryConfig};
use tracing_subscriber::EnvFilter;

pub(crate) use self::cluster::ClusterSettings;
use self::reader::{Effective, Problem, Reader};
pub(crate) use self::watchdog::WatchdogSettings;
use crate::telemetry::ExportSettings;

/// The file that is read when it exists and no other is named.
pub(crate) const DEFAULT_FILE: &str = "regrow.toml";

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Everything a node can be told.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    /// What the node calls itself.
    pub(crate) name: String,
    /// What it offers to agents that the cluster places.
    pub(crate) offer: Offer,
    /// How nodes are chosen for agents that do not say it.
    pub(crate) policy: PolicyName,
    /// Where everything durable lies.
    pub(crate) data_dir: PathBuf,
    /// The PostgreSQL database, unless the data directory's file is used.
    pub(crate) database_url: Option<DatabaseUrl>,
    /// How long this node's tasks stay its own on a shared database without a renewal.
    pub(crate) life_term: Duration,
    /// The HTTP surface.
    pub(crate) http: HttpConfig,
    /// The queue's limits.
    pub(crate) queue: QueueLimits,
    /// Agents per role.
    pub(crate) agents: AgentSettings,
    /// The health monitor.
    pub(crate) health: HealthConfig,
    /// Shared context.
    pub(crate) context: ContextConfig,
    /// How it takes part in gossip, if it does.
    pub(crate) cluster: Option<ClusterSettings>,
    /// When nodes are kept out, and what counts as trouble.
    pub(crate) watchdog: WatchdogSettings,
    /// Among whom it agrees on who may act, where there is no database to ask.
    pub(crate) founders: Option<Settings>,
    /// Logs.
    pub(crate) log: TelemetryConfig,
    /// What is sent to a receiver of telemetry, if there is one.
    pub(crate) export: Option<ExportSettings>,
    /// All of this as it is shown: with where each value came from, and without secrets.
    pub(crate) shown: serde_json::Value,
    /// Injects faults and runs journeys; only for rehearsals of recovery.
    pub(crate) rehearsal: bool,
}

/// `[agents]`
#[derive(Clone, Debug)]
pub(crate) struct AgentSettings {
    /// Agents per role.
    pub(crate) planners: usize,
    pub(crate) workers: usize,
    pub(crate) critics: usize,
    pub(crate) memories: usize,
    /// The number of Workers at work adapts to how long work takes.
    pub(crate) adaptive: bool,
    /// Idle agents lease what waits at nodes without a shared database. Without it, tasks that
    /// need what only their own node has, such as files, stay there.
    pub(crate) borrow: bool,
    /// What each may hold on to.
    pub(crate) limits: AgentLimits,
    /// Restarts that all agents together may need within a period.
    pub(crate) restarts_max: usize,
    pub(crate) restart_period: Duration,
}

/// What the command line adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) file: Option<PathBuf>,
    pub(crate) name: Option<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) taints: Vec<String>,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) database_url: Option<String>,
    pub(crate) http: Option<String>,
    pub(crate) cluster_listen: Option<String>,
    pub(crate) cluster_secret: Option<PathBuf>,
    pub(crate) seeds: Vec<String>,
    pub(crate) dns: Vec<String>,
}

/// The configuration cannot be used. Nothing was written anywhere.
#[derive(Debug, thiserror::Error)]
#[error("{}", list(.0))]
pub(crate) struct ConfigError(Vec<Problem>);

fn list(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "the configuration has a problem:".to_owned(),
        count => format!("the configuration has {count} problems:"),
    };
    for problem in problems {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  {problem}");
    }
    text
}

impl ConfigError {
    /// The problems as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let problems = self.0.iter().map(|one| {
            serde_json::json!({
                "key": one.key, "problem": one.what, "source": one.source.to_string(),
            })
        });
        serde_json::json!({ "problems": problems.collect::<Vec<_>>() })
    }
}

/// A checked configuration, and where each value came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The typed values.
    pub(crate) config: NodeConfig,
    effective: BTreeMap<String, Effective>,
}

/// Reads and checks the configuration.
///
/// # Errors
///
/// [`ConfigError`] with every problem there is.
pub(crate) fn load(
    overrides: &Overrides,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut reader = Reader::default();
    let unreadable = |path: &Path, cause: std::io::Error| {
        let what = format!("{} cannot be read: {cause}", path.display());
        let source = reader::Source::Flag("--config");
        ConfigError(vec![Problem {
            key: "file".to_owned(),
            what,
            source,
        }])
    };
    match &overrides.file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|cause| unreadable(path, cause))?;
            reader.file(path.clone(), &text);
        }
        None => match std::fs::read_to_string(DEFAULT_FILE) {
            Ok(text) => reader.file(DEFAULT_FILE.into(), &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(unreadable(DEFAULT_FILE.as_ref(), cause)),
        },
    }
    let variables: Vec<(String, String)> = environment.collect();
    reader.standard(&variables, &telemetry::STANDARD);
    reader.environment(variables.iter().cloned());
    reader.flag("node.name", "--name", overrides.name.clone());
    if let Some(path) = &overrides.data_dir {
        reader.path_flag("node.data_dir", "--data-dir", path);
    }
    let database_url = overrides.database_url.clone();
    reader.flag("store.database_url", "--database-url", database_url);
    reader.flag("http.listen", "--http", overrides.http.clone());
    let listen = overrides.cluster_listen.clone();
    reader.flag("cluster.listen", "--cluster-listen", listen);
    if let Some(path) = &overrides.cluster_secret {
        reader.path_flag("cluster.secret_file", "--cluster-secret-file", path);
    }
    let several = |all: &[String]| (!all.is_empty()).then(|| all.join(","));
    reader.flag("node.labels", "--label", several(&overrides.labels));
    reader.flag("node.taints", "--taint", several(&overrides.taints));
    reader.flag("cluster.seeds", "--seed", several(&overrides.seeds));
    reader.flag("cluster.dns", "--dns", several(&overrides.dns));
    let mut config = settings(&mut reader);
    let (shared, listens) = (config.database_url.is_some(), config.cluster.is_some());
    telemetry::refuse_others(&mut reader, &variables, config.export.as_ref());
    config.founders = founders::settings(&mut reader, &config.name, shared, listens);
    if let Some(among) = &mut config.founders {
        among.config.policy = config.policy;
    }
    relations(&mut reader, &config);
    let (problems, effective) = reader.finish();
    if problems.is_empty() {
        let mut loaded = Loaded { config, effective };
        loaded.config.shown = loaded.to_json();
        Ok(loaded)
    } else {
        Err(ConfigError(problems))
    }
}

/// Every key with its default and range.
fn settings(reader: &mut Reader) -> NodeConfig {
    let queue = QueueLimits::default();
    let agents = AgentLimits::default();
    let http = HttpConfig::default();
    let context = ContextConfig::default();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let name_like = |name: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        (1..=64).contains(&name.len()) && name.chars().all(fits)
    };
    let name = reader.text(
        "node.name",
        "regrow",
        "1 to 64 letters, digits, `.`, `_` or `-`",
        name_like,
    );
    NodeConfig {
        cluster: cluster::settings(reader, &name),
        watchdog: watchdog::settings(reader),
        founders: None,
        name,
        offer: offer::offer(reader),
        policy: offer::policy(reader),
        data_dir: reader.path("node.data_dir", default_data_dir()),
        database_url: reader.database("store.database_url"),
        life_term: reader.duration("store.life_term", 3 * SECOND, 500 * MILLISECOND..=HOUR),
        http: HttpConfig {
            address: reader.address("http.listen", http.address),
            public_url: reader
                .text(
                    "http.public_url",
                    "",
                    "nothing, or an address such as \"https://regrow.example\", without a path",
                    |text| text.is_empty() || text.parse::<PublicUrl>().is_ok(),
                )
                .parse()
                .ok(),
            cors_origins: reader
                .list(
                    "http.cors_origins",
                    "origins such as \"https://desk.example\", without a path",
                    |text| text.parse::<PublicUrl>().is_ok(),
                )
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            audit_retention: reader.duration(
                "http.audit_retention",
                http.audit_retention,
                DAY..=3_650 * DAY,
            ),
            body_bytes_max: size(reader.number(
                "http.body_bytes_max",
                http.body_bytes_max as u64,
                1_024..=64 << 20,
            )),
            connections_max: size(reader.number(
                "http.connections_max",
                http.connections_max as u64,
                1..=100_000,
            )),
            requests_max: size(reader.number(
                "http.requests_max",
                http.requests_max as u64,
                1..=100_000,
            )),
            waits_max: size(reader.number("http.waits_max", http.waits_max as u64, 1..=100_000)),
            streams_max: size(reader.number(
                "http.streams_max",
                http.streams_max as u64,
                1..=100_000,
            )),
            header_timeout: reader.duration(
                "http.header_timeout",
                http.header_timeout,
                SECOND..=HOUR,
            ),
            body_timeout: reader.duration("http.body_timeout", http.body_timeout, SECOND..=HOUR),
            request_timeout: reader.duration(
                "http.request_timeout",
                http.request_timeout,
                SECOND..=HOUR,
            ),
            shutdown_grace: reader.duration(
                "http.shutdown_grace",
                http.shutdown_grace,
                Duration::ZERO..=HOUR,
            ),
        },
        queue: QueueLimits {
            max_size: reader.number("queue.max_size", queue.max_size, 1..=100_000_000),
            leased_max: reader.number("queue.leased_max", queue.leased_max, 1..=100_000_000),
            max_bytes: reader.number("queue.max_bytes", queue.max_bytes, 1 << 20..=1 << 40),
            payload_bytes_max: size(reader.number(
                "queue.payload_bytes_max",
                queue.payload_bytes_max as u64,
                1_024..=64 << 20,
            )),
            result_bytes_max: size(reader.number(
                "queue.result_bytes_max",
                queue.result_bytes_max as u64,
                1_024..=256 << 20,
            )),
            max_attempts: small(reader.number(
                "queue.max_attempts",
                u64::from(queue.max_attempts),
                1..=1_000,
            )),
            losses_max: small(reader.number(
                "queue.losses_max",
                u64::from(queue.losses_max),
                1..=10_000,
            )),
            log_lines_max: reader.number(
                "queue.log_lines_max",
                queue.log_lines_max,
                100..=10_000_000,
            ),
            lease_max: reader.duration("queue.lease_max", queue.lease_max, SECOND..=24 * HOUR),
            backoff: RetryBackoff {
                first: reader.duration("queue.retry_first", SECOND, MILLISECOND..=HOUR),
                max: reader.duration("queue.retry_max", 300 * SECOND, MILLISECOND..=DAY),
            },
            slack: Slack::default(),
            retention: reader.duration("queue.retention", queue.retention, SECOND..=3_650 * DAY),
        },
        agents: AgentSettings {
            planners: size(reader.number("agents.planners", 1, 0..=1_000)),
            workers: size(reader.number("agents.workers", 2 * cores as u64, 0..=100_000)),
            critics: size(reader.number("agents.critics", cores as u64, 0..=10_000)),
            memories: size(reader.number("agents.memories", 1, 0..=1_000)),
            adaptive: reader.switch("agents.adaptive", false),
            borrow: reader.switch("agents.borrow", true),
            limits: AgentLimits {
                lease: reader.duration("agents.lease", agents.lease, 100 * MILLISECOND..=HOUR),
                grace: reader.duration("agents.grace", agents.grace, Duration::ZERO..=HOUR),
            },
            restarts_max: size(reader.number("agents.restarts_max", 100, 0..=1_000_000)),
            restart_period: reader.duration(
                "agents.restart_period",
                10 * SECOND,
                MILLISECOND..=DAY,
            ),
        },
        health: health(reader),
        context: ContextConfig {
            shards: NonZeroU32::new(small(reader.number("context.shards", 8, 1..=1_024)))
                .unwrap_or(context.shards),
            retention: reader.duration("context.retention", context.retention, SECOND..=365 * DAY),
            ..context
        },
        log: TelemetryConfig {
            format: match reader
                .text("log.format", "text", "`text` or `json`", |text| {
                    ["text", "json"].contains(&text)
                })
                .as_str()
            {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            filter: reader.text(
                "log.filter",
                &TelemetryConfig::default().filter,
                "a filter such as `info,regrow=debug`",
                |text| text.parse::<EnvFilter>().is_ok(),
            ),
        },
        export: telemetry::settings(reader),
        shown: serde_json::Value::Null,
        rehearsal: reader.switch("rehearsal.enabled", false),
    }
}

fn health(reader: &mut Reader) -> HealthConfig {
    let health = HealthConfig::default();
    let policy = health.policy;
    HealthConfig {
        period: reader.duration("health.period", health.period, 10 * MILLISECOND..=HOUR),
        deadline: reader.duration("health.deadline", health.deadline, MILLISECOND..=HOUR),
        policy: RemedyPolicy {
            misses_max: small(reader.number(
                "health.misses_max",
                u64::from(policy.misses_max),
                1..=1_000,
            )),
            silence_min: reader.duration(
                "health.silence_min",
                policy.silence_min,
                Duration::ZERO..=HOUR,
            ),
            progress_timeout: reader.duration(
                "health.progress_timeout",
                policy.progress_timeout,
                SECOND..=DAY,
            ),
            kill_stalled: reader.switch("health.kill_stalled", policy.kill_stalled),
            kills_before_park: size(reader.number(
                "health.kills_before_park",
                policy.kills_before_park as u64,
                1..=1_000,
            )),
            backoff: reader.duration("health.backoff", policy.backoff, Duration::ZERO..=HOUR),
            ..policy
        },
        ..health
    }
}

/// What has to hold between values.
fn relations(reader: &mut Reader, config: &NodeConfig) {
    // Each line opens with its key.
    let problems = config.http.check().into_iter();
    for problem in problems.chain(config.health.problems()) {
        let (key, what) = problem.split_once(' ').unwrap_or(("http", &problem));
        let key = match key {
            "health.policy.progress_timeout" => "health.progress_timeout",
            "health.policy.misses_max" => "health.misses_max",
            key => key,
        };
        reader.object(key, what.to_owned());
    }
    let backoff = config.queue.backoff;
    if backoff.max < backoff.first {
        let what = format!(
            "found {:?}, expected at most `queue.retry_max` ({:?})",
            backoff.first, backoff.max
        );
        reader.object("queue.retry_first", what);
    }
    let health = &config.health;
    if config.agents.restarts_max <= health.remedies_max && 0 < config.agents.restarts_max {
        let what = format!(
            "found {}, expected 0 or more than {}: health may kill that many agents at once",
            config.agents.restarts_max, health.remedies_max
        );
        reader.object("agents.restarts_max", what);
    }
    if config.queue.lease_max < config.agents.limits.lease {
        let what = format!(
            "found {:?}, expected at most `queue.lease_max` ({:?})",
            config.agents.limits.lease, config.queue.lease_max
        );
        reader.object("agents.lease", what);
    }
}

impl Loaded {
    /// The configuration in force as TOML, with where each value came from.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, effective) in &self.effective {
            let (owner, name) = key.split_once('.').unwrap_or(("", key));
            if owner != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{gap}[{owner}]");
                section = owner;
            }
            let _ = writeln!(text, "{name} = {}  # {}", effective.value, effective.source);
        }
        text
    }

    /// The configuration in force as JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        self.effective
            .iter()
            .map(|(key, one)| {
                let entry = serde_json::json!({
                    "value": typed(&one.value), "source": one.source.to_string(),
                });
                (key.clone(), entry)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// A value's TOML as JSON.
fn typed(value: &str) -> serde_json::Value {
    let read = format!("value = {value}").parse::<toml::Table>().ok();
    let value = read.and_then(|mut table| table.remove("value"));
    // Texts, numbers and switches cannot fail to be JSON.
    serde_json::to_value(value).unwrap_or_default()
}

/// The platform's place for a program's data, such as `~/.local/share/regrow`.
pub(crate) fn default_data_dir() -> PathBuf {
    directories::ProjectDirs::from("", "", "regrow").map_or_else(
        || PathBuf::from(".regrow"),
        |dirs| dirs.data_dir().to_owned(),
    )
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
