-- Several servers on one database: who lives, who does what, and what one of them began and another finishes.

CREATE TABLE replicas (
    id            TEXT PRIMARY KEY,
    -- By the database's clock; whoever is late has lost what it did.
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A piece of work: a node's session, named like the node, or a periodic task. Rows stay, so that the epoch only ever grows.
CREATE TABLE leases (
    name     TEXT PRIMARY KEY,
    epoch    INTEGER NOT NULL,
    replica  TEXT,
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Requests for evidence to a node whose session another replica has.
CREATE TABLE questions (
    id             TEXT PRIMARY KEY,
    node           TEXT NOT NULL,
    instance       TEXT NOT NULL,
    nonce          BLOB NOT NULL,
    expires_at_ms  INTEGER NOT NULL,
    -- The answer: evidence or a failure.
    media_type     TEXT,
    evidence       BLOB,
    failure_check  TEXT,
    failure_detail TEXT
) STRICT;
CREATE INDEX questions_by_node ON questions (node);

CREATE TABLE enrolments (
    name          TEXT PRIMARY KEY,
    token         BLOB NOT NULL,
    secret_digest BLOB NOT NULL,
    nonce         BLOB NOT NULL,
    ek_chain      TEXT NOT NULL,
    node          TEXT NOT NULL,
    ak_public     BLOB NOT NULL,
    csr           BLOB NOT NULL,
    receipt_key   BLOB NOT NULL,
    agent_version TEXT NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE renewals (
    node          TEXT PRIMARY KEY,
    nonce         BLOB NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT;

-- SHA-256 of the public keys that all replicas must have in common.
CREATE TABLE platform_keys (
    name   TEXT PRIMARY KEY,
    digest BLOB NOT NULL
) STRICT;
