//! A node process, and calls to it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Nothing in a test waits longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test, deaf to the settings of whoever runs the tests.
pub(crate) fn regrow() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regrow"));
    let inherited = std::env::vars().map(|(name, _)| name);
    for name in inherited.filter(|name| name.starts_with("REGROW_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// What a finished command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) fn say(command: &mut Command) -> Said {
    command.output().expect("the binary runs").into()
}

/// A running node.
pub(crate) struct NodeProcess {
    child: tokio::process::Child,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
}

impl NodeProcess {
    /// Starts a node on `data_dir` and waits until it is ready.
    pub(crate) async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        Self::begin(data_dir, settings, Stdio::null(), Stdio::null()).await
    }

    /// The same, with its standard output going somewhere.
    pub(crate) async fn start_saying(
        data_dir: &Path,
        settings: &[(&str, &str)],
        output: Stdio,
    ) -> Self {
        Self::begin(data_dir, settings, output, Stdio::null()).await
    }

    /// The same, with its log going somewhere.
    pub(crate) async fn start_logging(
        data_dir: &Path,
        settings: &[(&str, &str)],
        log: Stdio,
    ) -> Self {
        Self::begin(data_dir, settings, Stdio::null(), log).await
    }

    /// The same, but waits only until it answers.
    pub(crate) async fn start_alive(
        data_dir: &Path,
        settings: &[(&str, &str)],
        log: Stdio,
    ) -> Self {
        Self::begin_until("/health", data_dir, settings, [Stdio::null(), log]).await
    }

    async fn begin(data_dir: &Path, settings: &[(&str, &str)], output: Stdio, log: Stdio) -> Self {
        Self::begin_until("/health/ready", data_dir, settings, [output, log]).await
    }

    async fn begin_until(
        path: &str,
        data_dir: &Path,
        settings: &[(&str, &str)],
        [output, log]: [Stdio; 2],
    ) -> Self {
        let mut command = regrow();
        command
            .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .envs(settings.iter().copied())
            .stdout(output)
            .stderr(log);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .expect("the node starts");
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .build()
            .expect("a client");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = child.try_wait().expect("a process of ours");
            assert!(
                ended.is_none(),
                "the node ended with {ended:?} instead of getting ready"
            );
            assert!(
                Instant::now() < deadline,
                "the node was not ready within {PATIENCE:?}"
            );
            if let Some(url) = announced(data_dir, child.id())
                && http
                    .get(format!("{url}{path}"))
                    .send()
                    .await
                    .is_ok_and(|answer| answer.status().is_success())
            {
                return Self { child, url, http };
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.try_post(path, body).await.expect("the node answers")
    }

    /// `None` when the node died meanwhile.
    pub(crate) async fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let answer = self
            .http
            .post(format!("{}{path}", self.url))
            .json(body)
            .send()
            .await
            .ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .expect("it runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signalled");
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Its exit code, if it has ended.
    pub(crate) fn has_ended(&mut self) -> Option<Option<i32>> {
        let status = self.child.try_wait().expect("a process of ours");
        status.map(|status| status.code())
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        status
            .expect("the node ends in time")
            .expect("waited for")
            .code()
    }
}

fn announced(data_dir: &Path, pid: Option<u32>) -> Option<String> {
    let text = std::fs::read(data_dir.join("node.json")).ok()?;
    let said: Value = serde_json::from_slice(&text).ok()?;
    (said["pid"].as_u64() == pid.map(u64::from))
        .then(|| format!("http://{}", said["http"].as_str().unwrap_or_default()))
}
