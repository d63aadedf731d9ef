-- Everything that must survive a restart: what versions 1 to 7 are in SQLite. Times are milliseconds since 1970. Secrets are never
-- stored: tokens are hashed, key releases are sealed to a guest, records are sealed to a tenant.
-- Names that are sorted are compared by their bytes, as in SQLite, whatever the database's locale is.

CREATE TABLE tokens (
    hash          BYTEA PRIMARY KEY,
    role          TEXT NOT NULL CHECK (role IN ('tenant', 'operator', 'bootstrap')),
    subject       TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    -- A bootstrap token belongs to the first TPM that enrols with it.
    used_by       TEXT
);

CREATE TABLE nodes (
    id                  TEXT COLLATE "C" PRIMARY KEY,
    -- SHA-256 of the EK certificate.
    ek_digest           BYTEA NOT NULL,
    -- Certificate chains are JSON lists of base64 DER, leaf first.
    ek_chain            TEXT NOT NULL,
    node_chain          TEXT NOT NULL,
    ak_public           BYTEA NOT NULL,
    ak_name             BYTEA NOT NULL,
    receipt_key         BYTEA NOT NULL,
    certificate_ends_ms BIGINT NOT NULL,
    inventory           TEXT NOT NULL,
    trust               TEXT NOT NULL CHECK (trust IN ('trusted', 'untrusted')),
    trust_detail        TEXT NOT NULL,
    simulated           BIGINT NOT NULL,
    agent_version       TEXT NOT NULL,
    enrolled_at_ms      BIGINT NOT NULL,
    last_seen_ms        BIGINT NOT NULL,
    ima_memory TEXT
);

CREATE TABLE instances (
    id              TEXT COLLATE "C" PRIMARY KEY,
    owner           TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT,
    -- SHA-256 of the request, so that a key used for another request is refused.
    request_digest  BYTEA NOT NULL,
    name            TEXT COLLATE "C" NOT NULL,
    workload        TEXT NOT NULL,
    workload_digest BYTEA NOT NULL,
    cpus            BIGINT NOT NULL,
    memory_mib      BIGINT NOT NULL,
    node            TEXT COLLATE "C" REFERENCES nodes (id),
    intent          TEXT NOT NULL CHECK (intent IN ('run', 'stop', 'delete')),
    step            TEXT NOT NULL,
    exit_code       BIGINT,
    failure_step    TEXT,
    failure_check   TEXT,
    failure_detail  TEXT,
    generation      BIGINT NOT NULL,
    start_before_ms BIGINT NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    attested_at_ms  BIGINT,
    verdict         TEXT,
    stages          TEXT NOT NULL,
    -- Sealed keys on their way: redelivered to a node that reconnects, forgotten once the guest has them.
    sealed_release  BYTEA,
    last_event      BIGINT NOT NULL,
    notes           BIGINT NOT NULL,
    next_record     BIGINT NOT NULL,
    record_bytes    BIGINT NOT NULL,
    UNIQUE (owner, idempotency_key),
    level TEXT,
    observed TEXT,
    network TEXT
);

CREATE INDEX instances_by_node ON instances (node, step);

CREATE TABLE events (
    instance TEXT COLLATE "C" NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    seq      BIGINT NOT NULL,
    at_ms    BIGINT NOT NULL,
    kind     TEXT NOT NULL,
    text     TEXT NOT NULL,
    data     TEXT,
    PRIMARY KEY (instance, seq)
);

CREATE TABLE records (
    instance TEXT COLLATE "C" NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    seq      BIGINT NOT NULL,
    sealed   BYTEA NOT NULL,
    UNIQUE (instance, seq)
);

CREATE TABLE receipts (
    instance   TEXT COLLATE "C" PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    body       TEXT NOT NULL,
    signature  BYTEA NOT NULL,
    node_chain TEXT NOT NULL
);

CREATE TABLE nonces (
    nonce         BYTEA PRIMARY KEY,
    expires_at_ms BIGINT NOT NULL
);

CREATE TABLE appraisal_challenges (
    id            TEXT COLLATE "C" PRIMARY KEY,
    nonce         BYTEA NOT NULL,
    -- Who asked for it, and may use it.
    subject       TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    used          BIGINT NOT NULL
);

CREATE INDEX appraisal_challenges_by_end ON appraisal_challenges (expires_at_ms);

CREATE TABLE appraisal_policies (
    name       TEXT COLLATE "C" NOT NULL,
    version    BIGINT NOT NULL,
    digest     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    text       TEXT NOT NULL,
    previous   TEXT NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE appraisal_revocations (
    id     BIGINT PRIMARY KEY CHECK (id = 1),
    serial BIGINT NOT NULL,
    file   TEXT NOT NULL
);

CREATE TABLE replicas (
    id            TEXT COLLATE "C" PRIMARY KEY,
    -- By the database's clock; whoever is late has lost what it did.
    expires_at_ms BIGINT NOT NULL
);

CREATE TABLE leases (
    name     TEXT COLLATE "C" PRIMARY KEY,
    epoch    BIGINT NOT NULL,
    replica  TEXT COLLATE "C",
    since_ms BIGINT NOT NULL
);

CREATE TABLE questions (
    id             TEXT COLLATE "C" PRIMARY KEY,
    node           TEXT COLLATE "C" NOT NULL,
    instance       TEXT COLLATE "C" NOT NULL,
    nonce          BYTEA NOT NULL,
    expires_at_ms  BIGINT NOT NULL,
    -- The answer: evidence or a failure.
    media_type     TEXT,
    evidence       BYTEA,
    failure_check  TEXT,
    failure_detail TEXT
);

CREATE INDEX questions_by_node ON questions (node);

CREATE TABLE enrolments (
    name          TEXT COLLATE "C" PRIMARY KEY,
    token         BYTEA NOT NULL,
    secret_digest BYTEA NOT NULL,
    nonce         BYTEA NOT NULL,
    ek_chain      TEXT NOT NULL,
    node          TEXT COLLATE "C" NOT NULL,
    ak_public     BYTEA NOT NULL,
    csr           BYTEA NOT NULL,
    receipt_key   BYTEA NOT NULL,
    agent_version TEXT NOT NULL,
    expires_at_ms BIGINT NOT NULL
);

CREATE TABLE renewals (
    node          TEXT COLLATE "C" PRIMARY KEY,
    nonce         BYTEA NOT NULL,
    expires_at_ms BIGINT NOT NULL
);

CREATE TABLE platform_keys (
    name   TEXT COLLATE "C" PRIMARY KEY,
    digest BYTEA NOT NULL
);

