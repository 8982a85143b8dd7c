-- Lines of a task's log that are decided with its acceptance or its end lie in the row that is
-- written then; `task_event` holds those between, and all of tasks accepted before. A line is
-- a JSON array, `[n, at, kind]` or with `epoch` and `detail` behind, and ends with a newline.
ALTER TABLE task ADD COLUMN log text NOT NULL DEFAULT '';
ALTER TABLE task_end ADD COLUMN log text NOT NULL DEFAULT '';
