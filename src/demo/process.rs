//! A real node as a child process: started, killed, started again.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::node::Announcement;

/// Longest wait for a node to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A node process of our own.
pub(crate) struct NodeProcess {
    child: Child,
    /// Where it listens.
    pub(crate) url: String,
}

/// The process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It could not be started at all.
    #[error("cannot start a node process")]
    Spawn(#[source] std::io::Error),
    /// It ended instead of getting ready.
    #[error("the node ended with {status} instead of getting ready; its last lines were:\n{tail}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        tail: String,
    },
    /// It did not get ready in time.
    #[error("the node was not ready within {START_TIMEOUT:?}; its last lines were:\n{0}")]
    NotReady(String),
    /// It could not be waited for.
    #[error("cannot wait for the node process")]
    Wait(#[source] std::io::Error),
    /// It did not end in time after being asked to.
    #[error("the node did not end within {0:?}")]
    NotStopped(Duration),
}

/// What a node process is started with.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The directory of its data; its log is written there too.
    pub(crate) data_dir: PathBuf,
    /// Settings, as environment variables.
    pub(crate) settings: Vec<(&'static str, String)>,
}

impl Launch {
    /// The file its log goes to, over all its lives.
    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.join("node.log")
    }

    /// Starts the node and waits until it is ready.
    pub(crate) async fn start(&self, http: &reqwest::Client) -> Result<NodeProcess, ProcessError> {
        let log = self.open_log().map_err(ProcessError::Spawn)?;
        let executable = std::env::current_exe().map_err(ProcessError::Spawn)?;
        let mut child = Command::new(executable)
            .args([
                "node",
                "--http",
                "127.0.0.1:0",
                "--until-stdin-closes",
                "--data-dir",
            ])
            .arg(&self.data_dir)
            .envs(
                self.settings
                    .iter()
                    .map(|(name, value)| (*name, value.as_str())),
            )
            // The node ends with us, however we end.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(ProcessError::Spawn)?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait().map_err(ProcessError::Wait)? {
                return Err(ProcessError::Ended {
                    status,
                    tail: tail(&self.log()),
                });
            }
            if let Some(url) = self.announced(child.id())
                && ready(http, &url).await
            {
                return Ok(NodeProcess { child, url });
            }
            if deadline < Instant::now() {
                return Err(ProcessError::NotReady(tail(&self.log())));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn open_log(&self) -> std::io::Result<File> {
        std::fs::create_dir_all(&self.data_dir)?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
    }

    /// Where the process of this id says it listens.
    fn announced(&self, pid: Option<u32>) -> Option<String> {
        let announcement = Announcement::read(&self.data_dir)?;
        (Some(announcement.pid) == pid).then(|| format!("http://{}", announcement.http))
    }
}

async fn ready(http: &reqwest::Client, url: &str) -> bool {
    let answer = http.get(format!("{url}/health/ready")).send().await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

impl NodeProcess {
    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<(), ProcessError> {
        self.child.kill().await.map_err(ProcessError::Wait)
    }

    /// Sends it a signal. It may be gone already; waiting tells.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Asks it to stop, as a service manager does, and waits for its exit status.
    pub(crate) async fn stop(self, within: Duration) -> Result<ExitStatus, ProcessError> {
        self.signal(Signal::SIGTERM);
        self.ended(within).await
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        // Waiting would close it, and the node ends when it is closed.
        let _open = self.child.stdin.take();
        match timeout(within, self.child.wait()).await {
            Ok(status) => status.map_err(ProcessError::Wait),
            Err(_) => Err(ProcessError::NotStopped(within)),
        }
    }
}
