-- What hosters ask for their nodes, and what of it an instance was placed on.

CREATE TABLE offers (
    node            TEXT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    -- Grows with each change.
    version         INTEGER NOT NULL,
    set_by          TEXT NOT NULL,
    set_at_ms       INTEGER NOT NULL,
    -- What of the node is for instances; absent: all of it.
    cpus            INTEGER,
    memory_mib      INTEGER,
    disk_mib        INTEGER,
    -- Of an hour, in the smallest unit of money.
    cpu_price       INTEGER NOT NULL,
    memory_price    INTEGER NOT NULL,
    disk_price      INTEGER NOT NULL,
    gpu_price       INTEGER NOT NULL,
    place           TEXT NOT NULL,
    -- JSON: names and values.
    labels          TEXT NOT NULL,
    -- JSON: the isolation levels; absent: all that the node has.
    levels          TEXT,
    ends_at_ms      INTEGER,
    withdrawn_at_ms INTEGER
) STRICT;

ALTER TABLE instances ADD COLUMN disk_mib INTEGER NOT NULL DEFAULT 0;
-- JSON: the offer as it was when the instance was placed.
ALTER TABLE instances ADD COLUMN offer TEXT;
