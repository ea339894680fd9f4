-- What of the map is set aside when it is built again.

CREATE TABLE kv_rows (
    place INTEGER NOT NULL,               -- where the key is compared, less 2^63
    key   BLOB NOT NULL,
    row   BLOB NOT NULL,                  -- what is held of it, with a hash
    PRIMARY KEY (place, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX kv_keys ON kv_rows (key);

CREATE TABLE kv_log (
    place   INTEGER PRIMARY KEY,          -- in the order in which writes came
    actor   INTEGER NOT NULL,             -- in kv_actors
    counter INTEGER NOT NULL,
    leaf    INTEGER NOT NULL,             -- place of the key, less 2^63
    key     BLOB NOT NULL,
    op      BLOB                          -- the write, with a hash; NULL of one that came as part of what another holds
) STRICT;
CREATE UNIQUE INDEX kv_log_dots ON kv_log (actor, counter);
CREATE INDEX kv_log_keys ON kv_log (leaf);
