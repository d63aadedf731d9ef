-- What the nodes' monitors wrote down, and what came of it.

-- Lines as a monitor wrote them; each names the digest of the one before.
CREATE TABLE monitor_records (
    node     TEXT NOT NULL REFERENCES nodes (id),
    sequence INTEGER NOT NULL,
    line     BLOB NOT NULL,
    digest   BLOB NOT NULL,
    PRIMARY KEY (node, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE incidents (
    node           TEXT NOT NULL REFERENCES nodes (id),
    -- Of the line that says it.
    sequence       INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    detail         TEXT NOT NULL,
    -- By the node's clock.
    at_ms          INTEGER NOT NULL,
    received_at_ms INTEGER NOT NULL,
    PRIMARY KEY (node, sequence)
) STRICT, WITHOUT ROWID;

-- Why no work goes there, whatever its last appraisal said; an operator ends it.
ALTER TABLE nodes ADD COLUMN suspended TEXT;
ALTER TABLE nodes ADD COLUMN strikes INTEGER NOT NULL DEFAULT 0;
-- Its certificate is worth nothing any more.
ALTER TABLE nodes ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0;
