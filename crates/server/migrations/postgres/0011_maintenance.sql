-- Lawful changes of nodes.

CREATE TABLE maintenance (
    node        TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    -- Counts a node's.
    number      BIGINT NOT NULL,
    -- Absent: it is over.
    phase       TEXT CHECK (phase IN ('opening', 'open', 'sealing', 'appraising', 'closed')),
    -- Counts what the node is asked.
    attempt     BIGINT NOT NULL,
    begun_by    TEXT NOT NULL,
    -- Of the one who began it: what an operator began, he ends.
    begun_as    TEXT NOT NULL CHECK (begun_as IN ('hoster', 'operator')),
    begun_at_ms BIGINT NOT NULL,
    reason      TEXT NOT NULL,
    forced      BIGINT NOT NULL,
    -- As the node said, JSON.
    opened      TEXT,
    -- Why the last attempt to open, to seal or to appraise did not succeed.
    failed      TEXT,
    -- Of the appraisal that leads out.
    challenge   BYTEA,
    ended_at_ms BIGINT,
    PRIMARY KEY (node, number)
);
-- A node is in one at the most.
CREATE UNIQUE INDEX maintenance_under_way ON maintenance (node) WHERE phase IS NOT NULL;

-- What happened to a node, for its hoster and for operators; rows stay as they are.
CREATE TABLE node_events (
    seq   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node  TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    at_ms BIGINT NOT NULL,
    kind  TEXT NOT NULL,
    -- Absent: the node, or the platform.
    caused_by TEXT,
    text  TEXT NOT NULL
);
CREATE INDEX node_events_by_node ON node_events (node, seq);
CREATE FUNCTION node_events_stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the events of nodes only grow'; END $$;
CREATE TRIGGER node_events_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON node_events FOR EACH STATEMENT EXECUTE FUNCTION node_events_stay();

-- Whether its monitor's record says that it is unsealed.
ALTER TABLE nodes ADD COLUMN unsealed BIGINT NOT NULL DEFAULT 0;
