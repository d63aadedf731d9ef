-- What happened to nodes that others are told of, and who was told.

CREATE TABLE occasions (
    seq         INTEGER PRIMARY KEY,
    node        TEXT NOT NULL REFERENCES nodes (id),
    kind        TEXT NOT NULL CHECK (kind IN ('incident', 'suspended', 'revoked', 'restored')),
    -- Of an incident: the number, the digest and the kind of the line that says it. A record that begins anew has the same numbers again.
    sequence    INTEGER,
    line        BLOB,
    record_kind TEXT,
    detail      TEXT NOT NULL,
    -- By the platform's clock, and by the node's.
    at_ms       INTEGER NOT NULL,
    node_at_ms  INTEGER,
    -- Lines of the record, JSON.
    evidence    TEXT,
    UNIQUE (node, line)
) STRICT;
CREATE INDEX occasions_by_node ON occasions (node, seq);

-- The table `incidents` is not read any more.
INSERT INTO occasions (node, kind, sequence, record_kind, detail, at_ms, node_at_ms)
    SELECT node, 'incident', sequence, kind, detail, received_at_ms, at_ms FROM incidents ORDER BY received_at_ms, node, sequence;

-- A project is told of an occasion once.
CREATE TABLE notices (
    seq      INTEGER PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    occasion INTEGER NOT NULL REFERENCES occasions (seq),
    project  TEXT NOT NULL,
    UNIQUE (occasion, project)
) STRICT;
CREATE INDEX notices_by_project ON notices (project, seq);

CREATE TABLE notice_instances (
    notice   INTEGER NOT NULL REFERENCES notices (seq),
    -- It may be forgotten meanwhile.
    instance TEXT NOT NULL,
    PRIMARY KEY (notice, instance)
) STRICT, WITHOUT ROWID;
CREATE INDEX notice_instances_by_instance ON notice_instances (instance, notice);

-- Addresses that are called when something happens.
CREATE TABLE webhooks (
    id            TEXT PRIMARY KEY,
    scope         TEXT NOT NULL CHECK (scope IN ('project', 'hoster', 'platform')),
    -- The project or the account; empty for the platform.
    owner         TEXT NOT NULL,
    url           TEXT NOT NULL,
    -- Of occasions; separated by commas.
    kinds         TEXT NOT NULL,
    -- In plain: calls are signed with it.
    secret        BLOB NOT NULL,
    made_by       TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX webhooks_by_owner ON webhooks (scope, owner);

CREATE TABLE deliveries (
    seq           INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,
    webhook       TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    -- Absent: a test.
    occasion      INTEGER REFERENCES occasions (seq),
    -- What the webhook's project was told.
    notice        INTEGER REFERENCES notices (seq),
    kind          TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts      INTEGER NOT NULL,
    -- While an attempt is under way nobody begins another one before this.
    next_at_ms    INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- Of the last attempt: HTTP's status, or why there is none.
    status        INTEGER,
    error         TEXT,
    UNIQUE (webhook, occasion)
) STRICT;
CREATE INDEX deliveries_waiting ON deliveries (next_at_ms) WHERE state = 'waiting';
CREATE INDEX deliveries_by_webhook ON deliveries (webhook, seq);
