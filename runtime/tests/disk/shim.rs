//! Building the shim, and running this test binary behind it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The library, in a directory that lives as long as this.
pub(crate) struct Shim {
    dir: tempfile::TempDir,
}

impl Shim {
    pub(crate) fn build() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/shim.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(&compiler)
            .args(["-O1", "-Wall", "-shared", "-fPIC", "-o"])
            .arg(dir.path().join("shim.so"))
            .arg(source)
            .args(["-ldl", "-lpthread"])
            .output()
            .expect("a C compiler, as for SQLite");
        assert!(
            built.status.success(),
            "{compiler} does not build {source}:\n{}",
            String::from_utf8_lossy(&built.stderr)
        );
        Self { dir }
    }

    /// Where the log of the disk and the fault to come are kept, beside the watched files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// This binary's test `name`, with the files below `dir` watched.
    pub(crate) fn run(&self, name: &str, dir: &Path, settings: &[(&str, &Path)]) -> Output {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["--exact", name, "--nocapture"])
            .env("LD_PRELOAD", self.path("shim.so"))
            .env("REGROW_DISK_DIR", dir.canonicalize().expect("exists"))
            .envs(settings.iter().copied());
        command.output().expect("started")
    }
}

/// The directory a child of this binary is to use; `None` in the parent.
pub(crate) fn watched_dir() -> Option<PathBuf> {
    std::env::var_os("REGROW_DISK_DIR").map(PathBuf::from)
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
