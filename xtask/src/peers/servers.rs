//! PostgreSQL and redis for the table: found or installed, started on a loopback port over a
//! fresh directory, stopped and removed afterwards.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Failed, pause, postgres, report};

/// Same for every peer. Memory and log size are raised from the defaults of a small machine
/// of years ago, so that checkpoints do not fall into a run by chance; durability is not
/// touched.
const POSTGRES_SETTINGS: [&str; 5] = [
    "fsync = on",
    "synchronous_commit = on",
    "full_page_writes = on",
    "shared_buffers = 256MB",
    "max_wal_size = 4GB",
];

const START_MAX: Duration = Duration::from_secs(60);

/// A child that ends with its owner. Nothing of it is needed afterwards.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody is left to tell if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Begins the names of all that lies in the place for databases; this process's id follows.
const PREFIX: &str = "regrow-peers-";

/// A path under `place` that no other process takes.
pub(super) fn path_for(place: &Path, name: &str) -> PathBuf {
    place.join(format!("{PREFIX}{}-{name}", std::process::id()))
}

/// Removes what a process left behind that was ended before it could clear up.
pub(super) fn sweep(place: &Path) {
    let processes = Path::new("/proc");
    let (Ok(entries), true) = (std::fs::read_dir(place), processes.join("self").exists()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .filter(|id| id.parse::<u32>().is_ok());
        if owner.is_some_and(|id| !processes.join(id).exists()) {
            report(&format!(
                "removing {} of an earlier run",
                entry.path().display()
            ));
            // What cannot be removed lies there for a person to see.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new(place: &Path, name: &str) -> Result<Self, Failed> {
        let path = path_for(place, name);
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("{} cannot be made: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // It lies among temporary files: whoever clears those takes it away.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running PostgreSQL.
pub(super) struct Postgres {
    server: regrow_local_postgres::Server,
    psql: PathBuf,
}

impl Postgres {
    /// Starts one with its files under `place`.
    pub(super) fn start(place: &Path) -> Result<Self, Failed> {
        let settings = POSTGRES_SETTINGS.join("\n");
        let server = postgres::temporary(place, &settings)?;
        let psql = psql(&postgres::programs()?);
        Ok(Self { server, psql })
    }

    /// Runs one statement against the database `postgres`; its unadorned answer.
    fn sql(&self, statement: &str) -> Result<String, Failed> {
        let mut psql = Command::new(&self.psql);
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1"]);
        psql.args(["-d", &self.server.url(), "-c", statement]);
        quiet("psql", psql)
    }

    /// An empty database; what earlier runs left to be written is written.
    pub(super) fn database(&self, name: &str) -> Result<String, Failed> {
        self.sql(&format!("CREATE DATABASE {name}"))?;
        self.sql("CHECKPOINT")?;
        let url = self.server.url();
        let server = url.strip_suffix("/postgres").unwrap_or(&url);
        Ok(format!("{server}/{name}"))
    }

    /// Removes it, whoever is still connected.
    pub(super) fn remove(&self, name: &str) -> Result<(), Failed> {
        self.sql(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .map(|_| ())
    }

    /// Version and settings, as the server itself answers.
    pub(super) fn setting(&self) -> Result<String, Failed> {
        let version = self.sql("SHOW server_version")?;
        let mut settings = Vec::new();
        for setting in POSTGRES_SETTINGS {
            let name = setting.split(' ').next().unwrap_or(setting);
            let value = self.sql(&format!("SHOW {name}"))?;
            settings.push(format!("{name}={}", value.trim()));
        }
        Ok(format!(
            "PostgreSQL {}, over loopback: {}",
            version.trim(),
            settings.join(", ")
        ))
    }
}

/// The client that came with the server, wherever links to its programs lie; otherwise the
/// one in PATH.
fn psql(programs: &Path) -> PathBuf {
    let linked = std::fs::canonicalize(programs.join("pg_ctl")).ok();
    let homes = linked.as_deref().and_then(Path::parent).into_iter();
    homes
        .chain([programs])
        .map(|home| home.join("psql"))
        .find(|psql| psql.exists())
        .unwrap_or_else(|| PathBuf::from("psql"))
}

/// A running redis that flushes its log before it answers.
pub(super) struct Redis {
    _server: Server,
    port: u16,
    _directory: Directory,
}

impl Redis {
    /// Starts one with its files under `place`.
    pub(super) fn start(place: &Path) -> Result<Self, Failed> {
        let program = redis_program()?;
        let directory = Directory::new(place, "redis")?;
        let port = free_port()?;
        let mut server = Command::new(program);
        server.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
        server.args([
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--save",
            "",
        ]);
        server.arg("--dir").arg(&directory.0);
        let log = directory.0.join("log");
        let started = Self {
            _server: spawn("redis-server", server, &log)?,
            port,
            _directory: directory,
        };
        let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        until_ready("redis", &log, answers)?;
        Ok(started)
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Of the program that would be started.
    pub(super) fn setting() -> Result<String, Failed> {
        let mut version = Command::new(redis_program()?);
        version.arg("--version");
        let answer = quiet("redis-server", version)?;
        let version = answer
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or("of unknown version");
        Ok(format!(
            "redis {version}, over loopback: appendonly=yes, appendfsync=always"
        ))
    }
}

fn redis_program() -> Result<PathBuf, Failed> {
    let find = || {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths)
            .map(|dir| dir.join("redis-server"))
            .find(|program| program.exists())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    apt_install("redis-server")?;
    find().ok_or_else(|| "redis was installed, but redis-server is not in PATH".to_owned())
}

fn apt_install(package: &str) -> Result<(), Failed> {
    let advice = format!("install {package} yourself and repeat");
    if !regrow_local_postgres::is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!(
            "{package} is missing and can be installed here only by root on Debian; {advice}"
        ));
    }
    report(&format!("installing {package} …"));
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive");
    quiet("apt-get", install)
        .map(|_| ())
        .map_err(|error| format!("{error}; `apt-get update` may help, or {advice}"))
}

fn free_port() -> Result<u16, Failed> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Server, Failed> {
    let file = std::fs::File::create(log)
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(|error| format!("{} cannot be written: {error}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file.0)
        .stderr(file.1)
        .spawn()
        .map_err(|error| format!("{name} cannot be started: {error}"))?;
    Ok(Server(child))
}

fn until_ready(name: &str, log: &Path, ready: impl Fn() -> bool) -> Result<(), Failed> {
    let until = Instant::now() + START_MAX;
    while !ready() {
        if until < Instant::now() {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!(
                "{name} does not answer within {} s; it says:\n{said}",
                START_MAX.as_secs()
            ));
        }
        pause(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs a command to its end; what it printed, or its complaint.
pub(super) fn quiet(name: &str, mut command: Command) -> Result<String, Failed> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name} cannot run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{name} ({}): {}",
        output.status,
        tail(&format!("{said}{complaint}"))
    ))
}

/// The end of what a program said: where its reason stands.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    let last = lines[lines.len().saturating_sub(6)..].join(" | ");
    let skipped = last.chars().count().saturating_sub(600);
    last.chars().skip(skipped).collect()
}
