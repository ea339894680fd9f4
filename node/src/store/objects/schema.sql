-- Objects, and why they are kept. Version 1.
--
-- Payloads stand apart from what changes: SQLite writes a row whole, and a payload is up to 1 MiB.

CREATE TABLE objects (
    row     INTEGER PRIMARY KEY,
    id      BLOB    NOT NULL UNIQUE CHECK (length(id) = 32),
    is_root INTEGER NOT NULL,
    offset  INTEGER NOT NULL,
    len     INTEGER NOT NULL,
    size    INTEGER NOT NULL,            -- bytes of the payload
    holds   INTEGER NOT NULL DEFAULT 0,  -- uploads that hold it
    age     INTEGER NOT NULL             -- grows whenever an object becomes cache
) STRICT;
CREATE INDEX cache ON objects (age) WHERE holds = 0;

CREATE TABLE payloads (
    row   INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE uploads (
    row       INTEGER PRIMARY KEY,
    id        BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    root      BLOB,                      -- the file, once bound
    last_sign INTEGER NOT NULL,          -- running time in ms
    objects   INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX unbound ON uploads (last_sign, id) WHERE root IS NULL;

CREATE TABLE holds (
    upload INTEGER NOT NULL,
    object INTEGER NOT NULL,
    PRIMARY KEY (upload, object)
) STRICT, WITHOUT ROWID;
CREATE INDEX held ON holds (object);

-- Uploads of this node that lack copies.
CREATE TABLE pending (
    staging  BLOB PRIMARY KEY,
    copies   BLOB    NOT NULL,
    root     BLOB    NOT NULL,
    len      INTEGER NOT NULL,
    replicas INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: totals and clocks, written with every commit.
CREATE TABLE state (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    objects INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    run_ms  INTEGER NOT NULL,            -- time that the store has been open, over all runs
    age     INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 0, 0, 0, 0);
