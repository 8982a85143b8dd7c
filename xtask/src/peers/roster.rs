//! Who takes part, and how each is run.

/// Where a queue keeps its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Postgres,
    Sqlite,
    Redis,
}

impl Store {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
            Self::Redis => "redis",
        }
    }
}

/// What runs a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// The bench of our own crate.
    Ours,
    /// A package of `benches/peers/rust`.
    Rust(&'static str),
    /// A file of `benches/peers/node`.
    Node(&'static str),
    /// A file of `benches/peers/python`.
    Python(&'static str),
}

/// A queue on a store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) store: Store,
    pub(super) program: Program,
    /// What becomes of a finished job: who deletes it writes less.
    pub(super) finished: &'static str,
    /// A way of draining that the program knows by this word; submissions are as usual and
    /// are not measured again.
    pub(super) variant: Option<&'static str>,
}

impl Peer {
    pub(super) fn is_ours(&self) -> bool {
        self.program == Program::Ours
    }
}

const fn peer(name: &'static str, store: Store, program: Program, finished: &'static str) -> Peer {
    Peer {
        name,
        store,
        program,
        finished,
        variant: None,
    }
}

/// Everybody. Their versions stand in the lock files under `benches/peers`.
pub(super) const PEERS: [Peer; 13] = [
    peer(
        "regrow",
        Store::Postgres,
        Program::Ours,
        "kept, with result and log",
    ),
    peer(
        "regrow",
        Store::Sqlite,
        Program::Ours,
        "kept, with result and log",
    ),
    peer(
        "graphile-worker",
        Store::Postgres,
        Program::Node("graphile_worker.mjs"),
        "deleted",
    ),
    peer(
        "graphile_worker-rs",
        Store::Postgres,
        Program::Rust("peer-graphile"),
        "deleted",
    ),
    peer(
        "pg-boss",
        Store::Postgres,
        Program::Node("pg_boss.mjs"),
        "kept",
    ),
    peer(
        "apalis",
        Store::Postgres,
        Program::Rust("peer-apalis-postgres"),
        "kept",
    ),
    peer(
        "apalis",
        Store::Sqlite,
        Program::Rust("peer-apalis-sqlite"),
        "kept",
    ),
    // Its manual knows no ANALYZE; with one, SQLite finds a far better plan for it.
    Peer {
        variant: Some("analyze"),
        ..peer(
            "apalis+ANALYZE",
            Store::Sqlite,
            Program::Rust("peer-apalis-sqlite"),
            "kept",
        )
    },
    peer(
        "riverqueue",
        Store::Postgres,
        Program::Rust("peer-river"),
        "kept",
    ),
    peer(
        "riverqueue",
        Store::Sqlite,
        Program::Rust("peer-river"),
        "kept",
    ),
    peer("awa", Store::Postgres, Program::Rust("peer-awa"), "kept"),
    peer(
        "pgqueuer",
        Store::Postgres,
        Program::Python("pgqueuer_peer.py"),
        "moved to a log",
    ),
    peer("bullmq", Store::Redis, Program::Node("bullmq.mjs"), "kept"),
];
