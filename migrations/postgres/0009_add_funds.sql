-- Budgets that all nodes share, by their scopes. `spent`: since `since`, by lives whose rows
-- below are gone. `version` grows with each change of the limits; nodes read what is above
-- what they know. Whoever changes a row below locks the fund's row first.
CREATE TABLE fund (
    scope   text COLLATE "C" PRIMARY KEY,
    limits  text NOT NULL,
    period  text,
    since   bigint NOT NULL,
    spent   text NOT NULL,
    granted text NOT NULL,
    version bigint NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX fund_version ON fund (version);

-- What a life may have spent of a fund at most since it began, what of it an earlier period
-- counts, and what it waits for. Times by this database's clock, in milliseconds since 1970:
-- since when it waits, and when it asked last.
CREATE TABLE purse (
    scope   text COLLATE "C" NOT NULL,
    life    bigint NOT NULL,
    allowed text NOT NULL,
    base    text NOT NULL,
    wanted  text NOT NULL,
    since   bigint NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (scope, life)
) WITH (fillfactor = 50);
CREATE INDEX purse_life ON purse (life);

-- What a life has spent of a fund since it began: written by that life alone, in the
-- transaction of the effect.
CREATE TABLE charge (
    scope   text COLLATE "C" NOT NULL,
    life    bigint NOT NULL,
    charged text NOT NULL,
    PRIMARY KEY (scope, life)
) WITH (fillfactor = 50);
CREATE INDEX charge_life ON charge (life);

INSERT INTO meta (name, value) VALUES ('funds', '0');

-- The last epoch that the node had given which handed the task over: of a lease that was not
-- committed nothing is stored, and the next one of the task is to have a later epoch.
ALTER TABLE handed ADD COLUMN after bigint NOT NULL DEFAULT 0;
