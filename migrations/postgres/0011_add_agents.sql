-- The agents that are wanted, and who owns each. `revision` grows with every change of the row;
-- a change names the one it was decided on. `epoch` is drawn anew whenever the owner changes:
-- the fencing token of what the agent does. `entry` is JSON of the cluster's.
CREATE TABLE agent (
    id         text COLLATE "C" PRIMARY KEY,
    revision   bigint NOT NULL,
    epoch      bigint NOT NULL,
    -- The life that may run it; NULL: nobody.
    owner      bigint,
    entry      text NOT NULL,
    changed_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Never repeats, also not when an agent of the same name is made again.
CREATE SEQUENCE agent_epoch;
