-- What the nodes' monitors wrote down, and what came of it.

-- Lines as a monitor wrote them; each names the digest of the one before.
CREATE TABLE monitor_records (
    node     TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    sequence BIGINT NOT NULL,
    line     BYTEA NOT NULL,
    digest   BYTEA NOT NULL,
    PRIMARY KEY (node, sequence)
);

CREATE TABLE incidents (
    node           TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    -- Of the line that says it.
    sequence       BIGINT NOT NULL,
    kind           TEXT NOT NULL,
    detail         TEXT NOT NULL,
    -- By the node's clock.
    at_ms          BIGINT NOT NULL,
    received_at_ms BIGINT NOT NULL,
    PRIMARY KEY (node, sequence)
);

-- Why no work goes there, whatever its last appraisal said; an operator ends it.
ALTER TABLE nodes ADD COLUMN suspended TEXT;
ALTER TABLE nodes ADD COLUMN strikes BIGINT NOT NULL DEFAULT 0;
-- Its certificate is worth nothing any more.
ALTER TABLE nodes ADD COLUMN revoked BIGINT NOT NULL DEFAULT 0;
