-- Units that nodes share. A pool is a gate: `slots/...` or `refill/...`. Whoever changes
-- what is allotted of a pool locks its row first; the row goes when nothing of it has to be
-- kept. `meter`: when everything used up so far has come back, in nanoseconds since 1970.
CREATE TABLE escrow (
    name  text COLLATE "C" PRIMARY KEY,
    meter bigint NOT NULL
) WITH (fillfactor = 50);

-- What a life may give out of a pool, and what it waits for. Of a life that has ended, slots
-- are free, and units that refill count as used. Times by this database's clock, in
-- milliseconds since 1970: since when it waits, and when it asked last.
CREATE TABLE allotment (
    name   text COLLATE "C" NOT NULL,
    life   bigint NOT NULL,
    units  bigint NOT NULL,
    wanted bigint NOT NULL,
    since  bigint NOT NULL,
    at     bigint NOT NULL,
    PRIMARY KEY (name, life)
) WITH (fillfactor = 50);
CREATE INDEX allotment_life ON allotment (life);
