-- Times are milliseconds since the Unix epoch, except those of `life`, which this database's
-- clock alone sets and compares. `seq` is the order of acceptance: the life that accepted the
-- task in the high 32 bits, its count in the low ones. Free text cannot hold NUL here: it is
-- written as U+001A and `0`, and U+001A as itself twice. Keys sort by their bytes.

CREATE TABLE meta (
    name  text PRIMARY KEY,
    value text NOT NULL
);

INSERT INTO meta (name, value) VALUES ('boots', '0');

-- One boot of one node. A transaction that writes for a life locks its row `FOR KEY SHARE`
-- first and finds it not ended; whoever ends it locks it `FOR UPDATE`. So nothing is written
-- for a life after its end, and renewing it (which changes no key) waits for nobody.
CREATE TABLE life (
    boot        bigint PRIMARY KEY,
    node        text NOT NULL,
    -- Raised by each connection that writes for this life: an older one writes no more.
    session     bigint NOT NULL,
    started_at  timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    ended       boolean NOT NULL,
    -- Who acts for the tasks of this life: itself, or the life that took them over.
    heir        bigint NOT NULL
) WITH (fillfactor = 50);

-- What never changes.
CREATE TABLE task (
    seq             bigint PRIMARY KEY,
    id              uuid NOT NULL UNIQUE,
    kind            text NOT NULL,
    payload         text NOT NULL,
    goal            text,
    priority        text NOT NULL,
    class           text NOT NULL,
    tenant          text NOT NULL,
    idempotency_key text,
    parent          uuid,
    depends_on      text NOT NULL,
    max_attempts    bigint NOT NULL,
    submitted_at    bigint NOT NULL,
    deadline        bigint,
    terms           text
);
CREATE UNIQUE INDEX task_key ON task (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX task_parent ON task (parent) WHERE parent IS NOT NULL;
CREATE INDEX task_kind ON task (kind, seq);

-- Who depends on whom, so that forgetting old tasks asks an index.
CREATE TABLE task_dependency (
    dependency uuid NOT NULL,
    seq        bigint NOT NULL,
    PRIMARY KEY (dependency, seq)
);
CREATE INDEX task_dependency_seq ON task_dependency (seq);

-- How a live task stands. The row goes when the task ends. Narrow, with room for its next
-- version on the same page, and no index over what changes: an update writes no index.
CREATE TABLE task_run (
    seq              bigint PRIMARY KEY,
    owner            bigint NOT NULL,
    state            text NOT NULL,
    attempt          bigint NOT NULL,
    losses           bigint NOT NULL,
    epoch            bigint NOT NULL,
    run_at           bigint NOT NULL,
    lease_until      bigint,
    worker           text,
    cancel_requested boolean NOT NULL,
    last_error       text,
    events           bigint NOT NULL
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);

-- How a task ended.
CREATE TABLE task_end (
    seq         bigint PRIMARY KEY,
    state       text NOT NULL,
    finished_at bigint NOT NULL,
    attempt     bigint NOT NULL,
    losses      bigint NOT NULL,
    epoch       bigint NOT NULL,
    result      text,
    error       text,
    events      bigint NOT NULL
);
CREATE INDEX task_end_unhappy ON task_end (state, seq) WHERE state <> 'completed';
CREATE INDEX task_end_age ON task_end (finished_at);

-- What happened to a task; append-only.
CREATE TABLE task_event (
    seq    bigint NOT NULL,
    n      bigint NOT NULL,
    at     bigint NOT NULL,
    kind   text NOT NULL,
    epoch  bigint,
    detail text,
    PRIMARY KEY (seq, n)
);

-- Finished steps of a task: run once, replayed after a crash. A key may be longer than what
-- an index takes, so its SHA-256 stands for it there.
CREATE TABLE step (
    seq         bigint NOT NULL,
    digest      bytea NOT NULL,
    key         text NOT NULL,
    input       text NOT NULL,
    output      text NOT NULL,
    epoch       bigint NOT NULL,
    started_at  bigint NOT NULL,
    finished_at bigint NOT NULL,
    PRIMARY KEY (seq, digest)
);

-- The kernel's documents: shared context, memory.
CREATE TABLE document (
    space text NOT NULL,
    key   text COLLATE "C" NOT NULL,
    body  text NOT NULL,
    at    bigint NOT NULL,
    PRIMARY KEY (space, key)
);
