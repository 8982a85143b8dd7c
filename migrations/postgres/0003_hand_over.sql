-- What a node could start now and has not: a hint for others, announced again and again, and
-- worth nothing after a crash of the server.
CREATE UNLOGGED TABLE want (
    life  bigint PRIMARY KEY,
    -- Raised with each announcement: what was given to one does not count for the next.
    round bigint NOT NULL,
    at    timestamptz NOT NULL,
    kinds text[] NOT NULL,
    tasks bigint[] NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_cost_delay = 0);

-- Tasks that belong to a life (`task_run.owner` says so too) and are not in its node's memory
-- yet. The row goes when they are.
CREATE TABLE handed (
    seq     bigint PRIMARY KEY,
    to_life bigint NOT NULL
) WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX handed_to ON handed (to_life, seq);
