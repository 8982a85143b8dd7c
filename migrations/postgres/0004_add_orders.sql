-- What one node asks of the node that has a task. Whoever owns the task takes the order, and
-- writes the answer in the transaction that carries it out. Answered orders are forgotten
-- after an hour, by this database's clock.
CREATE TABLE task_order (
    id          uuid PRIMARY KEY,
    task        uuid NOT NULL,
    verb        text NOT NULL,
    detail      text NOT NULL,
    asked_by    text NOT NULL,
    at          bigint NOT NULL,
    answer      text,
    answered_at timestamptz
);
CREATE INDEX task_order_open ON task_order (at) WHERE answer IS NULL;
CREATE INDEX task_order_answered ON task_order (answered_at) WHERE answer IS NOT NULL;

INSERT INTO meta (name, value) VALUES
    ('control', '{"paused":false,"draining":false,"max_size":null}')
    ON CONFLICT (name) DO NOTHING;
