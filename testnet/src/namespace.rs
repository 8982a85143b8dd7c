//! Namespaces: a user namespace for the whole program, and threads each in a network of its own.
//!
//! A process may change its user namespace only while it has one thread, so [`enter`] comes first in
//! `main`. A network namespace belongs to a thread: sockets that it makes and processes that it starts
//! are in there, whoever uses them afterwards.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// The machine does not let us, or the network is not as it should be; in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub(crate) String);

/// Says what was tried when something did not work.
pub(crate) fn failed<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Failed {
    move |error| Failed(format!("{what}: {error}"))
}

/// Makes this process master of a user namespace, and tries whether networks can be made there.
///
/// To be called once, before there is a second thread. A process of root that may make no user
/// namespace goes on without.
///
/// # Errors
///
/// Why this machine forbids it, and what to do about it. The process is as it was, or alone in a
/// user namespace in which it can do nothing more than before.
pub fn enter() -> Result<(), Failed> {
    let (user, group) = (getuid(), getgid());
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {
            let write = |file: &str, text: String| {
                let path = format!("/proc/self/{file}");
                std::fs::write(&path, text).map_err(failed(&path))
            };
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {user} 1"))?;
            write("gid_map", format!("0 {group} 1"))?;
        }
        Err(_) if user.is_root() => {}
        Err(error) => {
            return Err(Failed(format!(
                "this machine lets users make no namespaces ({error}); allow it (`sysctl \
                 user.max_user_namespaces=10000`, and where there is one \
                 `kernel.apparmor_restrict_unprivileged_userns=0`), or run as root"
            )));
        }
    }
    Namespace::new()?.ip("link set lo up\n")
}

/// Whether a test that needs namespaces can run; says aloud that it does not.
///
/// # Errors
///
/// That the machine forbids it, where the environment says `CI=true`: there a test that does not
/// run is a failure.
pub fn admit(entered: &Result<(), Failed>, test: &str) -> Result<bool, Failed> {
    let Err(Failed(reason)) = entered else {
        return Ok(true);
    };
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        return Err(Failed(reason.clone()));
    }
    say(&format!("NOT RUN: {test}: {reason}"));
    Ok(false)
}

#[expect(
    clippy::print_stdout,
    reason = "whoever reads the results is told what is missing"
)]
fn say(line: &str) {
    println!("{line}");
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace, and a mount namespace, of its own. The namespaces end with
/// it, unless something that was made in there still lives.
pub struct Namespace {
    jobs: mpsc::SyncSender<Job>,
    net: File,
}

impl Namespace {
    /// Makes one; it has no device that is up.
    ///
    /// # Errors
    ///
    /// What the machine forbids.
    pub fn new() -> Result<Self, Failed> {
        let (jobs, taken) = mpsc::sync_channel::<Job>(16);
        let (made, making) = mpsc::sync_channel(1);
        let live = move || {
            let made = made.send(isolate()).is_ok();
            while made && let Ok(job) = taken.recv() {
                job();
            }
        };
        std::thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(live)
            .map_err(failed("a thread"))?;
        let net = making.recv().map_err(failed("a thread"))??;
        Ok(Self { jobs, net })
    }

    /// Does something in there, and waits for it: for what takes no time, such as making a
    /// socket or starting a process.
    ///
    /// # Panics
    ///
    /// If it panicked.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::sync_channel(1);
        let job = Box::new(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            // Whoever asked waits below.
            let _ = answer.send(done);
        });
        self.jobs
            .send(job)
            .expect("the thread lives as long as this");
        let done = answered.recv().expect("every job is answered");
        done.unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }

    /// Where the network namespace is found by programs that this process starts.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Runs lines of `ip` in there.
    ///
    /// # Errors
    ///
    /// What `ip` said, or that there is none.
    pub fn ip(&self, lines: &str) -> Result<(), Failed> {
        let lines = lines.to_owned();
        self.run(move || ip(&lines))
    }

    /// Puts a file over another, for whatever runs in there.
    ///
    /// # Errors
    ///
    /// That it may not.
    pub fn put_over(&self, file: &Path, place: &'static str) -> Result<(), Failed> {
        let file = file.to_owned();
        self.run(move || {
            mount(
                Some(&file),
                place,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(failed(place))
        })
    }
}

/// Leaves this thread alone in new namespaces.
fn isolate() -> Result<File, Failed> {
    let what = "a network namespace";
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(failed(what))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed("mounts"))?;
    File::open("/proc/thread-self/ns/net").map_err(failed(what))
}

fn ip(lines: &str) -> Result<(), Failed> {
    let advice = "`ip` cannot be run (Debian: `apt-get install iproute2`)";
    let start = |program: &str| {
        Command::new(program)
            .args(["-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    // Not everybody's path leads to the programs of the system.
    let started = start("ip").or_else(|_| start("/usr/sbin/ip"));
    let mut child = started
        .or_else(|_| start("/sbin/ip"))
        .map_err(failed(advice))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).map_err(failed(advice))?;
    }
    let output = child.wait_with_output().map_err(failed(advice))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failed(format!(
        "`ip` refused ({}): {}\n{lines}",
        output.status,
        said.trim()
    )))
}
