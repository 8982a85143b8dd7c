//! Nodes as processes, and what the system knows of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::time::sleep;

use crate::caller::Caller;

/// Longest wait for a node that starts.
const PATIENCE: Duration = Duration::from_secs(300);

/// Lets this process and those it starts open as many files as the system allows.
pub(crate) fn open_files_wanted() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("below the limit");
}

/// A node; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts a node on `data_dir` and waits until it is ready. No agents unless asked for.
    pub(crate) async fn start(data_dir: &Path, settings: &[(&str, String)]) -> Self {
        std::fs::create_dir_all(data_dir).expect("writable");
        let mut command = Command::new(env!("CARGO_BIN_EXE_regrow"));
        let inherited = std::env::vars().map(|(name, _)| name);
        for name in inherited.filter(|it| it.starts_with("REGROW_") || it.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        for role in ["PLANNERS", "WORKERS", "CRITICS", "MEMORIES"] {
            command.env(format!("REGROW_AGENTS__{role}"), "0");
        }
        let log = std::fs::File::create(data_dir.join("log")).expect("writable");
        let child = command
            .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .env("REGROW_QUEUE__MAX_SIZE", "5000000")
            .env("REGROW_QUEUE__MAX_BYTES", (8_u64 << 30).to_string())
            .env("REGROW_HTTP__CONNECTIONS_MAX", "100000")
            .env("REGROW_HTTP__STREAMS_MAX", "10000")
            .env("REGROW_LOG__FILTER", "warn")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        let (pid, began) = (child.id(), Instant::now());
        let mut process = Self {
            child,
            address: ([127, 0, 0, 1], 0).into(),
        };
        loop {
            assert!(began.elapsed() < PATIENCE, "the node is not ready");
            let ended = process.child.try_wait().expect("a process of ours");
            assert!(
                ended.is_none(),
                "the node ended: {ended:?}; see {data_dir:?}/log"
            );
            sleep(Duration::from_millis(20)).await;
            let said = std::fs::read(data_dir.join("node.json")).unwrap_or_default();
            let said: Value = serde_json::from_slice(&said).unwrap_or_default();
            if said["pid"].as_u64() != Some(u64::from(pid)) {
                continue;
            }
            let Some(Ok(address)) = said["http"].as_str().map(str::parse) else {
                continue;
            };
            process.address = address;
            let mut caller = Caller::to(address).await;
            if caller.get("/health/ready").await.0 == 200 {
                return process;
            }
        }
    }

    /// Bytes of memory that it holds.
    pub(crate) fn resident(&self) -> u64 {
        let pid = self.child.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes.expect("a number") * 1_024
    }

    /// Processor time that it has used, in steps of 10 ms.
    pub(crate) fn used(&self) -> Duration {
        let pid = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // The name may hold anything; it ends with the last parenthesis.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|ticks| ticks.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left of it that anybody needs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
