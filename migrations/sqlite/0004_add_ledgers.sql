-- What a step cost, and the hashes under which its large documents lie.
ALTER TABLE step ADD COLUMN cost TEXT;
ALTER TABLE step ADD COLUMN input_blob TEXT;
ALTER TABLE step ADD COLUMN output_blob TEXT;
CREATE INDEX step_input_blob ON step (input_blob) WHERE input_blob IS NOT NULL;
CREATE INDEX step_output_blob ON step (output_blob) WHERE output_blob IS NOT NULL;

-- Large documents, each once, by the BLAKE3 hash of their text.
CREATE TABLE blob (
    hash TEXT PRIMARY KEY,
    body TEXT NOT NULL
);

-- What may be spent and what was, per scope (`node`, `tenant:NAME`, `task:ID`). Limits and
-- amounts are JSON objects of whole numbers.
CREATE TABLE budget (
    scope   TEXT PRIMARY KEY,
    limits  TEXT NOT NULL,
    period  TEXT,
    since   INTEGER NOT NULL,
    spent   TEXT NOT NULL,
    granted TEXT NOT NULL
) WITHOUT ROWID;

-- What is set aside for steps that may be under way. The row goes when its end is known.
CREATE TABLE reservation (
    id       INTEGER PRIMARY KEY,
    seq      INTEGER NOT NULL,
    key      TEXT NOT NULL,
    estimate TEXT NOT NULL,
    scopes   TEXT NOT NULL
);

-- What people were asked, and what they decided.
CREATE TABLE approval (
    id         TEXT PRIMARY KEY,
    seq        INTEGER NOT NULL,
    state      TEXT NOT NULL,
    asked_at   INTEGER NOT NULL,
    expires_at INTEGER,
    token_hash TEXT,
    request    TEXT NOT NULL,
    decision   TEXT
) WITHOUT ROWID;
CREATE INDEX approval_seq ON approval (seq);
CREATE INDEX approval_state ON approval (state, id);

-- How often a child that had failed for good was tried again on behalf of its parent.
ALTER TABLE task_run ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
