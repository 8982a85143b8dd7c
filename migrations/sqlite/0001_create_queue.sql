-- Times are milliseconds since the Unix epoch. `seq` is the order of acceptance.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES ('boots', '0');

-- What never changes.
CREATE TABLE task (
    seq             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    kind            TEXT NOT NULL,
    payload         TEXT NOT NULL,
    goal            TEXT,
    priority        TEXT NOT NULL,
    class           TEXT NOT NULL,
    tenant          TEXT NOT NULL,
    idempotency_key TEXT,
    parent          TEXT,
    depends_on      TEXT NOT NULL,
    max_attempts    INTEGER NOT NULL,
    submitted_at    INTEGER NOT NULL,
    deadline        INTEGER
);
CREATE UNIQUE INDEX task_key ON task (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX task_parent ON task (parent) WHERE parent IS NOT NULL;
CREATE INDEX task_kind ON task (kind, seq);

-- How a live task stands. The row goes when the task ends.
CREATE TABLE task_run (
    seq              INTEGER PRIMARY KEY,
    state            TEXT NOT NULL,
    attempt          INTEGER NOT NULL,
    losses           INTEGER NOT NULL,
    epoch            INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    lease_until      INTEGER,
    worker           TEXT,
    cancel_requested INTEGER NOT NULL,
    last_error       TEXT,
    events           INTEGER NOT NULL
);

-- How a task ended.
CREATE TABLE task_end (
    seq         INTEGER PRIMARY KEY,
    state       TEXT NOT NULL,
    finished_at INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    losses      INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    result      TEXT,
    error       TEXT,
    events      INTEGER NOT NULL
);
CREATE INDEX task_end_unhappy ON task_end (state, seq) WHERE state <> 'completed';
CREATE INDEX task_end_age ON task_end (finished_at);

-- What happened to a task; append-only.
CREATE TABLE task_event (
    seq    INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    epoch  INTEGER,
    detail TEXT,
    PRIMARY KEY (seq, n)
) WITHOUT ROWID;

-- Finished steps of a task: run once, replayed after a crash.
CREATE TABLE step (
    seq         INTEGER NOT NULL,
    key         TEXT NOT NULL,
    input       TEXT NOT NULL,
    output      TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    PRIMARY KEY (seq, key)
) WITHOUT ROWID;

-- The kernel's documents: shared context, memory.
CREATE TABLE document (
    space TEXT NOT NULL,
    key   TEXT NOT NULL,
    body  TEXT NOT NULL,
    at    INTEGER NOT NULL,
    PRIMARY KEY (space, key)
) WITHOUT ROWID;
