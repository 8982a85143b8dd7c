//! Programs that the tests need beyond Rust itself: found, or installed where that is possible.

use std::process::{Command, Stdio};

use regrow_local_postgres::is_root;

use crate::{Failed, report};

/// Checks for a C compiler, the languages of the example workers, and what makes networks.
pub(crate) fn check() -> Result<(), Failed> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    if !runs(&compiler) {
        return Err(format!(
            "no C compiler: `{compiler} --version` does not run, and SQLite is built from source; \
             install one (Debian: `apt-get install gcc`, macOS: `xcode-select --install`) or set CC"
        ));
    }
    let languages = "the example workers are tested in their languages";
    let telemetry = "rules, routes and metrics are checked by Prometheus' own programs";
    let terminal = "the terminal view is tested in a terminal";
    let network = "nodes are tested on hosts of their own, in namespaces";
    for (program, version, package, why) in [
        ("python3", "--version", "python3", languages),
        ("node", "--version", "nodejs", languages),
        ("ip", "-V", "iproute2", network),
        ("tmux", "-V", "tmux", terminal),
        ("promtool", "--version", "prometheus", telemetry),
        ("amtool", "--version", "prometheus-alertmanager", telemetry),
    ] {
        // Only Linux has namespaces.
        let is_wanted = program != "ip" || cfg!(target_os = "linux");
        if is_wanted && !answers(program, version) {
            let advice =
                format!("no `{program}`: {why}; install it (Debian: `apt-get install {package}`)");
            install(package, &advice)?;
        }
    }
    Ok(())
}

fn runs(program: &str) -> bool {
    answers(program, "--version")
}

fn answers(program: &str, flag: &str) -> bool {
    let answer = Command::new(program).arg(flag).output();
    answer.is_ok_and(|answer| answer.status.success())
}

/// Installs one of Debian's packages where this process may; otherwise fails with `advice`.
pub(crate) fn install(package: &str, advice: &str) -> Result<(), Failed> {
    if !is_root() || !runs("apt-get") {
        return Err(advice.to_owned());
    }
    report(&format!("installing Debian's `{package}` …"));
    let update = &["update", "-q"][..];
    let install = &["install", "-q", "-y", "--no-install-recommends", package];
    for arguments in [update, install] {
        let mut apt = Command::new("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        // Its complaints are seen as they come: a server that it starts would keep a pipe open.
        let status = apt.stdin(Stdio::null()).stdout(Stdio::null()).status();
        let status = status.map_err(|error| format!("{advice}\napt-get: {error}"))?;
        if !status.success() {
            return Err(format!("{advice}\napt-get {} ({status})", arguments[0]));
        }
    }
    Ok(())
}
