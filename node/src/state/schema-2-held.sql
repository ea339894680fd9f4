-- What of the map is set aside when it is built again.

-- Long rows stand in the order in which they came, and only short indexes are written all over: twice as fast as rows by key.
CREATE TABLE kv_rows (
    id    INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,               -- where the key is compared, less 2^63
    key   BLOB NOT NULL UNIQUE,
    row   BLOB NOT NULL                   -- what is held of it, with a hash
) STRICT;
CREATE INDEX kv_places ON kv_rows (place);

CREATE TABLE kv_log (
    place   INTEGER PRIMARY KEY,          -- in the order in which writes came
    actor   INTEGER NOT NULL,             -- in kv_actors
    counter INTEGER NOT NULL,
    key     BLOB NOT NULL,
    op      BLOB                          -- the write, with a hash; NULL of one that came as part of what another holds
) STRICT;
CREATE UNIQUE INDEX kv_log_dots ON kv_log (actor, counter);
