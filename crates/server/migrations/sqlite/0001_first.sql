-- Everything that must survive a restart. Times are milliseconds since 1970. Secrets are never stored: tokens are hashed,
-- key releases are sealed to a guest, records are sealed to a tenant.

CREATE TABLE tokens (
    hash          BLOB PRIMARY KEY,
    role          TEXT NOT NULL CHECK (role IN ('tenant', 'operator', 'bootstrap')),
    subject       TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    -- A bootstrap token belongs to the first TPM that enrols with it.
    used_by       TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    id                  TEXT PRIMARY KEY,
    -- SHA-256 of the EK certificate.
    ek_digest           BLOB NOT NULL,
    -- Certificate chains are JSON lists of base64 DER, leaf first.
    ek_chain            TEXT NOT NULL,
    node_chain          TEXT NOT NULL,
    ak_public           BLOB NOT NULL,
    ak_name             BLOB NOT NULL,
    receipt_key         BLOB NOT NULL,
    certificate_ends_ms INTEGER NOT NULL,
    inventory           TEXT NOT NULL,
    trust               TEXT NOT NULL CHECK (trust IN ('trusted', 'untrusted')),
    trust_detail        TEXT NOT NULL,
    simulated           INTEGER NOT NULL,
    agent_version       TEXT NOT NULL,
    enrolled_at_ms      INTEGER NOT NULL,
    last_seen_ms        INTEGER NOT NULL
) STRICT;

CREATE TABLE instances (
    id              TEXT PRIMARY KEY,
    owner           TEXT NOT NULL,
    idempotency_key TEXT,
    -- SHA-256 of the request, so that a key used for another request is refused.
    request_digest  BLOB NOT NULL,
    name            TEXT NOT NULL,
    workload        TEXT NOT NULL,
    workload_digest BLOB NOT NULL,
    cpus            INTEGER NOT NULL,
    memory_mib      INTEGER NOT NULL,
    node            TEXT REFERENCES nodes (id),
    intent          TEXT NOT NULL CHECK (intent IN ('run', 'stop', 'delete')),
    step            TEXT NOT NULL,
    exit_code       INTEGER,
    failure_step    TEXT,
    failure_check   TEXT,
    failure_detail  TEXT,
    generation      INTEGER NOT NULL,
    start_before_ms INTEGER NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    attested_at_ms  INTEGER,
    verdict         TEXT,
    stages          TEXT NOT NULL,
    -- Sealed keys on their way: redelivered to a node that reconnects, forgotten once the guest has them.
    sealed_release  BLOB,
    last_event      INTEGER NOT NULL,
    notes           INTEGER NOT NULL,
    next_record     INTEGER NOT NULL,
    record_bytes    INTEGER NOT NULL,
    UNIQUE (owner, idempotency_key)
) STRICT;
CREATE INDEX instances_by_node ON instances (node, step);

CREATE TABLE events (
    instance TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    seq      INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    text     TEXT NOT NULL,
    data     TEXT,
    PRIMARY KEY (instance, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
    instance TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    seq      INTEGER NOT NULL,
    sealed   BLOB NOT NULL,
    UNIQUE (instance, seq)
) STRICT;

CREATE TABLE receipts (
    instance   TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    body       TEXT NOT NULL,
    signature  BLOB NOT NULL,
    node_chain TEXT NOT NULL
) STRICT;

-- Nonces that were used; a nonce is accepted once.
CREATE TABLE nonces (
    nonce         BLOB PRIMARY KEY,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
