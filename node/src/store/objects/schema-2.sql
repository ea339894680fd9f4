-- Objects whose bytes were found changed: they do not count as there until they are mended. Version 2.

ALTER TABLE objects ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;
CREATE INDEX damaged ON objects (row) WHERE damaged;
