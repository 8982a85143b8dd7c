//! A disk whose flushes take longer: the bench itself, once more, behind a preloaded library.

use std::process::Command;

#[path = "../../tests/disk/shim.rs"]
#[expect(dead_code, reason = "the tests of disks use the rest")]
mod shim;

/// Where the delay is asked for, such as `delay=1000` among the arguments: in microseconds.
const ASKED: &str = "delay=";

/// Runs this program again with every flush delayed, if that is asked for. Returns whether it was.
pub(crate) fn ran(asked: &[String]) -> bool {
    let Some(delay) = asked.iter().find_map(|asked| asked.strip_prefix(ASKED)) else {
        return false;
    };
    let shim = shim::Shim::build();
    let dir = tempfile::tempdir().expect("temporary directory");
    let rest = asked.iter().filter(|asked| !asked.starts_with(ASKED));
    println!("every flush takes {delay} microseconds longer");
    let run = Command::new(std::env::current_exe().expect("this program"))
        .args(rest)
        .env("LD_PRELOAD", shim.path("shim.so"))
        .env(
            "REGROW_DISK_DIR",
            dir.path().canonicalize().expect("exists"),
        )
        .env("REGROW_DISK_DELAY_US", delay)
        .env("TMPDIR", dir.path())
        .status()
        .expect("started");
    assert!(run.success(), "{run}");
    true
}
