//! A temporary PostgreSQL server, for tests, benches and rehearsals: on a loopback port, in a
//! directory of its own.
//!
//! PostgreSQL refuses to run as root, so root hands it to an unprivileged user. A guard
//! process waits for the end of this one, however it ends, then stops the server and removes
//! the directory.

use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// There is no server; nothing of it is left running.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// A file or a socket.
    #[error("PostgreSQL: {step}")]
    Io {
        /// At what.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// A program that PostgreSQL brings, or one that it was run with.
    #[error("PostgreSQL: {program} ({status}): {words}")]
    Program {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said, and the server's log if it has one.
        words: String,
    },
    /// This process is root, which PostgreSQL refuses.
    #[error("PostgreSQL refuses to run as root, and {0}")]
    Root(&'static str),
}

impl Failed {
    fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Io { step, source }
    }
}

/// A running server. Dropped, or when this process ends, it is stopped and its files go.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    port: u16,
    password: String,
    guard: Child,
}

impl Server {
    /// Starts a server with the programs in `programs` ([`installed`]), with its files under
    /// `place` and these lines added to its settings. Takes some seconds; blocks.
    ///
    /// # Errors
    ///
    /// [`Failed`].
    pub fn start(programs: &Path, place: &Path, settings: &str) -> Result<Self, Failed> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let user = User::unprivileged()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = place.join(format!("regrow-postgres-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).map_err(Failed::io(dir.display().to_string()))?;
        let mut server = Self {
            guard: guard(programs, &user, &dir)?,
            port: 0,
            password: password().map_err(Failed::io("no random password"))?,
            dir,
        };
        server.initialise(programs, &user)?;
        server.serve(programs, &user, settings)?;
        Ok(server)
    }

    /// The database `postgres` on it, with a password.
    #[must_use]
    pub fn url(&self) -> String {
        let Self { password, port, .. } = self;
        format!("postgres://regrow:{password}@127.0.0.1:{port}/postgres")
    }

    /// The loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A program that restarts the server as a crash would.
    #[must_use]
    pub fn restart(&self) -> PathBuf {
        self.dir.join("restart")
    }

    fn initialise(&self, programs: &Path, user: &User) -> Result<(), Failed> {
        let file = self.dir.join("password");
        std::fs::write(&file, &self.password).map_err(Failed::io("password"))?;
        user.own(&file)?;
        user.own(&self.dir)?;
        let mut initdb = user.run(&programs.join("initdb"));
        initdb
            .args([
                "--username=regrow",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--no-sync"])
            .arg(format!("--pwfile={}", file.display()))
            .arg(self.dir.join("data"));
        quietly("initdb", initdb)
    }

    fn serve(&mut self, programs: &Path, user: &User, settings: &str) -> Result<(), Failed> {
        let (data, log) = (self.dir.join("data"), self.dir.join("log"));
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .map_err(Failed::io("no free port"))?
            .port();
        // In the file rather than on the command line: a restart reads it again. `fsync` stays
        // on, for what is acknowledged is to be on the disk.
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
             max_connections = 200\nlogging_collector = off\n{settings}\n"
        );
        let conf = data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&conf).map_err(Failed::io("settings"))?;
        text.push_str(&settings);
        std::fs::write(&conf, text).map_err(Failed::io("settings"))?;
        let control = |verb: &[&str]| {
            let mut pg_ctl = user.run(&programs.join("pg_ctl"));
            pg_ctl
                .arg("-D")
                .arg(&data)
                .arg("-l")
                .arg(&log)
                .args(["-w", "-s"])
                .args(verb);
            pg_ctl
        };
        quietly("pg_ctl start", control(&["start"])).map_err(|mut failed| {
            if let Failed::Program { words, .. } = &mut failed {
                words.push('\n');
                words.push_str(&std::fs::read_to_string(&log).unwrap_or_default());
            }
            failed
        })?;
        self.port = port;
        let restart = self.restart();
        let line = spelled(&control(&["-m", "immediate", "restart"]));
        std::fs::write(
            &restart,
            format!("#!/bin/sh\nexec {line} >/dev/null 2>&1\n"),
        )
        .and_then(|()| std::fs::set_permissions(&restart, std::fs::Permissions::from_mode(0o755)))
        .map_err(Failed::io("restart"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The guard waits for the end of its input.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Where `initdb` and `pg_ctl` are, if a server is installed: in `PATH`, or where Debian has
/// them, the newest first.
#[must_use]
pub fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort_unstable();
    places.extend(versions.into_iter().rev().map(|(_, path)| path.join("bin")));
    places
        .into_iter()
        .find(|place| place.join("initdb").exists() && place.join("pg_ctl").exists())
}

/// As whom the server runs.
struct User {
    /// What goes before a command; nothing unless this process is root.
    prefix: Vec<String>,
    name: Option<String>,
}

impl User {
    fn unprivileged() -> Result<Self, Failed> {
        if !is_root() {
            return Ok(Self {
                prefix: Vec::new(),
                name: None,
            });
        }
        let exists = |name: &&str| answer(Command::new("id").args(["-u", name])).is_some();
        let name = ["postgres", "nobody"]
            .into_iter()
            .find(exists)
            .ok_or(Failed::Root("there is no user `postgres` or `nobody`"))?;
        let group = answer(Command::new("id").args(["-g", name])).unwrap_or_default();
        let prefixes = [
            format!("setpriv --reuid={name} --regid={group} --clear-groups --"),
            format!("runuser -u {name} --"),
        ];
        let prefix = prefixes
            .iter()
            .map(|prefix| prefix.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .find(|prefix| {
                answer(Command::new(&prefix[0]).args(&prefix[1..]).arg("true")).is_some()
            })
            .ok_or(Failed::Root("neither `setpriv` nor `runuser` works"))?;
        Ok(Self {
            prefix,
            name: Some(name.to_owned()),
        })
    }

    fn run(&self, program: &Path) -> Command {
        let mut command = match self.prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        // The present directory may be closed to that user.
        command.current_dir("/");
        command
    }

    fn own(&self, path: &Path) -> Result<(), Failed> {
        let Some(name) = &self.name else {
            return Ok(());
        };
        let mut chown = Command::new("chown");
        chown.arg(name).arg(path);
        quietly("chown", chown)
    }
}

/// Stops the server and removes its directory when this process ends, killed or not. In a
/// process group of its own, so that an interrupt at the terminal does not reach it.
fn guard(programs: &Path, user: &User, dir: &Path) -> Result<Child, Failed> {
    let mut stop = user.run(&programs.join("pg_ctl"));
    stop.arg("-D")
        .arg(dir.join("data"))
        .args(["-m", "immediate", "-s", "stop"]);
    let script = format!(
        "cat >/dev/null; {} >/dev/null 2>&1; rm -rf '{}'",
        spelled(&stop),
        dir.display()
    );
    Command::new("sh")
        .args(["-c", &script])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(Failed::io("no guard"))
}

/// A command as a shell reads it.
fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    answer(Command::new("id").arg("-u")).is_some_and(|uid| uid == "0")
}

/// What a command that succeeded printed.
fn answer(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command, whose words matter only when it fails. A server that it leaves behind
/// keeps what it was given for output, so that is a file, not a pipe.
fn quietly(program: &str, mut command: Command) -> Result<(), Failed> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(Failed::io(program))?;
    let stderr = child.stderr.take();
    let status = child.wait().map_err(Failed::io(program))?;
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(mut stderr) = stderr {
        // What it said is only for the message.
        let _ = stderr.read_to_string(&mut words);
    }
    Err(Failed::Program {
        program: program.to_owned(),
        status,
        words: words.trim().to_owned(),
    })
}

fn password() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_spelled_so_that_a_shell_reads_it_back() {
        let mut command = Command::new("printf");
        command.args(["%s|", "it's", "a b", "$HOME"]);
        let output = answer(Command::new("sh").args(["-c", &spelled(&command)]));
        assert_eq!(output.as_deref(), Some("it's|a b|$HOME|"));
    }
}
