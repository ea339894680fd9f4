-- What of the map is set aside when it is built again.

CREATE TABLE kv_rows (
    place INTEGER NOT NULL,               -- where the key is compared, less 2^63
    key   BLOB NOT NULL,
    row   BLOB NOT NULL,                  -- what is held of it, with a hash
    PRIMARY KEY (key)                     -- and not the place: keys that are written together have much in common
) STRICT, WITHOUT ROWID;
CREATE INDEX kv_places ON kv_rows (place, key);

CREATE TABLE kv_log (
    place   INTEGER PRIMARY KEY,          -- in the order in which writes came
    actor   INTEGER NOT NULL,             -- in kv_actors
    counter INTEGER NOT NULL,
    key     BLOB NOT NULL,
    op      BLOB                          -- the write, with a hash; NULL of one that came as part of what another holds
) STRICT;
CREATE UNIQUE INDEX kv_log_dots ON kv_log (actor, counter);
