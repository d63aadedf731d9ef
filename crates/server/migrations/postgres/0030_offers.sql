-- What hosters ask for their nodes, and what of it an instance was placed on.

CREATE TABLE offers (
    node            TEXT COLLATE "C" PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    -- Grows with each change.
    version         BIGINT NOT NULL,
    set_by          TEXT COLLATE "C" NOT NULL,
    set_at_ms       BIGINT NOT NULL,
    -- What of the node is for instances; absent: all of it.
    cpus            BIGINT,
    memory_mib      BIGINT,
    disk_mib        BIGINT,
    -- Of an hour, in the smallest unit of money.
    cpu_price       BIGINT NOT NULL,
    memory_price    BIGINT NOT NULL,
    disk_price      BIGINT NOT NULL,
    gpu_price       BIGINT NOT NULL,
    place           TEXT COLLATE "C" NOT NULL,
    -- JSON: names and values.
    labels          TEXT NOT NULL,
    -- JSON: the isolation levels; absent: all that the node has.
    levels          TEXT,
    ends_at_ms      BIGINT,
    withdrawn_at_ms BIGINT
);

ALTER TABLE instances ADD COLUMN disk_mib BIGINT NOT NULL DEFAULT 0;
-- JSON: the offer as it was when the instance was placed.
ALTER TABLE instances ADD COLUMN offer TEXT;
