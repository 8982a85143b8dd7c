//! The live pages in a real browser: Chromium, driven by `tests/pages/run.mjs`, on nodes that
//! are processes: one alone, one that asks for tokens, one that is photographed, and three that
//! found a cluster.
//!
//! `cargo xtask test` installs what that needs and names it in `REGROW_PAGES_PACKAGES`. Where it
//! is missing the test says aloud that it did not run; with `CI=true` it fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing waits longer, on however loaded a machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// Where Debian puts the browser; `REGROW_CHROMIUM` names another.
const CHROMIUM: &str = "/usr/bin/chromium";
/// Who founds the cluster.
const FOUNDERS: [&str; 3] = ["ash", "birch", "cedar"];

/// A node that ends with the test.
struct Node {
    name: &'static str,
    child: Option<Child>,
    data_dir: PathBuf,
    address: String,
    settings: Vec<(&'static str, String)>,
}

fn regrow() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regrow"));
    let inherited = std::env::vars().map(|(name, _)| name);
    for name in inherited.filter(|name| name.starts_with("REGROW_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn free_address() -> String {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = udp.local_addr().expect("an address");
        if TcpListener::bind(address).is_ok() {
            return address.to_string();
        }
    }
}

impl Node {
    /// A node on a free port, which it keeps over its restarts; it is not started yet.
    fn new(name: &'static str, place: &Path, settings: Vec<(&'static str, String)>) -> Self {
        Self {
            name,
            child: None,
            data_dir: place.join(name),
            address: free_address(),
            settings,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn start(&mut self) {
        std::fs::create_dir_all(&self.data_dir).expect("a directory");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.data_dir.join("log"))
            .expect("a log");
        let child = regrow()
            .args(["node", "--http", &self.address, "--data-dir"])
            .arg(&self.data_dir)
            .env("REGROW_NODE__NAME", self.name)
            .envs(self.settings.iter().map(|(name, value)| (*name, value)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        self.child = Some(child);
    }

    fn await_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            let child = self.child.as_mut().expect("it was started");
            let ended = child.try_wait().expect("a process of ours");
            let log = || std::fs::read_to_string(self.data_dir.join("log")).unwrap_or_default();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{} is not ready, ended: {ended:?}\n{}",
                self.name,
                log()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn is_ready(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.write_all(b"GET /health/ready HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            std::io::read_to_string(stream)
        };
        ask().is_ok_and(|answer: String| answer.contains(" 200 OK"))
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a process of ours");
            child.wait().expect("a process of ours");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Where the packages are that drive the browser; or what is missing, and how to get it.
fn packages() -> Result<PathBuf, String> {
    let beside = || {
        let binary = Path::new(env!("CARGO_BIN_EXE_regrow"));
        let target = binary.ancestors().nth(2).expect("a target directory");
        target.join("pages")
    };
    let advice = "`cargo xtask test` installs it, or says how";
    let named = std::env::var_os("REGROW_PAGES_PACKAGES").map(PathBuf::from);
    let found = named.unwrap_or_else(beside);
    if !found.join("node_modules/playwright-core").is_dir() {
        let found = found.display();
        return Err(format!("{found} has no playwright-core; {advice}"));
    }
    let chromium = std::env::var_os("REGROW_CHROMIUM").unwrap_or_else(|| CHROMIUM.into());
    if !Path::new(&chromium).exists() {
        let chromium = chromium.display();
        return Err(format!("there is no browser at {chromium}; {advice}"));
    }
    let node = Command::new("node").arg("--version").output();
    match node {
        Ok(_) => Ok(found),
        Err(error) => Err(format!("Node.js does not run ({error}); {advice}")),
    }
}

/// Nodes that agree on who may act; each looks for all the others.
fn founders(place: &Path) -> Vec<Node> {
    let secret = place.join("secret");
    std::fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").expect("written");
    let addresses = FOUNDERS.map(|_| free_address());
    let nodes = FOUNDERS.into_iter().enumerate().map(|(position, name)| {
        let seeds = addresses.iter().enumerate();
        let seeds = seeds.filter(|(other, _)| *other != position);
        let seeds: Vec<&str> = seeds.map(|(_, address)| &**address).collect();
        let settings = vec![
            ("REGROW_CLUSTER__LISTEN", addresses[position].clone()),
            ("REGROW_CLUSTER__SEEDS", seeds.join(",")),
            ("REGROW_CLUSTER__SECRET_FILE", secret.display().to_string()),
            ("REGROW_CLUSTER__FOUNDERS", FOUNDERS.join(",")),
        ];
        Node::new(name, place, settings)
    });
    nodes.collect()
}

/// A token with every scope, made on the data directory of a node that does not run.
fn token(node: &Node) -> String {
    let made = regrow()
        .args(["token", "create", "admin", "--scope", "admin", "--local"])
        .arg("--data-dir")
        .arg(&node.data_dir)
        .output()
        .expect("the binary runs");
    let token = String::from_utf8(made.stdout).expect("text");
    let complaint = String::from_utf8_lossy(&made.stderr);
    assert!(token.starts_with("regrow_"), "no token: {token}{complaint}");
    token.trim().to_owned()
}

#[test]
fn the_pages_do_in_a_browser_what_they_show() {
    let packages = match packages() {
        Ok(packages) => packages,
        Err(missing) => {
            let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "{missing}");
            say(&format!("NOT RUN: the pages in a browser: {missing}"));
            return;
        }
    };
    let place = tempfile::tempdir().expect("a directory");
    let rehearsing = ("REGROW_REHEARSAL__ENABLED", "true".to_owned());
    let alone = ["open", "closed", "still"]
        .map(|name| Node::new(name, place.path(), vec![rehearsing.clone()]));
    let token = token(&alone[1]);
    let mut nodes: Vec<Node> = alone.into_iter().chain(founders(place.path())).collect();
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(Node::await_ready);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/run.mjs");
    let urls: Vec<String> = nodes
        .iter()
        .map(|node| format!("{}={}", node.name, node.url()))
        .collect();
    let mut browser = Command::new("node")
        .arg(script)
        .env("REGROW_PAGES_PACKAGES", &packages)
        .env("REGROW_REPORT", packages.join("report"))
        .env("REGROW_NODES", urls.join(" "))
        .env("REGROW_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node.js runs");
    let lines = BufReader::new(browser.stdout.take().expect("a pipe")).lines();
    let mut said = String::new();
    for line in lines {
        let line = line.expect("text");
        let Some(please) = line.strip_prefix("please: ") else {
            say(&line);
            said.push_str(&line);
            said.push('\n');
            continue;
        };
        let (verb, name) = please.split_once(' ').expect("a verb and a name");
        let node = nodes.iter_mut().find(|node| node.name == name);
        let node = node.expect("a node of ours");
        match verb {
            "kill" => node.kill(),
            _ => node.start(),
        }
    }
    let status = browser.wait().expect("it ended");
    assert!(status.success(), "{said}");
    assert!(said.contains("all passed"), "{said}");
}

#[expect(
    clippy::print_stdout,
    reason = "whoever reads the results sees how far it got, and what is missing"
)]
fn say(line: &str) {
    println!("{line}");
}
