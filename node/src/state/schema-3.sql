-- Whether this node has ever held all that others held: before that it answers nothing. Version 3.

ALTER TABLE kv_node ADD COLUMN is_joined INTEGER NOT NULL DEFAULT 0;
