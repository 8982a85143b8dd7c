//! The PostgreSQL that tests and benches use: one that the environment names, or a temporary one.

use std::path::{Path, PathBuf};
use std::process::Command;

use regrow_local_postgres::{Server, installed};

use crate::{Failed, needs, report};

/// What the tests read to find the server.
const URL: &str = "REGROW_TEST_DATABASE_URL";
/// What the tests run to restart the server as a crash would.
const RESTART: &str = "REGROW_TEST_DATABASE_RESTART";

/// A server for tests.
pub(crate) enum Database {
    /// Somebody else runs it.
    Named(String),
    /// It goes with this value.
    Temporary(Server),
}

impl Database {
    /// Starts a server, unless `REGROW_TEST_DATABASE_URL` or `DATABASE_URL` names one.
    pub(crate) fn start() -> Result<Self, Failed> {
        if let Some(url) = [URL, "DATABASE_URL"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
        {
            report("PostgreSQL: the one that the environment names");
            return Ok(Self::Named(url));
        }
        temporary(&std::env::temp_dir(), "").map(Self::Temporary)
    }

    /// Tells a command where the server is.
    pub(crate) fn tell(&self, command: &mut Command) {
        match self {
            Self::Named(url) => command.env(URL, url),
            Self::Temporary(server) => command
                .env(URL, server.url())
                .env(RESTART, server.restart()),
        };
    }
}

/// Starts a server whatever the environment names, with its files under `place` and these
/// lines added to its settings.
pub(crate) fn temporary(place: &Path, settings: &str) -> Result<Server, Failed> {
    let server = Server::start(&programs()?, place, settings).map_err(|failed| spelled(&failed))?;
    let port = server.port();
    report(&format!(
        "PostgreSQL: a temporary server on 127.0.0.1:{port}"
    ));
    Ok(server)
}

/// An error with its causes.
fn spelled(error: &dyn std::error::Error) -> Failed {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
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
