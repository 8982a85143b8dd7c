-- A file whose tasks are copied into this database, or were. They keep their order of
-- acceptance, which no task accepted here can have: below 2^32, where no life's number stands.
CREATE TABLE promotion (
    -- The file's name for itself.
    file       text PRIMARY KEY,
    -- Which node brings it.
    node       text NOT NULL,
    -- The life that owns the tasks once the file says that they are here. A try that was
    -- given up has another number, and copies nothing more.
    boot       bigint NOT NULL,
    -- `copying`; `prepared` when everything is here and the file decides; `done`.
    state      text NOT NULL,
    started_at timestamptz NOT NULL
);

-- Documents that a file brought: a try that is given up takes only those back.
CREATE TABLE promotion_document (
    file  text NOT NULL,
    space text NOT NULL,
    key   text COLLATE "C" NOT NULL,
    PRIMARY KEY (file, space, key)
);
