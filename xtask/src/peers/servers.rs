//! PostgreSQL and redis for one run: found or installed, started on a loopback port over a
//! fresh directory, stopped and removed afterwards.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Failed, pause, report};

/// Same for every peer. Memory and log size are raised from the defaults of a small machine
/// of years ago, so that checkpoints do not fall into a run by chance; durability is not
/// touched.
const POSTGRES_SETTINGS: [&str; 6] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "max_connections=200",
    "shared_buffers=256MB",
    "max_wal_size=4GB",
];

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(30);

/// A child that is asked to stop, and killed if it does not.
struct Server {
    child: Child,
    /// Of the signal that asks.
    stop: &'static str,
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args([self.stop, &id]).status();
        let until = Instant::now() + STOP_MAX;
        while asked.is_ok() && Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause(Duration::from_millis(20));
        }
        // Nobody is left to tell if this fails too.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    // Dropped in this order: stop, then remove.
    _server: Server,
    bin: PathBuf,
    port: u16,
    _directory: Directory,
}

impl Postgres {
    /// Starts one with its files under `place`.
    pub(super) fn start(place: &Path) -> Result<Self, Failed> {
        let bin = postgres_bin()?;
        let directory = Directory::new(place, "postgres")?;
        let data = directory.0.join("data");
        let user = if is_root()? {
            Some(unprivileged()?)
        } else {
            None
        };
        if let Some(user) = &user {
            let mut chown = Command::new("chown");
            chown.arg(&user.name).arg(&directory.0);
            quiet("chown", chown)?;
        }
        let mut init = as_user(user.as_ref(), &bin.join("initdb"));
        init.arg("-D").arg(&data);
        init.args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        quiet("initdb", init)?;
        let port = free_port()?;
        let mut server = as_user(user.as_ref(), &bin.join("postgres"));
        server.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        server.arg("-k").arg(&directory.0);
        server.args(["-c", "listen_addresses=127.0.0.1"]);
        for setting in POSTGRES_SETTINGS {
            server.args(["-c", setting]);
        }
        let log = directory.0.join("log");
        let started = Self {
            _server: spawn("postgres", server, &log, "-INT")?,
            bin,
            port,
            _directory: directory,
        };
        until_ready("PostgreSQL", &log, || started.sql("SELECT 1").is_ok())?;
        Ok(started)
    }

    /// Runs one statement against the database `postgres`; its unadorned answer.
    pub(super) fn sql(&self, statement: &str) -> Result<String, Failed> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]);
        psql.args(["-p", &self.port.to_string(), "-U", "postgres"]);
        psql.args(["-d", "postgres", "-c", statement]);
        quiet("psql", psql)
    }

    /// An empty database; what earlier runs left to be written is written.
    pub(super) fn database(&self, name: &str) -> Result<String, Failed> {
        self.sql(&format!("CREATE DATABASE {name}"))?;
        self.sql("CHECKPOINT")?;
        Ok(format!(
            "postgres://postgres@127.0.0.1:{}/{name}",
            self.port
        ))
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
            let name = setting.split('=').next().unwrap_or(setting);
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
            _server: spawn("redis-server", server, &log, "-TERM")?,
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

/// The newest PostgreSQL that can be found; Debian's is installed where that is allowed.
fn postgres_bin() -> Result<PathBuf, Failed> {
    if let Some(found) = find_postgres() {
        return Ok(found);
    }
    apt_install("postgresql")?;
    find_postgres().ok_or_else(|| {
        "PostgreSQL was installed, but there is no initdb in PATH or /usr/lib/postgresql".to_owned()
    })
}

fn find_postgres() -> Option<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, bin)| bin.join("initdb").exists() && bin.join("psql").exists())
        .collect();
    debian.sort();
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).find(|dir| has(dir));
    fn has(dir: &Path) -> bool {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|program| dir.join(program).exists())
    }
    debian.pop().map(|(_, bin)| bin).or_else(in_path)
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
    if !is_root()? || !Path::new("/usr/bin/apt-get").exists() {
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

fn is_root() -> Result<bool, Failed> {
    let mut id = Command::new("id");
    id.arg("-u");
    Ok(quiet("id", id)?.trim() == "0")
}

/// Who runs the server in root's place: PostgreSQL refuses to run as root.
struct User {
    name: String,
    group: String,
}

fn unprivileged() -> Result<User, Failed> {
    for name in ["postgres", "nobody"] {
        let mut id = Command::new("id");
        id.args(["-gn", name]);
        if let Ok(group) = quiet("id", id) {
            return Ok(User {
                name: name.to_owned(),
                group: group.trim().to_owned(),
            });
        }
    }
    Err("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`".to_owned())
}

/// As another user if one is given, and not longer than this process lives.
fn as_user(user: Option<&User>, program: &Path) -> Command {
    let Some(user) = user else {
        return Command::new(program);
    };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", user.name));
    command.arg(format!("--regid={}", user.group));
    command.args(["--init-groups", "--reset-env", "--pdeathsig", "INT", "--"]);
    command.arg(program);
    command
}

fn free_port() -> Result<u16, Failed> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("no free port on 127.0.0.1: {error}"))
}

fn spawn(
    name: &str,
    mut command: Command,
    log: &Path,
    stop: &'static str,
) -> Result<Server, Failed> {
    let file = std::fs::File::create(log)
        .and_then(|file| Ok((file.try_clone()?, file)))
        .map_err(|error| format!("{} cannot be written: {error}", log.display()))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file.0)
        .stderr(file.1)
        .spawn()
        .map_err(|error| format!("{name} cannot be started: {error}"))?;
    Ok(Server { child, stop })
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
