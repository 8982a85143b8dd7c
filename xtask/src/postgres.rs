//! A temporary PostgreSQL server for tests and benches: on a loopback port, in a directory of its own.
//!
//! PostgreSQL refuses to run as root, so root hands it to an unprivileged user. A guard
//! process waits for the end of this one, however it ends, then stops the server and removes
//! the directory.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{Failed, needs, report};

/// What the tests read to find the server.
const URL: &str = "REGROW_TEST_DATABASE_URL";
/// What the tests run to restart the server as a crash would.
const RESTART: &str = "REGROW_TEST_DATABASE_RESTART";

/// A running server, or one that somebody else runs.
pub(crate) struct Server {
    variables: Vec<(&'static str, String)>,
    guard: Option<Child>,
}

impl Server {
    /// Starts a server, unless `REGROW_TEST_DATABASE_URL` or `DATABASE_URL` names one.
    pub(crate) fn start() -> Result<Self, Failed> {
        if let Some(url) = [URL, "DATABASE_URL"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
        {
            report("PostgreSQL: the one that the environment names");
            return Ok(Self {
                variables: vec![(URL, url)],
                guard: None,
            });
        }
        Self::temporary(&std::env::temp_dir(), "")
    }

    /// Starts a server whatever the environment names, with its files under `place` and these
    /// lines added to its settings.
    pub(crate) fn temporary(place: &Path, settings: &str) -> Result<Self, Failed> {
        let programs = programs()?;
        let user = User::unprivileged()?;
        let dir = place.join(format!("regrow-postgres-{}", std::process::id()));
        std::fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let guard = guard(&programs, &user, &dir)?;
        let mut server = Self {
            variables: Vec::new(),
            guard: Some(guard),
        };
        server.serve(&programs, &user, &dir, settings)?;
        Ok(server)
    }

    /// The database `postgres` on it, with a password.
    pub(crate) fn url(&self) -> &str {
        let named = self.variables.iter().find(|(name, _)| *name == URL);
        named.map_or("", |(_, url)| url.as_str())
    }

    /// Tells a command where the server is.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    fn serve(
        &mut self,
        programs: &Path,
        user: &User,
        dir: &Path,
        settings: &str,
    ) -> Result<(), Failed> {
        let failed = |what: &str, error: std::io::Error| format!("PostgreSQL: {what}: {error}");
        let (data, log) = (dir.join("data"), dir.join("log"));
        let password = password().map_err(|error| failed("no random password", error))?;
        let file = dir.join("password");
        std::fs::write(&file, &password).map_err(|error| failed("password", error))?;
        user.own(&file)?;
        user.own(dir)?;
        let mut initdb = user.run(&programs.join("initdb"));
        initdb
            .args([
                "--username=regrow",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
            ])
            .args(["--locale=C", "--no-sync"])
            .arg(format!("--pwfile={}", file.display()))
            .arg(&data);
        quietly("initdb", initdb)?;
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .map_err(|error| failed("no free port", error))?
            .port();
        // In the file rather than on the command line: a restart reads it again. `fsync` stays
        // on, for what is acknowledged is to be on the disk.
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
             max_connections = 200\nlogging_collector = off\n{settings}\n"
        );
        let conf = data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&conf).map_err(|error| failed("settings", error))?;
        text.push_str(&settings);
        std::fs::write(&conf, text).map_err(|error| failed("settings", error))?;
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
        quietly("pg_ctl start", control(&["start"])).map_err(|error| {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            format!("{error}\n{log}")
        })?;
        let restart = dir.join("restart");
        let line = spelled(&control(&["-m", "immediate", "restart"]));
        std::fs::write(
            &restart,
            format!("#!/bin/sh\nexec {line} >/dev/null 2>&1\n"),
        )
        .and_then(|()| std::fs::set_permissions(&restart, std::fs::Permissions::from_mode(0o755)))
        .map_err(|error| failed("restart", error))?;
        report(&format!(
            "PostgreSQL: a temporary server on 127.0.0.1:{port}"
        ));
        self.variables = vec![
            (
                URL,
                format!("postgres://regrow:{password}@127.0.0.1:{port}/postgres"),
            ),
            (RESTART, restart.display().to_string()),
        ];
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            // The guard waits for the end of its input.
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// Where `initdb` and `pg_ctl` are; installs them where that is possible.
pub(crate) fn programs() -> Result<PathBuf, Failed> {
    if let Some(found) = installed() {
        return Ok(found);
    }
    let advice = "no PostgreSQL server: install one (Debian: `apt-get install postgresql`, macOS: \
        `brew install postgresql`), put its `initdb` and `pg_ctl` in PATH, or set DATABASE_URL to \
        a database in which the tests may create schemas";
    needs::install("postgresql", advice)?;
    installed().ok_or_else(|| advice.to_owned())
}

fn installed() -> Option<PathBuf> {
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
        let name = ["postgres", "nobody"].into_iter().find(exists).ok_or(
            "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`",
        )?;
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
            .ok_or(
                "PostgreSQL refuses to run as root, and neither `setpriv` nor `runuser` works",
            )?;
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
        .map_err(|error| format!("PostgreSQL: no guard: {error}"))
}

/// A command as a shell reads it.
fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")));
    quoted.collect::<Vec<_>>().join(" ")
}

pub(crate) fn is_root() -> bool {
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
pub(crate) fn quietly(step: &str, mut command: Command) -> Result<(), Failed> {
    let failed = |error: std::io::Error| format!("PostgreSQL: {step}: {error}");
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = output.map_err(failed)?;
    let stderr = child.stderr.take();
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(mut stderr) = stderr {
        // What it said is only for the message.
        let _ = stderr.read_to_string(&mut words);
    }
    Err(format!("PostgreSQL: {step} ({status}): {}", words.trim()))
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
