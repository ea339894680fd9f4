-- The replicated map. Version 2.

CREATE TABLE kv_peers (
    id   INTEGER PRIMARY KEY,
    name BLOB NOT NULL UNIQUE CHECK (length(name) = 32)
) STRICT;

CREATE TABLE kv_actors (
    id    INTEGER PRIMARY KEY,
    peer  INTEGER NOT NULL,               -- in kv_peers
    epoch INTEGER NOT NULL,               -- one of its lives
    seen  BLOB,                           -- its writes that were seen; NULL of whom there is none yet
    UNIQUE (peer, epoch)
) STRICT;

CREATE TABLE kv_sums (
    number INTEGER PRIMARY KEY,           -- of a leaf of rows, or a bucket of the vector
    sum    BLOB NOT NULL
) STRICT;

CREATE TABLE kv_staged (
    key BLOB PRIMARY KEY,
    row BLOB NOT NULL                     -- what another holds, until all of it is taken in
) STRICT, WITHOUT ROWID;

CREATE TABLE kv_node (
    row       INTEGER PRIMARY KEY CHECK (row = 1),
    is_behind INTEGER NOT NULL,           -- 1 while it was built from what was left, and not compared since
    root      BLOB                        -- what all sums come to
) STRICT;
INSERT INTO kv_node VALUES (1, 0, NULL);
