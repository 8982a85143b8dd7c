-- What a step cost, and the hashes under which its large documents lie.
ALTER TABLE step ADD COLUMN cost text;
ALTER TABLE step ADD COLUMN input_blob text;
ALTER TABLE step ADD COLUMN output_blob text;
CREATE INDEX step_input_blob ON step (input_blob) WHERE input_blob IS NOT NULL;
CREATE INDEX step_output_blob ON step (output_blob) WHERE output_blob IS NOT NULL;

-- Large documents, each once, by the BLAKE3 hash of their text.
CREATE TABLE blob (
    hash text PRIMARY KEY,
    body text NOT NULL
);

-- What may be spent and what was, per scope (`node`, `tenant:NAME`, `task:ID`). Limits and
-- amounts are JSON objects of whole numbers.
CREATE TABLE budget (
    scope   text PRIMARY KEY,
    limits  text NOT NULL,
    period  text,
    since   bigint NOT NULL,
    spent   text NOT NULL,
    granted text NOT NULL
);

-- What is set aside for steps that may be under way. The row goes when its end is known.
CREATE TABLE reservation (
    id       bigint PRIMARY KEY,
    seq      bigint NOT NULL,
    key      text NOT NULL,
    estimate text NOT NULL,
    scopes   text NOT NULL
);
CREATE INDEX reservation_seq ON reservation (seq);

-- What people were asked, and what they decided. Identifiers sort by time.
CREATE TABLE approval (
    id         text COLLATE "C" PRIMARY KEY,
    seq        bigint NOT NULL,
    state      text NOT NULL,
    asked_at   bigint NOT NULL,
    expires_at bigint,
    token_hash text,
    request    text NOT NULL,
    decision   text
);
CREATE INDEX approval_seq ON approval (seq);
CREATE INDEX approval_state ON approval (state, id);

-- How often a child that had failed for good was tried again on behalf of its parent.
ALTER TABLE task_run ADD COLUMN retries bigint NOT NULL DEFAULT 0;
