-- Who depends on whom, so that forgetting old tasks asks an index.
CREATE TABLE task_dependency (
    dependency TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    PRIMARY KEY (dependency, seq)
) WITHOUT ROWID;
CREATE INDEX task_dependency_seq ON task_dependency (seq);

INSERT INTO task_dependency (dependency, seq)
SELECT DISTINCT named.value, task.seq
FROM task, json_each('["' || replace(task.depends_on, ' ', '","') || '"]') AS named
WHERE task.depends_on <> '';

-- Listing by state.
CREATE INDEX task_run_state ON task_run (state, seq);
