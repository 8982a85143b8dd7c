//! `regrow top` as a person has it: the binary in a terminal of tmux, beside a real node.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::node::{PATIENCE, regrow, say};
use crate::peers::free_address;

/// A terminal with a shell of its own, closed when it is dropped.
struct Terminal {
    dir: TempDir,
}

impl Terminal {
    /// Runs `script` in a terminal of 80 by 24.
    fn running(script: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let terminal = Self { dir };
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "sh",
            "-c",
            script,
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let socket = self.dir.path().join("tmux");
        let output = Command::new("tmux")
            .arg("-S")
            .arg(socket)
            .args(arguments)
            .env("TERM", "xterm")
            .env_remove("TMUX")
            .output()
            .expect("`tmux` runs; `cargo xtask test` installs it");
        assert!(
            output.status.success(),
            "tmux {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(
                Instant::now() < deadline,
                "{what} is not to be seen:\n{screen}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until_shown(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text)).await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let socket = self.dir.path().join("tmux");
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(socket)
            .arg("kill-server")
            .output();
    }
}

/// A node at an address that it gets again.
async fn node_at(address: SocketAddr, dir: &Path) -> tokio::process::Child {
    let mut command = regrow();
    command
        .args(["node", "--http", &address.to_string(), "--data-dir"])
        .arg(dir)
        // A tree that fits on the screen.
        .env("REGROW_CONTEXT__SHARDS", "1")
        .env("REGROW_AGENTS__WORKERS", "1")
        .env("REGROW_AGENTS__PLANNERS", "0")
        .env("REGROW_AGENTS__CRITICS", "0")
        .env("REGROW_AGENTS__MEMORIES", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let node = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn();
    let node = node.expect("the node starts");
    let deadline = Instant::now() + PATIENCE;
    while reqwest::get(format!("http://{address}/health/ready"))
        .await
        .map_or(true, |answer| !answer.status().is_success())
    {
        assert!(Instant::now() < deadline, "the node is not ready");
        sleep(Duration::from_millis(20)).await;
    }
    node
}

async fn asked(address: SocketAddr, path: &str) -> Value {
    let answer = reqwest::get(format!("http://{address}{path}")).await;
    answer.expect("an answer").json().await.expect("JSON")
}

/// Leaves its process id in a file of `dir`.
fn script(address: SocketAddr, dir: &Path) -> String {
    script_with(address, dir, "")
}

fn script_with(address: SocketAddr, dir: &Path, flags: &str) -> String {
    let (binary, pid) = (
        env!("CARGO_BIN_EXE_regrow"),
        dir.join("pid").display().to_string(),
    );
    // What the terminal was told to do before is undone if echo is on again.
    format!(
        "sh -c 'echo $$ > {pid}; exec env NO_COLOR=1 {binary} top --every 200ms {flags} --url http://{address}'; \
         echo \"ended with $?\"; stty -a | grep -o -w -e '-echo' -e 'echo' | head -1; sleep 600"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_sees_the_node_acts_on_it_and_sees_it_go_and_come_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let address = free_address();
    let mut node = node_at(address, dir.path()).await;
    let terminal = Terminal::running(&script(address, dir.path()));
    let screen = terminal.until_shown("worker-1").await;
    assert!(
        screen.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );
    assert!(
        screen.contains("regrow top") && screen.contains("q quit"),
        "{screen}"
    );
    assert!(screen.contains("version"), "{screen}");

    terminal.press(&["p"]);
    terminal.until_shown("PAUSED").await;
    assert_eq!(asked(address, "/v1/queue").await["paused"], true);
    terminal.press(&["p"]);
    terminal
        .until("an open queue", |screen| !screen.contains("PAUSED"))
        .await;

    // Down to worker-1, one row at a time; the row says how often it was started again.
    let row = |screen: &str| {
        screen
            .lines()
            .find(|line| line.contains("worker-1 "))
            .map(ToOwned::to_owned)
    };
    let rows = |screen: &str| {
        let lines = screen.lines().skip(4);
        lines.take_while(|line| !line.contains("worker-1 ")).count()
    };
    let down = rows(&terminal.screen());
    terminal.press(&vec!["Down"; down]);
    terminal.press(&["x"]);
    terminal.until_shown("kill agent worker-1? y/n").await;
    terminal.press(&["n"]);
    terminal.until_shown("nothing was done").await;
    terminal.press(&["x", "y"]);
    terminal.until_shown("kill agent worker-1: done").await;
    terminal
        .until("a restart", |screen| {
            row(screen).is_some_and(|row| row.contains(" running ") && row.contains(" 1 "))
        })
        .await;
    terminal.press(&["5"]);
    terminal.until_shown("child_restarted").await;
    terminal.press(&["3"]);
    terminal.until_shown("at a gate").await;
    terminal.press(&["4"]);
    terminal.until_shown("here").await;
    terminal.press(&["1"]);
    terminal.tmux(&["resize-window", "-x", "60", "-y", "12"]);
    let wide = |screen: &str| screen.lines().map(|line| line.chars().count()).max();
    let small = terminal
        .until("a smaller screen", |screen| {
            wide(screen) <= Some(60) && screen.contains("q quit") && screen.contains("worker-1")
        })
        .await;
    assert!(small.lines().count() <= 12, "{small}");
    // As at the beginning: tmux keeps what it was then for afterwards.
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);

    node.kill().await.expect("killed");
    terminal.until_shown("AWAY for").await;
    let _node = node_at(address, dir.path()).await;
    terminal
        .until("the node again", |screen| {
            !screen.contains("AWAY") && screen.contains("worker-1")
        })
        .await;
    terminal.press(&["q"]);
    let screen = terminal.until_shown("ended with 0").await;
    assert!(
        !screen.contains("worker-1"),
        "the screen is as it was before:\n{screen}"
    );
    let screen = terminal
        .until("echo", |screen| screen.contains("echo"))
        .await;
    assert!(!screen.contains("-echo"), "{screen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_puts_the_terminal_back_before_it_is_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let address = free_address();
    let _node = node_at(address, dir.path()).await;
    let terminal = Terminal::running(&script_with(address, dir.path(), "--rehearse-panic"));
    terminal.until_shown("worker-1").await;
    terminal.press(&["!"]);
    let screen = terminal.until_shown("ended with 1").await;
    assert!(
        !screen.contains("worker-1"),
        "the screen is as it was:\n{screen}"
    );
    // On the screen that stays, in lines that begin at the left: raw mode is off.
    let told = screen.replace('\n', "");
    assert!(told.contains("the view met a bug"), "{screen}");
    assert!(told.contains("the rehearsal asked for a panic"), "{screen}");
    assert!(
        screen.lines().any(|line| line == "ended with 1"),
        "{screen}"
    );
    let echoes = |screen: &str| screen.lines().any(|line| line == "echo" || line == "-echo");
    let screen = terminal.until("echo", echoes).await;
    assert!(!screen.contains("-echo"), "{screen}");
    let shown = terminal.tmux(&["display-message", "-p", "#{cursor_flag} #{alternate_on}"]);
    assert_eq!(
        shown.trim(),
        "1 0",
        "the cursor is shown, on the screen of before"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_puts_the_terminal_back_and_without_one_there_is_one_look() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let address = free_address();
    let _node = node_at(address, dir.path()).await;
    let terminal = Terminal::running(&script(address, dir.path()));
    terminal.until_shown("worker-1").await;
    let pid = std::fs::read_to_string(dir.path().join("pid")).expect("a process");
    let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
    kill(pid, Signal::SIGTERM).expect("signalled");
    terminal.until_shown("ended with 0").await;
    let screen = terminal
        .until("echo", |screen| screen.contains("echo"))
        .await;
    assert!(!screen.contains("-echo"), "{screen}");

    let url = format!("http://{address}");
    let once = say(regrow().args(["top", "--once", "--url", &url]));
    assert_eq!(once.code, Some(0), "{}", once.err);
    assert!(
        once.out.contains("worker-1") && !once.out.contains('\u{1b}'),
        "{}",
        once.out
    );
    let json = say(regrow().args(["top", "--json", "--url", &url]));
    let told: Value = serde_json::from_str(&json.out).expect("JSON");
    for part in ["health", "queue", "tree", "agents", "nodes", "tasks"] {
        assert!(told[part].is_object(), "{part}: {told}");
    }
    assert_eq!(told["missing"], serde_json::json!([]));
    let refused = say(regrow().args(["top", "--url", &url]));
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("--once"), "{}", refused.err);
    let nobody = say(regrow().args(["top", "--once", "--url", "http://127.0.0.1:1"]));
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.err.contains("cannot reach"), "{}", nobody.err);
}
