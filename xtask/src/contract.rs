//! The running node against its own document: Schemathesis calls every operation with what the
//! document allows and with what it does not, on a node without tokens and on one with some.
//!
//! No answer may be a 5xx that the document does not name, none may look otherwise than it says,
//! what it forbids must be refused and what it allows taken. The calls are the same every time;
//! `--seed` chooses others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Failed, cargo, pause, report, run, target};

/// What is installed, each with its version.
const REQUIREMENTS: &str = include_str!("../contract/requirements.txt");
/// What is asked of the tool, by file; it reads them where it runs.
const SETTINGS: [(&str, &str); 2] = [
    (
        "schemathesis.toml",
        include_str!("../contract/schemathesis.toml"),
    ),
    ("hooks.py", include_str!("../contract/hooks.py")),
];
/// Where it keeps what failed before, which it would begin with.
const MEMORY: &str = ".schemathesis";
/// Where it writes down with what each call was answered.
const ANSWERED: &str = "answered.txt";
/// Operations that have to be answered with success at least once: those about leases, for which
/// something has to be there first.
const REACHED: [&str; 14] = [
    "POST /v1/leases",
    "POST /v1/leases/{id}/heartbeat",
    "POST /v1/leases/{id}/complete",
    "POST /v1/leases/{id}/fail",
    "POST /v1/leases/{id}/release",
    "POST /v1/leases/{id}/steps",
    "GET /v1/leases/{id}/steps/{key}",
    "POST /v1/leases/{id}/children",
    "POST /v1/leases/{id}/ask",
    "POST /v1/leases/{id}/reserve",
    "POST /v1/leases/{id}/give_back",
    "POST /v1/leases/{id}/wait_for_budget",
    "GET /v1/tasks/{id}/steps/{key}",
    "POST /v1/tasks/{id}/cancel",
];
/// Longest wait for a node that starts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds nodes of both kinds against the document.
pub(crate) fn check(seed: Option<u64>) -> Result<(), Failed> {
    let target = target()?;
    let place = target.join("contract");
    let tool = installed(&place)?;
    let odd = |error: std::io::Error| format!("{}: {error}", place.display());
    for (name, text) in SETTINGS {
        fs::write(place.join(name), text).map_err(odd)?;
    }
    run("the binary", cargo(&["build", "--package", "regrow"]))?;
    let binary = target.join("debug/regrow");
    for with_tokens in [false, true] {
        let kind = if with_tokens { "with" } else { "without" };
        let node = Node::start(&binary, &place, with_tokens)?;
        let _ = fs::remove_dir_all(place.join(MEMORY));
        let _ = fs::remove_file(place.join(ANSWERED));
        let mut calls = Command::new(&tool);
        calls
            .current_dir(&place)
            .env("REGROW_CONTRACT_URL", &node.url)
            .env_remove("REGROW_CONTRACT_TOKEN")
            .args(["--config-file", "schemathesis.toml", "run"])
            .arg(format!("{}/openapi.json", node.url));
        match seed {
            Some(seed) => calls.args(["--seed", &seed.to_string()]),
            None => calls.arg("--generation-deterministic"),
        };
        match &node.secret {
            Some(secret) => {
                calls.args(["--header", &format!("Authorization: Bearer {secret}")]);
                calls.env("REGROW_CONTRACT_TOKEN", secret);
            }
            // There it asks nobody for a token, until the first one is made.
            None => {
                calls.args(["--exclude-checks", "ignored_auth"]);
                calls.args(["--exclude-operation-id", "post_tokens"]);
            }
        }
        run(&format!("the surface of a node {kind} tokens"), calls)?;
        let answered = fs::read_to_string(place.join(ANSWERED)).map_err(odd)?;
        let missed = not_reached(&answered);
        if !missed.is_empty() {
            return Err(format!(
                "no call of these was answered with success, so that little of them was tested: {}; \
                 see xtask/contract/hooks.py, which makes what they are about",
                missed.join(", ")
            ));
        }
    }
    Ok(())
}

/// Of the operations that have to be reached, those that no line tells a success of.
fn not_reached(answered: &str) -> Vec<&'static str> {
    let successes = answered.lines().filter_map(|line| {
        let (status, operation) = line.split_once(' ')?;
        status.starts_with('2').then_some(operation)
    });
    let successes: BTreeSet<&str> = successes.collect();
    let all = REACHED.into_iter();
    all.filter(|operation| !successes.contains(operation))
        .collect()
}

/// The tool in an environment of its own, which is made anew when the versions change.
fn installed(place: &Path) -> Result<PathBuf, Failed> {
    let (environment, known) = (place.join("venv"), place.join("installed.txt"));
    let tool = environment.join("bin/schemathesis");
    if tool.exists() && fs::read_to_string(&known).is_ok_and(|it| it == REQUIREMENTS) {
        return Ok(tool);
    }
    let odd = |error: std::io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(place).map_err(odd)?;
    let mut made = Command::new("python3");
    made.args(["-m", "venv", "--clear"]).arg(&environment);
    run("an environment for Schemathesis", made).map_err(|failed| {
        format!("{failed}; it needs Python's venv (Debian: `apt-get install python3-venv`)")
    })?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ])
    .args([
        "--no-deps",
        "--requirement",
        "xtask/contract/requirements.txt",
    ]);
    run("Schemathesis from PyPI", pip)?;
    fs::write(known, REQUIREMENTS).map_err(odd)?;
    Ok(tool)
}

/// A node on a data directory of its own; both go with this value.
struct Node {
    process: Child,
    place: PathBuf,
    url: String,
    secret: Option<String>,
}

impl Node {
    fn start(binary: &Path, place: &Path, with_tokens: bool) -> Result<Self, Failed> {
        let place = place.join(format!("data-{}", std::process::id()));
        let odd = |error: std::io::Error| format!("{}: {error}", place.display());
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).map_err(odd)?;
        let mut secret = None;
        if with_tokens {
            let mut create = Command::new(binary);
            create
                .args([
                    "token",
                    "create",
                    "contract",
                    "--scope",
                    "admin",
                    "--data-dir",
                ])
                .arg(&place);
            let made = create.output().map_err(odd)?;
            let text = String::from_utf8_lossy(&made.stdout).trim().to_owned();
            if !made.status.success() || text.is_empty() {
                return Err(format!("no token was made ({})", made.status));
            }
            secret = Some(text);
        }
        let log = fs::File::create(place.with_extension("log")).map_err(odd)?;
        let process = Command::new(binary)
            .args(["node", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(&place)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(odd)?;
        let mut node = Self {
            process,
            url: String::new(),
            secret,
            place,
        };
        node.url = node.address()?;
        report(&format!("a node at {}", node.url));
        Ok(node)
    }

    /// Where it listens, once it does.
    fn address(&mut self) -> Result<String, Failed> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let said = fs::read(self.place.join("node.json")).unwrap_or_default();
            let said: Value = serde_json::from_slice(&said).unwrap_or_default();
            if let Some(address) = said["http"].as_str() {
                return Ok(format!("http://{address}"));
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("the node ended ({status})"));
            }
            pause(Duration::from_millis(50));
        }
        Err(format!("the node does not listen after {PATIENCE:?}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing is left of it that anybody needs.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_was_only_refused_is_not_reached() {
        let all: Vec<String> = REACHED.iter().map(|it| format!("200 {it}\n")).collect();
        assert!(not_reached(&all.concat()).is_empty());
        let (lacking, refused) = (all[1..].concat(), format!("404 {}\n", REACHED[0]));
        assert_eq!(not_reached(&(lacking + &refused)), [REACHED[0]]);
    }
}
