-- What a task needs before it may start, and what failures in its family mean: JSON, or
-- nothing for a plain task.
ALTER TABLE task ADD COLUMN terms TEXT;
