-- Lawful changes of nodes.

CREATE TABLE maintenance (
    node        TEXT NOT NULL REFERENCES nodes (id),
    -- Counts a node's.
    number      INTEGER NOT NULL,
    -- Absent: it is over.
    phase       TEXT CHECK (phase IN ('opening', 'open', 'sealing', 'appraising', 'closed')),
    -- Counts what the node is asked.
    attempt     INTEGER NOT NULL,
    begun_by    TEXT NOT NULL,
    -- Of the one who began it: what an operator began, he ends.
    begun_as    TEXT NOT NULL CHECK (begun_as IN ('hoster', 'operator')),
    begun_at_ms INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    forced      INTEGER NOT NULL,
    -- As the node said, JSON.
    opened      TEXT,
    -- Why the last attempt to open, to seal or to appraise did not succeed.
    failed      TEXT,
    -- Of the appraisal that leads out.
    challenge   BLOB,
    ended_at_ms INTEGER,
    PRIMARY KEY (node, number)
) STRICT, WITHOUT ROWID;
-- A node is in one at the most.
CREATE UNIQUE INDEX maintenance_under_way ON maintenance (node) WHERE phase IS NOT NULL;

-- What happened to a node, for its hoster and for operators; rows stay as they are.
CREATE TABLE node_events (
    seq   INTEGER PRIMARY KEY,
    node  TEXT NOT NULL REFERENCES nodes (id),
    at_ms INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    -- Absent: the node, or the platform.
    caused_by TEXT,
    text  TEXT NOT NULL
) STRICT;
CREATE INDEX node_events_by_node ON node_events (node, seq);
CREATE TRIGGER node_event_is_not_changed BEFORE UPDATE ON node_events BEGIN SELECT RAISE(ABORT, 'the events of nodes only grow'); END;
CREATE TRIGGER node_event_is_not_deleted BEFORE DELETE ON node_events BEGIN SELECT RAISE(ABORT, 'the events of nodes only grow'); END;

-- Whether its monitor's record says that it is unsealed.
ALTER TABLE nodes ADD COLUMN unsealed INTEGER NOT NULL DEFAULT 0;
