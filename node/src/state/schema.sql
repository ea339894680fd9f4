-- What a node remembers of itself and of others. Version 1.

CREATE TABLE node (
    row        INTEGER PRIMARY KEY CHECK (row = 1),
    generation INTEGER NOT NULL,          -- starts so far
    ever_met   INTEGER NOT NULL           -- 1 once another member was met
) STRICT;
INSERT INTO node VALUES (1, 0, 0);

CREATE TABLE members (
    name BLOB PRIMARY KEY CHECK (length(name) = 32),
    fact BLOB NOT NULL                    -- the newest, as it was signed
) STRICT, WITHOUT ROWID;

CREATE TABLE contacts (
    address TEXT PRIMARY KEY              -- to join by, until somebody is met there
) STRICT, WITHOUT ROWID;
