-- Why an agent was placed where it is: JSON of the cluster's, written with the owner. Not read
-- with the rows, which every node reads all the time.
ALTER TABLE agent ADD COLUMN decision text;

-- What each node said of itself last, and when: JSON of the cluster's.
CREATE TABLE node_report (
    node    text COLLATE "C" PRIMARY KEY,
    life    bigint NOT NULL,
    body    text NOT NULL,
    said_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What all nodes hold of one among them: whether it is kept out. `revision` grows with every
-- change; a change names the one it was decided on. `body` is JSON of the cluster's.
CREATE TABLE node_judgement (
    node       text COLLATE "C" PRIMARY KEY,
    revision   bigint NOT NULL,
    body       text NOT NULL,
    changed_at timestamptz NOT NULL
);
