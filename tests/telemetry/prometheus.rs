//! Prometheus itself, and its tools: programs of Debian's package `prometheus`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::node::PATIENCE;
use crate::peers::free_address;

/// Runs a program with `input`, and returns what it said. Panics unless it succeeds.
pub(crate) fn tool(program: &str, arguments: &[&str], dir: &Path, input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs; `cargo xtask test` installs it");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("read to its end");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success(),
        "{program} {arguments:?} ended with {}: {said}",
        output.status
    );
    said
}

/// A Prometheus that scrapes one node once a second.
pub(crate) struct Prometheus {
    _process: tokio::process::Child,
    _dir: TempDir,
    url: String,
}

impl Prometheus {
    pub(crate) fn scraping(node: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let address = free_address().to_string();
        let target = node.trim_start_matches("http://");
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs: [{{ job_name: regrow, static_configs: [{{ targets: ['{target}'] }}] }}]\n"
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        let process = tokio::process::Command::new("prometheus")
            .arg(format!("--web.listen-address={address}"))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--enable-feature=exemplar-storage")
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("`prometheus` runs; `cargo xtask test` installs it");
        Self {
            _process: process,
            _dir: dir,
            url: format!("http://{address}"),
        }
    }

    /// Asks until the answer is one, and returns what is made of it.
    pub(crate) async fn until<T>(
        &self,
        path: &str,
        mut answer: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        loop {
            assert!(
                Instant::now() < deadline,
                "{path} of Prometheus did not become what it should: {last}"
            );
            if let Ok(said) = reqwest::get(format!("{}{path}", self.url)).await
                && let Ok(said) = said.json::<Value>().await
            {
                if let Some(answer) = answer(&said) {
                    return answer;
                }
                last = said;
            }
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
