-- What happened to nodes that others are told of, and who was told.

CREATE TABLE occasions (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node        TEXT COLLATE "C" NOT NULL REFERENCES nodes (id),
    kind        TEXT NOT NULL CHECK (kind IN ('incident', 'suspended', 'revoked', 'restored')),
    -- Of an incident: the number, the digest and the kind of the line that says it. A record that begins anew has the same numbers again.
    sequence    BIGINT,
    line        BYTEA,
    record_kind TEXT,
    detail      TEXT NOT NULL,
    -- By the platform's clock, and by the node's.
    at_ms       BIGINT NOT NULL,
    node_at_ms  BIGINT,
    -- Lines of the record, JSON.
    evidence    TEXT,
    UNIQUE (node, line)
);
CREATE INDEX occasions_by_node ON occasions (node, seq);

-- The table `incidents` is not read any more.
INSERT INTO occasions (node, kind, sequence, record_kind, detail, at_ms, node_at_ms)
    SELECT node, 'incident', sequence, kind, detail, received_at_ms, at_ms FROM incidents ORDER BY received_at_ms, node, sequence;

-- A project is told of an occasion once.
CREATE TABLE notices (
    seq      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       TEXT COLLATE "C" NOT NULL UNIQUE,
    occasion BIGINT NOT NULL REFERENCES occasions (seq),
    project  TEXT COLLATE "C" NOT NULL,
    UNIQUE (occasion, project)
);
CREATE INDEX notices_by_project ON notices (project, seq);

CREATE TABLE notice_instances (
    notice   BIGINT NOT NULL REFERENCES notices (seq),
    -- It may be forgotten meanwhile.
    instance TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (notice, instance)
);
CREATE INDEX notice_instances_by_instance ON notice_instances (instance, notice);
